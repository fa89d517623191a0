"""The loop that moves the bytes of all relays: a nested epoll set, and the list of relays that have work left."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

import trio

from wsbridge.log.logger import log
from wsbridge.reasons import Reason, Termination
from wsbridge.relay import timeouts
from wsbridge.relay.endpoint import RX_CLOSED, Endpoint
from wsbridge.relay.relay import Relay
from wsbridge.relay.session_relay import SessionRelay
from wsbridge.relay.timeouts import SLOT_SECONDS, TimedPair, TimerWheel
from wsbridge.taskless import MAX_CATCH_UP, MAX_EVENTS, TIME_SLICE

EPOLL_EVENTS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EPOLL_IN = select.EPOLLIN
_EPOLL_HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EPOLL_UNUSUAL = _EPOLL_HANGUP | select.EPOLLPRI

LATE = 0.5
"""Seconds after which the process has not just been busy, but stopped: a signal, a suspended machine."""


class RelayLoop:
    """Moves the bytes of all pairs in this process.

    Args:
        max_lingering: Concurrent lingering sockets; further ones are closed immediately.

    Attributes:
        now: The loop's clock at the latest batch, in seconds.
        lingering: Sockets that linger.
    """

    def __init__(self, max_lingering: int = 256) -> None:
        self.now = 0.0
        self.lingering = 0
        self.max_lingering = max_lingering
        self._epoll = select.epoll()
        self._sides: dict[int, tuple[Relay, Endpoint]] = {}
        self._ready: deque[Relay] = deque()
        self._wheel: TimerWheel[TimedPair] = TimerWheel()
        self._clock: Callable[[], float] = trio.current_time
        self._timer_scope: trio.CancelScope | None = None
        self._timer_deadline = 0.0  # that of the scope, which takes long to ask
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._awake = False
        self._epoll.register(self._wakeup_fd, select.EPOLLIN)

    # ------------------------------------------------------------------ for pairs

    def add(self, relay: Relay) -> None:
        """Add a pair; its first turn may come immediately."""
        for side in (relay.front, relay.back):
            if not side.closed:
                self.watch(relay, side)
        if relay.termination is None and relay.front.pending is None and relay.back.pending is None:
            self.schedule(relay, timeouts.first_check(relay.options, self.now))
            return
        due = timeouts.check_timeouts(relay, self.now)
        if not relay.done:
            self.schedule(relay, due)

    def watch(self, relay: Relay, side: Endpoint) -> None:
        """Watch a side's descriptor; its first turn may come immediately."""
        fd, transport = side.transport.fd, side.transport
        transport.readable = transport.has_buffered()
        self._sides[fd] = (relay, side)
        self._epoll.register(fd, EPOLL_EVENTS)
        if transport.readable or transport.read_state is not None:
            self.mark_ready(relay)

    def add_session(self, relay: SessionRelay) -> None:
        """Add the relay of a session, which has no transport yet."""
        self.watch(relay, relay.there)
        self.schedule(relay, self.now)

    def update_clock(self) -> float:
        """Read the clock."""
        self.now = self._clock()
        return self.now

    def mark_ready(self, relay: Relay) -> None:
        """Add a pair to the list of those that run before the next wait."""
        if relay.ready:
            return
        relay.ready = True
        self._ready.append(relay)
        if not self._awake:
            self._awake = True
            os.eventfd_write(self._wakeup_fd, 1)

    def schedule(self, pair: TimedPair, deadline: float) -> None:
        """Check the timeouts of a pair no later than `deadline`."""
        if pair.done or not self._wheel.schedule(pair, deadline):
            return
        if deadline < self._timer_deadline and self._timer_scope is not None:
            self._timer_deadline = self._timer_scope.deadline = self._wheel.next_deadline() or deadline

    def unschedule(self, pair: TimedPair) -> None:
        """Stop checking the timeouts of a pair."""
        self._wheel.cancel(pair)

    def may_linger(self) -> bool:
        """Whether one more socket may linger."""
        return self.lingering < self.max_lingering

    def unregister(self, side: Endpoint) -> None:
        """Remove a side from the epoll set; its descriptor is about to be closed."""
        fd = side.transport.fd
        if self._sides.pop(fd, None) is not None:
            try:  # noqa: SIM105  (each connection comes here twice; a failed write can have closed it)
                self._epoll.unregister(fd)
            except OSError:
                pass

    def finished(self, relay: Relay) -> None:
        """Both descriptors of a pair are closed."""
        self._wheel.cancel(relay)
        relay.on_done()

    # ------------------------------------------------------------------ tasks

    async def run(self) -> None:
        """Move bytes until cancelled; `run_timers` must run beside it."""
        self._clock = trio.lowlevel.current_clock().current_time
        fd = self._epoll.fileno()
        while True:
            self._awake = False
            if not self._ready:
                await trio.lowlevel.wait_readable(fd)
            else:
                await trio.lowlevel.checkpoint()
            self._awake = True
            self._process_events()

    async def run_timers(self) -> None:
        """Check the timeouts of pairs when they are due, until cancelled."""
        while True:
            when = self._wheel.next_deadline()
            with trio.CancelScope(
                deadline=trio.current_time() + timeouts.MAX_CHECK_INTERVAL if when is None else when
            ) as scope:
                self._timer_scope, self._timer_deadline = scope, scope.deadline  # `schedule` moves it
                await trio.sleep_forever()
            self._timer_scope = None
            now = self.update_clock()
            if now > scope.deadline + LATE:
                await self._catch_up(now + MAX_CATCH_UP)
            await self._check_all_due(now)
            await trio.lowlevel.checkpoint()

    async def _check_all_due(self, now: float) -> None:
        """Check the timeouts of the pairs that are due."""
        stop = now + TIME_SLICE
        for pair in self._wheel.pop_due(now):
            if not pair.done:
                self._check_due(pair)
            if self._clock() >= stop:
                await trio.lowlevel.checkpoint()
                stop = self.update_clock() + TIME_SLICE

    async def _catch_up(self, deadline: float) -> None:
        """Read what has come while the process was stopped, so that no peer that met its deadline is disconnected."""
        while not self._process_events() and self.now < deadline:
            await trio.lowlevel.checkpoint()

    def _check_due(self, pair: TimedPair) -> None:
        """Check the timeouts of a pair; a bug ends that pair alone."""
        assert isinstance(pair, Relay)  # noqa: S101 (there are no others)
        self._guard(pair, self._check_timeouts)

    def _check_timeouts(self, relay: Relay) -> None:
        now = self.now
        due = relay.check_timeouts(now) if isinstance(relay, SessionRelay) else timeouts.check_timeouts(relay, now)
        if not relay.done:
            # A deadline that has passed is not due once more in the same turn.
            self._wheel.schedule(relay, due if due > self.now else self.now + SLOT_SECONDS)
            if relay.front.rate_limited or relay.back.rate_limited:
                self.mark_ready(relay)

    def _process_events(self) -> bool:  # noqa: C901  (the hot path, see below)
        """Handle events until there are none, or the time slice is over; whether there are none."""
        # One function although it is long: a call more per event costs 2 % of all small messages.
        sides, ready = self._sides, self._ready
        poll = self._epoll.poll
        now = self.now = self._clock()
        stop = now + TIME_SLICE
        while True:
            if ready:
                self._run_ready(stop)
                now = self.now
            events = poll(0, MAX_EVENTS)
            for fd, event in events:
                entry = sides.get(fd)
                if entry is None:
                    if fd == self._wakeup_fd:
                        os.eventfd_read(self._wakeup_fd)
                    continue
                pair, side = entry
                try:
                    if event & _EPOLL_UNUSUAL:
                        self._on_unusual_event(pair, side, event)
                    elif event & _EPOLL_IN or side.is_websocket:
                        side.transport.readable = True
                    other = side.other
                    blocked = side.pending is not None or side.pending_pong is not None
                    if blocked:
                        side.flush(now)
                    pair.transfer(side, other)
                    if blocked:
                        pair.transfer(other, side)
                    if pair.termination is not None:
                        pair.advance_close(side)
                        pair.advance_close(other)
                except Exception:
                    self._abort_after_error(pair)
            if not events and not ready:
                return True
            now = self.now = self._clock()
            if now >= stop:
                return False

    def _run_ready(self, stop: float) -> None:
        """Run the relays on the list, until the time slice is over; those that are left come first next time."""
        ready = self._ready
        for _ in range(len(ready)):
            pair = ready.popleft()
            pair.ready = False
            if not pair.done:
                self._guard(pair, Relay.run_once)
                self.now = self._clock()
                if self.now >= stop:
                    return

    def _on_unusual_event(self, relay: Relay, side: Endpoint, event: int) -> None:
        """Note an end, an error, or urgent data: a short read then does not mean that nothing is left.

        Data and FIN in one edge give no second event; a read stops at the mark of urgent data.
        """
        transport = side.transport
        transport.readable = transport.read_until_empty = True
        if not event & _EPOLL_HANGUP:
            return
        transport.peer_hung_up = True
        if event & select.EPOLLERR and (
            side.rx is RX_CLOSED or side.other.pending is not None or side.rate_limiter is not None
        ):
            transport.record_socket_error()
            self.mark_ready(relay)

    def _guard(self, relay: Relay, act: Callable[[Relay], None]) -> None:
        try:
            act(relay)
        except Exception:
            self._abort_after_error(relay)

    def _abort_after_error(self, relay: Relay) -> None:
        """A bug in one connection ends that one alone."""
        log.exception("internal_error", component="relay")
        end = Termination(Reason.INTERNAL_ERROR, "wsbridge")
        sides = (relay.front, relay.back)
        ending = relay.termination is not None
        try:
            if not ending:
                relay.terminate(end)
                for side in sides:
                    relay.start_discarding(side)
        except Exception:
            ending = True
        if ending:  # what failed may be the ending itself
            relay.termination = end
            for side in sides:
                relay.abort(side)

    def close(self) -> None:
        """Close the descriptors; no pair may be left."""
        self._epoll.close()
        os.close(self._wakeup_fd)
