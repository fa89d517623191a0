"""Keeps secrets out of problems: which source lines may be shown, and values that messages must not quote.

A line is shown only if every value on it belongs to a key that never holds a secret. What is not known, such as a
misspelled key, counts as secret unless it resembles a key that is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Final, get_args

from pydantic import BaseModel

from wsbridge.config.base import KeyPath, Registry
from wsbridge.config.errors import closest_match
from wsbridge.config.secrets import Secret
from wsbridge.config.yaml_nodes import MappingNode, Node, ScalarNode, SequenceNode

KEY_SIMILARITY: Final = 0.75
"""How similar a misspelled key must be to a known one to be classified like it."""
SECRET_SOURCE_KEYS: Final = frozenset({"file", "env", "credential"})
HEADER_KEYS: Final = frozenset({"headers", "client_headers", "proxy_headers"})
SECRET_CHARS: Final = frozenset("?@\n")
"""What URLs with a query or a password have, and texts of several lines."""
PROXY_KEY: Final = "proxy"
PROXY_WITHOUT_PASSWORD: Final = re.compile(r"(?:[A-Za-z]+://)?(?:[A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]*\])(?::[0-9]*)?/?")
"""A proxy that has no password in it, not even behind a wrong character in place of the `@`."""
MIN_LEAKED_CHARS: Final = 5
"""A message that shares this many consecutive characters with a secret value is replaced."""
MAX_COMPARED_CHARS: Final = 4096
"""Messages about longer values are replaced without a comparison, which takes quadratic time."""
_HIDDEN_KEY: Final = (
    r"(?i)(?<![a-z])(?:authorization|cookie|client_headers|proxy_headers|headers|key|key_password|password|secret|api.?key|token)s?"
    r"[\"']?\s*:"
)
SECRET_WORD: Final = re.compile(_HIDDEN_KEY + r"|://[^\s]*[?@]")
"""A line that may hold a secret, where the text could not be parsed."""
SECRET_BLOCK: Final = re.compile(_HIDDEN_KEY + r"\s*(?:[|>][-+0-9]*)?\s*$")
"""A key whose secret begins in the next line."""
KEY_LINE: Final = re.compile(r"\s*(?:- +)*[\"']?[\w.-]+[\"']?\s*:(?:\s|$)")


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Which keys of the configuration hold secrets.

    Attributes:
        plain: Keys whose values are never secret.
        secret: Keys whose values are.
    """

    plain: frozenset[str] = frozenset()
    secret: frozenset[str] = HEADER_KEYS

    def is_secret(self, key: str) -> bool:
        """Return whether the value of a key may be a secret; a misspelled key counts as the one it resembles."""
        if key in self.secret:
            return True
        return key not in self.plain and closest_match(key, self.secret | self.plain, KEY_SIMILARITY) not in self.plain


def key_table(root: type[BaseModel], registry: Registry) -> KeyTable:
    """Build the table from the types of all fields of the configuration.

    Args:
        root: The model of the whole file.
        registry: The sections of backends and authentication methods.
    """
    sections: dict[type[BaseModel], None] = {}
    pending: list[type[BaseModel]] = [root, *registry.backends.values(), *registry.auth.values()]
    plain: set[str] = set()
    secret = set(HEADER_KEYS)
    while pending:
        section = pending.pop()
        if section in sections:
            continue
        sections[section] = None
        for name, info in section.model_fields.items():
            types = list(_types_in(info.annotation))
            pending += [each for each in types if issubclass(each, BaseModel)]
            (secret if Secret in types else plain).add(info.alias or name)
    return KeyTable(frozenset(plain - secret), frozenset(secret))


def _types_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)


@dataclass(slots=True)
class Redactor:
    """Decides for one file which lines are shown and what messages may quote.

    Attributes:
        keys: Which keys hold secrets.
        lines: Source lines, from 1, that are never shown.
        nodes: Scalars, by their `id`, that no message quotes.
        variables: Environment variables that the file refers to, with their values.
    """

    keys: KeyTable
    lines: set[int] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)
    variables: dict[str, str] = field(default_factory=dict)

    def scan(self, node: Node, path: KeyPath = (), *, secret: bool = False) -> None:
        """Find the values of a file that may be secret.

        Args:
            node: The root, or a part of the file. It has no cycles.
            path: Keys and indexes that lead to it.
            secret: Whether a key above holds secrets.
        """
        if isinstance(node, ScalarNode):
            if secret or not SECRET_CHARS.isdisjoint(node.value):
                self.nodes.add(id(node))
                self._hide(node)
        elif isinstance(node, SequenceNode):
            names = path[-1:] == ("headers",)  # in a list they are names of headers, without values
            for at, item in enumerate(node.items):
                plain = names and isinstance(item, ScalarNode) and re.fullmatch(r"[\w-]+", item.value)
                self.scan(item, (*path, at), secret=secret and not plain)
        elif isinstance(node, MappingNode):
            self._scan_mapping(node, path, secret=secret)

    def _scan_mapping(self, node: MappingNode, path: KeyPath, *, secret: bool) -> None:
        written = {key.value for key, _ in node.pairs}
        is_source = secret and written <= SECRET_SOURCE_KEYS  # paths and names of variables are no secrets
        for key, value in node.pairs:
            inner = not is_source and (secret or self._holds_secret(key.value, value, path, written))
            if inner and not isinstance(value, SequenceNode):
                self._hide(key)
            self.scan(value, (*path, key.value), secret=inner)

    def _holds_secret(self, key: str, value: Node, path: KeyPath, written: set[str]) -> bool:
        if key == PROXY_KEY and isinstance(value, ScalarNode):
            return PROXY_WITHOUT_PASSWORD.fullmatch(value.value) is None
        if path in {("listeners",), ("routes",)}:
            return isinstance(value, ScalarNode)
        if key == "key" and "cert" in written:  # the path of a private key
            return False
        if isinstance(value, MappingNode) and key not in self.keys.secret:
            return key not in self.keys.plain and closest_match(key, self.keys.secret, KEY_SIMILARITY) is not None
        return self.keys.is_secret(key)

    def _hide(self, node: Node) -> None:
        last = node.end_line if node.end_column > 1 else node.end_line - 1
        self.lines.update(range(node.line, max(last, node.line) + 1))

    def path(self, path: KeyPath, *, has_value: bool) -> KeyPath:
        """Cut a path before a step that is not the name of a key, but may be a part of a secret.

        Args:
            path: Keys and indexes from the top of the file.
            has_value: Whether the last key has a value; `{Authorization: Bearer, x}` has a key `x` without one, and
                `{secret hunter2}` one that begins with the name of a key.
        """
        if path and not has_value and isinstance(path[-1], str):
            name = re.split(r"[\s:=\"']", path[-1], maxsplit=1)[0]
            if name != path[-1] and self.keys.is_secret(name):
                path = (*path[:-1], f"{name}…")
        for at, step in enumerate(path):
            following = path[at + 1 :]
            if not isinstance(step, str) or step not in self.keys.secret or (step == "key" and "certificates" in path):
                continue
            if at == 1 and path[0] in {"listeners", "routes"}:  # a name
                continue
            shown: list[str | int] = [each for each in following if each in SECRET_SOURCE_KEYS]
            if step in HEADER_KEYS and following:
                if isinstance(following[0], int):
                    return path
                named = has_value and isinstance(following[0], str) and re.fullmatch(r"[\w-]+", following[0])
                shown = [following[0], *shown] if named else []
            return (*path[: at + 1], *shown)
        return path

    def message(self, message: str, exact: Node | None, below: Iterable[ScalarNode]) -> str:
        """Take values that may be secret out of a message.

        Args:
            message: One sentence.
            exact: The value that it is about, if that is a scalar.
            below: All scalars that it may be about.
        """
        for node in below:
            if "${" in node.value:
                message = _replace_value(message, self.expand(node.value), node.value)
            elif id(node) in self.nodes and not re.fullmatch(r"\{[^{}]*\}", node.value):
                message = _replace_value(message, node.value, "…")
        for name, value in self.variables.items():
            message = _replace_value(message, value, f"${{{name}}}")
        if isinstance(exact, ScalarNode) and ("${" in exact.value or id(exact) in self.nodes):
            return _without_parts(message, exact.value, self.expand(exact.value))
        return message

    def expand(self, text: str) -> str:
        """Return a text with the variables that are known replaced."""
        return re.sub(r"\$\{(\w+)\}", lambda found: self.variables.get(found[1], found[0]), text)


def _replace_value(message: str, value: str, shown: str) -> str:
    """Replace a value where it appears as a whole."""
    if not value or value == shown:
        return message
    if _is_word(value):  # messages have words of their own
        return message.replace(f'"{value}"', f'"{shown}"')
    return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda _: shown, message)


def _is_word(value: str) -> bool:
    return re.fullmatch(r"[a-z]{1,8}", value) is not None


def _without_parts(message: str, written: str, value: str) -> str:
    """Remove quoted parts of a value; return a general message if a part of it remains."""
    if _is_word(value):
        return message
    message = re.sub(
        r'"([^"]+)"', lambda found: '"…"' if found[1] in value and found[1] not in written else found[0], message
    )
    private = re.sub(r"^[a-z+]+:(//)?|\{[^{}]*\}", "", value)  # fields of templates are no secrets
    rest = message.replace(written, "")
    if max(len(rest), len(private)) <= MAX_COMPARED_CHARS:
        common = SequenceMatcher(None, rest, private, autojunk=False).find_longest_match()
        if common.size < MIN_LEAKED_CHARS:
            return message
    names = ", ".join(re.findall(r"\$\{\w+\}", written))
    return f"is not valid; the value {f'comes from {names}' if names else 'may be secret'} and is not shown"


def unparsed_line_is_secret(lines: list[str], line: int, context_line: int) -> bool:
    """Return whether a line of a text that is not YAML may hold a secret: itself, or a block or collection around it.

    Args:
        lines: The text.
        line: Of the error, from 1.
        context_line: Where what could not be parsed begins, from 1.
    """
    around = lines[min(context_line, line) - 1 : line]
    before = next((text for text in reversed(lines[: line - 1]) if KEY_LINE.match(text)), "")
    if SECRET_BLOCK.search(before):  # the line may be a part of it that is indented wrong
        return True
    indent = len(lines[line - 1]) - len(lines[line - 1].lstrip()) if line <= len(lines) else 0
    for text in reversed(lines[: line - 1]):
        depth = len(text) - len(text.lstrip())
        if text.strip() and depth < indent:
            around.append(text)
            indent = depth
    return any(SECRET_WORD.search(text) for text in around)
