"""The bytes of a stream from the acknowledgement of the peer to its end, and how far they were sent.

Chunks are kept as they came, and given out as they are or as views; small ones are collected, so that a stream of
single bytes holds little more memory than its bytes. Positions are absolute: bytes since the beginning of the stream.
"""

from __future__ import annotations

from collections import deque

from wsbridge.protocol.websocket import Buffer

SMALL_CHUNK_BYTES = 2048
"""Chunks below this many bytes are collected."""

COLLECTED_BYTES = 16384
"""Bytes to which they are collected."""


def collect(chunks: deque[Buffer | bytearray], payload: Buffer) -> None:
    """Append bytes to chunks; small ones are collected, since an object for each would hold much more than its bytes.

    Args:
        chunks: A `bytearray` at its end may grow: a caller that takes one out converts it to `bytes`.
        payload: Kept as it is, unless it is small.
    """
    if len(payload) >= SMALL_CHUNK_BYTES:
        chunks.append(payload)
        return
    tail = chunks[-1] if chunks else None
    if type(tail) is bytearray and len(tail) + len(payload) <= COLLECTED_BYTES:
        tail += payload
    else:
        chunks.append(bytearray(payload))


class ReplayBuffer:
    """Bytes that are to be sent, or sent again.

    Args:
        start: Position of its first byte.

    Attributes:
        start: Position of the first byte that is held: all before it is acknowledged.
        end: Position behind the last byte.
        cursor: Position of the next byte to send.
    """

    __slots__ = ("_chunks", "_first_offset", "_index", "_offset", "cursor", "end", "start")

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = self.cursor = start
        self._chunks: deque[Buffer | bytearray] = deque()
        self._first_offset = 0  # of `start` in the first chunk
        self._index = 0  # of the chunk with the cursor; also the last one, with the cursor behind it
        self._offset = 0  # of the cursor in that chunk

    def append(self, payload: Buffer) -> None:
        """Append bytes; an object of type `bytes` is kept, not copied, unless it is small."""
        self.end += len(payload)
        collect(self._chunks, payload if type(payload) is bytes else bytes(payload))

    def next_payloads(self, max_bytes: int, largest: int) -> list[Buffer]:
        """Give the next bytes to send, at most `max_bytes`, and move the cursor behind them; nothing at the end.

        A chunk is given in as few pieces of at most `largest` bytes as possible, which are of one size.
        """
        payloads: list[Buffer] = []
        left = min(max_bytes, self.end - self.cursor)
        while left > 0:
            chunk = self._chunks[self._index]
            begin, size = self._offset, len(chunk)
            if begin == size:
                self._index += 1
                self._offset = 0
                continue
            end = min(size, begin + left)
            left -= end - begin
            self.cursor += end - begin
            self._offset = end
            if isinstance(chunk, bytearray):
                chunk = bytes(chunk)  # a view would forbid to append to it
            if end - begin <= largest:
                payloads.append(chunk if end - begin == size else memoryview(chunk)[begin:end])
                continue
            view = memoryview(chunk)
            step = -(-(end - begin) // -(-(end - begin) // largest))
            payloads += [view[at : min(at + step, end)] for at in range(begin, end, step)]
        return payloads

    def acknowledge(self, position: int) -> None:
        """Drop everything before a position.

        Args:
            position: From `start` to `cursor`.

        Raises:
            ValueError: It is another.
        """
        if not self.start <= position <= self.cursor:
            raise ValueError(f"position {position} is not from {self.start} to {self.cursor}")
        offset = self._first_offset + position - self.start
        self.start = position
        chunks = self._chunks
        while chunks and offset >= len(chunks[0]):
            offset -= len(chunks.popleft())
            self._index -= 1
        if self._index < 0:  # the cursor was behind the last chunk that went
            self._index = self._offset = 0
        self._first_offset = offset

    def seek(self, position: int) -> None:
        """Move the cursor: the next byte to send is at this position.

        Args:
            position: From `start` to `end`.

        Raises:
            ValueError: It is another.
        """
        if not self.start <= position <= self.end:
            raise ValueError(f"position {position} is not from {self.start} to {self.end}")
        self.cursor = position
        self._index = 0
        offset = self._first_offset + position - self.start
        last = len(self._chunks) - 1
        while self._index < last and offset >= len(self._chunks[self._index]):
            offset -= len(self._chunks[self._index])
            self._index += 1
        self._offset = offset

    def copy_bytes(self) -> bytes:
        """Copy everything that is held, from `start` to `end`."""
        return b"".join(self._chunks)[self._first_offset :]

    def clear(self) -> None:
        """Drop everything; positions stay."""
        self._chunks.clear()
        self.start = self.cursor = self.end
        self._first_offset = self._index = self._offset = 0
