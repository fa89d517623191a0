"""Which engine relays, by the setting and by what is installed; and where that is seen."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import ModuleType
from typing import Any

import pytest
import trio

from tests.cli.program import invoke
from tests.config.loading import LISTENERS, ROUTES, summaries, wrong
from tests.serving import config_of, recording, serving, written
from wsbridge import __version__, daemon, native
from wsbridge.admin.api import AdminApi
from wsbridge.cli.control import status_text
from wsbridge.config.load import LoadedConfig
from wsbridge.engine_choice import EngineChoice, build_engine, choose_engine, describe_engine
from wsbridge.native import Extension
from wsbridge.net.tls_roles import OpenSsl
from wsbridge.relay.engine import PythonEngine
from wsbridge.reload import Reloader

CORES = len(os.sched_getaffinity(0))
ABSENT = Extension(None, "it was not built")
BROKEN = Extension(None, "it cannot be loaded: no libc", is_broken=True)
FILE = LISTENERS + ROUTES


class FakeNativeEngine(PythonEngine):
    """Keeps what it is built with."""

    name = "native"

    def __init__(self, threads: int, max_lingering: int) -> None:
        super().__init__(max_lingering)
        self.built_with = (threads, max_lingering)


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that can be used."""
    module = ModuleType("_native")
    module.__version__ = __version__
    have(monkeypatch, Extension(module))
    engine = ModuleType("wsbridge.native.engine")
    engine.NativeEngine = FakeNativeEngine
    tls = ModuleType("wsbridge.native.tls")
    tls.Rustls = OpenSsl
    members = ModuleType("wsbridge.native.log_members")
    members.native_members_writer = lambda: None
    for fake in (engine, tls, members):
        monkeypatch.setitem(sys.modules, fake.__name__, fake)


def have(monkeypatch: pytest.MonkeyPatch, extension: Extension) -> None:
    """Let this be what the process finds."""
    monkeypatch.setattr(native, "find_extension", lambda: extension)


def config(engine: str = "auto", **limits: str) -> Any:
    """Give a configuration."""
    return config_of(written(route={"respond": "204"}, engine=engine, limits=limits, timeouts={"drain_spread": "0s"}))


@pytest.mark.usefixtures("present")
@pytest.mark.parametrize(
    ("engine", "limits", "choice"),
    [
        ("auto", {}, EngineChoice("native", CORES)),
        ("native", {"engine_threads": "3"}, EngineChoice("native", 3)),
        ("python", {}, EngineChoice("python")),
    ],
)
def test_where_it_is_installed(engine: str, limits: dict[str, str], choice: EngineChoice) -> None:
    """It is used unless the setting says otherwise, with as many threads as cores or as the setting says."""
    chosen = config(engine, **limits)

    built = build_engine(chosen)

    assert choose_engine(chosen) == choice
    assert built.name == choice.name
    if isinstance(built, FakeNativeEngine):
        assert built.built_with == (choice.threads, 256)
    built.close()


def test_threads_that_cannot_be_started_are_one_sentence(monkeypatch: pytest.MonkeyPatch, present: None) -> None:
    """A limit of the system is named, and the setting."""

    def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(FakeNativeEngine, "__init__", fail)
    with pytest.raises(ValueError, match=r"^limits.engine_threads: 7 threads cannot be started: Resource temporarily"):
        build_engine(config(engine_threads="7"))


@pytest.mark.parametrize("extension", [ABSENT, BROKEN])
def test_where_it_is_not(monkeypatch: pytest.MonkeyPatch, extension: Extension) -> None:
    """Python relays; with `engine: native` it is an error that says why, and what to write."""
    have(monkeypatch, extension)

    assert choose_engine(config()) == choose_engine(config("python")) == EngineChoice("python")
    required = config("auto").model_copy(update={"engine": "native"})
    with pytest.raises(ValueError, match=rf"^engine: the native engine .*{extension.problem}; or write engine: auto$"):
        build_engine(required)


def test_a_file_that_requires_it_is_wrong_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """At its line; `check --no-files` does not look, since it may check for another host."""
    have(monkeypatch, ABSENT)
    (tmp_path / "wsbridge.yaml").write_text(FILE + "engine: native\n")

    (problem,) = wrong(FILE + "engine: native\n", folder=tmp_path)

    assert (problem.code, problem.setting, problem.line) == ("E044", "engine", 3)
    assert problem.message == "the native engine is not installed: it was not built; or write engine: auto"
    assert invoke("check", str(tmp_path / "wsbridge.yaml")).exit_code == 78
    assert invoke("check", "--no-files", str(tmp_path / "wsbridge.yaml")).exit_code == 0


def test_threads_of_no_engine_are_a_conflict() -> None:
    """They are those of the native engine."""
    assert summaries(wrong(FILE + "engine: python\nlimits: {engine_threads: 2}\n")) == ["E013 limits.engine_threads"]


@pytest.mark.parametrize("value", ["rust", "off"])
def test_other_engines_do_not_exist(value: str) -> None:
    """The message has those that do."""
    (problem,) = wrong(FILE + f"engine: {value}\n")
    assert problem.message.startswith(f'"{value}" is not one of auto, python or native')


@pytest.mark.usefixtures("present")
def test_what_the_version_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version of the extension, or why it is not there."""
    assert describe_engine() == (f"native {__version__}", "")
    assert f"engine:  native {__version__}, masking in C\n" in invoke("--version").output
    have(monkeypatch, ABSENT)
    assert "engine:  python, masking in C; native not installed: it was not built\n" in invoke("--version").output
    have(monkeypatch, BROKEN)
    assert "; native not usable: it cannot be loaded: no libc\n" in invoke("--version").output


async def run_daemon(chosen: Any) -> Any:
    """Start and stop; give the log."""
    with recording() as records, trio.fail_after(9):
        await daemon.serve(chosen, on_ready=lambda _: os.kill(os.getpid(), signal.SIGINT))
    return records


@pytest.mark.usefixtures("present")
async def test_the_start_says_which_engine_relays() -> None:
    """With the number of its threads, if it has any."""
    (ready,) = (await run_daemon(config(engine_threads="2"))).of("daemon.ready")
    assert (ready["engine"], ready["engine_threads"]) == ("native", 2)
    (ready,) = (await run_daemon(config("python"))).of("daemon.ready")
    assert ready["engine"] == "python"
    assert "engine_threads" not in ready


async def test_one_that_is_installed_for_nothing_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, unless Python is what is wanted; none at all is no reason to warn."""
    have(monkeypatch, BROKEN)
    (warning,) = (await run_daemon(config())).of("config.warning", problem="W034")
    assert warning["detail"] == "Python relays: it cannot be loaded: no libc"
    assert not (await run_daemon(config("python"))).of("config.warning", problem="W034")
    have(monkeypatch, ABSENT)
    assert not (await run_daemon(config())).of("config.warning", problem="W034")


@pytest.mark.usefixtures("present")
@pytest.mark.parametrize(
    ("engine", "limits", "expected"),
    [
        ("native", {"engine_threads": "2"}, None),
        ("auto", {"engine_threads": "1"}, ("limits.engine_threads", "2 until a restart, 1 after it")),
        ("python", {}, ("engine", "native relays until a restart, python after it")),
    ],
)
async def test_a_reload_keeps_the_engine(engine: str, limits: dict[str, str], expected: tuple[str, str] | None) -> None:
    """It succeeds, and a warning says that a restart is needed, where one is."""
    async with serving(written(route={"respond": "204"}, limits={"engine_threads": "2"})) as served:
        before = served.server.services.engine
        reloader = Reloader(served.server, lambda: LoadedConfig(config(engine, **limits)))
        result = await reloader.reload()
        assert served.server.services.engine is before

    assert result.error is None
    found = [(problem.setting, problem.message) for problem in result.problems if problem.code == "W035"]
    assert found == ([] if expected is None else [expected])
    assert len(served.records.of("config.warning", problem="W035")) == len(found)


@pytest.mark.usefixtures("present")
@pytest.mark.parametrize(
    ("engine", "threads", "text"),
    [("native", "1", "native, 1 thread"), ("native", "2", "native, 2 threads"), ("python", "", "python")],
)
async def test_the_status_has_it(engine: str, threads: str, text: str) -> None:
    """The admin API, and `wsbridge status` in words."""
    limits = {"engine_threads": threads} if threads else {}
    async with serving(written(route={"respond": "204"}, engine=engine, limits=limits)) as served:
        reloader = Reloader(served.server, None)
        status = AdminApi(served.server, reloader, reloader.reload).status()
    assert (status["engine"], status["engine_threads"]) == (engine, int(threads) if threads else None)
    assert f"\nengine       {text}\n" in status_text(status)
