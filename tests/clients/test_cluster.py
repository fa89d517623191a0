"""conf/haproxy-cluster.cfg: HAProxy in front of three wsbridges with conf/behind-haproxy-cluster.yaml."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.authority import client_context
from tests.clients.fronts import CONF, placed, replaced, served, upgraded
from tests.clients.program import PATIENCE, Program, free_port, program, run
from tests.clients.proxies import CLIENT
from tests.process.daemon import Daemon
from tests.process.plain import Clients, Threads, backend
from tests.process.streams import running

NODES = {"a": "10.0.0.5:8080", "b": "10.0.0.6:8080", "c": "10.0.0.7:8080"}
QUICK = {"inter 1s": "inter 200ms", "timeout check 2s": "timeout check 10s"}
"""HAProxy notices more quickly, but checks have time on a busy machine."""


class Node:
    """One wsbridge; it can be restarted.

    Attributes:
        port: Where it listens.
        monitoring: Where HAProxy asks for its state.
        daemon: The process.
    """

    def __init__(self, name: str, back: Threads, stack: contextlib.ExitStack) -> None:
        self._name = name
        self.port, self.monitoring = free_port(), free_port()
        self._stack = stack
        changes = {
            "drain_delay: 5s": "drain_delay: 2s\n  drain: 1s",
            "0.0.0.0:8080": f"127.0.0.1:{self.port}",
            "0.0.0.0:9090": f"127.0.0.1:{self.monitoring}",
            "[10.0.0.2]": "[127.0.0.1]",
            "tcp://10.1.0.5:5900": back.url,
            "auth: {kind: bearer, tokens: /etc/wsbridge/tokens}": "auth: none",
            "host: gw.example.org, ": "",
        }
        text = (CONF / "behind-haproxy-cluster.yaml").read_text()
        self._text = replaced(text, changes) + "admin: {bind: unix:@FOLDER@/admin.sock}\n"
        self.start()

    def start(self) -> None:
        """Start it."""
        self.daemon = self._stack.enter_context(Daemon(self._text, environ={"NODE": self._name}))

    def drain(self) -> None:
        """Run `wsbridge drain`."""
        run(sys.executable, "-m", "wsbridge", "drain", "--admin", f"{self.daemon.folder}/admin.sock")


class Cluster:
    """HAProxy and its nodes.

    Attributes:
        port: Where HAProxy listens, with TLS.
        nodes: By their names in HAProxy.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        back = stack.enter_context(backend())
        self.port = free_port()
        self._stats = folder / "haproxy.sock"
        self.nodes = {name: Node(name, back, stack) for name in NODES}
        servers = {
            address: f"127.0.0.1:{self.nodes[name].port} port {self.nodes[name].monitoring}"
            for name, address in NODES.items()
        }
        text = replaced((CONF / "haproxy-cluster.cfg").read_text(), {**QUICK, **servers})
        config = folder / "haproxy.cfg"
        config.write_text(placed("haproxy", text, folder, self.port))
        stack.enter_context(Program(program("haproxy"), "-W", "-db", "-f", config)).accepts(self.port)

    def ask(self, command: str) -> str:
        """Send a command to HAProxy's stats socket; give the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self._stats))
            sock.sendall(f"{command}\n".encode())
            with sock.makefile() as answer:
                return answer.read()

    def _nodes(self) -> list[dict[str, str]]:
        lines = [line.lstrip("# ").split(",") for line in self.ask("show stat").splitlines() if line]
        rows = [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]
        return [row for row in rows if row["svname"] in NODES]

    def sessions(self) -> dict[str, int]:
        """Give the number of sessions that each node has."""
        return {row["svname"]: int(row["scur"]) for row in self._nodes()}

    def reach(self, name: str, status: str) -> None:
        """Wait until HAProxy takes a node for `UP` or `DOWN`; it is asked, since lines of its log may get lost."""
        deadline = time.monotonic() + PATIENCE
        while not any(row["svname"] == name and row["status"] == status for row in self._nodes()):
            assert time.monotonic() < deadline, self._nodes()
            time.sleep(0.02)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of which all nodes are up."""
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def test_a_cluster(cluster: Cluster) -> None:
    """Connections are spread by their number; no client is rejected while a node drains, restarts, or after it died."""
    held = [upgraded(cluster.port) for _ in range(6)]
    assert cluster.sessions() == dict.fromkeys(NODES, 2)
    a, b, c = cluster.nodes.values()

    with Clients(partial(served, cluster.port)) as clients:
        a.drain()
        cluster.reach("a", "DOWN")
        clients.reach(clients.served + 10)
        assert cluster.sessions()["a"] == 2  # they go on
        a.daemon.term()
        assert a.daemon.ended(PATIENCE) == 0
        assert a.daemon.log_lines("connection.rejected") == []
        clients.reach(clients.served + 5)
        a.start()
        cluster.reach("a", "UP")
        clients.reach(clients.served + 5)

    c.daemon.kill()
    c.daemon.ended()
    with Clients(partial(served, cluster.port)) as clients:  # HAProxy has not noticed yet
        clients.reach(10)
    for client in held:
        client.close()
    line = b.daemon.wait("connection.closed")
    assert (line["peer"].partition(":")[0], line["via"]) == (CLIENT, ["127.0.0.1"])


def test_resumable_sessions_find_their_node(cluster: Cluster) -> None:
    """HAProxy cuts the connections of one node after the other; they come back even to one that drains."""

    def cut() -> None:
        for name in NODES:
            cluster.ask(f"shutdown sessions server wsbridge/{name}")

    async def main() -> None:
        url = f"wss://localhost:{cluster.port}/vnc"
        async with running(url, 6, ssl_context=client_context()) as streams:
            for _ in range(2):
                for one in streams:
                    await one.moves()
                await trio.to_thread.run_sync(cut)
            for one in streams:
                await one.moves()
            assert await trio.to_thread.run_sync(cluster.sessions) == dict.fromkeys(NODES, 2)
            await trio.to_thread.run_sync(cluster.nodes["a"].drain)
            await trio.to_thread.run_sync(cluster.reach, "a", "DOWN")
            await trio.to_thread.run_sync(cluster.ask, "shutdown sessions server wsbridge/a")
            for one in streams:
                await one.moves()

    trio.run(main)
    for node in cluster.nodes.values():
        node.daemon.wait("session.closed", 2)
        lines = node.daemon.log_lines("session.closed")
        assert len(lines) == 2
        assert all(line["transports"] >= 3 for line in lines)
