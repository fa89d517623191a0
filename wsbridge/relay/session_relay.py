"""The relay of a resumable session: one backend, and one client after the other's transport.

    client -- Carrier -- ServerSession -- SessionStream | front     back -- backend
              (changes)                     `SessionRelay`

To the state machine of `relay`, the front is a raw side: a stream of bytes that ends by FIN or is cut off. What that
stream is made of, positions and everything that is kept to be sent again, is `protocol.resume`; what carries it is one
WebSocket connection, a `Carrier`, or none. A carrier that is lost, or replaced by a newer one, leaves the pair as it
is.

While there is no carrier, the backend is read until the window is full. What limits an ending (`close`, `half_close`)
waits, since only `ttl` limits how long a client is away; `idle`, `max_lifetime` and the expiry of credentials count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wsbridge.net.transport import EOF, READ_SIZE, RESET
from wsbridge.protocol.resume import Ended as SessionEnded
from wsbridge.protocol.resume import Event, PeerFinished, Received, SessionState
from wsbridge.protocol.resume_frames import Failure, FrameReader, ResumeCode, encode_frame
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.protocol.websocket import (
    CLOSE,
    PING,
    PONG,
    Buffer,
    FrameHeaders,
    Payloads,
    RawFraming,
    Violation,
    WebSocketFraming,
    decode_close_body,
    encode_close_body,
)
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.endpoint import (
    RX_CLOSED,
    RX_OPEN,
    TX_CLOSED,
    TX_OPEN,
    TX_RESETTING,
    Endpoint,
    RawEndpoint,
    Side,
    WebSocketEndpoint,
    build_endpoint,
)
from wsbridge.relay.relay import (
    CONTROL_FLOOD_WINDOW,
    MAX_READS_PER_TURN,
    Relay,
    RelayOptions,
    Scheduler,
    describe_close,
    is_orderly,
)
from wsbridge.relay.timeouts import (
    MAX_CHECK_INTERVAL,
    WRITE_CHECKS,
    check_close,
    check_idle,
    check_lifetime,
    check_ping,
    check_write,
)
from wsbridge.taskless import Wait

SEND_BATCH_BYTES: Final = 262144
"""Payload that is given to the kernel in one call."""
HELD_BYTES_ALWAYS: Final = READ_SIZE
"""Bytes that each session may hold to be sent again, also while all together hold more than they may."""
BYTES_PER_ACK: Final = 4096
"""Acknowledged bytes for each of which one ACK is no flood."""

_RULE_CODE: Final = int(ResumeCode.ENDED_BY_RULE)


@dataclass(slots=True)
class ReplayMemory:
    """What all sessions together hold.

    Attributes:
        limit: Bytes that they may hold.
        used: Bytes that they hold now: to be sent again, and received but not accepted by the backend.
    """

    limit: int
    used: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no more is to be held."""
        return self.used > self.limit


class SessionOwner(Protocol):
    """Who keeps sessions."""

    def session_detached(self) -> Termination | None:
        """The session has lost its transport; returns why it ends now, or None if it is kept."""

    def session_ended(self) -> None:
        """Nothing can touch the descriptor of its backend any more."""


class SessionStream:
    """The stream of a session as its relay reads and writes it; see `net.transport.Transport`.

    Args:
        session: The state machine.
        loop: For the clock.
        memory: What all sessions hold.

    Attributes:
        taken: Bytes that the relay has read, and that the backend has not accepted as far as is known.
    """

    __slots__ = (
        "_loop",
        "_memory",
        "_received",
        "_session",
        "error",
        "fault",
        "fd",
        "on_end",
        "peer_hung_up",
        "read_state",
        "read_until_empty",
        "readable",
        "sent_bytes",
        "taken",
    )

    tls_version = ""
    unread_bytes = b""

    def __init__(self, session: ServerSession, loop: Scheduler, memory: ReplayMemory) -> None:
        self._session = session
        self._loop = loop
        self._memory = memory
        self._received: deque[Buffer] = deque()
        self.fd = -1
        self.readable = self.peer_hung_up = self.read_until_empty = False
        self.read_state: str | None = None
        self.error = ""
        self.fault: Reason | None = None
        self.sent_bytes = 0
        self.taken = 0
        self.on_end: Callable[[], None] = lambda: None

    def put(self, payloads: list[Buffer]) -> None:
        """Append what has come from the client."""
        self._received.extend(payloads)
        self.readable = True

    def take_all(self) -> Payloads:
        """Return all that has come."""
        payloads = list(self._received)
        self._received.clear()
        self.readable = False
        self.taken += sum(map(len, payloads))
        return payloads

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Transport.read`."""
        parts: list[Buffer] = []
        received = self._received
        while received and max_bytes:
            part = received.popleft()
            if len(part) > max_bytes:
                view = memoryview(part)
                received.appendleft(view[max_bytes:])
                part = view[:max_bytes]
            parts.append(part)
            max_bytes -= len(part)
        self.readable = bool(received)
        data = b"".join(parts)
        self.taken += len(data)
        return data

    def read_bulk(self) -> Buffer:
        """See `Transport.read_bulk`."""
        return self.read()

    def shrink_read_buffer(self) -> None:
        """Do nothing: what is read is in memory already."""

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Transport.write`: the window is what a kernel's buffer is to a socket."""
        session = self._session
        room = session.room
        if self._memory.is_full:
            room = min(room, max(0, HELD_BYTES_ALWAYS - session.replay_bytes))
        for index, part in enumerate(parts):
            size = len(part)
            if size > room:
                if room:
                    session.send(bytes(part[:room]))
                return [memoryview(part)[room:], *parts[index + 1 :]]
            session.send(part if type(part) is bytes else bytes(part))
            room -= size
        return None

    def record_socket_error(self) -> None:
        """Do nothing: it has no socket."""

    def send_eof(self) -> bool:
        """Queue the FIN behind all that was written."""
        self._session.finish()
        return True

    def has_buffered(self) -> bool:
        """See `Transport.has_buffered`."""
        return bool(self._received)

    def discard(self) -> int:
        """See `Transport.discard`."""
        dropped = sum(map(len, self._received))
        self._received.clear()
        self.readable = False
        self.taken += dropped
        return dropped

    def abort(self) -> None:
        """End the session."""
        self.on_end()

    def close(self) -> None:
        """End the session."""
        self.on_end()

    def unacked_bytes(self) -> int:
        """See `Transport.unacked_bytes`."""
        session = self._session
        return max(session.replay_bytes, session.sent_position - session.acked_position)

    def acked_bytes(self) -> int:
        """See `Transport.acked_bytes`."""
        return self._session.acked_position

    def retransmitting(self) -> bool:
        """Return False: a client that is lost is no stalled one."""
        return False

    async def read_some(self) -> bytes:
        """See `Transport.read_some`; nothing waits for a session in this way."""
        raise NotImplementedError

    async def write_all(self, data: bytes) -> None:
        """See `Transport.write_all`; nothing waits for a session in this way."""
        raise NotImplementedError

    def unread(self, data: bytes) -> None:
        """See `Transport.unread`."""
        self._received.appendleft(data)
        self.taken -= len(data)
        self.readable = True

    def take_unread(self) -> bytes:
        """Return nothing: what was not read stays in the session."""
        return b""

    def with_tls_details(self, peer: Any) -> Any:
        """Return the peer as it is."""
        return peer


class SessionFront(RawEndpoint):
    """The front of a session's relay."""

    __slots__ = ("_stream", "_text")

    def __init__(self, stream: SessionStream, *, text: bool) -> None:
        super().__init__(stream, RawFraming(text=text))
        self._stream = stream
        self._text = text

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`."""
        if self._text:
            return Endpoint.receive(self, now)
        payloads = self._stream.take_all()
        if payloads:
            self.last_received = now
        return payloads, None


class Carrier(WebSocketEndpoint):
    """One transport of a session: a WebSocket connection, which is relayed as far as its connection is concerned.

    Args:
        connection_id: Its connection.
        side: The client's side, past the 101 and the first frame.

    Attributes:
        connection_id: As given.
        reader: Decodes what it receives.
        relay: That of its session, while it is the newest transport of that; else None.
        closing: What closes it, from then on; None before, and if it was lost.
        termination: Why it ended.
        bytes_to_backend: Payload that came over it.
        bytes_to_client: Payload that was sent over it, also what was sent again.
        close_deadline: When to wait no longer for the close frame that answers ours; None before that was sent.
        ended: See `Relaying`.
    """

    __slots__ = (
        "bytes_to_backend",
        "bytes_to_client",
        "close_deadline",
        "closing",
        "connection_id",
        "ended",
        "reader",
        "relay",
        "termination",
    )

    def __init__(self, connection_id: int, side: Side) -> None:
        state = side.state
        framing = state.framing if state else WebSocketFraming("server", side.text_messages, side.max_frame_bytes)
        super().__init__(side.transport, framing)
        if side.leftover:
            side.transport.unread(side.leftover)
        if state is not None:
            self.pending, self.pending_pong = state.pending, state.pending_pong
        self.discard_payload = True  # its pings have a deadline whether the backend accepts bytes or not
        self.connection_id = connection_id
        self.reader = FrameReader()
        self.relay: SessionRelay | None = None
        self.closing: Relay | None = None
        self.termination: Termination | None = None
        self.bytes_to_backend = self.bytes_to_client = 0
        self.close_deadline: float | None = None
        self.ended = Wait()

    def send_messages(self, messages: list[tuple[bytes, Buffer]], now: float) -> None:
        """Write messages behind what is pending."""
        assert isinstance(self.framing, WebSocketFraming)  # noqa: S101 (the constructor has set it)
        buffers = self.framing.encode_messages(messages)
        if self.pending is None:
            self.pending = self.transport.write(buffers)
            self.last_sent = now
        else:
            self.pending = [*self.pending, *buffers]


class SessionRelay(Relay):
    """A backend and a session.

    Args:
        session: The state machine, past `opened`.
        back: The dialed side.
        options: Time limits and rules.
        loop: Runs it.
        memory: What all sessions hold.
        owner: Who keeps the session.
        close_carrier: Closes a transport that is not the session's any more, with a code and a text.

    Attributes:
        session: As given.
        carrier: The newest transport; None while it is detached.
        detached_since: When it lost its transport, by the loop's clock; None while it has one.
    """

    __slots__ = (
        "_close_carrier",
        "_closed_by_peer",
        "_held_bytes",
        "_memory",
        "_next_check",
        "_owner",
        "_stalled_position",
        "_stalled_since",
        "carrier",
        "detached_since",
        "session",
        "stream",
    )

    def __init__(
        self,
        session: ServerSession,
        back: Side,
        options: RelayOptions,
        loop: Scheduler,
        memory: ReplayMemory,
        owner: SessionOwner,
        close_carrier: Callable[[Carrier, RelayOptions, int | None, str], None],
    ) -> None:
        self.session = session
        self.stream = stream = SessionStream(session, loop, memory)
        text = back.role != "raw" and back.messages == "text"
        super().__init__(SessionFront(stream, text=text), build_endpoint(back, Side(stream)), options, loop)
        self.carrier: Carrier | None = None
        self.detached_since: float | None = loop.now
        self._memory = memory
        self._owner = owner
        self._close_carrier = close_carrier
        self._closed_by_peer: SessionEnded | None = None
        self._held_bytes = 0
        self._next_check = 0.0
        self._stalled_since: float | None = None
        self._stalled_position = 0
        stream.on_end = self._end_session
        self.on_done = owner.session_ended

    # ------------------------------------------------------------------ transports

    def attach(self, carrier: Carrier) -> None:
        """Go on over another transport, for which the session has been opened or resumed."""
        before, now = self.carrier, self.loop.now
        if before is not None:
            self._release(before, Termination(Reason.SUPERSEDED, "client", "another transport of the session came"))
            code, text = int(ResumeCode.SUPERSEDED), Reason.SUPERSEDED.value
            before.pending = [*(before.pending or ()), *encode_error(before, code, text)]
            self._close_carrier(before, self.options, code, text)
        self.carrier, self.detached_since = carrier, None
        carrier.relay, carrier.other = self, self.back
        carrier.last_received = carrier.last_sent = carrier.control_window_start = now
        self._stalled_since = None
        if self.termination is not None:
            self.start_close_timer()
        self.loop.watch(self, carrier)
        self._settle(now)
        self._check_soon()

    def lose(self, carrier: Carrier, detail: str, reason: Reason = Reason.CLIENT_LOST) -> None:
        """Note that a transport is lost, and reset it; the session is kept if it may be."""
        self._release(carrier, Termination(carrier.transport.fault or reason, "client", detail))
        carrier.closed = True
        carrier.transport.abort()
        carrier.ended.end()
        self._process(self.session.transport_lost(self.loop.now), self.loop.now)
        self._note_detached()

    def go_away(self, after_ms: int, jitter_ms: int) -> None:
        """Announce that transports will be closed."""
        self.session.go_away(after_ms, jitter_ms)
        self._settle(self.loop.now)

    def _release(self, carrier: Carrier, termination: Termination) -> None:
        """Have a transport no more."""
        self.loop.unregister(carrier)
        carrier.relay = self.carrier = None
        carrier.termination = termination

    def _note_detached(self) -> None:
        """Ask whether the session is kept, now that it has no transport."""
        if self.session.state is not SessionState.DETACHED or self.front.closed:
            return
        self.detached_since = self.loop.now
        termination = self._owner.session_detached()
        if termination is not None:
            self.terminate(termination)
        self._check_soon()

    def _end_session(self) -> None:
        """The front of the relay has ended: end the session, and close its transport."""
        session, now, end = self.session, self.loop.now, self.termination
        reason = Reason.INTERNAL_ERROR if end is None else end.reason
        code, text = REASONS[reason].session_code or _RULE_CODE, reason.value
        if session.state is not SessionState.ENDED:
            if code == 1000 and not session.complete:
                code = _RULE_CODE
            session.end(code, text, now)
        elif session.closing is not None:
            code, text = session.closing
        carrier = self.carrier
        if carrier is not None:
            carrier.send_messages(session.take(0, now), now)
            self._release(carrier, end or Termination(Reason.INTERNAL_ERROR, "wsbridge"))
            self._close_carrier(carrier, self.options, code, text)
        self._count_held_bytes()

    # ------------------------------------------------------------------ moving bytes

    def run_once(self) -> None:
        """See `Relay.run_once`."""
        carrier = self.carrier
        if carrier is not None and (carrier.pending is not None or carrier.pending_pong is not None):
            carrier.flush(self.loop.now)
        super().run_once()
        self._settle(self.loop.now)

    def transfer(self, src: Endpoint, dst: Endpoint) -> None:
        """See `Relay.transfer`; a transport is read whether the backend accepts bytes or not, for its ACKs."""
        front, back = self.front, self.back
        if src is back:
            super().transfer(back, front)
        else:
            if self.carrier is not None:
                self._read_carrier(self.carrier)
            super().transfer(front, back)
            if front.pending is not None and front.flush(self.loop.now):
                super().transfer(back, front)
        self._settle(self.loop.now)

    def _read_carrier(self, carrier: Carrier) -> None:
        """Read from the transport until there is nothing, or the turn is over."""
        now, session, transport = self.loop.now, self.session, carrier.transport
        rounds = MAX_READS_PER_TURN
        while carrier.relay is self and (transport.readable or carrier.undecoded):
            if not rounds:
                self.loop.mark_ready(self)
                return
            rounds -= 1
            chunks, marks = carrier.receive(now)
            if chunks:
                assert marks is not None  # noqa: S101 (it is a WebSocket)
                self._process(session.receive(carrier.reader.read(chunks, marks), now), now)
            if carrier.relay is self:
                self._process_control(carrier, now)
        if carrier.relay is self and transport.read_state is not None and not (transport.readable or carrier.undecoded):
            self.lose(carrier, transport.error or "the connection ended without a close frame")

    def _process(self, events: list[Event], now: float) -> None:
        """Act on what the session says."""
        for event in events:
            if isinstance(event, Received):
                self.stream.put(event.payloads)
                if self.carrier is not None:
                    self.carrier.bytes_to_backend += sum(map(len, event.payloads))
            elif isinstance(event, PeerFinished):
                self.stream.read_state = EOF
            elif isinstance(event, SessionEnded):
                self._on_session_ended(event)

    def _on_session_ended(self, end: SessionEnded) -> None:
        """The session has ended by what the client did, or after its ttl."""
        if self.front.closed:
            return
        if end.by == "peer" and self.front.rx is RX_OPEN:
            self._closed_by_peer = end
            self.stream.read_state = EOF  # behind what was received before
            self.loop.mark_ready(self)
        elif end.by == "peer":
            self._on_closed_by_peer(end)
        elif end.code is None:
            self.terminate(Termination(Reason.SESSION_EXPIRED, "client", f"no transport for ttl, {self.session.ttl} s"))
        elif self.carrier is not None:
            reason = Reason.RESUME_GAP if end.code == ResumeCode.GAP else Reason.PROTOCOL_ERROR
            self.terminate(Termination(reason, "client", end.text))
        else:  # the client has closed after the ERROR of `abort_delivery`
            self.close_now(self.front)

    def _settle(self, now: float) -> None:
        """Acknowledge what the backend has accepted, send what can be sent, and note what is held and due."""
        session, stream, back = self.session, self.stream, self.back
        if self.front.closed:
            return
        if stream.taken and (back.pending is None or back.closed):
            session.consumed(stream.taken, now)
            stream.taken = 0
        if back.tx is TX_CLOSED and session.peer_finished and session.consumed_position < session.received_position:
            session.consumed_fin()
        carrier = self.carrier
        if carrier is not None and carrier.pending is None:
            self._send(carrier, now)
        self._count_held_bytes()
        deadline = session.deadline
        if deadline is not None and deadline < self._next_check:
            self._next_check = deadline
            self.loop.schedule(self, deadline)

    def _send(self, carrier: Carrier, now: float) -> None:
        """Write to the transport until it accepts no more, or nothing is left."""
        session = self.session
        while carrier.pending is None:
            messages = session.take(SEND_BATCH_BYTES, now)
            if not messages:
                break
            for _, payload in messages:
                carrier.bytes_to_client += len(payload)
            carrier.send_messages(messages, now)
            if carrier.transport.read_state == RESET:
                self.loop.mark_ready(self)
                return
        if session.closing is not None and carrier.pending is None and carrier.close_frame is None:
            code, text = session.closing
            carrier.send_frame(carrier.framing.encode_control(CLOSE, encode_close_body(code, text)), now)
            carrier.close_frame, carrier.tx = b"", TX_CLOSED
            carrier.close_deadline = now + self.options.close
            self.loop.schedule(self, carrier.close_deadline)

    def _count_held_bytes(self) -> None:
        held = 0 if self.front.closed else self.session.replay_bytes + self.session.unconsumed_bytes
        if held != self._held_bytes:
            self._memory.used += held - self._held_bytes
            self._held_bytes = held

    # ------------------------------------------------------------------ control frames of the transport

    def _process_control(self, carrier: Carrier, now: float) -> None:
        """Act on what came besides payload."""
        if carrier.control_pending:
            carrier.control_pending = False
            controls, carrier.control_frames = carrier.control_frames, None
            violation, carrier.violation = carrier.violation, None
            for opcode, body in controls or ():
                if opcode == PING:
                    carrier.answer_ping(body, now)
                elif opcode == PONG:
                    carrier.note_pong(now)
                elif opcode == CLOSE:
                    self._on_carrier_close(carrier, *decode_close_body(body))
                    return
            if violation is not None:
                self._on_carrier_violation(violation)
                return
        count = carrier.framing.control_frame_count + carrier.reader.control_frame_count
        count -= self.session.acked_position // BYTES_PER_ACK
        seconds = max(CONTROL_FLOOD_WINDOW, now - carrier.control_window_start)
        rate = self.options.control_frame_rate
        if count - carrier.control_window_base > rate * seconds:
            self.terminate(
                Termination(
                    Reason.CONTROL_FLOOD,
                    "client",
                    f"more than {rate} control or empty frames a second over {CONTROL_FLOOD_WINDOW:.0f} s",
                )
            )
        elif now - carrier.control_window_start >= CONTROL_FLOOD_WINDOW:
            carrier.control_window_start, carrier.control_window_base = now, count

    def _on_carrier_close(self, carrier: Carrier, code: int | None, text: str) -> None:
        """The client has closed the transport; the code says whether that ends the session."""
        now = self.loop.now
        carrier.rx = RX_CLOSED
        detail = describe_close(code, text)
        self._release(carrier, Termination(Reason.CLIENT_CLOSED, "client", detail, close_code=code))
        self._close_carrier(carrier, self.options, 1000 if code is None else code, "")
        self._process(self.session.transport_lost(now, 1005 if code is None else code, text), now)
        self._note_detached()

    def _on_carrier_violation(self, violation: Violation) -> None:
        """The client has violated RFC 6455: that is no accident of the network, so the session ends."""
        self.terminate(Termination(violation.reason, "client", violation.detail))

    # ------------------------------------------------------------------ what a side did, and endings

    def on_transport_end(self, src: Endpoint, dst: Endpoint) -> None:
        """See `Relay.on_transport_end`."""
        if src is self.front and self._closed_by_peer is not None:
            self._on_closed_by_peer(self._closed_by_peer)
        else:
            super().on_transport_end(src, dst)

    def _on_closed_by_peer(self, end: SessionEnded) -> None:
        """The client has ended the session, and all that it sent before was given to the backend."""
        front, back = self.front, self.back
        if self.termination is None or not end.complete:
            detail = describe_close(end.code, end.text)
            self.termination = Termination(Reason.CLIENT_CLOSED, "client", detail, close_code=end.code)
        self.graceful, self.half_closed, self.close_held = True, False, False
        self.close_timeout = self.options.close
        self.start_close_timer()
        orderly = end.complete or (is_orderly(front, end.code) and not _is_error_code(end.code))
        if not back.closed:
            if orderly or self.options.half_close_on_loss:
                self.queue_close(back, 1000, Reason.CLIENT_CLOSED.value)
                self.start_discarding(back)
            else:
                self.abort(back)
        self.close_now(front)

    def on_connection_lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """See `Relay.on_connection_lost`; a transport that is lost is not the session's end."""
        if isinstance(src, Carrier):
            self.lose(src, detail)
        else:
            super().on_connection_lost(src, dst, detail)

    def terminate(self, termination: Termination) -> None:
        """See `Relay.terminate`: the client gets ERROR with the code of the reason, and no session waits for it."""
        if self.front.closed:
            super().terminate(termination)
            return
        self.termination = termination
        self.graceful = self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
        self.abort(self.front)
        back, code = self.back, REASONS[termination.reason].close_code_to_backend
        if back.closed:
            return
        if termination.reason is Reason.SESSION_EXPIRED and self.options.half_close_on_loss:
            self.queue_close(back, 1001, termination.reason.value)
            self.start_discarding(back)
        elif code is None or not back.is_websocket:
            self.abort(back)
        else:
            self.queue_close(back, code, termination.reason.value)
            back.discard_payload = True
        self.loop.mark_ready(self)

    def abort_delivery(self, side: Endpoint, reason: Reason) -> None:
        """See `Relay.abort_delivery`; for a session, the bytes come first, however long the client is away."""
        if side is not self.front:
            super().abort_delivery(side, reason)
            return
        self.graceful = True
        by_backend = self.termination is None or self.termination.initiator == "backend"
        code = int(ResumeCode.BACKEND_RESET) if by_backend else REASONS[reason].session_code or _RULE_CODE
        self.session.end_after_data(code, reason.value)
        if side.tx is not TX_CLOSED:
            side.tx = TX_RESETTING
        self.start_discarding(side)
        self.loop.mark_ready(self)

    def reset_when_acknowledged(self, side: Endpoint) -> bool:
        """See `Relay.reset_when_acknowledged`; the session says when that is."""
        return False if side is self.front else super().reset_when_acknowledged(side)

    def close_transport(self, side: Endpoint) -> None:
        """See `Relay.close_transport`; a session has ended once its client has everything and knows that we have."""
        if side is not self.front:
            super().close_transport(side)

    def linger(self, side: Endpoint) -> None:
        """See `Relay.linger`; a session reads what its client sends, and has no unread input."""
        if side is not self.front:
            super().linger(side)

    def advance_close(self, side: Endpoint) -> None:
        """See `Relay.advance_close`."""
        super().advance_close(self.front if isinstance(side, Carrier) else side)
        self._settle(self.loop.now)

    # ------------------------------------------------------------------ time limits

    def check_timeouts(self, now: float) -> float:
        """Do what is due, and give when to look again; see `timeouts.check_timeouts`."""
        self._next_check = now + MAX_CHECK_INTERVAL
        due = now + MAX_CHECK_INTERVAL
        if not self.front.closed:
            self._process(self.session.on_deadline(now), now)
        if not self.front.closed:
            due = min(due, check_lifetime(self, now), check_idle(self, now))
        if not self.front.closed:
            due = min(due, self._check_front(now))
        back = self.back
        if back.tx is TX_OPEN or self.has_pending_delivery(back):
            due = min(due, check_write(self, back, now))
        if back.tx is TX_OPEN and back.rx is RX_OPEN and back.is_websocket:
            due = min(due, check_ping(self, back, now))
        if self.termination is not None and not self.done and (self.front.closed or self.carrier is not None):
            due = min(due, check_close(self, now))
        if not self.front.closed:
            self._settle(now)
            due = min(due, self.session.deadline or due)
        self._next_check = due
        return due

    def _check_front(self, now: float) -> float:
        """Check the transport, and whether its client acknowledges anything."""
        carrier = self.carrier
        if carrier is None:
            return now + MAX_CHECK_INTERVAL
        if carrier.close_deadline is not None:
            if now >= carrier.close_deadline:
                self.lose(carrier, f"no answer to a close frame within close, {self.options.close:g} s")
            return carrier.close_deadline
        due = check_ping(self, carrier, now)
        if self.carrier is None:
            return now
        limit, acked = self.options.write, self.session.acked_position
        if limit is None:
            return due
        if not self.stream.unacked_bytes():
            self._stalled_since = None
        elif self._stalled_since is None or acked != self._stalled_position:
            self._stalled_since, self._stalled_position = now, acked
        elif now >= self._stalled_since + limit:
            detail = f"acknowledged nothing for write, {limit:g} s"
            self.terminate(Termination(Reason.WRITE_STALLED, "client", detail))
            return now
        return min(due, now + limit / WRITE_CHECKS)

    def _check_soon(self) -> None:
        """Have the time limits checked in the next turn, since what they depend on has changed."""
        if not self.done:
            self._next_check = self.loop.now
            self.loop.schedule(self, self.loop.now)


def encode_error(side: Endpoint, code: int, text: str) -> list[Buffer]:
    """Return the buffers of an ERROR frame, as a side would be sent it; none for codes of RFC 6455."""
    framing = side.framing
    if code < int(ResumeCode.REJECTED) or not isinstance(framing, WebSocketFraming):
        return []
    return framing.encode_messages([(encode_frame(Failure(code, text)), b"")])


def _is_error_code(code: int | None) -> bool:
    """Return whether a code is one of the subprotocol's, by which a client says that a stream is not whole."""
    return code is not None and 4001 <= code <= 4099
