"""A client of resumable sessions: the state machine of `wsbridge.protocol` over connections that the test cuts."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from tests.client import BINARY, CLOSE, PING, PONG, Client, frame
from tests.serving import Backend, Handler, Served, backend, echo, serving, written
from wsbridge.protocol.resume import Ended, GoingAway, PeerFinished, Received, SessionState
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, FrameReader
from wsbridge.protocol.websocket import WebSocketFraming

OFFER = f"Sec-WebSocket-Protocol: {RESUME_SUBPROTOCOL}, binary"


class SessionClient:
    """One session; the peer's stream is consumed as it arrives, unless `paused`.

    Attributes:
        machine: The state machine.
        received: What has come of the peer's stream.
        finished: Whether the peer has ended its stream.
        close: Code and text of the last close frame that came.
        going_away: What GOAWAY said.
        port: Where it connects to.
        paused: Nothing more is consumed, so that nothing more is acknowledged.
        introduction: What it sends before its request, such as the header of a proxy.
    """

    def __init__(
        self, port: int, nursery: trio.Nursery, window: int = 0, *, tls: bool | ssl.SSLContext = False
    ) -> None:
        self.machine = ClientSession(window)
        self.received = bytearray()
        self.on_received: Callable[[bytes], None] | None = None
        self.finished = False
        self.close: tuple[int, str] | None = None
        self.paused = False
        self.introduction = b""
        self.going_away: GoingAway | None = None
        self.client: Client | None = None
        self.port = port
        self._tls = tls
        self.nursery = nursery
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._unconsumed = 0
        self._writing = trio.Lock()
        self._left: list[Client] = []
        self._close_came: tuple[int, str] | None = None

    @property
    def ended(self) -> Ended | None:
        """How the session ended."""
        return self.machine.ended

    @property
    def end(self) -> tuple[int | None, str] | None:
        """Code and text of the end."""
        return None if self.machine.ended is None else (self.machine.ended.code, self.machine.ended.text)

    async def connect(self, path: str = "/", *headers: str, frame_too: bool = True) -> None:
        """Open a transport, and begin or resume on it."""
        self.cut()
        client = await Client.connect(self.port, tls=self._tls)
        try:
            if self.introduction:
                await client.send(self.introduction)
            head = await client.upgrade(path, OFFER, *headers)
            assert f"Sec-WebSocket-Protocol: {RESUME_SUBPROTOCOL}" in head, head
        except BaseException:
            client.drop()
            raise
        self.client = client
        self.machine.connect(trio.current_time())
        self._scope = trio.CancelScope()
        self.nursery.start_soon(self._read, client, self._scope)
        if frame_too:
            await self.flush()

    async def opened(self) -> None:
        """Wait until the session is open, or resumed."""
        await self.until(lambda: self.machine.state.value == "attached" or self.ended is not None)
        assert self.ended is None, self.ended

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something holds."""
        with trio.fail_after(seconds):
            while not condition():
                self._changed = trio.Event()
                with trio.move_on_after(0.05):
                    await self._changed.wait()
                for event in self.machine.on_deadline(trio.current_time()):
                    self._note(event)
                await self.flush()

    async def send(self, data: bytes) -> None:
        """Give bytes to the session, as it has room, and write what can be written."""
        view = memoryview(data)
        while view:
            await self.until(lambda: self.machine.room or self.ended)
            assert self.ended is None, self.ended
            part = view[: min(self.machine.room, 65536)]
            self.machine.send(bytes(part))
            view = view[len(part) :]
            await self.flush()

    async def finish(self) -> None:
        """End our stream."""
        self.machine.finish()
        await self.flush()

    async def flush(self) -> None:
        """Write what the machine wants to be written; a transport that is gone is none."""
        framing = WebSocketFraming("client")
        async with self._writing:
            client = self.client
            if client is None:
                return
            try:
                while self.client is client and (messages := self.machine.take(262144, trio.current_time())):
                    await client.send(b"".join(framing.encode_messages(messages)))
                if self.machine.closing is not None and self.client is client:
                    code, text = self.machine.closing
                    await client.send(frame(CLOSE, code.to_bytes(2, "big") + text.encode()))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def control(self, data: bytes) -> None:
        """Write a frame between others."""
        async with self._writing:
            if self.client is not None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.client.send(data)

    def cut(self) -> None:
        """Lose the transport without a word."""
        client = self.client
        if client is not None:
            self.abandon().drop()

    def abandon(self) -> Client:
        """Leave the transport as it is, open, and think that it is lost."""
        client, self.client = self.client, None
        assert client is not None
        self._scope.cancel()
        self._left.append(client)
        for event in self.machine.transport_lost(trio.current_time()):
            self._note(event)
        return client

    def lost(self) -> None:
        """Have the machine think that no close frame came: the session may go on."""
        self.machine.ended = None
        self.machine.state = SessionState.DETACHED

    def drop_all(self) -> None:
        """Close all descriptors."""
        self.cut()
        for client in self._left:
            client.drop()

    def go_on(self) -> None:
        """Consume again."""
        self.paused = False
        if self._unconsumed:
            self.machine.consumed(self._unconsumed, trio.current_time())
            self._unconsumed = 0

    async def leave(self, code: int | None, text: str = "") -> None:
        """Close the transport by a close frame, and read its answer."""
        client = self.client
        assert client is not None
        await self.control(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + text.encode()))
        await self.until(lambda: self.client is None)

    async def resume(self, path: str = "/", *headers: str) -> None:
        """Go on over another transport."""
        await self.connect(path, *headers)
        await self.opened()

    def _note(self, event: object) -> None:
        if isinstance(event, Received):
            for payload in event.payloads:
                self.received += payload
                self._unconsumed += len(payload)
        elif isinstance(event, PeerFinished):
            self.finished = True
        elif isinstance(event, GoingAway):
            self.going_away = event
        if not self.paused:
            self.go_on()
        if not self.paused and isinstance(event, PeerFinished):
            self.machine.consumed_fin()
        self._changed.set()

    async def _read(self, client: Client, scope: trio.CancelScope) -> None:
        """Read a transport to its end."""
        framing, reader = WebSocketFraming("client"), FrameReader()
        self._close_came = None
        with scope:
            data, client.buffer = client.buffer, b""
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
                while True:
                    while data:
                        data = await self._decode(framing, reader, data)
                    if self._close_came is not None or not (data := bytes(await client.stream.receive_some(65536))):
                        break
            code, text = self._close_came or (None, "")
            if code is not None and self.machine.closing is None:
                await self.control(frame(CLOSE, b"" if code == 1005 else code.to_bytes(2, "big")))
            client.drop()
            if self.client is client:
                self.client = None
                for event in self.machine.transport_lost(trio.current_time(), code, text):
                    self._note(event)
            self._changed.set()

    async def _decode(self, framing: WebSocketFraming, reader: FrameReader, data: bytes) -> bytes:
        """Process what has come; give what is left of it."""
        used, chunks, marks, controls, violation = framing.decode(data)
        assert violation is None, violation
        for event in self.machine.receive(reader.read(chunks, marks or []), trio.current_time()):
            self._note(event)
        for opcode, body in controls or ():
            if opcode == CLOSE:
                code = int.from_bytes(body[:2], "big") if body else 1005
                self.close = self._close_came = (code, body[2:].decode())
            elif opcode == PING:
                await self.control(frame(PONG, body))
        await self.flush()
        self._changed.set()
        return data[used:]


@contextlib.asynccontextmanager
async def session(port: int, window: int = 0, *, tls: bool | ssl.SSLContext = False) -> AsyncIterator[SessionClient]:
    """Give a client of one session; at the end its transport is cut."""
    async with trio.open_nursery() as nursery:
        client = SessionClient(port, nursery, window, tls=tls)
        try:
            yield client
        finally:
            client.drop_all()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[SessionClient]]:
    """Give clients of several sessions; see `session`."""
    async with trio.open_nursery() as nursery:
        found = [SessionClient(port, nursery) for _ in range(count)]
        try:
            yield found
        finally:
            for client in found:
                client.drop_all()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def one_session(
    handler: Handler = echo, *, window: int = 0, headers: Sequence[str] = (), paused: bool = False, **config: Any
) -> AsyncIterator[tuple[Backend, Served, SessionClient]]:
    """Serve one session, which is open.

    Args:
        handler: Of its backend.
        window: What the client wants.
        headers: Of its requests.
        paused: Whether it consumes nothing.
        config: See `route_of`.
    """
    async with (
        backend(handler) as back,
        serving(route_of(back, **config)) as served,
        session(served.port(), window, tls=config.get("tls", False)) as client,
    ):
        client.paused = paused
        await opened(client, "/", *headers)
        yield back, served, client


async def opened(client: SessionClient, path: str = "/", *headers: str) -> SessionClient:
    """Open a session."""
    await client.connect(path, *headers)
    await client.opened()
    return client


def message(payload: bytes) -> bytes:
    """Write a frame of the subprotocol, as a client does."""
    return frame(BINARY, payload)


def route_of(
    back: Backend,
    *,
    resume: dict[str, object] | None = {},  # noqa: B006  (never changed)
    route_limits: dict[str, object] | None = None,
    auth: object = "none",
    **rest: Any,
) -> str:
    """Write a configuration with one route to a backend, which has resumable sessions.

    Args:
        back: The backend.
        resume: Its section; None: without.
        route_limits: Its limits.
        auth: Its authentication.
        rest: See `written`.
    """
    route: dict[str, object] = {"backend": back.url, "limits": route_limits or {}, "auth": auth}
    return written(route=route if resume is None else {**route, "resume": resume}, **rest)
