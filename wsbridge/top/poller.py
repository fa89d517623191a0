"""A thread that asks the daemon at regular times, and closes connections for the user."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from wsbridge.top.snapshot import Snapshot, with_rates


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why the daemon cannot be asked, one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """The result of an action of the user, one sentence."""

    text: str


Fetch = Callable[[], Snapshot | Unreachable]
Close = Callable[[object], str]


class Poller:
    """Asks the daemon in a thread of its own, so that keys are handled while an answer is awaited.

    Args:
        fetch: Asks once; blocks.
        close: Closes the connection with an id, and says how that went; blocks.
        interval: Seconds between two answers.

    Attributes:
        results: What there is to show.
        is_paused: While it is set, the daemon is not asked.
    """

    def __init__(self, fetch: Fetch, close: Close, interval: float) -> None:
        self.results: queue.SimpleQueue[Snapshot | Unreachable | Message] = queue.SimpleQueue()
        self.is_paused = False
        self._fetch = fetch
        self._close = close
        self._interval = interval
        self._to_close: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._before: Snapshot | None = None

    def start(self, first: Snapshot | None = None) -> None:
        """Start the thread; the process may end without waiting for it.

        Args:
            first: A snapshot from before, for rates.
        """
        self._before = first
        threading.Thread(target=self._run, name="poller", daemon=True).start()

    def close(self, connection_id: object) -> None:
        """Close a connection; a `Message` follows."""
        self._to_close.put(connection_id)

    def _run(self) -> None:
        due = time.monotonic() + (self._interval if self._before is not None else 0)
        while True:
            try:
                connection_id = self._to_close.get(timeout=max(due - time.monotonic(), 0))
            except queue.Empty:
                pass
            else:
                self.results.put(Message(self._close(connection_id)))
            due = time.monotonic() + self._interval
            if not self.is_paused:
                self.results.put(self._ask())

    def _ask(self) -> Snapshot | Unreachable:
        answer = self._fetch()
        if isinstance(answer, Unreachable):
            return answer
        before, self._before = self._before, answer
        return with_rates(answer, before)
