"""`probe --idle` finds what cuts idle connections, when and how, and the ping interval that survives."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cli.backends import Handler, echo, serving
from tests.cli.program import started
from tests.probe.probing import Probed, answer_pings, probe, relaying, switch, websocket
from tests.process.daemon import Daemon
from tests.serving import written
from wsbridge.probe.idle import IdleReport, IdleTry

LIMIT = 1.2
CUT = 0.42
Cut = Callable[[socket.socket, socket.socket, float], bool]


def by_fin(client: socket.socket, _server: socket.socket, idle: float) -> bool:
    """Close the connection."""
    return idle >= CUT


def by_reset(client: socket.socket, _server: socket.socket, idle: float) -> bool:
    """Reset the connection."""
    if idle < CUT:
        return False
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def silently(client: socket.socket, server: socket.socket, idle: float) -> bool:
    """Drop all that comes from then on."""
    if idle < CUT:
        return False
    client.settimeout(None)
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass
    return True


def by_reset_when_used(client: socket.socket, server: socket.socket, idle: float) -> bool:
    """Forget the connection, and reset it when the client sends something."""
    if idle < CUT:
        return False
    client.settimeout(None)
    client.recv(1, socket.MSG_PEEK)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


@contextlib.contextmanager
def behind(cut: Cut, server: Handler = websocket) -> Iterator[str]:
    """Give the URL of a WebSocket behind a middlebox that cuts idle connections."""
    with serving(server) as port, serving(relaying(port, cut)) as front:
        yield f"ws://127.0.0.1:{front}/"


def find(url: str, *args: str) -> Probed:
    """Probe with idle times up to the limit."""
    times = ("--timeout", "1s", "--wait", "20ms", "--pings", "1", "--idle", f"{int(LIMIT * 1000)}ms")
    return probe(url, *times, *args, quick=False)


def test_nothing_cuts() -> None:
    """Connections may be idle for as long as was tried."""
    with serving(websocket) as port:
        done = find(f"ws://127.0.0.1:{port}/")
    assert (done.code, done.failed) == (0, None), done.facts
    assert done.facts["idle"]["survived_seconds"] == LIMIT
    assert done.facts["idle"]["cut_seconds"] is None
    assert done.facts["idle"]["server_ping_seconds"] is None


@pytest.mark.parametrize(("cut", "how"), [(by_fin, "fin"), (by_reset, "reset")])
def test_an_exact_time(cut: Cut, how: str) -> None:
    """Something closes idle connections: the time is exact, and a ping interval below it survives."""
    with behind(cut) as url:
        done = find(url)
    done.expect("idle", 20, "Something on the path cuts connections that are idle", r"timeouts\.ping_interval")
    idle = done.facts["idle"]
    assert (idle["cut_is_exact"], idle["cut_by"]) == (True, how)
    assert CUT <= idle["cut_seconds"] <= LIMIT
    assert 0 < idle["survived_seconds"] <= CUT
    assert 0 < idle["ping_interval_seconds"] < CUT
    assert "proxy_read_timeout" in done.remedies


def test_a_silent_drop() -> None:
    """Packets vanish: the time is narrowed down, and what helps is a ping interval."""
    with behind(silently) as url:
        done = find(url)
    done.expect("idle", 20, "Something on the path", "nf_conntrack_tcp_timeout_established")
    idle = done.facts["idle"]
    assert (idle["cut_is_exact"], idle["cut_by"]) == (False, "silent")
    assert 0 < idle["survived_seconds"] <= idle["cut_seconds"] <= LIMIT
    assert len(idle["tries"]) > 15, "narrowed down"
    assert idle["ping_interval_seconds"] < CUT


def test_a_connection_that_survived_by_chance_does_not_count() -> None:
    """It was idle for longer than another that was cut: the one that drops them does not look at all times."""
    tries = [IdleTry(0.3, pinging=False, state="survived"), IdleTry(0.5, pinging=False, state="survived")]
    tries.append(IdleTry(0.4, pinging=False, state="cut", after_ping=True))
    facts = IdleReport(1.0, tries).facts()
    assert (facts["survived_seconds"], facts["cut_seconds"]) == (0.3, 0.4)


def test_a_reset_of_the_next_packet() -> None:
    """A middlebox that has forgotten the connection says so when it is used again."""
    with behind(by_reset_when_used) as url:
        done = find(url)
    done.expect("idle", 20, "Something on the path", "nf_conntrack")
    assert (done.facts["idle"]["cut_is_exact"], done.facts["idle"]["cut_by"]) == (False, "reset")
    assert any("in answer to the next packet" in note for note in done.step("idle")["notes"])


def test_a_server_that_pings() -> None:
    """Its pings keep the path in use, and the report says so."""

    def handle(sock: socket.socket) -> None:
        switch(sock)
        answer_pings(sock, each=0.15)

    with behind(by_fin, handle) as url:
        done = find(url)
    assert done.code == 0, done.facts
    assert 0.1 <= done.facts["idle"]["server_ping_seconds"] <= 0.6
    assert any("the server pings each" in note for note in done.step("idle")["notes"])


def test_pings_do_not_help() -> None:
    """What cuts a connection by its age is named as such."""

    def lifetime(sock: socket.socket) -> None:
        end = time.monotonic() + CUT
        switch(sock)
        sock.settimeout(0.02)

        def cut(*_: object) -> bool:
            return time.monotonic() >= end

        with contextlib.suppress(TimeoutError), serving(echo) as _:
            while not cut():
                with contextlib.suppress(TimeoutError):
                    data = sock.recv(65536)
                    if not data:
                        return
                    pong(sock, data)

    with serving(lifetime) as port:
        done = find(f"ws://127.0.0.1:{port}/")
    done.expect("idle", 20, "cuts connections", "No ping interval that was tried survives")
    assert done.facts["idle"]["ping_interval_seconds"] is None


def pong(sock: socket.socket, data: bytes) -> None:
    """Answer the one ping of a client that was read."""
    size, key = data[1] & 0x7F, data[2:6]
    body = bytes(byte ^ key[at % 4] for at, byte in enumerate(data[6 : 6 + size]))
    sock.sendall(bytes((0x8A, size)) + body)


def test_wsbridge_that_closes_idle_connections() -> None:
    """`timeouts.idle` of a route: pings do not count, and the Close frame says so."""
    with serving(echo) as port:
        text = written(route={"backend": f"tcp://127.0.0.1:{port}"}, timeouts={"idle": "400ms"})
        with Daemon(text) as daemon:
            done = find(f"ws://127.0.0.1:{daemon.port()}/")
    done.expect("idle", 20, "carried no payload; pings do not count", "timeouts.idle of the route")
    assert done.facts["idle"]["cut_by"] == "close"
    assert 0.35 <= done.facts["idle"]["cut_seconds"] <= LIMIT


def test_fewer_connections_than_wanted() -> None:
    """A server that accepts only some connections: what these show is reported."""
    count = 0

    def handle(sock: socket.socket) -> None:
        nonlocal count
        count += 1
        if count <= 8:
            websocket(sock)

    with serving(handle) as port:
        done = find(f"ws://127.0.0.1:{port}/")
    assert done.code == 0, done.facts
    assert done.facts["idle"]["survived_seconds"] > 0.5
    assert any("connections were not accepted" in note for note in done.step("idle")["notes"])


def test_no_further_connection() -> None:
    """A server that accepts only one: nothing is found out."""
    count = 0

    def handle(sock: socket.socket) -> None:
        nonlocal count
        count += 1
        if count == 1:
            websocket(sock)

    with serving(handle) as port:
        done = find(f"ws://127.0.0.1:{port}/")
    assert (done.failed, done.code) == ("idle", 20)
    assert "Another connection is not accepted" in done.cause


def test_ctrl_c_prints_what_is_known() -> None:
    """The exit code is that of the signal."""
    with serving(websocket) as port:
        url = f"ws://127.0.0.1:{port}/"
        with started("probe", "--idle", "10s", "--wait", "20ms", "--timeout", "1s", url) as running:
            running.line(r"idle for 0\.50 s: survived")
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(30) == 130
            running.line(r"idle +interrupted; idle for 0\.50 s survived")
            running.line(r"stopped by SIGINT")


def test_json_of_an_interrupted_probe() -> None:
    """It is printed all the same."""
    asked = threading.Event()

    def handle(sock: socket.socket) -> None:
        asked.set()
        websocket(sock)

    with serving(handle) as port:
        url = f"ws://127.0.0.1:{port}/"
        with started("probe", "--json", "--wait", "30s", url) as running:
            assert asked.wait(30)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(30) == 143
            running.line("^}")
            facts = json.loads("\n".join(running.lines))
    assert (facts["ok"], facts["exit_code"], facts["failed_step"]) == (False, 143, None)
    assert facts["steps"][0]["step"] == "dns"
