"""The native engine in builds: with cargo, and without one that can compile it, where installing works as well."""

from __future__ import annotations

import os
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.package import builds
from tests.package.builds import ROOT
from tests.package.test_wheel import EXTENSION
from wsbridge import __version__

MINIMUM = tomllib.loads((ROOT / "wsbridge/native/Cargo.toml").read_text())["package"]["rust-version"]
PURE = f"wsbridged-{__version__}-py3-none-any.whl"
needs_cargo = pytest.mark.skipif(not builds.HAS_CARGO, reason="there is no cargo here")

CARGO = """#!/bin/sh
test "$1" = --version || echo "cargo: $1: no crate today" >&2
exit 101
"""
RUSTC = """#!/bin/sh
printf 'rustc {0} (abc 2022-01-01)\\nbinary: rustc\\nhost: x86_64-unknown-linux-gnu\\nrelease: {0}\\n'
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source."""
    return builds.copy_source(tmp_path_factory.mktemp("source") / "source")


@pytest.fixture
def tools(tmp_path):
    """Return a PATH that has these programs, and none of Rust beside them."""

    def make(**programs):
        folder = tmp_path / "tools"
        folder.mkdir()
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        found = [path for path in os.environ["PATH"].split(":") if not (Path(path) / "cargo").exists()]
        return {"PATH": ":".join((str(folder), *found)), "CARGO_TARGET_DIR": str(tmp_path / "target")}

    return make


def names(wheel):
    """Return the files of a wheel."""
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


@needs_cargo
def test_a_wheel_has_the_extension_where_cargo_is(wheel):
    """It is tagged for this platform, and for all versions of Python that are supported; the sources are not in it."""
    python, abi, platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("cp311", "abi3")
    assert platform.startswith("linux_")
    assert EXTENSION in names(wheel)


@needs_cargo
def test_a_wheel_names_no_directory_of_its_build(wheel):
    """So that each build has the same bytes, and a panic does not print the home of a user."""
    with zipfile.ZipFile(wheel) as opened:
        extension = opened.read(EXTENSION)
    homes = {str(Path.home()), os.environ.get("CARGO_HOME", ""), str(ROOT)} - {"", "/"}
    assert not [path for path in homes if f"{path}/".encode() in extension]
    assert b"/cargo/registry/" in extension


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, "there is no cargo"),
        (
            {"cargo": CARGO, "rustc": RUSTC.format("1.56.1")},
            f"Rust 1.56.1 does not match extension requirement >={MINIMUM}",
        ),
        pytest.param(
            {"cargo": CARGO, "rustc": RUSTC.format("1.95.0")}, "cargo: metadata: no crate today", marks=pytest.mark.soak
        ),
    ],
    ids=["none", "too old", "fails"],
)
def test_without_a_cargo_that_can_build_it(source, tools, tmp_path, programs, said):
    """The wheel is one of pure Python, for all platforms; the build says why."""
    done = builds.run_build(source, tmp_path / "dist", "--wheel", environ=tools(**programs))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Building without the native engine: " in done.stderr
    assert said in done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [PURE]
    assert not [name for name in names(tmp_path / "dist" / PURE) if name.endswith((".so", ".rs", ".toml"))]


@needs_cargo
@pytest.mark.parametrize("namespace", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_without_a_network(source, tmp_path, namespace):
    """Cargo cannot download crates that it does not have: Python relays."""
    if namespace and os.geteuid() != 0:
        pytest.skip("needs root")
    environ = {"CARGO_HOME": str(tmp_path / "cargo"), "CARGO_TARGET_DIR": str(tmp_path / "target")}
    environ |= {"RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))}
    environ |= {} if namespace else {"CARGO_NET_OFFLINE": "true"}
    prefix = ["unshare", "--net"] if namespace else []

    done = builds.run_build(source, tmp_path / "dist", "--wheel", environ=environ, prefix=prefix)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Building without the native engine: " in done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [PURE]


def test_requiring_it(source, tools, tmp_path):
    """`-C engine=native` fails with the reason rather than installing something slower."""
    done = builds.run_build(source, tmp_path / "dist", "--wheel", "-Cengine=native", environ=tools())

    assert done.returncode != 0
    assert "there is no cargo" in done.stdout + done.stderr
    assert not list(tmp_path.glob("dist/*"))


def test_an_engine_that_is_none(source, tmp_path):
    """The message has those that are."""
    done = builds.run_build(source, tmp_path / "dist", "--wheel", "-Cengine=rust")

    assert done.returncode != 0
    assert "engine=rust: must be one of auto, python, native" in done.stdout + done.stderr


@pytest.mark.soak
def test_leaving_it_out(source, tmp_path):
    """`-C engine=python` does not even look for cargo."""
    done = builds.run_build(source, tmp_path / "dist", "--wheel", "-Cengine=python")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "native engine" not in done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [PURE]


@pytest.mark.soak
def test_what_is_left_of_another_build_is_not_used(tools, tmp_path):
    """An extension in the source or in build/ gets neither into a wheel nor into an editable installation."""
    source = builds.copy_source(tmp_path / "source")
    stale = source / EXTENSION
    stale.write_bytes(b"stale")
    left = source / "build" / "lib" / EXTENSION
    left.parent.mkdir(parents=True)
    left.write_bytes(b"stale")
    environ = tools()

    assert builds.run_build(source, tmp_path / "dist", "--wheel", environ=environ).returncode == 0
    assert EXTENSION not in names(tmp_path / "dist" / PURE)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"stale")
    install_editable(source, tmp_path / "env", environ)
    assert not stale.exists()


@pytest.mark.soak
@needs_cargo
def test_an_editable_installation_has_it_in_the_source(tmp_path):
    """And names it so that all versions of Python load it."""
    source = builds.copy_source(tmp_path / "source")

    python = install_editable(source, tmp_path / "env", {"CARGO_TARGET_DIR": str(builds.TARGET)})

    assert [path.name for path in source.glob("wsbridge/native/*.so")] == [Path(EXTENSION).name]
    load = "from wsbridge import native; print(native.load().__file__)"
    done = subprocess.run([python, "-c", load], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str(source / EXTENSION)


def install_editable(source, directory, environ):
    """Install in place, in a new environment with the libraries of this one; return its Python."""
    python = builds.empty_environment(directory) / "python"
    # That of this environment, which venv of Python 3.11 hides by an old one.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-e", source], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_the_script_for_the_crate_says_that_it_does_nothing_without_cargo(tools):
    """`make test` succeeds then, but not in silence."""
    script = ROOT / "tests" / "native.sh"
    environ = tools(cargo="#!/bin/sh\necho 'cargo 1.56.1 (abc 2022-01-01)'\n")
    for path, why in ((environ["PATH"].partition(":")[2], "there is no cargo"), (environ["PATH"], "version 1.56.1")):
        for what in ("lint", "test", "fuzz"):
            done = subprocess.run([script, what], capture_output=True, text=True, check=True, env={"PATH": path})
            assert why in done.stderr
            assert "the native engine is neither built nor tested" in done.stderr
