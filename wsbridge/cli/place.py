"""Place: which configuration file a command reads, and reading it.

Lives here: the order in which places are looked at, and how all problems of a file are told. Must not live here: what
a file may hold (`config`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from wsbridge.cli.status import CONFIG, Failure
from wsbridge.config.load import Loaded, load_file
from wsbridge.config.problems import ConfigError, Problem
from wsbridge.kinds import CONFIG_KINDS

VARIABLE: Final = "WSBRIDGE_CONFIG"
PLACES: Final = ("./wsbridge.yaml", "/etc/wsbridge/wsbridge.yaml")
"""Where a file is looked for that neither the command line nor the environment names."""

config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=True),
    help=f"The configuration. Without: ${VARIABLE}, then {', then '.join(PLACES)}.",
)


def find(path: str | None, environ: Mapping[str, str] = os.environ, places: Sequence[str] = PLACES) -> str:
    """Give the file to read.

    Args:
        path: As given on the command line; None if it was not.
        environ: The environment.
        places: Looked at in this order if nothing names a file.

    Raises:
        Failure: There is none; the sentence names all places that were looked at.
    """
    named = path or environ.get(VARIABLE)
    if named:
        return named
    for place in places:
        if Path(place).exists():
            return place
    raise Failure(
        f"no configuration: -c was not given, ${VARIABLE} is not set, and there is neither {' nor '.join(places)}",
        CONFIG,
    )


def read(path: str) -> Loaded:
    """Read a file and what it names; all that is wrong with it ends the command at once.

    Raises:
        click.exceptions.Exit: With 78, after all problems were told.
    """
    try:
        return load_file(path, CONFIG_KINDS)
    except ConfigError as error:
        tell(error.problems)
        raise click.exceptions.Exit(CONFIG) from None


def tell(problems: Sequence[Problem]) -> None:
    """Write problems to standard error, and how many there are if there are several."""
    for problem in problems:
        click.echo(problem.text(), err=True)
    errors = sum(problem.severity == "error" for problem in problems)
    if errors > 1:
        click.echo(f"{errors} errors", err=True)
