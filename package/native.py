"""The native engine in a build: a Rust extension where cargo can compile it, otherwise none.

`engine` of the settings of a build (`pip install -C engine=…`) decides: `auto`, the default, builds without the
extension where it cannot be compiled; with `native` that is an error; with `python` it is not tried.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from setuptools.command.bdist_wheel import bdist_wheel

MANIFEST: Final = Path("wsbridge/native/Cargo.toml")
"""Hooks run in the directory of the source."""
MODULE: Final = "wsbridge.native._native"
STABLE_ABI: Final = "cp311"
"""The extension serves this Python and all later ones; as the feature of pyo3 in Cargo.toml says."""
REQUIREMENT: Final = "setuptools-rust>=1.10"
CHOICES: Final = ("auto", "python", "native")

ConfigSettings = dict[str, str | list[str] | None]

_setup_arguments: dict[str, Any] = {}


class StableAbiWheel(bdist_wheel):  # type: ignore[misc]  # without types
    """Tags the wheel, and names the extension, also one that is built in place; an option of the command would not."""

    def initialize_options(self) -> None:
        """Set what options may change."""
        super().initialize_options()
        self.py_limited_api = STABLE_ABI


def setup_arguments() -> dict[str, Any]:
    """Return what setup.py has to pass to `setup` in the build that runs."""
    return _setup_arguments


def chosen_engine(settings: ConfigSettings | None) -> str:
    """Return `engine` of the settings of a build."""
    engine = (settings or {}).get("engine") or "auto"
    if engine not in CHOICES:
        raise ValueError(f"engine={engine}: must be one of {', '.join(CHOICES)}")
    return str(engine)


def requirements(settings: ConfigSettings | None) -> list[str]:
    """Return what a build needs beside setuptools."""
    engine = chosen_engine(settings)
    wanted = engine == "native" or (engine == "auto" and shutil.which(os.environ.get("CARGO", "cargo")) is not None)
    return [REQUIREMENT] if wanted else []


def build_with_extension(
    build: Callable[[], str], settings: ConfigSettings | None, *, for_distribution: bool = False
) -> str:
    """Build with the extension; if that fails and need not succeed, without it.

    A distribution without the extension is tagged as one of pure Python, which `optional` of setuptools-rust does not
    do: it finds out too late.

    Args:
        build: Runs setup.py; returns the name of what it has built.
        settings: Those of the hook.
        for_distribution: Whether it is to be as small as it can be; otherwise it has symbols, for profilers.
    """
    engine = chosen_engine(settings)
    if engine != "python":
        try:
            with _passed_to_setup(_extension_arguments(for_distribution)):
                return build()
        except (Exception, SystemExit) as error:
            if engine == "native":
                raise
            print(f"Building without the native engine: {error}", file=sys.stderr)  # noqa: T201  for the user of a build
    return build()


@contextmanager
def _passed_to_setup(arguments: dict[str, Any]) -> Iterator[None]:
    _setup_arguments.update(arguments)
    try:
        yield
    finally:
        _setup_arguments.clear()


def _extension_arguments(for_distribution: bool) -> dict[str, Any]:
    if shutil.which(os.environ.get("CARGO", "cargo")) is None:
        raise FileNotFoundError("there is no cargo (https://rustup.rs)")
    from setuptools_rust import RustExtension, Strip

    registry = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    minimum = tomllib.loads(MANIFEST.read_text())["package"]["rust-version"]
    extension = RustExtension(
        MODULE,
        path=str(MANIFEST),
        features=["extension-module"],
        # The same bytes whatever the directories, and nothing of them in the messages of panics.
        args=["--config", f'build.rustflags=["--remap-path-prefix={registry}=/cargo"]'],
        # By binutils rather than by rustc, so that cargo compiles once for both.
        strip=Strip.All if for_distribution and shutil.which("strip") is not None else Strip.No,
        cargo_manifest_args=["--locked"],
        rust_version=f">={minimum}",
        debug=False,  # also where it is built in place
        # pyo3 is compiled again when the interpreter changes; in the environment of a build it always is another one.
        env={**os.environ, "PYO3_PYTHON": os.path.realpath(sys.executable)},
    )
    return {"rust_extensions": [extension], "cmdclass": {"bdist_wheel": StableAbiWheel}}
