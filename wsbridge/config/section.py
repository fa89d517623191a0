"""Section: the base of every model that a mapping in the file is read into.

Lives here: what all sections share, and what they are read with. Must not live here: any one section.
A section tells all that is wrong with it at once: what pydantic found in its fields, the rules between its keys, and
what is wrong with the things it names (files, certificates).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from wsbridge.config.backend import AnyBackendSection

Step = str | int
Steps = tuple[Step, ...]

TAG = "\0"
"""What the tags of discriminated unions begin with, so that they can be told from keys in the place of an error."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong or risky, before its place in the file is known.

    Attributes:
        steps: The keys and indexes that lead to it, from the section that tells it.
        message: What is wrong and what to write, as one sentence without a full stop.
        code: `E…` or `W…`, from the table in `problem`.
        at_key: Whether the key is to be pointed at, not the value.
    """

    steps: Steps
    message: str
    code: str
    at_key: bool = False


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds that the file may name, handed in by the table of kinds.

    Attributes:
        backends: URL scheme to the section of that backend, which has a field `url`; and the other keys that a backend
            may be written with (`tokens`, `target`) to theirs.
        auth: Value of `kind` to the section of that way of authentication.
    """

    backends: Mapping[str, type[AnyBackendSection]] = field(default_factory=dict)
    auth: Mapping[str, type[AuthSection]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What a file is read with.

    Attributes:
        folder: Where relative paths begin: the folder of the file.
        environ: The environment that secrets are read from.
        kinds: The kinds of backends and authentication.
        files: Whether files are looked at; without, secrets stay empty and only the form of the file is checked.
        now: The time that certificates are compared with.
    """

    folder: Path
    environ: Mapping[str, str]
    kinds: Kinds
    files: bool = True
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


class SectionError(ValueError):
    """All that is wrong in one section; carries the faults through pydantic.

    Attributes:
        section: The model that was read.
        errors: What pydantic found in its fields.
        faults: What its own rules found.
    """

    def __init__(self, section: type[BaseModel], errors: Iterable[ErrorDetails], faults: Iterable[Fault]) -> None:
        self.section = section
        self.errors = list(errors)
        self.faults = list(faults)
        texts = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in self.errors]
        texts += [f"{'.'.join(map(str, fault.steps))}: {fault.message}" for fault in self.faults]
        super().__init__("; ".join(texts))


def context_of(info: ValidationInfo) -> Context | None:
    """Give the context that a file is read with, or None where a section is built by code."""
    context = info.context
    return context if isinstance(context, Context) else None


class Section(BaseModel):
    """A mapping of the configuration file: immutable, unknown keys are errors, defaults are checked too."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may look for here, and where they belong: the end of the message about the unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Tell which rules between keys are broken.

        Args:
            written: The keys as they stand in the file, with their unread values.
        """
        return ()

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell what is wrong with the things that this section, itself well written, names."""
        return ()

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Tell what is allowed but dangerous; each has a code `W…`."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        faults = list(cls.written_faults(data)) if isinstance(data, dict) else []
        try:
            section = handler(data)
        except ValidationError as error:
            raise SectionError(cls, error.errors(include_url=False), faults) from None
        context = context_of(info)
        if context is not None:
            faults.extend(section.faults(context))
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

    def names_clients(self) -> bool:
        """Tell whether it says who a client is, by a name or by what else is known of him."""
        members = list(self.members())
        return any(member.names_clients() for member in members) if members else True

    def needs_request(self) -> bool:
        """Tell whether it can do nothing without a request over HTTP, as where plain TCP is spoken."""
        return True

    def needs_certificate(self) -> bool:
        """Tell whether it can do nothing without the certificate of a TLS client."""
        return False

    def takes_cookies(self) -> bool:
        """Tell whether a cookie can prove who a client is."""
        return any(member.takes_cookies() for member in self.members())
