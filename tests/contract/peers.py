"""Peers written by hand, that share no line with the bridge.

A peer speaks raw bytes or WebSocket, over TCP, TLS or a Unix socket. It can do all that a peer may do and all that it
must not, and it tells what it saw up to the very end: payload, close frame, and how the transport ended.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from fcntl import ioctl
from termios import TIOCOUTQ

import trio
from websockets.speedups import apply_mask

from wsbridge.net.tls import is_truncated

FIN = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Transport:
    """A peer's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.sending = trio.Lock()

    async def send(self, data: bytes) -> None:
        """Send all of it; tasks take turns."""
        async with self.sending:
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
        """Bytes sent that the bridge's kernel has not received."""
        return int.from_bytes(ioctl(self.sock.fileno(), TIOCOUTQ, bytes(4)), "little")


class TlsTransport(Transport):
    """The same under TLS, by memory buffers, with a real half-close."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=name)

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
        async with self.sending:
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
            except ssl.SSLError as error:
                if not is_truncated(error):
                    raise
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
        out = bytearray()
        while len(out) < count:
            got = await self.some()
            assert got is not None, f"ended after {len(out)} of {count} bytes: {self.story}"
            out += got
        assert len(out) == count
        return bytes(out)

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
