"""What is known of a connection: gathered only for backends that use it."""

from __future__ import annotations

import socket

import pytest

from tests.client import request
from tests.serving import backend, serving, written
from wsbridge import connection as module
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer


@pytest.mark.parametrize("wanted", [False, True])
async def test_it_is_made_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """Local addresses are read only for backends that get them; connection, listener and route are those of the log."""
    made: list[ConnectionContext] = []
    note = module.Connection._note_local_address

    def noted(self: module.Connection) -> None:
        note(self)
        made.append(self._context)

    monkeypatch.setattr(module.Connection, "_note_local_address", noted)
    async with backend() as back:
        destination = {"url": back.url, "proxy_protocol": "v1"} if wanted else back.url
        async with serving(written(route={"backend": destination})) as served:
            with await served.connect() as client:
                await client.send(request("/x"))
                assert (await client.head()).startswith("HTTP/1.1 101 ")
                await client.close()
            line = await served.records.wait("connection.closed")
            assert len(made) == wanted
            for one in made:
                assert (one.id, str(one.peer)) == (line["id"], line["peer"])
                assert (one.listener, one.route, one.tls) == ("web", "app", "")
                assert one.local_address is not None
                assert one.local_address.port == served.port()


def test_a_raw_client_has_no_request() -> None:
    """Where plain TCP is spoken there is an address and a route, and nothing else."""
    caller = ConnectionContext(peer=Peer("203.0.113.7", 52044, socket.AF_INET), route="app")
    assert (caller.request, caller.subprotocols, caller.tls) == (None, (), "")
