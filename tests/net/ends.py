"""Connected sockets for the tests of transports."""

import select
import socket
import struct


def connected(kind):
    """A non-blocking pair of sockets."""
    if kind == "unix":
        ours, theirs = socket.socketpair(socket.AF_UNIX)
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(5)
    return ours, theirs


def reset(sock):
    """Break the peer's connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def arrived(wire):
    """Wait until something came, without reading it."""
    assert select.select([wire.sock], [], [], 5)[0]
