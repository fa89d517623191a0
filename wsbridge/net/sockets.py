"""Socket options: what every connection gets, and the hard end.

Lives here: plain calls on one stdlib socket, none of which blocks. Must not live here: dialling, accepting, TLS.
"""

from __future__ import annotations

import socket
import struct

KEEPALIVE_IDLE = 60
"""Seconds of silence before the first TCP keepalive probe."""
KEEPALIVE_INTERVAL = 15
"""Seconds between probes."""
KEEPALIVE_PROBES = 4
"""Probes without an answer before the kernel gives a connection up."""

_LINGER_NONE = struct.pack("ii", 1, 0)


def tune(sock: socket.socket) -> None:
    """Set the options that every connection has; does nothing to a Unix socket.

    TCP_USER_TIMEOUT is none of them: from when a window was first found full, it counts on although bytes are
    acknowledged, and so ends peers that read, but slowly and for long.

    Args:
        sock: A connected or listening TCP socket.

    Raises:
        OSError: the connection has already gone.
    """
    if sock.family == socket.AF_UNIX:
        return
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def reset(sock: socket.socket) -> None:
    """Close at once, with a reset where the transport has one: unsent bytes are dropped, the peer sees an error.

    A socket that is closed already, or whose peer has gone, is no error. On a Unix socket this is a plain close.
    """
    try:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    except OSError:
        pass
    finally:
        sock.close()
