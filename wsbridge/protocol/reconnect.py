"""When the client of a resumable session tries again, and which answers end its attempts (docs/resume-protocol.md)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_BOUND: Final = 1.0
"""Seconds that the first random pause has at most; each failed attempt doubles it."""

MAX_BOUND: Final = 15.0
"""Seconds that no random pause exceeds."""

STABLE_AFTER: Final = 10.0
"""Seconds after which an attached transport is stable: pauses are short again once it is lost."""

AT_ONCE_INTERVAL: Final = 1.0
"""Seconds between two attempts that are made at once, however much came over the transport between them."""

RETRIED_STATUSES: Final = frozenset((408, 425, 429))
"""Statuses of class 4 that say nothing against another attempt."""


def is_refusal(status: int | None) -> bool:
    """Return whether an HTTP status refuses a session that was open before, such as 401, 403 or 404.

    Others are retried: 5xx will pass, and 2xx or 3xx are not the server's (the login page of a network).
    """
    return status is not None and 400 <= status <= 499 and status not in RETRIED_STATUSES


class ReconnectSchedule:
    """The pauses between attempts to get a transport: none, then random ones up to a bound that grows (full jitter).

    A transport that is lost before it was stable does not reset the bound. If the session got no further over it, it
    counts as an attempt that failed, until the session gets further: a server that resumes the session and drops the
    transport, again and again, is dialed less and less often.

    Args:
        jitter: Random numbers from 0 to 1.

    Attributes:
        due: When the next attempt may begin, by the caller's clock in seconds.
    """

    __slots__ = (
        "_at_once",
        "_attached",
        "_drops",
        "_failed",
        "_jitter",
        "_may_be_at_once",
        "_notice",
        "_progress",
        "due",
    )

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._attached: float | None = None  # when the current transport was
        self._progress = 0  # at the latest loss
        self._may_be_at_once = True
        self._at_once: float | None = None  # when an attempt was last made at once
        self._notice: tuple[float, float] | None = None  # what GOAWAY asked for
        self._failed = 0  # attempts that did not reach OPENED or RESUMED, since a transport was stable
        self._drops = 0  # transports that were of no use, one after the other
        self.due = 0.0

    @property
    def failures(self) -> int:
        """Attempts that have failed since a transport was stable."""
        return self._failed + self._drops

    def attached(self, now: float) -> None:
        """Note that a transport carries the session: OPENED or RESUMED has arrived."""
        self._attached = now

    def going_away(self, after: float, jitter: float) -> None:
        """Note what the server asks for once it has closed this transport, in seconds."""
        self._notice = after, jitter

    def lost(self, now: float, progress: int) -> None:
        """Note that a transport that carried the session is lost.

        Args:
            now: The clock, in seconds.
            progress: How far the session has got; see `Session.progress`.
        """
        is_stable = self._attached is not None and now - self._attached >= STABLE_AFTER
        was_useful = is_stable or progress > self._progress
        self._attached, self._progress = None, progress
        if is_stable:
            self._failed = 0
        if was_useful:
            self._drops, self._may_be_at_once = 0, True
        if self._may_be_at_once and (self._at_once is None or now - self._at_once >= AT_ONCE_INTERVAL):
            self._may_be_at_once = False
            self.due = self._at_once = now
        else:
            self.due = now + self._jitter() * self._bound
            self._drops += not was_useful
        notice, self._notice = self._notice, None
        if notice is not None:
            self.due = max(self.due, now + notice[0] + self._jitter() * notice[1])

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """Note that an attempt has failed before the session went on.

        Args:
            now: The clock, in seconds.
            retry_after: Seconds that the server asks to wait.
        """
        self._attached = None
        pause = self._jitter() * self._bound
        self._failed += 1
        self.due = now + max(pause, retry_after or 0.0)

    @property
    def _bound(self) -> float:
        return min(MAX_BOUND, FIRST_BOUND * 2.0 ** min(self.failures, 16))
