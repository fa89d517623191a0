"""What every framing promises, and the framing of raw TCP."""

from __future__ import annotations

import random

import pytest

from wsbridge.protocol.websocket import Framing, RawFraming, WebSocketFraming

PAIRS = {
    "raw": (RawFraming, RawFraming),
    "from the server": (lambda: WebSocketFraming("server", max_frame_bytes=500), lambda: WebSocketFraming("client")),
    "from the client": (lambda: WebSocketFraming("client", max_frame_bytes=500), lambda: WebSocketFraming("server")),
}


@pytest.fixture(params=PAIRS)
def ends(request: pytest.FixtureRequest) -> tuple[Framing, Framing]:
    """Who writes and who reads."""
    writer, reader = PAIRS[request.param]
    return writer(), reader()


def read(framing: Framing, data: bytes, **bounds: int) -> bytes:
    """Decode all of it, call by call, and give the payload."""
    payload = b""
    for _ in range(len(data) + 1):
        used, chunks, marks, controls, violation = framing.decode(data, **bounds)
        assert 0 <= used <= len(data)
        assert violation is None
        assert not controls
        assert marks is None or len(marks) == len(chunks)
        payload += b"".join(chunks)
        data = data[used:]
        if not data:
            return payload
    raise AssertionError("a call took nothing")


@pytest.mark.parametrize("sizes", [[1], [10, 20], [499, 500, 501], [0, 3], [70_000], [1] * 300], ids=str)
def test_what_one_writes_the_other_reads(ends: tuple[Framing, Framing], sizes: list[int]) -> None:
    """All bytes, in order, whatever the chunks."""
    writer, reader = ends
    chunks = [random.Random(at).randbytes(size) for at, size in enumerate(sizes)]
    data = b"".join(writer.encode(list(chunks), None))

    assert read(reader, data) == b"".join(chunks)


def test_views_are_written_as_bytes_are(ends: tuple[Framing, Framing]) -> None:
    """What a bulk read gave need not be copied first."""
    writer, reader = ends
    payload = random.Random(1).randbytes(70_000)

    assert read(reader, b"".join(writer.encode([memoryview(payload)], None))) == payload


def test_bounds_of_a_call_lose_nothing(ends: tuple[Framing, Framing]) -> None:
    """What a call leaves is handled by the next."""
    writer, reader = ends
    payload = random.Random(1).randbytes(5000)

    assert read(reader, b"".join(writer.encode([payload], None)), max_bytes=100, max_frames=2) == payload


def test_nothing_costs_nothing(ends: tuple[Framing, Framing]) -> None:
    """No bytes are no frame, and payload is no chaff."""
    writer, reader = ends

    assert b"".join(writer.encode([b""], None)) == b""
    read(reader, b"".join(writer.encode([b"abc"], None)))
    assert (writer.control_frame_count, reader.control_frame_count) == (0, 0)


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


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("size", [0, 1, 124, 125, 4000, 4094, 4095, 32768, 65535, 65536, 200000])
def test_messages_in_two_parts(role, size):
    """Each is one message, whose parts are not joined where they are large."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    framing, peer = WebSocketFraming(role), WebSocketFraming("client" if role == "server" else "server")
    buffers = framing.encode_messages([(b"\x05", body), (b"\x80", b"")])
    _, chunks, marks, controls, violation = peer.decode(b"".join(buffers), max_bytes=10**6)

    assert (controls, violation) == (None, None)
    assert b"".join(chunks) == b"\x05" + body + b"\x80"
    assert [mark for mark in marks if mark & 0x80] in ([0x82, 0x82], [0x80, 0x82])
    assert any(part is body for part in buffers) == (role == "server" and 4095 <= size <= 65535)
