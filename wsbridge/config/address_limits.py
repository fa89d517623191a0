"""AddressLimits: how much one client address may have.

Lives here: the section. Must not live here: counting (`limits.addresses`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator

from wsbridge.config.network import UNIX, NetworkOrUnix
from wsbridge.config.scalars import CountOrOff, PositiveCount, PositiveDuration, at_least, at_most
from wsbridge.config.section import Fault, Section

HERE = (ip_network("127.0.0.0/8"), ip_network("::1"), UNIX)
"""Where proxies on this host come from, which speak for many."""


class AddressLimits(Section):
    """How much one client address may have: each IPv4 address, and each /64 of IPv6."""

    connections: CountOrOff = 256
    """Connections at a time from one address; more are answered 429. off: any number."""
    handshakes: CountOrOff = 20
    """Requests for a WebSocket a second from one address; more are answered 429. off: any number."""
    burst: Annotated[PositiveCount, AfterValidator(at_most(1_000_000))] = 200
    """How many of them may come at once after a quiet time."""
    failures: CountOrOff = 10
    """Failed logins from one address, within window, that ban it. off: nobody is banned."""
    window: PositiveDuration = 60.0
    """Time in which failures are counted, from the first."""
    ban: PositiveDuration = 300.0
    """How long the connections of a banned address are reset."""
    table: Annotated[PositiveCount, AfterValidator(at_least(16)), AfterValidator(at_most(4_194_304))] = 65536
    """Addresses that are remembered without a connection, and as many that are banned; 300 bytes each."""
    exempt: tuple[NetworkOrUnix, ...] = HERE
    """Networks without these limits, or unix for Unix sockets. By default this host, whose clients may be proxies."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for no key that another one makes idle."""
        for switch, idle in (("handshakes", ("burst",)), ("failures", ("window", "ban"))):
            for key in idle:
                if written.get(switch) == "off" and key in written:
                    yield Fault((key,), f"means nothing with {switch}: off", "E013", at_key=True)
