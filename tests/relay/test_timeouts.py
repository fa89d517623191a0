"""Timeouts and pings with a fake clock and a fake kernel."""

import pytest

from tests.relay.fakes import a_pair
from wsbridge.net.transport import EOF
from wsbridge.reasons import Reason
from wsbridge.relay import timeouts

START = 1000.0
PING_FRAME = b"\x89\x00"


def at(pair, seconds):
    """Look at the pair so many seconds after the start; give when to look again, after the start."""
    pair.loop.now = START + seconds
    return timeouts.check_timeouts(pair, START + seconds) - START


def run(pair, until, step=0.5):
    """Look at it in steps; give the time of its end, if it ended."""
    now = 0.0
    while now <= until:
        at(pair, now)
        if pair.termination is not None:
            return now
        now += step
    return None


def test_without_limits_it_is_looked_at_hardly_ever():
    """Once an hour."""
    assert at(a_pair(ping_interval=None, write=None), 0) == timeouts.MAX_CHECK_INTERVAL


# ---------------------------------------------------------------------------------------------- idle and age


def test_idle_counts_from_the_last_payload():
    """And the next look is then."""
    pair = a_pair(ping_interval=None, write=None, idle=10.0)
    assert at(pair, 0) == 10.0
    pair.last_payload = START + 7
    assert at(pair, 10) == 17.0
    assert pair.termination is None
    at(pair, 17)
    assert pair.termination.reason is Reason.IDLE_TIMEOUT


def test_it_ends_when_who_the_client_is_no_longer_holds():
    """However busy it is, and with the reason that says so; whichever of it and `max_lifetime` comes first counts."""
    pair = a_pair(ping_interval=None, write=None, auth_expires=START + 5)
    assert at(pair, 0) == 5.0
    at(pair, 5)
    assert pair.termination.reason is Reason.AUTH_EXPIRED
    pair = a_pair(ping_interval=None, write=None, auth_expires=START + 5, max_lifetime=3.0)
    assert at(pair, 0) == 3.0
    at(pair, 3)
    assert pair.termination.reason is Reason.MAX_LIFETIME


def test_a_peer_that_still_takes_bytes_is_not_idle():
    """While it acknowledges payload on its way it is not dropped; when it accepts no more, it is."""
    pair = a_pair(ping_interval=None, write=None, idle=10.0)
    pair.front.transport.write([bytes(1000)])
    pair.front.transport.acknowledge(100)
    at(pair, 10)
    assert pair.termination is None
    pair.front.transport.acknowledge(100)
    at(pair, 20)
    assert pair.termination is None
    at(pair, 30)
    assert pair.termination.reason is Reason.IDLE_TIMEOUT


def test_progress_of_both_sides_counts():
    """One side's does not hide the other's until later."""
    pair = a_pair(ping_interval=None, write=None, idle=10.0)
    for side in (pair.front, pair.back):
        side.transport.write([bytes(1000)])
        side.transport.acknowledge(100)
    at(pair, 10)
    at(pair, 20)
    assert pair.termination.reason is Reason.IDLE_TIMEOUT


def test_max_age_counts_from_the_beginning():
    """Whatever moves."""
    pair = a_pair(ping_interval=None, write=None, max_lifetime=10.0)
    pair.last_payload = START + 9.9
    assert at(pair, 9.9) == pytest.approx(10.0)
    at(pair, 10)
    assert pair.termination.reason is Reason.MAX_LIFETIME


# ---------------------------------------------------------------------------------------------- stalled writes


def blocked(pair, side):
    """Have bytes wait for a side."""
    side.transport.room = 0
    side.pending = [bytes(1000)]


@pytest.mark.parametrize("who", ["front", "back"])
def test_a_side_that_acknowledges_nothing_is_stalled(who):
    """And named."""
    pair = a_pair(ping_interval=None, write=10.0)
    side = getattr(pair, who)
    blocked(pair, side)
    at(pair, 0)
    at(pair, 9.9)
    assert pair.termination is None
    at(pair, 10)
    assert (pair.termination.reason, pair.termination.initiator) == (
        Reason.WRITE_STALLED,
        "client" if who == "front" else "backend",
    )
    assert pair.front.transport.log == pair.back.transport.log == ["reset"]
    assert pair.loop.done == [pair]


@pytest.mark.parametrize("progress", [True, False], ids=["progress", "none"])
def test_a_stall_is_noticed_soon_after_the_time_is_over(progress):
    """Bytes may begin to wait, or be acknowledged the last time, right after a look."""
    pair = a_pair(ping_interval=None, write=10.0)
    pair.front.transport.write([bytes(1000)])
    if progress:
        blocked(pair, pair.front)
    due = at(pair, 0)
    pair.front.transport.acknowledge(1)
    blocked(pair, pair.front)
    while pair.termination is None:
        now, due = due, at(pair, due)
    assert 10 <= now <= 11.5


def test_a_side_that_acknowledges_little_is_not_stalled():
    """Though the same bytes wait for it all the time."""
    pair = a_pair(ping_interval=None, write=10.0)
    pair.front.transport.write([bytes(1000)])
    blocked(pair, pair.front)
    for second in range(0, 100, 5):
        at(pair, second)
        pair.front.transport.acknowledge(1)
    assert pair.termination is None


def test_a_side_with_nothing_to_take_is_not_stalled():
    """Silence is no stall; the clock starts when bytes wait."""
    pair = a_pair(ping_interval=None, write=10.0)
    at(pair, 0)
    at(pair, 100)
    blocked(pair, pair.front)
    at(pair, 105)
    assert pair.termination is None
    at(pair, 114)
    assert pair.termination is None
    at(pair, 115)
    assert pair.termination.reason is Reason.WRITE_STALLED


def test_write_off():
    """Then a peer may wait forever."""
    pair = a_pair(ping_interval=None, write=None)
    blocked(pair, pair.front)
    assert run(pair, 10_000, step=1000) is None


# ---------------------------------------------------------------------------------------------- pings


def test_a_ping_goes_out_after_silence():
    """Not before `ping_interval`, once, and the deadline starts when it is acknowledged."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    assert at(pair, 0) == 20.0
    at(pair, 20)
    assert pair.front.transport.out == PING_FRAME
    pair.front.transport.acknowledge()
    at(pair, 21)
    assert pair.front.transport.out == PING_FRAME
    at(pair, 26)
    assert (pair.termination.reason, pair.termination.initiator) == (Reason.CLIENT_LOST, "client")


@pytest.mark.parametrize("direction", ["last_received", "last_sent"])
def test_silence_in_either_direction_is_enough(direction):
    """A proxy on the way counts each for itself."""
    pair = a_pair(ping_interval=20.0, write=None)
    setattr(pair.front, direction, START + 19)
    at(pair, 20)
    assert pair.front.transport.out == PING_FRAME


def test_no_ping_while_both_directions_are_busy():
    """It is put off to when the quieter one has been silent long enough."""
    pair = a_pair(ping_interval=20.0, write=None)
    pair.front.last_received, pair.front.last_sent = START + 15, START + 10
    assert at(pair, 20) == 30.0
    assert pair.front.transport.out == b""


def test_any_byte_heard_is_an_answer():
    """And the next ping is `ping_interval` later."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    at(pair, 20)
    pair.front.transport.acknowledge()
    pair.front.last_received = START + 22
    assert at(pair, 30) == 40.0
    assert pair.termination is None


def test_raw_sides_are_not_pinged():
    """They have no pings."""
    pair = a_pair("raw", "raw", ping_interval=20.0, write=None)
    assert at(pair, 100) == 100 + timeouts.MAX_CHECK_INTERVAL


def test_the_deadline_waits_for_the_acknowledgement():
    """A ping behind megabytes in the kernel on a slow link waits for minutes, as long as some are acknowledged."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    pair.front.transport.write([bytes(1000)])
    for second in range(20, 120, 2):
        at(pair, second)
        pair.front.transport.acknowledge(10)
        assert pair.termination is None
    pair.front.transport.acknowledge()
    at(pair, 120)
    at(pair, 122.5)
    assert pair.termination is None
    at(pair, 125)
    assert pair.termination.reason is Reason.CLIENT_LOST


def test_a_kernel_that_answers_nothing_gets_no_more_time():
    """Its host is gone: neither the ping nor what is repeated is acknowledged."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    at(pair, 20)
    pair.front.transport.silent = True
    for second in (21, 23, 25, 26):
        at(pair, second)
    assert pair.termination.reason is Reason.CLIENT_LOST


def test_the_deadline_stands_still_while_the_peer_is_not_read():
    """Because the other side is blocked; afterwards it starts again."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    at(pair, 20)
    pair.front.transport.acknowledge()
    blocked(pair, pair.back)
    for second in range(21, 60):
        at(pair, second)
    assert pair.termination is None
    pair.back.pending = None
    at(pair, 63)
    assert pair.termination is None
    at(pair, 65)
    assert pair.termination.reason is Reason.CLIENT_LOST


def test_a_ping_that_could_not_be_sent_is_not_waited_for():
    """Bytes were pending when it was due: it goes out behind them, and only from then on is there an answer to miss."""
    pair = a_pair(ping_interval=20.0, ping_timeout=5.0, write=None)
    blocked(pair, pair.front)
    for second in range(20, 60):
        at(pair, second)
    assert pair.front.transport.out == b""
    assert pair.termination is None
    pair.front.transport.room = None
    pair.front.flush(START + 60)
    pair.front.transport.acknowledge()
    at(pair, 60)
    assert pair.front.transport.out.endswith(PING_FRAME)
    pair.front.transport.acknowledge()
    at(pair, 61)
    at(pair, 64)
    assert pair.termination is None
    at(pair, 66)
    assert pair.termination.reason is Reason.CLIENT_LOST


def test_a_lost_backend():
    """The backend is reset, and the client gets 1011."""
    pair = a_pair("ws", "ws", ping_interval=20.0, ping_timeout=5.0, write=None)
    at(pair, 20)
    pair.back.transport.acknowledge()
    at(pair, 21)
    pair.front.last_received = START + 21
    at(pair, 27)
    assert (pair.termination.reason, pair.termination.initiator) == (Reason.BACKEND_RESET, "backend")
    assert pair.back.transport.log == ["reset"]
    assert pair.front.transport.out.endswith(b"\x88\x0f\x03\xf3backend_reset")


# ---------------------------------------------------------------------------------------------- endings


def test_an_ending_is_forced_after_close():
    """A peer that never answers our close frame: the other is reset, lingering, and then it is over."""
    pair = a_pair(ping_interval=None, write=None, close=5.0, lingering=2.0)
    pair.back.transport.ends(EOF)
    pair.run_once()
    assert pair.termination.reason is Reason.BACKEND_CLOSED
    pair.front.transport.acknowledge()
    for second in (1.25, 4.9):
        at(pair, second)
    assert pair.back.transport.log == []
    at(pair, 5)
    assert pair.back.transport.log == ["reset"]
    assert pair.termination.detail == "gave up waiting for client after close, 5 s; reset backend"
    at(pair, 7)
    assert pair.front.transport.log == ["fin", "close"]
    assert pair.loop.done == [pair]
    assert pair.loop.lingering == 0


def test_the_patience_of_a_half_close_is_silence():
    """Payload restarts it."""
    pair = a_pair("raw", "raw", ping_interval=None, write=None, half_close=30.0)
    pair.front.transport.ends(EOF)
    pair.run_once()
    for second in range(10, 200, 10):
        pair.last_payload = START + second
        at(pair, second)
    assert not pair.done
    at(pair, 219.9)
    assert pair.front.transport.log == []
    at(pair, 220)
    assert pair.front.transport.log == ["reset"]


def test_what_waits_for_a_side_after_the_others_end_has_write_to_go():
    """And not `close`; but no more than `write`."""
    pair = a_pair("ws", "raw", ping_interval=None, write=100.0, close=5.0)
    pair.front.transport.room = 0
    pair.back.transport.comes(bytes(1000))
    pair.run_once()
    pair.on_stream_finished(pair.back, pair.front, None, "")
    for second in (0, 6, 50, 99):
        at(pair, second)
        assert not pair.done
    at(pair, 100)
    assert pair.termination.reason is Reason.WRITE_STALLED
    assert pair.loop.done == [pair]
