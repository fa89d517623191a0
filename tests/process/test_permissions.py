"""Files that the user of the process may not read or write."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import contextlib, os, sys
from wsbridge.cli.main import main
from wsbridge.cli.run import load_config
from wsbridge.config.errors import ConfigError
with contextlib.suppress(ConfigError):
    load_config(sys.argv[-1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.argv[0] = "wsbridge"
main()
"""
"""Runs wsbridge without privileges. Its modules are loaded before, for their files may be root's alone."""


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that every user may enter, with one in it that only root may."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "locked").mkdir()
        (path / "locked" / "file").touch()
        (path / "locked").chmod(0)
        (path / "file").touch()
        (path / "file").chmod(0)
        try:
            yield path
        finally:
            (path / "locked").chmod(0o700)


def configuration(path: str) -> dict[str, Any]:
    """Return a configuration with this path in every key that names something to read, and the audit log."""
    backend = {"backend": "tcp://127.0.0.1:9", "match": "any"}
    jwt = {"kind": "jwt", "issuer": "a", "audience": "b"}
    url = {"url": "wss://localhost/"}
    targets = {"networks": ["10.0.0.0/8"], "ports": [22]}
    routes: dict[str, dict[str, Any]] = {
        "files": {"files": path},
        "section": {"files": {"dir": path}},
        "targets": {"backend": {"tokens": path}, "allowed_targets": targets},
        "ca": {"backend": {**url, "ca": path}},
        "header": {"backend": {**url, "headers": {"X-Key": {"file": path}}}},
        "users": {**backend, "auth": {"kind": "basic", "users": path}},
        "tokens": {**backend, "auth": {"kind": "bearer", "tokens": path}},
        "key": {**backend, "auth": {**jwt, "keys": [{"algorithm": "RS256", "file": path}]}},
        "secret": {**backend, "auth": {**jwt, "keys": [{"algorithm": "HS256", "secret": {"file": path}}]}},
        "ticket": {**backend, "auth": {"kind": "ticket", "key": {"file": path}}},
    }
    certificate = {"cert": path, "key": path, "key_password": {"file": path}}
    tls = {"certificates": [certificate], "client_ca": path}
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0", "tls": tls}},
        "routes": {name: {"match": "any", "auth": "none", **route} for name, route in routes.items()},
        "audit": {"file": path},
    }


SETTINGS = {
    "audit.file",
    "listeners.web.tls.certificates[0].cert",
    "listeners.web.tls.certificates[0].key",
    "listeners.web.tls.certificates[0].key_password.file",
    "listeners.web.tls.client_ca",
    "routes.ca.backend.ca",
    "routes.files.files",
    "routes.header.backend.headers.X-Key.file",
    "routes.key.auth.keys[0].file",
    "routes.secret.auth.keys[0].secret.file",
    "routes.section.files.dir",
    "routes.targets.backend.tokens",
    "routes.ticket.auth.key.file",
    "routes.tokens.auth.tokens",
    "routes.users.auth.users",
}


def run(command: str, config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command of wsbridge as a user without privileges."""
    arguments = [sys.executable, "-c", PROGRAM, command, *options, str(config)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd="/", timeout=60)


@pytest.mark.parametrize("name", ["locked/file", "locked/new", "file"])
def test_every_path_that_is_not_accessible_is_reported_with_its_place(name: str) -> None:
    """In a directory that may not be entered, and without the rights of the file itself; by `check` and `run` alike."""
    with directory() as path:
        config = path / "wsbridge.yaml"
        config.write_text(json.dumps(configuration(str(path / name))))
        checked = run("check", config, "--format", "json")
        started = run("run", config)
    assert (checked.returncode, started.returncode) == (78, 78)
    assert "Traceback" not in checked.stderr + started.stderr
    problems = [problem for problem in json.loads(checked.stdout)["problems"] if problem["severity"] == "error"]
    assert {problem["setting"] for problem in problems} == SETTINGS
    assert all(problem["line"] and problem["column"] for problem in problems)
    assert all(f'"setting":"{setting}"' in started.stderr for setting in SETTINGS)


def test_a_socket_that_may_not_be_created() -> None:
    """Listening is only tried by `run`, which names the listener and exits with 78."""
    with directory() as path:
        config = path / "wsbridge.yaml"
        listener = {"bind": f"unix:{path}/locked/socket"}
        config.write_text(
            json.dumps({"listeners": {"web": listener}, "routes": {"r": {"match": "any", "respond": 204}}})
        )
        done = run("run", config)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert "locked/socket: permission denied" in done.stderr
