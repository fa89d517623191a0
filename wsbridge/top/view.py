"""The screen of `top`, apart from the terminal: what it shows as lines of text, and what keys do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.cells import cell_len

from wsbridge.top.columns import DEFAULT_SORT, VIEWS, Layout, filter_rows, lay_out, sort_rows
from wsbridge.top.snapshot import Row, Snapshot, total_rates
from wsbridge.top.text import age_text, fit, short_time_text, size_text, terminal_text

Style = Literal["", "bold", "dim", "good", "warning", "bad", "selected", "heading", "sorted"]
Span = tuple[str, Style]
Line = list[Span]

KEY_HINTS = "? help  q quit  Tab table  / filter  s sort  x close  Enter details  p pause"

HELP = """\
Keys
  Tab, 1 2 3 4     next table; routes, connections, endings, listeners
  Up Down j k      select a row; PgUp, PgDn, Home, End
  Left Right       shift the columns
  s, S             sort by the next, previous column
  r                reverse the order
  /                show only rows that have a text; Esc shows all
  Enter            all that is known of the selected row
  x                close the selected connection, after y
  p                pause, and go on
  q                quit

Columns
  backend/s client/s    bytes a second to the backend, to the client
  to backend, to client bytes since the start
  rtt                   round trip of the last ping of wsbridge
  blocked, side         for how long the peer at that side has accepted no bytes
  by                    who ended the connection"""


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """The user wants to close a connection.

    Attributes:
        id: Of the connection.
    """

    id: object


@dataclass(slots=True)
class Table:
    """How the user looks at one table.

    Attributes:
        sort: Name of the column; empty for the order of the daemon.
        reverse: Whether its order is reversed.
        selected: What identifies the selected row; None: the first.
        position: Of the selected row, should it be gone.
        top: First row on the screen.
        first_column: Columns that are shifted out at the left.
    """

    sort: str = ""
    reverse: bool = False
    selected: object = None
    position: int = 0
    top: int = 0
    first_column: int = 0


def row_key(view: str, row: Row) -> object:
    """Return what identifies a row of a table from one snapshot to the next."""
    return row.get({"routes": "route", "listeners": "listener"}.get(view, "id"))


@dataclass
class View:
    """The screen.

    Attributes:
        encoding: Of the terminal.
        name: Of the table that is shown.
        filter: Text that rows must have.
        snapshot: What is shown; None before the first.
        problem: Why the daemon cannot be asked; empty if it can.
        is_paused: Whether snapshots are ignored.
        mode: What keys are for.
        message: The result of the last action; empty after the next key.
    """

    encoding: str = "utf-8"
    name: str = "connections"
    filter: str = ""
    snapshot: Snapshot | None = None
    problem: str = ""
    is_paused: bool = False
    mode: Literal["table", "details", "help", "filter", "confirm"] = "table"
    message: str = ""
    tables: dict[str, Table] = field(default_factory=lambda: {name: Table(DEFAULT_SORT[name]) for name in VIEWS})
    _rows: list[Row] = field(default_factory=list)
    _page: int = 10
    _scroll: int = 0
    _details: Row = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            "…".encode(self.encoding)
            self._ellipsis = "…"
        except UnicodeEncodeError:
            self._ellipsis = "~"

    @property
    def table(self) -> Table:
        """How the user looks at the table that is shown."""
        return self.tables[self.name]

    def update(self, snapshot: Snapshot) -> None:
        """Show another snapshot."""
        self.problem = ""
        if not self.is_paused:
            self.snapshot = snapshot
            self._arrange()

    def show_problem(self, text: str) -> None:
        """Show that the daemon cannot be asked, with the last snapshot below."""
        self.problem = terminal_text(text, self.encoding)

    def _arrange(self) -> None:
        """Filter and sort the rows, and find the selected one again."""
        table = self.table
        rows = [] if self.snapshot is None else self.snapshot.rows(self.name)
        self._rows = sort_rows(self.name, filter_rows(rows, self.filter), table.sort, reverse=table.reverse)
        for position, row in enumerate(self._rows):
            if table.selected is not None and row_key(self.name, row) == table.selected:
                table.position = position
                break
        else:
            table.selected = None
        table.position = max(0, min(table.position, len(self._rows) - 1))

    # keys

    def press(self, key: str) -> CloseRequest | Literal["quit"] | None:
        """Handle a key.

        Args:
            key: A character, or the name of a key in capitals: UP, DOWN, PGUP, PGDN, HOME, END, LEFT, RIGHT, ENTER,
                ESC, BACKSPACE, TAB, BACKTAB.

        Returns:
            What is left to do.
        """
        self.message = ""
        if self.mode == "filter":
            self._edit_filter(key)
        elif self.mode == "confirm":
            self.mode = "table"
            if key in ("y", "Y"):
                self.message = f"closing connection {self._details.get('id')} ..."
                return CloseRequest(self._details.get("id"))
            self.message = "not closed"
        elif self.mode in ("details", "help"):
            self._press_in_text(key)
        elif key == "q":
            return "quit"
        else:
            self._press_in_table(key)
        return None

    def _edit_filter(self, key: str) -> None:
        if key in ("ENTER", "ESC"):
            self.mode = "table"
            self.filter = "" if key == "ESC" else self.filter
        elif key == "BACKSPACE":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self._arrange()

    def _press_in_text(self, key: str) -> None:
        if key in ("UP", "k"):
            self._scroll -= 1
        elif key in ("DOWN", "j"):
            self._scroll += 1
        elif key in ("PGUP", "PGDN", " "):
            self._scroll += -self._page if key == "PGUP" else self._page
        else:
            self.mode, self._scroll = "table", 0

    def _press_in_table(self, key: str) -> None:
        steps = {"UP": -1, "k": -1, "DOWN": 1, "j": 1, "PGUP": -self._page, "PGDN": self._page, " ": self._page}
        steps |= {"HOME": -len(self._rows), "END": len(self._rows)}
        keys: Mapping[str, Callable[[], None]] = {
            "s": lambda: self._sort(1),
            "S": lambda: self._sort(-1),
            "r": self._reverse,
            "p": self._pause,
            "/": lambda: self._enter("filter"),
            "?": lambda: self._enter("help"),
            "h": lambda: self._enter("help"),
            "ENTER": lambda: self._open_row("details"),
            "x": lambda: self._open_row("confirm"),
            "ESC": self._show_all,
            "LEFT": lambda: self._shift(-1),
            "RIGHT": lambda: self._shift(1),
            "TAB": lambda: self._switch(1),
            "BACKTAB": lambda: self._switch(-1),
        }
        if key in steps:
            self._select(self.table.position + steps[key])
        elif key in keys:
            keys[key]()
        elif key in "1234"[: len(VIEWS)]:
            self._switch(int(key) - 1 - list(VIEWS).index(self.name))

    def _select(self, position: int) -> None:
        if self._rows:
            self.table.position = max(0, min(position, len(self._rows) - 1))
            self.table.selected = row_key(self.name, self._rows[self.table.position])

    def _enter(self, mode: Literal["filter", "help"]) -> None:
        self.mode = mode

    def _pause(self) -> None:
        self.is_paused = not self.is_paused

    def _show_all(self) -> None:
        self.filter = ""
        self._arrange()

    def _sort(self, step: int) -> None:
        names = ["", *(column.name for column in VIEWS[self.name])]
        self.table.sort = names[(names.index(self.table.sort) + step) % len(names)]
        self.table.reverse = False
        self._arrange()

    def _reverse(self) -> None:
        self.table.reverse = not self.table.reverse
        self._arrange()

    def _shift(self, step: int) -> None:
        self.table.first_column = max(0, min(self.table.first_column + step, len(VIEWS[self.name]) - 2))

    def _switch(self, step: int) -> None:
        names = list(VIEWS)
        self.name = names[(names.index(self.name) + step) % len(names)]
        self._arrange()

    def _open_row(self, mode: Literal["details", "confirm"]) -> None:
        if not self._rows:
            return
        self._select(self.table.position)
        if mode == "confirm" and self.name != "connections":
            self.message = "select a connection to close, in the table of connections (2)"
            return
        self._details = self._rows[self.table.position]
        self.mode = mode

    # lines

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the whole screen.

        Args:
            width: Cells of a line.
            height: Lines; the last is for hints, messages and input.
        """
        header = self.header(width, 3 if height >= 20 else 1)
        body_height = max(height - len(header) - 1, 1)
        if self.mode in ("details", "help"):
            body = self._text_lines(width, body_height)
        else:
            body = [self._tabs(width), *self._table_lines(width, body_height - 1)]
        body += [[] for _ in range(body_height - len(body))]
        return [*header, *body[:body_height], self._last_line(width)][:height]

    def header(self, width: int, max_lines: int) -> list[Line]:
        """Return what is known of the daemon, in as many lines; what has no place is left out."""
        if self.snapshot is None:
            facts: list[Span] = [("wsbridge top", "bold")]
        else:
            facts = header_facts(self.snapshot)
        lines = _flow(facts, width, max_lines)
        if self.problem:
            lines[-1 if max_lines > 1 and len(lines) == max_lines else len(lines) :] = [
                [(fit(f"not reachable, retrying: {self.problem}", width, ellipsis=self._ellipsis), "bad")]
            ]
        return lines

    def _tabs(self, width: int) -> Line:
        line: Line = []
        for number, name in enumerate(VIEWS, 1):
            count = 0 if self.snapshot is None else self.snapshot_count(name)
            line.append((f" {number} {name} {count} ", "selected" if name == self.name else ""))
        notes: list[Span] = []
        if self.is_paused:
            notes.append(("PAUSED", "warning"))
        if self.filter or self.mode == "filter":
            notes.append((f"filter: {terminal_text(self.filter, self.encoding)} ({len(self._rows)})", "warning"))
        if self.table.sort:
            notes.append((f"sort: {self.table.sort}{' reversed' if self.table.reverse else ''}", "dim"))
        if sum(cell_len(text) + 2 for text, _ in (*line, *notes)) > width:
            line = [span for span in line if span[1]]
        return (_flow([*line, *notes], width, 1) or [[]])[0]

    def snapshot_count(self, name: str) -> int:
        """Return how many rows a table has, without a filter."""
        if self.snapshot is None:
            return 0
        return self.snapshot.total if name == "connections" else len(self.snapshot.rows(name))

    def _table_lines(self, width: int, height: int) -> list[Line]:
        table = self.table
        layout = lay_out(
            self.name, self._rows, width, first=table.first_column, encoding=self.encoding, ellipsis=self._ellipsis
        )
        self._page = page = max(height - 1, 1)
        table.top = max(0, min(table.top, len(self._rows) - page))
        if table.position < table.top or table.position >= table.top + page:
            table.top = max(0, table.position - (page - 1 if table.position >= table.top + page else 0))
        lines = [heading_line(layout, table.sort)]
        for position, row in enumerate(self._rows[table.top : table.top + page], table.top):
            style: Style = "selected" if position == table.position else row_style(self.name, row)
            lines.append([(fit(layout.line(row), width, ellipsis=self._ellipsis), style)])
        if not self._rows:
            lines.append([(fit(self._empty_text(), width, ellipsis=self._ellipsis), "dim")])
        return lines

    def _empty_text(self) -> str:
        if self.snapshot is None:
            return "waiting for the daemon"
        return "no row has this text; Esc shows all" if self.filter else f"no {self.name}"

    def _text_lines(self, width: int, height: int) -> list[Line]:
        """Return the help, or all values of a row, from the line to which the user has scrolled."""
        texts = HELP.splitlines() if self.mode == "help" else details_lines(self._details, width, self.encoding)
        self._page = height
        self._scroll = max(0, min(self._scroll, len(texts) - height))
        return [
            [(fit(text, width, ellipsis=self._ellipsis), "")] for text in texts[self._scroll : self._scroll + height]
        ]

    def _last_line(self, width: int) -> Line:
        if self.mode == "confirm":
            row = self._details
            text = f"close connection {row.get('id')} of {terminal_text(row.get('peer'), self.encoding)}? y/n"
            return [(fit(text, width, ellipsis=self._ellipsis), "warning")]
        if self.mode == "filter":
            shown = terminal_text(self.filter, self.encoding)[-max(width - 9, 1) :]
            return [(fit(f"filter: {shown}_", width), "bold")]
        if self.message:
            return [(fit(terminal_text(self.message, self.encoding), width, ellipsis=self._ellipsis), "warning")]
        hint = "any other key: back to the table" if self.mode in ("details", "help") else KEY_HINTS
        return [(fit(hint, width, ellipsis=self._ellipsis), "dim")]


def heading_line(layout: Layout, sort: str) -> Line:
    """Return the headings of a table."""
    line: Line = []
    for name, text in layout.headings():
        line += [(" ", "heading")] if line else []
        line.append((text, "sorted" if name == sort else "heading"))
    return line


def row_style(view: str, row: Row) -> Style:
    """Return the style of a row: whether something is wrong with it."""
    if view == "connections":
        blocked = (row.get(f"blocked_to_{side}_seconds") or 0 for side in ("client", "backend"))
        return "warning" if max(blocked) >= SLOW_SECONDS else "dim" if row.get("state") != "relaying" else ""
    if view == "endings" and row.get("event") == "connection.rejected":
        return "warning"
    return ""


SLOW_SECONDS = 5.0
"""A connection that has been blocked for so long is marked."""


def header_facts(snapshot: Snapshot) -> list[Span]:
    """Return what is known of the daemon, the most important first."""
    status = snapshot.status
    rates = total_rates(snapshot)
    facts: list[Span] = [_state_fact(status)]
    limit = status.get("connections_limit")
    is_full = isinstance(limit, int) and status.get("connections", 0) >= limit
    facts.append((f"connections {status.get('connections')} of {limit}", "bad" if is_full else "bold"))
    if detached := status.get("sessions_detached"):
        facts.append((f"detached sessions {detached}", ""))
    if rates is not None:
        facts.append((f"to backend {size_text(rates['bytes_to_backend'])}/s", ""))
        facts.append((f"to client {size_text(rates['bytes_to_client'])}/s", ""))
    lag, longest = status.get("loop_lag_seconds"), status.get("loop_lag_longest_seconds")
    facts.append((f"loop lag {short_time_text(lag)}, longest {short_time_text(longest)}", _lag_style(lag)))
    if memory := status.get("memory"):
        used, most = size_text(memory.get("memory_bytes")), size_text(memory.get("memory_limit_bytes"))
        facts.append((f"memory {used} of {most}", "bad" if memory.get("pressure") else ""))
    facts += _generation_facts(status)
    facts.append((f"up {age_text(status.get('uptime_seconds'))}", "dim"))
    version, engine = terminal_text(status.get("version")), terminal_text(status.get("engine"))
    facts.append((f"version {version}, engine {engine}, pid {status.get('pid')}", "dim"))
    return facts


def _lag_style(seconds: object) -> Style:
    return "warning" if isinstance(seconds, int | float) and seconds >= SLOW_LOOP_SECONDS else ""


SLOW_LOOP_SECONDS = 0.1
"""Lag of the event loop that is marked."""


def _state_fact(status: Mapping[str, Any]) -> Span:
    state, memory = terminal_text(status.get("state")), status.get("memory") or {}
    if status.get("ready"):
        return f"{state}, ready", "good"
    if state != "serving":
        return state, "warning"
    return f"not ready: {'memory is short' if memory.get('pressure') else 'connection limit reached'}", "bad"


def _generation_facts(status: Mapping[str, Any]) -> Iterable[Span]:
    yield f"generation {status.get('generation')}", ""
    older = [one for one in status.get("generations") or () if one.get("generation") != status.get("generation")]
    if older:
        yield f"older generations: {sum(one.get('connections', 0) for one in older)} connections", ""
    reload = status.get("last_reload")
    if reload and reload.get("error") is None:
        yield f"reloaded {terminal_text(reload.get('time'))}", ""
    elif reload:
        yield f"RELOAD FAILED {terminal_text(reload.get('time'))}: {terminal_text(reload.get('error'))}", "bad"


def details_lines(row: Row, width: int, encoding: str) -> list[str]:
    """Return all values of a row, one a line; a long one goes on in the next."""
    size = max((len(key) for key in row), default=0)
    lines: list[str] = []
    for key, value in row.items():
        text = terminal_text(value, encoding)
        room = max(width - size - 2, 10)
        parts = [text[at : at + room] for at in range(0, len(text), room)] or [""]
        lines += [f"{key if not number else '':{size}}  {part}" for number, part in enumerate(parts)]
    return lines


def _flow(spans: Iterable[Span], width: int, max_lines: int) -> list[Line]:
    """Put spans side by side, two spaces apart, into lines; a span that has no place is left out."""
    lines: list[Line] = []
    left = 0
    for text, style in spans:
        need = cell_len(text) + (2 if lines and lines[-1] else 0)
        if not lines or (need > left and len(lines) < max_lines):
            lines.append([])
            need, left = cell_len(text), width
        if need > left:
            if lines[-1]:
                continue
            need = width
        lines[-1] += [("  ", ""), (text, style)] if lines[-1] else [(fit(text, need), style)]
        left -= need
    return lines
