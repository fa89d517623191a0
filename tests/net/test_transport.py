"""The transport of a plain socket: what reads and writes give, and what they record of an end."""

import socket

import pytest
import trio
import trio.testing

from tests.net.ends import arrived, connected, reset
from wsbridge.net import transport as module
from wsbridge.net.address import Peer
from wsbridge.net.transport import EOF, RESET, SocketTransport


@pytest.fixture(params=["tcp", "unix"])
def ends(request):
    """A transport and the peer's socket."""
    ours, theirs = connected(request.param)
    with ours, theirs:
        yield SocketTransport(ours), theirs


@pytest.fixture
def tcp():
    """The same over TCP."""
    ours, theirs = connected("tcp")
    with ours, theirs:
        yield SocketTransport(ours), theirs


def test_a_read_gives_what_came_and_a_short_one_ends_the_reading(ends):
    """After a short read the next event is awaited; a Unix socket is read until it is empty."""
    wire, peer = ends
    peer.sendall(b"abc")
    arrived(wire)

    assert wire.read() == b"abc"
    assert wire.readable is (peer.family == socket.AF_UNIX)
    assert wire.read() == b""
    assert not wire.readable
    assert wire.read_state is None


def test_with_an_end_announced_reading_goes_on_until_it_is_met(ends):
    """Data and FIN in one event give no second event."""
    wire, peer = ends
    peer.sendall(b"abc")
    peer.shutdown(socket.SHUT_WR)
    arrived(wire)
    wire.peer_hung_up = wire.read_until_empty = True

    assert wire.read() == b"abc"
    assert wire.readable
    assert wire.read() == b""
    assert (wire.read_state, wire.readable) == (EOF, False)


def test_a_reset_is_recorded_with_its_words(tcp):
    """And it is final."""
    wire, peer = tcp
    reset(peer)
    arrived(wire)

    assert wire.read() == b""
    assert (wire.read_state, wire.error) == (RESET, "Connection reset by peer")
    assert wire.read() == b""
    assert (wire.read_state, wire.error) == (RESET, "Connection reset by peer")


def test_after_a_failed_write_what_had_come_is_still_read_and_its_end_is_no_eof(tcp):
    """The kernel gives the queued bytes, then nothing: the connection counts as reset."""
    wire, peer = tcp
    wire.sock.send(b"never read")
    peer.sendall(b"last words")
    arrived(wire)
    peer.close()
    while wire.read_state is None:
        assert wire.write([b"x"]) in (None, [b"x"])

    assert wire.read_state == RESET
    assert wire.readable
    assert wire.read() == b"last words"
    assert wire.read() == b""
    assert wire.read_state == RESET
    assert not wire.readable


def test_an_error_reported_by_an_event_leaves_what_had_come(tcp):
    """SO_ERROR is read, and so are the bytes before it."""
    wire, peer = tcp
    wire.sock.send(b"never read")
    peer.sendall(b"last words")
    arrived(wire)
    peer.close()
    wire.peer_hung_up = True
    wire.record_socket_error()

    assert (wire.read_state, wire.error) == (RESET, "Connection reset by peer")
    assert wire.read() == b"last words"
    assert wire.read() == b""
    assert (wire.read_state, wire.readable) == (RESET, False)


def test_the_first_error_counts(ends):
    """Later ones change neither the kind nor the words."""
    wire, _ = ends
    wire.record_error(OSError(1, "first"))
    wire.record_error(OSError(2, "second"))

    assert (wire.read_state, wire.error) == (RESET, "first")


def test_what_the_kernel_does_not_take_is_given_back(ends):
    """In order, nothing twice and nothing lost; several buffers are one write."""
    wire, peer = ends
    parts = [bytes([number]) * 50_000 for number in range(100)]
    whole = b"".join(parts)
    rest = wire.write(list(parts))
    assert rest is not None
    got = b""
    while rest is not None:
        got += peer.recv(1 << 20)
        rest = wire.write(rest)
    peer.settimeout(0.2)
    while len(got) < len(whole):
        got += peer.recv(1 << 20)

    assert got == whole
    assert wire.sent_bytes == len(whole)


def test_a_single_buffer_is_cut_without_copying(ends):
    """The rest is a view."""
    wire, _ = ends
    rest = wire.write([bytes(20_000_000)])

    assert len(rest) == 1
    assert isinstance(rest[0], memoryview)


def test_a_full_kernel_gives_all_back(ends):
    """And a write into it is no error."""
    wire, _ = ends
    while wire.write([bytes(100_000)]) is None:
        pass
    parts = [b"a", b"b"]
    while wire.write([b"x"]) is None:
        pass

    assert wire.write(parts) == parts
    assert wire.read_state is None


def test_more_buffers_than_one_call_takes_leave_no_rest_behind(ends):
    """A rest that the kernel had room for would wait for an event that never comes."""
    wire, peer = ends
    parts = [b"%04d" % number for number in range(3 * module.MAX_IOV_BUFFERS)]

    assert wire.write(list(parts)) is None
    got = b""
    while len(got) < 4 * len(parts):
        got += peer.recv(65536)
    assert got == b"".join(parts)


def test_finish_ends_one_direction(ends):
    """The peer sees FIN and may go on."""
    wire, peer = ends
    assert wire.send_eof()
    assert peer.recv(10) == b""
    peer.sendall(b"more")
    arrived(wire)

    assert wire.read() == b"more"


def test_finish_on_a_connection_that_has_gone_is_no_exception(tcp):
    """It is recorded as a reset."""
    wire, peer = tcp
    reset(peer)
    arrived(wire)
    assert wire.send_eof()

    assert wire.read_state == RESET


def test_abort_is_a_reset(tcp):
    """With its descriptor closed."""
    wire, peer = tcp
    wire.abort()

    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    assert wire.sock.fileno() == -1


def test_discard_drops_and_tells_the_end(ends):
    """It gives the number of bytes, and nothing at the end."""
    wire, peer = ends
    peer.sendall(bytes(1000))
    arrived(wire)
    assert wire.discard() == 1000
    assert wire.read_state is None
    peer.close()
    while wire.read_state is None:
        assert wire.discard() == 0
    assert wire.read_state == EOF


def test_unread_bytes_come_first(ends):
    """Before anything from the socket, in the order in which they stood."""
    wire, peer = ends
    peer.sendall(b"third")
    arrived(wire)
    wire.readable = False
    wire.unread(b"second")
    wire.unread(b"first")
    wire.unread(b"")

    assert wire.readable
    assert wire.has_buffered()
    assert wire.read() == b"firstsecond"
    assert not wire.has_buffered()
    assert wire.read() == b"third"


def test_acknowledged_and_unacknowledged_bytes(ends):
    """What the peer's kernel has is acknowledged over TCP; over a Unix socket, what the peer has read."""
    wire, peer = ends
    before = wire.acked_bytes()
    wire.write([bytes(1000)])
    got = b""
    while len(got) < 1000:
        got += peer.recv(1000)
    while wire.unacked_bytes():
        pass

    assert wire.acked_bytes() - before == 1000
    assert not wire.retransmitting()


def test_bytes_that_no_kernel_took_are_unacknowledged(ends):
    """A peer that reads nothing lets them pile up."""
    wire, _ = ends
    while wire.write([bytes(100_000)]) is None:
        pass

    assert wire.unacked_bytes() > 0


def test_a_closed_socket_has_no_numbers(ends):
    """Asking is no error."""
    wire, _ = ends
    wire.close()

    assert wire.unacked_bytes() == 0
    assert not wire.retransmitting()


async def test_read_some_waits(ends):
    """For bytes, and for the end."""
    wire, peer = ends
    got = []

    async def read():
        got.append(await wire.read_some())
        got.append(await wire.read_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        peer.sendall(b"abc")
        while not got:
            await trio.testing.wait_all_tasks_blocked()
        peer.close()
    assert got == [b"abc", b""]


async def test_read_some_raises_on_a_reset(tcp):
    """As the steps before the relay expect it."""
    wire, peer = tcp
    reset(peer)
    with pytest.raises(ConnectionResetError):
        await wire.read_some()


async def test_write_all_waits_for_the_kernel(ends):
    """Until everything is sent."""
    wire, peer = ends
    peer.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
    got = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write_all, bytes(8_000_000))
        while got < 8_000_000:
            got += len(await stream.receive_some(1 << 20))
    assert wire.sent_bytes == 8_000_000


async def test_write_all_raises_on_a_reset(tcp):
    """Not before it is noticed, but then always."""
    wire, peer = tcp
    reset(peer)
    with pytest.raises(OSError):
        while True:
            await wire.write_all(bytes(1000))
            await trio.lowlevel.checkpoint()


def test_a_plain_peer_has_said_nothing(ends):
    """Without TLS there is neither a name nor a certificate."""
    peer = Peer("203.0.113.7", 5, socket.AF_INET)
    assert ends[0].with_tls_details(peer) is peer
