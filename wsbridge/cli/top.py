"""`wsbridge top`: follow what a daemon does."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import click

from wsbridge.cli.control import admin_options, call_admin
from wsbridge.cli.main import EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.config.errors import did_you_mean
from wsbridge.config.types import read_positive_duration
from wsbridge.top.columns import VIEWS
from wsbridge.top.plain import snapshot_text
from wsbridge.top.poller import Poller, Unreachable
from wsbridge.top.snapshot import Snapshot, with_last_reasons, with_rates
from wsbridge.top.view import View

DEFAULT_INTERVAL: Final = "2s"
MIN_INTERVAL: Final = 0.1
"""Seconds; more requests would only cost the daemon time."""
DEFAULT_LIMIT: Final = 20
PLAIN_WIDTH: Final = 160
"""Cells of a line where there is no terminal."""


def _read_interval(_ctx: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        seconds = read_positive_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds < MIN_INTERVAL:
        raise click.BadParameter(f"must be at least {MIN_INTERVAL * 1000:g}ms")
    return seconds


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon that is followed.

    Attributes:
        address: As given on the command line.
        token_file: The same.
    """

    address: str | None
    token_file: str | None

    def fetch(self) -> Snapshot:
        """Ask for everything once.

        Raises:
            CliError: The daemon cannot be reached, or did not allow it.
        """
        status = self._get("/v1/status")
        routes, listeners = self._get("/v1/routes"), self._get("/v1/listeners")
        live = self._get("/v1/connections")
        routes = with_last_reasons(routes, live["ended"])
        return Snapshot(time.monotonic(), status, routes, listeners, live["connections"], live["ended"], live["total"])

    def try_fetch(self) -> Snapshot | Unreachable:
        """Do the same; return what went wrong."""
        try:
            return self.fetch()
        except CliError as error:
            return Unreachable(error.message)

    def _get(self, path: str) -> Any:
        status, answer = call_admin(self.address, self.token_file, "GET", path)
        if status != 200:
            raise CliError(f"GET {path}: {answer} (status {status})", EXIT_UNAVAILABLE)
        return answer

    def close(self, connection_id: object) -> str:
        """Close a connection; return how that went."""
        path = f"/v1/connections/{quote(str(connection_id), safe='')}"
        try:
            status, _ = call_admin(self.address, self.token_file, "DELETE", path)
        except CliError as error:
            return error.message
        if status == 404:
            return f"connection {connection_id} had ended already"
        return f"connection {connection_id} is closed" if status == 200 else f"not closed: status {status}"


@click.command("top", cls=PreformattedCommand)
@admin_options
@click.option(
    "--interval",
    default=DEFAULT_INTERVAL,
    metavar="DURATION",
    callback=_read_interval,
    help=f"Time between two snapshots. Default: {DEFAULT_INTERVAL}.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Print N snapshots as plain text, and exit.")
@click.option("--view", type=click.Choice(list(VIEWS)), help="Table to begin with; of plain text the only one.")
@click.option("--filter", "wanted", default="", metavar="TEXT", help="Show only rows that contain TEXT.")
@click.option("--sort", default="", metavar="COLUMN", help="Sort by a column, such as age.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT,
    metavar="N",
    help=f"Rows of a table of plain text. Default: {DEFAULT_LIMIT}.",
)
def top_command(
    address: str | None,
    token_file: str | None,
    as_json: bool,
    interval: float,
    count: int | None,
    view: str | None,
    wanted: str,
    sort: str,
    limit: int,
) -> int:
    """Follow what a daemon does.

    Shows its connections, routes, listeners and last endings, with rates, as they change.

    On a terminal: Tab selects the table, s the column to sort by, / filters, Enter shows all of a row, x closes a
    connection, p pauses, ? lists all keys, q quits.

    Without a terminal (a pipe, TERM=dumb), with --count and with --json, snapshots are printed instead; the first one
    after an interval, since rates need two. With --json each is one line.

    Exit codes: 0 after q, Ctrl-C or --count, 69 the daemon cannot be reached at the start, or at the last snapshot of
    --count. Later it is asked again until it answers.

    Examples:
      wsbridge top
      wsbridge top --view routes --interval 1s
      wsbridge top --count 1 --sort age --limit 50
      wsbridge top --json --count 3 --admin 127.0.0.1:9181 --admin-token-file token
    """
    _check_sort(view, sort)
    daemon = Daemon(address, token_file)
    first = daemon.fetch()
    if count is None and not as_json and (screen := _screen()) is not None:
        shown = View(encoding=screen.terminal_encoding(), filter=wanted)
        shown.name = view or shown.name
        for name, table in shown.tables.items():
            if sort in {column.name for column in VIEWS[name]}:
                table.sort = sort
        poller = Poller(daemon.try_fetch, daemon.close, interval)
        shown.update(first)
        poller.start(first)
        screen.run_screen(shown, poller)
        return EXIT_OK

    def text(snapshot: Snapshot) -> str:
        if as_json:
            return json.dumps({"time": _now(), **snapshot.json()})
        views = ("routes", "connections", "endings") if view is None else (view,)
        width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns
        encoding = sys.stdout.encoding or "ascii"
        return (
            _now()
            + "\n"
            + snapshot_text(snapshot, width, views, limit=limit, wanted=wanted, sort=sort, encoding=encoding)
        )

    return _print_snapshots(daemon, first, interval, count, text)


def _check_sort(view: str | None, sort: str) -> None:
    names = {column.name for name in ([view] if view else VIEWS) for column in VIEWS[name]}
    if sort and sort not in names:
        hint = did_you_mean(sort, sorted(names)) or f"; the columns are {', '.join(sorted(names))}"
        raise CliError(f'--sort: no column "{sort}"{hint}', EXIT_USAGE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _screen() -> Any:
    """Return the module that draws on the terminal; None without a terminal, or without curses."""
    try:
        from wsbridge.top import terminal  # some builds of Python have no curses
    except ImportError:
        return None
    return terminal if terminal.has_screen() else None


def _print_snapshots(
    daemon: Daemon, before: Snapshot, interval: float, count: int | None, text: Callable[[Snapshot], str]
) -> int:
    """Print a snapshot each interval.

    Returns:
        The exit code: whether the last one could be had.
    """
    code, printed = EXIT_OK, 0
    while count is None or printed < count:
        time.sleep(interval)
        printed += 1
        answer = daemon.try_fetch()
        if isinstance(answer, Unreachable):
            click.echo(f"wsbridge: not reachable, retrying: {answer.text}", err=True)
            code = EXIT_UNAVAILABLE
            continue
        click.echo(text(with_rates(answer, before)))
        sys.stdout.flush()
        before, code = answer, EXIT_OK
    return code
