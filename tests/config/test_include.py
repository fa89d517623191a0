"""Included files: which are read, in which order, and how their problems are reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, summaries
from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.include import MAX_INCLUDED_FILES, IncludeError, match_files
from wsbridge.config.load import LoadedConfig, load_file
from wsbridge.registry import CONFIG_REGISTRY

MAIN = "include: [conf.d/*.yaml]\n" + LISTENERS


def route(name: str, path: str = "") -> str:
    """Write one route as an included file has it."""
    match = f"match: {{path: {path or '/' + name}}}"
    return f"routes:\n  {name}:\n    {match}\n    backend: tcp://10.0.0.5:5900\n    auth: none\n"


def load(folder: Path, main: str = MAIN, **environ: str) -> LoadedConfig:
    """Load wsbridge.yaml of a directory, whose conf.d exists."""
    (folder / "wsbridge.yaml").write_text(main)
    return load_file(folder / "wsbridge.yaml", CONFIG_REGISTRY, environ)


def problems(folder: Path, main: str = MAIN, **environ: str) -> list[Problem]:
    """Give the problems of one that cannot be used, with the names of files below the directory."""
    with pytest.raises(ConfigError) as caught:
        load(folder, main, **environ)
    return caught.value.problems


@pytest.fixture
def conf_d(tmp_path: Path) -> Path:
    """Make an empty directory for included files, beside the file that includes them."""
    folder = tmp_path / "conf.d"
    folder.mkdir()
    return folder


def test_routes_follow_those_of_the_file_in_the_byte_order_of_names(conf_d: Path) -> None:
    """The first match wins, so the order of the files is defined; each file is read once."""
    for name in ("b.yaml", "a.yaml", "B.yaml", "10.yaml", "9.yaml", "é.yaml", "z.yaml"):
        (conf_d / name).write_text(route(f"r{os.fsencode(name).hex()}"))
    (conf_d / "skipped.yml").write_text("not: valid\n")
    loaded = load(conf_d.parent, "include: [conf.d/z.yaml, conf.d/*.yaml]\n" + LISTENERS + route("vnc"))

    names = ["z.yaml", "10.yaml", "9.yaml", "B.yaml", "a.yaml", "b.yaml", "é.yaml"]
    assert list(loaded.config.routes) == ["vnc", *(f"r{os.fsencode(name).hex()}" for name in names)]
    assert loaded.included == [str(conf_d / name) for name in names]


def test_listeners_and_relative_paths(conf_d: Path) -> None:
    """Included files have listeners, too; relative paths begin at the directory of the main file everywhere."""
    (conf_d / "a.yaml").write_text("listeners: {more: {bind: 'unix:more.sock'}}\n" + route("a"))
    config = load(conf_d.parent).config
    assert config.listeners["more"].bind.path == str(conf_d.parent / "more.sock")
    assert list(config.listeners) == ["web", "more"]


def test_what_no_pattern_matches(conf_d: Path) -> None:
    """Hidden files, leftovers, directories and the file itself are skipped; no match at all is valid."""
    for name in (".hidden.yaml", "a.yaml~", "#a.yaml", "a.yaml.bak", "a.yaml.dpkg-old", ".#a.yaml"):
        (conf_d / name).write_text("not: valid\n")
    (conf_d / "folder.yaml").mkdir()
    loaded = load(conf_d.parent, "include: [conf.d/*, '*.yaml', none/*.yaml]\n" + LISTENERS + ROUTES)
    assert loaded.included == []


def test_a_file_can_be_named(conf_d: Path) -> None:
    """Without a pattern it is read whatever its name; without a list, too; comments alone are valid."""
    (conf_d / ".a").write_text(route("a"))
    (conf_d / "b").write_text("# nothing\n")
    assert list(load(conf_d.parent, f"include: [{conf_d}/.a, conf.d/b]\n{LISTENERS}").config.routes) == ["a"]
    assert list(load(conf_d.parent, f"include: conf.d/.a\n{LISTENERS}").config.routes) == ["a"]
    assert list(load(conf_d.parent, f'include: "${{D}}/.a"\n{LISTENERS}', D="conf.d").config.routes) == ["a"]


def test_problems_name_the_file_line_and_column(conf_d: Path) -> None:
    """Those of values, of keys, and those between sections, in the order of the files."""
    (conf_d / "a.yaml").write_text(route("a").replace("match", "mtach"))
    (conf_d / "b.yaml").write_text(route("b", "/c") + route("c").removeprefix("routes:\n"))
    (conf_d / "c.yaml").write_text(route("d").replace("10.0.0.5", "${NO}"))
    found = problems(
        conf_d.parent, MAIN + "timeouts: {idle: 1}\nroutes: {x: {match: {path: /c}, respond: 200, auth: none}}\n"
    )

    assert [(Path(one.file).name, one.line, one.column, one.code, one.setting) for one in found] == [
        ("wsbridge.yaml", 3, 18, "E012", "timeouts.idle"),
        ("a.yaml", 3, 5, "E010", "routes.a.mtach"),
        ("b.yaml", 7, 5, "E021", "routes.c.match"),
        ("c.yaml", 4, 14, "E005", "routes.d.backend"),
    ]
    assert found[1].source == "    mtach: {path: /a}"
    (conf_d / "a.yaml").unlink()
    (conf_d / "c.yaml").unlink()
    (one,) = problems(conf_d.parent)
    assert one.text().startswith(f'{conf_d}/b.yaml:7:5: routes.c.match: unreachable route: the route "b" above')


def test_names_are_defined_once(conf_d: Path) -> None:
    """The second definition is the error, and names the first."""
    (conf_d / "a.yaml").write_text(route("vnc"))
    (conf_d / "b.yaml").write_text(route("b") + "listeners: {web: {bind: '127.0.0.1:9'}}\n")
    (conf_d / "c.yaml").write_text(route("b"))
    found = problems(conf_d.parent, MAIN + ROUTES)
    assert [(Path(one.file).name, one.code, one.setting) for one in found] == [
        ("a.yaml", "E004", "routes.vnc"),
        ("b.yaml", "E004", "listeners.web"),
        ("c.yaml", "E004", "routes.b"),
    ]
    assert found[0].message == f"duplicate name, first defined in {conf_d.parent}/wsbridge.yaml, line 3"
    assert found[2].message == f"duplicate name, first defined in {conf_d}/b.yaml, line 2"


@pytest.mark.parametrize(
    "key", ["log: {level: debug}", "include: [x.yaml]", "timeouts: {idle: 1h}", "defaults: {auth: none}"]
)
def test_only_listeners_and_routes_are_included(conf_d: Path, key: str) -> None:
    """Everything else belongs into the main file; files that are included include none."""
    (conf_d / "a.yaml").write_text(route("a") + key + "\n")
    (one,) = problems(conf_d.parent)
    assert (Path(one.file).name, one.line, one.code) == ("a.yaml", 6, "E010")
    assert one.message == "an included file has only listeners and routes"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("routes: [a]\n", (1, 9), "must be a mapping"),
        ("- a\n", (1, 1), "must be a mapping"),
        ("routes: {a\n", (1, 9), "not YAML"),
        ("a: b\n---\nc: d\n", (2, 1), "second document"),
    ],
)
def test_files_of_another_form(conf_d: Path, text: str, place: tuple[int, int], words: str) -> None:
    """What is no mapping of listeners and routes is an error in that file."""
    (conf_d / "a.yaml").write_text(text)
    one = problems(conf_d.parent)[-1]
    assert (Path(one.file).name, (one.line, one.column)) == ("a.yaml", place)
    assert words in one.message


@pytest.mark.parametrize(
    ("pattern", "code", "words"),
    [
        ("gone.yaml", "E001", "gone.yaml cannot be read: No such file or directory"),
        ("conf.d/*/gone.yaml", "E001", "a/gone.yaml cannot be read: No such file or directory"),
        ("wsbridge.yaml/*", "E001", "wsbridge.yaml cannot be read: Not a directory"),
        ("conf.d", "E001", "conf.d cannot be read: Is a directory"),
        ("fifo", "E001", "fifo is not a regular file"),
        ("latin", "E001", "latin is not UTF-8: byte 0xe4 in line 2"),
        ("large", "E001", "large is too large"),
        ("open", "E007", "every user of this host can change"),
        ("shared/a.yaml", "E007", "every user of this host can replace"),
        ("link.yaml", "E007", "every user of this host can replace"),
    ],
)
def test_files_that_cannot_be_included(conf_d: Path, pattern: str, code: str, words: str) -> None:
    """The error is at the entry that names them."""
    folder = conf_d.parent
    (conf_d / "a").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "latin").write_bytes(b"a: b\nc: \xe4\n")
    (folder / "large").write_text("#" * 16 * 1024 * 1024)
    (folder / "open").write_text("")
    (folder / "open").chmod(0o646)
    (folder / "shared").mkdir()
    (folder / "shared" / "a.yaml").write_text("")
    (folder / "shared").chmod(0o777)
    (folder / "link.yaml").symlink_to("shared/a.yaml")
    (one,) = problems(folder, f"include:\n  - conf.d/*.yaml\n  - '{pattern}'\n" + LISTENERS + ROUTES)
    assert (Path(one.file).name, one.line, one.column, one.code, one.setting) == (
        "wsbridge.yaml",
        3,
        5,
        code,
        "include[1]",
    )
    assert words in one.message


def test_the_size_of_all_files_is_bounded(conf_d: Path) -> None:
    """Together they may not be larger than one file."""
    for name in "abcd":
        (conf_d / f"{name}.yaml").write_text("#" * 5 * 1024 * 1024)
    (one,) = problems(conf_d.parent)
    assert "d.yaml is too large: the file and all that it includes may have 16MiB" in one.message


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of reading a directory of millions."""
    assert MAX_INCLUDED_FILES == 10_000
    monkeypatch.setattr("wsbridge.config.include.MAX_INCLUDED_FILES", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(IncludeError, match="more than 3 files"):
        match_files("*", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every directory")
def test_a_directory_that_cannot_be_read_is_no_empty_match(conf_d: Path) -> None:
    """Routes do not vanish because of a mode."""
    conf_d.chmod(0o300)
    (one,) = problems(conf_d.parent)
    assert one.setting == "include[0]"
    assert "cannot be read: Permission denied" in one.message


def test_secrets_in_included_files_are_not_shown(conf_d: Path) -> None:
    """Neither source lines nor values of variables, of whichever file."""
    text = route("a").replace("tcp://10.0.0.5:5900", "{url: 'wss://a/?token=geheim', headers: {Cookie: geheim}, x: 1}")
    (conf_d / "a.yaml").write_text(text)
    (conf_d / "b.yaml").write_text("listeners: {b: {bind: '${HOST}:8080'}}\n" + route("b"))
    for main in (MAIN, MAIN.replace("127.0.0.1", "'${HOST}'").replace("'${HOST}':8080", "'${HOST}:8080'")):
        found = problems(conf_d.parent, main, HOST="127.0.0.1")
        assert {"E010 routes.a.backend.x", "E023 listeners.b.bind"} == set(summaries(found)) - {"W013 routes.a.backend"}
        shown = "\n".join(one.text() + one.source for one in found)
        assert "geheim" not in shown
        assert "127.0.0.1" not in shown.replace("127.0.0.1", "", shown.count("bind: 127.0.0.1"))


def test_included_files_are_not_served(conf_d: Path) -> None:
    """A directory with one of them is no directory of files: like that of the file itself."""
    (conf_d / "a.yaml").write_text(f"routes: {{r: {{match: any, files: {conf_d}, auth: none}}}}\n")
    (one,) = problems(conf_d.parent)
    assert one.code == "E036"
