"""The base of all sections: what they share, that all mistakes are reported at once, and missing packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from wsbridge.config.base import Issue, LoadContext, Registry, Section, SectionError, require_packages


class Inner(Section):
    """A section inside of another."""

    number: int = 1


class Sample(Section):
    """A section with rules of every kind."""

    inner: Inner = Inner()
    size: int = 1
    other: int = 2

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Refuse two keys together."""
        if "size" in raw and "other" in raw:
            yield Issue(("other",), "not with size", "E013", at_key=True)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Refuse a size that the directory does not hold."""
        if self.size > 9:
            yield Issue(("size",), f"not in {context.directory}", "E012")


CONTEXT = LoadContext(Path("/conf"), {}, Registry())


def error_of(written: object, context: LoadContext | None = CONTEXT) -> SectionError:
    """Read a sample that must fail."""
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(written, context=context)
    (error,) = caught.value.errors()
    cause = error["ctx"]["error"]
    assert isinstance(cause, SectionError)
    return cause


def test_a_section_does_not_change_and_knows_its_keys() -> None:
    """It is frozen, and a key that it does not have is an error."""
    sample = Sample.model_validate({"size": 3}, context=CONTEXT)
    with pytest.raises(ValidationError, match="frozen"):
        sample.size = 4

    assert [error["type"] for error in error_of({"sise": 3}).errors] == ["extra_forbidden"]


def test_fields_and_rules_are_reported_together() -> None:
    """What is wrong in a value does not hide what is wrong between keys."""
    error = error_of({"size": "x", "other": 1})

    assert [found["loc"] for found in error.errors] == [("size",)]
    assert [fault.message for fault in error.issues] == ["not with size"]
    assert str(error).startswith("size: ")
    assert str(error).endswith("; other: not with size")


def test_what_is_named_is_judged_only_when_well_written_and_read_from_a_file() -> None:
    """Rules on the things that a section names need both its values and the context."""
    assert [fault.message for fault in error_of({"size": 10}).issues] == ["not in /conf"]
    assert [fault.message for fault in error_of({"size": 10, "inner": 3}).issues] == ["not in /conf"]
    assert [fault.message for fault in error_of({"size": "x", "inner": 3}).issues] == []
    assert [fault.message for fault in error_of({"size": 10, "sise": 3}).issues] == []
    assert Sample.model_validate({"size": 10}).size == 10


def test_a_section_inside_carries_its_own_mistakes() -> None:
    """They come out below the key that leads to it, whole."""
    (found,) = error_of({"inner": {"number": "x", "y": 1}}).errors
    cause = found["ctx"]["error"]

    assert found["loc"] == ("inner",)
    assert isinstance(cause, SectionError)
    assert cause.section is Inner
    assert [error["loc"] for error in cause.errors] == [("number",), ("y",)]


def test_one_that_is_not_installed_is_reported_with_the_command() -> None:
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
