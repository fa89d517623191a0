"""The table of commands, loaded one at a time, and how the program ends.

Lives here: the group that holds all commands, `--help`, `--version`, and exit codes of errors in the command line.
Must not live here: what a command does (beside it, one file each).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click

from wsbridge.cli import status
from wsbridge.cli.teaching import Teaching
from wsbridge.config.problems import did_you_mean

COMMANDS: Final = ("run", "check", "bridge", "demo", "hash-password", "new-token", "ticket", "schema", "completion")
"""Each is `command` in the module of its name, with _ for -, imported only when asked for."""


class Commands(Teaching, click.Group):
    """The commands of `COMMANDS`; wrong arguments exit with 64, and Ctrl-C never shows a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"wsbridge.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)  # noqa: S101 (a slip in that file)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is asked for, or say which one may be meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            hint = did_you_mean(name, COMMANDS) or f": there are {', '.join(COMMANDS)}"
            raise click.UsageError(f'no command "{name}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run one command and exit with its code."""
        if not sys.platform.startswith("linux"):
            click.echo(f"wsbridge: needs Linux; this is {sys.platform}", err=True)
            sys.exit(status.UNAVAILABLE)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.UsageError as error:
            error.show()
            sys.exit(status.USAGE)
        except status.Failure as error:
            click.echo(f"wsbridge: {error.format_message()}", err=True)
            sys.exit(error.status)
        except click.Abort:
            sys.exit(status.INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(status.FAILED)
        sys.exit(code if isinstance(code, int) else status.OK)


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from wsbridge.cli.version import facts

        click.echo(facts())
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Tell the version.")
def cli() -> None:
    """Carry bytes between WebSocket connections and TCP sockets, both ways round.

    See it work, in a browser:
      wsbridge demo

    One bridge, now, without a file:
      wsbridge bridge ws://127.0.0.1:8080/ tcp://127.0.0.1:5900
      wsbridge bridge tcp://127.0.0.1:5901 wss://gw.example.org/vnc
      ssh -o ProxyCommand='wsbridge bridge - wss://gw.example.org/ssh' host

    As a service, from a file:
      wsbridge check -c wsbridge.yaml
      wsbridge run -c wsbridge.yaml

    Every command tells more, with examples: wsbridge COMMAND --help
    """
