"""An open connection of a probe: pings, what the server sends of itself, and how it ends."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import trio

from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.http1 import quoted
from wsbridge.protocol.websocket import (
    CLOSE,
    PING,
    PONG,
    WebSocketFraming,
    decode_close_body,
    encode_close_body,
)

MAX_GREETING_BYTES: Final = 256
"""First bytes of a server that are kept."""
_MAX_PING_TIMES: Final = 1000
_CLOSE_TIMEOUT: Final = 1.0

EndKind = Literal["close", "fin", "reset", "violation"]


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How a connection ended.

    Attributes:
        kind: By a Close frame, by FIN without one, by RST (or a TLS error), or by a violation of RFC 6455.
        code: Of the Close frame, or None.
        text: Of the Close frame, or a sentence.
        at: When (trio's clock).
    """

    kind: EndKind
    code: int | None
    text: str
    at: float

    def __str__(self) -> str:
        if self.kind == "close":
            text = f" {quoted(self.text)}" if self.text else ""
            return f"Close {self.code}{text}" if self.code is not None else "Close without a code"
        if self.kind == "fin":
            return "FIN without a Close frame"
        return f"RST ({self.text})" if self.kind == "reset" else self.text


class ProbeSession:
    """An open connection; one task at a time uses it.

    Args:
        transport: After the 101, or connected to a service without WebSocket.
        websocket: Whether frames are spoken.
        early: Bytes that came behind the 101.

    Attributes:
        greeting: What the server sent first, without frames.
        received: Payload bytes so far.
        ended: How it ended; None while it is open.
        server_pings: When the server sent pings, the latest ones.
        last_traffic: When something was last sent or received.
    """

    def __init__(self, transport: SocketTransport, *, websocket: bool, early: bytes = b"") -> None:
        self._transport = transport
        self._framing = WebSocketFraming("client", "bytes") if websocket else None
        self._pongs: deque[bytes] = deque(maxlen=16)
        self.greeting = b""
        self.received = 0
        self.ended: ConnectionEnd | None = None
        self.server_pings: deque[float] = deque(maxlen=_MAX_PING_TIMES)
        self.last_traffic = trio.current_time()
        transport.unread(early)

    async def watch(self, seconds: float, *, until_data: bool = False) -> None:
        """Read for some time, or until the end; pings of the server are answered.

        Args:
            seconds: How long.
            until_data: Whether payload ends it, too.
        """
        with trio.move_on_after(seconds):
            while self.ended is None and not (until_data and self.received):
                await self._read()

    async def ping(self, timeout: float) -> float | None:
        """Send a ping and wait for its pong; return the seconds, or None: none came, or the connection ended."""
        assert self._framing is not None  # noqa: S101  (only WebSockets are pinged)
        body = os.urandom(8)
        started = trio.current_time()
        await self._send(PING, body)
        with trio.move_on_after(timeout):
            while self.ended is None:
                if body in self._pongs:
                    return trio.current_time() - started
                await self._read()
        return None

    async def _send(self, opcode: int, body: bytes) -> None:
        if self._framing is None or self.ended is not None:
            return
        try:
            with trio.move_on_after(_CLOSE_TIMEOUT):
                await self._transport.write_all(self._framing.encode_control(opcode, body))
            self.last_traffic = trio.current_time()
        except OSError as error:
            self._end("reset", None, str(error))

    async def _read(self) -> None:
        try:
            data = await self._transport.read_some()
        except OSError as error:
            text = str(error)
            self._end("fin" if text.startswith("truncated") else "reset", None, text)
            return
        if not data:
            self._end("fin", None, "")
            return
        self.last_traffic = trio.current_time()
        if self._framing is None:
            self._take(data)
        else:
            await self._decode(self._framing, data)

    async def _decode(self, framing: WebSocketFraming, data: bytes) -> None:
        while data and self.ended is None:
            used, chunks, _, controls, violation = framing.decode(data)
            data = data[used:]
            for chunk in chunks:
                self._take(bytes(chunk))
            if violation is not None:
                self._end("violation", None, violation.detail)
            for opcode, body in controls or ():
                await self._take_control(opcode, body)
            await trio.lowlevel.checkpoint()

    async def _take_control(self, opcode: int, body: bytes) -> None:
        if opcode == PING:
            self.server_pings.append(trio.current_time())
            await self._send(PONG, body)
        elif opcode == PONG:
            self._pongs.append(body)
        elif opcode == CLOSE:
            code, text = decode_close_body(body)
            await self._send(CLOSE, encode_close_body(code))
            self._end("close", code, text)

    def _take(self, data: bytes) -> None:
        self.received += len(data)
        if len(self.greeting) < MAX_GREETING_BYTES:
            self.greeting += data[: MAX_GREETING_BYTES - len(self.greeting)]

    def _end(self, kind: EndKind, code: int | None, text: str) -> None:
        if self.ended is None:
            self.ended = ConnectionEnd(kind, code, text, trio.current_time())

    async def close(self) -> None:
        """Close the connection in order, as far as the server answers soon."""
        with trio.CancelScope(shield=True):
            if self._framing is not None and self.ended is None:
                await self._send(CLOSE, encode_close_body(1000))
                await self.watch(_CLOSE_TIMEOUT)
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
