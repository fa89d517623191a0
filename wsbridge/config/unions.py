"""Values of several forms: a backend by its scheme, an authentication method by its kind, a text or a list."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import PlainValidator, SerializeAsAny, ValidationError, ValidationInfo, WithJsonSchema

from wsbridge.config.backend_urls import IDENTITY_TARGET, BackendUrl, UrlTemplate, read_backend_url
from wsbridge.config.base import UNION_TAG, AuthSection, Issue, Section, SectionError, load_context, section_error
from wsbridge.config.errors import closest_match, did_you_mean
from wsbridge.config.types import WrongShapeError
from wsbridge.config.urls import directory_of


@dataclass(frozen=True, slots=True)
class PassRules:
    """What of the request of a WebSocket client a backend gets.

    Attributes:
        headers: Names of headers.
        origin: Whether it gets the Origin.
        path: Whether it gets the path, as far as it is not the route's.
        query: Whether it gets the query.
        credentials: Whether it also gets what authenticates the client to this route.
    """

    headers: tuple[str, ...] = ()
    origin: bool = False
    path: bool = False
    query: bool = False
    credentials: bool = False


class BackendSectionBase(Section):
    """Where a route's bytes go, written in whatever form."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Which class dials it: a name of the table of backends."""

    @property
    @abstractmethod
    def text(self) -> str:
        """As written; the query of a URL may contain a secret."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that each client fills; none if all clients reach the same target."""
        return ()

    @property
    def reads_cookies(self) -> bool:
        """Whether a cookie of the client chooses the target."""
        return False

    @property
    def needs_client_info(self) -> bool:
        """Whether the client's address or identity is sent to the server."""
        return False

    @property
    def pass_rules(self) -> PassRules | None:
        """What of the client's request is passed on; None for nothing."""
        return None


class UrlBackendSection(BackendSectionBase):
    """Where a route's bytes go."""

    url: BackendUrl
    """tcp://host:port, tls://host:port, unix:/path, ws://host[:port]/path or wss://host[:port]/path."""

    @property
    def kind(self) -> str:
        """See `BackendSectionBase.kind`: the scheme."""
        return self.url.scheme

    @property
    def text(self) -> str:
        """See `BackendSectionBase.text`."""
        return self.url.text

    @property
    def fields(self) -> tuple[str, ...]:
        """See `BackendSectionBase.fields`: those of a template."""
        return self.url.fields if isinstance(self.url, UrlTemplate) else ()


KIND_SYNONYMS = frozenset({"type", "method", "scheme", "provider"})
"""Keys by which other programs name the kind of a section."""
TOKENS_KEY = "tokens"
"""The key by which a backend with a token list is recognized."""

_SectionT = TypeVar("_SectionT", bound=Section)
SizedT = TypeVar("SizedT", bound=Sized)


def text_or_list_tag(value: object) -> str:
    """Return the tag of a union of a word and a list."""
    return f"{UNION_TAG}text" if isinstance(value, str) else f"{UNION_TAG}list"


def text_or_section_tag(value: object) -> str:
    """Return the tag of a union of a word and a mapping."""
    return f"{UNION_TAG}text" if isinstance(value, str) else f"{UNION_TAG}section"


ONE_OR_MANY_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
)
"""JSON Schema of a text or a list of texts."""


def as_tuple(value: object) -> object:
    """Make a list of one out of a single text."""
    return (value,) if isinstance(value, str) else value


def check_unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that a list has no duplicates."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f'"{value}" is a duplicate')
        seen.add(value)
    return values


def non_empty(values: SizedT) -> SizedT:
    """Check that a list or a mapping has something in it."""
    if not values:
        raise ValueError("needs at least one entry")
    return values


def reject_none_in_list(methods: tuple[AuthSection, ...]) -> tuple[AuthSection, ...]:
    """Check that no method of a list is none, which would make the others useless."""
    if any(way.kind == "none" for way in methods):
        raise ValueError('"none" is not allowed in a list: it allows anonymous access')
    return methods


def read_backend(value: object, info: ValidationInfo) -> BackendSectionBase:
    """Read a backend, short (`tcp://…`) or long (`{url: tcp://…, …}`), as the section that its scheme picks."""
    if isinstance(value, BackendSectionBase):
        return value
    written = {"url": value} if isinstance(value, str) else value
    if not isinstance(written, dict):
        raise WrongShapeError("must be a URL such as tcp://10.0.0.5:5900, or a mapping with url")
    context = load_context(info)
    kinds: Mapping[str, type[Section]] = context.registry.backends if context else {}
    kind = _backend_kind(written, info)
    section = kinds.get(kind)
    if section is None or not issubclass(section, BackendSectionBase):
        text = f"no backend is known for {kind}://"
        raise SectionError(Section, (), [Issue(("url",), text, "E012")])
    return _validate_as(section, written, info)


def _backend_kind(raw: Mapping[str, object], info: ValidationInfo) -> str:
    """Return which section a backend is read by."""
    if "url" not in raw:
        if TOKENS_KEY in raw:
            return TOKENS_KEY
        raise SectionError(Section, (), [Issue(("url",), "is missing", "E011")])
    if raw["url"] == IDENTITY_TARGET:
        return IDENTITY_TARGET.strip("{}")
    try:
        return read_backend_url(raw["url"], directory_of(info)).scheme
    except ValueError as error:
        raise SectionError(Section, (), [Issue(("url",), str(error), "E012")]) from None


def read_auth(value: object, info: ValidationInfo) -> AuthSection:
    """Read an authentication method, short (`none`) or long (`{kind: basic, …}`, `{any_of: […]}`)."""
    if isinstance(value, AuthSection):
        return value
    context = load_context(info)
    kinds: Mapping[str, type[AuthSection]] = context.registry.auth if context else {}
    known = " or ".join(f'"{kind}"' for kind in kinds)
    written = {"kind": value} if isinstance(value, str) else value
    if not isinstance(written, dict):
        raise WrongShapeError(f"must be {known}")
    kind = written.get("kind") or next((key for key in written if key in kinds), None)
    if kind is None:
        meant = next((key for key in written if key in KIND_SYNONYMS or closest_match(key, ["kind"])), None)
        if meant is not None:
            issue = Issue((meant,), f'unknown key (did you mean "kind"?): write {known}', "E010", at_key=True)
        else:
            issue = Issue(("kind",), f"is missing: write {known}", "E011")
        raise SectionError(Section, (), [issue])
    if not isinstance(kind, str) or kind not in kinds:
        guess = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        raise SectionError(Section, (), [Issue(("kind",), f'"{kind}" is unknown{guess}: write {known}', "E012")])
    fields = kinds[kind].model_fields
    if "kind" not in written and kind not in fields:
        keys = "".join(f", {name}: …" for name, field in fields.items() if field.is_required())
        text = f"unknown key: the name of a method is the value of kind; write {{kind: {kind}{keys}}}"
        raise SectionError(Section, (), [Issue((kind,), text, "E010", at_key=True)])
    return _validate_as(kinds[kind], written, info)


def _validate_as(section: type[_SectionT], raw: Mapping[str, object], info: ValidationInfo) -> _SectionT:
    try:
        return section.model_validate(raw, context=info.context)
    except ValidationError as error:
        raise section_error(error, section) from None


BackendUnion = Annotated[
    SerializeAsAny[BackendSectionBase], PlainValidator(read_backend), WithJsonSchema({"$kinds": "backends"})
]
AuthUnion = Annotated[SerializeAsAny[AuthSection], PlainValidator(read_auth), WithJsonSchema({"$kinds": "auth"})]
