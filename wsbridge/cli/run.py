"""`wsbridge run`: the daemon.

Lives here: its arguments. Must not live here: reading (`place`) and serving (`serving`).
"""

from __future__ import annotations

import click

from wsbridge.cli.place import config_option, find, read
from wsbridge.cli.serving import serve
from wsbridge.cli.teaching import Teaching
from wsbridge.log import FORMATS

LEVELS = ("debug", "info", "warning", "error")


@click.command("run", cls=Teaching)
@config_option
@click.option("--log-level", type=click.Choice(LEVELS), help="In place of log.level in the file.")
@click.option("--log-format", type=click.Choice(FORMATS), help="In place of log.format in the file.")
def command(path: str | None, log_level: str | None, log_format: str | None) -> int:
    """Serve what a configuration file describes, until a signal.

    SIGTERM lets connections end by themselves for a while (timeouts.drain); SIGINT (Ctrl-C), SIGHUP, and any second
    signal, ends them all at once. Exit codes: 0 ended by a signal, 64 wrong arguments, 69 an address cannot be had,
    78 the configuration is wrong (all that is wrong with it is told at once).

    Examples:
      wsbridge run -c wsbridge.yaml
      wsbridge run -c wsbridge.yaml --log-level debug --log-format console
      WSBRIDGE_CONFIG=/srv/gw.yaml wsbridge run
    """
    return serve(read(find(path)), level=log_level, format=log_format)
