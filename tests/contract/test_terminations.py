"""Relay contract: endings that the bridge brings about: limits, drains, stalls, bugs, cancelling."""

from dataclasses import replace

import pytest
import trio

from tests.contract.sides import (
    CALM,
    INITIATORS,
    SHORT,
    between,
    encrypted,
    ends_in_order,
    overs,
    pairings,
    relayed,
    secures,
    side,
)
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay import loop


@pairings
@overs
@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.SHUTDOWN, Reason.IDLE_TIMEOUT, Reason.MAX_LIFETIME])
async def test_the_bridge_ends_it(engine, front, back, over, reason):
    """A WebSocket sees the reason's code and name, and a backend none that means an orderly end; a raw side a reset."""
    changes = {Reason.IDLE_TIMEOUT: {"idle": 0.1}, Reason.MAX_LIFETIME: {"max_lifetime": 0.1}}.get(reason, {})
    async with between(engine, front, back, over, terms=CALM, **changes) as relay:
        if not changes:
            await relay.front.send(b"x")
            await relay.back.take(1)
            engine.terminate(relay.id, reason, "requested")
        await relay.both()
        end = await relay.ended()

    codes = REASONS[reason].close_code, REASONS[reason].close_code_to_backend
    assert codes[1] not in (1000, 1001)
    for peer, code in zip((relay.front, relay.back), codes, strict=True):
        if peer.speaks == "ws":
            ends_in_order(peer.story, (code, reason.value))
        else:
            assert peer.story.ending == ("fin" if over == "unix" else "reset")
    assert (end.reason, end.initiator) == (reason, "wsbridge")
    assert end.detail


@pairings
@secures
@pytest.mark.parametrize("who", ["front", "back"])
async def test_write_stalled(engine, front, back, over, who):
    """A peer that reads nothing for `write` is dropped, and so is the other."""
    async with between(engine, front, back, over, terms=replace(CALM, write=0.1), buffer=16_384) as relay:
        stalls, floods = (relay.front, relay.back) if who == "front" else (relay.back, relay.front)

        async def flood():
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await floods.send(bytes(60_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            end = await relay.ended()
        story = await stalls.to_the_end()

    assert (end.reason, end.initiator) == (Reason.WRITE_STALLED, INITIATORS[who])
    assert (story.ending, story.close) == ("reset", None)


class Broken(WebSocketFraming):
    """A framing with a bug that payload can touch."""

    def decode(self, data, max_bytes=65536, max_frames=512):
        """Fail on a certain byte."""
        if b"!" in data:
            raise RuntimeError("a bug")
        return super().decode(data, max_bytes, max_frames)


@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_bug_ends_one_pair_alone(engine, monkeypatch, back):
    """A bug is logged, both sides get internal_error, and another pair is not affected."""
    logged = []
    monkeypatch.setattr(loop.log, "exception", lambda event, **values: logged.append((event, values)))
    async with between(engine, "ws", "raw") as healthy, between(engine, "ws", back, terms=SHORT) as relay:
        relay.front_side.framing = Broken("server")
        await relay.front.transport.send(b"!!!!!!!!")
        front, back_story = await relay.both()
        end = await relay.ended()
        await healthy.front.send(b"still here")
        assert await healthy.back.take(10) == b"still here"

    assert (end.reason, end.initiator) == (Reason.INTERNAL_ERROR, "wsbridge")
    assert front.close == (1011, "internal_error")
    assert back_story.close == ((1011, "internal_error") if back == "ws" else None)
    assert back_story.ending == ("fin" if back == "ws" else "reset")
    assert logged == [("internal_error", {"component": "relay"})]


@pytest.mark.parametrize("name", ["advance_close", "force_close", "transfer"])
async def test_a_bug_in_an_ending_cuts_both_sides(engine, monkeypatch, name):
    """However deep it is, the pair is gone and nothing loops."""
    logged = []
    monkeypatch.setattr(loop.log, "exception", lambda event, **values: logged.append(event))
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        kind = type(relay.pair)

        def fail(self, *args):
            raise RuntimeError("a bug")

        monkeypatch.setattr(kind, name, fail)
        await relay.back.finish()
        relay.front.answers = False
        front, back = await relay.both()
        end = await relay.ended()

    assert end.reason is Reason.INTERNAL_ERROR
    assert 1 <= len(logged) <= 2
    assert "reset" in (front.ending, back.ending)


@pytest.mark.parametrize("speaks", ["ws", "raw"])
@pytest.mark.parametrize("reason", [Reason.BACKEND_REFUSED, Reason.BACKEND_TIMEOUT, Reason.OVERLOAD])
async def test_a_client_without_a_backend_is_dismissed(engine, speaks, reason):
    """After the 101 the reason is sent in a close frame; a raw client is reset."""
    endpoint, peer = await side(speaks, "tcp", "server")
    ends = []

    async def dismiss():
        ends.append(await engine.close_front(endpoint, Termination(reason, "backend", "nobody there"), CALM))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dismiss)
        story = await peer.to_the_end()

    if speaks == "ws":
        ends_in_order(story, (REASONS[reason].close_code, reason.value))
    else:
        assert story.ending == "reset"
    assert (ends[0].reason, ends[0].detail) == (reason, "nobody there")
    assert endpoint.transport.sock.fileno() == -1
    peer.transport.close()


async def test_cancelling_aborts_both_sides(engine):
    """Both peers see a reset, and the call returns at once with its descriptors closed."""
    for front, back in (("ws", "raw"), ("raw", "ws")):
        async with between(engine, front, back) as relay:
            await relay.front.send(b"x")
            await relay.back.take(1)
            relay.scope.cancel()
            with trio.fail_after(9):
                await relay.over.wait()
            stories = await relay.both()
        assert [(story.ending, story.close) for story in stories] == [("reset", None)] * 2
        assert engine.connection_ids == []


@pytest.mark.parametrize("words", [b"last words", b""])
@encrypted
async def test_an_end_that_has_come_before_the_relay(engine, over, words):
    """A transport that met its end while the request was read is seen at once, without an event."""
    front_side, front = await side("raw", over, "server")
    back_side, back = await side("raw", "tcp", "client")
    front_side.transport.read_state = "eof"
    front_side.transport.unread(words)
    ends = []

    async def relay():
        ends.append(await relayed(engine, 1, front_side, back_side, SHORT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay)
        with trio.fail_after(9):
            story = await back.to_the_end()
    assert (story.data, story.ending) == (words, "fin")
    assert ends[0].reason is Reason.CLIENT_CLOSED
    for peer in (front, back):
        peer.transport.close()
