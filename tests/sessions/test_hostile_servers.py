"""Servers that break the rules of resumable sessions, and what TCP clients and the Python client make of it."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from tests.scripted_peer import OPENED, Peer, resumed, scripted_server
from tests.serving import serving
from tests.sessions.test_backend_sessions import near_side
from wsbridge.client import open_resumable
from wsbridge.protocol.reconnect import ReconnectSchedule
from wsbridge.sessions import backend_session


async def opens_and_drops(peer: Peer) -> None:
    """Open a session, and lose the transport."""
    await peer.next()
    await peer.send(OPENED)


async def resumes_and_drops(peer: Peer) -> None:
    """Resume the session, and lose the transport."""
    await peer.next()
    await peer.send(resumed())


async def test_resuming_and_dropping_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """It is dialed less and less often, as one that is down: not once a second."""
    async with (
        scripted_server(opens_and_drops, resumes_and_drops) as server,
        open_resumable(server.url, ping_interval=None, close_timeout=0),
    ):
        await trio.sleep(600)
        assert 20 < server.dials < 200


async def test_dropping_a_tcp_client_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do plain clients of a WebSocket backend; here with pauses of a hundredth."""
    monkeypatch.setattr(backend_session, "ReconnectSchedule", partial(ReconnectSchedule, lambda: 0.01))
    async with scripted_server(opens_and_drops, resumes_and_drops) as server, serving(near_side(server.url)) as near:
        with await near.connect("old"):
            await trio.sleep(0.5)
            assert 1 < server.dials < 12
