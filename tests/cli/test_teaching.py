"""Help as it was written."""

from __future__ import annotations

import click
from click.testing import CliRunner

from wsbridge.cli.main import PreformattedCommand

LONG = "A line of the text that is much longer than the eighty columns to which click would wrap it, and stays whole."


def test_the_text_is_shown_line_by_line() -> None:
    """Nothing is wrapped or joined; blanks in front of examples stay, those at the ends of lines do not."""

    @click.command(cls=PreformattedCommand, help=f"Do it.\n\n    {LONG}\n\n        wsbridge it  --now   \n\n    End.")
    def it() -> None:
        """Do nothing."""

    shown = CliRunner().invoke(it, ["--help"]).output.splitlines()

    at = shown.index("  Do it.")
    assert shown[at : at + 7] == ["  Do it.", "", f"  {LONG}", "", "      wsbridge it  --now", "", "  End."]
