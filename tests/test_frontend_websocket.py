"""The frontend for HTTP/1.1 and WebSocket: reading requests and answering them, on real sockets."""

import contextlib
import socket

import pytest
import trio
import trio.testing

from tests.client import KEY, accept_of, request
from tests.rejections import async_outcome
from tests.test_frontend import connection, read
from wsbridge.frontend import EMPTY_CONNECTION, MAX_HANDSHAKE_JITTER, HttpExchange, LingeringCloser, read_request
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.http1 import HeadLimits, Request
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.responders.base import HttpResponse

LINGERING = LingeringCloser(10, 0.05, 1 << 20)


async def heard(wire, seconds=5.0, hearing=None):
    """Hear with the usual limits."""
    found = await async_outcome(
        read_request(wire, wire.read(), None, HeadLimits(), seconds, set() if hearing is None else hearing)
    )
    return HttpExchange(wire, found, LINGERING) if isinstance(found, Request) else found


async def test_a_head_that_is_there_already():
    """One read is enough, and what came with it stays in the transport."""
    with connection() as (wire, peer):
        peer.send(request("/x") + b"glued")
        await trio.lowlevel.wait_readable(wire.sock)
        exchange = await heard(wire)
        assert exchange.request.target == "/x"
        assert wire.read() == b"glued"


async def test_a_head_in_pieces():
    """Each piece is waited for; the rest of the last one is kept."""
    with connection() as (wire, peer):
        data = request("/x") + b"glued"
        outcome = []

        async def listen():
            outcome.append(await heard(wire))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            for at in range(0, len(data), 20):
                peer.send(data[at : at + 20])
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert outcome[0].request.target == "/x"
        rest = b""
        while len(rest) < 5:
            rest += await wire.read_some()
        assert rest == b"glued"


@pytest.mark.parametrize(
    ("sent", "reason", "detail", "answered"),
    [
        (b"", Reason.HANDSHAKE_TIMEOUT, EMPTY_CONNECTION, False),
        (b"GET", Reason.HANDSHAKE_TIMEOUT, "no whole request head within handshake, 0.05 s; 3 bytes came", True),
    ],
)
async def test_the_deadline(sent, reason, detail, answered):
    """A client that sent something gets an answer; one that sent nothing is just closed."""
    with connection() as (wire, peer):
        if sent:
            peer.send(sent)
        end = await heard(wire, 0.05)
        assert (end.reason, end.detail, end.termination().http_status) == (reason, detail, 408)
        assert end.silent != answered


async def test_a_crowd_times_out_one_by_one(autojump_clock):
    """Heads that began at the same moment end over a tenth of the time, none of them early."""
    ends = []

    async def wait(wire):
        await heard(wire, 10)
        ends.append(trio.current_time() - began)

    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connection())[0] for _ in range(50)]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for wire in wires:
                nursery.start_soon(wait, wire)
    assert min(ends) >= 10
    assert max(ends) <= 10 * MAX_HANDSHAKE_JITTER + 0.01
    assert max(ends) - min(ends) > 0.5
    assert len(set(ends)) > 40


async def test_a_wait_can_be_cut_short():
    """Cancelling the scopes of waits counts as the end of the time, and no scope is left."""
    with connection() as (wire, _):
        hearing = set()
        async with trio.open_nursery() as nursery:

            async def cut():
                await trio.testing.wait_all_tasks_blocked()
                (scope,) = hearing
                scope.cancel()

            nursery.start_soon(cut)
            end = await heard(wire, 60, hearing)
        assert end.reason is Reason.HANDSHAKE_TIMEOUT
        assert not hearing


@pytest.mark.parametrize(("sent", "detail"), [(b"", EMPTY_CONNECTION), (b"GET", "closed after 3 bytes of a request")])
async def test_a_client_that_closes(sent, detail):
    """An end before the whole head is the client's, and no response is sent."""
    with connection() as (wire, peer):
        peer.send(sent)
        peer.close()
        end = await heard(wire)
        assert (end.silent, end.reason, end.detail) == (True, Reason.CLIENT_LOST, detail)


@pytest.mark.parametrize(("sent", "detail"), [(b"GET", "after 3 bytes"), (b"", EMPTY_CONNECTION)])
async def test_a_client_that_resets(sent, detail):
    """A reset is the client's, with the bytes that had come; without any it is the end of a simple health check."""
    with connection() as (wire, peer):
        peer.send(sent)
        hearing = set()
        async with trio.open_nursery() as nursery:

            async def go():
                await trio.testing.wait_all_tasks_blocked()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.close()

            nursery.start_soon(go)
            end = await heard(wire, 5, hearing)
        assert end.silent
        assert end.reason is Reason.CLIENT_LOST
        assert detail in end.detail
        assert not hearing


@pytest.mark.parametrize(
    ("sent", "reason", "status", "answered"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Reason.BAD_REQUEST, 400, True),
        (b"X" * 20_000, Reason.BAD_REQUEST, 400, True),
        (b"GET /" + b"x" * 20_000, Reason.REQUEST_TOO_LARGE, 431, True),
        (b"\x16\x03\x01\x02\x00\x01", Reason.BAD_REQUEST, 400, False),
    ],
)
async def test_a_bad_head(sent, reason, status, answered):
    """It has its status, and is sent to clients that speak HTTP."""
    with connection() as (wire, peer):
        peer.send(sent)
        end = await heard(wire)
        assert (end.reason, end.termination().http_status) == (reason, status)
        assert end.silent != answered


@pytest.mark.parametrize(
    ("end", "status", "body", "retry"),
    [
        (Termination(Reason.NO_ROUTE, "client", "where nobody need know"), 404, "no_route: ", False),
        (
            Termination(Reason.BAD_REQUEST, "client", "no key", status=405, headers=(("Allow", "GET"),)),
            405,
            "bad_request: no key",
            False,
        ),
        (Termination(Reason.OVERLOAD, "wsbridge", "17 connections"), 503, "overload: ", True),
        (Termination(Reason.DRAINING, "wsbridge"), 503, "draining: ", True),
        (Termination(Reason.SHUTDOWN, "wsbridge"), 503, "shutdown: ", True),
        (Termination(Reason.BACKEND_REFUSED, "backend", "10.0.0.5:22 refused"), 502, "backend_refused: ", False),
    ],
)
async def test_a_refusal(end, status, body, retry):
    """Status, reason, the connection's number, Retry-After where it helps; the detail only of a bad request."""
    with connection() as (wire, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HttpExchange(wire, None, LINGERING).reject, end, 31, 7, 5.0)
            head, _, text = (await read(peer)).decode().partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "Connection: close" in head
        assert ("Retry-After: 7" in head) == retry
        assert text.startswith(body)
        assert text.endswith(" (id=31)\n")
        assert end.detail not in text or end.reason is Reason.BAD_REQUEST or not end.detail
        for name, value in end.headers:
            assert f"{name}: {value}" in head


async def test_accepting():
    """The whole 101 with the key's answer and the subprotocol; the endpoint has the transport."""
    with connection() as (wire, peer):
        peer.send(request())
        exchange = await heard(wire)
        endpoint, response = exchange.prepare("binary", "reject", 1000)
        await exchange.accept(response, 5)
        assert isinstance(endpoint, Side)
        assert endpoint.role == "server"
        assert endpoint.transport is wire
        answer = peer.recv(1000).decode()
        assert answer.startswith("HTTP/1.1 101 ")
        assert f"Sec-WebSocket-Accept: {accept_of(KEY)}\r\n" in answer
        assert "Sec-WebSocket-Protocol: binary\r\n" in answer
        assert answer.endswith("\r\n\r\n")


async def test_accepting_a_client_that_has_gone():
    """The 101 cannot be written: that is the client's end, and the transport is closed."""
    with connection() as (wire, peer):
        peer.send(request())
        exchange = await heard(wire)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        end = await async_outcome(exchange.accept(exchange.prepare(None, "accept", 1000)[1], 5))
        assert end.reason is Reason.CLIENT_LOST
        assert wire.sock.fileno() == -1


@pytest.mark.parametrize(
    ("lines", "status", "lasting", "keep"),
    [
        ("", 200, True, True),
        ("", 404, True, False),
        ("Connection: close\r\n", 200, True, False),
        ("", 200, False, False),
    ],
)
async def test_answers_keep_the_connection_or_close_it(lines, status, lasting, keep):
    """The connection persists only after a complete success, where route and client allow it; else it is closed."""
    with connection() as (wire, peer):
        peer.send(f"GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        exchange = await heard(wire)
        answer = HttpResponse(status, [], body=b"hello", content_length=5)
        assert await exchange.respond(answer, 5.0, keep_alive=lasting) == keep
        await trio.lowlevel.wait_readable(peer)
        text = peer.recv(1000).decode()
        assert text.endswith("\r\n\r\nhello")
        assert ("Connection: close" in text) != keep
        assert (wire.sock.fileno() == -1) != keep


async def test_an_answer_that_nobody_takes():
    """A chunk that is not accepted within `write` ends as a timeout, not as a hang."""

    class Endless:
        async def read(self):
            return bytes(65536)

        def close(self):
            pass

    with connection() as (wire, peer):
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        exchange = await heard(wire)
        answer = HttpResponse(200, [], body_stream=Endless(), content_length=1 << 40)
        with pytest.raises(TimeoutError, match=r"within write, 0\.1 s|for write, 0\.1 s"):
            await exchange.respond(answer, 0.1, keep_alive=True)


async def test_refusing_a_client_that_does_not_read():
    """A client that does not even read the rejection is disconnected when the time for that is over."""
    with connection() as (wire, _):
        with contextlib.suppress(BlockingIOError):
            while True:
                wire.sock.send(bytes(65536))
        began = trio.current_time()
        await HttpExchange(SocketTransport(wire.sock), None, LINGERING).reject(
            Termination(Reason.NO_ROUTE, "client"), 31, 1, 0.2
        )
        assert 0.15 < trio.current_time() - began < 10
        assert wire.sock.fileno() == -1
