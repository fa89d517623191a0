"""Pairs over fake wires: what the contract on real sockets cannot time exactly."""

import pytest

from tests.relay.fakes import a_pair
from wsbridge.net.wire import EOF, RESET
from wsbridge.reasons import End, Reason
from wsbridge.relay.pair import ROUNDS

CLOSE_1000 = b"\x88\x82" + bytes(4) + b"\x03\xe8"


def test_a_turn_ends_after_some_reads():
    """Then the pair is put behind the others."""
    pair = a_pair("raw", "raw")
    pair.front.wire.comes(*[b"x"] * (ROUNDS + 3))
    pair.turn()

    assert pair.back.wire.out == b"x" * ROUNDS
    assert pair.pump.later_pairs == [pair]
    pair.turn()
    assert pair.back.wire.out == b"x" * (ROUNDS + 3)
    assert pair.front.received == ROUNDS + 3


def test_a_blocked_side_stops_the_reading_of_the_other():
    """Until there is room again; nothing else is kept."""
    pair = a_pair("raw", "raw")
    pair.back.wire.room = 1
    pair.front.wire.comes(b"abc", b"def")
    pair.turn()
    assert pair.back.pending == [b"bc"]
    assert len(pair.front.wire.incoming) == 1
    pair.back.wire.room = None
    pair.turn()
    assert pair.back.wire.out == b"abcdef"


def test_an_end_behind_pending_bytes_waits_for_them():
    """FIN is sent after the last byte."""
    pair = a_pair("raw", "raw")
    pair.back.wire.room = 1
    pair.front.wire.comes(b"abc")
    pair.front.wire.ends(EOF)
    pair.turn()
    assert pair.back.wire.log == []
    pair.back.wire.room = None
    pair.turn()
    assert (pair.back.wire.out, pair.back.wire.log) == (b"abc", ["fin"])
    assert pair.end == End(Reason.CLIENT_CLOSED, "front")


def test_two_close_frames_at_once_do_not_wait_for_each_other():
    """Both sides have bytes pending, and both end."""
    pair = a_pair("ws", "ws")
    for side in (pair.front, pair.back):
        side.wire.room = 0
    pair.front.wire.comes(b"\x82\x81" + bytes(4) + b"x" + CLOSE_1000)
    pair.back.wire.comes(b"\x82\x01y\x88\x02\x03\xe8")
    pair.turn()
    for side in (pair.front, pair.back):
        side.wire.room = None
    pair.turn()
    pair.turn()
    assert pair.done
    assert pair.pump.done == [pair]


def test_closing_is_told_once():
    """However the ends fall together."""
    pair = a_pair("raw", "raw")
    pair.front.wire.ends(EOF)
    pair.back.wire.ends(EOF)
    pair.turn()
    assert pair.done
    assert pair.pump.done == [pair]
    assert pair.front.wire.log == pair.back.wire.log == ["fin", "close"]


@pytest.mark.parametrize("second", [Reason.STOP, Reason.MAX_AGE, Reason.INTERNAL_ERROR])
def test_the_first_reason_stays(second):
    """Both sides have been told."""
    pair = a_pair("ws", "ws")
    pair.terminate(End(Reason.DRAIN, "bridge"))
    pair.turn()
    pair.terminate(End(second, "bridge"))
    assert pair.end.reason is Reason.DRAIN


def test_a_reset_backend_that_had_ended_in_order():
    """Its stream was whole; that it does not take what comes after is no other ending."""
    pair = a_pair("ws", "raw")
    pair.back.wire.ends(EOF)
    pair.turn()
    pair.back.wire.ended = RESET
    pair.turn()
    assert pair.end.reason is Reason.BACKEND_CLOSED
    assert pair.back.closed


def test_a_front_that_takes_nothing_more_is_lost_at_once():
    """A raw client that had sent FIN, and resets while its answer comes."""
    pair = a_pair("raw", "raw")
    pair.front.wire.ends(EOF)
    pair.turn()
    pair.front.wire.ended = RESET
    pair.turn()
    assert pair.end.reason is Reason.CLIENT_LOST
    assert pair.back.wire.log[-1] == "reset"
