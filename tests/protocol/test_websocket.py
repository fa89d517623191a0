"""WebSocket framing: what is accepted, how much is done in one call, and what is written."""

import tracemalloc

import pytest

from tests.protocol.frame_bytes import BINARY, CLOSE, CONTINUATION, FIN, KEY, PING, PONG, TEXT, decoded, frame, of, role
from wsbridge.protocol.websocket import WebSocketFraming, encode_header

__all__ = ["role"]


# ---------------------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_whole_message_of_any_size(role, size):
    """Payload comes out as it went in, and the last chunk says that the message ends."""
    payload = bytes(at * 13 & 0xFF for at in range(size))
    pieces, controls, violation = decoded(WebSocketFraming(role), frame(FIN | BINARY, payload, to=role))

    assert b"".join(chunk for _, chunk in pieces) == payload
    assert pieces[0][0] & 0x0F == BINARY
    assert [mark >> 7 for mark, _ in pieces] == [0] * (len(pieces) - 1) + [1]
    assert (controls, violation) == ([], None)


def test_several_messages_in_one_read(role):
    """Each keeps its mark, the small and the large, the empty and the fragmented."""
    data = b"".join(
        frame(first, payload, to=role)
        for first, payload in [
            (FIN | BINARY, b"one"),
            (FIN | BINARY, b""),
            (FIN | TEXT, b"two"),
            (BINARY, b"a"),
            (CONTINUATION, b"b"),
            (FIN | CONTINUATION, b"c"),
            (FIN | BINARY, b"x" * 300),
        ]
    )
    pieces, _, violation = decoded(WebSocketFraming(role), data)

    assert violation is None
    assert pieces == [
        (0x82, b"one"),
        (0x82, b""),
        (0x81, b"two"),
        (0x02, b"a"),
        (0x00, b"b"),
        (0x80, b"c"),
        (0x82, b"x" * 300),
    ]


def test_control_frames_between_fragments(role):
    """A ping inside a fragmented message is reported, and the message goes on."""
    data = (
        frame(TEXT, "ä".encode()[:1], to=role)
        + frame(FIN | PING, b"p", to=role)
        + frame(FIN | PONG, b"", to=role)
        + frame(FIN | CONTINUATION, "ä".encode()[1:] + b"!", to=role)
    )
    pieces, controls, violation = decoded(WebSocketFraming(role), data)

    assert pieces == [(0x01, "ä".encode()[:1]), (0x80, "ä".encode()[1:] + b"!")]
    assert controls == [(PING, b"p"), (PONG, b"")]
    assert violation is None


def test_an_empty_first_fragment_opens_the_message(role):
    """Its opcode is reported with the first payload, and the continuation is no violation."""
    data = frame(TEXT, b"", to=role) + frame(CONTINUATION, b"", to=role) + frame(FIN | CONTINUATION, b"abc", to=role)
    pieces, _, violation = decoded(WebSocketFraming(role), data)

    assert pieces == [(0x81, b"abc")]
    assert violation is None


def test_an_empty_last_fragment_ends_the_message(role):
    """Its chunk is empty and carries the end."""
    pieces, _, _ = decoded(WebSocketFraming(role), frame(BINARY, b"abc", to=role) + frame(FIN, b"", to=role))

    assert pieces == [(0x02, b"abc"), (0x80, b"")]


def test_payload_is_given_as_it_arrives(role):
    """Half a frame gives half its payload at once."""
    framing = WebSocketFraming(role)
    data = frame(FIN | BINARY, b"abcdef", to=role)

    assert decoded(framing, data[:-3])[0] == [(0x02, b"abc")]
    assert decoded(framing, data[-3:])[0] == [(0x80, b"def")]


def test_a_frame_of_the_greatest_length_allocates_nothing(role):
    """2**63 - 1 bytes are announced, ten come, and those are given."""
    framing = WebSocketFraming(role)
    announced = encode_header(FIN | BINARY, 2**63 - 1, 0x80 if role == "server" else 0) + (
        KEY if role == "server" else b""
    )
    tracemalloc.start()
    try:
        pieces, _, violation = decoded(framing, announced + bytes(10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert violation is None
    assert sum(len(chunk) for _, chunk in pieces) == 10
    assert framing.payload_left == 2**63 - 1 - 10
    assert peak < 100_000


def test_nothing_counts_after_a_close_frame(role):
    """What follows is swallowed, were it a violation or payload."""
    framing = WebSocketFraming(role)
    data = frame(FIN | CLOSE, b"\x03\xe8bye", to=role) + b"\xff" * 100
    used, chunks, _, controls, violation = framing.decode(data)

    assert (used, chunks, controls, violation) == (len(data), [], [(CLOSE, b"\x03\xe8bye")], None)
    assert framing.decode(b"\xff" * 10) == (10, [], None, None, None)


# ---------------------------------------------------------------------------------------------- bounds of one call


def test_a_call_stops_after_its_room(role):
    """A long frame is read in pieces of the room given, the rest is left."""
    framing = WebSocketFraming(role)
    data = frame(FIN | BINARY, bytes(70_000), to=role)
    used, chunks, _, _, _ = framing.decode(data, max_bytes=1000)

    assert sum(map(len, chunks)) == 1000
    assert used < 1020
    assert sum(len(chunk) for _, chunk in decoded(framing, data[used:], max_bytes=1000)[0]) == 69_000


def test_a_call_stops_after_the_message_that_fills_its_room(role):
    """Many small messages: no more than the room, and one message over it."""
    data = frame(FIN | BINARY, bytes(100), to=role) * 1000
    used, chunks, _, _, _ = WebSocketFraming(role).decode(data, max_bytes=1000)

    assert 1000 <= sum(map(len, chunks)) < 1100
    assert used < len(data)


@pytest.mark.parametrize("first", [FIN | BINARY, FIN | PING, FIN | PONG, FIN | TEXT])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_call_stops_after_its_work(role, first, payload):
    """512 frames of whatever kind, however little is in them."""
    one = frame(first, payload, to=role)
    used, chunks, _, controls, violation = WebSocketFraming(role).decode(one * 2000)

    assert violation is None
    assert 511 <= len(chunks) + len(controls or []) <= 512
    assert 511 * len(one) < used <= 512 * len(one)


def test_empty_fragments_are_work_too(role):
    """They give no chunk at all, and still a call ends after 512 of them."""
    one = frame(CONTINUATION, b"", to=role)
    framing = WebSocketFraming(role)
    framing.decode(frame(BINARY, b"", to=role))
    used, chunks, _, _, _ = framing.decode(one * 2000)

    assert (used, chunks) == (512 * len(one), [])


@pytest.mark.parametrize(
    ("first", "payload", "counts"),
    [
        (FIN | BINARY, b"x", 0),
        (FIN | TEXT, b"x", 0),
        (FIN | BINARY, b"", 1),
        (FIN | PING, b"x", 1),
        (FIN | PONG, b"", 1),
    ],
)
def test_chaff_counts_control_and_empty_frames(role, first, payload, counts):
    """Frames with payload are no chaff."""
    framing = WebSocketFraming(role)
    decoded(framing, frame(first, payload, to=role) * 10)

    assert framing.control_frame_count == 10 * counts


def test_empty_fragments_are_chaff(role):
    """Each of them, the first too."""
    framing = WebSocketFraming(role)
    decoded(framing, frame(BINARY, b"", to=role) + frame(CONTINUATION, b"", to=role) * 9)

    assert framing.control_frame_count == 10


# ---------------------------------------------------------------------------------------------- writing


def written(framing, chunks, marks=None):
    """What is written, as one run of bytes."""
    return b"".join(bytes(part) for part in framing.encode(chunks, marks))


@pytest.mark.parametrize("size", [1, 125, 126, 4095, 4096, 65535, 65536])
def test_raw_bytes_become_one_binary_message(role, size):
    """The read of a raw side, up to the largest frame."""
    payload = bytes(at & 0xFF for at in range(size))
    peer = "client" if role == "server" else "server"

    assert decoded(WebSocketFraming(peer), written(WebSocketFraming(role), [payload]), max_bytes=10**6)[0] == [
        (0x82, payload)
    ]


def test_what_is_larger_than_a_frame_becomes_several_messages(role):
    """Raw bytes have no boundaries to keep."""
    payload = bytes(at & 0xFF for at in range(1050))
    peer = "client" if role == "server" else "server"
    pieces = decoded(WebSocketFraming(peer), written(WebSocketFraming(role, max_frame_bytes=500), [payload]))[0]

    assert [(mark, len(chunk)) for mark, chunk in pieces] == [(0x82, 500), (0x82, 500), (0x82, 50)]
    assert b"".join(chunk for _, chunk in pieces) == payload


@pytest.mark.parametrize("mark", [0x82, 0x81, 0x02, 0x01, 0x80, 0x00])
@pytest.mark.parametrize("size", [0, 1, 500, 501, 1000, 1234])
def test_a_chunk_with_a_mark_larger_than_a_frame_becomes_fragments(role, mark, size):
    """Only the first has the opcode, only the last has FIN."""
    payload = bytes(at & 0x7F for at in range(size))
    peer = "client" if role == "server" else "server"
    before, after = b"", b""
    if not mark & 0x0F:
        before = written(WebSocketFraming(role), [b"-"], [BINARY])
    if not mark & FIN:
        after = written(WebSocketFraming(role), [b"+"], [FIN])
    data = before + written(WebSocketFraming(role, max_frame_bytes=500), [payload], [mark]) + after
    sizes, firsts = [], []
    at = 0
    while at < len(data):  # one frame at a time, by hand
        length = data[at + 1] & 0x7F
        start = at + 2
        if length == 126:
            length = int.from_bytes(data[start : start + 2], "big")
            start += 2
        start += 4 if data[at + 1] & 0x80 else 0
        sizes.append(length)
        firsts.append(data[at])
        at = start + length
    pieces, _, violation = decoded(WebSocketFraming(peer), data)

    assert violation is None
    assert max(sizes) <= 500
    assert b"".join(chunk for _, chunk in pieces) == (b"-" if before else b"") + payload + (b"+" if after else b"")
    assert sum(first >> 7 for first in firsts) == 1
    assert firsts[-1] & FIN
    assert [first & 0x0F for first in firsts[1:]] == [0] * (len(firsts) - 1)


def test_marks_are_kept(role):
    """Opcode and boundaries of each chunk come out at the other end, the empty message too."""
    pieces = [(0x82, b"a"), (0x82, b""), (0x01, b"b"), (0x00, b"c" * 5000), (0x80, b""), (0x81, b"d" * 200)]
    data = written(WebSocketFraming(role), [chunk for _, chunk in pieces], [mark for mark, _ in pieces])
    peer = "client" if role == "server" else "server"

    assert decoded(WebSocketFraming(peer), data)[0] == pieces


def test_nothing_is_written_for_no_bytes(role):
    """A raw side gives no empty messages."""
    assert WebSocketFraming(role).encode([b""], None) == []


def test_header_and_payload_are_few_buffers():
    """Small payloads are one buffer with their header, and many frames are joined for one write."""
    framing = WebSocketFraming("server")

    assert len(framing.encode([b"abc"], None)) == 1
    assert len(framing.encode([b"x" * 60000], None)) == 2
    assert len(framing.encode([b"abc"] * 200, [0x82] * 200)) == 1


def test_clients_mask_with_a_fresh_key_for_each_frame():
    """The same payload twice does not look the same (RFC 6455 section 5.3)."""
    framing = WebSocketFraming("client")
    payload = bytes(64)
    written_ones = {written(framing, [payload]) for _ in range(20)}

    assert len(written_ones) == 20
    assert all(one[1] & 0x80 for one in written_ones)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("body", [b"", b"abc", b"x" * 125])
def test_control_frames_are_whole(role, opcode, body):
    """With FIN, and as the other role reads them."""
    peer = "client" if role == "server" else "server"
    if opcode == CLOSE and body:
        body = b"\x03\xe8" + body[2:]
    data = WebSocketFraming(role).encode_control(opcode, body)

    assert decoded(WebSocketFraming(peer), data)[1] == [(opcode, body)]


def test_the_state_is_plain_data():
    """It can be copied in the middle of a header, a frame and a character, and both copies go on alike."""
    from copy import deepcopy

    data = of("server", (TEXT, "€uro".encode()), (FIN | PING, b"abc"), (FIN, "ä".encode() * 100))
    for cut in range(len(data)):
        framing = WebSocketFraming("server")
        decoded(framing, data[:cut])
        copy = deepcopy(framing)
        assert decoded(framing, data[cut:]) == decoded(copy, data[cut:])
