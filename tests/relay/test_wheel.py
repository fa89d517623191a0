"""The wheel: appointments in coarse slots, one a pair."""

from tests.relay.fakes import a_pair
from wsbridge.relay.wheel import SLOT, Wheel


def test_pairs_come_when_their_slot_does():
    """Not before, and no later than a slot after."""
    wheel, pair = Wheel(), a_pair()
    wheel.put(pair, 10.01)

    assert 10.01 <= wheel.next_time() < 10.01 + SLOT
    assert wheel.take(10.01) == []
    assert wheel.take(10.01 + SLOT) == [pair]
    assert wheel.take(20.0) == []
    assert wheel.next_time() is None


def test_an_earlier_appointment_stays():
    """A later one is not even noted: the pair is looked at, and asks again."""
    wheel, pair = Wheel(), a_pair()
    wheel.put(pair, 10.0)
    wheel.put(pair, 20.0)

    assert wheel.take(10.0 + SLOT) == [pair]
    assert wheel.next_time() is None


def test_an_appointment_can_be_moved_forward():
    """It is in one slot only."""
    wheel, pair = Wheel(), a_pair()
    wheel.put(pair, 20.0)
    wheel.put(pair, 10.0)

    assert wheel.take(10.0 + SLOT) == [pair]
    assert wheel.take(30.0) == []


def test_many_pairs_in_order_of_time():
    """Those of one slot together, the others after it."""
    wheel = Wheel()
    pairs = [a_pair() for _ in range(50)]
    for number, pair in enumerate(pairs):
        wheel.put(pair, 100.0 - number)
    seen = []
    while (when := wheel.next_time()) is not None:
        seen += wheel.take(when)

    assert seen == pairs[::-1]


def test_a_pair_that_is_removed_leaves_nothing():
    """Its slot is passed over; removing it twice, or before it was put, is no error."""
    wheel, pair, other = Wheel(), a_pair(), a_pair()
    wheel.remove(pair)
    wheel.put(pair, 10.0)
    wheel.put(other, 20.0)
    wheel.remove(pair)
    wheel.remove(pair)

    assert wheel.next_time() > 19
    assert wheel.take(30.0) == [other]
    assert wheel._slots == {}


def test_put_after_take():
    """A pair that was looked at can be put again, into the same slot too."""
    wheel, pair = Wheel(), a_pair()
    wheel.put(pair, 10.0)
    assert wheel.take(10.0 + SLOT) == [pair]
    wheel.put(pair, 10.0)
    assert wheel.take(10.0 + SLOT) == [pair]
