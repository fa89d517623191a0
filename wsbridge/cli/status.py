"""Exit codes: those of sysexits(3), and errors that carry one.

Lives here: the numbers and the exception that ends a command with one sentence. Must not live here: commands.
"""

from __future__ import annotations

from typing import Final

import click

OK: Final = 0
FAILED: Final = 1
"""The one connection of `bridge -` could not be made or broke."""
USAGE: Final = 64
"""The command line is wrong."""
UNAVAILABLE: Final = 69
"""Something that is needed is not there: an address, a program, Linux."""
CONFIG: Final = 78
"""The configuration is wrong."""
INTERRUPTED: Final = 130
"""Ctrl-C before serving began."""


class Failure(click.ClickException):
    """Ends a command with one sentence on standard error.

    Args:
        message: The sentence, without a full stop.
        exit_code: One of the codes of this file.

    Attributes:
        status: The code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.status = exit_code
