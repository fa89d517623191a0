"""The screen: what it shows, and what keys do to it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from rich.cells import cell_len

from tests.top.stub import STATUS, connection, ending, route
from wsbridge.top.columns import VIEWS
from wsbridge.top.snapshot import Snapshot, with_rates
from wsbridge.top.view import CloseRequest, View


def snapshot(count: int = 30, at: float = 10.0, **rest: object) -> Snapshot:
    """Make a snapshot with so many connections; the higher the number, the more bytes."""
    rows = [connection(number, bytes_to_client=int(at) * number) for number in range(1, count + 1)]
    ended = [ending(90), ending(91, event="connection.rejected", reason="unauthenticated", detail="no token")]
    base = Snapshot(at, STATUS, routes=[route()], connections=rows, ended=ended, total=count)
    return replace(base, **rest)


def shown(view: View, width: int = 100, height: int = 24) -> list[str]:
    """Give the lines as text."""
    return ["".join(text for text, _ in line) for line in view.lines(width, height)]


def started(count: int = 30) -> View:
    """Make a view with rates."""
    view = View()
    view.update(with_rates(snapshot(count, 12.0), snapshot(count)))
    return view


def press(view: View, *keys: str) -> object:
    """Press keys; give what the last one leaves to do."""
    result: object = None
    for key in keys:
        view.lines(100, 24)
        result = view.press(key)
    return result


def test_the_first_screen():
    """State, limits, rates; then the connections, the fastest first."""
    lines = shown(started())
    text = "\n".join(lines)
    for fact in ("serving, ready", "connections 2 of 1000", "loop lag 1.0 ms", "memory 64.0 MiB of 512 MiB"):
        assert fact in text
    assert "older generations: 1 connections" in text
    assert "2 connections 30" in lines[3]
    assert lines[5].split()[:2] == ["30", "192.0.2.30:40030"]
    assert lines[6].split()[:2] == ["29", "192.0.2.29:40029"]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"state": "draining", "ready": False}, "draining"),
        ({"ready": False}, "not ready: connection limit reached"),
        (
            {"ready": False, "memory": {"memory_bytes": 1, "memory_limit_bytes": 2, "pressure": True}},
            "not ready: memory is short",
        ),
        ({"last_reload": {"time": "2026", "error": "line 3: \x1b[2J", "generation": 2}}, "line 3: \\x1b[2J"),
        ({"memory": None, "last_reload": None}, "serving, ready"),
    ],
)
def test_the_state_of_the_daemon(facts, text):
    """What is wrong with it is in the header."""
    view = View()
    view.update(snapshot(status={**STATUS, **facts}))
    assert text in "\n".join(shown(view, 160))


def test_the_screen_has_the_size_of_the_terminal():
    """Whatever was pressed, with whatever in it; the selected row is on it."""
    rng = random.Random(7)
    keys = ["UP", "DOWN", "PGUP", "PGDN", "HOME", "END", "LEFT", "RIGHT", "ENTER", "ESC", "BACKSPACE", "TAB"]
    keys += [*"sSrp/?hxyn1234jk 0aö", "BACKTAB", "RESIZE"]
    for seed in range(40):
        view = View(encoding=rng.choice(["utf-8", "ascii", "iso-8859-1"]))
        for _ in range(60):
            if rng.random() < 0.3:
                rows = rng.randrange(50)
                view.update(with_rates(snapshot(rows, 12.0 + seed), snapshot(rows)))
            if rng.random() < 0.1:
                view.show_problem("127.0.0.1:1: nothing listens there\x1b")
            view.press(rng.choice(keys))
            width, height = rng.randrange(1, 150), rng.randrange(1, 50)
            lines = shown(view, width, height)
            assert len(lines) == height
            for line in lines:
                assert cell_len(line) <= width
                assert line.isprintable()
                line.encode(view.encoding)


def test_a_row_stays_selected():
    """While others overtake it; when it ends, the next one at its place is selected."""
    view = started()
    press(view, "DOWN", "DOWN")
    assert press(view, "x", "y") == CloseRequest(28)
    rows = snapshot(30, 14.0).connections
    rows[0]["bytes_to_client"] = 10**6
    view.update(with_rates(snapshot(30, 14.0, connections=rows), snapshot(30, 12.0)))
    assert press(view, "x", "y") == CloseRequest(28)
    view.update(snapshot(30, 16.0, connections=[row for row in rows if row["id"] != 28]))
    assert isinstance(press(view, "x", "y"), CloseRequest)


def test_closing_asks():
    """Only y closes; the question names the connection."""
    view = started()
    press(view, "x")
    assert shown(view)[-1].rstrip() == "close connection 30 of 192.0.2.30:40030? y/n"
    assert press(view, "n") is None
    assert shown(view)[-1].startswith("not closed")
    for key in ("ENTER", "q", " ", "x"):
        press(view, "x")
        assert press(view, key) is None
    assert press(view, "3", "x", "y") is None
    assert press(View(), "x", "y") is None


def test_sorting():
    """By the next column, and back; reversed."""
    view = started()
    press(view, *"sssss", "r")
    assert "reversed" in shown(view)[3]
    view.tables["connections"].sort = "id"
    view.tables["connections"].reverse = False
    view.update(with_rates(snapshot(30, 12.0), snapshot()))
    assert shown(view)[5].split()[0] == "30"
    press(view, "r")
    assert shown(view)[5].split()[0] == "1"
    for _ in VIEWS["connections"]:
        press(view, "S")
    press(view, "S")
    assert view.table.sort == "id"


def test_filter():
    """It is typed at the bottom, counts, and goes with Esc."""
    view = started()
    press(view, "/", *"192.0.2.2:q", "BACKSPACE", "ENTER")
    assert "filter: 192.0.2.2: (1)" in shown(view)[3]
    assert "192.0.2.2:40002" in shown(view)[5]
    press(view, "/", *"zz")
    assert "no row has this text" in "\n".join(shown(view))
    press(view, "ESC")
    assert "filter" not in shown(view)[3]
    press(view, "/", "ESC", "/", "a", "ENTER", "ESC")
    assert view.filter == ""


def test_all_tables():
    """Each by its number; an ending with its reason."""
    view = started()
    press(view, "3")
    assert "unauthenticated" in shown(view)[6]
    assert "no token" in shown(view)[6]
    press(view, "1")
    assert shown(view)[5].startswith("office")
    press(view, "BACKTAB")
    assert "no listeners" in "\n".join(shown(view))
    press(view, "TAB")
    assert view.name == "routes"


def test_details():
    """All that the daemon says, one a line, longer values on several; any key goes back."""
    view = View()
    view.update(snapshot(1, connections=[connection(1, user_agent="x" * 200 + "\x1b[0m")]))
    press(view, "ENTER")
    text = "\n".join(shown(view, 80, 40))
    assert "round_trip_seconds" in text
    assert text.count("x") >= 200
    assert "\\x1b[0m" in text.replace("\n", "").replace(" ", "")
    press(view, "q")
    assert view.mode == "table"


def test_help_can_be_scrolled():
    """On a small terminal, too."""
    view = started()
    press(view, "?")
    assert "Keys" in shown(view, 80, 8)[1]
    for _ in range(100):
        view.press("DOWN")
        last = shown(view, 80, 8)
    assert "by " in last[-2]


def test_pause():
    """Snapshots wait; what was shown stays."""
    view = started()
    press(view, "p")
    view.update(snapshot(3))
    assert "PAUSED" in shown(view)[3]
    assert "2 connections 30" in shown(view)[3]
    press(view, "p")
    view.update(snapshot(3))
    assert "2 connections 3 " in shown(view)[3]


def test_the_daemon_is_gone():
    """The last snapshot stays, with the reason above; the next one removes it."""
    view = started()
    view.show_problem("127.0.0.1:1: nothing listens there: is wsbridge running?")
    assert "not reachable, retrying: 127.0.0.1:1: nothing listens there" in "\n".join(shown(view))
    assert "192.0.2.30:40030" in "\n".join(shown(view))
    assert "not reachable" in "\n".join(shown(view, 40, 10))
    view.update(snapshot())
    assert "not reachable" not in "\n".join(shown(view))


def test_a_terminal_without_unicode():
    """What is cut ends with a tilde."""
    view = View(encoding="ascii")
    view.update(snapshot(1, connections=[connection(1, identity="ü" * 40)]))
    text = "\n".join(shown(view))
    assert text.isascii()
    assert "\\xfc" in text
    assert "~" in text
