"""Per client address: connections, handshake rate, failed logins, bans; counters per route, identity, token."""

from __future__ import annotations

import math
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable

import trio

from wsbridge.config.limits import ClientLimits
from wsbridge.log.logger import log
from wsbridge.net.address import NetworkSet
from wsbridge.net.transport import reset_socket
from wsbridge.reasons import Reason, Rejected
from wsbridge.taskless import need_task

UNIX_KEY = b""
"""The key of all clients of Unix sockets."""

_IPV4_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_IPV6_PREFIX_BYTES = 8
_EPSILON = 1e-6
"""Seconds by which sums of fractions may be off."""


def client_key(host: str) -> bytes:
    """Return what an address counts under.

    Args:
        host: IP address as text; empty on a Unix socket.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host) if host else UNIX_KEY
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host.encode()
    return packed[12:] if packed.startswith(_IPV4_MAPPED_PREFIX) else packed[:_IPV6_PREFIX_BYTES]


def banned_address(key: bytes) -> str:
    """Return the text of a key: an IPv4 address, an IPv6 network of 64 bits, or `unix`."""
    if len(key) == _IPV6_PREFIX_BYTES:
        return f"{socket.inet_ntop(socket.AF_INET6, key + bytes(_IPV6_PREFIX_BYTES))}/64"
    if len(key) == 4:
        return socket.inet_ntop(socket.AF_INET, key)
    return key.decode("utf-8", "replace") or "unix"


class _ClientEntry:
    """What is known of one address.

    Attributes:
        connections: Its connections.
        bucket_full_at: When all handshakes that it may do at once will be there again.
        failures: Failed logins since `first`.
        first_failure: When the first of them was.
        guesses: Credentials that are being verified.
        guess_ended: Set when one of them was; None while nothing waits for that.
        waiting: How many wait for that.
    """

    __slots__ = ("bucket_full_at", "connections", "failures", "first_failure", "guess_ended", "guesses", "waiting")

    def __init__(self) -> None:
        self.connections = self.failures = self.guesses = self.waiting = 0
        self.guess_ended: trio.Event | None = None
        self.bucket_full_at = self.first_failure = 0.0


class ClientTable:
    """The table.

    Args:
        limits: The section of the configuration.
        clock: Gives seconds that never go back.

    Attributes:
        bans: Banned addresses, and when each ban ends; empty: no address is banned.
        banned_count: Connections reset because their address was banned.
    """

    def __init__(self, limits: ClientLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.clock = clock
        self.bans: OrderedDict[bytes, float] = OrderedDict()
        self.banned_count = 0
        self._connected: dict[bytes, _ClientEntry] = {}
        self._recent: OrderedDict[bytes, _ClientEntry] = OrderedDict()
        self.is_exempt = NetworkSet(limits.exempt).contains

    def configure(self, limits: ClientLimits) -> None:
        """Apply another section to what happens from now on; bans stay."""
        self.limits = limits
        self.is_exempt = NetworkSet(limits.exempt).contains

    def ban_remaining(self, host: str) -> float:
        """Return for how many seconds more an address is banned; 0.0 if it is not."""
        now = self.clock()
        bans = self.bans
        while bans:  # those that are over go, so that asking soon costs nothing again
            key, until = next(iter(bans.items()))
            if until > now:
                return max(0.0, bans.get(client_key(host), 0.0) - now)
            del bans[key]
        return 0.0

    def lift_ban(self, host: str) -> tuple[str, float] | None:
        """Lift the ban of an address.

        Returns:
            What was banned, and for how many seconds more; None if it is not banned.
        """
        key = client_key(host)
        remaining = self.bans.pop(key, 0.0) - self.clock()
        return (banned_address(key), remaining) if remaining > 0 else None

    def count_bans(self) -> int:
        """Return how many addresses are banned now."""
        self.ban_remaining("")  # those that are over go
        return len(self.bans)

    def reset_banned(self, sock: socket.socket, listener: str, host: str) -> None:
        """Reset a connection of a banned address."""
        reset_socket(sock)
        self.banned_count += 1
        log.info("connection.banned", listener=listener, client_address=host, count=self.banned_count)

    def connection_count(self, key: bytes) -> int:
        """Return how many connections an address has."""
        entry = self._connected.get(key)
        return 0 if entry is None else entry.connections

    def acquire(self, key: bytes) -> bool:
        """Count a connection in; False: it has as many as it may have, and was not counted."""
        entry = self._connected.get(key)
        if entry is None:
            self._connected[key] = entry = self._recent.pop(key, None) or _ClientEntry()
        elif self.limits.connections is not None and entry.connections >= self.limits.connections:
            return False
        entry.connections += 1
        return True

    def release(self, key: bytes) -> None:
        """Count a connection out that was counted in."""
        entry = self._connected[key]
        entry.connections -= 1
        if entry.connections:
            return
        del self._connected[key]
        now = self.clock()
        if entry.bucket_full_at > now or (entry.failures and now < entry.first_failure + self.limits.failure_window):
            while len(self._recent) >= self.limits.table_size:
                self._recent.popitem(last=False)
            self._recent[key] = entry

    def take_handshake(self, key: bytes) -> float:
        """Take one handshake of an address that has a connection.

        Returns:
            0.0, or the seconds until there will be one to take.
        """
        rate = self.limits.handshake_rate
        if rate is None:
            return 0.0
        entry = self._connected[key]
        now = self.clock()
        full = max(entry.bucket_full_at, now) + 1 / rate
        wait = full - now - self.limits.handshake_burst / rate
        if wait > _EPSILON:
            return wait
        entry.bucket_full_at = full
        return 0.0

    def record_failure(self, key: bytes) -> int:
        """Count a failed login of an address that has a connection.

        Returns:
            How many it were, if that was the last and the address is banned from now on; else 0.
        """
        most = self.limits.max_failures
        if most is None:
            return 0
        entry = self._connected[key]
        if not self._recent_failures(entry):
            entry.failures, entry.first_failure = 0, self.clock()
        entry.failures += 1
        if entry.failures < most:
            return 0
        entry.failures = 0
        self.bans.pop(key, None)
        while len(self.bans) >= self.limits.table_size:
            self.bans.popitem(last=False)
        self.bans[key] = self.clock() + self.limits.ban_time
        return most

    def _recent_failures(self, entry: _ClientEntry) -> int:
        return entry.failures if self.clock() < entry.first_failure + self.limits.failure_window else 0

    async def begin_guess(self, key: bytes, max_waiting: int | None) -> bool:
        """Count a credential that is verified from now on; wait while the address has no failed login left for it.

        So at most `max_failures` wrong ones are verified, however many are sent at once. One is always verified.

        Returns:
            False if it would have to wait, and `max_waiting` others do already.
        """
        entry = self._connected[key]
        most = self.limits.max_failures
        while most is not None and entry.guesses and entry.guesses + self._recent_failures(entry) >= most:
            if max_waiting is not None and entry.waiting >= max_waiting:
                return False
            if entry.guess_ended is None:
                entry.guess_ended = trio.Event()
            entry.waiting += 1
            guess_ended = entry.guess_ended
            try:
                await need_task()
                await guess_ended.wait()
            finally:
                entry.waiting -= 1
        entry.guesses += 1
        return True

    def end_guess(self, key: bytes) -> None:
        """Count a credential out, after its failure was recorded if it was wrong."""
        entry = self._connected[key]
        entry.guesses -= 1
        if entry.guess_ended is not None:
            entry.guess_ended.set()
            entry.guess_ended = None

    def __len__(self) -> int:
        """Return how many entries there are, of all three places."""
        return len(self._connected) + len(self._recent) + len(self.bans)


class ConnectionCounts:
    """Numbers by key; a key whose number is zero takes no room."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}

    def acquire(self, key: Hashable, max_count: int) -> bool:
        """Count one in; False: there are as many as may be, and it was not counted."""
        count = self._counts.get(key, 0)
        if count >= max_count:
            return False
        self._counts[key] = count + 1
        return True

    def release(self, key: Hashable) -> None:
        """Count one out that was counted in."""
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]

    def __getitem__(self, key: Hashable) -> int:
        """Return how many are open."""
        return self._counts.get(key, 0)

    def __len__(self) -> int:
        """Return how many keys have any."""
        return len(self._counts)


PROXY_HINT = "if that is a proxy, name it in trusted_proxies of the listener or in limits.per_address.exempt"
"""Hint for a proxy that is limited as if it were a client."""


class ClientSlot:
    """One connection of a client address; see `ClientGate`. Call `release` however it ends.

    Args:
        table: The table.

    Attributes:
        key: What the address is counted under; None while it is not counted, since it is exempt or not known yet.
    """

    __slots__ = ("_guesses", "_host", "_table", "key")

    def __init__(self, table: ClientTable) -> None:
        self._table = table
        self._host: str | None = None
        self._guesses = False  # whether a credential of the request is being verified
        self.key: bytes | None = None

    def assign(self, host: str) -> None:
        """Count the connection under an address, in place of the one before.

        Args:
            host: IP address as text; empty on a Unix socket.

        Raises:
            Rejected: The address is banned or has too many connections; this one is not counted then.
        """
        if host == self._host:
            return
        self.release()
        self._host = host
        addresses = self._table
        if addresses.is_exempt(host):
            return
        if addresses.bans and addresses.ban_remaining(host):
            raise self.banned()
        key = client_key(host)
        if not addresses.acquire(key):
            most = addresses.limits.connections
            raise Rejected(
                Reason.RATE_LIMITED,
                f"{most} connections from {_describe_client(host)}, and limits.per_address.connections is {most}; "
                f"{PROXY_HINT}",
            )
        self.key = key

    def is_banned(self) -> bool:
        """Whether the address was banned since the connection was accepted; may be called in any thread."""
        return self.key is not None and self._table.bans.get(self.key, 0.0) > self._table.clock()

    def banned(self) -> Rejected:
        """Return the rejection of a banned client."""
        seconds = math.ceil(self._table.ban_remaining(self._host or ""))
        return Rejected(
            Reason.BANNED,
            f"{self._host or 'unix'} is banned for {seconds} s more, after limits.per_address.max_failures, "
            f"{self._table.limits.max_failures} failed logins",
            headers=(("Retry-After", str(seconds)),),
        )

    def check_ban(self) -> None:
        """Reject the connection if its address was banned since it was accepted.

        Raises:
            Rejected: It was.
        """
        if self.is_banned():
            raise self.banned()

    def take_handshake(self) -> None:
        """Take one of the handshakes that the address may do.

        Raises:
            Rejected: It has none left now.
        """
        if self.key is None:
            return
        wait = self._table.take_handshake(self.key)
        if not wait:
            return
        limits = self._table.limits
        seconds = math.ceil(wait)
        raise Rejected(
            Reason.RATE_LIMITED,
            f"more than limits.per_address.handshake_rate, {limits.handshake_rate} a second, "
            f"after {limits.handshake_burst} at once, "
            f"from {_describe_client(self._host or '')}; {PROXY_HINT}",
            headers=(("Retry-After", str(seconds)),),
        )

    async def begin_guess(self, max_waiting: int | None = None) -> bool:
        """See `ClientGate.begin_guess`; `end_guess` or `release` ends it."""
        if self.key is not None and not self._guesses:
            self._guesses = await self._table.begin_guess(self.key, max_waiting)
            self.check_ban()
            return self._guesses
        return True

    def end_guess(self) -> None:
        """The credentials of the request are verified, and their failure is recorded."""
        if self._guesses and self.key is not None:
            self._guesses = False
            self._table.end_guess(self.key)

    def record_failure(self) -> None:
        """Count a failed login; too many ban the address, which is logged."""
        if self.key is None or self.is_banned():
            return
        failures = self._table.record_failure(self.key)
        if failures:
            log.warning(
                "address.banned",
                client_address=self._host or "unix",
                failures=failures,
                ban_seconds=self._table.limits.ban_time,
            )

    def release(self) -> None:
        """Count the connection out."""
        self.end_guess()
        key, self.key, self._host = self.key, None, None
        if key is not None:
            self._table.release(key)


def _describe_client(host: str) -> str:
    """Name what an address counts under."""
    if not host:
        return "unix"
    return f"the /64 of {host}" if ":" in host else host
