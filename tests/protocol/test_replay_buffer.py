"""The replay buffer: bytes by position, dropped when acknowledged, sent again from a position."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from wsbridge.protocol.replay_buffer import COLLECTED_BYTES, SMALL_CHUNK_BYTES, ReplayBuffer


def rest(buffer: ReplayBuffer, max_bytes: int = 1000000) -> bytes:
    """Give everything from the cursor on."""
    out = b""
    while payloads := buffer.next_payloads(max_bytes, 65536):
        out += b"".join(payloads)
    return out


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [5000], [5000, 1, 1, 5000], [2047, 2048, 2049], [1] * 30000])
@pytest.mark.parametrize("piece", [1000, 32768])
def test_bytes_come_out_as_they_went_in(sizes: list[int], piece: int) -> None:
    """Whatever the sizes of chunks and of pieces."""
    buffer = ReplayBuffer()
    data = b"".join(bytes([at % 251]) * size for at, size in enumerate(sizes))
    at = 0
    for size in sizes:
        buffer.append(data[at : at + size])
        at += size

    assert rest(buffer, piece) == data
    assert (buffer.start, buffer.cursor, buffer.end) == (0, len(data), len(data))


def test_a_large_chunk_is_not_copied() -> None:
    """It is given out as the object that it is, in parts as views of it."""
    chunk = bytes(50000)
    buffer = ReplayBuffer()
    buffer.append(chunk)
    buffer.append(chunk)

    whole, part = buffer.next_payloads(50000 + 32768, 65536)
    assert whole is chunk
    assert isinstance(part, memoryview)
    assert part.obj is chunk
    assert [len(payload) for payload in buffer.next_payloads(32768, 65536)] == [50000 - 32768]


def test_what_may_change_is_copied() -> None:
    """A view of a buffer of somebody else is not kept."""
    theirs = bytearray(b"a" * 5000)
    buffer = ReplayBuffer()
    buffer.append(memoryview(theirs))
    theirs[:] = b"b" * 5000

    assert rest(buffer) == b"a" * 5000


def test_acknowledged_bytes_are_dropped_and_the_rest_sent_again() -> None:
    """At every position, between chunks and inside them."""
    data = bytes(range(256)) * 40
    for position in (0, 1, 99, 100, 2999, 3000, 3001, 5100, 10239, 10240):
        buffer = ReplayBuffer()
        for begin, end in ((0, 100), (100, 3000), (3000, 3001), (3001, 5100), (5100, 10240)):
            buffer.append(data[begin:end])
        assert rest(buffer) == data
        buffer.acknowledge(position)
        buffer.seek(position)

        assert buffer.copy_bytes() == rest(buffer) == data[position:]
        assert (buffer.start, buffer.end) == (position, len(data))


@pytest.mark.parametrize("position", [7, 8, 106, 107, 108, 3106, 3107, 3108, 8107])
def test_sending_again_from_any_position(position: int) -> None:
    """Without an acknowledgement before; also in the middle of what is sent again."""
    data = bytes(range(256)) * 40
    buffer = ReplayBuffer(7)
    for begin, end in ((0, 100), (100, 3100), (3100, 3101), (3101, 8100)):
        buffer.append(data[begin:end])
    for sent in (1, 5000, 100000):
        buffer.next_payloads(sent, 65536)
        buffer.seek(position)
        assert buffer.cursor == position
        buffer.append(b"!")
        assert rest(buffer) == data[position - 7 : 8100] + b"!" * (buffer.end - 8107)
        buffer.seek(position)


def test_appending_goes_on_behind_the_cursor() -> None:
    """Small bytes, some of which are sent and acknowledged between them."""
    buffer = ReplayBuffer(7)
    sent = b""
    for at in range(200):
        buffer.append(b"%03d" % at)
        if at % 3:
            sent += b"".join(buffer.next_payloads(at % 7, 65536))
        if at % 5 == 0:
            buffer.acknowledge(buffer.cursor)
    sent += rest(buffer)

    assert sent == b"".join(b"%03d" % at for at in range(200))
    buffer.acknowledge(buffer.end)
    assert (buffer.start, buffer.copy_bytes()) == (7 + 600, b"")
    buffer.append(b"more")
    assert buffer.next_payloads(100, 65536) == [b"more"]


@pytest.mark.parametrize("size", [1, 100, SMALL_CHUNK_BYTES - 1])
def test_small_chunks_hold_little_more_than_their_bytes(size: int) -> None:
    """A stream of single bytes is not a stream of objects."""
    buffer = ReplayBuffer()
    tracemalloc.start()
    for _ in range(262144 // size):
        buffer.append(bytes(size))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert held < 1.2 * 262144 + COLLECTED_BYTES


def test_positions_out_of_range_are_refused() -> None:
    """Below the start, or beyond what was sent or is there."""
    buffer = ReplayBuffer(10)
    buffer.append(b"12345")
    buffer.next_payloads(3, 65536)
    for position in (9, 14):
        with pytest.raises(ValueError, match=f"position {position} is not from 10 to 13"):
            buffer.acknowledge(position)
    for position in (9, 16):
        with pytest.raises(ValueError, match=f"position {position} is not from 10 to 15"):
            buffer.seek(position)


def test_cleared() -> None:
    """Nothing is held; positions stay."""
    buffer = ReplayBuffer()
    buffer.append(bytes(5000))
    buffer.next_payloads(100, 65536)
    buffer.clear()

    assert (buffer.start, buffer.cursor, buffer.end, buffer.copy_bytes()) == (5000, 5000, 5000, b"")
    assert buffer.next_payloads(100, 65536) == []


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([65536], 2),
        ([65535], 1),
        ([65537], 2),
        ([524288], 9),
        ([1, 65536, 1], 4),
        ([1] * 5000, 1),
        ([200000, 3, 70000], 7),
    ],
)
def test_pieces_are_few_and_even(sizes: list[int], count: int) -> None:
    """A chunk is given in pieces of one size, with no crumb behind them; and no more than is asked for."""
    buffer = ReplayBuffer()
    data = os.urandom(sum(sizes))
    at = 0
    for size in sizes:
        buffer.append(data[at : at + size])
        at += size

    pieces = buffer.next_payloads(len(data), 65535)
    assert b"".join(map(bytes, pieces)) == data
    assert max(map(len, pieces)) <= 65535
    assert len(pieces) == count
    buffer.seek(0)
    assert sum(map(len, buffer.next_payloads(1000, 65535))) == min(1000, len(data))
    buffer.seek(0)
    assert buffer.next_payloads(0, 65535) == []
