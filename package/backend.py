"""Build backend: that of setuptools, with man pages, completion scripts and the schema in the wheel.

They are generated from the commands and the model of the configuration, so that building a wheel needs the libraries
that wsbridge needs; an editable installation and a source distribution do not. Wheels and editable installations have
the native engine where it can be compiled: `package.native`.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Final

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from package import native
from package.native import ConfigSettings

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

BUILD: Final = Path("build")
"""Where setuptools builds; setup.py installs what is in its `share`. Hooks run in the directory of the source."""


def get_requires_for_build_wheel(config_settings: ConfigSettings | None = None) -> list[str]:
    """Return the requirements of wsbridge, those of setuptools, and what the native engine needs."""
    dependencies: list[str] = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    own = [*dependencies, *native.requirements(config_settings)]
    return [*build_meta.get_requires_for_build_wheel(config_settings), *own]


def get_requires_for_build_editable(config_settings: ConfigSettings | None = None) -> list[str]:
    """Return the requirements of setuptools, and what the native engine needs."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *native.requirements(config_settings)]


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel; return its name."""
    from package.completions import write_completions
    from package.man_pages import write_pages
    from package.schema import write_schema

    def build() -> str:
        # setuptools would put modules that were removed since its last build into the wheel.
        shutil.rmtree(BUILD, ignore_errors=True)
        write_pages(BUILD / "share" / "man")
        write_completions(BUILD / "share")
        write_schema(BUILD / "share" / "doc" / "wsbridge" / "conf")
        name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
        return name

    return native.build_with_extension(build, config_settings, for_distribution=True)


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel that refers to this directory, with the extension in it; return its name."""

    def build() -> str:
        for path in native.MANIFEST.parent.glob("_native*.so"):
            path.unlink()  # of an earlier source
        shutil.rmtree(BUILD, ignore_errors=True)
        name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
        return name

    return native.build_with_extension(build, config_settings)
