"""Framing: how payload is cut into what goes over a transport, as an interface.

Lives here: the shapes that every framing shares (chunks, marks, controls, violations). Must not live here: any one
framing (`websocket`, `raw`), or anything that reads or writes.

A *chunk* is a run of payload bytes. A *mark* belongs to a chunk and says where in a message it stands: it is the
first byte of the frame that would carry it (RFC 6455 section 5.2), so FIN where the message ends, and the opcode where
it begins, else 0. Raw bytes have no marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wsbridge.reasons import Reason

Buffer = bytes | memoryview
Chunks = list[Buffer]
Marks = list[int]


@dataclass(frozen=True, slots=True)
class Violation:
    """What a peer did against the protocol.

    Attributes:
        reason: The row of the table of reasons, which gives the close code.
        detail: One sentence with the numbers, for the log.
    """

    reason: Reason
    detail: str


Control = tuple[int, bytes]
"""A control frame: opcode (8, 9 or 10) and body."""

Decoded = tuple[int, Chunks, Marks | None, list[Control] | None, Violation | None]
"""Bytes consumed, chunks, their marks (None: raw), control frames, and what ended it all."""


class Framing(Protocol):
    """Sans-I/O: bytes in, chunks out, and back. Its state is plain data that can be written down."""

    chaff: int
    """Control and empty frames so far: work that moved no payload."""

    def decode(self, data: bytes, room: int = ..., work: int = ...) -> Decoded:
        """Take what arrived apart.

        Args:
            data: What was read, or what an earlier call left.
            room: Payload bytes after which to stop.
            work: Frames after which to stop.

        Returns:
            Fewer bytes consumed than given means: call again with the rest.
        """

    def encode(self, chunks: Chunks, marks: Marks | None) -> list[Buffer]:
        """Give the buffers to write, in order, for these chunks."""

    def control(self, opcode: int, body: bytes) -> bytes:
        """Give the bytes of a control frame; empty where the framing has none."""
