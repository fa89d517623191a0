"""What both TLS wires promise, that of WebSocket sides and that of raw ones."""

import socket
import ssl
import struct

import pytest
import trio

from tests.net.tls_ends import VERSIONS, Tls, arrived, connected, read_all
from wsbridge.net.address import Peer
from wsbridge.net.tls_transport import start_memory_tls, start_tls
from wsbridge.net.transport import RESET


@pytest.fixture(params=[start_tls, start_memory_tls], ids=["tls_wire", "bio_wire"])
def start(request):
    """Each kind."""
    return request.param


@pytest.fixture
def wrapped(start, contexts):
    """Make a wire and a blocking peer, shaken hands."""
    tls = Tls(start, contexts)
    yield tls
    tls.close()


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_both_ways(wrapped, version, server_side):
    """As server and as client, in both versions of TLS."""
    wire, peer = await wrapped(version, server_side=server_side)
    peer.sendall(b"hello")
    assert await read_all(wire, 5) == b"hello"
    assert wire.write([b"wor", b"ld"]) is None
    got = b""
    while len(got) < 5:
        got += peer.recv(100)
    assert got == b"world"
    assert wire.read_state is None


async def test_fin_without_close_notify_is_truncation(wrapped):
    """It counts as a reset, and the words say what it was."""
    wire, peer = await wrapped()
    peer.sendall(b"last words")
    socket.socket.shutdown(peer, socket.SHUT_WR)

    assert await read_all(wire, 100) == b"last words"
    assert wire.read_state == RESET
    assert "truncated" in wire.error


async def test_a_reset_is_a_reset(wrapped):
    """With the system's words."""
    wire, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()

    assert await read_all(wire, 100) == b""
    assert (wire.read_state, wire.readable) == (RESET, False)
    assert wire.error


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_failed_write_what_had_come_is_still_read(wrapped, version):
    """A backend that sends all and closes with input unread: OpenSSL gives what the kernel holds."""
    wire, peer = await wrapped(version)
    wire.write([b"never read"])
    peer.sendall(bytes(20_000))
    with trio.fail_after(5):
        while wire.read_state is None:
            await trio.sleep(0.01)
            peer.close()
            wire.write([b"x"])

    assert wire.read_state == RESET
    assert len(await read_all(wire, 10**6)) == 20_000
    assert (wire.read_state, wire.readable) == (RESET, False)


async def test_discard_reads_past_tls(wrapped):
    """Ciphertext is dropped as it is, after our close_notify."""
    wire, peer = await wrapped()
    assert wire.send_eof()
    peer.sendall(bytes(10_000))
    dropped = 0
    while dropped < 10_000:
        await arrived(wire)
        dropped += wire.discard()
    assert dropped > 10_000


async def test_unread_bytes_come_first(wrapped):
    """Before what TLS gives."""
    wire, peer = await wrapped()
    peer.sendall(b"second")
    await arrived(wire)
    wire.unread(b"first")

    assert wire.has_buffered()
    assert wire.read() == b"first"
    assert wire.read() == b"second"


async def test_read_some_and_write_all(wrapped):
    """The waiting forms, with more than the kernel takes."""
    wire, peer = await wrapped(buffer=16_384)
    got = []

    def talk():
        left = 500_000
        while left:
            data = peer.recv(65536)
            got.append(data)
            left -= len(data)
        peer.sendall(b"thanks")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, talk)
        await wire.write_all(bytes(500_000))
        assert await wire.read_some() == b"thanks"


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_peer_that_goes_during_the_handshake(start, contexts, how):
    """As an `OSError`, with the descriptor closed."""
    ours, theirs = connected()
    if how == "reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(OSError):
        await start(ours, contexts[0], server_side=True)
    assert ours.fileno() == -1


async def test_a_cancelled_handshake_closes_the_descriptor(start, contexts):
    """The deadline is the caller's."""
    ours, theirs = connected()
    fd = ours.fileno()
    with trio.move_on_after(0.05) as scope:
        await start(ours, contexts[0], server_side=True)
    assert scope.cancelled_caught
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    assert fd >= 0
    theirs.close()


async def test_a_certificate_for_another_name_is_refused(start, contexts):
    """As a client, by default."""
    server, client = contexts
    ours, theirs = connected()

    def serve():
        theirs.settimeout(5)
        with pytest.raises(OSError):
            server.wrap_socket(theirs, server_side=True).recv(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            await start(ours, client, server_side=False, server_hostname="elsewhere")
    theirs.close()


async def test_the_name_that_the_client_asks_for_is_told(wrapped):
    """As server; where we are the client there is nobody who asks."""
    peer = Peer("203.0.113.7", 5, socket.AF_INET)
    wire, _ = await wrapped()
    assert wire.with_tls_details(peer).sni == "localhost"
    wire, _ = await wrapped(server_side=False)
    assert not wire.with_tls_details(peer).sni
