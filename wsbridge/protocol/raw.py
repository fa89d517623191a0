"""Raw framing: the bytes as they are.

Lives here: the framing of plain TCP and Unix sockets. Must not live here: messages; raw bytes have none.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsbridge.protocol.framing import Buffer, Chunks, Decoded, Marks

JOIN_BELOW = 16384
"""Chunks smaller than this on average are joined into one buffer before they are written."""


@dataclass(slots=True)
class RawFraming:
    """No frames: a chunk is what one read gave."""

    chaff: int = 0

    def decode(self, data: bytes, room: int = 65536, work: int = 512) -> Decoded:
        """Give the bytes back as one chunk without a mark."""
        return len(data), [data], None, None, None

    def encode(self, chunks: Chunks, marks: Marks | None) -> list[Buffer]:
        """Give the chunks as buffers, small ones joined."""
        count = len(chunks)
        if count == 1:
            return [chunks[0]] if chunks[0] else []
        if count > 64 or sum(map(len, chunks)) < JOIN_BELOW * count:
            joined = b"".join(chunks)
            return [joined] if joined else []
        return [chunk for chunk in chunks if chunk]

    def control(self, opcode: int, body: bytes) -> bytes:
        """Give nothing: raw bytes carry no control frames."""
        return b""
