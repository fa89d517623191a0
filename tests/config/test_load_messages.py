"""From what pydantic found to what a user understands."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from wsbridge.config.base import Issue, Section
from wsbridge.config.load import translate_errors


class Leaf(Section):
    """The innermost section."""

    width: int = 1
    height: int = 1


class Sample(Section):
    """A section with every shape."""

    moved_keys: ClassVar = {"depth": "write it in leaf"}

    needed: int = 0
    word: Literal["alpha", "beta", "gamma"] = "alpha"
    two: Literal["on", "off"] = "on"
    one: Literal["only"] = "only"
    items: tuple[int, ...] = ()
    leaf: Leaf = Leaf()
    names: dict[Literal["a", "b"], Leaf] = Field(default_factory=dict)


class Needy(Section):
    """A section with a key that has no default."""

    timeout: int


def faults(written: object, section: type[Section] = Sample) -> list[Issue]:
    """Read a section that must fail, and give its faults."""
    with pytest.raises(ValidationError) as caught:
        section.model_validate(written)
    return list(translate_errors(caught.value.errors(include_url=False), section, ("top",)))


@pytest.mark.parametrize(
    ("written", "steps", "message"),
    [
        ({"word": "alpa"}, ("word",), '"alpa" is not one of alpha, beta or gamma (did you mean "alpha"?)'),
        ({"word": "zzz"}, ("word",), '"zzz" is not one of alpha, beta or gamma'),
        ({"word": ["alpha"]}, ("word",), "must be alpha, beta or gamma"),
        ({"two": "zz"}, ("two",), '"zz" is not one of on or off'),
        ({"one": "zz"}, ("one",), '"zz" is not one of only'),
        ({"items": "x"}, ("items",), "must be a list: write […] around it"),
        ({"items": {"x": "1"}}, ("items",), "must be a list: write […] around it"),
        ({"leaf": "x"}, ("leaf",), "must be a mapping such as {width: …}"),
        ({"leaf": ["x"]}, ("leaf",), "must be a mapping such as {width: …}"),
        ({"names": ["x"]}, ("names",), "must be a mapping such as {NAME: …}"),
        ({"leaf": "width:3"}, ("leaf",), 'must be a mapping: write a space after the colon, "width: …"'),
        ({"leaf": "x:3"}, ("leaf",), "must be a mapping such as {width: …}"),
    ],
)
def test_values_of_the_wrong_form(written: object, steps: tuple[str, ...], message: str) -> None:
    """Each gives one sentence at its place, with what to write."""
    assert faults(written) == [Issue(("top", *steps), message, "E012")]


@pytest.mark.parametrize(
    ("key", "ending"),
    [
        ("wrod", ' (did you mean "word"?)'),
        ("width", ' (it belongs under "leaf")'),
        ("depth", ": write it in leaf"),
        ("zzzzz", ""),
    ],
)
def test_unknown_keys(key: str, ending: str) -> None:
    """A guess, the section where the key belongs, the hint of this section, or nothing where none fits."""
    assert faults({key: 1}) == [Issue(("top", key), f"unknown key{ending}", "E010", at_key=True)]


def test_a_missing_key_and_its_misspelling_are_one_mistake() -> None:
    """A required key that an unknown key resembles is not reported as missing; any other is."""
    assert [fault.message for fault in faults({"tiemout": 1}, Needy)] == ['unknown key (did you mean "timeout"?)']
    assert [(fault.key_path, fault.message) for fault in faults({}, Needy)] == [(("top", "timeout"), "is missing")]


def test_sections_in_sections_are_unpacked() -> None:
    """All mistakes of the inner ones come with the whole way to them, each once."""
    found = faults({"leaf": {"width": "x", "hieght": 1}, "names": {"a": {"height": "y"}}})

    assert [(fault.key_path, fault.code) for fault in found] == [
        (("top", "leaf", "width"), "E012"),
        (("top", "leaf", "hieght"), "E010"),
        (("top", "names", "a", "height"), "E012"),
    ]


def test_a_key_that_is_no_name() -> None:
    """The key itself is pointed at."""
    (found,) = faults({"names": {"c": {}}})

    assert (found.key_path, found.at_key, found.message) == (("top", "names", "c"), True, '"c" is not one of a or b')


class Aliased(Section):
    """A section with a key that is not a name in Python."""

    sources: int = Field(1, alias="from")


def test_a_key_is_reported_as_the_file_has_it() -> None:
    """Neither a guess nor the place of an error shows the name that the code has for a key."""
    (unknown,) = faults({"form": 1}, Aliased)
    assert unknown.message == 'unknown key (did you mean "from"?)'
    (wrong,) = faults({"from": "x"}, Aliased)
    assert wrong.key_path == ("top", "from")
