"""The command group, the exit codes and `--version`."""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import os
import platform
import signal
import ssl
import sys
import traceback
from typing import Any, Final, NoReturn

import click

from wsbridge import __version__
from wsbridge.config.errors import did_you_mean
from wsbridge.protocol.websocket import HAS_NATIVE_MASK

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""The connection of `bridge -` or `--once` could not be established, or broke; standard output is full; no reload."""
EXIT_USAGE: Final = 64
"""Wrong command line."""
EXIT_UNAVAILABLE: Final = 69
"""A required resource is unavailable: an address in use, Linux."""
EXIT_CONFIG: Final = 78
"""Invalid configuration."""
EXIT_SIGNAL: Final = 128
"""Plus the number of the signal that ended the connection of `bridge -` or `bridge --once`, or process 1."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C before startup was complete."""

OUTPUT_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of standard output that are no fault of the program: disk full, quota, file size, terminal gone."""


class CliError(click.ClickException):
    """Ends a command with one sentence on standard error.

    Args:
        message: The sentence, without a full stop.
        exit_code: One of the codes of this file.

    Attributes:
        exit_code: The code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable in click


class PreformattedCommand(click.Command):
    """A command whose help text is printed line by line, without wrapping."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring line by line."""
        formatter.write_paragraph()
        with formatter.indentation():
            for line in inspect.cleandoc(self.help or "").splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}".rstrip() + "\n")


COMMAND_NAMES: Final = {
    "run": "run",
    "check": "check",
    "bridge": "bridge",
    "status": "control",
    "reload": "control",
    "drain": "control",
    "undrain": "control",
    "sessions": "sessions",
    "close": "sessions",
    "bans": "sessions",
    "unban": "sessions",
    "top": "top",
    "probe": "probe",
    "explain": "explain",
    "demo": "demo",
    "hash-password": "credentials",
    "new-token": "credentials",
    "ticket": "credentials",
    "schema": "tools",
    "completion": "tools",
}
"""Command name to its module, imported only when the command runs; `hash-password` is `hash_password_command` there."""

COMMAND_SYNONYMS: Final = {
    "serve": "run",
    "start": "run",
    "up": "run",
    "daemon": "run",
    "validate": "check",
    "test": "check",
    "lint": "check",
    "stat": "status",
    "info": "status",
    "restart": "reload",
    "hup": "reload",
    "connections": "sessions",
    "list": "sessions",
    "who": "sessions",
    "kill": "close",
    "disconnect": "close",
    "unblock": "unban",
    "tunnel": "bridge",
    "proxy": "bridge",
    "connect": "bridge",
    "diagnose": "probe",
    "ping": "probe",
    "doctor": "probe",
    "passwd": "hash-password",
    "htpasswd": "hash-password",
    "token": "new-token",
    "why": "explain",
    "describe": "explain",
    "reason": "explain",
    "reasons": "explain",
}
"""What other programs call a command; an unknown command is answered with the name used here."""


class CommandGroup(PreformattedCommand, click.Group):
    """The commands of `COMMAND_NAMES`; wrong arguments exit with 64, and Ctrl-C never prints a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the help lists them."""
        return list(COMMAND_NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in COMMAND_NAMES:
            return None
        module = importlib.import_module(f"wsbridge.cli.{COMMAND_NAMES[cmd_name]}")
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)  # noqa: S101 (every module of the table has its command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before the command; `-v` alone is `-V`, as of nginx and HAProxy."""
        if args == ["-v"]:
            args = ["-V"]
        elif args[:1] in (["-v"], ["--verbose"]):
            raise click.UsageError(f"{args[0]} follows the command: wsbridge run {args[0]}", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; `help` and `version` work like `--help` and `--version`."""
        name = args[0]
        if name == "version":
            click.echo(version_text())
            ctx.exit()
        if name == "help":
            if not args[1:]:
                click.echo(ctx.get_help())
                ctx.exit()
            name, args = args[1], [args[1], "--help"]
        if name not in COMMAND_NAMES and not name.startswith("-"):
            if name in COMMAND_SYNONYMS:
                hint = f' (did you mean "{COMMAND_SYNONYMS[name]}"?)'
            else:
                hint = did_you_mean(name, COMMAND_NAMES) or f"; the commands are {', '.join(COMMAND_NAMES)}"
            raise click.UsageError(f'no command "{name}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run one command and exit with its code."""
        if not sys.platform.startswith("linux"):
            click.echo(f"wsbridge: needs Linux; this is {sys.platform}", err=True)
            sys.exit(EXIT_UNAVAILABLE)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.UsageError as error:
            text = io.StringIO()
            error.show(text)
            _print_error(text.getvalue())
            sys.exit(EXIT_USAGE)
        except CliError as error:
            _print_error(f"wsbridge: {error.format_message()}")
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            _discard_output()
            sys.exit(EXIT_FAILED)
        except OSError as error:
            if error.errno not in OUTPUT_ERRNOS or not _is_output_error(error):
                raise
            _discard_output()
            click.echo(f"wsbridge: standard output: {os.strerror(error.errno)}", err=True)
            sys.exit(EXIT_FAILED)
        sys.exit(code if isinstance(code, int) else EXIT_OK)


def _print_error(text: str) -> None:
    """Print why a command failed; each line with the priority of an error where the journal reads them."""
    from wsbridge.log.format import choose_format  # imported here, for it takes longer than most commands need

    priority = "<3>" if choose_format("auto", 2) == "journal" else ""
    for line in text.splitlines():
        click.echo(f"{priority if line else ''}{line}", err=True)


def _is_output_error(error: OSError) -> bool:
    """Return whether an error was raised by a write to standard output, and not by another file of the command."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return click.echo.__code__ in frames or frames[-1] is CommandGroup.main.__code__  # `main` flushes what is left


def _discard_output() -> None:
    """Send what is buffered for standard output to /dev/null: the interpreter flushes it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print_version(ctx: click.Context, _parameter: click.Parameter, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of wsbridge, Python and OpenSSL.",
)
def cli() -> None:
    """Relay bytes between WebSocket connections and TCP or Unix sockets, in both directions.

    A demo in the browser:
      wsbridge demo

    A single bridge without a configuration file:
      wsbridge bridge ws://127.0.0.1:8080/ tcp://127.0.0.1:5900
      wsbridge bridge tcp://127.0.0.1:5901 wss://gw.example.org/vnc
      ssh -o ProxyCommand='wsbridge bridge - wss://gw.example.org/ssh' host

    A daemon with a configuration file:
      wsbridge check wsbridge.yaml
      wsbridge run wsbridge.yaml

    All options of a command, with examples: wsbridge COMMAND --help
    Editors complete and explain every key of a configuration file by its schema: wsbridge schema
    The documentation is in docs/ of the source, and in share/doc/wsbridge of an installation.
    """


def version_text() -> str:
    """Return the lines of `--version`."""
    from wsbridge.engine_choice import describe_engine  # imported here, for it takes longer than most commands need

    masking = "C" if HAS_NATIVE_MASK else "Python, which is slow: install websockets with its speedups"
    engine, why_not_native = describe_engine()
    return "\n".join(
        (
            f"wsbridge {__version__}",
            f"engine:  {engine}, masking in {masking}{why_not_native and f'; {why_not_native}'}",
            f"Python:  {platform.python_version()} ({platform.python_implementation()})",
            f"OpenSSL: {ssl.OPENSSL_VERSION}",
            f"system:  {platform.system()} {platform.release()} {platform.machine()}",
        )
    )


def open_missing_descriptors() -> frozenset[int]:
    """Open /dev/null on each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket would get such a number, and the log would be written into it.

    Returns:
        The descriptors that were closed.
    """
    missing = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            missing.add(descriptor)
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    return frozenset(missing)


class _ErrorOutput(io.RawIOBase):
    """Standard error: what cannot be written (disk full, a pipe without a reader) is lost, and ends no command.

    Attributes:
        has_lost: Whether anything was lost.
    """

    has_lost = False

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        try:
            return os.write(2, data)
        except OSError:
            _ErrorOutput.has_lost = True
            return len(data)


def has_lost_messages() -> bool:
    """Return whether anything could not be written to standard error, for commands whose result goes there."""
    return _ErrorOutput.has_lost


def prepare_streams() -> None:
    """Have no command fail because of standard error, or of characters that the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(_ErrorOutput()), encoding, errors, line_buffering=True)


def end_by_sigterm() -> None:
    """Have SIGTERM end the process also as the first one of a container, where the kernel has no default action.

    Commands that end in order by it handle it themselves, from some moment on.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(EXIT_SIGNAL + number))


def main() -> None:
    """Run the program with the arguments of the process; ends the process."""
    end_by_sigterm()
    missing = open_missing_descriptors()
    prepare_streams()
    cli.main(prog_name="wsbridge", obj=missing)
