"""Loading texts in tests: by the real kinds, with no file looked at unless asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest

from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.load import LoadedConfig, load_text
from wsbridge.registry import CONFIG_REGISTRY

LISTENERS = "listeners: {web: {bind: 127.0.0.1:8080}}\n"
ROUTES = "routes: {vnc: {match: any, backend: 'tcp://10.0.0.5:5900', auth: none}}\n"
BACKEND = "backend: 'tcp://10.0.0.5:1'"


def read(
    text: str, environ: Mapping[str, str] | None = None, folder: Path | None = None, now: datetime | None = None
) -> LoadedConfig:
    """Load a text; relative paths begin at the directory, which is looked at only if given."""
    return load_text(
        textwrap.dedent(text),
        file="w.yaml",
        registry=CONFIG_REGISTRY,
        environ=environ or {},
        directory=folder,
        check_files=folder is not None,
        now=now,
    )


def wrong(
    text: str, environ: Mapping[str, str] | None = None, folder: Path | None = None, now: datetime | None = None
) -> list[Problem]:
    """Load a text that must fail, and give its problems."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ, folder, now)
    return caught.value.problems


def summaries(problems: list[Problem]) -> list[str]:
    """Give code and path of problems."""
    return [f"{problem.code} {problem.setting}" for problem in problems]


def listeners(*binds: str) -> str:
    """Write listeners named l0, l1 and so on at these addresses."""
    return "listeners:\n" + "".join(f"  l{at}: {{bind: '{bind}'}}\n" for at, bind in enumerate(binds))


def file(first: str, *routes: str) -> str:
    """Write a file of one text of listeners and of routes named r0, r1 and so on."""
    return first + "routes:\n" + "".join(f"  r{at}: {{{route}}}\n" for at, route in enumerate(routes))
