"""Websockify token files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from wsbridge.backends.target_policy import parse_host, parse_port
from wsbridge.backends.target_template import host_target, unix_target
from wsbridge.config.urls import Target

TokenListFormat = Literal["lines", "files"]

MAX_TOKEN_FILE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all files of a list."""
MAX_REPORTED_LINES: Final = 5
"""Bad lines of a list that are told one by one."""

_SEPARATOR: Final = re.compile(r":[ \t]+")
_HOST_PORT: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9]+)")


def read_token_file(path: Path, list_format: TokenListFormat) -> Mapping[str, Target]:
    """Read a list.

    Args:
        path: A file or a folder.
        list_format: `lines`: every line is `token: host:port` or `token: unix_socket:/path`, in the file or in all
            files of the folder. `names`: every file of the folder has one target, and its name is the token.

    Raises:
        ValueError: It cannot be read, or has lines that cannot; one sentence with their places.
    """
    if list_format == "files" and not path.is_dir():
        raise ValueError(f"{path}: is not a directory, and format: files needs one")
    found: dict[str, Target] = {}
    wrong: list[str] = []
    for file, text in _read_files(path, list_format):
        if list_format == "files":
            _parse_single_target(file, text, found, wrong)
        else:
            _parse_lines(file, text, found, wrong)
    if wrong:
        more = f"; and {len(wrong) - MAX_REPORTED_LINES} more" if len(wrong) > MAX_REPORTED_LINES else ""
        raise ValueError("; ".join(wrong[:MAX_REPORTED_LINES]) + more)
    return found


def parse_token_target(text: str) -> Target:
    """Read `host:port`, `[v6]:port`, `unix_socket:/path` or `unix:/path`.

    Raises:
        ValueError: It is none; one sentence that does not quote it.
    """
    for scheme in ("unix_socket:", "unix:"):
        if text.startswith(scheme):
            return unix_target(text.removeprefix(scheme))
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        raise ValueError("the target is none of host:port, [IPv6]:port and unix_socket:/path")
    return host_target("tcp", parse_host(found[1]), parse_port(found[2]))


def _read_files(path: Path, list_format: TokenListFormat) -> Iterator[tuple[Path, str]]:
    """Give all files with their texts, in the order of their names; hidden ones and folders are left out."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and not file.is_dir())
    left = MAX_TOKEN_FILE_BYTES
    for file in files:
        place = f"{path}: a file" if list_format == "files" else str(file)  # there its name is a token
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as opened:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ValueError(f"{place} is no plain file")
                data = opened.read(left + 1)
        except OSError as error:
            raise ValueError(f"{place} cannot be read: {error.strerror}") from None
        left -= len(data)
        if left < 0:
            raise ValueError(f"{path}: has more than {MAX_TOKEN_FILE_BYTES} bytes")
        try:
            yield file, data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ValueError(f"{place}: line {line} is not UTF-8") from None


def _parse_lines(file: Path, text: str, targets: dict[str, Target], errors: list[str]) -> None:
    for number, written in enumerate(text.split("\n"), 1):
        line = written.strip()
        if not line or line.startswith("#"):
            continue
        token, *rest = _SEPARATOR.split(line)
        if not token or len(rest) != 1:
            errors.append(f"{file}: line {number} is not of the form token: host:port")
            continue
        _add_target(token, rest[0], f"{file}: line {number}", targets, errors)


def _parse_single_target(file: Path, text: str, targets: dict[str, Target], errors: list[str]) -> None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) == 1:
        _add_target(file.name, lines[0], f"{file.parent}: a file", targets, errors)
    else:
        errors.append(f"{file.parent}: a file has {len(lines)} lines, and one is wanted")


def _add_target(token: str, text: str, place: str, targets: dict[str, Target], errors: list[str]) -> None:
    if token in targets:
        errors.append(f"{place}: the token stands in the list before")
        return
    try:
        targets[token] = parse_token_target(text)
    except ValueError as error:
        errors.append(f"{place}: {error}")
