"""Help that teaches: the text of a command is shown as it stands in its docstring, examples and all.

Lives here: the command class that all commands use. Must not live here: any text.
"""

from __future__ import annotations

import inspect

import click


class Teaching(click.Command):
    """A command whose help is not wrapped anew."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring, line by line."""
        formatter.write_paragraph()
        with formatter.indentation():
            for line in inspect.cleandoc(self.help or "").splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}".rstrip() + "\n")
