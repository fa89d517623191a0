"""Arrival: what a connection goes through before its first request is heard.

Lives here: the word of a proxy in front, the visit that is counted, TLS. Must not live here: their order (the spine),
how any of it is done (`whence`, `limits`, `net`).
"""

from __future__ import annotations

import socket

import trio

from wsbridge.account import Account
from wsbridge.generation import Listener
from wsbridge.limits.visit import Visit
from wsbridge.net import bio_wire, tls_wire
from wsbridge.net.address import Peer
from wsbridge.net.tls import failure_text
from wsbridge.net.wire import SocketWire, Wire
from wsbridge.reasons import End, Reason


async def introduce(sock: socket.socket, listener: Listener, account: Account) -> End | None:
    """Hear what a proxy in front says of its client, where the listener has one; note it in the account."""
    if listener.whence is not None:
        client = await listener.whence.of_connection(sock, account.peer)
        if isinstance(client, End):
            return client
        account.peer = client
    return None


def speaks_for_itself(host: str, listener: Listener) -> bool:
    """Tell whether an address is a client's: a trusted proxy's own is not limited, whatever comes through it."""
    return listener.whence is None or not listener.whence.trusts(host)


def enter(visit: Visit, listener: Listener, peer: Peer) -> End | None:
    """Count a connection under the address of its client, as soon as that is known, and each time it changes."""
    return visit.comes_from(peer.host) if speaks_for_itself(peer.host, listener) else None


async def secure(sock: socket.socket, listener: Listener, seconds: float) -> Wire | End:
    """Shake hands by TLS where the listener has it."""
    if listener.tls is None:
        return SocketWire(sock)
    wrap = tls_wire.wrap if listener.speaks == "websocket" else bio_wire.wrap
    try:
        with trio.move_on_after(seconds):
            return await wrap(sock, listener.tls, server_side=True)
    except OSError as error:
        return End(Reason.TLS_FAILED, "front", failure_text(error, of_client=True))
    return End(Reason.TLS_FAILED, "front", f"no TLS handshake within tls, {seconds:g} s")
