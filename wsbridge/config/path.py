"""Paths: files and folders that the configuration names.

Lives here: turning what is written into absolute paths (relative ones begin at the folder of the configuration file),
and trying whether they can be read. Must not live here: what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from wsbridge.config.section import Context, context_of
from wsbridge.config.text import as_text


def resolve(value: object, context: Context | None) -> Path:
    """Give the absolute path of what is written."""
    if isinstance(value, Path):
        return value
    text = as_text(value)
    if "\0" in text or not text:
        raise ValueError("is no path of a file")
    return Path(os.path.normpath((context.folder if context else Path.cwd()) / text))


def read_file_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file that has to be readable."""
    context = context_of(info)
    path = resolve(value, context)
    if context is not None and context.files:
        try:
            if path.is_dir():
                raise ValueError(f"{path} is a folder, not a file")
            with path.open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path


def read_folder_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a folder that has to be readable."""
    context = context_of(info)
    path = resolve(value, context)
    if context is not None and context.files:
        try:
            with os.scandir(path):
                pass
        except OSError as error:
            raise ValueError(f"{path} cannot be read as a folder: {error.strerror}") from None
    return path


def read_output_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file that will be written; its folder has to exist."""
    context = context_of(info)
    path = resolve(value, context)
    if context is not None and context.files:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a file")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}")
    return path


def read_any_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of what can be a file or a folder; who uses it tells whether it can be read."""
    return resolve(value, context_of(info))


def read_place_path(value: object, info: ValidationInfo) -> Path:
    """Read the path of a folder that need not be there yet."""
    path = resolve(value, context_of(info))
    if path == Path("/"):
        raise ValueError('"/" is every place there is: write a folder')
    return path


FilePath = Annotated[
    Path, PlainValidator(read_file_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
FolderPath = Annotated[
    Path, PlainValidator(read_folder_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
OutputPath = Annotated[
    Path, PlainValidator(read_output_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
AnyPath = Annotated[
    Path, PlainValidator(read_any_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
PlacePath = Annotated[
    Path, PlainValidator(read_place_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
