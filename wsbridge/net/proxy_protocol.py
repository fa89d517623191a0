"""PROXY headers on a socket: exactly their bytes are taken, so that TLS or a request finds its own whole.

Lives here: reading one from an accepted socket. Must not live here: what it means (`protocol.proxy_header`), who may
send one, deadlines (the caller's cancel scope).
"""

from __future__ import annotations

import socket

import trio

from wsbridge.protocol.proxy_header import BadProxyHeader, ProxyHeader, ProxyHeaderReader

PEEKED = 512
"""Bytes looked at in one go; most headers are shorter."""


async def read_proxy_header(sock: socket.socket, reader: ProxyHeaderReader) -> ProxyHeader | BadProxyHeader | None:
    """Read the header that a connection begins with.

    Bytes are looked at first, and then those that belong to the header are received, so what follows stays in the
    kernel, and a header that is not whole yet wakes nobody until more of it comes.

    Args:
        sock: Accepted and non-blocking; nothing has been read from it.
        reader: A fresh one. How far it got tells what came before a deadline.

    Returns:
        The header or what is wrong with it; None if the peer closed before its first byte.

    Raises:
        OSError: The connection is reset.
    """
    while reader.outcome is None:
        try:
            seen = sock.recv(PEEKED, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not seen:
            return BadProxyHeader(f"closed after {reader.got} bytes of a PROXY header") if reader.got else None
        taken = reader.feed(seen)
        if taken:
            sock.recv(taken)
    return reader.outcome
