"""Section, Issue, LoadContext."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


KeyOrIndex = str | int
KeyPath = tuple[KeyOrIndex, ...]

UNION_TAG = "\0"
"""What the tags of discriminated unions begin with, so that they can be told from keys in the place of an error."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong or risky, before its place in the file is known.

    Attributes:
        key_path: The keys and indexes that lead to it, from the section that tells it.
        message: What is wrong and what to write, as one sentence without a full stop.
        code: `E…` or `W…`, from the table in `problem`.
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
            may be written with (`tokens`, `target`) to theirs.
        auth: Value of `kind` to the section of that way of authentication.
    """

    backends: Mapping[str, type[Section]] = field(default_factory=dict)
    auth: Mapping[str, type[AuthSection]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a file is read with.

    Attributes:
        directory: Where relative paths begin: the folder of the file.
        environ: The environment that secrets are read from.
        registry: The kinds of backends and authentication.
        check_files: Whether files are looked at; without, secrets stay empty and only the form of the file is checked.
        now: The time that certificates are compared with.
    """

    directory: Path
    environ: Mapping[str, str]
    registry: Registry
    check_files: bool = True
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


class SectionError(ValueError):
    """All that is wrong in one section; carries the faults through pydantic.

    Attributes:
        section: The model that was read.
        errors: What pydantic found in its fields.
        issues: What its own rules found.
    """

    def __init__(self, section: type[BaseModel], errors: Iterable[ErrorDetails], issues: Iterable[Issue]) -> None:
        self.section = section
        self.errors = list(errors)
        self.issues = list(issues)
        texts = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in self.errors]
        texts += [f"{'.'.join(map(str, fault.key_path))}: {fault.message}" for fault in self.issues]
        super().__init__("; ".join(texts))


def load_context(info: ValidationInfo) -> LoadContext | None:
    """Give the context that a file is read with, or None where a section is built by code."""
    context = info.context
    return context if isinstance(context, LoadContext) else None


class Section(BaseModel):
    """A mapping of the configuration file: immutable, unknown keys are errors, defaults are checked too."""

    moved_keys: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may look for here, and where they belong: the end of the message about the unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Tell which rules between keys are broken.

        Args:
            raw: The keys as they stand in the file, with their unread values.
        """
        return ()

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Tell what is wrong with the things that this section, itself well written, names."""
        return ()

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Tell what is allowed but dangerous; each has a code `W…`."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _validate_section(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        faults = list(cls.validate_keys(data)) if isinstance(data, dict) else []
        try:
            section = handler(data)
        except ValidationError as error:
            raise SectionError(cls, error.errors(include_url=False), faults) from None
        context = load_context(info)
        if context is not None:
            faults.extend(section.validate_values(context))
        if faults:
            raise SectionError(cls, (), faults)
        return section


class AuthSection(Section):
    """The base of the sections of all ways of authentication."""

    kind: str
    """Which way it is."""

    def members(self) -> Iterable[AuthSection]:
        """Give the ways that this one holds."""
        return ()

    def identifies_clients(self) -> bool:
        """Tell whether it says who a client is, by a name or by what else is known of him."""
        members = list(self.members())
        return any(member.identifies_clients() for member in members) if members else True

    def needs_request(self) -> bool:
        """Tell whether it can do nothing without a request over HTTP, as where plain TCP is spoken."""
        return True

    def needs_certificate(self) -> bool:
        """Tell whether it can do nothing without the certificate of a TLS client."""
        return False

    def accepts_cookies(self) -> bool:
        """Tell whether a cookie can prove who a client is."""
        return any(member.accepts_cookies() for member in self.members())


INSTALL_COMMAND = "pip install 'wsbridge[auth]'"


def require_packages(context: LoadContext, *packages: str) -> Iterable[Issue]:
    """Tell which libraries, by the names they are imported by, a section lacks on this machine."""
    lacking = [name for name in packages if find_spec(name) is None] if context.check_files else []
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        yield Issue((), f"needs {' and '.join(lacking)}, which {verb} not installed: {INSTALL_COMMAND}", "E035")
