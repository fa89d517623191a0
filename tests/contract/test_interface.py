"""What the engine's interface must carry besides a plain relay: a lane, detached sides, another process."""

from __future__ import annotations

import os
import pickle
import socket

import pytest
import trio

from tests.contract.sides import CALM, between, end_of, relayed, secures, side, sockets, until
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason
from wsbridge.relay.endpoint import Side
from wsbridge.taskless import Wait


class Lent:
    """A pair of `LaneEngine`, which Python relays at last; see `Relaying`."""

    def __init__(self) -> None:
        self.ended = Wait()
        self.inner = None

    def result(self):
        """See `Relaying.result`."""
        return self.inner.result()


class LaneEngine:
    """A fake engine that carries calm raw pairs by itself, and has every other engine's rules for the rest.

    It reads and writes the descriptors; at the first thing that is not payload, or that the kernel does not accept, it
    gives the pair back as two sides.
    """

    def __init__(self, inner, nursery) -> None:
        self.inner = inner
        self.carried = 0
        self._nursery = nursery

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def start(self, connection_id, front, back, options, share=None):
        """See `Engine.start`."""
        lent = Lent()
        self._nursery.start_soon(self._run, lent, connection_id, front, back, options, share)
        return lent

    async def _run(self, lent, connection_id, front, back, options, share):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, front.transport.sock, back.transport.sock, nursery.cancel_scope)
            nursery.start_soon(self._carry, back.transport.sock, front.transport.sock, nursery.cancel_scope)
        lent.inner = self.inner.start(connection_id, front, back, options, share)
        await end_of(lent.inner)
        lent.ended.end()

    async def _carry(self, src, dst, scope):
        while True:
            await trio.lowlevel.wait_readable(src)
            data = src.recv(65536, socket.MSG_PEEK)
            if not data or b"!" in data:  # an end, or something that is not calm: nothing of it is taken
                scope.cancel()
                return
            sent = dst.send(data)
            self.carried += len(src.recv(sent))


async def test_a_lane_gives_a_pair_back_whole(engine):
    """Bytes before and after it come once and in order, and the end is by Python's rules."""
    async with trio.open_nursery() as nursery:
        lane = LaneEngine(engine, nursery)
        async with between(lane, "raw", "raw") as relay:
            for word in (b"one", b"two"):
                await relay.front.send(word)
                assert await relay.back.take(3) == word
            await relay.back.send(b"three")
            assert await relay.front.take(5) == b"three"
            await relay.front.send(b"!four")
            assert await relay.back.take(5) == b"!four"
            await relay.front.finish()
            await relay.back.finish()
            await relay.both()
            end = await relay.ended()

    assert lane.carried == 11
    assert (end.reason, end.initiator) == (Reason.CLIENT_CLOSED, "client")


@pytest.mark.parametrize(("front", "back"), [("ws", "raw"), ("raw", "ws"), ("ws", "ws")])
@secures
async def test_a_detached_side_goes_on_with_another_one(engine, front, back, over):
    """A backend whose client went away for a while: what it sent in between comes to the next client."""
    async with between(engine, front, back, over) as relay:
        await relay.front.send(b"hello")
        assert await relay.back.take(5) == b"hello"
        old, parked = relay.detach(Reason.CLIENT_LOST)
        assert engine.detach(relay.id, Reason.CLIENT_LOST) is None
        end = await relay.ended()
        assert (end.reason, end.detail, end.bytes_to_backend) == (Reason.CLIENT_LOST, "detached", 5)
        old.transport.abort()
        await relay.back.send(b"in between")

        again, client = await side(front, "tcp", "server")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relayed, engine, 4711, again, parked, CALM)
            assert await client.take(10) == b"in between"
            await client.send(b"later")
            assert await relay.back.take(5) == b"later"
            figures = engine.figures(4711)
            assert (figures.bytes_to_backend, figures.bytes_to_client) == (5, parked.state.received_bytes + 10)
            nursery.cancel_scope.cancel()
        client.transport.close()


async def test_a_pair_goes_on_in_another_process(engine):
    """In the middle of a frame, with bytes that nobody has read: descriptors and plain values are all it needs."""
    async with between(engine, "ws", "raw", buffer=4096) as relay:
        payload = os.urandom(200_000)
        sides = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.front.send, payload)
            await until(lambda: relay.back_is_blocked, "the backend being blocked")
            written = []
            ours, theirs = socket.socketpair()
            for one in relay.detach(Reason.DRAINING):
                if one.state.pending is not None:
                    one.state.pending = [bytes(part) for part in one.state.pending]
                written.append(pickle.dumps((one.role, one.leftover, one.state)))
                socket.send_fds(ours, [b"."], [one.transport.fd])
                one.transport.close()
            for values in written:
                _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
                role, leftover, state = pickle.loads(values)
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                sides.append(Side(SocketTransport(sock), role, leftover=leftover, state=state))
            for sock in (ours, theirs):
                sock.close()
            nursery.start_soon(relayed, engine, 4712, *sides, CALM)
            assert await relay.back.take(len(payload)) == payload
            nursery.cancel_scope.cancel()


async def test_only_a_calm_pair_is_detached(engine):
    """Once a side has ended, the rules for its ending belong to the engine."""
    async with between(engine, "raw", "raw") as relay:
        await relay.front.finish()
        await until(lambda: relay.ending is not None)
        assert engine.detach(relay.id, Reason.DRAINING) is None


async def test_figures_of_a_live_pair(engine):
    """A snapshot, while it is relayed."""
    async with between(engine, "ws", "raw") as relay:
        await relay.front.send(b"12345")
        assert await relay.back.take(5) == b"12345"
        figures = engine.figures(relay.id)
        assert (figures.bytes_to_backend, figures.bytes_to_client) == (5, 0)
        assert engine.connection_ids == [relay.id]


@secures
async def test_figures_of_a_pair_that_is_blocked(engine, over):
    """For how long a side has accepted nothing grows while its peer does not read, and is gone when it has read all."""
    async with between(engine, "ws", "raw", over, buffer=4096) as relay, trio.open_nursery() as nursery:
        payload = os.urandom(200_000)
        nursery.start_soon(relay.front.send, payload)
        await until(
            lambda: (engine.figures(relay.id).blocked_to_backend_seconds or 0) > 0.1, "the backend being blocked"
        )
        assert engine.figures(relay.id).blocked_to_client_seconds is None
        assert await relay.back.take(len(payload)) == payload
        await until(lambda: engine.figures(relay.id).blocked_to_backend_seconds is None, "the end of it")


async def test_figures_of_a_pair_that_is_pinged(engine):
    """The round trip of the last ping that was answered, of each WebSocket side."""
    async with between(engine, "ws", "ws", ping_interval=0.1) as relay, trio.open_nursery() as nursery:
        figures = engine.figures(relay.id)
        assert (figures.round_trip_seconds, figures.backend_round_trip_seconds, figures.ending) == (None, None, None)
        nursery.start_soon(relay.front.to_the_end)
        nursery.start_soon(relay.back.to_the_end)
        await until(lambda: engine.figures(relay.id).round_trip_seconds is not None, "a pong of the client")
        await until(lambda: engine.figures(relay.id).backend_round_trip_seconds is not None, "a pong of the backend")
        assert 0 <= engine.figures(relay.id).round_trip_seconds < 5
        relay.scope.cancel()


async def test_figures_of_a_pair_that_ends(engine):
    """Why, while one side goes on."""
    async with between(engine, "raw", "raw") as relay:
        await relay.front.finish()
        await until(lambda: engine.figures(relay.id).ending is Reason.CLIENT_CLOSED, "the half-close")


def test_values_of_a_fresh_side():
    """Plain bytes, unless something else is said."""
    ours, theirs = sockets("unix")
    fresh = Side(SocketTransport(ours))
    assert (fresh.role, fresh.leftover, fresh.state, fresh.messages) == ("raw", b"", None, "binary")
    for sock in (ours, theirs):
        sock.close()
