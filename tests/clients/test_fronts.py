"""The files of conf/ for nginx, HAProxy and Caddy: TLS ends there, and what docs/deploy.md says about each holds."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.clients.fronts import CONF, FRONTS, Front, served
from tests.clients.http2 import Http2WebSocket
from tests.clients.program import PATIENCE, program, run
from tests.clients.proxies import CLIENT
from tests.process.plain import Clients, backend

FORGED = {"X-Forwarded-For": "198.51.100.1", "X-Real-IP": "198.51.100.2", "Forwarded": "for=198.51.100.3"}
PATIENT = {"retries 10": "retries 60", "lb_try_duration 10s": "lb_try_duration 60s"}
"""How long they hold requests back, for a start of wsbridge on a busy machine."""
AWAY = {"nginx": 502, "haproxy-unix": 503}
"""Status of those that do not wait for wsbridge."""
HEAD_LIMITS = {"nginx": 400, "haproxy": 400, "caddy": 431}
"""Status for a head that is too large: nginx and HAProxy answer themselves."""


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """One of them, in front of an echo."""
    with backend() as back, Front(request.param, back.url, changes=PATIENT) as front:
        yield front


def echoed(client: ClientConnection, data: bytes) -> None:
    """Send to an echo and read it back."""
    client.send(data)
    got = bytearray()
    while len(got) < len(data):
        message = client.recv(timeout=PATIENCE)
        assert isinstance(message, bytes)
        got += message
    assert bytes(got) == data


def test_relays_for_the_real_client(front: Front) -> None:
    """Bytes pass both ways; the log and the admin API have the client's address, not what it claims to be."""
    with front.connect(**FORGED) as client:
        local = f"{CLIENT}:{client.local_address[1]}"
        echoed(client, os.urandom(1_000_000))
    line = front.bridge.wait("connection.closed")
    via = "127.0.0.1" if front.title == "haproxy" else "unix"
    port_known = front.name == "haproxy"
    assert line["reason"] == "client_closed"
    assert (line["peer"], line["via"]) == (local if port_known else f"{CLIENT}:0", [via])


def test_a_rejected_origin(front: Front) -> None:
    """The Origin is compared with the Host that the proxy passes on; status and sentence reach the client."""
    with pytest.raises(InvalidStatus) as rejected:
        front.connect(origin="https://elsewhere.example")
    assert rejected.value.response.status_code == 403
    assert rejected.value.response.body.startswith(b"origin_not_allowed: ")
    assert front.bridge.wait("connection.rejected")["reason"] == "origin_not_allowed"


def test_large_heads(front: Front) -> None:
    """A head of 12 KiB passes, in lines of 6 KiB; for one of 40 KiB the client gets a status."""
    status, _ = front.ask("/vnc", **{f"X-{n}": "x" * 6000 for n in range(2)})
    assert status == 426
    large = {f"X-{n}": "x" * 8000 for n in range(5)}
    if front.name == "haproxy":  # its response is lost where the client still sends
        with contextlib.suppress(OSError):
            assert front.ask("/vnc", **large)[0] == HEAD_LIMITS[front.name]
    else:
        assert front.ask("/vnc", **large)[0] == HEAD_LIMITS[front.name]


def test_http2(front: Front) -> None:
    """HAProxy offers WebSockets over HTTP/2 and translates them; to the others browsers open HTTP/1.1 for them."""
    with Http2WebSocket(front) as client:
        assert client.offered == (front.name == "haproxy")
        if not client.offered:
            return
        client.upgrade()
        client.echoed(b"over HTTP/2")
        client.close()
        line = front.bridge.wait("connection.closed", subprotocol="binary")
        assert (line["peer"].partition(":")[0], line["reason"]) == (CLIENT, "client_closed")


def test_a_reload_of_the_proxy(front: Front) -> None:
    """Nginx and HAProxy reject no client, and keep the connections that are open; Caddy closes them.

    Caddy 2.6 sends two Close frames: 1001 to the client, and one to wsbridge that is not masked, whose answer (1002) it
    may pass on first.
    """
    if front.name == "caddy":
        with front.connect() as client:
            echoed(client, b"before")
            front.reload()
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code in (1001, 1002)
        served(front.port)
        return
    with Clients(lambda: served(front.port)) as clients, front.connect() as client:
        echoed(client, b"before")
        clients.reach(clients.served + 3)
        front.reload()
        clients.reach(clients.served + 20)
        echoed(client, b"after")


def test_a_restart_of_wsbridge(front: Front) -> None:
    """Caddy, and HAProxy by TCP, hold requests back until it is there again; the others answer with a status."""
    front.bridge.term()
    assert front.bridge.ended() == 0
    if front.title in AWAY:
        assert front.ask("/vnc")[0] == AWAY[front.title]
        front.start_bridge()
        served(front.port)
        return
    with Clients(lambda: served(front.port)) as clients:
        front.start_bridge()
        clients.reach(5)


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_idle_connections(name: str) -> None:
    """Pings keep them alive beyond the proxy's timeouts, here two seconds; without pings these end them."""
    quiet = {"match": {"path": "/quiet"}, "auth": "none", "timeouts": {"ping_interval": "off"}}
    changes = {
        "90s": "2s",
        "timeout tunnel 1h": "timeout tunnel 2s",
        "auth: none\n": "auth: none\n    timeouts: {ping_interval: 300ms}\n",
    }
    with backend() as back:
        more = f"  quiet: {json.dumps({**quiet, 'backend': back.url})}\n"
        with (
            Front(name, back.url, changes=changes, more=more) as front,
            front.connect() as pinged,
            front.connect("/quiet") as silent,
        ):
            echoed(silent, b"before")
            began = time.monotonic()
            if name == "caddy":  # it has no timeout
                with pytest.raises(TimeoutError):
                    silent.recv(timeout=3.5)
                echoed(silent, b"after")
            else:
                with pytest.raises(ConnectionClosed):
                    silent.recv(timeout=PATIENCE)
                assert time.monotonic() - began > 1.8
                assert front.bridge.wait("connection.closed")["reason"] == "client_lost"
                time.sleep(max(0, began + 3.5 - time.monotonic()))
            echoed(pinged, b"after")


def test_the_caddyfile_is_formatted() -> None:
    """`caddy fmt` would change nothing."""
    assert run(program("caddy"), "fmt", CONF / "Caddyfile").decode() == (CONF / "Caddyfile").read_text()
