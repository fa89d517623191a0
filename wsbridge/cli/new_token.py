"""`wsbridge new-token`: a token for `auth: {kind: bearer}`, and the line by which the bridge knows it.

Lives here: making one. Must not live here: what the line means (`auth.tokens`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, TypeVar

import click

from wsbridge.auth.tokens import Token, digest_of, read_moment, read_owner, read_routes
from wsbridge.cli.teaching import Teaching
from wsbridge.config.scalars import read_duration

RANDOM: Final = 32
"""Random bytes of a token."""

Value = TypeVar("Value")


def _moment(text: str) -> float:
    """Read a moment, or how far away it is."""
    now = time.time()
    try:
        moment = now + read_duration(text)
    except ValueError:
        moment = read_moment(text)
    if moment <= now:
        raise ValueError("that moment is over")
    return float(int(moment))


def _read(read: Callable[[str], Value]) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    """Make a callback for an argument; what it cannot read is an error of the command line."""

    def callback(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Value | None:
        try:
            return None if text is None else read(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


@click.command("new-token", cls=Teaching)
@click.argument("name", callback=_read(read_owner))
@click.option("--expires", metavar="WHEN", callback=_read(_moment), help="2027-01-01T00:00:00Z, 2027-01-01 or 30d.")
@click.option("--routes", metavar="A,B", callback=_read(read_routes), help="Take it for these routes alone.")
def command(name: str, expires: float | None, routes: frozenset[str] | None) -> None:
    """Make a token for NAME, and its line for a list of tokens.

    The list is the FILE of a route with auth: {kind: bearer, tokens: FILE}. The token goes to standard error, once:
    nothing keeps it. The line goes to standard output; it holds a hash, from which nobody can tell the token:

      wsbridge new-token alice >> /etc/wsbridge/tokens
      wsbridge new-token ci --expires 90d --routes office-vnc,telemetry >> /etc/wsbridge/tokens

    A client shows it as `Authorization: Bearer TOKEN`. Deleting the line takes it back.
    """
    token = secrets.token_urlsafe(RANDOM)
    click.echo(Token(name, digest_of(token), expires, routes).line())
    click.echo(f"The token, shown only now: {token}", err=True)
