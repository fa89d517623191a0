"""Yaml.compose nodes with positions; duplicate keys, tags, ${VAR}."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from wsbridge.config.base import Issue, KeyOrIndex, KeyPath
from wsbridge.config.errors import ConfigError, Problem

MISSING_KEY_CODES = frozenset({"E011", "E022"})
"""Codes of problems with a key that is not there: these name it, at the place of its parent."""
OMIT_KEY_HINT = "leave the key out to get its default"
NULL_TEXTS = frozenset({"", "~", "null", "Null", "NULL"})
ENV_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")

YamlData = str | list["YamlData"] | dict[str, "YamlData"]


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(slots=True)
class ScalarNode:
    """A text. `plain`: it stands without quotes. `size` counts nodes, `height` how many stand in one another."""

    position: Position
    text: str
    plain: bool
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class SequenceNode:
    """A list. `flow` tells that it stands in brackets."""

    position: Position
    flow: bool
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class MappingEntry:
    """A key and its value."""

    key_position: Position
    value: Node


@dataclass(slots=True)
class MappingNode:
    """A mapping. `flow` tells that it stands in braces; `key` is the one whose value is awaited."""

    position: Position
    flow: bool
    entries: dict[str, MappingEntry] = field(default_factory=dict)
    pending_key: ScalarNode | None = None
    size: int = 1
    height: int = 1


Node = ScalarNode | SequenceNode | MappingNode


class Document:
    """A file that was read: its nodes, and the places of what they say.

    Attributes:
        file: As the user named it; problems begin with it.
        lines: The text, line by line.
        root: The top of the file; None where there is no file and all comes from a command line.
        yaml_problems: What was wrong with its YAML and yet let the rest be read, with the steps to what it spoils.
    """

    def __init__(self, file: str, text: str = "", root: Node | None = None) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.root = root
        self.yaml_problems: list[tuple[KeyPath, Problem]] = []

    def locate(self, steps: KeyPath, *, at_key: bool = False) -> tuple[Position, KeyPath]:
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
            if isinstance(node, MappingNode) and isinstance(step, str) and step in node.entries:
                key_place, node = node.entries[step].key_position, node.entries[step].value
            elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.items):
                key_place, node = None, node.items[step]
            else:
                break
            found += 1
        if node is None:
            return Position(0, 0), steps
        block = isinstance(node, (SequenceNode, MappingNode)) and not node.flow
        if key_place is not None and (at_key or block or found < len(steps)):
            return key_place, steps[:found]
        return node.position, steps[:found]

    def to_problem(self, issue: Issue) -> Problem:
        """Give a fault its place."""
        place, found = self.locate(issue.key_path, at_key=issue.at_key)
        missing = issue.key_path[len(found) :] if issue.code in MISSING_KEY_CODES else ()
        path = format_path((*found, *missing))
        return Problem(self.file, place.line, place.column, path, issue.message, self.source_line(place), issue.code)

    def problem_at(self, position: Position, steps: KeyPath, message: str, code: str) -> Problem:
        """Make a problem whose place is known."""
        return Problem(
            self.file, position.line, position.column, format_path(steps), message, self.source_line(position), code
        )

    def source_line(self, position: Position) -> str:
        """Give the line of a place."""
        return self.lines[position.line - 1] if 0 < position.line <= len(self.lines) else ""

    def to_data(self, environ: Mapping[str, str]) -> tuple[YamlData, list[tuple[KeyPath, Problem]]]:
        """Give the nodes as plain values, with `${NAME}` replaced.

        Returns:
            The values without those that are wrong, and what is wrong with these.
        """
        problems: list[tuple[KeyPath, Problem]] = []
        return (self._node_to_data(self.root, (), environ, problems) if self.root else {}), problems

    def _node_to_data(
        self, node: Node, steps: KeyPath, environ: Mapping[str, str], problems: list[tuple[KeyPath, Problem]]
    ) -> YamlData:
        if isinstance(node, SequenceNode):
            return [self._node_to_data(item, (*steps, at), environ, problems) for at, item in enumerate(node.items)]
        if isinstance(node, MappingNode):
            values: dict[str, YamlData] = {}
            for key, entry in node.entries.items():
                inner = (*steps, key)
                before = len(problems)
                if isinstance(entry.value, ScalarNode) and entry.value.plain and entry.value.text in NULL_TEXTS:
                    glued = re.match(r"([a-z_]+):.", key)
                    text = "has no value: "
                    text += f'write a blank after the colon, "{glued[1]}: …"' if glued else OMIT_KEY_HINT
                    spoiled = steps if glued else inner  # which key it was meant to be is not known
                    problems.append((spoiled, self.problem_at(entry.key_position, inner, text, "E006")))
                value = self._node_to_data(entry.value, inner, environ, problems)
                if not isinstance(entry.value, ScalarNode) or len(problems) == before:
                    values[key] = value
            return values
        try:
            return expand_variables(node.text, environ)
        except ValueError as error:
            problems.append((steps, self.problem_at(node.position, steps, str(error), "E005")))
            return node.text


def format_path(steps: KeyPath) -> str:
    """Write steps the way problems show them: `listeners.web.tls.certificates[0].cert`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def expand_variables(text: str, environ: Mapping[str, str]) -> str:
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

    return ENV_REFERENCE.sub(replace, text)


MAX_NODES = 10_000
"""Nodes of a file, what aliases stand for counted each time."""
MAX_DEPTH = 20
"""How many mappings and lists may stand in one another."""
MAX_CONFIG_BYTES = 1024 * 1024
"""Bytes of a file."""


def compose(text: str, file: str) -> Document:
    """Read a text into nodes; what is wrong and does not hide what follows is left in `flaws`.

    Raises:
        ConfigError: It is not YAML, or uses what is not taken here, or passes a bound.
    """
    document = Document(file, text)
    composer = _Composer(document)
    try:
        composer.run(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        composer.problems.append(_syntax_problem(document, error))
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} must not stand in a YAML file"
        composer.problems.append(document.problem_at(Position(line, column), (), message, "E002"))
    if not composer.problems and (document.root is None or _is_null(document.root)):
        composer.problems.append(
            Problem(file, 1, 1, "", "the file is empty: it needs listeners and routes", "", "E006")
        )
    if not composer.problems and not isinstance(document.root, MappingNode):
        message = "the file must be a mapping with listeners and routes"
        composer.problems.append(document.problem_at(Position(1, 1), (), message, "E012"))
    if composer.problems:
        raise ConfigError([*(problem for _, problem in document.yaml_problems), *composer.problems])
    return document


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.plain and node.text in NULL_TEXTS


class _StopParsingError(Exception):
    """Reading further would be of no use."""


class _Composer:
    """Builds nodes from the events of the parser, with a stack of those that are open."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.open_nodes: list[SequenceNode | MappingNode] = []
        self.anchors: dict[str, Node] = {}
        self.open_path: list[KeyOrIndex] = []
        self.document_count = 0
        self.node_count = 0

    def run(self, events: Iterator[yaml.Event]) -> None:
        """Read all events, or as far as it makes sense."""
        try:
            for event in events:
                self.handle_event(event)
        except _StopParsingError:
            pass

    def handle_event(self, event: yaml.Event) -> None:
        """Read one event."""
        assert event.start_mark is not None  # noqa: S101 - the parser gives every event its marks
        place = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self.document_count += 1
            if self.document_count > 1:
                self.fail(place, "a second document begins here: the configuration is one document")
        elif isinstance(event, yaml.AliasEvent):
            self.add_alias(event.anchor, place)
        elif isinstance(event, yaml.ScalarEvent):
            self.check_tag(event, place)
            self.add_node(ScalarNode(place, event.value, event.style is None), event.anchor, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event, place)
            self.open_collection(SequenceNode(place, bool(event.flow_style)), event.anchor, place)
        elif isinstance(event, yaml.MappingStartEvent):
            self.check_tag(event, place)
            self.open_collection(MappingNode(place, bool(event.flow_style)), event.anchor, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self.open_nodes.pop()
            self.open_path = self.open_path[:-1]
            node.size = self.node_count - node.size + 1
            self.update_height(node)

    def next_path(self) -> KeyPath:
        """Tell which keys and indexes lead to the node that comes next."""
        steps = list(self.open_path)
        around = self.open_nodes[-1] if self.open_nodes else None
        if isinstance(around, SequenceNode):
            steps.append(len(around.items))
        elif isinstance(around, MappingNode) and around.pending_key is not None:
            steps.append(around.pending_key.text)
        return tuple(steps)

    def fail(self, position: Position, message: str, code: str = "E003") -> None:
        """Tell a problem after which nothing is read any more."""
        self.problems.append(self.document.problem_at(position, self.next_path(), message, code))
        raise _StopParsingError

    def add_problem(self, position: Position, message: str, code: str, affected: KeyPath) -> None:
        """Tell a problem that does not hide what follows, and what is better not judged because of it."""
        self.document.yaml_problems.append(
            (affected, self.document.problem_at(position, self.next_path(), message, code))
        )

    def check_tag(self, event: yaml.NodeEvent, position: Position) -> None:
        """Refuse tags: every value has the type that its key wants."""
        if getattr(event, "tag", None) is not None:
            message = f'the tag "{event.tag}" is not taken here; a text that begins with "!" needs quotes'  # type: ignore[attr-defined]  # nodes that can have tags do
            self.add_problem(position, message, "E003", self.next_path())

    def open_collection(self, node: SequenceNode | MappingNode, anchor: str | None, position: Position) -> None:
        """Open a list or a mapping."""
        if len(self.open_nodes) >= MAX_DEPTH:
            self.fail(position, f"more than {MAX_DEPTH} mappings and lists stand in one another here")
        if self.open_nodes and isinstance(self.open_nodes[-1], MappingNode) and self.open_nodes[-1].pending_key is None:
            self.fail(position, "a key must be text; a value that begins with { or [ needs quotes")
        outer = self.next_path()
        self.add_node(node, anchor, position)
        node.size = self.node_count
        self.open_nodes.append(node)
        self.open_path = list(outer)

    def add_alias(self, name: str | None, position: Position) -> None:
        """Put in what an alias stands for."""
        node = self.anchors.get(name or "")
        if node is None:
            self.fail(position, f'"*{name}" stands for nothing; a text that begins with "*" needs quotes', "E002")
            return
        if any(node is outer for outer in self.open_nodes):
            self.fail(position, f'"*{name}" stands inside of what it stands for')
        if len(self.open_nodes) + node.height > MAX_DEPTH:
            self.fail(position, f"more than {MAX_DEPTH} mappings and lists stand in one another here")
        self.add_node(node, None, position)
        self.update_height(node)

    def update_height(self, node: Node) -> None:
        """Let the mapping or list around a whole node know how deep it goes."""
        if self.open_nodes:
            self.open_nodes[-1].height = max(self.open_nodes[-1].height, node.height + 1)

    def add_node(self, node: Node, anchor: str | None, position: Position) -> None:
        """Put a node where it belongs: at the top, into a list, or as key or value of a mapping."""
        self.node_count += node.size
        if self.node_count > MAX_NODES:
            self.fail(position, f"the file has more than {MAX_NODES:,} values, those of aliases counted each time")
        around = self.open_nodes[-1] if self.open_nodes else None
        if around is None:
            self.document.root = node
        elif isinstance(around, SequenceNode):
            around.items.append(node)
        elif around.pending_key is None:
            self.add_key(around, node, position)
        else:
            self.add_value(around, node)
        if anchor is not None:
            self.anchors[anchor] = node

    def add_key(self, table: MappingNode, node: Node, position: Position) -> None:
        """Take a key, once."""
        if not isinstance(node, ScalarNode):
            self.fail(position, "a key must be text")
            return
        table.pending_key = ScalarNode(position, node.text, node.plain)
        if node.plain and node.text == "<<":
            message = 'merge keys ("<<") are not taken here: write the keys themselves'
            self.add_problem(position, message, "E003", self.next_path()[:-1])
        elif node.text in table.entries:
            line = table.entries[node.text].key_position.line
            message = f"this key stands here already, in line {line}"
            self.add_problem(position, message, "E004", self.next_path())

    def add_value(self, table: MappingNode, node: Node) -> None:
        """Take the value of the key before it; of a key that stands twice the first counts."""
        assert table.pending_key is not None  # noqa: S101 - the caller has looked
        key, table.pending_key = table.pending_key, None
        table.entries.setdefault(key.text, MappingEntry(key.position, node))


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax_problem(document: Document, error: yaml.MarkedYAMLError) -> Problem:
    """Say what the parser found, and what usually lies behind it."""
    mark = error.problem_mark or error.context_mark
    if mark and mark.line >= len(document.lines) and error.context_mark:
        mark = error.context_mark
    place = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
    message = f"not YAML: {error.problem or error.context or 'it cannot be read'}"
    if error.problem and error.context:
        message += f" ({error.context}{f' from line {error.context_mark.line + 1}' if error.context_mark else ''})"
    nearby = [document.source_line(place), document.source_line(Position(place.line - 1, 1))]
    nearby += [document.source_line(Position(error.context_mark.line + 1, 1))] if error.context_mark else []
    if any("${" in line or "[::" in line for line in nearby):
        message += "; put it in quotes: a value with ${ or [:: has to stand in them"
    elif error.context == "while scanning an alias":
        message += '; a text that begins with "*" needs quotes'
    elif "'\\t'" in message:
        message += "; YAML indents by blanks, never by tabs"
    return document.problem_at(place, (), message, "E002")
