"""For the process tests: the engines that they try, and no client's socket outlives its test."""

from __future__ import annotations

import pytest

from tests.process.daemon import Daemon
from tests.process.plain import Socket
from wsbridge import native

ALWAYS_ON_BOTH = {"test_bytes"}
"""Modules whose tests run on both engines; where the native one is not installed, nothing does."""
SOMETIMES_ON_BOTH = {"test_faults", "test_idle", "test_life", "test_links", "test_memory", "test_reloads"}
"""In these, the Python engine is for `make soak`. All other modules leave the engine to the daemon."""

STARTED_AS_USERS_DO = {"test_attack", "test_canary", "test_idle", "test_life", "test_limits", "test_log_flood"}
STARTED_AS_USERS_DO |= {"test_many_routes", "test_memory", "test_permissions", "test_reloads", "test_top_cost"}
"""Modules about the start, memory, processor time and limits of a process: their daemons are no forks."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on both engines."""
    name = metafunc.module.__name__.rpartition(".")[2]
    if native.load() is None or name not in ALWAYS_ON_BOTH | SOMETIMES_ON_BOTH:
        return
    python = pytest.param("python", marks=[pytest.mark.soak] if name in SOMETIMES_ON_BOTH else [])
    metafunc.parametrize("engine", ["native", python], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of the test's daemons."""
    name: str = getattr(request, "param", "auto")
    monkeypatch.setattr(Daemon, "engine", name)
    return name


@pytest.fixture(autouse=True)
def forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the test's daemons are forks."""
    name = request.module.__name__.rpartition(".")[2]
    monkeypatch.setattr(Daemon, "forks", name not in STARTED_AS_USERS_DO)


@pytest.fixture(autouse=True)
def closed_sockets():
    """Close every client socket of the test."""
    yield
    while Socket.made:
        Socket.made.pop().close()
