"""Coroutines that run by plain calls, without a trio task, until they ask for one.

`Runner` starts the coroutine of each connection by a call, and calls it again when what it waits for has come: most
connections never need a task, which takes time and memory. Whatever trio does for its current task (sleeping, cancel
scopes, nurseries, waiting for a descriptor) such a coroutine may do only after `await need_task()`; from there on a
task drives it, to its end.

In a task, `need_task` and `wait_readable` return at once, and a `Wait` waits as any event does: so the same coroutine
also works where it was started in a task.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Final

import trio

from wsbridge.log.logger import log

TIME_SLICE: Final = 0.004
"""Seconds of work after which other tasks have their turn."""
MAX_EVENTS: Final = 32
"""Events read from the kernel at once; between two batches the clock is read."""
MAX_CATCH_UP: Final = 2.0
"""Seconds in which sockets are read first, before anyone is late, where the process may have been stopped."""
MIN_TIMER_INTERVAL: Final = 0.05
"""Seconds between two looks at all waits for those that have taken too long."""

_ONCE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class NeedTask:
    """What a coroutine yields to get a task."""

    __slots__ = ()


NEED_TASK: Final = NeedTask()


class Readable:
    """What a coroutine yields to wait for a descriptor, once.

    Args:
        fd: The descriptor.
        deadline: When it has taken too long, by trio's clock.

    Attributes:
        fd: As given.
        deadline: As given.
        is_ready: Whether it may be readable; False if it took too long, or if the wait was cut short.
    """

    __slots__ = ("deadline", "fd", "is_ready")

    def __init__(self, fd: int, deadline: float) -> None:
        self.fd = fd
        self.deadline = deadline
        self.is_ready = False


class Wait:
    """A wait of one coroutine, ended by a call.

    Attributes:
        is_over: Whether it was ended.
    """

    __slots__ = ("_wake", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self._wake: Callable[[], None] | None = None

    def end(self) -> None:
        """End it; the coroutine goes on soon, not within this call."""
        self.is_over = True
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def then(self, callback: Callable[[], None]) -> None:
        """Call this once it is over, within `end`, or now if it is already; instead of a coroutine that waits."""
        if self.is_over:
            callback()
        else:
            self._wake = callback

    def __await__(self) -> Generator[object, None, None]:
        """Wait until it was ended.

        Raises:
            trio.Cancelled: The task was cancelled.
        """
        while not self.is_over:
            if current is None:
                yield from self._wait_in_task().__await__()
            else:
                self._wake = current.resume_soon
                try:
                    yield self
                finally:
                    self._wake = None

    async def _wait_in_task(self) -> None:
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._wake = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._wake = lambda: trio.lowlevel.reschedule(task)
        await trio.lowlevel.wait_task_rescheduled(abort)


@coroutine
def need_task() -> Generator[NeedTask, None, None]:
    """Go on in a task."""
    if current is not None:
        yield NEED_TASK


@coroutine
def wait_readable(fd: int, deadline: float) -> Generator[Readable, None, bool]:
    """Without a task, wait until a descriptor may be readable; in a task return at once.

    Args:
        fd: The descriptor, the only one that this connection waits for.
        deadline: When it has taken too long, by trio's clock.

    Returns:
        False if it took too long, or if a shutdown cut the wait short.
    """
    if current is None:
        return True
    request = Readable(fd, deadline)
    yield request
    return request.is_ready


@coroutine
def _go_on(started: Coroutine[object, None, object]) -> Generator[object, object, None]:
    """Drive a coroutine to its end that has asked for a task."""
    yield from started  # `await` would refuse one that has begun


class Run:
    """One coroutine that runs without a task.

    Args:
        runner: Its runner.
        coroutine: Serves the connection.
        nursery: Where its task runs, if it needs one.

    Attributes:
        readable: Its latest wait for a descriptor; None before the first.
    """

    __slots__ = ("_runner", "coroutine", "nursery", "readable")

    def __init__(self, runner: Runner, coroutine: Coroutine[object, None, object], nursery: trio.Nursery) -> None:
        self._runner = runner
        self.coroutine = coroutine
        self.nursery = nursery
        self.readable: Readable | None = None

    def step(self) -> None:
        """Call it again."""
        self._runner.step(self)

    def resume_soon(self) -> None:
        """Call it again, once what runs now has returned."""
        self._runner.call_soon(self.step)


current: Run | None = None
"""What runs now without a task; None while a task runs. Set by `Runner` alone."""


class Runner:
    """Runs connections for as long as `run` runs."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._runs: set[Run] = set()
        self._waiting: dict[int, Run] = {}
        self._timer_scope: trio.CancelScope | None = None
        self._called: deque[Callable[[], None]] = deque()
        self._sleeping: trio.lowlevel.Task | None = None
        self._clock: Callable[[], float] = trio.current_time

    @property
    def waiting(self) -> int:
        """How many connections wait for their descriptors."""
        return len(self._waiting)

    def cut_off(self) -> None:
        """Close the coroutines that are left; nothing is called any more."""
        self._waiting.clear()
        self._called.clear()
        while self._runs:
            try:
                self._runs.pop().coroutine.close()
            except Exception:
                log.exception("internal_error", component="runner")

    def start(self, coroutine: Coroutine[object, None, object], nursery: trio.Nursery) -> None:
        """Run a connection as far as it goes now, and later to its end.

        Args:
            coroutine: Serves the connection.
            nursery: Where its task runs, if it needs one.
        """
        run = Run(self, coroutine, nursery)
        self._runs.add(run)
        self.step(run)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call this after what runs now."""
        self._called.append(callback)
        if self._sleeping is not None:
            task, self._sleeping = self._sleeping, None
            trio.lowlevel.reschedule(task)

    def cut_waits(self) -> None:
        """Cut the waits for descriptors short."""
        waiting, self._waiting = self._waiting, {}
        for run in waiting.values():
            run.resume_soon()

    def close(self) -> None:
        """Close the descriptor."""
        self._epoll.close()

    # ------------------------------------------------------------------ one connection

    def step(self, run: Run, error: Exception | None = None) -> None:
        """Run a connection until it waits, needs a task, or has ended; an error is raised where it waits."""
        global current  # noqa: PLW0603  (what runs is known to all that it calls)
        current = run
        try:
            wanted = run.coroutine.send(None) if error is None else run.coroutine.throw(error)
        except StopIteration:
            self._runs.discard(run)
            return
        except Exception:  # not even its log line could be written
            log.exception("internal_error", component="runner")
            self._runs.discard(run)
            return
        except BaseException:
            self._runs.discard(run)
            raise
        finally:
            current = None
        if wanted is NEED_TASK:
            self._start_task(run)
        elif isinstance(wanted, Readable):
            self._wait_readable(run, wanted)
        elif not isinstance(wanted, Wait):
            self.step(run, RuntimeError(f"{wanted!r} without need_task"))

    def _start_task(self, run: Run) -> None:
        try:
            run.nursery.start_soon(self._run_in_task, run)
        except RuntimeError:  # the nursery is closed, at the end of the server: `cut_off` ends this one, too
            return
        self._runs.discard(run)

    async def _run_in_task(self, run: Run) -> None:
        await _go_on(run.coroutine)

    def _wait_readable(self, run: Run, wanted: Readable) -> None:
        watches, run.readable = run.readable is not None, wanted
        try:
            if watches:
                self._epoll.modify(wanted.fd, _ONCE)
            else:
                self._epoll.register(wanted.fd, _ONCE)  # closing it removes it: no other process has it
        except OSError:  # there are as many watches as may be
            wanted.is_ready = True
            self._start_task(run)
            return
        self._waiting[wanted.fd] = run
        if self._timer_scope is not None and self._timer_scope.deadline > wanted.deadline:
            self._timer_scope.deadline = wanted.deadline

    # ------------------------------------------------------------------ tasks

    async def run(self) -> None:
        """Call connections again that wait, until cancelled."""
        self._clock = trio.lowlevel.current_clock().current_time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_events)
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self._run_called)

    async def _run_events(self) -> None:
        fd = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self._process_events()

    def _process_events(self) -> bool:
        """Run the connections whose descriptors are readable, until the time slice is over; whether there are none."""
        stop = self._clock() + TIME_SLICE
        while events := self._epoll.poll(0, MAX_EVENTS):
            for fd, _ in events:
                run = self._waiting.pop(fd, None)
                if run is not None and run.readable is not None:
                    run.readable.is_ready = True
                    self.step(run)
            if self._clock() >= stop:
                return False
        return True

    async def _run_timers(self) -> None:
        """End the waits for descriptors that have taken too long."""
        while True:
            # One look at all of them now and then costs a connection less than its place in any order would.
            first = min((run.readable.deadline for run in self._waiting.values() if run.readable), default=float("inf"))
            earliest = self._clock() + MIN_TIMER_INTERVAL
            with trio.CancelScope(deadline=max(first, earliest)) as scope:
                self._timer_scope = scope  # `_wait_readable` moves its deadline
                await trio.sleep_forever()
            self._timer_scope = None
            catch_up_end = self._clock() + MAX_CATCH_UP
            while not self._process_events() and self._clock() < catch_up_end:
                await trio.lowlevel.checkpoint()
            now = self._clock()
            late = [fd for fd, run in self._waiting.items() if run.readable and run.readable.deadline <= now]
            for fd in late:
                self._waiting.pop(fd).resume_soon()

    async def _run_called(self) -> None:
        """Call what is on the list, until the time slice is over; what is left comes first next time."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeping = None
            return trio.lowlevel.Abort.SUCCEEDED

        called = self._called
        while True:
            if called:
                await trio.lowlevel.checkpoint()
            else:
                self._sleeping = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            stop = self._clock() + TIME_SLICE
            while called:
                try:
                    called.popleft()()
                except Exception:
                    log.exception("internal_error", component="runner")
                if self._clock() >= stop:
                    break
