"""`bridge -`: standard input and output as a connection."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests import forked
from tests.cli.backends import answer_at_the_end, echo, serving, speak_first_and_leave
from tests.cli.program import QUIET, WSBRIDGE, finished, started
from tests.clients.program import PATIENCE
from tests.forked import Popen
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


@pytest.mark.parametrize("name", ["wsbridge-stdin", "wsbridge-stdout"])
def test_without_a_thread(name: str) -> None:
    """As at the limit of processes of the user: one sentence, and the exit code of a connection that failed."""
    program = f"""
import threading
start = threading.Thread.start
def start_or_fail(thread):
    if thread.name == "{name}":
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_or_fail
from wsbridge.cli.main import main
main()
"""
    command = [sys.executable, "-c", program, "bridge", "-", "tcp://127.0.0.1:9"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=ENV, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"wsbridge: standard input and output cannot be relayed: can't start new thread\n"


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
    """At a terminal the end of the far side ends the process at once, though nobody ends the input."""
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


def slow_input(*args: str, first: bytes, pause: float, then: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run `bridge -` with an input that pauses."""
    command = [*WSBRIDGE, "bridge", "-", *args]
    with Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as process:
        assert process.stdin is not None
        process.stdin.write(first)
        process.stdin.flush()
        time.sleep(pause)
        output, errors = process.communicate(then, PATIENCE)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.parametrize("websocket", [False, True])
def test_a_pause_after_the_far_side_has_ended(websocket: bool) -> None:
    """A receiver that half-closes first gets all of the input, though that pauses for longer than a second."""
    got = bytearray()
    ended = threading.Event()

    def listen(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(1 << 20):
            got.extend(data)
        ended.set()

    with serving(listen) as port:
        target = f"tcp://127.0.0.1:{port}"
        if websocket:
            with started("bridge", "ws://127.0.0.1:0/", target) as bridge:
                url = bridge.line(r"^wsbridge: (\S+) -> ")[1]
                done = slow_input(url, first=b"one,", pause=1.5, then=b"two")
        else:
            done = slow_input(target, first=b"one,", pause=1.5, then=b"two")
        assert ended.wait(PATIENCE)

    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes(got) == b"one,two"


def test_half_close_is_the_bound_of_a_silent_input() -> None:
    """An input that stays open and silent after the far side has ended is given up after half_close: exit code 1."""
    done = None
    read, write = os.pipe()
    with os.fdopen(write, "wb"), os.fdopen(read, "rb") as silent, serving(speak_first_and_leave) as port:
        done = finished("bridge", "-", f"tcp://127.0.0.1:{port}", "--half-close", "300ms", stdin=silent)

    assert (done.returncode, done.stdout) == (1, b"bye\n")
    assert b"half_close" in done.stderr


@contextlib.contextmanager
def websocket_server(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A WebSocket server that is no wsbridge."""
    with serve(handler, "127.0.0.1", 0, subprotocols=[Subprotocol("binary")], close_timeout=1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        server.shutdown()
        thread.join(PATIENCE)


def test_the_answer_of_a_server_that_ends_at_close() -> None:
    """A server that answers after a while, and ends on Close, is waited for: the Close is held back (--hold)."""

    def answer_late(ws: ServerConnection) -> None:
        request = ws.recv()
        time.sleep(0.7)  # the delay itself is tested: shorter than --hold
        ws.send(b"answer to " + request)
        with contextlib.suppress(ConnectionClosed):
            ws.recv()

    with websocket_server(answer_late) as url:
        held = finished("bridge", "-", url, "--hold", "1500ms", input=b"request")
        at_once = finished("bridge", "-", url, "--hold", "off", input=b"request")

    assert (held.returncode, held.stdout, held.stderr) == (0, b"answer to request", b"")
    assert at_once.stdout == b""


@pytest.mark.parametrize("code", [1001, 1011, 1012])
def test_an_answer_that_is_broken_off(code: int) -> None:
    """The input has ended, the server goes away in the middle of its answer: exit code 1 and a sentence."""

    def go_away(ws: ServerConnection) -> None:
        ws.recv()
        ws.send(b"half")
        ws.close(code, "restarting")

    with websocket_server(go_away) as url:
        done = finished("bridge", "-", url, input=b"request")

    assert (done.returncode, done.stdout) == (1, b"half")
    assert done.stderr.decode() == f"wsbridge: backend_reset (close code {code}): closed with {code}: restarting\n"


def test_a_server_that_never_answers_close() -> None:
    """A server that neither answers nor closes is given up after half_close: exit code 1 and who was waited for."""
    over = threading.Event()

    def ignore(sock: socket.socket) -> None:
        head = sock.recv(65536)
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        accept = b64encode(sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        over.wait(PATIENCE)

    with serving(ignore) as port:
        url = f"ws://127.0.0.1:{port}/"
        options = ["--hold", "100ms", "--half-close", "300ms", "--close-timeout", "300ms"]
        done = finished("bridge", "-", url, *options, input=b"x")
        over.set()

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"gave up waiting for backend after half_close, 0.3 s" in done.stderr


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
            with Popen(command, stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.PIPE, env=ENV) as process:
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
    assert done.stderr.startswith(b"wsbridge: backend_unreachable: unix:/nonexistent/socket: No such file or directory")
    assert done.stderr.count(b"\n") == 1


def test_an_upstream_that_refuses() -> None:
    """A server that answers no 101 is reported with its status."""

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
        with Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as process:
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
        with Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as process:
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
        with Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as process:
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


@pytest.mark.parametrize(("shut", "name"), [("0<&-", "input"), ("1>&-", "output")])
def test_closed_descriptors(shut: str, name: str) -> None:
    """Without standard input or output there is nothing to bridge: a usage error."""
    command = ["sh", "-c", f'exec "$@" {shut}', "sh", *WSBRIDGE, "bridge", "-", "tcp://127.0.0.1:1"]
    done = forked.run(command, stderr=subprocess.PIPE, env=ENV, timeout=PATIENCE, check=False)

    assert (done.returncode, done.stderr.decode()) == (64, f"wsbridge: -: standard {name} is closed\n")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Termination(Reason.BACKEND_CLOSED, "backend", close_code=1000), None),
        (Termination(Reason.BACKEND_CLOSED, "backend"), None),
        (Termination(Reason.CLIENT_CLOSED, "client"), None),
        (Termination(Reason.BACKEND_CLOSED, "backend", close_code=1014), "backend_closed (close code 1014)"),
        (Termination(Reason.IDLE_TIMEOUT, "wsbridge", "60 s"), "idle_timeout: 60 s"),
        (Termination(Reason.CLIENT_CLOSED, "client", "gave up", incomplete=True), "client_closed: gave up"),
        (None, "the connection was not started"),
    ],
)
def test_what_counts_as_orderly(end: Termination | None, said: str | None) -> None:
    """Only a side that ended with nothing left to say is orderly; a close code of failure is reported."""
    stdio = StdioConnection()
    stdio.termination = end

    assert stdio.failure_message() == said
