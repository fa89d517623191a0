"""Tables: sorted, filtered, fitted into a width."""

from __future__ import annotations

import random

import pytest
from rich.cells import cell_len

from tests.top.stub import connection, ending, route
from wsbridge.top.columns import VIEWS, filter_rows, lay_out, sort_rows

ROWS = {
    "routes": [route(), route("telemetry")],
    "connections": [connection(number) for number in range(1, 30)],
    "endings": [ending(1), ending(2, event="connection.rejected", reason="unauthenticated", status=401)],
    "listeners": [{"listener": "web", "listen_address": ["127.0.0.1:1", "[::1]:1"], "connections": 3}],
}


def ids(rows):
    """Give the ids in order."""
    return [row["id"] for row in rows]


def test_numbers_are_sorted_from_the_largest():
    """Rows without the value are last, in both directions; equal ones keep their order."""
    rows = [connection(1, round_trip_seconds=0.1), connection(2), connection(3, round_trip_seconds=0.3)]
    del rows[1]["round_trip_seconds"]
    assert ids(sort_rows("connections", rows, "rtt")) == [3, 1, 2]
    assert ids(sort_rows("connections", rows, "rtt", reverse=True)) == [1, 3, 2]
    same = [connection(number, duration_seconds=5) for number in (4, 2, 9)]
    assert ids(sort_rows("connections", same, "age")) == [4, 2, 9]


def test_text_is_sorted_from_a():
    """In any case of letters; without a column the order is the daemon's."""
    rows = [connection(1, identity="bob"), connection(2, identity="Alice"), connection(3)]
    assert ids(sort_rows("connections", rows, "identity")) == [2, 1, 3]
    assert ids(sort_rows("connections", rows, "identity", reverse=True)) == [1, 2, 3]
    assert ids(sort_rows("connections", rows, "")) == [1, 2, 3]
    assert ids(sort_rows("connections", rows, "", reverse=True)) == [3, 2, 1]


def test_blocked_is_the_longer_side():
    """Either side can be blocked, and both."""
    rows = [
        connection(1, blocked_to_client_seconds=1.0),
        connection(2, blocked_to_backend_seconds=9.0, blocked_to_client_seconds=2.0),
        connection(3),
    ]
    assert ids(sort_rows("connections", rows, "blocked")) == [2, 1, 3]
    line = lay_out("connections", rows, 400).line(rows[1])
    assert "9s" in line
    assert "client+backend" in line


def test_the_filter_looks_into_all_values():
    """User agent, peer, and what is shown escaped; not rates."""
    rows = [
        connection(1, identity="a\x1bb"),
        connection(2, user_agent="Firefox"),
        connection(3, bytes_x_per_second=7.5),
    ]
    assert ids(filter_rows(rows, "firefox")) == [2]
    assert ids(filter_rows(rows, "a\\x1bb")) == [1]
    assert ids(filter_rows(rows, "192.0.2.3:")) == [3]
    assert ids(filter_rows(rows, "7.5")) == []
    assert filter_rows(rows, "") == rows


@pytest.mark.parametrize("view", list(VIEWS))
def test_every_width_has_a_table(view):
    """No line is wider than the terminal; the wider it is, the more columns there are, in the same order."""
    known: list[str] = []
    for width in range(1, 300):
        layout = lay_out(view, ROWS[view], width)
        names = [column.name for column, _ in layout.columns]
        assert set(known) <= set(names)
        known = names
        for row in ROWS[view]:
            assert cell_len(layout.line(row)) <= width
    assert known == [column.name for column in VIEWS[view]]


def test_columns_can_be_shifted_out():
    """What a row is stays."""
    layout = lay_out("connections", ROWS["connections"], 60, first=9)
    names = [column.name for column, _ in layout.columns]
    assert names[0] == "peer"
    assert "client/s" not in names


def test_rows_with_unknown_values():
    """An older or newer daemon may leave out anything, and send what no table knows."""
    rng = random.Random(1)
    for view, rows in ROWS.items():
        for _ in range(50):
            row = {key: rng.choice([value, None]) for key, value in rows[0].items() if rng.random() < 0.6}
            row["unknown"] = {"a": [1]}
            assert lay_out(view, [row], 200).line(row)
            for column in VIEWS[view]:
                assert sort_rows(view, [row, rows[0]], column.name)


def test_the_certificate_that_expires_first():
    """Of several, by its date; a listener without TLS has none."""
    row = {
        "listener": "web",
        "certificates": [{"expires": "2027-05-01T00:00:00Z"}, {"expires": "2027-02-03T00:00:00Z"}],
    }
    assert "2027-02-03" in lay_out("listeners", [row], 200).line(row)
    row["certificates"][1]["expires"] = None
    assert "2027-05-01" in lay_out("listeners", [row], 200).line(row)
