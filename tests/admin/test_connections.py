"""The admin API's connections: what is shown of them, and every way to end them, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.admin.test_admin import Admin, administered
from tests.client import BINARY, CLOSE, PONG, Client, frame, request
from tests.http_service import Service, Stream, answer, service
from tests.serving import Backend, backend, config_of, echo, serving, written
from wsbridge.connection import Connection


@contextlib.asynccontextmanager
async def operated(folder: Path, handler: Any = echo, **route: Any) -> AsyncIterator[tuple[Admin, Backend]]:
    """Run a server with an admin API and one route to a backend of the test."""
    async with backend(handler) as back, administered(folder) as admin:
        await admin.served.server.apply(config_of(written(route={"backend": back.url, **route})))
        yield admin, back


async def listed(admin: Admin, query: str = "") -> list[dict[str, Any]]:
    """Give the open connections."""
    found: list[dict[str, Any]] = (await admin.json("GET", f"/v1/connections{query}"))["connections"]
    return found


async def until(admin: Admin, count: int = 1, **facts: object) -> dict[str, Any]:
    """Wait until so many connections have these facts; give the last."""
    with trio.fail_after(10):
        while True:
            found = [one for one in await listed(admin) if all(one.get(key) == facts[key] for key in facts)]
            if len(found) >= count:
                return found[-1]
            await trio.sleep(0.01)


async def test_what_is_shown_of_a_connection(tmp_path):
    """The keys of the log, state, age and bytes so far; no secret of its request."""
    async with operated(tmp_path) as (admin, back):
        client = await admin.served.upgraded("/a?token=hunter2", "User-Agent: probe/1", "X: hunter4")
        await client.echoed(b"12345")
        status, body = await admin.ask("GET", "/v1/connections")
        found = json.loads(body)
        (one,) = found["connections"]
        assert (status, found["total"], found["ended"]) == (200, 1, [])
        host, port = client.raw.getsockname()
        assert one["duration_seconds"] >= 0
        one.pop("duration_seconds"), one.pop("connect_seconds", None)
        assert one == {
            "id": 1,
            "peer": f"{host}:{port}",
            "listener": "web",
            "route": "app",
            "backend": back.url,
            "path": "/a?token=***",
            "host": "localhost",
            "user_agent": "probe/1",
            "backend_address": f"127.0.0.1:{back.port}",
            "generation": 2,
            "state": "relaying",
            "bytes_to_backend": 5,
            "bytes_to_client": 5,
        }
        await client.close()
        await admin.served.quiet()
        found = await admin.json("GET", "/v1/connections")
        assert found["connections"] == []
        (ended,) = found["ended"]
        assert (ended["event"], ended["reason"], ended["initiator"]) == ("connection.closed", "client_closed", "client")
        assert (ended["id"], ended["path"], ended["bytes_to_client"]) == (1, "/a?token=***", 5)
        assert found["time"] >= ended["time"] > "2020-01-01T00:00:00.000Z"


async def test_round_trip_of_pings(tmp_path):
    """From a ping to its pong; absent before."""
    async with operated(tmp_path) as (admin, _):
        section = written(route={"backend": "tcp://127.0.0.1:1"}, timeouts={"ping_interval": "200ms"})
        server = admin.served.server
        text = json.loads(section)
        text["routes"]["app"]["backend"] = server.generation.routes["app"].backend.name
        await server.apply(config_of(json.dumps(text)))
        client = await admin.served.upgraded()
        assert "round_trip_seconds" not in (await listed(admin))[0]
        opcode, body = await client.frame()
        assert (opcode, body) == (9, b"")
        await client.send(frame(PONG, b""))
        with trio.fail_after(10):
            while "round_trip_seconds" not in (one := (await listed(admin))[0]):
                await trio.sleep(0.01)
        assert 0 <= one["round_trip_seconds"] < 5
        client.drop()


async def test_how_long_a_side_is_blocked(tmp_path):
    """A client that does not read: the time since bytes were accepted grows, until it reads."""

    async def pour(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(65536))

    async with operated(tmp_path, pour) as (admin, _):
        client = await admin.served.upgraded()
        first = await until(admin, state="relaying")
        while not first.get("blocked_to_client_seconds", 0) > 0.3:
            await client.send(frame(BINARY, b"x"))  # sending does not mean that it reads
            await trio.sleep(0.02)
            (first,) = await listed(admin)
        assert "blocked_to_backend_seconds" not in first
        while (await listed(admin))[0].get("blocked_to_client_seconds", 0) > 0.2:
            await client.more()
        client.reset()


async def test_filters_and_limit(tmp_path):
    """By route, identity and address or network; the newest of them; total counts all."""
    async with backend() as back, administered(tmp_path) as admin:
        path = tmp_path / "ws.sock"
        routes = {name: {"match": {"path": f"/{name}"}, "backend": back.url, "auth": "none"} for name in ("one", "two")}
        listeners = {"web": {"bind": "127.0.0.1:0"}, "local": {"bind": f"unix:{path}"}}
        await admin.served.server.apply(config_of(written(routes=routes, listeners=listeners)))
        port = int(admin.served.server.listeners[0].listening.addresses[0].rpartition(":")[2])
        clients = []
        for route in ("one", "one", "two"):
            clients.append(await Client.connect(port))
            await clients[-1].upgrade(f"/{route}")
        stream = await trio.open_unix_socket(str(path))
        clients.append(Client(stream, stream.socket))
        await clients[-1].upgrade("/two")
        for query, ids in {
            "": [1, 2, 3, 4],
            "?route=one": [1, 2],
            "?route=none": [],
            "?route=two&client=127.0.0.0/8": [3],
            "?client=127.0.0.1": [1, 2, 3],
            "?client=127.0.0.2": [],
            "?client=%3A%3A%2F0": [],
            "?client=unix": [4],
            "?identity=alice": [],
            "?limit=2": [3, 4],
            "?limit=0": [],
            "?limit=9": [1, 2, 3, 4],
        }.items():
            found = await admin.json("GET", f"/v1/connections{query}")
            assert [one["id"] for one in found["connections"]] == ids, query
            assert found["total"] == (4 if "limit" in query else len(ids)), query
        clients[0].reset()
        await admin.served.quiet(3)
        for query, count in {"?route=one": 1, "?route=two": 0, "?client=127.0.0.1": 1, "?client=unix": 0}.items():
            assert len((await admin.json("GET", f"/v1/connections{query}"))["ended"]) == count, query
        for client in clients[1:]:
            client.drop()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("rout=a", 'unknown parameter "rout"'),
        ("route=a&route=b", "only once"),
        ("route=", "route is empty"),
        ("route", "malformed"),
        ("route=%ff", "malformed"),
        ("client=10.0.0.0/33", "must be an address, a network"),
        ("client=example.org", "must be an address, a network"),
    ],
)
async def test_queries_that_are_not_valid(tmp_path, method, query, says):
    """400 with the cause, and nothing is ended."""
    async with administered(tmp_path) as admin:
        status, text = await admin.ask(method, f"/v1/connections?{query}")
        assert status == 400
        assert says in text


async def test_limit_is_a_number(tmp_path):
    """And only for a listing."""
    async with administered(tmp_path) as admin:
        for value in ("-1", "1.5", "x", "9" * 30, "%C2%B2"):
            assert (await admin.ask("GET", f"/v1/connections?limit={value}"))[0] == 400
        assert (await admin.ask("DELETE", "/v1/connections?limit=1"))[0] == 400


async def test_a_connection_is_ended_by_its_number(tmp_path):
    """Close 1001 to the client, a reset to the raw backend, and one line that names who did it."""
    async with operated(tmp_path) as (admin, back):
        client, other = await admin.served.upgraded(), await admin.served.upgraded()
        number = (await listed(admin))[0]["id"]
        assert await admin.ask("DELETE", f"/v1/connections/{number}") == (200, '{"closed": 1}\n')
        assert await admin.ask("DELETE", f"/v1/connections/{number}") == (404, "no open connection has this id\n")
        assert await admin.ask("DELETE", "/v1/connections?route=other") == (200, '{"closed": 0}\n')
        assert await client.closing() == (1001, "closed_by_operator")
        await client.send(frame(CLOSE, (1001).to_bytes(2, "big")))
        await back.until(lost=1)
        record = await admin.served.records.wait("connection.closed", reason="closed_by_operator")
        assert (record["initiator"], record["level"], record["id"]) == ("wsbridge", "info", number)
        assert record["detail"].startswith("through the admin API, by user ID ")
        path = f"/v1/connections/{number}"
        (line,) = admin.served.records.of("admin.request", method="DELETE", path=path, status=200)
        assert {"uid", "pid"} <= line.keys()
        for wrong in (number, 0, 999999, "x", "1.", "-1", "1/2", "%31", "9" * 40):
            assert (await admin.ask("DELETE", f"/v1/connections/{wrong}"))[0] == 404, wrong
        await other.echoed()
        await other.close()
        client.drop()


async def test_connections_are_ended_by_a_filter(tmp_path):
    """As many as match; without a filter none."""
    async with operated(tmp_path) as (admin, back):
        clients = [await admin.served.upgraded() for _ in range(3)]
        status, text = await admin.ask("DELETE", "/v1/connections")
        assert status == 400
        assert "route, identity, client" in text
        assert await admin.ask("DELETE", "/v1/connections?route=other") == (200, '{"closed": 0}\n')
        assert len(await listed(admin)) == 3
        assert await admin.ask("DELETE", "/v1/connections?route=app&client=127.0.0.0/8") == (200, '{"closed": 3}\n')
        for client in clients:
            assert await client.closing() == (1001, "closed_by_operator")
            client.drop()
        await back.until(lost=3)
        assert admin.served.records.of("admin.request", path="/v1/connections?route=app&client=127.0.0.0/8")


async def ended_as_rejected(admin: Admin, number: int) -> dict[str, Any]:
    """End a connection that is not relayed; give its line."""
    assert (await admin.ask("DELETE", f"/v1/connections/{number}"))[0] == 200
    record = await admin.served.records.wait("connection.rejected", id=number)
    assert (record["reason"], record["initiator"]) == ("closed_by_operator", "wsbridge")
    await admin.served.quiet()
    return record


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n"])
async def test_a_request_that_never_comes_is_ended(tmp_path, sent):
    """State handshake: the client is disconnected."""
    async with operated(tmp_path) as (admin, _):
        client = await admin.served.connect()
        await client.send(sent)
        number = (await until(admin, state="handshake"))["id"]
        await ended_as_rejected(admin, number)
        assert await client.everything() == b""
        client.drop()


async def test_a_tls_handshake_is_ended(tmp_path):
    """A client that connects and says nothing."""
    async with administered(tmp_path) as admin:
        await admin.served.server.apply(config_of(written(route={"respond": "204", "auth": "none"}, tls=True)))
        port = int(admin.served.server.listeners[0].listening.addresses[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            number = (await until(admin, state="handshake"))["id"]
            await ended_as_rejected(admin, number)


@pytest.mark.parametrize("when", ["before-upgrade", "after-upgrade"])
async def test_a_dial_is_ended(tmp_path, when):
    """The client that waits gets 503, or after its 101 close 1001; the dial is given up."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
    async with administered(tmp_path) as admin:
        await admin.served.server.apply(
            config_of(written(route={"backend": url, "dial": {"when": when}}, timeouts={"connect": "30s"}))
        )
        client = await admin.served.connect()
        await client.send(request())
        if when == "after-upgrade":
            assert (await client.head()).startswith("HTTP/1.1 101 ")
        number = (await until(admin, state="dialing"))["id"]
        assert (await admin.ask("DELETE", f"/v1/connections/{number}"))[0] == 200
        if when == "after-upgrade":
            assert await client.closing() == (1001, "closed_by_operator")
        else:
            head = await client.head()
            assert head.startswith("HTTP/1.1 503 ")
            assert "retry-after" not in head.lower()
        client.drop()
        record = await admin.served.records.wait("connection.rejected", id=number)
        assert (record["reason"], record["initiator"]) == ("closed_by_operator", "wsbridge")
    silent.close()


async def test_a_raw_client_whose_backend_is_dialed_is_reset(tmp_path):
    """Plain TCP: no FIN that would look like an end of data."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    async with administered(tmp_path) as admin:
        text = written(
            listeners={"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}},
            routes={"app": {"backend": f"ws://127.0.0.1:{silent.getsockname()[1]}", "auth": "none"}},
            timeouts={"connect": "30s"},
        )
        await admin.served.server.apply(config_of(text))
        port = int(admin.served.server.listeners[0].listening.addresses[0].rpartition(":")[2])
        client = await Client.connect(port)
        number = (await until(admin, state="dialing"))["id"]
        assert (await admin.ask("DELETE", f"/v1/connections/{number}"))[0] == 200
        with pytest.raises(trio.BrokenResourceError):
            await client.more()
        client.drop()
    silent.close()


async def test_a_download_is_ended(tmp_path):
    """A client that does not read a file: state responding, and it is cut off."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "large").write_bytes(bytes(20_000_000))
    async with administered(tmp_path) as admin:
        await admin.served.server.apply(
            config_of(written(route={"files": str(tmp_path / "web"), "auth": "none"}, timeouts={"write": "60s"}))
        )
        client = await admin.served.connect()
        await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        number = (await until(admin, state="responding"))["id"]
        await client.head()
        await ended_as_rejected(admin, number)
        assert len(await client.everything()) < 20_000_000
        client.drop()


async def test_a_request_is_ended_while_its_client_is_authenticated(tmp_path):
    """It gets the response of the ending, not what an authenticated client would get."""
    verified = trio.Event()

    async def approves_late(_: Service, __: str, stream: Stream) -> None:
        await verified.wait()
        await stream.send_all(answer(200))

    async with service(approves_late) as auth, administered(tmp_path) as admin:
        section = {"kind": "forward", "url": f"http://127.0.0.1:{auth.port}/"}
        await admin.served.server.apply(config_of(written(route={"respond": "204", "auth": section})))
        client = await admin.served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await auth.until(requests=1)
        number = (await until(admin, state="handshake"))["id"]
        assert (await admin.ask("DELETE", f"/v1/connections/{number}"))[0] == 200
        verified.set()
        assert (await client.everything()).startswith(b"HTTP/1.1 503 ")
        assert (await admin.served.records.wait("connection.rejected", id=number))["reason"] == "closed_by_operator"
        client.drop()


async def test_an_idle_persistent_connection_is_ended(tmp_path):
    """State idle, between two requests."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "empty").touch()
    async with administered(tmp_path) as admin:
        await admin.served.server.apply(config_of(written(route={"files": str(tmp_path / "web"), "auth": "none"})))
        client = await admin.served.connect()
        await client.send(b"GET /empty HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        number = (await until(admin, state="idle"))["id"]
        await ended_as_rejected(admin, number)
        assert await client.everything() == b""
        client.drop()


async def test_the_last_hundred_endings(tmp_path):
    """The latest first, those that were rejected too; not what sent nothing."""
    async with operated(tmp_path) as (admin, _):
        for _ in range(105):
            async with await trio.open_tcp_stream("127.0.0.1", admin.served.port()) as stream:
                await stream.send_all(b"nonsense\r\n\r\n")
                while await stream.receive_some():
                    pass
        (await admin.served.connect()).drop()
        await admin.served.quiet()
        ended = (await admin.json("GET", "/v1/connections"))["ended"]
        assert [one["id"] for one in ended] == list(range(105, 5, -1))
        assert {(one["event"], one["reason"], one["status"]) for one in ended} == {
            ("connection.rejected", "bad_request", 400)
        }


async def test_ten_thousand_connections_do_not_hold_up_the_loop(tmp_path):
    """A listing of them is built in turns, with other tasks between them."""
    async with operated(tmp_path) as (admin, _):
        client = await admin.served.upgraded()
        server = admin.served.server
        one = server.connections[1]
        server.connections.update(dict.fromkeys(range(2, 10_001), one))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.sleep(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            _, body = await admin.ask("GET", "/v1/connections")
            nursery.cancel_scope.cancel()
        assert len(json.loads(body)["connections"]) == 10_000
        assert turns > 15
        for number in range(2, 10_001):
            del server.connections[number]
        await client.close()


async def test_memory_of_the_registry():
    """All that the API reads of a connection is at most 1 KiB: its entry and its objects, most of them there anyway."""
    count = 3000
    async with serving(written(route={"respond": "204", "auth": "none"})) as served:
        server = served.server
        listener = server.listeners[0].listener
        with socket.socket() as sock:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(count):
                context = server.acceptor.new_context(listener, server.generation)
                server.connections[context.id] = Connection(
                    sock, context, listener, server.generation, server.services, server.listeners[0]
                )
            used = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            server.connections.clear()
        assert 0 < used / count <= 1024
