"""DNS lookups and cache."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import trio

from wsbridge.net.address import Address, to_sockaddr

MAX_CACHED_NAMES = 4096
"""Names kept in the cache; past it, the one asked for first is forgotten."""

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass(slots=True)
class _CacheEntry:
    """One name: its answer with the time it expires, or the look-up that its waiters wait for."""

    expires: float = math.inf
    addresses: tuple[Address, ...] = ()
    failure: OSError | None = None
    pending: trio.Event | None = None
    by_port: dict[int, list[Address]] = field(default_factory=dict)


class Resolver:
    """Looks names up; used as `async with Resolver(...) as resolver`, which holds the look-ups under way.

    Leaving the block abandons them: a DNS server that never answers does not hold up the end of the process.

    Args:
        threads: Look-ups at once.
        ttl: Seconds that an answer is kept.
        negative_ttl: Seconds that a failure is kept.
        getaddrinfo: `socket.getaddrinfo` or a stand-in.
    """

    def __init__(
        self,
        threads: int = 8,
        ttl: float = 30.0,
        negative_ttl: float = 2.0,
        *,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._getaddrinfo = getaddrinfo
        self._entries: dict[str, _CacheEntry] = {}
        self._nursery: trio.Nursery | None = None
        self._stack = contextlib.AsyncExitStack()

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

    def cached(self, host: str, port: int) -> list[Address] | None:
        """Addresses of a host that are known without waiting (IP literals always are), or None."""
        entry = self._entries.get(host)
        if entry is None:
            literal = _parse_ip_literal(host)
            if literal is None:
                return None
            entry = self._store(host, _CacheEntry(addresses=(literal,)))
        elif entry.pending is not None or entry.failure is not None or entry.expires <= trio.current_time():
            return None
        found = entry.by_port.get(port)
        if found is None:
            found = entry.by_port[port] = [_with_port(address, port) for address in entry.addresses]
        return found

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Addresses of a host, in the order the system prefers; never empty. The list is shared: do not change it.

        Args:
            host: A name or an IP literal (no brackets), as written.
            port: Port to put into the addresses.

        Raises:
            OSError: the name cannot be resolved (`socket.gaierror` in nearly all cases).
        """
        found = self.cached(host, port)
        if found is not None:
            return found
        entry = self._entries.get(host)
        if entry is None or (entry.pending is None and entry.expires <= trio.current_time()):
            entry = self._start_lookup(host)
        if entry.pending is not None:
            await entry.pending.wait()
        if entry.failure is not None:
            raise _copy_error(entry.failure)
        return [_with_port(address, port) for address in entry.addresses]

    def _start_lookup(self, host: str) -> _CacheEntry:
        if self._nursery is None:
            raise RuntimeError("Resolver is used outside its `async with` block")
        entry = self._store(host, _CacheEntry(pending=trio.Event()))
        self._nursery.start_soon(self._lookup, host, entry, name=f"resolve {host}")
        return entry

    def _store(self, host: str, entry: _CacheEntry) -> _CacheEntry:
        self._entries.pop(host, None)
        if len(self._entries) >= MAX_CACHED_NAMES:
            del self._entries[next(iter(self._entries))]
        self._entries[host] = entry
        return entry

    async def _lookup(self, host: str, entry: _CacheEntry) -> None:
        """Ask, and leave the answer in the entry. Belongs to no waiter, so none of them can cancel it."""
        try:
            answer = await trio.to_thread.run_sync(
                self._lookup_blocking, host, abandon_on_cancel=True, limiter=self._limiter
            )
            if isinstance(answer, OSError):
                entry.failure = answer
            else:
                entry.addresses = answer
        except trio.Cancelled:
            entry.failure = socket.gaierror(socket.EAI_AGAIN, "the look-up was abandoned")
            raise
        except RuntimeError as error:  # no thread could be started
            entry.failure = socket.gaierror(socket.EAI_MEMORY, str(error))
        finally:
            kept = self._ttl if entry.failure is None else self._negative_ttl
            entry.expires = trio.current_time() + kept
            pending, entry.pending = entry.pending, None
            if pending is not None:
                pending.set()

    def _lookup_blocking(self, host: str) -> tuple[Address, ...] | OSError:
        """Runs in a thread: one blocking look-up, its failure as a value."""
        try:
            rows = self._getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        except OSError as error:
            return error
        except UnicodeError:
            return socket.gaierror(socket.EAI_NONAME, "not a valid host name")
        found = dict.fromkeys(
            Address(int(row[0]), to_sockaddr(row[4])) for row in rows if row[0] in (socket.AF_INET, socket.AF_INET6)
        )
        return tuple(found) or socket.gaierror(socket.EAI_NODATA, "no address associated with the name")


def _parse_ip_literal(host: str) -> Address | None:
    """Address of an IP literal (a scope such as `%eth0` included); None for a name. Asks no server."""
    if not host or not (":" in host or host[-1].isdigit()):
        return None
    try:
        rows = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    family, *_, sockaddr = rows[0]
    return Address(int(family), to_sockaddr(sockaddr))


def _with_port(address: Address, port: int) -> Address:
    found = address.sockaddr
    if len(found) == 2:
        return Address(address.family, (found[0], port))
    return Address(address.family, (found[0], port, found[2], found[3]))


def _copy_error(failure: OSError) -> OSError:
    """A fresh exception for each waiter, since one that is raised collects a traceback."""
    return type(failure)(*failure.args)
