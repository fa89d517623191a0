"""Extras: libraries that only some settings need.

Lives here: telling that one is not installed, and how to install it. Must not live here: which setting needs which.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from wsbridge.config.section import Context, Fault

COMMAND = "pip install 'wsbridge[auth]'"


def missing(context: Context, *libraries: str) -> Iterable[Fault]:
    """Tell which libraries, by the names they are imported by, a section lacks on this machine."""
    lacking = [name for name in libraries if find_spec(name) is None] if context.files else []
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        yield Fault((), f"needs {' and '.join(lacking)}, which {verb} not installed: {COMMAND}", "E035")
