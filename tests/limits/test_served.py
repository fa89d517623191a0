"""Limits end to end: real listeners and backends whose dials are counted."""

from __future__ import annotations

import socket

import pytest
import trio

from tests.auth.methods import Saying
from tests.client import Client, request
from tests.serving import backend, serving, written
from wsbridge.auth.identity import Identity, unauthenticated
from wsbridge.reasons import Rejected

HERE = {"exempt": []}


async def asked(served, source="127.0.0.1", *headers, tls=False, path="/"):
    """Connect from an address and ask for an upgrade; give the client and its answer's head, or None for a reset."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port(), local_address=source)
    except OSError:  # the reset was faster than our connect
        return None, None
    client = Client(stream, stream.socket)
    if tls:
        client.drop()
        client = await Client.connect(served.port(), tls=True)
    try:
        await client.send(request(path, *headers))
        return client, await client.head()
    except (trio.BrokenResourceError, EOFError):
        client.drop()
        return client, None


def status(head):
    """The status of an answer."""
    return None if head is None else int(head.split(" ")[1])


def denying(served, *answers):
    """Have the route ask a way that gives these answers, one after the other."""
    way = Saying(answers[0])
    rest = list(answers)

    async def identify(caller):
        answer = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(answer, Rejected):
            raise answer
        return answer

    way.identify = identify
    route = served.server.generation.routes["app"]
    object.__setattr__(route, "auth", way)


@pytest.mark.parametrize("tls", [False, True])
async def test_one_connection_too_many_from_an_address_is_429(tls):
    """A client over the limit is rejected without a dial; other addresses, and a client after one left, are served."""
    async with backend() as back:
        limits = {"per_address": {"connections": "2", **HERE}}
        async with serving(written(route={"backend": back.url}, limits=limits, tls=tls)) as served:
            inside = [await served.upgraded(tls=tls) for _ in range(2)]
            over, head = await asked(served, tls=tls)
            assert status(head) == 429
            assert "Retry-After: 1" in head
            assert (await over.everything()).startswith(b"rate_limited: ")
            over.drop()
            line = await served.records.wait("connection.rejected")
            assert (line["reason"], line["status"]) == ("rate_limited", 429)
            assert (
                "limits.per_address.connections is 2; if that is a proxy, name it in trusted_proxies" in line["detail"]
            )
            if not tls:
                other, head = await asked(served, "127.0.0.9")
                assert status(head) == 101
                other.drop()
            await back.until(dials=2 if tls else 3)
            await inside.pop().close()
            await served.records.wait("connection.closed", 1 if tls else 2)
            await served.quiet(1)
            last, head = await asked(served, tls=tls)
            assert status(head) == 101
            for client in (last, *inside):
                client.drop()


async def test_a_raw_connection_too_many_is_reset():
    """Where no message is possible, the client must not mistake the end for an empty answer."""
    async with backend() as back:
        text = written(
            listeners={"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}},
            routes={"app": {"backend": back.url, "auth": "none"}},
            limits={"per_address": {"connections": "1", **HERE}},
        )
        async with serving(text) as served:
            with await served.connect("old") as inside, await served.connect("old") as over:
                await inside.send(b"x")
                assert await inside.take(1) == b"x"
                with pytest.raises(trio.BrokenResourceError):
                    await over.more()
            await back.until(dials=1)


async def test_handshakes_too_fast_are_429_with_the_seconds_to_wait():
    """After the burst; nothing is dialled, and other addresses are served."""
    async with backend() as back:
        limits = {"per_address": {"handshake_rate": "1", "handshake_burst": "3", **HERE}}
        async with serving(written(route={"backend": back.url}, limits=limits)) as served:
            heads = []
            for _ in range(6):
                client, head = await asked(served)
                heads.append(head)
                client.drop()
            assert [status(head) for head in heads] == [101] * 3 + [429] * 3
            assert "Retry-After: 1" in heads[-1]
            client, head = await asked(served, "127.0.0.9")
            assert status(head) == 101
            client.drop()
            await back.until(dials=4)
            line = await served.records.wait("connection.rejected", 3)
            assert line["detail"].startswith("more than limits.per_address.handshake_rate, 1 a second, after 3 at once")


async def test_pages_and_health_checks_are_no_handshakes(tmp_path):
    """A page of many files is loaded however few handshakes there may be."""
    (tmp_path / "page.js").write_text("1")
    routes = {"page": {"match": "any", "files": str(tmp_path), "auth": "none"}}
    limits = {"per_address": {"handshake_rate": "1", "handshake_burst": "1", **HERE}}
    async with serving(written(routes=routes, limits=limits)) as served:
        for _ in range(5):
            with await served.connect() as client:
                await client.send(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert (await client.everything()).startswith(b"HTTP/1.1 200")


async def test_failed_logins_ban_the_address():
    """The ban is one line; then the address is reset before TLS or head, with few lines, and others are served."""
    async with backend() as back:
        limits = {"per_address": {"max_failures": "3", "ban_time": "1h", **HERE}}
        async with serving(written(route={"backend": back.url}, limits=limits)) as served:
            denying(served, unauthenticated("the password is wrong", failed_login=True))
            for _ in range(3):
                client, head = await asked(served)
                assert status(head) == 401
                client.drop()
            line = await served.records.wait("address.banned")
            assert line == {
                "level": "warning",
                "event": "address.banned",
                "client_address": "127.0.0.1",
                "failures": 3,
                "ban_seconds": 3600.0,
            }
            for _ in range(50):
                client, head = await asked(served)
                assert head is None
            lines = served.records.of("connection.banned")
            assert lines[-1] == {
                "level": "info",
                "event": "connection.banned",
                "listener": "web",
                "client_address": "127.0.0.1",
                "count": 50,
            }
            assert len(served.records.of("connection.rejected")) == 3
            assert served.server.services.client_table.banned_count == 50
            denying(served, Identity("alice", "basic"))
            client, head = await asked(served, "127.0.0.9")
            assert status(head) == 101
            client.drop()
            await back.until(dials=1)


async def test_who_shows_no_credential_is_not_banned():
    """Browsers ask without one first."""
    async with backend() as back:
        limits = {"per_address": {"max_failures": "1", **HERE}}
        async with serving(written(route={"backend": back.url}, limits=limits)) as served:
            denying(served, unauthenticated("no credential"))
            for _ in range(3):
                client, head = await asked(served)
                assert status(head) == 401
                client.drop()
            assert not served.records.of("address.banned")
            await back.until(dials=0)


async def test_this_host_is_exempt_by_default():
    """A proxy here speaks for everybody."""
    limits = {"per_address": {"connections": "1", "handshake_rate": "1", "handshake_burst": "1", "max_failures": "1"}}
    async with backend() as back, serving(written(route={"backend": back.url}, limits=limits)) as served:
        denying(served, unauthenticated("wrong", failed_login=True), Identity("alice", "basic"))
        client, head = await asked(served)
        assert status(head) == 401
        client.drop()
        clients = [await served.upgraded() for _ in range(5)]
        await back.until(dials=5)
        for client in clients:
            client.drop()


@pytest.mark.parametrize(
    ("setting", "method"),
    [("connections", "basic"), ("connections_per_identity", "basic"), ("connections_per_token", "bearer")],
)
async def test_limits_of_a_route_are_429(setting, method):
    """One more than the route lets one have is refused without a dial, and served when there is room."""
    async with backend() as back:
        route = {"backend": back.url, "limits": {setting: "1"}}
        async with serving(written(route=route)) as served:
            denying(served, Identity("alice", method, token_name="alice" if method == "bearer" else None))
            inside = await served.upgraded()
            over, head = await asked(served)
            assert status(head) == 429
            assert "Retry-After: 1" in head
            over.drop()
            line = await served.records.wait("connection.rejected")
            assert f"limits.{setting} is 1" in line["detail"]
            assert line["identity"] == "alice"
            await back.until(dials=1)
            await inside.close()
            await served.quiet()
            (await served.upgraded()).drop()
            assert len(served.server.services.connection_counts) <= 1
        assert len(served.server.services.connection_counts) == 0


async def test_a_failed_dial_gives_its_place_back():
    """A backend that is down does not use up the limit."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        route = {"backend": f"tcp://127.0.0.1:{nobody.getsockname()[1]}", "limits": {"connections": "1"}}
        async with serving(written(route=route)) as served:
            for _ in range(3):
                client, head = await asked(served)
                assert status(head) == 502
                client.drop()


@pytest.mark.parametrize("setting", ["bytes_per_second", "identity_bytes_per_second"])
async def test_bytes_a_second_end_to_end(setting):
    """64 KiB at 64 KiB a second take a second, each way, whichever setting limits it."""
    async with backend() as back:
        async with serving(written(route={"backend": back.url, "limits": {setting: "64KiB"}})) as served:
            denying(served, Identity("alice", "basic"))
            times = []
            while len(times) < 10 and min(times, default=1.6) >= 1.6:  # a busy machine takes longer, and none less
                client = await served.upgraded()
                began = trio.current_time()
                await client.echoed(b"x" * 65_536)
                times.append(trio.current_time() - began)
                await client.close()
            assert 0.8 < min(times) < 1.6
        assert len(served.server.services.shared_buckets) == 0
