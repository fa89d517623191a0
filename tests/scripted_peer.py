"""A server of resumable sessions that says what a test wants, byte for byte, also what no server may say."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import trio

from tests.serving import accept_upgrade, reset
from wsbridge.protocol.resume_frames import (
    RESUME_SUBPROTOCOL,
    ControlFrameBody,
    Frame,
    FrameReader,
    Opened,
    Resumed,
    encode_frame,
)
from wsbridge.protocol.websocket import CLOSE, PING, PONG, WebSocketFraming, decode_close_body, encode_close_body

OPENED = Opened(7, bytes(range(16)), b"T" * 32, 30, 65536, 8192, 50, 0)
"""What opens a session: a window of 64 KiB, kept for 30 s without a transport."""


@dataclass(slots=True)
class Close:
    """A close frame."""

    code: int | None = 1000
    text: str = ""


@dataclass(slots=True)
class Ping:
    """A ping."""

    body: bytes = b""


Part = ControlFrameBody | Close | Ping | bytes
"""What a server sends; bytes are the payload of a DATA frame."""


def resumed(received: int = 0, token: bytes = b"U" * 32, ttl: int = 30) -> Resumed:
    """Give the answer to a RESUME."""
    return Resumed(received, token, ttl)


def wire(*parts: Part) -> bytes:
    """Write frames as a server sends them."""
    framing, written = WebSocketFraming("server"), b""
    for part in parts:
        if isinstance(part, Close):
            written += framing.encode_control(CLOSE, encode_close_body(part.code, part.text))
        elif isinstance(part, Ping):
            written += framing.encode_control(PING, part.body)
        elif isinstance(part, bytes):
            written += b"".join(framing.encode_messages([(b"\x05", part)]))
        else:
            written += b"".join(framing.encode_messages([(encode_frame(part), b"")]))
    return written


class Peer:
    """One connection of a client, after the 101.

    Attributes:
        request: The head of its request.
        closed: Code and text of its close frame; None before it came.
        pongs: Bodies of its pongs.
    """

    def __init__(self, stream: trio.SocketStream, request: str) -> None:
        self.stream = stream
        self.request = request
        self.closed: tuple[int | None, str] | None = None
        self.pongs: list[bytes] = []
        self._framing = WebSocketFraming("server")
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()

    async def send(self, *parts: Part) -> None:
        """Send frames, all at once."""
        await self.stream.send_all(wire(*parts))

    async def next(self) -> Frame | None:
        """Wait for a frame; None at the end, or once a close frame has come."""
        while not self._frames:
            if not await self.more():
                return None
        return self._frames.popleft()

    async def until(self, *wanted: Frame) -> None:
        """Wait for these frames, in this order, and skip others."""
        for frame in wanted:
            while True:
                came = await self.next()
                assert came is not None, f"no {frame}"
                if came == frame:
                    break

    async def more(self) -> bool:
        """Read once; False at the end, or once a close frame has come."""
        if self.closed is not None:
            return False
        try:
            data = bytes(await self.stream.receive_some(65536))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        if not data:
            return False
        while data:
            used, chunks, marks, controls, violation = self._framing.decode(data)
            assert violation is None, violation
            data = data[used:]
            self._frames += self._reader.read(chunks, marks or [])
            for opcode, body in controls or ():
                if opcode == CLOSE:
                    self.closed = decode_close_body(body)
                elif opcode == PONG:
                    self.pongs.append(body)
        return True

    async def until_closed(self) -> tuple[int | None, str] | None:
        """Read to the close frame of the client, or to the end, and give its code and text."""
        while self.closed is None and await self.more():
            pass
        return self.closed

    def reset(self) -> None:
        """Reset the connection."""
        reset(self.stream)


Script = Callable[[Peer], Awaitable[None]]
"""What the server does with one connection; when it returns, the connection is closed."""


class ScriptedServer:
    """What the test reads and changes.

    Attributes:
        port: Where it listens.
        scripts: What it does with its connections, each once; the last one is used again and again. Bytes are an HTTP
            response without an upgrade.
        peers: All clients that were upgraded.
        dials: Connections so far.
    """

    def __init__(self, port: int, scripts: tuple[Script | bytes, ...]) -> None:
        self.port = port
        self.scripts = list(scripts)
        self.peers: list[Peer] = []
        self.dials = 0

    @property
    def url(self) -> str:
        """Its URL."""
        return f"ws://127.0.0.1:{self.port}/"

    async def until_dialed(self, count: int) -> Peer:
        """Wait until so many clients were upgraded; gives the last of them."""
        with trio.fail_after(30):
            while len(self.peers) < count:
                await trio.sleep(0.002)
        return self.peers[-1]

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.dials += 1
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            if isinstance(script, bytes):
                await stream.receive_some(65536)
                await stream.send_all(script)
                await stream.send_eof()
                return
            request = await accept_upgrade(stream, f"Sec-WebSocket-Protocol: {RESUME_SUBPROTOCOL}")
            peer = Peer(stream, request)
            self.peers.append(peer)
            await script(peer)


@contextlib.asynccontextmanager
async def scripted_server(*scripts: Script | bytes) -> AsyncIterator[ScriptedServer]:
    """Run one on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = ScriptedServer(listener.socket.getsockname()[1], scripts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()
