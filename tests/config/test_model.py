"""The top of the file, and its section `audit:`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong


def test_the_shortest_file_has_all_defaults() -> None:
    """A listener and a route are enough; everything else has its default."""
    loaded = read(LISTENERS + ROUTES)
    assert loaded.warnings == []
    assert loaded.config.timeouts.ping_interval == 20.0
    assert loaded.config.timeouts.idle is None
    assert loaded.config.limits.connections == "auto"
    route = loaded.config.routes["vnc"]
    assert (route.match, route.allowed_origins, route.subprotocols, route.text_messages) == (
        "any",
        "same",
        ("binary",),
        "accept",
    )
    assert loaded.config.listeners["web"].mode == 0o660


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("log: {level: %s}", ["debug", "info", "warning", "error"]),
        ("log: {format: %s}", ["auto", "console", "json", "journal"]),
    ],
)
def test_words_of_the_top(key: str, values: list[str]) -> None:
    """Each is accepted as written; another one is rejected with a list of all of them."""
    for value in values:
        read(LISTENERS + ROUTES + key % value + "\n")
    (problem,) = wrong(LISTENERS + ROUTES + key % "loud" + "\n")

    assert all(value in problem.message for value in values)


def test_there_is_no_audit_by_default() -> None:
    """Without the section there is no audit."""
    assert read(LISTENERS + ROUTES).config.audit is None


def test_the_audit_file_need_not_exist(tmp_path: Path) -> None:
    """A file that will be made is fine; a relative path begins at the directory of the configuration."""
    audit = read(LISTENERS + ROUTES + "audit: {file: a.jsonl}\n", folder=tmp_path).config.audit
    assert audit is not None
    assert audit.file == tmp_path / "a.jsonl"
    assert not audit.file.exists()


@pytest.mark.parametrize(
    ("written", "path", "message"),
    [
        ("{file: .}", "audit.file", "is a directory, not a file"),
        ("{file: gone/a.jsonl}", "audit.file", "cannot be written: No such file or directory"),
        ("{}", "audit.file", "is missing"),
        ("a.jsonl", "audit", "must be a mapping"),
    ],
)
def test_audit_files_that_cannot_be_written(written: str, path: str, message: str, tmp_path: Path) -> None:
    """What can be known before the start is reported by `check`."""
    (problem,) = wrong(LISTENERS + ROUTES + f"audit: {written}\n", folder=tmp_path)
    assert problem.setting == path
    assert message in problem.message
