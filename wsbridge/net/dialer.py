"""Happy Eyeballs dial, retry with backoff."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from wsbridge.net.address import Address, SockAddr, join_host_port
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import REASONS, Initiator, Reason, Termination

CONNECTION_ATTEMPT_DELAY: Final = 0.25
"""Seconds from the start of one attempt to the start of the next; at once when an attempt has failed."""
MAX_CONCURRENT_ATTEMPTS: Final = 3
"""Attempts open at a time."""
MAX_DIAL_ADDRESSES: Final = 8
"""Addresses of a name that are tried."""

_OVERLOAD_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
_IN_PROGRESS_ERRNOS: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})
_INITIATORS: Final[dict[Reason, Initiator]] = {Reason.OVERLOAD: "wsbridge", Reason.FORBIDDEN: "client"}
_REASON_PRIORITY: Final = (Reason.OVERLOAD, Reason.BACKEND_REFUSED, Reason.BACKEND_TIMEOUT, Reason.BACKEND_UNREACHABLE)


AddressFilter = Callable[[Address], str | None]
"""Gives one sentence why an address may not be dialled, or None."""


@dataclass(frozen=True, slots=True)
class DialFailure:
    """Why there is no connection to a backend.

    Attributes:
        reason: `backend_*`, `overload` when this machine had no descriptor, port or memory for it, or `forbidden` when
            none of the addresses may be dialled.
        detail: One sentence with addresses and the system's words.
        permanent: Whether somebody answered and said no, so that trying again soon makes no sense.
    """

    reason: Reason
    detail: str
    permanent: bool = False

    def to_termination(self) -> Termination:
        """The same as the ending of a connection: what is forbidden is the client's doing, an overload the bridge's.

        A final one carries its HTTP status, which is how `retry` knows it.
        """
        blame = _INITIATORS.get(self.reason, "backend")
        return Termination(self.reason, blame, self.detail, REASONS[self.reason].status if self.permanent else None)


async def dial(
    resolver: Resolver, host: str, port: int, check_address: AddressFilter | None = None
) -> socket.socket | DialFailure:
    """Connect to a host by TCP.

    Up to 8 addresses, families in turn, 250 ms apart or at once when one failed, 3 open at a time: the first that
    connects wins, the others are closed. May return without a checkpoint if the connection stands at once.

    Args:
        resolver: Looks the host up.
        host: Name or IP literal.
        port: Port.
        check_address: Judges each address; those that it has a word against are not dialled, and no other is looked up.

    Returns:
        A connected, non-blocking socket that the caller owns; or the failure.
    """
    try:
        addresses = resolver.cached(host, port) or await resolver.resolve(host, port)
    except OSError as error:
        return _dns_failure(host, error)
    if check_address is not None:
        judged = [(address, check_address(address)) for address in addresses]
        addresses = [address for address, wrong in judged if wrong is None]
        if not addresses:
            words = "; ".join(wrong for _, wrong in judged[:MAX_DIAL_ADDRESSES] if wrong)
            return DialFailure(Reason.FORBIDDEN, f"{join_host_port(host, port)}: {words}", permanent=True)
    if len(addresses) == 1:
        return await _connect(addresses[0].family, addresses[0].sockaddr)
    return await _race(host, port, interleave_families(addresses)[:MAX_DIAL_ADDRESSES])


def dial_nowait(family: int, sockaddr: object) -> socket.socket | None:
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


def interleave_families(addresses: Sequence[Address]) -> list[Address]:
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
        return _connect_failure(error.errno or 0, sockaddr)
    try:
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            # On a loopback address the connection stands, or has been refused, by now.
            code = sock.connect_ex(sockaddr)
            while code in _IN_PROGRESS_ERRNOS:
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
    return _connect_failure(code, sockaddr)


async def _race(host: str, port: int, addresses: list[Address]) -> socket.socket | DialFailure:
    """Happy eyeballs: the first of several attempts that connects."""
    winner: socket.socket | None = None
    failures: list[DialFailure] = []
    slots = trio.Semaphore(MAX_CONCURRENT_ATTEMPTS)
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
                with trio.move_on_after(CONNECTION_ATTEMPT_DELAY):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    return winner if winner is not None else _merge_failures(host, port, failures)


def _connect_failure(code: int, sockaddr: SockAddr | str) -> DialFailure:
    text = os.strerror(code) if code else "unknown error"
    unix = isinstance(sockaddr, str)
    told = f"unix:{sockaddr}" if isinstance(sockaddr, str) else join_host_port(sockaddr[0], sockaddr[1])
    if code == errno.ECONNREFUSED or (unix and code in (errno.ENOENT, errno.EAGAIN)):
        reason = Reason.BACKEND_REFUSED
    elif code in _OVERLOAD_ERRNOS:
        reason = Reason.OVERLOAD
    elif code == errno.ETIMEDOUT:
        reason = Reason.BACKEND_TIMEOUT
    else:
        reason = Reason.BACKEND_UNREACHABLE
    return DialFailure(reason, f"{told}: {text}")


def _dns_failure(host: str, error: OSError) -> DialFailure:
    looked_up = isinstance(error, socket.gaierror)  # another OSError is the system's: no descriptor, no memory
    short = error.errno == socket.EAI_MEMORY if looked_up else error.errno in _OVERLOAD_ERRNOS
    reason = Reason.OVERLOAD if short else Reason.BACKEND_DNS
    return DialFailure(reason, f"{host}: {error.strerror or error}")


def _merge_failures(host: str, port: int, failures: list[DialFailure]) -> DialFailure:
    """One failure out of several: the gravest reason, all their words."""
    reasons = {failure.reason for failure in failures}
    reason = next((rank for rank in _REASON_PRIORITY if rank in reasons), Reason.BACKEND_UNREACHABLE)
    words = "; ".join(failure.detail for failure in failures) or "no address"
    return DialFailure(reason, f"{join_host_port(host, port)}: {words}")


INITIAL_BACKOFF: Final = 0.05
"""Seconds between the first attempt and the second; doubled each time."""
MAX_BACKOFF: Final = 1.0
"""Seconds that the pause never exceeds."""

_RETRYABLE_REASONS: Final = frozenset(
    {Reason.BACKEND_REFUSED, Reason.BACKEND_UNREACHABLE, Reason.BACKEND_DNS, Reason.BACKEND_TIMEOUT}
)

T = TypeVar("T")


async def retry(
    attempt: Callable[[], Awaitable[T | Termination]],
    *,
    timeout: float | None,
    retry_for: float = 0.0,
    on_retry: Callable[[Termination], None] | None = None,
    jitter: Callable[[], float] = random.random,
) -> T | Termination:
    """Try until it works, or until trying again makes no sense or has lasted long enough.

    Only failures that time can heal are tried again: refused, unreachable, unknown name, timeout. A backend that
    answers and says no (its End carries an HTTP `status`) is asked once.

    Args:
        attempt: One attempt; gives a result or the End that tells why not.
        timeout: Seconds for each attempt; None for no limit.
        retry_for: Seconds after which no further attempt begins; 0 for a single attempt.
        on_retry: Called once, with the first failure, when it is going to be retried.
        jitter: Random numbers from 0 to 1; pauses are between half and the whole of their length.

    Returns:
        What the attempt gave; or the last failure.
    """
    began = trio.current_time()
    pause = INITIAL_BACKOFF
    while True:
        outcome = await _attempt_once(attempt, timeout)
        if not isinstance(outcome, Termination) or not retry_for or not _is_retryable(outcome):
            return outcome
        left = began + retry_for - trio.current_time()
        if left <= 0:
            return outcome
        if on_retry is not None:
            on_retry(outcome)
            on_retry = None
        await trio.sleep(min(pause * (0.5 + 0.5 * jitter()), left))
        pause = min(pause * 2, MAX_BACKOFF)


async def _attempt_once(attempt: Callable[[], Awaitable[T | Termination]], timeout: float | None) -> T | Termination:
    if timeout is None:
        return await attempt()
    with trio.move_on_after(timeout):
        return await attempt()
    return Termination(Reason.BACKEND_TIMEOUT, "backend", f"no connection within {timeout:g} s")


def _is_retryable(termination: Termination) -> bool:
    return termination.reason in _RETRYABLE_REASONS and termination.status is None
