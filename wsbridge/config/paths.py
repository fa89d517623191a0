"""Paths of files and directories, and credentials of systemd."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path, PosixPath
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from wsbridge.config.base import LoadContext, load_context
from wsbridge.config.regular_files import may_exist
from wsbridge.config.types import WrongShapeError, as_text

MAX_SHOWN_PATH_CHARS = 200


def absolute_path(value: object, context: LoadContext | None) -> Path:
    """Return the absolute path of a written one."""
    if isinstance(value, Path):
        return value
    text = as_text(value)
    if not text or set(text) & set("\0\n"):
        raise ValueError("is not the path of a file")
    return without_dots((context.directory if context else Path.cwd()) / text)


def without_dots(path: Path) -> Path:
    """Return a path without `..`, which is the parent of what a symbolic link leads to, not of the link."""
    parts = path.parts
    if ".." not in parts:
        return path
    end = len(parts) - parts[::-1].index("..")
    return Path(os.path.realpath(Path(*parts[:end])), *parts[end:])


CREDENTIAL_KEY = "credential"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL_REGEX = r"(?!\.\.?$)[!-.0-9;-~]{1,255}"
"""Printable ASCII without slash and colon, as systemd accepts it."""


class CredentialPath(PosixPath):
    """The file of a credential of systemd; its name is that of the credential."""


class MissingCredentialError(ValueError):
    """A credential is not where systemd would have put it.

    Attributes:
        code: Of the problem.
    """

    code = "E037"


def read_credential(value: dict[object, object], context: LoadContext | None) -> CredentialPath:
    """Return the file of `{credential: NAME}` (systemd.exec(5), LoadCredential=).

    Raises:
        MissingCredentialError: There is no such credential.
        ValueError: It is not of that form.
    """
    if set(value) != {CREDENTIAL_KEY}:
        raise WrongShapeError(f"must be a path, or {{{CREDENTIAL_KEY}: NAME}}")
    name = as_text(value[CREDENTIAL_KEY])
    if not re.fullmatch(CREDENTIAL_REGEX, name):
        raise ValueError(f'"{name}" is no name of a credential: printable ASCII without spaces, "/" and ":"')
    directory = context.environ.get(CREDENTIALS_VARIABLE, "") if context else ""
    path = CredentialPath(directory or f"${CREDENTIALS_VARIABLE}", name)
    if context is not None and context.check_files:
        if not directory:
            raise MissingCredentialError(
                f"the credential {name} is only there where systemd starts wsbridge with LoadCredential={name}:…: "
                f"{CREDENTIALS_VARIABLE} is not set (wsbridge check --no-files does without)"
            )
        if not may_exist(path):
            raise MissingCredentialError(
                f"systemd passed no credential {name}: {path} does not exist; write LoadCredential={name}:… in the unit"
            )
    return path


def write_path(path: Path) -> str | dict[str, str]:
    """Write a path as the file has it."""
    return {CREDENTIAL_KEY: path.name} if isinstance(path, CredentialPath) else str(path)


def short_path(path: Path) -> str:
    """Write a path into a message; a long one, which may be the content of a file, is cut."""
    text = str(path)
    return text if len(text) <= MAX_SHOWN_PATH_CHARS else f"{text[:MAX_SHOWN_PATH_CHARS]}…"


def _checks_files(info: ValidationInfo) -> bool:
    context = load_context(info)
    return context is not None and context.check_files


def read_file_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file that has to be readable, or `{credential: NAME}`."""
    if not isinstance(value, dict):
        return read_plain_file_path(value, info)
    path = read_credential(value, load_context(info))
    return _check_file(path) if _checks_files(info) else path


def read_plain_file_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file that has to be readable."""
    path = absolute_path(value, load_context(info))
    return _check_file(path) if _checks_files(info) else path


def _check_file(path: Path) -> Path:
    """Check that a file can be read; opening a FIFO would wait for its writer."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{short_path(path)} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {'a directory, not a file' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return path


def read_directory_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a directory that has to be readable."""
    path = absolute_path(value, load_context(info))
    if _checks_files(info):
        try:
            with os.scandir(path):
                pass
        except OSError as error:
            raise ValueError(f"{short_path(path)} cannot be read as a directory: {error.strerror}") from None
    return path


def read_output_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file that will be written, or created in a directory that exists."""
    path = absolute_path(value, load_context(info))
    if _checks_files(info):
        try:
            if not stat.S_ISDIR(path.parent.stat().st_mode):
                raise ValueError(f"{path.parent} is not a directory")
            if path.is_dir():
                raise ValueError(f"{path} is a directory, not a file")
            allowed = os.access(path if path.exists() else path.parent, os.W_OK)
        except OSError as error:
            raise ValueError(f"{short_path(path)} cannot be written: {error.strerror}") from None
        if not allowed:
            raise ValueError(f"{short_path(path)} cannot be written: {os.strerror(errno.EACCES)}")
    return path


def read_unchecked_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file or a directory; its user checks whether it can be read."""
    context = load_context(info)
    return read_credential(value, context) if isinstance(value, dict) else absolute_path(value, context)


def read_future_directory_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a directory that need not exist yet."""
    path = absolute_path(value, load_context(info))
    if path == Path("/"):
        raise ValueError('"/" contains every file: write a directory below it')
    return path


CREDENTIAL_SCHEMA = {
    "type": "object",
    "properties": {CREDENTIAL_KEY: {"type": "string"}},
    "required": [CREDENTIAL_KEY],
    "additionalProperties": False,
}
_FILE_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, CREDENTIAL_SCHEMA]})
FilePath = Annotated[Path, PlainValidator(read_file_path), PlainSerializer(write_path), _FILE_SCHEMA]
DirectoryPath = Annotated[
    Path, PlainValidator(read_directory_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
OutputPath = Annotated[
    Path, PlainValidator(read_output_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
UncheckedPath = Annotated[Path, PlainValidator(read_unchecked_path), PlainSerializer(write_path), _FILE_SCHEMA]
FutureDirectoryPath = Annotated[
    Path,
    PlainValidator(read_future_directory_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]
