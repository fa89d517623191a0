"""The engine's call: what it counts, and how a task waits in it."""

import socket

import pytest
import trio

from tests.contract.sides import SHORT, between, running
from wsbridge.ledger import Ledger
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import End, Reason
from wsbridge.relay.endpoint import RawEndpoint
from wsbridge.relay.engine import PythonEngine
from wsbridge.relay.terms import Terms


async def test_it_says_what_it_is():
    """For the version, the ready line and a metric; and it carries any pair."""
    async with running(PythonEngine) as engine:
        assert engine.name == "python"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            side = RawEndpoint(SocketWire(ours))
            assert engine.supports(side, side, Terms()) is None


async def test_pairs_are_listed_while_they_live():
    """For drains and metrics."""
    async with running(PythonEngine) as engine, between(engine, "ws", "raw") as relay:
        assert engine.pairs == [relay.pair]
        assert relay.ledger.active == 1
        relay.scope.cancel()
        await relay.over.wait()
        assert engine.pairs == []
        assert relay.ledger.active == 0


async def test_a_pair_that_cannot_be_watched_is_closed():
    """A descriptor that epoll does not take is a bug of the caller: it raises, and nothing stays open."""
    async with running(PythonEngine) as engine:
        ours, theirs = socket.socketpair()
        side = RawEndpoint(SocketWire(ours))
        other = RawEndpoint(SocketWire(ours))
        with pytest.raises(FileExistsError):
            await engine.relay(side, other, SHORT, Ledger())
        assert ours.fileno() == -1
        assert engine.pairs == []
        theirs.close()


async def test_a_relay_in_a_cancelled_scope_closes_at_once():
    """Cancelled before it began."""
    async with running(PythonEngine) as engine:
        pairs = [socket.socketpair() for _ in range(2)]
        sides = [RawEndpoint(SocketWire(ours)) for ours, _ in pairs]
        for ours, _ in pairs:
            ours.setblocking(False)
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.relay(*sides, SHORT, Ledger())
        assert scope.cancelled_caught
        assert [ours.fileno() for ours, _ in pairs] == [-1, -1]
        for _, theirs in pairs:
            theirs.close()


async def test_ending_a_pair_that_has_ended_is_no_error():
    """A drain may come a moment late."""
    async with running(PythonEngine) as engine, between(engine, "raw", "raw", terms=SHORT) as relay:
        pair = relay.pair
        relay.scope.cancel()
        await relay.over.wait()
        engine.end(pair, Reason.DRAIN)


async def test_dismissing_opens_no_descriptor():
    """There is no other side, and none is made up."""
    async with running(PythonEngine) as engine:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        end = await engine.dismiss(RawEndpoint(SocketWire(ours)), End(Reason.BACKEND_REFUSED, "back", "nobody"), SHORT)
        assert end.code == 1014
        assert ours.fileno() == -1
        theirs.close()
