"""`wsbridge status`, `reload`, `drain` and `undrain` against a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests import forked
from tests.process.daemon import Daemon
from tests.serving import written


def wsbridge(*arguments: str, address: str | Path = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environ = {**os.environ, "WSBRIDGE_ADMIN": str(address)}
    return forked.run(
        [sys.executable, "-m", "wsbridge", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=30,
        check=False,
    )


def text(respond: str = "204") -> str:
    """Write a configuration with an admin API."""
    return written(route={"respond": respond, "auth": "none"}, admin={"bind": "unix:@FOLDER@/admin.sock"})


def test_an_operator_reloads_and_drains():
    """A reload that fails prints the errors and their places, with exit code 78; the daemon serves on."""
    with Daemon(text()) as daemon:
        socket, config = daemon.folder / "admin.sock", daemon.folder / "wsbridge.yaml"
        status = wsbridge("status", address=socket)
        assert status.returncode == 0
        assert "state        serving" in status.stdout
        assert f"pid {daemon.pid}" in status.stdout

        good = config.read_text()
        config.write_text("listeners: {}\n")
        failed = wsbridge("reload", address=socket)
        assert failed.returncode == 78
        assert f"{config}:1:12: listeners: needs at least one entry" in failed.stderr
        assert "nothing has changed" in failed.stderr
        assert json.loads(wsbridge("reload", "--json", address=socket).stdout)["problems"]
        assert "failed" in wsbridge("status", address=socket).stdout

        config.write_text(good.replace("204", "205"))
        done = wsbridge("reload", address=socket)
        assert (done.returncode, done.stdout) == (0, "reloaded: generation 2 is in effect\n")
        daemon.wait("config.reloaded", generation=2)

        assert wsbridge("drain", "--admin", f"unix:{socket}").stdout == "draining\n"
        drained = wsbridge("status", "--json", address=socket)
        assert (drained.returncode, json.loads(drained.stdout)["state"]) == (1, "draining")
        assert wsbridge("undrain", "--admin", str(socket)).stdout == "serving\n"
        assert wsbridge("status", address=socket).returncode == 0
        daemon.term()
        assert daemon.ended() == 0
        gone = wsbridge("status", address=socket)
        assert (gone.returncode, "is wsbridge running" in gone.stderr) == (69, True)


def test_an_address_in_use_fails_the_reload():
    """It is no error of the file: exit code 1."""
    with Daemon(text()) as first, Daemon(text()) as second:
        config = second.folder / "wsbridge.yaml"
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{first.port()}"))
        failed = wsbridge("reload", address=second.folder / "admin.sock")
        assert failed.returncode == 1
        assert "already in use" in failed.stderr


def test_the_token(tmp_path):
    """It comes from a file; without it the command names the option."""
    (tmp_path / "token").write_text("let-me-in\n")
    (tmp_path / "wrong").write_text("let-me-out\n")
    admin = {"bind": "127.0.0.1:0", "token": {"file": str(tmp_path / "token")}}
    with Daemon(written(route={"respond": "204"}, admin=admin)) as daemon:
        address = daemon.wait("listener.opened", listener="admin")["listen_address"]
        assert wsbridge("status", "--admin-token-file", str(tmp_path / "token"), address=address).returncode == 0
        for options in ((), ("--admin-token-file", str(tmp_path / "wrong"))):
            denied = wsbridge("status", *options, address=address)
            assert (denied.returncode, "--admin-token-file" in denied.stderr) == (69, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--admin", "nonsense"), '--admin: "nonsense": write ./nonsense for a path, or 127.0.0.1:PORT'),
        (("--admin", "fd:web"), "--admin: fd:web is not an address to connect to"),
        (("--admin", "/nowhere/admin.sock"), "no such socket"),
        (("--admin", "./nowhere.sock"), f"unix:{Path.cwd()}/nowhere.sock: no such socket"),
        (("--admin", "127.0.0.1:1"), "nothing listens there"),
        (("--admin-token-file", "/nowhere/token"), "--admin-token-file: /nowhere/token: No such file"),
    ],
)
def test_what_can_be_wrong(arguments, message):
    """One sentence, never a traceback."""
    failed = wsbridge("status", *arguments, address="/nowhere/admin.sock")
    assert failed.returncode in (64, 69)
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("content", [b"hunter2\nhunter3\n", b"hunter2\xff", b"\n"])
def test_a_token_that_cannot_be_sent_is_not_quoted(tmp_path, content):
    """A file with two lines, or of another encoding, is one sentence without the token."""
    (tmp_path / "token").write_bytes(content)
    failed = wsbridge("status", "--admin-token-file", str(tmp_path / "token"), address="127.0.0.1:9")
    assert failed.returncode == 64
    assert failed.stderr.count("\n") == 1
    assert "hunter" not in failed.stderr


@pytest.mark.parametrize("command", ["status", "reload", "drain"])
def test_another_server_than_the_admin_api(command):
    """A 200 with something else is one sentence."""
    with Daemon(written(route={"respond": "200"})) as daemon:
        failed = wsbridge(command, address=f"127.0.0.1:{daemon.port()}")
        assert failed.returncode in (1, 69)
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.startswith("wsbridge: ")


class JsonService(BaseHTTPRequestHandler):
    """Answers all requests with an empty object."""

    def do_GET(self) -> None:
        """Answer one."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("command", ["status", "reload", "drain"])
def test_another_service_with_json(command):
    """A wrong port leads to something else than the admin API, which answers with other keys."""
    with HTTPServer(("127.0.0.1", 0), JsonService) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            failed = wsbridge(command, address=f"127.0.0.1:{service.server_port}")
        finally:
            service.shutdown()
            thread.join()
    assert failed.returncode == 69
    assert failed.stderr.endswith("the response is not one of the admin API of wsbridge\n")
    assert failed.stderr.count("\n") == 1
