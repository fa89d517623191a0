"""A server at passed sockets: drain, reload, and the watchdog that looks at its listeners."""

import os
import socket

import pytest
import trio

from tests.client import request
from tests.process.plain import backend
from tests.serving import config_of, serving, written
from wsbridge.net.listeners import ListenError
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.reasons import Reason
from wsbridge.watchdog import AcceptCheck, feed_watchdog

ANSWER = {"respond": "204", "auth": "none"}
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
WEB = {"web": {"bind": "fd:web", "host_names": "localhost"}}


@pytest.fixture
def passed():
    """A socket that stays open, as the service manager's does."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def copies(sock):
    """Pass a socket."""
    return PassedSockets({"web": [os.dup(sock.fileno())]})


def waiting(sock):
    """Connect a client that has sent a request; nobody needs to accept it."""
    client = socket.create_connection(sock.getsockname(), timeout=5)
    client.sendall(GET)
    return client


async def test_a_drain_leaves_new_clients_in_the_backlog(passed):
    """A drain stops accepting at once; who had connected is still served, and the next server gets the rest."""
    listeners = {**WEB, "own": {"bind": "127.0.0.1:0"}}
    text = written(listeners=listeners, route=ANSWER, timeouts={"drain": "5s", "drain_spread": "100ms"})
    async with serving(text, passed_sockets=copies(passed)) as served:
        early = await served.connect()
        await early.send(GET.partition(b"\r\n")[0])
        own = await served.connect("own")
        while len(served.server.connections) < 2:
            await trio.sleep(0.01)
        served.server.stop(Reason.DRAINING)
        late = waiting(passed)
        await trio.sleep(0.1)
        await early.send(b"\r\n" + GET.partition(b"\r\n")[2])
        assert (await early.head()).startswith("HTTP/1.1 204")
        await own.send(GET)
        assert (await own.head()).startswith("HTTP/1.1 503")
        early.drop()
        own.drop()
        with trio.fail_after(9):
            await served.returned.wait()
        assert not served.server.connections
    async with serving(written(listeners=WEB, route=ANSWER), passed_sockets=copies(passed)):
        assert (await trio.to_thread.run_sync(late.recv, 12)) == b"HTTP/1.1 204"
        late.close()


async def test_a_drain_ends_what_it_has_accepted(passed):
    """Requests that are incomplete at the end of the drain get 503 at passed sockets, too."""
    timeouts = {"drain": "400ms", "drain_spread": "100ms"}
    text = written(listeners=WEB, route=ANSWER, timeouts=timeouts)
    async with serving(text, passed_sockets=copies(passed)) as served:
        early = await served.connect()
        await early.send(GET.partition(b"\r\n")[0])
        await served.quiet(1)
        while not served.server.connections:
            await trio.sleep(0.01)
        served.server.stop(Reason.DRAINING)
        assert (await early.head()).startswith("HTTP/1.1 503")
        early.drop()
        await served.returned.wait()


async def test_a_drain_ends_persistent_connections(passed, tmp_path):
    """A request that has begun to arrive is answered, and the response closes its persistent connection."""
    (tmp_path / "a.txt").write_text("a")
    route = {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}
    async with serving(written(listeners=WEB, routes={"page": route}), passed_sockets=copies(passed)) as served:
        client = await served.connect()
        persistent = GET.replace(b" / ", b" /a.txt ").replace(b"Connection: close\r\n", b"")
        await client.send(persistent)
        head = await client.head()
        assert head.startswith("HTTP/1.1 200")
        assert "Connection: close" not in head
        assert await client.take(1) == b"a"
        while not served.server.services.idle_scopes:
            await trio.sleep(0.01)
        await client.send(persistent[:10])
        while served.server.services.idle_scopes:
            await trio.sleep(0.01)
        served.server.stop(Reason.DRAINING)
        await client.send(persistent[10:])
        head = await client.head()
        assert head.startswith("HTTP/1.1 200")
        assert "Connection: close" in head
        assert await client.take(1) == b"a"
        client.drop()
        with trio.fail_after(9):
            await served.returned.wait()


@pytest.mark.parametrize("listeners", [WEB, {"web": {"bind": "127.0.0.1:0"}}], ids=["passed", "own"])
async def test_a_drain_closes_idle_connections_at_once(passed, tmp_path, listeners):
    """A persistent connection between two requests is closed when a drain begins; one without a request is not idle."""
    (tmp_path / "a.txt").write_text("a")
    route = {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}
    text = written(listeners=listeners, routes={"page": route}, timeouts={"handshake": "20s", "drain": "20s"})
    async with serving(text, passed_sockets=copies(passed)) as served:
        idle, late = await served.connect(), await served.connect()
        await idle.send(GET.replace(b" / ", b" /a.txt ").replace(b"Connection: close\r\n", b""))
        assert (await idle.head()).startswith("HTTP/1.1 200")
        assert await idle.take(1) == b"a"
        while len(served.server.connections) < 2 or not served.server.services.idle_scopes:
            await trio.sleep(0.01)
        served.server.stop(Reason.DRAINING)
        with trio.fail_after(9):
            assert await idle.everything() == b""
            await late.send(GET.replace(b" / ", b" /a.txt "))
            assert (await late.head()).startswith("HTTP/1.1 200" if listeners is WEB else "HTTP/1.1 503")
            late.drop()
            idle.drop()
            await served.returned.wait()


async def test_a_stop_at_once_leaves_the_backlog(passed):
    """SIGINT and a second signal accept nothing more either."""
    async with serving(written(listeners=WEB, route=ANSWER), passed_sockets=copies(passed)) as served:
        served.server.stop(Reason.SHUTDOWN)
        late = waiting(passed)
        await served.returned.wait()
    accepted, _ = passed.accept()
    accepted.close()
    late.close()


async def test_a_stop_while_the_sockets_are_handed_over(passed):
    """A signal may arrive in the middle of a takeover, which releases the same sockets."""
    for reason in (Reason.DRAINING, Reason.SHUTDOWN):
        async with serving(written(listeners=WEB, route=ANSWER), passed_sockets=copies(passed)) as served:
            server = served.server
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.release_listeners, list(server.listeners))
                await trio.lowlevel.checkpoint()
                server.stop(reason)
                await served.returned.wait()
            assert len(served.records.of("listener.closed")) == 1


async def test_drain_without_a_stop_rejects(passed):
    """`wsbridge drain` does not end the process: clients get 503 instead of waiting."""
    text = written(listeners=WEB, route=ANSWER, timeouts={"drain_delay": "0s"})
    async with serving(text, passed_sockets=copies(passed)) as served:
        served.server.drain()
        await trio.sleep(0.05)
        client = await served.connect()
        await client.send(GET)
        assert (await client.head()).startswith("HTTP/1.1 503")
        client.drop()
        await served.quiet()


async def test_a_reload_keeps_removes_and_adds_passed_sockets(passed):
    """A passed socket stays open over a reload, whatever it is called; one that was removed can be used again."""
    renamed = {"http": WEB["web"]}
    own = {"own": {"bind": "127.0.0.1:0"}}
    async with serving(written(listeners=WEB, route=ANSWER), passed_sockets=copies(passed)) as served:
        server = served.server
        before = server.listeners[0]
        await server.apply(config_of(written(listeners=renamed, route=ANSWER)))
        assert server.listeners == [before]
        assert before.listener.name == "http"
        await server.apply(config_of(written(listeners=own, route=ANSWER)))
        late = waiting(passed)
        with pytest.raises(ListenError, match="no socket of this name was passed at the start, but fd:web"):
            await server.apply(config_of(written(listeners={"x": {"bind": "fd:other"}}, route=ANSWER)))
        await server.apply(config_of(written(listeners={**own, **WEB}, route=ANSWER)))
        assert (await trio.to_thread.run_sync(late.recv, 12)) == b"HTTP/1.1 204"
        late.close()
        assert len(served.records.of("listener.opened", listener="web")) == 2


async def test_any_host_is_accepted_at_a_passed_unix_socket(tmp_path):
    """No page in a browser can connect there, so that its Host is not checked."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock, backend() as back:
        sock.bind(path)
        sock.listen()
        text = written(listeners={"web": {"bind": "fd:web"}}, route={"backend": back.url, "auth": "none"})
        async with serving(text, passed_sockets=copies(sock)):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(path)
                client.sendall(request(host="gw.example"))
                assert (await trio.to_thread.run_sync(client.recv, 12)) == b"HTTP/1.1 101"


async def test_the_watchdog_sees_a_listener_that_does_not_accept():
    """A client that waits for two checks has a dead listener; one that is accepted has not."""
    async with serving(written(route=ANSWER)) as served:
        (opened,) = served.server.listeners
        (task,) = opened.accepting
        check = AcceptCheck(served.server)
        assert check.stalled() == []
        client = await served.connect()
        assert check.stalled() == []
        await opened.stop_accepting()
        assert check.stalled() == ["web"]
        opened.accepting.append(task)  # one that hangs
        with waiting(opened.listening.sockets[0]):
            assert check.stalled() == []
            assert check.stalled() == ["web"]
            fed = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed_watchdog, served.server, lambda: fed.append(1), 0.1)
                await served.records.wait("accept.stalled", listener="web")
                await trio.sleep(0.3)
                nursery.cancel_scope.cancel()
            assert len(fed) == 1  # the first check of a client
        client.drop()
        served.server.stop(Reason.SHUTDOWN)
        assert check.stalled() == []
