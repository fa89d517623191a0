"""The effective settings: each key with its value, as a file would have it, and where the value comes from.

    config (sections) ── walk ──> tree of Setting ──┬── to_json: plain values, for the admin API
    what the file has (references) ─────────────────┴── to_yaml: the same with places, for `wsbridge check --show`

Secrets are replaced by where they come from, or by `***`; variables stay `${NAME}`. Included files and the defaults of
routes are in effect, and so not shown themselves.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wsbridge.config.base import KeyPath, Section
from wsbridge.config.errors import printable, readable_name
from wsbridge.config.limits import RouteTimeouts
from wsbridge.config.model import Config
from wsbridge.config.unions import BackendSectionBase
from wsbridge.config.yaml import NULL_TEXTS

MASK: Final = "***"
MERGED_SECTIONS: Final = frozenset({"include", "defaults"})
SENT_HEADERS: Final = frozenset({"headers", "proxy_headers"})
"""Keys of a backend whose texts are never shown, since a header may be a secret."""
_USERINFO: Final = re.compile(r"(?<=://)[^/?#@]*@")
_UNCLEAR_USERINFO: Final = re.compile(r"(?<=://)[^/?#@]*[?#][^/]*@.*", re.DOTALL)
"""A password with such a character, or a query behind a host."""
_VARIABLE_OR_TEXT: Final = re.compile(r"(\$\{\w+\})|(?:(?!\$\{\w+\}).)+", re.DOTALL)
_PLAIN_TEXT: Final = re.compile(r"[A-Za-z0-9_./+-](?:[A-Za-z0-9_./@+*=~-]|:(?=[A-Za-z0-9_./@+*=~-]))*")
"""What needs no quotes in YAML, in block and in flow style."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value.

    Attributes:
        value: As the file would have it, with secrets masked.
        path: Keys and indexes that lead to it, in the long form of the file; of a default that is the value of another
            setting, such as the key of a certificate, those of that one; of any other default none.
        is_default: Whether the file does not set it.
    """

    value: str | float | bool
    path: KeyPath
    is_default: bool


SettingTree = dict[str, "SettingTree"] | list["SettingTree"] | Setting


def to_json(config: Config, references: Mapping[KeyPath, str]) -> Any:
    """Return all settings as plain values.

    Args:
        config: Checked.
        references: What the file has where a value refers to environment variables, by its path there.
    """

    def plain(tree: SettingTree) -> Any:
        if isinstance(tree, Setting):
            return _text_with_variables(references, tree) or tree.value
        if isinstance(tree, list):
            return [plain(item) for item in tree]
        return {key: plain(value) for key, value in tree.items()}

    return plain(_walk_config(config))


def to_yaml(config: Config, references: Mapping[KeyPath, str], locate: Callable[[KeyPath], tuple[str, int]]) -> str:
    """Return all settings as YAML, with the place of each, or `default`, as a comment.

    Read again, it gives an equal configuration, as far as nothing in it is masked.

    Args:
        config: Checked.
        references: See `to_json`.
        locate: Returns the file and the line of a setting.
    """
    return "".join(f"{line}\n" for line in _YamlWriter(references, locate).lines(_walk_config(config), 0))


def _nearest(references: Mapping[KeyPath, str], setting: Setting) -> str | None:
    """Return the text of a setting with variables; that of the short form, if the file has that."""
    if not references:
        return None
    lengths = range(len(setting.path), max(len(setting.path) - 3, 0), -1)
    return next((references[setting.path[:length]] for length in lengths if setting.path[:length] in references), None)


def _text_with_variables(references: Mapping[KeyPath, str], setting: Setting) -> str | None:
    """Return a setting that has variables as it is written, without what may be a secret; None for others."""
    text = _nearest(references, setting)
    if text is None:
        return None
    return _VARIABLE_OR_TEXT.sub(lambda found: found[1] or MASK, text) if setting.value == MASK else _mask_text(text)


def _mask_text(text: str) -> str:
    """Remove from a text what may be a secret where it is a URL: its user and password, and its query."""
    if "?" not in text and "@" not in text:
        return text
    path, mark, _ = _UNCLEAR_USERINFO.sub(MASK, text).partition("?")
    return _USERINFO.sub(f"{MASK}@", path) + (f"?{MASK}" if mark else "")


def _walk_config(config: Config) -> dict[str, SettingTree]:
    dumped = {name: _dump(getattr(config, name)) for name in Config.model_fields}
    found = _Walk().section(config, dumped, (), is_default=False)
    return {key: tree for key, tree in found.items() if key not in MERGED_SECTIONS}


def _dump(value: object) -> Any:
    """Dump one section after the other: a single call for all routes would hold the interpreter for a second."""
    if isinstance(value, dict):
        return {key: _dump(inner) for key, inner in value.items()}
    return value.model_dump(mode="json") if isinstance(value, Section) else value


class _Walk:
    """Makes the tree of a configuration; what ten thousand routes have in common is made once."""

    def __init__(self) -> None:
        self._shared: dict[int, dict[str, SettingTree]] = {}  # by the id of a section that is a default

    def section(
        self, section: Section, dumped: Mapping[str, Any], path: KeyPath, *, is_default: bool
    ) -> dict[str, SettingTree]:
        """Return the settings of a section, without keys that are not set and have no default."""
        if is_default and id(section) in self._shared:
            return self._shared[id(section)]
        found: dict[str, SettingTree] = {}
        for name in _shown_keys(section, dumped):
            default = is_default or name not in section.model_fields_set
            value = dumped[name]
            if name in SENT_HEADERS and isinstance(section, BackendSectionBase):
                value = {key: MASK if isinstance(text, str) else text for key, text in value.items()}
            source = _source(section, name, dumped) if default else name
            tree = self._value(getattr(section, name), value, (*path, source) if source else (), is_default=default)
            if tree != {} or not default:
                found[name] = tree
        if is_default:
            self._shared[id(section)] = found
        return found

    def _value(self, value: object, dumped: Any, path: KeyPath, *, is_default: bool) -> SettingTree:
        if isinstance(dumped, dict):
            if isinstance(value, Section):
                return self.section(value, dumped, path, is_default=is_default)
            inner = value if isinstance(value, dict) else {}
            return {
                key: self._value(inner.get(key), item, (*path, key) if path else (), is_default=is_default)
                for key, item in dumped.items()
            }
        if isinstance(dumped, list):
            items = value if isinstance(value, tuple) else dumped
            return [
                self._value(item, text, (*path, at), is_default=is_default)
                for at, (item, text) in enumerate(zip(items, dumped, strict=True))
            ]
        return Setting(_mask_text(dumped) if isinstance(dumped, str) else dumped, path, is_default)


def _source(section: Section, name: str, dumped: Mapping[str, Any]) -> str | None:
    """Return the key whose value is the default of this one; None where the default is a constant."""
    if not type(section).model_fields[name].default_factory_takes_validated_data:
        return None
    return next((key for key in section.model_fields_set if dumped[key] == dumped[name]), None)


def _shown_keys(section: Section, dumped: Mapping[str, Any]) -> list[str]:
    """Return the keys that are set, and those with a default that could be written beside them."""
    written = {name: dumped[name] for name in section.model_fields_set if dumped[name] is not None}
    defaults: dict[str, Any] = {}
    if type(section) is not RouteTimeouts:  # a route inherits them from the top of the file
        defaults = {
            name: value for name, value in dumped.items() if name not in written and value not in (None, [], {})
        }
    known = _count_issues(section, written)
    if _count_issues(section, {**written, **defaults}) > known:
        defaults = {
            name: value for name, value in defaults.items() if _count_issues(section, {**written, name: value}) <= known
        }
    return [name for name in _keys_in_order(type(section)) if name in written or name in defaults]


@functools.cache
def _keys_in_order(section: type[Section]) -> tuple[str, ...]:
    """Return the keys of a section, those first that are its own, such as `match` and `backend` of a route."""
    own = inspect.get_annotations(section)
    return tuple(sorted(section.model_fields, key=lambda name: name not in own))


def _count_issues(section: Section, keys: Mapping[str, Any]) -> int:
    return sum(1 for _ in section.validate_keys(keys))


class _YamlWriter:
    """Writes a tree of settings in block style, each value on a line with its place.

    Args:
        references: See `to_json`.
        locate: Returns the file and the line of a setting.
    """

    def __init__(self, references: Mapping[KeyPath, str], locate: Callable[[KeyPath], tuple[str, int]]) -> None:
        self._references = references
        self._locate = locate

    def lines(self, tree: Mapping[str, SettingTree], indent: int) -> Iterator[str]:
        """Return the lines of a mapping."""
        space = " " * indent
        for key, value in tree.items():
            begin = f"{space}{_quote(key)}:"
            inline = self._inline(value)
            if inline is not None:
                place = self._place(value)
                yield f"{begin} {inline}  # {place}" if place else f"{begin} {inline}"
            elif isinstance(value, list):
                yield begin
                for item in value:
                    assert isinstance(item, dict)  # noqa: S101 (others are inline)
                    first, *rest = self.lines(item, indent + 4)
                    yield f"{space}  - {first.lstrip()}"
                    yield from rest
            else:
                assert isinstance(value, dict)  # noqa: S101 (others are inline)
                yield begin
                yield from self.lines(value, indent + 2)

    def _inline(self, tree: SettingTree) -> str | None:
        """Return a value, a list of values, or an empty mapping; None for what needs lines of its own."""
        if isinstance(tree, Setting):
            return self._write(tree)
        if isinstance(tree, list) and all(isinstance(item, Setting) for item in tree):
            return f"[{', '.join(self._write(item) for item in tree if isinstance(item, Setting))}]"
        return None if tree else "{}"

    def _write(self, setting: Setting) -> str:
        text = _text_with_variables(self._references, setting)
        if text is not None:
            return _quote(text)
        if isinstance(setting.value, bool):
            return str(setting.value).lower()
        return _quote(str(setting.value).replace("${", "$${"))

    def _place(self, tree: SettingTree) -> str:
        """Say where a value comes from."""
        first = tree[0] if isinstance(tree, list) and tree else tree
        if not isinstance(first, Setting):
            return ""
        if first.is_default:
            return "default"
        file, line = self._locate(first.path)
        return f"{printable(readable_name(file))}:{line}"


def _quote(text: str) -> str:
    """Write a text so that YAML reads it as it is."""
    if _PLAIN_TEXT.fullmatch(text) and text not in NULL_TEXTS and not text.startswith("-"):
        return text
    return '"' + "".join(_escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
