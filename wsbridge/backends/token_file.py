"""Token files in the formats of websockify: which target each token leads to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from wsbridge.backends.target_policy import parse_host, parse_port
from wsbridge.backends.target_template import host_target, unix_target
from wsbridge.config.regular_files import read_regular_file
from wsbridge.config.urls import Target
from wsbridge.reloading_file import list_files

TokenListFormat = Literal["lines", "files"]

MAX_TOKEN_FILE_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of all files of a list together."""
MAX_REPORTED_LINES: Final = 5
"""Bad lines of a file that are reported one by one."""

_SEPARATOR: Final = re.compile(r":[ \t]+")


class TokenFileReader:
    """Reads a list of target tokens; called with its path, as `ReloadingFile` does.

    A single file is valid as a whole or not at all. In a directory, a bad file never hides the others: it is reported,
    and what it contained when it was last valid stays in effect.

    Args:
        list_format: `lines`: every line is `token: host:port` or `token: unix_socket:/path`, in the file or in all
            files of the directory. `files`: every file of the directory has one target, and its name is the token.

    Attributes:
        problems: What is wrong with files of the directory, as sentences that name a place and show no token.
    """

    def __init__(self, list_format: TokenListFormat) -> None:
        self._format = list_format
        self._files: dict[str, Mapping[str, Target]] = {}
        self.problems: list[str] = []

    def __call__(self, path: Path) -> Mapping[str, Target]:
        """Read the list.

        Raises:
            OSError: It cannot be read.
            ValueError: What is wrong with it, as one sentence with the places.
        """
        if path.is_dir():
            return self._read_directory(path)
        if self._format == "files":
            raise ValueError(f"{path}: is not a directory, and format: files needs one")
        return _read_lines(path, MAX_TOKEN_FILE_BYTES)[0]

    def _read_directory(self, directory: Path) -> Mapping[str, Target]:
        found: dict[str, Target] = {}
        files: dict[str, Mapping[str, Target]] = {}
        problems: list[str] = []
        left = MAX_TOKEN_FILE_BYTES
        for file in list_files(directory):
            try:
                read = _read_single_target if self._format == "files" else _read_lines
                files[file.name], size = read(file, left)
                left -= size
            except OSError as error:
                problems.append(f"{_place(file, self._format)}: cannot be read: {error.strerror}")
            except ValueError as error:
                problems.append(str(error))
            if file.name not in files and file.name in self._files:
                files[file.name] = self._files[file.name]
            for token, target in files.get(file.name, {}).items():
                if found.setdefault(token, target) is not target:
                    problems.append(f"{file}: has a token that a file before it has as well; the first one counts")
        self._files, self.problems = files, problems
        return found


def _place(file: Path, list_format: TokenListFormat) -> str:
    """Name a file in a message, unless its name is a token."""
    return f"{file.parent}: a file" if list_format == "files" else str(file)


def parse_token_target(text: str) -> Target:
    """Read `host:port`, `[v6]:port`, `v6:port`, `unix_socket:/path` or `unix:/path`.

    As in websockify, the last colon separates the port.

    Raises:
        ValueError: It is none; one sentence that does not quote it.
    """
    for scheme in ("unix_socket:", "unix:"):
        if text.startswith(scheme):
            return unix_target(text.removeprefix(scheme))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or (host[0] == "[") != (host[-1] == "]"):
        raise ValueError("the target is none of host:port, [IPv6]:port and unix_socket:/path")
    return host_target("tcp", parse_host(host), parse_port(port))


def _read_text(file: Path, place: str, max_bytes: int) -> tuple[str, int]:
    """Read a file as text with one kind of line ending; the text and its size in bytes."""
    try:
        data = read_regular_file(file, max_bytes)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{place}: is too large: a list may have {MAX_TOKEN_FILE_BYTES} bytes in total")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"), len(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{place}: line {line} is not UTF-8") from None


def _read_lines(file: Path, max_bytes: int) -> tuple[Mapping[str, Target], int]:
    """Read a file of `token: target` lines; its content and its size in bytes."""
    text, size = _read_text(file, str(file), max_bytes)
    targets: dict[str, Target] = {}
    errors: list[str] = []
    for number, written in enumerate(text.split("\n"), 1):
        line = written.strip()
        if not line or line.startswith("#"):
            continue
        try:
            token, target = _parse_line(line)
            if token in targets:
                raise ValueError("the token is a duplicate")  # noqa: TRY301  reported below, as the others
            targets[token] = target
        except ValueError as error:
            errors.append(f"{file}: line {number}: {error}")
    if errors:
        more = f"; and {len(errors) - MAX_REPORTED_LINES} more" if len(errors) > MAX_REPORTED_LINES else ""
        raise ValueError("; ".join(errors[:MAX_REPORTED_LINES]) + more)
    return targets, size


def _parse_line(line: str) -> tuple[str, Target]:
    token, *rest = _SEPARATOR.split(line)
    if not token or len(rest) != 1:
        hint = "" if rest or ":" not in line else ": a colon and a space are required after the token"
        raise ValueError(f"not of the form token: host:port{hint}")
    return token, parse_token_target(rest[0])


def _read_single_target(file: Path, max_bytes: int) -> tuple[Mapping[str, Target], int]:
    """Read a file with one target, whose name is the token; its content and its size in bytes."""
    place = _place(file, "files")
    text, size = _read_text(file, place, max_bytes)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"{place}: has {len(lines)} lines instead of one")
    try:
        return {file.name: parse_token_target(lines[0])}, size
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
