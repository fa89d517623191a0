"""Calls of the log: levels, plain and bounded values, exceptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from wsbridge.log.format import MAX_ITEMS, MAX_TEXT_CHARS, clean_values, line_processors
from wsbridge.log.logger import log
from wsbridge.log.writer import write_immediately
from wsbridge.reasons import Reason


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that the calls make."""
    level, seen = log.level, list[dict[str, Any]]()
    log.set_output(line_processors("json"), lambda line: seen.append(json.loads(line)))
    yield seen
    write_immediately()
    log.set_level(level)


def cleaned(value: object) -> Any:
    """Give what becomes of a value."""
    return clean_values(None, "info", {"event": "x", "value": value})["value"]


def test_a_call_becomes_a_line(lines: list[dict[str, Any]]) -> None:
    """A call arrives with the wall clock, its level, its event and its fields, in this order."""
    log.warning("connection.shed", how="reset", connections=3)

    assert list(lines[0]) == ["ts", "level", "event", "how", "connections"]
    moment = datetime.fromisoformat(lines[0].pop("ts"))
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)
    assert lines == [{"level": "warning", "event": "connection.shed", "how": "reset", "connections": 3}]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(lines: list[dict[str, Any]], level: str, written: list[str]) -> None:
    """Records below the level are dropped; modules that imported `log` before use the new level."""
    log.set_level(level)

    log.debug("a")
    log.info("a")
    log.warning("a")
    log.error("a")

    assert [line["level"] for line in lines] == written


def test_unknown_level() -> None:
    """A level that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="'loud': must be one of debug, info, warning, error"):
        log.set_level("loud")


def test_structlog_can_capture() -> None:
    """Structlog's own test helper sees what `log` says."""
    with structlog.testing.capture_logs() as seen:
        log.info("daemon.ready", pid=1)

    assert seen == [{"event": "daemon.ready", "pid": 1, "log_level": "info"}]


class Secret:
    """As the configuration has it."""

    def reveal(self) -> str:
        return "hunter2"


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1, 1),
        (1.5, 1.5),
        (True, True),
        (None, None),
        ("x", "x"),
        (Reason.DRAINING, "draining"),
        (b"ab\xff", "ab\\xff"),
        (bytearray(b"ab"), "ab"),
        (Path("/etc"), "/etc"),
        (ValueError("no"), "no"),
        (ValueError(), "ValueError"),
        (Secret(), "***"),
        ([Secret(), ("a", Reason.DRAINING)], ["***", ["a", "draining"]]),
        ({1: {"a": None}}, {"1": {"a": None}}),
        (10**30, hex(10**30)),
        (Rude(), "<Rude: no text, RuntimeError>"),
    ],
)
def test_values_become_plain(value: object, plain: object) -> None:
    """Every value becomes text, a number, a list or a mapping of these."""
    assert cleaned(value) == plain
    assert type(cleaned(value)) is type(plain)


def test_long_text_is_cut() -> None:
    """Long text is truncated, with the number of characters left out."""
    assert cleaned("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert cleaned("x" * (MAX_TEXT_CHARS + 5)) == "x" * MAX_TEXT_CHARS + "…(+5)"
    assert cleaned(Path("x" * (MAX_TEXT_CHARS + 5))) == "x" * MAX_TEXT_CHARS + "…(+5)"
    assert len(cleaned(10**100_000)) < MAX_TEXT_CHARS + 20
    assert len(cleaned(b"x" * 10_000_000)) < MAX_TEXT_CHARS + 20


def test_large_containers_are_cut() -> None:
    """Lists and mappings keep a bounded number of values, all depths together."""
    assert cleaned(list(range(MAX_ITEMS + 5)))[-1] == "…(+5)"
    assert cleaned({str(n): n for n in range(MAX_ITEMS + 5)})["…"] == "(+5)"
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested, nested]
    assert len(str(cleaned(nested))) < 20_000


def test_later_changes_are_not_seen() -> None:
    """What is queued is a copy."""
    value = [1]

    copy = cleaned(value)
    value.append(2)

    assert copy == [1]


def test_values_that_cannot_be_read() -> None:
    """A value that raises while it is copied costs the record's facts, not the caller."""

    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise KeyError("x")

    fields = clean_values(None, "info", {"event": "connection.closed", "id": 1, "value": Broken()})

    detail = "connection.closed: values could not be read: KeyError"
    assert fields == {"event": "internal_error", "component": "log", "detail": detail}


def test_cycles_end() -> None:
    """A list that holds itself is cut like any other."""
    loop: list[Any] = []
    loop.append(loop)

    assert "…" in str(cleaned(loop))


def test_exceptions(lines: list[dict[str, Any]]) -> None:
    """`exception`, or `exc_info` with an exception, a triple or True, adds the traceback; without an exception none."""
    error = ValueError("boom")
    try:
        raise error
    except ValueError:
        log.exception("internal_error", component="here")
        log.warning("internal_error", exc_info=True)
    for given in (error, (ValueError, error, None), True, None):
        log.error("internal_error", exc_info=given)

    assert [line["level"] for line in lines[:3]] == ["error", "warning", "error"]
    assert ["boom" in line.get("exception", "") for line in lines] == [True, True, True, True, False, False]
    assert not any("exc_info" in line for line in lines)


def test_a_mapping_of_another_kind() -> None:
    """Mappings that are no dict are copied as well."""

    class Headers(Mapping[str, str]):
        def __getitem__(self, key: str) -> str:
            return "v"

        def __iter__(self) -> Iterator[str]:
            return iter(["k"])

        def __len__(self) -> int:
            return 1

    assert cleaned(Headers()) == {"k": "v"}
