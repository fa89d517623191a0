"""The TLS wire of WebSocket sides: handshake, slices that are repeated, ends with and without close_notify."""

import itertools
import random
import socket
import ssl
import struct

import pytest
import trio
import trustme

from wsbridge.net import tls_wire
from wsbridge.net.wire import EOF, RESET

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def contexts():
    """Contexts of a server called localhost and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


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


@pytest.fixture
def wrapped(contexts):
    """Make a wire and a blocking peer, shaken hands."""
    opened = []

    async def make(version=ssl.TLSVersion.TLSv1_3, *, server_side=True, buffer=None):
        server, client = contexts
        client.maximum_version = server.maximum_version = version
        ours, theirs = connected(buffer)
        result = []

        async def wrap():
            name = None if server_side else "localhost"
            context = server if server_side else client
            result.append(await tls_wire.wrap(ours, context, server_side=server_side, server_hostname=name))

        def shake():
            theirs.settimeout(10)
            context = client if server_side else server
            name = "localhost" if server_side else None
            return context.wrap_socket(
                theirs, server_side=not server_side, server_hostname=name, suppress_ragged_eofs=False
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wrap)
            peer = await trio.to_thread.run_sync(shake)
        opened.extend([result[0].sock, peer])
        return result[0], peer

    yield make
    for sock in opened:
        sock.close()


async def arrived(wire):
    """Wait until the socket has something."""
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(wire.fd)


async def read_all(wire, size):
    """Read that many bytes, or up to the end."""
    data = b""
    wire.readable = True
    while len(data) < size and not (wire.ended and not wire.readable):
        piece = wire.read()
        data += piece
        if not piece and not wire.ended:
            await arrived(wire)
            wire.readable = True
    return data


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_both_ways(wrapped, version, server_side):
    """As server and as client, in both versions of TLS."""
    wire, peer = await wrapped(version, server_side=server_side)
    peer.sendall(b"hello")
    assert await read_all(wire, 5) == b"hello"
    assert wire.write([b"wor", b"ld"]) is None
    assert peer.recv(100) == b"world"
    assert wire.ended is None


async def test_one_read_gathers_several_records(wrapped):
    """Up to 64 KiB of them, and the rest is told to be there."""
    wire, peer = await wrapped()
    for _ in range(10):
        peer.sendall(bytes(1000))
    await arrived(wire)
    await trio.sleep(0.05)

    assert len(wire.read()) == 10_000
    peer.sendall(bytes(150_000))
    assert len(await read_all(wire, 150_000)) == 150_000


async def test_bytes_that_openssl_holds_are_told_of(wrapped):
    """No event of the socket would."""
    wire, peer = await wrapped()
    peer.sendall(bytes(100))
    await arrived(wire)
    await trio.sleep(0.02)
    assert wire._tls.read(10) == bytes(10)

    assert wire.holds()
    assert wire.read() == bytes(90)
    assert not wire.holds()


@pytest.mark.parametrize(
    "sizes",
    [
        [10, 65_536, 10, 65_536, 3],
        [2, 3],
        [10, 16_374, 5],
        [10, 16_373, 1],
        [16_384, 16_384],
        [16_383, 2, 16_383],
        [0, 7, 0, 40_000, 0],
    ],
    ids=str,
)
async def test_what_is_written_fills_its_records(wrapped, sizes):
    """However it is cut into buffers, all records but the last are full, and every byte keeps its place."""
    wire, peer = await wrapped()
    whole = random.Random(1).randbytes(sum(sizes))
    ends = list(itertools.accumulate(sizes))
    assert wire.write([whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]) is None
    records = []
    while sum(map(len, records)) < len(whole):
        records.append(peer.recv(1 << 20))

    assert b"".join(records) == whole
    assert {len(record) for record in records[:-1]} <= {tls_wire.RECORD}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sizes", [[1_000_000], [20_000] * 50, [100, 70_000, 5] * 20])
async def test_a_slice_that_could_not_be_sent_is_repeated(wrapped, version, sizes):
    """A full kernel, then again and again until all is out; nothing is lost, doubled or refused by OpenSSL."""
    wire, peer = await wrapped(version, buffer=16_384)
    parts = [bytes([number & 0xFF]) * size for number, size in enumerate(sizes)]
    whole = b"".join(parts)
    rest = wire.write(list(parts))
    assert rest
    got = []

    def take():
        left = len(whole) + 5
        while left:
            got.append(peer.recv(65536))
            left -= len(got[-1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, take)
        repeats = 0
        while rest is not None:
            await trio.lowlevel.wait_writable(wire.fd)
            rest = wire.write(rest)
            repeats += 1
        await wire.write_all(b"after")
    assert repeats
    assert b"".join(got) == whole + b"after"
    assert wire.ended is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_close_notify_is_an_orderly_end(wrapped, version):
    """After what came before it."""
    wire, peer = await wrapped(version)
    peer.sendall(b"last words")
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()

    assert await read_all(wire, 100) == b"last words"
    assert (wire.ended, wire.readable) == (EOF, False)


async def test_fin_without_close_notify_is_truncation(wrapped):
    """It counts as a reset, and the words say what it was."""
    wire, peer = await wrapped()
    peer.sendall(b"last words")
    socket.socket.shutdown(peer, socket.SHUT_WR)

    assert await read_all(wire, 100) == b"last words"
    assert wire.ended == RESET
    assert "truncated" in wire.error


async def test_a_reset_is_a_reset(wrapped):
    """With the system's words."""
    wire, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()

    assert await read_all(wire, 100) == b""
    assert (wire.ended, wire.readable) == (RESET, False)
    assert wire.error


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_failed_write_what_had_come_is_still_read(wrapped, version):
    """A backend that sends all and closes with input unread: OpenSSL gives what the kernel holds."""
    wire, peer = await wrapped(version)
    wire.write([b"never read"])
    peer.sendall(bytes(20_000))
    with trio.fail_after(5):
        while wire.ended is None:
            await trio.sleep(0.01)
            peer.close()
            wire.write([b"x"])

    assert wire.ended == RESET
    assert len(await read_all(wire, 10**6)) == 20_000
    assert (wire.ended, wire.readable) == (RESET, False)


async def test_an_error_that_an_event_told_of_leaves_what_had_come(wrapped):
    """SO_ERROR is taken, and the records before it are read."""
    wire, peer = await wrapped()
    wire.write([b"never read"])
    peer.sendall(bytes(20_000))
    await trio.sleep(0.02)
    peer.close()
    await trio.sleep(0.02)
    wire.hup = True
    wire.fail()

    assert wire.ended == RESET
    assert len(await read_all(wire, 10**6)) == 20_000


async def test_finish_sends_close_notify_and_fin(wrapped):
    """The peer sees an orderly end, and not truncation."""
    wire, peer = await wrapped()
    assert wire.finish()
    assert peer.recv(10) == b""
    assert wire.finish()


async def test_finish_waits_for_room(wrapped, monkeypatch):
    """A kernel that is full has none for close_notify: it is told, and FIN does not overtake it."""
    wire, peer = await wrapped()
    real = wire._tls.unwrap
    full = [True]

    def unwrap():
        if full:
            raise ssl.SSLWantWriteError
        return real()

    monkeypatch.setattr(wire._tls, "unwrap", unwrap)
    assert not wire.finish()
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.recv(1)
    full.clear()
    assert wire.finish()
    peer.settimeout(5)
    assert peer.recv(1) == b""


async def test_finish_on_a_broken_connection_is_no_exception(wrapped):
    """Whatever OpenSSL thinks of it."""
    wire, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await read_all(wire, 1)

    assert wire.finish()


async def test_discard_reads_past_tls(wrapped):
    """Ciphertext is dropped as it is, after our close_notify."""
    wire, peer = await wrapped()
    assert wire.finish()
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

    assert wire.holds()
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


async def test_a_handshake_with_rubbish_fails(contexts):
    """As an `ssl.SSLError`, with the descriptor closed."""
    ours, theirs = connected()
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await tls_wire.wrap(ours, contexts[0], server_side=True)
    assert ours.fileno() == -1
    theirs.close()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_peer_that_goes_during_the_handshake(contexts, how):
    """As an `OSError`, with the descriptor closed."""
    ours, theirs = connected()
    if how == "reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(OSError):
        await tls_wire.wrap(ours, contexts[0], server_side=True)
    assert ours.fileno() == -1


async def test_a_cancelled_handshake_closes_the_descriptor(contexts):
    """The deadline is the caller's."""
    ours, theirs = connected()
    fd = ours.fileno()
    with trio.move_on_after(0.05) as scope:
        await tls_wire.wrap(ours, contexts[0], server_side=True)
    assert scope.cancelled_caught
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    assert fd >= 0
    theirs.close()


async def test_a_certificate_for_another_name_is_refused(contexts):
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
            await tls_wire.wrap(ours, client, server_side=False, server_hostname="elsewhere")
    theirs.close()
