"""Frames of the subprotocol `wsbridge.resume.v1`: one frame a WebSocket message, its first byte the type.

docs/resume-protocol.md has the format of each frame. Integers are big-endian. What a peer sends is always a value here:
what is no valid frame becomes `Malformed`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass

from wsbridge.protocol.websocket import BINARY, BINARY_MESSAGE, FIN, TEXT, Buffer, FrameHeaders, Payloads

RESUME_SUBPROTOCOL = "wsbridge.resume.v1"
"""Name in `Sec-WebSocket-Protocol`."""

MAX_DATA_BYTES = 65536
"""Largest payload of a DATA frame, in bytes."""

MAX_ERROR_TEXT_BYTES = 120
"""Largest text of an ERROR frame, in bytes of UTF-8; with the code it fits into a close frame."""

MAX_NODE_HINT_CHARS = 255

SESSION_ID_BYTES = 16
TOKEN_BYTES = 32

MAX_CONTROL_MESSAGE_BYTES = 512
"""Longest message that is no DATA frame, in bytes; the longest that is defined, OPENED, has at most 331."""


class FrameType(enum.IntEnum):
    """First byte of a message. Unknown types from 0x80 are ignored, others are a violation of the protocol."""

    OPEN = 0x01
    OPENED = 0x02
    RESUME = 0x03
    RESUMED = 0x04
    DATA = 0x05
    ACK = 0x06
    FIN = 0x07
    ERROR = 0x08
    GOAWAY = 0x09
    KEEPALIVE = 0x80


class ResumeCode(enum.IntEnum):
    """Codes of ERROR frames and of the close frames behind them."""

    REJECTED = 4001
    """The session is unknown, expired or another's, or the token is wrong: one code, so that nothing is revealed."""
    GAP = 4002
    """A position is outside of what the other side holds or has sent."""
    SUPERSEDED = 4003
    """A newer transport of the session has taken over. From a client: it drops this transport in order to reconnect."""
    RESTARTED = 4004
    """The server has restarted and holds no earlier session."""
    PROTOCOL = 4008
    """The peer violated this protocol."""
    ENDED_BY_RULE = 4009
    """A rule of the server ended the session; the text is the reason."""
    BACKEND_REFUSED = 4010
    BACKEND_UNREACHABLE = 4011
    BACKEND_RESET = 4012
    CAPACITY = 4013
    """The server holds as many sessions as it may; later there may be room."""
    DRAINING = 4014
    """The server is shutting down; another may serve."""


REJECTED_TEXT = "session or token not accepted"
"""The one text of `ResumeCode.REJECTED`."""


@dataclass(slots=True)
class Open:
    """From a client: begin a session.

    Attributes:
        window: Bytes that the server may have unacknowledged; 0 for the server's own window.
    """

    window: int = 0


@dataclass(slots=True)
class Opened:
    """From the server: the session has begun.

    Attributes:
        epoch: Number of the server's memory of sessions; another one after a restart without them.
        session_id: 16 bytes; not secret.
        token: 32 bytes; secret.
        ttl: Seconds that the session is kept without a transport.
        window: Bytes that the client may have unacknowledged, and the server at most.
        ack_bytes: Consumed bytes after which the client acknowledges at once.
        ack_ms: Milliseconds after which it acknowledges fewer.
        keepalive: Seconds of silence after which the server sends KEEPALIVE; 0 for never.
        node: Name of the server's node for load balancers, ASCII; empty for none.
    """

    epoch: int
    session_id: bytes
    token: bytes
    ttl: int
    window: int
    ack_bytes: int
    ack_ms: int
    keepalive: int
    node: str = ""


@dataclass(slots=True)
class Resume:
    """From a client: go on with a session on this transport.

    Attributes:
        epoch: As in OPENED.
        session_id: As in OPENED.
        token: The newest that the client has.
        attempt: Counts the RESUME frames of the session, from 1.
        received: Position up to which the client has received.
        first_available: Lowest position from which the client can send again.
    """

    epoch: int
    session_id: bytes
    token: bytes
    attempt: int
    received: int
    first_available: int


@dataclass(slots=True)
class Resumed:
    """From the server: the session goes on.

    Attributes:
        received: Position up to which the server has received; the client sends from there.
        token: The token for the next RESUME.
        ttl: As in OPENED.
    """

    received: int
    token: bytes
    ttl: int


@dataclass(slots=True)
class Data:
    """Bytes of the stream: a DATA frame, or a part of one that has arrived."""

    payload: Buffer


@dataclass(slots=True)
class Ack:
    """Everything before `position` has been consumed."""

    position: int


@dataclass(slots=True)
class Fin:
    """The sender's stream ends at `position`; the FIN itself takes this position, so that the next is one higher."""

    position: int


@dataclass(slots=True)
class Failure:
    """An ERROR frame: the session ends with this code."""

    code: int
    text: str = ""


@dataclass(slots=True)
class GoAway:
    """From the server: it will close this transport; reconnect after `after_ms` and a random part of `jitter_ms`."""

    after_ms: int
    jitter_ms: int


@dataclass(slots=True)
class Keepalive:
    """From the server: nothing else was sent for a while."""


@dataclass(slots=True)
class Ignored:
    """A frame of an unknown type from 0x80 on."""

    type: int


@dataclass(slots=True)
class Malformed:
    """What is no valid frame; nothing after it counts.

    Attributes:
        detail: One sentence with the numbers.
    """

    detail: str


ControlFrameBody = Open | Opened | Resume | Resumed | Ack | Fin | Failure | GoAway | Keepalive
"""What `encode_frame` encodes."""

Frame = ControlFrameBody | Data | Ignored | Malformed
"""What is decoded."""

_OPEN = struct.Struct("!BI")
_OPENED = struct.Struct("!BQ16s32sIIIHHB")
_RESUME = struct.Struct("!BQ16s32sIQQ")
_RESUMED = struct.Struct("!BQ32sI")
_POSITION = struct.Struct("!BQ")
_ERROR = struct.Struct("!BH")
_GOAWAY = struct.Struct("!BII")

DATA_TYPE = int(FrameType.DATA)
ACK_TYPE = int(FrameType.ACK)
ACK_BYTES = _POSITION.size
DATA_HEAD = bytes((FrameType.DATA,))
"""What goes before the payload of a DATA frame."""


def encode_frame(frame: ControlFrameBody) -> bytes:
    """Encode a frame that is no DATA frame, as a whole message.

    The text of an ERROR is cut at 120 bytes, on a character boundary.

    Raises:
        struct.error: A number is out of the range of its field.
        ValueError: An id, a token or a node hint has a wrong length, or the hint is not ASCII.
    """
    match frame:
        case Ack(position):
            return _POSITION.pack(FrameType.ACK, position)
        case Fin(position):
            return _POSITION.pack(FrameType.FIN, position)
        case Open(window):
            return _OPEN.pack(FrameType.OPEN, window)
        case Opened():
            return _encode_opened(frame)
        case Resume():
            _check_secrets(frame.token, frame.session_id)
            positions = (frame.attempt, frame.received, frame.first_available)
            return _RESUME.pack(FrameType.RESUME, frame.epoch, frame.session_id, frame.token, *positions)
        case Resumed():
            _check_secrets(frame.token)
            return _RESUMED.pack(FrameType.RESUMED, frame.received, frame.token, frame.ttl)
        case Failure(code, text):
            return _ERROR.pack(FrameType.ERROR, code) + cut_error_text(text)
        case GoAway():
            return _GOAWAY.pack(FrameType.GOAWAY, frame.after_ms, frame.jitter_ms)
        case Keepalive():
            return bytes((FrameType.KEEPALIVE,))


def _encode_opened(frame: Opened) -> bytes:
    _check_secrets(frame.token, frame.session_id)
    node = frame.node.encode("ascii")
    if len(node) > MAX_NODE_HINT_CHARS:
        raise ValueError(f"node hint of {len(node)} characters, and the maximum is {MAX_NODE_HINT_CHARS}")
    bounds = (frame.ttl, frame.window, frame.ack_bytes, frame.ack_ms, frame.keepalive)
    return _OPENED.pack(FrameType.OPENED, frame.epoch, frame.session_id, frame.token, *bounds, len(node)) + node


def _check_secrets(token: bytes, session_id: bytes | None = None) -> None:
    """Check lengths: `struct` would pad or cut without a word."""
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"token of {len(token)} bytes, not {TOKEN_BYTES}")
    if session_id is not None and len(session_id) != SESSION_ID_BYTES:
        raise ValueError(f"session id of {len(session_id)} bytes, not {SESSION_ID_BYTES}")


def cut_error_text(text: str) -> bytes:
    """Encode a text for an ERROR frame or the close frame behind it, cut on a character boundary."""
    raw = text.encode("utf-8", "replace")
    return raw if len(raw) <= MAX_ERROR_TEXT_BYTES else raw[:MAX_ERROR_TEXT_BYTES].decode("utf-8", "ignore").encode()


def decode_message(message: bytes) -> Frame:
    """Decode one whole message; all that is wrong with it gives `Malformed`."""
    if not message:
        return Malformed("empty message")
    kind, size = message[0], len(message)
    if kind == FrameType.DATA:
        if not 2 <= size <= 1 + MAX_DATA_BYTES:
            return Malformed(f"DATA with {size - 1} bytes, not 1 to {MAX_DATA_BYTES}")
        return Data(memoryview(message)[1:])
    if size > MAX_CONTROL_MESSAGE_BYTES:
        return Malformed(
            f"frame of type 0x{kind:02x} with {size} bytes, and the maximum is {MAX_CONTROL_MESSAGE_BYTES}"
        )
    decode = _DECODERS.get(kind)
    if decode is not None:
        try:
            return decode(message)
        except struct.error:
            return Malformed(f"{FrameType(kind).name} with {size} bytes")
    return Ignored(kind) if kind >= 0x80 else Malformed(f"frame of unknown type 0x{kind:02x}")


def _decode_opened(message: bytes) -> Frame:
    head = message[: _OPENED.size]
    _, epoch, session_id, token, ttl, window, ack_bytes, ack_ms, keepalive, length = _OPENED.unpack(head)
    node = message[_OPENED.size :]
    if len(node) != length or not node.isascii():
        return Malformed(f"OPENED with a node hint of {len(node)} bytes, not {length} characters of ASCII")
    return Opened(epoch, session_id, token, ttl, window, ack_bytes, ack_ms, keepalive, node.decode("ascii"))


def _decode_error(message: bytes) -> Frame:
    _, code = _ERROR.unpack(message[: _ERROR.size])
    raw = message[_ERROR.size :]
    if len(raw) > MAX_ERROR_TEXT_BYTES:
        return Malformed(f"ERROR with a text of {len(raw)} bytes, and the maximum is {MAX_ERROR_TEXT_BYTES}")
    if not 4000 <= code <= 4999:
        return Malformed(f"ERROR with code {code}, not 4000 to 4999")
    try:
        return Failure(code, raw.decode())
    except UnicodeDecodeError:
        return Malformed("ERROR with a text that is not UTF-8")


def _decode_keepalive(message: bytes) -> Frame:
    return Keepalive() if len(message) == 1 else Malformed(f"KEEPALIVE with {len(message)} bytes")


_DECODERS: dict[int, Callable[[bytes], Frame]] = {
    FrameType.OPEN: lambda message: Open(*_OPEN.unpack(message)[1:]),
    FrameType.OPENED: _decode_opened,
    FrameType.RESUME: lambda message: Resume(*_RESUME.unpack(message)[1:]),
    FrameType.RESUMED: lambda message: Resumed(*_RESUMED.unpack(message)[1:]),
    FrameType.ACK: lambda message: Ack(*_POSITION.unpack(message)[1:]),
    FrameType.FIN: lambda message: Fin(*_POSITION.unpack(message)[1:]),
    FrameType.ERROR: _decode_error,
    FrameType.GOAWAY: lambda message: GoAway(*_GOAWAY.unpack(message)[1:]),
    FrameType.KEEPALIVE: _decode_keepalive,
}


@dataclass(slots=True)
class DataRun:
    """What most reads give: payload of the stream, and ACK frames, of which only the last one counts.

    Attributes:
        payloads: DATA frames, or parts of them, in order.
        size: Bytes of them all.
        acked_position: That of the last ACK; None for none.
        acks: How many there are.
    """

    payloads: list[Buffer]
    size: int
    acked_position: int | None = None
    acks: int = 0

    def frames(self) -> list[Frame]:
        """Return it as frames."""
        acks: list[Frame] = [] if self.acked_position is None else [Ack(self.acked_position)]
        return [*acks, *map(Data, self.payloads)]


class FrameReader:
    """Decodes what one transport receives, as it arrives; a DATA frame is never assembled.

    Attributes:
        control_frame_count: Frames so far that were no DATA: work that moved no payload.
    """

    __slots__ = ("_data_bytes", "_failed", "_in_data", "_partial", "control_frame_count")

    def __init__(self) -> None:
        self.control_frame_count = 0
        self._in_data = False  # within a DATA message, whose type has been read
        self._data_bytes = 0  # its payload so far
        self._partial = b""  # beginning of another message
        self._failed = False

    def read_run(self, payloads: Payloads, frame_headers: FrameHeaders) -> DataRun | None:  # noqa: C901  (the hot path)
        """Decode chunks that hold nothing but DATA and ACK; None, and nothing has changed, for all others."""
        if self._partial or self._failed:
            return None
        found: list[Buffer] = []
        in_data, data_bytes, size, acked, acks = self._in_data, self._data_bytes, 0, -1, 0
        for chunk, mark in zip(payloads, frame_headers, strict=True):
            length = len(chunk)
            if in_data:
                if mark & 0x0F:
                    return None
                data_bytes += length
                if length:
                    size += length
                    found.append(chunk)
            elif length > 1 and chunk[0] == DATA_TYPE and mark & 0x0F == BINARY:
                data_bytes = length - 1
                size += data_bytes
                found.append(memoryview(chunk)[1:])
                in_data = True
            elif length == ACK_BYTES and chunk[0] == ACK_TYPE and mark == BINARY_MESSAGE:
                _, position = _POSITION.unpack(chunk)
                if position < acked:
                    return None
                acked = position
                acks += 1
                continue
            else:
                return None
            if data_bytes > MAX_DATA_BYTES or (mark & FIN and not data_bytes):
                return None
            if mark & FIN:
                in_data, data_bytes = False, 0
        self._in_data, self._data_bytes = in_data, data_bytes
        self.control_frame_count += acks
        return DataRun(found, size, None if acked < 0 else acked, acks)

    def read(self, payloads: Payloads, frame_headers: FrameHeaders) -> list[Frame]:
        """Decode chunks with their marks, as `WebSocketFraming.decode` gives them.

        Returns:
            Frames in order; of a DATA frame that has arrived in part, the part. `Malformed` is the last, and later
            calls give nothing.
        """
        frames: list[Frame] = []
        for chunk, mark in zip(payloads, frame_headers, strict=True):
            if self._failed:
                break
            if mark == BINARY_MESSAGE and 1 < len(chunk) <= MAX_DATA_BYTES and chunk[0] == FrameType.DATA:
                frames.append(Data(memoryview(chunk)[1:]))
                continue
            frame = self._read_chunk(chunk, mark)
            if frame is not None:
                frames.append(frame)
                self._failed = type(frame) is Malformed
        return frames

    def _read_chunk(self, chunk: Buffer, mark: int) -> Frame | None:
        """Read a chunk that is no whole DATA message; gives the frame that it completes, or its part of DATA."""
        if mark & 0x0F == TEXT:
            return Malformed("text message")
        if not self._in_data:
            if self._partial or not chunk or chunk[0] != FrameType.DATA:
                return self._add_to_control(chunk, mark)
            self._in_data = True
            chunk = memoryview(chunk)[1:]
        self._data_bytes += len(chunk)
        size = self._data_bytes
        if mark & FIN:
            self._in_data, self._data_bytes = False, 0
        if size > MAX_DATA_BYTES or (mark & FIN and not size):
            return Malformed(f"DATA with {size} bytes or more, not 1 to {MAX_DATA_BYTES}")
        return Data(chunk) if chunk else None

    def _add_to_control(self, chunk: Buffer, mark: int) -> Frame | None:
        """Assemble a message that is no DATA, which is short."""
        self._partial += chunk
        if not mark & FIN and len(self._partial) <= MAX_CONTROL_MESSAGE_BYTES:
            return None
        self.control_frame_count += 1
        message, self._partial = self._partial, b""
        return decode_message(message)
