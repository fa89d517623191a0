"""`wsbridge run --takeover`: a new process gets the sockets of the running one, and no client notices."""

import contextlib
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.client import request
from tests.process.daemon import Daemon
from tests.process.plain import SECONDS, Clients, Socket, Transfer, backend, check, served
from tests.serving import written

ADMIN = {"bind": "unix:@FOLDER@/admin.sock"}
DRAIN = {"drain": "10m", "drain_spread": "1s", "close": "2s"}


ACTIVATE = """
import os, socket, sys
sock = socket.create_server(("127.0.0.1", 0))
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": f"{os.getpid()}", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Passes a listening socket to a command, as a service manager does."""


def config(back, **rest):
    """Write a configuration with an admin socket."""
    return written(route={"backend": back.url}, **{"admin": ADMIN, "timeouts": DRAIN, **rest})


def successor(text, old, **options):
    """Start a process that takes over from another one."""
    return Daemon(text, folder=old.folder, arguments=("--takeover",), **options)


@pytest.mark.parametrize(("attempts", "takeovers"), [(500, 3), pytest.param(10_000, 40, marks=pytest.mark.soak)])
def test_no_connection_is_refused(attempts, takeovers):
    """Clients connect while one process after the other takes over; long connections stay where they are."""
    with backend() as back, Daemon(config(back)) as first:
        daemons = [first]
        try:
            long = Transfer(first.port())
            long.step()
            with Clients(partial(served, first.port())) as clients:
                for number in range(1, takeovers + 1):
                    clients.reach(attempts * number // (takeovers + 1))
                    daemons.append(successor(config(back), daemons[-1]).__enter__())
                    daemons[-2].wait("daemon.draining", successor=daemons[-1].pid)
                    if number > 1:
                        assert daemons[-2].ended() == 0
                    long.step()
                clients.reach(attempts)
            assert first.process.poll() is None
            long.end()
            assert first.ended() == 0
            for old in daemons[:-1]:
                assert not old.log_lines("internal_error")
                assert {line["reason"] for line in old.log_lines("connection.closed")} <= {"client_closed"}
                assert not old.log_lines("connection.rejected")
        finally:
            for daemon in reversed(daemons[1:]):
                daemon.__exit__()


class Asking:
    """A new process that is only a socket of the test: it asks for the sockets of a daemon, and may say it is ready."""

    def __init__(self, daemon):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(daemon.folder / "admin.sock"))
        self._file = self.sock.makefile("rb")

    def request(self, upgrade="wsbridge-takeover"):
        """Send the request; give the status."""
        lines = ["POST /v1/takeover HTTP/1.1", "Host: localhost", "Content-Length: 0", "Connection: upgrade"]
        self.sock.sendall("\r\n".join([*lines, f"Upgrade: {upgrade}", "", ""]).encode())
        status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass
        return status

    def message(self):
        """Read a message; what else came, such as descriptors, is dropped by the kernel."""
        while not (line := self._file.readline()).strip():
            assert line
        return json.loads(line)

    def close(self):
        """Disappear."""
        self._file.close()
        self.sock.close()


def test_a_new_process_that_disappears_changes_nothing():
    """The running one goes on; the next takeover succeeds.

    No token is needed, since who has the user ID could read it from the memory of the process.
    """
    admin = {"bind": "unix:@FOLDER@/admin.sock", "token": {"file": "@FOLDER@/token"}}
    with backend() as back:
        daemon = Daemon(config(back, admin=admin))
        (daemon.folder / "token").write_text("secret\n")
        with daemon:
            disappear(daemon)
            with successor(config(back, admin=admin), daemon) as new:
                assert daemon.ended() == 0
                assert new.wait("takeover.completed")["pid"] == daemon.pid
                served(new.port())


def disappear(daemon):
    """Ask for another protocol; ask for the sockets, and go."""
    with contextlib.closing(Asking(daemon)) as asking:
        assert asking.request("websocket") == 426
    with contextlib.closing(Asking(daemon)) as asking:
        assert asking.request() == 101
        keys = [one["key"][0] for one in asking.message()["listeners"]]
        assert keys == ["127.0.0.1:0", f"unix:{daemon.folder}/admin.sock"]
        served(daemon.port())
    daemon.wait("takeover.failed", detail="the new process has ended before it was ready")
    served(daemon.port())


def test_only_one_process_may_take_over():
    """A second one ends with a sentence and 69; and if the running process is stopped, the first one is informed."""
    with backend() as back, Daemon(config(back)) as daemon:
        first = Asking(daemon)
        assert first.request() == 101
        first.message()
        with successor(config(back), daemon, waits=False) as second:
            assert second.ended() == 69
            detail = second.wait("takeover.failed")["detail"]
            assert f"another takeover is in progress, by process {os.getpid()}" in detail
        served(daemon.port())
        held = Socket.upgraded(daemon.port())
        daemon.term()
        assert first.message() == {"error": "the running process is shutting down"}
        first.close()
        held.close()
        assert daemon.ended() == 0
        assert not (daemon.folder / "admin.sock").exists()


def test_an_invalid_configuration_changes_nothing():
    """The new process ends with 78 before it asks, or with 69 if it cannot bind; the running one serves."""
    with backend() as back, Daemon(config(back)) as daemon:
        with successor("nonsense: 1\n", daemon, waits=False) as new:
            assert new.ended() == 78
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listeners = {
                "local": {"bind": "unix:@FOLDER@/local.sock"},
                "taken": {"bind": f"127.0.0.1:{taken.getsockname()[1]}"},
            }
            with successor(config(back, listeners=listeners), daemon, waits=False) as new:
                assert new.ended() == 69
                assert "in use" in new.wait("listener.error")["detail"]
        assert not (daemon.folder / "local.sock").exists()
        assert (daemon.folder / "admin.sock").exists()
        daemon.wait("takeover.failed")
        served(daemon.port())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_gets_nothing():
    """Neither the mode of the socket nor a token makes up for the user ID."""
    admin = {"bind": "unix:@FOLDER@/admin.sock", "mode": "0666"}
    with backend() as back, Daemon(config(back, admin=admin)) as daemon:
        daemon.folder.chmod(0o711)
        os.seteuid(65534)
        try:
            asking = Asking(daemon)
        finally:
            os.seteuid(0)
        assert asking.request() == 403
        asking.close()
        assert daemon.wait("admin.denied")["uid"] == 65534
        served(daemon.port())


def test_long_connections_end_by_the_drain_and_passed_sockets_are_taken_over():
    """1012 comes after `drain` of the old process, whose socket another program has passed to it."""
    drain = {"drain": "3s", "drain_spread": "500ms", "close": "1s"}
    with backend() as back:
        text = config(back, listeners={"web": {"bind": "fd:web"}}, timeouts=drain)
        with Daemon(text, prefix=(sys.executable, "-c", ACTIVATE)) as daemon:
            long = Transfer(daemon.port())
            with successor(text, daemon) as new:
                assert new.port() == daemon.port()
                long.step()
                assert long.client.closing() == (1012, "draining")
                long.client.close()
                assert daemon.ended() == 0
                assert daemon.wait("connection.closed")["duration_seconds"] > 2.5
                served(new.port())


def test_the_main_process_of_a_unit_does_not_change():
    """For systemd, a unit has ended when the process that it started has."""
    with backend() as back, Daemon(config(back), notify=True) as daemon:
        with successor(config(back), daemon, waits=False) as new:
            assert new.ended() == 69
            assert "use socket activation instead" in new.wait("takeover.failed")["detail"]
        served(daemon.port())


def test_without_a_running_process_it_starts_as_usual():
    """So that one command serves for the first start and for upgrades; a stale socket file counts as none."""
    with backend() as back:
        daemon = Daemon(config(back), arguments=("--takeover",))
        with daemon, contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
            assert daemon.wait("takeover.no_process")["detail"] == "no such file or directory"
            served(daemon.port())
            stale.bind(str(daemon.folder / "stale.sock"))
            admin = {"bind": "unix:@FOLDER@/stale.sock"}
            with successor(config(back, admin=admin), daemon) as new:
                assert new.wait("takeover.no_process")["detail"] == "connection refused"
                served(new.port())


def test_only_a_unix_socket_can_pass_sockets_on():
    """A TCP address is a wrong command line; so is none at all, since then no process would ever find the other."""
    with backend() as back:
        with Daemon(config(back), arguments=("--takeover", "--admin", "127.0.0.1:9181"), waits=False) as daemon:
            assert daemon.ended() == 64
        with Daemon(written(route={"respond": "204"}), arguments=("--takeover",), waits=False) as daemon:
            assert daemon.ended() == 64


def connect_unix(path):
    """Connect to a Unix listener, and be answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(path))
        sock.sendall(request())
        return sock.recv(12)


def test_the_file_of_a_unix_listener_survives():
    """The old process leaves it alone, the last one removes it."""
    listeners = {"local": {"bind": "unix:@FOLDER@/local.sock", "mode": "0600"}}
    with backend() as back, Daemon(config(back, listeners=listeners)) as daemon:
        paths = [daemon.folder / name for name in ("local.sock", "admin.sock")]
        inodes = [path.stat().st_ino for path in paths]
        listeners["local"]["mode"] = "0660"
        with successor(config(back, listeners=listeners), daemon) as new:
            assert daemon.ended() == 0
            assert [path.stat().st_ino for path in paths] == inodes
            assert paths[0].stat().st_mode & 0o777 == 0o660
            with successor(config(back, listeners=listeners), new) as newest:
                assert new.ended() == 0
                assert [path.stat().st_ino for path in paths] == inodes
                assert connect_unix(paths[0]) == b"HTTP/1.1 101"
                newest.term()
                assert newest.ended() == 0
            assert not any(path.exists() for path in paths)


def test_another_configuration_is_taken_over_to():
    """Listeners are added, and removed as by a reload: who waits there is served by the old process."""
    listeners = {"kept": {"bind": "127.0.0.1:0"}, "removed": {"bind": "unix:@FOLDER@/removed.sock"}}
    with backend() as back, Daemon(config(back, listeners=listeners)) as daemon:
        listeners = {"kept": {"bind": "127.0.0.1:0"}, "added": {"bind": "unix:@FOLDER@/added.sock"}}
        monitoring = {"bind": "unix:@FOLDER@/monitoring.sock"}
        removed = Path(daemon.folder / "removed.sock")
        waiting = socket.socket(socket.AF_UNIX)
        waiting.settimeout(SECONDS)
        waiting.connect(str(removed))
        text = config(back, listeners=listeners, monitoring=monitoring)
        with successor(text, daemon) as new:
            waiting.sendall(request())
            assert waiting.recv(12) == b"HTTP/1.1 101"
            waiting.close()
            assert daemon.ended() == 0
            assert not removed.exists()
            assert new.port() == daemon.port()
            served(new.port())
            assert connect_unix(new.folder / "added.sock") == b"HTTP/1.1 101"
            assert b"HTTP/1.1 404" in connect_unix(new.folder / "monitoring.sock")


def test_health_checks_and_commands_reach_one_of_both_at_any_time():
    """Their sockets are taken over with those of the listeners; here with clients that connect by TLS."""
    with backend() as back:
        text = config(back, monitoring={"bind": "127.0.0.1:0"}, tls=True)
        with Daemon(text) as daemon:
            place = daemon.wait("listener.opened", listener="monitoring")["listen_address"]
            checks = Clients(partial(check, int(place.rpartition(":")[2])))
            with checks, Clients(partial(served, daemon.port(), tls=True)) as clients:
                checks.reach(5)
                with successor(text, daemon) as new:
                    assert daemon.ended() == 0
                    clients.reach(clients.served + 5)
                    checks.reach(checks.served + 5)
                    assert f'"pid": {new.pid}' in status(new)


def status(daemon):
    """Ask the admin API for the status."""
    with contextlib.closing(Asking(daemon)) as asking:
        asking.sock.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: asking.sock.recv(65536), b"")).decode()
