"""`wsbridge top` without a terminal, against an admin API of the test."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.program import finished
from tests.client import request
from tests.clients.program import PATIENCE
from tests.process.daemon import Daemon
from tests.process.plain import Socket
from tests.serving import written
from tests.top.stub import Stub, connection, route, stubbed


@pytest.fixture
def stub() -> Iterator[Stub]:
    """An admin API."""
    with stubbed() as stub:
        yield stub


def top(stub: Stub, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    return finished("top", "--admin", stub.address, "--interval", "100ms", *options)


def test_snapshots_as_text(stub):
    """Header, routes, connections with rates, endings; no control codes."""
    stub.step = 1000
    stub.connections = [connection(number, identity="al\x1bice") for number in range(1, 31)]
    done = top(stub, "--count", "2", "--limit", "3")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "\x1b" not in text
    assert text.count("serving, ready") == 2
    assert "connections: 30, the first 3 by client/s" in text
    assert text.count("al\\x1bice") == 6
    assert "backend_closed" in text
    assert sum(line.startswith("DELETE") for line in stub.requests) == 0


def test_snapshots_as_json(stub):
    """One line each, with the keys of the admin API and rates."""
    stub.step = 1000
    done = top(stub, "--json", "--count", "2")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line["total"] == 2
        assert line["status"]["pid"] == 4711
        assert 0 < line["connections"][0]["bytes_to_client_per_second"] <= 10_000
        assert line["routes"][0]["bytes_to_client_per_second"] > 0
        assert line["ended"][0]["reason"] == "backend_closed"


def test_one_table(stub):
    """Chosen, filtered and sorted on the command line."""
    stub.routes = [route(), route("telemetry", active=9), route("test", active=5)]
    text = top(stub, "--count", "1", "--view", "routes", "--filter", "te", "--sort", "active").stdout.decode()
    assert "connections: " not in text
    assert [line.split()[0] for line in text.splitlines()[-3:-1]] == ["telemetry", "test"]


def test_the_token(stub, tmp_path):
    """Without it, or with a wrong one, there is one sentence and exit code 69."""
    stub.token = "let-me-in"
    (tmp_path / "token").write_text("let-me-in\n")
    (tmp_path / "wrong").write_text("let-me-out\n")
    assert top(stub, "--count", "1", "--admin-token-file", str(tmp_path / "token")).returncode == 0
    for options in ((), ("--admin-token-file", str(tmp_path / "wrong"))):
        denied = top(stub, *options)
        assert denied.returncode == 69
        assert denied.stderr.count(b"\n") == 1
        assert b"a valid token is required (--admin-token-file)" in denied.stderr


def test_the_daemon_goes(stub):
    """The snapshots that fail are counted, and the exit code is that of the last."""
    answers = stub.answer

    def once(method: str, path: str) -> tuple[int, object]:
        found = answers(method, path)
        return (503, "shutting down") if len(stub.requests) > 8 else found

    stub.answer = once
    done = top(stub, "--count", "3")
    assert done.returncode == 69
    assert done.stdout.count(b"serving, ready") == 1
    assert done.stderr.count(b"not reachable, retrying: GET /v1/status: shutting down (status 503)") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--interval", "1ms"), "must be at least 100ms"),
        (("--interval", "2"), "--interval"),
        (("--sort", "agee"), 'did you mean "age"'),
        (("--sort", "code", "--view", "routes"), 'no column "code"'),
        (("--count", "0"), "--count"),
        (("--view", "all"), "--view"),
    ],
)
def test_what_can_be_wrong(stub, options, message):
    """One sentence, and no request."""
    failed = finished("top", "--admin", stub.address, *options)
    assert failed.returncode == 64
    assert message in failed.stderr.decode()
    assert not stub.requests


def test_another_program_answers(stub):
    """It is not a daemon of wsbridge."""
    stub.status = "hello"
    failed = top(stub, "--count", "1")
    assert failed.returncode == 69
    assert b"is not one of the admin API" in failed.stderr


def test_a_daemon_that_is_older(stub):
    """One without `/v1/connections` is named."""
    answers = stub.answer
    stub.answer = lambda method, path: (404, "there are others") if "connections" in path else answers(method, path)
    failed = top(stub, "--count", "1")
    assert failed.returncode == 69
    assert b"GET /v1/connections: there are others (status 404)" in failed.stderr


def test_a_real_daemon():
    """What it answers has the keys that the tables show: a connection, a rejection, routes, certificates."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        backend.settimeout(PATIENCE)
        route = {"backend": f"tcp://127.0.0.1:{backend.getsockname()[1]}", "match": {"path": "/desk"}}
        text = written(routes={"desk": {**route, "auth": "none"}}, tls=True, admin={"bind": "unix:@FOLDER@/admin.sock"})
        with Daemon(text) as daemon:
            client = Socket.connect(daemon.port(), tls=True)
            client.send(request("/desk"))
            rejected = Socket.connect(daemon.port(), tls=True)
            rejected.send(request("/nowhere"))
            daemon.wait("connection.rejected")
            service, _ = backend.accept()
            options = ("--admin", str(daemon.folder / "admin.sock"), "--interval", "100ms", "--count", "1")
            text = finished("top", *options, "--view", "listeners").stdout.decode()
            assert re.search(r"web +127\.0\.0\.1:\d+ +websocket +\d+ +\d{4}-\d\d-\d\d", text)
            done = finished("top", *options, "--json")
            found = json.loads(done.stdout)
            (row,) = found["connections"]
            assert (row["route"], row["state"], row["bytes_to_client_per_second"]) == ("desk", "relaying", 0)
            assert found["ended"][0]["reason"] == "no_route"
            text = finished("top", *options).stdout.decode()
            assert "no_route" in text
            assert "\x1b" not in text
            for sock in (client.sock, rejected.sock, service):
                sock.close()
