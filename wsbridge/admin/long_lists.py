"""Long lists as JSON, made in turns with other tasks, so that no connection waits for a listing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import trio

REQUEST_TURN: Final = 0.002
"""Seconds that a request may work before other tasks have their turn."""
PIECE_BYTES: Final = 65536
"""Of a response that is sent in pieces."""


def timestamp(seconds: float) -> str:
    """Write a time, in seconds since 1970, as in `2026-01-31T23:59:59.001Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Turns:
    """Shares the event loop with other tasks during long work."""

    def __init__(self) -> None:
        self._end = time.monotonic() + REQUEST_TURN

    async def share(self) -> None:
        """Let other tasks run, if this one has worked long enough."""
        if time.monotonic() >= self._end:
            await trio.lowlevel.checkpoint()
            self._end = time.monotonic() + REQUEST_TURN


class JsonPieces:
    """A JSON object with long lists, in pieces of bytes; each element of a list has a line of its own."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._text: list[str] = []
        self._size = 0
        self._has_keys = False

    def add(self, key: str, value: object) -> None:
        """Add a key whose value is short."""
        self._begin(key)
        self._put(json.dumps(value))

    async def add_list(self, key: str, values: Iterable[str], turns: Turns) -> None:
        """Add a key with a list; its elements, as JSON, are taken one by one."""
        self._begin(key)
        separator = "["
        for value in values:
            self._put(f"{separator}\n    {value}")
            separator = ","
            await turns.share()
        self._put("[]" if separator == "[" else "\n  ]")

    def finish(self) -> list[bytes]:
        """End the object, and return all of it."""
        self._put("\n}\n")
        self._flush()
        return self._pieces

    def _begin(self, key: str) -> None:
        self._put(f'{"," if self._has_keys else "{"}\n  "{key}": ')
        self._has_keys = True

    def _put(self, text: str) -> None:
        self._text.append(text)
        self._size += len(text)
        if self._size >= PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._pieces.append("".join(self._text).encode())
        self._text, self._size = [], 0
