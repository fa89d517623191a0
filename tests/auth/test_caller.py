"""A caller: what is known of who asks."""

from __future__ import annotations

import socket

from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer


def test_a_raw_client_says_nothing_of_himself() -> None:
    """Where plain TCP is spoken there is an address and a route, and nothing else."""
    caller = ConnectionContext(peer=Peer("203.0.113.7", 52044, socket.AF_INET), route="app")
    assert (caller.request, caller.subprotocols, caller.tls) == (None, (), "")
