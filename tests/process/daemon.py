"""The real daemon as a process of its own, and what a test asks of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import trio

from tests.forked import Popen

PATIENCE = 60.0
"""Seconds that a test waits for anything."""


class Daemon:
    """`wsbridge run` with a configuration of the test; use it as a context manager.

    Args:
        text: The configuration (`tests.serving.written`); @FOLDER@ in it becomes `folder`. Its log goes to a pipe as
            JSON.
        descriptors: Limit of open files for the process, soft and hard.
        notify: Whether to stand in for the service manager.
        read_log: False leaves the pipe of the log unread.
        arguments: Further arguments of the command.
        folder: A directory to use, such as that of another daemon; None for one of its own.
        waits: Whether to wait until it is ready.
        prefix: Command that runs it.
        environ: Further environment variables.

    Attributes:
        engine: What `engine` is, in configurations that do not set it.
        forks: Whether it is a fork (`tests.forked`); otherwise it is started as a user starts it.
        folder: Its directory, removed at the end if it is its own.
        states: The notifications that the service manager got, each a mapping.
    """

    engine: ClassVar[str] = "auto"
    forks: ClassVar[bool] = True

    def __init__(
        self,
        text: str,
        *,
        descriptors: int | None = None,
        notify: bool = False,
        read_log: bool = True,
        arguments: Sequence[str] = (),
        folder: Path | None = None,
        waits: bool = True,
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="wsbridge-daemon-")
        self.folder = folder or Path(self._temporary.name)
        self._arguments = arguments
        self._waits = waits
        self._prefix = prefix
        self._config = self.folder / "wsbridge.yaml"
        self._config.write_text(self._with_engine(text).replace("@FOLDER@", str(self.folder)))
        self._lines: list[dict[str, Any]] = []
        self._raw: list[str] = []
        self._more = threading.Condition()
        self._descriptors = descriptors
        self._read_log = read_log
        self._environ = environ or {}
        self._notify: socket.socket | None = None
        self.states: list[dict[str, str]] = []
        if notify:
            self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._notify.bind(str(self.folder / "notify"))
            self._notify.settimeout(PATIENCE)

    def _with_engine(self, text: str) -> str:
        if self.engine == "auto" or re.search(r"^(\{.*)?\"?engine\"?:", text, re.MULTILINE):
            return text
        return (
            text.replace("{", f'{{"engine": "{self.engine}", ', 1)
            if text[0] == "{"
            else f"engine: {self.engine}\n{text}"
        )

    def __enter__(self) -> Self:
        environ = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "JOURNAL_STREAM")}
        environ |= self._environ
        if self._notify is not None:
            environ["NOTIFY_SOCKET"] = str(self.folder / "notify")
        command = [sys.executable, "-m", "wsbridge", "run", "-c", str(self._config), "--log-format", "json"]
        command = [*self._prefix, *command, *self._arguments]
        if self._descriptors is not None:
            command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self._descriptors), *command]
        self.process = self.start(command, environ)
        self.pid = self.process.pid
        self._reader: threading.Thread | None = None
        try:
            if self._read_log:
                self.read_log()
            if self._read_log and self._waits:
                self.ready = self.wait("daemon.ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the process."""
        make = Popen if self.forks else subprocess.Popen
        return make(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ, cwd=self.folder)

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        if self.process.stderr is not None:
            self.process.stderr.close()
        if self._notify is not None:
            self._notify.close()
        self._temporary.cleanup()
        print(f"the log of daemon {self.pid} ends:", *self._raw, *self._lines[-20:], sep="\n")  # noqa: T201  seen if it fails

    def read_log(self) -> None:
        """Begin to read the log."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                try:
                    self._lines.append(json.loads(line))
                except ValueError:
                    self._raw.append(line.decode("utf-8", "replace"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def log_lines(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """Give the lines of one event so far, with these facts."""
        with self._more:
            return [
                line
                for line in self._lines
                if line["event"] == event and all(line.get(key) == value for key, value in facts.items())
            ]

    def wait(self, event: str, count: int = 1, **facts: object) -> dict[str, Any]:
        """Wait for a line, or for so many; give the last of them."""
        deadline = time.monotonic() + PATIENCE
        with self._more:
            while True:
                found = [
                    line
                    for line in self._lines
                    if line["event"] == event and all(line.get(key) == value for key, value in facts.items())
                ]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                if left <= 0 or (self._reader is not None and not self._reader.is_alive()):
                    raise AssertionError(f"no {event} {facts}: {self._lines[-20:]} {''.join(self._raw)}")
                self._more.wait(min(left, 0.5))

    async def wait_in_thread(self, event: str, count: int = 1, **facts: object) -> dict[str, Any]:
        """Do as `wait`, while the event loop of the test goes on, in which a proxy of the daemon's peers may run."""
        return await trio.to_thread.run_sync(partial(self.wait, event, count, **facts))

    def port(self, number: int = 0) -> int:
        """Give the port of a listener, by its place in the configuration."""
        return int(self.ready["listeners"][number].rpartition(":")[2])

    def state(self, key: str) -> str:
        """Wait until the service manager gets this key; give its value."""
        assert self._notify is not None
        while True:
            state = dict(line.split("=", 1) for line in self._notify.recv(4096).decode().splitlines())
            self.states.append(state)
            if key in state:
                return state[key]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def term(self) -> None:
        """Send SIGTERM."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.signal(signal.SIGKILL)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; give the exit code."""
        return self.process.wait(seconds)

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def anonymous(self) -> int:
        """Bytes of anonymous resident memory."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no such line")

    def address_space(self) -> int:
        """Bytes of its address space."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Count its open files."""
        with contextlib.suppress(FileNotFoundError):
            return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208  (only counted)
        return 0

    def until(self, what: Any, seconds: float = PATIENCE) -> None:
        """Wait until a condition of the process that no log line reports becomes true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, "it never became true"
            time.sleep(0.02)
