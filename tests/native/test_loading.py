"""The extension module is used only where it is the one of this version."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import wsbridge
from wsbridge import native

ROOT = Path(wsbridge.__file__).parents[1]


@pytest.fixture(autouse=True)
def first_time():
    """What an earlier import found is forgotten, before and after."""
    native.find_extension.cache_clear()
    yield
    native.find_extension.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, version: str | None) -> ModuleType:
    """Put a module in the place of the extension."""
    module = ModuleType(native.EXTENSION)
    if version is not None:
        module.__version__ = version
    monkeypatch.setitem(sys.modules, native.EXTENSION, module)
    return module


def test_the_one_of_this_version_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is wrong then."""
    module = installed(monkeypatch, wsbridge.__version__)

    assert native.load() is module
    assert native.find_extension() == native.Extension(module)
    assert native.required_but_missing() == ""


@pytest.mark.parametrize("version", ["0.0.1", None])
def test_one_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """A build that was left over speaks another language; both versions are named."""
    installed(monkeypatch, version)

    found = native.find_extension()

    assert native.load() is None
    assert found.is_broken
    assert f"version {version or 'unknown'}, and wsbridge of {wsbridge.__version__}" in found.problem
    assert native.required_but_missing().startswith("the native engine cannot be used: the installed one is of version")


def test_one_that_is_older_than_its_source_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a checkout that was updated it lacks what Python calls."""
    module = installed(monkeypatch, wsbridge.__version__)
    module.__file__ = str(tmp_path / "_native.abi3.so")
    source = tmp_path / "src" / "tls" / "reading.rs"
    source.parent.mkdir(parents=True)
    monkeypatch.setattr(native, "SOURCE", tmp_path / "src")
    for path in (Path(module.__file__), source):
        path.touch()
        os.utime(path, (1_000_000, 1_000_000))
    assert native.load() is module

    os.utime(source, (1_000_001, 1_000_001))
    native.find_extension.cache_clear()

    found = native.find_extension()
    assert (found.module, found.is_broken) == (None, True)
    assert found.problem == "it is older than its source: install wsbridge again"


def test_none_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what installs it."""
    monkeypatch.setitem(sys.modules, native.EXTENSION, None)

    found = native.find_extension()

    assert (found.module, found.is_broken) == (None, False)
    assert "docs/install.md" in found.problem
    assert native.required_but_missing().startswith("the native engine is not installed: ")


def test_one_that_cannot_be_loaded_keeps_nothing_from_starting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as one for another C library: what the loader says is passed on."""
    (tmp_path / "_native.abi3.so").write_bytes(b"\x7fELF, but not much of it")
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, native.EXTENSION, raising=False)

    found = native.find_extension()

    assert (found.module, found.is_broken) == (None, True)
    assert found.problem.startswith("it cannot be loaded: ")
    assert "_native.abi3.so" in found.problem


def test_the_crate_has_the_version_of_the_package() -> None:
    """In its manifest, and in the lock file, which cargo would otherwise have to change."""
    crate = ROOT / "wsbridge" / "native"
    package = tomllib.loads((crate / "Cargo.toml").read_text())["package"]
    locked = tomllib.loads((crate / "Cargo.lock").read_text())["package"]
    assert package["version"] == wsbridge.__version__
    assert [one["version"] for one in locked if one["name"] == package["name"]] == [wsbridge.__version__]


def test_it_is_installed_where_cargo_is() -> None:
    """A build leaves the extension out when it fails, and says so only where pip prints it: here that is a failure."""
    if shutil.which("cargo") is None:
        pytest.skip("there is no cargo here: the native engine is not tested at all")
    assert native.load() is not None, f"{native.find_extension().problem}: pip install -C engine=native -e ."
