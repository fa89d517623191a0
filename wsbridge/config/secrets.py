"""Secret: a text that is read from a file, the environment or a credential of systemd, and never shown."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from wsbridge.config.base import UNION_TAG, Issue, Section, load_context
from wsbridge.config.paths import read_credential, read_plain_file_path, write_path
from wsbridge.config.types import HeaderText, WrongShapeError, as_text

MAX_SECRET_BYTES = 64 * 1024
"""Bytes that the file of a secret may have."""


def read_variable_name(value: object) -> str:
    """Read the name of an environment variable."""
    text = as_text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f'"{text}" is no name of an environment variable')
    return text


SECRET_FORMS = "{file: PATH}, {env: NAME} or {credential: NAME}"  # noqa: S105  (no secret)


class SecretSource(Section):
    """Where a secret is read from: exactly one of the three."""

    file: Annotated[Path, PlainValidator(read_plain_file_path), WithJsonSchema({"type": "string"})] | None = None
    """A file; one line break at its end does not count."""
    env: Annotated[str, PlainValidator(read_variable_name), WithJsonSchema({"type": "string"})] | None = None
    """An environment variable."""
    credential: str | None = None
    """A credential of systemd (LoadCredential=), as a file."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require exactly one source."""
        if len(raw) != 1 and raw.keys() <= cls.model_fields.keys():
            yield Issue((), "needs exactly one of file, env and credential", "E013")


class Secret:
    """A text that `repr`, `str` and logs never show.

    Attributes:
        file: The file that it was read from; None for any other source.
        env: The environment variable that it was read from; empty for any other source.
    """

    __slots__ = ("_text", "env", "file")

    def __init__(self, text: str, file: Path | None = None, env: str = "") -> None:
        self._text = text
        self.file = file
        self.env = env

    def reveal(self) -> str:
        """Return the text itself, for the one place that sends or compares it."""
        return self._text

    def read_again(self) -> Secret:
        """Return what its file has now; itself where it is not from a file.

        Raises:
            ValueError: The file cannot be used; one sentence.
        """
        return self if self.file is None else Secret(_read_secret_file(self.file), self.file)

    @property
    def source(self) -> dict[str, str] | str:
        """Where it comes from, as the file has it; `***` for a part of a URL."""
        if self.env:
            return {"env": self.env}
        if self.file is None:
            return repr(self)
        written = write_path(self.file)
        return {"file": written} if isinstance(written, str) else written

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Describe to pydantic how a secret is read; written is where it comes from."""
        return core_schema.with_info_plain_validator_function(
            read_secret, serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret.source)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the forms to editors."""
        return {
            "type": "object",
            "properties": {key: {"type": "string"} for key in SecretSource.model_fields},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }


def read_secret(value: object, info: ValidationInfo) -> Secret:
    """Read a secret from where the file says.

    Raises:
        ValueError: It is not written in one of these forms, or what it names is missing or empty.
    """
    if isinstance(value, Secret):
        return value
    if not isinstance(value, dict):
        raise WrongShapeError(f"a secret is written as {SECRET_FORMS}, not as text")
    source = SecretSource.model_validate(value, context=info.context)
    context = load_context(info)
    unchecked = context is not None and not context.check_files
    if source.env is not None:
        text = context.environ.get(source.env, "") if context else ""
        if not text and not unchecked:
            raise ValueError(f"the environment variable {source.env} is not set or empty")
        if any("\ud800" <= char <= "\udfff" for char in text):  # bytes that Python could not decode
            raise ValueError(f"the environment variable {source.env} is not UTF-8 text")
        return Secret("" if unchecked else text, env=source.env)
    path = source.file
    if source.credential is not None:
        path = read_credential({"credential": source.credential}, context)
    assert path is not None  # noqa: S101 - one of the three, by the rule of SecretSource
    return Secret("" if unchecked else _read_secret_file(path), path)


def _read_secret_file(path: Path) -> str:
    """Read the text of a secret.

    Raises:
        ValueError: The file cannot be read, is empty or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if not text or len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"{path} is {'larger than 64KiB' if text else 'empty'}")
    return text


def _secret_tag(value: object) -> str:
    return f"{UNION_TAG}secret" if isinstance(value, (dict, Secret)) else f"{UNION_TAG}text"


TextOrSecret = Annotated[
    Annotated[HeaderText, Tag(f"{UNION_TAG}text")] | Annotated[Secret, Tag(f"{UNION_TAG}secret")],
    Discriminator(_secret_tag),
]
"""The value of a header: text as it is, or a secret."""
