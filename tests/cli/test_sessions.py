"""`wsbridge sessions`, `close`, `bans` and `unban`, against a real daemon and against an admin API of the test."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.program import QUIET, WSBRIDGE, finished, invoke
from tests.forked import Popen
from tests.process import plain
from tests.process.daemon import Daemon
from tests.serving import written
from tests.top.stub import Stub, connection, ending, stubbed
from wsbridge.auth.passwords import hash_password


@pytest.fixture
def stub() -> Iterator[Stub]:
    """An admin API."""
    with stubbed() as stub:
        yield stub


def command(address: str | Path, *arguments: str) -> Result:
    """Run a command in this process, which is faster than one of its own."""
    return invoke(*arguments, "--admin", str(address))


def on_terminal(stub: Stub, columns: int, *arguments: str, encoding: str = "utf-8") -> list[str]:
    """Run a command on a terminal of that width; give its lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**os.environ, **QUIET, "WSBRIDGE_ADMIN": stub.address}
    if encoding != "utf-8":
        environ["PYTHONIOENCODING"] = encoding
    environ.pop("COLUMNS", None)
    process = Popen([*WSBRIDGE, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=environ)
    os.close(theirs)
    data = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 65536):
            data += part
    os.close(ours)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    return data.decode(encoding).replace("\r\n", "\n").splitlines()


def test_an_operator_finds_and_closes_connections():
    """Listed with tabs, closed by ID and by filter; what ended is listed, too."""
    with plain.backend() as back:
        route = {"backend": f"tcp://127.0.0.1:{back.port}"}
        with Daemon(written(route=route, admin={"bind": "unix:@FOLDER@/admin.sock"})) as daemon:
            admin = daemon.folder / "admin.sock"
            nobody = command(admin, "sessions")
            assert (nobody.exit_code, len(nobody.stdout.splitlines())) == (0, 1)
            clients = [plain.Socket.upgraded(daemon.port(), f"/{number}") for number in range(3)]
            for client in clients:
                client.echoed(b"12345")
            heading, *rows = [line.split("\t") for line in command(admin, "sessions").stdout.splitlines()]
            found = [dict(zip(heading, row, strict=True)) for row in rows]
            assert [(one["path"], one["state"], one["to client"]) for one in found] == [
                (f"/{number}", "relaying", "5") for number in range(3)
            ]
            limited = command(admin, "sessions", "--limit", "2")
            numbers = [line.split("\t")[0] for line in limited.stdout.splitlines()]
            assert numbers == ["id", found[1]["id"], found[2]["id"]]
            assert limited.stderr == "wsbridge: the newest 2 of 3 connections\n"
            listed = json.loads(command(admin, "sessions", "--json", "--route", "app").stdout)
            assert [str(one["id"]) for one in listed["connections"]] == [one["id"] for one in found]

            closed = command(admin, "close", found[0]["id"], "999999")
            assert (closed.exit_code, closed.stdout) == (1, "closed 1 connection\n")
            assert closed.stderr == "wsbridge: no open connection has the ID 999999\n"
            assert clients[0].closing() == (1001, "closed_by_operator")
            none = command(admin, "close", "--identity", "alice")
            assert (none.exit_code, none.stdout) == (0, "closed 0 connections\n")
            rest = command(admin, "close", "--client", "127.0.0.0/8", "--json")
            assert (rest.exit_code, json.loads(rest.stdout)) == (0, {"closed": 2})
            for client in clients[1:]:
                assert client.closing() == (1001, "closed_by_operator")
            for client in clients:
                client.close()
            daemon.wait("connection.closed", 3, reason="closed_by_operator")
            ended = command(admin, "sessions", "--ended", "--limit", "2").stdout.splitlines()
            assert len(ended) == 3
            assert ended[0].split("\t")[:3] == ["time", "id", "reason"]
            assert ended[1].split("\t")[2] == "closed_by_operator"
            assert ended[1].startswith("20")


def test_an_operator_lifts_a_ban(tmp_path):
    """The address is listed, and connects again."""
    users = tmp_path / "users"
    users.write_text(f"alice:{hash_password(b'right', ln=15, r=1).text}\n")
    users.chmod(0o600)
    auth = {"kind": "basic", "users": str(users)}
    text = written(
        route={"backend": "tcp://127.0.0.1:1", "auth": auth},
        limits={"per_address": {"max_failures": 1, "exempt": []}},
        admin={"bind": "unix:@FOLDER@/admin.sock"},
    )
    wrong = base64.b64encode(b"alice:wrong").decode()
    head = f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {wrong}\r\nUpgrade: websocket\r\n"
    head += "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with Daemon(text) as daemon:
        admin = daemon.folder / "admin.sock"
        assert command(admin, "bans").stdout == "address\tremaining\treason\n"
        for _ in range(2):
            with plain.Socket.connect(daemon.port()) as client:
                client.send(head.encode())
                assert " 401 " in client.head()
            daemon.wait("address.banned")
            address, seconds, reason = command(admin, "bans").stdout.splitlines()[1].split("\t")
            assert (address, reason) == ("127.0.0.1", "max_failures")
            assert 250 < int(seconds) <= 300
            done = command(admin, "unban", "127.0.0.1", "192.0.2.1")
            assert (done.exit_code, done.stdout) == (1, "unbanned 127.0.0.1\n")
            assert done.stderr == "wsbridge: 192.0.2.1 is not banned\n"
        done = command(admin, "unban", "127.0.0.1", "--json")
        assert (done.exit_code, json.loads(done.stdout)) == (1, {"unbanned": [], "not_banned": ["127.0.0.1"]})
        wrong_address = command(admin, "unban", "10.0.0.0/8")
        assert wrong_address.exit_code == 64
        assert "a ban is about an IPv4 address or an IPv6 /64" in wrong_address.stderr
        assert json.loads(command(admin, "bans", "--json").stdout) == {"bans": []}


@pytest.mark.parametrize("columns", [20, 40, 250])
def test_a_table_is_as_wide_as_the_terminal(stub, columns):
    """IDs are there in any width that has a place for them, and all columns in a wide one."""
    stub.connections = [
        connection(number, identity="alice", user_agent="Mozilla/5.0 " * 9, blocked_to_client_seconds=75.5)
        for number in (7, 123456)
    ]
    lines = on_terminal(stub, columns, "sessions")
    assert len(lines) == 3
    assert all(len(line) <= columns for line in lines)
    assert "192.0.2" in lines[1]
    if columns >= 40:
        assert [line.split()[0] for line in lines] == ["id", "7", "123456"]
    if columns == 250:
        assert {"alice", "relaying", "1m15s"} <= set(lines[1].split())
        assert lines[1].endswith("~")


def test_tables_without_rows(stub):
    """A sentence instead of headings."""
    stub.connections, stub.ended = [], []
    assert on_terminal(stub, 80, "sessions") == ["no connections"]
    assert on_terminal(stub, 80, "sessions", "--ended") == ["no connection has ended"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_what_clients_send_does_not_reach_the_terminal(stub, encoding):
    """Control characters and separators are escaped, and what the terminal has no character for."""
    stub.connections = [connection(1, user_agent="a\x1b[2J\tb\nc\u202e\u20acd", identity="\xe4\x07")]
    for line in on_terminal(stub, 300, "sessions", encoding=encoding):
        assert line.isprintable()
    done = finished("sessions", env={"WSBRIDGE_ADMIN": stub.address, "PYTHONIOENCODING": encoding})
    lines = done.stdout.decode(encoding).splitlines()
    assert len(lines) == 2
    assert lines[0].count("\t") == lines[1].count("\t")
    assert all(part.isprintable() for line in lines for part in line.split("\t"))


def test_endings_on_a_terminal(stub):
    """With their reason."""
    stub.ended = [ending(9, reason="closed_by_operator"), ending(8)]
    lines = on_terminal(stub, 80, "sessions", "--ended")
    assert [line.split()[0] for line in lines] == ["time", "12:34:56", "12:34:56"]
    assert "closed_by_operator" in lines[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("close",), "close: give the IDs of connections"),
        (("close", "1", "--route", "a"), "not both"),
        (("close", "x"), "not a valid integer"),
        (("close", "0"), "not in the range"),
        (("unban",), "Missing argument"),
        (("sessions", "--limit", "0"), "not in the range"),
        (("kill",), 'did you mean "close"'),
        (("connections",), 'did you mean "sessions"'),
    ],
)
def test_wrong_arguments(arguments, says):
    """Exit code 64, and what to write."""
    done = invoke(*arguments)
    assert done.exit_code == 64
    assert says in done.output


def test_a_filter_that_is_not_valid():
    """What the daemon says is the message."""
    with Daemon(
        written(route={"respond": "204", "auth": "none"}, admin={"bind": "unix:@FOLDER@/admin.sock"})
    ) as daemon:
        for name in ("sessions", "close"):
            done = command(daemon.folder / "admin.sock", name, "--client", "example.org")
            assert done.exit_code == 64
            assert done.stderr.startswith('wsbridge: client "example.org": must be an address')


def test_without_a_daemon(tmp_path):
    """Exit code 69."""
    for arguments in (("sessions",), ("close", "1"), ("bans",), ("unban", "unix")):
        done = command(tmp_path / "none.sock", *arguments)
        assert (done.exit_code, done.stdout) == (69, "")
        assert "no such socket" in done.stderr
