"""A client of resumable sessions for programs on trio: a stream of bytes that outlives its WebSocket connections.

    async with open_resumable("wss://gw.example.org/ssh") as stream:
        await stream.send_all(b"...")
        data = await stream.receive_some()

The server must speak the subprotocol `wsbridge.resume.v1` (docs/resume-protocol.md), as a route of wsbridge with
`resume` does. docs/python-client.md shows it in use.

Errors:

    OSError
    `- ConnectError             no session was opened
       `- ResumeNotSupported    ... because the server does not speak the subprotocol
    trio.BrokenResourceError
    `- SessionLost              the session has ended, and not both of its streams were complete
       |- SessionExpired        no transport for as long as the server keeps the session (ttl)
       |- SessionRefused        the server does not let it go on: HTTP 401, 403, 404 ..., or code 4001
       `- SessionReset          what the server connects to broke its connection off (4012)
"""

from __future__ import annotations

import math
import operator
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import trio
import trio.abc

from wsbridge.backends.base import Connected
from wsbridge.backends.passed_request import PassedRequest
from wsbridge.backends.resumption import SessionDialer, SessionTransport
from wsbridge.backends.transport_dialer import HeaderSource, TransportDialer, UrlSource
from wsbridge.config.urls import HttpProxy, Target, read_proxy_url
from wsbridge.net.dialer import DialProgress, retry
from wsbridge.net.http_proxy import proxy_from_environment
from wsbridge.net.resolver import Resolver
from wsbridge.protocol.reconnect import ReconnectSchedule
from wsbridge.protocol.replay_buffer import collect
from wsbridge.protocol.resume import (
    Event,
    GoingAway,
    Received,
    SessionOpened,
    SessionResumed,
    TransportUseless,
)
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, ResumeCode
from wsbridge.protocol.websocket import Buffer
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.session_stream import HELD_BYTES_AT_MOST

FROM_ENVIRONMENT: Final = "environment"
"""For `proxy`: what `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say."""

ABORT_TIMEOUT: Final = 1.0
"""Seconds that sending the abort (4012) to the server may take."""

RECEIVE_BYTES: Final = 65536
"""Bytes that `receive_some` returns at most, where its caller sets no limit."""


class ConnectError(OSError):
    """No session was opened.

    Attributes:
        reason: Name of the row in docs/reasons.md, such as `backend_refused`.
        status: HTTP status with which the server, or a proxy, refused; None if it did not answer.
        retry_after: Seconds after which it asks to be tried again, or None.
    """

    def __init__(self, text: str, reason: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class ResumeNotSupported(ConnectError):  # noqa: N818  (says what is the matter)
    """The server accepts WebSocket connections, but no resumable sessions at this URL."""


class SessionLost(trio.BrokenResourceError):
    """The session has ended, and not both of its streams were complete. All that had arrived was received before.

    Attributes:
        code: Close code (docs/resume-protocol.md); None where there is none.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class SessionExpired(SessionLost):
    """There was no transport for as long as the server keeps the session."""


class SessionRefused(SessionLost):
    """The server does not let the session go on.

    Attributes:
        status: HTTP status of its answer; None if it gave none.
    """

    def __init__(self, text: str, code: int | None = None, status: int | None = None) -> None:
        super().__init__(text, code)
        self.status = status


class SessionReset(SessionLost):
    """What the server connects to broke its connection off, as a TCP reset does."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The stream has no transport.

    Attributes:
        detail: Why, or why the latest attempt failed.
        failures: Attempts that have failed since a transport was stable.
        delay: Seconds until the next attempt.
    """

    detail: str
    failures: int
    delay: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The stream goes on over another transport.

    Attributes:
        seconds: How long it had none.
        replayed_bytes: Bytes that are sent again.
    """

    seconds: float
    replayed_bytes: int


StreamState = Literal["connected", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class _Options:
    url: UrlSource
    headers: HeaderSource
    ssl_context: ssl.SSLContext | None
    pin_sha256: Sequence[str]
    proxy: str | None
    origin: str | None
    window: int
    connect_timeout: float
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float
    on_reconnecting: Callable[[Reconnecting], None] | None
    on_reconnected: Callable[[Reconnected], None] | None


@asynccontextmanager
async def open_resumable(
    url: UrlSource,
    *,
    headers: HeaderSource | None = None,
    ssl_context: ssl.SSLContext | None = None,
    pin_sha256: Sequence[str] = (),
    proxy: str | None = None,
    origin: str | None = None,
    window: int = HELD_BYTES_AT_MOST,
    retry_for: float = 0.0,
    connect_timeout: float = 10.0,
    close_timeout: float = 5.0,
    ping_interval: float | None = 20.0,
    ping_timeout: float = 20.0,
    on_reconnecting: Callable[[Reconnecting], None] | None = None,
    on_reconnected: Callable[[Reconnected], None] | None = None,
) -> AsyncIterator[ResumableStream]:
    """Open a session, and hold it over any number of WebSocket connections within the block.

    At the end of the block the stream is closed (`ResumableStream.aclose`); if the block raises, it is aborted.

    Args:
        url: `ws://…`, `wss://…` or `ws+unix:…`; or an async function that is called for each transport, such as one
            that fetches a ticket. If it raises while the stream reconnects, that attempt has failed; `SessionRefused`
            ends the session.
        headers: Request headers, such as Authorization; or an async function as for `url`.
        ssl_context: TLS of a `wss://` URL. Default: verified by the authorities of the system.
        pin_sha256: SHA-256 fingerprints, of which the certificate of the server must have one. Without `ssl_context`,
            nothing else of it is verified then.
        proxy: HTTP proxy, `http://[user:password@]host:port`, or `FROM_ENVIRONMENT`; None for none.
        origin: Origin to send.
        window: Bytes that the server may have sent and not acknowledged, at most what it grants itself; they are held
            until the program receives them.
        retry_for: Seconds for which a server that is down is tried until the session is open.
        connect_timeout: Seconds for each attempt to open a transport.
        close_timeout: Seconds for the end: that what was sent is acknowledged, and that the server answers.
        ping_interval: Seconds of silence after which the server gets a ping; None for no pings.
        ping_timeout: Seconds without any byte after the ping, until the transport is taken to be lost.
        on_reconnecting: Called when the stream has lost its transport, and after each attempt that has failed.
        on_reconnected: Called when it goes on.

    Raises:
        ConnectError: The session cannot be opened.
        ValueError: An argument cannot be used.
    """
    if not 1 <= operator.index(window) < 1 << 32:
        raise ValueError(f"window of {window} bytes, not 1 to {(1 << 32) - 1}")
    options = _Options(
        url,
        headers or {},
        ssl_context,
        pin_sha256,
        proxy,
        origin,
        window,
        connect_timeout,
        close_timeout,
        ping_interval,
        ping_timeout,
        on_reconnecting,
        on_reconnected,
    )
    with _single_error():
        async with Resolver() as resolver, trio.open_nursery() as nursery:
            stream = ResumableStream(options, resolver)
            transport = await stream.connect(retry_for)
            nursery.start_soon(stream.run, transport)
            try:
                yield stream
            except BaseException:
                await stream.abort()
                raise
            else:
                await stream.aclose()


@contextmanager
def _single_error() -> Iterator[None]:
    """Raise an error that is the only one as it is, not in the groups that two nurseries make of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        for _ in range(2):
            if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
        cause, context, hidden = error.__cause__, error.__context__, error.__suppress_context__
        try:
            raise error
        finally:
            error.__cause__, error.__context__, error.__suppress_context__ = cause, context, hidden
            del error


def _find_proxy(proxy: str | None, target: Target) -> HttpProxy | None:
    if proxy == FROM_ENVIRONMENT:
        return proxy_from_environment(target, os.environ)
    return None if proxy is None else read_proxy_url(proxy)


class ResumableStream(trio.abc.HalfCloseableStream):
    """A stream of bytes over a resumable session; `open_resumable` makes it.

    What `send_all` has accepted may still be here, up to the window that the server grants, and at most 16 MiB; it is
    sent, or sent again, once there is a transport. `aclose` waits until it has been acknowledged.

    Attributes:
        state: Whether a transport carries the session.
        address: Where its latest transport is connected.
    """

    def __init__(self, options: _Options, resolver: Resolver) -> None:
        self.state: StreamState = "reconnecting"
        self.address = ""
        self._options = options
        self._dial = TransportDialer(
            options.url,
            options.headers,
            resolver,
            ssl_context=options.ssl_context,
            pin_sha256=options.pin_sha256,
            find_proxy=partial(_find_proxy, options.proxy),
            origin=options.origin,
        ).dial
        self._session = ClientSession(options.window)
        self._schedule = ReconnectSchedule()
        self._received: deque[Buffer | bytearray] = deque()
        self._given_bytes = 0
        self._has_returned_end = False
        self._closed = False
        self._refusal: SessionLost | None = None  # why it was not resumed; other ends are known to the session
        self._detached_since = 0.0
        self._last_failure = ""
        self._over = trio.Event()
        self._run_scope = trio.CancelScope(shield=True)  # `aclose` and `abort` end it
        self._dial_scope = trio.CancelScope()
        self._work = trio.lowlevel.ParkingLot()  # the task that writes to the transport
        self._receivers = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()
        self._sending = self._receiving = False

    @property
    def session_id(self) -> str:
        """What the log of the server calls the session, in hexadecimal; not secret."""
        return self._session.session_id.hex()

    @property
    def transports(self) -> int:
        """Transports that it has had, the current one among them."""
        return self._session.transports

    @property
    def replayed_bytes(self) -> int:
        """Bytes that were sent again so far."""
        return self._session.replayed_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes that `send_all` has accepted and the server has not acknowledged: at most the window."""
        return self._session.replay_bytes

    # ------------------------------------------------------------------ sending

    @contextmanager
    def _as_only_sender(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task sends on this stream")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def _check_may_send(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._session.ended is not None:
            code = self._session.ended.code
            raise self._error() or SessionLost("the server has closed the session and accepts nothing more", code)
        if self._session.finished:
            raise trio.ClosedResourceError("send_eof was called")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Accept bytes; waits while the window is used up, also while there is no transport.

        Raises:
            trio.BrokenResourceError: The session has ended (`SessionLost`).
            trio.ClosedResourceError: `send_eof` or `aclose` was called.
            trio.BusyResourceError: Another task sends.
        """
        with self._as_only_sender():
            await trio.lowlevel.checkpoint()
            self._check_may_send()
            rest = memoryview(data).cast("B")
            while rest:
                await self._wait_for_room()
                part = bytes(rest[: self._room])
                self._session.send(part)
                self._given_bytes += len(part)
                rest = rest[len(part) :]
                self._work.unpark_all()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the window has room; raises what `send_all` raises."""
        with self._as_only_sender():
            await trio.lowlevel.checkpoint()
            self._check_may_send()
            await self._wait_for_room()

    @property
    def _room(self) -> int:
        """Bytes that may be accepted now: a server may grant more than is to be held."""
        return min(self._session.room, HELD_BYTES_AT_MOST - self._session.replay_bytes)

    async def _wait_for_room(self) -> None:
        while not self._room:
            await self._senders.park()
            self._check_may_send()

    async def send_eof(self) -> None:
        """End what is sent; the server gets it behind all bytes. Raises what `send_all` raises."""
        with self._as_only_sender():
            await trio.lowlevel.checkpoint()
            if self._closed or not self._session.finished:
                self._check_may_send()
                self._session.finish()
                self._work.unpark_all()

    # ------------------------------------------------------------------ receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes, also while there is no transport; empty at the end.

        Raises:
            trio.BrokenResourceError: The session has ended, and all that came before was returned (`SessionLost`).
            trio.ClosedResourceError: `aclose` was called.
            trio.BusyResourceError: Another task receives.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task receives from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while not self._closed:
                if self._received:
                    return self._take_received(max_bytes or RECEIVE_BYTES)
                if self._session.peer_finished or self._has_returned_end:
                    return self._take_end()
                if self._session.ended is not None:
                    error = self._error()
                    if error is not None:
                        raise error
                    return self._take_end()
                await self._receivers.park()
            raise trio.ClosedResourceError("this stream was closed")
        finally:
            self._receiving = False

    def _take_received(self, max_bytes: int) -> bytes:
        parts: list[Buffer | bytearray] = []
        left = max_bytes
        while self._received and left:
            part = self._received.popleft()
            if len(part) > left:
                self._received.appendleft(memoryview(part)[left:])
                part = memoryview(part)[:left]
            parts.append(part)
            left -= len(part)
        data = b"".join(parts)
        self._consume(len(data))
        return data

    def _take_end(self) -> bytes:
        if not self._has_returned_end:
            self._has_returned_end = True
            self._consume_end()
        return b""

    def _consume(self, size: int) -> None:
        """Have bytes acknowledged."""
        if self._session.ended is None and size:
            self._session.consumed(size, trio.current_time())
            self._work.unpark_all()

    def _consume_end(self) -> None:
        session = self._session
        if session.ended is None and session.consumed_position < session.received_position:
            session.consumed_fin()
            self._work.unpark_all()

    def _error(self) -> SessionLost | None:
        """Return why the session that has ended is lost; None if the server has closed it in order."""
        ended = self._session.ended
        if self._refusal is not None or ended is None or ended.complete or ended.code == 1000:
            return self._refusal
        text = ended.text or f"the server ended the session with code {ended.code}"
        if ended.code is None:
            return SessionExpired(f"{text}; {self._last_failure}" if self._last_failure else text)
        if ended.code == ResumeCode.REJECTED:
            return SessionRefused(text, ended.code)
        return (SessionReset if ended.code == ResumeCode.BACKEND_RESET else SessionLost)(text, ended.code)

    # ------------------------------------------------------------------ the end

    async def aclose(self) -> None:
        """Close the stream: wait until what was sent is acknowledged, then end the session, all within `close_timeout`.

        What the server sends in the meantime is dropped. If the time is over, or the wait is cancelled, the stream is
        aborted. The block of `open_resumable` calls it at its end.
        """
        self._close()
        session = self._session
        session.finish()
        self._work.unpark_all()
        try:
            with trio.move_on_after(self._options.close_timeout):
                while not self._may_end():
                    await self._senders.park()
                self._end_session(1000, "")
                await self._over.wait()
        finally:
            if not self._over.is_set():
                await self.abort()

    def _may_end(self) -> bool:
        """Return whether nothing is lost if the session ends now: our end, and that of the server, are acknowledged."""
        session = self._session
        acknowledged = session.acked_position > self._given_bytes and not session.wants_to_send
        return session.ended is not None or acknowledged

    async def abort(self) -> None:
        """End the session now: what was not sent is dropped, and what the server connects to is reset.

        Without a transport the server does not learn of it, and ends the session after its ttl.
        """
        self._close()
        self._end_session(ResumeCode.BACKEND_RESET, "given up by the client")
        with trio.move_on_after(ABORT_TIMEOUT, shield=True):
            await self._over.wait()
        self._run_scope.cancel()

    def _close(self) -> None:
        """Make every further call fail; what has come is dropped."""
        self._closed = True
        self._drop_received()
        self._receivers.unpark_all()
        self._senders.unpark_all()

    def _drop_received(self) -> None:
        self._consume(sum(map(len, self._received)))
        self._received.clear()
        if self._session.peer_finished:
            self._consume_end()

    def _end_session(self, code: int, text: str) -> None:
        self._session.end(code, text, trio.current_time())
        self._dial_scope.cancel()
        self._work.unpark_all()

    # ------------------------------------------------------------------ transports

    async def connect(self, retry_for: float) -> SessionTransport:
        """Open the session on its first transport.

        Raises:
            ConnectError: It cannot be opened.
        """
        progress = DialProgress()
        timeout = self._options.connect_timeout
        try:
            return await retry(lambda: self._open(progress), timeout=timeout, retry_for=retry_for, progress=progress)
        except Rejected as rejected:
            raise ConnectError(str(rejected), rejected.reason.value, rejected.answered, rejected.retry_after) from None

    async def _open(self, progress: DialProgress) -> SessionTransport:
        self._session = ClientSession(self._options.window)
        connected = await self._dial(None, progress)
        if connected.subprotocol != RESUME_SUBPROTOCOL:
            connected.side.transport.close()
            text = f"{connected.address} accepts WebSocket connections, but not the subprotocol {RESUME_SUBPROTOCOL}"
            raise ResumeNotSupported(text, Reason.BACKEND_REJECTED.value)
        progress.enter(f"answer of {connected.address} to OPEN")
        transport = self._begin(connected)
        try:
            await transport.open(connected.address)
        except BaseException:
            transport.end()
            raise
        self._process([SessionOpened()])
        return transport

    def _begin(self, connected: Connected) -> SessionTransport:
        options = self._options
        self.address = connected.address
        return SessionTransport(
            connected.side,
            self._session,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
            open_timeout=options.connect_timeout,
            close_timeout=options.close_timeout,
        )

    async def run(self, transport: SessionTransport | None) -> None:
        """Carry the session over one transport after the other, until it has ended."""
        try:
            with self._run_scope:
                while transport is not None:
                    try:
                        await self._carry(transport)
                    finally:
                        transport.end()
                    transport = None if self._session.ended is not None else await self._reconnect(transport.lost)
        finally:
            self.state = "closed"
            self._over.set()
            self._receivers.unpark_all()
            self._senders.unpark_all()

    async def _carry(self, transport: SessionTransport) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, transport)
            await self._write(transport)
            nursery.cancel_scope.cancel()

    async def _read(self, transport: SessionTransport) -> None:
        try:
            while not transport.lost:
                self._process(await transport.receive())
        except OSError as error:
            transport.lose(error.strerror or str(error) or "reset", trio.current_time())
        self._work.unpark_all()

    async def _write(self, transport: SessionTransport) -> None:
        while True:
            events, due = transport.check(trio.current_time())
            self._process(events)
            is_idle = transport.write()
            if self._closed:
                self._senders.unpark_all()  # `aclose` waits for what may have been written
            if transport.broken:
                transport.lose(transport.error, trio.current_time())
            if transport.finished and (is_idle or transport.blocked or transport.broken):
                return
            if not is_idle and not transport.blocked:
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_at(due):
                await (transport.wait_writable() if transport.blocked else self._work.park())

    def _process(self, events: list[Event]) -> None:
        """Act on what the session says; what may have changed besides is looked at by those who wait."""
        for event in events:
            match event:
                case Received():
                    for payload in event.payloads:
                        collect(self._received, payload)
                case SessionOpened():
                    self._schedule.attached(trio.current_time())
                    self.state = "connected"
                case SessionResumed():
                    self._on_resumed(event)
                case GoingAway():
                    self._schedule.going_away(event.after, event.jitter)
                case TransportUseless():
                    self._last_failure = event.text
        if self._closed:
            self._drop_received()
        if self._received or self._session.peer_finished or self._session.ended is not None:
            self._receivers.unpark_all()
        self._senders.unpark_all()
        self._work.unpark_all()

    def _on_resumed(self, event: SessionResumed) -> None:
        now = trio.current_time()
        self._schedule.attached(now)
        self.state, self._last_failure = "connected", ""
        if self._options.on_reconnected is not None:
            self._options.on_reconnected(Reconnected(now - self._detached_since, event.replayed))

    async def _reconnect(self, detail: str) -> SessionTransport | None:
        """Get another transport; None if the session has ended instead."""
        now, session = trio.current_time(), self._session
        self._last_failure = self._last_failure or detail
        if self.state == "connected":
            self.state, self._detached_since = "reconnecting", now
            self._schedule.lost(now, session.progress)
        else:
            self._schedule.failed(now)
        self._report_failure()
        timeout, deadline = self._options.connect_timeout, session.deadline
        dialer = SessionDialer(session, self._dial_again, self._schedule, timeout, self._on_failure)
        connected = None
        with trio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._dial_scope:
            try:
                connected = await dialer.dial()
            except Rejected as rejected:
                self._refuse(SessionRefused(rejected.detail, status=rejected.answered))
            except SessionRefused as refusal:
                self._refuse(refusal)
        session.on_deadline(trio.current_time())
        if connected is not None and session.ended is None:
            return self._begin(connected)
        if connected is not None:
            connected.side.transport.close()
        return None

    def _refuse(self, refusal: SessionRefused) -> None:
        self._refusal = refusal
        self._session.end(ResumeCode.REJECTED, str(refusal), trio.current_time())

    async def _dial_again(self, passed: PassedRequest | None, progress: DialProgress) -> Connected:
        """Make one attempt; a failure of the functions for URL and headers is one of the attempt."""
        try:
            return await self._dial(passed, progress)
        except (Rejected, SessionRefused):
            raise
        except Exception as error:
            raise Rejected(Reason.BACKEND_REFUSED, f"{type(error).__name__}: {error}", initiator="backend") from error

    def _on_failure(self, rejected: Rejected) -> None:
        self._last_failure = rejected.detail
        self._report_failure()

    def _report_failure(self) -> None:
        if self._options.on_reconnecting is not None:
            delay = max(0.0, self._schedule.due - trio.current_time())
            self._options.on_reconnecting(Reconnecting(self._last_failure, self._schedule.failures, delay))
