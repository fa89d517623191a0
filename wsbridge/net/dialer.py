"""Happy Eyeballs dial, retry with backoff.

`trio.open_tcp_stream` has no hook to check the resolved addresses before it connects, and reports no progress.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import random
import socket
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

from wsbridge.net.address import Address, LocalAddress, SockAddr, join_host_port
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Initiator, Reason, Rejected
from wsbridge.worker_thread import NoThreadError, run_in_thread

CONNECTION_ATTEMPT_DELAY: Final = 0.25
"""Seconds from the start of one attempt to the start of the next; at once when an attempt has failed."""
UNANSWERED_DELAY: Final = 0.5
"""Seconds without a connection after which a dial that is cancelled counts as one whose addresses do not answer."""
MAX_DIAL_STEPS: Final = 64
"""Steps of a dial that are kept for the log at level debug, the latest ones."""
CAUSE_TIMEOUT: Final = 0.5
"""Seconds that looking for the cause of a failed dial may take: file systems and user databases may hang."""
MAX_DIAL_ADDRESSES: Final = 8
"""Addresses of a name that one dial tries; the next dial of a connection goes on with those not tried."""

_OVERLOAD_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
_DENIED_ERRNOS: Final = frozenset({errno.EACCES, errno.EPERM})
_IN_PROGRESS_ERRNOS: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})
_CAUSE_THREADS: Final = 2
_cause_limiter: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("cause_limiter")
_REASON_PRIORITY: Final = (
    Reason.OVERLOAD,
    Reason.BACKEND_REFUSED,
    Reason.BACKEND_TIMEOUT,
    Reason.BACKEND_DENIED,
    Reason.BACKEND_UNREACHABLE,
)


AddressFilter = Callable[[Address], str | None]
"""Gives one sentence why an address may not be dialled, or None."""


class DialProgress:
    """How far the dial of one connection has come, over all its attempts: for time-outs, and so that retries rotate.

    Attributes:
        open: Addresses that have not answered yet.
        tried: Addresses that were tried so far.
        untried: How many addresses there are besides.
        steps: What was done and how long it took, for the log at level debug; nothing is added while it is None.
    """

    __slots__ = ("_result", "_since", "_step", "open", "steps", "tried", "untried")

    def __init__(self) -> None:
        self.steps: deque[str] | None = None
        self._result = ""
        self._step = ""
        self._since = 0.0
        self.open: list[Address] = []
        self.tried: set[Address] = set()
        self.untried = 0

    def enter(self, step: str) -> None:
        """Note what is waited for from now on; with an empty step, that nothing is."""
        if self.steps is not None and self._step:
            self.steps.append(f"{self._step}{self._result} ({self.seconds:.3f} s)")
            self._result = ""
        self._step, self._since = step, trio.current_time()
        self.open = []

    def note(self, result: object) -> None:
        """Note what a step found, such as an address, or why an attempt failed."""
        if self.steps is not None:
            self._result += f"{',' if self._result else ':'} {result}"

    def fail(self, detail: str) -> None:
        """Note why a step failed, without the address in front where the step names it."""
        address, separator, text = detail.partition(": ")
        self.note(text if separator and self._step.endswith(address) else detail)

    def specify(self, step: str) -> None:
        """Say more precisely what has been waited for since the step was entered."""
        self._step = step

    def choose(self, addresses: list[Address]) -> list[Address]:
        """Choose the addresses for one dial, those that no earlier dial has tried before the others."""
        ordered = sorted(interleave_families(addresses), key=lambda address: address in self.tried)
        if ordered and ordered[0] in self.tried:
            self.tried.clear()
        self.untried = sum(address not in self.tried for address in ordered)
        return ordered[:MAX_DIAL_ADDRESSES]

    def connect(self, address: Address) -> None:
        """Note an attempt to connect."""
        self.open.append(address)
        self.untried -= address not in self.tried
        self.tried.add(address)

    def describe_untried(self) -> str:
        """Say how many addresses were not tried; empty for none."""
        return f"; {self.untried} more addresses were not tried" if self.untried > 0 else ""

    @property
    def seconds(self) -> float:
        """How long the step has lasted."""
        return trio.current_time() - self._since

    def __str__(self) -> str:
        seconds = self.seconds
        if not self.open:
            return f"{self._step} ({seconds:.1f} s)" if self._step else ""
        addresses = ", ".join(map(str, self.open))
        return (
            f"{addresses}: no answer to the connection attempt ({seconds:.1f} s), as behind a firewall that drops "
            f"packets{self.describe_untried()}"
        )


async def dial(
    resolver: Resolver,
    host: str,
    port: int,
    check_address: AddressFilter | None = None,
    progress: DialProgress | None = None,
    *,
    chain: OutgoingChain | None = None,
    client: Hashable = None,
) -> socket.socket:
    """Connect to a host by TCP (RFC 8305).

    Up to 8 addresses, families in turn, each 250 ms after the one before or at once when one has failed: the first that
    connects wins, the others are closed. May return without a checkpoint if the connection is there at once. A name
    whose addresses do not answer is looked up again next time.

    Args:
        resolver: Looks the host up.
        host: Name or IP literal.
        port: Port.
        check_address: Checks each address; those that it rejects are not dialed, and no other is looked up.
        progress: That of the connection, where it dials more than once or has a deadline.
        chain: The routes that the connection has come through.
        client: What the client that chose the host is counted under, for the limit on its lookups.

    Returns:
        A connected, non-blocking socket that the caller owns.

    Raises:
        Rejected: `backend_*`; `overload` where this machine has no descriptor, port or memory left; `forbidden` where
            none of the addresses may be dialed. The detail has the addresses and the system's words.
    """
    progress = progress or DialProgress()
    progress.enter(f"looking up {host}")
    try:
        addresses = resolver.cached(host, port)
        if addresses:
            progress.note("cached")
        else:
            addresses = await resolver.resolve(host, port, client, progress.specify)
        for address in addresses[:MAX_DIAL_ADDRESSES]:
            progress.note(address)
    except OSError as error:
        raise _dns_failure(host, error) from None
    if check_address is not None:
        checked = [(address, check_address(address)) for address in addresses]
        addresses = [address for address, wrong in checked if wrong is None]
        if not addresses:
            words = "; ".join(wrong for _, wrong in checked[:MAX_DIAL_ADDRESSES] if wrong)
            raise Rejected(Reason.FORBIDDEN, f"{join_host_port(host, port)}: {words}", permanent=True)
    try:
        return await _connect_any(host, port, addresses, progress, chain)
    except BaseException as error:
        if _is_unanswered(error, progress):
            resolver.forget(host)
        raise


def _is_unanswered(error: BaseException, progress: DialProgress) -> bool:
    """Return whether a dial failed because of its addresses, and not of this host or of a client that left soon."""
    if isinstance(error, Rejected):
        return error.reason is not Reason.OVERLOAD
    return progress.seconds >= UNANSWERED_DELAY


async def _connect_any(
    host: str, port: int, addresses: list[Address], progress: DialProgress, chain: OutgoingChain | None
) -> socket.socket:
    progress.enter(f"connecting to {join_host_port(host, port)}")
    chosen = progress.choose(addresses)
    if len(chosen) > 1:
        return await _race(host, port, chosen, progress, chain)
    progress.connect(chosen[0])
    return await _connect(chosen[0].family, chosen[0].sockaddr, chain)


def dial_nowait(address: LocalAddress, chain: OutgoingChain | None = None) -> socket.socket | None:
    """Connect to an address of this machine, which takes no waiting; None if it did not work out.

    Args:
        address: Of the server.
        chain: The routes that the connection has come through.
    """
    sockaddr = address.sockaddr
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        code = _start_connect(sock, sockaddr, chain)
        if code == errno.EINPROGRESS:
            code = sock.connect_ex(sockaddr)
        if code in (0, errno.EISCONN) and sock.getsockname() != sockaddr:
            return sock
    except OSError:
        pass
    sock.close()
    return None


def _start_connect(sock: socket.socket, sockaddr: SockAddr | str, chain: OutgoingChain | None) -> int:
    if chain is not None and chain.may_lead_here(sockaddr):
        return chain.connect(sock, sockaddr)
    return sock.connect_ex(sockaddr)


async def dial_unix(path: str, chain: OutgoingChain | None = None) -> socket.socket:
    """Connect to a Unix stream socket.

    Args:
        path: Of the socket.
        chain: The routes that the connection has come through.

    Raises:
        Rejected: `backend_refused` where nothing listens or the backlog is full (the kernel has no way to wait there);
            `backend_unreachable` for a socket that does not exist, `backend_denied` for one that this process may not
            use.
    """
    return await _connect(socket.AF_UNIX, path, chain)


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


async def _connect(family: int, sockaddr: SockAddr | str, chain: OutgoingChain | None) -> socket.socket:
    """One attempt at one address. A second `connect` returns the result of the first: 0 when connected."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _connect_failure(error.errno or 0, sockaddr) from None
    try:
        code = _start_connect(sock, sockaddr, chain)
        if code == errno.EINPROGRESS:
            # On a loopback address the connection is established or refused by now.
            code = sock.connect_ex(sockaddr)
            while code in _IN_PROGRESS_ERRNOS:
                await trio.lowlevel.wait_writable(sock)
                code = sock.connect_ex(sockaddr)
        if code in (0, errno.EISCONN):
            if sock.getsockname() != sockaddr:
                return sock
            code = errno.ECONNREFUSED  # TCP's simultaneous open: we reached our own ephemeral port, and no server
    except OSError as error:
        code = error.errno or 0
    except BaseException:
        sock.close()
        raise
    sock.close()
    raise _connect_failure(code, sockaddr, await _find_cause(sockaddr, code) if isinstance(sockaddr, str) else "")


async def _race(
    host: str, port: int, addresses: list[Address], progress: DialProgress, chain: OutgoingChain | None
) -> socket.socket:
    """Happy Eyeballs: the first of several attempts that connects."""
    winner: socket.socket | None = None
    failures: list[Rejected] = []
    failed = trio.Event()

    async def attempt(address: Address, nursery: trio.Nursery) -> None:
        nonlocal winner
        try:
            sock = await _connect(address.family, address.sockaddr, chain)
        except Rejected as rejected:
            failures.append(rejected)
            progress.note(rejected.detail)
            progress.open.remove(address)
            failed.set()
            return
        if winner is None:
            winner = sock
            progress.note(f"{address}: connected")
            nursery.cancel_scope.cancel()
        else:
            sock.close()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                progress.connect(address)
                nursery.start_soon(attempt, address, nursery)
                with trio.move_on_after(CONNECTION_ATTEMPT_DELAY):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    if winner is None:
        raise _merge_failures(host, port, failures, progress)
    return winner


def _connect_failure(code: int, sockaddr: SockAddr | str, cause: str = "") -> Rejected:
    """Return the failure of one attempt.

    Args:
        code: Errno.
        sockaddr: Where it was to connect to.
        cause: What was found out about it besides.
    """
    if code == errno.ECONNREFUSED or (isinstance(sockaddr, str) and code == errno.EAGAIN):
        reason = Reason.BACKEND_REFUSED
        if code == errno.EAGAIN:
            cause = "the service is too slow to accept connections, and its backlog is full"
    elif not isinstance(sockaddr, str) and code == errno.EADDRNOTAVAIL and _lacks_source_address(sockaddr):
        reason = Reason.BACKEND_UNREACHABLE
        cause = "this host has no IPv6 address to connect from"
    elif code in _OVERLOAD_ERRNOS:
        reason = Reason.OVERLOAD
    elif code == errno.ETIMEDOUT:
        reason = Reason.BACKEND_TIMEOUT
        cause = "no answer to the connection attempt, as behind a firewall that drops packets"
    elif code in _DENIED_ERRNOS:
        reason = Reason.BACKEND_DENIED
        if not isinstance(sockaddr, str):
            cause = "a rule of this host forbids it"
    else:
        reason = Reason.BACKEND_UNREACHABLE
        if isinstance(sockaddr, str) and code == errno.ENOENT:
            cause = "the service has not made its socket, or the path is another"
    address = f"unix:{sockaddr}" if isinstance(sockaddr, str) else join_host_port(sockaddr[0], sockaddr[1])
    text = os.strerror(code) if code else "unknown error"
    return _failure(reason, f"{address}: {text}" + (f": {cause}" if cause else ""))


def _lacks_source_address(sockaddr: SockAddr) -> bool:
    """Return whether EADDRNOTAVAIL means that this host has no IPv6 address, and not that it has no port left.

    A datagram socket needs no port of TCP; nothing is sent.
    """
    if len(sockaddr) == 2:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect(sockaddr)
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False


async def _find_cause(path: str, code: int) -> str:
    """Say why a Unix socket cannot be connected to; empty where that is not known soon."""
    if code != errno.ECONNREFUSED and code not in _DENIED_ERRNOS:
        return ""
    describe = _describe_permissions if code in _DENIED_ERRNOS else _describe_refusal
    try:
        limiter = _cause_limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_CAUSE_THREADS)
        _cause_limiter.set(limiter)
    with trio.move_on_after(CAUSE_TIMEOUT), contextlib.suppress(NoThreadError):
        return await run_in_thread(lambda: describe(path), limiter)
    return ""


def _describe_refusal(path: str) -> str:
    """Say why a path that exists accepts no connection."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return "this is no socket"
    return "no process listens on the socket; one that has ended may have left it behind"


def _describe_permissions(path: str) -> str:
    """Say what keeps this process from a socket file."""
    ours = f"wsbridge runs as {_user_name(os.geteuid())}"
    try:
        found = Path(path).stat()
    except OSError:
        return f"a directory above the socket is closed to it; {ours}"
    if not stat.S_ISSOCK(found.st_mode):
        return "this is no socket"
    owner = f"{_user_name(found.st_uid)}:{_group_name(found.st_gid)}"
    return f"the socket belongs to {owner} and has mode {stat.S_IMODE(found.st_mode):04o}; {ours}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _dns_failure(host: str, error: OSError) -> Rejected:
    looked_up = isinstance(error, socket.gaierror)  # another OSError is the system's: no descriptor, no memory
    short = error.errno == socket.EAI_MEMORY if looked_up else error.errno in _OVERLOAD_ERRNOS
    reason = Reason.OVERLOAD if short else Reason.BACKEND_DNS
    return _failure(reason, f"{host}: {error.strerror or error}")


def _merge_failures(host: str, port: int, failures: list[Rejected], progress: DialProgress) -> Rejected:
    """One failure out of several: the gravest reason, all their texts."""
    reasons = {failure.reason for failure in failures}
    reason = next((rank for rank in _REASON_PRIORITY if rank in reasons), Reason.BACKEND_UNREACHABLE)
    text = "; ".join(failure.detail for failure in failures) or "no address"
    return _failure(reason, f"{join_host_port(host, port)}: {text}{progress.describe_untried()}")


def _failure(reason: Reason, detail: str) -> Rejected:
    initiator: Initiator = "wsbridge" if reason is Reason.OVERLOAD else "backend"
    return Rejected(reason, detail, initiator=initiator)


INITIAL_BACKOFF: Final = 0.05
"""Seconds between the first attempt and the second; doubled each time."""
MAX_BACKOFF: Final = 1.0
"""Seconds that the pause never exceeds."""

_RETRYABLE_REASONS: Final = frozenset(
    {
        Reason.BACKEND_REFUSED,
        Reason.BACKEND_REJECTED,
        Reason.BACKEND_UNREACHABLE,
        Reason.BACKEND_DENIED,
        Reason.BACKEND_DNS,
        Reason.BACKEND_TIMEOUT,
    }
)

_Result = TypeVar("_Result")


async def retry(
    attempt: Callable[[], Awaitable[_Result]],
    *,
    timeout: float | None,
    retry_for: float = 0.0,
    on_retry: Callable[[Rejected], None] | None = None,
    progress: DialProgress | None = None,
    jitter: Callable[[], float] = random.random,
) -> _Result:
    """Try until it works, or until another attempt makes no sense or it has lasted long enough.

    Only failures that may pass with time are tried again: refused, unreachable, unknown name, timeout. A backend that
    gave a definite answer (`Rejected.permanent`) is asked once; one that says when to come back, then.

    Args:
        attempt: One attempt.
        timeout: Seconds for each attempt; None for no limit.
        retry_for: Seconds after which no further attempt begins; 0 for a single attempt.
        on_retry: Called once, with the first failure, when it is going to be retried.
        progress: What the attempts note their steps in; names the step that took too long.
        jitter: Random numbers from 0 to 1; pauses are between half and the whole of their length.

    Raises:
        Rejected: The last failure.
    """
    started = trio.current_time()
    backoff = INITIAL_BACKOFF
    while True:
        try:
            return await _attempt_once(attempt, timeout, progress)
        except Rejected as rejected:
            left = started + retry_for - trio.current_time()
            if not retry_for or left <= 0 or not _is_retryable(rejected):
                raise
            wait = min(backoff * (0.5 + 0.5 * jitter()), left)
            if rejected.retry_after is not None:
                if rejected.retry_after > left:
                    text = f"it asks to wait {rejected.retry_after:g} s, and retry_for ends in {left:.1f} s"
                    raise rejected.with_detail(f"{rejected.detail}; {text}") from None
                wait = max(wait, rejected.retry_after)
            if on_retry is not None:
                on_retry(rejected)
                on_retry = None
        await trio.sleep(wait)
        backoff = min(backoff * 2, MAX_BACKOFF)


async def _attempt_once(
    attempt: Callable[[], Awaitable[_Result]], timeout: float | None, progress: DialProgress | None
) -> _Result:
    if timeout is None:
        return await attempt()
    with trio.move_on_after(timeout):
        return await attempt()
    step = str(progress or "")
    text = f"no connection within {timeout:g} s" + (f": {step}" if step else "")
    raise Rejected(Reason.BACKEND_TIMEOUT, text, initiator="backend")


def _is_retryable(rejected: Rejected) -> bool:
    return rejected.reason in _RETRYABLE_REASONS and not rejected.permanent
