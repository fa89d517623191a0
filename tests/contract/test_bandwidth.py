"""Relay contract: so many bytes a second and no more, evenly, every byte exact, every ending as it was.

Seconds are those of a virtual clock, which jumps on when nothing is left to do; the sockets are real.
"""

import itertools
import time
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.contract.peers import FIN, PING
from tests.contract.sides import CALM, SHORT, between, encrypted, overs, pairings, secures, until
from tests.contract.test_bytes import drain, gathered, pour
from wsbridge.limits.rate import SharedBucket, TokenBucket
from wsbridge.reasons import Reason

KB = 1000


@pytest.fixture
def clock():
    """A clock that jumps to the next deadline once nothing has moved for 5 ms, which is longer than bytes take."""
    return MockClock(autojump_threshold=0.005)


async def arrivals(peer, seconds):
    """Read on for so many seconds; give what came, each with its time."""
    came = []
    began = trio.current_time()
    with trio.move_on_after(seconds):
        while (got := await peer.some()) is not None:
            came.append((trio.current_time() - began, len(got)))
    return came


async def flood(peer, piece=4096):
    """Send without end."""
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        while True:
            await peer.send(bytes(piece))


def together(came, first=0.0):
    """Bytes that came after a time."""
    return sum(count for at, count in came if at >= first)


@pairings
@overs
async def test_bytes_are_exact_under_limits(engine, clock, front, back, over):
    """Both ways at once, in pieces of any size, through portions that cut frames anywhere."""
    size = 600 * KB
    async with between(engine, front, back, over, bytes_per_second=400 * KB) as relay:
        began = trio.current_time()
        hashes = await gathered(
            up=pour(relay.front, size, 1),
            down=pour(relay.back, size, 2),
            up_seen=drain(relay.back, size),
            down_seen=drain(relay.front, size),
        )
        took = trio.current_time() - began
    assert hashes["up"] == hashes["up_seen"]
    assert hashes["down"] == hashes["down_seen"]
    assert took > 1.3


@pairings
@secures
@pytest.mark.parametrize("way", ["up", "down"])
async def test_the_rate_holds_and_is_smooth(engine, clock, front, back, over, way):
    """Over two seconds within 10 %, and never more than some 100 ms' worth at a time."""
    rate = 20 * KB
    async with between(engine, front, back, over, bytes_per_second=rate) as relay, trio.open_nursery() as nursery:
        src, dst = (relay.front, relay.back) if way == "up" else (relay.back, relay.front)
        nursery.start_soon(flood, src)
        await drain_some(dst)
        came = await arrivals(dst, 2.0)
        relay.scope.cancel()
    assert together(came) == pytest.approx(2 * rate, rel=0.1)
    most = max(together([one for one in came if at <= one[0] < at + 0.02]) for at, _ in came)
    assert most <= rate * 0.15, most
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(came)]
    assert max(gaps) < 0.25


async def drain_some(peer):
    """Let the first burst pass."""
    await peer.some()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_the_rate_holds_in_real_time(engine, way):
    """The same by the clock on the wall: never more, and no less as soon as nothing else holds this machine up."""
    rate = 20 * KB
    async with between(engine, "ws", "raw", bytes_per_second=rate) as relay, trio.open_nursery() as nursery:
        src, dst = (relay.front, relay.back) if way == "up" else (relay.back, relay.front)
        came = []
        began = time.monotonic()
        nursery.start_soon(flood, src)
        while not came or max(together(came, at) - together(came, at + 1.0) for at, _ in came) < 0.85 * rate:
            got = await dst.some()
            came.append((time.monotonic() - began, len(got)))
        for at, _ in came:
            assert together(came) - together(came, at) <= (at + 0.1) * rate * 1.15
        relay.scope.cancel()


@pytest.mark.parametrize("rate", [2 * KB, 200 * KB, 5000 * KB])
async def test_other_rates_hold(engine, clock, rate):
    """From slow to fast."""
    async with between(engine, "ws", "raw", bytes_per_second=rate) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(flood, relay.back, 65536)
        await drain_some(relay.front)
        came = await arrivals(relay.front, 2.0)
        relay.scope.cancel()
    assert together(came) == pytest.approx(2 * rate, rel=0.1)


async def test_small_messages_count_their_payload(engine, clock):
    """Heads of frames are not counted, and no payload waits that there is room for."""
    async with between(engine, "ws", "raw", bytes_per_second=20 * KB) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(flood, relay.front, 20)
        await drain_some(relay.back)
        came = await arrivals(relay.back, 2.0)
        relay.scope.cancel()
    assert together(came) == pytest.approx(40 * KB, rel=0.1)


async def test_a_message_below_the_rate_is_not_delayed(engine, clock):
    """Who stays below the limit does not feel it."""
    async with between(engine, "ws", "raw", bytes_per_second=20 * KB) as relay:
        times = []
        for _ in range(20):
            began = trio.current_time()
            await relay.front.send(b"x" * 100)
            await relay.back.take(100)
            times.append(trio.current_time() - began)
            await trio.sleep(0.02)
    assert sorted(times)[10] < 0.01


@pairings
async def test_two_connections_of_one_identity_share(engine, clock, front, back):
    """Together they have the rate, and each half of it; alone again, one has it all."""
    rate = 40 * KB
    share = SharedBucket(TokenBucket(rate), TokenBucket(rate))
    async with (
        between(engine, front, back, share=share) as one,
        between(engine, front, back, share=share) as two,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flood, one.back)
        nursery.start_soon(flood, two.back)
        await drain_some(one.front)
        found = await gathered(one=arrivals(one.front, 2.0), two=arrivals(two.front, 2.0))
        sums = [together(found["one"]), together(found["two"])]
        assert sum(sums) == pytest.approx(2 * rate, rel=0.1)
        assert max(sums) - min(sums) <= rate * 0.2, sums
        two.scope.cancel()
        await two.over.wait()
        await arrivals(one.front, 0.4)
        assert together(await arrivals(one.front, 1.0)) == pytest.approx(rate, rel=0.15)
        one.scope.cancel()


async def test_the_two_ways_do_not_share(engine, clock):
    """Each way has the whole rate."""
    rate = 40 * KB
    share = SharedBucket(TokenBucket(rate), TokenBucket(rate))
    async with between(engine, "ws", "raw", share=share) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(flood, relay.front)
        nursery.start_soon(flood, relay.back)
        found = await gathered(up=arrivals(relay.back, 2.0), down=arrivals(relay.front, 2.0))
        relay.scope.cancel()
    assert together(found["up"]) == pytest.approx(2 * rate, rel=0.12)
    assert together(found["down"]) == pytest.approx(2 * rate, rel=0.12)


@pairings
@overs
async def test_what_is_owed_at_the_end_is_delivered_at_the_rate(engine, clock, front, back, over):
    """A back that sent all and ended: its bytes come whole, no faster than allowed, and then its end."""
    size = 40 * KB
    terms = replace(CALM, close=0.5, half_close=0.5)
    async with between(engine, front, back, over, terms=terms, bytes_per_second=40 * KB) as relay:
        began = trio.current_time()

        async def say():
            await relay.back.send(b"y" * size)
            await relay.back.finish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            story = await relay.front.to_the_end()
            took = trio.current_time() - began
            await relay.front.finish() if front == "raw" else None
            await relay.back.to_the_end()
        end = await relay.ended()
    assert story.data == b"y" * size
    assert took > 0.7
    assert end.reason is Reason.BACKEND_CLOSED
    assert relay.end.bytes_to_client == size


async def test_a_front_that_vanishes_is_noticed_though_it_is_not_read(engine, clock):
    """Its reset ends the connection at once; what it had sent ahead is not carried for minutes."""
    async with between(engine, "ws", "raw", bytes_per_second=2 * KB) as relay:
        await relay.front.send(bytes(60 * KB))
        await until(lambda: relay.front_side.rate_limited, "the front being held up")
        relay.front.reset()
        await relay.back.to_the_end()
        end = await relay.ended()
    assert end.reason is Reason.CLIENT_LOST
    assert relay.back.story.ending == "reset"


async def test_a_back_that_breaks_off_is_delivered_first(engine, clock):
    """What it sent before its reset arrives at the rate, and then the front is notified."""
    async with between(engine, "ws", "raw", bytes_per_second=20 * KB) as relay:
        await relay.back.send(b"z" * 10 * KB)
        await until(lambda: relay.back_side.rate_limited, "the back being held up")
        relay.back.reset()
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert story.data == b"z" * 10 * KB
    assert (end.reason, story.close) == (Reason.BACKEND_RESET, (1011, "backend_reset"))


async def test_pings_are_answered_and_a_held_up_peer_is_not_lost(engine, clock):
    """A client whose pong waits behind what it may not send yet is alive; its own ping is answered in the end."""
    terms = replace(SHORT, ping_interval=0.1, ping_timeout=0.1)
    async with between(engine, "ws", "raw", terms=terms, bytes_per_second=20 * KB) as relay:

        async def read(peer):
            while await peer.some() is not None:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, relay.front)
            await relay.front.send(bytes(30 * KB))
            await relay.front.send_frame(FIN | PING, b"me")
            assert await relay.back.take(30 * KB)
            await until(lambda: relay.front.story.pongs == [b"me"], "the answer to its ping")
            assert relay.ending is None
            nursery.cancel_scope.cancel()


async def test_a_drain_ends_a_held_up_pair_in_time(engine, clock):
    """An ending of our own does not wait for what is held up."""
    async with between(engine, "ws", "raw", terms=SHORT, bytes_per_second=2 * KB) as relay:
        await relay.front.send(bytes(60 * KB))
        await until(lambda: relay.front_side.rate_limited, "the front being held up")
        began = trio.current_time()
        engine.terminate(relay.id, Reason.DRAINING)
        await relay.both()
        end = await relay.ended()
        assert trio.current_time() - began < 1
    assert end.reason is Reason.DRAINING
    assert relay.front.story.close == (1012, "draining")


async def test_idle_does_not_count_what_is_held_up(engine, clock):
    """A connection at its limit moves payload all the time."""
    async with between(engine, "ws", "raw", idle=0.3, bytes_per_second=20 * KB) as relay:
        await relay.front.send(bytes(20 * KB))
        assert await relay.back.take(20 * KB)
        assert relay.ending is None


@encrypted
async def test_a_limit_can_be_set_and_lifted_on_the_way(engine, clock, over):
    """New terms hold at once, and no byte is lost or changes its place."""
    async with between(engine, "raw", "raw", over=over) as relay, trio.open_nursery() as nursery:
        hashes = {}

        async def send():
            hashes["sent"] = await pour(relay.front, 900 * KB, 5)

        nursery.start_soon(send)
        took = {}

        async def read():
            hashes["seen"] = await drain(relay.back, 900 * KB)
            took["all"] = trio.current_time()

        began = trio.current_time()
        engine.update_options(relay.id, replace(CALM, bytes_per_second=100 * KB))
        nursery.start_soon(read)
        await trio.sleep(1)  # the rate over a second is what is measured
        assert relay.from_front < 300 * KB
        engine.update_options(relay.id, CALM)
        await until(lambda: "all" in took, "the rest")
        assert took["all"] - began < 5
    assert hashes["sent"] == hashes["seen"]
