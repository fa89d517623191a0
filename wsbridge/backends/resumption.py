"""Resumable sessions as their client dials them: one WebSocket connection (transport) after the other.

`SessionDialer` opens a transport when one is due, and knows which failures end its attempts. `SessionTransport` carries
a session over one transport in tasks; the relay of the daemon does that by itself once the session is open.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

import trio

from wsbridge.backends.base import Connected
from wsbridge.backends.passed_request import PassedRequest
from wsbridge.net.dialer import DialProgress, retry
from wsbridge.net.transport import EOF, RESET
from wsbridge.protocol.reconnect import ReconnectSchedule, is_refusal
from wsbridge.protocol.resume import Ended, Event, SessionState
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, FrameReader, ResumeCode
from wsbridge.protocol.websocket import (
    CLOSE,
    PING,
    PONG,
    Buffer,
    WebSocketFraming,
    decode_close_body,
    encode_close_body,
)
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.back_session import OpenedSession
from wsbridge.relay.endpoint import Side, SideState
from wsbridge.relay.session_stream import HELD_BYTES_AT_MOST

NODE_PARAMETER: Final = "n"
"""Parameter of the URL that names the node which holds the session, for load balancers."""

WRITE_BATCH_BYTES: Final = 131072
"""Payload that is framed at once."""

_OPEN_FAILURES: Final = {
    ResumeCode.BACKEND_REFUSED: Reason.BACKEND_REFUSED,
    ResumeCode.BACKEND_UNREACHABLE: Reason.BACKEND_UNREACHABLE,
}
_RETRIED_CODES: Final = frozenset(
    (ResumeCode.BACKEND_REFUSED, ResumeCode.BACKEND_UNREACHABLE, ResumeCode.CAPACITY, ResumeCode.DRAINING)
)

DialTransport = Callable[[PassedRequest | None, DialProgress], Awaitable[Connected]]
"""Connects and upgrades, offering the resume protocol alone; is given what the request of a RESUME adds to the URL."""


def _open_failure(ended: Ended, address: str) -> Rejected:
    """Return the rejection for a session that ended before it was open."""
    code, text = ended.code, ended.text
    if code is None:
        detail = f"{address}: {text or 'the connection broke before the session was open'}"
        return Rejected(Reason.BACKEND_REFUSED, detail, initiator="backend")
    reason = _OPEN_FAILURES.get(ResumeCode(code), Reason.BACKEND_REJECTED) if code in set(ResumeCode) else None
    detail = f"{address}: the session was not opened: {code}" + (f" {text}" if text else "")
    permanent = code not in _RETRIED_CODES
    return Rejected(reason or Reason.BACKEND_REJECTED, detail, initiator="backend", permanent=permanent)


async def open_session(connected: Connected) -> Connected:
    """Open a session on a connection whose server has selected the subprotocol; the deadline is the caller's.

    Args:
        connected: Past the 101; its transport is closed if this fails.

    Raises:
        Rejected: The server does not open one.
    """
    session = ClientSession(HELD_BYTES_AT_MOST)
    side, address = connected.side, connected.address
    carried = SessionTransport(side, session)
    try:
        await carried.open(address)
    except BaseException:
        carried.end()
        raise
    side.state, side.leftover = SideState(carried.framing), carried.undecoded
    connected.session = OpenedSession(session, carried.reader)
    return connected


class SessionDialer:
    """Dials the transports of one session after the first.

    Args:
        session: The session.
        dial: Makes one attempt.
        schedule: When to make it.
        timeout: Seconds for each attempt.
        on_failure: Called with each failure after which another attempt follows.
    """

    def __init__(
        self,
        session: ClientSession,
        dial: DialTransport,
        schedule: ReconnectSchedule,
        timeout: float | None,
        on_failure: Callable[[Rejected], None],
    ) -> None:
        self._session = session
        self._dial = dial
        self._schedule = schedule
        self._timeout = timeout
        self._on_failure = on_failure

    async def dial(self) -> Connected:
        """Wait until an attempt is due, and make attempts until one gives a transport; the deadline is the caller's.

        Raises:
            Rejected: The server refused: another attempt makes no sense.
        """
        while True:
            await trio.sleep_until(self._schedule.due)
            try:
                return await self._attempt()
            except Rejected as rejected:
                if is_refusal(rejected.answered):
                    raise
                self._schedule.failed(trio.current_time(), rejected.retry_after)
                self._on_failure(rejected)

    async def _attempt(self) -> Connected:
        progress = DialProgress()
        node = self._session.node
        passed = PassedRequest(query=f"{NODE_PARAMETER}={quote(node, safe='')}") if node else None
        connected = await retry(lambda: self._dial(passed, progress), timeout=self._timeout, progress=progress)
        if connected.subprotocol != RESUME_SUBPROTOCOL:
            connected.side.transport.close()
            chosen = connected.subprotocol or "none"
            detail = f"{connected.address} chose the subprotocol {chosen}, not {RESUME_SUBPROTOCOL}"
            raise Rejected(Reason.BACKEND_REJECTED, detail, initiator="backend")
        return connected


class SessionTransport:
    """One transport of a session. One task reads it, another one writes it; both end with it.

    Args:
        side: Past the 101; its transport belongs to this object from now on.
        session: Begins on it.
        ping_interval: Seconds without a byte from the server after which it gets a ping; None for never.
        ping_timeout: Seconds in which anything must come then.
        open_timeout: Seconds until the server must have answered OPEN or RESUME.
        close_timeout: Seconds for its answer to a close frame.

    Attributes:
        framing: Of the WebSocket.
        reader: Of the frames of the subprotocol.
        lost: Why it is lost or was closed; empty as long as it is not.
    """

    def __init__(
        self,
        side: Side,
        session: ClientSession,
        *,
        ping_interval: float | None = None,
        ping_timeout: float = math.inf,
        open_timeout: float = math.inf,
        close_timeout: float = math.inf,
    ) -> None:
        now = trio.current_time()
        self.framing = WebSocketFraming("client", side.text_messages, side.max_frame_bytes)
        self.reader = FrameReader()
        self.lost = ""
        self._transport = side.transport
        self._session = session
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._close_timeout = close_timeout
        self._open_deadline = now + open_timeout
        self._close_deadline = math.inf  # from when our close frame is written
        self._last_received = now
        self._ping_sent: float | None = None
        self._control: list[bytes] = []
        self._pong = b""
        self._unsent: list[Buffer] | None = None
        self._undecoded = b""
        self._close_written = False
        session.connect(now)

    @property
    def undecoded(self) -> bytes:
        """What was read and not decoded."""
        return self._undecoded

    async def open(self, address: str) -> None:
        """Open the session, which is new; the deadline is the caller's.

        What the server sends behind OPENED stays undecoded, also where it ends the session: that has been open.

        Args:
            address: Of the server, for the log.

        Raises:
            Rejected: The server does not open it, or the connection broke.
        """
        session = self._session
        try:
            while session.state is SessionState.OPENING:
                output = self._next_output(trio.current_time())
                if output:
                    await self._transport.write_all(b"".join(output))
                await self.receive(frame_by_frame=True)
        except OSError as error:
            raise _open_failure(Ended(None, error.strerror or str(error), "peer"), address) from None
        if session.session_id:
            return
        self.write()  # the answer to its close frame
        raise _open_failure(session.ended or Ended(None, self.lost, "peer"), address)

    async def receive(self, *, frame_by_frame: bool = False) -> list[Event]:
        """Wait for what the server sends; at the end of the transport, `lost` is set.

        Args:
            frame_by_frame: Whether to decode the next frame at most, or a part of it; the rest is `undecoded`.

        Raises:
            OSError: The connection is reset, or TLS failed.
        """
        await trio.lowlevel.checkpoint()
        data = self._undecoded or await self._transport.read_some()
        session, now = self._session, trio.current_time()
        if not data:
            return self.lose("the connection ended without a close frame", now)
        self._last_received = now
        session.note_alive(now)
        end = max(1, self.framing.payload_left) if frame_by_frame else len(data)
        used, chunks, marks, controls, violation = self.framing.decode(data[:end])
        self._undecoded = data[min(used, end) :]
        events = session.receive(self.reader.read(chunks, marks or []), now)
        for opcode, body in controls or ():
            if opcode == PING:
                self._pong = self.framing.encode_control(PONG, body)
            elif opcode == CLOSE:
                events += self._on_close(*decode_close_body(body), now)
        if violation is not None:
            session.end(ResumeCode.PROTOCOL, violation.detail, now)
        return events

    def _on_close(self, code: int | None, text: str, now: float) -> list[Event]:
        if not self._close_written:
            self._control.append(self.framing.encode_control(CLOSE, encode_close_body(code)))
            self._close_written = True
        shown = "without a code" if code is None else f"with {code}"
        return self.lose(f"closed {shown}" + (f": {text}" if text else ""), now, 1005 if code is None else code, text)

    def lose(self, detail: str, now: float, close_code: int | None = None, text: str = "") -> list[Event]:
        """Note that the transport has ended, once."""
        if self.lost:
            return []
        self.lost = detail
        return self._session.transport_lost(now, close_code, text)

    def write(self) -> bool:
        """Write as much as the kernel accepts; return whether there is nothing left to write now.

        A close frame follows once the session wants the transport closed.
        """
        now = trio.current_time()
        parts: list[Buffer] = self._next_output(now) if self._unsent is None else self._unsent
        if self._unsent is None and not parts:
            return True
        self._unsent = self._transport.write(parts)
        return False

    @property
    def blocked(self) -> bool:
        """Whether the kernel has not accepted all that was to be written."""
        return self._unsent is not None

    async def wait_writable(self) -> None:
        """Wait until the kernel accepts more."""
        await trio.lowlevel.wait_writable(self._transport.fd)

    @property
    def broken(self) -> bool:
        """Whether a write has found out that the connection is lost."""
        return self._transport.read_state == RESET

    @property
    def error(self) -> str:
        """The text of the system for a broken connection."""
        return self._transport.error

    def _next_output(self, now: float) -> list[Buffer]:
        session = self._session
        output: list[Buffer] = [*self._control]
        self._control.clear()
        if self._pong and not self._close_written:
            output.append(self._pong)
        self._pong = b""
        if self._close_written:
            return output
        output += self.framing.encode_messages(session.take(WRITE_BATCH_BYTES, now))
        if not output and session.closing is not None:
            code, text = session.closing
            output.append(self.framing.encode_control(CLOSE, encode_close_body(code, text)))
            self._close_written = True
            self._close_deadline = now + self._close_timeout
        return output

    def check(self, now: float) -> tuple[list[Event], float]:
        """Do what is due: pings, time limits, those of the session as well.

        Returns:
            Events of the session, and when to check again at the latest.
        """
        session = self._session
        events = session.on_deadline(now)
        due = min(self._close_deadline, session.deadline or math.inf)
        if now >= self._close_deadline:
            events += self.lose("no answer to the close frame", now)
        if session.state in (SessionState.OPENING, SessionState.RESUMING):
            due = min(due, self._open_deadline)
            if now >= self._open_deadline:
                events += self.lose("no answer to RESUME", now)
        return events, min(due, self._check_ping(now, events))

    def _check_ping(self, now: float, events: list[Event]) -> float:
        if self._ping_interval is None:
            return math.inf
        if self._ping_sent is not None and self._last_received > self._ping_sent:
            self._ping_sent = None
        if self._ping_sent is None:
            due = self._last_received + self._ping_interval
            if now < due:
                return due
            self._ping_sent = now
            if not self._close_written:
                self._control.append(self.framing.encode_control(PING, b""))
        due = self._ping_sent + self._ping_timeout
        if now >= due:
            events += self.lose(f"no answer to a ping within {self._ping_timeout:g} s", now)
        return due

    @property
    def finished(self) -> bool:
        """Whether the transport is to be let go: its end has come, or nobody waits for an answer to our close frame."""
        return bool(self.lost) or (
            self._close_written and not self.blocked and self._session.state is SessionState.DETACHED
        )

    def end(self) -> None:
        """Close the descriptor: in order where both sides have ended, else by a reset."""
        if self._close_written and not self.blocked and self._transport.read_state in (None, EOF):
            self._transport.close()
        else:
            self._transport.abort()
