"""Requests that are like one before: no rule is skipped for them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from tests.client import KEY, accept_of, request
from tests.serving import Served, accept_upgrade, backend, config_of, serving, written
from wsbridge import connection
from wsbridge.admission import admit
from wsbridge.log.logger import log
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.reasons import Reason, Rejected


def counted(monkeypatch):
    """Note the requests that are admitted by their heads."""
    found = []

    def note(listener, route, request, **more):
        found.append(request.path)
        return admit(listener, route, request, **more)

    monkeypatch.setattr(connection, "admit", note)
    return found


@pytest.mark.parametrize("level", ["info", "debug"])  # debug logs why each is admitted
async def test_requests_like_one_before_get_their_own_answers(level, monkeypatch):
    """What was decided about a request holds for those that differ in the key alone; the rest is each one's own."""
    checked = counted(monkeypatch)
    async with (
        backend() as back,
        serving(written(route={"backend": back.url, "allowed_origins": ["https://a"]})) as served,
    ):
        log.set_level(level)
        for count, key in enumerate(("MDEyMzQ1Njc4OWFiY2RlZg==", "ZmVkY2JhOTg3NjU0MzIxMA=="), 1):
            with await served.connect() as client:
                await client.send(request("/x", "Origin: https://a").replace(KEY.encode(), key.encode()))
                assert accept_of(key) in await client.head()
                await client.close(1000)
            line = await served.records.wait("connection.closed", count)
            assert (line["route"], line["path"], line["host"]) == ("app", "/x", "localhost")
        assert len(checked) == (1 if level == "info" else 2)
        for count in (1, 2):
            with await served.connect() as client:
                await client.send(request("/x", "Origin: https://b"))
                assert " 403 " in await client.head()
            line = await served.records.wait("connection.rejected", count)
            assert (line["route"], line["reason"]) == ("app", "origin_not_allowed")


async def test_a_reload_and_a_drain_hold_for_requests_like_one_before(monkeypatch):
    """A request that was admitted is rejected once the configuration or the state of the server says so."""
    checked = counted(monkeypatch)

    def allowing(origin):
        return written(route={"backend": back.url, "allowed_origins": [origin]})

    async def status():
        with await served.connect() as client:
            await client.send(request("/x", "Origin: https://a"))
            return int((await client.head()).split()[1])

    async with backend() as back, serving(allowing("https://a")) as served:
        log.set_level("info")
        assert [await status(), await status()] == [101, 101]
        assert len(checked) == 1
        served.server.drain()
        with trio.fail_after(9):
            while served.server.services.shutdown_reason is None:
                await trio.sleep(0.01)
        assert await status() == 503
        served.server.undrain()
        assert await status() == 101
        await served.server.apply(config_of(allowing("https://b")))
        assert await status() == 403


async def status(served: Served, *headers: str) -> int:
    """Send a request, and give the status of the response."""
    with await served.connect() as client:
        await client.send(request("/x", *headers))
        return int((await client.head()).split()[1])


def remembered(served: Served) -> int:
    """Give how many requests the listener remembers."""
    known = served.server.generation.listeners["web"].known_requests
    assert known is not None
    return len(known)


async def test_only_admitted_requests_are_remembered(monkeypatch) -> None:
    """Whatever is rejected, by the route or by its authentication, pushes out nothing."""
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "network", "allow": ["127.0.0.1"]}}
        async with serving(written(route=route)) as served:
            log.set_level("info")
            assert await status(served, "Origin: https://other") == 403
            with monkeypatch.context() as patched:
                patched.setattr(connection, "authenticate", reject)
                assert await status(served) == 403
            assert remembered(served) == 0
            assert await status(served) == 101
            assert remembered(served) == 1


async def reject(auth: object, context: object) -> NoReturn:
    """Authenticate nobody."""
    raise Rejected(Reason.FORBIDDEN, "nobody is")


async def test_each_is_authenticated(monkeypatch) -> None:
    """Who was let in before may not be now, and what is remembered says nothing of it."""
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "network", "allow": ["127.0.0.1"]}}
        async with serving(written(route=route)) as served:
            log.set_level("info")
            assert [await status(served), await status(served)] == [101, 101]
            monkeypatch.setattr(connection, "authenticate", reject)
            assert await status(served) == 403


@pytest.mark.parametrize(
    ("limits", "of_route"),
    [({"per_address": {"connections": 1, "exempt": []}}, {}), ({}, {"connections": "1"})],
)
async def test_limits_of_connections_hold(limits, of_route) -> None:
    """The second that is open at once is one too many, and one after the other are not."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url, "limits": of_route}, limits=limits)) as served,
    ):
        log.set_level("info")
        for _ in range(2):
            with await served.upgraded("/x"):
                assert await status(served) == 429
            await served.quiet()


async def test_the_rate_of_handshakes_holds() -> None:
    """Requests that are like one before are handshakes as others are."""
    limits = {"per_address": {"handshake_rate": 1, "handshake_burst": 2, "exempt": []}}
    async with backend() as back, serving(written(route={"backend": back.url}, limits=limits)) as served:
        log.set_level("info")
        served.server.services.client_table.clock = lambda: 1000.0
        assert [await status(served) for _ in range(3)] == [101, 101, 429]


async def test_a_ban_holds() -> None:
    """Also of an address that was banned after the connection was accepted."""
    limits = {"per_address": {"max_failures": 1, "exempt": []}}
    async with backend() as back, serving(written(route={"backend": back.url}, limits=limits)) as served:
        log.set_level("info")
        assert await status(served) == 101
        with await served.connect() as client:
            with trio.fail_after(10):
                while served.server.generation.listeners["web"].stats.accepted < 2:
                    await trio.sleep(0.01)
            served.server.services.client_table.record_failure(socket.inet_aton("127.0.0.1"))
            await client.send(request("/x"))
            assert " 429 " in await client.head()


async def test_each_has_all_of_its_headers() -> None:
    """Though those before it are relayed, for which most headers are dropped."""
    heads: list[str] = []

    async def accept(stream: trio.SocketStream) -> None:
        heads.append(await accept_upgrade(stream))
        await stream.receive_some(1)

    async with backend(accept) as back:
        route = {
            "backend": {"url": f"ws://127.0.0.1:{back.port}/", "pass_headers": ["Accept-Language"]},
            "auth": "none",
        }
        async with serving(written(route=route)) as served:
            log.set_level("info")
            for count in range(1, 4):
                with await served.upgraded("/x", "Accept-Language: fr"):
                    pass
                await served.records.ended(count)
            assert remembered(served) == 1
    assert ["Accept-Language: fr" in head.split("\r\n") for head in heads] == [True] * 3


async def test_what_comes_over_a_unix_socket_opens_no_other(tmp_path: Path) -> None:
    """There any Host is accepted; at a TCP socket of the same listener, a page could have named it."""
    path, data = str(tmp_path / "s"), request("/x", host="gw.example")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(path)
        unix.listen()
        passed = PassedSockets({"web": [os.dup(tcp.fileno()), os.dup(unix.fileno())]})
        async with backend() as back:
            text = written(listeners={"web": {"bind": "fd:web"}}, route={"backend": back.url})
            async with serving(text, passed_sockets=passed) as served:
                log.set_level("info")
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(data)
                    assert await stream.receive_some(12) == b"HTTP/1.1 101"
                with await served.connect() as client:
                    await client.send(data)
                    assert " 403 " in await client.head()
