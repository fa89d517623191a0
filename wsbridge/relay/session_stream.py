"""A resumable session as one side of a relay: its stream, and the transport that carries it.

`SessionStream` is to a relay what a socket is: it is read and written without waiting, and ends by FIN or is cut off.
What it is made of, positions and all that is kept to be sent again, is `protocol.resume`. A `Carrier` is one WebSocket
connection that carries it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from wsbridge.net.transport import READ_SIZE, Transport, own_buffers
from wsbridge.protocol.replay_buffer import collect
from wsbridge.protocol.resume import SEND_BYTES, Session
from wsbridge.protocol.resume_frames import Failure, FrameReader, ResumeCode, encode_frame
from wsbridge.protocol.websocket import Buffer, FrameHeaders, Framing, Payloads, RawFraming, WebSocketFraming
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import Endpoint, RawEndpoint, Side, WebSocketEndpoint
from wsbridge.relay.relay import Relay
from wsbridge.taskless import Wait

MAX_KEPT_READ_BYTES: Final = 4 * (SEND_BYTES - 1)
"""Largest read of what is kept to be sent again: four messages, whose frames have a short header."""
CARRIER_READ_BYTES: Final = 2 * READ_SIZE
"""Bytes asked for in one read of a transport of a session: what is kept costs more to read in two parts."""
HELD_BYTES_ALWAYS: Final = READ_SIZE
"""Bytes that each session may hold in each direction, also while all together hold more than they may."""
HELD_BYTES_AT_MOST: Final = 16777216
"""Bytes that a session may hold to be sent again, whatever its peer grants."""


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
        """Whether it holds more than the limit."""
        return self.used > self.limit


class CarriedSession(Protocol):
    """What a transport knows of its session; see `session_relay`."""

    def lose(self, carrier: Carrier, detail: str) -> None:
        """Note that a transport is lost, and reset it."""


class SessionStream:
    """The stream of a session as its relay reads and writes it; see `net.transport.RelayTransport`.

    Args:
        session: The state machine.
        memory: What all sessions hold.

    Attributes:
        taken: Bytes that the relay has read, and that the other side has not accepted as far as is known.
    """

    __slots__ = (
        "_fresh",
        "_fresh_bytes",
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

    def __init__(self, session: Session, memory: ReplayMemory) -> None:
        self._session = session
        self._memory = memory
        self._fresh: list[Buffer] = []  # what came last, as long as nothing else waits
        self._fresh_bytes = 0
        self._received: deque[Buffer | bytearray] = deque()
        self.fd = -1
        self.readable = self.peer_hung_up = self.read_until_empty = False
        self.read_state: str | None = None
        self.error = ""
        self.fault: Reason | None = None
        self.sent_bytes = 0
        self.taken = 0
        self.on_end: Callable[[], None] = lambda: None

    def put(self, payloads: list[Buffer], size: int) -> None:
        """Append what has come from the peer: so many bytes."""
        if self._fresh or self._received:
            self.collect()
            for payload in payloads:
                collect(self._received, payload)
        else:
            self._fresh, self._fresh_bytes = payloads, size
        self.readable = True

    def collect(self) -> None:
        """Keep what waits in few objects."""
        fresh, self._fresh = self._fresh, []
        for payload in fresh:
            collect(self._received, payload)

    def take_all(self) -> Payloads:
        """Return all that has come."""
        self.readable = False
        if self._fresh:
            payloads, self._fresh = self._fresh, []
            self.taken += self._fresh_bytes
            return payloads
        payloads = [bytes(part) if isinstance(part, bytearray) else part for part in self._received]
        self._received.clear()
        self.taken += sum(map(len, payloads))
        return payloads

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `RelayTransport.read`."""
        self.collect()
        parts: list[Buffer | bytearray] = []
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
        """See `RelayTransport.read_bulk`."""
        return self.read()

    def shrink_read_buffer(self) -> None:
        """Do nothing: what is read is in memory already."""

    @property
    def room(self) -> int:
        """Bytes that may be written now."""
        session, memory = self._session, self._memory
        room = session.room
        most = HELD_BYTES_AT_MOST if memory.used <= memory.limit else HELD_BYTES_ALWAYS
        left = most - session.replay_bytes
        return room if room <= left else max(0, left)

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `RelayTransport.write`: the window is what a kernel's buffer is to a socket.

        Once less than a quarter of it is left, an empty list asks for a call when there is more room: many small reads
        would cost more than few large ones.
        """
        session, room = self._session, self.room
        for index, part in enumerate(parts):
            size = len(part)
            if size > room:
                if room:
                    session.send(bytes(part[:room]))
                return [memoryview(part)[room:], *parts[index + 1 :]]
            session.send(part if type(part) is bytes else bytes(part))
            room -= size
        return None if 3 * room >= session.replay_bytes else []

    def record_socket_error(self) -> None:
        """Do nothing: it has no socket."""

    def send_eof(self) -> bool:
        """Queue the FIN behind all that was written."""
        self._session.finish()
        return True

    def has_buffered(self) -> bool:
        """See `RelayTransport.has_buffered`."""
        return bool(self._fresh or self._received)

    def discard(self) -> int:
        """See `RelayTransport.discard`."""
        self.collect()
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
        """See `RelayTransport.unacked_bytes`."""
        session = self._session
        return max(session.replay_bytes, session.sent_position - session.acked_position)

    def acked_bytes(self) -> int:
        """See `RelayTransport.acked_bytes`."""
        return self._session.acked_position

    def retransmitting(self) -> bool:
        """Return False: a peer that is lost is no stalled one."""
        return False

    def unread(self, data: bytes) -> None:
        """See `RelayTransport.unread`."""
        self.collect()
        self._received.appendleft(data)
        self.taken -= len(data)
        self.readable = True

    @property
    def unread_bytes(self) -> bytes:
        """See `RelayTransport.unread_bytes`: nothing, what was not read stays in the session."""
        return b""

    def take_unread(self) -> bytes:
        """See `RelayTransport.take_unread`."""
        return b""


class SessionEndpoint(RawEndpoint):
    """The side of a relay that a session is: a raw one."""

    __slots__ = ("_text", "stream")

    def __init__(self, stream: SessionStream, *, text: bool) -> None:
        super().__init__(stream, RawFraming(text=text))
        self.stream = stream
        self._text = text

    @property
    def detachable(self) -> bool:
        """See `Endpoint.detachable`: it is no socket."""
        return False

    def send(self, payloads: Payloads, frame_headers: FrameHeaders | None, now: float) -> None:
        """See `Endpoint.send`; a full window is no reason for smaller reads of the other side."""
        self.last_sent = now
        rest = self.stream.write(payloads)
        if rest is not None:
            self.pending = own_buffers(rest)

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`."""
        if self._text:
            return Endpoint.receive(self, now)
        payloads = self.stream.take_all()
        if payloads:
            self.last_received = now
        return payloads, None


class SourceEndpoint(RawEndpoint):
    """The other side of such a relay, where it is plain: what is read of it is kept, and as much as there is room."""

    __slots__ = ("_read_size",)

    def __init__(self, transport: Transport, framing: Framing | None = None) -> None:
        super().__init__(transport, framing)
        self._read_size = READ_SIZE

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`."""
        session = self.other
        assert isinstance(session, SessionEndpoint)  # noqa: S101 (there is no other)
        size = min(self._read_size, max(1, session.stream.room))
        data = self.transport.read(size)
        count = len(data)
        if not count:
            return [], None
        if count >= self._read_size:
            self._read_size = min(2 * count, MAX_KEPT_READ_BYTES)
        elif count < READ_SIZE:
            self._read_size = READ_SIZE
        self.last_received = now
        return [data], None


class Carrier(WebSocketEndpoint):
    """One transport of a session: a WebSocket connection, which is relayed as far as its connection is concerned.

    Args:
        connection_id: Its connection; that of the client where the session is of its backend.
        side: Past the 101, and past the first frame of a client.
        reader: Decodes what it receives; None for a fresh one.

    Attributes:
        connection_id: As given.
        reader: As given.
        relay: That of its session, while it is the newest transport of that; else None.
        closing: What closes it, from then on; None before, and if it was lost.
        termination: Why it ended.
        received_payload: Bytes that came over it.
        sent_payload: Bytes that were sent over it, also those that were sent again.
        close_deadline: When to wait no longer for the close frame that answers ours; None before that was sent.
        ended: See `Relaying`.
    """

    read_size = CARRIER_READ_BYTES

    __slots__ = (
        "close_deadline",
        "closing",
        "connection_id",
        "ended",
        "reader",
        "received_payload",
        "relay",
        "sent_payload",
        "termination",
    )

    def __init__(self, connection_id: int, side: Side, reader: FrameReader | None = None) -> None:
        state = side.state
        assert side.role != "raw"  # noqa: S101 (the subprotocol is one of WebSocket)
        framing = state.framing if state else WebSocketFraming(side.role, "bytes", side.max_frame_bytes)
        super().__init__(side.transport, framing)
        if side.leftover:
            side.transport.unread(side.leftover)
        if state is not None:
            self.pending, self.pending_pong = state.pending, state.pending_pong
        self.discard_payload = True  # its pings have a deadline whether the other side accepts bytes or not
        self.connection_id = connection_id
        self.reader = reader or FrameReader()
        self.relay: CarriedSession | None = None
        self.closing: Relay | None = None
        self.termination: Termination | None = None
        self.received_payload = self.sent_payload = 0
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


def encode_error(side: Endpoint, code: int, text: str) -> list[Buffer]:
    """Return the buffers of an ERROR frame, as a side would be sent it; none for codes of RFC 6455."""
    framing = side.framing
    if code < int(ResumeCode.REJECTED) or not isinstance(framing, WebSocketFraming):
        return []
    return framing.encode_messages([(encode_frame(Failure(code, text)), b"")])
