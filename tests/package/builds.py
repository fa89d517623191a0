"""Builds of this tree for tests, in a copy of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules", "target", "*.so")
TARGET = ROOT / "wsbridge" / "native" / "target"
"""Where cargo has compiled libraries of the native engine for this installation, and does so once for all copies."""
HAS_CARGO = shutil.which("cargo") is not None


def copy_source(target: Path) -> Path:
    """Copy the source, without what builds leave in it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_SOURCE), symlinks=True)
    return target


def run_build(
    source: Path,
    target: Path,
    *what: str,
    environ: Mapping[str, str] = MappingProxyType({}),
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the build backend, in this environment: nothing is downloaded but crates of Rust that cargo does not have.

    Args:
        source: A copy of the source.
        target: Directory of what is built.
        what: Further arguments.
        environ: Further environment variables.
        prefix: Command that runs it.
    """
    command = [*prefix, sys.executable, "-m", "build", "--no-isolation", "--outdir", target, *what, source]
    merged = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), **environ}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=merged)


def build(source: Path, target: Path, *what: str) -> None:
    """Run the build backend, which must succeed; see `run_build`."""
    done = run_build(source, target, *what)
    assert done.returncode == 0, done.stdout + done.stderr


def distributions(shared: Path) -> Path:
    """Return a directory with the wheel and the source distribution; the first process of a run builds them.

    Args:
        shared: A directory of all processes of the run.
    """
    target = shared / "distributions"
    with (shared / "distributions.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            build(copy_source(shared / "source"), shared / "built")
            (shared / "built").rename(target)
    return target


def environment(directory: Path, wheel: Path) -> Path:
    """Return the directory of the programs of a new environment that has the wheel; see `empty_environment`."""
    programs = empty_environment(directory)
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True)
    return programs


def empty_environment(directory: Path) -> Path:
    """Return the directory of the programs of a new environment that has the libraries of this one.

    What an editable installation adds to the path of this environment is not on that of the new one.
    """
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    programs = directory / "bin"
    (site,) = directory.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join((*libraries, "")))
    return programs
