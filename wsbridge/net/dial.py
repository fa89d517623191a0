"""Dialling: a connected, non-blocking socket to a host and port, or the reason why there is none.

Lives here: one attempt over all addresses of a name, in the manner of RFC 8305. Must not live here: deadlines (they
are the caller's cancel scope), repeated attempts (`retry`), socket options, TLS. Failures are values.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from wsbridge.net.address import Address, SockAddr, host_port
from wsbridge.net.resolve import Resolver
from wsbridge.reasons import ENDINGS, Blame, End, Reason

STAGGER: Final = 0.25
"""Seconds from the start of one attempt to the start of the next; at once when an attempt has failed."""
MAX_OPEN: Final = 3
"""Attempts open at a time."""
MAX_ADDRESSES: Final = 8
"""Addresses of a name that are tried."""

_OVERLOAD: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})
_BLAME: Final[dict[Reason, Blame]] = {Reason.OVERLOAD: "bridge", Reason.FORBIDDEN: "front"}
_RANK: Final = (Reason.OVERLOAD, Reason.BACKEND_REFUSED, Reason.BACKEND_TIMEOUT, Reason.BACKEND_UNREACHABLE)


Judge = Callable[[Address], str | None]
"""Gives one sentence why an address may not be dialled, or None."""


@dataclass(frozen=True, slots=True)
class DialFailure:
    """Why there is no connection to a backend.

    Attributes:
        reason: `backend_*`, `overload` when this machine had no descriptor, port or memory for it, or `forbidden` when
            none of the addresses may be dialled.
        detail: One sentence with addresses and the system's words.
        final: Whether somebody answered and said no, so that trying again soon makes no sense.
    """

    reason: Reason
    detail: str
    final: bool = False

    def end(self) -> End:
        """The same as the ending of a connection: what is forbidden is the client's doing, an overload the bridge's.

        A final one carries its HTTP status, which is how `retry` knows it.
        """
        blame = _BLAME.get(self.reason, "back")
        return End(self.reason, blame, self.detail, ENDINGS[self.reason].status if self.final else None)


async def dial(resolver: Resolver, host: str, port: int, why_not: Judge | None = None) -> socket.socket | DialFailure:
    """Connect to a host by TCP.

    Up to 8 addresses, families in turn, 250 ms apart or at once when one failed, 3 open at a time: the first that
    connects wins, the others are closed. May return without a checkpoint if the connection stands at once.

    Args:
        resolver: Looks the host up.
        host: Name or IP literal.
        port: Port.
        why_not: Judges each address; those that it has a word against are not dialled, and no other is looked up.

    Returns:
        A connected, non-blocking socket that the caller owns; or the failure.
    """
    try:
        addresses = resolver.cached(host, port) or await resolver.resolve(host, port)
    except OSError as error:
        return _name_failure(host, error)
    if why_not is not None:
        judged = [(address, why_not(address)) for address in addresses]
        addresses = [address for address, wrong in judged if wrong is None]
        if not addresses:
            words = "; ".join(wrong for _, wrong in judged[:MAX_ADDRESSES] if wrong)
            return DialFailure(Reason.FORBIDDEN, f"{host_port(host, port)}: {words}", final=True)
    if len(addresses) == 1:
        return await _connect(addresses[0].family, addresses[0].sockaddr)
    return await _race(host, port, interleave(addresses)[:MAX_ADDRESSES])


def dial_at_once(family: int, sockaddr: object) -> socket.socket | None:
    """Connect to an address of this machine, which takes no waiting; None if it did not work out.

    Args:
        family: AF_UNIX, or the family of a loopback address.
        sockaddr: What `socket.connect` takes.
    """
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        code = sock.connect_ex(sockaddr)  # type: ignore[arg-type]  # typeshed knows no union of address families
        if code == errno.EINPROGRESS:
            code = sock.connect_ex(sockaddr)  # type: ignore[arg-type]  # as above
        if code in (0, errno.EISCONN) and sock.getsockname() != sockaddr:
            return sock
    except OSError:
        pass
    sock.close()
    return None


async def dial_unix(path: str) -> socket.socket | DialFailure:
    """Connect to a Unix stream socket.

    A socket file that is not there, that nobody listens at, or whose backlog is full (the kernel offers no waiting
    there) is `backend_refused`.
    """
    return await _connect(socket.AF_UNIX, path)


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """The addresses with families in turn, in their order otherwise, beginning with the family of the first."""
    if not addresses:
        return []
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    mixed: list[Address] = []
    for place in range(max(len(first), len(other))):
        mixed += first[place : place + 1]
        mixed += other[place : place + 1]
    return mixed


async def _connect(family: int, sockaddr: SockAddr | str) -> socket.socket | DialFailure:
    """One attempt at one address. A second `connect` asks how the first went: 0 when it stands."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        return _failure(error.errno or 0, sockaddr)
    try:
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            # On a loopback address the connection stands, or has been refused, by now.
            code = sock.connect_ex(sockaddr)
            while code in _UNDER_WAY:
                await trio.lowlevel.wait_writable(sock)
                code = sock.connect_ex(sockaddr)
        if code in (0, errno.EISCONN):
            if sock.getsockname() != sockaddr:
                return sock
            code = errno.ECONNREFUSED  # TCP's simultaneous open: we reached our own ephemeral port, nobody else
    except OSError as error:
        code = error.errno or 0
    except BaseException:
        sock.close()
        raise
    sock.close()
    return _failure(code, sockaddr)


async def _race(host: str, port: int, addresses: list[Address]) -> socket.socket | DialFailure:
    """Happy eyeballs: the first of several attempts that connects."""
    winner: socket.socket | None = None
    failures: list[DialFailure] = []
    slots = trio.Semaphore(MAX_OPEN)
    failed = trio.Event()

    async def attempt(address: Address, nursery: trio.Nursery) -> None:
        nonlocal winner
        outcome = await _connect(address.family, address.sockaddr)
        if isinstance(outcome, DialFailure):
            failures.append(outcome)
            slots.release()
            failed.set()
        elif winner is None:
            winner = outcome
            nursery.cancel_scope.cancel()
        else:
            outcome.close()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                await slots.acquire()
                failed = trio.Event()
                nursery.start_soon(attempt, address, nursery)
                with trio.move_on_after(STAGGER):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    return winner if winner is not None else _together(host, port, failures)


def _failure(code: int, sockaddr: SockAddr | str) -> DialFailure:
    text = os.strerror(code) if code else "unknown error"
    unix = isinstance(sockaddr, str)
    told = f"unix:{sockaddr}" if isinstance(sockaddr, str) else host_port(sockaddr[0], sockaddr[1])
    if code == errno.ECONNREFUSED or (unix and code in (errno.ENOENT, errno.EAGAIN)):
        reason = Reason.BACKEND_REFUSED
    elif code in _OVERLOAD:
        reason = Reason.OVERLOAD
    elif code == errno.ETIMEDOUT:
        reason = Reason.BACKEND_TIMEOUT
    else:
        reason = Reason.BACKEND_UNREACHABLE
    return DialFailure(reason, f"{told}: {text}")


def _name_failure(host: str, error: OSError) -> DialFailure:
    looked_up = isinstance(error, socket.gaierror)  # another OSError is the system's: no descriptor, no memory
    short = error.errno == socket.EAI_MEMORY if looked_up else error.errno in _OVERLOAD
    reason = Reason.OVERLOAD if short else Reason.BACKEND_NAME
    return DialFailure(reason, f"{host}: {error.strerror or error}")


def _together(host: str, port: int, failures: list[DialFailure]) -> DialFailure:
    """One failure out of several: the gravest reason, all their words."""
    reasons = {failure.reason for failure in failures}
    reason = next((rank for rank in _RANK if rank in reasons), Reason.BACKEND_UNREACHABLE)
    words = "; ".join(failure.detail for failure in failures) or "no address"
    return DialFailure(reason, f"{host_port(host, port)}: {words}")
