"""Passwords: verifying them without holding up anything else.

Lives here: the threads that do it, who may wait for one, and which pairs were verified a short while ago. Must not live
here: whose password it is (`basic`), and the hashes themselves. Outlives the generations of the configuration: the
process has one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from typing import Final

import trio

from wsbridge.auth.htpasswd import Stored

MOST_KEPT: Final = 4096
"""Verified pairs that are kept; past it, the oldest is forgotten."""
LONGEST_KEPT: Final = 3600.0
"""Seconds after which a verified pair is forgotten, whoever would still take it."""


class _Trial:
    """One password being verified, for all who show the same at the same time."""

    __slots__ = ("done", "right")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.right: bool | None = None


class Passwords:
    """Verifies passwords.

    A pair that was right is kept as its HMAC under a key of this process, taken over the name, the password and the
    stored hash: neither a core nor a log gives it away, and a changed hash ends it at once.

    Args:
        threads: Passwords verified at a time; None for as many as there are cores.
        queue: How many may wait for that.

    Attributes:
        threads: See above, as a number.
        queue: See above.
    """

    def __init__(self, threads: int | None = None, queue: int = 64) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.queue = queue
        self._limiter = trio.CapacityLimiter(self.threads)
        self._key = secrets.token_bytes(32)
        self._verified: dict[bytes, float] = {}
        self._trials: dict[bytes, _Trial] = {}

    async def verify(self, name: str, password: bytes, stored: Stored, keep: float) -> bool | None:
        """Tell whether a password is the one that a hash was made of.

        Args:
            name: Whose it is said to be.
            password: What was shown; without NUL.
            stored: The hash.
            keep: Seconds for which the answer of an earlier verification will do.

        Returns:
            Whether it is; None if more wait for an answer than may.
        """
        mark = self._mark(name, password, stored)
        while True:
            since = self._verified.get(mark)
            if since is not None and trio.current_time() < since + keep:
                return True
            trial = self._trials.get(mark)
            if trial is None:
                return await self._try(mark, password, stored, keep)
            await trial.done.wait()
            if trial.right is not None:
                return trial.right

    def pick(self, name: str, count: int) -> int:
        """Give a number below `count` that is always the same for a name, and that nobody outside can tell."""
        digest = hmac.digest(self._key, b"pick\0" + name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return int.from_bytes(digest) % count

    def _mark(self, name: str, password: bytes, stored: Stored) -> bytes:
        pair = b"\0".join((b"pair", name.encode("utf-8", "surrogatepass"), stored.text.encode(), password))
        return hmac.digest(self._key, pair, hashlib.sha256)

    async def _try(self, mark: bytes, password: bytes, stored: Stored, keep: float) -> bool | None:
        """Verify in a thread; one whom its waiter has left goes on, and holds its place until it is done."""
        if not self._limiter.available_tokens and self._limiter.statistics().tasks_waiting >= self.queue:
            return None
        trial = self._trials[mark] = _Trial()
        try:
            trial.right = await trio.to_thread.run_sync(
                stored.verify, password, abandon_on_cancel=True, limiter=self._limiter
            )
            if trial.right and keep:
                self._keep(mark)
        finally:
            del self._trials[mark]
            trial.done.set()
        return trial.right

    def _keep(self, mark: bytes) -> None:
        now = trio.current_time()
        self._verified.pop(mark, None)
        self._verified[mark] = now
        while len(self._verified) > MOST_KEPT or next(iter(self._verified.values())) < now - LONGEST_KEPT:
            del self._verified[next(iter(self._verified))]
