"""Events: the table, the calls in the package and the documentation agree."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsbridge.log.events import LOG_EVENTS, LOG_KEYS
from wsbridge.log.format import line_processors, render
from wsbridge.log.logger import LOG_LEVELS

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "logs.md").read_text()


def calls() -> Iterator[tuple[str, str, str, list[str]]]:
    """All calls of `log` in the package whose event is written out: place, level, event, keys."""
    for file in sorted((ROOT / "wsbridge").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log"),
                        attr="debug" | "info" | "warning" | "error" | "exception" as method,
                    ),
                    args=[ast.Constant(value=str() as event)],
                ):
                    level = "error" if method == "exception" else method
                    keys = [keyword.arg for keyword in node.keywords if keyword.arg not in {None, "exc_info"}]
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", level, event, [str(key) for key in keys]


def wrong(level: str, event: str, keys: list[str]) -> bool:
    """Return whether the table does not know such a call."""
    if event not in LOG_EVENTS or level not in LOG_EVENTS[event].levels:
        return True
    return not set(keys) <= set(LOG_EVENTS[event].keys)


def test_every_call_is_in_the_table() -> None:
    """A call of `log` uses only an event, a level and keys of the table, so that the documentation is whole."""
    assert [call for call in calls() if wrong(*call[1:])] == []


def test_connection_lines_are_in_the_table() -> None:
    """The facts of a connection, which are gathered one by one, are keys of the table too."""
    tree = ast.parse((ROOT / "wsbridge" / "access_log.py").read_text())
    keys = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id="facts"), slice=ast.Constant(value=str() as key), ctx=ast.Store()):
                keys.add(key)
            case ast.AnnAssign(target=ast.Name(id="facts"), value=ast.Dict(keys=first)):
                keys |= {key.value for key in first if isinstance(key, ast.Constant)}

    assert "reason" in keys
    assert keys == set(LOG_EVENTS["connection.closed"].keys) | set(LOG_EVENTS["connection.rejected"].keys)


@pytest.mark.parametrize("name", LOG_EVENTS)
def test_the_table_is_sound(name: str) -> None:
    """Names, levels and keys are well formed, and each key is explained."""
    event = LOG_EVENTS[name]

    assert re.fullmatch(r"[a-z]+\.[a-z_]+|internal_error", name)
    assert set(event.levels) <= set(LOG_LEVELS)
    assert len(set(event.keys)) == len(event.keys)
    assert set(event.keys) <= set(LOG_KEYS)


def test_no_key_is_explained_in_vain() -> None:
    """Each explained key belongs to an event."""
    assert set(LOG_KEYS) == {key for event in LOG_EVENTS.values() for key in event.keys}


def event_row(name: str) -> str:
    """Write an event as a row of the documentation."""
    event = LOG_EVENTS[name]
    keys = " ".join(f"`{key}`" for key in event.keys)
    return f"| `{name}` | {', '.join(event.levels)} | {event.meaning} | {keys} |"


def test_documentation_has_every_event() -> None:
    """docs/logs.md shows the table of events, whole and in order."""
    assert re.findall(r"^\| `(?:[a-z]+\.[a-z_]+|internal_error)` \|.*$", DOC, re.MULTILINE) == [
        *(event_row(name) for name in LOG_EVENTS),
    ]


def test_documentation_has_every_key() -> None:
    """docs/logs.md explains every key."""
    rows = [f"| `{key}` | {meaning} |" for key, meaning in LOG_KEYS.items()]

    assert [row for row in rows if row not in DOC.splitlines()] == []


def test_commands_of_the_documentation_run(tmp_path: Path) -> None:
    """The commands that read a log file do so."""
    lines = [
        {"event": "connection.closed", "id": 17, "reason": "client_closed", "duration_seconds": 1.5},
        {"event": "connection.closed", "id": 171, "reason": "client_closed", "duration_seconds": 20.25},
        {"event": "connection.rejected", "id": 18, "reason": "no_route", "duration_seconds": 99.0},
    ]
    processors = line_processors("json")
    (tmp_path / "wsbridge.log").write_bytes(b"".join(render(processors, "info", fields) for fields in lines))
    commands = [text for text in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL) if text.startswith("grep")]

    answers = [
        subprocess.run(["sh", "-ec", text], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
        for text in commands
    ]

    assert len(answers) == 3
    assert answers[0] == ["2", '"reason":"client_closed"', "1", '"reason":"no_route"']
    assert answers[1] == ["20.25", "1.5"]
    assert len(answers[2]) == 1
    assert '"id":17,' in answers[2][0]
