"""Waiting for a backend: what is tried again, how long, with which pauses."""

import pytest
import trio

from tests.rejections import async_outcome
from wsbridge.net.dialer import DialProgress, retry
from wsbridge.reasons import Reason, Rejected, Termination

REFUSED = Rejected(Reason.BACKEND_REFUSED, "refused", initiator="backend")


class Script:
    """An attempt that gives one outcome after the other, the last forever."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.times = []

    async def __call__(self):
        self.times.append(round(trio.current_time(), 3))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome == "hang":
            await trio.sleep_forever()
        if isinstance(outcome, Rejected):
            raise outcome
        return outcome


async def test_a_single_attempt_by_default(autojump_clock):
    """Without retry_for a failure is final."""
    script = Script(REFUSED)
    assert await async_outcome(retry(script, timeout=5)) is REFUSED
    assert len(script.times) == 1


async def test_timeout_of_an_attempt(autojump_clock):
    """An attempt that hangs becomes backend_timeout."""
    outcome = await async_outcome(retry(Script("hang"), timeout=5))
    assert outcome.termination() == Termination(Reason.BACKEND_TIMEOUT, "backend", "no connection within 5 s")


async def test_without_timeout_the_scope_of_the_caller_counts(autojump_clock):
    """None sets no limit of its own."""
    with trio.move_on_after(100) as scope:
        await retry(Script("hang"), timeout=None)
    assert scope.cancelled_caught


async def test_retries_until_it_works(autojump_clock):
    """Pauses double from 50 ms to 1 s; the first failure alone is reported."""
    reported = []
    script = Script(*[REFUSED] * 7, "socket")
    start = round(trio.current_time(), 3)
    outcome = await retry(script, timeout=5, retry_for=30, on_retry=reported.append, jitter=lambda: 1.0)

    assert outcome == "socket"
    assert reported == [REFUSED]
    waits = [round(b - a, 3) for a, b in zip(script.times, script.times[1:], strict=False)]
    assert script.times[0] == start
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_gives_up_after_retry_for(autojump_clock):
    """The last failure is given once the time has passed."""
    script = Script(REFUSED)
    start = trio.current_time()
    assert await async_outcome(retry(script, timeout=5, retry_for=3)) is REFUSED
    assert trio.current_time() - start == pytest.approx(3)


async def test_hanging_attempts_are_tried_again(autojump_clock):
    """A timeout is worth another attempt within retry_for."""
    script = Script("hang", "socket")
    assert await retry(script, timeout=5, retry_for=30) == "socket"


@pytest.mark.parametrize(
    "end",
    [
        Rejected(Reason.OVERLOAD, initiator="wsbridge"),
        Rejected(Reason.BACKEND_TLS, initiator="backend"),
        Rejected(Reason.BACKEND_REFUSED, "403", initiator="backend", permanent=True),
        Rejected(Reason.BACKEND_REJECTED, "404", initiator="backend", permanent=True),
    ],
)
async def test_what_time_does_not_heal_is_not_retried(end, autojump_clock):
    """A permanent failure: local overload, a bad certificate, a negative answer."""
    script = Script(end)
    assert await async_outcome(retry(script, timeout=5, retry_for=30)) is end
    assert len(script.times) == 1


def busy(seconds):
    """A backend that asks to be tried again after some time."""
    return Rejected(Reason.BACKEND_REJECTED, "answered 503", initiator="backend", retry_after=seconds)


async def test_a_backend_that_says_when_is_asked_then(autojump_clock):
    """And no sooner."""
    script = Script(busy(3.0), "socket")
    start = round(trio.current_time(), 3)
    assert await retry(script, timeout=5, retry_for=10, jitter=lambda: 1.0) == "socket"
    assert [round(at - start, 3) for at in script.times] == [0, 3]


async def test_a_backend_that_asks_for_more_time_than_there_is_is_asked_once(autojump_clock):
    """The client does not wait for nothing."""
    script = Script(busy(60.0))
    end = await async_outcome(retry(script, timeout=5, retry_for=10))
    assert end.detail == "answered 503; it asks to wait 60 s, and retry_for ends in 10.0 s"
    assert len(script.times) == 1


async def test_the_step_that_took_too_long_is_named(autojump_clock):
    """With the time that it took itself."""
    progress = DialProgress()

    async def attempt():
        progress.enter("looking up gw")
        await trio.sleep(2)
        progress.enter("TLS handshake with 192.0.2.1:443")
        await trio.sleep_forever()

    end = await async_outcome(retry(attempt, timeout=5, progress=progress))
    assert end.detail == "no connection within 5 s: TLS handshake with 192.0.2.1:443 (3.0 s)"
