"""WebSocket framing (RFC 6455 section 5) of an open connection, both roles, with payload as it arrives.

Lives here: taking frames apart and building them. A message is never put together, so a frame of 2**63-1 bytes costs
nothing. Must not live here: the closing handshake's timing, pings' timing, sockets.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal

from wsbridge.protocol.frames import (
    BINARY_MESSAGE,
    CLOSE,
    FIN,
    MAX_CONTROL,
    SHORT_BINARY,
    TEXT,
    close_problem,
    header,
)
from wsbridge.protocol.framing import Buffer, Chunks, Control, Decoded, Marks, Violation
from wsbridge.protocol.mask import apply_mask, draw_key
from wsbridge.reasons import Reason

JOIN_BELOW = 4096
"""Payloads below this many bytes are copied behind their header; larger ones are written beside it."""


@dataclass(slots=True)
class WebSocketFraming:
    """Frames in one direction each way; plain state, so that a connection can be handed over.

    Attributes:
        role: `server` expects masked frames and sends unmasked ones, `client` the other way round.
        text: Whether text messages are taken (as bytes, checked as UTF-8) or refused.
        frame: Largest payload of a frame that is written, in bytes.
        chaff: Control and empty frames so far.
    """

    role: Literal["server", "client"]
    text: Literal["accept", "refuse"] = "accept"
    frame: int = 65536
    chaff: int = 0
    # between two frames and two messages: the state in which nearly every read begins
    between: bool = True
    head: bytes = b""  # an unfinished header
    need: int = 0  # payload bytes of the current frame still to come
    key: bytes = b""  # its masking key, turned to the next byte
    final: bool = False  # its FIN bit
    control_opcode: int = 0  # the control frame being read
    control_body: bytes = b""
    message: int = 0  # opcode of the open message, 0 if none
    begun: bool = False  # whether a chunk of the open message has been given
    text_tail: bytes = b""  # an unfinished character
    closed: bool = False  # a close frame came, or a violation: nothing after it counts

    def decode(self, data: bytes, room: int = 65536, work: int = 512) -> Decoded:
        """Take frames apart; see `Framing.decode`."""
        if self.closed:
            return len(data), [], None, None, None
        size = len(data)
        chunks: Chunks = []
        marks: Marks = []
        controls: list[Control] | None = None
        violation: Violation | None = None
        at = 0
        whole = self._whole_masked if self.role == "server" else self._whole_unmasked
        between = self.between
        while True:
            if between:
                count = len(chunks)
                at, room = whole(data, at, room, work, chunks)
                count = len(chunks) - count
                marks += [BINARY_MESSAGE] * count
                work -= count
            if at >= size or room <= 0 or work <= 0 or self.closed:
                break
            if self.need:
                take = min(self.need, size - at, room)
                piece = self._payload(data, at, take)
                at += take
                room -= take
                if self.control_opcode:
                    self.control_body += piece
                else:
                    violation = self._take(piece, chunks, marks)
            else:
                at, violation = self._read_header(data, at, size)
                between = False
                if violation is None and (self.head or self.need):
                    work -= not self.head
                    continue
                work -= 1
                if violation is None and not self.control_opcode:
                    violation = self._take(b"", chunks, marks)
            if violation is None and self.control_opcode and not self.need:
                control = (self.control_opcode, self.control_body)
                self.control_opcode, self.control_body = 0, b""
                violation = self._check_control(control)
                if violation is None:
                    controls = controls or []
                    controls.append(control)
            if violation:
                self.closed = True
            between = not (self.need or self.message or self.closed)
        self.between = between and not self.head
        return size if self.closed else at, chunks, marks, controls, violation

    def _whole_masked(self, data: bytes, at: int, room: int, work: int, chunks: Chunks) -> tuple[int, int]:
        """Take whole masked binary messages of up to 64 KiB from `at`; give where they end and the room left."""
        size = len(data)
        last = size - 7
        give = chunks.append
        while at <= last and data[at] == BINARY_MESSAGE and work > 0:
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
            work -= 1
            room -= length
            if room <= 0:
                break
        return at, room

    def _whole_unmasked(self, data: bytes, at: int, room: int, work: int, chunks: Chunks) -> tuple[int, int]:
        """Take whole unmasked binary messages of up to 64 KiB from `at`; give where they end and the room left."""
        size = len(data)
        last = size - 3
        while at <= last and data[at] == BINARY_MESSAGE and work > 0:
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
            chunks.append(data[start:end])
            at = end
            work -= 1
            room -= length
            if room <= 0:
                break
        return at, room

    def _payload(self, data: bytes, at: int, take: int) -> bytes:
        """Give the next `take` bytes of payload, unmasked where this role receives masked frames."""
        self.need -= take
        if self.role == "client":
            return data[at : at + take]
        key = self.key
        turn = take & 3
        if turn:
            self.key = key[turn:] + key[:turn]
        return apply_mask(memoryview(data)[at : at + take], key)

    def _take(self, piece: bytes, chunks: Chunks, marks: Marks) -> Violation | None:
        """Give a piece of a data frame as a chunk, or say what is wrong with its text."""
        ends = self.final and not self.need
        opcode = self.message
        if opcode == TEXT:
            try:
                tail = self.text_tail + piece
                used = codecs.utf_8_decode(tail, "strict", ends)[1]
            except UnicodeDecodeError as error:
                return Violation(Reason.BAD_TEXT, f"text message is not UTF-8: {error.reason}")
            self.text_tail = tail[used:]
        if piece or ends:
            if not piece:
                self.chaff += 1
            chunks.append(piece)
            marks.append((0 if self.begun else opcode) | (FIN if ends else 0))
            self.begun = True
        else:
            self.chaff += 1
        if ends:
            self.message = 0
            self.begun = False
        return None

    def _read_header(self, data: bytes, at: int, size: int) -> tuple[int, Violation | None]:
        """Read one header from `at`; an unfinished one is kept in `head`, a whole one sets up the frame."""
        had = len(self.head)
        head = self.head + data[at : at + 14 - had]
        have = len(head)
        if have < 2:
            self.head = head
            return size, None
        first, second = head[0], head[1]
        violation = self._check_first_bytes(first, second)
        if violation:
            return at, violation
        length = second & 0x7F
        start = 2 if length < 126 else 4 if length == 126 else 10
        total = start + (4 if second & 0x80 else 0)
        if have < total:
            self.head = head
            return size, None
        if start > 2:
            shortest = 126 if start == 4 else 65536
            length = int.from_bytes(head[2:start], "big")
            if length < shortest:
                return at, Violation(Reason.PROTOCOL_ERROR, f"length {length} is not written in the shortest way")
            if length >> 63:
                return at, Violation(Reason.PROTOCOL_ERROR, f"frame length {length} has its highest bit set")
        self.head = b""
        self.key = head[start:total]
        self.need = length
        opcode = first & 0x0F
        if opcode >= CLOSE:
            self.control_opcode, self.control_body = opcode, b""
            self.chaff += 1
        else:
            self.final = first >= FIN
            if opcode:
                self.message, self.begun, self.text_tail = opcode, False, b""
        return at + total - had, None

    def _check_first_bytes(self, first: int, second: int) -> Violation | None:
        """Check all that the first two bytes of a frame can break."""
        opcode = first & 0x0F
        detail = ""
        if first & 0x70:
            detail = f"reserved bits set in first byte 0x{first:02x}, and no extension is agreed on"
        elif (second >= 0x80) != (self.role == "server"):
            detail = "frame is not masked" if self.role == "server" else "frame from the server is masked"
        elif opcode >= CLOSE:
            if opcode > 0xA:
                detail = f"opcode 0x{opcode:x} is reserved"
            elif not first & FIN:
                detail = f"control frame 0x{opcode:x} is fragmented"
            elif second & 0x7F > MAX_CONTROL:
                detail = f"control frame 0x{opcode:x} is longer than {MAX_CONTROL} bytes"
        elif opcode > 2:
            detail = f"opcode 0x{opcode:x} is reserved"
        elif opcode and self.message:
            detail = f"new message (opcode 0x{opcode:x}) inside a fragmented one"
        elif not opcode and not self.message:
            detail = "continuation frame without a message"
        elif opcode == TEXT and self.text == "refuse":
            return Violation(Reason.UNSUPPORTED, "text message, and the route says text: refuse")
        return Violation(Reason.PROTOCOL_ERROR, detail) if detail else None

    def _check_control(self, control: Control) -> Violation | None:
        opcode, body = control
        if opcode != CLOSE:
            return None
        self.closed = True
        problem = close_problem(body)
        if problem is None:
            return None
        in_text, detail = problem
        return Violation(Reason.BAD_TEXT if in_text else Reason.PROTOCOL_ERROR, detail)

    def encode(self, chunks: Chunks, marks: Marks | None) -> list[Buffer]:
        """Frame the chunks: without marks as one binary message, with them each as its mark says."""
        if marks is None:
            payload = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            size = len(payload)
            if self.role == "server" and size <= self.frame:
                if size < 126:
                    return [SHORT_BINARY[size] + payload] if size else []
                head = header(BINARY_MESSAGE, size)
                return [head + payload] if size < JOIN_BELOW else [head, payload]
            out: list[Buffer] = []
            view = memoryview(payload)
            for at in range(0, size, self.frame):
                out += self._frame(BINARY_MESSAGE, view[at : at + self.frame])
            return out
        out = []
        for payload, mark in zip(chunks, marks, strict=True):
            out += self._frame(mark, payload) if len(payload) <= self.frame else self._fragments(mark, payload)
        return [b"".join(out)] if len(out) > 64 else out

    def _fragments(self, mark: int, payload: Buffer) -> list[Buffer]:
        """Frame a chunk that is larger than a frame may be."""
        view = memoryview(payload)
        last = (len(view) - 1) // self.frame * self.frame
        out: list[Buffer] = []
        for at in range(0, len(view), self.frame):
            first = (mark & 0x0F if at == 0 else 0) | (mark & FIN if at == last else 0)
            out += self._frame(first, view[at : at + self.frame])
        return out

    def _frame(self, first: int, payload: Buffer) -> list[Buffer]:
        size = len(payload)
        if self.role == "client":
            key = draw_key()
            return [header(first, size, 0x80) + key + apply_mask(payload, key)]
        head = header(first, size)
        return [b"".join((head, payload))] if size < JOIN_BELOW else [head, payload]

    def control(self, opcode: int, body: bytes) -> bytes:
        """Write a control frame."""
        return b"".join(self._frame(FIN | opcode, body))
