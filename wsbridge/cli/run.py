"""Run; load and report a config file; serve."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import trio

from wsbridge import daemon
from wsbridge.cli.main import (
    EXIT_CONFIG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    CliError,
    PreformattedCommand,
)
from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.load import LoadedConfig, load_file
from wsbridge.log import start_log
from wsbridge.log.format import FORMATS
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListenError, ListeningSockets
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.server import Server

CONFIG_VARIABLE: Final = "WSBRIDGE_CONFIG"
DEFAULT_CONFIG_FILES: Final = ("./wsbridge.yaml", "/etc/wsbridge/wsbridge.yaml")
"""Where a file is looked for that neither the command line nor the environment names."""

config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=True),
    help=f"The configuration. Without: ${CONFIG_VARIABLE}, then {', then '.join(DEFAULT_CONFIG_FILES)}.",
)


def find_config(
    path: str | None, environ: Mapping[str, str] = os.environ, candidates: Sequence[str] = DEFAULT_CONFIG_FILES
) -> str:
    """Give the file to read.

    Args:
        path: As given on the command line; None if it was not.
        environ: The environment.
        candidates: Looked at in this order if nothing names a file.

    Raises:
        Failure: There is none; the sentence names all places that were looked at.
    """
    named = path or environ.get(CONFIG_VARIABLE)
    if named:
        return named
    for place in candidates:
        if Path(place).exists():
            return place
    raise CliError(
        f"no configuration: -c was not given, ${CONFIG_VARIABLE} is not set, and there is neither "
        f"{' nor '.join(candidates)}",
        EXIT_CONFIG,
    )


def read_config(path: str) -> LoadedConfig:
    """Read a file and what it names; all that is wrong with it ends the command at once.

    Raises:
        click.exceptions.Exit: With 78, after all problems were told.
    """
    try:
        return load_file(path, CONFIG_REGISTRY)
    except ConfigError as error:
        print_problems(error.problems)
        raise click.exceptions.Exit(EXIT_CONFIG) from None


def print_problems(problems: Sequence[Problem]) -> None:
    """Write problems to standard error, and how many there are if there are several."""
    for problem in problems:
        click.echo(problem.text(), err=True)
    errors = sum(problem.severity == "error" for problem in problems)
    if errors > 1:
        click.echo(f"{errors} errors", err=True)


OnReady = Callable[[list[ListeningSockets]], None]
ExtraTask = Callable[[Server], Awaitable[None]]


def serve_config(
    loaded: LoadedConfig,
    *,
    level: str | None = None,
    format: str | None = None,  # noqa: A002  the name of the setting
    one_connection: bool = False,
    on_ready: OnReady = lambda _: None,
    extra_task: ExtraTask | None = None,
    bind_error_hint: str = "",
) -> int:
    """Serve until the end.

    Args:
        loaded: What to serve; its warnings are logged.
        level: Least level that is logged, in place of the configuration's.
        format: Format of the log, in place of the configuration's.
        one_connection: End with the first connection.
        on_ready: Called when all listeners are open.
        extra_task: A task to run among the connections.
        bind_error_hint: What to add to the sentence about an address that cannot be had.

    Returns:
        The exit code; what went wrong has been told.
    """

    async def everything() -> None:
        log_warnings(loaded.warnings)
        await daemon.serve(loaded.config, one_connection=one_connection, on_ready=on_ready, extra_task=extra_task)

    chosen = loaded.config.log
    return run_with_log(everything, level or chosen.level, format or chosen.format, bind_error_hint)


def run_with_log(
    main: Callable[[], Awaitable[None]],
    level: str,
    format: str,  # noqa: A002  the name of the setting
    bind_error_hint: str = "",
) -> int:
    """Run a main task with the log around it.

    Args:
        main: What to run; it takes the process's signals.
        level: Least level that is logged.
        format: Format of the log.
        bind_error_hint: See `serve`.

    Returns:
        The exit code; what went wrong has been told.
    """
    writer = start_log(level, format)
    sentences: list[str] = []
    code = EXIT_OK
    try:
        trio.run(main)
    except* ListenError as group:
        sentences, code = [f"{error}{bind_error_hint}" for error in flatten_exceptions(group)], EXIT_UNAVAILABLE
    except* ValueError as group:
        sentences, code = [str(error) for error in flatten_exceptions(group)], EXIT_CONFIG
    except* KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        writer.stop()
    for sentence in sentences:
        click.echo(f"wsbridge: {sentence}", err=True)
    return code


def log_warnings(problems: Sequence[Problem]) -> None:
    """Log what is allowed but dangerous."""
    for problem in problems:
        place: dict[str, object] = {"line": problem.line, "column": problem.column} if problem.line else {}
        log.warning(
            "config.warning",
            problem=problem.code,
            file=problem.file,
            **place,
            setting=problem.setting or None,
            detail=problem.message,
        )


def flatten_exceptions(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Give the exceptions in a group of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += flatten_exceptions(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


LOG_LEVEL_CHOICES = ("debug", "info", "warning", "error")


@click.command("run", cls=PreformattedCommand)
@config_option
@click.option("--log-level", type=click.Choice(LOG_LEVEL_CHOICES), help="In place of log.level in the file.")
@click.option("--log-format", type=click.Choice(FORMATS), help="In place of log.format in the file.")
def run_command(path: str | None, log_level: str | None, log_format: str | None) -> int:
    """Serve what a configuration file describes, until a signal.

    SIGTERM lets connections end by themselves for a while (timeouts.drain); SIGINT (Ctrl-C), SIGHUP, and any second
    signal, ends them all at once. Exit codes: 0 ended by a signal, 64 wrong arguments, 69 an address cannot be had,
    78 the configuration is wrong (all that is wrong with it is told at once).

    Examples:
      wsbridge run -c wsbridge.yaml
      wsbridge run -c wsbridge.yaml --log-level debug --log-format console
      WSBRIDGE_CONFIG=/srv/gw.yaml wsbridge run
    """
    return serve_config(read_config(find_config(path)), level=log_level, format=log_format)
