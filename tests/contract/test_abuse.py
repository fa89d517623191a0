"""Relay contract: peers that send too much, of anything, at any time; and what many pairs leave behind."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.contract.conftest import ENGINES
from tests.contract.peers import BINARY, FIN, PING, RawPeer, Transport, WebSocketPeer
from tests.contract.sides import CALM, INITIATORS, SHORT, Relay, between, running, secures, sockets, unread_bytes, until
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason
from wsbridge.relay.endpoint import Side

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

FLOODS = {
    "pings": (FIN | PING, b"x", b""),
    "pongs": (FIN | 10, b"x", b""),
    "empty messages": (FIN | BINARY, b"", b""),
    "empty fragments": (0, b"", b"first"),
}


@pytest.mark.parametrize("pairing", [("ws", "raw"), ("raw", "ws"), ("ws", "ws")], ids="-".join)
@pytest.mark.parametrize("name", FLOODS)
async def test_floods_of_frames_that_carry_nothing(engine, name, pairing):
    """They end with 1008; the other side sees that the stream broke."""
    first, body, before = FLOODS[name]
    who = "back" if pairing[0] == "raw" else "front"
    async with between(engine, *pairing, terms=CALM, control_frame_rate=200) as relay:
        peer, other = (relay.front, relay.back) if who == "front" else (relay.back, relay.front)

        async def flood():
            if before:
                await peer.send_frame(BINARY, before)
            many = b"".join(peer.frame(first, body) for _ in range(100))
            with pytest.raises(GONE):
                while True:
                    await peer.transport.send(many)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(other.to_the_end)
            peer.answers = False
            story = await peer.to_the_end()
            end = await relay.ended()
    assert (end.reason, end.initiator) == (Reason.CONTROL_FLOOD, INITIATORS[who])
    assert "200" in end.detail
    assert story.close in ((1008, "control_flood"), None)  # the reset that ends the lingering may overtake it
    assert other.story.ending == ("reset" if other.speaks == "raw" or who == "front" else "fin")
    assert len(story.pongs) <= 1512


async def test_a_rate_below_the_limit_is_no_flood(engine):
    """So many a second, for longer than the window in which they are counted."""
    async with (
        between(engine, "ws", "raw", terms=CALM, control_frame_rate=100) as relay,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(relay.front.to_the_end)
        for _ in range(5):
            await relay.front.transport.send(relay.front.frame(FIN | PING) * 90)
            await trio.sleep(0.02)
        relay.take_back()
        relay.front_side.control_window_start -= 10.0  # the window is over
        await relay.front.transport.send(relay.front.frame(FIN | PING) * 120)
        await until(lambda: len(relay.front.story.pongs) == 570)
        assert relay.ending is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["front", "back"])
async def test_at_most_one_pong_waits(engine, who):
    """A peer that pings and reads no pong: nothing grows, and the pong it finds in the end is for its last ping."""
    pairing = ("ws", "raw") if who == "front" else ("raw", "ws")
    async with between(engine, *pairing, terms=replace(CALM, control_frame_rate=10**9), buffer=16_384) as relay:
        peer, ours = (relay.front, relay.front_side) if who == "front" else (relay.back, relay.back_side)
        for number in range(100):
            many = b"".join(peer.frame(FIN | PING, b"%06d" % (number * 100 + at) + bytes(100)) for at in range(100))
            await peer.transport.send(many)
        given = relay.given[0 if who == "front" else 1]
        await until(lambda: not (peer.transport.unacked() or unread_bytes(given)), "all pings being read")
        relay.take_back()
        assert ours.pending is not None
        assert sum(map(len, ours.pending)) + len(ours.pending_pong) < 300
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.to_the_end)
            await until(lambda: peer.story.pongs and peer.story.pongs[-1][:6] == b"009999", "the last pong")
            nursery.cancel_scope.cancel()
        assert len(peer.story.pongs) < 9_000


async def test_a_frame_without_end_needs_no_memory(engine):
    """2**63 - 1 bytes are announced, and what comes of them is passed on as it comes."""
    async with between(engine, "ws", "ws") as relay:
        head = bytes([FIN | BINARY, 0xFF]) + (2**63 - 1).to_bytes(8, "big") + bytes(4)
        await relay.front.transport.send(head + b"abc")
        assert await relay.back.take(3) == b"abc"
        await relay.front.transport.send(bytes(100_000))
        assert await relay.back.take(100_000) == bytes(100_000)
        assert not relay.back_is_blocked


async def test_a_flood_on_one_pair_does_not_starve_another(engine):
    """A turn is short: an echo beside four floods comes back soon."""
    async with (
        between(engine, "ws", "raw", terms=replace(CALM, control_frame_rate=10**9)) as pings,
        between(engine, "ws", "raw") as bulk,
        between(engine, "ws", "raw") as echo,
        trio.open_nursery() as nursery,
    ):

        async def flood(peer, data):
            while True:
                await peer.transport.send(data)

        async def sink(peer):
            while not isinstance(await peer.transport.receive(), str):
                pass

        nursery.start_soon(flood, pings.front, pings.front.frame(FIN | PING) * 2000)
        nursery.start_soon(sink, pings.front)
        nursery.start_soon(flood, bulk.front, bulk.front.frame(FIN | BINARY, bytes(60_000)))
        nursery.start_soon(sink, bulk.back)
        for _ in range(20):
            with trio.fail_after(9):
                await echo.front.send(b"ping")
                assert await echo.back.take(4) == b"ping"
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------- lingering


@secures
async def test_a_peer_that_keeps_sending_after_the_end_is_cut(engine, over):
    """Its input is read and dropped up to the bytes allowed, and then it is reset."""
    terms = replace(CALM, lingering_bytes=262_144)
    async with between(engine, "ws", "raw", over, terms=terms, buffer=16_384) as relay:
        relay.front.answers = False
        await relay.front.send_frame(0xC2, b"x")
        sent = 0
        with pytest.raises(GONE), trio.fail_after(10):
            while True:
                await relay.front.transport.send(bytes(16_384))
                sent += 16_384
        with trio.fail_after(9):
            end = await relay.ended()
    assert 200_000 < sent < 2_000_000
    assert end.reason is Reason.PROTOCOL_ERROR


async def test_the_close_frame_is_read_though_the_peer_was_still_sending(engine):
    """A socket with unread input is not just closed: that would destroy the close frame."""
    for _ in range(5):
        async with between(engine, "ws", "raw", terms=SHORT) as relay:
            relay.front.answers = False
            bad = relay.front.frame(0xC2, b"x")
            await relay.front.transport.send(bad + bytes(200_000))
            story = await relay.front.to_the_end()
            assert (story.close, story.ending) == ((1002, "protocol_error"), "fin")
            await relay.ended()


async def test_lingering_is_over_in_time(engine):
    """A peer that neither sends nor closes holds its socket for `lingering`, not longer."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        await relay.front.send_frame(0xC2, b"x")
        began = trio.current_time()
        await relay.ended()
        assert 0.08 <= trio.current_time() - began < 1.5


@pytest.mark.parametrize("make", ENGINES, ids=lambda make: make.name)
async def test_only_so_many_sockets_linger(make):
    """Beyond the limit they are closed at once; and those cancelled give their place back."""
    async with running(lambda: make(max_lingering=1)) as engine:
        async with between(engine, "ws", "raw") as first:
            await first.front.send_frame(0xC2, b"x")
            await until(lambda: engine.loop.lingering == 1)
            async with between(engine, "ws", "raw") as second:
                await second.front.send_frame(0xC2, b"x")
                with trio.fail_after(9):
                    await second.ended()
            assert not first.over.is_set()
        assert engine.loop.lingering == 0


@secures
async def test_a_peer_that_takes_nothing_cannot_hold_an_ending(engine, over):
    """Its buffers are full, so not even the close frame gets out: after `close` it is reset."""
    async with between(engine, "ws", "raw", over, terms=SHORT, buffer=16_384) as relay:
        await relay.fill("front", 20_000)
        engine.terminate(relay.id, Reason.SHUTDOWN)
        with trio.fail_after(9):
            end = await relay.ended()
        story = await relay.front.to_the_end()
    assert end.reason is Reason.SHUTDOWN
    assert story.ending == "reset"


# ---------------------------------------------------------------------------------------------- many


def descriptors():
    """Open descriptors of this process."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def cheap(speaks, role):
    """An endpoint and its peer over a Unix socket."""
    ours, theirs = sockets("unix")
    transport = Transport(theirs)
    if speaks == "raw":
        return Side(SocketTransport(ours)), RawPeer(transport)
    return Side(SocketTransport(ours), role), WebSocketPeer(transport, masks=role == "server")


async def live(relay, number):
    """Exchange a word, and end in one of six ways."""
    front, back = relay.front, relay.back
    await front.send(b"hello")
    await back.take(5)
    match number % 6:
        case 0:
            await front.finish()
        case 1:
            await back.finish()
        case 2:
            front.transport.close()
            await back.to_the_end()
        case 3:
            back.transport.close()
            await front.to_the_end()
        case 4:
            relay.scope.cancel()
        case 5:
            relay.engine.terminate(relay.id, Reason.DRAINING)
    if number % 6 not in (2, 3):
        with trio.move_on_after(2):
            await relay.both()
    for peer in (front, back):
        peer.transport.close()


@pytest.mark.parametrize("make", ENGINES, ids=lambda make: make.name)
@pytest.mark.parametrize("count", [1200, pytest.param(20_000, marks=pytest.mark.soak)], ids=["1200", "20000"])
async def test_thousands_of_pairs_leave_nothing_behind(make, count):
    """No descriptor, no appointment, no pair; however they ended."""
    terms = replace(SHORT, ping_interval=30.0, write=30.0, idle=60.0)
    async with running(make) as engine:
        gc.collect()
        before = descriptors()
        reasons = set()

        async def one(number):
            front_side, front = cheap("ws" if number // 6 % 2 else "raw", "server")
            back_side, back = cheap("ws" if number // 12 % 2 else "raw", "client")
            relay = Relay(engine, front_side, front, back_side, back, terms)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.run)
                nursery.start_soon(live, relay, number)
            if relay.end:
                reasons.add(relay.end.reason)

        for start in range(0, count, 400):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 400):
                    nursery.start_soon(one, number)
        gc.collect()
        assert descriptors() == before
        assert reasons >= {Reason.CLIENT_CLOSED, Reason.BACKEND_CLOSED, Reason.CLIENT_LOST, Reason.DRAINING}
        if hasattr(engine, "loop"):
            assert engine.loop.lingering == 0
            assert engine.loop._sides == {}
            assert engine.loop._wheel.next_deadline() is None
