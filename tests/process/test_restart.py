"""Restarts under socket activation, with a stand-in for systemd: nobody is refused, and a drain ends what is open."""

import signal
import socket
import threading
import time

import pytest

from tests.client import CLOSE, frame
from tests.process.plain import Socket, backend
from tests.process.service_manager import PassingDaemon, ServiceManager, passed_tcp, passed_unix
from tests.serving import written

PATIENT = {"drain": "5s", "drain_spread": "500ms", "close": "1s"}
WEB = {"web": {"bind": "fd:web"}}
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def attempt(address):
    """Connect, send a request, and return the first line of the response; an OSError if that is refused or reset."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(30)
        sock.connect(address)
        sock.sendall(GET)
        return sock.makefile("rb").readline()


class Loop:
    """A client that connects in a loop, in a thread.

    Attributes:
        responses: How often each first line came, or the name of an error.
    """

    def __init__(self, address):
        self._address = address
        self._ended = threading.Event()
        self.responses = {}
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._ended.is_set():
            try:
                found = attempt(self._address).decode().strip()
            except OSError as error:
                found = type(error).__name__
            self.responses[found] = self.responses.get(found, 0) + 1
            self.count += 1

    def reach(self, count):
        """Wait for so many attempts."""
        deadline = time.monotonic() + 300
        while self.count < count:
            assert time.monotonic() < deadline, self.responses
            time.sleep(0.005)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(60)


@pytest.mark.parametrize(
    ("kind", "attempts", "restarts"),
    [
        ("tcp", 500, 2),
        pytest.param("tcp", 10_000, 10, marks=pytest.mark.soak),
        pytest.param("unix", 10_000, 10, marks=pytest.mark.soak),
    ],
)
def test_a_restart_refuses_nobody(kind, attempts, restarts, tmp_path):
    """Clients that connect all the time are all served over several restarts, while long connections are drained."""
    routes = {
        "app": {"match": {"path": "/ws"}, "backend": "tcp://127.0.0.1:9", "auth": "none"},
        "page": {"match": {"path": "/"}, "respond": "204", "auth": "none"},
    }
    with backend() as back, passed_tcp() if kind == "tcp" else passed_unix(tmp_path / "s") as sock:
        routes["app"]["backend"] = back.url
        text = written(
            listeners=WEB, routes=routes, timeouts={"drain": "700ms", "drain_spread": "200ms", "close": "1s"}
        )
        address = sock.getsockname()
        with ServiceManager(text, [("web", sock)]) as manager, Loop(address) as loop:
            for number in range(restarts):
                loop.reach(attempts * (number + 1) // (restarts + 1))
                if kind == "tcp":
                    long = Socket.upgraded(address[1], "/ws")
                    long.echoed()
                restarting = threading.Thread(target=manager.restart)
                restarting.start()
                if kind == "tcp":
                    assert long.closing() == (1012, "draining")
                    long.send(frame(CLOSE, b"\x03\xf4"))
                    long.close()
                restarting.join(60)
            loop.reach(attempts)
    assert loop.responses == {"HTTP/1.1 204 No Content": loop.count}
    assert len(manager.daemons) == restarts + 1
    assert not manager.killed
    for daemon in manager.daemons[:-1]:
        assert daemon.process.returncode == 0
        assert not daemon.log_lines("internal_error")


def test_a_kill_refuses_nobody():
    """After SIGKILL, connections are lost, but no attempt to connect is refused."""
    text = written(listeners=WEB, route={"respond": "204", "auth": "none"})
    with passed_tcp() as sock, ServiceManager(text, [("web", sock)]) as manager, Loop(sock.getsockname()) as loop:
        loop.reach(50)
        manager.kill()
        loop.reach(loop.count + 50)
    lost = loop.count - loop.responses["HTTP/1.1 204 No Content"]
    assert "ConnectionRefusedError" not in loop.responses
    assert lost <= 1  # that which was accepted and not served yet


def test_a_drain_may_last_longer_than_the_timeout_of_the_unit():
    """EXTEND_TIMEOUT_USEC is sent during the drain; STATUS has the connections left."""
    text = written(listeners=WEB, route={"backend": "tcp://127.0.0.1:9", "auth": "none"}, timeouts=PATIENT)
    with backend() as back, passed_tcp() as sock:
        text = text.replace("tcp://127.0.0.1:9", back.url)
        with ServiceManager(text, [("web", sock)], stop_timeout=1.0) as manager:
            with Socket.upgraded(sock.getsockname()[1]) as client:
                client.echoed()
                stops = threading.Thread(target=manager.stop)
                stops.start()
                manager.wait("STOPPING", "1", manager.daemon.pid)
                time.sleep(2.0)  # twice the timeout
                client.echoed()
                client.send(frame(CLOSE, b"\x03\xe8"))
                assert client.closing()[0] == 1000
            stops.join(10)
            assert not manager.killed
            assert manager.daemon.process.returncode == 0
            asked = [int(value) for value in manager.values("EXTEND_TIMEOUT_USEC")]
            assert asked
            assert all(value <= 15_000_000 for value in asked)
            assert "stopping: 1 connections left" in manager.values("STATUS")


def test_sockets_of_one_name_are_one_listener(tmp_path):
    """IPv4 and a Unix socket under one name; what was passed is not in the environment of child processes."""
    text = written(listeners=WEB, route={"respond": "204", "auth": "none"})
    with passed_tcp() as one, passed_unix(tmp_path / "s") as two:
        with PassingDaemon(text, [("web", one), ("web", two)]) as daemon:
            assert daemon.ready["listeners"] == [f"127.0.0.1:{one.getsockname()[1]}", f"unix:{tmp_path / 's'}"]
            for sock in (one, two):
                assert attempt(sock.getsockname()).startswith(b"HTTP/1.1 204")
            daemon.term()
            assert daemon.ended() == 0
        assert (tmp_path / "s").exists()


def test_sockets_and_listeners_that_do_not_match(tmp_path):
    """A socket too many is a warning with its name; one that is missing ends the start with 78."""
    with passed_tcp() as one, passed_tcp() as two:
        text = written(listeners=WEB, route={"respond": "204", "auth": "none"})
        with PassingDaemon(text, [("web", one), ("admin", two)]) as daemon:
            (warning,) = daemon.log_lines("config.warning", problem="W033")
            assert 'with the name "admin" was passed' in warning["detail"]
            daemon.signal(signal.SIGHUP)
            daemon.wait("config.reloaded")
            daemon.wait("config.warning", 2, problem="W033")
        wrong = PassingDaemon(text, [("http", one)])
        with pytest.raises(AssertionError):
            wrong.__enter__()
        (error,) = wrong.log_lines("listener.error", problem="E043", listener="web", listen_address="fd:web")
        assert error["detail"].endswith("but fd:http (FileDescriptorName= of .socket units)")
        assert wrong.process.returncode == 78
