"""What only the native engine does: lending pairs, giving them back, and outliving a bug of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.contract.conftest import ENGINES
from tests.contract.sides import CALM, Relay, between, exchange, running, side, until
from tests.serving import open_files
from wsbridge import native
from wsbridge.accept import RESERVED_DESCRIPTORS
from wsbridge.engine_choice import EngineChoice
from wsbridge.reasons import Reason

if native.load() is None:
    pytest.skip("the native engine is not installed: there is no cargo", allow_module_level=True)

from wsbridge.native import engine as native_engine
from wsbridge.native.engine import NativeEngine

PAIRINGS = [("ws", "raw"), ("raw", "ws"), ("ws", "ws"), ("raw", "raw")]
pairings = pytest.mark.parametrize("pairing", PAIRINGS, ids="-".join)


def one_thread() -> NativeEngine:
    """An engine with one thread, which carries all pairs."""
    return NativeEngine(1)


def test_the_contract_is_held_by_it() -> None:
    """The suite of both engines runs on both."""
    assert [one.name for one in ENGINES] == ["python", "native"]


def test_its_descriptors_are_those_that_the_limit_of_connections_leaves_out() -> None:
    """Two for each thread; the few others of the engine are within the reserve."""
    opened = []
    for threads in (1, 6):
        before = open_files()
        engine = NativeEngine(threads)
        opened.append(open_files() - before)
        engine.close()
    one, six = (EngineChoice("native", threads).descriptors for threads in (1, 6))
    assert opened[1] - opened[0] == six - one
    assert opened[0] < RESERVED_DESCRIPTORS / 10


@pairings
async def test_who_carried_a_pair(pairing: tuple[str, str]) -> None:
    """A calm one is carried by the extension, one under a rate limit by Python; both are told."""
    for options, carried_by in ({}, "native"), ({"bytes_per_second": 10**6}, "python"):
        async with running(one_thread) as engine, between(engine, *pairing, **options) as relay:
            await exchange(relay.front, relay.back, b"hello")
            assert engine.figures(relay.id).engine == carried_by
        assert relay.end.engine == carried_by


@pairings
async def test_figures_need_no_recall(pairing: tuple[str, str]) -> None:
    """Bytes of both directions, while the extension has the pair and after Python has it."""
    async with running(one_thread) as engine, between(engine, *pairing) as relay:
        await exchange(relay.front, relay.back, b"hello")
        await exchange(relay.back, relay.front, b"hi")
        for _ in range(2):
            assert engine.payload_bytes(relay.id) == (5, 2)
            figures = engine.figures(relay.id)
            assert (figures.bytes_to_backend, figures.bytes_to_client) == (5, 2)
            assert figures.blocked_to_client_seconds is None
            relay.take_back()


@pairings
async def test_a_pair_is_lent_again(pairing: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After Python had it for a while; nothing is lost on the way, however often."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    lent = 0

    class Counting(native_engine.NativeLoop):
        def _lend(self, relays):
            nonlocal lent
            declined = super()._lend(relays)
            lent += len(relays) - len(declined)
            return declined

    monkeypatch.setattr(native_engine, "NativeLoop", Counting)
    async with running(one_thread) as engine, between(engine, *pairing) as relay:
        for number in range(1, 6):
            await exchange(relay.front, relay.back, b"%d" % number)
            await exchange(relay.back, relay.front, b"%d" % number)
            relay.take_back()
            while lent <= number:
                await trio.sleep(0.005)


async def test_pairs_that_end_together_are_taken_back_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them hold up nobody else; a recall finds those that are still to be taken back."""
    monkeypatch.setattr(native_engine, "MAX_TAKEN", 4)
    sides = [(await side("ws", "tcp", "server"), await side("raw", "tcp", "client")) for _ in range(30)]
    left: list[int] = []
    async with running(one_thread) as engine, trio.open_nursery() as nursery:
        relays = [Relay(engine, *front, *back, CALM) for front, back in sides]
        for relay in relays:
            nursery.start_soon(relay.run)
        for relay in relays:
            await exchange(relay.front, relay.back, b"hello")
        for relay in relays:
            relay.front.transport.reset()
        time.sleep(0.1)  # the extension has all of them ready before the event loop goes on
        with trio.fail_after(10):
            while not left or left[-1]:
                left.append(len(engine.connection_ids))
                if len(left) == 3:
                    assert engine.terminate(relays[-1].id, Reason.DRAINING)
                await trio.lowlevel.checkpoint()
        for relay in relays:
            result = await relay.ended()
            expected = Reason.DRAINING if relay is relays[-1] else Reason.CLIENT_LOST
            assert (result.reason, result.bytes_to_backend) == (expected, 5)
            relay.back.transport.close()
    assert max(before - after for before, after in itertools.pairwise(left)) <= 3 * 4
    assert left[0] == 30


@pytest.mark.parametrize("over", ["tcp", "unix", "rustls"])
@pytest.mark.parametrize("slow", ["front", "back"])
async def test_a_stream_is_lent_again_although_its_reader_is_slower(
    slow: str, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what its reader has not accepted: there is more of it at any time."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    monkeypatch.setattr(native_engine, "MAX_BLOCKED", 60.0)  # as if it had just accepted some
    async with running(one_thread) as engine, between(engine, "ws", "raw", over, buffer=4096) as relay:
        sent = await relay.fill(slow, 10_000)
        src, dst = (relay.back, relay.front) if slow == "front" else (relay.front, relay.back)
        relay.take_back()
        assert engine.loop.figures(relay.pair) is None
        await src.send(b"more")
        await until(lambda: engine.loop.figures(relay.pair) is not None, "the next lending")
        assert await dst.take(sent + 4) == bytes(sent) + b"more"
        await exchange(src, dst, b"behind it")
        await exchange(dst, src, b"answer")
        assert engine.loop.figures(relay.pair) is not None


async def test_a_pair_whose_reader_has_stopped_stays_with_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sees to its time limits; it is lent again once the reader goes on."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    monkeypatch.setattr(native_engine, "MAX_BLOCKED", 0.0)
    tries: list[float] = []
    async with running(one_thread) as engine, between(engine, "ws", "raw", buffer=4096) as relay:
        sent = await relay.fill("back", 10_000)
        relay.take_back()
        schedule = engine.loop.schedule
        monkeypatch.setattr(engine.loop, "schedule", lambda pair, due: (tries.append(due), schedule(pair, due)))
        await until(lambda: len(tries) > 2, "some tries")
        assert engine.loop.figures(relay.pair) is None
        assert await relay.back.take(sent) == bytes(sent)
        await until(lambda: engine.loop.figures(relay.pair) is not None, "the next lending")
        await exchange(relay.front, relay.back, b"hello")


@pytest.mark.parametrize("over", ["tcp", "rustls"])
async def test_a_pair_that_is_lent_blocked_comes_back_if_its_reader_has_stopped(
    over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing else wakes the thread that carries it: Python sees to its time limits."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    monkeypatch.setattr(native_engine, "MAX_BLOCKED", 60.0)  # as if it had just accepted some
    async with running(one_thread) as engine, between(engine, "ws", "raw", over, buffer=4096) as relay:
        sent = await relay.fill("back", 1000)
        await until(lambda: relay.from_front == sent, "the end of what was sent")
        relay.take_back()
        await until(lambda: engine.loop.figures(relay.pair) is not None, "the next lending")
        monkeypatch.setattr(native_engine, "MAX_BLOCKED", 0.0)
        await until(lambda: engine.loop.figures(relay.pair) is None, "the return of the pair")
        assert await relay.back.take(sent) == bytes(sent)


GUARDED = pytest.mark.parametrize(("speaks", "over"), [("raw", "tcp"), ("ws", "tcp"), ("ws", "rustls")])


@asynccontextmanager
async def guarded(engine: NativeEngine, speaks: str, over: str) -> AsyncIterator[Relay]:
    """A pair whose raw client must not speak HTTP."""
    front, front_peer = await side("raw", over, "server", reject_http=True)
    back, back_peer = await side(speaks, over, "client")
    relay = Relay(engine, front, front_peer, back, back_peer, CALM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        with trio.fail_after(10):
            yield relay
        nursery.cancel_scope.cancel()
    for peer in (front_peer, back_peer):
        peer.transport.close()


@GUARDED
async def test_a_raw_client_that_must_not_speak_http_is_carried(speaks: str, over: str) -> None:
    """While it is silent, and once it has sent what begins no request; Python has it in no turn of that."""
    async with running(one_thread) as engine, guarded(engine, speaks, over) as relay:
        await exchange(relay.back, relay.front, b"hi")
        assert engine.figures(relay.id).engine == "native"
        await exchange(relay.front, relay.back, b"GETEX key")
        await exchange(relay.back, relay.front, b"value")
        assert engine.loop.figures(relay.pair) is not None
        relay.take_back()
        await exchange(relay.front, relay.back, b"GET / HTTP/1.1\r\n")  # these are no first bytes
        relay.scope.cancel()
    assert (relay.end.bytes_to_backend, relay.end.bytes_to_client) == (25, 7)


@GUARDED
async def test_a_request_is_one_wherever_it_is_cut(speaks: str, over: str) -> None:
    """Its first byte goes back to Python, which passes nothing on."""
    async with running(one_thread) as engine, guarded(engine, speaks, over) as relay:
        await exchange(relay.back, relay.front, b"hi")
        await relay.front.send(b"P")
        await until(lambda: engine.loop.figures(relay.pair) is None, "the return of the pair")
        await relay.front.send(b"OST / HTTP/1.1\r\n\r\nFLUSHALL\r\n")
        end = await relay.ended()
    assert (end.reason, end.bytes_to_backend) == (Reason.BAD_REQUEST, 0)


@GUARDED
async def test_what_only_begins_like_a_request_is_passed_on(
    speaks: str, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks at it, and the pair is lent again."""
    monkeypatch.setattr(native_engine, "REST", 0.01)
    async with running(one_thread) as engine, guarded(engine, speaks, over) as relay:
        await relay.front.send(b"GET ke")
        await until(lambda: engine.loop.figures(relay.pair) is None, "the return of the pair")
        await relay.front.send(b"y\n")
        assert await relay.back.take(8) == b"GET key\n"
        await until(lambda: engine.loop.figures(relay.pair) is not None, "the next lending")
        await exchange(relay.back, relay.front, b"value")
        await exchange(relay.front, relay.back, b"GET / HTTP/1.1\r\n")


async def test_a_pair_that_cannot_be_lent_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came with it are carried; it is logged."""
    logged = []
    monkeypatch.setattr(native_engine.log, "exception", lambda event, **values: logged.append((event, values)))
    sides = [(await side("ws", "tcp", "server"), await side("raw", "tcp", "client")) for _ in range(2)]
    broken = sides[0][0][0]
    broken.max_frame_bytes = "many"
    async with running(one_thread) as engine, trio.open_nursery() as nursery:
        relays = [Relay(engine, *front, *back, CALM) for front, back in sides]
        for relay in relays:
            nursery.start_soon(relay.run)
        assert (await relays[0].ended()).reason is Reason.INTERNAL_ERROR
        await exchange(relays[1].front, relays[1].back, b"hello")
        assert engine.figures(relays[1].id).engine == "native"
        nursery.cancel_scope.cancel()
    for relay in relays:
        relay.front.transport.close()
        relay.back.transport.close()
    assert logged == [("internal_error", {"component": "engine"})]


async def test_a_bug_ends_the_pairs_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end as `internal_error`, it is logged, and the next pairs are carried as before."""
    logged = []
    monkeypatch.setattr(native_engine.log, "error", lambda event, **values: logged.append((event, values)))
    async with running(one_thread) as engine:
        async with between(engine, "ws", "raw") as first, between(engine, "raw", "raw") as second:
            for relay in (first, second):
                await exchange(relay.front, relay.back, b"hello")
            engine.loop.fail()
            for relay in (first, second):
                result = await relay.ended()
                assert (result.reason, result.bytes_to_backend) == (Reason.INTERNAL_ERROR, 5)
        assert logged == [("internal_error", {"component": "engine"})]
        async with between(engine, "ws", "raw") as third:
            await exchange(third.front, third.back, b"again")
            assert engine.figures(third.id).engine == "native"
