"""Every command line of the documentation, of the examples and of the help can be typed as it is written there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wsbridge.cli.main import COMMAND_NAMES, cli
from wsbridge.log.format import line_processors, render

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(rf"(?:^|[\s'\"(=/])wsbridge ({'|'.join(COMMAND_NAMES)})\b(.*)")


def shell_lines() -> Iterator[str]:
    """Give each line of each block of shell in the documentation."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            yield from block.splitlines()


def told_lines() -> Iterator[str]:
    """Give the lines of all other places that show commands: help texts, the unit, comments of the examples."""
    for name in COMMAND_NAMES:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from (line for line in (command.help or "").splitlines() if "`" not in line)
    yield from (cli.help or "").splitlines()
    examples = [path for path in sorted((ROOT / "conf").rglob("*")) if path.is_file()]
    for path in (*examples, ROOT / "systemd" / "wsbridge.service"):
        yield from (line for line in path.read_text().splitlines() if "`" not in line)


def arguments(line: str) -> list[str] | None:
    """Give the command and the arguments that a line runs wsbridge with; None if it does not run it."""
    found = LINE.search(line)
    if found is None or "…" in line or "LISTEN TARGET" in line:
        return None
    quoted = line[: found.start(1)].count("'") % 2
    rest = found[2].partition("'")[0] if quoted else re.split(r'\)"|[|]| 2?>', found[2])[0]
    return [found[1], *shlex.split(rest, comments=True)]


COMMAND_LINES = sorted({shlex.join(words) for line in (*shell_lines(), *told_lines()) if (words := arguments(line))})


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_it_can_be_typed(line: str) -> None:
    """Each option and each argument is one that the command accepts."""
    name, *rest = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with click.Context(command) as ctx:
        command.parse_args(ctx, rest)


def test_each_command_is_shown() -> None:
    """The search finds examples of every command."""
    assert {line.split()[0] for line in COMMAND_LINES} == set(COMMAND_NAMES)


def test_make_knows_its_targets() -> None:
    """Each `make …` of the documentation is a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = [line.split()[1] for line in shell_lines() if line.startswith("make ")]

    assert shown
    assert set(shown) <= set(targets)


def test_recipes_for_the_log(tmp_path: Path) -> None:
    """What docs/logs.md searches the log with finds what it says in the lines that are really written."""
    facts = {"event": "connection.closed", "id": 17, "reason": "client_closed", "duration_seconds": 12.5}
    line = render(line_processors("json"), "info", facts)
    (tmp_path / "wsbridge.log").write_bytes(line + line.replace(b"12.5", b"300.25").replace(b":17,", b":170,"))
    found = [
        subprocess.run(["sh", "-c", recipe], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
        for recipe in shell_lines()
        if "grep" in recipe and "wsbridge.log" in recipe
    ]

    counted, longest, one = found
    assert counted == ["2", '"reason":"client_closed"']
    assert longest == ["300.25", "12.5"]
    assert one == [line.decode().strip()]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "bench" / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the project, and each picture, is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())

    assert not [link for link in links if not (page.parent / link).exists()]
