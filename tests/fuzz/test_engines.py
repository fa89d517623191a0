"""Both engines, side by side: the same streams, cut anywhere, give the same bytes, endings and reasons.

The native engine is recalled at random moments, so that every state of it is handed over, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import ENGINES
from tests.contract.peers import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, Peer, WebSocketPeer
from tests.contract.sides import CALM, Relay, between, bridged, running
from wsbridge.relay.engine import Engine, RelayResult

pytestmark = pytest.mark.skipif(len(ENGINES) < 2, reason="the native engine is not installed: there is no cargo")

TERMS = replace(CALM, control_frame_rate=1000)
BROKEN = [
    (0xC2, b"reserved bit"),
    (FIN | 3, b"reserved opcode"),
    (FIN | 0xB, b"reserved control opcode"),
    (PING, b"a fragment of a ping"),
    (FIN | PING, bytes(126)),
    (FIN | CONTINUATION, b"of nothing"),
    (FIN | TEXT, b"\xc3("),
    (FIN | TEXT, b"cut \xe2\x82"),
    (FIN | TEXT, b"\xed\xa0\x80"),
    (FIN | CLOSE, b"\x03"),
    (FIN | CLOSE, (1005).to_bytes(2, "big")),
    (FIN | CLOSE, (1000).to_bytes(2, "big") + b"\xff"),
]


@dataclass(frozen=True)
class Stream:
    """What a peer sends.

    Attributes:
        frames: First byte and payload of each frame; of a raw peer only the payloads count.
        cuts: Sizes of the pieces in which it is sent, over and over.
        close: Body of its close frame; None: it just ends. Of a raw peer, FIN either way.
        is_broken: Whether the last frame breaks the protocol.
    """

    frames: list[tuple[int, bytes]]
    cuts: list[int]
    close: bytes | None
    is_broken: bool = False

    @property
    def good(self) -> Stream:
        """It without the frame that breaks the protocol."""
        return replace(self, frames=self.frames[:-1], is_broken=False) if self.is_broken else self


@st.composite
def messages(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """One message in fragments, with pings and pongs between them."""
    opcode = draw(st.sampled_from((TEXT, BINARY, BINARY)))
    if opcode == TEXT:
        payload = draw(st.text(max_size=300)).encode()
    else:
        payload = draw(st.binary(max_size=40)) * draw(st.sampled_from((1, 1, 10, 500)))
    ends = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    found: list[tuple[int, bytes]] = []
    begin = 0
    for number, end in enumerate([*ends, len(payload)]):
        last = FIN if number == len(ends) else 0
        found.append(((opcode if number == 0 else CONTINUATION) | last, payload[begin:end]))
        begin = end
        if not last:
            for kind, body in draw(st.lists(CONTROLS, max_size=1)):
                found += [(FIN | kind, body)] * draw(st.sampled_from((1, 1, 300)))
    return found


CONTROLS = st.tuples(st.sampled_from((PING, PONG)), st.binary(max_size=20))
CLOSES = st.sampled_from(
    (b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xe9", b"\x0f\xa0mine", b"\x03\xf3fault", b"\x03\xf0", None)
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """What a peer sends."""
    frames = [frame for message in draw(st.lists(messages(), max_size=5)) for frame in message]
    is_broken = draw(st.integers(0, 4)) == 0
    if is_broken:
        frames.append(draw(st.sampled_from(BROKEN)))
    cuts = draw(st.sampled_from(([1], [2, 3, 5, 7], [1000, 1], [10**9], [65536, 13])))
    return Stream(frames, cuts, draw(CLOSES), is_broken)


@dataclass
class Seen:
    """What a peer saw, up to the end."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    close: bytes | None = None
    ending: str = ""

    @property
    def data(self) -> bytes:
        """All payload."""
        return b"".join(payload for _, payload in self.messages)


async def watch(peer: Peer, seen: Seen) -> None:
    """Collect what comes to the end, and then end, too."""
    if isinstance(peer, WebSocketPeer):
        await watch_frames(peer, seen)
    else:
        while (data := await peer.some()) is not None:
            seen.messages.append((BINARY, data))
        seen.ending = peer.story.ending
    await end(peer)


async def end(peer: Peer) -> None:
    """Send FIN, behind what another task sends."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with peer.transport.sending:
            await peer.transport.finish()


async def watch_frames(peer: WebSocketPeer, seen: Seen) -> None:
    """Put messages together; answer the close frame."""
    opcode, parts = 0, b""
    while not isinstance(found := await peer.read_frame(), str):
        first, payload = found
        kind = first & 0x0F
        if kind == CLOSE:
            seen.close = payload
            if not peer.closed:
                peer.closed = True
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await peer.send_frame(FIN | CLOSE, payload)
        elif kind == PONG:
            seen.pongs.append(payload)
        elif kind < CLOSE:
            opcode, parts = kind or opcode, parts + payload
            if first & FIN:
                seen.messages.append((opcode, parts))
                parts = b""
    if parts:
        seen.messages.append((opcode, parts))
    seen.ending = found


async def send(peer: Peer, stream: Stream) -> None:
    """Send a stream in its pieces, but for its end."""
    if isinstance(peer, WebSocketPeer):
        data = b"".join(peer.frame(first, payload) for first, payload in stream.frames)
    else:
        data = b"".join(payload for first, payload in stream.frames if not first & 8)
    at = number = 0
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while at < len(data) and number < 2000:
            size = stream.cuts[number % len(stream.cuts)]
            await peer.transport.send(data[at : at + size])
            at, number = at + size, number + 1
        await peer.transport.send(data[at:])


async def finish(peer: Peer, stream: Stream) -> None:
    """End a stream."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(peer, WebSocketPeer) and stream.close is not None:
            peer.closed = True
            await peer.send_frame(FIN | CLOSE, stream.close)
        else:
            await end(peer)


async def recall(relay: Relay, moments: list[int]) -> None:
    """Have Python relay the pair after so many turns of trio, again and again."""
    for turns in moments:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        relay.take_back()


async def arrived(relay: Relay, sender: Peer, stream: Stream, at_sender: Seen, at_other: Seen) -> None:
    """Wait until a whole stream, and all answers to its pings, have arrived, or it is over."""
    count = sum(len(payload) for first, payload in stream.frames if not first & 8)
    ends = sum(first >= FIN for first, _ in stream.frames if not first & 8)
    pings = sum(first == FIN | PING for first, _ in stream.frames)
    framed = relay.front.speaks == relay.back.speaks == "ws"
    if not isinstance(sender, WebSocketPeer):
        pings = 0
    while not relay.over.is_set():
        whole = len(at_other.data) == count and (not framed or len(at_other.messages) == ends)
        if whole and len(at_sender.pongs) == pings:
            return
        await trio.sleep(0.001)


Outcome = tuple[RelayResult, Seen, Seen]


def run(
    make: Callable[[], Engine],
    pairing: tuple[str, str],
    front: Stream,
    back: Stream,
    moments: list[int],
    *,
    back_ends: bool,
) -> Outcome:
    """Relay both streams: first the back's, then the front's, then the end of one of them."""

    def pair(engine: Engine) -> AbstractAsyncContextManager[Relay]:
        """The native engine connects raw backends itself."""
        if engine.name == "native" and pairing[1] == "raw":
            return bridged(engine, pairing[0], TERMS, seconds=30)
        return between(engine, *pairing, terms=TERMS, seconds=30)

    async def scenario() -> Outcome:
        seen = Seen(), Seen()
        async with running(make) as engine, pair(engine) as relay:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, relay.front, seen[0])
                nursery.start_soon(watch, relay.back, seen[1])
                nursery.start_soon(recall, relay, moments)
                # what is on its way when a connection breaks may be lost, or not
                await send(relay.back, back.good)
                await arrived(relay, relay.back, back.good, seen[1], seen[0])
                if back.is_broken:
                    await send(relay.back, replace(back, frames=back.frames[-1:], cuts=[10**9]))
                else:
                    await send(relay.front, front.good)
                    await arrived(relay, relay.front, front.good, *seen)
                    if front.is_broken:
                        await send(relay.front, replace(front, frames=front.frames[-1:], cuts=[10**9]))
                    await finish(*((relay.back, back) if back_ends and not front.is_broken else (relay.front, front)))
            result = await relay.ended()
        return result, *seen

    return trio.run(scenario)


def summary(pairing: tuple[str, str], outcome: Outcome) -> object:
    """What must be the same, whatever the engine and its reads."""
    result, front, back = outcome
    framed = pairing == ("ws", "ws")
    return (
        (result.reason, result.initiator, result.detail, result.close_code, result.incomplete),
        (front.messages if framed else front.data, front.pongs, front.close, front.ending),
        (back.messages if framed else back.data, back.pongs, back.close, back.ending),
    )


@pytest.mark.parametrize("pairing", [("ws", "raw"), ("raw", "ws"), ("ws", "ws"), ("raw", "raw")], ids="-".join)
@settings(max_examples=settings.default.max_examples // 5)  # each opens eight sockets
@given(front=streams(), back=streams(), moments=st.lists(st.integers(0, 30), max_size=6), back_ends=st.booleans())
def test_both_engines_do_the_same(
    pairing: tuple[str, str], front: Stream, back: Stream, moments: list[int], back_ends: bool
) -> None:
    """Bytes, messages, pongs, close frames, endings, and the reason in the log."""
    if pairing[1] == "raw" or back_ends:
        back = back.good
    python, native = (run(make, pairing, front, back, moments, back_ends=back_ends) for make in ENGINES)
    event(f"{pairing[0]}-{pairing[1]}: {python[0].reason.value}")
    assert summary(pairing, python) == summary(pairing, native)
