"""What all sections of the configuration share: the base classes, what they report, and what they are read with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


KeyOrIndex = str | int
KeyPath = tuple[KeyOrIndex, ...]

UNION_TAG = "\0"
"""What the tags of discriminated unions begin with, so that they differ from keys in the location of an error."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong or risky, before its place in the file is known.

    Attributes:
        key_path: The keys and indexes that lead to it, from the section that reports it.
        message: What is wrong and what to write, as one sentence without a full stop.
        code: `E…` or `W…`, from `errors.PROBLEM_CODES`.
        at_key: Whether the key is to be pointed at, not the value.
    """

    key_path: KeyPath
    message: str
    code: str
    at_key: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """The kinds that the file may name, handed in by the table of kinds.

    Attributes:
        backends: URL scheme to the section of that backend, which has a field `url`; and the other keys that a backend
            may be written with (`tokens`, `target`) to the sections that have these keys.
        auth: Value of `kind` to the section of that authentication method.
        missing_native_engine: Returns why `engine: native` is an error; empty if it is none.
    """

    backends: Mapping[str, type[Section]] = field(default_factory=dict)
    auth: Mapping[str, type[AuthSection]] = field(default_factory=dict)
    missing_native_engine: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a file is read with.

    Attributes:
        directory: Where relative paths begin: the directory of the file.
        environ: The environment that secrets are read from.
        registry: The kinds of backends and authentication.
        file: The configuration file itself; None if there is none.
        included: The files that it includes.
        check_files: Whether files are looked at; without, secrets stay empty and only the form of the file is checked.
        now: The time that certificates are compared with.
    """

    directory: Path
    environ: Mapping[str, str]
    registry: Registry
    check_files: bool = True
    file: Path | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    included: Sequence[Path] = ()


class SectionError(ValueError):
    """All that is wrong in one section; carries the issues through pydantic.

    Attributes:
        section: The model that was read.
        errors: What pydantic found in its fields.
        issues: What the section's own rules found.
        recovered: The section without the values that are wrong, for the rules between sections, which can then be
            checked as well; None where a value is wrong that it cannot do without.
    """

    def __init__(
        self,
        section: type[BaseModel],
        errors: Iterable[ErrorDetails],
        issues: Iterable[Issue],
        recovered: BaseModel | None = None,
    ) -> None:
        self.section = section
        self.errors = list(errors)
        self.issues = list(issues)
        self.recovered = recovered
        texts = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in self.errors]
        texts += [f"{'.'.join(map(str, issue.key_path))}: {issue.message}" for issue in self.issues]
        super().__init__("; ".join(texts))


def section_error(error: ValidationError, section: type[BaseModel]) -> SectionError:
    """Return what a section raised in its own validator, or pydantic's error about its input as such."""
    errors = error.errors(include_url=False)
    cause = errors[0].get("ctx", {}).get("error")
    if len(errors) == 1 and not errors[0]["loc"] and isinstance(cause, SectionError):
        return cause
    return SectionError(section, errors, ())


def load_context(info: ValidationInfo) -> LoadContext | None:
    """Return the context that a file is read with, or None where a section is built by code."""
    context = info.context
    return context if isinstance(context, LoadContext) else None


class Section(BaseModel):
    """A mapping of the configuration file: immutable, unknown keys are errors, defaults are checked too."""

    moved_keys: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may look for here, and where they belong: the end of the message about the unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Return which rules between keys are broken.

        Args:
            raw: The keys and values as written.
        """
        return ()

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Return what is wrong with the files and other settings that this valid section names."""
        return ()

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Return what is valid but dangerous; each has a code `W…`."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _validate_section(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(data, cls):  # a default, or recovered: it was validated before
            return data
        issues = list(cls.validate_keys(data)) if isinstance(data, dict) else []
        errors: list[ErrorDetails] = []
        section: Self | None
        try:
            section = handler(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            section = _recover(data, errors, handler)
        context = load_context(info)
        if context is not None and section is not None and not issues:
            own = section.validate_values(context)
            issues += (issue for issue in own if not any(_concerns(cls, error, issue) for error in errors))
        if issues or errors:
            raise SectionError(cls, errors, issues, section)
        assert section is not None  # noqa: S101 - without an error there is one
        return section


_SectionT = TypeVar("_SectionT", bound=Section)


def _concerns(section: type[Section], error: ErrorDetails, issue: Issue) -> bool:
    """Return whether an issue may follow from an error.

    It names the same key, the error is about the keys, or the key with the error now has the value of another one.
    """
    field = section.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    if field is not None and field.default_factory_takes_validated_data:
        return True
    return error["type"] in {"extra_forbidden", "missing"} or issue.key_path[:1] in {(), error["loc"][:1]}


def _recover(
    data: object, errors: Iterable[ErrorDetails], handler: ModelWrapValidatorHandler[_SectionT]
) -> _SectionT | None:
    """Build a section from the values that are valid; None where it cannot do without the others."""
    if not isinstance(data, dict):
        return None
    rest: dict[object, Any] = dict(data)
    copied: set[object] = set()
    for error in errors:
        key, *inner = (step for step in error["loc"] if not str(step).startswith(UNION_TAG))
        cause = error.get("ctx", {}).get("error")
        recovered = cause.recovered if isinstance(cause, SectionError) else None
        if inner and isinstance(inner[0], str) and isinstance(rest.get(key), dict):  # one of several named sections
            if key not in copied:
                copied.add(key)
                rest[key] = dict(rest[key])
            if recovered is not None and len(inner) == 1:
                rest[key][inner[0]] = recovered
            else:
                rest[key].pop(inner[0], None)
        elif recovered is not None and not inner:
            rest[key] = recovered
        else:
            rest.pop(key, None)
    try:
        return handler(rest)
    except ValidationError:
        return None


Credential = tuple[Literal["header", "cookie", "query"], str]
"""Where a request has a credential: in a header (lower case), a cookie or a parameter of the query, of that name."""


class AuthSection(Section):
    """Base of the sections of all authentication methods."""

    kind: str
    """Name of the method."""

    def members(self) -> Iterable[AuthSection]:
        """Return the methods that this one combines."""
        return ()

    def identifies_clients(self) -> bool:
        """Return whether it identifies clients, by a name or by claims."""
        members = list(self.members())
        return any(member.identifies_clients() for member in members) if members else True

    def needs_request(self) -> bool:
        """Return whether it needs an HTTP request, which plain TCP clients do not send."""
        return True

    def needs_certificate(self) -> bool:
        """Return whether it needs a client certificate."""
        return False

    def allows_everyone(self) -> bool:
        """Return whether it admits nearly every client, whatever the client presents."""
        return False

    def requires_credentials(self) -> bool:
        """Return whether every client must present something that a page of another origin does not have."""
        return True

    def accepts_cookies(self) -> bool:
        """Return whether a cookie can authenticate a client."""
        return any(member.accepts_cookies() for member in self.members())

    def credentials(self) -> Iterable[Credential]:
        """Return where a request shows what authenticates its client."""
        return (credential for member in self.members() for credential in member.credentials())

    def access_list_keys(self) -> Iterable[tuple[str, Path]]:
        """Return the lists whose entries open connections depend on: kind of the method, and file."""
        return (key for member in self.members() for key in member.access_list_keys())

    def accepts_cross_site_credentials(self) -> bool:
        """Return whether it reads credentials that another page can make a browser send: in the query or a cookie."""
        return self.accepts_cookies() or any(member.accepts_cross_site_credentials() for member in self.members())


DISTRIBUTION_BY_PACKAGE = {"jwt": "'PyJWT[crypto]'"}
"""What to install for a package that is imported by another name."""


def require_packages(context: LoadContext, *packages: str) -> Iterable[Issue]:
    """Return an issue if packages, named as they are imported, are not installed."""
    lacking = [name for name in packages if find_spec(name) is None] if context.check_files else []
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        install = " ".join(DISTRIBUTION_BY_PACKAGE.get(name, name) for name in lacking)
        yield Issue((), f"needs {' and '.join(lacking)}, which {verb} not installed: pip install {install}", "E035")
