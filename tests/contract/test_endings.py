"""Relay contract: endings that a side brings about, as each side sees them, in each pairing."""

import pytest
import trio
import trio.testing

from tests.contract.peers import CLOSE, FIN, PING
from tests.contract.sides import (
    CALM,
    between,
    encrypted,
    ends_in_order,
    overs,
    pairings,
    relayed,
    secures,
    side,
    sockets,
    until,
)
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import REASONS, Reason
from wsbridge.relay.endpoint import Sending, Side

PAYLOAD = bytes(range(256)) * 1200
"""More than one frame."""


# ---------------------------------------------------------------------------------------------- by a side


@pairings
@overs
async def test_backend_closed(engine, front, back, over):
    """All its bytes first, then 1000 or its own code, or FIN; its close frame is answered."""
    code = 4002 if front == "ws" else 1000
    async with between(engine, front, back, over) as relay:
        await relay.back.send(PAYLOAD)
        await relay.back.finish(code, "done")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.back.to_the_end)
            story = await relay.front.to_the_end()
            if front == "raw":  # what it still sends may go to the backend until it ends, too
                await relay.front.finish()
        end = await relay.ended()

    assert story.data == PAYLOAD
    expected = {"raw": (1000, "backend_closed"), "ws": (code, "done")}[back]
    ends_in_order(story, expected if front == "ws" else None)
    ends_in_order(relay.back.story, (code, relay.back.story.close[1]) if back == "ws" else None)
    assert (end.reason, end.initiator) == (Reason.BACKEND_CLOSED, "backend")
    assert end.detail == (f"closed with {code}: done" if back == "ws" else "")


@secures
async def test_nothing_follows_our_close_frame(engine, over):
    """A client that pings before it answers our close frame gets no pong (RFC 6455 section 1.4)."""
    async with between(engine, "ws", "raw", over) as relay:
        await relay.back.finish()
        assert await relay.front.read_frame() == (FIN | CLOSE, b"\x03\xe8backend_closed")
        await relay.front.send_frame(FIN | PING, b"late")
        await relay.front.finish()
        assert await relay.front.read_frame() == "fin"
        end = await relay.ended()
    assert (end.reason, end.detail) == (Reason.BACKEND_CLOSED, "")


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
    expected = {"raw": (1000, "client_closed"), "ws": (4001, "bye")}[front]
    ends_in_order(story, expected if back == "ws" else None)
    ends_in_order(relay.front.story, (4001, "bye") if front == "ws" else None)
    assert (end.reason, end.initiator) == (Reason.CLIENT_CLOSED, "client")
    assert end.close_code == (4001 if front == "ws" else None)


@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_close_frame_without_code(engine, back):
    """It is answered with 1000, and goes on to a WebSocket backend without a code."""
    async with between(engine, "ws", back, terms=CALM) as relay:
        await relay.front.finish(None)
        front, back_story = await relay.both()

    assert front.close == (1000, "")
    assert back_story.close == ((None, "") if back == "ws" else None)


@pairings
@secures
@pytest.mark.parametrize("lost", ["front", "back"])
async def test_a_side_that_breaks_off_before_it_has_everything_is_lost(engine, front, back, over, lost):
    """Although the other side had ended in order: its bytes were not all delivered."""
    async with between(engine, front, back, over, buffer=16_384) as relay:
        await relay.fill(lost, 10_000)
        ends, breaks = (relay.back, relay.front) if lost == "front" else (relay.front, relay.back)
        async with trio.open_nursery() as nursery:
            await ends.finish()
            nursery.start_soon(ends.to_the_end)
            await trio.testing.wait_all_tasks_blocked(0.02)
            breaks.reset()
        end = await relay.ended()
    reason, initiator = {"front": (Reason.CLIENT_LOST, "client"), "back": (Reason.BACKEND_RESET, "backend")}[lost]
    assert (end.reason, end.initiator) == (reason, initiator)
    if (lost, front) == ("back", "ws"):
        assert relay.front.story.close == (1011, "backend_reset")


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
    assert (end.reason, end.initiator) == (Reason.CLIENT_LOST, "client")
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
    async with between(engine, front, back, over, half_close_on_loss=True, lingering=0.2) as relay:
        await relay.front.send(PAYLOAD)
        await until(lambda: relay.from_front == len(PAYLOAD))
        relay.front.reset()
        story = await relay.back.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD
    ends_in_order(story, (1001, "client_lost") if back == "ws" else None)
    assert end.reason is Reason.CLIENT_LOST


@pairings
@secures
async def test_backend_reset(engine, front, back, over):
    """What had come is delivered first; then 1011, or a reset that no reader mistakes for the end."""
    async with between(engine, front, back, over, lingering=0.2) as relay:
        await relay.back.send(PAYLOAD)
        assert await relay.front.take(len(PAYLOAD)) == PAYLOAD
        relay.back.reset()
        story = await relay.front.to_the_end()
        end = await relay.ended()

    if front == "ws":
        ends_in_order(story, (1011, "backend_reset"))
    else:
        assert story.ending == "reset"
    assert (end.reason, end.initiator) == (Reason.BACKEND_RESET, "backend")


@pytest.mark.parametrize("front", ["raw", "ws"])
@secures
async def test_bytes_come_before_the_reset(engine, front, over):
    """A slow reader still gets all that the backend had sent before it broke off."""
    async with between(engine, front, "raw", over, buffer=16_384, lingering=0.2) as relay:
        sent = 0
        while not relay.front_is_blocked:  # the front's kernel takes no more, so the bridge holds some itself
            await relay.back.send(PAYLOAD[sent : sent + 2000])
            sent += 2000
            await until(lambda size=sent: relay.from_back == size or relay.front_is_blocked)
        await until(lambda: relay.back.transport.unacked() == 0)
        relay.back.reset()
        await until(lambda: relay.back_side.transport.peer_hung_up or relay.ending is not None)
        story = await relay.front.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD[:sent]
    assert story.close == ((1011, "backend_reset") if front == "ws" else None)
    assert end.reason is Reason.BACKEND_RESET


@encrypted
@pytest.mark.parametrize("front", ["raw", "ws"])
async def test_tls_cut_off_without_close_notify_is_a_reset(engine, over, front):
    """An attacker on the way can send FIN; only close_notify says that a raw stream is whole."""
    async with between(engine, front, "raw", over, lingering=0.2) as relay:
        await relay.back.send(PAYLOAD)
        await relay.back.transport.truncate()
        story = await relay.front.to_the_end()
        end = await relay.ended()

    assert story.data == PAYLOAD
    assert story.close == ((1011, "backend_reset") if front == "ws" else None)
    assert story.ending == ("fin" if front == "ws" else "reset")
    assert end.reason is Reason.BACKEND_RESET
    assert "truncated" in end.detail


@encrypted
@pytest.mark.parametrize("back", ["raw", "ws"])
async def test_a_raw_tls_client_cut_off_without_close_notify_is_lost(engine, over, back):
    """The backend must not regard what came as complete."""
    async with between(engine, "raw", back, over) as relay:
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
    async with between(engine, "raw", "ws", lingering=0.2) as relay:
        await relay.back.send(b"half")
        await relay.front.take(4)
        await relay.back.finish(code, "out of memory")
        front, back = await relay.both()
        end = await relay.ended()

    assert front.ending == "reset"
    assert back.close[0] == code
    assert end.reason is Reason.BACKEND_RESET
    assert str(code) in end.detail


@secures
async def test_a_websocket_backend_that_breaks_off_an_answer_after_the_clients_end(engine, over):
    """It was sent a close frame and never sent its own: a raw client must not regard what it got as complete."""
    async with between(engine, "raw", "ws", over, lingering=0.2) as relay:
        relay.back.answers = False
        await relay.front.finish()
        await until(lambda: relay.back_side.tx is Sending.CLOSED)
        await relay.back.send(b"half an answer")
        assert await relay.front.take(14) == b"half an answer"
        relay.back.reset()
        front = await relay.front.to_the_end()
        end = await relay.ended()

    assert front.ending == "reset"
    assert (end.reason, end.initiator) == (Reason.BACKEND_RESET, "backend")


@secures
@pytest.mark.parametrize("first", ["backend", "client"])
@pytest.mark.parametrize("code", [1001, 1002, 1011, 1012, 3000, 4999])
async def test_only_1000_or_no_code_is_the_end_of_an_answer(engine, over, code, first):
    """For a TCP client of a WebSocket backend, whichever side closed first, its bytes come first, then a reset."""
    async with between(engine, "raw", "ws", over) as relay:
        if first == "client":
            await relay.front.finish()
            assert (await relay.back.read_frame())[0] == FIN | CLOSE
        await relay.back.send(b"part of it")
        await relay.back.finish(code, "going away")
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.data, story.ending) == (b"part of it", "reset")
    assert (end.reason, end.initiator, end.close_code) == (Reason.BACKEND_RESET, "backend", code)
    assert end.detail == f"closed with {code}: going away"


@secures
async def test_a_websocket_backend_that_never_answers_a_close_but_ends(engine, over):
    """An end without a close frame is no end of an answer, also where the client ended first."""
    async with between(engine, "raw", "ws", over) as relay:
        await relay.front.finish()
        assert (await relay.back.read_frame())[0] == FIN | CLOSE
        await relay.back.send(b"part")
        await relay.back.transport.finish()
        story = await relay.front.to_the_end()
        end = await relay.ended()
    assert (story.data, story.ending) == (b"part", "reset")
    assert end.reason is Reason.BACKEND_RESET


@pytest.mark.parametrize("lost_is_fin", [False, True])
@pytest.mark.parametrize(
    ("code", "orderly"),
    [(1000, True), (1001, True), (3000, True), (4999, True), (None, True)]
    + [(code, False) for code in (1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)],
)
async def test_what_a_clients_close_code_means_for_a_plain_backend(engine, code, orderly, lost_is_fin):
    """A client that is done gets FIN after every byte; one that closes with an error code, a reset."""
    async with between(engine, "ws", "raw", half_close_on_loss=lost_is_fin) as relay:
        await relay.front.send(b"all")
        assert await relay.back.take(3) == b"all"
        await relay.front.finish(code, "why" if code else "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.front.to_the_end)
            story = await relay.back.to_the_end()
            relay.back.transport.close()
        end = await relay.ended()
    assert story.ending == ("fin" if orderly or lost_is_fin else "reset")
    assert (end.reason, end.close_code) == (Reason.CLIENT_CLOSED, code)
    assert end.detail == (f"closed with {code}: why" if code else "")


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1008, 1011, 1012, 3000, 4999])
@pytest.mark.parametrize("who", ["client", "backend"])
async def test_every_close_frame_passes_between_websockets(engine, code, who):
    """As it came; the log has code and text."""
    async with between(engine, "ws", "ws") as relay:
        src, dst = (relay.front, relay.back) if who == "client" else (relay.back, relay.front)
        await src.finish(code, "text")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(src.to_the_end)
            story = await dst.to_the_end()
        end = await relay.ended()
    assert story.close == (code, "text")
    assert (end.reason.value, end.close_code, end.detail) == (f"{who}_closed", code, f"closed with {code}: text")


@pytest.mark.parametrize("reason", [row for row in REASONS if REASONS[row].close_code is not None])
def test_no_ending_of_our_own_is_an_orderly_close_to_a_backend(reason):
    """1000 and 1001 mean there that our client has ended; the next wsbridge passes them on as FIN."""
    assert REASONS[reason].close_code_to_backend not in (1000, 1001)


async def chained(engine, nursery, results):
    """Two relays in a row, raw client to wsbridge to wsbridge to raw backend; gives the two plain peers."""
    client_side, client = await side("raw", "tcp", "server")
    backend_side, backend = await side("raw", "tcp", "client")
    dialled, accepted = sockets("tcp")

    async def relay(connection_id, front, back):
        results[connection_id] = await relayed(engine, connection_id, front, back, CALM)

    nursery.start_soon(relay, 1, client_side, Side(SocketTransport(dialled), "client"))
    nursery.start_soon(relay, 2, Side(SocketTransport(accepted), "server"), backend_side)
    await client.send(b"up")
    assert await backend.take(2) == b"up"
    await backend.send(b"down")
    assert await client.take(4) == b"down"
    return client, backend


@pytest.mark.parametrize(
    ("who", "how"),
    [("client", "fin"), ("client", "reset"), ("backend", "fin"), ("backend", "reset")]
    + [(number, reason) for number in (1, 2) for reason in (Reason.DRAINING, Reason.SHUTDOWN, Reason.IDLE_TIMEOUT)],
)
async def test_two_in_a_row_agree(engine, who, how):
    """What one plain peer sees of the other's end is the same as without two wsbridges between them."""
    results = {}
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            client, backend = await chained(engine, nursery, results)
            if who in (1, 2):
                engine.terminate(who, how)
                for peer in (client, backend):
                    assert (await peer.to_the_end()).ending == "reset"
            else:
                peer, other = (client, backend) if who == "client" else (backend, client)
                if how == "fin":
                    await peer.finish()
                else:
                    peer.reset()
                assert (await other.to_the_end()).ending == how
                other.transport.close()
    assert len(results) == 2
    for peer in (client, backend):
        peer.transport.close()
