"""What `tests.forked` starts behaves as if it had been started by itself."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.forked import MODULE, Popen
from wsbridge.cli.main import COMMAND_NAMES

CONFIG = b"listeners: {web: {bind: '127.0.0.1:0'}}\nroutes: {r: {match: any, respond: 204, auth: none}}\n"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [(["--version"], b""), (["check", "-c", "/dev/stdin"], CONFIG), (["nonsense"], b"")],
    ids=["success", "input", "usage"],
)
def test_output_and_exit_code(arguments: list[str], given: bytes) -> None:
    """Both streams, standard input and the exit code are the same."""
    results = [run([*MODULE, *arguments], input=given, capture_output=True) for run in (forked.run, subprocess.run)]

    assert len({(done.returncode, done.stdout, done.stderr) for done in results}) == 1
    assert results[0].stdout or results[0].stderr


@pytest.mark.parametrize("command", COMMAND_NAMES)
def test_each_command_in_a_process_of_its_own(command: str) -> None:
    """It finds all its modules where nothing was imported before, and says the same as a fork."""
    results = [
        run([*MODULE, command, "--help"], capture_output=True, check=True) for run in (forked.run, subprocess.run)
    ]

    assert results[0].stdout == results[1].stdout
    assert results[1].stderr == b""


def test_a_full_disk() -> None:
    """What cannot be written when the streams are closed is an error, too."""
    with Path("/dev/full").open("wb") as full:
        options: dict[str, Any] = {"stdout": full, "stderr": subprocess.PIPE}
        results = [run([*MODULE, "--version"], **options) for run in (forked.run, subprocess.run)]

    assert len({(done.returncode, done.stderr) for done in results}) == 1
    assert results[0].returncode


def test_it_has_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    """Its directory, environment, limits and descriptors; it is a child of this process, and a signal ends it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (4096, hard))
    reader, writer = os.pipe()
    other = os.dup(writer)
    os.set_inheritable(other, True)
    command = [*MODULE, "run", "-c", "wsbridge.yaml"]
    (tmp_path / "wsbridge.yaml").write_bytes(CONFIG.replace(b"204", b"'${STATUS}'"))
    environ = {**os.environ, "STATUS": "204"}
    with Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, env=environ, pass_fds=[writer]) as process:
        assert process.stderr is not None
        assert any(b"daemon.ready" in line for line in iter(process.stderr.readline, b""))
        proc = Path(f"/proc/{process.pid}")
        pipe = Path(f"/proc/self/fd/{writer}").readlink()
        held = [int(each.name) for each in (proc / "fd").iterdir() if each.readlink() == pipe]
        facts = (proc / "status").read_text()
        directory = (proc / "cwd").readlink()
        limits = resource.prlimit(process.pid, resource.RLIMIT_MSGQUEUE)
        process.send_signal(signal.SIGKILL)
    for descriptor in (reader, writer, other):
        os.close(descriptor)

    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))

    assert held == [writer]
    assert limits == (4096, hard)
    assert directory == tmp_path
    assert f"\nPPid:\t{os.getpid()}\n" in facts
    assert process.returncode == -signal.SIGKILL


def test_what_changes_how_python_starts_is_started_by_itself() -> None:
    """Another command before it, or a variable of Python."""
    for command, environ in (
        (["env", *MODULE], {}),
        ([*MODULE], {"PYTHONUTF8": "1"}),
        ([sys.executable, "-S", "-m", "wsbridge"], {}),
    ):
        with Popen(
            [*command, "hash-password"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environ}
        ) as process:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.communicate(b"\n")
        assert b"tests.forked" not in arguments
