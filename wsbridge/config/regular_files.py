"""Looks at files: whether they are there, regular, or left behind by editors and package managers."""

from __future__ import annotations

import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import Final

_LEFTOVER_SUFFIXES: Final = (
    *("~", ".bak", ".orig", ".rej", ".save", ".swo", ".swp", ".tmp"),
    *(".dpkg-bak", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".dpkg-tmp", ".rpmnew", ".rpmorig", ".rpmsave"),
)


def is_leftover(name: str) -> bool:
    """Whether a file of a directory is hidden, or left behind by an editor or a package manager."""
    return name.startswith((".", "#")) or name.endswith(_LEFTOVER_SUFFIXES)


def may_exist(path: Path) -> bool:
    """Return whether a file is there, also if that cannot be known: reading it reports why."""
    try:
        return path.exists()
    except OSError:  # such as EACCES, of a directory above
        return True


def not_utf8_text(data: bytes, error: UnicodeDecodeError) -> str:
    """Say why the bytes of a file are not UTF-8 text."""
    encoding = " but UTF-16, as PowerShell writes it" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ""
    return f"is not UTF-8{encoding}: byte 0x{data[error.start]:02x}"


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a file, but never wait for a FIFO or read a device.

    Args:
        path: The file.
        max_bytes: At most one byte more than this is read, so a longer result means that the file is too large.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a regular file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is not a regular file")
        return file.read(max_bytes + 1)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file for `open`, which also closes what turns out to be a directory; `os.fdopen` leaves it open."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
