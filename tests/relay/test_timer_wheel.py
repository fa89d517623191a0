"""The timer wheel: coarse slots, one timer per relay."""

from tests.relay.fakes import a_pair
from wsbridge.relay.timeouts import SLOT_SECONDS, TimerWheel


def test_pairs_come_when_their_slot_does():
    """Not before, and no later than a slot after."""
    wheel, pair = TimerWheel(), a_pair()
    wheel.schedule(pair, 10.01)

    assert 10.01 <= wheel.next_deadline() < 10.01 + SLOT_SECONDS
    assert list(wheel.pop_due(10.01)) == []
    assert list(wheel.pop_due(10.01 + SLOT_SECONDS)) == [pair]
    assert list(wheel.pop_due(20.0)) == []
    assert wheel.next_deadline() is None


def test_an_earlier_appointment_stays():
    """A later one is not even noted: the pair is looked at, and asks again."""
    wheel, pair = TimerWheel(), a_pair()
    wheel.schedule(pair, 10.0)
    wheel.schedule(pair, 20.0)

    assert list(wheel.pop_due(10.0 + SLOT_SECONDS)) == [pair]
    assert wheel.next_deadline() is None


def test_an_appointment_can_be_moved_forward():
    """It is in one slot only."""
    wheel, pair = TimerWheel(), a_pair()
    wheel.schedule(pair, 20.0)
    wheel.schedule(pair, 10.0)

    assert list(wheel.pop_due(10.0 + SLOT_SECONDS)) == [pair]
    assert list(wheel.pop_due(30.0)) == []


def test_many_pairs_in_order_of_time():
    """Those of one slot together, the others after it."""
    wheel = TimerWheel()
    pairs = [a_pair() for _ in range(50)]
    for number, pair in enumerate(pairs):
        wheel.schedule(pair, 100.0 - number)
    seen = []
    while (when := wheel.next_deadline()) is not None:
        seen += list(wheel.pop_due(when))

    assert seen == pairs[::-1]


def test_a_pair_that_is_removed_leaves_nothing():
    """Its slot is passed over; removing it twice, or before it was put, is no error."""
    wheel, pair, other = TimerWheel(), a_pair(), a_pair()
    wheel.cancel(pair)
    wheel.schedule(pair, 10.0)
    wheel.schedule(other, 20.0)
    wheel.cancel(pair)
    wheel.cancel(pair)

    assert wheel.next_deadline() > 19
    assert list(wheel.pop_due(30.0)) == [other]
    assert wheel._slots == {}


def test_put_after_take():
    """A pair that was looked at can be put again, into the same slot too."""
    wheel, pair = TimerWheel(), a_pair()
    wheel.schedule(pair, 10.0)
    assert list(wheel.pop_due(10.0 + SLOT_SECONDS)) == [pair]
    wheel.schedule(pair, 10.0)
    assert list(wheel.pop_due(10.0 + SLOT_SECONDS)) == [pair]
