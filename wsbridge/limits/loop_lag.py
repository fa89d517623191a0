"""Lag of the event loop: how late it runs a task that is due."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 10.0
"""Seconds of which the longest lag is kept."""
WINDOWS: Final = 6
"""How many of them count as recent."""
STALL_CPU_SHARE: Final = 0.5
"""Share of a lag below which the process did not compute: it was stopped, starved of its processor, or blocked."""


@dataclass(frozen=True, slots=True)
class Lag:
    """One lag.

    Attributes:
        seconds: How late the loop was.
        cpu_seconds: Processor time that the process used in this time.
    """

    seconds: float
    cpu_seconds: float

    @property
    def is_stall(self) -> bool:
        """Whether the process did not run for most of it, as after SIGSTOP; else the loop was busy."""
        return self.cpu_seconds < STALL_CPU_SHARE * self.seconds


class LoopLag:
    """The longest lags of the last minute and since the start, in seconds.

    Attributes:
        longest: Since the start.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._windows: deque[float] = deque([0.0], WINDOWS)
        self._window_end = 0.0

    @property
    def recent(self) -> float:
        """The longest of the last minute."""
        return max(self._windows)

    def record(self, seconds: float, now: float) -> None:
        """Record a lag that ended at `now`, in seconds of a clock that never goes back."""
        if now >= self._window_end:
            self._window_end = now + WINDOW
            self._windows.append(0.0)
        self._windows[-1] = max(self._windows[-1], seconds)
        self.longest = max(self.longest, seconds)
