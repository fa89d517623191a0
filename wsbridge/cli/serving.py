"""Serving: from a configuration to the exit code of the process.

Lives here: the log's start and end, warnings, and what becomes of errors at the start. Must not live here: serving
itself (`daemon`), options of any command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click
import trio

from wsbridge import daemon
from wsbridge.cli import status
from wsbridge.config.load import Loaded
from wsbridge.config.problems import Problem
from wsbridge.listeners import ListenError, Listening
from wsbridge.log import log, start
from wsbridge.server import Server

Ready = Callable[[list[Listening]], None]
Beside = Callable[[Server], Awaitable[None]]


def serve(
    loaded: Loaded,
    *,
    level: str | None = None,
    format: str | None = None,  # noqa: A002  the name of the setting
    once: bool = False,
    ready: Ready = lambda _: None,
    beside: Beside | None = None,
    hint: str = "",
) -> int:
    """Serve until the end.

    Args:
        loaded: What to serve; its warnings are logged.
        level: Least level that is logged, in place of the configuration's.
        format: Format of the log, in place of the configuration's.
        once: End with the first connection.
        ready: Called when all listeners are open.
        beside: A task to run among the connections.
        hint: What to add to the sentence about an address that cannot be had.

    Returns:
        The exit code; what went wrong has been told.
    """

    async def everything() -> None:
        warn(loaded.warnings)
        await daemon.serve(loaded.config, once=once, ready=ready, beside=beside)

    chosen = loaded.config.log
    return run(everything, level or chosen.level, format or chosen.format, hint)


def run(
    main: Callable[[], Awaitable[None]],
    level: str,
    format: str,  # noqa: A002  the name of the setting
    hint: str = "",
) -> int:
    """Run a main task with the log around it.

    Args:
        main: What to run; it takes the process's signals.
        level: Least level that is logged.
        format: Format of the log.
        hint: See `serve`.

    Returns:
        The exit code; what went wrong has been told.
    """
    writer = start(level, format)
    sentences: list[str] = []
    code = status.OK
    try:
        trio.run(main)
    except* ListenError as group:
        sentences, code = [f"{error}{hint}" for error in leaves(group)], status.UNAVAILABLE
    except* ValueError as group:
        sentences, code = [str(error) for error in leaves(group)], status.CONFIG
    except* KeyboardInterrupt:
        code = status.INTERRUPTED
    finally:
        writer.stop()
    for sentence in sentences:
        click.echo(f"wsbridge: {sentence}", err=True)
    return code


def warn(problems: Sequence[Problem]) -> None:
    """Log what is allowed but dangerous."""
    for problem in problems:
        place: dict[str, object] = {"line": problem.line, "column": problem.column} if problem.line else {}
        log.warning(
            "config.warning",
            code=problem.code,
            file=problem.file,
            **place,
            path=problem.path or None,
            detail=problem.message,
        )


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Give the exceptions in a group of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
