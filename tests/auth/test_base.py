"""What all authentication methods share: background tasks, the clock, and the method `none`."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing
from pydantic import ValidationError

from tests.auth.methods import auth_services
from tests.serving import serving, written
from wsbridge.auth.base import BackgroundTasks, NoAuthConfig
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.registry import AUTH, CONFIG_REGISTRY


async def test_tasks_run_until_the_end() -> None:
    """What was started before waits for the beginning; at the end all are cancelled and may close what they have."""
    events: list[str] = []

    def task(name: str, began: trio.Event) -> None:
        async def run() -> None:
            events.append(f"{name} begins")
            began.set()
            try:
                await trio.sleep_forever()
            finally:
                events.append(f"{name} ends")

        background.start(run)

    background = BackgroundTasks()
    first, second = trio.Event(), trio.Event()
    task("first", first)
    assert events == []
    async with background:
        await first.wait()
        task("second", second)
        await second.wait()
        assert events == ["first begins", "second begins"]
    assert sorted(events[2:]) == ["first ends", "second ends"]


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


def test_nobody_is_asked() -> None:
    """There is nothing to ask a client with, so the path without authentication costs nothing."""
    assert AUTH["none"](NoAuthConfig(), auth_services()[0]) is None


def test_configuration_and_runtime_have_the_same_methods() -> None:
    """The file and the run time know the same kinds."""
    assert AUTH.keys() == CONFIG_REGISTRY.auth.keys()


def test_none_takes_no_options() -> None:
    """There is nothing to set but the kind."""
    with pytest.raises(ValidationError):
        NoAuthConfig.model_validate({"kind": "none", "users": []})


def test_the_clock_is_the_wall_clock() -> None:
    """Credentials count in seconds since 1970, unless a test says what time it is."""
    assert auth_services(ANONYMOUS)[0].wall_clock is time.time
