"""Pairs whose backend the extension connects: what comes of them, and that nothing is sent where it fails."""

from __future__ import annotations

import resource
import socket
import struct
from pathlib import Path

import pytest
import trio

from tests.contract.conftest import ENGINES
from tests.contract.sides import CALM, bridged, exchange, running, side, until
from tests.serving import backend, open_files, serving, written
from wsbridge import native
from wsbridge.net.address import LocalAddress
from wsbridge.reasons import Reason

if native.load() is None:
    pytest.skip("the native engine is not installed: there is no cargo", allow_module_level=True)

from wsbridge.native import engine as native_engine
from wsbridge.native.engine import NativeEngine

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
OWN_OF_EACH_RUN = ("peer", "duration_seconds", "connect_seconds", "backend", "backend_address", "host")
"""Keys of a log line whose values no two runs have in common."""
RST = struct.pack("ii", 1, 0)


def one_thread() -> NativeEngine:
    """An engine with one thread, which carries all pairs."""
    return NativeEngine(1)


def tcp(port: int) -> LocalAddress:
    """A port of 127.0.0.1."""
    return LocalAddress(socket.AF_INET, ("127.0.0.1", port), f"127.0.0.1:{port}")


async def attempt(engine, address, front, *, may_begin=lambda: True, options=CALM):
    """Have a backend connected, and wait until that has worked out or not."""
    bridging = engine.bridge(1, front, RESPONSE, address, options, may_begin)
    await bridging.begun
    return bridging


@pytest.fixture
async def listener():
    """A backend that accepts nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(params=["refused", "full", "gone", "too long", "no socket", "descriptors", "not any more"])
def unreachable(request, listener, tmp_path: Path):
    """Where no backend can be connected."""
    what = request.param
    if what == "refused":
        listener.close()
        return LocalAddress(socket.AF_INET, ("127.0.0.1", 9), "")
    if what in ("descriptors", "not any more"):
        return tcp(listener.getsockname()[1])
    if what == "full":
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            return tcp(listener.getsockname()[1])
    (tmp_path / "file").touch()
    path = {"gone": "gone", "too long": "x" * 120, "no socket": "file"}[what]
    return LocalAddress(socket.AF_UNIX, str(tmp_path / path), "")


async def test_nothing_is_sent_where_the_backend_is_not_connected(unreachable, request):
    """The front is as it was, with what was read of it, so that Python can go on."""
    what = request.node.callspec.params["unreachable"]
    front, peer = await side("ws", "tcp", "server")
    front.transport.unread(b"early")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(one_thread) as engine:
        if what == "descriptors":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            bridging = await attempt(engine, unreachable, front, may_begin=lambda: what != "not any more")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not bridging.is_relayed
        assert bridging.connect_seconds is None
        assert engine.figures(1) is None
        assert engine.connection_ids == []
    assert (front.transport.read_state, front.transport.unread_bytes) == (None, b"early")
    front.transport.close()
    assert await peer.transport.receive() == "fin"
    peer.transport.close()


async def test_a_client_that_has_gone_gets_no_response(listener):
    """Its transport shows why; the backend sees an end."""
    front, peer = await side("ws", "tcp", "server")
    peer.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    peer.transport.close()
    async with running(one_thread) as engine:
        bridging = await attempt(engine, tcp(listener.getsockname()[1]), front)
        assert not bridging.is_relayed
        assert bridging.connect_seconds is not None
        assert (front.transport.read_state, front.transport.error) == ("reset", "Connection reset by peer")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b""
    front.transport.close()


async def test_a_client_that_accepts_nothing_gets_no_response(listener):
    """Its kernel buffers are full: Python waits for it."""
    front, peer = await side("ws", "tcp", "server", buffer=4096)
    while front.transport.write([bytes(4096)]) is None:
        pass
    sent = front.transport.sent_bytes
    async with running(one_thread) as engine:
        bridging = await attempt(engine, tcp(listener.getsockname()[1]), front)
        assert not bridging.is_relayed
    assert (front.transport.read_state, front.transport.sent_bytes) == (None, sent)
    front.transport.close()
    peer.transport.close()


class Unwatching:
    """The extension where the kernel watches no more descriptors."""

    def __init__(self, lane):
        self._lane = lane

    def __getattr__(self, name):
        return getattr(self._lane, name)

    def bridge(self, orders):
        """Give all pairs back at once."""
        results = self._lane.bridge(orders)
        return [
            (-1, 0, one[2], self._lane.recall(one[0], order[0])) for order, one in zip(orders, results, strict=True)
        ]


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("watched", [True, False])
async def test_the_response_comes_first_and_early_bytes_are_passed_on(over, watched, tmp_path):
    """What the backend says at once comes behind it; also where no thread can watch the pair."""
    path = str(tmp_path / "socket")
    front, peer = await side("raw", "tcp", "server")
    front.transport.unread(b"early ")
    with socket.create_server(("127.0.0.1", 0)) if over == "tcp" else socket.socket(socket.AF_UNIX) as listening:
        if over == "unix":
            listening.bind(path)
            listening.listen()
        address = tcp(listening.getsockname()[1]) if over == "tcp" else LocalAddress(socket.AF_UNIX, path, path)
        async with running(one_thread) as engine:
            if not watched:
                engine.bridges._lane = Unwatching(engine.bridges._lane)
            await peer.send(b"bytes")
            bridging = await attempt(engine, address, front)
            assert bridging.is_relayed
            sock, _ = listening.accept()
            with sock:
                sock.send(b"banner")
                sock.settimeout(5)
                found = b""
                while len(found) < len(b"early bytes"):
                    found += await trio.to_thread.run_sync(sock.recv, 100)
                assert found == b"early bytes"
                assert await peer.take(len(RESPONSE) + 6) == RESPONSE + b"banner"
                assert engine.payload_bytes(1) == (11, 6)
            bridging.abort()
            assert bridging.result().engine == "native"
    peer.transport.close()


async def test_a_pair_needs_no_relay(listener):
    """From the first byte to the end; what the log says of it is known all the same."""
    async with running(one_thread) as engine, bridged(engine, "ws") as relay:
        await exchange(relay.front, relay.back, b"hello")
        await exchange(relay.back, relay.front, b"hi")
        assert engine.payload_bytes(relay.id) == (5, 2)
        figures = engine.figures(relay.id)
        assert (figures.bytes_to_backend, figures.bytes_to_client, figures.engine) == (5, 2, "native")
        assert engine.connection_ids == [relay.id]
        assert relay.pair is None
        await relay.front.finish()
        await relay.back.finish()
        await relay.both()
        end = await relay.ended()
        assert (end.reason, end.bytes_to_backend, end.bytes_to_client) == (Reason.CLIENT_CLOSED, 5, 2)
        assert engine.figures(relay.id) is None


@pytest.mark.parametrize("limit", ["idle", "max_lifetime", "ping_timeout"])
async def test_time_limits_hold_for_a_pair_without_a_relay(limit):
    """Silence counts from when it began, wherever it is."""
    changes = {"ping_interval": 0.05, "ping_timeout": 0.1} if limit == "ping_timeout" else {limit: 0.1}
    async with running(one_thread) as engine, bridged(engine, "ws", **changes, close=0.2, lingering=0.2) as relay:
        if limit != "ping_timeout":
            await relay.both()
        end = await relay.ended()
        expected = {
            "idle": Reason.IDLE_TIMEOUT,
            "max_lifetime": Reason.MAX_LIFETIME,
            "ping_timeout": Reason.CLIENT_LOST,
        }
        assert end.reason is expected[limit]


@pytest.mark.parametrize("what", ["terminate", "detach", "abort", "panic"])
async def test_whatever_is_asked_of_a_pair_python_has_it_then(what, monkeypatch):
    """Nothing is lost on the way."""
    monkeypatch.setattr(native_engine.log, "error", lambda *_, **__: None)
    async with running(one_thread) as engine, bridged(engine, "ws") as relay:
        await exchange(relay.front, relay.back, b"hello")
        if what == "terminate":
            assert engine.terminate(relay.id, Reason.DRAINING)
            front, back = await relay.both()
            assert front.close == (1012, "draining")
            assert (await relay.ended()).reason is Reason.DRAINING
        elif what == "detach":
            front, back = relay.detach(Reason.CLIENT_LOST)
            assert front.state.received_bytes == 5
            assert (await relay.ended()).reason is Reason.CLIENT_LOST
            front.transport.close()
            back.transport.close()
        elif what == "abort":
            relay.scope.cancel()
            assert (await relay.back.to_the_end()).ending == "reset"
        else:
            engine.loop.fail()
            assert (await relay.ended()).reason is Reason.INTERNAL_ERROR


async def dissolved(relay) -> None:
    """Wait until Python has nothing of a pair any more."""
    await until(lambda: relay.pair is None and relay.engine.figures(relay.id).engine == "native", "it is lent again")


@pytest.mark.parametrize("what", ["client", "backend", "terminate", "detach", "abort", "panic"])
async def test_a_pair_that_came_back_needs_no_relay_again(what, monkeypatch):
    """As often as it comes back; its bytes count on, and its descriptors are closed once, whatever ends it."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    monkeypatch.setattr(native_engine.log, "error", lambda *_, **__: None)
    before = open_files()
    async with running(one_thread) as engine, bridged(engine, "ws", lingering=0.1) as relay:
        for _ in range(3):
            await exchange(relay.front, relay.back, b"hello")
            relay.take_back()
            assert relay.pair is not None
            await exchange(relay.back, relay.front, b"hi")
            await dissolved(relay)
        assert engine.payload_bytes(relay.id) == (15, 6)
        figures = engine.figures(relay.id)
        assert (figures.bytes_to_backend, figures.bytes_to_client) == (15, 6)
        await exchange(relay.front, relay.back, b"hello")
        reason = {"client": Reason.CLIENT_CLOSED, "backend": Reason.BACKEND_CLOSED, "panic": Reason.INTERNAL_ERROR}
        if what in ("client", "backend"):
            await (relay.front if what == "client" else relay.back).finish()
            await (relay.back if what == "client" else relay.front).to_the_end()
            await (relay.back if what == "client" else relay.front).finish()
        elif what == "terminate":
            engine.terminate(relay.id, Reason.DRAINING)
            await relay.both()
        elif what == "detach":
            for side_ in relay.detach(Reason.DRAINING):
                side_.transport.close()
        elif what == "abort":
            relay.scope.cancel()
        else:
            engine.loop.fail()
        if what == "abort":
            await relay.over.wait()
            assert (await relay.back.to_the_end()).ending == "reset"
        else:
            end = await relay.ended()
            assert end.reason is reason.get(what, Reason.DRAINING)
            assert (end.bytes_to_backend, end.bytes_to_client, end.engine) == (20, 6, "native")
        assert engine.payload_bytes(relay.id) is None
    assert open_files() == before


async def test_a_pair_is_pinged_from_both_places(monkeypatch):
    """Each ping has Python look at it for a moment; the round trip is known afterwards, too."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    async with (
        running(one_thread) as engine,
        bridged(engine, "ws", ping_interval=0.1, ping_timeout=5) as relay,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(relay.front.to_the_end)
        for _ in range(2):
            await until(lambda: relay.pair is not None, "it is pinged")
            await dissolved(relay)
            assert 0 <= engine.figures(relay.id).round_trip_seconds < 5
        nursery.cancel_scope.cancel()


async def test_a_pair_that_came_back_and_is_declined_stays(monkeypatch):
    """With its descriptors, which nobody closes."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    declined = []

    class Declining:
        def add(self, given):
            declined.append(given)
            results = lane.add([(tag, ends, (-1, *front[1:]), back, owns) for tag, ends, front, back, owns in given])
            assert results == [-9]
            return results

        def __getattr__(self, name):
            return getattr(lane, name)

    async with running(one_thread) as engine, bridged(engine, "ws") as relay:
        lane = engine.loop._lane
        await exchange(relay.front, relay.back, b"hello")
        relay.take_back()
        engine.loop._lane = Declining()
        await until(lambda: len(declined) > 1)
        await exchange(relay.front, relay.back, b"hello")
        await exchange(relay.back, relay.front, b"hi")
        engine.loop._lane = lane
        await dissolved(relay)
        await exchange(relay.back, relay.front, b"hi")


async def test_a_pair_that_is_not_connected_yet_can_be_given_up(listener):
    """Nothing has happened then."""
    front, peer = await side("ws", "tcp", "server")
    async with running(one_thread) as engine:
        bridging = engine.bridge(1, front, RESPONSE, tcp(listener.getsockname()[1]), CALM, lambda: True)
        assert not engine.terminate(1, Reason.DRAINING)
        bridging.abort()
        bridging.result()
        await trio.testing.wait_all_tasks_blocked()
        assert not bridging.is_relayed
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    front.transport.close()
    peer.transport.close()


async def test_a_bug_of_the_extension_leaves_the_clients_to_python(listener, monkeypatch):
    """It is logged."""
    logged = []
    monkeypatch.setattr(native_engine.log, "exception", lambda event, **values: logged.append((event, values)))
    front, peer = await side("ws", "tcp", "server")
    front.max_frame_bytes = "many"
    async with running(one_thread) as engine:
        assert not (await attempt(engine, tcp(listener.getsockname()[1]), front)).is_relayed
    assert logged == [("internal_error", {"component": "engine"})]
    front.transport.close()
    peer.transport.close()


async def test_a_bug_while_one_order_is_built_concerns_that_pair_alone(listener, monkeypatch):
    """It is logged, and left to Python; those that came with it are bridged."""
    logged = []
    monkeypatch.setattr(native_engine.log, "exception", lambda event, **values: logged.append((event, values)))
    fronts = [await side("ws", "tcp", "server") for _ in range(3)]
    good = tcp(listener.getsockname()[1])
    broken = LocalAddress(socket.AF_INET, (None, 1), "")

    def fail() -> bool:
        raise ValueError

    async with running(one_thread) as engine:
        bridgings = [
            engine.bridge(number, front, RESPONSE, address, CALM, may_begin)
            for number, ((front, _), address, may_begin) in enumerate(
                zip(fronts, (broken, good, good), (lambda: True, lambda: True, fail), strict=True)
            )
        ]
        with trio.fail_after(10):
            for bridging in bridgings:
                await bridging.begun
        assert [bridging.is_relayed for bridging in bridgings] == [False, True, False]
        bridgings[1].abort()
        bridgings[1].result()
    assert logged == [("internal_error", {"component": "engine"})] * 2
    for front, peer in fronts:
        front.transport.close()
        peer.transport.close()


async def test_both_engines_log_the_same():
    """Of a connection that is relayed, of one whose backend refuses it, and in the counters."""
    lines = []
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
    for make in ENGINES:
        async with backend() as back:
            routes = {
                "no": {"match": {"path": "/no"}, "backend": refused, "auth": "none", "allowed_origins": "any"},
                "app": {"match": "any", "backend": back.url, "auth": "none", "allowed_origins": "any"},
            }
            async with serving(written(routes=routes, engine=make.name)) as served:
                client = await served.upgraded()
                await client.echoed()
                await client.close()
                closed_line = await served.records.wait("connection.closed")
                with await served.connect() as client:
                    await client.send(
                        b"GET /no HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                    )
                    assert "502" in await client.head()
                rejected_line = await served.records.wait("connection.rejected")
                assert closed_line.pop("engine") == make.name
                for line in (closed_line, rejected_line):
                    assert "connect_seconds" in line
                    for key in OWN_OF_EACH_RUN:
                        line[key] = "" if key in line else None
                lines.append((list(closed_line.items()), list(rejected_line.items())))
    assert lines[0] == lines[1]


async def test_a_connection_that_is_ended_before_it_is_connected_gets_its_status(monkeypatch):
    """And its backend is not dialed."""
    async with backend() as back, serving(written(route={"backend": back.url}, engine="native")) as served:
        engine = served.server.services.engine
        begin = engine.bridges.begin

        def end_first():
            for connection in list(served.server.connections.values()):
                assert connection.end(Reason.CLOSED_BY_OPERATOR, "as asked")
            begin()

        monkeypatch.setattr(engine.bridges, "begin", end_first)
        with await served.connect() as client:
            await client.send(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await client.everything()
        line = await served.records.wait("connection.rejected")
        assert line["reason"] == "closed_by_operator"
        await until(lambda: back.dials == 0)
