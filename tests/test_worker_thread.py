"""Calls that block, in threads."""

from __future__ import annotations

import errno
import threading

import pytest
import trio

from wsbridge.taskless import Runner
from wsbridge.worker_thread import NoThreadError, run_in_thread


async def test_what_the_function_returns_or_raises_is_its_own() -> None:
    """A RuntimeError of it is no lack of threads."""
    limiter = trio.CapacityLimiter(1)
    assert await run_in_thread(threading.get_ident, limiter) != threading.get_ident()

    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await run_in_thread(fail, limiter)


async def test_without_a_thread_the_function_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place in the limiter is free again."""
    called = []

    def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    limiter = trio.CapacityLimiter(1)
    with monkeypatch.context() as patch:
        patch.setattr("trio._threads.start_thread_soon", fail)
        with pytest.raises(NoThreadError, match="can't start new thread") as caught:
            await run_in_thread(lambda: called.append(1), limiter)
    assert caught.value.errno == errno.EAGAIN
    assert (called, limiter.borrowed_tokens) == ([], 0)


async def test_a_call_without_a_task_is_no_lack_of_threads() -> None:
    """It is a bug of the caller, and says so."""
    outcome: list[Exception] = []

    async def call() -> None:
        try:
            await run_in_thread(threading.get_ident, trio.CapacityLimiter(1))
        except RuntimeError as error:
            outcome.append(error)

    runner = Runner()
    async with trio.open_nursery() as nursery:
        runner.start(call(), nursery)
    runner.close()
    assert ["without need_task" in str(error) for error in outcome] == [True]
