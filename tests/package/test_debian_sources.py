"""The files of the Debian package agree with the source; the package itself is tried in `test_debian`."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.package.builds import ROOT
from wsbridge import __version__
from wsbridge.config.load import load_text
from wsbridge.registry import CONFIG_REGISTRY

DEBIAN = ROOT / "package" / "debian"
SCRIPTS = ["build.sh", "postinst", "prerm", "postrm"]


def test_its_version_is_that_of_the_program():
    """The changelog has an entry for it, on top."""
    found = re.match(r"wsbridge \((.+)-\d+\) \w+; urgency=\w+\n", (DEBIAN / "changelog").read_text())
    assert found
    assert found[1] == __version__


def test_the_documentation_names_files_that_are_built():
    """With this version in their names."""
    page = (ROOT / "docs" / "install.md").read_text()
    names = set(re.findall(r"dist/([\w.-]+\.(?:deb|whl|tar\.gz))", page))
    revision = (DEBIAN / "changelog").read_text().partition("(")[2].partition(")")[0]
    wheels = {f"wsbridged-{__version__}-{tag}.whl" for tag in ("py3-none-any", "cp311-abi3-linux_x86_64")}
    assert names == {f"wsbridge_{revision}_amd64.deb", *wheels, f"wsbridged-{__version__}.tar.gz"}


def test_a_wheel_of_another_version_is_rejected(tmp_path):
    """So that the changelog is not forgotten."""
    (tmp_path / "wsbridged-9.9.9-py3-none-any.whl").touch()
    build = [DEBIAN / "build.sh", tmp_path / "wsbridged-9.9.9-py3-none-any.whl", tmp_path]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is not version {__version__} of package/debian/changelog" in done.stderr


def test_the_libraries_are_those_that_the_source_requires():
    """`make lock` writes package/requirements.txt."""
    lines = (ROOT / "package" / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    locked = {}
    for line in lines:
        requirement = Requirement(line.partition(" --hash=")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert "--hash=sha256:" in line
        locked[requirement.name] = Version(pin.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["auth"]):
        requirement = Requirement(text)
        assert locked.get(requirement.name.lower()), f"{text} is missing: make lock"
        assert locked[requirement.name.lower()] in requirement.specifier, f"{text}: make lock"


def test_its_configuration_is_valid_and_opens_no_port():
    """A new installation starts, without a warning, and other hosts cannot reach it."""
    text = (DEBIAN / "wsbridge.yaml").read_text()
    loaded = load_text(text, file="wsbridge.yaml", registry=CONFIG_REGISTRY, check_files=False)
    assert not loaded.warnings
    assert [listener.bind.kind for listener in loaded.config.listeners.values()] == ["unix"]

    examples = re.sub(r"^  # ( *\S.*)$", r"  \1", text, flags=re.MULTILINE)
    loaded = load_text(examples, file="wsbridge.yaml", registry=CONFIG_REGISTRY, check_files=False)
    assert set(loaded.config.routes) == {"health", "office-vnc"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_parsed(name):
    """By sh, and they can be run."""
    assert (DEBIAN / name).stat().st_mode & 0o111
    subprocess.run(["sh", "-n", DEBIAN / name], check=True)


def test_no_page_names_the_package_of_somebody_else():
    """On the Python Package Index `wsbridge` is another program."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "systemd").rglob("*.*")]
    for page in map(Path.read_text, pages):
        assert not re.search(r"(pip|pipx|uv tool|uv pip) install (-\S+ )*'?wsbridge\b(?!d)", page)
