"""A caller: what is known of who asks."""

from __future__ import annotations

import socket

from wsbridge.auth.caller import Caller
from wsbridge.net.address import Peer


def test_a_raw_client_says_nothing_of_himself() -> None:
    """Where plain TCP is spoken there is an address and a route, and nothing else."""
    caller = Caller(Peer("203.0.113.7", 52044, socket.AF_INET), None, "app")
    assert (caller.request, caller.protocols, caller.tls) == (None, (), False)
