"""docs/ names every option, its default and its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import tables

PAGES = sorted((Path(__file__).parents[2] / "docs").rglob("*.md"))
TEXT = [line for page in PAGES for line in page.read_text().splitlines()]


@pytest.mark.parametrize("name", ["", *tables.SCHEMA["definitions"]])
def test_every_option_stands_there(name: str) -> None:
    """The table of each section is the one that the model gives; a line that is reported missing is to be put there."""
    missing = [line for line in tables.options(name) if line not in TEXT]
    assert missing == []


def test_every_code_stands_there() -> None:
    """Each code of an error or a warning is listed with its meaning."""
    missing = [line for line in tables.codes() if line not in TEXT]
    assert missing == []
