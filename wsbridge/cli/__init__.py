"""The command line.

Lives here: `main`, where the program begins. Reading order: `commands` (the table of commands and the exit codes),
then one file a command: `run`, `check`, `bridge`, `demo`, `hash_password`, `new_token`, `ticket`, `schema`,
`completion`. What these share: `place` (which configuration file), `serving` (from a configuration to an exit code),
`written` (what `bridge` is asked for, as a configuration), `stdio` (standard input and output as a connection),
`certificate` (`--self-signed`).
Must not live here: anything that the daemon does once it runs.
"""

from __future__ import annotations

from wsbridge.cli.commands import cli

__all__ = ["main"]


def main() -> None:
    """Run the program with the arguments of the process; ends the process."""
    cli.main(prog_name="wsbridge")
