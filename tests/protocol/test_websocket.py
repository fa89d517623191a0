"""WebSocket framing: what is taken, what is a violation, how much is done in one call, and what is written."""

import tracemalloc

import pytest

from wsbridge.protocol.frames import header
from wsbridge.protocol.mask import apply_mask_in_python
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import Reason

KEY = b"\x01\x22\x83\xf4"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80


def frame(first, payload=b"", *, to="server"):
    """One frame as the peer of a `to` writes it."""
    if to == "client":
        return header(first, len(payload)) + payload
    return header(first, len(payload), 0x80) + KEY + apply_mask_in_python(payload, KEY)


def decoded(framing, data, **bounds):
    """All that a framing gives for `data`, as one message of (mark, payload) and controls, and the violation."""
    pieces, controls = [], []
    while data:
        used, chunks, marks, more, violation = framing.decode(data, **bounds)
        pieces += zip(marks or [], chunks, strict=True)
        controls += more or []
        if violation:
            return pieces, controls, violation
        data = data[used:]
        assert used or not data
    return pieces, controls, None


@pytest.fixture(params=["server", "client"])
def role(request):
    """Our role on the wire."""
    return request.param


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
    """A ping inside a fragmented message is told, and the message goes on."""
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
    """Its opcode is told with the first payload, and the continuation is no violation."""
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
    announced = header(FIN | BINARY, 2**63 - 1, 0x80 if role == "server" else 0) + (KEY if role == "server" else b"")
    tracemalloc.start()
    try:
        pieces, _, violation = decoded(framing, announced + bytes(10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert violation is None
    assert sum(len(chunk) for _, chunk in pieces) == 10
    assert framing.need == 2**63 - 1 - 10
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
    """A long frame is taken in pieces of the room given, the rest is left."""
    framing = WebSocketFraming(role)
    data = frame(FIN | BINARY, bytes(70_000), to=role)
    used, chunks, _, _, _ = framing.decode(data, room=1000)

    assert sum(map(len, chunks)) == 1000
    assert used < 1020
    assert sum(len(chunk) for _, chunk in decoded(framing, data[used:], room=1000)[0]) == 69_000


def test_a_call_stops_after_the_message_that_fills_its_room(role):
    """Many small messages: no more than the room, and one message over it."""
    data = frame(FIN | BINARY, bytes(100), to=role) * 1000
    used, chunks, _, _, _ = WebSocketFraming(role).decode(data, room=1000)

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

    assert framing.chaff == 10 * counts


def test_empty_fragments_are_chaff(role):
    """Each of them, the first too."""
    framing = WebSocketFraming(role)
    decoded(framing, frame(BINARY, b"", to=role) + frame(CONTINUATION, b"", to=role) * 9)

    assert framing.chaff == 10


# ---------------------------------------------------------------------------------------------- violations


def of(role, *frames):
    return b"".join(frame(first, payload, to=role) for first, payload in frames)


BROKEN = {
    "reserved bit 1": [(FIN | 0x40 | BINARY, b"x")],
    "reserved bit 2": [(FIN | 0x20 | BINARY, b"x")],
    "reserved bit 3": [(FIN | 0x10 | BINARY, b"x")],
    "reserved bit on a ping": [(FIN | 0x40 | PING, b"")],
    **{f"opcode {opcode:#x}": [(FIN | opcode, b"x")] for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)},
    "fragmented ping": [(PING, b"x")],
    "fragmented pong": [(PONG, b"x")],
    "fragmented close": [(CLOSE, b"")],
    "ping of 126 bytes": [(FIN | PING, bytes(126))],
    "close of 126 bytes": [(FIN | CLOSE, b"\x03\xe8" + b"x" * 124)],
    "continuation of nothing": [(FIN | CONTINUATION, b"x")],
    "continuation of a message that ended": [(BINARY, b"x"), (FIN, b"y"), (FIN, b"z")],
    "message inside a message": [(BINARY, b"x"), (FIN | BINARY, b"y")],
    "message inside an empty fragment's": [(TEXT, b""), (FIN | TEXT, b"y")],
    "close body of one byte": [(FIN | CLOSE, b"\x03")],
    **{
        f"close code {code}": [(FIN | CLOSE, code.to_bytes(2, "big"))]
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_violations_of_the_rfc_are_protocol_errors(role, name):
    """What came whole before is given, and nothing after it counts."""
    framing = WebSocketFraming(role)
    data = of(role, (FIN | BINARY, b"before"), *BROKEN[name], (FIN | BINARY, b"after"))
    pieces, _, violation = decoded(framing, data)

    assert violation.reason is Reason.PROTOCOL_ERROR
    assert violation.detail
    assert pieces[0] == (0x82, b"before")
    assert b"after" not in [chunk for _, chunk in pieces]
    assert framing.decode(of(role, (FIN | BINARY, b"more")))[1] == []


@pytest.mark.parametrize("size", [0, 5, 300, 70_000])
@pytest.mark.parametrize("first", [FIN | BINARY, FIN | TEXT, FIN | PING])
def test_masking_the_wrong_way_round_is_a_protocol_error(role, first, size):
    """A client that does not mask, a server that does."""
    other = "client" if role == "server" else "server"
    violation = decoded(WebSocketFraming(role), frame(first, bytes(size), to=other))[2]

    assert violation.reason is Reason.PROTOCOL_ERROR
    assert "mask" in violation.detail


@pytest.mark.parametrize(
    "length",
    [
        b"\x7e\x00\x00",
        b"\x7e\x00\x7d",
        b"\x7f\x00\x00\x00\x00\x00\x00\x00\x7d",
        b"\x7f\x00\x00\x00\x00\x00\x00\xff\xff",
        b"\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
        b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_lengths_not_in_the_shortest_way_or_too_great_are_protocol_errors(role, length):
    """Two bytes for what fits in one, eight for what fits in two, the highest bit set."""
    bit = 0x80 if role == "server" else 0
    data = bytes([FIN | BINARY, length[0] | bit]) + length[1:] + (KEY if bit else b"") + bytes(200)
    pieces, _, violation = decoded(WebSocketFraming(role), data)

    assert violation.reason is Reason.PROTOCOL_ERROR
    assert "length" in violation.detail
    assert pieces == []


def test_a_close_reason_that_is_not_utf_8_is_bad_text(role):
    """It ends with 1007, as text does."""
    violation = decoded(WebSocketFraming(role), frame(FIN | CLOSE, b"\x03\xe8\xff\xfe", to=role))[2]

    assert violation.reason is Reason.BAD_TEXT


# ---------------------------------------------------------------------------------------------- text


BAD_TEXT = {
    "a stray byte": b"abc\xff",
    "overlong": b"\xc0\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "cut at the end": "€".encode()[:2],
    "a lone continuation byte": b"\x80",
}


@pytest.mark.parametrize("name", BAD_TEXT)
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_text_that_is_not_utf_8_is_bad_text(role, name, cut):
    """Whole, in fragments, and in reads of one byte."""
    raw = BAD_TEXT[name]
    parts = [raw[at : at + cut] for at in range(0, len(raw), cut)]
    frames = [(TEXT if n == 0 else 0, part) for n, part in enumerate(parts)]
    frames[-1] = (frames[-1][0] | FIN, frames[-1][1])
    data = of(role, *frames)

    for step in (1, len(data)):
        framing = WebSocketFraming(role)
        found = [decoded(framing, data[at : at + step])[2] for at in range(0, len(data), step)]
        assert [one.reason for one in found if one] == [Reason.BAD_TEXT]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 10_000])
def test_text_is_passed_on_as_bytes_however_it_is_cut(role, step):
    """A character cut in two is no fault, and its first part is not held back."""
    text = "aä€😀".encode() * 20
    data = of(role, (TEXT, text[:33]), (0, text[33:71]), (FIN, text[71:]))
    framing = WebSocketFraming(role)
    seen = []
    for at in range(0, len(data), step):
        pieces, _, violation = decoded(framing, data[at : at + step])
        assert violation is None
        seen += pieces

    assert b"".join(chunk for _, chunk in seen) == text
    assert seen[0][0] == TEXT
    assert framing.text_tail == b""


def test_bad_text_is_found_before_the_message_is_whole(role):
    """A stream is checked as it comes."""
    framing = WebSocketFraming(role)
    data = frame(FIN | TEXT, b"ab\xffcd" + bytes(1000), to=role)

    assert decoded(framing, data[:20])[2].reason is Reason.BAD_TEXT


def test_binary_is_not_looked_at(role):
    """Bytes that are no text at all pass."""
    assert decoded(WebSocketFraming(role), frame(FIN | BINARY, b"\xff\xfe", to=role))[2] is None


@pytest.mark.parametrize("first", [TEXT, FIN | TEXT])
def test_text_can_be_refused(role, first):
    """Then its header is enough, and binary still passes."""
    framing = WebSocketFraming(role, text="refuse")
    pieces, _, violation = decoded(framing, of(role, (FIN | BINARY, b"x"), (first, b"abc")))

    assert pieces == [(0x82, b"x")]
    assert violation.reason is Reason.UNSUPPORTED


# ---------------------------------------------------------------------------------------------- writing


def written(framing, chunks, marks=None):
    """What is written, as one run of bytes."""
    return b"".join(bytes(part) for part in framing.encode(chunks, marks))


@pytest.mark.parametrize("size", [1, 125, 126, 4095, 4096, 65535, 65536])
def test_raw_bytes_become_one_binary_message(role, size):
    """The read of a raw side, up to the largest frame."""
    payload = bytes(at & 0xFF for at in range(size))
    peer = "client" if role == "server" else "server"

    assert decoded(WebSocketFraming(peer), written(WebSocketFraming(role), [payload]), room=10**6)[0] == [
        (0x82, payload)
    ]


def test_what_is_larger_than_a_frame_becomes_several_messages(role):
    """Raw bytes have no boundaries to keep."""
    payload = bytes(at & 0xFF for at in range(1050))
    peer = "client" if role == "server" else "server"
    pieces = decoded(WebSocketFraming(peer), written(WebSocketFraming(role, frame=500), [payload]))[0]

    assert [(mark, len(chunk)) for mark, chunk in pieces] == [(0x82, 500), (0x82, 500), (0x82, 50)]
    assert b"".join(chunk for _, chunk in pieces) == payload


@pytest.mark.parametrize("mark", [0x82, 0x81, 0x02, 0x01, 0x80, 0x00])
@pytest.mark.parametrize("size", [0, 1, 500, 501, 1000, 1234])
def test_a_chunk_with_a_mark_larger_than_a_frame_becomes_fragments(role, mark, size):
    """The opcode stands on the first alone, the end on the last alone."""
    payload = bytes(at & 0x7F for at in range(size))
    peer = "client" if role == "server" else "server"
    before, after = b"", b""
    if not mark & 0x0F:
        before = written(WebSocketFraming(role), [b"-"], [BINARY])
    if not mark & FIN:
        after = written(WebSocketFraming(role), [b"+"], [FIN])
    data = before + written(WebSocketFraming(role, frame=500), [payload], [mark]) + after
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
    data = WebSocketFraming(role).control(opcode, body)

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
