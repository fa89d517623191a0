"""Files and directories that the configuration names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.config.loading import LISTENERS, ROUTES, wrong
from wsbridge.config.base import LoadContext, Registry, Section
from wsbridge.config.load import load_file
from wsbridge.config.paths import DirectoryPath, FilePath, FutureDirectoryPath, UncheckedPath, absolute_path
from wsbridge.config.urls import read_target
from wsbridge.registry import CONFIG_REGISTRY


def test_relative_paths_begin_at_the_directory_of_the_file(tmp_path: Path) -> None:
    """A path without a slash before it is looked for beside the configuration file."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "w.yaml").write_text(LISTENERS + "routes: {p: {match: any, files: pages/../pages, auth: none}}\n")
    assert load_file(tmp_path / "w.yaml", CONFIG_REGISTRY, {}).config.routes["p"].files == tmp_path / "pages"


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory that is not there, or is a file, is an error at its place."""
    (tmp_path / "page").write_text("")
    for name, message in (("gone", "No such file or directory"), ("page", "Not a directory")):
        text = LISTENERS + f"routes: {{p: {{match: any, files: {name}, auth: none}}}}\n"
        (problem,) = wrong(text, folder=tmp_path)
        assert (problem.setting, problem.message.rpartition(": ")[2]) == ("routes.p.files", message)


def test_paths_that_need_not_be_there(tmp_path: Path) -> None:
    """Directories of sockets come and go with their services; the root of all is none."""

    class Places(Section):
        """Two paths of such kinds."""

        place: FutureDirectoryPath
        either: UncheckedPath

    found = Places.model_validate({"place": "gone", "either": "gone/t"}, context=context(tmp_path))
    assert (found.place, found.either) == (tmp_path / "gone", tmp_path / "gone" / "t")
    with pytest.raises(ValidationError, match="write a directory below it"):
        Places.model_validate({"place": "/x/..", "either": "t"}, context=context(tmp_path))


def context(folder: Path, *, files: bool = True) -> LoadContext:
    """Give the context of a file in a directory."""
    return LoadContext(folder, {}, Registry(), check_files=files)


def test_the_parent_of_a_link_is_that_of_what_it_leads_to(tmp_path: Path) -> None:
    """As for every other program that opens the path; a link at its end stays one, since it may be replaced later."""
    (tmp_path / "releases" / "7").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/7")
    (tmp_path / "releases" / "users").symlink_to("elsewhere")
    assert absolute_path("current/../users", context(tmp_path)) == tmp_path / "releases" / "users"
    assert read_target("unix:current/../s", tmp_path).path == str(tmp_path / "releases" / "s")


@pytest.mark.parametrize(
    ("written", "path"), [("x", "/conf/x"), ("../x", "/x"), ("./a/./x", "/conf/a/x"), ("/x", "/x")]
)
def test_relative_paths(written: str, path: str) -> None:
    """They begin at the directory of the file; nothing of `.` and `..` is left."""
    assert absolute_path(written, context(Path("/conf"))) == Path(path)


def test_paths_of_code_begin_at_the_working_directory() -> None:
    """Where no file is read, and a path that is one already stays."""
    assert absolute_path("x", None) == Path.cwd() / "x"
    assert absolute_path(Path("x"), None) == Path("x")


@pytest.mark.parametrize("written", ["", "a\0b", "-----BEGIN PRIVATE KEY-----\nMII"])
def test_what_is_no_path(written: str) -> None:
    """The system would refuse it, too."""
    with pytest.raises(ValueError, match="is not the path of a file"):
        absolute_path(written, None)


class Holder(Section):
    """A section with a file and a directory."""

    file: FilePath = Path(__file__)
    folder: DirectoryPath = Path("/")


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("file", "gone", "gone cannot be read: No such file or directory"),
        ("file", "folder", "folder is a directory, not a file"),
        ("folder", "gone", "gone cannot be read as a directory: No such file or directory"),
        ("folder", "file", "file cannot be read as a directory: Not a directory"),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_path(tmp_path: Path, key: str, name: str, said: str) -> None:
    """A file is opened and a directory listed once, before anything is served; without that only the form counts."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({key: name}, context=context(tmp_path))

    assert f"{tmp_path}/{said}" in str(caught.value)
    assert Holder.model_validate({key: name}, context=context(tmp_path, files=False))
    assert Holder.model_validate({key: {"file": "file", "folder": "folder"}[key]}, context=context(tmp_path))


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        (LISTENERS + ROUTES + "audit: {file: %s}\n", "audit.file"),
        (LISTENERS + "routes: {r: {match: any, auth: none, files: %s}}\n", "routes.r.files"),
        (
            LISTENERS + "routes: {r: {match: any, auth: none, backend: {url: 'tls://a:1', ca: %s}}}\n",
            "routes.r.backend.ca",
        ),
        (
            "listeners: {l: {bind: 127.0.0.1:1, tls: {certificates: [{cert: %s, key: c}]}}}\n" + ROUTES,
            "listeners.l.tls.certificates[0].cert",
        ),
        (
            LISTENERS + "routes: {r: {match: any, auth: none, backend: {url: ws://a, headers: {X: {file: %s}}}}}\n",
            "routes.r.backend.headers.X.file",
        ),
    ],
)
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "file/x", "loop/x", "fifo"])
def test_whatever_the_system_says_of_a_path_is_a_problem(text: str, setting: str, name: str, tmp_path: Path) -> None:
    """Names that are too long, files for directories, loops of links and FIFOs, which would block."""
    if setting == "audit.file" and name == "fifo":
        return  # its reader may come
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    problem = wrong(text % name, folder=tmp_path)[0]
    assert (problem.setting, problem.line > 0, len(problem.message) < 400) == (setting, True, True)


def test_paths_begin_at_the_link_to_a_configuration(tmp_path: Path) -> None:
    """An update of a Kubernetes volume removes the directory that the link leads to; the files beside it stay."""
    for version in ("..1", "..2"):
        (tmp_path / version / "pages").mkdir(parents=True)
        (tmp_path / version / "w.yaml").write_text(LISTENERS + "routes: {p: {match: any, files: pages, auth: none}}\n")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("w.yaml", "pages"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = load_file(tmp_path / "w.yaml", CONFIG_REGISTRY).config.routes["p"].files
    assert files == tmp_path / "pages"
