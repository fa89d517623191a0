"""Files that a configuration includes: which they are, and whether their content can be trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import Annotated, Final

from pydantic import PlainValidator, WithJsonSchema

from wsbridge.config.regular_files import is_leftover, not_utf8_text, read_regular_file
from wsbridge.config.types import as_text

INCLUDED_SECTIONS: Final = ("listeners", "routes")
"""What an included file may have."""
MAX_INCLUDED_FILES: Final = 10_000


def read_include_pattern(value: object) -> str:
    """Read the path of a file, or a pattern of paths."""
    text = as_text(value)
    if not text or text.endswith("/") or not text.isprintable():
        raise ValueError(f"{text!a} is not the path of a file, or a pattern such as conf.d/*.yaml")
    return text


IncludePattern = Annotated[str, PlainValidator(read_include_pattern), WithJsonSchema({"type": "string"})]


class IncludeError(ValueError):
    """A file cannot be included; the message is one sentence.

    Attributes:
        code: Of the problem.
    """

    def __init__(self, message: str, code: str = "E001") -> None:
        super().__init__(message)
        self.code = code


def match_files(pattern: str, directory: Path) -> list[Path]:
    """Return the files that a pattern names.

    `*`, `?` and `[…]` match within one name. Hidden files, directories, and what editors and package managers leave
    behind match no pattern, but can be named.

    Args:
        pattern: As written.
        directory: Where relative ones begin.

    Returns:
        Their paths, relative if the pattern is, in the byte order of their names; a file without `*`, `?` and `[` is
        returned whether it exists or not.

    Raises:
        IncludeError: A directory cannot be read, or there are too many files.
    """
    if not has_magic(pattern):
        return [Path(pattern)]
    *parents, name = Path(pattern).parts
    found = [Path()]
    for part in parents:
        found = [outer / each for outer in found for each in _names(directory / outer, part, stat.S_IFDIR)]
    files = [outer / each for outer in found for each in _names(directory / outer, name, stat.S_IFREG)]
    if len(files) > MAX_INCLUDED_FILES:
        raise IncludeError(f"matches more than {MAX_INCLUDED_FILES:,} files")
    return sorted(files, key=os.fsencode)


def _names(directory: Path, pattern: str, kind: int) -> Iterator[str]:
    """Return the files or directories of a directory that a part of a pattern names."""
    if not has_magic(pattern):
        yield pattern
        return
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if fnmatchcase(entry.name, pattern) and not is_leftover(entry.name):
                    is_directory = _is_directory(entry)
                    if is_directory == (kind == stat.S_IFDIR):
                        yield entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        raise IncludeError(f"{directory} cannot be read: {error.strerror}") from None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: reading it reports why
        return False


def read_included(path: Path, max_bytes: int, *, check_mode: bool) -> str:
    """Read a file.

    Args:
        path: The file.
        max_bytes: How large it may be.
        check_mode: Whether it must be protected from changes by others.

    Raises:
        IncludeError: It cannot be read, is too large or not UTF-8, or every user of this host could change it.
    """
    try:
        if check_mode:
            _check_mode(path)
        data = read_regular_file(path, max_bytes)
    except OSError as error:
        raise IncludeError(f"{path} cannot be read: {error.strerror}") from None
    except IncludeError:
        raise
    except ValueError as error:
        raise IncludeError(f"{path} {error}") from None
    if len(data) > max_bytes:
        raise IncludeError(f"{path} is too large: the file and all that it includes may have 16MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise IncludeError(f"{path} {not_utf8_text(data, error)} in line {line}") from None


def _check_mode(path: Path) -> None:
    if os.statvfs(path).f_flag & os.ST_RDONLY:  # such as a ConfigMap in Kubernetes, whose directory has mode 0777
        return
    if path.stat().st_mode & stat.S_IWOTH:
        raise IncludeError(f"every user of this host can change {path}", "E007")
    for directory in (path.parent, Path(os.path.realpath(path)).parent):
        if directory.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise IncludeError(
                f"every user of this host can replace {path}, since they can write to {directory}", "E007"
            )
