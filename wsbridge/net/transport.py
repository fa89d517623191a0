"""Bytes of one connected socket: the interface of transports, the plain one, and socket options."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Protocol

import trio

from wsbridge.net.address import Peer
from wsbridge.protocol.websocket import Buffer
from wsbridge.reasons import Reason

KEEPALIVE_IDLE = 60
"""Seconds of silence before the first TCP keepalive probe."""
KEEPALIVE_INTERVAL = 15
"""Seconds between probes."""
KEEPALIVE_PROBES = 4
"""Probes without an answer after which the kernel closes a connection."""

_LINGER_ZERO = struct.pack("ii", 1, 0)


def set_socket_options(sock: socket.socket) -> None:
    """Set the options of every TCP connection; does nothing to a Unix socket.

    TCP_USER_TIMEOUT is not set: once a window was full, it goes on counting although bytes are acknowledged, and so
    ends connections whose peers read slowly for a long time.

    Args:
        sock: A connected or listening TCP socket.

    Raises:
        OSError: The connection has already been closed.
    """
    if sock.family == socket.AF_UNIX:
        return
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent data (telnet) is data: none is lost


def reset_socket(sock: socket.socket) -> None:
    """Close a socket immediately, TCP with a reset: unsent bytes are dropped, and the peer sees an error.

    A socket that is already closed or disconnected is no error. A Unix socket has no reset, and is closed.
    """
    try:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    except OSError:
        pass
    finally:
        sock.close()


READ_SIZE = 65536
"""Bytes asked for in one read; what one read gives becomes one frame."""

MAX_BULK_READ_SIZE = 524288
"""Largest bulk read: reads are doubled while they are full and the other side accepts everything."""

_bulk_buffer = memoryview(bytearray(MAX_BULK_READ_SIZE))
# One for all: allocating as much for each read has malloc give pages back and allocate them again, a third of the time.

MAX_IOV_BUFFERS = 512
"""Buffers passed to the kernel in one call; its limit is 1,024 (IOV_MAX)."""

EOF, RESET = "eof", "reset"

_TCPI_BYTES_ACKED = 120  # offsets into struct tcp_info (linux/tcp.h)
_TCPI_RETRANSMITS = 2
_TCPI_PROBES = 3
_ZERO_INT = bytes(4)


class RelayTransport(Protocol):
    """The bytes of one side of a relay: read and written without waiting.

    Attributes:
        fd: Its descriptor, for epoll.
        readable: Whether a read may give something; only a read that found nothing clears it.
        peer_hung_up: Whether an event reported an end or an error: then reads continue until they find it.
        read_until_empty: Whether more may be left after a short read; also set after an end was reported.
        read_state: None, `eof` (an orderly end of what the peer sends) or `reset` (any other). Final.
        error: The text of the system for a reset; empty for none.
        fault: Why the transport itself ended the connection; None for any other end.
        sent_bytes: Bytes that the kernel has accepted so far, TLS records included.
    """

    fd: int
    readable: bool
    peer_hung_up: bool
    read_until_empty: bool
    read_state: str | None
    error: str
    fault: Reason | None
    sent_bytes: int

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return what has arrived; if nothing, look at `read_state`, else wait.

        Args:
            max_bytes: Bytes to return; under TLS all that was decrypted is returned.
        """

    def read_bulk(self) -> Buffer:
        """Read as `read` does, for bytes that are written immediately: more at once while reads are full.

        The buffer is overwritten by the next bulk read of any transport; `own_buffers` copies it.
        """

    def shrink_read_buffer(self) -> None:
        """Return to small bulk reads: the other side does not keep up, and what it does not accept stays in memory."""

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """Write buffers in order; return what the kernel did not accept, None if it accepted everything.

        An empty list means that the transport itself has bytes left to write: call again with it.
        """

    def record_socket_error(self) -> None:
        """Record the error that an event reported, where no read will find it."""

    def send_eof(self) -> bool:
        """Send FIN, under TLS after close_notify; False: not yet, call again when the socket is writable."""

    def has_buffered(self) -> bool:
        """Return whether the transport has input that no event will report."""

    def discard(self) -> int:
        """Read and drop input; return the number of bytes."""

    def abort(self) -> None:
        """Reset the connection and close."""

    def close(self) -> None:
        """Close the descriptor."""

    def unacked_bytes(self) -> int:
        """Return how many bytes were passed to the kernel and not acknowledged by the peer's kernel."""

    def acked_bytes(self) -> int:
        """Return how many bytes were acknowledged so far, TLS records included."""

    def retransmitting(self) -> bool:
        """Return whether the kernel repeats bytes or window probes that the peer's kernel does not answer."""

    def unread(self, data: bytes) -> None:
        """Put bytes back: the next read returns them first."""

    @property
    def unread_bytes(self) -> bytes:
        """The bytes that were put back and not read again."""

    def take_unread(self) -> bytes:
        """Remove and return them."""


class Transport(RelayTransport, Protocol):
    """The bytes of one connection."""

    async def read_some(self) -> bytes:
        """Wait for bytes; empty at the peer's end.

        Raises:
            OSError: The connection is reset, or TLS failed.
        """

    async def write_all(self, data: bytes) -> None:
        """Write all of `data`, waiting until the kernel has accepted it.

        Raises:
            OSError: The connection is reset, or TLS failed.
        """

    @property
    def tls_version(self) -> str:
        """The version of TLS, such as TLSv1.3; empty without TLS."""

    def with_tls_details(self, peer: Peer) -> Peer:
        """Return the peer of an accepted connection with what the TLS handshake says about it."""


def has_input(fd: int) -> bool:
    """Return whether bytes wait in a socket, unread; one system call (FIONREAD, tcp(7) and unix(7))."""
    return fcntl.ioctl(fd, termios.FIONREAD, _ZERO_INT) != _ZERO_INT


def own_buffers(parts: list[Buffer]) -> list[Buffer]:
    """Copy the buffers that the next bulk read would overwrite."""
    return [bytes(part) if isinstance(part, memoryview) and part.obj is _bulk_buffer.obj else part for part in parts]


class SocketTransport:
    """A stream socket, non-blocking, TCP or Unix; also the base of the TLS transports.

    Args:
        sock: The socket.
        family: Its address family, where the caller knows it.
    """

    __slots__ = (
        "_bulk_read_size",
        "_recv",
        "_send",
        "_unread",
        "error",
        "fault",
        "fd",
        "peer_hung_up",
        "read_state",
        "read_until_empty",
        "readable",
        "sent_bytes",
        "sock",
    )

    def __init__(self, sock: socket.socket, family: int | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.readable = True
        self.peer_hung_up = False
        family = sock.family if family is None else family  # Python makes an enum of it at each look
        self.read_until_empty = family == socket.AF_UNIX  # a read stops at a descriptor that was passed along
        self.read_state: str | None = None
        self.error = ""
        self.fault: Reason | None = None
        self.sent_bytes = 0
        self._unread = b""
        self._bulk_read_size = READ_SIZE
        self._recv = sock.recv
        self._send = sock.send

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Transport.read`."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = self._recv(max_bytes)
        except OSError as error:
            return self._on_read_error(error)
        if len(data) < max_bytes:
            self._on_short_read(len(data))
        return data

    def read_bulk(self) -> Buffer:
        """See `Transport.read_bulk`."""
        size = self._bulk_read_size
        if size == READ_SIZE:
            data = SocketTransport.read(self)
            if len(data) == READ_SIZE:
                self._bulk_read_size = size * 2
            return data
        try:
            count = self.sock.recv_into(_bulk_buffer, size)
        except OSError as error:
            return self._on_read_error(error)
        if count < size:
            self._on_short_read(count)
            if count < READ_SIZE:
                self._bulk_read_size = READ_SIZE
        elif size < MAX_BULK_READ_SIZE:
            self._bulk_read_size = size * 2
        return _bulk_buffer[:count]

    def _on_read_error(self, error: OSError) -> bytes:
        if not isinstance(error, BlockingIOError):
            self.record_error(error)
        self.readable = False
        return b""

    def _on_short_read(self, count: int) -> None:
        """Update the state after a read that returned fewer bytes than requested."""
        if not count:
            self.readable = False
            self.read_state = self.read_state or EOF
        elif not self.read_until_empty:
            self.readable = False

    def shrink_read_buffer(self) -> None:
        """See `Transport.shrink_read_buffer`."""
        self._bulk_read_size = READ_SIZE

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Transport.write`."""
        try:
            if len(parts) == 1:
                data = parts[0]
                taken = self._send(data)
                self.sent_bytes += taken
                if taken == len(data):
                    return None
                return [memoryview(data)[taken:]]
            if len(parts) > MAX_IOV_BUFFERS:  # a rest that the kernel has room for would never be asked for by an event
                parts = [b"".join(parts)]
            taken = self.sock.sendmsg(parts)
            self.sent_bytes += taken
        except BlockingIOError:
            return parts
        except OSError as error:
            self.record_error(error)
            self.readable = True  # the kernel may still hold what the peer sent before
            return None
        if taken == sum(map(len, parts)):
            return None
        for index, part in enumerate(parts):
            if taken < len(part):
                return [memoryview(part)[taken:], *parts[index + 1 :]]
            taken -= len(part)
        return None

    def record_error(self, error: OSError) -> None:
        """Record the first error; it is final."""
        if self.read_state != RESET:
            self.error = error.strerror or str(error)
            self.read_state = RESET
        self.peer_hung_up = self.read_until_empty = True

    def record_socket_error(self) -> None:
        """See `Transport.record_socket_error`."""
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.record_error(OSError(code or errno.ECONNRESET, os.strerror(code or errno.ECONNRESET)))

    def send_eof(self) -> bool:
        """Send FIN."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.record_error(error)
        return True

    def has_buffered(self) -> bool:
        """See `Transport.has_buffered`."""
        return bool(self._unread)

    def discard(self) -> int:
        """See `Transport.discard`."""
        dropped = 0
        for _ in range(4):
            try:
                data = socket.socket.recv(self.sock, READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                self.record_error(error)
                break
            if not data:
                self.read_state = self.read_state or EOF
                break
            dropped += len(data)
        return dropped

    def abort(self) -> None:
        """Reset and close; a Unix socket has no reset and is closed."""
        reset_socket(self.sock)

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

    def unacked_bytes(self) -> int:
        """See `Transport.unacked_bytes`; on a Unix socket, what the peer has not read."""
        try:
            return int.from_bytes(fcntl.ioctl(self.fd, termios.TIOCOUTQ, _ZERO_INT), "little")
        except OSError:
            return 0

    def acked_bytes(self) -> int:
        """See `Transport.acked_bytes`."""
        info = self._tcp_info()
        if len(info) >= _TCPI_BYTES_ACKED + 8:
            return int(struct.unpack_from("Q", info, _TCPI_BYTES_ACKED)[0])
        return self.sent_bytes - self.unacked_bytes()

    def retransmitting(self) -> bool:
        """See `Transport.retransmitting`."""
        info = self._tcp_info()
        return bool(info) and (info[_TCPI_RETRANSMITS] > 0 or info[_TCPI_PROBES] > 2)

    async def read_some(self) -> bytes:
        """See `Transport.read_some`."""
        while True:
            data = self.read()
            if data or self.read_state == EOF:
                return data
            if self.read_state:
                raise ConnectionResetError(self.error)
            await self.wait_ready()

    async def write_all(self, data: bytes) -> None:
        """See `Transport.write_all`."""
        rest = self.write([data])
        while rest is not None:
            await trio.lowlevel.wait_writable(self.fd)
            rest = self.write(rest)
        if self.read_state == RESET:
            raise ConnectionResetError(self.error)

    async def wait_ready(self) -> None:
        """Wait until a read that found nothing is worth repeating."""
        await trio.lowlevel.wait_readable(self.fd)

    def unread(self, data: bytes) -> None:
        """See `Transport.unread`."""
        if data:
            self._unread = data + self._unread
            self._bulk_read_size = READ_SIZE  # bulk reads ask the socket alone
            self.readable = True

    @property
    def unread_bytes(self) -> bytes:
        """See `Transport.unread_bytes`."""
        return self._unread

    def take_unread(self) -> bytes:
        """See `Transport.take_unread`."""
        data, self._unread = self._unread, b""
        return data

    @property
    def tls_version(self) -> str:
        """See `Transport.tls_version`."""
        return ""

    def with_tls_details(self, peer: Peer) -> Peer:
        """See `Transport.with_tls_details`: without TLS there are none."""
        return peer
