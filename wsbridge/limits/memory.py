"""How much memory is in use, how much the cgroup (cgroups(7)) and RLIMIT_AS (getrlimit(2)) allow, and what is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
PROC_SELF: Final = Path("/proc/self")
_M_TRIM_THRESHOLD: Final = -1  # mallopt(3), malloc.h
_M_MMAP_THRESHOLD: Final = -3
_CGROUP_LIMITS: Final = ("memory.max", "memory.high")
"""At the first the kernel kills, above the second it slows the process down, more and more."""


@functools.cache
def keep_freed_memory(kept: int, largest: int) -> None:
    """Have malloc keep memory that is freed, instead of giving each page back and being given a new one soon after.

    It does nothing where the C library has no such options, and nothing again when it is called again.

    Args:
        kept: Bytes at the end of the heap.
        largest: Bytes of one object, up to which it comes from the heap.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, kept)
        library.mallopt(_M_MMAP_THRESHOLD, largest)


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Memory in use below one limit.

    Attributes:
        used: Bytes that count towards the limit, without file cache that the kernel drops as needed.
        limit: Bytes that are allowed.
        source: What limits: RLIMIT_AS, or the file of the cgroup.
    """

    used: int
    limit: int
    source: str

    @property
    def share(self) -> float:
        """The share of the limit that is in use; 1 is all of it."""
        return self.used / self.limit if self.limit else 1.0


class MemoryLimits:
    """The memory limits of this process: RLIMIT_AS, and those of its cgroup (version 2) and the ones above it.

    Args:
        cgroup_root: Where cgroup2 is mounted.
        proc_self: Directory of this process in procfs.
    """

    def __init__(self, cgroup_root: Path = CGROUP_ROOT, proc_self: Path = PROC_SELF) -> None:
        self._cgroup_root = cgroup_root
        self._proc_self = proc_self

    def tightest(self) -> MemoryUsage | None:
        """Return the usage below the limit that is nearest; None if nothing limits. Reads files, so not on the loop.

        The limits are found each time, since an administrator can set and change them while the process runs.
        """
        directories = _cgroup_directories(self._cgroup_root, self._proc_self / "cgroup")
        found = [usage for directory in directories for usage in _cgroup_usage(directory)]
        found += self._address_space()
        return max(found, key=lambda usage: usage.share, default=None)

    def _address_space(self) -> list[MemoryUsage]:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return []
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int((self._proc_self / "statm").read_text().split()[0])
            return [MemoryUsage(pages * resource.getpagesize(), limit, "RLIMIT_AS")]
        return []


def _cgroup_directories(root: Path, membership: Path) -> list[Path]:
    """Return the directories of the cgroup of this process and of those above it.

    In a container only its own cgroup may be visible, and then as the root.
    """
    path = ""
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            hierarchy, _, group = line.partition("::")
            path = group if hierarchy == "0" else path
    parts = [part for part in path.split("/") if part]
    return [root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1) if ".." not in parts[:count]]


def _cgroup_usage(directory: Path) -> list[MemoryUsage]:
    """Return the usage below each limit of a cgroup."""
    found: list[MemoryUsage] = []
    used: int | None = None
    for name in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            text = (directory / name).read_text().strip()
            if text != "max":
                used = _working_set(directory) if used is None else used
                found.append(MemoryUsage(used, int(text), str(directory / name)))
    return found


def _working_set(directory: Path) -> int:
    """Return the bytes of a cgroup without the file cache that was not used lately."""
    used = int((directory / "memory.current").read_text())
    with contextlib.suppress(OSError):
        for line in (directory / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                return max(0, used - int(value))
    return used
