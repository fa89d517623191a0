"""Tokens: lists of which token leads to which target, in websockify's formats.

Lives here: reading a file or a folder. Must not live here: noticing that it has changed (`wsbridge.reread`), whether a
target may be dialled (`allowed`). Runs in a thread, since files can be slow.

A list is used whole or not at all: a line that cannot be read makes it unusable, and every such line is told by its
number; what stands there is not told, since it is a secret.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from wsbridge.config.address import Target
from wsbridge.targets.host_port import read_host, read_port
from wsbridge.targets.template import at_host, at_path

Form = Literal["lines", "names"]

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of all files of a list."""
TOLD: Final = 5
"""Bad lines of a list that are told one by one."""

_SEPARATOR: Final = re.compile(r":[ \t]+")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9]+)")


def read_tokens(path: Path, form: Form) -> Mapping[str, Target]:
    """Read a list.

    Args:
        path: A file or a folder.
        form: `lines`: every line is `token: host:port` or `token: unix_socket:/path`, in the file or in all files of
            the folder. `names`: every file of the folder has one target, and its name is the token.

    Raises:
        ValueError: It cannot be read, or has lines that cannot; one sentence with their places.
    """
    if form == "names" and not path.is_dir():
        raise ValueError(f"{path}: is no folder, as form: names needs one")
    found: dict[str, Target] = {}
    wrong: list[str] = []
    for file, text in _texts(path, form):
        if form == "names":
            _read_whole(file, text, found, wrong)
        else:
            _read_lines(file, text, found, wrong)
    if wrong:
        more = f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        raise ValueError("; ".join(wrong[:TOLD]) + more)
    return found


def read_target(text: str) -> Target:
    """Read `host:port`, `[v6]:port`, `unix_socket:/path` or `unix:/path`.

    Raises:
        ValueError: It is none; one sentence that does not quote it.
    """
    for scheme in ("unix_socket:", "unix:"):
        if text.startswith(scheme):
            return at_path(text.removeprefix(scheme))
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("the target is none of host:port, [IPv6]:port and unix_socket:/path")
    return at_host("tcp", read_host(found[1]), read_port(found[2]))


def _texts(path: Path, form: Form) -> Iterator[tuple[Path, str]]:
    """Give all files with their texts, in the order of their names; hidden ones and folders are left out."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and not file.is_dir())
    left = LARGEST
    for file in files:
        place = f"{path}: a file" if form == "names" else str(file)  # there its name is a token
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
            raise ValueError(f"{path}: has more than {LARGEST} bytes")
        try:
            yield file, data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ValueError(f"{place}: line {line} is not UTF-8") from None


def _read_lines(file: Path, text: str, found: dict[str, Target], wrong: list[str]) -> None:
    for number, written in enumerate(text.split("\n"), 1):
        line = written.strip()
        if not line or line.startswith("#"):
            continue
        token, *rest = _SEPARATOR.split(line)
        if not token or len(rest) != 1:
            wrong.append(f"{file}: line {number} is not of the form token: host:port")
            continue
        _put(token, rest[0], f"{file}: line {number}", found, wrong)


def _read_whole(file: Path, text: str, found: dict[str, Target], wrong: list[str]) -> None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) == 1:
        _put(file.name, lines[0], f"{file.parent}: a file", found, wrong)
    else:
        wrong.append(f"{file.parent}: a file has {len(lines)} lines, and one is wanted")


def _put(token: str, text: str, place: str, found: dict[str, Target], wrong: list[str]) -> None:
    if token in found:
        wrong.append(f"{place}: the token stands in the list before")
        return
    try:
        found[token] = read_target(text)
    except ValueError as error:
        wrong.append(f"{place}: {error}")
