"""Clients that disconnect while nothing is read from them: detection, and bytes that are kept."""

import socket
import ssl

import pytest
import trio
import trio.testing

from tests.client import BINARY, CLOSE, frame
from tests.net.ends import connected, reset
from tests.net.tls_ends import Tls, delivered, read_all
from tests.serving import recording
from wsbridge.net.disconnect import MAX_BUFFERED_BYTES, DisconnectMonitor
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import Reason


@pytest.fixture
async def watch(nursery):
    """A watch that runs."""
    watch = DisconnectMonitor()
    nursery.start_soon(watch.run)
    yield watch
    nursery.cancel_scope.cancel()
    watch.close()


@pytest.fixture
def ends():
    """Make a transport and its peer; closed at the end."""
    opened = []

    def make(kind="tcp"):
        ours, theirs = connected(kind)
        opened.extend([ours, theirs])
        return SocketTransport(ours), theirs

    yield make
    for sock in opened:
        sock.close()


@pytest.fixture
def tls_ends(contexts, our_tls):
    """Make TLS transports and their peers; closed at the end."""
    made = Tls(contexts, our_tls)
    yield made
    made.close()


async def gone(watch, wire, *, halves=False):
    """Wait over a transport until its peer goes; say how it went."""
    with trio.fail_after(9), watch.watch(wire, allow_half_close=halves) as watched:
        await trio.sleep_forever()
    assert not len(watch)
    return watched.disconnect_detail


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("earlier", [False, True])
async def test_an_orderly_end_is_noticed(watch, ends, nursery, kind, earlier):
    """A peer that closes is gone, whether before or during the watch, and what it had sent is still there to read."""
    wire, theirs = ends(kind)
    theirs.send(b"last words")
    if earlier:
        theirs.close()
    else:
        nursery.start_soon(trio.to_thread.run_sync, theirs.close)
    assert await gone(watch, wire) == "closed"
    assert wire.read() == b"last words"


@pytest.mark.parametrize("halves", [False, True])
async def test_a_reset_is_noticed(watch, ends, nursery, halves):
    """A connection that broke is gone, whatever else may be."""
    wire, theirs = ends()
    nursery.start_soon(trio.to_thread.run_sync, reset, theirs)
    assert await gone(watch, wire, halves=halves) == "Connection reset by peer"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_half_an_end_is_none_where_peers_may_wait_for_an_answer(watch, ends, kind):
    """With `allow_half_close`, a FIN leaves the peer there, and nothing is read."""
    wire, theirs = ends(kind)
    theirs.send(b"request")
    theirs.shutdown(socket.SHUT_WR)
    with trio.move_on_after(0.05) as scope, watch.watch(wire, allow_half_close=True) as watched:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not watched.disconnect_detail
    assert wire.read() == b"request"


async def test_a_unix_peer_that_closed_for_good_is_gone(watch, ends):
    """A Unix socket has no reset; its hang-up means that no answer is awaited."""
    wire, theirs = ends("unix")
    theirs.close()
    assert await gone(watch, wire, halves=True) == "closed"


async def test_what_a_unix_peer_sent_before_it_closed_is_for_the_backend(watch, ends):
    """As over TCP, where closing sends a FIN: the dial goes on, is not busy with the hang-up, and can be cancelled."""
    wire, theirs = ends("unix")
    theirs.send(b"last words")
    theirs.close()
    with trio.move_on_after(0.05) as scope, watch.watch(wire, allow_half_close=True) as watched:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not watched.disconnect_detail
    with trio.fail_after(9), watch.watch(wire, allow_half_close=True) as watched:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert watch.cancel(wire)
        await trio.sleep_forever()
    assert not watched.disconnect_detail
    assert wire.read() == b"last words"


async def test_a_websocket_on_a_unix_socket_may_close_before_the_backend_is_there(watch, ends):
    """Payload, an orderly close frame and a hang-up: a proxy in front passes them on as they come."""
    wire, theirs = ends("unix")
    theirs.send(sent := frame(BINARY, b"last words") + frame(CLOSE, b"\x03\xe8"))
    theirs.close()
    framing = WebSocketFraming("server", "bytes")
    with trio.fail_after(9), watch.watch(wire, allow_half_close=False, framing=framing) as watched:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert watch.cancel(wire)
        await trio.sleep_forever()
    assert not watched.disconnect_detail
    assert wire.read() == sent


async def test_a_plain_peer_is_not_read(watch, ends):
    """What arrives stays with the kernel, and costs no turns of the loop."""
    wire, theirs = ends()
    theirs.send(b"early")
    with trio.move_on_after(0.05), watch.watch(wire, allow_half_close=False):
        await trio.sleep_forever()
    assert not wire.has_buffered()
    assert wire.read() == b"early"


async def test_a_flood_before_the_end_hides_neither(watch, ends):
    """A peer that fills all buffers and then resets is noticed all the same."""
    wire, theirs = ends()
    theirs.setblocking(False)
    try:
        while theirs.send(bytes(65536)):
            pass
    except BlockingIOError:
        pass
    reset(theirs)
    assert await gone(watch, wire) == "Connection reset by peer"


async def test_the_end_of_tls_is_noticed_and_what_came_is_put_back(watch, tls_ends):
    """close_notify without a FIN ends it; the bytes before it are read by the next in order."""
    wire, peer = await tls_ends()
    wire.unread(b"head")

    def leave():
        peer.sendall(b" and frame")
        peer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.unwrap()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, leave)
        assert await gone(watch, wire) == "closed"
    assert await read_all(wire, 14) == b"head and frame"


async def test_a_broken_tls_connection_is_noticed(watch, tls_ends):
    """A FIN without close_notify, and a reset, end it."""
    for leave, words in ((lambda peer: peer.shutdown(socket.SHUT_WR), ("closed", "truncated")), (reset, ("reset",))):
        wire, peer = await tls_ends()
        await trio.to_thread.run_sync(leave, peer)
        how = await gone(watch, wire)
        assert any(word in how for word in words)


async def test_tls_is_read_up_to_a_bound(watch, tls_ends):
    """However much comes, the bound and one read are kept at the most, and put back; the end is noticed."""
    wire, peer = await tls_ends()
    sent = bytes(range(256)) * 2048
    sending = trio.Event()

    def send():
        peer.sendall(sent)

    async with trio.open_nursery() as nursery:

        async def send_all():
            await trio.to_thread.run_sync(send)
            sending.set()

        nursery.start_soon(send_all)
        with watch.watch(wire, allow_half_close=False) as watched, trio.move_on_after(0.2):
            await trio.sleep_forever()
        assert not watched.disconnect_detail
        kept = wire.read()
        assert MAX_BUFFERED_BYTES <= len(kept) < 3 * MAX_BUFFERED_BYTES
        wire.unread(kept)
        assert await read_all(wire, len(sent)) == sent
        await sending.wait()
    reset(peer)
    assert "reset" in await gone(watch, wire)


async def test_half_an_end_of_raw_tls_is_none(watch, tls_ends):
    """On a raw side close_notify is a FIN, after which an answer may be waited for; it is not read."""
    wire, peer = await tls_ends()
    peer.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()
    await delivered(peer)
    with trio.move_on_after(0.05), watch.watch(wire, allow_half_close=True) as watched:
        await trio.sleep_forever()
    assert not watched.disconnect_detail


async def test_all_blocks_can_be_left(watch, ends):
    """`cancel_all` leaves each block without reporting a disconnect."""
    (one, _theirs), (other, _theirs_too) = ends(), ends()
    left = []

    async def wait(wire):
        with watch.watch(wire, allow_half_close=False) as watched:
            await trio.sleep_forever()
        left.append(watched.disconnect_detail)

    with trio.fail_after(9):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, one)
            nursery.start_soon(wait, other)
            while len(watch) < 2:
                await trio.sleep(0)
            watch.cancel_all()
    assert left == ["", ""]


async def test_what_was_done_in_time_is_kept(watch, ends):
    """A block that ends by itself gives its value, and its peer is watched no more."""
    wire, theirs = ends()

    async def work():
        with watch.watch(wire, allow_half_close=False):
            theirs.close()
            return "done"

    assert await work() == "done"
    assert not len(watch)


async def test_a_bug_ends_its_block_alone(watch, ends, monkeypatch):
    """An exception while one peer is looked at is logged, and the other peers are watched on."""
    (one, theirs), (other, others) = ends(), ends()
    monkeypatch.setattr(SocketTransport, "record_socket_error", lambda _: 1 / 0)
    with recording() as records:
        with trio.fail_after(9), watch.watch(one, allow_half_close=False) as watched:
            reset(theirs)
            await trio.sleep_forever()
        assert watched.disconnect_detail == "internal error"
        assert one.fault is Reason.INTERNAL_ERROR
        others.close()
        assert await gone(watch, other) == "closed"
    (bug,) = records.of("internal_error")
    assert bug["component"] == "disconnect"
    records.all.remove(bug)
