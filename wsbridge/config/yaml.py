"""YAML text to plain values and positions; duplicate keys, tags, ${VAR}.

PyYAML's constructors are not used, because they drop positions, keep the last of duplicate keys and turn `off` and
`22:22` into other types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from wsbridge.config.base import Issue, KeyPath
from wsbridge.config.errors import UNDECODED_BYTE, ConfigError, Problem
from wsbridge.config.redaction import KeyTable, Redactor, unparsed_line_is_secret
from wsbridge.config.yaml_nodes import (
    CollectionNode,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    YamlStructureError,
    parse_nodes,
    place_of,
)

MISSING_KEY_CODES = frozenset({"E011", "E022"})
"""Codes of problems with a key that is missing: they name it, at the position of its parent."""
OMIT_KEY_HINT = "write one, or omit the key if it has a default"
NULL_TEXTS = frozenset({"", "~", "null", "Null", "NULL"})
ODD_SPACE = re.compile("[\u00a0\u2000-\u200f\u202f\u205f\u2060\u3000\ufeff]")
"""Characters that editors, web pages and word processors put in place of spaces, or between words."""
COMMENT = re.compile(r"(^|[ \t])#.*", re.MULTILINE)
GLUED_KEY = re.compile(r"^[ -]*[a-z_]+:(?!//)\S", re.MULTILINE)
ENV_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")

MAX_CONFIG_BYTES = 16 * 1024 * 1024
"""Bytes of a file, with those that it includes."""

YamlData = str | list["YamlData"] | dict[str, "YamlData"]


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1; 0 where there is no file."""

    line: int
    column: int


def _position(node: Node) -> Position:
    return Position(node.line, node.column)


@dataclass(slots=True)
class Document:
    """A parsed file: its nodes, and the positions of its values.

    Attributes:
        file: As the user named it; problems begin with it.
        text: The whole file.
        root: Its top mapping; None where the configuration comes from a command line.
        yaml_problems: Errors in its YAML that do not hide what follows, with the path of what they make unusable.
        redactor: Keeps secrets out of problems.
        references: Texts with `${`, as written, by their paths.
    """

    file: str
    text: str = ""
    root: Node | None = None
    yaml_problems: list[tuple[KeyPath, Problem]] = field(default_factory=list)
    redactor: Redactor = field(default_factory=lambda: Redactor(KeyTable()))
    references: dict[KeyPath, str] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)
    _pairs: dict[int, dict[str, tuple[Node, Node]]] = field(default_factory=dict)  # by the id of the mapping

    def find(self, path: KeyPath) -> tuple[Node | None, Node | None, KeyPath]:
        """Follow a path as far as it exists.

        Returns:
            The node, the key that leads to it (None for an item of a list), and the part of the path that exists.
        """
        node, key_node = self.root, None
        for at, step in enumerate(path):
            found = self._child(node, step)
            if found is None:
                return node, key_node, path[:at]
            key_node, node = found
        return node, key_node, path

    def locate(self, path: KeyPath, *, at_key: bool = False) -> tuple[Position, KeyPath]:
        """Find the position of a setting.

        Args:
            path: Keys and indexes from the top of the file.
            at_key: Whether the position of the key is wanted, not that of its value.

        Returns:
            The position, and the part of the path that exists; a missing key has the position of its parent.
        """
        node, key_node, found = self.find(path)
        if node is None:
            return Position(0, 0), path
        is_collection = isinstance(node, CollectionNode)
        is_block = isinstance(node, CollectionNode) and not node.is_flow
        if key_node is not None and (at_key or is_block or (is_collection and len(found) < len(path))):
            return _position(key_node), found
        return _position(node), found

    def to_problem(self, issue: Issue) -> Problem:
        """Add the position to an issue."""
        position, found = self.locate(issue.key_path, at_key=issue.at_key)
        missing = issue.key_path[len(found) :] if issue.code in MISSING_KEY_CODES else ()
        node, _, _ = self.find(found)
        message = self.redactor.message(issue.message, node if not missing else None, _scalars(node))
        return self.problem_at(position, (*found, *missing), message, issue.code)

    def problem_at(self, position: Position, path: KeyPath, message: str, code: str) -> Problem:
        """Make a problem whose position is known."""
        setting = format_path(self.redactor.path(path, has_value=code not in {"E003", "E006"}))
        return Problem(self.file, position.line, position.column, setting, message, self.source_line(position), code)

    def source_line(self, position: Position) -> str:
        """Return the line of a position, or nothing if it may hold a secret."""
        if position.line in self.redactor.lines:
            return ""
        if not self._lines:
            self._lines = self.text.splitlines()
        return self._lines[position.line - 1] if 0 < position.line <= len(self._lines) else ""

    def _child(self, node: Node | None, step: str | int) -> tuple[Node | None, Node] | None:
        """Return the key, if it has one, and the value of a step; the first of duplicate keys counts."""
        if isinstance(node, MappingNode) and isinstance(step, str):
            pairs = self._pairs.get(id(node))
            if pairs is None:
                pairs = {key.value: (key, value) for key, value in reversed(node.pairs)}
                self._pairs[id(node)] = pairs
            return pairs.get(step)
        if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.items):
            return None, node.items[step]
        return None

    def to_data(self, environ: Mapping[str, str]) -> tuple[YamlData, list[tuple[KeyPath, Problem]]]:
        """Return the nodes as plain values, with `${NAME}` replaced.

        Returns:
            The values, and what is wrong with some of them; these have a placeholder.
        """
        problems: list[tuple[KeyPath, Problem]] = []
        self.redactor.variables = _variables_in(self.text, environ)
        return (self._node_to_data(self.root, (), environ, problems) if self.root else {}), problems

    def _node_to_data(
        self, node: Node, path: KeyPath, environ: Mapping[str, str], problems: list[tuple[KeyPath, Problem]]
    ) -> YamlData:
        if isinstance(node, SequenceNode):
            return [self._node_to_data(item, (*path, at), environ, problems) for at, item in enumerate(node.items)]
        if isinstance(node, MappingNode):
            values: dict[str, YamlData] = {}
            for key, value in node.pairs:
                inner = (*path, key.value)
                if _is_null(value):
                    problems.append(self._no_value(key, path))
                if key.value not in values:
                    values[key.value] = self._node_to_data(value, inner, environ, problems)
            return values
        assert isinstance(node, ScalarNode)  # noqa: S101 (there are no other nodes)
        if "${" not in node.value:
            return node.value
        self.references[path] = node.value
        try:
            return expand_variables(node.value, environ)
        except ValueError as error:
            problems.append((path, self.problem_at(_position(node), path, str(error), "E005")))
            return node.value

    def _no_value(self, key: ScalarNode, path: KeyPath) -> tuple[KeyPath, Problem]:
        glued = re.match(r"([a-z_]+):.", key.value)
        hint = f'write a space after the colon, "{glued[1]}: …"' if glued else OMIT_KEY_HINT
        message = f"has no value: {hint}"
        problem = self.problem_at(_position(key), (*path, key.value), message, "E006")
        return (path if glued else (*path, key.value)), problem  # with a glued key nobody knows which one is missing


def _scalars(node: Node | None) -> Iterator[ScalarNode]:
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, SequenceNode):
        for item in node.items:
            yield from _scalars(item)
    elif isinstance(node, MappingNode):
        for _, value in node.pairs:
            yield from _scalars(value)


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.is_plain and node.value in NULL_TEXTS


def format_path(path: KeyPath) -> str:
    """Write a path the way problems show it: `listeners.web.tls.certificates[0].cert`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _variables_in(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    names = {found[1] for found in ENV_REFERENCE.finditer(text) if found[1]}
    return {name: environ[name] for name in names if name in environ}


def expand_variables(text: str, environ: Mapping[str, str]) -> str:
    """Replace each `${NAME}`; `$${` becomes `${`. A value is never parsed as YAML, nor expanded again.

    Raises:
        ValueError: A variable is not set or not UTF-8, or `${` begins no name.
    """

    def expand(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        if found[1] is None:
            if default := re.match(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:?[-=?+])", text[found.start() :]):
                raise ValueError(
                    f"${{{default[1]}{default[2]}…}}: defaults are not supported; write ${{{default[1]}}} and set the "
                    "variable, or write the value itself"
                )
            raise ValueError('"${" must begin a name, as in ${NAME}; for the characters themselves write "$${"')
        if found[1] not in environ:
            raise ValueError(f"the environment variable {found[1]} is not set")
        if UNDECODED_BYTE.search(environ[found[1]]):
            raise ValueError(f"the environment variable {found[1]} is not UTF-8 text")
        return environ[found[1]]

    return ENV_REFERENCE.sub(expand, text)


def compose(text: str, file: str, keys: KeyTable | None = None, *, may_be_empty: bool = False) -> Document:
    """Parse a text into nodes; errors that do not hide what follows are left in `yaml_problems`.

    Args:
        text: YAML.
        file: As the user named it.
        keys: Which keys hold secrets; None hides every line.
        may_be_empty: Whether a text without values is valid; the document then has no root.

    Raises:
        ConfigError: It is not YAML, uses a feature that is not supported, or exceeds a bound.
    """
    document = Document(file, text, redactor=Redactor(keys or KeyTable()))
    try:
        root = parse_nodes(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(document, error)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        position = Position(before.count("\n") + 1, error.position - before.rfind("\n"))
        message = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ConfigError([Problem(file, position.line, position.column, "", message, "", "E002")]) from None
    except YamlStructureError as error:
        shown = format_path(document.redactor.path(error.path, has_value=True))
        raise ConfigError([Problem(file, error.line, error.column, shown, error.message, "", error.code)]) from None
    if may_be_empty and (root is None or _is_null(root)):
        return document
    if root is None or _is_null(root):
        message = "the file is empty: it needs listeners and routes"
        raise ConfigError([Problem(file, 1, 1, "", message, "", "E006")])
    document.redactor.scan(root)
    document.root = root
    if not isinstance(root, MappingNode):
        message = "the file must be a mapping with listeners and routes"
        raise ConfigError([document.problem_at(Position(1, 1), (), message, "E012")])
    _check_features(document, root, ())
    return document


def _check_features(document: Document, node: Node, path: KeyPath) -> None:
    """Report tags, merge keys and duplicate keys."""
    if node.has_tag:
        message = 'YAML tags are not supported; a text that begins with "!" needs quotes'
        _report(document, node, path, message, "E003", path)
    if isinstance(node, SequenceNode):
        for at, item in enumerate(node.items):
            _check_features(document, item, (*path, at))
    elif isinstance(node, MappingNode):
        _check_keys(document, node, path)


def _check_keys(document: Document, node: MappingNode, path: KeyPath) -> None:
    first: dict[str, int] = {}
    for key, value in node.pairs:
        inner = (*path, key.value)
        if key.has_tag:
            _report(document, key, inner, "YAML tags are not supported", "E003", path)
        if not key.value.isprintable() and any(ord(char) < 0x20 for char in key.value):
            _report(document, key, inner, "a key must not have control characters", "E003", path)
        if key.value == "<<" and key.is_plain:
            message = 'merge keys ("<<") are not supported: write the keys themselves'
            _report(document, key, inner, message, "E003", path)
        elif key.value in first:
            message = f"duplicate key, first defined in line {first[key.value]}"
            _report(document, key, inner, message, "E004", inner)
        first.setdefault(key.value, key.line)
        _check_features(document, value, inner)


def _report(document: Document, place: Node, shown: KeyPath, message: str, code: str, unusable: KeyPath) -> None:
    document.yaml_problems.append((unusable, document.problem_at(_position(place), shown, message, code)))


def _is_token(text: str) -> bool:
    """Return whether PyYAML quotes a token or a character, not a part of the file."""
    return len(text) < 2 or text.startswith(("<", "\\"))


def _usual_cause(error: yaml.MarkedYAMLError, message: str, nearby: str) -> str:
    """Return what mostly causes an error, to be appended to its message; empty if nothing is known.

    Args:
        error: As raised.
        message: What it says, without parts of the file.
        nearby: The lines in which the cause is, without comments.
    """
    if odd := ODD_SPACE.search(nearby):
        return f"; there is the character U+{ord(odd[0]):04X}, which looks like a space or like nothing: remove it"
    if "${" in nearby or "[::" in nearby:
        return "; put it in quotes: a value with ${ or [:: must be quoted"
    if error.context == "while scanning an alias":
        return '; a text that begins with "*" needs quotes'
    if "'\\t'" in message:
        return "; use spaces for indentation, not tabs"
    if message.endswith("cannot start any token (while scanning for the next token)"):
        return "; a text that begins with it needs quotes"
    if ("mapping values" in message or "expected ':'" in message) and GLUED_KEY.search(nearby):
        return '; write a space after the colon of each key, as in "key: value"'
    if message.endswith("mapping values are not allowed here"):
        return '; write each key on a line of its own, indented alike, and quotes around a text with ": "'
    if "<block end>" in message and "<block mapping start>" in message:
        return "; indent this line as the keys of its mapping are"
    return ""


def _syntax_problem(document: Document, error: yaml.MarkedYAMLError) -> Problem:
    """Describe a syntax error, with its usual cause."""
    lines = document.text.splitlines()
    mark = error.problem_mark or error.context_mark
    if mark and mark.line >= len(lines) and error.context_mark:
        mark = error.context_mark
    place = Position(*place_of(mark))
    context_line = place_of(error.context_mark or mark)[0]
    code, message = "E002", f"not YAML: {error.problem or error.context or 'it cannot be read'}"
    if error.problem and error.context:
        message += f" ({error.context}{f' from line {context_line}' if error.context_mark else ''})"
    message = re.sub(r"'([^']*)'", lambda found: found[0] if _is_token(found[1]) else "'…'", message)
    causes = (*lines[max(0, place.line - 2) : place.line], *lines[context_line - 1 : context_line])
    message += _usual_cause(error, message, COMMENT.sub("", "\n".join(causes)))
    problem = document.problem_at(place, (), message, code)
    return replace(problem, source="") if unparsed_line_is_secret(lines, place.line, context_line) else problem
