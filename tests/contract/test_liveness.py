"""Relay contract: what time does: pings, stalled writes, idle and age, on real sockets with short times."""

from dataclasses import replace

import pytest
import trio

from tests.contract.peers import BINARY, FIN, PING, PONG
from tests.contract.sides import CALM, INITIATORS, SHORT, between, secures, until
from wsbridge.reasons import Reason

PINGING = replace(CALM, ping_interval=0.15, ping_timeout=0.6)

websockets = pytest.mark.parametrize(("who", "pairing"), [("front", ("ws", "raw")), ("back", ("raw", "ws"))])


def ends_of(relay, who):
    """The peer in question, our side of it, and the other peer."""
    other = "back" if who == "front" else "front"
    return getattr(relay, who), getattr(relay, f"{who}_side"), getattr(relay, other)


async def answering(peer):
    """Read on and answer pings, forever."""
    while await peer.some() is not None:
        pass


@websockets
@secures
async def test_a_silent_peer_that_answers_pings_lives(engine, who, pairing, over):
    """Several pings go out in a row, each answered, and payload still passes."""
    async with between(engine, *pairing, over, terms=PINGING) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)
        nursery.start_soon(answering, peer)
        await until(lambda: len(peer.story.pings) >= 6, "pings for longer than the first may be unanswered")
        await peer.send(b"alive")
        assert await other.take(5) == b"alive"
        assert relay.ending is None
        nursery.cancel_scope.cancel()


@websockets
async def test_a_peer_that_answers_no_ping_is_lost(engine, who, pairing):
    """Within `ping_interval` and `ping_timeout`, and the log says why."""
    async with between(engine, *pairing, terms=PINGING) as relay:
        peer, _, other = ends_of(relay, who)
        peer.answers = False
        began = trio.current_time()
        story = await peer.to_the_end()
        await other.to_the_end()
        end = await relay.ended()
        took = trio.current_time() - began
    assert story.pings
    assert (story.ending, story.close) == ("reset", None)
    assert (end.reason, end.initiator) == (
        Reason.CLIENT_LOST if who == "front" else Reason.BACKEND_RESET,
        INITIATORS[who],
    )
    assert "ping" in end.detail
    assert 0.7 <= took < 10


@websockets
async def test_silence_in_one_direction_is_enough_for_a_ping(engine, who, pairing):
    """A proxy on the way cuts on either; whichever side is sent nothing, or sends nothing, is pinged."""
    async with between(engine, *pairing, terms=PINGING) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)

        async def talk(src):
            while True:
                await src.send(b".")
                await trio.sleep(0.03)

        nursery.start_soon(answering, other)
        nursery.start_soon(answering, peer)
        with trio.CancelScope() as talking:
            nursery.start_soon(talk, peer)
            await until(lambda: len(peer.story.pings) >= 2, "pings to a peer that is sent nothing")
        talking.cancel()
        nursery.cancel_scope.cancel()
    async with between(engine, *pairing, terms=PINGING) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)
        nursery.start_soon(answering, peer)
        nursery.start_soon(talk, other)
        await until(lambda: len(peer.story.pings) >= 2, "pings to a peer that sends nothing")
        nursery.cancel_scope.cancel()


@websockets
async def test_any_byte_is_an_answer(engine, who, pairing):
    """A peer that sends payload, or a pong nobody asked for, needs no pong to each ping."""
    async with between(engine, *pairing, terms=PINGING) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)
        peer.answers = False
        nursery.start_soon(answering, peer)
        nursery.start_soon(answering, other)
        for number in range(15):
            await trio.sleep(0.08)
            await peer.send_frame(FIN | (PONG if number % 2 else BINARY), b"x")
        assert relay.ending is None
        assert peer.story.pings
        nursery.cancel_scope.cancel()


@websockets
async def test_the_deadline_stands_still_while_a_peer_is_not_read(engine, who, pairing):
    """The other side is blocked, so its pongs cannot be seen: that is not its fault, and all bytes come."""
    async with between(engine, *pairing, terms=PINGING, buffer=16_384) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)
        _, blocked, _ = ends_of(relay, "back" if who == "front" else "front")
        sent = []

        async def send():
            for _ in range(20):
                await peer.send(bytes(20_000))
            sent.append(True)

        nursery.start_soon(send)
        await until(lambda: blocked.pending is not None, "the other side being blocked")
        await trio.sleep(1.2)  # longer than ping and pong
        assert relay.ending is None
        assert not sent
        nursery.start_soon(answering, peer)
        assert await other.take(400_000) == bytes(400_000)
        nursery.cancel_scope.cancel()


@secures
@pytest.mark.parametrize(
    ("seconds", "times"), [(1.5, 2), pytest.param(120.0, 8, marks=pytest.mark.soak)], ids=["short", "long"]
)
async def test_a_slow_link_out_of_a_flood(engine, over, seconds, times):
    """A client that reads little by little what a backend floods, and answers each ping that it meets there, lives."""
    terms = replace(CALM, ping_interval=0.15 * times, ping_timeout=0.2 * times, write=0.3 * times)
    async with (
        between(engine, "ws", "raw", over, terms=terms, buffer=16_384, seconds=seconds + 20) as relay,
        trio.open_nursery() as nursery,
    ):

        async def flood():
            while True:
                await relay.back.send(bytes(20_000))

        nursery.start_soon(flood)
        got = 0
        until_then = trio.current_time() + seconds
        while trio.current_time() < until_then or got <= 50_000:
            data = await relay.front.some()
            assert data is not None, relay.end
            got += len(data)
            await trio.sleep(0.05)
        assert relay.ending is None
        nursery.cancel_scope.cancel()


async def test_a_client_that_vanishes_from_a_flood(engine):
    """Its kernel receives nothing more and acknowledges nothing new: it is dropped within `write`."""
    terms = replace(CALM, ping_interval=0.15, ping_timeout=0.2, write=0.3)
    async with between(engine, "ws", "raw", terms=terms, buffer=16_384) as relay, trio.open_nursery() as nursery:

        async def flood():
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await relay.back.send(bytes(20_000))

        nursery.start_soon(flood)
        with trio.fail_after(9):
            end = await relay.ended()
    assert end.reason in (Reason.WRITE_STALLED, Reason.CLIENT_LOST)
    assert end.initiator == "client"


@websockets
async def test_pings_do_not_count_against_idle(engine, who, pairing):
    """A connection kept alive by pings alone is idle."""
    terms = replace(CALM, ping_interval=0.1, ping_timeout=60.0, idle=1.2)
    async with between(engine, *pairing, terms=terms) as relay:
        began = trio.current_time()
        front, back = await relay.both()
        end = await relay.ended()
        took = trio.current_time() - began
    assert end.reason is Reason.IDLE_TIMEOUT
    assert len((front if who == "front" else back).pings) >= 2
    assert 1.2 <= took < 10


@websockets
async def test_a_peers_own_pings_do_not_count_against_idle(engine, who, pairing):
    """Nor do those that the peer sends; they are answered."""
    async with between(engine, *pairing, terms=CALM, idle=0.8) as relay, trio.open_nursery() as nursery:
        peer, _, other = ends_of(relay, who)

        async def ping():
            while not peer.closed:
                await peer.send_frame(FIN | PING, b"me")
                await trio.sleep(0.1)

        nursery.start_soon(ping)
        nursery.start_soon(other.to_the_end)
        story = await peer.to_the_end()
        end = await relay.ended()
        nursery.cancel_scope.cancel()
    assert end.reason is Reason.IDLE_TIMEOUT
    assert story.pongs
    assert set(story.pongs) == {b"me"}


async def test_payload_keeps_it_from_idling(engine):
    """In either direction."""
    async with between(engine, "ws", "raw", idle=1.0) as relay:
        for number in range(24):
            await trio.sleep(0.1)  # less than idle, which the run is longer than in each direction
            src, dst = (relay.front, relay.back) if number < 12 else (relay.back, relay.front)
            await src.send(b"x")
            assert await dst.take(1) == b"x"
        assert relay.ending is None


async def test_max_age_ends_the_busiest(engine):
    """However much it carries."""
    async with between(engine, "ws", "raw", terms=CALM, max_lifetime=0.3) as relay, trio.open_nursery() as nursery:

        async def flood():
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await relay.back.send(bytes(50_000))

        nursery.start_soon(flood)
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.close, story.ending) == ((1001, "max_lifetime"), "fin")
    assert end.reason is Reason.MAX_LIFETIME


async def test_terms_can_be_revised(engine):
    """A pair without a limit gets one, from now on."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        engine.update_options(relay.id, replace(SHORT, idle=0.1))
        front, _ = await relay.both()
        end = await relay.ended()
    assert front.close == (1001, "idle_timeout")
    assert end.reason is Reason.IDLE_TIMEOUT
