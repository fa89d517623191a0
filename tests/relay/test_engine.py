"""The engine: counts, and how a task waits for a relay."""

import socket

import pytest
import trio

from tests.contract.sides import SHORT, between, relayed, running
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import PythonEngine


async def test_it_says_what_it_is():
    """For the version, the ready line and a metric."""
    async with running(PythonEngine) as engine:
        assert engine.name == "python"


async def test_pairs_are_listed_while_they_live():
    """For drains and metrics."""
    async with running(PythonEngine) as engine, between(engine, "ws", "raw") as relay:
        assert engine.connection_ids == [relay.id]
        relay.scope.cancel()
        await relay.over.wait()
        assert engine.connection_ids == []
        assert not engine.terminate(relay.id, Reason.DRAINING)
        assert not engine.update_options(relay.id, SHORT)
        assert engine.figures(relay.id) is None
        assert engine.detach(relay.id, Reason.DRAINING) is None


async def test_a_pair_that_cannot_be_watched_is_closed():
    """A descriptor that epoll does not accept is a bug of the caller: it raises, and nothing stays open."""
    async with running(PythonEngine) as engine:
        ours, theirs = socket.socketpair()
        side = Side(SocketTransport(ours))
        other = Side(SocketTransport(ours))
        with pytest.raises(FileExistsError):
            await relayed(engine, 1, side, other, SHORT)
        assert ours.fileno() == -1
        assert engine.connection_ids == []
        theirs.close()


async def test_a_relay_in_a_cancelled_scope_closes_at_once():
    """Cancelled before it began."""
    async with running(PythonEngine) as engine:
        pairs = [socket.socketpair() for _ in range(2)]
        sides = [Side(SocketTransport(ours)) for ours, _ in pairs]
        for ours, _ in pairs:
            ours.setblocking(False)
        with trio.CancelScope() as scope:
            scope.cancel()
            await relayed(engine, 1, *sides, SHORT)
        assert scope.cancelled_caught
        assert [ours.fileno() for ours, _ in pairs] == [-1, -1]
        for _, theirs in pairs:
            theirs.close()


async def test_dismissing_opens_no_descriptor():
    """There is no other side, and none is made up."""
    async with running(PythonEngine) as engine:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        end = await engine.close_front(
            Side(SocketTransport(ours)), Termination(Reason.BACKEND_REFUSED, "backend", "nobody"), SHORT
        )
        assert end.close_code == 1014
        assert ours.fileno() == -1
        theirs.close()
