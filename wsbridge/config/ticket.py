"""Ticket: what the file says of tickets, on both sides of them.

Lives here: the section of a route that gives tickets, and what the section of the way that takes them (`auth.ticket`)
has in common with it. Must not live here: what a ticket is (`protocol.ticket`), that both sides fit (`issuing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator

from wsbridge.config.scalars import Flag, Name, PositiveDuration, Secret
from wsbridge.config.section import AuthSection, Context, Fault, Section
from wsbridge.protocol.ticket import LEAST_KEY

LONGEST_LIFE: Final = 3600.0
"""Seconds that a ticket may be good for, and a used one is remembered at the most."""


def short(seconds: float) -> float:
    """Check that a ticket does not live too long."""
    if seconds > LONGEST_LIFE:
        raise ValueError("a ticket is for one connection, at once: at most 1h")
    return seconds


Life = Annotated[PositiveDuration, AfterValidator(short)]


def key_faults(key: Secret, context: Context) -> Iterable[Fault]:
    """Tell that a key could be guessed; a key that was not read is not judged."""
    length = len(key.reveal().encode())
    if context.files and length < LEAST_KEY:
        text = f"has {length} bytes, and {LEAST_KEY} are the least: openssl rand -base64 32 makes one"
        yield Fault(("key",), text, "E012")


class TakesTickets(AuthSection):
    """The base of the section of the way that takes tickets."""

    key: Secret
    """What tickets are signed with, as {file: PATH} or {env: NAME}: at least 32 bytes."""
    bind_address: Flag = False
    """true: takes only tickets that are bound to the client's address. Those that are bound are held to it anyway."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Hold the key to its length."""
        return key_faults(self.key, context)


class GivesTickets(Section):
    """Gives tickets for another route."""

    route: Name
    """The route that the tickets are good for; it takes tickets with the same key."""
    key: Secret
    """What tickets are signed with, as {file: PATH} or {env: NAME}: at least 32 bytes."""
    ttl: Life = 30.0
    """How long a ticket can be used after it was given, once; at most 1h."""
    bind_address: Flag = False
    """true: a ticket is good only from the address that asked for it."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Hold the key to its length."""
        return key_faults(self.key, context)
