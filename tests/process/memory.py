"""The anonymous memory of a daemon, sampled while a test runs."""

from __future__ import annotations

import threading
from typing import Self

from tests.process.daemon import Daemon

ROOM = 16 * 1024 * 1024
"""Bytes by which the process may grow."""


class Sampler:
    """Samples a process each 100 ms.

    Attributes:
        first: Bytes at the beginning.
        most: The most that was seen.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.first = self.most = daemon.anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, self.daemon.anonymous())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
