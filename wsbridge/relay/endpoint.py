"""Endpoint: a framing over a wire, one side of a connection.

Lives here: pulling chunks out of a side and pushing chunks into it, its control frames, and the state of its two
directions. Must not live here: what one side's state means for the other (`pair`), time (`liveness`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from wsbridge.limits.rate import RateLimiter
from wsbridge.net.transport import Transport, own_buffers
from wsbridge.protocol.http_guard import HTTP_ON_RAW_LISTENER, HttpRequestGuard
from wsbridge.protocol.websocket import (
    CLOSE,
    PING,
    PONG,
    Buffer,
    FrameHeaders,
    Framing,
    Payloads,
    RawFraming,
    Violation,
    WebSocketFraming,
    encode_close_body,
)
from wsbridge.reasons import Reason

if TYPE_CHECKING:
    from wsbridge.relay.relay import Relay


DirectionState = Literal["open", "finishing", "resetting", "discarding", "closed"]


class Endpoint:
    """One side of a connection; see `RawEndpoint` and `WebSocketEndpoint`.

    Attributes:
        transport: Its transport.
        framing: How payload is cut.
        rx: What it sends: `open`, `discarding` (read and dropped, undecoded) or `closed` (FIN, close frame).
        tx: What it is sent: `open`, `finishing` (an ending waits behind what is pending), `resetting` (a reset waits
            until all is acknowledged) or `closed` (FIN or close frame sent).
        discard_payload: Its payload is decoded and thrown away.
        pending: Buffers the kernel has not taken; None for none. While it is set, the other side is not read.
        undecoded: Input read and not yet decoded.
        rate_limiter: What bounds the bytes that it may send on; None for nothing.
        received_bytes: Payload bytes that came from it.
        last_received: When bytes last came (seconds of the loop's clock).
        last_sent: When bytes were last handed to the kernel.
        control_pending: Something besides payload came: control frames, a violation, too many of either.
        closed: Its descriptor is closed.
    """

    is_websocket = False

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
        "ping_started",
        "ping_timer_start",
        "rate_limiter",
        "received_bytes",
        "relay",
        "rx",
        "stalled_acked_bytes",
        "stalled_since",
        "transport",
        "tx",
        "undecoded",
        "violation",
    )

    relay: Relay
    other: Endpoint

    def __init__(self, transport: Transport, framing: Framing) -> None:
        self.transport = transport
        self.framing = framing
        self.is_front = False
        self.rx: DirectionState = "open"
        self.tx: DirectionState = "open"
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
        self.control_window_base = 0
        # for `liveness`
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
        """Read once and decode; no chunks means: look at `notice`, then at the wire."""
        data = self.undecoded
        if data:
            self.undecoded = b""
        else:
            data = self.transport.read()
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
        """Do as `pull` for at most so many bytes; what a read gave beyond them waits in `rest`."""
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
    def rate_limited(self) -> bool:
        """Whether it is not read because it may send no more for now."""
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
        """Write what is pending; tell whether there is room again."""
        if self.pending is not None:
            self.pending = self.transport.write(self.pending)
            self.last_sent = now
        if self.pending is None and self.pending_pong is not None and self.tx != "closed":
            frame, self.pending_pong = self.pending_pong, None
            self.send_frame(frame, now)
        return self.pending is None

    def answer_ping(self, body: bytes, now: float) -> None:
        """Send a pong; behind pending bytes only the latest is kept (RFC 6455 section 5.5.3)."""
        if self.tx == "closed" or self.close_frame == b"":
            return  # our close frame is out, and nothing may follow it
        frame = self.framing.encode_control(PONG, body)
        if self.pending is None:
            self.send_frame(frame, now)
        else:
            self.pending_pong = frame

    def ping(self, now: float) -> None:
        """Send a ping; only while nothing is pending."""
        self.send_frame(self.framing.encode_control(PING, b""), now)

    def queue_close(self, code: int | None, text: str) -> None:
        """Set what ends this side's stream: a close frame where the framing has one."""
        if self.close_frame is None:
            self.close_frame = self.framing.encode_control(CLOSE, encode_close_body(code, text))


class RawEndpoint(Endpoint):
    """A side that speaks plain bytes."""

    __slots__ = ()

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, RawFraming())

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.pull`."""
        data = self.transport.read_bulk()
        if not data:
            return [], None
        self.last_received = now
        return [data], None


class GuardedRawEndpoint(RawEndpoint):
    """A side that speaks plain bytes, but not HTTP: see `HttpRequestGuard`."""

    __slots__ = ("_guard",)

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._guard: HttpRequestGuard | None = HttpRequestGuard()

    def receive(self, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive`."""
        return self._check(super().receive(now)[0]), None

    def receive_up_to(self, max_bytes: int, now: float) -> tuple[Payloads, FrameHeaders | None]:
        """See `Endpoint.receive_up_to`."""
        return self._check(super().receive_up_to(max_bytes, now)[0]), None

    def _check(self, payloads: Payloads) -> Payloads:
        """Hold back what may be the beginning of a request, and note a violation where it is one."""
        guard = self._guard
        if guard is None:
            return payloads
        if payloads:
            data = guard.feed(b"".join(payloads))
        else:
            data = b"" if self.transport.read_state is None else guard.finish()
        if guard.is_http:
            self.control_pending = True
            self.violation = Violation(Reason.BAD_REQUEST, HTTP_ON_RAW_LISTENER)
        if guard.decided or guard.is_http:
            self._guard = None
        return [data] if data else []


class WebSocketEndpoint(Endpoint):
    """A side that speaks WebSocket.

    Args:
        transport: Its transport, past the handshake; bytes glued to it are unread into the wire.
        role: Ours on this wire: `server` if we accepted, `client` if we dialled.
        text: Whether text messages are taken.
        frame: Largest payload of a frame we write, in bytes.
    """

    is_websocket = True

    __slots__ = ()

    def __init__(
        self,
        transport: Transport,
        role: Literal["server", "client"],
        text_messages: Literal["accept", "reject"] = "accept",
        max_frame_bytes: int = 65536,
    ) -> None:
        super().__init__(transport, WebSocketFraming(role, text_messages, max_frame_bytes))
