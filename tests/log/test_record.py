"""Records: what the calling thread makes of a call."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from wsbridge.log.logger import MAX_ITEMS, MAX_TEXT_CHARS, ExceptionTrace, Logger, Record, log, normalise_fields, sink
from wsbridge.reasons import Reason


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """What arrives at the gate."""
    before, level, seen = sink.put, log.level, list[Record]()
    sink.set_target(seen.append)
    yield seen
    sink.set_target(before)
    log.set_level(level)


def settled(value: object) -> Any:
    """Give what becomes of a value."""
    facts: dict[str, Any] = {"event": "x", "value": value}
    normalise_fields(facts)
    return facts["value"]


def test_a_call_becomes_a_record(records: list[Record]) -> None:
    """A call arrives with its level, its event, its facts, and the wall clock."""
    log.warning("connection.shed", how="reset", connections=3)

    assert [(record.level, record.fields) for record in records] == [
        ("warning", {"event": "connection.shed", "how": "reset", "connections": 3})
    ]
    assert records[0].time > 1.6e9


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(records: list[Record], level: str, written: list[str]) -> None:
    """Records below the level vanish; everyone who imported `log` before sees the new level."""
    log.set_level(level)

    log.debug("a")
    log.info("a")
    log.warning("a")
    log.error("a")

    assert [record.level for record in records] == written


def test_unknown_level() -> None:
    """A level that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="'loud': must be one of debug, info, warning, error"):
        Logger("info").set_level("loud")


def test_bind(records: list[Record]) -> None:
    """A bound logger adds its facts to each record."""
    log.bind(id=7).info("backend.retry", attempt=1)

    assert records[0].fields == {"event": "backend.retry", "id": 7, "attempt": 1}


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
    assert settled(value) == plain
    assert type(settled(value)) is type(plain)


def test_long_text_is_cut() -> None:
    """Long text keeps its beginning and tells how much is missing."""
    assert settled("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert settled("x" * (MAX_TEXT_CHARS + 5)) == "x" * MAX_TEXT_CHARS + "…(+5)"
    assert settled(Path("x" * (MAX_TEXT_CHARS + 5))) == "x" * MAX_TEXT_CHARS + "…(+5)"
    assert len(settled(10**100_000)) < MAX_TEXT_CHARS + 20
    assert len(settled(b"x" * 10_000_000)) < MAX_TEXT_CHARS + 20


def test_large_containers_are_cut() -> None:
    """Lists and mappings keep a bounded number of values, all depths together."""
    assert settled(list(range(MAX_ITEMS + 5)))[-1] == "…(+5)"
    assert settled({str(n): n for n in range(MAX_ITEMS + 5)})["…"] == "(+5)"
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested, nested]
    assert len(str(settled(nested))) < 20_000


def test_later_changes_are_not_seen() -> None:
    """What is queued is a copy."""
    value = [1]

    copy = settled(value)
    value.append(2)

    assert copy == [1]


def test_values_that_cannot_be_read() -> None:
    """A value that raises while it is copied costs the record's facts, not the caller."""

    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise KeyError("x")

    facts: dict[str, Any] = {"event": "connection.closed", "id": 1, "value": Broken()}

    normalise_fields(facts)

    assert facts == {
        "event": "internal_error",
        "component": "log",
        "detail": "connection.closed: values could not be read: KeyError",
    }


def test_cycles_end() -> None:
    """A list that holds itself is cut like any other."""
    loop: list[Any] = []
    loop.append(loop)

    assert "…" in str(settled(loop))


class Kept:
    """Something in a frame."""


def test_exceptions_are_taken_down_without_their_frames(records: list[Record]) -> None:
    """The record holds the text of the exception and nothing that its frames held."""
    kept = Kept()
    alive = weakref.ref(kept)

    def fail(_thing: Kept) -> None:
        raise ValueError("boom")

    def put(record: Record) -> None:
        normalise_fields(record.fields)
        records.append(record)

    sink.set_target(put)
    try:
        fail(kept)
    except ValueError:
        log.exception("internal_error", component="here")
    del kept
    gc.collect()

    assert alive() is None
    assert records[0].level == "error"
    assert "boom" in records[0].fields["exception"].format_full()


def test_exc_info_forms(records: list[Record]) -> None:
    """`exc_info` takes an exception, a triple or True; without an exception there is no trace."""
    error = ValueError("boom")
    facts: list[dict[str, Any]] = [
        {"event": "internal_error", "exc_info": error},
        {"event": "internal_error", "exc_info": (ValueError, error, None)},
        {"event": "internal_error", "exc_info": True},
        {"event": "internal_error", "exc_info": None},
    ]

    for one in facts:
        normalise_fields(one)

    assert [isinstance(one.get("exception"), ExceptionTrace) for one in facts] == [True, True, False, False]
    assert not any("exc_info" in one for one in facts)


def test_a_mapping_of_another_kind() -> None:
    """Mappings that are no dict are copied as well."""

    class Headers(Mapping[str, str]):
        def __getitem__(self, key: str) -> str:
            return "v"

        def __iter__(self) -> Iterator[str]:
            return iter(["k"])

        def __len__(self) -> int:
            return 1

    assert settled(Headers()) == {"k": "v"}
