"""GET requests to one service, within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.authority import client_context
from tests.http_service import Service, Stream, answer, service
from wsbridge.config.urls import read_http_service_url
from wsbridge.net import http_client
from wsbridge.net.http_client import HttpClient, ServiceResponse
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import client_context as system_context

MOST = 1000


@contextlib.asynccontextmanager
async def client(url: str, *, tls: bool = False, connections: int = 1) -> AsyncIterator[HttpClient]:
    """Give a client of a service."""
    async with Resolver() as resolver:
        context = client_context if tls else system_context
        found = HttpClient(read_http_service_url(url), resolver, context, connections)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run)
            yield found
            nursery.cancel_scope.cancel()


async def got(asked: HttpClient, path: str = "/x?a=b") -> ServiceResponse:
    """Send a request, and read the response."""
    with trio.fail_after(10):
        found = await asked.get(path, [(b"X-A", b"1")], MOST)
    assert isinstance(found, ServiceResponse), found
    return found


async def test_an_answer_comes_as_it_is() -> None:
    """Status, headers and body are given; the request has our headers, the Host, and nothing else."""
    body = answer(418, "X-B: 2", "X-B: 3", "Set-Cookie: a=b", body=b"tea")
    async with service(body) as served, client(f"http://127.0.0.1:{served.port}") as asked:
        found = await got(asked)
        assert (found.status, found.headers.get_all(b"x-b"), found.body, found.complete) == (
            418,
            [b"2", b"3"],
            b"tea",
            True,
        )
        await got(asked)
        assert served.asked[0].split("\r\n") == ["GET /x?a=b HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "X-A: 1"]
        assert served.asked[1] == served.asked[0]
        assert served.dials == 1


async def test_a_redirect_is_an_answer() -> None:
    """It is not followed."""
    async with service() as other:
        moved = answer(302, f"Location: http://127.0.0.1:{other.port}/")
        async with service(moved) as served, client(f"http://127.0.0.1:{served.port}") as asked:
            assert (await got(asked)).status == 302
        assert other.dials == 0


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is asked straight, whatever http_proxy says."""
    async with service(answer(500)) as proxy, service() as served:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with client(f"http://127.0.0.1:{served.port}") as asked:
            assert (await got(asked)).status == 200
        assert proxy.dials == 0


async def test_https_is_verified() -> None:
    """The certificate must be for the host of the URL; the sentence says what is wrong with it."""
    async with service(tls=True) as served:
        async with client(f"https://localhost:{served.port}/", tls=True) as asked:
            assert (await got(asked)).status == 200
            assert served.header("host") == [f"localhost:{served.port}"]
        async with client(f"https://localhost:{served.port}/") as asked:
            failure = await asked.get("/", [], MOST)
            assert "certificate verify failed" in str(failure)
            assert str(failure).startswith(f"https://localhost:{served.port}/: ")
        async with client(f"https://127.0.0.2:{served.port}/", tls=True) as asked:
            assert "Connection refused" in str(await asked.get("/", [], MOST))


async def test_a_unix_socket_is_asked_for_localhost(tmp_path: Path) -> None:
    """Plain HTTP over it."""
    async with service(path=tmp_path / "s") as served, client(f"unix:{tmp_path}/s") as asked:
        assert (await got(asked)).status == 200
        assert served.header("host") == ["localhost"]
    async with client(f"unix:{tmp_path}/none") as asked:
        assert "No such file" in str(await asked.get("/", [], MOST))


async def test_a_large_body_is_cut() -> None:
    """So much is read and no more, and its connection is not used again."""
    async with (
        service(answer(body=b"x" * 200_000)) as served,
        client(f"http://127.0.0.1:{served.port}") as asked,
    ):
        found = await got(asked)
        assert (len(found.body), found.complete) == (MOST, False)
        assert (await got(asked)).status == 200
        assert served.dials == 2


async def test_a_body_that_does_not_come_is_waited_for_in_bounds() -> None:
    """The head is there, and what came of the body."""

    async def slow(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(answer(length=10, body=b"abc"))
        await stream.receive_some(1)

    async with service(slow) as served, client(f"http://127.0.0.1:{served.port}") as asked:
        with trio.fail_after(9):
            found = await asked.get("/", [], MOST, body_timeout=0.05)
        assert isinstance(found, ServiceResponse)
        assert (found.status, found.body, found.complete) == (200, b"abc", False)
        await served.until(open=0)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",  # h11 before 0.16 accepts it
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nX-\xe4: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Token hunter2\r\n\r\n",
        b"HTTP/1.1 OK hunter2\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_a_sentence(said: bytes) -> None:
    """A failure whose text quotes nothing of it, and a new connection is not tried again."""

    async def speak(served: Service, head: str, stream: Stream) -> None:
        if said:
            await stream.send_all(said)

    async with service(speak) as served, client(f"http://127.0.0.1:{served.port}") as asked:
        with trio.fail_after(10):
            failure = await asked.get("/", [], MOST)
        assert isinstance(failure, str)
        assert "hunter2" not in failure
        assert served.dials == 1
        await served.until(open=0)


async def test_a_kept_connection_that_was_closed_is_no_failure() -> None:
    """Services close idle connections when they like."""

    async def once(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(answer())

    async with service(once) as served, client(f"http://127.0.0.1:{served.port}") as asked:
        for _ in range(3):
            assert (await got(asked)).status == 200
        assert served.dials == 3


async def test_nobody_there_is_a_sentence() -> None:
    """Refused, and unknown names."""
    async with service() as served:
        port = served.port
    async with client(f"http://127.0.0.1:{port}/") as asked:
        assert "Connection refused" in str(await asked.get("/", [], MOST))
    async with client("http://name.invalid/") as asked:
        assert "name.invalid" in str(await asked.get("/", [], MOST))


async def test_who_gives_up_leaves_nothing_behind() -> None:
    """A request that is cancelled closes its connection and gives its place back."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async with service(silent) as served, client(f"http://127.0.0.1:{served.port}") as asked:
        for number in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asked.get, "/", [], MOST)
                await served.until(dials=number + 1)
                nursery.cancel_scope.cancel()
        await served.until(open=0, dials=3)
        served.answers = answer()
        assert (await got(asked)).status == 200


async def test_places_are_not_lost_when_all_who_wait_give_up() -> None:
    """A service that was slow for a while is asked again as before."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async with service(silent) as served, client(f"http://127.0.0.1:{served.port}", connections=2) as asked:

        async def impatient(scope: trio.CancelScope) -> None:
            with scope:
                await asked.get("/", [], MOST)

        for pauses in range(5):
            assert not served.open
            async with trio.open_nursery() as nursery:
                scopes = [trio.CancelScope() for _ in range(20)]
                for scope in scopes:
                    nursery.start_soon(impatient, scope)
                await served.until(open=2)
                for scope in scopes:
                    scope.cancel()
                    for _ in range(pauses):
                        await trio.lowlevel.checkpoint()
            await served.until(open=0)
        served.answers = answer()
        await got(asked)


async def test_connections_are_bounded() -> None:
    """Requests over the bound wait for their turn."""
    go = trio.Event()

    async def held(served: Service, head: str, stream: Stream) -> None:
        await go.wait()
        await stream.send_all(answer())

    async with service(held) as served, client(f"http://127.0.0.1:{served.port}", connections=2) as asked:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(got, asked)
            await served.until(dials=2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert served.dials == 2
            go.set()
        assert len(served.asked) == 5


async def test_closing_closes_idle_connections() -> None:
    """Nothing stays open at the service."""
    async with service() as served:
        async with client(f"http://127.0.0.1:{served.port}") as asked:
            await got(asked)
            assert served.open == 1
        await served.until(open=0)


async def test_a_body_in_many_chunks_holds_up_nobody() -> None:
    """However fast a service sends, the process goes on with all else, and time-outs hold."""
    chunks = 20000
    sent = trio.Event()

    async def send(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * chunks)
        sent.set()
        await trio.sleep_forever()

    turns = 0

    async def count() -> None:
        nonlocal turns
        await sent.wait()
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with (
        service(send) as served,
        client(f"http://127.0.0.1:{served.port}") as asked,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(count)
        with trio.fail_after(30):
            found = await asked.get("/", [], chunks - 1)
        nursery.cancel_scope.cancel()
    assert isinstance(found, ServiceResponse)
    assert len(found.body) == chunks - 1
    assert turns > chunks // 10


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a busy moment do not stay open while one is enough, nor while there are no requests at all."""
    monkeypatch.setattr(http_client, "IDLE_CONNECTION_TIMEOUT", 0.1)
    go = trio.Event()

    async def held(served: Service, head: str, stream: Stream) -> None:
        await go.wait()
        await stream.send_all(answer())
        await stream.receive_some(1)

    async with service(held) as served, client(f"http://127.0.0.1:{served.port}", connections=3) as asked:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(got, asked)
                await served.until(open=3)
                go.set()
            await served.until(open=0)
            go = trio.Event()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("later", [False, True])
async def test_a_response_that_came_before_its_request_is_not_used(tls: bool, later: bool) -> None:
    """A second response to one request must not become that to the next, which may be another client's."""
    filling = bytes(16384 - len(answer(200, length=16000)))  # what follows is in a TLS record of its own
    received, sent = trio.Event(), trio.Event()

    async def twice(served: Service, head: str, stream: Stream) -> None:
        if served.dials > 1:
            await stream.send_all(answer(401))
        elif later:
            await stream.send_all(answer(200, body=filling))
            await received.wait()
            await stream.send_all(answer(200, "X-User: alice"))
        else:
            await stream.send_all(answer(200, body=filling) + answer(200, "X-User: alice"))
        sent.set()
        await stream.receive_some(1)

    async with (
        service(twice, tls=tls) as served,
        client(f"http{'s' * tls}://localhost:{served.port}", tls=tls) as asked,
    ):
        with trio.fail_after(9):
            first = await asked.get("/", [], 20000)
            received.set()
            await sent.wait()
        assert isinstance(first, ServiceResponse)
        assert first.complete
        assert (await got(asked)).status == 401
