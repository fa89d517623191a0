"""Output: bytes into a descriptor that may be full, gone, or non-blocking, without ever raising.

Lives here: the write loop and what each error means. Must not live here: lines, records, counts of them.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final

POLL: Final = 0.2
"""Seconds between two looks at whether to give up, while the descriptor is full."""
CHUNK: Final = 65536
"""Bytes of one system call."""


class Output:
    """Writes whole lines to one descriptor, which it neither owns nor changes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False

    def write(self, data: bytes, give_up: Callable[[], bool]) -> int:
        """Write all of `data`, waiting while the descriptor is full.

        Args:
            data: Whole lines.
            give_up: Asked while the descriptor is full; True ends the attempt.

        Returns:
            How many bytes of `data` went out: all of them, or fewer after an error (reader gone, disk full) or after
            `give_up`. If the last line went out in part, the next write begins a new line.
        """
        if self._torn:
            data = b"\n" + data
        sent = self._send(data, give_up)
        mended = 1 if self._torn and sent else 0
        if sent:
            self._torn = data[sent - 1] != 0x0A
        return sent - mended

    def _send(self, data: bytes, give_up: Callable[[], bool]) -> int:
        view, sent = memoryview(data), 0
        while sent < len(view):
            try:
                if self._writable():
                    sent += os.write(self._fd, view[sent : sent + CHUNK])
                    continue
            except BlockingIOError:
                time.sleep(POLL / 20)  # somebody else filled it first
            except OSError:
                break
            if give_up():
                break
        return sent

    def _writable(self) -> bool:
        """Wait a little for room, or for the error that the next write will report."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(POLL * 1000))
