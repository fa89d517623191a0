"""Relay contract: one direction has ended and the other goes on."""

from dataclasses import replace

import trio

from tests.contract.peers import BINARY, CLOSE, FIN
from tests.contract.sides import SHORT, between, exchange, overs
from wsbridge.reasons import Reason

OPEN_END = replace(SHORT, half_close=20.0, close=20.0)


@overs
async def test_raw_to_raw_answers_after_the_end(engine, over):
    """The client's FIN reaches the backend, and the answer comes all the same."""
    async with between(engine, "raw", "raw", over) as relay:
        await relay.front.send(b"req")
        await relay.front.finish()
        story = await relay.back.to_the_end()
        assert (story.data, story.ending) == (b"req", "fin")
        for _ in range(3):
            await exchange(relay.back, relay.front, b"answer" * 10_000)
        await relay.back.finish()
        assert (await relay.front.to_the_end()).ending == "fin"
        end = await relay.ended()
    assert end.reason is Reason.CLIENT_CLOSED


@overs
async def test_raw_to_raw_the_other_way(engine, over):
    """After the backend's FIN the client still sends."""
    async with between(engine, "raw", "raw", over) as relay:
        await relay.back.finish()
        assert (await relay.front.to_the_end()).ending == "fin"
        await exchange(relay.front, relay.back, b"more" * 10_000)
        await relay.front.finish()
        assert (await relay.back.to_the_end()).ending == "fin"
        end = await relay.ended()
    assert end.reason is Reason.BACKEND_CLOSED


@overs
async def test_raw_client_websocket_backend(engine, over):
    """The client's FIN becomes a close frame, and what the backend still sends comes, until its own."""
    async with between(engine, "raw", "ws", over) as relay:
        relay.back.answers = False
        await relay.front.send(b"req")
        await relay.front.finish()
        assert await relay.back.read_frame() == (FIN | BINARY, b"req")
        assert await relay.back.read_frame() == (FIN | CLOSE, b"\x03\xe8client_closed")
        await exchange(relay.back, relay.front, b"answer" * 10_000)
        await relay.back.finish()
        assert (await relay.front.to_the_end()).ending == "fin"
        assert await relay.back.read_frame() == "fin"
        end = await relay.ended()
    assert end.reason is Reason.CLIENT_CLOSED


@overs
async def test_websocket_client_raw_backend_with_deliver(engine, over):
    """With `on_client_close: deliver` the answer is sent on, and the client's close frame is answered after it."""
    async with between(engine, "ws", "raw", over, deliver_after_close=True) as relay:
        await relay.front.send(b"req")
        await relay.front.finish(4000, "mine")
        story = await relay.back.to_the_end()
        assert (story.data, story.ending) == (b"req", "fin")
        await exchange(relay.back, relay.front, b"answer" * 10_000)
        await relay.back.finish()
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.close, story.ending) == ((4000, "mine"), "fin")
    assert end.reason is Reason.CLIENT_CLOSED


@overs
async def test_websocket_client_raw_backend_with_discard(engine, over):
    """By default the client is answered at once, and the backend may still write for a while without a reset."""
    async with between(engine, "ws", "raw", over, terms=replace(SHORT, lingering=10.0)) as relay:
        await relay.front.finish(4000, "mine")
        story = await relay.front.to_the_end()
        assert (story.close, story.ending, story.data) == ((4000, "mine"), "fin", b"")
        assert (await relay.back.to_the_end()).ending == "fin"
        await relay.back.send(bytes(100_000))
        assert not relay.over.is_set()
        await relay.back.finish()
        await relay.ended()


@overs
async def test_websocket_client_goes_on_after_the_backend(engine, over):
    """The client has got 1000, and what it still sends reaches the backend until its own close frame."""
    async with between(engine, "ws", "raw", over) as relay:
        relay.front.answers = False
        await relay.back.send(b"bye")
        await relay.back.finish()
        assert await relay.front.read_frame() == (FIN | BINARY, b"bye")
        assert await relay.front.read_frame() == (FIN | CLOSE, b"\x03\xe8backend_closed")
        await exchange(relay.front, relay.back, b"more" * 10_000)
        await relay.front.finish()
        assert (await relay.back.to_the_end()).ending == "fin"
        assert await relay.front.read_frame() == "fin"
        end = await relay.ended()
    assert end.reason is Reason.BACKEND_CLOSED


@overs
async def test_websocket_to_websocket(engine, over):
    """Between the client's close frame and the backend's, what the backend sends still comes."""
    async with between(engine, "ws", "ws", over) as relay:
        relay.back.answers = False
        await relay.front.finish(4000, "mine")
        assert await relay.back.read_frame() == (FIN | CLOSE, b"\x0f\xa0mine")
        await exchange(relay.back, relay.front, b"answer" * 10_000)
        await relay.back.finish(4000)
        assert (await relay.front.to_the_end()).close == (4000, "mine")
        assert await relay.back.read_frame() == "fin"
        await relay.ended()


async def test_two_bridges_face_to_face(engine):
    """`echo req | nc -N` through a tunnel: the far end delivers after the close, and the answer comes back whole."""
    async with (
        between(engine, "ws", "raw", deliver_after_close=True) as far,
        between(engine, "raw", "ws") as near,
        trio.open_nursery() as wires,
    ):
        # what the near bridge says to its backend is what the far bridge's client says, and back; masks differ

        async def carry(src, dst):
            while not isinstance(got := await src.read_frame(), str):
                await dst.send_frame(*got)

        wires.start_soon(carry, near.back, far.front)
        wires.start_soon(carry, far.front, near.back)
        await near.front.send(b"req")
        await near.front.finish()
        story = await far.back.to_the_end()
        assert (story.data, story.ending) == (b"req", "fin")
        await far.back.send(b"answer" * 50_000)
        await far.back.finish()
        story = await near.front.to_the_end()
        assert (story.data, story.ending) == (b"answer" * 50_000, "fin")
        await near.ended()
        await far.ended()
        wires.cancel_scope.cancel()


async def test_the_longest_reason_passes_whole(engine):
    """123 bytes of it, both ways."""
    text = "ä" * 61 + "x"
    async with between(engine, "ws", "ws") as relay:
        await relay.front.finish(4000, text)
        front, back = await relay.both()
    assert back.close == front.close == (4000, text)
