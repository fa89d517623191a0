"""The program as a whole: help, version, typos and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import pytest
from click.testing import CliRunner

from tests import forked
from tests.cli.program import QUIET, WSBRIDGE, finished, invoke
from tests.clients.program import PATIENCE, Program
from tests.forked import Popen
from wsbridge import __version__
from wsbridge.cli import main
from wsbridge.cli.main import EXIT_UNAVAILABLE, PreformattedCommand


def test_help_names_every_command() -> None:
    """`--help` shows every command with what it does."""
    result = invoke("--help")

    assert result.exit_code == 0
    for name in main.COMMAND_NAMES:
        assert f"\n  {name} " in result.output
    assert "..." not in result.output.partition("Commands:")[2]


@pytest.mark.parametrize("name", main.COMMAND_NAMES)
def test_help_of_each_command_has_an_example(name: str) -> None:
    """`COMMAND --help` shows the command as one types it, on a line of its own."""
    result = invoke(name, "--help")

    assert result.exit_code == 0
    assert f"wsbridge {name}" in result.output
    assert "\b" not in result.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rnu", "run"),
        ("chekc", "check"),
        ("brdige", "bridge"),
        ("schemas", "schema"),
        ("serve", "run"),
        ("start", "run"),
    ],
)
def test_a_typo_is_guessed(typed: str, meant: str) -> None:
    """A command that is not there is a usage error that names the one that may be meant."""
    result = invoke(typed)

    assert result.exit_code == 64
    assert f'no command "{typed}" (did you mean "{meant}"?)' in result.output


def test_errors_for_the_journal_have_their_priority(tmp_path: Path) -> None:
    """Where standard error is a stream of the journal, each line of a wrong command line is an error."""
    for arguments, last in (
        (["run", "--oops"], "<3>Error: No such option '--oops'."),
        (["explain", "x"], "<3>wsbridge: "),
    ):
        with (tmp_path / "journal").open("w+") as stream:
            found = os.fstat(stream.fileno())
            environ = {**os.environ, **QUIET, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
            done = forked.run([*WSBRIDGE, *arguments], stderr=stream, env=environ, timeout=PATIENCE, check=False)
            stream.seek(0)
            lines = [line for line in stream.read().splitlines() if line]

        assert done.returncode == 64
        assert all(line.startswith("<3>") for line in lines)
        assert lines[-1].startswith(last)


def test_an_unlike_word_gets_the_list() -> None:
    """A word that is like no command gets all their names."""
    result = invoke("xyzzy")

    assert result.exit_code == 64
    assert 'no command "xyzzy"; the commands are run, check,' in result.output


def test_help_and_version_are_commands_too() -> None:
    """`help`, `help COMMAND`, `version` and -V print what the options do."""
    assert invoke("help").output == invoke("--help").output
    assert invoke("help", "run").output == invoke("run", "--help").output
    assert invoke("version").output == invoke("-V").output == invoke("--version").output
    assert invoke("-v").output == invoke("-V").output
    assert 'did you mean "run"' in invoke("help", "rnu").output


def test_verbose_is_an_option_of_commands() -> None:
    """Before a command it is a usage error that says where it is written."""
    result = invoke("-v", "run")
    assert result.exit_code == 64
    assert "-v follows the command: wsbridge run -v" in result.output


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_descriptors_that_are_closed(closed: tuple[int, ...]) -> None:
    """Closed standard descriptors are opened on /dev/null, so no file or socket gets their number."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    shut = " ".join("0<&-" if fd == 0 else f"{fd}>&-" for fd in closed)
    command = ["sh", "-c", f'exec "$@" {shut}', "sh", *WSBRIDGE, "bridge", f"tcp://127.0.0.1:{port}", "tcp://[::1]:1"]
    with Program(*command, env=QUIET) as bridge:
        bridge.accepts(port)
        shown = [str(Path(f"/proc/{bridge.process.pid}/fd/{fd}").readlink()) for fd in closed]
        bridge.process.terminate()
        assert bridge.process.wait(PATIENCE) == 0

    assert shown == [os.devnull] * len(closed)


@pytest.mark.parametrize(
    "args", [["run", "--nonsense"], ["bridge"], ["bridge", "-"], ["check", "a", "b"], ["demo", "--port", "70000"]]
)
def test_wrong_arguments_are_usage_errors(args: list[str]) -> None:
    """Unknown options, missing and superfluous arguments exit with 64."""
    result = invoke(*args)

    assert result.exit_code == 64
    assert "Error:" in result.output


def test_another_system_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux every command says so and exits with 69."""
    monkeypatch.setattr(sys, "platform", "darwin")

    result = invoke("run")

    assert result.exit_code == 69
    assert result.output == "wsbridge: needs Linux; this is darwin\n"


def test_interrupted_before_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a file is read exits with 130 and no traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsbridge.cli.run.find_config", interrupted)

    result = invoke("run")

    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_reader_that_leaves() -> None:
    """A pipe whose reader has gone ends a command without a traceback."""
    with Popen([*WSBRIDGE, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        said = process.stderr.read()

    assert process.returncode in (1, -signal.SIGPIPE)
    assert said == b""


def test_main_is_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point reads the arguments of the process and calls itself wsbridge however it was started."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "nonsense"])
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # replaced by the program

    with pytest.raises(SystemExit) as ended:
        main.main()

    assert ended.value.code == 64


LONG = "A line of the text that is much longer than the eighty columns to which click would wrap it, and stays whole."


def test_help_is_shown_line_by_line() -> None:
    """Nothing is wrapped or joined; spaces in front of examples stay, those at the ends of lines do not."""

    @click.command(cls=PreformattedCommand, help=f"Do it.\n\n    {LONG}\n\n        wsbridge it  --now   \n\n    End.")
    def it() -> None:
        """Do nothing."""

    shown = CliRunner().invoke(it, ["--help"]).output.splitlines()

    at = shown.index("  Do it.")
    assert shown[at : at + 7] == ["  Do it.", "", f"  {LONG}", "", "      wsbridge it  --now", "", "  End."]


def test_version_has_all_that_a_report_needs() -> None:
    """A line each for wsbridge, engine, Python, OpenSSL and the system."""
    lines = main.version_text().splitlines()

    assert [line.split()[0] for line in lines] == ["wsbridge", "engine:", "Python:", "OpenSSL:", "system:"]
    assert lines[0] == f"wsbridge {__version__}"
    assert platform.python_version() in lines[2]
    assert ssl.OPENSSL_VERSION in lines[3]
    assert platform.release() in lines[4]


@pytest.mark.parametrize(("native", "said"), [(True, "masking in C"), (False, "which is slow: install websockets")])
def test_whether_masking_runs_in_c(monkeypatch: pytest.MonkeyPatch, native: bool, said: str) -> None:
    """A slow installation is reported, with what to do."""
    monkeypatch.setattr(main, "HAS_NATIVE_MASK", native)

    assert said in main.version_text().splitlines()[1]


def test_a_full_disk_of_another_file_is_not_blamed_on_the_output() -> None:
    """The temporary files of `--self-signed` cannot be written: one sentence, and it names them."""
    bridge = [*WSBRIDGE, "bridge", "wss://127.0.0.1:0/", "tcp://127.0.0.1:1", "--self-signed"]
    result = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *bridge], capture_output=True, timeout=PATIENCE, check=False
    )

    text = "--self-signed: the certificate cannot be written to a temporary file: "
    assert result.stderr.decode().startswith(f"wsbridge: {text}")
    assert result.stderr.count(b"\n") == 1
    assert result.returncode == EXIT_UNAVAILABLE


@pytest.mark.parametrize("arguments", [["--help"], ["-V"], ["schema"], ["new-token", "alice"]])
def test_a_full_disk_is_one_sentence(arguments: list[str]) -> None:
    """Output that cannot be written ends a command with a sentence and exit code 1, not with a traceback."""
    with Path("/dev/full").open("wb") as full:
        result = forked.run([*WSBRIDGE, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)

    assert result.stderr == b"wsbridge: standard output: No space left on device\n"
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check", "{file}"], 78), (["chekc"], 64), (["status", "--admin", "/x"], 69)],
)
@pytest.mark.parametrize("gone", ["full disk", "pipe without a reader"])
def test_messages_that_nobody_gets_change_no_exit_code(
    tmp_path: Path, arguments: list[str], code: int, gone: str
) -> None:
    """What a command says on standard error may be lost, such as when the journal is restarted; its result stays."""
    file = tmp_path / "wsbridge.yaml"
    file.write_text("listeners: {}")
    with lost_output(gone) as lost:
        command = [*WSBRIDGE, *(argument.format(file=file) for argument in arguments)]
        result = forked.run(command, stdout=subprocess.PIPE, stderr=lost, timeout=PATIENCE, check=False)

    assert (result.returncode, result.stdout) == (code, b"")


def test_a_token_that_nobody_gets_is_a_failure() -> None:
    """It goes to standard error, and is no message: nobody could use the line in the file."""
    with lost_output("full disk") as lost:
        command = [*WSBRIDGE, "new-token", "alice"]
        result = forked.run(command, stdout=subprocess.PIPE, stderr=lost, timeout=PATIENCE, check=False)

    assert result.returncode == 1


@contextlib.contextmanager
def lost_output(kind: str) -> Iterator[IO[bytes]]:
    """Open something that cannot be written to."""
    if kind == "full disk":
        with Path("/dev/full").open("wb") as full:
            yield full
        return
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        yield pipe


def test_a_bridge_whose_messages_nobody_gets_serves(tmp_path: Path) -> None:
    """`wsbridge bridge … 2>&1 | head -1` is no reason to end it."""
    path = str(tmp_path / "socket")
    with lost_output("pipe without a reader") as lost:
        bridge = forked.Popen([*WSBRIDGE, "bridge", f"unix:{path}", "tcp://127.0.0.1:1"], stderr=lost)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(path) and bridge.poll() is None:
                time.sleep(0.01)
        bridge.terminate()
        assert bridge.wait(PATIENCE) == 0
    finally:
        bridge.kill()
        bridge.wait()


def test_an_encoding_that_lacks_characters() -> None:
    """They are written as escapes, which JSON has, too."""
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}

    result = subprocess.run([*WSBRIDGE, "schema"], capture_output=True, timeout=PATIENCE, check=False, env=environ)

    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout.decode("latin-1")) == json.loads(finished("schema").stdout)
