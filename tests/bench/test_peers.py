"""Bridges as processes, and the table that names them."""

from __future__ import annotations

import sys

import psutil
import pytest

from bench.cases import SERVICES, TRANSPORTS, TUNNELS
from bench.peers import HERE, Peer, PeerError, free_ports, read_peers, started
from tests.bench.conftest import CORE, installed

SERVE = "import socket,sys,time; all=[socket.create_server(('127.0.0.1', int(p))) for p in sys.argv[1:]]; "
PORTS = "{listen_echo} {listen_source} {listen_sink}"


def python(code: str) -> Peer:
    """Make a bridge of a line of Python."""
    return Peer("bridge", {"plain": (f'{sys.executable} -c "{code}" {PORTS}',)})


def test_the_table_of_the_project():
    """Both engines come first; each bridge has what it can do."""
    peers = {peer.name: set(peer.commands) for peer in read_peers(HERE / "peers.toml")}

    assert list(peers)[:3] == ["wsbridge-native", "wsbridge-python", "lighttpd"]
    assert {name for name, can in peers.items() if can == set(TRANSPORTS)} == set(list(peers)[:2])
    assert {name for name, can in peers.items() if can == {"plain"}} == {"libwsrx", "websocat"}
    assert {name for name, can in peers.items() if can == set(TUNNELS)} == {"wstunnel"}


@pytest.mark.parametrize("engine", ["native", "python"])
def test_wsbridge_runs_the_engine_that_the_table_says(tmp_path, engine):
    """The log says which relays."""
    peer = installed(f"wsbridge-{engine}")
    values = {f"backend_{service}": "9" for service in SERVICES}
    values |= {"lab": str(tmp_path), "here": str(HERE), "python": sys.executable}
    with started(peer, "plain", values, tmp_path, CORE):
        pass

    assert f'"engine":"{peer.name.removeprefix("wsbridge-")}"' in (tmp_path / f"{peer.name}-plain.log").read_text()


@pytest.mark.parametrize("text", ["[a", "a = 1", ""])
def test_a_table_that_cannot_be_read(tmp_path, text):
    """The file is named."""
    file = tmp_path / "peers.toml"
    file.write_text(text)
    with pytest.raises(PeerError, match=f"^{file}: "):
        read_peers(file)


def test_a_missing_program_is_named():
    """The first of its programs that is not installed; a bridge that is all there has none."""
    assert Peer("a", {"plain": ("no-such-bridge -x",)}).missing() == "no-such-bridge"
    assert Peer("a", {"plain": ("{python} -m a",), "tls": ("sh -c true",)}).missing() is None


def test_a_need_that_is_not_met_is_named():
    """It is a command that succeeds; one that does not exist fails."""
    needs = {"Python": "{python} -c pass", "a licence": "{python} -c 'raise SystemExit(1)'"}

    assert Peer("a", {"plain": ("{python} -m a",)}, needs=needs).missing() == "a licence"
    assert Peer("a", {}, needs={"a server": "no-such-bridge -v"}).missing() == "a server"
    assert Peer("a", {}, needs={"Python": "{python} -c pass"}).missing() is None


def test_what_a_bridge_says_when_it_does_not_start(tmp_path):
    """Its last words are reported at once, not after the time for a start."""
    peer = python("import sys; sys.exit('the port is taken')")
    said = r"^bridge does not listen on port \d+: the port is taken$"
    with pytest.raises(PeerError, match=said), started(peer, "plain", {}, tmp_path, CORE):
        pass


def test_all_processes_count_and_end(tmp_path):
    """CPU and memory are those of the whole family, ended children among them; nothing of it outlives the block."""
    code = (
        SERVE
        + "import os; busy=lambda: [0 for i in range(9000000)]; pid=os.fork(); pid or (busy(), os._exit(0)); "
        + "os.waitpid(pid, 0); os.fork() or time.sleep(600); time.sleep(600)"
    )
    with started(python(code), "plain", {}, tmp_path, CORE) as bridge:
        bridge.settle()
        used, held = bridge.cpu_s(), bridge.memory()
        family = psutil.Process().children(recursive=True)
    gone = [process for process in family if "time.sleep" in " ".join(process_words(process))]

    assert 0.05 < used < 60
    assert held > 1 << 20
    assert not gone


def process_words(process: psutil.Process) -> list[str]:
    """Give the command line of a process; none if it is gone."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_ports_differ():
    """Ports that are given together are different ones."""
    assert len(set(free_ports(20))) == 20
