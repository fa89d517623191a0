"""Pairs that are about to be lent to the extension: they are lent together, and can be had back before."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from tests.contract.sides import relayed
from wsbridge.native import load
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason
from wsbridge.relay.endpoint import Side
from wsbridge.relay.relay import RelayOptions
from wsbridge.taskless import Runner

pytestmark = pytest.mark.skipif(load() is None, reason="needs the extension")


class Pairs:
    """Pairs of an engine, each between two sockets."""

    def __init__(self, engine, nursery):
        self.engine = engine
        self.runner = Runner()
        self.results = {}
        self._nursery = nursery
        self._sockets = []

    def begin(self, number):
        """Relay a pair; give what its client and its backend hold. Nothing else has run since it was added."""
        client, front = socket.socketpair()
        backend, back = socket.socketpair()
        for sock in (client, front, backend, back):
            sock.setblocking(False)
            self._sockets.append(sock)
        sides = Side(SocketTransport(front)), Side(SocketTransport(back))
        self.runner.start(self._relay(number, *sides), self._nursery)
        return client, backend

    async def _relay(self, number, front, back):
        self.results[number] = await relayed(self.engine, number, front, back, RelayOptions())

    def close(self):
        """Close all sockets."""
        for sock in self._sockets:
            sock.close()


@asynccontextmanager
async def pairs():
    """A running engine with one thread."""
    from wsbridge.native.engine import NativeEngine

    engine = NativeEngine(1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            found = Pairs(engine, nursery)
            nursery.start_soon(found.runner.run)
            await trio.testing.wait_all_tasks_blocked()
            yield found
            found.runner.cut_off()
            nursery.cancel_scope.cancel()
    found.close()
    found.runner.close()
    engine.close()


async def carried(client, backend, data):
    """Check that bytes arrive both ways."""
    for source, target in ((client, backend), (backend, client)):
        source.send(data)
        await trio.lowlevel.wait_readable(target)
        assert target.recv(100) == data


async def test_pairs_that_come_together_are_lent_by_one_call(monkeypatch):
    """As soon as what runs now has finished; a full batch at once."""
    from wsbridge.native import engine as native

    monkeypatch.setattr(native, "MAX_ARRIVALS", 3)
    async with pairs() as running:
        loop = running.engine.loop
        given = []
        lend = loop._lend
        loop._lend = lambda relays: (given.append(len(relays)), lend(relays))[1]
        ends = [running.begin(number) for number in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        assert sum(given) == 4
        assert max(given) <= 3
        assert not loop._arrivals
        for client, backend in ends:
            await carried(client, backend, b"hello")


@pytest.mark.parametrize("what", ["terminate", "detach"])
async def test_a_pair_that_is_not_lent_yet_can_be_ended(what):
    """And detached: whatever is asked of a pair, Python has it then."""
    async with pairs() as running:
        running.engine.loop._lend_arrivals = lambda: None
        client, backend = running.begin(7)
        assert running.engine.loop._arrivals
        if what == "terminate":
            assert running.engine.terminate(7, Reason.SHUTDOWN)
        else:
            assert running.engine.detach(7, Reason.SHUTDOWN) is not None
        assert not running.engine.loop._arrivals
        while 7 not in running.results:
            await trio.sleep(0.002)
        assert running.results[7].reason is Reason.SHUTDOWN
        assert running.engine.payload_bytes(7) is None
        client.close()
        backend.close()


async def test_pairs_that_the_extension_declines_are_relayed_by_python():
    """There may be no memory for them."""
    async with pairs() as running:

        class Declining:
            def add(self, given):
                return [-12] * len(given)

            def __getattr__(self, name):
                return getattr(lane, name)

        lane = running.engine.loop._lane
        running.engine.loop._lane = Declining()
        client, backend = running.begin(1)
        await carried(client, backend, b"hello")
        assert running.engine.payload_bytes(1) == (5, 5)
        running.engine.loop._lane = lane


async def test_bytes_of_a_pair_on_its_way_back_are_counted():
    """The extension tells of endings a little later; nothing is missing from the counters in that time."""
    async with pairs() as running:
        client, backend = running.begin(1)
        await carried(client, backend, b"hello")
        client.shutdown(socket.SHUT_WR)
        backend.close()
        seen = []
        while (count := running.engine.payload_bytes(1)) is not None:
            seen.append(count)
            await trio.sleep(0)
        assert set(seen) == {(5, 5)}
        assert (running.results[1].bytes_to_backend, running.results[1].bytes_to_client) == (5, 5)
