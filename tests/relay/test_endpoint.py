"""One side of a relay: reading, writing, and control frames after pending data."""

import pytest

from tests.relay.fakes import FakeTransport, a_pair
from wsbridge.relay.endpoint import RawEndpoint, Sending

PONG = b"\x8a\x01"


@pytest.fixture
def side():
    """The side of a WebSocket client."""
    return a_pair("ws", "raw").front


def masked(first, payload):
    """A client's frame with a key of zeros."""
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


def test_a_raw_pull_is_one_read():
    """As it came, without marks."""
    side = RawEndpoint(FakeTransport())
    side.transport.comes(b"abc", b"def")

    assert side.receive(5.0) == ([b"abc"], None)
    assert side.last_received == 5.0
    assert side.receive(6.0) == ([b"def"], None)
    assert side.receive(7.0) == ([], None)
    assert side.last_received == 6.0


def test_a_pull_decodes_one_read(side):
    """All frames that are whole in it; control frames are reported by `notice`."""
    side.transport.comes(masked(0x82, b"a") + masked(0x89, b"p") + masked(0x82, b"b"))

    assert side.receive(5.0) == ([b"a", b"b"], [0x82, 0x82])
    assert side.control_pending
    assert side.control_frames == [(9, b"p")]


def test_what_a_pull_left_comes_before_the_next_read(side):
    """A call of the framing has a bound."""
    side.transport.comes(masked(0x82, b"x") * 600, masked(0x82, b"y"))

    assert len(side.receive(1.0)[0]) == 512
    assert side.undecoded
    assert len(side.receive(2.0)[0]) == 88
    assert side.last_received == 1.0
    assert side.receive(3.0)[0] == [b"y"]


def test_what_the_kernel_does_not_take_is_pending(side):
    """And flushing goes on with it until there is room."""
    side.transport.room = 3
    side.send([b"abcdef"], None, 5.0)
    assert side.pending == [b"bcdef"]
    assert side.other.transport.slow
    side.transport.room = 2
    assert not side.flush(6.0)
    side.transport.room = None
    assert side.flush(7.0)
    assert side.transport.out == b"\x82\x06abcdef"
    assert side.last_sent == 7.0


def test_pushing_nothing_writes_nothing():
    """An empty message to a raw side is no write."""
    side = RawEndpoint(FakeTransport())
    side.send([b""], [0x82], 5.0)

    assert (side.transport.out, side.pending, side.last_sent) == (b"", None, 0.0)


def test_a_ping_is_answered_at_once_or_behind_what_is_pending(side):
    """Of several only the latest is answered then."""
    side.answer_ping(b"1", 1.0)
    assert side.transport.out == PONG + b"1"
    side.transport.room = 0
    side.send([b"abc"], None, 2.0)
    for body in (b"2", b"3", b"4"):
        side.answer_ping(body, 3.0)
    side.transport.room = None
    assert side.flush(4.0)
    assert side.transport.out == PONG + b"1" + b"\x82\x03abc" + PONG + b"4"
    assert side.pending_pong is None


def test_no_pong_after_our_close_frame(side):
    """Nothing may follow it; before it is written, a pong still may."""
    side.queue_close(1000, "")
    side.tx = Sending.FINISHING
    side.answer_ping(b"1", 1.0)
    assert side.transport.out == PONG + b"1"
    side.close_frame = b""
    side.answer_ping(b"2", 1.0)
    side.tx = Sending.CLOSED
    side.answer_ping(b"3", 1.0)
    assert side.transport.out == PONG + b"1"


def test_the_first_goodbye_stays(side):
    """What is sent to a side is decided once."""
    side.queue_close(1001, "one")
    side.queue_close(1002, "two")

    assert side.close_frame == b"\x88\x05\x03\xe9one"


def test_a_raw_side_has_no_goodbye():
    """Its end is FIN."""
    side = RawEndpoint(FakeTransport())
    side.queue_close(1001, "one")

    assert side.close_frame == b""
