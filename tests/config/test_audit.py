"""The audit's section: what may be written as its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong


def test_it_is_off_unless_written() -> None:
    """Without the section there is no audit."""
    assert read(LISTENERS + ROUTES).config.audit is None


def test_the_file_need_not_be_there(tmp_path: Path) -> None:
    """A file that will be made is fine; a relative path begins at the folder of the configuration."""
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
def test_files_that_cannot_be(written: str, path: str, message: str, tmp_path: Path) -> None:
    """What can be known before the start is told by check."""
    (problem,) = wrong(LISTENERS + ROUTES + f"audit: {written}\n", folder=tmp_path)
    assert problem.setting == path
    assert message in problem.message
