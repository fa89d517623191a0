"""Sentences: from what pydantic found to faults that a user understands.

Lives here: one sentence for each kind of error, the guess at what an unknown key was meant to be, and unpacking the
errors of sections inside of sections. Must not live here: places, rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from wsbridge.config.problems import did_you_mean, meant
from wsbridge.config.section import TAG, Fault, Section, SectionError, Steps

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SHAPES = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}
NEARLY_THE_SAME = 0.9
"""How alike a key must be to one of its own section to be taken for that, and not for one of another section."""


def faults_in(errors: Iterable[ErrorDetails], section: type[BaseModel], outer: Steps = ()) -> Iterator[Fault]:
    """Turn what pydantic found into faults, each told once.

    Args:
        errors: Of one section; those of sections inside of it are carried by `SectionError`.
        section: The model that was read, for its keys.
        outer: The steps that lead to it.
    """
    errors = list(errors)
    keys = _keys(section)
    unknown = [str(error["loc"][-1]) for error in errors if error["type"] == "extra_forbidden"]
    guessed = {meant(key, keys) for key in unknown}
    for error in errors:
        steps = tuple(step for step in error["loc"] if not str(step).startswith(TAG))
        if steps[-1:] == ("[key]",):
            yield Fault((*outer, *steps[:-1]), _sentence(error), "E012", at_key=True)
            continue
        steps = (*outer, *steps)
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, SectionError):
            yield from faults_in(cause.errors, cause.section, steps)
            yield from (replace(fault, steps=(*steps, *fault.steps)) for fault in cause.faults)
        elif isinstance(cause, ValidationError):
            yield from faults_in(cause.errors(include_url=False), Section, steps)
        elif error["type"] == "missing":
            if steps[-1] not in guessed:
                yield Fault(steps, "is missing", "E011")
        elif error["type"] == "extra_forbidden":
            yield Fault(steps, f"unknown key{_elsewhere(section, str(steps[-1]))}", "E010", at_key=True)
        else:
            yield Fault(steps, _sentence(error) + _blank_missing(error, section), "E012")


def _blank_missing(error: ErrorDetails, section: type[BaseModel]) -> str:
    """Hint at `key:value`, which YAML takes for one text."""
    given = error["input"]
    key, colon, _ = given.partition(":") if isinstance(given, str) else ("", "", "")
    glued = error["type"] in SHAPES and colon and key in _keys(section)
    return f': write a blank after the colon, "{key}: …"' if glued else ""


def _sentence(error: ErrorDetails) -> str:
    """Say what is wrong with a value."""
    context: dict[str, Any] = error.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    if error["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        given = error["input"]
        guess = did_you_mean(given, words) if isinstance(given, str) else ""
        shown = f'"{given}" is' if isinstance(given, str) else "must be"
        wanted = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        return f"{shown} none of {wanted}{guess}" if isinstance(given, str) else f"{shown} {wanted}"
    return SHAPES.get(error["type"], error["msg"])


def _elsewhere(section: type[BaseModel], key: str) -> str:
    """Say what an unknown key was meant to be, or where it belongs."""
    hint: str | None = getattr(section, "elsewhere", {}).get(key)
    if hint:
        return f": {hint}"
    keys = _keys(section)
    if meant(key, keys, NEARLY_THE_SAME):
        return did_you_mean(key, keys)
    for name, info in section.model_fields.items():
        if any(key in _keys(inner) for inner in _sections(info.annotation)):
            return f' (it belongs under "{name}")'
    return did_you_mean(key, keys)


def _keys(section: type[BaseModel]) -> list[str]:
    """Give the keys of a section, as the file has them."""
    return [info.alias or name for name, info in section.model_fields.items()]


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
