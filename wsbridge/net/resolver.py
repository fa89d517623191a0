"""DNS lookups in threads, with a cache.

Why `getaddrinfo` and no DNS library: it answers as every other program of the host does (/etc/hosts, nsswitch, mDNS,
systemd-resolved, VPNs), and the resolvers of the libraries do not.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import trio

from wsbridge.net.address import Address, to_sockaddr
from wsbridge.worker_thread import NoThreadError, run_in_thread

MAX_CACHED_NAMES: Final = 4096
"""Names kept in a cache; beyond it, the one that was looked up first is forgotten."""

STALE_DELAY: Final = 1.0
"""Seconds after which a lookup counts as hanging, and the answer before it is used (RFC 8767 section 5)."""

MAX_STALE: Final = 3600.0
"""Seconds for which an expired answer may be used."""

HOSTS_FILE: Final = Path("/etc/hosts")

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass(slots=True)
class _CacheEntry:
    """One name: its answer, or the lookup under way.

    Attributes:
        expires: When the answer expires.
        addresses: The answer; while a lookup is under way the one before it.
        stale_until: Until when the addresses may be used although they have expired.
        failure: The answer where it is none.
        pending: Set when the lookup is done; None: none is under way.
        began: When the lookup began.
        waiters: Tasks that wait for it.
        in_thread: Whether a thread has begun it.
        scopes: Cancel the tasks that want to begin it, by client: the first that gets a thread does it for all.
    """

    expires: float = math.inf
    addresses: tuple[Address, ...] = ()
    stale_until: float = 0.0
    failure: OSError | None = None
    pending: trio.Event | None = None
    began: float = 0.0
    waiters: int = 0
    in_thread: bool = False
    scopes: dict[Hashable, trio.CancelScope] = field(default_factory=dict)


class Resolver:
    """Looks names up; used as `async with Resolver(...) as resolver`, which holds the lookups under way.

    Leaving the block abandons them: a DNS server that never answers does not hold up the end of the process.

    Args:
        threads: Concurrent lookups.
        ttl: Seconds that an answer is kept.
        negative_ttl: Seconds that a failure is kept.
        client_threads: The same as `threads` for each resolver of names that clients choose.
        threads_per_client: How many of those one client may have.
        getaddrinfo: `socket.getaddrinfo` or a stand-in.
    """

    def __init__(
        self,
        threads: int = 32,
        ttl: float = 30.0,
        negative_ttl: float = 2.0,
        *,
        client_threads: int = 4,
        threads_per_client: int = 2,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._threads = trio.CapacityLimiter(math.inf)  # those of lookups that have passed `_limiter`
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._client_threads = client_threads
        self._threads_per_client = threads_per_client
        self._client_limiters: dict[Hashable, trio.CapacityLimiter] = {}
        self._getaddrinfo = getaddrinfo
        self._entries: dict[str, _CacheEntry] = {}
        self._owner = self
        self._absolute = False
        self._nursery: trio.Nursery | None = None
        self._stack = contextlib.AsyncExitStack()

    def configure(
        self, threads: int, ttl: float, negative_ttl: float, *, client_threads: int, threads_per_client: int
    ) -> None:
        """Change the limits; what is cached stays as long as it was to. The parameters are those of the constructor."""
        self._limiter.total_tokens = threads
        self._ttl, self._negative_ttl = ttl, negative_ttl
        self._client_threads, self._threads_per_client = client_threads, threads_per_client

    async def __aenter__(self) -> Resolver:
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
        await self._stack.__aexit__(kind, error, trace)

    def for_client_names(self, *, absolute: bool) -> Resolver:
        """Give a resolver for the names that the clients of one route choose, within the block of this one.

        It has threads and a cache of its own: names that hang, and floods of names, hold up no other. Nor does one
        client of the route hold up the others, since it has only some of the threads.

        Args:
            absolute: Whether the search domains of the host are left out; /etc/hosts counts all the same.
        """
        resolver = Resolver(
            self._client_threads, self._ttl, self._negative_ttl, threads_per_client=self._threads_per_client
        )
        resolver._owner = self
        resolver._absolute = absolute
        return resolver

    def cached(self, host: str, port: int) -> list[Address] | None:
        """Addresses of a host that are known without waiting (IP literals always are), or None."""
        literal = parse_ip_literal(host, port)
        if literal is not None:
            return [literal]
        entry = self._entries.get(host)
        if entry is None or entry.pending is not None or entry.failure is not None:
            return None
        return None if entry.expires <= trio.current_time() else _with_port(entry.addresses, port)

    async def resolve(
        self, host: str, port: int, client: Hashable = None, report: Callable[[str], None] = lambda _: None
    ) -> list[Address]:
        """Addresses of a host, in the order the system prefers; never empty.

        An expired answer is used while a lookup hangs, and where one fails for the time being.

        Args:
            host: A name or an IP literal (no brackets), as written.
            port: Port to put into the addresses.
            client: What the client who chose the name is counted under; None for no limit but that of all.
            report: Called if the caller gives up before the lookup has begun, with what it was waiting for.

        Raises:
            OSError: the name cannot be resolved (`socket.gaierror` in nearly all cases).
        """
        found = self.cached(host, port)
        if found is not None:
            return found
        entry = self._entries.get(host)
        if entry is None or (entry.pending is None and entry.expires <= trio.current_time()):
            entry = self._start_lookup(host, entry)
        if entry.pending is not None:
            await self._wait(host, entry, entry.pending, client, report)
        if entry.pending is None and entry.failure is not None:
            raise _copy_error(entry.failure)
        return _with_port(entry.addresses, port)

    def forget(self, host: str) -> None:
        """Look a name up again next time, since its addresses do not answer."""
        entry = self._entries.get(host)
        if entry is None:
            return
        if entry.pending is not None:
            entry.addresses = ()
        elif entry.failure is None:
            del self._entries[host]  # whoever has waited for it gets its addresses all the same

    async def _wait(
        self,
        host: str,
        entry: _CacheEntry,
        pending: trio.Event,
        client: Hashable,
        report: Callable[[str], None],
    ) -> None:
        """Wait for a lookup, or until the expired answer has to do; one without waiters is not begun.

        Where another client wants to begin the same lookup and has no thread, this one tries it with its own.
        """
        nursery = self._owner._nursery
        if nursery is None:
            raise RuntimeError("Resolver is used outside its `async with` block")
        if not entry.in_thread and client not in entry.scopes:
            entry.scopes[client] = trio.CancelScope()
            nursery.start_soon(self._lookup, host, entry, client, name=f"resolve {host}")
        entry.waiters += 1
        try:
            with trio.move_on_at(entry.began + STALE_DELAY if entry.addresses else math.inf):
                await pending.wait()
            while entry.pending is not None and not entry.addresses:  # forgotten in the meantime
                await pending.wait()
        finally:
            if entry.pending is not None and not entry.in_thread:
                self._report_shortage(host, client, report)
            entry.waiters -= 1
            if not entry.waiters and entry.pending is not None and not entry.in_thread:
                for scope in entry.scopes.values():
                    scope.cancel()
                if self._entries.get(host) is entry and not entry.addresses:  # an expired answer is kept for the next
                    del self._entries[host]

    def _start_lookup(self, host: str, before: _CacheEntry | None) -> _CacheEntry:
        now = trio.current_time()
        entry = _CacheEntry(pending=trio.Event(), began=now)
        if before is not None and now < before.stale_until:
            entry.addresses, entry.stale_until = before.addresses, before.stale_until
        self._entries.pop(host, None)
        if len(self._entries) >= MAX_CACHED_NAMES:
            del self._entries[next(iter(self._entries))]
        self._entries[host] = entry
        return entry

    def _report_shortage(self, host: str, client: Hashable, report: Callable[[str], None]) -> None:
        """Report that no thread is free for a client, and which limit says so."""
        own = self._client_limiters.get(client)
        if own is not None and own.available_tokens < 1:
            most, setting = own.total_tokens, "dns_threads_per_address"
        elif self._limiter.available_tokens < 1:
            most, setting = self._limiter.total_tokens, "dns_threads"
            setting += "_per_route" if self._owner is not self else ""
        else:
            return
        report(f"waiting to look up {host}: {most} lookups have not ended, and limits.{setting} is {most}")

    @contextlib.asynccontextmanager
    async def _thread_of(self, client: Hashable) -> AsyncIterator[None]:
        """Wait for a thread: first within the limit of the client, so that its lookups do not queue before others'."""
        async with contextlib.AsyncExitStack() as stack:
            if client is not None and self._owner is not self:
                limiter = self._client_limiters.setdefault(client, trio.CapacityLimiter(self._threads_per_client))
                stack.callback(self._drop_limiter, client, limiter)
                await stack.enter_async_context(limiter)
            await stack.enter_async_context(self._limiter)
            yield

    def _drop_limiter(self, client: Hashable, limiter: trio.CapacityLimiter) -> None:
        if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
            self._client_limiters.pop(client, None)

    async def _lookup(self, host: str, entry: _CacheEntry, client: Hashable) -> None:
        """Look a name up, and leave the answer in the entry. Belongs to no waiter: one that leaves stops no other's."""
        answer: tuple[Address, ...] | OSError = socket.gaierror(socket.EAI_AGAIN, "the lookup was abandoned")
        begun = False
        try:
            with entry.scopes[client] as scope:
                async with self._thread_of(client):
                    if entry.in_thread:
                        return
                    entry.in_thread = begun = True
                    for other in entry.scopes.values():
                        if other is not scope:
                            other.cancel()
                    answer = await run_in_thread(lambda: self._lookup_blocking(host), self._threads)
        except NoThreadError as error:
            answer = socket.gaierror(socket.EAI_MEMORY, str(error.strerror))
        finally:
            del entry.scopes[client]
            if begun or not (entry.in_thread or entry.scopes):
                self._finish(entry, answer)

    def _finish(self, entry: _CacheEntry, answer: tuple[Address, ...] | OSError) -> None:
        """Put the answer into the entry, and wake those who wait for it."""
        now = trio.current_time()
        if not isinstance(answer, OSError):
            entry.addresses, entry.expires, entry.stale_until = answer, now + self._ttl, now + self._ttl + MAX_STALE
        else:
            entry.expires = now + self._negative_ttl
            temporary = isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_AGAIN
            if not (temporary and entry.addresses):
                entry.addresses, entry.failure = (), answer
        pending, entry.pending = entry.pending, None
        if pending is not None:
            pending.set()

    def _lookup_blocking(self, host: str) -> tuple[Address, ...] | OSError:
        """Runs in a thread: one blocking lookup, its failure as a value."""
        found = self._look_in_hosts_file(host) if self._absolute else ()
        if found:
            return found
        try:
            rows = self._owner._getaddrinfo(host + "." if self._absolute else host, 0, type=socket.SOCK_STREAM)
        except OSError as error:
            return error
        except UnicodeError:
            return socket.gaierror(socket.EAI_NONAME, "not a valid host name")
        addresses = dict.fromkeys(
            Address(int(row[0]), to_sockaddr(row[4])) for row in rows if row[0] in (socket.AF_INET, socket.AF_INET6)
        )
        return tuple(addresses) or socket.gaierror(socket.EAI_NODATA, "no address associated with the name")

    @staticmethod
    def _look_in_hosts_file(host: str) -> tuple[Address, ...]:
        """Find a name in /etc/hosts, where the C library finds no name that ends in a dot."""
        try:
            lines = HOSTS_FILE.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ()
        words = (line.partition("#")[0].lower().split() for line in lines)
        found = (parse_ip_literal(names[0], 0) for names in words if host.lower() in names[1:])
        return tuple(dict.fromkeys(address for address in found if address is not None))


def parse_ip_literal(host: str, port: int) -> Address | None:
    """Address of an IP literal (a zone such as `%eth0` included); None for a name. Asks no server."""
    if not host or not (":" in host or host[-1].isdigit()):
        return None
    return _parse_literal(host, port) if "%" in host else _parse_literal_cached(host, port)


def _parse_literal(host: str, port: int) -> Address | None:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    family, *_, sockaddr = rows[0]
    return Address(int(family), to_sockaddr(sockaddr))


_parse_literal_cached = lru_cache(maxsize=1024)(_parse_literal)  # not for zones: the number of an interface may change


def _with_port(addresses: tuple[Address, ...], port: int) -> list[Address]:
    return [Address(address.family, (address.sockaddr[0], port, *address.sockaddr[2:])) for address in addresses]


def _copy_error(failure: OSError) -> OSError:
    """A fresh exception for each waiter, since one that is raised collects a traceback."""
    return type(failure)(*failure.args)
