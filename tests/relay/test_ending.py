"""How one side of a pair is brought to its end: lingering, waiting, force."""

import pytest

from tests.relay.fakes import a_pair
from wsbridge.net.wire import RESET
from wsbridge.reasons import End, Reason

CLOSE_1000 = b"\x88\x82" + bytes(4) + b"\x03\xe8"


def test_the_answer_to_a_close_frame_waits_for_what_came_before_it():
    """The backend's bytes first, then its FIN and the echo, in one settling."""
    pair = a_pair("ws", "raw")
    pair.back.wire.room = 0
    pair.front.wire.comes(b"\x82\x81" + bytes(4) + b"x" + CLOSE_1000)
    pair.turn()
    assert (pair.front.wire.out, pair.back.wire.log) == (b"", [])
    pair.back.wire.room = None
    pair.turn()
    assert pair.back.wire.out == b"x"
    assert pair.back.wire.log == ["fin"]
    assert pair.front.wire.out == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("who", ["front", "back"])
def test_an_aborted_side_gives_its_lingering_place_back(who):
    """So that the places do not run out."""
    pair = a_pair("ws", "ws")
    pair.terminate(End(Reason.DRAIN, "bridge"))
    pair.turn()
    side = getattr(pair, who)
    pair.discard(side)
    pair.settle(side)
    assert pair.pump.lingering == 1
    pair.abort(side)
    pair.abort(side)
    assert pair.pump.lingering == 0


def test_no_place_to_linger():
    """Then the side is closed at once."""
    pair = a_pair("ws", "raw")
    pair.pump.places = 0
    pair.terminate(End(Reason.DRAIN, "bridge"))
    pair.turn()
    pair.discard(pair.front)
    pair.settle(pair.front)
    assert pair.front.wire.log == ["fin", "close"]
    assert pair.pump.lingering == 0


def test_lingering_reads_no_more_than_allowed():
    """Input that is there already is dropped up to the limit, and then it is closed."""
    pair = a_pair("raw", "raw", linger_bytes=1000)
    pair.terminate(End(Reason.DRAIN, "bridge"))
    pair.front.wire.comes(bytes(400), bytes(900))
    pair.turn()
    assert pair.front.wire.dropped == 1300
    assert pair.front.wire.log == ["fin", "close"]
    assert not pair.back.closed


def test_lingering_is_over_when_its_time_is():
    """The clock alone ends it."""
    pair = a_pair("raw", "raw", linger=2.0)
    pair.terminate(End(Reason.DRAIN, "bridge"))
    pair.turn()
    assert 1002.0 in pair.pump.looks
    pair.pump.now = 1002.0
    pair.turn()
    assert pair.done


def test_force_ends_whatever_is_left():
    """Two rounds of patience, and both descriptors are closed, from any state."""
    for ending in (
        lambda pair: pair.terminate(End(Reason.DRAIN, "bridge")),
        lambda pair: pair.finished(pair.front, pair.back, 1000, ""),
        lambda pair: pair.finished(pair.back, pair.front, 1000, ""),
        lambda pair: pair.lost(pair.back, pair.front, "gone"),
    ):
        for front in ("ws", "raw"):
            for back in ("ws", "raw"):
                for room in (None, 0):
                    pair = a_pair(front, back, linger=0.0)
                    for side in (pair.front, pair.back):
                        side.wire.room = room
                    if room == 0:
                        pair.front.wire.comes(b"\x82\x81" + bytes(4) + b"x")
                        pair.back.wire.comes(b"\x82\x01y")
                        pair.turn()
                    ending(pair)
                    for _ in range(3):
                        pair.turn()
                        if not pair.done:
                            pair.force()
                    assert pair.done, (front, back, room)
                    assert len(pair.pump.done) == 1
                    assert pair.pump.lingering == 0


def test_a_reset_waits_until_the_peer_has_what_came_before_it():
    """It would destroy what its kernel has not got yet; the pair is looked at until then."""
    pair = a_pair("raw", "raw")
    pair.back.wire.comes(b"abc")
    pair.back.wire.ends(RESET)
    pair.turn()
    assert pair.front.wire.out == b"abc"
    assert pair.front.wire.log == []
    assert pair.pump.looks[-1] == pair.pump.now
    pair.front.wire.acknowledge()
    pair.turn()
    assert pair.front.wire.log == ["reset"]
    assert pair.done


def test_a_reset_does_not_wait_for_a_peer_that_is_gone_itself():
    """Nobody is left to take anything."""
    pair = a_pair("raw", "raw")
    pair.back.wire.comes(b"abc")
    pair.back.wire.ends(RESET)
    pair.turn()
    pair.front.wire.ended = RESET
    pair.turn()
    assert pair.front.wire.log == ["reset"]


@pytest.mark.parametrize("front", ["ws", "raw"])
def test_what_waits_for_a_front_is_being_delivered(front):
    """Pending bytes, and those that the peer's kernel has not got; not for a front that answers nothing any more."""
    pair = a_pair(front, "ws")
    pair.front.wire.room = 1
    pair.back.wire.comes(b"\x82\x03abc\x88\x02\x03\xe8")
    pair.turn()
    assert pair.front.pending
    assert pair.delivers(pair.front)
    assert not pair.delivers(pair.back)
    pair.front.wire.room = None
    pair.turn()
    assert pair.front.pending is None
    assert pair.delivers(pair.front)
    pair.front.wire.silent = True
    assert not pair.delivers(pair.front)
    pair.front.wire.silent = False
    pair.front.wire.acknowledge()
    assert not pair.delivers(pair.front)
