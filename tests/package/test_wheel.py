"""The wheel and the source distribution: what is in them, and that they work without the source."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.clients.program import PATIENCE, Program
from tests.package import builds
from tests.package.builds import ROOT
from wsbridge import __version__

EXTENSION = "wsbridge/native/_native.abi3.so"
NOT_INSTALLED = r"__pycache__|^wsbridge/native/(src|target|Cargo\.|.*\.so$)"
"""Files of the package in the source that a wheel does not have, or not these."""
DATA = f"wsbridged-{__version__}.data/data/share/"
SHARED = {
    *("man/man1/wsbridge.1", "man/man5/wsbridge.yaml.5"),
    *("bash-completion/completions/wsbridge", "zsh/site-functions/_wsbridge"),
    *("fish/vendor_completions.d/wsbridge.fish", "doc/wsbridge/README.md", "doc/wsbridge/CHANGELOG.md"),
    *("doc/wsbridge/conf/wsbridge.yaml", "doc/wsbridge/systemd/wsbridge.service", "doc/wsbridge/docs/commands.md"),
    *("doc/wsbridge/systemd/drop-ins/socket-activation.conf", "doc/wsbridge/conf/wsbridge.schema.json"),
}


def files(wheel):
    """Return the files of a wheel, by name, without the list of their hashes."""
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_has_all_files(wheel):
    """The package is whole, with the page of the demo and the mark of its types; so are the other files."""
    found = files(wheel)
    paths = {str(path.relative_to(ROOT)): path for path in (ROOT / "wsbridge").rglob("*.*")}
    package = {name: path.read_bytes() for name, path in paths.items() if not re.search(NOT_INSTALLED, name)}

    assert {name: text for name, text in found.items() if name.startswith("wsbridge/") and name != EXTENSION} == package
    assert {"wsbridge/py.typed", "wsbridge/demo/page/index.html"} <= set(found)
    assert {DATA + name for name in SHARED} <= set(found)
    assert found[f"wsbridged-{__version__}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert all(name.startswith(("wsbridge/", f"wsbridged-{__version__}.")) for name in found)


def test_links_of_the_documentation_lead_to_files_of_the_wheel(wheel):
    """But for those to sources, such as the Containerfile, which are not installed."""
    found = files(wheel)
    pages = {name.removeprefix(DATA): text.decode() for name, text in found.items() if name.endswith(".md")}
    assert len(pages) > 20
    missing = set()
    for name, text in pages.items():
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            target = os.path.normpath(Path(name).parent / link)
            if not any(path.startswith(DATA + target) for path in found):
                missing.add(target.removeprefix("doc/wsbridge/"))
    assert missing <= {
        "wsbridge/__init__.py",
        "bench/README.md",
        "LICENSE",
        "Containerfile",
        "wsbridge/native/Cargo.lock",
        "tests/vectors/resume/README.md",
        "package/requirements.txt",
    }


def test_the_source_distribution_is_the_source(distributions):
    """It has the files of the tree, so that tests and packages can be made from it."""
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    assert {"Makefile", "LICENSE", "tests/packages.txt", "tests/conftest.py", "package/backend.py", "setup.py"} <= names
    assert {f"wsbridge/native/{name}" for name in ("Cargo.toml", "Cargo.lock", "src/lib.rs")} <= names
    assert not [name for name in names if name.endswith(".so") or "/target/" in name]
    assert {"systemd/wsbridge.service", "docs/commands.md", "conf/wsbridge.yaml", "bench/load.c"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("build", "."))]


def test_the_tree_and_the_source_distribution_give_the_same_wheel(distributions, wheel, tmp_path):
    """One wheel was built from the source distribution; one from the tree has the same files."""
    builds.build(builds.copy_source(tmp_path / "source"), tmp_path, "--wheel")
    (other,) = tmp_path.glob("*.whl")

    assert files(other) == files(wheel)


def test_an_installed_wheel_serves_the_demo(wheel, tmp_path):
    """In a new environment, from another directory: the command, its engine, its page, and the page's connection."""
    programs = builds.environment(tmp_path / "env", wheel)
    environ = {"PYTHONPATH": "", "PATH": os.defpath}
    where = "import wsbridge; print(wsbridge.__file__)"
    path = subprocess.run(
        [programs / "python", "-c", where], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    ).stdout
    assert path.startswith(str(tmp_path))
    version = subprocess.run(
        [programs / "wsbridge", "--version"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    ).stdout
    has_native = f"engine:  native {__version__}, masking in C\n" in version
    assert has_native if builds.HAS_CARGO else "engine:  python, masking in C; native not installed: " in version

    with Program(programs / "wsbridge", "demo", "--port", "0", cwd=tmp_path, env=environ) as demo:
        url = demo.line(r"The demo is at +(http://\S+)")[1]
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert b"wsbridge" in answer.read()
        origin = Origin(url.rstrip("/"))
        with connect(url.replace("http", "ws") + "ws", origin=origin, subprotocols=[Subprotocol("binary")]) as client:
            assert b"wsbridge demo service" in client.recv()
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(PATIENCE) == 0
    assert (tmp_path / "env/share/man/man1/wsbridge.1").exists()


@pytest.mark.soak
def test_installing_with_the_libraries_of_the_index(wheel, tmp_path):
    """What the wheel requires is enough, in an environment that has nothing else; `[auth]` adds bcrypt and PyJWT."""
    subprocess.run(["python3", "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[auth]"], check=True)
    check = [tmp_path / "env" / "bin" / "wsbridge", "check", "--no-files", ROOT / "conf" / "wsbridge.yaml"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run([python, "-m", "pip", "check"], check=True)
