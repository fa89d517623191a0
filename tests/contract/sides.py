"""A relay between two peers: their sockets, the bridge's endpoints, and the engine that is tried.

`peers` says what a peer is, and what it can do.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import socket
import ssl
import termios
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests import authority
from tests.contract.peers import Peer, RawPeer, Story, TlsTransport, Transport, WebSocketPeer
from tests.net.tls_ends import OurTls, connected
from tests.tls_contexts import server_context
from tests.tls_providers import providers
from wsbridge.net.address import LocalAddress
from wsbridge.net.tls import client_context
from wsbridge.net.transport import SocketTransport, set_socket_options
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import Endpoint, Side
from wsbridge.relay.engine import PythonEngine, Relaying, RelayResult
from wsbridge.relay.relay import RelayOptions

pairings = pytest.mark.parametrize(
    ("front", "back"),
    [("ws", "raw"), ("raw", "ws"), ("raw", "raw"), ("ws", "ws")],
    ids=["ws-raw", "raw-ws", "raw-raw", "ws-ws"],
)
"""What the front and the back speak."""

TLS_PROVIDERS = {str(each.id).replace("openssl", "tls"): each.values[0] for each in providers()}
"""The implementations of TLS: `tls` is OpenSSL's, `rustls` that of the native engine."""

overs = pytest.mark.parametrize("over", ["tcp", "unix", *TLS_PROVIDERS])
secures = pytest.mark.parametrize("over", ["tcp", *TLS_PROVIDERS])
"""Where a reset differs from an orderly end."""
encrypted = pytest.mark.parametrize("over", [*TLS_PROVIDERS])

INITIATORS = {"front": "client", "back": "backend"}
"""What a termination calls each side."""

CALM = RelayOptions(ping_interval=None, write=None, close=60.0, half_close=60.0, lingering=60.0)
"""No time limit is met in a test that does not want it."""

SHORT = RelayOptions(ping_interval=None, write=None, close=0.2, half_close=0.3, lingering=0.1)
"""Endings that a peer holds up are over at once."""


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server called `localhost` and of a client that trusts it, as the bridge makes them."""
    files = authority.folder()
    return server_context([(files / "cert.pem", files / "key.pem")]), client_context(files / "ca.pem")


@functools.cache
def our_tls(over: str) -> OurTls:
    """TLS as the bridge does it, by one of its implementations."""
    files = authority.folder()
    return OurTls(TLS_PROVIDERS[over], (files / "cert.pem", files / "key.pem"), files / "ca.pem")


def sockets(over: str, buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A connected pair, non-blocking: ours and the peer's; `buffer` makes all four kernel buffers small."""
    ours, theirs = socket.socketpair(socket.AF_UNIX) if over == "unix" else connected(buffer)
    set_socket_options(ours)
    for sock in (ours, theirs):
        sock.setblocking(False)
        if over != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return ours, theirs


async def side(speaks: str, over: str, role: str, *, buffer: int | None = None, **options: object) -> tuple[Side, Peer]:
    """A side as the engine is given it and the peer at the other end of its transport."""
    ours, theirs = sockets("tcp" if over in TLS_PROVIDERS else over, buffer)
    transport = Transport(theirs)
    wire = SocketTransport(ours)
    if over in TLS_PROVIDERS:
        server, client = contexts()
        we_serve = role == "server"
        transport = TlsTransport(theirs, client if we_serve else server, server_side=not we_serve)

        async def shake() -> None:
            nonlocal wire
            wire = await our_tls(over).start(ours, server_side=we_serve)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake)
            nursery.start_soon(transport.handshake)
    if speaks == "raw":
        return Side(wire, **options), RawPeer(transport)
    return Side(wire, role, **options), WebSocketPeer(transport, masks=role == "server")


async def end_of(relaying: Relaying) -> None:
    """Wait for the end of a pair; cancelling aborts both sides."""
    try:
        await relaying.ended
    except BaseException:
        relaying.abort()
        raise


async def relayed(engine, connection_id: int, front: Side, back: Side, options: RelayOptions) -> RelayResult:
    """Relay until the end; give how it ended."""
    relaying = engine.start(connection_id, front, back, options)
    try:
        await end_of(relaying)
    finally:
        result = relaying.result()
    return result


IDS = itertools.count(1)


class Relay:
    """One relay between two peers.

    Attributes:
        front: The peer that was accepted.
        back: The peer that was dialled.
        front_side: The endpoint towards the front, from when it is relayed.
        back_side: The endpoint towards the back.
        id: The connection's, for the engine.
        address: Where the backend is that the engine connects; None if it is given one.
        scope: Cancels the relay.
        end: How it ended, also if it was cancelled; None before.
    """

    def __init__(self, engine, front_side, front, back_side, back, terms) -> None:
        self.engine = engine
        self.given = front_side, back_side
        self.front, self.back = front, back
        self.front_side: Endpoint | None = None
        self.back_side: Endpoint | None = None
        self.id = next(IDS)
        self.terms = terms
        self.share = None
        self.address: LocalAddress | None = None
        self.detached: tuple[Side, Side] | None = None
        self.scope = trio.CancelScope()
        self.end: RelayResult | None = None
        self.over = trio.Event()

    async def run(self) -> None:
        """Relay until the end, and hold the engine to what it promises then."""
        try:
            with self.scope:
                relaying = await self.bridge() if self.address else self.start()
                try:
                    await end_of(relaying)
                finally:
                    self.end = relaying.result()
        finally:
            for one in () if self.detached else self.given:
                assert one.transport.sock.fileno() == -1, "a descriptor is open after the end"
            self.over.set()

    def start(self) -> Relaying:
        """Have the engine relay the two sides."""
        return self.engine.start(self.id, *self.given, self.terms, self.share)

    async def bridge(self) -> Relaying:
        """Have the engine connect the backend, and relay."""
        bridging = self.engine.bridge(self.id, self.given[0], b"", self.address, self.terms, lambda: True)
        await bridging.begun
        assert bridging.is_relayed
        return bridging

    def probe(self) -> None:
        """Look at the engine's own endpoints, while they are relayed."""
        if (found := self.pair) is not None:
            self.front_side, self.back_side = found.front, found.back

    def take_back(self) -> None:
        """Have Python relay the pair, as it does whenever a rule asks for it."""
        self.engine.find(self.id)

    @property
    def front_is_blocked(self) -> bool:
        """Whether bytes wait for the front to accept them."""
        figures = self.engine.figures(self.id)
        return figures is not None and figures.blocked_to_client_seconds is not None

    @property
    def back_is_blocked(self) -> bool:
        """Whether bytes wait for the back to accept them."""
        figures = self.engine.figures(self.id)
        return figures is not None and figures.blocked_to_backend_seconds is not None

    @property
    def from_front(self) -> int:
        """Payload bytes that came from the front so far."""
        return self.engine.payload_bytes(self.id)[0]

    @property
    def from_back(self) -> int:
        """Payload bytes that came from the back so far."""
        return self.engine.payload_bytes(self.id)[1]

    async def fill(self, to: str, size: int) -> int:
        """Send messages of a size from the other side, one after the other, until `to` accepts no more; give all.

        The kernel may accept more once it has acknowledged what it has, so it is looked at several times.
        """
        src, sent = (self.front if to == "back" else self.back), 0
        while True:
            await src.send(bytes(size))
            sent += size
            for _ in range(4):
                await until(lambda size=sent: self.received(src) == size or self.is_blocked(to))
                await trio.testing.wait_all_tasks_blocked(0.02)
            if self.is_blocked(to):
                return sent

    def received(self, peer: Peer) -> int:
        """Payload bytes that came from a peer so far."""
        return self.from_front if peer is self.front else self.from_back

    def is_blocked(self, side: str) -> bool:
        """Whether bytes wait for `front` or `back` to accept them."""
        return self.front_is_blocked if side == "front" else self.back_is_blocked

    def detach(self, reason: Reason) -> tuple[Side, Side]:
        """Remove the pair from the engine."""
        self.detached = self.engine.detach(self.id, reason, "detached")
        assert self.detached is not None
        return self.detached

    async def ended(self) -> RelayResult:
        """Wait for the end."""
        await self.over.wait()
        assert self.end is not None
        return self.end

    @property
    def pair(self):
        """The state machine, while it is relayed; an engine that has lent it elsewhere keeps it there."""
        return PythonEngine.find(self.engine, self.id)

    @property
    def ending(self) -> RelayResult | Termination | None:
        """Why it ends, before it is over, too; None while nothing has ended."""
        pair = self.pair
        return self.end if pair is None else pair.termination

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
        assert engine.connection_ids == []
    finally:
        engine.close()


@asynccontextmanager
async def between(
    engine,
    front: str,
    back: str,
    over: str = "tcp",
    terms: RelayOptions = CALM,
    *,
    glued=None,
    buffer=None,
    seconds=60,
    share=None,
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
        share: Bytes a second that it has in common with others.
        changes: To the terms.
    """
    front_side, front_peer = await side(front, over, "server", buffer=buffer)
    back_side, back_peer = await side(back, over, "client", buffer=buffer)
    if glued:
        for endpoint, data in zip((front_side, back_side), glued(front_peer, back_peer), strict=True):
            endpoint.transport.unread(data)
    relay = Relay(engine, front_side, front_peer, back_side, back_peer, replace(terms, **changes))
    relay.share = share
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        relay.probe()
        try:
            with trio.fail_after(seconds):
                yield relay
        finally:
            relay.scope.cancel()
            front_peer.transport.close()
            back_peer.transport.close()


@asynccontextmanager
async def bridged(engine, front: str, terms: RelayOptions = CALM, *, seconds=60, **changes):
    """A relay between a peer and a raw backend that the engine connects; see `between`."""
    front_side, front_peer = await side(front, "tcp", "server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(engine, front_side, front_peer, None, None, replace(terms, **changes))
        relay.given = (front_side,)
        relay.address = LocalAddress(socket.AF_INET, listener.getsockname(), "backend")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            await trio.testing.wait_all_tasks_blocked()
            sock, _ = listener.accept()
            sock.setblocking(False)
            relay.back = RawPeer(Transport(sock))
            try:
                with trio.fail_after(seconds):
                    yield relay
            finally:
                relay.scope.cancel()
                front_peer.transport.close()
                relay.back.transport.close()


def unread_bytes(side: Side) -> int:
    """Bytes that wait in the bridge's socket."""
    return int.from_bytes(fcntl.ioctl(side.transport.fd, termios.FIONREAD, bytes(4)), "little")


async def until(true, what: str = "it") -> None:
    """Wait until something that no event tells of has come true."""
    with trio.move_on_after(30):
        while not true():
            await trio.sleep(0.005)
        return
    raise AssertionError(f"{what} did not come true")


def ends_in_order(story: Story, close: tuple[int | None, str] | None) -> None:
    """Hold that a WebSocket peer saw this close frame and then FIN, a raw one just FIN."""
    assert story.ending == "fin"
    assert story.close == close


async def exchange(src: Peer, dst: Peer, word: bytes) -> None:
    """Send a word and see it arrive."""
    await src.send(word)
    assert await dst.take(len(word)) == word
