"""What the process does when there is too much: connections, descriptors."""

import select
import socket
import struct
import time

import pytest

from tests.client import request
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend
from tests.serving import written
from wsbridge.cli.control import call_admin


def test_over_the_cap_is_503_at_once_and_nothing_is_dialled():
    """A client over the cap gets 503 with Retry-After quickly, on TLS too, without a dial; room lets others in."""
    for tls in (False, True):
        text = written(route={"backend": "tcp://127.0.0.1:1"}, limits={"connections": "2"}, tls=tls)
        with backend() as back, Daemon(text.replace("tcp://127.0.0.1:1", back.url)) as daemon:
            inside = [Socket.upgraded(daemon.port(), tls=tls) for _ in range(2)]
            for client in inside:
                client.echoed()
            times = []
            for _ in range(5):
                began = time.monotonic()
                with Socket.connect(daemon.port(), tls=tls) as over:
                    over.send(request())
                    answer = over.everything().decode()
                times.append(time.monotonic() - began)
                assert answer.startswith("HTTP/1.1 503 "), answer
                assert "Retry-After: 1\r\n" in answer
            assert min(times) < 1
            assert back.dials == 2
            daemon.wait("connection.rejected", count=5, reason="overload")
            inside.pop().close()
            daemon.wait("connection.closed")
            daemon.until(lambda daemon=daemon, tls=tls: enters(daemon, tls))
            inside.pop().close()


def enters(daemon, tls):
    """Return whether a client is accepted."""
    with Socket.connect(daemon.port(), tls=tls) as client:
        client.send(request())
        return client.head().startswith("HTTP/1.1 101")


def test_beyond_shed_a_client_is_reset_at_accept():
    """Only so many concurrent ones are answered; the next is reset, and all is over after `overload_reply`."""
    text = written(
        route={"backend": "tcp://127.0.0.1:1"},
        limits={"connections": "1", "overload_replies": "3"},
        timeouts={"overload_reply": "1500ms", "handshake": "60s"},
    )
    with backend() as back, Daemon(text.replace("tcp://127.0.0.1:1", back.url)) as daemon:
        inside = Socket.upgraded(daemon.port())
        slow = [Socket.connect(daemon.port()) for _ in range(3)]
        with pytest.raises(ConnectionResetError), Socket.connect(daemon.port()) as over:  # the reset may come first
            over.sock.recv(1)
        daemon.wait("connection.shed")
        began = time.monotonic()
        for client in slow:
            assert client.everything() == b""
            client.close()
        assert time.monotonic() - began < 9
        inside.echoed()
        inside.close()
        assert back.dials == 1


def test_a_raw_client_over_the_cap_is_reset():
    """A client of a listener with protocol: tcp gets a reset, which is not an empty response."""
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
    with backend() as back:
        routes = {"app": {"backend": back.url, "auth": "none"}}
        with (
            Daemon(written(listeners=listeners, routes=routes, limits={"connections": "1"})) as daemon,
            Socket.connect(daemon.port()) as inside,
        ):
            inside.send(b"x")
            assert inside.take(1) == b"x"
            with pytest.raises(ConnectionResetError), Socket.connect(daemon.port()) as over:  # the reset may come first
                over.sock.recv(1)


def test_out_of_descriptors():
    """100 descriptors, 500 clients: no crash, no busy loop, few log lines, and the admin API answers; and recovery."""
    with backend() as back:
        text = written(
            route={"backend": back.url},
            limits={"connections": "1000"},
            timeouts={"handshake": "60s", "drain": "0s", "drain_spread": "0s"},
            admin={"bind": "unix:@FOLDER@/admin.sock"},
        )
        with Daemon(text, descriptors=100) as daemon:
            admin = str(daemon.folder / "admin.sock")
            call_admin(admin, None, "GET", "/v1/status")
            before = daemon.descriptors()
            inside = Socket.upgraded(daemon.port())
            inside.echoed()
            poll = select.poll()
            idle = [connecting(daemon.port()) for _ in range(500)]
            for sock in idle:
                poll.register(sock, select.POLLIN)  # readable: closed or reset, since nothing is ever sent
            daemon.until(lambda: len(poll.poll(0)) > 300)
            daemon.wait("connection.shed")
            inside.echoed()
            assert len(poll.poll(0)) < 500
            used = daemon.cpu()
            began = time.monotonic()
            while time.monotonic() - began < 1:
                inside.echoed()
                time.sleep(0.05)
            assert daemon.cpu() - used < 0.25
            for _ in range(3):
                status, answer = call_admin(admin, None, "GET", "/v1/status")
                assert (status, answer["connections"] > 50) == (200, True)
            assert call_admin(admin, None, "POST", "/v1/reload")[0] == 200
            assert len(daemon.log_lines("connection.shed")) < 15  # a burst and then so many a second: `log.limit`
            for sock in idle:
                sock.close()
            inside.close()
            daemon.until(lambda: daemon.descriptors() <= before)
            assert call_admin(admin, None, "POST", "/v1/reload")[0] == 200
            many = [Socket.upgraded(daemon.port()) for _ in range(20)]
            for client in many:
                client.echoed()
                client.close()
            assert not daemon.log_lines("internal_error")
            daemon.term()
            assert daemon.ended() == 0


def test_auto_leaves_descriptors_for_the_rest():
    """100 descriptors, 500 clients and `connections: auto`: dials, the admin API and reloads have what they need."""
    with backend() as back:
        text = written(route={"backend": back.url}, admin={"bind": "unix:@FOLDER@/admin.sock"})
        with Daemon(text, descriptors=100) as daemon:
            limit = daemon.ready["connections_limit"]
            assert limit == 18 - daemon.ready.get("engine_threads", 0)  # each has two descriptors
            inside = [Socket.upgraded(daemon.port()) for _ in range(limit)]
            over = [connecting(daemon.port()) for _ in range(500)]
            for _ in range(3):
                assert call_admin(str(daemon.folder / "admin.sock"), None, "POST", "/v1/reload")[0] == 200
            for client in inside:
                client.echoed()
                client.close()
            for sock in over:
                sock.close()
            daemon.until(lambda: enters(daemon, False))
            for event in ("accept.error", "internal_error", "config.reload_failed"):
                assert not daemon.log_lines(event)


def connecting(port):
    """Begin to connect; a reset may come first."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.connect_ex(("127.0.0.1", port))
    return sock


def test_no_descriptor_for_the_dial_is_overload():
    """Where more clients were accepted than can be dialed for: the last dials are 503; the admin API answers."""
    with backend() as back:
        text = written(
            route={"backend": back.url},
            limits={"connections": "1000"},
            timeouts={"handshake": "60s"},
            admin={"bind": "unix:@FOLDER@/admin.sock"},
        )
        with Daemon(text, descriptors=64) as daemon:
            admin = str(daemon.folder / "admin.sock")
            before = daemon.descriptors()
            clients = [Socket.connect(daemon.port()) for _ in range(64 - 16 - before)]
            daemon.until(lambda: daemon.descriptors() >= 64 - 16)
            relayed, rest = clients[:16], clients[16:]
            for client in relayed:
                client.send(request())
                assert client.head().startswith("HTTP/1.1 101 ")
            assert daemon.descriptors() == 64
            for _ in range(3):
                assert call_admin(admin, None, "GET", "/v1/status")[1]["connections"] == len(clients)
            assert daemon.wait("accept.error")["listener"] == "admin"
            status, answer = call_admin(admin, None, "POST", "/v1/reload")
            assert (status, answer["generation"]) == (422, 1)
            assert "Too many open files" in str(answer["problems"]), answer
            for client in rest:
                client.send(request())
                head = client.head()
                assert head.startswith("HTTP/1.1 503 ")
                assert "Retry-After: 1" in head
            assert daemon.wait("connection.rejected", count=len(rest))["reason"] == "overload"
            assert back.dials == len(relayed)
            for client in clients:
                client.close()
            daemon.until(lambda: daemon.descriptors() <= before)
            with Socket.upgraded(daemon.port()) as client:
                client.echoed()
            assert not daemon.log_lines("internal_error")


def test_a_storm_of_resets_does_not_end_accepting():
    """Clients that are gone before they are accepted do no harm."""
    with backend() as back, Daemon(written(route={"backend": back.url})) as daemon:
        for _ in range(500):
            with socket.create_connection(("127.0.0.1", daemon.port())) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with Socket.upgraded(daemon.port()) as client:
            client.echoed()
        assert not daemon.log_lines("internal_error")
