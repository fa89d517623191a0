"""Libraries that only some settings need."""

from __future__ import annotations

from pathlib import Path

from wsbridge.config.base import LoadContext, Registry, require_packages


def test_one_that_is_not_installed_is_told_with_the_command() -> None:
    """The fault names what is lacking and how to install it."""
    context = LoadContext(Path("/"), {}, Registry())
    assert list(require_packages(context, "trio")) == []
    (fault,) = require_packages(context, "trio", "nothing_of_that_name")
    assert (fault.code, fault.message) == (
        "E035",
        "needs nothing_of_that_name, which is not installed: pip install nothing_of_that_name",
    )
    (fault,) = require_packages(context, "nothing_of_that_name", "nor_of_this")
    assert "which are not installed" in fault.message


def test_without_files_nothing_is_looked_for() -> None:
    """The form of a file can be checked on another machine."""
    assert (
        list(require_packages(LoadContext(Path("/"), {}, Registry(), check_files=False), "nothing_of_that_name")) == []
    )
