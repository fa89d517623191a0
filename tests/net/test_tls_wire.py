"""The TLS wire of WebSocket sides: handshake, slices that are repeated, ends with and without close_notify."""

import _ssl
import contextlib
import ctypes
import errno
import itertools
import random
import socket
import ssl
import struct
import types

import pytest
import trio
import trio.testing

from tests.net.tls_ends import VERSIONS, Tls, arrived, connected, delivered, read_all, send_records
from wsbridge.net import tls_transport
from wsbridge.net.transport import EOF, RESET


@pytest.fixture
def wrapped(contexts):
    """Make a wire and a blocking peer, shaken hands."""
    tls = Tls(tls_transport.start_tls, contexts)
    yield tls
    tls.close()


async def test_one_read_gathers_several_records(wrapped):
    """Up to 64 KiB of them, and the rest is told to be there."""
    wire, peer = await wrapped()
    for _ in range(10):
        peer.sendall(bytes(1000))
    await delivered(peer)

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

    assert wire.has_buffered()
    assert wire.read() == bytes(90)
    assert not wire.has_buffered()


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
    assert {len(record) for record in records[:-1]} <= {tls_transport.TLS_RECORD_BYTES}


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
    assert wire.read_state is None


async def test_tiny_records_do_not_fill_a_read(wrapped):
    """Each costs the same however little is in it: a read takes so many, and the next goes on."""
    wire, peer = await wrapped()
    whole = random.Random(1).randbytes(1000)
    await send_records(peer, whole)
    wire.readable = True
    first = wire.read()

    assert len(first) == tls_transport.MAX_RECORDS_PER_READ
    assert wire.readable
    assert first + await read_all(wire, len(whole) - len(first)) == whole


@pytest.mark.parametrize("version", VERSIONS)
async def test_close_notify_is_an_orderly_end(wrapped, version):
    """After what came before it."""
    wire, peer = await wrapped(version)
    peer.sendall(b"last words")
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()

    assert await read_all(wire, 100) == b"last words"
    assert (wire.read_state, wire.readable) == (EOF, False)


async def test_an_error_that_an_event_told_of_leaves_what_had_come(wrapped):
    """SO_ERROR is taken, and the records before it are read."""
    wire, peer = await wrapped()
    wire.write([b"never read"])
    peer.sendall(bytes(20_000))
    await trio.sleep(0.02)
    peer.close()
    await trio.sleep(0.02)
    wire.peer_hung_up = True
    wire.record_socket_error()

    assert wire.read_state == RESET
    assert len(await read_all(wire, 10**6)) == 20_000


async def test_finish_sends_close_notify_and_fin(wrapped):
    """The peer sees an orderly end, and not truncation."""
    wire, peer = await wrapped()
    assert wire.send_eof()
    assert peer.recv(10) == b""
    assert wire.send_eof()


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
    assert not wire.send_eof()
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.recv(1)
    full.clear()
    assert wire.send_eof()
    peer.settimeout(5)
    assert peer.recv(1) == b""


async def test_finish_on_a_broken_connection_is_no_exception(wrapped):
    """Whatever OpenSSL thinks of it."""
    wire, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await read_all(wire, 1)

    assert wire.send_eof()


async def test_a_handshake_with_rubbish_fails(contexts):
    """As an `ssl.SSLError`, with the descriptor closed."""
    ours, theirs = connected()
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await tls_transport.start_tls(ours, contexts[0], server_side=True)
    assert ours.fileno() == -1
    theirs.close()


def leave_an_error():
    """Do as Python 3.12 does when a system error ends a connection: leave it in OpenSSL's queue, and raise it."""
    libcrypto = ctypes.CDLL(_ssl.__file__)
    libcrypto.ERR_new()
    libcrypto.ERR_set_error(2, errno.ECONNRESET, None)  # 2: a system error
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


async def test_an_error_that_was_left_is_the_trouble(wrapped):
    """The tests below can fail: a connection that nothing ails breaks off by the error of another."""
    bystander, peer = await wrapped()
    with pytest.raises(ConnectionResetError):
        leave_an_error()

    assert bystander.read() == b""
    assert bystander.read_state == RESET
    peer.sendall(b"well")
    assert await read_all(bystander, 4) == b"well"


@pytest.mark.parametrize("step", ["read", "write", "finish"])
async def test_the_error_of_one_connection_is_none_of_another(wrapped, step):
    """Whatever Python leaves behind where one breaks off."""
    bystander, peer = await wrapped()
    broken, _ = await wrapped()

    def fail(*_):
        leave_an_error()

    if step == "read":
        broken._read = fail
        broken.read()
    elif step == "write":
        broken._write = fail
        broken.write([b"x"])
    else:
        broken._tls = types.SimpleNamespace(unwrap=fail)
        with pytest.raises(TypeError):  # what follows wants a real socket
            broken.send_eof()

    assert bystander.read() == b""
    assert bystander.read_state is None
    peer.sendall(b"well")
    assert await read_all(bystander, 4) == b"well"


async def test_a_handshake_that_failed_leaves_no_error(wrapped, contexts):
    """Nor does one that is given up."""
    bystander, _ = await wrapped()
    ours, theirs = connected()
    with theirs, trio.move_on_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def leave():
                await trio.testing.wait_all_tasks_blocked()
                with contextlib.suppress(ConnectionResetError):
                    leave_an_error()
                nursery.cancel_scope.cancel()

            await tls_transport.start_tls(ours, contexts[0], server_side=True)

    assert bystander.read() == b""
    assert bystander.read_state is None
