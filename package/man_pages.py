"""The man pages wsbridge(1) and wsbridge.yaml(5), from the commands, the model of the configuration and docs/.

`python -m package.man_pages DIRECTORY` writes them.
"""

from __future__ import annotations

import collections
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from package import roff
from wsbridge import __version__
from wsbridge.cli.control import ADMIN_VARIABLE, DEFAULT_ADMIN
from wsbridge.cli.main import COMMAND_NAMES, cli
from wsbridge.cli.run import CONFIG_VARIABLE, DEFAULT_CONFIG_FILES
from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY

DOCS: Final = Path(__file__).parents[1] / "docs"
REFERENCE: Final = "#/definitions/"
FILLED: Final = 100
"""Columns; a shorter line of a help text is one that ends on purpose."""
CONFIG_PAGE: Final = "wsbridge.yaml"


def docs_section(page: str, name: str) -> str:
    """Return the text below a heading of docs/, up to the next one of its level.

    Raises:
        LookupError: There is no such heading.
    """
    rows: list[str] = []
    level = 0
    fenced = False
    for row in (DOCS / page).read_text().splitlines():
        fenced ^= row.startswith("```")
        found = None if fenced else re.match(r"(#+) (.*)", row)
        if found and level and len(found[1]) <= level:
            break
        if level:
            rows.append(row)
        elif found and found[2] == name:
            level = len(found[1])
    if not level:
        raise LookupError(f'docs/{page} has no section "{name}"')
    return "\n".join(rows)


def help_text(text: str) -> list[str]:
    """Convert the help of a command; lines that are indented or aligned are kept as they are."""
    rows: list[str] = []
    for part in inspect.cleandoc(text).split("\n\n"):
        for is_laid_out, group in itertools.groupby(part.splitlines(), _is_laid_out):
            lines = list(group)
            rows += roff.literal("\n".join(lines)) if is_laid_out else _paragraphs(lines)
    return rows


def _paragraphs(group: list[str]) -> list[str]:
    """Return lines as one paragraph, with a break where the next word would have fit into the line."""
    rows = [[group[0]]]
    for row in group[1:]:
        if len(rows[-1][-1]) + len(row.split()[0]) < FILLED:
            rows.append([])
        rows[-1].append(row)
    first, *others = (roff.paragraph(" ".join(part)) for part in rows)
    return [*first, *(text for _, *part in others for text in (".br", *part))]


def _is_laid_out(row: str) -> bool:
    return row.startswith(" ") or re.search(r"\S {2,}\S", row) is not None


def option_item(option: click.Option, ctx: click.Context) -> list[str]:
    """Return the item of one option: its names, what it takes, what it does."""
    record = option.get_help_record(ctx)
    if record is None:
        return []
    value = "" if option.is_flag or option.count else f" {roff.italic(option.make_metavar(ctx))}"
    names = sorted((*option.opts, *option.secondary_opts), key=lambda name: name.startswith("--"))
    return roff.item(", ".join(map(roff.bold, names)) + value, roff.inline(" ".join(record[1].split())))


def option_items(command: click.Command, ctx: click.Context) -> list[str]:
    """Return the items of the options of a command; `--help` is only an option of the group."""
    rows = []
    for option in command.get_params(ctx):
        if isinstance(option, click.Option) and (ctx.parent is None or "--help" not in option.opts):
            rows += option_item(option, ctx)
    return rows


def command_section(name: str, parent: click.Context) -> list[str]:
    """Return the subsection of one command."""
    command = cli.get_command(parent, name)
    assert command is not None
    with click.Context(command, info_name=name, parent=parent) as ctx:
        usage = " ".join(command.collect_usage_pieces(ctx))
        rows = [*roff.heading(name, level=2), f"{roff.bold(f'wsbridge {name}')} {roff.escape(usage)}"]
        return [*rows, *help_text(command.help or ""), *option_items(command, ctx)]


def command_page() -> list[str]:
    """Return wsbridge(1)."""
    purpose, _, overview = inspect.cleandoc(cli.help or "").partition("\n\n")
    rows = roff.title("wsbridge", 1, __version__, "User Commands")
    summary = purpose[0].lower() + purpose[1:].rstrip(".")
    rows += [*roff.heading("NAME"), f"wsbridge \\- {roff.escape(summary)}"]
    rows += [*roff.heading("SYNOPSIS"), f"{roff.bold('wsbridge')} {roff.escape('COMMAND [OPTIONS] [ARGUMENTS]')}"]
    with cli.make_context("wsbridge", [], resilient_parsing=True) as ctx:
        rows += [*roff.heading("DESCRIPTION"), *help_text(overview)]
        rows += [*roff.heading("OPTIONS"), *option_items(cli, ctx), *roff.heading("COMMANDS")]
        for name in COMMAND_NAMES:
            rows += command_section(name, ctx)
    rows += [*roff.heading("SIGNALS"), *roff.markdown(docs_section("commands.md", "Signals and graceful shutdown"))]
    rows += [*roff.heading("EXIT STATUS"), *roff.markdown(docs_section("commands.md", "Exit codes"))]
    rows += roff.heading("ENVIRONMENT")
    rows += roff.item(roff.bold(CONFIG_VARIABLE), "The configuration file, unless the command line names one.")
    rows += roff.item(roff.bold(ADMIN_VARIABLE), "The address of the admin API, unless the command line names one.")
    rows += roff.heading("FILES")
    files = ", ".join(map(roff.italic, DEFAULT_CONFIG_FILES))
    rows += roff.item(files, "The configuration: the first that exists, unless another one is named.")
    rows += roff.item(roff.italic(DEFAULT_ADMIN), "The socket of the admin API under systemd.")
    return [*rows, *roff.heading("SEE ALSO"), ".BR wsbridge.yaml (5),", ".BR systemctl (1),", ".BR journalctl (1)"]


class SectionWalk:
    """The sections of the configuration, each once, in the order in which a file has them.

    Args:
        schema: Of the file.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions: dict[str, dict[str, Any]] = schema["definitions"]
        self._seen: set[str] = set()

    def below(self, path: str, section: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the sections that a section refers to, with what is below them; each with where it may be.

        Args:
            path: Keys, outermost first, joined by dots; empty at the top of the file.
            section: Part of the schema.
        """
        for key, field in section["properties"].items():
            for place, name in self._references(field, f"{path}.{key}" if path else key):
                if name in self._seen:
                    continue
                self._seen.add(name)
                yield place, self._definitions[name]
                yield from self.below(place, self._definitions[name])

    def _references(self, schema: Any, place: str) -> Iterator[tuple[str, str]]:
        """Yield the places and the names of all definitions that the schema of a value refers to."""
        if "$ref" in schema:
            yield place, schema["$ref"].removeprefix(REFERENCE)
        for word in ("allOf", "anyOf", "oneOf"):
            for choice in schema.get(word, ()):
                yield from self._references(choice, place)
        for inner in schema.get("patternProperties", {}).values():
            yield from self._references(inner, f"{place}.NAME")
        if "items" in schema:
            yield from self._references(schema["items"], f"{place}[]")


def choices(schema: dict[str, Any]) -> list[str]:
    """Return the words that a value may be; none if it is not a choice of words."""
    alternatives = schema.get("anyOf") or schema.get("oneOf") or [schema]
    words = [str(word) for one in alternatives for word in one.get("enum", ())]
    return list(dict.fromkeys(words))


def written(value: object) -> str:
    """Return a default the way the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def key_items(section: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Return the items of the keys of a section."""
    rows = []
    for key, field in section["properties"].items():
        target = field.get("$ref", "").removeprefix(REFERENCE)
        description = field.get("description") or definitions[target]["description"]
        sentences = [roff.inline(" ".join(description.split()))]
        if key in section.get("required", ()):
            sentences.append("Required.")
        words = choices(field)
        if len(words) > 1:
            sentences.append(f"One of: {', '.join(map(roff.bold, words))}.")
        if "default" in field and "Default:" not in description:
            sentences.append(f"Default: {roff.bold(written(field['default']))}.")
        rows += roff.item(roff.bold(key), " ".join(sentences))
    return rows


def config_page() -> list[str]:
    """Return wsbridge.yaml(5)."""
    schema = json_schema(CONFIG_REGISTRY)
    rows = roff.title(CONFIG_PAGE, 5, __version__, "File Formats")
    rows += [*roff.heading("NAME"), f"{CONFIG_PAGE} \\- configuration of wsbridge"]
    rows += [*roff.heading("DESCRIPTION"), *roff.markdown(_first_part(DOCS / "configuration.md"))]
    rows += [*roff.heading("VALUES"), *roff.markdown(docs_section("configuration.md", "Value syntax"))]
    rows += [*roff.heading("TOP-LEVEL KEYS"), *key_items(schema, schema["definitions"])]
    # The settings of routes are explained with the routes, not with their defaults.
    order = sorted(schema["properties"].items(), key=lambda field: field[0] == "defaults")
    sections = list(SectionWalk(schema).below("", {"properties": dict(order)}))
    places = collections.Counter(place for place, _ in sections)
    for place, section in sections:
        kind = f" ({section['title']})" if places[place] > 1 else ""
        rows += [*roff.heading(place + kind), *roff.paragraph(section["description"])]
        rows += key_items(section, schema["definitions"])
    rows += [
        *roff.heading("FILES"),
        *roff.item(roff.italic(DEFAULT_CONFIG_FILES[-1]), "The default."),
    ]
    rows += [*roff.heading("SEE ALSO"), ".BR wsbridge (1)"]
    return rows


def _first_part(page: Path) -> str:
    """Return what a page has between its title and its first section."""
    return page.read_text().partition("\n## ")[0].partition("\n")[2]


def write_pages(directory: Path) -> None:
    """Write both pages.

    Args:
        directory: The directory `man`; those of the sections are created in it.
    """
    for name, rows in (("man1/wsbridge.1", command_page()), (f"man5/{CONFIG_PAGE}.5", config_page())):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(roff.page(rows))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
