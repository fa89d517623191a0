"""Choices: values that may be written in more than one form, or whose form depends on a kind.

Lives here: telling the forms apart before anything is read, so that one typo gives one error, and picking the section
of a backend by its scheme and of authentication by its kind. Must not live here: those sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Annotated, TypeVar

from pydantic import PlainValidator, SerializeAsAny, ValidationError, ValidationInfo, WithJsonSchema

from wsbridge.config.backend import AnyBackendSection
from wsbridge.config.problems import did_you_mean
from wsbridge.config.section import TAG, AuthSection, Fault, Section, SectionError, context_of
from wsbridge.config.template import TOLD, read_backend_url
from wsbridge.config.text import WrongShapeError

TOKENS = "tokens"
"""The key that a backend with a list of tokens is told by."""

AnySection = TypeVar("AnySection", bound=Section)
Several = TypeVar("Several", bound=Sized)


def list_form(value: object) -> str:
    """Tell a word from a list, as the tag of a discriminated union."""
    return f"{TAG}text" if isinstance(value, str) else f"{TAG}list"


def mapping_form(value: object) -> str:
    """Tell a word from a mapping, as the tag of a discriminated union."""
    return f"{TAG}text" if isinstance(value, str) else f"{TAG}section"


ONE_OR_MANY = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
)
"""What editors are told of a text or a list of them."""


def listed(value: object) -> object:
    """Make a list of one out of a single text."""
    return (value,) if isinstance(value, str) else value


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no text stands twice in a list."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f'"{value}" stands here twice')
    return values


def filled(values: Several) -> Several:
    """Check that a list or a mapping has something in it."""
    if not values:
        raise ValueError("needs at least one entry")
    return values


def several(ways: tuple[AuthSection, ...]) -> tuple[AuthSection, ...]:
    """Check that no way of a list lets everybody in, which would make the others idle."""
    if any(way.kind == "none" for way in ways):
        raise ValueError('"none" cannot stand in a list: it lets everybody in')
    return ways


def read_backend(value: object, info: ValidationInfo) -> AnyBackendSection:
    """Read a backend, short (`tcp://…`) or long (`{url: tcp://…, …}`), as the section that its scheme picks."""
    if isinstance(value, AnyBackendSection):
        return value
    written = {"url": value} if isinstance(value, str) else value
    if not isinstance(written, dict):
        raise WrongShapeError("must be a URL such as tcp://10.0.0.5:5900, or a mapping with url")
    context = context_of(info)
    kinds: Mapping[str, type[AnyBackendSection]] = context.kinds.backends if context else {}
    kind = _backend_kind(written)
    section = kinds.get(kind)
    if section is None:
        text = f"no backend is known for {kind}://"
        raise SectionError(Section, (), [Fault(("url",), text, "E012")])
    return _read(section, written, info)


def _backend_kind(written: Mapping[str, object]) -> str:
    """Tell which section a backend is read by."""
    if "url" not in written:
        if TOKENS in written:
            return TOKENS
        raise SectionError(Section, (), [Fault(("url",), "is missing", "E011")])
    if written["url"] == TOLD:
        return TOLD.strip("{}")
    try:
        return read_backend_url(written["url"]).scheme
    except ValueError as error:
        raise SectionError(Section, (), [Fault(("url",), str(error), "E012")]) from None


def read_auth(value: object, info: ValidationInfo) -> AuthSection:
    """Read the way of authentication, short (`none`) or long (`{kind: basic, …}`, `{any_of: […]}`)."""
    if isinstance(value, AuthSection):
        return value
    context = context_of(info)
    kinds: Mapping[str, type[AuthSection]] = context.kinds.auth if context else {}
    known = " or ".join(f'"{kind}"' for kind in kinds)
    written = {"kind": value} if isinstance(value, str) else value
    if not isinstance(written, dict):
        raise WrongShapeError(f"must be {known}")
    kind = written.get("kind") or next((key for key in written if key in kinds), None)
    if kind is None:
        raise SectionError(Section, (), [Fault(("kind",), f"is missing: write {known}", "E011")])
    if not isinstance(kind, str) or kind not in kinds:
        guess = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        raise SectionError(Section, (), [Fault(("kind",), f'"{kind}" is not known here{guess}: write {known}', "E012")])
    return _read(kinds[kind], written, info)


def _read(section: type[AnySection], written: Mapping[str, object], info: ValidationInfo) -> AnySection:
    try:
        return section.model_validate(written, context=info.context)
    except ValidationError as error:
        raise SectionError(section, error.errors(include_url=False), ()) from None


Backend = Annotated[
    SerializeAsAny[AnyBackendSection], PlainValidator(read_backend), WithJsonSchema({"$kinds": "backends"})
]
Auth = Annotated[SerializeAsAny[AuthSection], PlainValidator(read_auth), WithJsonSchema({"$kinds": "auth"})]
