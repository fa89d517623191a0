"""Calls that block, in threads."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import trio

from wsbridge import taskless

_Result = TypeVar("_Result")


class NoThreadError(OSError):
    """No thread could be started: the process, its user or its control group has as many as it may, or no memory."""

    def __init__(self, detail: str) -> None:
        super().__init__(errno.EAGAIN, detail)


async def run_in_thread(
    work: Callable[[], _Result], limiter: trio.CapacityLimiter | None = None, *, abandon_on_cancel: bool = True
) -> _Result:
    """Call a function in a thread, and return what it returns.

    Args:
        work: The function.
        limiter: Counts the threads, also abandoned ones; None: trio's.
        abandon_on_cancel: Whether a cancelled call leaves the thread to itself; else it is waited for.

    Raises:
        NoThreadError: There is no thread to be had; the function was not called.
    """
    began = False

    def run() -> _Result:
        nonlocal began
        began = True
        return work()

    try:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except RuntimeError as error:
        if began or taskless.current is not None:  # the latter: a coroutine that has not called `need_task`
            raise
        raise NoThreadError(str(error)) from None
