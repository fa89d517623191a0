"""Secrets to plant, in every form in which they might come out again, and a daemon all of whose output is kept."""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

PATIENCE = 60.0


class Canaries:
    """Secrets by the name of the place where they are planted."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def __call__(self, place: str, *, plain: bool = False) -> str:
        """Make a secret, the same one each time for the same place.

        Args:
            place: What a failure calls it.
            plain: Of letters and digits alone, for places that accept nothing else.
        """
        if place not in self.planted:
            self.planted[place] = f"{'' if plain else '+/~'}{secrets.token_hex(12)}{'' if plain else '=!'}"
        return self.planted[place]

    def add(self, place: str, secret: str) -> None:
        """Look for a secret that was made elsewhere."""
        self.planted[place] = secret

    def found(self, output: bytes) -> set[str]:
        """Return which were planted and are there, each with its form."""
        low = output.lower()
        return {
            f"{place}: {form}"
            for place, secret in self.planted.items()
            for form, text in forms(secret)
            if text in (low if form == "percent" else output)
        }


def forms(secret: str) -> list[tuple[str, bytes]]:
    """Give a secret in clear, percent-encoded (lower case), in hex, and in base64 wherever it may begin in it."""
    data = secret.encode()
    found = [("clear", data), ("percent", quote(secret, safe="").lower().encode()), ("hex", data.hex().encode())]
    for offset in range(3):
        coded = base64.b64encode(bytes(offset) + data)
        core = coded[0 if not offset else 4 : len(coded) - 4]  # what stands before and behind has no part in it
        found += [("base64", core), ("base64url", core.replace(b"+", b"-").replace(b"/", b"_"))]
    return found


class Loud:
    """`wsbridge run`, by a program of the test that may break it, all of its output in a file.

    Args:
        folder: Where the configuration `wsbridge.yaml` is, and the program `program.py` if there is one.
        form: Format of the log, which is at level debug.
        environ: More environment.
    """

    def __init__(self, folder: Path, form: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self._form = form
        self._environ = environ

    def __enter__(self) -> Self:
        kept = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "JOURNAL_STREAM")}
        command = [sys.executable, str(self.folder / "program.py"), "run", "-c", str(self.folder / "wsbridge.yaml")]
        command += ["--log-format", self._form, "--log-level", "debug"]
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=kept | self._environ,
                cwd=self.folder,
            )
        try:
            self.until("daemon.ready")
        except BaseException:
            self.__exit__()
            raise
        found = re.findall(r"listener\.opened\W.*?listener\W+(\w+).*?127\.0\.0\.1:(\d+)", self.output())
        self.ports = {name: int(port) for name, port in found}
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    def output(self) -> str:
        """Read what it wrote so far."""
        return (self.folder / "output").read_text(errors="replace")

    def until(self, text: str, count: int = 1) -> None:
        """Wait until a text was written so often."""
        deadline = time.monotonic() + PATIENCE
        while self.output().count(text) < count:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output()}"
            time.sleep(0.02)

    def end(self) -> int:
        """Have it end in order; give the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def ask(self, listener: str, data: bytes, then: bytes = b"") -> bytes:
        """Send bytes to a listener, and more once it has answered; give all that comes until it closes."""
        with socket.create_connection(("127.0.0.1", self.ports[listener]), PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            answer = b""
            try:
                sock.sendall(data)
                while piece := sock.recv(65536):
                    answer += piece
                    if then:
                        sock.sendall(then)
                        then = b""
            except ConnectionError:
                pass
            return answer
