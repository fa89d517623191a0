"""Relay contract: every ending of the table of reasons, as each side sees it, in each pairing."""

from dataclasses import replace

import pytest
import trio

from tests.contract.sides import FIN, SHORT, TEXT, between, overs, pairings, secures, side, until
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.relay import pump

PAYLOAD = bytes(range(256)) * 1200
"""More than one frame."""


def ends_in_order(story, close):
    """A WebSocket peer saw this close frame and then FIN, a raw one just FIN."""
    assert story.ending == "fin"
    assert story.close == close


# ---------------------------------------------------------------------------------------------- by a side


@pairings
@overs
async def test_backend_closed(engine, front, back, over):
    """All its bytes first, then 1000 or its own code, or FIN; its close frame is answered."""
    async with between(engine, front, back, over) as relay:
        await relay.back.send(PAYLOAD)
        await relay.back.finish(4002, "done")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.back.to_the_end)
            story = await relay.front.to_the_end()
            if front == "raw":  # what it still sends may go to the backend until it ends, too
                await relay.front.finish()
        end = await relay.ended()

    assert story.data == PAYLOAD
    told = {"raw": (1000, "backend_closed"), "ws": (4002, "done")}[back]
    ends_in_order(story, told if front == "ws" else None)
    ends_in_order(relay.back.story, (4002, relay.back.story.close[1]) if back == "ws" else None)
    assert (end.reason, end.blame) == (Reason.BACKEND_CLOSED, "back")
    assert relay.ledger.endings == {Reason.BACKEND_CLOSED: 1}
    assert (relay.ledger.active, relay.ledger.relayed) == (0, 1)


@pairings
@overs
async def test_client_closed(engine, front, back, over):
    """Its bytes reach the backend, then FIN or a close frame; its code is echoed."""
    async with between(engine, front, back, over) as relay:
        await relay.front.send(PAYLOAD)
        await relay.front.finish(4001, "bye")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.front.to_the_end)
            story = await relay.back.to_the_end()
            if back == "raw":
                await relay.back.finish()
        end = await relay.ended()

    assert story.data == PAYLOAD
    told = {"raw": (1000, "client_closed"), "ws": (4001, "bye")}[front]
    ends_in_order(story, told if back == "ws" else None)
    ends_in_order(relay.front.story, (4001, "bye") if front == "ws" else None)
    assert (end.reason, end.blame) == (Reason.CLIENT_CLOSED, "front")
    assert end.code == (4001 if front == "ws" else None)


@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_close_frame_without_code(engine, back):
    """It is answered with 1000, and goes on to a WebSocket backend without a code."""
    async with between(engine, "ws", back, terms=SHORT) as relay:
        await relay.front.finish(None)
        front, back_story = await relay.both()

    assert front.close == (1000, "")
    assert back_story.close == ((None, "") if back == "ws" else None)


@pairings
@secures
async def test_client_lost(engine, front, back, over):
    """A client that breaks off resets the backend, so that what it wrote does not look whole."""
    async with between(engine, front, back, over) as relay:
        await relay.front.send(b"half a")
        await relay.back.take(6)
        relay.front.reset()
        story = await relay.back.to_the_end()
        end = await relay.ended()

    assert (story.ending, story.close) == ("reset", None)
    assert (end.reason, end.blame) == (Reason.CLIENT_LOST, "front")
    assert end.detail


@pytest.mark.parametrize("back", ["raw", "ws"])
@overs
async def test_a_websocket_client_that_ends_without_a_close_frame_is_lost(engine, back, over):
    """FIN alone is no orderly end of a WebSocket."""
    async with between(engine, "ws", back, over) as relay:
        await relay.front.send(b"half a")
        await relay.back.take(6)
        await relay.front.transport.finish()
        story = await relay.back.to_the_end()
        end = await relay.ended()

    assert story.ending == ("fin" if over == "unix" else "reset")
    assert story.close is None
    assert end.reason is Reason.CLIENT_LOST


@pairings
@secures
async def test_client_lost_as_fin(engine, front, back, over):
    """Where the route says so, a lost client is an orderly end to the backend: its bytes, then FIN or 1001."""
    async with between(engine, front, back, over, lost_is_fin=True, linger=0.2) as relay:
        await relay.front.send(PAYLOAD)
        await until(lambda: relay.ledger.active and relay.front_side.received == len(PAYLOAD))
        relay.front.reset()
        story = await relay.back.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD
    ends_in_order(story, (1001, "client_lost") if back == "ws" else None)
    assert end.reason is Reason.CLIENT_LOST


@pairings
@secures
async def test_backend_reset(engine, front, back, over):
    """What had come is delivered first; then 1011, or a reset that no reader takes for the end."""
    async with between(engine, front, back, over, linger=0.2) as relay:
        await relay.back.send(PAYLOAD)
        assert await relay.front.take(len(PAYLOAD)) == PAYLOAD
        relay.back.reset()
        story = await relay.front.to_the_end()
        end = await relay.ended()

    if front == "ws":
        ends_in_order(story, (1011, "backend_reset"))
    else:
        assert story.ending == "reset"
    assert (end.reason, end.blame) == (Reason.BACKEND_RESET, "back")


@pytest.mark.parametrize("front", ["raw", "ws"])
@secures
async def test_bytes_come_before_the_reset(engine, front, over):
    """A slow reader still gets all that the backend had sent before it broke off."""
    async with between(engine, front, "raw", over, buffer=16_384, linger=0.2) as relay:
        await relay.back.send(PAYLOAD[:16_000])
        await until(lambda: relay.back.transport.unacked() == 0)
        relay.back.reset()
        await trio.testing.wait_all_tasks_blocked(0.05)
        story = await relay.front.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD[:16_000]
    assert story.close == ((1011, "backend_reset") if front == "ws" else None)
    assert end.reason is Reason.BACKEND_RESET


@pytest.mark.parametrize("front", ["raw", "ws"])
async def test_tls_cut_off_without_close_notify_is_a_reset(engine, front):
    """An attacker on the way can send FIN; only close_notify says that a raw stream is whole."""
    async with between(engine, front, "raw", "tls", linger=0.2) as relay:
        await relay.back.send(PAYLOAD)
        await relay.back.transport.truncate()
        story = await relay.front.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD
    assert story.close == ((1011, "backend_reset") if front == "ws" else None)
    assert story.ending == ("fin" if front == "ws" else "reset")
    assert end.reason is Reason.BACKEND_RESET
    assert "truncated" in end.detail


@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_raw_tls_client_cut_off_without_close_notify_is_lost(engine, back):
    """The backend must not take what came for the whole."""
    async with between(engine, "raw", back, "tls") as relay:
        await relay.front.send(b"half a")
        await relay.back.take(6)
        await relay.front.transport.truncate()
        story = await relay.back.to_the_end()
        end = await relay.ended()

    assert story.ending == "reset"
    assert end.reason is Reason.CLIENT_LOST
    assert "truncated" in end.detail


@pytest.mark.parametrize("code", [1002, 1011, 1013])
async def test_a_websocket_backend_that_ends_for_a_fault(engine, code):
    """A raw client is reset: FIN would say that it has the whole."""
    async with between(engine, "raw", "ws", linger=0.2) as relay:
        await relay.back.send(b"half")
        await relay.front.take(4)
        await relay.back.finish(code, "out of memory")
        front, back = await relay.both()
        end = await relay.ended()

    assert front.ending == "reset"
    assert back.close[0] == code
    assert end.reason is Reason.BACKEND_RESET
    assert str(code) in end.detail


# ---------------------------------------------------------------------------------------------- by the bridge


@pairings
@overs
@pytest.mark.parametrize("reason", [Reason.DRAIN, Reason.STOP, Reason.IDLE_TIMEOUT, Reason.MAX_AGE])
async def test_the_bridge_ends_it(engine, front, back, over, reason):
    """Both sides see an orderly end: the reason's code and name, or FIN."""
    changes = {Reason.IDLE_TIMEOUT: {"idle": 0.1}, Reason.MAX_AGE: {"max_age": 0.1}}.get(reason, {})
    async with between(engine, front, back, over, terms=SHORT, **changes) as relay:
        await relay.front.send(b"x")
        await relay.back.take(1)
        if not changes:
            engine.end(relay.pair, reason, "told to")
        await relay.both()
        end = await relay.ended()

    for peer in (relay.front, relay.back):
        ends_in_order(peer.story, (ENDINGS[reason].code, reason.value) if peer.speaks == "ws" else None)
    assert (end.reason, end.blame) == (reason, "bridge")
    assert end.detail


@pairings
@secures
@pytest.mark.parametrize("who", ["front", "back"])
async def test_write_stalled(engine, front, back, over, who):
    """A peer that takes nothing for `write` is dropped, and so is the other."""
    async with between(engine, front, back, over, terms=replace(SHORT, write=0.2), buffer=16_384) as relay:
        stalls, floods = (relay.front, relay.back) if who == "front" else (relay.back, relay.front)

        async def flood():
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await floods.send(bytes(60_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            end = await relay.ended()
        story = await stalls.to_the_end()

    assert (end.reason, end.blame) == (Reason.WRITE_STALLED, who)
    assert (story.ending, story.close) == ("reset", None)


class Broken(WebSocketFraming):
    """A framing with a bug that payload can touch."""

    def decode(self, data, room=65536, work=512):
        """Fail on a certain byte."""
        if b"!" in data:
            raise RuntimeError("a bug")
        return super().decode(data, room, work)


async def broken_relay(engine, back):
    """A relay whose front has a bug."""
    front_side, front_peer = await side("ws", "tcp", "server")
    front_side.framing.__class__ = Broken
    front_peer.masks = True
    return front_side, front_peer, *await side(back, "tcp", "client")


@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_bug_ends_one_pair_alone(engine, monkeypatch, back):
    """It is logged, told as internal_error to both sides, and another pair never notices."""
    told = []
    monkeypatch.setattr(pump.log, "exception", lambda event, **values: told.append((event, values)))
    async with between(engine, "ws", "raw") as healthy, between(engine, "ws", back, terms=SHORT) as relay:
        relay.front_side.framing = Broken("server")
        await relay.front.transport.send(b"!!!!!!!!")
        front, back_story = await relay.both()
        end = await relay.ended()
        await healthy.front.send(b"still here")
        assert await healthy.back.take(10) == b"still here"

    assert (end.reason, end.blame) == (Reason.INTERNAL_ERROR, "bridge")
    assert front.close == (1011, "internal_error")
    assert back_story.close == ((1011, "internal_error") if back == "ws" else None)
    assert back_story.ending == ("fin" if back == "ws" else "reset")
    assert told == [("bug", {"where": "relay"})]


@pytest.mark.parametrize("name", ["settle", "force", "move"])
async def test_a_bug_in_an_ending_cuts_both_sides(engine, monkeypatch, name):
    """However deep it is, the pair is gone and nothing loops."""
    told = []
    monkeypatch.setattr(pump.log, "exception", lambda event, **values: told.append(event))
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
    assert 1 <= len(told) <= 2
    assert "reset" in (front.ending, back.ending)


@pytest.mark.parametrize("speaks", ["ws", "raw"])
@pytest.mark.parametrize("reason", [Reason.BACKEND_REFUSED, Reason.BACKEND_TIMEOUT, Reason.OVERLOAD])
async def test_a_client_without_a_backend_is_dismissed(engine, speaks, reason):
    """After the 101 the reason is told by a close frame; a raw client is reset."""
    endpoint, peer = await side(speaks, "tcp", "server")
    ends = []

    async def dismiss():
        ends.append(await engine.dismiss(endpoint, End(reason, "back", "nobody there"), SHORT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dismiss)
        story = await peer.to_the_end()

    if speaks == "ws":
        ends_in_order(story, (ENDINGS[reason].code, reason.value))
    else:
        assert story.ending == "reset"
    assert (ends[0].reason, ends[0].detail) == (reason, "nobody there")
    assert endpoint.wire.sock.fileno() == -1
    peer.transport.close()


# ---------------------------------------------------------------------------------------------- by a violation


VIOLATIONS = {
    "reserved bits": (0xC2, b"x", Reason.PROTOCOL_ERROR, 1002),
    "opcode 3": (FIN | 3, b"x", Reason.PROTOCOL_ERROR, 1002),
    "fragmented ping": (0x09, b"x", Reason.PROTOCOL_ERROR, 1002),
    "continuation of nothing": (FIN, b"x", Reason.PROTOCOL_ERROR, 1002),
    "close code 1005": (FIN | 8, b"\x03\xed", Reason.PROTOCOL_ERROR, 1002),
    "close body of one byte": (FIN | 8, b"\x03", Reason.PROTOCOL_ERROR, 1002),
    "bad text": (FIN | TEXT, b"\xff", Reason.BAD_TEXT, 1007),
}


@pytest.mark.parametrize("back", ["raw", "ws"])
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_client_that_breaks_the_protocol(engine, name, back):
    """It is told so, and the backend is reset."""
    first, body, reason, code = VIOLATIONS[name]
    async with between(engine, "ws", back, terms=SHORT) as relay:
        relay.front.answers = False
        await relay.front.send_frame(first, body)
        front, back_story = await relay.both()
        end = await relay.ended()

    ends_in_order(front, (code, reason.value))
    assert (back_story.ending, back_story.close) == ("reset", None)
    assert (end.reason, end.blame) == (reason, "front")
    assert end.detail


@pytest.mark.parametrize("front", ["raw", "ws"])
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_backend_that_breaks_the_protocol(engine, name, front):
    """It is told so; the client gets what came before it, then 1011 or a reset."""
    first, body, reason, code = VIOLATIONS[name]
    async with between(engine, front, "ws", terms=SHORT) as relay:
        relay.back.answers = False
        await relay.back.transport.send(relay.back.frame(0x82, b"before") + relay.back.frame(first, body))
        front_story, back_story = await relay.both()
        end = await relay.ended()

    assert front_story.data == b"before"
    if front == "ws":
        ends_in_order(front_story, (1011, reason.value))
    else:
        assert front_story.ending == "reset"
    ends_in_order(back_story, (code, reason.value))
    assert (end.reason, end.blame) == (reason, "back")


async def test_a_violation_over_tls(engine):
    """The close frame arrives, then close_notify."""
    async with between(engine, "ws", "raw", "tls", terms=SHORT) as relay:
        await relay.front.send_frame(0xC2, b"x")
        front, back = await relay.both()

    ends_in_order(front, (1002, "protocol_error"))
    assert back.ending == "reset"


async def test_text_where_it_is_refused(engine):
    """1003, before any of it is read."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        relay.front_side.framing.text = "refuse"
        await relay.front.send_frame(FIN | TEXT, b"hello")
        front, back = await relay.both()
        end = await relay.ended()

    ends_in_order(front, (1003, "unsupported"))
    assert (back.ending, back.data) == ("reset", b"")
    assert end.reason is Reason.UNSUPPORTED


async def test_cancelling_aborts_both_sides(engine):
    """Both peers see a reset, and the call returns at once with its descriptors closed."""
    for front, back in (("ws", "raw"), ("raw", "ws")):
        async with between(engine, front, back) as relay:
            await relay.front.send(b"x")
            await relay.back.take(1)
            relay.scope.cancel()
            with trio.fail_after(1):
                await relay.over.wait()
            stories = await relay.both()
        assert [(story.ending, story.close) for story in stories] == [("reset", None)] * 2
        assert relay.ledger.active == 0


async def test_an_end_that_has_come_before_the_relay(engine):
    """A wire that met its end while the request was read is seen at once, without an event."""
    front_side, front = await side("raw", "tls", "server")
    back_side, back = await side("raw", "tcp", "client")
    front_side.wire.ended = "eof"
    front_side.wire.unread(b"last words")
    ends = []

    async def relay():
        from wsbridge.ledger import Ledger

        ends.append(await engine.relay(front_side, back_side, SHORT, Ledger()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay)
        with trio.fail_after(5):
            story = await back.to_the_end()
    assert (story.data, story.ending) == (b"last words", "fin")
    assert ends[0].reason is Reason.CLIENT_CLOSED
    for peer in (front, back):
        peer.transport.close()
