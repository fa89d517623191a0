"""TLS connections for tests: our transport, and a blocking peer that shook hands with it."""

import _ssl
import contextlib
import ctypes
import socket
import ssl
from fcntl import ioctl
from termios import TIOCOUTQ

import trio

from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.tls import ClientTlsOptions, ServerTlsOptions
from wsbridge.net.tls_roles import OpenSsl

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


class OurTls:
    """TLS as we do it.

    Args:
        provider: The implementation.
        pair: Certificate and key of the server.
        ca: File of the authority that a client trusts.
        options: Of the server.
    """

    def __init__(self, provider, pair, ca, **options):
        watcher = FileWatcher()
        certificate = TlsCertificateConfig(cert=pair[0], key=pair[1])
        self.provider = provider
        self.server = provider.for_listener(watcher, [certificate], ServerTlsOptions(**options))
        self.client = provider.for_client(watcher, ClientTlsOptions(ca))

    @property
    def is_openssl(self):
        """Whether it is OpenSSL, by which every peer speaks TLS here."""
        return isinstance(self.provider, OpenSsl)

    async def start(self, sock, *, server_side, name="localhost"):
        """Complete a handshake."""
        if server_side:
            return await self.server.accept(sock)
        return await self.client.start(sock, name, no_second_try)


async def no_second_try():
    """Be called where a handshake fails that OpenSSL might complete."""
    raise AssertionError("a second connection")


class Tls:
    """Makes connections.

    Args:
        contexts: Of peers: a server called localhost, and a client that trusts it.
        ours: How we do TLS.
    """

    def __init__(self, contexts, ours):
        self.contexts = contexts
        self.ours = ours
        self._opened = []

    async def __call__(self, version=ssl.TLSVersion.TLSv1_3, *, server_side=True, buffer=None, glued=b""):
        """Give a transport and its peer; `glued` is what the peer sends right behind its part of the handshake."""
        server, client = self.contexts
        client.maximum_version = server.maximum_version = version
        ours, theirs = connected(buffer)
        result = []

        async def wrap():
            result.append(await self.ours.start(ours, server_side=server_side))

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


async def arrived(transport):
    """Wait until the socket has something."""
    with trio.fail_after(9):
        await trio.lowlevel.wait_readable(transport.fd)


async def delivered(peer):
    """Wait until our kernel has all that the peer sent."""
    with trio.fail_after(9):
        while int.from_bytes(ioctl(peer, TIOCOUTQ, bytes(4)), "little"):
            await trio.sleep(0.005)


async def send_records(peer, data):
    """Send each byte in a record of its own; our kernel has all of them then."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for at in range(len(data)):
        peer.sendall(data[at : at + 1])
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    await delivered(peer)


async def read_all(transport, size):
    """Read that many bytes, or up to the end."""
    data = b""
    transport.readable = True
    while len(data) < size and not (transport.read_state and not transport.readable):
        piece = transport.read()
        data += piece
        if not piece and not transport.read_state:
            await arrived(transport)
            transport.readable = True
    return data


_libssl = ctypes.CDLL(_ssl.__file__)  # what Python's ssl has no call for; the symbols are those it is linked with
for _name, _arguments in (
    ("SSL_key_update", [ctypes.c_void_p, ctypes.c_int]),
    ("SSL_clear_options", [ctypes.c_void_p, ctypes.c_uint64]),
    ("SSL_renegotiate", [ctypes.c_void_p]),
    ("SSL_do_handshake", [ctypes.c_void_p]),
):
    getattr(_libssl, _name).argtypes = _arguments


def _pointer(tls):
    """Give the SSL structure of a socket: in CPython, what follows the object's head and a reference to the socket."""
    return ctypes.c_void_p.from_address(id(tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))


def key_updates(tls, count, ask=False):
    """Send key updates of TLS 1.3, which are records without payload, until done or the connection is broken."""
    ssl_structure = _pointer(tls)
    for _ in range(count):
        if _libssl.SSL_key_update(ssl_structure, int(ask)) != 1 or _libssl.SSL_do_handshake(ssl_structure) != 1:
            return


def hello_requests(tls, count):
    """Ask the client to renegotiate, by TLS 1.2, until done or the connection is broken."""
    ssl_structure = _pointer(tls)
    _libssl.SSL_clear_options(ssl_structure, ssl.OP_NO_RENEGOTIATION)
    for _ in range(count):
        if _libssl.SSL_renegotiate(ssl_structure) != 1 or _libssl.SSL_do_handshake(ssl_structure) != 1:
            return


def until_broken(act):
    """Act until the other end breaks the connection off."""
    with contextlib.suppress(OSError):
        act()
