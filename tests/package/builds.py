"""Builds of this tree for tests, in a copy of it."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules")


def copy_source(target: Path) -> Path:
    """Copy the source, without what builds leave in it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_SOURCE), symlinks=True)
    return target


def build(source: Path, target: Path, *what: str) -> None:
    """Run the build backend, in this environment: nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, *what, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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
    """Return the directory of the programs of a new environment that has the wheel, and the libraries of this one.

    What an editable installation adds to the path of this environment is not on that of the new one.
    """
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    programs = directory / "bin"
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True)
    (site,) = directory.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join((*libraries, "")))
    return programs
