"""The test's side of a relay: peers written by hand, that share no line with the bridge, and a relay between two.

A peer speaks raw bytes or WebSocket, over TCP, TLS or a Unix socket. It can do all that a peer may do and all that it
must not, and it tells what it saw up to the very end: payload, close frame, and how the transport ended.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from fcntl import ioctl
from termios import TIOCOUTQ

import pytest
import trio
import trio.testing
import trustme
from websockets.speedups import apply_mask

from wsbridge.ledger import Ledger
from wsbridge.net import bio_wire, tls_wire
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import End
from wsbridge.relay.endpoint import Endpoint, RawEndpoint, WebSocketEndpoint
from wsbridge.relay.terms import Terms

pairings = pytest.mark.parametrize(
    ("front", "back"),
    [("ws", "raw"), ("raw", "ws"), ("raw", "raw"), ("ws", "ws")],
    ids=["ws-raw", "raw-ws", "raw-raw", "ws-ws"],
)
"""What the front and the back speak."""

overs = pytest.mark.parametrize("over", ["tcp", "tls", "unix"])
secures = pytest.mark.parametrize("over", ["tcp", "tls"])
"""Where a reset differs from an orderly end."""

FIN = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

CALM = Terms(ping=None, write=None, close=20.0, half_close=20.0, linger=20.0)
"""No time limit is met in a test that does not want it."""

SHORT = Terms(ping=None, write=None, close=0.2, half_close=0.3, linger=0.2)
"""Endings that a peer holds up are over at once."""


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server called `localhost` and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def sockets(over: str, buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A connected pair, non-blocking: ours and the peer's; `buffer` makes all four kernel buffers small."""
    if over == "unix":
        ours, theirs = socket.socketpair(socket.AF_UNIX)
    else:
        with socket.socket() as listener:
            if buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            theirs = socket.socket()
            if buffer:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            theirs.connect(listener.getsockname())
            ours, _ = listener.accept()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if over != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return ours, theirs


class Transport:
    """A peer's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self.stream.send_all(data)

    async def receive(self) -> bytes | str:
        """Some bytes, or how the transport ended: `fin`, `reset`, or under TLS `truncated`."""
        try:
            return await self.stream.receive_some(65536) or "fin"
        except trio.BrokenResourceError:
            return "reset"

    async def finish(self) -> None:
        """End what we send; the other direction stays."""
        await self.stream.send_eof()

    def reset(self) -> None:
        """Break the connection; on a Unix socket, close it."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close without a further word; unread input makes it a reset."""
        self.stream.socket.close()

    def unacked(self) -> int:
        """Bytes sent that the bridge's kernel has not taken."""
        return int.from_bytes(ioctl(self.sock.fileno(), TIOCOUTQ, bytes(4)), "little")


class TlsTransport(Transport):
    """The same under TLS, by memory buffers, with a real half-close."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=name)
        self._sending = trio.Lock()

    async def handshake(self) -> None:
        """Shake hands."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._in.write(await self.stream.receive_some(65536))
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        async with self._sending:
            if self._out.pending:
                await self.stream.send_all(self._out.read())

    async def send(self, data: bytes) -> None:
        """See `Transport.send`."""
        for at in range(0, len(data), 65536):
            self.tls.write(data[at : at + 65536])
            await self._flush()

    async def receive(self) -> bytes | str:
        """See `Transport.receive`; `fin` means that close_notify came."""
        while True:
            try:
                return self.tls.read(65536) or "fin"
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return "fin"
            except ssl.SSLEOFError:
                return "truncated"
            data = await super().receive()
            if data == "fin":
                self._in.write_eof()
            elif isinstance(data, str):
                return data
            else:
                self._in.write(data)

    async def finish(self) -> None:
        """See `Transport.finish`: close_notify, then FIN."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        await self._flush()
        with suppress(trio.BrokenResourceError):  # close_notify may have been answered by a reset already
            await self.stream.send_eof()

    async def truncate(self) -> None:
        """FIN without close_notify."""
        await self.stream.send_eof()


@dataclass
class Story:
    """What a peer saw up to the end.

    Attributes:
        data: Payload, in order.
        close: Code and text of the close frame, if one came; code None if it had none.
        ending: How the transport ended.
        pings: Bodies of pings.
        pongs: Bodies of pongs.
        texts: Messages that came as text.
    """

    data: bytes = b""
    close: tuple[int | None, str] | None = None
    ending: str = ""
    pings: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)


class RawPeer:
    """A peer that speaks plain bytes."""

    speaks = "raw"

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.story = Story()

    async def send(self, data: bytes) -> None:
        """Send payload."""
        await self.transport.send(data)

    async def some(self) -> bytes | None:
        """Payload as it comes; None at the end, of which the story then tells."""
        got = await self.transport.receive()
        if isinstance(got, str):
            self.story.ending = got
            return None
        return got

    async def take(self, count: int) -> bytes:
        """Exactly that much payload."""
        out = b""
        while len(out) < count:
            got = await self.some()
            assert got is not None, f"ended after {len(out)} of {count} bytes: {self.story}"
            out += got
        assert len(out) == count
        return out

    async def to_the_end(self) -> Story:
        """All that comes, up to the end of the transport."""
        parts = []
        while (got := await self.some()) is not None:
            parts.append(got)
        self.story.data = b"".join(parts)
        return self.story

    async def finish(self, code: int | None = 1000, text: str = "") -> None:
        """End our stream in order."""
        await self.transport.finish()

    def reset(self) -> None:
        """Break the connection."""
        self.transport.reset()


class WebSocketPeer(RawPeer):
    """A peer that speaks WebSocket.

    Attributes:
        masks: Whether it is a client.
        answers: Whether it answers pings and close frames by itself.
    """

    speaks = "ws"

    def __init__(self, transport: Transport, *, masks: bool) -> None:
        super().__init__(transport)
        self.masks = masks
        self.answers = True
        self.closed = False
        self._got = bytearray()

    def frame(self, first: int, payload: bytes = b"") -> bytes:
        """One frame, by the RFC."""
        size = len(payload)
        bit = 0x80 if self.masks else 0
        if size < 126:
            head = bytes([first, bit | size])
        elif size < 65536:
            head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
        if not self.masks:
            return head + payload
        key = os.urandom(4)
        return head + key + apply_mask(payload, key)

    async def send(self, data: bytes) -> None:
        """Send payload as one binary message."""
        await self.send_frame(FIN | BINARY, data)

    async def send_frame(self, first: int, payload: bytes = b"") -> None:
        """Send a frame with any first byte."""
        await self.transport.send(self.frame(first, payload))

    async def _fill(self, count: int) -> str | None:
        while len(self._got) < count:
            got = await self.transport.receive()
            if isinstance(got, str):
                return got
            self._got += got
        return None

    async def read_frame(self) -> tuple[int, bytes] | str:
        """The next frame, first byte and payload, or how the transport ended."""
        end = await self._fill(2)
        if end:
            assert not self._got or end != "fin", "ended inside a frame"
            return end
        length, start = self._got[1] & 0x7F, 2
        assert (self._got[1] >= 0x80) != self.masks, "masked the wrong way round"
        if length > 125:
            start = 4 if length == 126 else 10
            if end := await self._fill(start):
                return end
            length = int.from_bytes(self._got[2:start], "big")
        key = b""
        if not self.masks:
            start += 4
            if end := await self._fill(start):
                return end
            key = bytes(self._got[start - 4 : start])
        if end := await self._fill(start + length):
            return end
        first, payload = self._got[0], bytes(self._got[start : start + length])
        del self._got[: start + length]
        return first, apply_mask(payload, key) if key else payload

    async def some(self) -> bytes | None:
        """See `RawPeer.some`; control frames go into the story, and are answered."""
        while True:
            got = await self.read_frame()
            if isinstance(got, str):
                self.story.ending = got
                return None
            first, payload = got
            opcode = first & 0x0F
            if opcode < CLOSE:
                assert self.story.close is None, "payload after a close frame"
                if payload:
                    return payload
            elif opcode == CLOSE:
                assert self.story.close is None, "two close frames"
                code = int.from_bytes(payload[:2], "big") if payload else None
                self.story.close = (code, payload[2:].decode())
                assert len(payload) <= 125
                if self.answers and not self.closed:
                    self.closed = True
                    await self._try(FIN | CLOSE, payload[:2])
            elif opcode == PING:
                self.story.pings.append(payload)
                if self.answers and not self.closed:
                    await self._try(FIN | PONG, payload)
            else:
                assert opcode == PONG
                self.story.pongs.append(payload)

    async def _try(self, first: int, payload: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send_frame(first, payload)

    async def finish(self, code: int | None = 1000, text: str = "") -> None:
        """Send a close frame."""
        self.closed = True
        await self.send_frame(FIN | CLOSE, b"" if code is None else code.to_bytes(2, "big") + text.encode())


Peer = RawPeer | WebSocketPeer


async def side(
    speaks: str, over: str, role: str, *, buffer: int | None = None, **options: object
) -> tuple[Endpoint, Peer]:
    """An endpoint of the bridge and the peer at the other end of its wire."""
    ours, theirs = sockets("tcp" if over == "tls" else over, buffer)
    transport = Transport(theirs)
    wire = SocketWire(ours)
    if over == "tls":
        server, client = contexts()
        wrap = tls_wire.wrap if speaks == "ws" else bio_wire.wrap
        we_serve = role == "server"
        transport = TlsTransport(theirs, client if we_serve else server, server_side=not we_serve)

        async def shake() -> None:
            nonlocal wire
            name = None if we_serve else "localhost"
            wire = await wrap(ours, server if we_serve else client, server_side=we_serve, server_hostname=name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake)
            nursery.start_soon(transport.handshake)
    if speaks == "raw":
        return RawEndpoint(wire), RawPeer(transport)
    return WebSocketEndpoint(wire, role, **options), WebSocketPeer(transport, masks=role == "server")


class Relay:
    """One relay between two peers.

    Attributes:
        front: The peer that was accepted.
        back: The peer that was dialled.
        front_side: The bridge's endpoint towards the front.
        back_side: The bridge's endpoint towards the back.
        ledger: The route's counters.
        scope: Cancels the relay.
    """

    def __init__(self, engine, front_side, front, back_side, back, terms) -> None:
        self.engine = engine
        self.front_side, self.front = front_side, front
        self.back_side, self.back = back_side, back
        self.terms = terms
        self.ledger = Ledger()
        self.scope = trio.CancelScope()
        self.end: End | None = None
        self.over = trio.Event()

    async def run(self) -> None:
        """Relay until the end, and hold the engine to what it promises then."""
        try:
            with self.scope:
                self.end = await self.engine.relay(self.front_side, self.back_side, self.terms, self.ledger)
        finally:
            for one in (self.front_side, self.back_side):
                assert one.wire.sock.fileno() == -1, "a descriptor is open after the end"
            self.over.set()

    async def ended(self) -> End:
        """Wait for the end."""
        await self.over.wait()
        assert self.end is not None
        return self.end

    @property
    def pair(self):
        """What the engine calls it."""
        return self.front_side.pair

    async def both(self) -> tuple[Story, Story]:
        """What both peers see up to the end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.front.to_the_end)
            nursery.start_soon(self.back.to_the_end)
        return self.front.story, self.back.story


@asynccontextmanager
async def running(make):
    """An engine that runs; after it, nothing may be left."""
    engine = make()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
        assert engine.pairs == []
    finally:
        engine.close()


@asynccontextmanager
async def between(
    engine,
    front: str,
    back: str,
    over: str = "tcp",
    terms: Terms = CALM,
    *,
    glued=None,
    buffer=None,
    seconds=20,
    **changes,
):
    """A relay between two peers, by what they speak.

    Args:
        engine: Running.
        front: What the accepted peer speaks: `ws` or `raw`.
        back: What the dialled peer speaks.
        over: `tcp`, `tls` or `unix`.
        terms: Of the relay.
        glued: Called with both peers before it begins; gives what was read already from each.
        buffer: Size of kernel buffers, if small.
        seconds: In which all must be over.
        changes: To the terms.
    """
    front_side, front_peer = await side(front, over, "server", buffer=buffer)
    back_side, back_peer = await side(back, over, "client", buffer=buffer)
    if glued:
        for endpoint, data in zip((front_side, back_side), glued(front_peer, back_peer), strict=True):
            endpoint.wire.unread(data)
    relay = Relay(engine, front_side, front_peer, back_side, back_peer, replace(terms, **changes))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            with trio.fail_after(seconds):
                yield relay
        finally:
            relay.scope.cancel()
            front_peer.transport.close()
            back_peer.transport.close()


async def until(true, what: str = "it") -> None:
    """Wait until something that no event tells of has come true."""
    with trio.move_on_after(10):
        while not true():
            await trio.sleep(0.005)
        return
    raise AssertionError(f"{what} did not come true")
