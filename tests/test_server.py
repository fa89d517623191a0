"""The server: listeners, termination of connections, and that no resource leaks."""

import resource
import socket
import threading
from collections import Counter

import pytest
import trio

from tests.client import CLOSE, frame, request
from tests.serving import backend, config_of, open_files, recording, serving, written
from wsbridge import server as server_module
from wsbridge.accept import RESERVED_DESCRIPTORS, connection_limit
from wsbridge.engine_choice import EngineChoice
from wsbridge.net.listeners import ListenError
from wsbridge.reasons import Reason
from wsbridge.server import NotServingError, Server


def test_the_limit_of_connections():
    """As written; else half of the descriptors less a reserve, and never none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    python = EngineChoice("python")
    assert connection_limit(config_of(written(limits={"connections": "7"}, route={"respond": "204"})), python) == 7
    auto = config_of(written(route={"respond": "204"}))
    assert connection_limit(auto, python) == (soft - RESERVED_DESCRIPTORS) // 2
    resumable = config_of(written(route={"backend": "tcp://127.0.0.1:1", "resume": {}}))
    assert (
        connection_limit(resumable, python)
        == (soft - RESERVED_DESCRIPTORS - min(1000, (soft - RESERVED_DESCRIPTORS) // 4)) // 2
    )
    assert connection_limit(auto, EngineChoice("native", 64)) == (soft - RESERVED_DESCRIPTORS - 128) // 2
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        assert connection_limit(auto, python) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_listeners_are_reported_and_closed():
    """Each address is logged when it opens and each listener when it closes."""
    listeners = {"one": {"bind": "127.0.0.1:0"}, "two": {"bind": "localhost:0"}}
    async with serving(written(listeners=listeners, route={"respond": "204", "auth": "none"})) as served:
        opened = served.records.of("listener.opened")
        assert {line["listener"] for line in opened} == {"one", "two"}
        port = served.port("two")
        assert any(line["listen_address"].endswith(f":{port}") for line in opened)
        served.server.stop(Reason.SHUTDOWN)
        await served.returned.wait()
        assert [line["listener"] for line in served.records.of("listener.closed")] == ["one", "two"]
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_address_in_use_leaves_nothing_open():
    """If one listener cannot be had, those before it are closed again."""
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = taken.socket.getsockname()[1]
    listeners = {"one": {"bind": "127.0.0.1:0"}, "two": {"bind": f"127.0.0.1:{port}"}}
    before = open_files()
    with recording():
        server = Server(config_of(written(listeners=listeners, route={"respond": "204"})))
        with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match="already in use"), flatten_subgroups=True):
            await server.run()
    assert open_files() == before
    await taken.aclose()


async def test_drain_waits_then_spreads():
    """A drain leaves connections alone until drain less spread, then ends them one by one with 1012."""
    timeouts = {"drain": "1600ms", "drain_spread": "900ms"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        clients = [await served.upgraded() for _ in range(3)]
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        ends = []

        async def watch(client):
            assert await client.closing() == (1012, "draining")
            ends.append(trio.current_time() - began)
            await client.send(frame(CLOSE, b"\x03\xf4"))
            await client.everything()
            client.drop()

        await clients[0].echoed()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(watch, client)
        await served.returned.wait()
        assert ends[0] > 0.65
        assert 0.1 < ends[-1] - ends[0] < 5
        assert [line["reason"] for line in served.records.endings] == ["draining"] * 3


def test_a_server_that_has_not_started_does_not_drain():
    """It would otherwise start as one that is never ready."""
    with recording():
        server = Server(config_of(written(route={"respond": "204"})))
        with pytest.raises(NotServingError, match="starting"):
            server.drain()
        assert not server.is_draining
        server.services.close()


async def test_drain_ends_early_when_all_have_gone():
    """Nothing is waited for once the last connection has ended by itself."""
    timeouts = {"drain": "20s", "drain_spread": "5s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        client = await served.upgraded()
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        await client.close()
        await served.returned.wait()
        assert trio.current_time() - began < 10


async def test_spread_ends_early_when_all_have_gone():
    """The slow closing of many stops waiting for those that went by themselves."""
    timeouts = {"drain": "30s", "drain_spread": "30s", "close": "1s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        clients = [await served.upgraded() for _ in range(3)]
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        for client in clients:
            client.drop()
        await served.returned.wait()
        assert trio.current_time() - began < 9


async def test_spread_does_not_wait_for_one_that_goes_in_the_meantime():
    """Whichever is next to be closed."""
    timeouts = {"drain": "30s", "drain_spread": "30s", "close": "1s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        clients = [await served.upgraded() for _ in range(3)]
        served.server.stop(Reason.DRAINING)
        await clients[0].everything()
        began = trio.current_time()
        for client in clients:
            client.drop()
        await served.returned.wait()
        assert trio.current_time() - began < 9


async def test_new_clients_get_503_until_the_last_old_one_has_gone():
    """A new client gets 503 with Retry-After, however many there are; and the end does not wait for them."""
    timeouts = {"drain": "20s", "drain_spread": "5s", "handshake": "20s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        held = await served.upgraded()
        served.server.stop(Reason.DRAINING)
        new, silent = await served.connect(), await served.connect()
        await new.send(request())
        answer = await new.everything()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in answer
        await held.close()
        began = trio.current_time()
        await served.returned.wait()
        assert trio.current_time() - began < 10
        assert await silent.everything() == b""
        with pytest.raises(OSError, match="connect"):
            await served.connect()
        for client in (new, silent):
            client.drop()


async def test_clients_are_served_for_drain_delay():
    """A load balancer that has not noticed yet is served as before; afterwards it gets 503."""
    timeouts = {"drain_delay": "1500ms", "drain": "20s", "drain_spread": "5s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        assert served.server.is_ready
        held = await served.upgraded()
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        assert not served.server.is_ready
        client = await served.upgraded()
        await client.echoed()
        while served.server.services.shutdown_reason is None:
            await trio.sleep(0.01)
        assert trio.current_time() - began >= 1.4
        late = await served.connect()
        await late.send(request())
        assert (await late.everything()).startswith(b"HTTP/1.1 503 ")
        late.drop()
        for one in (held, client):
            await one.echoed()
            await one.close()
        await served.returned.wait()


async def test_a_stop_ends_the_drain_delay():
    """The second signal waits for nothing."""
    async with serving(written(route={"respond": "204"}, timeouts={"drain_delay": "1m"})) as served:
        served.server.stop(Reason.DRAINING)
        await trio.testing.wait_all_tasks_blocked()
        served.server.stop(Reason.SHUTDOWN)
        with trio.fail_after(10):
            await served.returned.wait()


@pytest.mark.parametrize("delay", ["0s", "200ms"])
async def test_drain_and_undrain(delay):
    """A drained server relays what it relays and rejects the rest with 503, until it is undrained."""
    timeouts = {"drain_delay": delay}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        held = await served.upgraded()
        served.server.drain()
        served.server.drain()
        assert not served.server.is_ready
        with trio.fail_after(10):
            while served.server.services.shutdown_reason is None:
                await trio.sleep(0.01)
        client = await served.connect()
        await client.send(request())
        assert (await client.everything()).startswith(b"HTTP/1.1 503 ")
        client.drop()
        await held.echoed()
        served.server.undrain()
        assert served.server.is_ready
        again = await served.upgraded()
        await again.echoed()
        for one in (held, again):
            await one.close()
        served.server.drain()
        served.server.undrain()
        await trio.sleep(0.3)
        assert served.server.services.shutdown_reason is None


async def test_released_listeners_leave_the_backlog_and_reject_nobody():
    """What was accepted before is served to its end, what comes later waits for the other owner of the socket."""
    timeouts = {"drain": "20s", "drain_spread": "5s", "handshake": "20s", "drain_delay": "10s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        server = served.server
        with server.listeners[0].listening.sockets[0].dup() as copy:
            slow = await served.connect()
            while not server.connections:
                await trio.sleep(0.01)
            await server.release_listeners(list(server.listeners))
            assert not server.listeners
            server.stop(Reason.DRAINING)
            new = await served.connect()
            await slow.upgrade("/")
            await slow.echoed()
            await slow.close()
            await served.returned.wait()
            accepted, _ = copy.accept()
            accepted.close()
            new.drop()
        assert [line["reason"] for line in served.records.endings] == ["client_closed"]


async def test_a_request_during_the_drain_is_503():
    """A request on a connection accepted before the drain is rejected; an idle connection is closed at the deadline."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url}, timeouts={"handshake": "20s", "drain": "2s"})) as served,
    ):
        early, idle = await served.connect(), await served.connect()
        held = await served.upgraded()
        while len(served.server.connections) < 3:
            await trio.sleep(0.002)
        began = trio.current_time()
        served.server.stop(Reason.DRAINING)
        await early.send(request())
        assert (await early.everything()).startswith(b"HTTP/1.1 503 ")
        assert await idle.everything() == b""
        assert 1.6 < trio.current_time() - began < 10
        assert back.dials == 1
        for client in (early, idle, held):
            client.drop()


async def test_stop_is_at_once_and_does_not_wait_for_idle_clients():
    """A stop says 1001, answers a half heard request with 503, closes idle clients, and is over within `close`."""
    text = {"handshake": "60s", "close": "30s", "lingering": "30s", "drain": "60s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=text)) as served:
        relayed, idle, half = await served.upgraded(), await served.connect(), await served.connect()
        await half.send(b"GET / HTTP/1.1\r\n")
        while not served.server.services.request_read_scopes or not served.server.services.runner.waiting:
            await trio.sleep(0.002)
        await trio.sleep(0.02)
        began = trio.current_time()
        served.server.stop(Reason.SHUTDOWN)
        assert await relayed.closing() == (1001, "shutdown")
        await relayed.send(frame(CLOSE, b"\x03\xe9"))
        assert await idle.everything() == b""
        assert (await half.everything()).startswith(b"HTTP/1.1 503 ")
        for client in (relayed, idle, half):
            client.drop()
        await served.returned.wait()
        assert trio.current_time() - began < 10
        assert not served.server.services.request_read_scopes
        assert not served.server.services.runner.waiting


async def test_a_stop_ends_connections_in_turns(monkeypatch):
    """Thousands of them hold up nobody else; all are ended all the same."""
    monkeypatch.setattr(server_module, "MAX_ENDED_PER_TURN", 4)
    async with (
        backend() as back,
        serving(written(route={"backend": back.url})) as served,
        trio.open_nursery() as nursery,
    ):
        clients = [await served.upgraded() for _ in range(21)]
        engine, turn, turns = served.server.services.engine, 0, []
        terminate = engine.terminate

        async def count() -> None:
            nonlocal turn
            while True:
                turn += 1
                await trio.lowlevel.checkpoint()

        def recording(*arguments):
            turns.append(turn)
            return terminate(*arguments)

        monkeypatch.setattr(engine, "terminate", recording)
        nursery.start_soon(count)
        served.server.stop(Reason.SHUTDOWN)
        for client in clients:
            assert await client.closing() == (1001, "shutdown")
            client.drop()
        await served.returned.wait()
        nursery.cancel_scope.cancel()
    assert len(turns) == 21
    assert max(Counter(turns).values()) <= 3 * 4  # some turns of the loop may pass between two of the counter


async def test_a_stop_during_a_drain_hurries():
    """The second word ends the patience of the first."""
    timeouts = {"drain": "30s", "drain_spread": "10s", "close": "1s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        client = await served.upgraded()
        served.server.stop(Reason.DRAINING)
        await client.echoed()
        served.server.stop(Reason.SHUTDOWN)
        served.server.stop(Reason.DRAINING)
        assert served.server.services.shutdown_reason is Reason.SHUTDOWN
        assert await client.closing() == (1001, "shutdown")
        client.drop()
        with trio.fail_after(10):
            await served.returned.wait()


async def test_a_deaf_peer_does_not_outlive_close():
    """A peer that never answers the close frame is cut when `close` is over."""
    timeouts = {"close": "400ms", "lingering": "60s"}
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        client = await served.upgraded()
        began = trio.current_time()
        served.server.stop(Reason.SHUTDOWN)
        await served.returned.wait()
        assert 0.2 < trio.current_time() - began < 9
        client.drop()


async def test_once_ends_with_its_connection():
    """`once` accepts until a connection is relayed, and returns when that has ended; a refused one does not count."""
    async with backend() as back, serving(written(route={"backend": back.url}), once=True) as served:
        with await served.connect() as refused:
            await refused.send(request("/", "Origin: null"))
            assert "403" in await refused.head()
        client = await served.upgraded()
        await served.records.wait("listener.closed")
        await client.echoed()
        await client.close()
        with trio.fail_after(10):
            await served.returned.wait()


async def test_route_statistics_outlive_connections():
    """What a route carried is in its statistics, by reason."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        for _ in range(2):
            client = await served.upgraded()
            await client.echoed(b"12345")
            assert served.server.services.route_stats("app").active == 1
            await client.close()
            await served.quiet()
        stats = served.server.services.route_stats("app")
        assert (stats.active, stats.relayed, stats.bytes_to_backend, stats.bytes_to_client) == (0, 2, 10, 10)
        assert stats.closed == {("client_closed", "client"): 2}


async def test_nothing_is_left_open():
    """A server that has run leaves no descriptor behind."""
    async with backend() as back:
        before = open_files()
        async with serving(written(route={"backend": back.url}, tls=True)) as served:
            client = await served.upgraded(tls=True)
            await client.echoed()
            client.drop()
        await back.until(open=0)
        assert open_files() == before


async def test_something_beside_may_run_and_ends_with_the_server():
    """The task beside is given the server and is cancelled at the end."""
    seen = []

    async def beside(server):
        seen.append(server)
        await trio.sleep_forever()

    with recording():
        server = Server(config_of(written(route={"respond": "204"})))
        with trio.fail_after(9):
            await server.run(lambda _: server.stop(Reason.SHUTDOWN), beside)
    assert seen == [server]


async def test_a_stop_does_not_wait_for_a_look_up_of_the_start(monkeypatch):
    """A DNS server that never answers for the name of a listener does not outlive a signal."""
    asked, release = trio.Event(), threading.Event()

    def hang(*_, **__):
        trio.from_thread.run_sync(asked.set)
        release.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = open_files()
    listeners = {"one": {"bind": "127.0.0.1:0"}, "two": {"bind": "gw.internal:8080"}}
    ready = []
    with recording(), trio.fail_after(9):
        server = Server(config_of(written(listeners=listeners, route={"respond": "204", "auth": "none"})))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, ready.append)
            await asked.wait()
            server.stop(Reason.DRAINING)
    release.set()
    assert not ready
    assert open_files() == before
