"""Compose: from the text of a file to nodes, as far as YAML is taken here.

Lives here: what of YAML is refused, the bounds, and saying what a syntax error means. Must not live here: the nodes
(`document`). The parser's events are read one by one, so that a bound is felt before anything is built, and no depth of
nesting recurses.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from wsbridge.config.document import NO_VALUE, Document, Entry, Node, Place, Scalar, Sequence, Table
from wsbridge.config.problems import ConfigError, Problem
from wsbridge.config.section import Step, Steps

MOST_NODES = 10_000
"""Nodes of a file, what aliases stand for counted each time."""
DEEPEST = 20
"""How many mappings and lists may stand in one another."""
LARGEST = 1024 * 1024
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
        line, column = _line_of(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} must not stand in a YAML file"
        composer.problems.append(document.problem_at(Place(line, column), (), message, "E002"))
    if not composer.problems and (document.root is None or _is_empty(document.root)):
        composer.problems.append(
            Problem(file, 1, 1, "", "the file is empty: it needs listeners and routes", "", "E006")
        )
    if not composer.problems and not isinstance(document.root, Table):
        message = "the file must be a mapping with listeners and routes"
        composer.problems.append(document.problem_at(Place(1, 1), (), message, "E012"))
    if composer.problems:
        raise ConfigError([*(problem for _, problem in document.flaws), *composer.problems])
    return document


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.text in NO_VALUE


class _StopError(Exception):
    """Reading further would be of no use."""


class _Composer:
    """Builds nodes from the events of the parser, with a stack of those that are open."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.open: list[Sequence | Table] = []
        self.anchors: dict[str, Node] = {}
        self.path: list[Step] = []
        self.documents = 0
        self.nodes = 0

    def run(self, events: Iterator[yaml.Event]) -> None:
        """Read all events, or as far as it makes sense."""
        try:
            for event in events:
                self.take(event)
        except _StopError:
            pass

    def take(self, event: yaml.Event) -> None:
        """Read one event."""
        assert event.start_mark is not None  # noqa: S101 - the parser gives every event its marks
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.stop(place, "a second document begins here: the configuration is one document")
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event.anchor, place)
        elif isinstance(event, yaml.ScalarEvent):
            self.check_tag(event, place)
            self.add(Scalar(place, event.value, event.style is None), event.anchor, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event, place)
            self.begin(Sequence(place, bool(event.flow_style)), event.anchor, place)
        elif isinstance(event, yaml.MappingStartEvent):
            self.check_tag(event, place)
            self.begin(Table(place, bool(event.flow_style)), event.anchor, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self.open.pop()
            self.path = self.path[:-1]
            node.size = self.nodes - node.size + 1
            self.rise(node)

    def steps(self) -> Steps:
        """Tell which keys and indexes lead to the node that comes next."""
        steps = list(self.path)
        around = self.open[-1] if self.open else None
        if isinstance(around, Sequence):
            steps.append(len(around.items))
        elif isinstance(around, Table) and around.key is not None:
            steps.append(around.key.text)
        return tuple(steps)

    def stop(self, place: Place, message: str, code: str = "E003") -> None:
        """Tell a problem after which nothing is read any more."""
        self.problems.append(self.document.problem_at(place, self.steps(), message, code))
        raise _StopError

    def flaw(self, place: Place, message: str, code: str, spoiled: Steps) -> None:
        """Tell a problem that does not hide what follows, and what is better not judged because of it."""
        self.document.flaws.append((spoiled, self.document.problem_at(place, self.steps(), message, code)))

    def check_tag(self, event: yaml.NodeEvent, place: Place) -> None:
        """Refuse tags: every value has the type that its key wants."""
        if getattr(event, "tag", None) is not None:
            message = f'the tag "{event.tag}" is not taken here; a text that begins with "!" needs quotes'  # type: ignore[attr-defined]  # nodes that can have tags do
            self.flaw(place, message, "E003", self.steps())

    def begin(self, node: Sequence | Table, anchor: str | None, place: Place) -> None:
        """Open a list or a mapping."""
        if len(self.open) >= DEEPEST:
            self.stop(place, f"more than {DEEPEST} mappings and lists stand in one another here")
        if self.open and isinstance(self.open[-1], Table) and self.open[-1].key is None:
            self.stop(place, "a key must be text; a value that begins with { or [ needs quotes")
        outer = self.steps()
        self.add(node, anchor, place)
        node.size = self.nodes
        self.open.append(node)
        self.path = list(outer)

    def alias(self, name: str | None, place: Place) -> None:
        """Put in what an alias stands for."""
        node = self.anchors.get(name or "")
        if node is None:
            self.stop(place, f'"*{name}" stands for nothing; a text that begins with "*" needs quotes', "E002")
            return
        if any(node is outer for outer in self.open):
            self.stop(place, f'"*{name}" stands inside of what it stands for')
        if len(self.open) + node.height > DEEPEST:
            self.stop(place, f"more than {DEEPEST} mappings and lists stand in one another here")
        self.add(node, None, place)
        self.rise(node)

    def rise(self, node: Node) -> None:
        """Let the mapping or list around a whole node know how deep it goes."""
        if self.open:
            self.open[-1].height = max(self.open[-1].height, node.height + 1)

    def add(self, node: Node, anchor: str | None, place: Place) -> None:
        """Put a node where it belongs: at the top, into a list, or as key or value of a mapping."""
        self.nodes += node.size
        if self.nodes > MOST_NODES:
            self.stop(place, f"the file has more than {MOST_NODES:,} values, those of aliases counted each time")
        around = self.open[-1] if self.open else None
        if around is None:
            self.document.root = node
        elif isinstance(around, Sequence):
            around.items.append(node)
        elif around.key is None:
            self.add_key(around, node, place)
        else:
            self.add_value(around, node)
        if anchor is not None:
            self.anchors[anchor] = node

    def add_key(self, table: Table, node: Node, place: Place) -> None:
        """Take a key, once."""
        if not isinstance(node, Scalar):
            self.stop(place, "a key must be text")
            return
        table.key = Scalar(place, node.text, node.plain)
        if node.plain and node.text == "<<":
            message = 'merge keys ("<<") are not taken here: write the keys themselves'
            self.flaw(place, message, "E003", self.steps()[:-1])
        elif node.text in table.entries:
            line = table.entries[node.text].key_place.line
            message = f"this key stands here already, in line {line}"
            self.flaw(place, message, "E004", self.steps())

    def add_value(self, table: Table, node: Node) -> None:
        """Take the value of the key before it; of a key that stands twice the first counts."""
        assert table.key is not None  # noqa: S101 - the caller has looked
        key, table.key = table.key, None
        table.entries.setdefault(key.text, Entry(key.place, node))


def _line_of(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax_problem(document: Document, error: yaml.MarkedYAMLError) -> Problem:
    """Say what the parser found, and what usually lies behind it."""
    mark = error.problem_mark or error.context_mark
    if mark and mark.line >= len(document.lines) and error.context_mark:
        mark = error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    message = f"not YAML: {error.problem or error.context or 'it cannot be read'}"
    if error.problem and error.context:
        message += f" ({error.context}{f' from line {error.context_mark.line + 1}' if error.context_mark else ''})"
    nearby = [document.line(place), document.line(Place(place.line - 1, 1))]
    nearby += [document.line(Place(error.context_mark.line + 1, 1))] if error.context_mark else []
    if any("${" in line or "[::" in line for line in nearby):
        message += "; put it in quotes: a value with ${ or [:: has to stand in them"
    elif error.context == "while scanning an alias":
        message += '; a text that begins with "*" needs quotes'
    elif "'\\t'" in message:
        message += "; YAML indents by blanks, never by tabs"
    return document.problem_at(place, (), message, "E002")
