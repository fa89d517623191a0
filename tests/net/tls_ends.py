"""TLS connections for the tests of both TLS wires: our wire, and a blocking peer that shook hands with it."""

import socket
import ssl
from fcntl import ioctl
from termios import TIOCOUTQ

import trio

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def connected(buffer=None):
    """A pair of TCP sockets."""
    with socket.socket() as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs = socket.socket()
        if buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    if buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    ours.setblocking(False)
    return ours, theirs


class Tls:
    """Makes wires of one kind.

    Args:
        start: The handshake of one kind: `start_tls` or `start_memory_tls`.
        contexts: Of a server called localhost and of a client that trusts it.
    """

    def __init__(self, start, contexts):
        self.start = start
        self.contexts = contexts
        self._opened = []

    async def __call__(self, version=ssl.TLSVersion.TLSv1_3, *, server_side=True, buffer=None, glued=b""):
        """Give a wire and its peer; `glued` is what the peer sends right behind its part of the handshake."""
        server, client = self.contexts
        client.maximum_version = server.maximum_version = version
        ours, theirs = connected(buffer)
        result = []

        async def wrap():
            name = None if server_side else "localhost"
            context = server if server_side else client
            result.append(await self.start(ours, context, server_side=server_side, server_hostname=name))

        def shake():
            theirs.settimeout(10)
            tls = (client if server_side else server).wrap_socket(
                theirs,
                server_side=not server_side,
                server_hostname="localhost" if server_side else None,
                suppress_ragged_eofs=False,
                do_handshake_on_connect=False,
            )
            tls.do_handshake()
            if glued:
                tls.sendall(glued)
            return tls

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wrap)
            peer = await trio.to_thread.run_sync(shake)
        self._opened += [result[0].sock, peer]
        return result[0], peer

    def close(self):
        """Close all that was made."""
        for sock in self._opened:
            sock.close()


async def arrived(wire):
    """Wait until the socket has something."""
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(wire.fd)


async def delivered(peer):
    """Wait until our kernel has all that the peer sent."""
    with trio.fail_after(5):
        while int.from_bytes(ioctl(peer, TIOCOUTQ, bytes(4)), "little"):
            await trio.sleep(0.005)


async def send_records(peer, data):
    """Send each byte in a record of its own; our kernel has all of them then."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for at in range(len(data)):
        peer.sendall(data[at : at + 1])
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    await delivered(peer)


async def read_all(wire, size):
    """Read that many bytes, or up to the end."""
    data = b""
    wire.readable = True
    while len(data) < size and not (wire.read_state and not wire.readable):
        piece = wire.read()
        data += piece
        if not piece and not wire.read_state:
            await arrived(wire)
            wire.readable = True
    return data
