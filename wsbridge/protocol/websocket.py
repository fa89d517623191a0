"""WebSocket frames (RFC 6455 section 5): streaming decoder and encoder, masking; raw bytes by the same interface."""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from wsbridge.reasons import Reason

FIN = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
BINARY_MESSAGE = FIN | BINARY
"""First byte of a frame that is a whole binary message."""

MAX_CONTROL_BYTES = 125
"""Largest body of a control frame, in bytes."""

MAX_CLOSE_REASON_BYTES = MAX_CONTROL_BYTES - 2

_pack_16_bit_length = struct.Struct("!BBH").pack
_pack_64_bit_length = struct.Struct("!BBQ").pack
SMALL_BINARY_HEADERS = tuple(bytes((BINARY_MESSAGE, size)) for size in range(126))
"""Headers of unmasked binary messages of 0 to 125 bytes."""


def encode_header(first_byte: int, size: int, mask_bit: int = 0) -> bytes:
    """Write a frame header without its masking key.

    Args:
        first_byte: FIN and opcode.
        size: Payload bytes.
        mask_bit: 0x80 if a masking key follows.
    """
    if size < 126:
        return bytes((first_byte, mask_bit | size))
    if size < 65536:
        return _pack_16_bit_length(first_byte, mask_bit | 126, size)
    return _pack_64_bit_length(first_byte, mask_bit | 127, size)


def is_valid_close_code(code: int) -> bool:
    """Whether a peer may send this close code (RFC 6455 section 7.4 and the IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def encode_close_body(code: int | None, text: str = "") -> bytes:
    """Write the body of a close frame; no code gives an empty one.

    The text is cut at 123 bytes, on a character boundary.
    """
    if code is None:
        return b""
    raw = text.encode("utf-8", "replace")[:MAX_CLOSE_REASON_BYTES]
    return code.to_bytes(2, "big") + raw.decode("utf-8", "ignore").encode()


def decode_close_body(body: bytes) -> tuple[int | None, str]:
    """Return code and text of a close body that `check_close_body` accepted."""
    if not body:
        return None, ""
    return int.from_bytes(body[:2], "big"), body[2:].decode("utf-8", "replace")


def is_orderly_close(code: int | None, *, from_client: bool) -> bool:
    """Return whether a close frame means that the stream before it is whole (RFC 6455 section 7.4.1, IANA registry).

    From a client that may be a closed tab (1001) or a code of the application (3000 to 4999), too. A server that goes
    away has not sent all it had, and what its application means is not known.
    """
    if code is None or code == 1000:
        return True
    return from_client and (code == 1001 or code >= 3000)


def check_close_body(body: bytes) -> tuple[bool, str] | None:
    """Say what is wrong with a close body: whether it is its text, and the sentence. None if nothing is."""
    if not body:
        return None
    if len(body) == 1:
        return False, "close frame with a body of 1 byte"
    code = int.from_bytes(body[:2], "big")
    if not is_valid_close_code(code):
        return False, f"close code {code} may not be sent"
    try:
        body[2:].decode("utf-8")
    except UnicodeDecodeError:
        return True, "close reason is not UTF-8"
    return None


Buffer = bytes | memoryview
Payloads = list[Buffer]
FrameHeaders = list[int]


@dataclass(frozen=True, slots=True)
class Violation:
    """How a peer violated the protocol.

    Attributes:
        reason: The row of the table of reasons, which gives the close code.
        detail: One sentence with the numbers, for the log.
    """

    reason: Reason
    detail: str


ControlFrame = tuple[int, bytes]
"""A control frame: opcode (8, 9 or 10) and body."""

DecodeResult = tuple[int, Payloads, FrameHeaders | None, list[ControlFrame] | None, Violation | None]
"""Bytes consumed, chunks, their marks (None: raw), control frames, and what ended it all."""


TextMessages = Literal["accept", "reject", "bytes"]
"""What happens to text messages: `accept` checks them as UTF-8, `bytes` passes them on unchecked."""


class Framing(Protocol):
    """Sans-I/O: bytes in, chunks out, and back. Its state is plain data that can be written down."""

    control_frame_count: int
    """Control and empty frames so far: work that moved no payload."""

    @property
    def incomplete(self) -> bool:
        """Whether what came so far cannot be the end of a stream of text: its last character is cut off."""

    def decode(self, data: bytes, max_bytes: int = ..., max_frames: int = ...) -> DecodeResult:
        """Decode what arrived.

        Args:
            data: What was read, or what an earlier call left.
            max_bytes: Payload bytes after which to stop.
            max_frames: Frames after which to stop.

        Returns:
            Fewer bytes consumed than given means: call again with the rest.
        """

    def encode(self, payloads: Payloads, frame_headers: FrameHeaders | None) -> list[Buffer]:
        """Give the buffers to write, in order, for these chunks."""

    def encode_control(self, opcode: int, body: bytes) -> bytes:
        """Give the bytes of a control frame; empty where the framing has none."""


MaskFunction = Callable[[bytes | memoryview, bytes], bytes]

TRANSLATE_MIN_BYTES = 1536
"""Bytes from which four strided translations beat one big-integer XOR."""

_XOR_TABLES: dict[int, bytes] = {}


def _xor_table(key: int) -> bytes:
    table = _XOR_TABLES.get(key)
    if table is None:
        table = _XOR_TABLES[key] = bytes(value ^ key for value in range(256))
    return table


def apply_mask_in_python(data: bytes | memoryview, key: bytes) -> bytes:
    """XOR `data` with the four bytes of `key`, over and over.

    Args:
        data: Payload, masked or not.
        key: Four bytes, beginning with the one for the first byte of `data`.
    """
    size = len(data)
    if size < TRANSLATE_MIN_BYTES:
        keys = (key * ((size + 3) // 4))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    out = bytearray(size)
    for offset in range(4):
        out[offset::4] = bytes(data[offset::4]).translate(_xor_table(key[offset]))
    return bytes(out)


apply_mask: MaskFunction = apply_mask_in_python
HAS_NATIVE_MASK = False
"""Whether masking runs in C."""

try:
    from websockets.speedups import apply_mask as _apply_mask_in_c
except ImportError:
    pass
else:
    apply_mask = _apply_mask_in_c
    HAS_NATIVE_MASK = True


class MaskKeySource:
    """Fresh masking keys from the system's randomness, drawn 1,024 at a time."""

    __slots__ = ("_offset", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._offset = 0

    def next_key(self) -> bytes:
        """Give four unpredictable bytes (RFC 6455 section 10.3)."""
        at = self._offset
        if at >= len(self._pool):
            self._pool = os.urandom(4096)
            at = 0
        self._offset = at + 4
        return self._pool[at : at + 4]


new_mask_key = MaskKeySource().next_key


RAW_JOIN_BELOW_BYTES = 16384
"""Chunks smaller than this on average are joined into one buffer before they are written."""


@dataclass(slots=True)
class RawFraming:
    """No frames: a chunk is what one read gave.

    Attributes:
        text: Whether each chunk is to become a text message: then it is cut at a character, and must be UTF-8.
        utf8_tail: The beginning of a character whose end has not come.
    """

    control_frame_count: int = 0
    text: bool = False
    utf8_tail: bytes = b""

    @property
    def incomplete(self) -> bool:
        """See `Framing.incomplete`."""
        return bool(self.utf8_tail)

    def decode(self, data: bytes, max_bytes: int = 65536, max_frames: int = 512) -> DecodeResult:
        """Give the bytes back as one chunk; without a mark, or as a text message."""
        if not self.text:
            return len(data), [data], None, None, None
        whole = self.utf8_tail + data
        try:
            end = codecs.utf_8_decode(whole, "strict", False)[1]
        except UnicodeDecodeError as error:
            violation = Violation(Reason.INVALID_UTF8, f"messages: text, but what came is not UTF-8: {error.reason}")
            return len(data), [], None, None, violation
        self.utf8_tail = whole[end:]
        return (len(data), [whole[:end]], [FIN | TEXT], None, None) if end else (len(data), [], None, None, None)

    def encode(self, payloads: Payloads, frame_headers: FrameHeaders | None) -> list[Buffer]:
        """Give the chunks as buffers, small ones joined."""
        count = len(payloads)
        if count == 1:
            return [payloads[0]] if payloads[0] else []
        if count > 64 or sum(map(len, payloads)) < RAW_JOIN_BELOW_BYTES * count:
            joined = b"".join(payloads)
            return [joined] if joined else []
        return [chunk for chunk in payloads if chunk]

    def encode_control(self, opcode: int, body: bytes) -> bytes:
        """Give nothing: raw bytes carry no control frames."""
        return b""


FRAME_JOIN_BELOW_BYTES = 4096
"""Payloads below this many bytes are copied behind their header; larger ones are written beside it."""


@dataclass(slots=True)
class WebSocketFraming:
    """Frames in one direction each way; plain state, so that a connection can be handed over.

    Attributes:
        role: `server` expects masked frames and sends unmasked ones, `client` the other way round.
        text_messages: What happens to text messages; see `TextMessages`.
        max_frame_bytes: Largest payload of a frame that is written, in bytes.
        control_frame_count: Control and empty frames so far.
    """

    role: Literal["server", "client"]
    text_messages: TextMessages = "accept"
    max_frame_bytes: int = 65536
    control_frame_count: int = 0
    # between two frames and two messages: the state in which nearly every read begins
    between_messages: bool = True
    partial_header: bytes = b""  # an unfinished header
    payload_left: int = 0  # payload bytes of the current frame still to come
    mask_key: bytes = b""  # its masking key, turned to the next byte
    fin: bool = False  # its FIN bit
    control_opcode: int = 0  # the control frame being read
    control_body: bytes = b""
    message_opcode: int = 0  # opcode of the open message, 0 if none
    message_started: bool = False  # whether a chunk of the open message has been given
    utf8_tail: bytes = b""  # an unfinished character
    closed: bool = False  # a close frame came, or a violation: nothing after it counts

    @property
    def incomplete(self) -> bool:
        """See `Framing.incomplete`: the end of a message says it all."""
        return False

    def decode(self, data: bytes, max_bytes: int = 65536, max_frames: int = 512) -> DecodeResult:
        """Decode frames; see `Framing.decode`."""
        if self.closed:
            return len(data), [], None, None, None
        size = len(data)
        chunks: Payloads = []
        marks: FrameHeaders = []
        controls: list[ControlFrame] | None = None
        violation: Violation | None = None
        at = 0
        whole = self._decode_masked_messages if self.role == "server" else self._decode_unmasked_messages
        between = self.between_messages
        while True:
            if between:
                count = len(chunks)
                at, max_bytes = whole(data, at, max_bytes, max_frames, chunks)
                count = len(chunks) - count
                marks += [BINARY_MESSAGE] * count
                max_frames -= count
            if at >= size or max_bytes <= 0 or max_frames <= 0 or self.closed:
                break
            if self.payload_left:
                take = min(self.payload_left, size - at, max_bytes)
                violation = self._take_payload(data, at, take, chunks, marks)
                at += take
                max_bytes -= take
            else:
                at, violation = self._read_header(data, at, size)
                max_frames -= not self.partial_header
                if not (violation or self.partial_header or self.payload_left or self.control_opcode):
                    violation = self._add_payload(b"", chunks, marks)
            if self.control_opcode and not self.payload_left:
                control, violation = self._finish_control()
                controls = [*(controls or ()), control] if violation is None else controls
            self.closed = self.closed or violation is not None
            between = not (self.payload_left or self.message_opcode or self.closed)
        self.between_messages = between and not self.partial_header
        return size if self.closed else at, chunks, marks, controls, violation

    def _decode_masked_messages(
        self, data: bytes, at: int, max_bytes: int, max_frames: int, payloads: Payloads
    ) -> tuple[int, int]:
        """Decode whole masked binary messages of up to 64 KiB from `at`; give the end and the bytes left."""
        size = len(data)
        last = size - 7
        give = payloads.append
        while at <= last and data[at] == BINARY_MESSAGE and max_frames > 0:
            length = data[at + 1] - 128
            if length < 126:
                start = at + 6
                end = start + length
                if length <= 0 or end > size:
                    break
                give(apply_mask(data[start:end], data[at + 2 : start]))
            else:
                start = at + 8
                length = data[at + 2] << 8 | data[at + 3]
                end = start + length
                if data[at + 1] != 254 or length < 126 or end > size:
                    break
                give(apply_mask(memoryview(data)[start:end], data[at + 4 : start]))
            at = end
            max_frames -= 1
            max_bytes -= length
            if max_bytes <= 0:
                break
        return at, max_bytes

    def _decode_unmasked_messages(
        self, data: bytes, at: int, max_bytes: int, max_frames: int, payloads: Payloads
    ) -> tuple[int, int]:
        """Decode whole unmasked binary messages of up to 64 KiB from `at`; give the end and the bytes left."""
        size = len(data)
        last = size - 3
        while at <= last and data[at] == BINARY_MESSAGE and max_frames > 0:
            length = data[at + 1]
            start = at + 2
            if length == 126:
                start = at + 4
                if start > size:
                    break
                length = data[at + 2] << 8 | data[at + 3]
                if length < 126:
                    break
            elif length == 0 or length > 126:
                break
            end = start + length
            if end > size:
                break
            payloads.append(data[start:end])
            at = end
            max_frames -= 1
            max_bytes -= length
            if max_bytes <= 0:
                break
        return at, max_bytes

    def _take_payload(
        self, data: bytes, at: int, size: int, payloads: Payloads, frame_headers: FrameHeaders
    ) -> Violation | None:
        """Read the next `size` bytes of payload, of a data or a control frame."""
        piece = self._read_payload(data, at, size)
        if not self.control_opcode:
            return self._add_payload(piece, payloads, frame_headers)
        self.control_body += piece
        return None

    def _read_payload(self, data: bytes, at: int, size: int) -> bytes:
        """Return the next `size` bytes of payload, unmasked where this role receives masked frames."""
        self.payload_left -= size
        if self.role == "client":
            return data[at : at + size]
        key = self.mask_key
        turn = size & 3
        if turn:
            self.mask_key = key[turn:] + key[:turn]
        return apply_mask(memoryview(data)[at : at + size], key)

    def _add_payload(self, piece: bytes, payloads: Payloads, frame_headers: FrameHeaders) -> Violation | None:
        """Give a piece of a data frame as a chunk, or say what is wrong with its text."""
        ends = self.fin and not self.payload_left
        opcode = self.message_opcode
        if opcode == TEXT and self.text_messages != "bytes":
            try:
                tail = self.utf8_tail + piece
                used = codecs.utf_8_decode(tail, "strict", ends)[1]
            except UnicodeDecodeError as error:
                return Violation(Reason.INVALID_UTF8, f"text message is not UTF-8: {error.reason}")
            self.utf8_tail = tail[used:]
        if piece or ends:
            if not piece:
                self.control_frame_count += 1
            payloads.append(piece)
            frame_headers.append((0 if self.message_started else opcode) | (FIN if ends else 0))
            self.message_started = True
        else:
            self.control_frame_count += 1
        if ends:
            self.message_opcode = 0
            self.message_started = False
        return None

    def _read_header(self, data: bytes, at: int, size: int) -> tuple[int, Violation | None]:
        """Read one header from `at`; an unfinished one is kept in `partial_header`, a whole one sets up the frame."""
        had = len(self.partial_header)
        head = self.partial_header + data[at : at + 14 - had]
        have = len(head)
        if have < 2:
            self.partial_header = head
            return size, None
        first, second = head[0], head[1]
        violation = self._check_first_bytes(first, second)
        if violation:
            return at, violation
        length = second & 0x7F
        start = 2 if length < 126 else 4 if length == 126 else 10
        total = start + (4 if second & 0x80 else 0)
        if have < total:
            self.partial_header = head
            return size, None
        if start > 2:
            shortest = 126 if start == 4 else 65536
            length = int.from_bytes(head[2:start], "big")
            if length < shortest:
                return at, Violation(Reason.PROTOCOL_ERROR, f"length {length} is not written in the shortest way")
            if length >> 63:
                return at, Violation(Reason.PROTOCOL_ERROR, f"frame length {length} has its highest bit set")
        self.partial_header = b""
        self.mask_key = head[start:total]
        self.payload_left = length
        opcode = first & 0x0F
        if opcode >= CLOSE:
            self.control_opcode, self.control_body = opcode, b""
            self.control_frame_count += 1
        else:
            self.fin = first >= FIN
            if opcode:
                self.message_opcode, self.message_started, self.utf8_tail = opcode, False, b""
        return at + total - had, None

    def _check_first_bytes(self, first_byte: int, second_byte: int) -> Violation | None:
        """Check all that the first two bytes of a frame can break (RFC 6455 section 5.2)."""
        opcode = first_byte & 0x0F
        if first_byte & 0x70:
            detail = f"reserved bits set in first byte 0x{first_byte:02x}, and no extension is agreed on"
        elif (second_byte >= 0x80) != (self.role == "server"):
            detail = "frame is not masked" if self.role == "server" else "frame from the server is masked"
        elif opcode >= CLOSE:
            detail = self._check_control_header(first_byte, second_byte & 0x7F)
        elif opcode == TEXT and self.text_messages == "reject" and not self.message_opcode:
            return Violation(Reason.UNSUPPORTED_DATA, "text message, and the route has text_messages: reject")
        else:
            detail = self._check_data_opcode(opcode)
        return Violation(Reason.PROTOCOL_ERROR, detail) if detail else None

    @staticmethod
    def _check_control_header(first_byte: int, length: int) -> str:
        """Say what is wrong with the header of a control frame (RFC 6455 section 5.5); empty if nothing is."""
        opcode = first_byte & 0x0F
        if opcode > 0xA:
            return f"opcode 0x{opcode:x} is reserved"
        if not first_byte & FIN:
            return f"control frame 0x{opcode:x} is fragmented"
        return (
            f"control frame 0x{opcode:x} is longer than {MAX_CONTROL_BYTES} bytes" if length > MAX_CONTROL_BYTES else ""
        )

    def _check_data_opcode(self, opcode: int) -> str:
        """Say what is wrong with the order of data frames (RFC 6455 section 5.4); empty if nothing is."""
        if opcode > 2:
            return f"opcode 0x{opcode:x} is reserved"
        if opcode and self.message_opcode:
            return f"new message (opcode 0x{opcode:x}) inside a fragmented one"
        return "" if opcode or self.message_opcode else "continuation frame without a message"

    def _finish_control(self) -> tuple[ControlFrame, Violation | None]:
        """Give the control frame that is complete, and what is wrong with it; after a close frame nothing counts."""
        control = self.control_opcode, self.control_body
        self.control_opcode, self.control_body = 0, b""
        if control[0] != CLOSE:
            return control, None
        self.closed = True
        problem = check_close_body(control[1])
        if problem is None:
            return control, None
        in_text, detail = problem
        return control, Violation(Reason.INVALID_UTF8 if in_text else Reason.PROTOCOL_ERROR, detail)

    def encode(self, payloads: Payloads, frame_headers: FrameHeaders | None) -> list[Buffer]:
        """Frame the chunks: without marks as one binary message, with them each as its mark says."""
        if frame_headers is None:
            payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
            size = len(payload)
            if self.role == "server" and size <= self.max_frame_bytes:
                if size < 126:
                    return [SMALL_BINARY_HEADERS[size] + payload] if size else []
                head = encode_header(BINARY_MESSAGE, size)
                return [head + payload] if size < FRAME_JOIN_BELOW_BYTES else [head, payload]
            out: list[Buffer] = []
            view = memoryview(payload)
            for at in range(0, size, self.max_frame_bytes):
                out += self._encode_frame(BINARY_MESSAGE, view[at : at + self.max_frame_bytes])
            return out
        out = []
        for payload, mark in zip(payloads, frame_headers, strict=True):
            out += (
                self._encode_frame(mark, payload)
                if len(payload) <= self.max_frame_bytes
                else self._encode_fragments(mark, payload)
            )
        return [b"".join(out)] if len(out) > 64 else out

    def _encode_fragments(self, frame_header: int, payload: Buffer) -> list[Buffer]:
        """Frame a chunk that is larger than a frame may be."""
        view = memoryview(payload)
        last = (len(view) - 1) // self.max_frame_bytes * self.max_frame_bytes
        out: list[Buffer] = []
        for at in range(0, len(view), self.max_frame_bytes):
            first = (frame_header & 0x0F if at == 0 else 0) | (frame_header & FIN if at == last else 0)
            out += self._encode_frame(first, view[at : at + self.max_frame_bytes])
        return out

    def _encode_frame(self, first_byte: int, payload: Buffer) -> list[Buffer]:
        size = len(payload)
        if self.role == "client":
            key = new_mask_key()
            return [encode_header(first_byte, size, 0x80) + key + apply_mask(payload, key)]
        head = encode_header(first_byte, size)
        return [b"".join((head, payload))] if size < FRAME_JOIN_BELOW_BYTES else [head, payload]

    def encode_messages(self, messages: Iterable[tuple[bytes, Buffer]]) -> list[Buffer]:
        """Frame whole binary messages.

        Args:
            messages: Each its first bytes (at least one) and its rest (may be empty), which are not joined where the
                rest is large.
        """
        out: list[Buffer] = []
        for head, payload in messages:
            size = len(head) + len(payload)
            if size > self.max_frame_bytes:
                out += self._encode_fragments(BINARY_MESSAGE, b"".join((head, payload)))
            elif size < FRAME_JOIN_BELOW_BYTES:
                out += self._encode_frame(BINARY_MESSAGE, b"".join((head, payload)))
            elif self.role == "client":
                key = new_mask_key()
                turn = len(head) & 3
                out.append(encode_header(BINARY_MESSAGE, size, 0x80) + key + apply_mask(head, key))
                out.append(apply_mask(payload, key[turn:] + key[:turn]))
            else:
                out += (encode_header(BINARY_MESSAGE, size) + head, payload)
        return out

    def encode_control(self, opcode: int, body: bytes) -> bytes:
        """Write a control frame."""
        return b"".join(self._encode_frame(FIN | opcode, body))
