"""Secret: a text that is read from a file or the environment, and never shown."""

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
from wsbridge.config.types import FilePath, HeaderText, WrongShapeError, as_text

MAX_SECRET_BYTES = 64 * 1024
"""Bytes that the file of a secret may have."""


def read_variable_name(value: object) -> str:
    """Read the name of an environment variable."""
    text = as_text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f'"{text}" is no name of an environment variable')
    return text


class SecretSource(Section):
    """Where a secret is read from, at start: exactly one of the two."""

    file: FilePath | None = None
    """A file; one line break at its end does not count."""
    env: Annotated[str, PlainValidator(read_variable_name), WithJsonSchema({"type": "string"})] | None = None
    """An environment variable."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require exactly one source."""
        if ("file" in raw) == ("env" in raw) and raw.keys() <= cls.model_fields.keys():
            yield Issue((), "needs exactly one of file and env", "E013")


class Secret:
    """A text that `repr`, `str` and logs never show.

    Attributes:
        file: The file that it was read from; None for any other source.
    """

    __slots__ = ("_text", "file")

    def __init__(self, text: str, file: Path | None = None) -> None:
        self._text = text
        self.file = file

    def reveal(self) -> str:
        """Return the text itself, for the one place that sends or compares it."""
        return self._text

    def read_again(self) -> Secret:
        """Return what its file has now; itself where it is not from a file.

        Raises:
            ValueError: The file cannot be used; one sentence.
        """
        return self if self.file is None else Secret(_read_secret_file(self.file), self.file)

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Describe to pydantic how a secret is read; it is written as `***`."""
        return core_schema.with_info_plain_validator_function(
            read_secret, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the two forms to editors."""
        return {
            "type": "object",
            "properties": {"file": {"type": "string"}, "env": {"type": "string"}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }


def read_secret(value: object, info: ValidationInfo) -> Secret:
    """Read a secret from where the file says.

    Raises:
        ValueError: It is not written as `{file: PATH}` or `{env: NAME}`, or what it names is missing or empty.
    """
    if isinstance(value, Secret):
        return value
    if not isinstance(value, dict):
        raise WrongShapeError("a secret is written as {file: PATH} or {env: NAME}, not as text")
    source = SecretSource.model_validate(value, context=info.context)
    context = load_context(info)
    if context is not None and not context.check_files:
        return Secret("")
    if source.env is not None:
        text = context.environ.get(source.env, "") if context else ""
        if not text:
            raise ValueError(f"the environment variable {source.env} is not set or empty")
        if any("\ud800" <= char <= "\udfff" for char in text):  # bytes that Python could not decode
            raise ValueError(f"the environment variable {source.env} is not UTF-8 text")
        return Secret(text)
    assert source.file is not None  # noqa: S101 - one of the two, by the rule of SecretSource
    return Secret(_read_secret_file(source.file), source.file)


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
