"""Redis through two wsbridges face to face: TCP, then WebSocket in TLS, then TCP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authority import folder
from tests.clients.program import Program, free_port, program, run
from tests.process.daemon import Daemon

REQUESTS = 4000


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[int]:
    """A redis-server of this test; gives its port."""
    port = free_port()
    with Program(
        program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path
    ) as server:
        server.line("Ready to accept connections")
        yield port


@pytest.fixture
def far(redis: int) -> Iterator[Daemon]:
    """The bridge beside redis: WebSocket in TLS to TCP."""
    with Daemon(
        f"""
        listeners:
          gate:
            bind: 127.0.0.1:0
            tls: {{certificates: [{{cert: {folder() / "cert.pem"}, key: {folder() / "key.pem"}}}]}}
        routes:
          redis: {{match: {{path: /redis}}, backend: 'tcp://127.0.0.1:{redis}', auth: none}}
        """,
    ) as bridge:
        yield bridge


@pytest.fixture
def near(far: Daemon) -> Iterator[Daemon]:
    """The bridge beside the client: TCP to WebSocket in TLS."""
    with Daemon(
        f"""
        listeners:
          old-client: {{bind: '127.0.0.1:0', protocol: tcp, route: far}}
        routes:
          far: {{backend: {{url: 'wss://localhost:{far.port()}/redis', ca: {folder() / "ca.pem"}}}, auth: none}}
        """,
    ) as bridge:
        yield bridge


def test_commands(near: Daemon, far: Daemon) -> None:
    """redis-cli sets and gets through the tunnel, a value of a megabyte too, and both ends log a clean end."""
    cli = [program("redis-cli"), "-h", "127.0.0.1", "-p", str(near.port())]
    big = bytes(range(1, 256)) * 4096

    assert run(*cli, "set", "greeting", "hello") == b"OK\n"
    assert run(*cli, "get", "greeting") == b"hello\n"
    assert run(*cli, "-x", "set", "big", input=big) == b"OK\n"
    assert run(*cli, "--raw", "get", "big") == big + b"\n"

    for bridge in (near, far):
        assert bridge.wait("connection.closed")["reason"] == "client_closed"


def test_benchmark(near: Daemon, far: Daemon) -> None:
    """redis-benchmark completes, one request at a time and pipelined, over fifty connections."""
    for pipeline in ("1", "16"):
        report = run(
            program("redis-benchmark"),
            *("-h", "127.0.0.1", "-p", str(near.port()), "-c", "50", "-n", str(REQUESTS), "-P", pipeline, "--csv"),
            *("-d", "1000", "-t", "set,get,lpush,lrange_100"),
            timeout=120,
        ).decode()
        done = [line.split(",")[0].strip('"') for line in report.splitlines()[1:]]
        assert [name.split()[0] for name in done] == ["SET", "GET", "LPUSH", "LPUSH", "LRANGE_100"]
    assert near.wait("connection.closed", route="far")["reason"] == "client_closed"
    assert near.log_lines("internal_error") == far.log_lines("bug") == []
