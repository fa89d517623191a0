"""YAML text to nodes with positions, within bounds of depth and of what aliases expand to.

libyaml parses, if PyYAML has it; nodes are made of its events one by one, so that other threads are not kept waiting,
and take a fifth of the memory of those of PyYAML.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import yaml

from wsbridge.config.base import KeyPath

if TYPE_CHECKING:
    from yaml._yaml import Mark as LibyamlMark

    Mark = yaml.Mark | LibyamlMark

MAX_DEPTH: Final = 20
"""Nested mappings and lists."""
MAX_ALIASED_VALUES: Final = 100_000
"""Values that all aliases of a file expand to."""
MAX_REPARSED_CHARS: Final = 1024 * 1024
"""Where an error is not further from the beginning than this, PyYAML's own parser, which is slow, words the message."""
STANDARD_TAGS: Final = frozenset({None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))})


def place_of(mark: Mark | None) -> tuple[int, int]:
    """Return line and column of a mark, both from 1."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


class Node:
    """A value or a key, and its position.

    Attributes:
        line: From 1.
        column: From 1, in characters.
        end_line: Where it ends.
        end_column: Of the first character after it.
        has_tag: Whether it has a tag that is not standard.
    """

    __slots__ = ("column", "end_column", "end_line", "has_tag", "line")

    def __init__(self, event: yaml.NodeEvent) -> None:
        self.line, self.column = place_of(event.start_mark)
        end_line, self.end_column = place_of(event.end_mark)
        self.end_line = self.line if end_line == self.line else end_line  # one object, in most of many nodes
        self.has_tag = getattr(event, "tag", None) not in STANDARD_TAGS


class ScalarNode(Node):
    """A text.

    Attributes:
        value: The text.
        is_plain: Whether it is written without quotes.
    """

    __slots__ = ("is_plain", "value")

    def __init__(self, event: yaml.ScalarEvent, value: str) -> None:
        super().__init__(event)
        self.value = value
        self.is_plain = not event.style


class CollectionNode(Node):
    """A mapping or a list.

    Attributes:
        is_flow: Whether it is written in braces or brackets.
        size: Number of values in it, with those that aliases expand to; itself included.
        height: Number of levels.
    """

    __slots__ = ("height", "is_flow", "size")

    def __init__(self, event: yaml.CollectionStartEvent) -> None:
        super().__init__(event)
        self.is_flow = bool(event.flow_style)
        self.size = 1
        self.height = 1


class SequenceNode(CollectionNode):
    """A list.

    Attributes:
        items: Its values.
    """

    __slots__ = ("items",)

    def __init__(self, event: yaml.CollectionStartEvent) -> None:
        super().__init__(event)
        self.items: list[Node] = []


class MappingNode(CollectionNode):
    """A mapping.

    Attributes:
        pairs: Its keys and values, duplicates included.
    """

    __slots__ = ("pairs",)

    def __init__(self, event: yaml.CollectionStartEvent) -> None:
        super().__init__(event)
        self.pairs: list[tuple[ScalarNode, Node]] = []


class YamlStructureError(Exception):
    """A text is YAML, but not within the bounds, or with what a configuration cannot have.

    Attributes:
        line: From 1.
        column: From 1.
        path: Keys and indexes that lead there.
        message: One sentence.
        code: Of the problem.
    """

    def __init__(self, event: yaml.Event, path: KeyPath, message: str, code: str = "E003") -> None:
        super().__init__(message)
        self.line, self.column = place_of(event.start_mark)
        self.path = path
        self.message = message
        self.code = code


def parse_nodes(text: str) -> Node | None:
    """Parse a text.

    Returns:
        The root; None if there is no document.

    Raises:
        yaml.YAMLError: It is not YAML.
        YamlStructureError: It has several documents, an undefined alias, a key that is no text, or exceeds a bound.
    """
    try:
        return _Composer().compose(yaml.parse(text, Loader=LOADER))
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        mark = getattr(error, "problem_mark", None)
        if mark is None or mark.index <= MAX_REPARSED_CHARS:
            return _Composer().compose(yaml.parse(text, Loader=yaml.BaseLoader))
        raise


LOADER: Final = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
"""What splits a text into events."""


class _Composer:
    """Makes nodes of the events of one document."""

    def __init__(self) -> None:
        self._root: Node | None = None
        self._open: list[CollectionNode] = []
        self._keys: list[ScalarNode | None] = []  # of each open mapping, the key whose value is awaited
        self._anchors: dict[str, Node] = {}
        self._aliased = 0

    def compose(self, events: Iterator[yaml.Event]) -> Node | None:
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._add(event, self._remember(event, ScalarNode(event, self._text_of(event))))
            elif isinstance(event, yaml.MappingStartEvent):
                self._begin(event, MappingNode(event))
            elif isinstance(event, yaml.SequenceStartEvent):
                self._begin(event, SequenceNode(event))
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(event)
            elif isinstance(event, yaml.AliasEvent):
                self._add(event, self._alias(event))
            elif isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
                message = "a second document begins here: the configuration is one document"
                raise YamlStructureError(event, (), message)
        return self._root

    def _text_of(self, event: yaml.ScalarEvent) -> str:
        """Return the text of a scalar, with one character for two escapes of surrogates, as JSON has them."""
        text: str = event.value
        if text.isascii():
            return text
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            message = "half of a character: \\ud800 to \\udfff are escapes of surrogates, which are written in pairs"
            raise YamlStructureError(event, self._path(), message) from None

    def _begin(self, event: yaml.CollectionStartEvent, node: CollectionNode) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise YamlStructureError(event, self._path(), f"more than {MAX_DEPTH} nested mappings and lists")
        self._add(event, self._remember(event, node))
        self._open.append(node)
        self._keys.append(None)

    def _end(self, event: yaml.Event) -> None:
        node = self._open.pop()
        self._keys.pop()
        node.end_line, node.end_column = place_of(event.end_mark)
        if self._open:
            outer = self._open[-1]
            outer.size += node.size
            outer.height = max(outer.height, node.height + 1)

    def _remember(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, node: Node) -> Node:
        if event.anchor is not None:
            if event.anchor in self._anchors:
                raise YamlStructureError(event, (), "not YAML: this anchor is already used above", "E002")
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        """Return the node that an alias refers to."""
        node = self._anchors.get(event.anchor or "")
        if node is None:
            message = 'not YAML: undefined alias; a text that begins with "*" needs quotes'
            raise YamlStructureError(event, (), message, "E002")
        if node in self._open:
            raise YamlStructureError(event, self._path(), "an alias is inside of the node that it refers to")
        if isinstance(node, CollectionNode):
            if len(self._open) + node.height > MAX_DEPTH:
                raise YamlStructureError(event, self._path(), f"more than {MAX_DEPTH} nested mappings and lists")
            if self._open:
                self._open[-1].size += node.size
                self._open[-1].height = max(self._open[-1].height, node.height + 1)
        self._aliased += getattr(node, "size", 1)
        if self._aliased > MAX_ALIASED_VALUES:
            message = f"the aliases of the file expand to more than {MAX_ALIASED_VALUES:,} values"
            raise YamlStructureError(event, self._path(), message)
        return node

    def _add(self, event: yaml.Event, node: Node) -> None:
        """Add a node to the innermost open collection."""
        if not self._open:
            self._root = node
            return
        outer = self._open[-1]
        if isinstance(node, ScalarNode):
            outer.size += 1
        if isinstance(outer, SequenceNode):
            outer.items.append(node)
        elif isinstance(outer, MappingNode):
            key = self._keys[-1]
            if key is not None:
                outer.pairs.append((key, node))
                self._keys[-1] = None
            elif isinstance(node, ScalarNode):
                self._keys[-1] = node
            else:
                message = "a key must be text; a value that begins with { or [ needs quotes"
                raise YamlStructureError(event, self._path(), message)

    def _path(self) -> KeyPath:
        """Return the keys and indexes that lead to the next value."""
        path: list[str | int] = []
        for node, key in zip(self._open, self._keys, strict=True):
            if isinstance(node, SequenceNode):
                # the value of an inner collection is in the list already, but for the innermost
                inner = node is not self._open[-1]
                path.append(len(node.items) - inner)
            elif key is not None:
                path.append(key.value)
            elif isinstance(node, MappingNode) and node is not self._open[-1] and node.pairs:
                path.append(node.pairs[-1][0].value)
        return tuple(path)
