"""One connection: what the failure of each step becomes, and that no resource leaks."""

import contextlib
import errno
import gc
import os
import re
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.authority import folder
from tests.client import BINARY, CLOSE, Client, frame, request
from tests.clients.program import free_port
from tests.serving import accept_upgrade, backend, config_of, echo, recording, reset, serving, written
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import REASONS, Reason
from wsbridge.server import Server
from wsbridge.taskless import need_task


@pytest.mark.parametrize("tls", [False, True])
async def test_bytes_go_both_ways_and_one_line_tells_it(tls):
    """A client upgrades, its bytes come back from the backend, and its close is logged with both counts."""
    async with backend() as back, serving(written(route={"backend": back.url}, tls=tls)) as served:
        client = await served.upgraded("/chat", tls=tls)
        await client.echoed(b"x" * 70_000)
        await client.close(1000)
        line = await served.records.wait("connection.closed")
        assert line["reason"] == "client_closed"
        assert line["initiator"] == "client"
        assert (line["bytes_to_backend"], line["bytes_to_client"]) == (70_000, 70_000)
        assert line["listener"] == "web"
        assert line["route"] == "app"
        assert line["path"] == "/chat"
        assert line["backend_address"] == f"127.0.0.1:{back.port}"
        assert line["close_code"] == 1000
        assert line["peer"].startswith("127.0.0.1:")


async def test_a_relay_keeps_only_the_headers_that_are_logged():
    """Credentials of the request are not kept in memory for as long as the connection lasts."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded("/", "Cookie: session=secret", "User-Agent: test/1")
        await client.echoed()

        kept = [headers for headers in gc.get_objects() if isinstance(headers, Headers) and b"user-agent" in headers]
        assert [set(headers.names()) for headers in kept] == [{b"host", b"user-agent"}]
        await client.close(1000)
        line = await served.records.wait("connection.closed")
        assert line["user_agent"] == "test/1"


async def test_raw_listener_to_raw_backend():
    """A listener that speaks tcp relays without anything being heard."""
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
    async with backend() as back:
        text = written(listeners=listeners, routes={"app": {"backend": back.url, "auth": "none"}})
        async with serving(text) as served:
            with await served.connect("old") as client:
                await client.send(b"hello")
                assert await client.take(5) == b"hello"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_a_raw_client_sent_before_it_closed_reaches_a_backend_that_takes_time(kind, tmp_path):
    """A program that sends an event and closes at once need not wait for the WebSocket handshake behind wsbridge."""
    dialed, closed, received = trio.Event(), trio.Event(), bytearray()

    async def late(stream):
        dialed.set()
        await closed.wait()
        await accept_upgrade(stream)
        while data := await stream.receive_some(65536):
            received.extend(data)

    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/s"
    listeners = {"old": {"bind": bind, "protocol": "tcp", "route": "app"}}
    async with backend(late) as back:
        route = {"backend": f"ws://127.0.0.1:{back.port}/"}
        async with serving(written(listeners=listeners, route=route, timeouts={"close": "50ms"})) as served:
            if kind == "tcp":
                client = await trio.open_tcp_stream("127.0.0.1", served.port("old"))
            else:
                client = await trio.open_unix_socket(tmp_path / "s")
            await client.send_all(b"event\n")
            await dialed.wait()
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked(0.02)
            closed.set()
            line = await served.records.wait("connection.closed")
            await back.until(open=0)
            assert line["bytes_to_backend"] == 6
            mask, payload = received[2:6], received[6:12]
            assert bytes(a ^ b for a, b in zip(payload, mask * 2, strict=False)) == b"event\n"


async def test_two_bridges_face_to_face():
    """Tcp to wss to tcp: the two directions of bridging carry a connection together."""
    async with backend() as back, serving(written(route={"backend": back.url}, tls=True)) as far:
        listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "far"}}
        url = {"url": f"wss://localhost:{far.port()}/x", "ca": str(folder() / "ca.pem")}
        text = written(listeners=listeners, routes={"far": {"backend": url, "auth": "none"}})
        async with serving(text) as near:
            with await near.connect("old") as client:
                await client.send(b"y" * 200_000)
                assert await client.take(200_000) == b"y" * 200_000


async def test_first_bytes_glued_to_the_request_reach_the_backend():
    """Frames that come in one segment with the request are not lost."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        with await served.connect() as client:
            await client.send(request() + frame(BINARY, b"early"))
            assert (await client.head()).startswith("HTTP/1.1 101")
            assert await client.payload(5) == b"early"


async def test_banner_before_anything_is_sent():
    """What a backend says at once reaches the client right after the 101."""

    async def banner(stream):
        await stream.send_all(b"SSH-2.0-x\r\n")
        await echo(stream)

    async with backend(banner) as back, serving(written(route={"backend": back.url})) as served:
        with await served.upgraded() as client:
            assert await client.payload(11) == b"SSH-2.0-x\r\n"


async def test_a_refusing_backend_is_502():
    """Nobody listens there: 502 with the reason's name, and the connection closes."""
    async with serving(written(route={"backend": f"tcp://127.0.0.1:{free_port()}"})) as served:
        with await served.connect() as client:
            await client.send(request())
            answer = (await client.everything()).decode()
        assert answer.startswith("HTTP/1.1 502 ")
        assert "Connection: close" in answer
        line = await served.records.wait("connection.rejected")
        assert f"\r\n\r\nbackend_refused: {REASONS[Reason.BACKEND_REFUSED].advice} (id={line['id']})\n" in answer
        assert (line["reason"], line["status"]) == ("backend_refused", 502)
        assert served.server.services.route_stats("app").rejected == 1


async def test_a_hanging_backend_is_504():
    """A WebSocket backend that never answers the upgrade: 504 after `connect`, and its socket is closed."""
    async with backend(echo_nothing) as back:
        url = f"ws://127.0.0.1:{back.port}/"
        async with serving(written(route={"backend": url}, timeouts={"connect": "200ms"})) as served:
            with await served.connect() as client:
                await client.send(request())
                assert (await client.everything()).startswith(b"HTTP/1.1 504 ")
            await back.until(open=0)


async def test_a_backend_that_is_not_up_yet_is_waited_for():
    """With `retry_for` a client that came too early is served as soon as the backend listens; the log says it waits."""
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        route = {"backend": f"tcp://127.0.0.1:{late.getsockname()[1]}", "dial": {"retry_for": "1m"}}
        async with serving(written(route=route)) as served:
            with await served.connect() as client:
                await client.send(request())
                line = await served.records.wait("backend.retry")
                assert (line["route"], line["reason"]) == ("app", "backend_refused")
                late.listen()
                assert (await client.head()).startswith("HTTP/1.1 101")


async def test_the_steps_of_a_dial_are_logged_at_debug():
    """Name lookup with its addresses, attempts, and the upgrade: each with its result and its duration."""

    async def not_found(stream):
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with (
        backend(not_found) as back,
        serving(written(route={"backend": f"ws://localhost:{back.port}/"})) as served,
    ):
        with await served.connect() as client:
            await client.send(request())
            assert (await client.everything()).startswith(b"HTTP/1.1 404 ")
        line = await served.records.wait("backend.dialed")
    lookup, connect, upgrade = line["steps"]
    assert re.fullmatch(rf"looking up localhost: .*127\.0\.0\.1:{back.port}.* \([0-9.]+ s\)", lookup)
    assert re.fullmatch(rf"connecting to localhost:{back.port}.* \([0-9.]+ s\)", connect)
    assert re.fullmatch(r"response of .* to the upgrade request: .*404.* \([0-9.]+ s\)", upgrade)
    assert (line["route"], line["level"]) == ("app", "debug")


async def echo_nothing(stream):
    """Read and say nothing."""
    while await stream.receive_some(65536):
        pass


@pytest.mark.parametrize(
    ("hang", "code", "reason"), [(False, 1014, "backend_refused"), (True, 1014, "backend_timeout")]
)
async def test_dial_after_upgrade_tells_failures_by_close_code(hang, code, reason):
    """With `dial: after-upgrade` the 101 comes first and the failure is a close code that a page can see."""
    async with backend(echo_nothing) as back:
        url = f"ws://127.0.0.1:{back.port}/" if hang else f"tcp://127.0.0.1:{free_port()}"
        route = {"backend": url, "dial": {"when": "after-upgrade"}, "subprotocols": ["binary"]}
        async with serving(written(route=route, timeouts={"connect": "200ms"})) as served:
            client = await served.upgraded("/", "Sec-WebSocket-Protocol: binary")
            assert await client.closing() == (code, reason)
            await client.send(frame(CLOSE, code.to_bytes(2, "big")))
            assert not await client.everything()
            client.drop()
            line = await served.records.wait("connection.rejected")
            assert (line["reason"], line["close_code"], line["subprotocol"]) == (reason, code, "binary")


async def test_dial_after_upgrade_tells_a_websocket_backend_what_the_client_got():
    """The client has its subprotocol before the dial, so the backend is offered that one alone."""
    heads = []

    async def answer(stream):
        heads.append(await stream.receive_some(65536))

    async with backend(answer) as back:
        route = {
            "backend": f"ws://127.0.0.1:{back.port}/",
            "dial": {"when": "after-upgrade"},
            "subprotocols": ["a", "b"],
        }
        async with serving(written(route=route)) as served:
            with await served.connect() as client:
                await client.send(request("/", "Sec-WebSocket-Protocol: b, a"))
                assert "Sec-WebSocket-Protocol: a" in await client.head()
                await client.closing()
    assert b"Sec-WebSocket-Protocol: a\r\n" in heads[0]


async def test_no_descriptor_for_the_dial_is_overload(monkeypatch):
    """A dial that meets EMFILE is answered 503 with Retry-After; after an upgrade it is 1013."""

    class Full(socket.socket):
        def __init__(self, *_args, **_options):
            raise OSError(errno.EMFILE, "Too many open files")

    plain = {"backend": "tcp://127.0.0.1:9", "auth": "none", "match": {"path": "/first"}}
    late = {**plain, "dial": {"when": "after-upgrade"}, "match": {"path": "/late"}}
    async with serving(written(routes={"first": plain, "late": late})) as served:
        early, later = await served.connect(), await served.connect()
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Full)
            await early.send(request("/first"))
            answer = (await early.everything()).decode()
            await later.send(request("/late"))
            await later.head()
            assert await later.closing() == (1013, "overload")
        assert answer.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 1\r\n" in answer
        early.drop()
        later.drop()
        assert {line["reason"] for line in [await served.records.ended(2), await served.records.ended(1)]} == {
            "overload"
        }


@pytest.mark.parametrize("speaks", ["websocket", "tcp"])
async def test_a_bug_ends_its_connection_alone(monkeypatch, speaks):
    """An exception in a step is logged once as a bug and gets a 500 or a reset; another connection goes on."""
    listeners = {"web": {"bind": "127.0.0.1:0"}, "old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
    async with backend() as back:
        text = written(listeners=listeners, routes={"app": {"match": "any", "backend": back.url, "auth": "none"}})
        async with serving(text) as served:
            other = await served.upgraded()
            with monkeypatch.context() as patch:
                patch.setattr("wsbridge.connection.Connection._proxy", lambda *_: 1 / 0)
                with await served.connect("web" if speaks == "websocket" else "old") as client:
                    if speaks == "websocket":
                        await client.send(request())
                    answer = await client.everything()
                    assert answer.startswith(b"HTTP/1.1 500 ") if speaks == "websocket" else answer == b""
                    line = await served.records.wait("connection.rejected")
            assert line["reason"] == "internal_error"
            (bug,) = served.records.of("internal_error")
            assert bug["component"] == "connection"
            served.records.all.remove(bug)
            await other.echoed()
            other.drop()


async def test_a_bug_after_the_dial_closes_the_backend(monkeypatch):
    """An exception between the dial and the relay resets the backend at once, and not when memory is collected."""
    transports = []
    real = SocketTransport.__init__

    def note(self, *args):
        real(self, *args)
        transports.append(self)

    async with backend(echo_nothing) as back, serving(written(route={"backend": back.url})) as served:
        monkeypatch.setattr(SocketTransport, "__init__", note)
        monkeypatch.setattr("wsbridge.access_log.AccessLog.log_established", lambda *_: 1 / 0)
        with await served.connect() as client:
            await client.send(request())
            await served.records.wait("connection.rejected", reason="internal_error")
            await back.until(dials=1, open=0)
        assert transports
        served.records.all.remove(*served.records.of("internal_error"))


async def test_cancelling_leaves_no_descriptor():
    """A server that is cancelled outright closes every socket, in whatever step its connection is."""

    def open_now():
        gc.collect()
        return {entry.name for entry in Path("/proc/self/fd").iterdir()}

    for tls in (False, True):
        async with backend(echo_nothing) as back:
            before = open_now()
            with trio.CancelScope() as scope:
                async with serving(
                    written(
                        routes={
                            "raw": {"match": {"path": "/raw"}, "backend": back.url, "auth": "none"},
                            "ws": {"match": {"path": "/ws"}, "backend": f"ws://127.0.0.1:{back.port}/", "auth": "none"},
                        },
                        tls=tls,
                    )
                ) as served:
                    relayed = await served.upgraded("/raw", tls=tls)
                    hearing = await served.connect(tls=tls)
                    dialling = await served.connect(tls=tls)
                    await dialling.send(request("/ws"))
                    await back.until(dials=2)
                    scope.cancel()
            assert scope.cancelled_caught
            for client in (relayed, hearing, dialling):
                assert await client.everything() == b"" or client is relayed
                client.drop()
            await back.until(open=0)
            assert open_now() == before


async def test_stop_while_dialling_answers_503():
    """An ending that begins during the dial refuses the request instead of starting a relay."""
    release = trio.Event()

    async def slow(stream):
        await release.wait()
        await accept_upgrade(stream)
        await echo(stream)

    async with backend(slow) as back, serving(written(route={"backend": f"ws://127.0.0.1:{back.port}/"})) as served:
        with await served.connect() as client:
            await client.send(request())
            await back.until(dials=1)
            served.server.stop(Reason.DRAINING)
            release.set()
            answer = (await client.everything()).decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 1" in answer
        await back.until(open=0)


async def test_a_reset_backend_is_distinguished_from_a_closed_one():
    """A backend that resets ends with 1011, one that closes with 1000."""

    async def rude(stream):
        await stream.receive_some(1)
        reset(stream)

    async def polite(stream):
        await stream.receive_some(1)
        await stream.send_all(b"bye")

    for handler, code, reason in ((rude, 1011, "backend_reset"), (polite, 1000, "backend_closed")):
        async with backend(handler) as back, serving(written(route={"backend": back.url})) as served:
            client = await served.upgraded()
            await client.send(frame(BINARY, b"1"))
            assert await client.closing() == (code, reason)
            await client.send(frame(CLOSE, code.to_bytes(2, "big")))
            assert not await client.everything()
            client.drop()
            assert (await served.records.wait("connection.closed"))["reason"] == reason


async def test_a_page_may_fetch_several_files_and_then_upgrade(tmp_path):
    """Answers of a files route keep the connection open; an upgrade may be its last request."""
    (tmp_path / "a.txt").write_text("one")
    async with backend() as back:
        routes = {
            "page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"},
            "app": {"match": {"path": "/ws"}, "backend": back.url, "auth": "none"},
        }
        async with serving(written(routes=routes)) as served:
            client = await served.connect()
            await client.send(b"GET /a.txt HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            for _ in range(2):
                assert "Content-Length: 3" in await client.head()
                assert await client.take(3) == b"one"
            await client.upgrade("/ws")
            await client.echoed()
            await client.close()
            assert len(served.records.of("http.request", path="/a.txt")) == 2
            assert (await served.records.ended())["path"] == "/ws"


async def test_a_client_that_takes_no_file_is_cut_after_write(tmp_path):
    """A big answer that nobody reads ends as write_stalled within `write`."""
    (tmp_path / "big").write_bytes(bytes(30_000_000))
    routes = {"page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}}
    async with serving(written(routes=routes, timeouts={"write": "300ms"})) as served:
        with await served.connect() as client:
            await client.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            line = await served.records.wait("connection.rejected")
            assert line["reason"] == "write_stalled"


async def test_a_file_that_fails_while_it_is_sent_is_no_fault_of_the_client(tmp_path):
    """The connection is dropped, since the length was sent; the line says why."""
    file = tmp_path / "big"
    file.write_bytes(bytes(30_000_000))
    routes = {"page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}}
    async with serving(written(routes=routes)) as served:
        with await served.connect() as client:
            await client.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert "200" in await client.head()
            os.truncate(file, 1000)
            with contextlib.suppress(trio.BrokenResourceError):
                await client.everything()
            line = await served.records.wait("http.request")
            assert line["status"] == 200
            assert line["detail"].startswith("the response was cut off: the file became ")


async def test_pipelined_requests_leave_others_their_turn(tmp_path):
    """A client with thousands of requests in flight does not keep another waiting."""
    (tmp_path / "health").write_text("")
    routes = {
        "other": {"match": {"path": "/other"}, "respond": "200", "auth": "none"},
        "page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"},
    }
    async with serving(written(routes=routes)) as served:
        greedy, modest = await served.connect(), await served.connect()

        async def read_all():
            await greedy.everything()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all)
            await greedy.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
            await modest.send(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert "200" in await modest.head()
            assert len(served.records.of("http.request", path="/health")) < 3000
            nursery.cancel_scope.cancel()
        greedy.drop()
        modest.drop()


async def test_tls_that_is_cut_off_is_called_truncated():
    """An end without close_notify is a lost client, and the line says what was missing."""
    async with backend() as back, serving(written(route={"backend": back.url}, tls=True)) as served:
        client = await served.upgraded(tls=True)
        await client.echoed()
        client.drop()
        line = await served.records.wait("connection.closed")
        assert (line["reason"], line["detail"]) == (
            "client_lost",
            "truncated: the connection ended without close_notify",
        )


async def test_a_client_that_does_not_read_its_101_is_closed(monkeypatch):
    """Within `handshake`; its backend is closed with it."""
    monkeypatch.setattr("wsbridge.net.transport.SocketTransport.write", lambda _, parts: parts)
    async with backend() as back:
        text = written(route={"backend": back.url}, timeouts={"handshake": "200ms"}, engine="python")
        async with serving(text) as served:
            with await served.connect() as client:
                await client.send(request())
                assert await client.everything() == b""
            line = await served.records.wait("connection.rejected")
            assert (line["reason"], line["route"]) == ("handshake_timeout", "app")
            assert line["detail"] == "did not read the 101 within handshake, 0.2 s"
            await back.until(dials=1, open=0)


@pytest.mark.parametrize("bug", [False, True])
async def test_a_connection_that_is_cancelled_inside_a_nursery_has_its_line(monkeypatch, bug, tmp_path):
    """In the log and in the audit; a bug beside it is logged and ends nothing else."""
    waiting = trio.Event()

    async def select(*_):
        await need_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            waiting.set()
            try:
                await trio.sleep_forever()
            finally:
                if bug:
                    raise ValueError("a bug")

    audit = tmp_path / "audit"
    text = written(route={"backend": "tcp://127.0.0.1:9"}, audit={"file": str(audit)})
    with recording() as records:
        server = Server(config_of(text))
        ports = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                monkeypatch.setattr("wsbridge.connection.Connection._dial", select)
                ready = trio.Event()

                def opened(listening):
                    ports.append(int(listening[0].addresses[0].rpartition(":")[2]))
                    ready.set()

                nursery.start_soon(server.run, opened)
                await ready.wait()
                with await Client.connect(ports[0], tls=False) as client:
                    await client.send(request())
                    await waiting.wait()
                    scope.cancel()
        assert scope.cancelled_caught
    (line,) = records.of("connection.rejected")
    assert line["reason"] == "shutdown"
    assert len(records.of("internal_error")) == bug
    assert '"access.denied"' in audit.read_text()
