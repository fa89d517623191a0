"""Relay contract: how long a side is waited for once the other has ended, and what an ending may not lose."""

import socket
from dataclasses import replace

import pytest
import trio

from tests.contract.peers import BINARY, CLOSE, FIN, PING
from tests.contract.sides import SHORT, between, exchange, secures, unread_bytes, until
from wsbridge.reasons import Reason
from wsbridge.relay.endpoint import Sending

OPEN_END = replace(SHORT, half_close=60.0, close=60.0)


async def shortest(measure, enough):
    """Give the shortest of up to ten times that are measured: a busy machine makes them longer, and nothing shorter."""
    times = []
    while len(times) < 10 and min(times, default=enough) >= enough:
        times.append(await measure())
    return min(times)


@pytest.mark.parametrize("front", ["raw", "ws"])
@secures
async def test_a_silent_backend_after_the_clients_end(engine, front, over):
    """It has `half_close`; then a raw client is reset, since its answer is incomplete, a WebSocket client gets 1000."""
    async with between(engine, front, "raw", over, terms=SHORT, deliver_after_close=True) as relay:
        began = trio.current_time()
        await relay.back.send(b"half")
        await relay.front.take(4)
        await relay.front.finish()
        story = await relay.front.to_the_end()
        end = await relay.ended()
        took = trio.current_time() - began
    assert story.ending == ("reset" if front == "raw" else "fin")
    assert end.reason is Reason.CLIENT_CLOSED
    assert 0.3 <= took < 10


async def test_half_close_is_silence_and_not_age(engine):
    """As long as something moves, the half-closed connection lives."""
    async with between(engine, "raw", "raw", half_close=1.0) as relay:
        await relay.front.finish()
        for _ in range(12):
            await trio.sleep(0.1)  # less than half_close, which the whole run is longer than
            await exchange(relay.back, relay.front, b"tick")
        await relay.back.finish()
        assert (await relay.front.to_the_end()).ending == "fin"


async def test_equal_patience_is_no_half_close(engine):
    """A backend that sends forever after the client's close frame is ended, whatever the two settings are."""
    terms = replace(SHORT, half_close=0.2, close=0.2)
    async with between(engine, "ws", "ws", terms=terms) as relay:
        relay.back.answers = relay.front.answers = False
        await relay.front.finish()

        async def flood():
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await relay.back.send(b"x")
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            story = await relay.front.to_the_end()
            end = await relay.ended()
    assert story.close == (1000, "")
    assert end.reason is Reason.CLIENT_CLOSED


@pytest.mark.parametrize("who", ["front", "back"])
@secures
async def test_a_peer_that_never_answers_our_close_frame(engine, who, over):
    """It is waited for for `close`, then FIN, then `lingering`."""
    pairing = ("ws", "raw") if who == "front" else ("raw", "ws")
    async with between(engine, *pairing, over, terms=SHORT) as relay:
        peer = getattr(relay, who)
        peer.answers = False
        engine.terminate(relay.id, Reason.DRAINING)
        story = await peer.to_the_end()
        assert (story.close, story.ending) == ((1012, "draining"), "fin")
        with trio.fail_after(9):
            await relay.ended()


async def test_a_client_that_never_closes_after_the_backend(engine):
    """After `close` the backend is reset: what the client sent may not be whole. The log says who was waited for."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        relay.front.answers = False
        await relay.back.finish()
        front, back = await relay.both()
        end = await relay.ended()
    assert (front.close, front.ending) == ((1000, "backend_closed"), "fin")
    assert back.ending == "reset"
    assert end.reason is Reason.BACKEND_CLOSED
    assert end.detail == "gave up waiting for client after close, 0.2 s; reset backend"


async def test_a_backend_that_resets_what_comes_after_its_end_has_closed(engine):
    """It had sent all and closed its socket: the reset that later bytes meet changes nothing."""
    async with between(engine, "ws", "raw") as relay:
        relay.front.answers = False
        await relay.back.send(b"all")
        relay.back.transport.close()
        assert await relay.front.read_frame() == (FIN | BINARY, b"all")
        assert (await relay.front.read_frame())[0] == FIN | CLOSE
        for _ in range(3):
            await relay.front.send(b"too late")
            await trio.sleep(0.01)
        await relay.front.finish()
        assert await relay.front.read_frame() == "fin"
        end = await relay.ended()
    assert end.reason is Reason.BACKEND_CLOSED


async def test_a_client_that_breaks_off_while_its_answer_comes(engine):
    """It has closed its side in order, and does not read the answer: the backend is informed."""
    async with between(engine, "raw", "raw") as relay:
        await relay.front.finish()
        assert (await relay.back.to_the_end()).ending == "fin"
        await exchange(relay.back, relay.front, b"some")
        relay.front.reset()
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            while True:
                await relay.back.send(bytes(1000))
                await trio.sleep(0.001)
        end = await relay.ended()
    assert end.reason is Reason.CLIENT_LOST


@secures
async def test_a_reset_of_a_half_closed_side_needs_no_traffic(engine, over):
    """Neither side sends a byte, and still it is seen at once."""
    async with between(engine, "raw", "raw", over) as relay:
        await relay.front.finish()
        assert (await relay.back.to_the_end()).ending == "fin"
        relay.front.reset()
        with trio.fail_after(9):
            end = await relay.ended()
    assert end.reason is Reason.CLIENT_LOST


@secures
async def test_a_reader_that_pauses_longer_than_close_loses_nothing(engine, over):
    """What waits for it after the backend's end has `write`, and then come 1000 and FIN."""
    payload = bytes(range(256)) * 2000
    terms = replace(SHORT, write=20.0)
    for front in ("ws", "raw"):
        async with (
            between(engine, front, "raw", over, terms=terms, buffer=16_384) as relay,
            trio.open_nursery() as nursery,
        ):

            async def serve(relay=relay):
                await relay.back.send(payload)
                await relay.back.finish()

            nursery.start_soon(serve)
            await until(lambda relay=relay: relay.front_is_blocked)
            await trio.sleep(0.7)  # more than close, half_close and lingering
            story = await relay.front.to_the_end()
        assert story.data == payload
        assert story.ending == "fin"
        assert story.close == ((1000, "backend_closed") if front == "ws" else None)


@pytest.mark.parametrize("front", ["ws", "raw"])
async def test_what_the_kernel_holds_for_a_pausing_reader_is_not_lost(engine, front):
    """Nothing waits in the bridge, all is with the kernel: the socket must stay open until the peer has received it."""
    terms = replace(SHORT, write=20.0)
    async with between(engine, front, "raw", terms=terms, buffer=16_384) as relay:
        relay.front_side.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await relay.back.send(bytes(150_000))
        await relay.back.finish()
        await until(lambda: relay.front_side.tx is Sending.CLOSED, "all being with the kernel")
        assert relay.front_side.transport.unacked_bytes()
        await trio.sleep(0.9)  # more than close, half_close and linger
        await relay.front.transport.send(relay.front.frame(FIN | PING) if front == "ws" else b"x")
        story = await relay.front.to_the_end()
        assert len(story.data) == 150_000
        assert story.ending == "fin"


async def test_the_kernel_of_a_reader_that_takes_nothing_is_not_waited_for_for_ever(engine):
    """It has `write`."""
    async with between(engine, "ws", "raw", terms=replace(SHORT, write=0.3), buffer=16_384) as relay:
        relay.front_side.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await relay.back.send(bytes(150_000))
        await relay.back.finish()
        with trio.fail_after(9):
            end = await relay.ended()
    assert end.reason is Reason.WRITE_STALLED


async def test_a_close_frame_is_answered_after_the_bytes_before_it(engine):
    """The echo waits until the backend has read what the client has sent."""
    async with between(engine, "ws", "raw", terms=OPEN_END, buffer=16_384) as relay:
        size = 60_000
        await relay.fill("back", size)
        sent = relay.from_front
        await relay.front.finish(4000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert relay.front_side.tx is not Sending.CLOSED
        back = await relay.back.to_the_end()
        front = await relay.front.to_the_end()
    assert len(back.data) >= sent
    assert len(back.data) % size == 0
    assert (back.ending, front.close) == ("fin", (4000, ""))


async def test_an_echoing_backend_is_drained_while_its_input_ends(engine):
    """It reads only while its answers are read: they are dropped, so that it reads all that was sent to it."""
    async with between(engine, "ws", "raw", terms=OPEN_END, buffer=16_384, lingering_bytes=10**7) as relay:
        got = 0

        async def echo():
            nonlocal got
            while (data := await relay.back.some()) is not None:
                got += len(data)
                try:
                    await relay.back.send(data * 4)
                except trio.BrokenResourceError:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            nursery.start_soon(relay.front.to_the_end)
            for _ in range(4):
                await relay.front.send(bytes(60_000))
            await relay.front.finish()
            await until(lambda: got == 240_000, "the backend having all")
            nursery.cancel_scope.cancel()


async def test_a_backend_that_takes_nothing_after_the_clients_close(engine):
    """Within `close` it is over: no echo, since what came before the close frame did not arrive."""

    def in_one_read(front, back):
        return front.frame(FIN | BINARY, bytes(65_000)) + front.frame(FIN | CLOSE), b""

    async with between(engine, "ws", "raw", terms=SHORT, buffer=16_384, glued=in_one_read) as relay:
        with trio.fail_after(9):
            end = await relay.ended()
    assert end.reason in (Reason.CLIENT_CLOSED, Reason.WRITE_STALLED)


@pytest.mark.parametrize("front", ["ws", "raw"])
async def test_a_drain_in_the_middle_of_a_half_close(engine, front):
    """It ends what is left."""
    async with between(engine, front, "raw", terms=replace(SHORT, half_close=20.0), deliver_after_close=True) as relay:
        await relay.front.finish()
        assert (await relay.back.to_the_end()).ending == "fin"
        engine.terminate(relay.id, Reason.DRAINING)
        story = await relay.front.to_the_end()
        with trio.fail_after(9):
            end = await relay.ended()
    assert end.reason is Reason.DRAINING
    assert story.ending == ("fin" if front == "ws" else "reset")


async def test_an_end_during_the_end_changes_nothing(engine):
    """The first reason counts."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        relay.front.answers = False
        engine.terminate(relay.id, Reason.DRAINING)
        engine.terminate(relay.id, Reason.SHUTDOWN)
        front, _ = await relay.both()
        end = await relay.ended()
    assert front.close == (1012, "draining")
    assert end.reason is Reason.DRAINING


async def test_a_violation_after_the_end_changes_nothing(engine):
    """The client has been sent another reason."""
    async with between(engine, "ws", "raw", terms=OPEN_END) as relay:
        relay.front.answers = False
        engine.terminate(relay.id, Reason.DRAINING)
        assert (await relay.front.read_frame())[0] == FIN | CLOSE
        await relay.front.send_frame(0xF3, b"x")
        end = await relay.ended()
    assert end.reason is Reason.DRAINING


async def test_pings_are_answered_while_bytes_wait(engine):
    """A client that still reads what came before the end does not disconnect; then comes the close frame."""
    async with between(engine, "ws", "ws", buffer=16_384) as relay:
        relay.back.answers = False
        await relay.fill("front", 6000)
        await relay.back.transport.send(relay.back.frame(FIN | BINARY, bytes(6000)) + relay.back.frame(FIN | CLOSE))
        await relay.front.send_frame(FIN | PING, b"there?")
        await until(lambda: not unread_bytes(relay.given[0]))
        story = await relay.front.to_the_end()
    assert story.pongs == [b"there?"]
    assert len(story.data) == relay.end.bytes_to_client
    assert story.close == (None, "")


async def test_half_close_lasts_no_longer_than_it_is_set(engine):
    """Nor does `close`: what was acknowledged before an ending began, and its own frame, is no progress."""
    terms = replace(SHORT, half_close=1.0, close=0.5)

    async def half_close():
        async with between(engine, "raw", "ws", terms=terms) as relay:
            relay.back.answers = False
            await relay.front.send(b"x" * 1000)
            await relay.back.take(1000)
            began = trio.current_time()
            await relay.front.finish()
            story = await relay.front.to_the_end()
            lasted = trio.current_time() - began
            end = await relay.ended()
        assert story.ending == "reset"
        assert end.detail == "gave up waiting for backend after half_close, 1 s; reset client"
        return lasted

    async def close():
        async with between(engine, "ws", "raw", terms=terms) as relay:
            relay.front.answers = False
            await relay.back.send(b"x" * 1000)
            await relay.front.take(1000)
            began = trio.current_time()
            await relay.back.finish()
            story = await relay.back.to_the_end()
            lasted = trio.current_time() - began
        assert story.ending == "reset"
        return lasted

    assert 0.9 < await shortest(half_close, 1.4) < 1.4
    assert 0.4 < await shortest(close, 0.8) < 0.8


async def test_a_client_that_sends_before_it_reads_gets_an_answer_that_broke_off(engine):
    """Its input is dropped without a limit while its bytes and the reset wait for it."""
    payload = bytes(60_000)

    def in_one_read(front, back):
        return b"", back.frame(FIN | BINARY, payload) + back.frame(FIN | CLOSE, b"\x03\xf3")

    async with between(engine, "raw", "ws", glued=in_one_read, buffer=4096) as relay:
        await relay.front.send(bytes(2_000_000))
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.data, story.ending) == (payload, "reset")
    assert end.reason is Reason.BACKEND_RESET


async def test_a_held_close_waits_for_the_answer(engine):
    """`hold_close`: the close frame is sent after so much silence, or as the answer to the backend's."""
    async with between(engine, "raw", "ws", terms=SHORT, hold_close=1.0, half_close=20.0) as relay:
        await relay.front.send(b"question")
        assert await relay.back.take(8) == b"question"
        await relay.front.finish()
        for _ in range(6):
            await trio.sleep(0.2)  # less than hold_close, which the whole run is longer than
            await relay.back.send(b"answer")
            assert await relay.front.take(6) == b"answer"
        silent = trio.current_time()
        assert await relay.back.read_frame() == (FIN | CLOSE, b"\x03\xe8client_closed")
        assert trio.current_time() - silent > 0.9
        await relay.back.send(b"late")
        await relay.back.finish(1000)
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.data[-4:], story.ending) == (b"late", "fin")
    assert end.reason is Reason.CLIENT_CLOSED


async def test_a_held_close_answers_the_backends(engine):
    """At once, with its code."""
    async with between(engine, "raw", "ws", terms=SHORT, hold_close=10.0) as relay:
        await relay.front.finish()
        await relay.back.send(b"answer")
        await relay.back.finish(1000, "done")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.back.to_the_end)
            story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.data, story.ending) == (b"answer", "fin")
    assert relay.back.story.close == (1000, "done")
    assert end.reason is Reason.CLIENT_CLOSED
