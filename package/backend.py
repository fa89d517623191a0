"""Build backend: that of setuptools, with man pages, completion scripts and the schema in the wheel.

They are generated from the commands and the model of the configuration, so that building a wheel needs the libraries
that wsbridge needs; an editable installation and a source distribution do not.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Final

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

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

ConfigSettings = dict[str, str | list[str] | None]


def get_requires_for_build_wheel(config_settings: ConfigSettings | None = None) -> list[str]:
    """Return the requirements of wsbridge, and those of setuptools."""
    dependencies: list[str] = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    return [*build_meta.get_requires_for_build_wheel(config_settings), *dependencies]


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel; return its name."""
    from package.completions import write_completions
    from package.man_pages import write_pages
    from package.schema import write_schema

    # setuptools would put modules that were removed since its last build into the wheel.
    shutil.rmtree(BUILD, ignore_errors=True)
    write_pages(BUILD / "share" / "man")
    write_completions(BUILD / "share")
    write_schema(BUILD / "share" / "doc" / "wsbridge" / "conf")
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name
