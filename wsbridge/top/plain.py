"""Snapshots as plain text, for pipes, files and terminals without a cursor."""

from __future__ import annotations

from collections.abc import Sequence

from wsbridge.top.columns import DEFAULT_SORT, VIEWS, filter_rows, lay_out, sort_rows
from wsbridge.top.snapshot import Snapshot
from wsbridge.top.view import header_facts


def snapshot_text(
    snapshot: Snapshot,
    width: int,
    views: Sequence[str] = ("routes", "connections", "endings"),
    *,
    limit: int,
    wanted: str = "",
    sort: str = "",
    encoding: str = "utf-8",
) -> str:
    """Return a snapshot as lines without control codes, an empty line at the end.

    Args:
        snapshot: With rates.
        width: Cells of a line of a table.
        views: Names of the tables.
        limit: Rows of each table.
        wanted: Text that rows must have.
        sort: Name of a column; tables without it, and all for an empty name, are sorted as by default.
        encoding: Of the output.
    """
    blocks = ["\n".join(text for text, _ in header_facts(snapshot))]
    for view in views:
        rows = filter_rows(snapshot.rows(view), wanted)
        by = sort if sort in {column.name for column in VIEWS[view]} else DEFAULT_SORT[view]
        shown = sort_rows(view, rows, by)[:limit]
        layout = lay_out(view, shown, width, encoding=encoding, ellipsis="~")
        heading = " ".join(text for _, text in layout.headings())
        count = f"{view}: {len(rows)}" + (
            f", the first {len(shown)} by {by or 'time'}" if len(shown) < len(rows) else ""
        )
        blocks.append("\n".join(line.rstrip() for line in [count, heading, *map(layout.line, shown)]))
    return "\n\n".join(blocks) + "\n"
