"""`wsbridge sessions`, `close`, `bans` and `unban`: see and end the connections of a daemon, see and lift its bans."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import click

from wsbridge.cli.control import admin_options, call_admin
from wsbridge.cli.main import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.top.columns import VIEWS, Column, lay_out_columns
from wsbridge.top.snapshot import Row
from wsbridge.top.text import NO_VALUE, age_text, terminal_text

CLOSE_TIMEOUT: Final = 60.0
"""Seconds until the daemon must have closed the connections that a filter means."""

_RANKS: Final = {"peer": 0, "id": 1, "route": 2, "state": 3, "identity": 4}
"""Columns that have a place on narrow terminals sooner than in `top`."""
_RATES: Final = frozenset({"backend/s", "client/s"})
_SESSION_COLUMNS: Final = tuple(
    replace(column, rank=_RANKS.get(column.name, column.rank + len(_RANKS)))
    for column in VIEWS["connections"]
    if column.name not in _RATES
)
_ENDED_COLUMNS: Final = VIEWS["endings"]
_WHOLE_TIME: Final = Column("time", lambda row: row.get("time"))
_BAN_COLUMNS: Final = (
    Column("address", lambda row: row.get("client_address"), None, 44, 0),
    Column("remaining", lambda row: row.get("ban_seconds"), age_text, 9, 1),
    Column("reason", lambda row: row.get("reason"), None, 20, 2),
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select connections."""
    for option in (
        click.option("--client", metavar="ADDRESS", help="Address or network of the client, or unix."),
        click.option("--identity", metavar="NAME", help="Name of the client."),
        click.option("--route", metavar="NAME", help="Name of the route."),
    ):
        command = option(command)
    return command


def _request(address: str | None, token_file: str | None, method: str, path: str, **query: object) -> tuple[int, Any]:
    """Send a request to the admin API.

    Raises:
        CliError: The daemon cannot be reached, or does not accept the request.
    """
    given = {name: value for name, value in query.items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    status, answer = call_admin(address, token_file, method, target, CLOSE_TIMEOUT)
    if status not in (200, 404):
        raise CliError(str(answer), EXIT_USAGE if status == 400 else EXIT_FAILED)
    return status, answer


def print_rows(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table: on a terminal as wide as that, else complete and separated by tabs, with plain numbers."""
    encoding = sys.stdout.encoding or "ascii"
    if sys.stdout.isatty():
        layout = lay_out_columns(columns, rows, shutil.get_terminal_size().columns, encoding=encoding, ellipsis="~")
        click.echo(" ".join(text for _, text in layout.headings()).rstrip())
        for row in rows:
            click.echo(layout.line(row).rstrip())
        return
    columns = [_WHOLE_TIME if column.name == _WHOLE_TIME.name else column for column in columns]
    click.echo("\t".join(column.name for column in columns))
    for row in rows:
        click.echo("\t".join(_plain_cell(column.value(row), encoding) for column in columns))


def _plain_cell(value: object, encoding: str) -> str:
    return NO_VALUE if value in (None, "") else terminal_text(value, encoding)


def _print_json(answer: object) -> None:
    click.echo(json.dumps(answer, indent=2))


def _count_text(count: int) -> str:
    return f"{count} connection{'s' * (count != 1)}"


@click.command("sessions", cls=PreformattedCommand)
@admin_options
@filter_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="List only the N newest.")
@click.option("--ended", is_flag=True, help="List the last connections that ended, at most 100, instead.")
def sessions_command(
    address: str | None,
    token_file: str | None,
    as_json: bool,
    route: str | None,
    identity: str | None,
    client: str | None,
    limit: int | None,
    ended: bool,
) -> int:
    """List the open connections of a daemon.

    On a terminal: as many columns as have a place; "blocked" is for how long the side named after it has accepted no
    bytes. Elsewhere: all columns, separated by tabs, times in seconds and sizes in bytes. --json: all that is known.

    Exit codes: 0 also without any connection, 64 an option is not valid, 69 the daemon cannot be reached.

    Examples:
      wsbridge sessions
      wsbridge sessions --route desk --client 192.0.2.0/24
      wsbridge sessions --ended --identity alice
      wsbridge sessions --json --limit 10 | jq '.connections[].id'
    """
    _, answer = _request(
        address, token_file, "GET", "/v1/connections", route=route, identity=identity, client=client, limit=limit
    )
    if as_json:
        _print_json(answer)
        return EXIT_OK
    rows = answer["ended"][:limit] if ended else answer["connections"]
    if rows or not sys.stdout.isatty():
        print_rows(_ENDED_COLUMNS if ended else _SESSION_COLUMNS, rows)
    elif ended:
        click.echo("no connection has ended")
    else:
        click.echo("no connections")
    if not ended and len(rows) < answer["total"]:
        click.echo(f"wsbridge: the newest {len(rows)} of {_count_text(answer['total'])}", err=True)
    return EXIT_OK


@click.command("close", cls=PreformattedCommand)
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1))
@admin_options
@filter_options
def close_command(
    ids: tuple[int, ...],
    address: str | None,
    token_file: str | None,
    as_json: bool,
    route: str | None,
    identity: str | None,
    client: str | None,
) -> int:
    """Close connections of a daemon.

    Those with the IDs, or all that match the options. They end at once, without confirmation, with the reason
    closed_by_operator: close code 1001, a reset for plain TCP. Clients may connect again.

    Exit codes: 0 closed, also if no connection matches the options; 1 no open connection has one of the IDs; 64 neither
    an ID nor an option was given; 69 the daemon cannot be reached.

    Examples:
      wsbridge close 4711 4712
      wsbridge close --identity alice
      wsbridge close --route desk --client 192.0.2.0/24
    """
    query = {"route": route, "identity": identity, "client": client}
    if ids and any(value is not None for value in query.values()):
        raise CliError("close: give IDs, or --route, --identity and --client, not both", EXIT_USAGE)
    if not ids and all(value is None for value in query.values()):
        text = "close: give the IDs of connections (wsbridge sessions lists them), or --route, --identity or --client"
        raise CliError(text, EXIT_USAGE)
    closed, missing = 0, []
    if ids:
        for number in dict.fromkeys(ids):
            status, _ = _request(address, token_file, "DELETE", f"/v1/connections/{number}")
            closed += status == 200
            missing += [number] if status == 404 else []
    else:
        closed = _request(address, token_file, "DELETE", "/v1/connections", **query)[1]["closed"]
    if as_json:
        _print_json({"closed": closed, **({"not_open": missing} if ids else {})})
    else:
        click.echo(f"closed {_count_text(closed)}")
        for number in missing:
            click.echo(f"wsbridge: no open connection has the ID {number}", err=True)
    return EXIT_FAILED if missing else EXIT_OK


@click.command("bans", cls=PreformattedCommand)
@admin_options
def bans_command(address: str | None, token_file: str | None, as_json: bool) -> int:
    """List the addresses that a daemon has banned.

    With how long each ban still lasts. IPv6 addresses are banned as a /64. On a terminal a table; elsewhere separated
    by tabs, with seconds.

    Exit codes: 0 also without any ban, 69 the daemon cannot be reached.

    Example:
      wsbridge bans
    """
    _, answer = _request(address, token_file, "GET", "/v1/bans")
    if as_json:
        _print_json(answer)
    elif answer["bans"] or not sys.stdout.isatty():
        print_rows(_BAN_COLUMNS, answer["bans"])
    else:
        click.echo("no address is banned")
    return EXIT_OK


@click.command("unban", cls=PreformattedCommand)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@admin_options
def unban_command(addresses: tuple[str, ...], address: str | None, token_file: str | None, as_json: bool) -> int:
    """Lift bans of a daemon.

    Any address of an IPv6 /64 lifts that of the /64; "unix" that of all clients of Unix sockets.

    Exit codes: 0 lifted, 1 one of them was not banned, 64 one is not an address, 69 the daemon cannot be reached.

    Examples:
      wsbridge unban 192.0.2.7
      wsbridge unban 2001:db8:1:2::/64 unix
    """
    unbanned, missing = [], []
    for one in addresses:
        status, answer = _request(address, token_file, "DELETE", f"/v1/bans/{quote(one, safe='')}")
        if status == 200:
            unbanned.append(answer["unbanned"])
        else:
            missing.append(one)
    if as_json:
        _print_json({"unbanned": unbanned, "not_banned": missing})
    else:
        for one in unbanned:
            click.echo(f"unbanned {one}")
        for one in missing:
            click.echo(f"wsbridge: {one} is not banned", err=True)
    return EXIT_FAILED if missing else EXIT_OK
