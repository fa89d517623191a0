"""Raw framing: bytes are what they are."""

import pytest

from wsbridge.protocol.websocket import RawFraming


def joined(parts):
    """Put parts together."""
    return b"".join(bytes(part) for part in parts)


def test_what_is_read_is_one_chunk_without_marks():
    """Nothing is cut off, nothing is left."""
    assert RawFraming().decode(b"abc") == (3, [b"abc"], None, None, None)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"abc"],
        [b"a", b"b", b"c"],
        [b"x" * 20000, b"y" * 20000],
        [b"x"] * 1000,
        [b"x" * 20000] * 65,
        [b"", b"a", b""],
        [b"x" * 20000, b"", b"y" * 60000],
    ],
)
def test_chunks_are_written_in_order_and_without_empty_buffers(chunks):
    """An empty buffer would look like a write that made no progress."""
    parts = RawFraming().encode(chunks, None)

    assert joined(parts) == b"".join(chunks)
    assert all(len(part) for part in parts)
    assert len(parts) <= 64


@pytest.mark.parametrize("chunks", [[b""], [b"", b""], [b""] * 100])
def test_empty_messages_write_nothing(chunks):
    """They are legal, and no end of the stream."""
    assert RawFraming().encode(chunks, [0x82] * len(chunks)) == []


def test_small_chunks_are_joined_and_large_ones_are_not_copied():
    """One system call for small ones, no copying of large ones."""
    small = RawFraming().encode([b"a" * 10, b"b" * 10], None)
    large = [b"x" * 60000, b"y" * 60000]

    assert small == [b"a" * 10 + b"b" * 10]
    assert [part is chunk for part, chunk in zip(RawFraming().encode(large, None), large, strict=True)] == [True, True]


def test_there_are_no_control_frames():
    """A ping or a close frame has no form among raw bytes."""
    assert RawFraming().encode_control(0x9, b"abc") == b""
