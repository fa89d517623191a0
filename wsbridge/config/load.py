"""Reads a configuration, and turns what pydantic finds wrong with it into sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from wsbridge.config.base import UNION_TAG, Issue, KeyPath, LoadContext, Registry, Section, SectionError, section_error
from wsbridge.config.check import WrittenNames, check_config
from wsbridge.config.defaults import Defaults
from wsbridge.config.errors import ConfigError, Problem, closest_match, did_you_mean
from wsbridge.config.key_path_set import KeyPathSet
from wsbridge.config.loops import check_loops
from wsbridge.config.model import Config
from wsbridge.config.redaction import key_table
from wsbridge.config.regular_files import not_utf8_text
from wsbridge.config.risks import check_risks
from wsbridge.config.route import RouteDefaults
from wsbridge.config.sources import Sources, read_sources
from wsbridge.config.urls import read_origin_pattern
from wsbridge.config.yaml import MAX_CONFIG_BYTES, Document, YamlData

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


SectionT = TypeVar("SectionT", bound=Section)

SHAPE_MESSAGES = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "upstream": ("backend",),
    "target": ("backend",),
    "to": ("backend",),
    "proxy_pass": ("backend",),
    "listen": ("bind",),
    "address": ("bind",),
    "hosts": ("host",),
    "hostname": ("host",),
    "server_name": ("host",),
    "paths": ("path",),
    "location": ("path",),
    "root": ("files",),
    "static": ("files",),
    "web": ("files",),
    "status": ("respond",),
    "return": ("respond",),
    "origins": ("allowed_origins",),
    "cors": ("allowed_origins",),
    "ssl": ("tls",),
    "authentication": ("auth",),
    "keepalive": ("ping_interval",),
    "heartbeat": ("ping_interval",),
    "ping": ("ping_interval",),
    "pong": ("ping_timeout",),
    "max_age": ("max_lifetime", "max_session"),
    "speaks": ("protocol",),
    "real_address": ("client_address_from",),
    "answer": ("respond",),
    "text": ("text_messages",),
    "ticket": ("issue_tickets",),
    "targets": ("allowed_targets",),
    "after_close": ("on_client_close",),
    "spread": ("drain_spread",),
    "pause": ("min_refresh_interval",),
    "bind_address": ("bind_client_address",),
    "parameter": ("query_parameter",),
    "form": ("format",),
    "protocols": ("subprotocols",),
    "real_ip": ("client_address_from",),
    "certificate": ("certificates", "cert"),
    "private_key": ("key",),
    "max_connections": ("connections",),
    "loglevel": ("level",),
    "log_level": ("level",),
}
"""Keys of other programs, and what they are called here."""
OWN_KEY_SIMILARITY = 0.9
"""How alike a key must be to one of its own section to be taken for that, and not for one of another section."""


def translate_errors(errors: Iterable[ErrorDetails], section: type[BaseModel], outer: KeyPath = ()) -> Iterator[Issue]:
    """Turn errors of pydantic into issues, each reported once.

    Args:
        errors: Of one section; those of sections inside of it are carried by `SectionError`.
        section: The model that was read, for its keys.
        outer: The path that leads to it.
    """
    errors = list(errors)
    keys = _keys_of(section)
    unknown = [str(error["loc"][-1]) for error in errors if error["type"] == "extra_forbidden"]
    guessed = {closest_match(key, keys) for key in unknown}
    for error in errors:
        steps = tuple(step for step in error["loc"] if not str(step).startswith(UNION_TAG))
        if steps[-1:] == ("[key]",) and error["type"] != "extra_forbidden":  # pydantic's mark of a wrong key
            yield Issue((*outer, *steps[:-1]), _error_text(error), "E012", at_key=True)
            continue
        steps = (*outer, *steps)
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, SectionError):
            yield from translate_errors(cause.errors, cause.section, steps)
            yield from (replace(fault, key_path=(*steps, *fault.key_path)) for fault in cause.issues)
        elif isinstance(cause, ValidationError):
            yield from translate_errors(cause.errors(include_url=False), Section, steps)
        elif error["type"] == "default_factory_not_called":
            continue  # the key that its default comes from is wrong
        elif error["type"] == "missing":
            if steps[-1] not in guessed:
                yield Issue(steps, "is missing", "E011")
        elif error["type"] == "extra_forbidden":
            yield Issue(steps, f"unknown key{_unknown_key_hint(section, str(steps[-1]))}", "E010", at_key=True)
        else:
            code = getattr(cause, "code", "E012")
            yield Issue(steps, _error_text(error) + _shape_hint(error, section), code)


def _shape_hint(error: ErrorDetails, section: type[BaseModel]) -> str:
    """Show how to write a list or a mapping, where another value is; `key:value` is one text in YAML."""
    message, given = SHAPE_MESSAGES.get(error["type"]), error["input"]
    key, colon, _ = given.partition(":") if isinstance(given, str) else ("", "", "")
    if message is None:
        return ""
    if colon and key in _keys_of(section):
        return f': write a space after the colon, "{key}: …"'
    if message == "must be a list":
        return ": write […] around it" if isinstance(given, str | dict) else ""
    if error["type"] == "dict_type":
        return " such as {NAME: …}"
    return f" such as {{{_keys_of(section)[0]}: …}}" if not error["loc"] and section.model_fields else ""


def _error_text(error: ErrorDetails) -> str:
    """Say what is wrong with a value."""
    context: dict[str, Any] = error.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    if error["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        given = error["input"]
        guess = did_you_mean(given, words) if isinstance(given, str) else ""
        shown = f'"{given}" is' if isinstance(given, str) else "must be"
        if isinstance(given, str) and "any" in words and re.search(r"://|\.", given):
            guess = f"; write a list of origins{_origin_hint(given)}"
        wanted = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        return f"{shown} not one of {wanted}{guess}" if isinstance(given, str) else f"{shown} {wanted}"
    return SHAPE_MESSAGES.get(error["type"], error["msg"])


def _origin_hint(given: str) -> str:
    """Show the origin of a URL or of a host in a list, or some origin if it has none."""
    scheme, _, rest = given.rpartition("://")
    authority = re.split(r"[/?#]", rest)[0]
    try:
        return ': ["{}"]'.format(read_origin_pattern(f"{scheme or 'https'}://{authority}"))
    except ValueError:
        return ' such as ["https://gw.example.org"]'


def _unknown_key_hint(section: type[BaseModel], key: str) -> str:
    """Say what an unknown key was meant to be, or where it belongs."""
    hint: str | None = getattr(section, "moved_keys", {}).get(key)
    if hint:
        return f": {hint}"
    keys = _keys_of(section)
    if closest_match(key, keys, OWN_KEY_SIMILARITY):
        return did_you_mean(key, keys)
    meant = (key, *SYNONYMS.get(key, ()), key.removesuffix("_timeout"))
    for word in meant[1:]:
        if word in keys:
            return f' (did you mean "{word}"?)'
    for word in meant:
        for name, info in section.model_fields.items():
            if any(word in _keys_of(inner) for inner in _sections_in(info.annotation)):
                return f' (it belongs under "{name}"{"" if word == key else f", as {word}"})'
    return did_you_mean(key, keys)


def _keys_of(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section, as the file has them."""
    return [info.alias or name for name, info in section.model_fields.items()]


def _sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


Locate = Callable[[KeyPath], tuple[str, int]]
"""Returns the file and the line of a setting; line 0 where there is no file."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that can be used.

    Attributes:
        config: What was read.
        warnings: What is allowed but dangerous, in the order of the file.
        file: As the user named it.
        included: The files that it includes.
        locate: Returns file and line of a setting. It refers to all nodes of the file, which take as much memory as the
            configuration itself: not to be kept.
        references: What the file has where a value refers to environment variables, by its path.
    """

    config: Config
    warnings: list[Problem] = field(default_factory=list)
    file: str = ""
    included: list[str] = field(default_factory=list)
    locate: Locate | None = field(default=None, repr=False, compare=False)
    references: Mapping[KeyPath, str] = field(default_factory=dict, repr=False, compare=False)

    def without_places(self) -> LoadedConfig:
        """Return what may be kept while it is in effect."""
        return replace(self, locate=None)


def load_file(
    path: str | Path, registry: Registry, environ: Mapping[str, str] = os.environ, *, check_files: bool = True
) -> LoadedConfig:
    """Read a file. See `load`; relative paths in it begin at its directory.

    Raises:
        ConfigError: All that is wrong with it.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise _file_error(path, f"cannot be read: {error.strerror}") from None
    directory = Path(path).absolute().parent  # of a link itself: Kubernetes and releases replace what it leads to
    return load_bytes(
        data, file=str(path), registry=registry, environ=environ, directory=directory, check_files=check_files
    )


def load_bytes(
    data: bytes,
    *,
    file: str,
    registry: Registry,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    check_files: bool = True,
) -> LoadedConfig:
    """Read the bytes of a file, at most MAX_CONFIG_BYTES of UTF-8. See `load_text`.

    Raises:
        ConfigError: All that is wrong with it.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise _file_error(file, f"is larger than {MAX_CONFIG_BYTES // 2**20}MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        raise _file_error(file, not_utf8_text(data, error), line, column) from None
    return load_text(text, file=file, registry=registry, environ=environ, directory=directory, check_files=check_files)


def load_text(
    text: str,
    *,
    file: str,
    registry: Registry,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    check_files: bool = True,
    now: datetime | None = None,
) -> LoadedConfig:
    """Read the text of a file.

    Args:
        text: YAML.
        file: How problems call it.
        registry: The kinds of backends and authentication that it may name.
        environ: For `${NAME}` and `{env: NAME}`.
        directory: Where relative paths begin; default: the working directory.
        check_files: Whether to look at the files it names; without, secrets stay empty.
        now: What certificates are compared with; default: the clock.

    Raises:
        ConfigError: All that is wrong with it.
    """
    directory = directory or Path.cwd()
    sources = read_sources(text, file, key_table(Config, registry), environ, directory, check_mode=check_files)
    now = now or datetime.now(UTC)
    context = LoadContext(directory, environ, registry, check_files, _existing_file(file), now, sources.files)
    return _check_sources(sources, context)


def load_data(
    data: YamlData,
    *,
    registry: Registry,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    file: str = "command line",
) -> LoadedConfig:
    """Read a configuration that a command made up, by the same rules; its problems have no line.

    Raises:
        ConfigError: All that is wrong with it.
    """
    return _check_sources(Sources(Document(file), data=data), LoadContext(directory or Path.cwd(), environ, registry))


def _existing_file(file: str) -> Path | None:
    """Return the configuration file, unless the text comes from elsewhere, such as standard input."""
    try:
        return Path(file).absolute() if Path(file).is_file() else None
    except OSError:
        return None


def _file_error(path: str | Path, message: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError([Problem(str(path), line, column, "", message, "", "E001")])


def _check_sources(sources: Sources, context: LoadContext) -> LoadedConfig:
    data, defaults = sources.data, None
    default_issues: list[Issue] = []
    if isinstance(data, dict) and "defaults" in data:
        section, found = _validate(RouteDefaults, data["defaults"], context)
        default_issues = [replace(issue, key_path=("defaults", *issue.key_path)) for issue in found]
        defaults = Defaults(data, section, default_issues)
        data = defaults.merged
    config, issues = _validate(Config, data, context)
    issues = [*default_issues, *(defaults.redirect(issues) if defaults else issues)]
    unusable = [path for path, _ in sources.problems]
    below = KeyPathSet(unusable)
    issues = [issue for issue in issues if not below.has_above(issue.key_path)]
    if config is not None:
        wrong = KeyPathSet([*unusable, *(issue.key_path for issue in issues)])
        scopes = KeyPathSet([*unusable, *map(_scope, issues)])
        names = WrittenNames(_names(data, "listeners"), _names(data, "routes"), wrong)
        found = check_config(config, context, names)
        found += check_loops(config) if names.reachability_is_sound() else ()
        found += (issue for issue in check_risks(config, context) if not wrong or issue.code.startswith("E"))
        issues += [
            issue for issue in (defaults.redirect(found) if defaults else found) if not scopes.overlaps(issue.key_path)
        ]
    problems = sources.sort([*(problem for _, problem in sources.problems), *map(sources.to_problem, issues)])
    if config is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)

    def locate(path: KeyPath) -> tuple[str, int]:
        origin = defaults.origin(path) if defaults else None
        return sources.locate(origin or path)

    included = [document.file for document in sources.included]
    references = sources.references
    if defaults is not None:
        references |= defaults.route_references(references)
    return LoadedConfig(config, problems, sources.main.file, included, locate, references)


def _validate(section: type[SectionT], data: object, context: LoadContext) -> tuple[SectionT | None, list[Issue]]:
    """Return a section, without what is wrong in it, and what is wrong."""
    try:
        return section.model_validate(data, context=context), []
    except ValidationError as error:
        found = section_error(error, section)
        issues = [*translate_errors(found.errors, section), *found.issues]
        return (found.recovered if isinstance(found.recovered, section) else None), issues


def _scope(issue: Issue) -> KeyPath:
    """Return the path below which further issues may follow from an issue: an unknown key may be any of its section."""
    return issue.key_path[:-1] if issue.code == "E010" else issue.key_path


def _names(data: YamlData, key: str) -> Collection[str]:
    section = data.get(key) if isinstance(data, dict) else None
    return section.keys() if isinstance(section, dict) else ()
