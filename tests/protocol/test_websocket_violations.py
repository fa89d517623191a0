"""WebSocket framing: what breaks the protocol, and text that is none."""

import pytest

from tests.protocol.frame_bytes import BINARY, CLOSE, CONTINUATION, FIN, KEY, PING, PONG, TEXT, decoded, frame, of, role
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import Reason

__all__ = ["role"]


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

    assert violation.reason is Reason.INVALID_UTF8


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
        assert [one.reason for one in found if one] == [Reason.INVALID_UTF8]


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
    assert framing.utf8_tail == b""


def test_bad_text_is_found_before_the_message_is_whole(role):
    """A stream is checked as it comes."""
    framing = WebSocketFraming(role)
    data = frame(FIN | TEXT, b"ab\xffcd" + bytes(1000), to=role)

    assert decoded(framing, data[:20])[2].reason is Reason.INVALID_UTF8


def test_binary_is_not_looked_at(role):
    """Bytes that are no text at all pass."""
    assert decoded(WebSocketFraming(role), frame(FIN | BINARY, b"\xff\xfe", to=role))[2] is None


@pytest.mark.parametrize("first", [TEXT, FIN | TEXT])
def test_text_can_be_refused(role, first):
    """Then its header is enough, and binary still passes."""
    framing = WebSocketFraming(role, text_messages="reject")
    pieces, _, violation = decoded(framing, of(role, (FIN | BINARY, b"x"), (first, b"abc")))

    assert pieces == [(0x82, b"x")]
    assert violation.reason is Reason.UNSUPPORTED_DATA
