"""Programs that tests run: each is ended by its own process id, and its output is read line by line as it comes."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Self

import pytest

from tests import forked
from tests.forked import Popen

PATIENCE = 30.0
"""Seconds that anything a test waits for may take on a busy machine."""
_RNG = random.Random()


def program(name: str, *folders: str) -> str:
    """Give the path of a program; without it the test is skipped, or under `make test` fails."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *folders]))
    if path is None:
        missing(name)
    return path


def missing(what: str) -> None:
    """Skip the test, or under `make test`, where everything must be there, fail it."""
    message = f"{what} is not installed: see tests/packages.txt"
    if os.environ.get("WSBRIDGE_TEST_ALL"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nobody listens on, outside of the range that the system hands out itself."""
    for port in _RNG.sample(range(20_000, 32_000), 100):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port among a hundred")


class Program:
    """A running program. A context manager: at the end it is terminated, and killed if it does not go.

    Attributes:
        process: The process.
        lines: What it has written to standard output and standard error so far.
    """

    def __init__(
        self, *args: str | os.PathLike[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = Path(args[0]).name
        self.lines: list[str] = []
        self._news = Condition()
        self._ended = False
        self.process = Popen(
            args,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = Thread(target=self._read, name=self.name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def line(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait for a line.

        Args:
            pattern: Regular expression to search for.
            after: How many lines of the beginning do not count.

        Returns:
            The match in the first line that has one.
        """
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                while after < len(self.lines):
                    if found := re.search(pattern, self.lines[after]):
                        return found
                    after += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    last = "\n".join(self.lines[-30:])
                    how = "ended" if self._ended else "is silent"
                    raise AssertionError(f"{self.name} {how} without a line that has {pattern!r}; its last:\n{last}")
                self._news.wait(left)

    def accepts(self, port: int) -> int:
        """Wait until the program listens on a TCP port of 127.0.0.1; give the port."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            if self.process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.lines[-30:])
                raise AssertionError(f"{self.name} does not listen on port {port}; its last:\n{last}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End the program; give its exit code. What pytest shows of a failed test has its last lines."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(PATIENCE / 3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(PATIENCE / 3)
        print(f"{self.name} {self.process.pid} ended with {code}; its last lines:", *self.lines[-20:], sep="\n")  # noqa: T201  seen if it fails
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run(*args: str | os.PathLike[str], input: bytes = b"", timeout: float = PATIENCE) -> bytes:  # noqa: A002  as subprocess calls it
    """Run a program to its end; give what it wrote. Another exit code than 0 fails the test."""
    done = forked.run(args, input=input, capture_output=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{_shown(args)}: exit {done.returncode}\n{done.stderr.decode(errors='replace')}"
    return done.stdout


def _shown(args: Sequence[str | os.PathLike[str]]) -> str:
    return " ".join(str(arg) for arg in args)
