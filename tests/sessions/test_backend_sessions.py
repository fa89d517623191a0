"""Plain clients of a WebSocket backend with resumable sessions: they notice a pause, and what ends is told in words."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from tests.authority import folder
from tests.client import Client
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.resume_service import ResumeService, resume_service
from tests.serving import Backend, Served, backend, echo, read_head, reset, serving, written
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import Failure
from wsbridge.protocol.resume_server import SessionTerms
from wsbridge.reasons import Reason
from wsbridge.relay.back_session import BackSessionRelay
from wsbridge.relay.session_stream import Carrier


def near_side(url: str, *, timeouts: dict[str, str] | None = None, dial: Any = None, **backend_keys: Any) -> str:
    """Write the configuration of a wsbridge whose plain clients go to a WebSocket server."""
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "out"}}
    route: dict[str, Any] = {"backend": {"url": url, **backend_keys}, "auth": "none"}
    if dial is not None:
        route["dial"] = dial
    return written(listeners=listeners, routes={"out": route}, timeouts=timeouts)


@dataclass
class Tunnel:
    """Two wsbridges face to face, with a proxy between them that can be cut, in front of a backend.

    Attributes:
        near: Plain clients connect here, by the route `out`; its records are those of both.
        far: Has resumable sessions, on the route `app`.
        proxy: Between them.
        back: Behind them.
    """

    near: Served
    far: Served
    proxy: CuttingProxy
    back: Backend

    async def connect(self) -> Client:
        """Connect a plain client."""
        return await self.near.connect("old")


@contextlib.asynccontextmanager
async def tunnel(handler: Any = echo, **near: Any) -> AsyncIterator[Tunnel]:
    """Run one."""
    async with (
        backend(handler) as back,
        serving(written(route={"backend": back.url, "resume": {}})) as far,
        cutting_proxy(far.port()) as proxy,
        serving(near_side(proxy.url, **near)) as served,
    ):
        yield Tunnel(served, far, proxy, back)


@contextlib.asynccontextmanager
async def scripted(terms: SessionTerms | None = None, **near: Any) -> AsyncIterator[tuple[Served, ResumeService]]:
    """Run a wsbridge in front of a server whose answers the test chooses."""
    async with resume_service(terms) as service, serving(near_side(service.url, **near)) as served:
        yield served, service


async def test_a_plain_client_notices_a_pause() -> None:
    """The connection to the server is cut; bytes of both directions arrive once, over another one."""
    async with tunnel() as run:
        with await run.connect() as client:
            await client.send(b"one ")
            assert await client.take(4) == b"one "
            run.proxy.cut()
            await client.send(b"two ")
            assert await client.take(4) == b"two "
            run.proxy.cut()
            await client.send(b"three")
            assert await client.take(5) == b"three"
        lost = await run.near.records.wait("backend.lost", 2)
        resumed = await run.near.records.wait("backend.resumed", 2)
        closed = await run.near.records.wait("connection.closed", route="out")
        assert (closed["reason"], closed["bytes_to_backend"], closed["bytes_to_client"]) == ("client_closed", 13, 13)
        assert closed["session"] == lost["session"] == resumed["session"]
        assert closed["subprotocol"] == "wsbridge.resume.v1"
        far = await run.near.records.wait("session.closed")
        assert (far["session"], far["reason"], far["transports"]) == (closed["session"], "client_closed", 3)
        assert run.back.dials == 1
        await run.back.until(finished=1)


async def test_hashes_are_equal_over_many_cuts() -> None:
    """Megabytes are echoed while the connection is cut again and again."""
    data = random.Random(7).randbytes(8 << 20)
    async with tunnel() as run:
        with await run.connect() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.proxy.cut_often, 0.05, 0.3, 11)

                async def send() -> None:
                    for at in range(0, len(data), 100_000):
                        await client.send(data[at : at + 100_000])
                        await trio.sleep(0.01)
                    await client.stream.send_eof()

                nursery.start_soon(send)
                back = await client.everything()
                nursery.cancel_scope.cancel()
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        assert run.proxy.cuts >= 3
        closed = await run.near.records.wait("connection.closed", route="out")
        assert (closed["reason"], closed["bytes_to_backend"]) == ("client_closed", len(data))
        await run.back.until(finished=1)


async def until_reset(client: Client) -> bytes:
    """Read to the end, which must be a reset, and give what came before."""
    with pytest.raises(trio.BrokenResourceError):
        while await client.more():
            pass
    return client.buffer


async def test_half_close_both_ways() -> None:
    """A FIN of either side goes on as one, over a cut, and the other direction goes on."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"question")
        await stream.send_eof()
        answer = b""
        while data := await stream.receive_some():
            answer += data
        assert answer == b"answer"

    async with tunnel(serve) as run:
        with await run.connect() as client:
            assert await client.everything() == b"question"
            run.proxy.cut()
            await client.send(b"answer")
            await client.stream.send_eof()
            await run.back.until(finished=1)
        closed = await run.near.records.wait("connection.closed", route="out")
        assert (closed["reason"], closed["bytes_to_backend"]) == ("backend_closed", 6)


async def test_a_client_that_ends_while_the_server_is_away() -> None:
    """What it has sent, and its FIN, arrive later; what the backend answers then reaches it."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"ready")
        total = 0
        while data := await stream.receive_some():
            total += len(data)
        await stream.send_all(b"%d bytes" % total)

    async with tunnel(serve) as run:
        with await run.connect() as client:
            await client.take(5)
            run.proxy.go_down()
            await client.send(bytes(50_000))
            await client.stream.send_eof()
            await run.near.records.wait("backend.lost")
            run.proxy.come_up()
            assert await client.everything() == b"50000 bytes"


async def test_a_reset_of_the_client_reaches_the_backend() -> None:
    """Half of something must not look like all of it: also not over a session."""
    async with tunnel() as run:
        client = await run.connect()
        await client.send(b"half of it")
        await client.take(10)
        reset(client.stream)
        await run.back.until(lost=1)
        closed = await run.near.records.wait("connection.closed", route="out")
        assert closed["reason"] == "client_lost"
        far = await run.near.records.wait("session.closed")
        assert (far["reason"], far["initiator"], far["close_code"]) == ("client_closed", "client", 4012)


async def test_a_reset_of_the_backend_reaches_the_client_behind_its_bytes() -> None:
    """Also where the connection is cut in between."""
    go_on = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"first ")
        await go_on.wait()
        await stream.send_all(b"last words")
        await stream.receive_some()
        reset(stream)

    async with tunnel(serve) as run:
        with await run.connect() as client:
            await client.take(6)
            await client.send(b"x")
            run.proxy.go_down()
            go_on.set()
            await run.near.records.wait("backend.lost")
            await trio.sleep(0.1)
            run.proxy.come_up()
            assert await until_reset(client) == b"last words"
        closed = await run.near.records.wait("connection.closed", route="out")
        assert (closed["reason"], closed["initiator"]) == ("backend_reset", "backend")
        assert "4012" in closed["detail"]


REFUSALS = {
    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n": "the backend answered 401",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n": "the backend answered 403",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n": "the backend answered 404",
}


@pytest.mark.parametrize("response", REFUSALS)
async def test_a_server_that_refuses_is_not_dialed_again(response: bytes) -> None:
    """The client gets what had come for it, and a reset."""
    async with scripted() as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.refusals.append(response)
            service.last.cut()
            assert await until_reset(client) == b""
        closed = await served.records.wait("connection.closed")
        assert (closed["reason"], closed["initiator"]) == ("resume_rejected", "backend")
        assert REFUSALS[response] in closed["detail"]
        assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (4001, "resume_rejected"),
        (4002, "resume_gap"),
        (4003, "superseded"),
        (4004, "session_lost"),
        (4009, "backend_reset"),
    ],
)
async def test_an_answer_that_ends_the_session(code: int, reason: str) -> None:
    """Each code has its reason, and the text of the server is in the detail."""
    async with scripted() as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.failures.append(Failure(code, "because"))
            service.last.cut()
            assert await until_reset(client) == b""
        closed = await served.records.wait("connection.closed")
        assert (closed["reason"], closed["initiator"]) == (reason, "backend")
        assert f"{code}: because" in closed["detail"]
        assert not served.records.of("backend.resumed")


@pytest.mark.parametrize("answer", ["502", "302", "4013", "4014", "no subprotocol", "nothing"])
async def test_a_server_that_is_down_is_dialed_again(answer: str) -> None:
    """What may pass is waited for; there is one line for the loss and one for the resumption."""
    async with scripted(timeouts={"connect": "1s" if answer == "nothing" else "20s"}) as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            if answer.startswith("40"):
                service.failures.append(Failure(int(answer), "later"))
            elif answer[0].isdigit():
                service.refusals.append(f"HTTP/1.1 {answer} X\r\nContent-Length: 0\r\n\r\n".encode())
            service.subprotocol, service.answers = answer != "no subprotocol", answer != "nothing"
            service.last.cut()
            await client.send(b"still here")
            while len(service.requests) < 2:
                await trio.sleep(0.01)
            service.subprotocol = True
            if answer == "nothing":
                while len(service.requests) < 3:
                    await trio.sleep(0.01)
                service.answers = True
            assert await client.take(10) == b"still here"
        resumed = await served.records.wait("backend.resumed")
        assert resumed["attempts"] >= 2
        assert len(served.records.of("backend.lost")) == len(served.records.of("backend.resumed")) == 1


async def test_retry_after_is_obeyed() -> None:
    """A server that says when it can be asked again is asked then."""
    async with scripted() as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.refusals.append(b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            service.last.cut()
            began = trio.current_time()
            await client.send(b"y")
            await client.take(1)
            assert trio.current_time() - began >= 1


async def test_a_session_expires() -> None:
    """Without a connection for the ttl, the client is reset; the detail has the latest failure."""
    async with scripted(SessionTerms(ttl=1)) as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.refusals.extend([b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n"] * 50)
            service.last.cut()
            assert await until_reset(client) == b""
        closed = await served.records.wait("connection.closed")
        assert closed["reason"] == "session_expired"
        assert "no transport for the ttl of the session, 1 s" in closed["detail"]
        assert "502" in closed["detail"]


async def test_a_dead_path_is_found_by_pings() -> None:
    """A connection that swallows everything is replaced."""
    async with tunnel(timeouts={"ping_interval": "200ms", "ping_timeout": "200ms"}) as run:
        with await run.connect() as client:
            await client.send(b"x")
            await client.take(1)
            run.proxy.die()
            lost = await run.near.records.wait("backend.lost")
            assert "ping_timeout" in lost["detail"]
            run.proxy.come_up()
            await client.send(b"y")
            assert await client.take(1) == b"y"


async def test_no_more_than_the_window_is_held() -> None:
    """While the server is away, the client is read until the window is full, and then it has to wait."""
    async with scripted(SessionTerms(window=65536)) as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.refusals.extend([b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n"] * 50)
            service.last.cut()
            await served.records.wait("backend.lost")
            memory = served.server.services.sessions.memory
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, bytes(50 << 20))
                with trio.fail_after(10):
                    while not memory.used:
                        await trio.sleep(0.01)
                await trio.sleep(0.3)
                nursery.cancel_scope.cancel()
            assert 0 < memory.used <= 65536
            assert service.last.session.received_position == 1
            reset(client.stream)
        await served.quiet()
        assert memory.used == 0


async def test_a_client_that_leaves_while_the_server_is_away() -> None:
    """Its connection ends at once, and nothing is dialed any more."""
    async with tunnel() as run:
        client = await run.connect()
        await client.send(b"x")
        await client.take(1)
        run.proxy.go_down()
        await run.near.records.wait("backend.lost")
        reset(client.stream)
        closed = await run.near.records.wait("connection.closed", route="out")
        assert closed["reason"] == "client_lost"
        await run.near.quiet()


@pytest.mark.parametrize("keys", [{"resume": "off"}, {"subprotocols": []}, {"messages": "text"}])
async def test_without_sessions_a_lost_connection_is_the_end(keys: dict[str, Any]) -> None:
    """A raw stream is never reconnected."""
    async with tunnel(**keys) as run:
        with await run.connect() as client:
            await client.send(b"x")
            await client.take(1)
            run.proxy.cut()
            assert await until_reset(client) == b""
        closed = await run.near.records.wait("connection.closed", route="out")
        assert closed["reason"] == "backend_reset"
        assert "session" not in closed
        assert run.proxy.connections == 1


async def test_a_server_without_sessions_is_used_as_ever() -> None:
    """It is offered them, selects something else, and a lost connection is the end."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url})) as far,
        cutting_proxy(far.port()) as proxy,
        serving(near_side(proxy.url)) as near,
    ):
        with await near.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            proxy.cut()
            assert await until_reset(client) == b""
        closed = await near.records.wait("connection.closed", route="out")
        assert (closed["subprotocol"], proxy.connections) == ("binary", 1)


async def test_a_new_client_is_held_while_the_server_is_down() -> None:
    """With retry_for: while nothing listens, while a proxy answers for it, and while it drains."""
    async with scripted(dial={"retry_for": "10s"}) as (served, service):
        service.refusals.append(b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n")
        service.refusals.append(b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        service.failures.append(Failure(4014, "draining"))
        service.failures.append(Failure(4011, "backend_unreachable"))
        with await served.connect("old") as client:
            await client.send(b"x")
            assert await client.take(1) == b"x"
        assert len(service.requests) == 5


async def test_operators_see_that_a_connection_waits_for_its_backend() -> None:
    """The state of the connection, and the counters of the route."""
    async with tunnel() as run:
        with await run.connect() as client:
            await client.send(b"x")
            await client.take(1)
            (connection,) = run.near.server.connections.values()
            stats = run.near.server.generation.routes["out"].stats
            assert connection.live_facts()["state"] == "relaying"
            assert connection.facts()["session"]
            run.proxy.go_down()
            await run.near.records.wait("backend.lost")
            assert connection.live_facts()["state"] == "reconnecting"
            assert (stats.backend_transports_lost, stats.backend_sessions_detached) == (1, 1)
            run.proxy.come_up()
            await run.near.records.wait("backend.resumed")
            assert connection.live_facts()["state"] == "relaying"
            assert (stats.backend_sessions, stats.backend_sessions_resumed, stats.backend_sessions_detached) == (
                1,
                1,
                0,
            )


async def test_by_tls_and_through_a_proxy() -> None:
    """The next connection is made like the first: CONNECT, TLS with the authority of the file, the same headers."""

    async def relay(stream: trio.SocketStream) -> None:
        head = await read_head(stream)
        assert head.startswith("CONNECT localhost:")
        async with await trio.open_tcp_stream("127.0.0.1", far.port()) as target, trio.open_nursery() as nursery:
            with contextlib.suppress(trio.BrokenResourceError):  # the dial may end with its client
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            streams.append(stream)

            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some(65536):
                        await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, stream, target)
            nursery.start_soon(copy, target, stream)

    streams: list[trio.SocketStream] = []
    async with (
        backend() as back,
        serving(written(route={"backend": back.url, "resume": {}, "auth": "none"}, tls=True)) as far,
        backend(relay) as proxy,
        serving(
            near_side(
                f"wss://localhost:{far.port()}/",
                ca=str(folder() / "ca.pem"),
                proxy=f"http://127.0.0.1:{proxy.port}",
            )
        ) as near,
    ):
        with await near.connect("old") as client:
            for number in range(3):
                await client.send(b"%d" % number)
                assert await client.take(1) == b"%d" % number
                reset(streams[-1])
        assert (await near.records.wait("backend.resumed", 2))["attempts"] == 1
        assert proxy.dials >= 3


async def test_without_retry_for_a_new_client_is_told_at_once() -> None:
    """The reason is that of the far side's answer."""
    async with scripted() as (served, service):
        service.failures.append(Failure(4010, "backend_refused"))
        with await served.connect("old") as client:
            assert await until_reset(client) == b""
        closed = await served.records.wait("connection.rejected")
        assert closed["reason"] == "backend_refused"
        assert "4010 backend_refused" in closed["detail"]


async def test_a_server_that_does_not_know_what_it_selects() -> None:
    """The detail names the setting."""
    async with scripted(timeouts={"connect": "1s"}) as (served, service):
        service.answers = False
        with await served.connect("old") as client:
            assert await until_reset(client) == b""
        closed = await served.records.wait("connection.rejected")
        assert closed["reason"] == "backend_timeout"
        assert "answer of 127.0.0.1" in closed["detail"]
        assert "resume: off" in closed["detail"]


async def test_goaway_says_when_to_come_back() -> None:
    """The announced time replaces the attempt at once."""
    async with scripted() as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.last.session.go_away(400, 0)
            service.last.wake.unpark_all()
            await client.send(b"x")
            await client.take(1)
            service.last.cut()
            await client.send(b"y")
            await client.take(1)
        resumed = await served.records.wait("backend.resumed")
        assert resumed["outage_seconds"] >= 0.4


async def test_the_node_hint_is_in_the_url_of_a_resume() -> None:
    """Load balancers find the node by the parameter n."""
    async with scripted(SessionTerms(node="web2")) as (served, service):
        with await served.connect("old") as client:
            await client.send(b"x")
            await client.take(1)
            service.last.cut()
            await client.send(b"y")
            await client.take(1)
        assert [request.split()[1] for request in service.requests] == ["/", "/?n=web2"]
        offers = [line for request in service.requests for line in request.split("\r\n") if "-Protocol" in line]
        assert [line.partition(": ")[2] for line in offers] == ["binary, wsbridge.resume.v1", "wsbridge.resume.v1"]


@pytest.mark.parametrize("away", [False, True])
async def test_a_shutdown_ends_it_on_both_sides(away: bool) -> None:
    """With and without a connection, the near wsbridge ends at once; the far one learns of it where it can."""
    async with tunnel() as run:
        with await run.connect() as client:
            await client.send(b"x")
            await client.take(1)
            if away:
                run.proxy.go_down()
                await run.near.records.wait("backend.lost")
            run.near.server.stop(Reason.SHUTDOWN)
            await run.near.returned.wait()
        closed = await run.near.records.wait("connection.closed", route="out")
        assert closed["reason"] == "shutdown"
        if not away:
            far = await run.near.records.wait("session.closed")
            assert far["close_code"] == 4012
            await run.back.until(lost=1)


async def test_nothing_stays_of_connections_that_are_over() -> None:
    """Neither of sessions that were resumed, nor of their connections."""
    async with tunnel() as run:
        for number in range(6):
            with await run.connect() as client:
                await client.send(b"x")
                await client.take(1)
                if number % 2:
                    run.proxy.cut()
                    await client.send(b"y")
                    await client.take(1)
            await run.near.records.wait("connection.closed", number + 1, route="out")
        await run.near.quiet()
        await run.far.quiet()
        kinds = (Carrier, BackSessionRelay, ClientSession)
        with trio.fail_after(9):
            while any(isinstance(one, kinds) for one in gc.get_objects()):
                gc.collect()
                await trio.sleep(0.05)
