"""Pump: one edge-triggered epoll set for all pairs, awaited by a single trio task.

Lives here: from events to turns, the list of pairs whose turn is not over, and the looks at the clock. Must not live
here: what a turn does (`pair`), what time does (`liveness`).
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable

import trio

from wsbridge.log import log
from wsbridge.reasons import End, Reason
from wsbridge.relay import liveness
from wsbridge.relay.endpoint import Endpoint
from wsbridge.relay.pair import Pair
from wsbridge.relay.wheel import Wheel

EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_OUT = select.EPOLLOUT
_IN = select.EPOLLIN
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

TURN = 0.004
"""Seconds of work after which other tasks have their turn."""

BATCH = 32
"""Events taken from the kernel at a time; between two batches the clock is read."""


class Pump:
    """Moves the bytes of all pairs in this process.

    Args:
        lingering_limit: Sockets that may linger at a time; beyond it they are closed at once.

    Attributes:
        now: The loop's clock at the latest batch, in seconds.
        lingering: Sockets that linger.
    """

    def __init__(self, lingering_limit: int = 256) -> None:
        self.now = 0.0
        self.lingering = 0
        self._lingering_limit = lingering_limit
        self._epoll = select.epoll()
        self._sides: dict[int, Endpoint] = {}
        self._ready: deque[Pair] = deque()
        self._wheel = Wheel()
        self._clock: Callable[[], float] = time.monotonic
        self._sleeper: trio.CancelScope | None = None
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._awake = False
        self._epoll.register(self._bell, select.EPOLLIN)

    # ------------------------------------------------------------------ for pairs

    def add(self, pair: Pair) -> None:
        """Take a pair on; its first turn may come at once."""
        for side in (pair.front, pair.back):
            if side.closed:
                continue
            fd = side.wire.fd
            side.wire.readable = side.wire.holds()
            self._sides[fd] = side
            self._epoll.register(fd, EVENTS)
            if side.wire.readable or side.wire.ended is not None:
                self.later(pair)
        due = liveness.check(pair, self.now)
        if not pair.done:
            self.look_at(pair, due)

    def tick(self) -> float:
        """Read the clock."""
        self.now = self._clock()
        return self.now

    def later(self, pair: Pair) -> None:
        """Put a pair on the list that is worked off before the next wait."""
        if pair.ready:
            return
        pair.ready = True
        self._ready.append(pair)
        if not self._awake:
            self._awake = True
            os.eventfd_write(self._bell, 1)

    def look_at(self, pair: Pair, when: float) -> None:
        """Have `liveness` look at a pair no later than `when`."""
        if pair.done:
            return
        self._wheel.put(pair, when)
        if self._sleeper is not None and self._sleeper.deadline > when:
            self._sleeper.deadline = self._wheel.next_time() or when

    def may_linger(self) -> bool:
        """Tell whether one more socket may linger."""
        return self.lingering < self._lingering_limit

    def forget(self, side: Endpoint) -> None:
        """Take a side out of the set; its descriptor is about to be closed."""
        fd = side.wire.fd
        if self._sides.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # a failed write can have closed it
                self._epoll.unregister(fd)

    def finished(self, pair: Pair) -> None:
        """Both descriptors of a pair are closed."""
        self._wheel.remove(pair)
        pair.on_done()

    # ------------------------------------------------------------------ tasks

    async def run(self) -> None:
        """Move bytes until cancelled; wants `keep_time` beside it."""
        self._clock = trio.lowlevel.current_clock().current_time
        fd = self._epoll.fileno()
        while True:
            self._awake = False
            if not self._ready:
                await trio.lowlevel.wait_readable(fd)
            else:
                await trio.lowlevel.checkpoint()
            self._awake = True
            self._work()

    async def keep_time(self) -> None:
        """Look at pairs when their time comes, until cancelled."""
        while True:
            when = self._wheel.next_time()
            with trio.CancelScope(
                deadline=trio.current_time() + liveness.FAR if when is None else when
            ) as self._sleeper:
                await trio.sleep_forever()
            self._sleeper = None
            now = self.tick()
            for pair in self._wheel.take(now):
                if not pair.done:
                    self._guard(pair, self._look)
            await trio.lowlevel.checkpoint()

    def _look(self, pair: Pair) -> None:
        due = liveness.check(pair, self.now)
        if not pair.done:
            self._wheel.put(pair, due)
            if pair.front.starved or pair.back.starved:
                self.later(pair)

    def _work(self) -> None:
        """Handle events until there are none, or the turn is over."""
        sides, ready = self._sides, self._ready
        poll = self._epoll.poll
        now = self.now = self._clock()
        stop = now + TURN
        while True:
            for _ in range(len(ready)):
                pair = ready.popleft()
                pair.ready = False
                if not pair.done:
                    self._guard(pair, Pair.turn)
                    now = self.now = self._clock()
                    if now >= stop:
                        break  # the others come first next time
            events = poll(0, BATCH)
            for fd, event in events:
                side = sides.get(fd)
                if side is None:
                    if fd == self._bell:
                        os.eventfd_read(self._bell)
                    continue
                wire = side.wire
                if event & _GONE:
                    wire.hup = wire.readable = True
                    if event & select.EPOLLERR and (
                        side.rx == "closed" or side.other.pending is not None or side.meter is not None
                    ):
                        wire.fail()
                        self.later(side.pair)
                elif event & _IN or side.is_websocket:
                    wire.readable = True
                pair = side.pair
                try:
                    other = side.other
                    blocked = side.pending is not None or side.pong is not None
                    if blocked:
                        side.flush(now)
                    pair.move(side, other)
                    if blocked:
                        pair.move(other, side)
                    if pair.end is not None:
                        pair.settle(side)
                        pair.settle(other)
                except Exception:
                    self._failed(pair)
            if not events and not ready:
                return
            now = self.now = self._clock()
            if now >= stop:
                return

    def _guard(self, pair: Pair, act: Callable[[Pair], None]) -> None:
        try:
            act(pair)
        except Exception:
            self._failed(pair)

    def _failed(self, pair: Pair) -> None:
        """A bug in one connection ends that one alone."""
        log.exception("bug", where="relay")
        end = End(Reason.INTERNAL_ERROR, "bridge")
        sides = (pair.front, pair.back)
        ending = pair.end is not None
        try:
            if not ending:
                pair.terminate(end)
                for side in sides:
                    pair.discard(side)
        except Exception:
            ending = True
        if ending:  # what failed may be the ending itself
            pair.end = end
            for side in sides:
                pair.abort(side)

    def close(self) -> None:
        """Give the descriptors back; no pair may be left."""
        self._epoll.close()
        os.close(self._bell)
