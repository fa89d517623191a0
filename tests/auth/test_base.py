"""Tasks of ways of authentication that belong to no client."""

from __future__ import annotations

import trio
import trio.testing

from tests.serving import serving, written
from wsbridge.auth.base import BackgroundTasks


async def test_tasks_run_until_the_end() -> None:
    """What was started before waits for the beginning; at the end all are cancelled and may close what they have."""
    told: list[str] = []

    def task(name: str, began: trio.Event) -> None:
        async def run() -> None:
            told.append(f"{name} begins")
            began.set()
            try:
                await trio.sleep_forever()
            finally:
                told.append(f"{name} ends")

        background.start(run)

    background = BackgroundTasks()
    first, second = trio.Event(), trio.Event()
    task("first", first)
    assert told == []
    async with background:
        await first.wait()
        task("second", second)
        await second.wait()
        assert told == ["first begins", "second begins"]
    assert sorted(told[2:]) == ["first ends", "second ends"]


async def test_the_server_has_one() -> None:
    """It lives as long as the server serves."""
    ended = trio.Event()

    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(written(route={"respond": "204"})) as served:
        served.server.generation.background_tasks.start(run)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
    assert ended.is_set()
