"""A client that can say anything: raw bytes, TLS or not, heads and frames written by hand."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
from typing import Self

import trio

from tests.authority import client_context

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(b"0123456789abcdef").decode()


def request(path: str = "/", *headers: str, host: str = "localhost") -> bytes:
    """Write an upgrade request; a header line with a name that is already there is added to the other one."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def accept_of(key: str) -> str:
    """Compute what a server answers to a key (RFC 6455 section 1.3)."""
    return base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """Write a frame."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    pad = (mask * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
    return head + mask + body


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], raw: socket.socket) -> None:
        self.stream = stream
        self.raw = raw
        self.buffer = b""

    @classmethod
    async def connect(cls, port: int, *, tls: bool | ssl.SSLContext = False, host: str = "127.0.0.1") -> Self:
        """Connect, and shake hands if it is TLS, with a context of the caller's if it gives one."""
        plain = await trio.open_tcp_stream(host, port)
        if not tls:
            return cls(plain, plain.socket)
        context = tls if isinstance(tls, ssl.SSLContext) else client_context()
        stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
        client = cls(stream, plain.socket)
        try:
            await stream.do_handshake()
        except BaseException:
            client.drop()
            raise
        return client

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(data)

    async def more(self) -> bytes:
        """Wait for bytes; empty at the end.

        Raises:
            trio.BrokenResourceError: It was reset.
        """
        with trio.fail_after(30):
            data = await self.stream.receive_some(65536)
        self.buffer += data
        return bytes(data)

    async def head(self) -> str:
        """Read one answer's head."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                raise EOFError(f"ended after {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    async def take(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        while len(self.buffer) < size:
            if not await self.more():
                raise EOFError(f"ended after {self.buffer!r}")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def everything(self) -> bytes:
        """Read to the end; a reset counts as one."""
        try:
            while await self.more():
                pass
        except (trio.BrokenResourceError, ConnectionError):
            pass
        data, self.buffer = self.buffer, b""
        return data

    async def upgrade(self, path: str = "/", *headers: str) -> str:
        """Ask for the upgrade; it must be granted."""
        await self.send(request(path, *headers))
        head = await self.head()
        assert head.startswith("HTTP/1.1 101 "), head
        assert f"Sec-WebSocket-Accept: {accept_of(KEY)}" in head
        return head

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame of a server: unmasked, unfragmented."""
        first, second = await self.take(2)
        assert first & 0x80
        assert not second & 0x80
        size = second
        if size == 126:
            size = int.from_bytes(await self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.take(8), "big")
        return first & 0x0F, await self.take(size)

    async def payload(self, size: int) -> bytes:
        """Read so much payload, however framed."""
        data = b""
        while len(data) < size:
            opcode, part = await self.frame()
            if opcode in (BINARY, 0):
                data += part
            else:
                assert opcode in (PING, PONG), (opcode, part)
        return data

    async def echoed(self, data: bytes = b"hello") -> None:
        """Send a message to an echo, and receive it again."""
        await self.send(frame(BINARY, data))
        assert await self.payload(len(data)) == data

    async def closing(self) -> tuple[int | None, str]:
        """Read up to the close frame; give code and reason."""
        while True:
            opcode, body = await self.frame()
            if opcode == CLOSE:
                return (int.from_bytes(body[:2], "big"), body[2:].decode()) if body else (None, "")

    async def close(self, code: int = 1000) -> None:
        """Close in order: our frame, theirs, the end of the stream."""
        await self.send(frame(CLOSE, code.to_bytes(2, "big")))
        await self.closing()
        assert not await self.everything()
        self.drop()

    def reset(self) -> None:
        """Reset the connection, under TLS without any word."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.raw.close()

    def drop(self) -> None:
        """Close the descriptor."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
