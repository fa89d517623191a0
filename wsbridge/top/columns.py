"""The tables of `top`: their columns, and rows that are sorted, filtered and fitted into the width of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rich.cells import cell_len

from wsbridge.top.snapshot import RATE_SUFFIX, Row
from wsbridge.top.text import NO_VALUE, age_text, fit, short_time_text, size_text, terminal_text

GAP = 1
"""Cells between two columns."""

CellValue = Callable[[Row], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: By which it is sorted; of the heading.
        value: Returns what it is sorted by; None where the row has none.
        text: Formats that value; None: text from anywhere, which is escaped.
        width: Largest number of cells; a column of numbers always has as many.
        rank: The lower, the sooner it has a place on a narrow terminal.
    """

    name: str
    value: CellValue
    text: Callable[[Any], str] | None = None
    width: int = 8
    rank: int = 9

    @property
    def is_number(self) -> bool:
        """Whether it is aligned at the right, and sorted from the largest."""
        return self.text is not None


def _get(key: str) -> CellValue:
    return lambda row: row.get(key)


def _text(name: str, key: str, width: int, rank: int) -> Column:
    return Column(name, _get(key), None, width, rank)


def _size(name: str, key: str, rank: int) -> Column:
    return Column(name, _get(key), size_text, max(8, len(name)), rank)


def _count(name: str, key: str, rank: int) -> Column:
    return Column(name, _get(key), lambda value: NO_VALUE if value is None else str(value), max(7, len(name)), rank)


def _time_of_day(row: Row) -> str:
    """Return `12:34:56` of `2026-01-31T12:34:56.000001Z`."""
    return str(row.get("time", "")).partition("T")[2][:8]


def _peer(row: Row) -> object:
    via = row.get("via")
    return f"{row.get('peer')} via {terminal_text(via)}" if via else row.get("peer")


def _blocked(row: Row) -> float | None:
    found = [row[key] for key in ("blocked_to_client_seconds", "blocked_to_backend_seconds") if row.get(key)]
    return max(found, default=None)


def _blocked_side(row: Row) -> str:
    sides = [side for side in ("client", "backend") if row.get(f"blocked_to_{side}_seconds")]
    return "+".join(sides)


def _limited(row: Row) -> str:
    limit = row.get("connections_limit")
    return f"{row.get('connections')}" if limit is None else f"{row.get('connections')} of {limit}"


def _expiry(row: Row) -> str | None:
    """Return the date of the certificate that expires first."""
    dates = [str(one.get("expires") or "") for one in row.get("certificates") or () if isinstance(one, dict)]
    return min((date[:10] for date in dates if date), default=None)


_BACKEND_RATE = _size("backend/s", f"bytes_to_backend{RATE_SUFFIX}", 3)
_CLIENT_RATE = _size("client/s", f"bytes_to_client{RATE_SUFFIX}", 2)
_TO_BACKEND = _size("to backend", "bytes_to_backend", 8)
_TO_CLIENT = _size("to client", "bytes_to_client", 7)

VIEWS: dict[str, tuple[Column, ...]] = {
    "routes": (
        _text("route", "route", 28, 0),
        _count("active", "active", 1),
        _BACKEND_RATE,
        _CLIENT_RATE,
        _TO_BACKEND,
        _TO_CLIENT,
        _count("relayed", "relayed", 5),
        _count("rejected", "rejected", 4),
        _text("last ending", "last_reason", 22, 6),
        _text("reasons", "reasons", 60, 10),
        _text("backend", "backend", 40, 9),
    ),
    "connections": (
        _count("id", "id", 6),
        Column("peer", _peer, None, 44, 0),
        _text("identity", "identity", 20, 7),
        _text("route", "route", 20, 1),
        _BACKEND_RATE,
        _CLIENT_RATE,
        _TO_BACKEND,
        _TO_CLIENT,
        Column("age", _get("duration_seconds"), age_text, 6, 4),
        Column("rtt", _get("round_trip_seconds"), short_time_text, 7, 9),
        Column("blocked", _blocked, age_text, 7, 5),
        Column("side", _blocked_side, None, 14, 10),
        _text("state", "state", 9, 11),
        _text("backend", "backend_address", 40, 13),
        _text("path", "path", 60, 12),
        _text("user agent", "user_agent", 60, 14),
    ),
    "endings": (
        Column("time", _time_of_day, None, 8, 1),
        _count("id", "id", 6),
        _text("reason", "reason", 22, 0),
        _text("by", "initiator", 8, 7),
        _text("route", "route", 20, 2),
        _text("peer", "peer", 44, 3),
        _text("identity", "identity", 20, 8),
        Column("age", _get("duration_seconds"), age_text, 6, 9),
        _TO_BACKEND,
        _TO_CLIENT,
        _count("status", "status", 10),
        _count("code", "close_code", 10),
        _text("detail", "detail", 90, 4),
    ),
    "listeners": (
        _text("listener", "listener", 24, 0),
        _text("address", "listen_address", 48, 1),
        _text("protocol", "protocol", 9, 3),
        Column("connections", _limited, None, 18, 2),
        Column("expires", _expiry, None, 10, 4),
    ),
}
"""The tables by name; the first column whose rank is 0 is what a row is."""

DEFAULT_SORT = {"routes": "client/s", "connections": "client/s", "endings": "", "listeners": ""}
"""The column that a table is sorted by; empty: the order of the daemon."""


def find_column(view: str, name: str) -> Column | None:
    """Return a column by its name."""
    return next((column for column in VIEWS[view] if column.name == name), None)


def sort_rows(view: str, rows: Sequence[Row], name: str, *, reverse: bool = False) -> list[Row]:
    """Return the rows by a column, rows without a value last; rows that are equal keep their order.

    Args:
        view: Name of the table.
        rows: In the order of the daemon.
        name: Of the column; empty for the order of the daemon.
        reverse: Numbers from the smallest, text from the end.
    """
    column = find_column(view, name)
    if column is None:
        return list(reversed(rows)) if reverse else list(rows)
    keyed = [(_sortable(column, row), row) for row in rows]
    known = [pair for pair in keyed if pair[0] is not None]
    known.sort(key=itemgetter(0), reverse=column.is_number is not reverse)
    return [row for _, row in known] + [row for key, row in keyed if key is None]


def _sortable(column: Column, row: Row) -> Any:
    value = column.value(row)
    if column.is_number:
        return value if isinstance(value, int | float) else None
    return terminal_text(value).casefold() if value else None


def filter_rows(rows: Sequence[Row], text: str) -> list[Row]:
    """Return the rows that have a text in one of their values, in any case of letters; all for an empty text."""
    wanted = text.casefold()
    return [row for row in rows if not wanted or any(wanted in _plain(value) for value in row.values())]


def _plain(value: object) -> str:
    """Return a value as it is shown; rates and times are not searched."""
    return "" if value is None or isinstance(value, float) else terminal_text(value).casefold()


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that have a place, each with its width in cells."""

    columns: tuple[tuple[Column, int], ...]
    encoding: str = "utf-8"
    ellipsis: str = "…"

    def headings(self) -> list[tuple[str, str]]:
        """Return each column's name and its heading, padded to the width of the column."""
        return [
            (column.name, fit(column.name, width, right=column.is_number, ellipsis=""))
            for column, width in self.columns
        ]

    def line(self, row: Row) -> str:
        """Return the line of a row."""
        cells = [
            fit(cell_text(column, row, self.encoding), width, right=column.is_number, ellipsis=self.ellipsis)
            for column, width in self.columns
        ]
        return (" " * GAP).join(cells)


def cell_text(column: Column, row: Row, encoding: str = "utf-8") -> str:
    """Return the text of one cell."""
    value = column.value(row)
    if column.text is None:
        return terminal_text(value, encoding) if value not in (None, "") else NO_VALUE
    return column.text(value if isinstance(value, int | float) else None)


def lay_out(
    view: str, rows: Sequence[Row], width: int, *, first: int = 0, encoding: str = "utf-8", ellipsis: str = "…"
) -> Layout:
    """Choose the columns that fit.

    Args:
        view: Name of the table.
        rows: All rows, for the width of columns of text.
        width: Cells of the terminal.
        first: Columns to leave out at the left, besides the one of rank 0.
        encoding: Of the terminal.
        ellipsis: For what is cut.
    """
    return lay_out_columns(VIEWS[view], rows, width, first=first, encoding=encoding, ellipsis=ellipsis)


def lay_out_columns(
    columns: Sequence[Column],
    rows: Sequence[Row],
    width: int,
    *,
    first: int = 0,
    encoding: str = "utf-8",
    ellipsis: str = "…",
) -> Layout:
    """Do the same for any columns."""
    others = [column for column in columns if column.rank]
    shown = {column.name for column in others[first:]} | {column.name for column in columns if not column.rank}
    wanted = {column.name: _wanted_width(column, rows, encoding) for column in columns if column.name in shown}
    chosen: dict[str, int] = {}
    left = width
    for column in sorted((column for column in columns if column.name in wanted), key=lambda column: column.rank):
        need = wanted[column.name] + (GAP if chosen else 0)
        if need > left:
            if column.is_number or left < min(need, _MIN_TEXT_WIDTH):  # text may be cut, numbers may not
                break
            need = left
        chosen[column.name] = need - (GAP if chosen else 0)
        left -= need
    return Layout(tuple((one, chosen[one.name]) for one in columns if one.name in chosen), encoding, ellipsis)


_MIN_TEXT_WIDTH = 10
"""Cells below which a cut column of text is left out."""


def _wanted_width(column: Column, rows: Sequence[Row], encoding: str) -> int:
    if column.is_number:
        return column.width
    longest = max((cell_len(cell_text(column, row, encoding)) for row in rows), default=0)
    return min(max(longest, len(column.name)), column.width)
