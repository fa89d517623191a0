"""The TLS wire of raw sides: a close_notify that leaves while data still comes in, and what the wire itself holds."""

import socket
import ssl

import pytest
import trio

from tests.net.tls_ends import VERSIONS, Tls, arrived, connected, read_all, send_records
from wsbridge.net import tls_transport
from wsbridge.net.transport import EOF, MAX_BULK_READ_SIZE, READ_SIZE, RESET


@pytest.fixture
def wrapped(contexts):
    """Make a wire and a blocking peer, shaken hands."""
    tls = Tls(tls_transport.start_memory_tls, contexts)
    yield tls
    tls.close()


def say_goodbye(peer):
    """Send close_notify without waiting for the answer."""
    peer.setblocking(False)
    with pytest.raises((ssl.SSLWantReadError, ssl.SSLZeroReturnError)):
        peer.unwrap()
        raise ssl.SSLZeroReturnError
    peer.settimeout(10)


@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_that_come_with_the_end_of_the_handshake(wrapped, version):
    """They are there from the start, though no event will tell of them."""
    wire, _ = await wrapped(version, glued=b"glued")

    assert await read_all(wire, 5) == b"glued"


async def test_large_reads_come_whole(wrapped):
    """Whatever the sizes of records and reads."""
    wire, peer = await wrapped()
    payload = bytes(range(256)) * 4000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, peer.sendall, payload)
        assert await read_all(wire, len(payload)) == payload


async def test_tiny_records_make_the_next_read_small(wrapped):
    """Each costs the same however little is in it, so no large read of them follows another."""
    wire, peer = await wrapped()
    whole = bytes(range(250)) * 14  # more than 64 KiB once encrypted
    await send_records(peer, whole)
    wire._bulk_read_size = MAX_BULK_READ_SIZE

    assert wire.read() == whole
    assert wire._bulk_read_size == READ_SIZE


@pytest.mark.parametrize("sizes", [[1_000_000], [20_000] * 50, [100, 70_000, 5] * 20])
async def test_what_the_kernel_does_not_take_is_held(wrapped, sizes):
    """An empty list says so, and writing it again goes on; nothing is lost, nothing comes twice."""
    wire, peer = await wrapped(buffer=16_384)
    parts = [bytes([number & 0xFF]) * size for number, size in enumerate(sizes)]
    whole = b"".join(parts)
    rest = wire.write(list(parts))
    assert rest == []
    got = []

    def take():
        left = len(whole) + 5
        while left:
            got.append(peer.recv(65536))
            left -= len(got[-1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, take)
        while rest is not None:
            await trio.lowlevel.wait_writable(wire.fd)
            rest = wire.write(rest)
        await wire.write_all(b"after")
    assert b"".join(got) == whole + b"after"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3])
async def test_close_notify_leaves_while_data_still_comes_in(wrapped, version):
    """Our end is told, and what the peer sends after it is still read."""
    wire, peer = await wrapped(version)
    assert wire.write([b"request"]) is None
    assert wire.send_eof()
    assert peer.recv(100) == b"request"
    assert peer.recv(100) == b""
    peer.sendall(b"the answer")
    assert await read_all(wire, 10) == b"the answer"
    say_goodbye(peer)
    assert await read_all(wire, 100) == b""
    assert (wire.read_state, wire.readable) == (EOF, False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3])
async def test_close_notify_comes_while_we_still_send(wrapped, version):
    """The peer's end is orderly, and it still gets what we send."""
    wire, peer = await wrapped(version)
    peer.sendall(b"request")
    say_goodbye(peer)
    assert await read_all(wire, 100) == b"request"
    assert (wire.read_state, wire.readable) == (EOF, False)
    assert wire.write([b"the answer"]) is None
    assert wire.send_eof()
    raw = b""
    while piece := socket.socket.recv(peer, 65536):
        raw += piece
    assert len(raw) > 10 + 2 * 20  # the answer's record and close_notify


async def test_reading_on_after_the_end_gives_nothing(wrapped):
    """However often an event says otherwise: the wire is not readable for ever."""
    wire, peer = await wrapped()
    say_goodbye(peer)
    assert await read_all(wire, 1) == b""
    for _ in range(3):
        wire.readable = True
        assert wire.read() == b""
        assert not wire.readable
    assert wire.read_state == EOF


async def test_broken_records_end_it(wrapped):
    """Bytes that are no TLS are an error, and nothing after them counts."""
    wire, peer = await wrapped()
    peer.sendall(b"good")
    assert await read_all(wire, 4) == b"good"
    socket.socket.sendall(peer, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await read_all(wire, 1) == b""
    assert (wire.read_state, wire.readable) == (RESET, False)
    assert wire.error
    peer.settimeout(0.1)


async def test_finish_waits_for_what_is_held(wrapped):
    """close_notify and FIN go behind the bytes; later calls go on."""
    wire, peer = await wrapped(buffer=16_384)
    assert wire.write([bytes(500_000)]) == []
    assert not wire.send_eof()
    got = []

    def take():
        while data := peer.recv(65536):
            got.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, take)
        while not wire.send_eof():
            await trio.lowlevel.wait_writable(wire.fd)
    assert sum(map(len, got)) == 500_000


async def test_answers_that_a_peer_does_not_take_do_not_pile_up(wrapped, monkeypatch):
    """A peer that has OpenSSL answer over and over, and reads nothing, is cut."""
    wire, peer = await wrapped(buffer=16_384)
    while wire.write([bytes(16_000)]) is None:
        pass
    decrypt = tls_transport.MemoryTlsTransport._decrypt

    def answering(self, gathered):
        self._outgoing.write(bytes(16_000))  # as the answers to key updates would
        decrypt(self, gathered)

    monkeypatch.setattr(tls_transport.MemoryTlsTransport, "_decrypt", answering)
    for _ in range(1000):
        peer.sendall(b"x")
        await arrived(wire)
        wire.readable = True
        wire.read()
        if wire.read_state:
            break
    assert wire.read_state == RESET
    assert "key updates" in wire.error
    assert sum(map(len, wire._unsent)) < 2_000_000


async def test_a_handshake_with_rubbish_fails_with_an_alert(contexts):
    """The peer learns why, and the descriptor is closed."""
    ours, theirs = connected()
    theirs.settimeout(5)
    theirs.sendall(b"\x16\x03\x01\x00\x05rubbish")
    with pytest.raises(ssl.SSLError):
        await tls_transport.start_memory_tls(ours, contexts[0], server_side=True)
    assert ours.fileno() == -1
    assert theirs.recv(100)[:1] == b"\x15"
    theirs.close()
