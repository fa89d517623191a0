"""Sealed files in memory (memfd_create(2)): written once, and read by another process that gets a descriptor."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from typing import Final

SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Nobody who has the file can change its size, its content or its seals any more."""


class SealedFileError(Exception):
    """A descriptor is no sealed file, or one that is too large; one sentence."""


def write_sealed_file(name: str, parts: Iterable[bytes]) -> int:
    """Write a sealed file, and return its descriptor, which the caller closes.

    Args:
        name: Appears in /proc/PID/fd; at most 249 bytes.
        parts: What it is to have.

    Raises:
        OSError: There is no memory, or no descriptor.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_sealed_file(descriptor: int, max_bytes: int) -> bytes:
    """Read a sealed file from its beginning, wherever its position is.

    Args:
        descriptor: Its descriptor.
        max_bytes: A larger file is not read.

    Raises:
        SealedFileError: It is something else, or larger.
    """
    try:
        is_sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
        found = os.fstat(descriptor)
    except OSError as error:
        raise SealedFileError(f"is no sealed file: {os.strerror(error.errno or 0).lower()}") from None
    if not (is_sealed and stat.S_ISREG(found.st_mode)):
        raise SealedFileError("is no sealed file")
    if found.st_size > max_bytes:
        raise SealedFileError(f"has {found.st_size} bytes, and at most {max_bytes} are read")
    return os.pread(descriptor, found.st_size, 0)
