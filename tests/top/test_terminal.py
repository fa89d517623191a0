"""`wsbridge top` in a real terminal, tmux: what is on the screen, and how it is left."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.client import request
from tests.clients.program import PATIENCE, program
from tests.process.daemon import Daemon
from tests.process.plain import Socket
from tests.serving import written
from tests.top.stub import Stub, connection, stubbed

TOP = shlex.join([sys.executable, "-m", "wsbridge", "top"])


class Terminal:
    """A terminal with a shell in it; use it as a context manager.

    Args:
        folder: For the socket of tmux.
        width: In cells.
        height: In lines.
        environ: Further variables, as `NAME=value`.
    """

    def __init__(self, folder: Path, width: int = 100, height: int = 24, environ: tuple[str, ...] = ()) -> None:
        self._tmux = [program("tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null"]
        options = [word for name in environ for word in ("-e", name)]
        self.run("new-session", "-d", "-x", str(width), "-y", str(height), *options, "sh")

    def run(self, *words: str) -> str:
        """Run a command of tmux; give its output."""
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run("kill-server")

    def type(self, text: str) -> None:
        """Type text."""
        self.run("send-keys", "-l", text)

    def keys(self, *names: str) -> None:
        """Press keys, by tmux's names."""
        self.run("send-keys", *names)

    def start(self, command: str) -> None:
        """Run a command in the shell, and print its exit code."""
        self.type(f"{command}; echo exit=$?")
        self.keys("Enter")

    def screen(self) -> str:
        """Give what is on the screen."""
        return self.run("capture-pane", "-p")

    def shows(self, pattern: str, *, gone: bool = False) -> str:
        """Wait until the screen has a text, or has not; give the screen."""
        deadline = time.monotonic() + PATIENCE
        while True:
            screen = self.screen()
            if (re.search(pattern, screen, re.MULTILINE) is None) is gone:
                return screen
            assert time.monotonic() < deadline, f"{pattern!r}, gone={gone}:\n{screen}"
            time.sleep(0.03)

    def pids(self) -> list[int]:
        """Give the process ids of the commands that run in the shell."""
        shell = self.run("display-message", "-p", "#{pane_pid}").strip()
        done = subprocess.run(["ps", "--ppid", shell, "-o", "pid="], capture_output=True, text=True, check=False)
        return [int(word) for word in done.stdout.split()]


@pytest.fixture
def stub() -> Iterator[Stub]:
    """An admin API whose connections move bytes."""
    with stubbed() as stub:
        stub.step = 100_000
        yield stub


def top(stub: Stub, *options: str) -> str:
    """Give the command line."""
    return f"{TOP} --admin {stub.address} --interval 200ms {shlex.join(options)}"


def test_a_look_a_filter_and_a_close(stub: Stub, tmp_path: Path) -> None:
    """Connections with rates; one is found and closed; q gives the shell back as it was."""
    stub.connections = [connection(number, identity=f"user{number}") for number in range(1, 60)]
    with Terminal(tmp_path) as terminal:
        terminal.type("echo before")
        terminal.keys("Enter")
        terminal.start(top(stub))
        screen = terminal.shows(r"\d [KM]iB +0 B +[\d.]+ [KM]iB +\d+m\d\ds")
        assert "serving, ready" in screen
        assert "2 connections 59" in screen
        terminal.type("/user42")
        assert "192.0.2.42:40042" in terminal.shows(r"filter: user42_")
        terminal.keys("Enter")
        terminal.shows(r"filter: user42 \(1\)")
        terminal.type("x")
        terminal.shows(r"^close connection 42 of 192\.0\.2\.42:40042\? y/n")
        assert not stub.closed
        terminal.type("y")
        terminal.shows(r"^connection 42 is closed")
        assert stub.closed == [42]
        terminal.shows(r"2 connections 58")
        terminal.type("q")
        screen = terminal.shows(r"^exit=0")
        assert "before" in screen
        assert "serving" not in screen


def test_the_size_changes(stub: Stub, tmp_path: Path) -> None:
    """The table follows, also where LINES and COLUMNS are set; a tiny terminal is no error."""
    stub.connections = [connection(number) for number in range(1, 60)]
    with Terminal(tmp_path, 100, 24, ("LINES=24", "COLUMNS=100")) as terminal:
        terminal.start(top(stub))
        terminal.shows("user|route")
        terminal.run("resize-window", "-x", "40", "-y", "10")
        terminal.shows(r"\A.{0,40}\n 2 connections 59\b")
        terminal.run("resize-window", "-x", "1", "-y", "1")
        terminal.run("resize-window", "-x", "160", "-y", "50")
        terminal.shows(r"user agent|path")
        terminal.type("q")
        terminal.shows(r"^exit=0")


@pytest.mark.parametrize("environ", [("TERM=vt100",), ("LC_ALL=C",), ("NO_COLOR=1",), ("TERM=linux", "LC_ALL=C")])
def test_poor_terminals(stub: Stub, tmp_path: Path, environ: tuple[str, ...]) -> None:
    """Without colours, without UTF-8: the table is whole, and nothing that a client sent is obeyed."""
    stub.connections = [connection(1, identity="ünï\x1b[2J\u202e日本")]
    with Terminal(tmp_path, 120, 20, environ) as terminal:
        terminal.type("".join(f"export {one}; " for one in environ))
        terminal.start(top(stub))
        screen = terminal.shows(r"192\.0\.2\.1:40001")
        assert "\\x1b[2J" in screen
        terminal.type("q")
        terminal.shows(r"^exit=0")


@pytest.mark.parametrize("name", ["dumb", "no-such-terminal"])
def test_a_terminal_without_a_cursor(stub: Stub, tmp_path: Path, name: str) -> None:
    """TERM=dumb, and one that terminfo lacks, get snapshots as text."""
    with Terminal(tmp_path, 100, 40) as terminal:
        terminal.start(f"TERM={name} {top(stub, '--view', 'connections')}")
        terminal.shows(r"^connections: 2\n.*peer")
        terminal.keys("C-c")
        terminal.shows(r"^exit=130")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)])
def test_signals_leave_the_terminal_in_order(stub: Stub, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The screen is the shell's again, which echoes what is typed."""
    with Terminal(tmp_path) as terminal:
        terminal.start(top(stub))
        terminal.shows("serving, ready")
        (pid,) = terminal.pids()
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
        assert "serving" not in terminal.shows(rf"^exit={code}")
        terminal.type("echo ec''ho")
        terminal.shows(r"echo ec''ho")


def test_stopped_and_continued(stub: Stub, tmp_path: Path) -> None:
    """Ctrl-Z gives the terminal to the shell; fg draws again."""
    with Terminal(tmp_path) as terminal:
        terminal.type("set -m")
        terminal.keys("Enter")
        terminal.start(top(stub))
        terminal.shows("serving, ready")
        terminal.keys("C-z")
        terminal.shows(r"Stopped|Suspended")
        terminal.type("echo ec''ho")
        terminal.shows(r"echo ec''ho")
        terminal.keys("Enter")
        terminal.shows(r"^echo$")
        terminal.type("fg")
        terminal.keys("Enter")
        terminal.shows("serving, ready")
        terminal.type("q")
        terminal.shows(r"^exit=0|\bfg\b")


def test_the_daemon_is_restarted(stub: Stub, tmp_path: Path) -> None:
    """While it is gone, that is said; then the table goes on, without rates from before."""
    with Terminal(tmp_path) as terminal:
        terminal.start(top(stub))
        terminal.shows("serving, ready")
        stub.stop()
        terminal.shows(r"not reachable, retrying: 127\.0\.0\.1:\d+: nothing listens there")
        terminal.shows(r"192\.0\.2\.1:40001")
        stub.status["pid"] = 4712
        stub.start()
        terminal.shows("not reachable", gone=True)
        terminal.type("q")
        terminal.shows(r"^exit=0")


def test_an_error_leaves_the_terminal_in_order(stub: Stub, tmp_path: Path) -> None:
    """A bug is a traceback in a terminal that works."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from wsbridge.top import view\n"
        "def explode(*_): raise RuntimeError('a bug')\n"
        "view.View.press = explode\n"
        "from wsbridge.cli.main import main\n"
        "main()\n"
    )
    with Terminal(tmp_path) as terminal:
        terminal.start(f"{shlex.join([sys.executable, str(broken)])} top --admin {stub.address}")
        terminal.shows("serving, ready")
        terminal.type("s")
        assert "RuntimeError: a bug" in terminal.shows(r"^exit=1")
        terminal.type("echo ec''ho")
        terminal.shows(r"echo ec''ho")


def test_help(stub: Stub, tmp_path: Path) -> None:
    """Function keys work, and a lone Escape goes back."""
    with Terminal(tmp_path) as terminal:
        terminal.start(top(stub))
        terminal.shows("serving, ready")
        terminal.type("?")
        terminal.shows(r"^Keys")
        terminal.keys("Escape")
        terminal.shows(r"^Keys", gone=True)
        terminal.keys("BTab")
        terminal.shows(r"route +active")
        terminal.keys("Tab")
        terminal.keys("Down")
        terminal.keys("Enter")
        terminal.shows(r"^round_trip_seconds +0\.0123")
        terminal.keys("Escape")
        terminal.type("q")
        terminal.shows(r"^exit=0")


def test_a_real_connection_is_closed(tmp_path: Path) -> None:
    """Select, x, y: it ends with `closed_by_operator`, and is among the endings."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        backend.settimeout(PATIENCE)
        text = written(
            route={"backend": f"tcp://127.0.0.1:{backend.getsockname()[1]}"}, admin={"bind": "unix:@FOLDER@/admin.sock"}
        )
        with Daemon(text) as daemon, Terminal(tmp_path) as terminal:
            client = Socket.connect(daemon.port())
            client.send(request())
            service, _ = backend.accept()
            terminal.start(f"{TOP} --admin {daemon.folder}/admin.sock --interval 200ms")
            terminal.shows(r"127\.0\.0\.1:\d+ +- +app")
            terminal.type("x")
            terminal.shows(r"^close connection 1 of 127\.0\.0\.1:\d+\? y/n")
            terminal.type("y")
            daemon.wait("connection.closed", reason="closed_by_operator")
            terminal.shows("^connection 1 is closed")
            terminal.type("3")
            terminal.shows("closed_by_operator")
            terminal.type("q")
            terminal.shows("^exit=0")
            for sock in (client.sock, service):
                sock.close()
