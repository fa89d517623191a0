"""Document: a file as nodes that know their place.

Lives here: the nodes, finding the place of a key or value, and `${NAME}`. Must not live here: reading YAML (`compose`),
what the keys mean. Every scalar stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from wsbridge.config.problems import Problem
from wsbridge.config.section import Fault, Steps

ABSENT = frozenset({"E011", "E022"})
"""Codes of problems with a key that is not there: these name it, at the place of its parent."""
LEAVE_OUT = "leave the key out to get its default"
NO_VALUE = frozenset({"", "~", "null", "Null", "NULL"})
VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")

Data = str | list["Data"] | dict[str, "Data"]


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Scalar:
    """A text. `plain`: it stands without quotes. `size` counts nodes, `height` how many stand in one another."""

    place: Place
    text: str
    plain: bool
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class Sequence:
    """A list. `flow` tells that it stands in brackets."""

    place: Place
    flow: bool
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Entry:
    """A key and its value."""

    key_place: Place
    value: Node


@dataclass(slots=True)
class Table:
    """A mapping. `flow` tells that it stands in braces; `key` is the one whose value is awaited."""

    place: Place
    flow: bool
    entries: dict[str, Entry] = field(default_factory=dict)
    key: Scalar | None = None
    size: int = 1
    height: int = 1


Node = Scalar | Sequence | Table


class Document:
    """A file that was read: its nodes, and the places of what they say.

    Attributes:
        file: As the user named it; problems begin with it.
        lines: The text, line by line.
        root: The top of the file; None where there is no file and all comes from a command line.
        flaws: What was wrong with its YAML and yet let the rest be read, with the steps to what it spoils.
    """

    def __init__(self, file: str, text: str = "", root: Node | None = None) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.root = root
        self.flaws: list[tuple[Steps, Problem]] = []

    def place(self, steps: Steps, *, at_key: bool = False) -> tuple[Place, Steps]:
        """Find where something stands.

        Args:
            steps: Keys and indexes from the top of the file.
            at_key: Whether the key is wanted, not its value.

        Returns:
            The place, and how many of the steps there are in the file: what is missing has the place of its parent.
        """
        node, key_place = self.root, None
        found = 0
        for step in steps:
            if isinstance(node, Table) and isinstance(step, str) and step in node.entries:
                key_place, node = node.entries[step].key_place, node.entries[step].value
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                key_place, node = None, node.items[step]
            else:
                break
            found += 1
        if node is None:
            return Place(0, 0), steps
        block = isinstance(node, (Sequence, Table)) and not node.flow
        if key_place is not None and (at_key or block or found < len(steps)):
            return key_place, steps[:found]
        return node.place, steps[:found]

    def problem(self, fault: Fault) -> Problem:
        """Give a fault its place."""
        place, found = self.place(fault.steps, at_key=fault.at_key)
        missing = fault.steps[len(found) :] if fault.code in ABSENT else ()
        path = path_text((*found, *missing))
        return Problem(self.file, place.line, place.column, path, fault.message, self.line(place), fault.code)

    def problem_at(self, place: Place, steps: Steps, message: str, code: str) -> Problem:
        """Make a problem whose place is known."""
        return Problem(self.file, place.line, place.column, path_text(steps), message, self.line(place), code)

    def line(self, place: Place) -> str:
        """Give the line of a place."""
        return self.lines[place.line - 1] if 0 < place.line <= len(self.lines) else ""

    def data(self, environ: Mapping[str, str]) -> tuple[Data, list[tuple[Steps, Problem]]]:
        """Give the nodes as plain values, with `${NAME}` replaced.

        Returns:
            The values without those that are wrong, and what is wrong with these.
        """
        problems: list[tuple[Steps, Problem]] = []
        return (self._values(self.root, (), environ, problems) if self.root else {}), problems

    def _values(
        self, node: Node, steps: Steps, environ: Mapping[str, str], problems: list[tuple[Steps, Problem]]
    ) -> Data:
        if isinstance(node, Sequence):
            return [self._values(item, (*steps, at), environ, problems) for at, item in enumerate(node.items)]
        if isinstance(node, Table):
            values: dict[str, Data] = {}
            for key, entry in node.entries.items():
                inner = (*steps, key)
                before = len(problems)
                if isinstance(entry.value, Scalar) and entry.value.plain and entry.value.text in NO_VALUE:
                    glued = re.match(r"([a-z_]+):.", key)
                    text = "has no value: "
                    text += f'write a blank after the colon, "{glued[1]}: …"' if glued else LEAVE_OUT
                    spoiled = steps if glued else inner  # which key it was meant to be is not known
                    problems.append((spoiled, self.problem_at(entry.key_place, inner, text, "E006")))
                value = self._values(entry.value, inner, environ, problems)
                if not isinstance(entry.value, Scalar) or len(problems) == before:
                    values[key] = value
            return values
        try:
            return expand(node.text, environ)
        except ValueError as error:
            problems.append((steps, self.problem_at(node.place, steps, str(error), "E005")))
            return node.text


def path_text(steps: Steps) -> str:
    """Write steps the way problems show them: `listeners.web.tls.certificates[0].cert`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace each `${NAME}`; `$${` becomes `${`. What comes in is never read as YAML.

    Raises:
        ValueError: A variable is not set, or `${` begins no name.
    """

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        if found[1] is None:
            raise ValueError('"${" must begin a name, as in ${NAME}; for the characters themselves write "$${"')
        if found[1] not in environ:
            raise ValueError(f"the environment variable {found[1]} is not set")
        return environ[found[1]]

    return VARIABLE.sub(replace, text)
