"""Relay contract: peers that break the protocol, and what both sides see of it."""

import pytest
import trio

from tests.contract.peers import FIN, TEXT
from tests.contract.sides import CALM, SHORT, between, encrypted, ends_in_order, relayed, side
from wsbridge.reasons import Reason

VIOLATIONS = {
    "reserved bits": (0xC2, b"x", Reason.PROTOCOL_ERROR, 1002),
    "opcode 3": (FIN | 3, b"x", Reason.PROTOCOL_ERROR, 1002),
    "fragmented ping": (0x09, b"x", Reason.PROTOCOL_ERROR, 1002),
    "continuation of nothing": (FIN, b"x", Reason.PROTOCOL_ERROR, 1002),
    "close code 1005": (FIN | 8, b"\x03\xed", Reason.PROTOCOL_ERROR, 1002),
    "close body of one byte": (FIN | 8, b"\x03", Reason.PROTOCOL_ERROR, 1002),
    "bad text": (FIN | TEXT, b"\xff", Reason.INVALID_UTF8, 1007),
}


@pytest.mark.parametrize("back", ["raw", "ws"])
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_client_that_breaks_the_protocol(engine, name, back):
    """The client gets the close code of its violation, and the backend is reset."""
    first, body, reason, code = VIOLATIONS[name]
    async with between(engine, "ws", back, terms=SHORT) as relay:
        relay.front.answers = False
        await relay.front.send_frame(first, body)
        front, back_story = await relay.both()
        end = await relay.ended()

    ends_in_order(front, (code, reason.value))
    assert (back_story.ending, back_story.close) == ("reset", None)
    assert (end.reason, end.initiator) == (reason, "client")
    assert end.detail


@pytest.mark.parametrize("front", ["raw", "ws"])
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_backend_that_breaks_the_protocol(engine, name, front):
    """The backend gets the close code of its violation; the client gets the bytes before it, then 1011 or a reset."""
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
    assert (end.reason, end.initiator) == (reason, "backend")


@encrypted
async def test_a_violation_over_tls(engine, over):
    """The close frame arrives, then close_notify."""
    async with between(engine, "ws", "raw", over, terms=CALM) as relay:
        await relay.front.send_frame(0xC2, b"x")
        front, back = await relay.both()

    ends_in_order(front, (1002, "protocol_error"))
    assert back.ending == "reset"


async def test_text_where_it_is_refused(engine):
    """1003, before any of it is read."""
    async with between(engine, "ws", "raw", terms=SHORT) as relay:
        relay.take_back()
        relay.front_side.framing.text_messages = "reject"
        await relay.front.send_frame(FIN | TEXT, b"hello")
        front, back = await relay.both()
        end = await relay.ended()

    ends_in_order(front, (1003, "unsupported_data"))
    assert (back.ending, back.data) == ("reset", b"")
    assert end.reason is Reason.UNSUPPORTED_DATA


async def test_one_read_of_a_plain_client_is_one_text_message(engine):
    """`messages: text`: cut at characters, whatever the reads are; bytes that are not UTF-8 end it, reset on both."""
    ours, back = await side("ws", "tcp", "client", messages="text")
    front_side, front = await side("raw", "tcp", "server")
    results = []

    async def relay():
        results.append(await relayed(engine, 1, front_side, ours, CALM))

    with trio.fail_after(9):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay)
            euro = "€".encode()
            await front.send(b"one" + euro[:1])
            assert await back.read_frame() == (FIN | TEXT, b"one")
            await front.send(euro[1:] + b"two")
            assert await back.read_frame() == (FIN | TEXT, euro + b"two")
            await front.send(b"bad \xff")
            assert (await front.to_the_end()).ending == "reset"
            assert (await back.to_the_end()).ending == "reset"
    assert (results[0].reason, results[0].initiator) == (Reason.INVALID_UTF8, "client")
    for peer in (front, back):
        peer.transport.close()


async def test_text_that_ends_inside_a_character(engine):
    """The end of the stream is no end of it."""
    ours, back = await side("ws", "tcp", "client", messages="text")
    front_side, front = await side("raw", "tcp", "server")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed, engine, 1, front_side, ours, CALM)
        await front.send("€".encode()[:2])
        await front.finish()
        with trio.fail_after(9):
            assert (await back.to_the_end()).ending == "reset"
    for peer in (front, back):
        peer.transport.close()


@pytest.mark.parametrize("text_messages", ["accept", "bytes"])
async def test_text_frames_from_clients_that_mean_bytes(engine, text_messages):
    """Without the check they pass as they are."""
    front_side, front = await side("ws", "tcp", "server", text_messages=text_messages)
    back_side, back = await side("raw", "tcp", "client")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed, engine, 1, front_side, back_side, CALM)
        await front.send_frame(FIN | TEXT, b"\xff\xfe")
        with trio.fail_after(9):
            if text_messages == "bytes":
                assert await back.take(2) == b"\xff\xfe"
            else:
                assert (await front.to_the_end()).close[0] == 1007
        nursery.cancel_scope.cancel()
    for peer in (front, back):
        peer.transport.close()
