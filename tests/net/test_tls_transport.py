"""TLS through memory: handshake, payload both ways, ends with and without close_notify, floods without payload."""

import itertools
import queue
import random
import socket
import ssl
import struct
import time

import pytest
import trio

from tests.net.tls_ends import (
    VERSIONS,
    Tls,
    arrived,
    connected,
    delivered,
    hello_requests,
    key_updates,
    read_all,
    send_records,
    until_broken,
)
from wsbridge.net import tls_transport
from wsbridge.net.address import Peer
from wsbridge.net.disconnect import DisconnectMonitor
from wsbridge.net.tls_transport import MAX_RECORDS_PER_READ, TLS_RECORD_BYTES
from wsbridge.net.transport import EOF, RESET
from wsbridge.reasons import Reason


@pytest.fixture
def wrapped(contexts, our_tls):
    """Make a transport and a blocking peer, after the handshake."""
    tls = Tls(contexts, our_tls)
    yield tls
    tls.close()


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_both_ways(wrapped, version, server_side):
    """As server and as client, in both versions of TLS."""
    transport, peer = await wrapped(version, server_side=server_side)
    peer.sendall(b"hello")
    assert await read_all(transport, 5) == b"hello"
    assert transport.write([b"wor", b"ld"]) is None
    got = b""
    while len(got) < 5:
        got += peer.recv(100)
    assert got == b"world"
    assert transport.read_state is None


async def test_a_client_certificate_that_is_missing_is_reported_in_plain_words(contexts, our_tls, monkeypatch):
    """In TLS 1.3 the server rejects it only after the handshake, and a plain protocol has begun by then."""
    server, _ = contexts
    monkeypatch.setattr(server, "verify_mode", ssl.CERT_REQUIRED)  # the contexts are those of all tests
    ours, theirs = connected()

    def reject():
        theirs.settimeout(10)
        tls = server.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
        with tls, pytest.raises(ssl.SSLError):
            tls.do_handshake()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, reject)
            transport = await our_tls.start(ours, server_side=False)
            with pytest.raises(
                ConnectionResetError, match=r"does not accept our client certificate.*client_certificate"
            ):
                await transport.read_some()
            transport.close()


async def test_fin_without_close_notify_is_truncation(wrapped):
    """It counts as a reset, and the words say what it was."""
    transport, peer = await wrapped()
    peer.sendall(b"last words")
    socket.socket.shutdown(peer, socket.SHUT_WR)

    assert await read_all(transport, 100) == b"last words"
    assert transport.read_state == RESET
    assert "truncated" in transport.error


async def test_a_reset_is_a_reset(wrapped):
    """With the system's words."""
    transport, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()

    assert await read_all(transport, 100) == b""
    assert (transport.read_state, transport.readable) == (RESET, False)
    assert transport.error


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_failed_write_what_had_come_is_still_read(wrapped, version):
    """A backend that sends all and closes with input unread: OpenSSL gives what the kernel holds."""
    transport, peer = await wrapped(version)
    transport.write([b"never read"])
    peer.sendall(bytes(20_000))
    with trio.fail_after(9):
        while transport.read_state is None:
            await trio.sleep(0.01)
            peer.close()
            transport.write([b"x"])

    assert transport.read_state == RESET
    assert len(await read_all(transport, 10**6)) == 20_000
    assert (transport.read_state, transport.readable) == (RESET, False)


async def test_an_error_reported_by_an_event_leaves_what_had_come(wrapped):
    """SO_ERROR is read, and so are the records before it."""
    transport, peer = await wrapped()
    transport.write([b"never read"])
    peer.sendall(bytes(20_000))
    await trio.sleep(0.02)
    peer.close()
    await trio.sleep(0.02)
    transport.peer_hung_up = True
    transport.record_socket_error()

    assert transport.read_state == RESET
    assert len(await read_all(transport, 10**6)) == 20_000


async def test_discard_reads_past_tls(wrapped):
    """Ciphertext is dropped as it is, after our close_notify."""
    transport, peer = await wrapped()
    assert transport.send_eof()
    peer.sendall(bytes(10_000))
    dropped = 0
    while dropped < 10_000:
        await arrived(transport)
        dropped += transport.discard()
    assert dropped > 10_000


async def test_unread_bytes_come_first(wrapped):
    """Before what TLS gives."""
    transport, peer = await wrapped()
    peer.sendall(b"second")
    await arrived(transport)
    transport.unread(b"first")

    assert transport.has_buffered()
    assert transport.read() == b"first"
    assert transport.read() == b"second"


async def test_read_some_and_write_all(wrapped):
    """The waiting forms, with more than the kernel accepts."""
    transport, peer = await wrapped(buffer=16_384)
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
        await transport.write_all(bytes(500_000))
        assert await transport.read_some() == b"thanks"


async def test_one_read_gathers_several_records(wrapped):
    """Small records that are there together are read at once, and larger amounts in several reads."""
    transport, peer = await wrapped()
    for _ in range(10):
        peer.sendall(bytes(1000))
    await delivered(peer)

    assert len(transport.read()) == 10_000
    peer.sendall(bytes(150_000))
    assert len(await read_all(transport, 150_000)) == 150_000


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
    transport, peer = await wrapped()
    whole = random.Random(1).randbytes(sum(sizes))
    ends = list(itertools.accumulate(sizes))
    assert transport.write([whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]) is None
    records = []
    while sum(map(len, records)) < len(whole):
        records.append(peer.recv(1 << 20))

    assert b"".join(records) == whole
    assert {len(record) for record in records[:-1]} <= {TLS_RECORD_BYTES}


async def test_tiny_records_do_not_fill_a_read(wrapped):
    """Each costs the same however little is in it: a read handles a bounded number, and the next one goes on."""
    transport, peer = await wrapped()
    whole = random.Random(1).randbytes(1000)
    await send_records(peer, whole)
    transport.readable = True
    first = transport.read()

    assert len(first) == MAX_RECORDS_PER_READ
    assert transport.readable
    assert first + await read_all(transport, len(whole) - len(first)) == whole


async def test_records_that_keep_coming_are_gathered_up_to_a_number(wrapped):
    """A read goes on while a peer sends small records, but not forever."""
    transport, peer = await wrapped()
    whole = random.Random(1).randbytes(5000)

    def send():
        for at in range(len(whole)):
            peer.sendall(whole[at : at + 1])

    reads = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, send)
        while sum(map(len, reads)) < len(whole):
            reads.append(await transport.read_some())

    assert b"".join(reads) == whole
    assert 1 < max(map(len, reads)) <= MAX_RECORDS_PER_READ


async def test_large_reads_come_whole(wrapped):
    """Whatever the sizes of records and reads."""
    transport, peer = await wrapped()
    payload = bytes(range(256)) * 4000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, peer.sendall, payload)
        assert await read_all(transport, len(payload)) == payload


@pytest.mark.parametrize("sizes", [[1_000_000], [20_000] * 50, [100, 70_000, 5] * 20])
async def test_what_the_kernel_does_not_take_is_held(wrapped, sizes):
    """An empty list says so, and writing it again goes on; nothing is lost, nothing comes twice."""
    transport, peer = await wrapped(buffer=16_384)
    parts = [bytes([number & 0xFF]) * size for number, size in enumerate(sizes)]
    whole = b"".join(parts)
    rest = transport.write(list(parts))
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
            await trio.lowlevel.wait_writable(transport.fd)
            rest = transport.write(rest)
        await transport.write_all(b"after")
    assert b"".join(got) == whole + b"after"


def say_goodbye(peer):
    """Send close_notify without waiting for the answer."""
    peer.setblocking(False)
    with pytest.raises((ssl.SSLWantReadError, ssl.SSLZeroReturnError)):
        peer.unwrap()
        raise ssl.SSLZeroReturnError
    peer.settimeout(10)


@pytest.mark.parametrize("version", VERSIONS)
async def test_close_notify_is_an_orderly_end(wrapped, version):
    """After what came before it."""
    transport, peer = await wrapped(version)
    peer.sendall(b"last words")
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()

    assert await read_all(transport, 100) == b"last words"
    assert (transport.read_state, transport.readable) == (EOF, False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3])
async def test_close_notify_leaves_while_data_still_comes_in(wrapped, version):
    """Our end is reported, and what the peer sends after it is still read."""
    transport, peer = await wrapped(version)
    assert transport.write([b"request"]) is None
    assert transport.send_eof()
    assert peer.recv(100) == b"request"
    assert peer.recv(100) == b""
    peer.sendall(b"the answer")
    assert await read_all(transport, 10) == b"the answer"
    say_goodbye(peer)
    assert await read_all(transport, 100) == b""
    assert (transport.read_state, transport.readable) == (EOF, False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3])
async def test_close_notify_comes_while_we_still_send(wrapped, version):
    """The peer's end is orderly, and it still gets what we send."""
    transport, peer = await wrapped(version)
    peer.sendall(b"request")
    say_goodbye(peer)
    assert await read_all(transport, 100) == b"request"
    assert (transport.read_state, transport.readable) == (EOF, False)
    assert transport.write([b"the answer"]) is None
    assert transport.send_eof()
    raw = b""
    while piece := socket.socket.recv(peer, 65536):
        raw += piece
    assert len(raw) > 10 + 2 * 20  # the answer's record and close_notify


async def test_reading_on_after_the_end_gives_nothing(wrapped):
    """However often an event says otherwise: the transport is not readable forever."""
    transport, peer = await wrapped()
    say_goodbye(peer)
    assert await read_all(transport, 1) == b""
    for _ in range(3):
        transport.readable = True
        assert transport.read() == b""
        assert not transport.readable
        assert not transport.has_buffered()
    assert transport.read_state == EOF


async def test_broken_records_end_it(wrapped):
    """Bytes that are no TLS are an error, and nothing after them counts."""
    transport, peer = await wrapped()
    peer.sendall(b"good")
    assert await read_all(transport, 4) == b"good"
    socket.socket.sendall(peer, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await read_all(transport, 1) == b""
    assert (transport.read_state, transport.readable) == (RESET, False)
    assert transport.error
    peer.settimeout(0.1)


async def test_finish_sends_close_notify_and_fin(wrapped):
    """The peer sees an orderly end, and not truncation."""
    transport, peer = await wrapped()
    assert transport.send_eof()
    assert peer.recv(10) == b""
    assert transport.send_eof()


async def test_finish_waits_for_what_is_held(wrapped):
    """close_notify and FIN go behind the bytes; later calls go on."""
    transport, peer = await wrapped(buffer=16_384)
    assert transport.write([bytes(500_000)]) == []
    assert not transport.send_eof()
    got = []

    def take():
        while data := peer.recv(65536):
            got.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, take)
        while not transport.send_eof():
            await trio.lowlevel.wait_writable(transport.fd)
    assert sum(map(len, got)) == 500_000


async def test_finish_on_a_broken_connection_is_no_exception(wrapped):
    """Whatever OpenSSL thinks of it."""
    transport, peer = await wrapped()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await read_all(transport, 1)

    assert transport.send_eof()


@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_that_come_with_the_end_of_the_handshake(wrapped, version):
    """Bytes that came with the end of the handshake are readable at once, though no event will come for them."""
    transport, _ = await wrapped(version, glued=b"glued")

    assert await read_all(transport, 5) == b"glued"


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_peer_that_goes_during_the_handshake(our_tls, how):
    """As an `OSError`, with the descriptor closed."""
    ours, theirs = connected()
    if how == "reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(OSError):
        await our_tls.start(ours, server_side=True)
    assert ours.fileno() == -1


async def test_a_cancelled_handshake_closes_the_descriptor(our_tls):
    """The deadline is the caller's."""
    ours, theirs = connected()
    fd = ours.fileno()
    with trio.move_on_after(0.05) as scope:
        await our_tls.start(ours, server_side=True)
    assert scope.cancelled_caught
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    assert fd >= 0
    theirs.close()


async def test_a_certificate_for_another_name_is_refused(contexts, our_tls):
    """As a client, by default."""
    server, _ = contexts
    ours, theirs = connected()

    def serve():
        theirs.settimeout(5)
        with pytest.raises(OSError):
            server.wrap_socket(theirs, server_side=True).recv(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            await our_tls.start(ours, server_side=False, name="elsewhere")
    theirs.close()


async def test_the_name_that_the_client_asks_for_is_reported(wrapped):
    """As server; where we are the client there is nobody who asks."""
    peer = Peer("203.0.113.7", 5, socket.AF_INET)
    transport, _ = await wrapped()
    assert transport.with_tls_details(peer).sni == "localhost"
    transport, _ = await wrapped(server_side=False)
    assert not transport.with_tls_details(peer).sni


async def test_a_handshake_with_rubbish_fails_with_an_alert(our_tls):
    """The peer learns why, and the descriptor is closed."""
    ours, theirs = connected()
    theirs.settimeout(5)
    theirs.sendall(b"\x16\x03\x01\x00\x05rubbish")
    with pytest.raises(ssl.SSLError):
        await our_tls.start(ours, server_side=True)
    assert ours.fileno() == -1
    assert theirs.recv(100)[:1] == b"\x15"
    theirs.close()


async def ended(transport):
    """Read until the connection has ended; give the longest time that one read took, in seconds."""
    longest = 0.0
    with trio.fail_after(20):
        while transport.read_state is None:
            await arrived(transport)
            before = time.perf_counter()
            transport.read()
            longest = max(longest, time.perf_counter() - before)
            await trio.sleep(0)
    return longest


@pytest.mark.parametrize(
    ("send", "server_side"),
    [(key_updates, True), (key_updates, False), (hello_requests, False)],
    ids=["client-key-updates", "backend-key-updates", "backend-renegotiation"],
)
async def test_records_without_payload_are_a_flood(wrapped, nursery, send, server_side):
    """A peer that sends nothing else is cut off after a few, and no read works on many of them."""
    version = ssl.TLSVersion.TLSv1_3 if send is key_updates else ssl.TLSVersion.TLSv1_2
    transport, peer = await wrapped(version, server_side=server_side)
    nursery.start_soon(trio.to_thread.run_sync, send, peer, 50_000)
    longest = await ended(transport)

    assert (transport.read_state, transport.fault) == (RESET, Reason.CONTROL_FLOOD)
    assert "without payload" in transport.error
    assert longest < 0.05
    transport.abort()


async def test_a_flood_right_behind_the_handshake_is_one(contexts, our_tls, nursery):
    """Also where it comes in the same packets."""
    ours, theirs = connected()
    flooded = queue.Queue()

    def flood():
        peer = contexts[1].wrap_socket(theirs, server_hostname="localhost")
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        key_updates(peer, 2_000)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        flooded.put(peer)

    contexts[0].maximum_version = contexts[1].maximum_version = ssl.TLSVersion.TLSv1_3
    nursery.start_soon(trio.to_thread.run_sync, flood)
    transport = await our_tls.start(ours, server_side=True)
    assert await ended(transport) < 0.05
    assert transport.fault is Reason.CONTROL_FLOOD
    transport.abort()
    await trio.to_thread.run_sync(flooded.get().close)


async def test_a_read_of_many_key_updates_is_short(wrapped):
    """Whatever one read of the socket gives: OpenSSL gets a few records of it, and does not keep the event loop."""
    transport, peer = await wrapped()
    await trio.to_thread.run_sync(key_updates, peer, 2400)
    began = time.thread_time()
    assert transport.read() == b""
    assert time.thread_time() - began < 0.004  # all records at once: 9 ms
    assert transport.fault is Reason.CONTROL_FLOOD


async def test_a_few_key_updates_between_payload_are_none(wrapped):
    """Whether they ask for one of ours in return or not."""
    transport, peer = await wrapped()
    for number in range(100):
        key_updates(peer, 20, ask=number % 2 == 0)
        peer.sendall(b"payload")
    assert await read_all(transport, 700) == b"payload" * 100
    assert transport.write([b"answer"]) is None
    assert await trio.to_thread.run_sync(peer.recv, 100) == b"answer"
    assert transport.fault is None


async def test_replies_that_a_peer_does_not_read_do_not_pile_up(wrapped, our_tls, nursery, monkeypatch):
    """A peer that asks for key updates and reads none of them is cut off; with rustls, one reply waits for all."""
    monkeypatch.setattr(tls_transport, "MAX_PENDING_BYTES", 65536)
    transport, peer = await wrapped(buffer=4096)
    while transport.write([bytes(16_000)]) is None:
        pass

    def ask():
        for _ in range(20_000 if our_tls.is_openssl else 1000):
            key_updates(peer, 16, ask=True)
            peer.sendall(b"x")

    if our_tls.is_openssl:
        nursery.start_soon(trio.to_thread.run_sync, until_broken, ask)
        await ended(transport)
        assert "does not read the replies" in transport.error
    else:
        waiting = transport.stream.flush()
        nursery.start_soon(trio.to_thread.run_sync, ask)
        assert await read_all(transport, 1000) == b"x" * 1000
        assert transport.stream.flush() <= waiting
    transport.abort()


async def test_a_flood_during_the_dial_ends_it(wrapped, nursery):
    """The monitor of clients that leave reads it, and does not turn for nothing."""
    transport, peer = await wrapped(buffer=4096)
    monitor = DisconnectMonitor()
    nursery.start_soon(monitor.run)
    nursery.start_soon(trio.to_thread.run_sync, until_broken, lambda: key_updates(peer, 50_000, ask=True))
    before = time.process_time()
    with trio.fail_after(10), monitor.watch(transport, allow_half_close=False) as watched:
        await trio.sleep_forever()
    assert "without payload" in watched.disconnect_detail
    assert transport.fault is Reason.CONTROL_FLOOD
    assert time.process_time() - before < 1
    transport.abort()
    nursery.cancel_scope.cancel()
    monitor.close()


async def test_close_says_goodbye(wrapped):
    """A peer that waits sees an orderly end, and not truncation; one that is reset sees none."""
    transport, peer = await wrapped()
    transport.close()
    assert await trio.to_thread.run_sync(peer.recv, 10) == b""
    transport, peer = await wrapped()
    transport.abort()
    with pytest.raises(OSError, match=r"reset|EOF"):
        await trio.to_thread.run_sync(peer.recv, 10)
