"""What becomes of errors at the start, and of warnings."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.serving import written
from wsbridge.cli import run
from wsbridge.cli.main import CliError
from wsbridge.config.load import load_text
from wsbridge.log import LogWriter
from wsbridge.net.listeners import ListenError
from wsbridge.registry import CONFIG_REGISTRY


def raising(error: BaseException) -> Callable[[LogWriter], Awaitable[None]]:
    """A main task that fails within nurseries, as the server's would."""

    async def main(_writer: LogWriter) -> None:
        async with trio.open_nursery(), trio.open_nursery():
            raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            ListenError("web", "127.0.0.1:1", "taken", errno.EADDRINUSE),
            69,
            'wsbridge: listener "web": cannot listen on 127.0.0.1:1: taken!\n',
        ),
        (
            ListenError("web", "unix:/x", "there is no such user"),
            78,
            'wsbridge: listener "web": cannot listen on unix:/x: there is no such user!\n',
        ),
        (
            ListenError("web", "fd:web", "no sockets were passed", problem="E043"),
            78,
            'wsbridge: listener "web": cannot listen on fd:web: no sockets were passed! [E043]\n',
        ),
        (ValueError("the key is gone"), 78, "wsbridge: the key is gone\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_sentences(capfd: pytest.CaptureFixture[str], error: BaseException, code: int, said: str) -> None:
    """An error of the start is one sentence and an exit code, however deep in nurseries it was raised."""
    assert run.run_with_log(raising(error), "info", "console", bind_error_hint="!") == code
    assert capfd.readouterr().err == said


def test_errors_of_the_start_are_records(capfd: pytest.CaptureFixture[str]) -> None:
    """In a format that programs read they are lines of the log, with their priority, and nothing else is written."""
    taken = ListenError("web", "127.0.0.1:1", "taken", errno.EADDRINUSE)
    assert run.run_with_log(raising(taken), "error", "journal") == 69
    said = 'detail="listener \\"web\\": cannot listen on 127.0.0.1:1: taken"'
    assert capfd.readouterr().err == f"<3>listener.error listener=web listen_address=127.0.0.1:1 {said}\n"

    assert run.run_with_log(raising(ValueError("the key is gone")), "info", "json") == 78
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["event"], line["detail"]) == ("error", "config.error", "the key is gone")


def test_a_bug_is_not_hidden() -> None:
    """Any other error goes up as it is."""
    with pytest.raises(ExceptionGroup) as caught:
        run.run_with_log(raising(KeyError("bug")), "info", "console")

    assert isinstance(run.flatten_exceptions(caught.value)[0], KeyError)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread but that of the log can be had, as at the limit of tasks of the unit."""

    def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    start = threading.Thread.start
    monkeypatch.setattr("trio._threads.start_thread_soon", fail)
    monkeypatch.setattr(
        "threading.Thread.start", lambda thread: start(thread) if thread.name == "wsbridge-log" else fail()
    )


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"admin": {"bind": "unix:@/admin.sock"}}, 'listener "admin": cannot listen on unix:@/admin.sock'),
        ({"monitoring": {"bind": "127.0.0.1:0"}}, 'listener "monitoring": cannot listen on 127.0.0.1:0'),
        ({"listeners": {"web": {"bind": "unix:@/web.sock"}}}, 'listener "web": cannot listen on unix:@/web.sock'),
        ({"audit": {"file": "@/audit"}}, "audit: @/audit cannot be opened"),
    ],
)
def test_without_a_thread_a_later_start_may_succeed(
    section: dict[str, Any], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is no error of the configuration, after which a service manager does not try again."""
    text = written(route={"respond": "204"}, engine="python", **section).replace("@", str(tmp_path))
    loaded = load_text(text, file="", registry=CONFIG_REGISTRY)
    assert run.serve_until_end(loaded, level="error", format="console") == (69, None)
    assert f"wsbridge: {said.replace('@', str(tmp_path))}: can't start new thread" in capfd.readouterr().err


def test_without_a_thread_for_the_log_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop must not write it."""

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", fail)
    with pytest.raises(CliError, match="the log cannot be written: can't start new thread"):
        run.open_log("info", "console")
