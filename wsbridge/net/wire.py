"""Wire: the bytes of one transport, and the plain socket among them.

Lives here: what every transport offers. `read_some`, `write_all` and `unread` are for the steps before the relay, as
tasks; `read`, `write`, `finish`, `discard`, `abort` and `close` never wait and are for the relay's pump. Must not live
here: frames, TLS (`tls_wire`, `bio_wire`), and any decision on when a connection ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Protocol

import trio

from wsbridge.net import sockets
from wsbridge.net.address import Peer
from wsbridge.protocol.framing import Buffer

READ_SIZE = 65536
"""Bytes asked for in one read; what one read gives becomes one frame."""

BULK_SIZE = 524288
"""Bytes that a bulk read may grow to, by doubling, while reads are full and the other side takes all of it."""

_bulk = memoryview(bytearray(BULK_SIZE))
# One for all: allocating as much for each read has malloc give pages back and take them anew, a third of the time.

MOST_PARTS = 512
"""Buffers handed to the kernel in one call, which takes 1,024 (IOV_MAX)."""

EOF, RESET = "eof", "reset"

_BYTES_ACKED = 120  # offsets into struct tcp_info (linux/tcp.h)
_RETRANSMITS = 2
_PROBES = 3
_NO_BYTES = bytes(4)


class Wire(Protocol):
    """One transport.

    Attributes:
        fd: Its descriptor, for epoll.
        readable: Whether a read may give something; only a read that found nothing clears it.
        hup: Whether an event told of an end or an error: then reads go on until they meet it.
        ended: None, `eof` (an orderly end of what the peer sends) or `reset` (any other). Final.
        error: What the system said to a reset; empty for none.
    """

    fd: int
    readable: bool
    hup: bool
    ended: str | None
    error: str

    def read(self, most: int = READ_SIZE) -> bytes:
        """Give what has arrived; nothing means: look at `ended`, else wait.

        Args:
            most: Bytes to give, at most 64 KiB; where TLS goes through memory, what is decrypted is given whole.
        """

    def read_bulk(self) -> Buffer:
        """Do as `read`, for bytes that are written on at once: more of them while they keep coming.

        What it gives is overwritten by the next bulk read of any wire; what is to last longer goes through `lasting`.
        """

    def read_less(self) -> None:
        """Begin again with small bulk reads: the other side does not keep up, and what it has not taken is kept."""

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """Hand buffers to the kernel, in order; give what it did not take, None for all taken.

        An empty list means that the wire itself holds bytes back: call again with it.
        """

    def fail(self) -> None:
        """Record the error that an event told of, where no read will meet it."""

    def finish(self) -> bool:
        """End what we send (FIN, under TLS close_notify); False: not yet, call again when it can be written."""

    def holds(self) -> bool:
        """Tell whether bytes wait here that no event will tell of."""

    def discard(self) -> int:
        """Read and drop; give the number of bytes."""

    def abort(self) -> None:
        """Reset the connection and close."""

    def close(self) -> None:
        """Close the descriptor."""

    def unacked(self) -> int:
        """Bytes handed to the kernel that the peer's has not acknowledged."""

    def acked(self) -> int:
        """Bytes acknowledged so far, counted as the transport counts them."""

    def unanswered(self) -> bool:
        """Tell whether the kernel repeats bytes or window probes that the peer's kernel leaves unanswered."""

    async def read_some(self) -> bytes:
        """Wait for bytes; empty at the peer's end.

        Raises:
            OSError: The connection is reset, or TLS failed.
        """

    async def write_all(self, data: bytes) -> None:
        """Wait until the kernel has taken all of `data`.

        Raises:
            OSError: The connection is reset, or TLS failed.
        """

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of what comes next."""

    def with_hello(self, peer: Peer) -> Peer:
        """Add to the peer that we accepted what it said of itself in the TLS handshake."""


def lasting(parts: list[Buffer]) -> list[Buffer]:
    """Copy what lies where the next bulk read goes."""
    return [bytes(part) if isinstance(part, memoryview) and part.obj is _bulk.obj else part for part in parts]


class SocketWire:
    """A stream socket, non-blocking, TCP or Unix; also the base of the TLS wires."""

    __slots__ = (
        "_early",
        "_recv",
        "_send",
        "_size",
        "ended",
        "error",
        "fd",
        "hup",
        "readable",
        "sent",
        "sock",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.readable = True
        self.hup = False
        self.ended: str | None = None
        self.error = ""
        self.sent = 0
        self._early = b""
        self._size = READ_SIZE
        self._recv = sock.recv
        self._send = sock.send

    def read(self, most: int = READ_SIZE) -> bytes:
        """See `Wire.read`."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            data = self._recv(most)
        except OSError as error:
            return self._read_nothing(error)
        if len(data) < most:
            self._read_all(len(data))
        return data

    def read_bulk(self) -> Buffer:
        """See `Wire.read_bulk`."""
        size = self._size
        if size == READ_SIZE:
            data = SocketWire.read(self)
            if len(data) == READ_SIZE:
                self._size = size * 2
            return data
        try:
            count = self.sock.recv_into(_bulk, size)
        except OSError as error:
            return self._read_nothing(error)
        if count < size:
            self._read_all(count)
            if count < READ_SIZE:
                self._size = READ_SIZE
        elif size < BULK_SIZE:
            self._size = size * 2
        return _bulk[:count]

    def _read_nothing(self, error: OSError) -> bytes:
        if not isinstance(error, BlockingIOError):
            self.broke(error)
        self.readable = False
        return b""

    def _read_all(self, count: int) -> None:
        """Draw the conclusion from a read that found fewer bytes than it asked for."""
        if not count:
            self.readable = False
            self.ended = self.ended or EOF
        elif not self.hup:
            self.readable = False

    def read_less(self) -> None:
        """See `Wire.read_less`."""
        self._size = READ_SIZE

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Wire.write`."""
        try:
            if len(parts) == 1:
                data = parts[0]
                taken = self._send(data)
                self.sent += taken
                if taken == len(data):
                    return None
                return [memoryview(data)[taken:]]
            if len(parts) > MOST_PARTS:  # a rest that the kernel has room for would never be asked for by an event
                parts = [b"".join(parts)]
            taken = self.sock.sendmsg(parts)
            self.sent += taken
        except BlockingIOError:
            return parts
        except OSError as error:
            self.broke(error)
            self.readable = True  # the kernel may still hold what the peer sent before
            return None
        for index, part in enumerate(parts):
            if taken < len(part):
                return [memoryview(part)[taken:], *parts[index + 1 :]]
            taken -= len(part)
        return None

    def broke(self, error: OSError) -> None:
        """Record the first error; it is final."""
        if self.ended != RESET:
            self.error = error.strerror or str(error)
            self.ended = RESET
        self.hup = True

    def fail(self) -> None:
        """See `Wire.fail`."""
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.broke(OSError(code or errno.ECONNRESET, os.strerror(code or errno.ECONNRESET)))

    def finish(self) -> bool:
        """Send FIN."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broke(error)
        return True

    def holds(self) -> bool:
        """See `Wire.holds`."""
        return bool(self._early)

    def discard(self) -> int:
        """See `Wire.discard`."""
        dropped = 0
        for _ in range(4):
            try:
                data = socket.socket.recv(self.sock, READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                self.broke(error)
                break
            if not data:
                self.ended = self.ended or EOF
                break
            dropped += len(data)
        return dropped

    def abort(self) -> None:
        """Reset and close; a Unix socket has no reset and is closed."""
        sockets.reset(self.sock)

    def close(self) -> None:
        """Close the descriptor."""
        self.sock.close()

    def _tcp_info(self) -> bytes:
        if self.sock.family == socket.AF_UNIX:
            return b""
        try:
            return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        except OSError:
            return b""

    def unacked(self) -> int:
        """See `Wire.unacked`; on a Unix socket, what the peer has not read."""
        try:
            return int.from_bytes(fcntl.ioctl(self.fd, termios.TIOCOUTQ, _NO_BYTES), "little")
        except OSError:
            return 0

    def acked(self) -> int:
        """See `Wire.acked`."""
        info = self._tcp_info()
        if len(info) >= _BYTES_ACKED + 8:
            return int(struct.unpack_from("Q", info, _BYTES_ACKED)[0])
        return self.sent - self.unacked()

    def unanswered(self) -> bool:
        """See `Wire.unanswered`."""
        info = self._tcp_info()
        return bool(info) and (info[_RETRANSMITS] > 0 or info[_PROBES] > 2)

    async def read_some(self) -> bytes:
        """See `Wire.read_some`."""
        while True:
            data = self.read()
            if data or self.ended == EOF:
                return data
            if self.ended:
                raise ConnectionResetError(self.error)
            await self.ready()

    async def write_all(self, data: bytes) -> None:
        """See `Wire.write_all`."""
        rest = self.write([data])
        while rest is not None:
            await trio.lowlevel.wait_writable(self.fd)
            rest = self.write(rest)
        if self.ended == RESET:
            raise ConnectionResetError(self.error)

    async def ready(self) -> None:
        """Wait until a read that found nothing is worth repeating."""
        await trio.lowlevel.wait_readable(self.fd)

    def unread(self, data: bytes) -> None:
        """See `Wire.unread`."""
        if data:
            self._early = data + self._early
            self.readable = True

    def with_hello(self, peer: Peer) -> Peer:
        """See `Wire.with_hello`: without TLS it said nothing."""
        return peer
