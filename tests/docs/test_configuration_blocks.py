"""Every YAML block of the documentation is a configuration that loads.

A block is a file; where it has no `listeners`, two of them (`web` and `public`) are added, and where it has no
`routes`, one that matches everything. A smaller part is marked by an HTML comment right before it:

- `<!-- yaml: wrap routes.vnc -->`: the block is below these keys (below `routes.vnc.backend`, say, the route gets
  `match: any` and `auth: none`).
- `<!-- yaml: other -->`: the block is no configuration of wsbridge.

Files that a block names need not exist, and every environment variable is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from wsbridge.config.load import load_text
from wsbridge.registry import CONFIG_REGISTRY

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!-- yaml: (?P<mark>.+?) -->\n+)?^```ya?ml\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

LISTENERS = """\
listeners:
  web: {bind: 127.0.0.1:8080}
  public: {bind: 0.0.0.0:8081}
"""
ROUTES = """\
routes:
  rest: {match: any, backend: 'tcp://127.0.0.1:1', auth: none}
"""
ROUTE = """\
match: any
auth: none
"""


class Environ(dict[str, str]):
    """An environment in which every name is set."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "8080"


def blocks() -> Iterator[tuple[str, str, str]]:
    """Give each block with its file and line, and its mark."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text() if path.exists() else ""
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("text"))
            yield f"{path.name}:{line}", found["mark"] or "", found["text"]


def below(keys: list[str], text: str) -> str:
    """Put a text below keys, outermost first."""
    for key in reversed(keys):
        indented = "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())
        text = f"{key}:\n{indented}"
    return text


def whole(mark: str, text: str) -> str:
    """Make a whole file of a block."""
    keys = mark.removeprefix("wrap ").split(".") if mark else []
    if keys[:1] == ["routes"] and len(keys) == 3:
        text = below(keys[2:], text) + ROUTE
        keys = keys[:2]
    text = below(keys, text)
    top = yaml.compose(text).value
    present = {key.value for key, _ in top}
    text += "" if "listeners" in present else LISTENERS
    text += "" if "routes" in present else ROUTES
    return text


BLOCKS = list(blocks())


@pytest.mark.parametrize(("place", "mark", "text"), BLOCKS, ids=[place for place, _, _ in BLOCKS])
def test_every_block_loads(place: str, mark: str, text: str) -> None:
    """A reader who copies a block gets no error."""
    if mark == "other":
        return
    assert not mark or re.fullmatch(r"wrap \S+", mark)
    load_text(whole(mark, text), file=place, registry=CONFIG_REGISTRY, environ=Environ(), check_files=False)


def test_the_reference_page_has_blocks() -> None:
    """The blocks are found."""
    assert len([place for place, _, _ in BLOCKS if place.startswith("configuration.md")]) >= 8
