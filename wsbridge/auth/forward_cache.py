"""Forward cache: whom a service has let in a moment ago.

Lives here: answers by what was asked, for a short time and in bounded number. Must not live here: what is asked. What
clients sent is not kept: only a keyed hash of it is, whose key never leaves the process.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable

import trio

from wsbridge.auth.identity import Identity


class ForwardCache:
    """Answers that let somebody in.

    Args:
        seconds: How long one is kept; None: not at all.
        size: How many are kept.
        clock: Seconds that answers age by.
    """

    def __init__(self, seconds: float | None, size: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._seconds = seconds
        self._size = size
        self._clock = clock
        self._secret = os.urandom(32)
        self._kept: dict[bytes, tuple[float, Identity]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, lines: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Give the hash of all that is sent, the bounds between its parts included."""
        digest = hmac.new(self._secret, digestmod=hashlib.sha256)
        if self._seconds is not None:
            for part in (part for line in lines for part in line):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def get(self, key: bytes) -> Identity | None:
        """Give what was answered, if it still holds."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        until, identity = kept
        if self._clock() < until:
            return identity
        del self._kept[key]
        return None

    def put(self, key: bytes, identity: Identity) -> None:
        """Keep an answer."""
        if self._seconds is None:
            return
        self._kept.pop(key, None)
        if len(self._kept) >= self._size:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (self._clock() + self._seconds, identity)
