"""The frontend of listeners for raw TCP."""

import socket

import pytest

from wsbridge.frontend import RawExchange
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import Side


@pytest.fixture
def pair():
    """A connection over loopback: ours, and the peer's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as peer,
    ):
        ours, _ = listening.accept()
        ours.setblocking(False)
        with ours:
            yield ours, peer


async def test_a_refusal_is_a_reset(pair):
    """The client must not mistake it for an empty answer."""
    ours, peer = pair
    await RawExchange(SocketTransport(ours)).reject(Termination(Reason.OVERLOAD, "wsbridge"), 31, 1, 1.0)
    with pytest.raises(ConnectionResetError):
        peer.recv(1)


async def test_it_is_accepted_without_a_word(pair):
    """Nothing is heard and nothing is said; the endpoint has the transport."""
    ours, peer = pair
    wire = SocketTransport(ours)
    exchange = RawExchange(wire)
    assert exchange.request is None
    endpoint, response = exchange.prepare(None, "accept", 65536)
    assert response == b""
    await exchange.accept(response, 5)
    assert isinstance(endpoint, Side)
    assert endpoint.role == "raw"
    assert endpoint.transport is wire
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
