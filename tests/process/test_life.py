"""The process from its start to its exit: the service manager, signals, listeners, its log."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.client import BINARY, CLOSE, frame, request
from tests.clients.program import free_port
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend
from tests.serving import written

DRAIN = {"drain": "1500ms", "drain_spread": "500ms", "close": "1s"}


def bye(client, code):
    """Answer a close frame and see the end."""
    client.send(frame(CLOSE, code.to_bytes(2, "big")))
    assert client.everything() == b""
    client.close()


def test_the_service_manager_is_notified():
    """READY=1 comes when the listeners are open, then a count, then STOPPING=1; the exit code is 0."""
    with backend() as back, Daemon(written(route={"backend": back.url}), notify=True) as daemon:
        assert daemon.state("READY") == "1"
        assert "serving 1 routes at 1 addresses" in daemon.states[-1]["STATUS"]
        with Socket.upgraded(daemon.port()) as client:
            client.echoed()
        daemon.term()
        assert daemon.state("STOPPING") == "1"
        assert daemon.ended() == 0
        daemon.wait("daemon.stopped")


AS_FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
"""Runs a command as the first process of a container, which is number 1 there: signals have no default action."""


@contextlib.contextmanager
def starting(prefix=()):
    """Give a daemon that reads its file, its number, the open file (a FIFO), and what that should have."""
    if prefix and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a PID namespace")
    daemon = Daemon(written(route={"respond": "204"}), waits=False, prefix=prefix)
    file = daemon.folder / "wsbridge.yaml"
    text = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    with daemon, file.open("wb") as fifo:  # waits for the process that reads it
        number = daemon.pid
        if prefix:
            number = int(Path(f"/proc/{number}/task/{number}/children").read_text())
        yield daemon, number, fifo, text


@pytest.mark.parametrize("prefix", [(), AS_FIRST], ids=["", "first"])
def test_a_hangup_during_the_start_is_a_reload(prefix):
    """A file that was replaced after it was read is read again, and SIGHUP does not end what only starts."""
    with starting(prefix) as (daemon, number, fifo, text):
        file = daemon.folder / "wsbridge.yaml"
        file.unlink()
        file.write_text(written(route={"respond": "205"}))
        os.kill(number, signal.SIGHUP)
        fifo.write(text)
        fifo.close()
        daemon.wait("config.reloaded")
        os.kill(number, signal.SIGTERM)
        assert daemon.ended() == 0


@pytest.mark.parametrize(
    ("prefix", "number", "code"),
    [
        ((), signal.SIGTERM, -signal.SIGTERM),
        (AS_FIRST, signal.SIGTERM, 143),
        ((), signal.SIGINT, 130),
        (AS_FIRST, signal.SIGINT, 130),
    ],
)
def test_a_signal_during_the_start_ends_it(prefix, number, code):
    """At once, also as the first process of a container: what stops those would else wait before it kills."""
    with starting(prefix) as (daemon, pid, _, _):
        os.kill(pid, number)
        assert daemon.ended() == code


def test_sigterm_drains():
    """Connections may end by themselves until drain less spread; those left get 1012; new ones get 503."""
    with backend() as back, Daemon(written(route={"backend": back.url}, timeouts=DRAIN)) as daemon:
        left = [Socket.upgraded(daemon.port()) for _ in range(4)]
        own = Socket.upgraded(daemon.port())
        late = Socket.connect(daemon.port())
        late.send(b"GET / HTTP/1.1\r\n")
        left[0].echoed()  # what came before was heard by now, too
        began = time.monotonic()
        daemon.term()
        daemon.wait("daemon.draining")
        new = Socket.connect(daemon.port())
        new.send(request())
        late.send(request().partition(b"\r\n")[2])
        for client in (late, new):
            answer = client.everything().decode()
            client.close()
            assert answer.startswith("HTTP/1.1 503 ")
            assert "Retry-After: 1\r\n" in answer
        own.echoed()
        own.send(frame(CLOSE, b"\x03\xe8"))
        assert own.closing()[0] == 1000
        own.close()
        for client in left:
            client.echoed()
        waiting = {client.sock: client for client in left}
        times = []
        while waiting:
            readable, _, _ = select.select(list(waiting), [], [], 10)
            assert readable
            for sock in readable:
                assert waiting.pop(sock).closing() == (1012, "draining")
                times.append(time.monotonic() - began)
        for client in left:
            bye(client, 1012)
        assert daemon.ended() == 0
        took = time.monotonic() - began
        assert min(times) > 0.9
        assert max(times) < 1.5 + 8
        assert max(times) - min(times) > 0.2
        assert took < 1.5 + 1.0 + 8
        assert {line["reason"] for line in daemon.log_lines("connection.closed")} == {"draining", "client_closed"}
        assert not daemon.log_lines("internal_error")


def test_sigterm_with_nothing_open_ends_at_once():
    """A drain with no connections takes no time."""
    with Daemon(written(route={"backend": "tcp://127.0.0.1:9"})) as daemon:
        began = time.monotonic()
        daemon.term()
        assert daemon.ended() == 0
        assert time.monotonic() - began < 10


def test_silent_clients_do_not_outlive_the_drain():
    """Peers that neither speak nor answer the close frame are cut by drain plus close."""
    timeouts = {"drain": "600ms", "drain_spread": "200ms", "close": "500ms", "lingering": "60s", "handshake": "60s"}
    with backend() as back, Daemon(written(route={"backend": back.url}, timeouts=timeouts)) as daemon:
        idle = Socket.connect(daemon.port())
        deaf = Socket.upgraded(daemon.port())
        began = time.monotonic()
        daemon.term()
        assert daemon.ended() == 0
        assert time.monotonic() - began < 0.6 + 0.5 + 8
        assert deaf.closing() == (1012, "draining")
        assert idle.everything() == b""
        idle.close()
        deaf.close()


def test_the_engine_is_the_one_that_is_set(engine):
    """The daemon says which one it has; `auto` is for hosts without the native one here, see conftest.py."""
    with Daemon(written(route={"respond": "204"})) as daemon:
        assert daemon.ready["engine"] == ("python" if engine == "auto" else engine)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigint_or_a_second_signal_ends_all_at_once(first):
    """SIGINT, or any signal after a SIGTERM, closes all with 1001 and exits within `close`."""
    slow = {"drain": "60s", "drain_spread": "20s", "close": "30s", "handshake": "60s"}
    with backend() as back, Daemon(written(route={"backend": back.url}, timeouts=slow)) as daemon:
        clients = [Socket.upgraded(daemon.port()) for _ in range(3)]
        idle = Socket.connect(daemon.port())
        clients[0].echoed()
        began = time.monotonic()
        daemon.signal(first)
        if first is signal.SIGTERM:
            daemon.wait("daemon.draining", reason="draining")
            clients[0].echoed()
            daemon.term()
        daemon.wait("daemon.draining", reason="shutdown")
        for client in clients:
            assert client.closing() == (1001, "shutdown")
            bye(client, 1001)
        assert idle.everything() == b""
        idle.close()
        assert daemon.ended() == 0
        assert time.monotonic() - began < 10


def test_further_signals_do_not_cut_the_end():
    """However many come, the last line of the log is written, and the exit code is 0."""
    with Daemon(written(route={"respond": "204"})) as daemon:
        while daemon.process.poll() is None:
            daemon.term()
            time.sleep(0.001)
        assert daemon.ended() == 0
        daemon.wait("daemon.stopped")


def test_a_unix_listener_comes_and_goes():
    """The socket file has its mode while the daemon serves, and is gone when it has stopped accepting."""
    listeners = {"local": {"bind": "unix:@FOLDER@/wsbridge.sock", "mode": "0600"}}
    with backend() as back:
        text = written(listeners=listeners, routes={"app": {"match": "any", "backend": back.url}})
        with Daemon(text) as daemon:
            path = str(daemon.folder / "wsbridge.sock")
            unix_life(daemon, path)


def unix_life(daemon, path):
    """See the file, connect, and see it go."""
    assert Path(path).stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(request())
        assert sock.recv(12) in (b"HTTP/1.1 101", b"HTTP/1.1 502")
    daemon.term()
    daemon.wait("listener.closed")
    assert not Path(path).exists()
    assert daemon.ended() == 0


def test_an_address_in_use_is_exit_69():
    """A listener that cannot be opened is reported in one sentence, and the exit code is 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        text = written(listeners={"web": {"bind": bind}}, route={"respond": "204"})
        with pytest.raises(AssertionError, match="address already in use"):
            Daemon(text).__enter__()


def test_a_full_log_pipe_does_not_stop_serving():
    """Nobody reads the log and its pipe is full: connections go on as before, and SIGTERM still ends the process."""
    with backend() as back:
        port = free_port()
        text = written(listeners={"web": {"bind": f"127.0.0.1:{port}"}}, route={"backend": back.url})
        with Daemon(text.replace('"limits"', '"log": {"level": "debug"}, "limits"'), read_log=False) as daemon:
            wait_for(port)
            fill_pipe(daemon.process.stderr.fileno())
            began = time.monotonic()
            for _ in range(400):
                with Socket.upgraded(port, "/" + "x" * 1500) as client:
                    client.send(frame(BINARY, b"1"))
            with Socket.upgraded(port) as client:
                client.echoed()
            assert time.monotonic() - began < 60
            daemon.term()
            assert daemon.ended() == 0


def wait_for(port):
    """Wait until somebody listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def fill_pipe(read_end):
    """Make the pipe as small as it can be; the daemon's own lines fill it."""
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 4096)
