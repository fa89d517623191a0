"""Clients that wait for a backend: they may disconnect, and the bridge may shut down, during the dial."""

import socket

import pytest
import trio

from tests.client import BINARY, CLOSE, PING, frame, request
from tests.serving import echo, serving, written
from tests.sessions.client import OFFER, message
from wsbridge.protocol.resume_frames import Open, encode_frame
from wsbridge.reasons import Reason

LISTENERS = {"web": {"bind": "127.0.0.1:0"}, "old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}


@pytest.fixture
def late():
    """A bound socket that does not listen yet."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def waits(late, *, tls=False, timeouts=None, when="before-upgrade", **keys):
    """Write a configuration whose route waits for a backend that is not up."""
    route = {
        "match": "any",
        "backend": f"tcp://127.0.0.1:{late.getsockname()[1]}",
        "auth": "none",
        "dial": {"when": when, "retry_for": "1m"},
        **keys,
    }
    if tls:
        return written(route=route, tls=True, timeouts=timeouts)
    return written(listeners=LISTENERS, routes={"app": route}, timeouts=timeouts)


async def dialling(served, count=1):
    """Wait until so many backends are being dialled."""
    with trio.fail_after(9):
        while len(served.server.services.disconnect_monitor) < count:
            await trio.sleep(0.002)


@pytest.mark.parametrize("dial", ["before-upgrade", "after-upgrade"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_client_that_leaves_ends_the_dial(late, tls, dial, how):
    """A WebSocket client that closes or resets is client_lost at once, and its connection is counted no more."""
    async with serving(waits(late, tls=tls, when=dial)) as served:
        client = await served.connect(tls=tls)
        await client.send(request())
        await dialling(served)
        getattr(client, how)()
        line = await served.records.wait("connection.rejected", reason="client_lost")
        assert (line["initiator"], line["route"], line["duration_seconds"] < 5) == ("client", "app", True)
        assert line["detail"].startswith("while the backend was dialed: ")
        assert "status" not in line
        await served.quiet()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("when", ["with what is before", "later", "byte by byte"])
async def test_a_close_frame_ends_the_dial(late, tls, resume, when):
    """A client that closes after its 101, as pages do that are left, is answered at once, and its place is free."""
    keys = {"resume": {}} if resume else {}
    close = frame(PING) + frame(CLOSE, (1001).to_bytes(2, "big") + b"bye")
    first = message(encode_frame(Open(0))) if resume else b""
    config = waits(late, tls=tls, when="after-upgrade", limits={"connections": 1}, timeouts={"close": "60s"}, **keys)
    async with serving(config) as served:
        for _ in range(2):
            with await served.upgraded("/", OFFER, tls=tls) as client:
                await client.send(first + close if when == "with what is before" else first)
                if when != "with what is before":
                    await dialling(served)
                for at in range(len(close) if when == "byte by byte" else when == "later"):
                    await client.send(close[at : at + 1] if when == "byte by byte" else close)
                    await trio.sleep(0)
                with trio.fail_after(10):
                    assert await client.closing() == (1000, "client_closed")
                    assert await client.everything() == b""
        line = await served.records.wait("connection.rejected", 2)
        assert (line["reason"], line["initiator"], line["duration_seconds"] < 9) == ("client_closed", "client", True)
        if not resume or when != "with what is before":
            assert line["detail"] == "while the backend was dialed: closed with 1001: bye"
        await served.quiet()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("body", [b"", (1000).to_bytes(2, "big"), (1001).to_bytes(2, "big")])
@pytest.mark.parametrize("leaves", [False, True])
async def test_what_came_before_a_close_frame_reaches_the_backend(late, tls, at_once, body, leaves):
    """A client that has sent all it had, and closes, need not wait: the dial goes on, and the backend gets it."""
    all_of_it = frame(BINARY, b"all of it") + frame(CLOSE, body)
    async with serving(waits(late, tls=tls, when="after-upgrade")) as served:
        with await served.upgraded("/", tls=tls) as client:
            await client.send(all_of_it if at_once else b"")
            if not at_once:
                await dialling(served)
                await client.send(all_of_it)
            if leaves:
                client.drop()
            await dialling(served)
            late.listen()
            sock, _ = await trio.to_thread.run_sync(late.accept)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                assert b"".join([data async for data in stream]) == b"all of it"
            if not leaves:
                code, _ = await client.closing()
                assert code in (None, 1000, 1001)
        line = await served.records.wait("connection.closed", reason="client_closed")
        assert line["bytes_to_backend"] == 9


@pytest.mark.parametrize("code", [1002, 1011])
async def test_what_came_before_a_close_frame_that_tells_of_an_error_is_dropped(late, code):
    """Such a stream is not whole, and nobody waits for its rest."""
    async with serving(waits(late, when="after-upgrade")) as served:
        with await served.upgraded() as client:
            await client.send(frame(BINARY, b"a part") + frame(CLOSE, code.to_bytes(2, "big")))
            await served.records.wait("connection.rejected", reason="client_closed")
        await served.quiet()


async def test_a_raw_client_that_resets_ends_the_dial(late):
    """A raw client's reset is client_lost; another that only half-closed gets its answer, as nc -N wants it."""
    async with serving(waits(late)) as served:
        broken, half = await served.connect("old"), await served.connect("old")
        await half.send(b"request")
        await half.stream.send_eof()
        await dialling(served, 2)
        broken.reset()
        await served.records.wait("connection.rejected", reason="client_lost", listener="old")
        late.listen()
        sock, _ = await trio.to_thread.run_sync(late.accept)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            await echo(stream)
        assert await half.everything() == b"request"
        half.drop()


@pytest.mark.parametrize("tls", [False, True])
async def test_what_comes_during_the_dial_reaches_the_backend(late, tls):
    """Frames sent while the backend was dialled are neither lost nor disordered, however many."""
    sent = bytes(range(256)) * 1200
    async with serving(waits(late, tls=tls, when="after-upgrade")) as served:
        with await served.connect(tls=tls) as client:
            await client.send(request() + frame(BINARY, b"early"))
            assert "101" in await client.head()
            await dialling(served)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, frame(BINARY, sent))
                await trio.sleep(0.05)
                port = late.getsockname()[1]
                late.close()
                (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
                nursery.start_soon(trio.serve_listeners, echo, [listener])
                assert await client.payload(5 + len(sent)) == b"early" + sent
                await client.close()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.SHUTDOWN])
async def test_an_ending_ends_waiting_dials(late, reason):
    """A drain lets them wait until `drain` less `drain_spread`, a stop not at all: 503, 1012, 1001 or a reset."""
    timeouts = {"drain": "1s" if reason is Reason.DRAINING else "60s", "drain_spread": "400ms", "close": "60s"}
    late_routes = waits(late, timeouts=timeouts, when="after-upgrade")
    async with serving(waits(late, timeouts=timeouts)) as served, serving(late_routes) as other:
        asking, raw, upgraded = await served.connect(), await served.connect("old"), await other.upgraded()
        await asking.send(request())
        await dialling(served, 2)
        await dialling(other)
        began = trio.current_time()
        served.server.stop(reason)
        other.server.stop(reason)
        answer = await asking.everything()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert f"\r\n\r\n{reason.value}: ".encode() in answer
        assert await raw.everything() == b""
        code = 1012 if reason is Reason.DRAINING else 1001
        assert await upgraded.closing() == (code, reason.value)
        await upgraded.send(frame(CLOSE, code.to_bytes(2, "big")))
        for client in (asking, raw, upgraded):
            client.drop()
        await served.returned.wait()
        await other.returned.wait()
        passed = trio.current_time() - began
        assert 0.5 * (reason is Reason.DRAINING) < passed < 10
        assert {line["reason"] for line in (*served.records.endings, *other.records.endings)} == {reason.value}


async def test_a_client_that_left_does_not_keep_the_drain(late):
    """Nothing is waited for once clients that waited have gone."""
    async with serving(waits(late, timeouts={"drain": "20s", "drain_spread": "5s"})) as served:
        client = await served.connect()
        await client.send(request())
        await dialling(served)
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        client.drop()
        await served.returned.wait()
        assert trio.current_time() - began < 10
