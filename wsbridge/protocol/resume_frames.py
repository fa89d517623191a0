"""Frames of the subprotocol `wsbridge.resume.v1`: one frame a WebSocket message, its first byte the type.

docs/resume-protocol.md has the format of each frame. Integers are big-endian. What a peer sends is always a value here:
what is no valid frame becomes `Malformed`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from wsbridge.protocol.websocket import BINARY, FIN, Buffer, FrameHeaders, Payloads

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


Frame = Open | Opened | Resume | Resumed | Data | Ack | Fin | Failure | GoAway | Keepalive | Ignored | Malformed

ControlFrameBody = Open | Opened | Resume | Resumed | Ack | Fin | Failure | GoAway | Keepalive
"""What `encode_frame` encodes."""


def encode_frame(frame: ControlFrameBody) -> bytes:
    """Encode a frame that is no DATA frame, as a whole message.

    The text of an ERROR is cut at 120 bytes, on a character boundary.

    Raises:
        struct.error: A number is out of the range of its field.
        ValueError: An id, a token or a node hint has a wrong length.
    """
    raise NotImplementedError


def decode_message(message: bytes) -> Frame:
    """Decode one whole message."""
    raise NotImplementedError


class FrameReader:
    """Decodes what one transport receives, as it arrives; a DATA frame is never assembled.

    Attributes:
        control_frame_count: Frames so far that were no DATA: work that moved no payload.
    """

    def __init__(self) -> None:
        self.control_frame_count = 0

    def read(self, payloads: Payloads, frame_headers: FrameHeaders) -> list[Frame]:
        """Decode chunks with their marks, as `WebSocketFraming.decode` gives them.

        Returns:
            Frames in order; of a DATA frame that has arrived in part, the part. `Malformed` is the last.
        """
        raise NotImplementedError


_ = (struct, BINARY, FIN)
