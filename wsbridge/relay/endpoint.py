"""One side of a connection: a framing over a transport, and the state of its two directions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Literal

from wsbridge.limits.rate import RateLimiter
from wsbridge.net.transport import READ_SIZE, RelayTransport, Transport, own_buffers
from wsbridge.protocol.http_guard import HTTP_ON_RAW_LISTENER, HttpRequestGuard
from wsbridge.protocol.websocket import (
    CLOSE,
    FIN,
    PING,
    PONG,
    TEXT,
    Buffer,
    FrameHeaders,
    Framing,
    Payloads,
    RawFraming,
    TextMessages,
    Violation,
    WebSocketFraming,
    encode_close_body,
)
from wsbridge.reasons import Reason

Role = Literal["raw", "server", "client"]
"""The protocol of a side: plain bytes, or WebSocket in our role (`server`: accepted, `client`: dialed)."""


@dataclass(slots=True)
class SideState:
    """Where an earlier relay of a side stopped; plain data, which another process can read.

    Attributes:
        framing: The state of the framing in both directions.
        pending: Buffers that the kernel has not accepted yet, in order; None for none.
        pending_pong: A pong that waits behind them.
        received_bytes: Payload bytes that came from the side so far.
    """

    framing: Framing
    pending: list[Buffer] | None = None
    pending_pong: bytes | None = None
    received_bytes: int = 0


@dataclass(slots=True)
class Side:
    """One side of a connection as values: what an engine is given, and gives back when a pair is detached.

    Attributes:
        transport: Its descriptor, and the TLS object where it has one, past all handshakes.
        role: What is spoken on it.
        text_messages: What happens to text messages that come from it; see `WebSocketFraming`.
        messages: What the bytes of a raw other side become on it: binary or text messages.
        max_frame_bytes: Largest payload of a frame that is written to it.
        reject_http: Whether a raw client that sends an HTTP request is rejected; see `HttpRequestGuard`.
        leftover: Bytes that were read from it and not decoded; they come before what the transport gives.
        state: Where an earlier relay stopped; None for a fresh side.
        resumable: Whether its client has the subprotocol of resumable sessions.
    """

    transport: Transport
    role: Role = "raw"
    text_messages: TextMessages = "accept"
    messages: Literal["binary", "text"] = "binary"
    max_frame_bytes: int = 65536
    reject_http: bool = False
    leftover: bytes = b""
    state: SideState | None = None
    resumable: bool = False

    @property
    def writes_text(self) -> bool:
        """Whether the bytes of a raw other side become text messages on it."""
        return self.role != "raw" and self.messages == "text"


class Receiving(enum.Enum):
    """What is done with what a side sends."""

    OPEN = "open"
    """Decoded and passed on."""
    DISCARDING = "discarding"
    """Read and dropped, undecoded."""
    CLOSED = "closed"
    """It has ended: FIN, a close frame or a reset."""


class Sending(enum.Enum):
    """How far what a side is sent has ended."""

    OPEN = "open"
    """Payload may be written."""
    FINISHING = "finishing"
    """An orderly end (FIN or a close frame) waits behind what is pending."""
    RESETTING = "resetting"
    """A reset waits until the peer's kernel has acknowledged everything before it."""
    CLOSED = "closed"
    """FIN or a close frame has been sent."""


RX_OPEN, RX_DISCARDING, RX_CLOSED = Receiving
TX_OPEN, TX_FINISHING, TX_RESETTING, TX_CLOSED = Sending
# The byte path compares them for each message, and an attribute of an enum takes seven times as long to read.


class Endpoint:
    """One side while it is relayed; see `RawEndpoint` and `WebSocketEndpoint`.

    Attributes:
        read_size: Bytes asked for in one read.
        transport: Its transport.
        framing: How payload is framed.
        rx: What is done with what it sends.
        tx: How far what it is sent has ended.
        discard_payload: Its payload is decoded and dropped.
        pending: Buffers that the kernel has not accepted; None for none. While it is set, the other side is not read.
        undecoded: Input that was read and not yet decoded.
        rate_limiter: Limits the bytes that it may send on; None for no limit.
        received_bytes: Payload bytes that came from it.
        last_received: When bytes last came (seconds of the loop's clock).
        last_sent: When bytes were last handed to the kernel, or, while nothing is pending, offered to it.
        ping_sent: When a ping was sent that no pong has answered; None for none.
        round_trip: Seconds from the last ping that was answered to its pong; None before the first.
        control_pending: Something besides payload came: control frames, a violation, too many of either.
        close_frame: The close frame that ends what it is sent: None while there is none, empty once it is written.
        closed: Its descriptor is closed, or given away.
    """

    is_websocket = False
    read_size = READ_SIZE

    __slots__ = (
        "acked_bytes",
        "close_frame",
        "closed",
        "control_frames",
        "control_pending",
        "control_window_base",
        "control_window_start",
        "discard_payload",
        "framing",
        "is_front",
        "last_received",
        "last_sent",
        "linger_bytes_left",
        "linger_deadline",
        "other",
        "pending",
        "pending_pong",
        "ping_ack_target",
        "ping_acked_bytes",
        "ping_sent",
        "ping_started",
        "ping_timer_start",
        "rate_limiter",
        "received_bytes",
        "round_trip",
        "rx",
        "stalled_acked_bytes",
        "stalled_since",
        "transport",
        "tx",
        "undecoded",
        "violation",
    )

    other: Endpoint

    def __init__(self, transport: RelayTransport, framing: Framing) -> None:
        self.transport = transport
        self.framing = framing
        self.is_front = False
        self.rx = RX_OPEN
        self.tx = TX_OPEN
        self.discard_payload = False
        self.closed = False
        self.pending: list[Buffer] | None = None
        self.undecoded = b""
        self.rate_limiter: RateLimiter | None = None
        self.received_bytes = 0
        self.last_received = 0.0
        self.last_sent = 0.0
        self.control_pending = False
        self.control_frames: list[tuple[int, bytes]] | None = None
        self.violation: Violation | None = None
        self.pending_pong: bytes | None = None
        self.close_frame: bytes | None = None
        self.control_window_start = 0.0
        self.control_window_base = framing.control_frame_count
        self.ping_sent: float | None = None
        self.round_trip: float | None = None
        # for `timeouts`
        self.acked_bytes = 0
        self.ping_started: float | None = None
        self.ping_timer_start = 0.0
        self.ping_ack_target: int | None = None
        self.ping_acked_bytes = 0
        self.stalled_since: float | None = None
        self.stalled_acked_bytes = 0
        self.linger_deadline: float | None = None
        self.linger_bytes_left = 0

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """Read once and decode; no payload means: look at `control_pending`, then at the transport."""
        data = self.undecoded
        if data:
            self.undecoded = b""
        else:
            data = self.transport.read(self.read_size)
            if not data:
                return [], None
            self.last_received = now
        framing = self.framing
        used, chunks, marks, controls, violation = framing.decode(data)
        if used != len(data):
            self.undecoded = data[used:]
        if controls or violation:
            self.control_pending = True
            self.control_frames = controls
            self.violation = violation
        elif framing.control_frame_count != self.control_window_base:
            self.control_pending = True
        return chunks, marks

    def receive_up_to(self, max_bytes: int, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """Do as `receive` for at most `max_bytes`; what a read gave beyond them waits in `undecoded`."""
        data = self.undecoded
        if not data:
            data = self.transport.read(max_bytes)
            if not data:
                return [], None
            self.last_received = now
        self.undecoded = data[:max_bytes]
        found = Endpoint.receive(self, now)
        self.undecoded += data[max_bytes:]
        return found

    @property
    def detachable(self) -> bool:
        """Whether its state can be written down now."""
        return True

    @property
    def rate_limited(self) -> bool:
        """Whether it is not read for now because of its rate limit."""
        return self.rate_limiter is not None and self.rate_limiter.rate_limited

    def send(self, payloads: Payloads, frame_headers: FrameHeaders | None, now: float) -> None:
        """Frame and write; only while nothing is pending."""
        parts = self.framing.encode(payloads, frame_headers)
        if parts:
            self.pending = self.transport.write(parts)
            self.last_sent = now
            if self.pending is not None:
                self.pending = own_buffers(self.pending)
                self.other.transport.shrink_read_buffer()

    def send_frame(self, frame: bytes, now: float) -> None:
        """Write a control frame; only while nothing is pending."""
        self.pending = self.transport.write([frame])
        self.last_sent = now

    def flush(self, now: float) -> bool:
        """Write what is pending; whether there is room again."""
        if self.pending is not None:
            before = self.transport.sent_bytes
            self.pending = self.transport.write(self.pending)
            if self.transport.sent_bytes != before:
                self.last_sent = now
        if self.pending is None and self.pending_pong is not None and self.tx is not TX_CLOSED:
            frame, self.pending_pong = self.pending_pong, None
            self.send_frame(frame, now)
        return self.pending is None

    def answer_ping(self, body: bytes, now: float) -> None:
        """Send a pong; behind pending bytes only the latest is kept (RFC 6455 section 5.5.3)."""
        if self.tx is TX_CLOSED or self.close_frame == b"":
            return  # our close frame is out, and nothing may follow it
        frame = self.framing.encode_control(PONG, body)
        if self.pending is None:
            self.send_frame(frame, now)
        else:
            self.pending_pong = frame

    def ping(self, now: float) -> None:
        """Send a ping; only while nothing is pending."""
        self.send_frame(self.framing.encode_control(PING, b""), now)
        self.ping_sent = now

    def note_pong(self, now: float) -> None:
        """Measure the round trip; a pong that answers nothing is ignored (RFC 6455 section 5.5.3)."""
        if self.ping_sent is not None:
            self.round_trip, self.ping_sent = now - self.ping_sent, None

    def blocked_seconds(self, now: float) -> float | None:
        """Return for how long nothing could be written; None if nothing waits to be written."""
        return None if self.pending is None or self.closed else max(0.0, now - self.last_sent)

    def queue_close(self, code: int | None, text: str) -> None:
        """Set what ends this side's stream: a close frame where the framing has one."""
        if self.close_frame is None:
            self.close_frame = self.framing.encode_control(CLOSE, encode_close_body(code, text))


class RawEndpoint(Endpoint):
    """A side that speaks plain bytes."""

    __slots__ = ()

    def __init__(self, transport: RelayTransport, framing: Framing | None = None) -> None:
        super().__init__(transport, framing or RawFraming())

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`; many bytes at once where they keep coming, since nothing is decoded."""
        data = self.transport.read_bulk()
        if not data:
            return [], None
        self.last_received = now
        return [data], None


class GuardedRawEndpoint(RawEndpoint):
    """A side that speaks plain bytes, but not HTTP: see `HttpRequestGuard`."""

    __slots__ = ("_guard", "_text")

    def __init__(self, transport: RelayTransport, *, text: bool) -> None:
        super().__init__(transport, RawFraming(text=text))
        self._text = text
        self._guard: HttpRequestGuard | None = HttpRequestGuard()

    @property
    def detachable(self) -> bool:
        """See `Endpoint.detachable`: the guard may hold bytes back."""
        return self._guard is None

    @property
    def awaits_first_bytes(self) -> bool:
        """Whether nothing has come yet."""
        return self._guard is not None and not self._guard.holds_bytes

    def accept_first_bytes(self) -> None:
        """Guard no longer: another has found the first bytes to be no request, and passed them on."""
        self._guard = None

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`."""
        receive = Endpoint.receive if self._text else RawEndpoint.receive
        return self._check(receive(self, now)[0])

    def receive_up_to(self, max_bytes: int, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive_up_to`."""
        return self._check(super().receive_up_to(max_bytes, now)[0])

    def _check(self, payloads: Payloads) -> tuple[Payloads, FrameHeaders | None]:
        """Hold back what may be the beginning of a request, and note a violation where it is one."""
        guard = self._guard
        if guard is None:
            return payloads, [FIN | TEXT] * len(payloads) if self._text else None
        if payloads:
            data = guard.feed(b"".join(payloads))
        else:
            data = b"" if self.transport.read_state is None else guard.finish()
        if guard.is_http:
            self.control_pending = True
            self.violation = Violation(Reason.BAD_REQUEST, HTTP_ON_RAW_LISTENER)
        if guard.decided or guard.is_http:
            self._guard = None
        if not data:
            return [], None
        return [data], [FIN | TEXT] if self._text else None


class TextEndpoint(RawEndpoint):
    """A raw side whose bytes become text messages: they are decoded, as frames are."""

    __slots__ = ()

    receive = Endpoint.receive


class WebSocketEndpoint(Endpoint):
    """A side that speaks WebSocket."""

    is_websocket = True

    __slots__ = ()


def build_endpoint(side: Side, *, text: bool = False, plain: type[RawEndpoint] = RawEndpoint) -> Endpoint:
    """Build what relays a side from its values.

    Args:
        side: Its values; its transport belongs to the endpoint from now on.
        text: Whether its bytes, if it is raw, become text messages on the other side.
        plain: What relays a raw side of which nothing else is wanted.
    """
    state = side.state
    if side.role != "raw":
        framing = state.framing if state else WebSocketFraming(side.role, side.text_messages, side.max_frame_bytes)
        endpoint: Endpoint = WebSocketEndpoint(side.transport, framing)
    elif side.reject_http and state is None:
        endpoint = GuardedRawEndpoint(side.transport, text=text)
    elif text:
        endpoint = TextEndpoint(side.transport, state.framing if state else RawFraming(text=True))
    else:
        endpoint = plain(side.transport, state.framing if state else None)
    if side.leftover:
        side.transport.unread(side.leftover)
    if state is not None:
        endpoint.pending, endpoint.pending_pong = state.pending, state.pending_pong
        endpoint.received_bytes = state.received_bytes
    return endpoint


def detach_side(side: Side, endpoint: Endpoint) -> Side:
    """Return the state of an endpoint as values; its transport then belongs to the caller."""
    leftover = endpoint.undecoded + endpoint.transport.take_unread()
    state = SideState(endpoint.framing, endpoint.pending, endpoint.pending_pong, endpoint.received_bytes)
    return replace(side, leftover=leftover, state=state)
