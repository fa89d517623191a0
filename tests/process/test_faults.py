"""Faults of the host: a process that is stopped, a clock that jumps, little memory, a log that nobody reads."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.client import CLOSE, PING, PONG, frame, request
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend
from tests.serving import written
from wsbridge.cli.control import call_admin
from wsbridge.cli.main import CliError

DAY = 86_400
TOKEN = 40 * "t"
ADMIN = {"bind": "unix:@FOLDER@/admin.sock"}
SLOW = {"loop_lag": "1s"}
"""No lag that other tests on this machine cause."""


def admin(daemon: Daemon, method: str, path: str) -> tuple[int, Any]:
    """Send a request to the admin API."""
    return call_admin(str(daemon.folder / "admin.sock"), None, method, path)


def is_ready(daemon: Daemon) -> bool:
    """Return whether a daemon whose log is not read serves."""
    with contextlib.suppress(CliError):
        return bool(admin(daemon, "GET", "/v1/status")[1]["ready"])
    return False


class Answering:
    """WebSocket clients that answer pings in a thread, until the end of the block; none may lose its connection."""

    def __init__(self) -> None:
        self._clients: dict[Any, Socket] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.pings = 0
        self.wrong: list[object] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            for sock in select.select(list(self._clients), [], [], 0.05)[0]:
                opcode, _ = self._clients[sock].frame()
                if opcode != PING:
                    self.wrong.append(opcode)
                    return
                self.pings += 1
                sock.sendall(frame(PONG))

    def add(self, client: Socket) -> None:
        """Have one more answer them."""
        self._clients[client.sock] = client

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self.wrong


@pytest.mark.parametrize("seconds", [1.5, pytest.param(60.0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("tls", [False, True])
def test_a_process_that_was_stopped_goes_on(seconds, tls):
    """SIGSTOP for longer than all timeouts, then SIGCONT: no connection is lost, and the log calls it a stall."""
    timeouts = {"ping_interval": "300ms", "ping_timeout": "1s", "write": "1s", "idle": "1m30s"}
    text = written(route={"backend": "tcp://127.0.0.1:1"}, timeouts=timeouts, tls=tls, admin=ADMIN, log=SLOW)
    with backend() as back, Daemon(text.replace("tcp://127.0.0.1:1", back.url)) as daemon:
        clients = []
        with Answering() as answering:
            for _ in range(20):
                clients.append(Socket.upgraded(daemon.port(), tls=tls))
                clients[-1].echoed()
                answering.add(clients[-1])
            while answering.pings < len(clients):
                time.sleep(0.01)
            daemon.signal(signal.SIGSTOP)
            waiting = Socket.connect(daemon.port()) if not tls else None  # it is in the backlog
            time.sleep(seconds)
            daemon.signal(signal.SIGCONT)
            stall = daemon.wait("loop.stalled")
            before = answering.pings
            daemon.until(lambda: answering.pings >= before + 2 * len(clients))
        assert stall["lag_seconds"] > seconds - 0.5
        assert stall["cpu_seconds"] < 0.5
        for client in clients:
            client.echoed()
            client.close()
        if waiting is not None:
            waiting.send(request())
            assert waiting.head().startswith("HTTP/1.1 101 ")
        assert not daemon.log_lines("connection.rejected")
        assert not daemon.log_lines("internal_error")
        _, status = admin(daemon, "GET", "/v1/status")
        assert status["loop_lag_longest_seconds"] > seconds - 0.5


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build the library that moves the wall clock of a process."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    yield library
    shutil.rmtree(library.parent)


@pytest.mark.parametrize("days", [1, -1])
def test_a_wall_clock_that_jumps_ends_nothing(days, clock, tmp_path):
    """A day forwards or back: connections, reloads and bans go on, by a clock that never jumps."""
    offset = tmp_path / "offset"
    offset.write_bytes(struct.pack("l", 0))
    timeouts = {"ping_interval": "200ms", "ping_timeout": "10s", "idle": "1h", "max_lifetime": "2h"}
    environ = {"LD_PRELOAD": str(clock), "CLOCK_OFFSET": str(offset)}
    with backend() as back:
        text = written(route={"backend": back.url}, timeouts=timeouts, admin=ADMIN)
        with Daemon(text, environ=environ) as daemon:
            clients = [Socket.upgraded(daemon.port()) for _ in range(5)]
            with Answering() as answering:
                for client in clients:
                    answering.add(client)
                with offset.open("r+b") as file:
                    file.write(struct.pack("l", days * DAY))
                before = answering.pings
                daemon.until(lambda: answering.pings >= before + 3 * len(clients))
            assert admin(daemon, "POST", "/v1/reload")[0] == 200
            jumped = daemon.wait("config.reloaded")["ts"]
            assert jumped[:10] != daemon.ready["ts"][:10]  # it did jump
            for client in clients:
                client.echoed()
                client.send(frame(CLOSE, b"\x03\xe8"))
                assert client.closing()[0] == 1000
            closed = [daemon.wait("connection.closed", count=number + 1) for number in range(len(clients))]
            assert {line["reason"] for line in closed} == {"client_closed"}
            assert all(0 <= line["duration_seconds"] < 60 for line in closed)
            assert all(line["lag_seconds"] < DAY / 2 for line in daemon.log_lines("loop.stalled"))
            assert not daemon.log_lines("internal_error")


def address_space(daemon: Daemon, folder: Path) -> Callable[[int], None]:
    """Give a function that leaves so many bytes of the address space of a daemon until memory is short."""

    def leave(free: int) -> None:
        limit = (daemon.address_space() + free) * 10 // 9
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    return leave


def cgroup(daemon: Daemon, folder: Path) -> Callable[[int], None]:
    """Do the same by the files of a cgroup, in a mount namespace of the daemon alone."""

    def write(name: str, value: int) -> None:
        """As the kernel does: a reader never finds half of it."""
        (folder / f"{name}.new").write_text(str(value))
        (folder / f"{name}.new").rename(folder / name)

    def leave(free: int) -> None:
        nonlocal used
        used = daemon.anonymous()
        if not follow.is_set():
            write("memory.current", used)
        write("memory.max", (used + free) * 10 // 9)
        follow.set()

    def run() -> None:
        nonlocal used
        follow.wait()
        with contextlib.suppress(OSError):
            while True:
                used = max(used, daemon.anonymous())  # what the daemon gives back meanwhile would end the pressure
                write("memory.current", used)
                time.sleep(0.1)

    used = 0
    follow = threading.Event()
    threading.Thread(target=run, daemon=True).start()
    return leave


@pytest.mark.parametrize("limit", [address_space, cgroup])
def test_new_connections_are_rejected_before_memory_is_used_up(limit, tmp_path):
    """Clients that connect without end get 503 at the threshold; those that are served go on, and all do after it."""
    prefix: list[str] = []
    if limit is cgroup:
        (tmp_path / "memory.max").write_text("max")
        prefix = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(tmp_path)]
        if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
    with backend() as back:
        text = written(route={"backend": back.url}, limits={"connections": 5000}, admin=ADMIN)
        with Daemon(text, prefix=prefix) as daemon:
            served = [Socket.upgraded(daemon.port()) for _ in range(50)]
            leave = limit(daemon, tmp_path)
            leave(3 * 1024 * 1024)
            head = ""
            deadline = time.monotonic() + 120
            while not head.startswith("HTTP/1.1 503 ") and time.monotonic() < deadline:
                client = Socket.connect(daemon.port())
                client.send(request())
                head = client.head()
                if head.startswith("HTTP/1.1 101 "):
                    served.append(client)
                time.sleep(0.002)
            assert head.startswith("HTTP/1.1 503 "), len(served)
            assert "Retry-After: 1" in head
            daemon.wait("memory.pressure")
            assert admin(daemon, "GET", "/readyz") == (503, "memory is short")
            command = [sys.executable, "-m", "wsbridge", "status", "--admin", str(daemon.folder / "admin.sock")]
            shown = forked.run(command, capture_output=True, text=True, check=False)
            assert shown.returncode == 1
            assert "state        serving, memory is short\n" in shown.stdout
            assert ", new connections are rejected\n" in shown.stdout
            for client in served:
                client.echoed()
            leave(1024 * 1024 * 1024)
            daemon.wait("memory.relieved")
            served.append(Socket.upgraded(daemon.port()))
            assert len(daemon.log_lines("memory.pressure")) == 1
            assert not daemon.log_lines("internal_error")
            for client in served:
                client.close()
            daemon.term()
            assert daemon.ended() == 0


def test_a_reload_while_nobody_reads_the_log():
    """Its pipe is full: reloads and connections go on; what waits for it is written as soon as somebody reads."""
    with backend() as back:
        text = written(route={"backend": back.url}, admin=ADMIN, log={"level": "debug"})
        with Daemon(text, read_log=False) as daemon:
            fcntl.fcntl(daemon.process.stderr.fileno(), fcntl.F_SETPIPE_SZ, 4096)
            daemon.until(lambda: is_ready(daemon))
            _, status = admin(daemon, "GET", "/v1/status")
            port = int(status["listeners"][0].rpartition(":")[2])
            held = Socket.upgraded(port)
            began = time.monotonic()
            for number in range(60):
                with Socket.upgraded(port, f"/{number}" + 4000 * "x") as client:
                    client.echoed()
                if number % 10 == 0:
                    assert admin(daemon, "POST", "/v1/reload")[0] == 200
            assert time.monotonic() - began < 60
            held.echoed()
            daemon.read_log()
            daemon.wait("connection.closed", count=60)
            daemon.wait("config.reloaded", count=6)
            daemon.term()
            assert daemon.ended() == 0


def test_a_reload_during_the_shutdown_is_rejected():
    """SIGHUP and `wsbridge reload` after SIGTERM change nothing, and say why; the drain goes on."""
    with backend() as back:
        timeouts = {"drain": "20s", "drain_spread": "1s"}
        with Daemon(written(route={"backend": back.url}, timeouts=timeouts, admin=ADMIN)) as daemon:
            held = Socket.upgraded(daemon.port())
            held.echoed()
            daemon.term()
            daemon.wait("daemon.draining")
            status, answer = admin(daemon, "POST", "/v1/reload")
            assert status == 422
            assert answer["error"] == "wsbridge is shutting down"
            daemon.signal(signal.SIGHUP)
            daemon.wait("config.reload_failed", count=2, detail="wsbridge is shutting down")
            held.echoed()
            held.send(frame(CLOSE, b"\x03\xe8"))
            assert held.closing()[0] == 1000
            assert daemon.ended(15) == 0


@pytest.mark.parametrize("missing", ["tokens", "key", "page"])
def test_a_file_missing_at_a_reload_keeps_the_old_configuration(missing):
    """Whatever a mount or a secret store has not brought yet: an error with its place; the old content still serves."""
    routes = {
        "tokens": {
            "match": {"path": "/tokens"},
            "respond": "204",
            "auth": {"kind": "bearer", "tokens": "@FOLDER@/tokens"},
        },
        "tickets": {
            "match": {"path": "/tickets"},
            "respond": "204",
            "auth": {"kind": "ticket", "key": {"file": "@FOLDER@/key"}},
        },
        "page": {"match": {"path": "/page/*"}, "files": "@FOLDER@/page", "auth": "none"},
    }
    daemon = Daemon(written(routes=routes, admin=ADMIN))
    (daemon.folder / "tokens").write_text(f"alice sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    (daemon.folder / "key").write_text(64 * "k")
    (daemon.folder / "page").mkdir()
    (daemon.folder / "page" / "index.html").write_text("hello")
    with daemon:
        away = (daemon.folder / missing).rename(daemon.folder / "away")
        status, answer = admin(daemon, "POST", "/v1/reload")
        assert status == 422
        (problem,) = [one for one in answer["problems"] if one["severity"] == "error"]
        assert missing in problem["message"]
        assert problem["line"] == 1
        assert problem["column"] > 1
        daemon.signal(signal.SIGHUP)
        daemon.wait("config.reload_failed", count=2, generation=1)
        with Socket.connect(daemon.port()) as client:
            line = f"GET /tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            client.send(line.encode())
            assert client.head().startswith("HTTP/1.1 204 ")
        away.rename(daemon.folder / missing)
        assert admin(daemon, "POST", "/v1/reload")[0] == 200


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_sigterm_with_many_connections(count):
    """Not ready first; then all are closed with 1012, spread out; the process ends by its deadline."""
    timeouts = {"drain_delay": "1s", "drain": "2s", "drain_spread": "1s", "close": "2s"}
    with backend() as back:
        text = written(route={"backend": back.url}, timeouts=timeouts, admin=ADMIN)
        with Daemon(text) as daemon:
            connected = [Socket.upgraded(daemon.port()) for _ in range(count)]
            clients = {client.sock.fileno(): client for client in connected}
            began = time.monotonic()
            daemon.term()
            daemon.until(lambda: admin(daemon, "GET", "/readyz")[0] == 503)
            with Socket.upgraded(daemon.port()) as late:  # still accepted: balancers need time to notice
                late.echoed()
            poll = select.poll()
            for number in clients:
                poll.register(number, select.POLLIN)
            times = []
            while clients:
                readable = poll.poll(10_000)
                assert readable
                for number, _ in readable:
                    poll.unregister(number)
                    client = clients.pop(number)
                    assert client.closing() == (1012, "draining")
                    times.append(time.monotonic() - began)
                    client.send(frame(CLOSE, (1012).to_bytes(2, "big")))
            assert daemon.ended() == 0
            assert min(times) > 1
            assert max(times) - min(times) > 0.5
            assert time.monotonic() - began < 1 + 2 + 2 + 10
            assert not daemon.log_lines("internal_error")
