"""The JavaScript client: its own tests under Node.js, and random sessions with the state machine of the server."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.clients.program import PATIENCE, program, run
from tests.clients.servers import echo, serving
from tests.clients.test_cookbook import node_modules
from tests.clients.test_resume_browser import network, routes
from tests.cutting_proxy import CuttingProxy
from tests.process.daemon import Daemon
from wsbridge.protocol.resume import ENDED
from wsbridge.protocol.resume_frames import Malformed, Open, Resume, decode_message
from wsbridge.protocol.resume_server import ServerSession, SessionTerms

CLIENT = Path(__file__).parents[2] / "clients" / "js"
NAMES = ["OPEN", "OPENED", "RESUME", "RESUMED", "DATA", "ACK", "FIN", "ERROR", "GOAWAY"]


def test_its_own_tests() -> None:
    """Scripted transports, and the vectors that all clients share."""
    tests = sorted(map(str, (CLIENT / "test").glob("*.test.js")))
    done = subprocess.run(
        [program("node"), "--test", "--test-reporter=tap", *tests],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) >= len(tests)


def test_its_types() -> None:
    """A program in TypeScript compiles with resume.d.ts, and one that uses it wrongly does not."""
    compiler = node_modules("typescript@5.9.3") / "typescript" / "bin" / "tsc"
    options = "--noEmit --strict --target es2022 --module nodenext --lib es2022,dom,dom.iterable,dom.asynciterable"
    run(program("node"), compiler, *options.split(), CLIENT / "test" / "types.ts", timeout=120)


class JavaScriptClient:
    """A ResumableWebSocket in a process of Node.js, whose transports and time are those of the test (driven.js).

    Attributes:
        state: What its `state` is.
        buffered: What its `bufferedAmount` is.
        transports: How many it has made.
        received: What has arrived so far.
        events: Its other events so far.
        sent: Messages that it has sent on its newest transport, and that the test has not looked at.
        closed: Code and reason with which it has closed its newest transport.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [program("node"), str(CLIENT / "test" / "driven.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *, streams: bool, **options: int) -> None:
        """Begin with a new socket."""
        self.received = b""
        self.events: list[list[Any]] = []
        self.sent: list[bytes] = []
        self.step("start", options=options, streams=streams)

    def step(self, step: str, **facts: object) -> None:
        """Do one step, and note what is seen after it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"step": step, **facts}) + "\n")
        self._process.stdin.flush()
        seen = json.loads(self._process.stdout.readline())
        for event in seen["events"]:
            if event[0] == "data":
                self.received += bytes.fromhex(event[1])
            else:
                self.events.append(event)
        self.sent += map(bytes.fromhex, seen["sent"])
        self.state: str = seen["state"]
        self.buffered: int = seen["buffered"]
        self.transports: int = seen["transports"]
        self.closed: list[Any] | None = seen["closed"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        if error is not None:
            self._process.kill()
        assert self._process.wait(PATIENCE) == 0 or error is not None


def greet_and_echo(sock: socket.socket) -> None:
    """Speak first, then send back what comes."""
    sock.sendall(b"hello")
    echo(sock)


def test_the_websocket_of_nodejs(tmp_path: Path) -> None:
    """It tells of a failed handshake by an error alone, and of several messages in one turn."""
    node = program("node")
    with (
        serving(greet_and_echo) as port,
        Daemon(routes(port, tmp_path)) as bridge,
        network(bridge.port()) as net,
        subprocess.Popen(
            [node, "--experimental-websocket", CLIENT / "test" / "real.js", f"ws://127.0.0.1:{net.port}/app"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None

        def told(*lines: str) -> None:
            assert client.stdout is not None
            assert [client.stdout.readline().strip() for _ in lines] == list(lines)

        told("heard hello")
        net.do(CuttingProxy.cut)
        told("reconnecting 1: the connection broke", "resumed")
        print("once", file=client.stdin, flush=True)
        told("heard once")
        net.do(CuttingProxy.go_down)
        told(*(f"reconnecting {attempt}: the connection broke" for attempt in (1, 2, 3)))
        print("twice", file=client.stdin, flush=True)
        net.do(CuttingProxy.come_up)
        while (line := client.stdout.readline().strip()).startswith("reconnecting 3: the connection broke"):
            pass
        assert line == "resumed"
        told("heard twice")
        client.stdin.close()
        told("closed 1000")
        assert client.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def client() -> Iterator[JavaScriptClient]:
    """A process of Node.js, for one socket after another."""
    with JavaScriptClient() as client:
        yield client


class Run:
    """One session of the JavaScript client with the server's machine, over transports that break.

    Args:
        client: The client.
        rng: Decides everything.
    """

    def __init__(self, client: JavaScriptClient, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.server: ServerSession | None = None
        self.now = 0.0
        self.attached = 0  # number of the newest transport that was connected
        self.serving = 0  # number of the transport that the server believes in
        self.offered = b""  # by the application of the client
        self.served = b""  # by the backend
        self.arrived = b""  # at the backend
        self.unconsumed = 0
        self.finish_owed = False
        self.client_finished = self.server_finished = False
        self.down: list[bytes] = []  # on their way to the client
        self.window = rng.choice([4096, 5000, 65536])
        self.streams = rng.random() < 0.5
        client.start(streams=self.streams, window=rng.choice([0, 1, 4096, 20000]))

    def pass_time(self, milliseconds: int) -> None:
        """Let both clocks go on."""
        self.now += milliseconds / 1000
        self.client.step("pass", milliseconds=milliseconds)
        if self.server is not None:
            self.server.on_deadline(self.now)

    def connect(self) -> None:
        """Complete the handshake of a transport that the client has made."""
        if self.client.transports > self.attached and self.client.closed is None:
            self.cut(notice=self.rng.random() < 0.5)
            self.client.sent.clear()
            self.attached = self.client.transports
            self.client.step("open", protocol="wsbridge.resume.v1")

    def up(self) -> None:
        """Deliver some of what the client has sent; the rest may never arrive."""
        count = self.rng.randint(0, len(self.client.sent))
        messages, self.client.sent = self.client.sent[:count], self.client.sent[count:]
        for message in messages:
            frame = decode_message(message)
            assert not isinstance(frame, Malformed), frame
            self.serving = self.attached
            if isinstance(frame, Open):
                terms = SessionTerms(window=self.window, keepalive=20)
                self.server = ServerSession(
                    frame, epoch=7, session_id=b"s" * 16, terms=terms, new_token=lambda: self.rng.randbytes(32)
                )
                self.server.opened(self.now)
            elif isinstance(frame, Resume):
                assert self.server is not None
                judged = self.server.resume(frame, self.now)
                assert judged.refusal is None, judged
            else:
                self.note(frame)
            self.take()

    def note(self, frame: Any) -> None:
        """Give a frame to the server, and look at what it makes of it."""
        assert self.server is not None
        for event in self.server.receive([frame], self.now):
            name = type(event).__name__
            if name == "Received":
                self.arrived += b"".join(map(bytes, event.payloads))
                self.unconsumed = len(self.arrived) - self.server.consumed_position
            elif name == "PeerFinished":
                self.finish_owed = True
            else:
                raise AssertionError(event)

    def consume(self) -> None:
        """Let the backend take some of what has arrived."""
        if self.server is None or self.server.state is ENDED:
            return
        size = self.rng.randint(0, self.unconsumed)
        if size:
            self.server.consumed(size, self.now)
            self.unconsumed -= size
        if self.finish_owed and not self.unconsumed:
            self.finish_owed = False
            self.server.consumed_fin()

    def take(self) -> None:
        """Put what the server sends on its way."""
        assert self.server is not None
        messages = self.server.take(self.rng.choice([0, 1000, 10**6]), self.now)
        if self.serving == self.attached:
            self.down += [head + bytes(payload) for head, payload in messages]

    def deliver(self) -> None:
        """Deliver some of what the server has sent."""
        if self.server is not None:
            self.take()
        count = self.rng.randint(0, len(self.down))
        messages, self.down = self.down[:count], self.down[count:]
        if messages and self.attached == self.client.transports and self.client.closed is None:
            self.client.step("receive", messages=[message.hex() for message in messages])

    def cut(self, *, notice: bool = True) -> None:
        """Lose the transport with all that is on its way; the server may notice it later, or never."""
        self.down.clear()
        if self.server is not None and notice:
            self.server.transport_lost(self.now)
        if self.attached == self.client.transports and self.client.closed is None:
            self.client.step("end", code=self.rng.choice([1006, 1006, 1001, 1012]), reason="")

    def offer(self) -> None:
        """Let the application of the client send."""
        if self.server is not None and self.client.state in ("open", "reconnecting") and not self.client_finished:
            data = self.rng.randbytes(self.rng.choice([1, 10, 3000, 9000]))
            self.offered += data
            self.client.step("send", data=data.hex())

    def serve(self) -> None:
        """Let the backend send."""
        if self.server is not None and (room := min(self.server.room, self.rng.choice([1, 100, 70000]))) > 0:
            data = self.rng.randbytes(room)
            self.served += data
            self.server.send(data)

    def check(self) -> None:
        """What has arrived is a beginning of what was sent."""
        assert self.offered.startswith(self.arrived)
        assert self.served.startswith(self.client.received)
        assert not [event for event in self.client.events if event[0] in ("close", "failed")]

    def finish_client(self) -> None:
        """End the client's stream (a client without streams ends it when the server's has ended)."""
        if self.streams and self.client.state in ("open", "reconnecting") and not self.client_finished:
            self.client_finished = True
            self.client.step("finish")

    def finish_server(self) -> None:
        """End the backend's stream."""
        if self.server is not None:
            self.server_finished = True
            self.server.finish()

    def random_steps(self, count: int) -> None:
        """Do anything."""
        steps: list[Callable[[], None]] = [self.connect, self.up, self.deliver, self.consume, self.offer, self.serve]
        weights = [3, 6, 6, 4, 3, 3]
        for _ in range(count):
            if self.rng.random() < 0.08:
                self.cut(notice=self.rng.random() < 0.7)
            elif self.rng.random() < 0.1:
                self.pass_time(self.rng.choice([1, 300, 1500]))
            else:
                self.rng.choices(steps, weights)[0]()
            self.check()

    def complete(self) -> None:
        """End both streams, let the transport be for a while, and compare."""
        self.finish_client()
        self.finish_server()
        for _ in range(400):
            self.connect()
            self.up()
            self.consume()
            self.deliver()
            self.pass_time(100)
            if self.client.closed == [1000, ""]:
                break
        assert self.client.closed == [1000, ""], (self.client.events[-5:], self.client.state)
        assert self.client.received == self.served
        assert self.arrived == self.offered
        while self.client.sent:
            self.up()
        assert self.server is not None
        assert self.server.complete


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(each, marks=pytest.mark.soak) for each in range(10, 200))])
def test_random_sessions(client: JavaScriptClient, seed: int) -> None:
    """Whatever is lost, what arrives is a beginning of what was sent, and in the end all of it."""
    run = Run(client, random.Random(seed))
    run.pass_time(1)
    while run.server is None:
        run.connect()
        run.up()
    while not any(event == ["open"] for event in client.events):
        run.deliver()
    run.random_steps(120)
    run.complete()
