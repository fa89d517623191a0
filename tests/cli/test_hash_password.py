"""`hash-password`, on a terminal and on a pipe."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

import pytest

from tests.cli.program import QUIET, WSBRIDGE, finished, invoke
from tests.clients.program import PATIENCE
from wsbridge.auth.passwords import parse_htpasswd


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"", b"\nmore\n"])
def test_on_a_pipe(end: bytes) -> None:
    """The first line of standard input is the password, and the output is one line that wsbridge accepts."""
    done = finished("hash-password", "alice", input="pässwort ".encode() + end)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"alice:$scrypt$ln=15,r=8,p=1$")
    assert done.stdout.count(b"\n") == 1
    assert parse_htpasswd(done.stdout.decode())["alice"].verify("pässwort ".encode())


def test_without_a_user() -> None:
    """The hash alone."""
    done = finished("hash-password", input=b"secret\n")

    assert parse_htpasswd("bob:" + done.stdout.decode())["bob"].verify(b"secret")


@pytest.mark.parametrize(
    ("args", "typed", "wrong"),
    [
        (["a:b"], b"x", b"a user's name cannot have a colon in it"),
        ([""], b"x", b"a user's name cannot be empty"),
        (["alice"], b"", b"the password is empty"),
        (["alice"], b"\nx\n", b"the password is empty"),
        (["alice"], b"\xff\n", b"the password is not UTF-8"),
        (["alice"], b"secret\tx\n", b"the password contains control characters"),
        (["alice"], b"secret" * 200, b"the password is too long: the most is 1024 bytes"),
    ],
)
def test_what_is_refused(args: list[str], typed: bytes, wrong: bytes) -> None:
    """One sentence, exit 64, nothing on standard output, and nothing of the password."""
    done = finished("hash-password", *args, input=typed)

    assert (done.returncode, done.stdout) == (64, b"")
    assert done.stderr.startswith(b"wsbridge: " + wrong)
    assert b"secret" not in done.stderr


def test_the_longest() -> None:
    """1024 bytes are accepted, whatever ends the line."""
    done = finished("hash-password", "alice", input=b"x" * 1024 + b"\r\n")

    assert parse_htpasswd(done.stdout.decode())["alice"].verify(b"x" * 1024)


def test_help_teaches() -> None:
    """It says where the line goes and that a password is no argument."""
    shown = invoke("hash-password", "--help").output

    assert "wsbridge hash-password alice > users" in shown
    assert "never an argument" in shown


class Terminal:
    """The command on a terminal of its own; standard output goes to a pipe, as with `> users`."""

    def __init__(self, *args: str) -> None:
        self.seen = ""
        self._main, side = pty.openpty()
        # setsid and the first terminal that is opened: the terminal becomes the one that /dev/tty names
        shell = 'exec setsid --ctty "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", shell, "sh", *WSBRIDGE, "hash-password", *args],
            stdin=side,
            stdout=subprocess.PIPE,
            stderr=side,
            env={**os.environ, **QUIET},
        )
        os.close(side)

    def until(self, text: str) -> None:
        """Wait until the terminal shows a text, beyond what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self._main], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the terminal shows {self.seen!r} and not {text!r}"
            try:
                self.seen += os.read(self._main, 4096).decode()
            except OSError:
                raise AssertionError(f"the terminal closed at {self.seen!r} and before {text!r}") from None
        self.seen = self.seen.partition(text)[2]

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._main, keys.encode())

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; give exit code, standard output and what the terminal still showed."""
        try:
            output, _ = self.process.communicate(timeout=PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        try:
            while more := os.read(self._main, 4096):
                self.seen += more.decode()
        except OSError:  # the other side of the terminal is closed
            pass
        os.close(self._main)
        return self.process.returncode, output.decode(), self.seen


def test_on_a_terminal() -> None:
    """It asks twice, shows nothing of what is typed, and the line alone goes to standard output."""
    terminal = Terminal("alice")
    terminal.until("Password:")
    terminal.type("swordfish\n")
    terminal.until("Repeat the password:")
    terminal.type("swordfish\n")
    code, output, shown = terminal.end()

    assert code == 0
    assert parse_htpasswd(output)["alice"].verify(b"swordfish")
    assert "sword" not in shown


def test_two_that_differ_are_asked_for_again() -> None:
    """A slip of the fingers is no password."""
    terminal = Terminal("alice")
    for first, second in (("swordfish", "swordfisch"), ("swordfish", "swordfish")):
        terminal.until("Password:")
        terminal.type(first + "\n")
        terminal.until("Repeat the password:")
        terminal.type(second + "\n")
    code, output, shown = terminal.end()

    assert code == 0
    assert parse_htpasswd(output)["alice"].verify(b"swordfish")
    assert "sword" not in shown


def test_ctrl_c_on_a_terminal() -> None:
    """Exit 130, no traceback, nothing on standard output."""
    terminal = Terminal("alice")
    terminal.until("Password:")
    terminal.type("swordfish\x03")
    code, output, shown = terminal.end()

    assert (code, output) == (130, "")
    assert "Traceback" not in shown
