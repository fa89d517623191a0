"""How one side of a relay ends: lingering close, timeouts, reset."""

import pytest

from tests.relay.fakes import a_pair
from wsbridge.net.transport import RESET
from wsbridge.reasons import Reason, Termination

CLOSE_1000 = b"\x88\x82" + bytes(4) + b"\x03\xe8"


def test_the_answer_to_a_close_frame_waits_for_what_came_before_it():
    """The backend's bytes first, then its FIN and the echo, in one settling."""
    pair = a_pair("ws", "raw")
    pair.back.transport.room = 0
    pair.front.transport.comes(b"\x82\x81" + bytes(4) + b"x" + CLOSE_1000)
    pair.run_once()
    assert (pair.front.transport.out, pair.back.transport.log) == (b"", [])
    pair.back.transport.room = None
    pair.run_once()
    assert pair.back.transport.out == b"x"
    assert pair.back.transport.log == ["fin"]
    assert pair.front.transport.out == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("who", ["front", "back"])
def test_an_aborted_side_gives_its_lingering_place_back(who):
    """So that the places do not run out."""
    pair = a_pair("ws", "ws")
    pair.terminate(Termination(Reason.DRAINING, "wsbridge"))
    pair.run_once()
    side = getattr(pair, who)
    pair.start_discarding(side)
    pair.advance_close(side)
    assert pair.loop.lingering == 1
    pair.abort(side)
    pair.abort(side)
    assert pair.loop.lingering == 0


def test_no_place_to_linger():
    """Then the side is closed at once."""
    pair = a_pair("ws", "raw")
    pair.loop.places = 0
    pair.terminate(Termination(Reason.DRAINING, "wsbridge"))
    pair.run_once()
    pair.start_discarding(pair.front)
    pair.advance_close(pair.front)
    assert pair.front.transport.log == ["fin", "close"]
    assert pair.loop.lingering == 0


def test_lingering_reads_no_more_than_allowed():
    """Input that is there already is dropped up to the limit, and then it is closed."""
    pair = a_pair("ws", "ws", lingering_bytes=1000)
    pair.terminate(Termination(Reason.DRAINING, "wsbridge"))
    pair.run_once()
    pair.start_discarding(pair.front)
    pair.front.transport.comes(bytes(400), bytes(900))
    pair.run_once()
    assert pair.front.transport.dropped == 1300
    assert pair.front.transport.log == ["fin", "close"]
    assert not pair.back.closed


def test_lingering_is_over_when_its_time_is():
    """The clock alone ends it."""
    pair = a_pair("ws", "ws", lingering=2.0)
    pair.terminate(Termination(Reason.DRAINING, "wsbridge"))
    pair.run_once()
    pair.start_discarding(pair.front)
    pair.start_discarding(pair.back)
    pair.run_once()
    assert 1002.0 in pair.loop.looks
    pair.loop.now = 1002.0
    pair.run_once()
    assert pair.done


def test_force_ends_whatever_is_left():
    """Two rounds of patience, and both descriptors are closed, from any state."""
    for ending in (
        lambda pair: pair.terminate(Termination(Reason.DRAINING, "wsbridge")),
        lambda pair: pair.on_stream_finished(pair.front, pair.back, 1000, ""),
        lambda pair: pair.on_stream_finished(pair.back, pair.front, 1000, ""),
        lambda pair: pair.on_connection_lost(pair.back, pair.front, "gone"),
    ):
        for front in ("ws", "raw"):
            for back in ("ws", "raw"):
                for room in (None, 0):
                    pair = a_pair(front, back, lingering=0.0)
                    for side in (pair.front, pair.back):
                        side.transport.room = room
                    if room == 0:
                        pair.front.transport.comes(b"\x82\x81" + bytes(4) + b"x")
                        pair.back.transport.comes(b"\x82\x01y")
                        pair.run_once()
                    ending(pair)
                    for _ in range(3):
                        pair.run_once()
                        if not pair.done:
                            pair.force_close()
                    assert pair.done, (front, back, room)
                    assert len(pair.loop.done) == 1
                    assert pair.loop.lingering == 0


def test_a_reset_waits_until_the_peer_has_what_came_before_it():
    """It would destroy what its kernel has not got yet; the pair is looked at until then."""
    pair = a_pair("raw", "raw")
    pair.back.transport.comes(b"abc")
    pair.back.transport.ends(RESET)
    pair.run_once()
    assert pair.front.transport.out == b"abc"
    assert pair.front.transport.log == []
    assert pair.loop.looks[-1] == pair.loop.now
    pair.front.transport.acknowledge()
    pair.run_once()
    assert pair.front.transport.log == ["reset"]
    assert pair.done


def test_a_reset_does_not_wait_for_a_peer_that_is_gone_itself():
    """Nobody is left to receive anything."""
    pair = a_pair("raw", "raw")
    pair.back.transport.comes(b"abc")
    pair.back.transport.ends(RESET)
    pair.run_once()
    pair.front.transport.read_state = RESET
    pair.run_once()
    assert pair.front.transport.log == ["reset"]


@pytest.mark.parametrize("front", ["ws", "raw"])
def test_what_waits_for_a_front_is_being_delivered(front):
    """Pending bytes, and those that the peer's kernel has not got; not for a front that answers nothing any more."""
    pair = a_pair(front, "ws")
    pair.front.transport.room = 1
    pair.back.transport.comes(b"\x82\x03abc\x88\x02\x03\xe8")
    pair.run_once()
    assert pair.front.pending
    assert pair.has_pending_delivery(pair.front)
    assert not pair.has_pending_delivery(pair.back)
    pair.front.transport.room = None
    pair.run_once()
    assert pair.front.pending is None
    assert pair.has_pending_delivery(pair.front)
    pair.front.transport.silent = True
    assert not pair.has_pending_delivery(pair.front)
    pair.front.transport.silent = False
    pair.front.transport.acknowledge()
    assert not pair.has_pending_delivery(pair.front)
