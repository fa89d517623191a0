"""The text of a configuration, in one file or in several: its values, and where each of them is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsbridge.config.base import Issue, KeyPath
from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.include import INCLUDED_SECTIONS, IncludeError, match_files, read_include_pattern, read_included
from wsbridge.config.redaction import KeyTable
from wsbridge.config.yaml import MAX_CONFIG_BYTES, Document, YamlData, compose


@dataclass(slots=True)
class Sources:
    """The documents of a configuration.

    Attributes:
        main: The file itself.
        included: Those that it includes, in their order.
        files: The paths of those.
        data: The values of all.
        problems: Errors that do not hide what follows, with the path of what they make unusable.
    """

    main: Document
    included: list[Document] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    data: YamlData = field(default_factory=dict)
    problems: list[tuple[KeyPath, Problem]] = field(default_factory=list)
    _owners: dict[KeyPath, Document] = field(default_factory=dict)  # of listeners and routes in included files

    def to_problem(self, issue: Issue) -> Problem:
        """Add the place to an issue."""
        return self._owners.get(issue.key_path[:2], self.main).to_problem(issue)

    def locate(self, path: KeyPath) -> tuple[str, int]:
        """Return the file and the line of a setting."""
        document = self._owners.get(path[:2], self.main)
        return document.file, document.locate(path)[0].line

    @property
    def references(self) -> dict[KeyPath, str]:
        """Texts with `${`, as written, by their paths."""
        found = dict(self.main.references)
        for document in self.included:
            owned = ((path, text) for path, text in document.references.items())
            found |= {path: text for path, text in owned if self._owners.get(path[:2]) is document}
        return found

    def sort(self, problems: list[Problem]) -> list[Problem]:
        """Sort problems in the order of the files, each once."""
        order = {document.file: at for at, document in enumerate([self.main, *self.included])}
        return sorted(
            dict.fromkeys(problems), key=lambda problem: (order.get(problem.file, 0), problem.line, problem.column)
        )

    def add(self, document: Document, data: YamlData) -> None:
        """Add the listeners and routes of an included file."""
        self.included.append(document)
        for key, section in data.items() if isinstance(data, dict) else ():
            if key not in INCLUDED_SECTIONS:
                text = f"an included file has only {' and '.join(INCLUDED_SECTIONS)}"
                self._report(document, Issue((key,), text, "E010", at_key=True))
            elif not isinstance(section, dict):
                self._report(document, Issue((key,), "must be a mapping", "E012"))
            else:
                self._add_section(document, key, section)

    def _add_section(self, document: Document, key: str, section: Mapping[str, YamlData]) -> None:
        merged = self.data.setdefault(key, {}) if isinstance(self.data, dict) else None
        if not isinstance(merged, dict):  # reported as such
            return
        for name, value in section.items():
            if name not in merged:
                merged[name] = value
                self._owners[key, name] = document
                continue
            first = self._owners.get((key, name), self.main)
            position, _ = first.locate((key, name), at_key=True)
            text = f"duplicate name, first defined in {first.file}, line {position.line}"
            self._report(document, Issue((key, name), text, "E004", at_key=True))

    def _report(self, document: Document, issue: Issue) -> None:
        self.problems.append((issue.key_path, document.to_problem(issue)))


def read_sources(
    text: str, file: str, keys: KeyTable, environ: Mapping[str, str], directory: Path, *, check_mode: bool = True
) -> Sources:
    """Parse a text and the files that it includes.

    Args:
        text: YAML.
        file: How problems call it.
        keys: Which keys hold secrets.
        environ: For `${NAME}`.
        directory: Where the paths of included files begin.
        check_mode: Whether included files must be protected from changes by others.

    Raises:
        ConfigError: A text is not YAML, or a file cannot be included.
    """
    main = compose(text, file, keys)
    data, problems = main.to_data(environ)
    sources = Sources(main, data=data, problems=[*main.yaml_problems, *problems])
    patterns = data.get("include") if isinstance(data, dict) else None
    if isinstance(patterns, str):
        patterns = [patterns]
    fatal: list[Problem] = []
    if isinstance(patterns, list):
        reader = _Reader(sources, file, keys, environ, directory, len(text.encode("utf-8", "replace")), check_mode)
        for at, written in enumerate(patterns):
            try:
                pattern = read_include_pattern(written)
            except ValueError:  # reported as the value of a key
                continue
            fatal += reader.read(pattern, at)
    if fatal:
        raise ConfigError(sources.sort([*(problem for _, problem in sources.problems), *fatal]))
    variables = {name: value for one in [main, *sources.included] for name, value in one.redactor.variables.items()}
    for document in (main, *sources.included):
        document.redactor.variables = variables
    return sources


class _Reader:
    """Reads included files into the sources, each once."""

    def __init__(
        self,
        sources: Sources,
        file: str,
        keys: KeyTable,
        environ: Mapping[str, str],
        directory: Path,
        used_bytes: int,
        check_mode: bool,
    ) -> None:
        self._sources = sources
        self._keys = keys
        self._environ = environ
        self._directory = directory
        self._left = MAX_CONFIG_BYTES - used_bytes
        self._check_mode = check_mode
        self._shown_directory = Path(file).parent
        self._seen = {os.path.realpath(file)}

    def read(self, pattern: str, at: int) -> list[Problem]:
        """Read the files of one pattern; return what hides the rest."""
        path: KeyPath = ("include", at)
        try:
            names = match_files(pattern, self._directory)
        except IncludeError as error:
            return [self._sources.main.to_problem(Issue(path, str(error), error.code))]
        found: list[Problem] = []
        for name in names:
            real = os.path.realpath(self._directory / name)
            if real in self._seen:
                continue
            self._seen.add(real)
            try:
                self._read_file(name)
            except IncludeError as error:
                found.append(self._sources.main.to_problem(Issue(path, str(error), error.code)))
            except ConfigError as error:
                found += error.problems
        return found

    def _read_file(self, name: Path) -> None:
        text = read_included(self._directory / name, self._left, check_mode=self._check_mode)
        self._left -= len(text.encode())
        self._sources.files.append(self._directory / name)
        document = compose(text, str(self._shown_directory / name), self._keys, may_be_empty=True)
        data, problems = document.to_data(self._environ)
        self._sources.problems += [*document.yaml_problems, *problems]
        self._sources.add(document, data)
