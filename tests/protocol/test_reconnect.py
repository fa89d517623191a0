"""The pauses between attempts to reconnect, and which answers refuse a session."""

from __future__ import annotations

import pytest

from wsbridge.protocol.reconnect import AT_ONCE_INTERVAL, MAX_BOUND, STABLE_AFTER, ReconnectSchedule, is_refusal


def schedule(jitter: float = 1.0) -> ReconnectSchedule:
    """Give one whose pauses are this part of their bound."""
    return ReconnectSchedule(lambda: jitter)


def test_the_first_attempt_is_at_once_and_pauses_grow() -> None:
    """After a loss there is no pause; then the bound doubles from one second up to its maximum."""
    pauses = schedule()
    pauses.attached(100.0)
    pauses.lost(105.0, 1)
    due = [pauses.due - 105.0]
    for _ in range(6):
        now = pauses.due
        pauses.failed(now)
        due.append(pauses.due - now)

    assert due == [0.0, 1.0, 2.0, 4.0, 8.0, MAX_BOUND, MAX_BOUND]


def test_pauses_are_random_from_nothing() -> None:
    """Full jitter: with the lowest random number there is no pause."""
    pauses = schedule(0.0)
    pauses.lost(5.0, 0)
    pauses.failed(5.0)
    assert pauses.due == 5.0


def test_the_bound_is_reset_by_a_stable_transport_only() -> None:
    """A transport that carries the session for a moment leaves the bound as it was, without growing it."""
    pauses = schedule()
    pauses.lost(0.0, 0)
    for now in (0.0, 1.0, 3.0):
        pauses.failed(now)
    pauses.attached(10.0)
    pauses.lost(10.0 + STABLE_AFTER - 1, 1)
    assert pauses.failures == 3
    pauses.failed(pauses.due)
    assert pauses.failures == 4
    pauses.attached(40.0)
    pauses.lost(40.0 + STABLE_AFTER, 1)
    assert pauses.failures == 0
    assert pauses.due == 40.0 + STABLE_AFTER


def test_a_path_that_is_cut_often_is_not_flooded() -> None:
    """While bytes go through: attempts at once have an interval between them; others a pause that does not grow."""
    pauses = schedule()
    pauses.attached(100.0)
    pauses.lost(100.0, 1)
    assert pauses.due == 100.0
    for progress in range(2, 5):
        pauses.attached(100.1)
        pauses.lost(100.2, progress)
        assert (pauses.due, pauses.failures) == (101.2, 0)
    pauses.attached(101.0)
    pauses.lost(100.0 + AT_ONCE_INTERVAL, 5)
    assert pauses.due == 100.0 + AT_ONCE_INTERVAL


@pytest.mark.parametrize("lasts", [0.0, STABLE_AFTER - 1])
def test_a_server_that_resumes_and_drops_is_dialed_less_and_less(lasts: float) -> None:
    """A transport without a byte that was not stable is a failed attempt, until a byte comes."""
    pauses, now, due = schedule(), 100.0, list[float]()
    for _ in range(7):
        pauses.attached(now)
        now += lasts
        pauses.lost(now, 5)
        due.append(pauses.due - now)
        now = pauses.due
    assert due == [0.0, 1.0, 2.0, 4.0, 8.0, MAX_BOUND, MAX_BOUND]
    pauses.attached(now)
    pauses.lost(now + lasts, 6)
    assert (pauses.due, pauses.failures) == (now + lasts, 0)
    pauses.attached(pauses.due)
    pauses.lost(pauses.due, 6)
    assert (pauses.due, pauses.failures) == (now + lasts + 1, 1)


def test_bytes_do_not_reset_what_could_not_be_reached() -> None:
    """Attempts that did not reach the session count until a transport was stable, whatever came over others."""
    pauses = schedule()
    for now in (0.0, 1.0, 3.0):
        pauses.failed(now)
    pauses.attached(10.0)
    pauses.lost(10.0, 1)
    assert (pauses.due, pauses.failures) == (10.0, 3)
    pauses.attached(10.0)
    pauses.lost(10.0, 1)
    assert (pauses.due, pauses.failures) == (18.0, 4)
    pauses.attached(18.0)
    pauses.lost(18.5, 2)
    assert (pauses.due, pauses.failures) == (18.5, 3)


def test_what_the_server_asks_for_is_obeyed() -> None:
    """Retry-After is the shortest pause; GOAWAY sets the pause after the loss, once."""
    pauses = schedule(0.5)
    pauses.failed(10.0, 30.0)
    assert pauses.due == 40.0
    pauses.failed(40.0, 0.1)
    assert pauses.due == 41.0
    pauses.attached(41.0)
    pauses.going_away(2.0, 4.0)
    pauses.lost(50.0, 1)
    assert pauses.due == 54.0
    pauses.attached(54.0)
    pauses.lost(60.0, 2)
    assert pauses.due == 60.0


def test_a_server_that_always_goes_away_is_not_flooded() -> None:
    """GOAWAY delays the next attempt; that it may be made now is no reason to make each at once."""
    pauses = schedule()
    pauses.lost(0.0, 0)
    for pause in (1.0, 2.0, 4.0):
        pauses.going_away(0.0, 0.0)
        now = pauses.due
        pauses.attached(now)
        pauses.lost(now, 0)
        assert pauses.due == now + pause


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 426])
def test_refusals(status: int) -> None:
    """A status of class 4 refuses."""
    assert is_refusal(status)


@pytest.mark.parametrize("status", [None, 200, 302, 408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass(status: int | None) -> None:
    """No answer, and statuses that pass or are not the server's, do not."""
    assert not is_refusal(status)
