"""Background: what a way of authentication does while no client asks, and what it closes when the server ends.

Lives here: the nursery of such tasks. Must not live here: the tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType

import trio

Task = Callable[[], Awaitable[None]]


class Background:
    """Tasks that belong to no client; used as `async with`, and cancelled where that ends.

    A way is built before the server runs, so what is started by then waits for it. A task that has something to close
    does so in a `finally`; it must not raise.
    """

    def __init__(self) -> None:
        self._waiting: list[Task] = []
        self._nursery: trio.Nursery | None = None
        self._stack = contextlib.AsyncExitStack()

    def start(self, task: Task) -> None:
        """Run a task until the server ends."""
        if self._nursery is None:
            self._waiting.append(task)
        else:
            self._nursery.start_soon(task)

    async def __aenter__(self) -> Background:
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._nursery.start_soon(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
        await self._stack.__aexit__(kind, error, trace)
