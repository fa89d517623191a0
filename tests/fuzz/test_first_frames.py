"""Fuzz: first messages of clients of resumable sessions, against a route that serves them, over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client import BINARY, CLOSE, PING, frame
from tests.fuzz.served import PATIENCE, ServedInThread, served_in_thread
from tests.serving import written
from tests.sessions.client import OFFER
from wsbridge.protocol.resume_frames import (
    Ack,
    Failure,
    Fin,
    FrameType,
    GoAway,
    Keepalive,
    Open,
    Opened,
    Resume,
    ResumeCode,
    Resumed,
    decode_message,
    encode_frame,
)
from wsbridge.protocol.websocket import WebSocketFraming

REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n{OFFER}\r\n\r\n"
).encode()
CODES = {1000, *map(int, ResumeCode)}

counts = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**64 - 1)
epochs = st.sampled_from([-1, 0, 1]) | positions  # -1: that of the server
resumes = st.builds(
    Resume,
    epochs,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    counts,
    positions,
    positions,
)
valid = st.one_of(
    st.builds(Open, counts),
    resumes,
    st.builds(Ack, positions),
    st.builds(Fin, positions),
    st.builds(Failure, st.integers(0, 65535), st.text(max_size=40)),
    st.builds(GoAway, counts, counts),
    st.builds(Resumed, positions, st.binary(min_size=32, max_size=32), counts),
    st.just(Keepalive()),
)
changes = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=2)
tails = st.integers(-40, 0) | st.binary(max_size=20)
cuts = st.lists(st.integers(0, 120), max_size=4)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedInThread, socket.socket]]:
    """A route with sessions, whose backend takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as backend:
        backend.setblocking(False)
        route = {"backend": f"tcp://127.0.0.1:{backend.getsockname()[1]}", "resume": {"first_frame": "5s"}}
        folder: Path = tmp_path_factory.mktemp("first")
        limits = {"per_address": {"max_failures": "1000000"}}
        with served_in_thread(written(route=route, limits=limits), folder / "config.yaml") as found:
            yield found, backend


def encoded(what: Any, epoch: int, changed: list[tuple[int, int]], tail: int | bytes) -> bytes:
    """Write a frame, then spoil it."""
    if isinstance(what, bytes):
        return what
    if isinstance(what, Resume) and what.epoch < 0:
        what.epoch = epoch
    message = bytearray(encode_frame(what))
    for at, value in changed:
        if at < len(message):
            message[at] = value
    return bytes(message[: tail or None] if isinstance(tail, int) else message + tail)


def fragments(message: bytes, at: list[int], pings: bool) -> bytes:
    """Write a message in frames, with pings between them."""
    bounds = [0, *sorted(min(place, len(message)) for place in at), len(message)]
    out = []
    for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        opcode = BINARY if number == 0 else 0
        out.append(frame(opcode, message[begin:end], fin=number == len(bounds) - 2))
    return (frame(PING, b"?") if pings else b"").join(out)


def asked(port: int, data: bytes, at: list[int]) -> list[tuple[str, int | str]]:
    """Send bytes in parts, read the answer, leave; give what came: names of frames, codes of ERROR and Close."""
    found: list[tuple[str, int | str]] = []
    framing = WebSocketFraming("client")
    left = False
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(REQUEST)
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        head, _, received = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        bounds = [0, *sorted(min(place, len(data)) for place in at), len(data)]
        with contextlib.suppress(ConnectionError):
            for begin, end in itertools.pairwise(bounds):
                sock.sendall(data[begin:end])
            while True:
                used, payloads, _, controls, violation = framing.decode(received)
                assert violation is None
                received = received[used:]
                for payload in payloads:
                    answer = decode_message(bytes(payload))
                    assert isinstance(answer, Opened | Resumed | Failure | Ack | Keepalive), answer
                    found.append((type(answer).__name__, answer.code if isinstance(answer, Failure) else ""))
                found += [
                    ("Close", int.from_bytes(body[:2], "big")) for opcode, body in controls or () if opcode == CLOSE
                ]
                if found and not left:
                    left = True
                    sock.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
                more = sock.recv(65536)
                if not more:
                    break
                received += more
    return found


@settings(max_examples=settings.default.max_examples // 10)  # each opens two connections
@given(
    what=valid | st.binary(max_size=200),
    changed=changes,
    tail=tails,
    pings=st.booleans(),
    ways=st.tuples(cuts, cuts, cuts),
)
def test_any_first_message_gets_a_documented_answer(served, what, changed, tail, pings, ways) -> None:
    """OPENED or ERROR, then a close frame; the same for each way of cutting it into frames and segments."""
    server, backend = served
    message = encoded(what, server.server.services.sessions.epoch, changed, tail)
    first = asked(server.port, fragments(message, [], False), ways[0])
    second = asked(server.port, fragments(message, ways[1], pings), ways[2])
    with contextlib.suppress(BlockingIOError):
        while True:
            backend.accept()[0].close()

    assert first == second
    answers = [code for name, code in first if name in ("Failure", "Close")]
    own = decode_message(message) if message else None
    allowed = CODES | ({own.code} if isinstance(own, Failure) else set())
    assert set(answers) <= allowed, first
    opened = isinstance(own, Open)
    assert first[0][0] == ("Opened" if opened else "Close" if isinstance(own, Failure) else "Failure")
    assert first[-1][0] == "Close"
    assert message[:1] != bytes((FrameType.OPEN,)) or opened == (len(message) == 5)


def descriptors() -> int:
    """Give the number of open descriptors of this process, which is the server's too."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (a Path for each is much slower)


def test_nothing_is_left(served: tuple[ServedInThread, socket.socket]) -> None:
    """Of all these clients: no session, no descriptor, no error of ours."""
    server, _ = served
    before = descriptors()
    for _ in range(20):
        asked(server.port, fragments(b"\x7f", [], False), [])
        asked(server.port, fragments(encode_frame(Open(0)), [], False), [])
    end = time.monotonic() + PATIENCE
    while (server.server.services.sessions.sessions or descriptors() > before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not server.server.services.sessions.sessions
    assert descriptors() <= before
    assert not server.records.of("internal_error")
