"""Limits: how much of everything there may be.

Lives here: the section. Must not live here: counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wsbridge.config.address_limits import AddressLimits
from wsbridge.config.scalars import Count, CountOrAuto, Duration, PositiveCount, Size, at_least, at_most
from wsbridge.config.section import Context, Fault, Section


def few(number: int | Literal["auto"]) -> int | Literal["auto"]:
    """Check that a number of threads is not absurd."""
    return number if number == "auto" else at_most(256)(number)


class Limits(Section):
    """How much of everything there may be."""

    connections: CountOrAuto = "auto"
    """Connections at a time. auto: from the limit of open files, two a connection and a reserve kept."""
    head: Annotated[Size, AfterValidator(at_least(1024)), AfterValidator(at_most(1024 * 1024))] = 16 * 1024
    """Bytes of a request head, or of the head of a backend's answer."""
    head_line: Annotated[Size, AfterValidator(at_least(256)), AfterValidator(at_most(1024 * 1024))] = 8 * 1024
    """Bytes of one line of a head."""
    headers: Annotated[PositiveCount, AfterValidator(at_most(10_000))] = 100
    """Headers of a head."""
    proxy_header: Annotated[Size, AfterValidator(at_least(536)), AfterValidator(at_most(16 * 1024))] = 4 * 1024
    """Bytes of a PROXY header of version 2; one of version 1 has at most 107."""
    shed: Count = 64
    """Clients over the cap that at a time are told so by a 503; beyond that they are reset."""
    lingering: Count = 256
    """Sockets that at a time wait for what a refused peer still sends."""
    linger_bytes: Size = 256 * 1024
    """Bytes read from one such socket."""
    control_rate: PositiveCount = 2000
    """Control or empty frames a second, over five seconds; more end the connection as a flood."""
    frame: Annotated[Size, AfterValidator(at_least(125)), AfterValidator(at_most(64 * 1024))] = 64 * 1024
    """Payload of the largest frame that is sent."""
    tickets: PositiveCount = 65536
    """Tickets that were used and have not expired; while there are so many, no other is taken."""
    dns_threads: Annotated[PositiveCount, AfterValidator(at_most(256))] = 8
    """Names that are resolved at a time."""
    dns_ttl: Duration = 30.0
    """How long the addresses of a name are kept."""
    dns_negative_ttl: Duration = 2.0
    """How long a failure to resolve a name is kept."""
    password_threads: Annotated[CountOrAuto, AfterValidator(few)] = "auto"  # noqa: S105 (a number of threads)
    """Passwords that are verified at a time, each on a core of its own. auto: as many as there are cores."""
    password_queue: Count = 64
    """Passwords that may wait to be verified; clients beyond that get a 503."""
    address: AddressLimits = Field(default_factory=AddressLimits)
    """How much one client address may have."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Hold a line inside the head."""
        if self.head_line > self.head:
            text = "must not be larger than head, since a line is a part of it"
            yield Fault(("head_line" if "head_line" in self.model_fields_set else "head",), text, "E013")
