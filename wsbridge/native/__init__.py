"""The native engine: pairs for which no rule is needed are relayed by threads in Rust, without the GIL.

Python holds every rule. `engine` lends a pair to the extension and gets it back, with its whole state, at whatever
there is a rule for: a violation, most endings, a side that accepts nothing, a deadline, a wish of the admin API.

The extension (see src/lib.rs) need not be there. `load` is how everything else learns whether it is. Without it the
Python engine does the same, slower.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wsbridge import __version__

EXTENSION = "wsbridge.native._native"
SOURCE = Path(__file__).parent / "src"


@dataclass(frozen=True, slots=True)
class Extension:
    """The extension module, or why there is none to use.

    Attributes:
        module: None: it cannot be used.
        problem: Why not, as the end of a sentence; empty if it can.
        is_broken: Whether something is installed that cannot be used.
    """

    module: ModuleType | None
    problem: str = ""
    is_broken: bool = False


@functools.cache
def find_extension() -> Extension:
    """Import the extension, once in a process: what an upgrade installs later is not for this one."""
    try:
        module = importlib.import_module(EXTENSION)
    except ModuleNotFoundError:
        return Extension(None, "it is built where Rust is when wsbridge is installed, see docs/install.md")
    except Exception as error:  # whatever it is, wsbridge starts
        return Extension(None, f"it cannot be loaded: {error}", is_broken=True)
    version = getattr(module, "__version__", "unknown")
    if version != __version__:
        text = f"the installed one is of version {version}, and wsbridge of {__version__}: install wsbridge again"
        return Extension(None, text, is_broken=True)
    if _is_older_than_source(module):
        return Extension(None, "it is older than its source: install wsbridge again", is_broken=True)
    return Extension(module)


def _is_older_than_source(module: ModuleType) -> bool:
    """Return whether the source beside it, which only a checkout has, was changed after it was built."""
    file: str | None = getattr(module, "__file__", None)
    if file is None:
        return False
    built = Path(file).stat().st_mtime
    return any(path.stat().st_mtime > built for path in SOURCE.rglob("*.rs"))


def load() -> ModuleType | None:
    """Return the extension module; None if there is none that can be used, and `find_extension` says why."""
    return find_extension().module


def required_but_missing() -> str:
    """Return why `engine: native` is an error, and what to do; empty if it is none."""
    extension = find_extension()
    if extension.module is not None:
        return ""
    what = "cannot be used" if extension.is_broken else "is not installed"
    return f"the native engine {what}: {extension.problem}; or write engine: auto"
