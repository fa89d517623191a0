"""Endpoint: a framing over a wire, one side of a connection.

Lives here: pulling chunks out of a side and pushing chunks into it, its control frames, and the state of its two
directions. Must not live here: what one side's state means for the other (`pair`), time (`liveness`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from wsbridge.limits.meter import Meter
from wsbridge.net.wire import Wire, lasting
from wsbridge.protocol.frames import CLOSE, PING, PONG, close_body
from wsbridge.protocol.framing import Buffer, Chunks, Framing, Marks, Violation
from wsbridge.protocol.raw import RawFraming
from wsbridge.protocol.websocket import WebSocketFraming

if TYPE_CHECKING:
    from wsbridge.relay.pair import Pair

Direction = Literal["open", "finishing", "resetting", "discarding", "closed"]


class Endpoint:
    """One side of a connection; see `RawEndpoint` and `WebSocketEndpoint`.

    Attributes:
        wire: Its transport.
        framing: How payload is cut.
        rx: What it sends: `open`, `discarding` (read and dropped, undecoded) or `closed` (FIN, close frame).
        tx: What it is sent: `open`, `finishing` (an ending waits behind what is pending), `resetting` (a reset waits
            until all is acknowledged) or `closed` (FIN or close frame sent).
        drop: Its payload is decoded and thrown away.
        pending: Buffers the kernel has not taken; None for none. While it is set, the other side is not read.
        rest: Input read and not yet decoded.
        meter: What bounds the bytes that it may send on; None for nothing.
        received: Payload bytes that came from it.
        heard: When bytes last came (seconds of the loop's clock).
        spoke: When bytes were last handed to the kernel.
        notice: Something besides payload came: control frames, a violation, too many of either.
        closed: Its descriptor is closed.
    """

    is_websocket = False

    __slots__ = (
        "acked",
        "closed",
        "controls",
        "drop",
        "flood_base",
        "flood_since",
        "framing",
        "goodbye",
        "heard",
        "is_front",
        "linger_left",
        "linger_until",
        "meter",
        "notice",
        "other",
        "pair",
        "pending",
        "ping_acked",
        "ping_clock",
        "ping_since",
        "ping_target",
        "pong",
        "received",
        "rest",
        "rx",
        "spoke",
        "stalled_acked",
        "stalled_since",
        "tx",
        "violation",
        "wire",
    )

    pair: Pair
    other: Endpoint

    def __init__(self, wire: Wire, framing: Framing) -> None:
        self.wire = wire
        self.framing = framing
        self.is_front = False
        self.rx: Direction = "open"
        self.tx: Direction = "open"
        self.drop = False
        self.closed = False
        self.pending: list[Buffer] | None = None
        self.rest = b""
        self.meter: Meter | None = None
        self.received = 0
        self.heard = 0.0
        self.spoke = 0.0
        self.notice = False
        self.controls: list[tuple[int, bytes]] | None = None
        self.violation: Violation | None = None
        self.pong: bytes | None = None
        self.goodbye: bytes | None = None
        self.flood_since = 0.0
        self.flood_base = 0
        # for `liveness`
        self.acked = 0
        self.ping_since: float | None = None
        self.ping_clock = 0.0
        self.ping_target: int | None = None
        self.ping_acked = 0
        self.stalled_since: float | None = None
        self.stalled_acked = 0
        self.linger_until: float | None = None
        self.linger_left = 0

    def pull(self, now: float) -> tuple[Chunks, Marks | None]:
        """Read once and decode; no chunks means: look at `notice`, then at the wire."""
        data = self.rest
        if data:
            self.rest = b""
        else:
            data = self.wire.read()
            if not data:
                return [], None
            self.heard = now
        framing = self.framing
        used, chunks, marks, controls, violation = framing.decode(data)
        if used != len(data):
            self.rest = data[used:]
        if controls or violation:
            self.notice = True
            self.controls = controls
            self.violation = violation
        elif framing.chaff != self.flood_base:
            self.notice = True
        return chunks, marks

    def pull_some(self, most: int, now: float) -> tuple[Chunks, Marks | None]:
        """Do as `pull` for at most so many bytes; what a read gave beyond them waits in `rest`."""
        data = self.rest
        if not data:
            data = self.wire.read(most)
            if not data:
                return [], None
            self.heard = now
        self.rest = data[:most]
        found = Endpoint.pull(self, now)
        self.rest += data[most:]
        return found

    @property
    def starved(self) -> bool:
        """Whether it is not read because it may send no more for now."""
        return self.meter is not None and self.meter.starved

    def push(self, chunks: Chunks, marks: Marks | None, now: float) -> None:
        """Frame and write; only while nothing is pending."""
        parts = self.framing.encode(chunks, marks)
        if parts:
            self.pending = self.wire.write(parts)
            self.spoke = now
            if self.pending is not None:
                self.pending = lasting(self.pending)
                self.other.wire.read_less()

    def send(self, frame: bytes, now: float) -> None:
        """Write a control frame; only while nothing is pending."""
        self.pending = self.wire.write([frame])
        self.spoke = now

    def flush(self, now: float) -> bool:
        """Write what is pending; tell whether there is room again."""
        if self.pending is not None:
            self.pending = self.wire.write(self.pending)
            self.spoke = now
        if self.pending is None and self.pong is not None and self.tx != "closed":
            frame, self.pong = self.pong, None
            self.send(frame, now)
        return self.pending is None

    def answer_ping(self, body: bytes, now: float) -> None:
        """Send a pong; behind pending bytes only the latest is kept (RFC 6455 section 5.5.3)."""
        if self.tx == "closed" or self.goodbye == b"":
            return  # our close frame is out, and nothing may follow it
        frame = self.framing.control(PONG, body)
        if self.pending is None:
            self.send(frame, now)
        else:
            self.pong = frame

    def ping(self, now: float) -> None:
        """Send a ping; only while nothing is pending."""
        self.send(self.framing.control(PING, b""), now)

    def say_goodbye(self, code: int | None, text: str) -> None:
        """Set what ends this side's stream: a close frame where the framing has one."""
        if self.goodbye is None:
            self.goodbye = self.framing.control(CLOSE, close_body(code, text))


class RawEndpoint(Endpoint):
    """A side that speaks plain bytes."""

    __slots__ = ()

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire, RawFraming())

    def pull(self, now: float) -> tuple[Chunks, Marks | None]:
        """See `Endpoint.pull`."""
        data = self.wire.read_bulk()
        if not data:
            return [], None
        self.heard = now
        return [data], None


class WebSocketEndpoint(Endpoint):
    """A side that speaks WebSocket.

    Args:
        wire: Its transport, past the handshake; bytes glued to it are unread into the wire.
        role: Ours on this wire: `server` if we accepted, `client` if we dialled.
        text: Whether text messages are taken.
        frame: Largest payload of a frame we write, in bytes.
    """

    is_websocket = True

    __slots__ = ()

    def __init__(
        self,
        wire: Wire,
        role: Literal["server", "client"],
        text: Literal["accept", "refuse"] = "accept",
        frame: int = 65536,
    ) -> None:
        super().__init__(wire, WebSocketFraming(role, text, frame))
