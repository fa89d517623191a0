"""`wsbridge run`: find, load and serve a configuration file; also the serving part of `bridge` and `demo`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import click
import trio

from wsbridge import daemon
from wsbridge.admin.takeover import TakeoverError
from wsbridge.cli.control import ADMIN_VARIABLE, read_admin_address
from wsbridge.cli.main import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SIGNAL,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    CliError,
    PreformattedCommand,
)
from wsbridge.config.errors import ConfigError, Problem, merge_warnings
from wsbridge.config.load import LoadedConfig, load_bytes, load_file
from wsbridge.config.model import Config
from wsbridge.config.regular_files import may_exist
from wsbridge.config.yaml import MAX_CONFIG_BYTES
from wsbridge.daemon import ServeResult
from wsbridge.log import LogWriter, start_log
from wsbridge.log.format import FORMATS, choose_format
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListenError, ListeningSockets
from wsbridge.reasons import Reason, Termination
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import log_listen_error, log_problems
from wsbridge.server import Server

CONFIG_VARIABLE: Final = "WSBRIDGE_CONFIG"
DEFAULT_CONFIG_FILES: Final = ("./wsbridge.yaml", "/etc/wsbridge/wsbridge.yaml")
"""Where the configuration is looked for if neither the command line nor the environment names a file."""
TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
)
"""Errors of a listener after which a later start may succeed without a change of the configuration."""
STDIN: Final = "-"
STDIN_NAME: Final = "standard input"
"""Names standard input where a configuration file is expected."""

config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=True),
    help=f"Configuration file. Default: ${CONFIG_VARIABLE}, {', '.join(DEFAULT_CONFIG_FILES)}.",
)
engine_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--engine",
    type=click.Choice(["auto", "python", "native"]),
    help="What relays bytes. Default: auto, native where it is installed.",
)
config_argument: Callable[[Callable[..., Any]], Callable[..., Any]] = click.argument(
    "file", required=False, type=click.Path(dir_okay=True)
)


def only_path(file: str | None, path: str | None) -> str | None:
    """Return the file that is named by the argument or by `-c`.

    Raises:
        CliError: Both are given, and they differ.
    """
    if file and path and file != path:
        raise CliError("only one configuration file can be read: write FILE or -c FILE", EXIT_USAGE)
    return file or path


def find_config(
    path: str | None, environ: Mapping[str, str] = os.environ, candidates: Sequence[str] = DEFAULT_CONFIG_FILES
) -> str:
    """Choose the file to read.

    Args:
        path: As given on the command line; None if it was not.
        environ: The environment.
        candidates: Looked at in this order if nothing names a file.

    Raises:
        CliError: There is none; the message names all places that were tried.
    """
    named = path or environ.get(CONFIG_VARIABLE)
    if named:
        return named
    for place in candidates:
        if may_exist(Path(place)):
            return place
    raise CliError(
        f"no configuration file: none was given (-c FILE), ${CONFIG_VARIABLE} is not set, and there is neither "
        f"{' nor '.join(candidates)}",
        EXIT_CONFIG,
    )


def find_config_or_log(path: str | None, log_format: str) -> str:
    """Choose the file to read; that there is none is logged, unless the format of the log is console.

    Args:
        path: As given on the command line; None if it was not.
        log_format: Of the log.

    Raises:
        CliError: There is none; it has not been reported yet.
        click.exceptions.Exit: There is none; it has been logged.
    """
    try:
        return find_config(path)
    except CliError as error:
        if choose_format(log_format, 2) == "console":
            raise
        writer = open_log("info", log_format)
        log.error("config.error", problem="E001", detail=error.message)
        writer.stop()
        raise click.exceptions.Exit(error.exit_code) from None


def load_config(path: str, *, check_files: bool = True) -> LoadedConfig:
    """Load a file, or standard input for `-`; relative paths in it then begin at the working directory.

    Args:
        path: The file.
        check_files: Whether the files that it names are read.

    Raises:
        ConfigError: All errors in it.
    """
    if path != STDIN:
        return load_file(path, CONFIG_REGISTRY, check_files=check_files)
    data = sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1)
    return load_bytes(data, file=STDIN_NAME, registry=CONFIG_REGISTRY, check_files=check_files)


def open_log(level: str, format: str) -> LogWriter:  # noqa: A002  the name of the setting
    """Start the log.

    Args:
        level: Least level that is logged.
        format: Format of the log.

    Raises:
        CliError: There is no thread to be had for it.
    """
    try:
        return start_log(level, format)
    except OSError as error:
        text = f"the log cannot be written: {error.strerror} (raise TasksMax= of a systemd unit)"
        raise CliError(text, EXIT_UNAVAILABLE) from None


def read_config(path: str, log_format: str = "console") -> LoadedConfig:
    """Load a file; errors end the command.

    Args:
        path: The file.
        log_format: With console, or where auto chooses that, errors are printed; with another format they are logged,
            so that the journal and JSON readers get them like any record.

    Raises:
        click.exceptions.Exit: With 78, after all errors were printed or logged.
    """
    try:
        return load_config(path)
    except ConfigError as error:
        if choose_format(log_format, 2) == "console":
            print_problems(error.problems)
        else:
            writer = open_log("info", log_format)
            log_problems(error.problems)
            writer.stop()
        raise click.exceptions.Exit(EXIT_CONFIG) from None


def print_problems(problems: Sequence[Problem]) -> None:
    """Print problems to standard error, same warnings as one, and the number of errors if there are several."""
    for problem in merge_warnings(problems):
        click.echo(problem.text(), err=True)
    errors = sum(problem.severity == "error" for problem in problems)
    if errors > 1:
        click.echo(f"{errors} errors", err=True)


OnReady = Callable[[list[ListeningSockets]], None]
ExtraTask = Callable[[Server], Awaitable[None]]


def serve_until_end(
    loaded: LoadedConfig,
    *,
    level: str | None = None,
    format: str | None = None,  # noqa: A002  the name of the setting
    one_connection: bool = False,
    open_level: Literal["debug", "info"] = "debug",
    on_ready: OnReady = lambda _: None,
    extra_task: ExtraTask | None = None,
    stop_on_hangup: bool = False,
    exits: bool = False,
    load: Callable[[], LoadedConfig] | None = None,
    take_over: str | None = None,
) -> tuple[int, ServeResult | None]:
    """Serve until the end.

    Args:
        loaded: What to serve; its warnings are logged.
        level: Least level that is logged; overrides the configuration.
        format: Format of the log; overrides the configuration.
        one_connection: End with the first connection.
        open_level: Level of `connection.open`.
        on_ready: Called when all listeners are open.
        extra_task: A task to run in the nursery of the connections.
        stop_on_hangup: Whether SIGHUP ends it.
        exits: Whether the process ends afterwards, with nothing left to do that could block.
        load: Reads the configuration again for a reload; None: it cannot be reloaded.
        take_over: Admin socket of a running process, whose listening sockets this one gets.

    Returns:
        0 and how serving ended; or an exit code, after the errors have been printed.
    """
    result: ServeResult | None = None

    async def everything(writer: LogWriter) -> None:
        nonlocal result

        def apply_log_settings(config: Config) -> None:
            log.set_level(level or config.log.level)
            writer.set_format(format or config.log.format)

        log_problems(loaded.warnings)
        result = await daemon.serve(
            loaded.config,
            references=loaded.references,
            one_connection=one_connection,
            open_level=open_level,
            on_ready=on_ready,
            extra_task=extra_task,
            stop_on_hangup=stop_on_hangup,
            exits=exits,
            load=load,
            on_reloaded=apply_log_settings,
            take_over=take_over,
            log_writer=writer,
        )

    chosen = loaded.config.log
    return run_with_log(everything, level or chosen.level, format or chosen.format), result


def one_connection_code(result: ServeResult) -> int:
    """Choose the exit code of a command that serves one connection: 128 + N after signal N, else how that ended."""
    if result.signal is not None:
        return EXIT_SIGNAL + result.signal
    return EXIT_OK if result.termination is not None and is_clean(result.termination) else EXIT_FAILED


def is_clean(termination: Termination) -> bool:
    """Whether a connection ended with all that its side had to send.

    A client may also close with 1001, as a browser does when a tab is closed, and with a code of its own; from a server
    that we dialled everything but 1000 or no code is a failure.
    """
    code = termination.close_code
    if termination.incomplete:
        return False
    if code in (None, 1000, 1005):
        return termination.reason in (Reason.CLIENT_CLOSED, Reason.BACKEND_CLOSED)
    return termination.reason is Reason.CLIENT_CLOSED and (code == 1001 or 3000 <= code <= 4999)


def run_with_log(
    main: Callable[[LogWriter], Awaitable[None]],
    level: str,
    format: str,  # noqa: A002  the name of the setting
    bind_error_hint: str = "",
) -> int:
    """Run a main task between the start and the end of the log.

    Args:
        main: What to run, with the writer of the log; it handles the signals of the process.
        level: Least level that is logged.
        format: Format of the log.
        bind_error_hint: Appended to the message about an address that cannot be bound.

    Returns:
        The exit code; errors have been printed in the format console, and logged in the others.
    """
    writer = open_log(level, format)
    errors: list[BaseException] = []
    code = EXIT_OK
    try:
        trio.run(main, writer)
    except* (ListenError, TakeoverError, ValueError) as group:
        errors = flatten_exceptions(group)
        code = EXIT_UNAVAILABLE if all(map(_may_pass, errors)) else EXIT_CONFIG
        if writer.format != "console":
            log_start_errors(errors)
    except* KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        writer.stop()
    if writer.format == "console":
        for error in errors:
            hint = bind_error_hint if isinstance(error, ListenError) else ""
            code_text = f" [{error.problem}]" if isinstance(error, ListenError) and error.problem else ""
            click.echo(f"wsbridge: {error}{hint}{code_text}", err=True)
    return code


def _may_pass(error: BaseException) -> bool:
    """Whether a later start may succeed: an address is in use, its interface is not there yet, there is no thread."""
    if isinstance(error, TakeoverError):
        return True
    cause = error if isinstance(error, OSError) else error.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    return code is not None and (code < 0 or code in TRANSIENT_ERRNOS)  # below 0: codes of getaddrinfo


def log_start_errors(errors: Sequence[BaseException]) -> None:
    """Log why nothing is served."""
    for error in errors:
        if isinstance(error, ListenError):
            log_listen_error(error, str(error))
        elif isinstance(error, TakeoverError):
            log.error("takeover.failed", detail=str(error))
        else:
            log.error("config.error", detail=str(error))


def flatten_exceptions(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the exceptions in a group of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += flatten_exceptions(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


LOG_LEVEL_CHOICES = ("debug", "info", "warning", "error")


@click.command("run", cls=PreformattedCommand)
@config_argument
@config_option
@click.option("--log-level", type=click.Choice(LOG_LEVEL_CHOICES), help="Overrides log.level of the file.")
@click.option("-v", "--verbose", is_flag=True, help="The same as --log-level debug.")
@click.option("--log-format", type=click.Choice(FORMATS), help="Overrides log.format of the file.")
@click.option("--takeover", is_flag=True, help="Take over the listening sockets of the process that runs.")
@click.option("--admin", "address", metavar="ADDRESS", help="Its admin socket. Default: $WSBRIDGE_ADMIN, admin.bind.")
def run_command(
    file: str | None,
    path: str | None,
    log_level: str | None,
    log_format: str | None,
    verbose: bool,
    takeover: bool,
    address: str | None,
) -> int:
    """Run the daemon.

    SIGTERM: graceful shutdown; open connections may continue until timeouts.drain expires. SIGINT (Ctrl-C) and any
    second signal: immediate shutdown. SIGHUP: reload the configuration file; an invalid one changes nothing.

    --takeover: upgrade without refusing a connection, on hosts without a service manager. The new process gets the
    listening sockets of the running one, which drains and ends once the new one is ready, and serves on if it fails.
    If none runs, it starts as usual.

    Examples:
      wsbridge run wsbridge.yaml
      wsbridge run -c wsbridge.yaml --log-level debug --log-format console
      WSBRIDGE_CONFIG=/srv/gw.yaml wsbridge run
      wsbridge run wsbridge.yaml --takeover

    Exit codes: 0 stopped by a signal or taken over, 64 wrong command line, 69 an address is in use or the takeover
    failed, 78 invalid configuration (all errors are reported at once). With a log format other than console, errors at
    start are written to the log.
    """
    with daemon.held_hangups():
        found = find_config_or_log(only_path(file, path), log_format or "auto")
        loaded = read_config(found, log_format or "auto").without_places()
        load = None if found == STDIN else partial(load_config, str(Path(found).absolute()))
        take_over = takeover_path(address, loaded.config) if takeover else None
        level = "debug" if verbose else log_level
        code, _ = serve_until_end(loaded, level=level, format=log_format, exits=True, load=load, take_over=take_over)
        return code


def takeover_path(address: str | None, config: Config) -> str:
    """Return the admin socket of the process to take over from.

    Args:
        address: As given on the command line; None for that of the environment, or of the configuration.
        config: That of the new process.

    Raises:
        CliError: There is none, or it is no Unix socket, which alone can pass descriptors on.
    """
    if address or os.environ.get(ADMIN_VARIABLE):
        bind = read_admin_address(address)
    elif config.admin is not None:
        bind = config.admin.bind
    else:
        text = "--takeover: add admin: {bind: unix:/path} to the configuration, so that processes find each other there"
        raise CliError(text, EXIT_USAGE)
    if bind.kind != "unix":
        raise CliError(f"--takeover needs a Unix socket, not {bind}: write --admin unix:/path", EXIT_USAGE)
    return bind.path
