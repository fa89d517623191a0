"""Resumable sessions on real sockets: they begin, lose their transport, go on, and end."""

from __future__ import annotations

import os

import pytest
import trio

from tests.client import BINARY, CLOSE, frame
from tests.serving import backend, echo, reset, serving
from tests.sessions.client import OFFER, one_session, opened, route_of, session


async def test_a_session_echoes() -> None:
    """It is opened, carries bytes both ways, and ends once both streams have."""
    async with one_session() as (back, served, client):
        await client.send(b"hello")
        await client.until(lambda: client.received == b"hello")
        await client.finish()
        await client.until(lambda: client.ended)
        assert client.ended is not None and client.ended.complete
        assert client.finished
        line = await served.records.wait("session.closed")
        assert (line["reason"], line["bytes_to_backend"], line["bytes_to_client"]) == ("client_closed", 5, 5)
        closed = await served.records.wait("connection.closed")
        assert closed["session"] == line["session"] == client.machine.session_id.hex()
        assert (closed["reason"], closed["close_code"]) == ("client_closed", 1000)
        assert not served.server.services.sessions.sessions
        await back.until(finished=1)


async def test_clients_that_offer_something_else_are_served_as_ever() -> None:
    """The subprotocol is selected only where it is offered."""
    async with backend() as back, serving(route_of(back)) as served:
        with await served.connect() as client:
            head = await client.upgrade("/", "Sec-WebSocket-Protocol: binary")
            assert "Sec-WebSocket-Protocol: binary" in head
            await client.send(frame(BINARY, b"hello"))
            assert await client.payload(5) == b"hello"
        line = await served.records.wait("connection.closed")
        assert "session" not in line
        assert not served.records.of("session.opened")


async def test_routes_without_sessions_do_not_select_it() -> None:
    """A client that offers both gets the other one."""
    async with backend() as back, serving(route_of(back, resume=None)) as served:
        with await served.connect() as client:
            assert "Sec-WebSocket-Protocol: binary" in await client.upgrade("/", OFFER)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_session_goes_on_after_its_transport_was_cut(tls: bool) -> None:
    """Bytes of both directions that were under way arrive once."""
    async with one_session(tls=tls) as (back, served, client):
        await client.send(b"one ")
        await client.until(lambda: client.received == b"one ")
        client.cut()
        await served.records.wait("session.detached")
        await client.send(b"two ")
        await client.resume()
        await client.send(b"three")
        await client.until(lambda: client.received == b"one two three")
        await served.records.wait("session.resumed")
        assert (back.dials, back.open) == (1, 1)
        closed = await served.records.wait("connection.closed")
        assert closed["reason"] == "client_lost"
        assert served.records.of("session.closed") == []


async def test_what_comes_while_the_client_is_away_is_kept() -> None:
    """The backend is read until the window is full, then waits; nothing of it is lost."""
    data = os.urandom(3 << 20)

    async def flood(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(data)
        await stream.send_eof()
        await stream.receive_some(1)

    async with one_session(flood, resume={"window": "128KiB"}) as (_, served, client):
        store = served.server.services.sessions
        (kept,) = store.sessions.values()
        await client.send(b"!")
        client.cut()
        with trio.fail_after(10):
            while kept.machine.room:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert kept.machine.replay_bytes == 128 * 1024 == store.memory.used
        await client.resume()
        await client.until(lambda: client.finished)
        assert client.received == data


async def test_a_newer_transport_takes_over() -> None:
    """The older one gets 4003, although it looks alive; what it still sends counts for nothing."""
    async with one_session() as (back, served, client):
        await client.send(b"one ")
        await client.until(lambda: client.received == b"one ")
        old = client.abandon()
        await client.resume()
        while True:
            opcode, body = await old.frame()
            if opcode == CLOSE:
                break
        assert body == (4003).to_bytes(2, "big") + b"superseded"
        old.drop()
        await client.send(b"two")
        await client.until(lambda: client.received == b"one two")
        line = await served.records.wait("connection.closed", reason="superseded")
        assert line["session"] == client.machine.session_id.hex()
        assert back.dials == 1


@pytest.mark.parametrize("code", [None, 1001, 1012, 4003])
async def test_close_codes_that_leave_a_session(code: int | None) -> None:
    """A page that goes away, or a client that drops a transport to open another one."""
    async with one_session() as (_back, served, client):
        await client.leave(code)
        assert client.close is not None and client.close[0] == (code or 1000)
        await served.records.wait("session.detached")
        client.lost()
        await client.resume()
        await client.send(b"still here")
        await client.until(lambda: client.received == b"still here")


@pytest.mark.parametrize(("code", "ending"), [(1000, "finished"), (4321, "finished"), (1011, "lost"), (4008, "lost")])
async def test_close_codes_that_end_a_session(code: int, ending: str) -> None:
    """The backend gets FIN where the client's stream is whole, else a reset; the session cannot be resumed."""
    async with one_session() as (back, served, client):
        await client.send(b"x" * 1000)
        await client.leave(code)
        line = await served.records.wait("session.closed")
        assert (line["reason"], line["close_code"]) == ("client_closed", code)
        await back.until(open=0)
        assert getattr(back, ending) == 1
        client.lost()
        await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (4001, "session or token not accepted")
        assert served.server.services.client_table.banned_count == 0


async def test_the_end_of_a_backend_comes_after_the_replay() -> None:
    """A backend that has finished while the client was away: its bytes, then its FIN."""
    release = trio.Event()

    async def finish(stream: trio.SocketStream) -> None:
        await release.wait()
        await stream.send_all(b"last words")
        await stream.send_eof()
        assert await stream.receive_some(100) == b"mine"
        assert await stream.receive_some(100) == b""

    async with one_session(finish) as (back, served, client):
        client.cut()
        await served.records.wait("session.detached")
        release.set()
        (kept,) = served.server.services.sessions.sessions.values()
        with trio.fail_after(9):
            while not kept.machine.finished:
                await trio.sleep(0.01)
        await trio.sleep(1.2)  # longer than `half_close` and `close`, which do not count while it is away
        await client.send(b"mine")
        await client.resume()
        await client.until(lambda: client.finished)
        assert client.received == b"last words"
        await client.finish()
        await client.until(lambda: client.ended)
        assert client.ended is not None and client.ended.complete
        await back.until(finished=1)
        assert (await served.records.wait("session.closed"))["reason"] == "backend_closed"


@pytest.mark.parametrize("away", [True, False])
async def test_the_reset_of_a_backend_comes_after_the_replay(away: bool) -> None:
    """A backend that was reset: what it had sent before, then 4012."""
    release = trio.Event()

    async def fail(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of")
        await release.wait()
        reset(stream)

    async with backend(fail) as back, serving(route_of(back)) as served, session(served.port()) as client:
        client.paused = True
        await opened(client)
        await client.until(lambda: client.received == b"half of")
        if away:
            client.cut()
            await served.records.wait("session.detached")
        release.set()
        if away:
            await back.until(open=0)
            await trio.sleep(0.1)
            await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (4012, "backend_reset")
        assert client.received == b"half of"
        assert (await served.records.wait("session.closed"))["reason"] == "backend_reset"


async def test_a_session_expires() -> None:
    """After its ttl without a transport: the backend is reset, and a RESUME gets 4001, which is no failed login."""
    limits = {"per_address": {"max_failures": "1", "exempt": []}}
    async with one_session(resume={"ttl": "1s"}, limits=limits) as (back, served, client):
        client.cut()
        line = await served.records.wait("session.closed")
        assert (line["reason"], line["initiator"]) == ("session_expired", "client")
        assert line["detail"] == "no transport for ttl, 1 s"
        await back.until(lost=1)
        client.machine.ttl = 100
        await client.connect()
        await client.until(lambda: client.ended)
        assert client.ended is not None
        assert (client.ended.code, client.ended.text) == (4001, "session or token not accepted")
        line = await served.records.wait("connection.rejected", reason="resume_rejected")
        assert line["close_code"] == 4001
        assert served.server.services.client_table.count_bans() == 0
        assert not served.server.services.sessions.sessions and not served.server.services.sessions.memory.used


async def test_a_client_that_acknowledges_nothing_is_stalled() -> None:
    """The backend is not read any further than the window, and `write` ends the session."""

    async def flood(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(65536))

    async with backend(flood) as back:
        text = route_of(back, resume={"window": "64KiB"}, timeouts={"write": "800ms"})
        async with serving(text) as served, session(served.port()) as client:
            client.paused = True
            await opened(client)
            await client.until(lambda: client.ended)
            assert client.end == (4009, "write_stalled")
            assert len(client.received) == 65536
            assert (await served.records.wait("session.closed"))["reason"] == "write_stalled"


async def test_idle_counts_while_the_client_is_away() -> None:
    """A rule ends the session, and the client that comes back learns which one."""
    async with one_session(timeouts={"idle": "500ms"}) as (_back, served, client):
        client.cut()
        await served.records.wait("session.closed", reason="idle_timeout")
        await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (4009, "idle_timeout")


async def test_limits_on_bandwidth_hold() -> None:
    """A session is as slow as its route."""
    limits = {"bytes_per_second": "64KiB"}
    async with one_session(route_limits=limits) as (_back, _served, client):
        began = trio.current_time()
        await client.send(bytes(65536))
        await client.until(lambda: len(client.received) == 65536)
        assert trio.current_time() - began > 0.5


async def test_a_lost_client_is_found_by_pings() -> None:
    """A transport that answers no ping is given up; the session is kept."""
    timeouts = {"ping_interval": "200ms", "ping_timeout": "300ms"}
    async with one_session(timeouts=timeouts) as (_back, served, client):
        client.abandon()
        line = await served.records.wait("connection.closed")
        assert line["reason"] == "client_lost" and "ping_timeout" in line["detail"]
        await client.resume()
        await client.send(b"back")
        await client.until(lambda: client.received == b"back")


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_blocked_direction_leaves_the_other_one(direction: str) -> None:
    """Neither a backend nor a client that does not read keeps the other stream from flowing."""
    if direction == "up":

        async def handler(stream: trio.SocketStream) -> None:
            await stream.send_all(bytes(300000))
            await trio.sleep_forever()

        async with one_session(handler, resume={"window": "64KiB"}) as (_back, _served, client):
            while client.machine.room:
                await client.send(bytes(client.machine.room))
                await trio.sleep(0.05)
            await client.until(lambda: len(client.received) == 300000)
    else:
        total = 0

        async def drain(stream: trio.SocketStream) -> None:
            nonlocal total
            await stream.send_all(bytes(65536))
            while data := await stream.receive_some(65536):
                total += len(data)

        async with one_session(drain, paused=True, resume={"window": "64KiB"}) as (_, _, client):
            await client.until(lambda: len(client.received) == 65536)
            await client.send(bytes(300000))
            with trio.fail_after(9):
                while total < 300000:
                    await trio.sleep(0.01)


async def test_the_transport_may_be_cut_while_it_is_opened() -> None:
    """Before OPENED there is no session; the backend's connection is closed."""
    async with backend(echo) as back, serving(route_of(back)) as served:
        client = await served.connect()
        await client.upgrade("/", OFFER)
        client.drop()
        line = await served.records.wait("connection.rejected")
        assert line["reason"] == "client_lost"
        assert not served.server.services.sessions.sessions
