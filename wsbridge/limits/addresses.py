"""Addresses: what clients did lately, by where they come from: open connections, handshakes, failed logins, bans.

Lives here: the one table of all that, of bounded size. Must not live here: what a refused client is told (`visit`).

An IPv4 address counts for itself, an IPv6 address as its /64, since one host has as many as it likes of those. What is
known of an address stands in one of three places:

- `open`, while it has connections: never forgotten, and no more entries than there are connections;
- `past`, while handshakes or failures of it still count: at most `table`, and the one longest gone is forgotten first;
- `bans`, until its ban ends: at most `table`, and the one that ends first is lifted first.

So a flood of addresses, real or made up, costs bounded memory, and all that it can bring about is that others are
forgiven early: nobody is ever refused for what other addresses did.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable

from wsbridge.config.address_limits import AddressLimits
from wsbridge.log import log
from wsbridge.net.networks import Networks
from wsbridge.net.sockets import reset

UNIX = b""
"""The key of all clients of Unix sockets."""

_MAPPED = bytes(10) + b"\xff\xff"
_PREFIX = 8
_TINY = 1e-6
"""Seconds by which sums of fractions may be off."""


def key_of(host: str) -> bytes:
    """Give what an address counts under.

    Args:
        host: IP address as text; empty on a Unix socket.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host) if host else UNIX
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host.encode()
    return packed[12:] if packed.startswith(_MAPPED) else packed[:_PREFIX]


class _Entry:
    """What is known of one address.

    Attributes:
        open: Its connections.
        full: When all handshakes that it may do at once will be there again.
        failed: Failed logins since `first`.
        first: When the first of them was.
    """

    __slots__ = ("failed", "first", "full", "open")

    def __init__(self) -> None:
        self.open = self.failed = 0
        self.full = self.first = 0.0


class Addresses:
    """The table.

    Args:
        limits: The section of the configuration; it may be replaced.
        clock: Gives seconds that never go back.

    Attributes:
        bans: Banned addresses, and when each ban ends; empty: nobody is banned.
        turned_away: Connections reset because their address was banned.
    """

    def __init__(self, limits: AddressLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.clock = clock
        self.bans: OrderedDict[bytes, float] = OrderedDict()
        self.turned_away = 0
        self._open: dict[bytes, _Entry] = {}
        self._past: OrderedDict[bytes, _Entry] = OrderedDict()
        self.exempt = Networks(limits.exempt).holds

    def banned(self, host: str) -> float:
        """Tell for how many seconds more an address is banned; 0.0 if it is not."""
        now = self.clock()
        bans = self.bans
        while bans:  # those that are over go, so that asking soon costs nothing again
            key, until = next(iter(bans.items()))
            if until > now:
                return max(0.0, bans.get(key_of(host), 0.0) - now)
            del bans[key]
        return 0.0

    def reset(self, sock: socket.socket, listener: str, host: str) -> None:
        """Reset a connection of a banned address."""
        reset(sock)
        self.turned_away += 1
        log.info("accept.banned", listener=listener, address=host, count=self.turned_away)

    def count(self, key: bytes) -> int:
        """Tell how many connections an address has."""
        entry = self._open.get(key)
        return 0 if entry is None else entry.open

    def enter(self, key: bytes) -> bool:
        """Count a connection in; False: it has as many as it may have, and was not counted."""
        entry = self._open.get(key)
        if entry is None:
            self._open[key] = entry = self._past.pop(key, None) or _Entry()
        elif self.limits.connections is not None and entry.open >= self.limits.connections:
            return False
        entry.open += 1
        return True

    def leave(self, key: bytes) -> None:
        """Count a connection out that was counted in."""
        entry = self._open[key]
        entry.open -= 1
        if entry.open:
            return
        del self._open[key]
        now = self.clock()
        if entry.full > now or (entry.failed and now < entry.first + self.limits.window):
            while len(self._past) >= self.limits.table:
                self._past.popitem(last=False)
            self._past[key] = entry

    def shake_hands(self, key: bytes) -> float:
        """Take one handshake of an address that has a connection.

        Returns:
            0.0, or the seconds until there will be one to take.
        """
        rate = self.limits.handshakes
        if rate is None:
            return 0.0
        entry = self._open[key]
        now = self.clock()
        full = max(entry.full, now) + 1 / rate
        wait = full - now - self.limits.burst / rate
        if wait > _TINY:
            return wait
        entry.full = full
        return 0.0

    def fail(self, key: bytes) -> int:
        """Count a failed login of an address that has a connection.

        Returns:
            How many it were, if that was the last and the address is banned from now on; else 0.
        """
        most = self.limits.failures
        if most is None:
            return 0
        entry = self._open[key]
        now = self.clock()
        if not entry.failed or now >= entry.first + self.limits.window:
            entry.failed, entry.first = 0, now
        entry.failed += 1
        if entry.failed < most:
            return 0
        entry.failed = 0
        self.bans.pop(key, None)
        while len(self.bans) >= self.limits.table:
            self.bans.popitem(last=False)
        self.bans[key] = now + self.limits.ban
        return most

    def __len__(self) -> int:
        """Give how many entries there are, of all three places."""
        return len(self._open) + len(self._past) + len(self.bans)
