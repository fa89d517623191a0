"""`bridge -`: standard input and output as a connection."""

from __future__ import annotations

import os
import pty
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.backends import answer_at_the_end, echo, serving, speak_first_and_leave
from tests.cli.program import QUIET, WSBRIDGE, finished, started
from tests.clients.program import PATIENCE
from wsbridge.cli.main import CliError
from wsbridge.cli.stdio import StdioConnection
from wsbridge.reasons import Reason, Termination

BIG = random.Random(7).randbytes(4 << 20)
ENV = {**os.environ, **QUIET}


@pytest.fixture
def far() -> Iterator[str]:
    """The URL of a bridge to a server that answers after EOF."""
    with (
        serving(answer_at_the_end) as port,
        started("bridge", "ws://127.0.0.1:0/", f"tcp://127.0.0.1:{port}", "--on-client-close", "deliver") as bridge,
    ):
        yield bridge.line(r"^wsbridge: (\S+) -> ")[1]


@pytest.mark.parametrize("request_", [b"request\n", b"", BIG], ids=["line", "nothing", "4 MiB"])
def test_request_and_answer(far: str, request_: bytes) -> None:
    """A request, the end of input, then the whole answer on standard output, silence on standard error, exit code 0."""
    done = finished("bridge", "-", far, input=request_)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"answer:" + request_


def test_without_websocket() -> None:
    """A plain target works the same way: half a connection may end before the other."""
    with serving(answer_at_the_end) as port:
        done = finished("bridge", "-", f"tcp://127.0.0.1:{port}", input=b"request")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"answer:request", b"")


def test_regular_files(far: str, tmp_path: Path) -> None:
    """Input and output may be files, which epoll would refuse."""
    given, got = tmp_path / "in", tmp_path / "out"
    given.write_bytes(BIG)
    with given.open("rb") as source, got.open("wb") as sink:
        done = finished("bridge", "-", far, stdin=source, stdout=sink)

    assert (done.returncode, done.stderr) == (0, b"")
    assert got.read_bytes() == b"answer:" + BIG


@pytest.mark.parametrize("websocket", [False, True])
def test_input_that_stays_open(websocket: bool) -> None:
    """When the far side ends, the output ends at once and the process soon, though its input is open and silent."""
    mine, its = pty.openpty()
    try:
        with serving(speak_first_and_leave) as port:
            target = f"tcp://127.0.0.1:{port}"
            if websocket:
                with started("bridge", "ws://127.0.0.1:0/", target) as bridge:
                    done = finished("bridge", "-", bridge.line(r"^wsbridge: (\S+) -> ")[1], stdin=its)
            else:
                done = finished("bridge", "-", target, stdin=its)
    finally:
        os.close(mine)
        os.close(its)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"bye\n", b"")


def test_a_server_that_only_listens() -> None:
    """A plain server that ends what it sends, and goes on reading, still gets all of the input."""
    got = bytearray()

    def listen(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(1 << 20):
            got.extend(data)

    with serving(listen) as port:
        done = finished("bridge", "-", f"tcp://127.0.0.1:{port}", input=BIG)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert bytes(got) == BIG


def test_descriptors_keep_their_mode() -> None:
    """Standard input and output that others share stay blocking; non-blocking ones work as well."""
    inner, outer = socket.socketpair()
    shared, other = socket.socketpair()
    with inner, outer, shared, other, serving(echo) as port:
        other.setblocking(False)
        for its, mine, blocking in ((inner, outer, True), (other, shared, False)):
            command = [*WSBRIDGE, "bridge", "-", f"tcp://127.0.0.1:{port}"]
            with subprocess.Popen(
                command, stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.PIPE, env=ENV
            ) as process:
                mine.settimeout(PATIENCE)
                got = bytearray()
                sending = threading.Thread(target=mine.sendall, args=(BIG,))
                sending.start()
                while len(got) < len(BIG):
                    got += mine.recv(1 << 20)
                sending.join(PATIENCE)
                during = os.get_blocking(its.fileno())
                mine.shutdown(socket.SHUT_WR)
                assert process.wait(PATIENCE) == 0
            assert bytes(got) == BIG
            assert during is blocking


def test_nobody_listens() -> None:
    """A target where nobody listens is one sentence, and exit code 1."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{reserved.getsockname()[1]}"
        done = finished("bridge", "-", f"ws://{place}/", input=b"request")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"wsbridge: backend_refused: {place}: Connection refused\n"


def test_no_such_socket() -> None:
    """A Unix path that is not there is one sentence, and exit code 1."""
    done = finished("bridge", "-", "unix:/nonexistent/socket", input=b"request")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"wsbridge: backend_refused: unix:/nonexistent/socket: No such file or directory\n"


def test_an_upstream_that_refuses() -> None:
    """A server that answers no 101 is told with its status."""

    def refuse(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with serving(refuse) as port:
        done = finished("bridge", "-", f"ws://127.0.0.1:{port}/", input=b"request")

    assert done.returncode == 1
    assert b"403" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_connection_that_breaks() -> None:
    """A reset by the far side is exit code 1 and one sentence, after what came before it was written."""

    def break_off(sock: socket.socket) -> None:
        sock.sendall(b"half")
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(break_off) as port:
        command = [*WSBRIDGE, "bridge", "-", f"tcp://127.0.0.1:{port}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(4) == b"half"
            process.stdin.write(b"x")
            process.stdin.flush()
            said = process.stderr.read()
            assert process.wait(PATIENCE) == 1

    assert said.startswith(b"wsbridge: backend_reset")
    assert said.count(b"\n") == 1


def test_a_reader_that_leaves() -> None:
    """When nobody reads its output any more, the process ends by itself with exit code 1."""

    def flood(sock: socket.socket) -> None:
        while True:
            sock.sendall(bytes(65536))

    with serving(flood) as port:
        command = [*WSBRIDGE, "bridge", "-", f"tcp://127.0.0.1:{port}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(100_000)
            process.stdout.close()
            said = process.stderr.read()
            assert process.wait(PATIENCE) == 1

    assert said == b"wsbridge: standard output: Broken pipe\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal(number: signal.Signals) -> None:
    """A signal ends it at once, with one sentence and no traceback."""
    with serving(echo) as port:
        command = [*WSBRIDGE, "bridge", "-", f"tcp://127.0.0.1:{port}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(b"up")
            process.stdin.flush()
            assert process.stdout.read(2) == b"up"
            process.send_signal(number)
            said = process.stderr.read()
            assert process.wait(PATIENCE) == 128 + number

    assert said.decode() == f"wsbridge: stopped by {number.name}\n"


def test_closed_descriptors() -> None:
    """Without standard input or output there is nothing to bridge: a usage error."""
    mine, its = os.pipe()
    os.close(mine)
    with pytest.raises(CliError) as caught:
        StdioConnection(mine, its)
    os.close(its)

    assert caught.value.exit_code == 64
    assert caught.value.message == "-: standard input is closed"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Termination(Reason.BACKEND_CLOSED, "back", close_code=1000), None),
        (Termination(Reason.BACKEND_CLOSED, "back"), None),
        (Termination(Reason.CLIENT_CLOSED, "front"), None),
        (Termination(Reason.BACKEND_CLOSED, "back", close_code=1014), "backend_closed (close code 1014)"),
        (Termination(Reason.IDLE_TIMEOUT, "bridge", "60 s"), "idle_timeout: 60 s"),
        (None, "the connection was not started"),
    ],
)
def test_what_counts_as_orderly(end: Termination | None, said: str | None) -> None:
    """Only a side that ended with nothing left to say is orderly; a close code of failure is told."""
    stdio = StdioConnection()
    stdio.termination = end

    assert stdio.failure_message() == said
