"""Unix sockets that clients choose: the real path of one, judged by the folders of `targets:`.

Lives here: following links, and what may not come of it. Must not live here: connecting (`net.dial`), how a path may be
written (`template`). Blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from wsbridge.config.address import LONGEST_UNIX_PATH


def real_socket(path: str, folders: Iterable[Path], is_own: Callable[[str], bool], *, must_be: bool) -> str:
    """Find where the path of a socket really leads, and judge that.

    Args:
        path: Absolute.
        folders: Those whose sockets may be dialled, and of folders inside.
        is_own: Tells whether this process listens at a path.
        must_be: Whether a socket that is not there is refused; otherwise connecting tells that it is not.

    Returns:
        The path to connect to, without links.

    Raises:
        ValueError: It may not be dialled; one sentence.
    """
    place = Path(path)
    try:
        real = Path(os.path.realpath(place, strict=True))
    except OSError as error:
        if must_be or place.is_symlink():
            raise ValueError(f"unix:{path}: {error.strerror}") from None
        try:
            real = Path(os.path.realpath(place.parent, strict=True)) / place.name
        except OSError as gone:
            raise ValueError(f"unix:{place.parent}: {gone.strerror}") from None
    if not any(_inside(real, folder) for folder in folders):
        raise ValueError(f"unix:{path}: {real} is in none of the folders of targets.unix")
    if len(os.fsencode(real)) > LONGEST_UNIX_PATH:
        raise ValueError(f"unix:{path}: {real} has more than {LONGEST_UNIX_PATH} bytes")
    if is_own(str(real)):
        raise ValueError(f"unix:{path}: wsbridge itself listens there, and own_listeners is false")
    return str(real)


def _inside(real: Path, folder: Path) -> bool:
    """Tell whether a path without links is below a folder, which may have some."""
    parts = Path(os.path.realpath(folder)).parts
    return len(real.parts) > len(parts) and real.parts[: len(parts)] == parts
