"""Relay contract: every byte, in order, once, whatever the peers' pace; and no more than a buffer on the way."""

import hashlib
import random

import pytest
import trio

from tests.contract.peers import BINARY, FIN, PING, TEXT
from tests.contract.sides import between, overs, pairings, until
from wsbridge.reasons import Reason

MIB = 1 << 20


async def pour(peer, size, seed):
    """Send `size` random bytes in pieces of any size; give their hash."""
    dice = random.Random(seed)
    block = dice.randbytes(MIB + 131_072)
    digest = hashlib.sha256()
    while size:
        at = dice.randrange(MIB)
        piece = block[at : at + min(size, dice.choice([1, 100, 4096, 65_535, 65_536, 100_000]))]
        digest.update(piece)
        await peer.send(piece)
        size -= len(piece)
    return digest.hexdigest()


async def drain(peer, size, *, between_reads=None):
    """Receive exactly `size` bytes; return their hash."""
    digest = hashlib.sha256()
    while size > 0:
        piece = await peer.some()
        assert piece is not None, f"ended {size} bytes early: {peer.story}"
        digest.update(piece)
        size -= len(piece)
        if between_reads:
            await between_reads()
    assert size == 0
    return digest.hexdigest()


async def gathered(**calls):
    """Run calls at once; give their results by name."""
    results = {}

    async def run(name, call):
        results[name] = await call

    async with trio.open_nursery() as nursery:
        for name, call in calls.items():
            nursery.start_soon(run, name, call)
    return results


@pairings
@overs
@pytest.mark.parametrize("size", [4 * MIB, pytest.param(256 * MIB, marks=pytest.mark.soak)], ids=["4M", "256M"])
async def test_random_bytes_both_ways_at_once(engine, front, back, over, size):
    """The hashes are equal, and the counters have the numbers of bytes."""
    async with between(engine, front, back, over, seconds=600) as relay:
        hashes = await gathered(
            up=pour(relay.front, size, 1),
            down=pour(relay.back, size, 2),
            up_seen=drain(relay.back, size),
            down_seen=drain(relay.front, size),
        )
        assert hashes["up"] == hashes["up_seen"]
        assert hashes["down"] == hashes["down_seen"]
        relay.scope.cancel()
        await relay.over.wait()
    assert (relay.end.bytes_to_backend, relay.end.bytes_to_client) == (size, size)


def waiting(endpoint):
    """Bytes that wait in the bridge for a side."""
    held = getattr(endpoint.transport, "_out", None) or []
    return sum(map(len, endpoint.pending or [])) + sum(map(len, held)) + len(endpoint.undecoded)


@pairings
@overs
@pytest.mark.parametrize("size", [2 * MIB, pytest.param(64 * MIB, marks=pytest.mark.soak)], ids=["2M", "64M"])
async def test_a_reader_that_pauses_stops_the_sender(engine, front, back, over, size):
    """While the front reads nothing, the back can send no more than fits into the buffers; then every byte comes."""
    async with between(engine, front, back, over, buffer=16_384, seconds=300) as relay:
        sent = []
        most = 0

        async def send():
            sent.append(await pour(relay.back, size, 3))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await until(lambda: relay.front_is_blocked, "the front being blocked")
            before = relay.from_back
            for _ in range(20):
                most = max(most, waiting(relay.front_side))
                await trio.testing.wait_all_tasks_blocked(0.005)
            assert relay.from_back - before <= 262_144
            assert not sent

            async def look():
                nonlocal most
                most = max(most, waiting(relay.front_side))

            seen = await drain(relay.front, size, between_reads=look)
        assert seen == sent[0]
        assert most <= 300_000


@pairings
@overs
async def test_what_waits_for_one_reader_is_not_touched_by_another_pair(engine, front, back, over):
    """Large reads of two pairs alternate, and the bytes that one of them holds back stay what they were."""
    size = 6 * MIB
    options = {"buffer": 262_144}  # large enough for large reads, and half of the bytes do not fit
    async with (
        between(engine, front, back, over, **options) as paused,
        between(engine, front, back, over, **options) as busy,
    ):
        async with trio.open_nursery() as nursery:
            sent = {}
            seen = hashlib.sha256()
            left = size

            async def send(name, peer):
                sent[name] = await pour(peer, size, name)

            async def take(until_left):
                nonlocal left
                while left > until_left:
                    piece = await paused.front.some()
                    seen.update(piece)
                    left -= len(piece)

            nursery.start_soon(send, "paused", paused.back)
            await take(size // 2)
            await until(lambda: paused.front_is_blocked, "the front being blocked")
            nursery.start_soon(send, "busy", busy.back)
            busy_seen = await drain(busy.front, size)
            await take(0)
        assert {"paused": seen.hexdigest(), "busy": busy_seen} == sent


@pairings
@overs
async def test_both_readers_pause(engine, front, back, over):
    """Both directions blocked at once, then both go on."""
    async with between(engine, front, back, over, buffer=16_384) as relay:
        async with trio.open_nursery() as nursery:
            sent = {}

            async def send(name, peer):
                sent[name] = await pour(peer, MIB, name)

            nursery.start_soon(send, "up", relay.front)
            nursery.start_soon(send, "down", relay.back)
            await until(lambda: relay.front_is_blocked and relay.back_is_blocked)
            seen = await gathered(up=drain(relay.back, MIB), down=drain(relay.front, MIB))
        assert seen == sent


@pairings
@overs
@pytest.mark.parametrize("size", [512, pytest.param(65_536, marks=pytest.mark.soak)], ids=["512", "64K"])
async def test_segments_of_one_byte(engine, front, back, over, size):
    """On the wire one byte at a time, frame headers too."""
    payload = random.Random(4).randbytes(size)
    async with between(engine, front, back, over, seconds=120) as relay:

        async def trickle(peer):
            data = peer.frame(FIN | BINARY, payload) if peer.speaks == "ws" else payload
            for at in range(len(data)):
                await peer.transport.send(data[at : at + 1])

        async with trio.open_nursery() as nursery:
            for src, dst in ((relay.front, relay.back), (relay.back, relay.front)):
                nursery.start_soon(trickle, src)
                nursery.start_soon(taken, dst, payload)


async def taken(peer, payload):
    """Receive exactly these bytes."""
    assert await peer.take(len(payload)) == payload


@pairings
@overs
async def test_bytes_read_before_the_relay_come_first(engine, front, back, over):
    """Those glued to the request and those glued to the backend's answer, and a frame may be cut there."""
    rests = []

    def glued(front_peer, back_peer):
        pieces = []
        for peer, word in ((front_peer, b"from the front"), (back_peer, b"from the back!")):
            data = peer.frame(FIN | BINARY, word) if peer.speaks == "ws" else word
            rests.append(data[-2:])
            pieces.append(data[:-2])
        return pieces

    async with between(engine, front, back, over, glued=glued) as relay:
        await relay.front.transport.send(rests[0])
        await relay.back.transport.send(rests[1])

        assert await relay.back.take(14) == b"from the front"
        assert await relay.front.take(14) == b"from the back!"


@pairings
@overs
async def test_bytes_read_before_the_relay_need_no_event(engine, front, back, over):
    """Whole frames that were read already are moved though the sockets stay silent."""

    def glued(front_peer, back_peer):
        return [
            peer.frame(FIN | BINARY, b"glued") if peer.speaks == "ws" else b"glued" for peer in (front_peer, back_peer)
        ]

    async with between(engine, front, back, over, glued=glued) as relay:
        assert await relay.back.take(5) == b"glued"
        assert await relay.front.take(5) == b"glued"


@pytest.mark.parametrize("front", ["ws", "raw"])
@overs
async def test_a_backend_that_sends_all_and_closes_with_input_unread(engine, front, over):
    """The reset that this makes destroys nothing that the kernel has received: all bytes come, then 1011 or a reset."""
    payload = random.Random(5).randbytes(MIB)
    async with between(engine, front, "raw", over) as relay:
        await relay.front.send(b"never read")
        await until(lambda: relay.from_front == len(b"never read"))

        async def serve():
            await relay.back.send(payload)
            await until(lambda: relay.back.transport.unacked() == 0, "the bridge having all bytes")
            relay.back.transport.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            story = await relay.front.to_the_end()
        end = await relay.ended()
    assert hashlib.sha256(story.data).digest() == hashlib.sha256(payload).digest()
    assert end.reason is Reason.BACKEND_RESET
    if front == "ws":
        assert story.close == (1011, "backend_reset")
    elif over != "unix":
        assert story.ending == "reset"


@pairings
async def test_many_small_messages_in_one_read(engine, front, back):
    """Thousands of messages at once keep their order through every bound of one turn."""
    words = [b"%05d;" % number for number in range(20_000)]
    async with between(engine, front, back) as relay:

        async def send(peer):
            await peer.transport.send(
                b"".join(peer.frame(FIN | BINARY, word) if peer.speaks == "ws" else word for word in words)
            )

        async with trio.open_nursery() as nursery:
            for src, dst in ((relay.front, relay.back), (relay.back, relay.front)):
                nursery.start_soon(send, src)
                nursery.start_soon(taken, dst, b"".join(words))


@overs
async def test_messages_keep_opcode_and_boundaries(engine, over):
    """WebSocket to WebSocket: text stays text, an empty message arrives, fragments stay one message."""
    async with between(engine, "ws", "ws", over) as relay:
        for src, dst in ((relay.front, relay.back), (relay.back, relay.front)):
            await src.send_frame(FIN | TEXT, "täxt".encode())
            await src.send_frame(FIN | BINARY, b"")
            await src.send_frame(TEXT, b"one ")
            await src.send_frame(FIN | PING, b"stays local")
            await src.send_frame(0, b"two ")
            await src.send_frame(FIN, b"three")
            await src.send_frame(FIN | BINARY, bytes(200_000))
            messages = [await message(dst) for _ in range(4)]

            assert messages == [
                (TEXT, "täxt".encode()),
                (BINARY, b""),
                (TEXT, b"one two three"),
                (BINARY, bytes(200_000)),
            ]
        assert relay.front.story.pings == relay.back.story.pings == []


async def message(peer):
    """The next message, put together."""
    opcode, payload = None, b""
    while True:
        first, piece = await peer.read_frame()
        if first & 0x0F >= 8:
            continue
        assert (first & 0x0F == 0) == (opcode is not None)
        opcode = opcode if opcode is not None else first & 0x0F
        payload += piece
        if first & FIN:
            return opcode, payload


@overs
async def test_what_one_read_gives_is_one_frame_of_at_most_the_limit(engine, over):
    """Raw bytes become binary frames no larger than 64 KiB, and a small write becomes one frame."""
    async with between(engine, "ws", "raw", over) as relay:
        await relay.back.send(b"RFB 003.008\n")
        assert await relay.front.read_frame() == (FIN | BINARY, b"RFB 003.008\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.back.send, bytes(3 * MIB))
            left = 3 * MIB
            while left:
                first, payload = await relay.front.read_frame()
                assert first == FIN | BINARY
                assert 0 < len(payload) <= 65_536
                left -= len(payload)
