"""Waiting for a backend that is not up yet: attempts repeated for a while, each within its own timeout.

Lives here: `connect: {retry_for: …}`. Must not live here: what an attempt does (`dial`, `backends`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from wsbridge.reasons import End, Reason

FIRST_PAUSE: Final = 0.05
"""Seconds between the first attempt and the second; doubled each time."""
LONGEST_PAUSE: Final = 1.0
"""Seconds that the pause never exceeds."""

_WORTH_IT: Final = frozenset(
    {Reason.BACKEND_REFUSED, Reason.BACKEND_UNREACHABLE, Reason.BACKEND_NAME, Reason.BACKEND_TIMEOUT}
)

T = TypeVar("T")


async def attempts(
    attempt: Callable[[], Awaitable[T | End]],
    *,
    timeout: float | None,
    retry_for: float = 0.0,
    told: Callable[[End], None] | None = None,
    jitter: Callable[[], float] = random.random,
) -> T | End:
    """Try until it works, or until trying again makes no sense or has lasted long enough.

    Only failures that time can heal are tried again: refused, unreachable, unknown name, timeout. A backend that
    answers and says no (its End carries an HTTP `status`) is asked once.

    Args:
        attempt: One attempt; gives a result or the End that tells why not.
        timeout: Seconds for each attempt; None for no limit.
        retry_for: Seconds after which no further attempt begins; 0 for a single attempt.
        told: Called once, with the first failure, when it is going to be retried.
        jitter: Random numbers from 0 to 1; pauses are between half and the whole of their length.

    Returns:
        What the attempt gave; or the last failure.
    """
    began = trio.current_time()
    pause = FIRST_PAUSE
    while True:
        outcome = await _one(attempt, timeout)
        if not isinstance(outcome, End) or not retry_for or not _heals(outcome):
            return outcome
        left = began + retry_for - trio.current_time()
        if left <= 0:
            return outcome
        if told is not None:
            told(outcome)
            told = None
        await trio.sleep(min(pause * (0.5 + 0.5 * jitter()), left))
        pause = min(pause * 2, LONGEST_PAUSE)


async def _one(attempt: Callable[[], Awaitable[T | End]], timeout: float | None) -> T | End:
    if timeout is None:
        return await attempt()
    with trio.move_on_after(timeout):
        return await attempt()
    return End(Reason.BACKEND_TIMEOUT, "back", f"no connection within {timeout:g} s")


def _heals(end: End) -> bool:
    return end.reason in _WORTH_IT and end.status is None
