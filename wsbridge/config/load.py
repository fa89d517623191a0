"""Load: from the text of a file to a configuration, or to all that is wrong with it.

Lives here: putting document, model and checks together. Must not live here: the rules themselves, the sentences
(`sentences`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from wsbridge.config.check import check
from wsbridge.config.compose import LARGEST, compose
from wsbridge.config.document import Data, Document
from wsbridge.config.model import Config
from wsbridge.config.problems import ConfigError, Problem
from wsbridge.config.section import Context, Fault, Kinds, Steps
from wsbridge.config.sentences import faults_in

UNSURE = frozenset({"E020", "E021", "E027", "W001", "W011"})
"""Codes of what hangs on other sections, so that it is not told while one of those is left out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used.

    Attributes:
        config: What was read.
        warnings: What is allowed but dangerous, in the order of the file.
        file: As the user named it.
    """

    config: Config
    warnings: list[Problem] = field(default_factory=list)
    file: str = ""


def load_file(path: str | Path, kinds: Kinds, environ: Mapping[str, str] = os.environ, *, files: bool = True) -> Loaded:
    """Read a file. See `load`; relative paths in it begin at its folder.

    Raises:
        ConfigError: All that is wrong with it.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise _unreadable(path, "is larger than 1MiB")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"is not UTF-8: byte 0x{data[error.start]:02x} in line {line}") from None
    folder = Path(path).resolve().parent
    return load(text, file=str(path), kinds=kinds, environ=environ, folder=folder, files=files)


def load(
    text: str,
    *,
    file: str,
    kinds: Kinds,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    files: bool = True,
    now: datetime | None = None,
) -> Loaded:
    """Read the text of a file.

    Args:
        text: YAML.
        file: How problems call it.
        kinds: The kinds of backends and authentication that it may name.
        environ: For `${NAME}` and `{env: NAME}`.
        folder: Where relative paths begin; left out, the working directory.
        files: Whether to look at the files it names; without, secrets stay empty.
        now: What certificates are compared with; left out, the clock.

    Raises:
        ConfigError: All that is wrong with it.
    """
    document = compose(text, file)
    data, problems = document.data(environ)
    context = Context(folder or Path.cwd(), environ, kinds, files, now or datetime.now(UTC))
    return _read(data, document, [*document.flaws, *problems], context)


def build(
    data: Data,
    *,
    kinds: Kinds,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    file: str = "command line",
) -> Loaded:
    """Read a configuration that a command made up, by the same rules; its problems have no line.

    Raises:
        ConfigError: All that is wrong with it.
    """
    return _read(data, Document(file), [], Context(folder or Path.cwd(), environ, kinds))


def _unreadable(path: str | Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, 0, "", message, "", "E001")])


def _read(data: Data, document: Document, known: list[tuple[Steps, Problem]], context: Context) -> Loaded:
    told = [steps for steps, _ in known]
    config, faults = _validate(data, context)
    faults = [fault for fault in faults if not any(_inside(fault.steps, steps) for steps in told)]
    if config is not None and not told:
        faults += check(config, context)
    else:
        faults += _checked_as_far_as_possible(data, [*told, *(fault.steps for fault in faults)], context)
        config = None
    problems = _in_order([*(problem for _, problem in known), *map(document.problem, faults)])
    if config is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return Loaded(config, problems, document.file)


def _checked_as_far_as_possible(data: Data, wrong: list[Steps], context: Context) -> list[Fault]:
    """Leave out what is wrong, and check the rest, so that all is told at once and nothing twice."""
    left, config = data, None
    spoiled = {steps[:2] for steps in wrong}
    while config is None:
        there = [_there(left, steps) for steps in wrong]
        if () in there or not there:
            return []
        left = _without(left, there)
        config, faults = _validate(left, context)
        wrong = [fault.steps for fault in faults]
    unsure = UNSURE - {"E020", "E021"} if _names(left) == _names(data) else UNSURE
    found = check(config, context)
    return [fault for fault in found if fault.code not in unsure and not _touches(fault.steps, spoiled)]


def _there(data: Data, steps: Steps) -> Steps:
    """Cut steps to those that lead to something: what lacks a key goes as a whole."""
    node: Data | None = data
    for at, step in enumerate(steps):
        if isinstance(node, dict):
            node = node.get(str(step))
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        else:
            node = None
        if node is None:
            return steps[:at]
    return steps


def _names(data: Data) -> list[Steps]:
    found: list[Steps] = []
    for key in ("listeners", "routes"):
        section = data.get(key) if isinstance(data, dict) else None
        found += [(key, name) for name in section] if isinstance(section, dict) else []
    return found


def _validate(data: Data, context: Context) -> tuple[Config | None, list[Fault]]:
    try:
        return Config.model_validate(data, context=context), []
    except ValidationError as error:
        return None, list(faults_in(error.errors(include_url=False), Config))


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


def _inside(steps: Steps, outer: Steps) -> bool:
    return steps[: len(outer)] == outer


def _touches(steps: Steps, spoiled: set[Steps]) -> bool:
    return any(_inside(steps, outer) or _inside(outer, steps) for outer in spoiled)


def _without(data: Data, wrong: Sequence[Steps]) -> Data:
    """Leave out what is wrong, so that the rest can be checked all the same."""
    if isinstance(data, dict):
        kept = {}
        for key, value in data.items():
            inner = [steps[1:] for steps in wrong if steps and steps[0] == key]
            if () not in inner:
                kept[key] = _without(value, inner)
        return kept
    if isinstance(data, list):
        items = [[steps[1:] for steps in wrong if steps and steps[0] == at] for at in range(len(data))]
        return [_without(item, inner) for item, inner in zip(data, items, strict=True) if () not in inner]
    return data
