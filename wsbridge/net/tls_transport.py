"""SSLSocket and MemoryBIO transports."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
from fcntl import ioctl
from termios import FIONREAD

import trio

from wsbridge.net.address import Peer
from wsbridge.net.tls import clear_openssl_errors, is_truncated, with_tls_details
from wsbridge.net.transport import EOF, READ_SIZE, RESET, SocketTransport
from wsbridge.protocol.websocket import Buffer

MAX_PENDING_BYTES = 1048576
"""Encrypted bytes that may wait in the wire: far more than one write leaves."""

SMALL_READ_AFTER_RECORDS = 128
"""Records in one read beyond which the next one is small: each costs the same however few bytes are in it."""

MAX_READS_WITHOUT_DATA = 4
"""Reads of the socket in one `read` that may give no payload; then others have their turn."""


class MemoryTlsTransport(SocketTransport):
    """A TLS connection whose records we move ourselves.

    What is encrypted and not yet taken by the kernel waits in the wire: never more than what one write was given.
    """

    __slots__ = ("_close_notify_sent", "_incoming", "_outgoing", "_read_disabled", "_tls", "_unsent")

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__(sock)
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._unsent: list[Buffer] | None = None
        self._close_notify_sent = False
        self._read_disabled = False

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Wire.read`; what one read of the socket gave is decrypted whole."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        if self._unsent is not None:
            self.flush()
        gathered: list[bytes] = []
        for _ in range(MAX_READS_WITHOUT_DATA):
            if not self._feed_tls():
                break
            self._decrypt(gathered)
            if len(gathered) > SMALL_READ_AFTER_RECORDS:
                self.shrink_read_buffer()
            if gathered:
                break
        if self._outgoing.pending:
            self._flush_replies()
        return b"".join(gathered)

    def read_bulk(self) -> Buffer:
        """Read as `read` does: what is decrypted has a buffer of its own."""
        return self.read()

    def _flush_replies(self) -> None:
        """Send what reading made OpenSSL say; a peer that has it say much and takes none of it is cut."""
        self.flush()
        if self._unsent is not None and sum(map(len, self._unsent)) > MAX_PENDING_BYTES:
            self.record_error(OSError(errno.ENOBUFS, "takes no answers to its key updates"))
            self._read_disabled = True
            self.readable = False

    def _feed_tls(self) -> bool:
        """Move what the socket gives to OpenSSL; tell whether that is worth a look."""
        if self._read_disabled or self.read_state == EOF:
            self.readable = False
            return False
        data = super().read_bulk()
        if data:
            self._incoming.write(data)
            return True
        return self._feed_eof()

    def _feed_eof(self) -> bool:
        if self.read_state == EOF:
            self._incoming.write_eof()
        return self.read_state == EOF

    def _decrypt(self, plaintext: list[bytes]) -> None:
        try:
            while True:
                data = self._tls.read(READ_SIZE)
                if not data:
                    break
                plaintext.append(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            if is_truncated(error):
                self.error = "truncated: the connection ended without close_notify"
                self.read_state = RESET
                return
            self.record_error(error)
            self._read_disabled = True
            self.readable = False
            return
        self.readable = False
        self.read_state = EOF

    def with_tls_details(self, peer: Peer) -> Peer:
        """See `Wire.with_hello`."""
        return with_tls_details(peer, self._tls)

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Wire.write`; keeps what the kernel did not take."""
        try:
            for part in parts:
                at = 0
                while at < len(part):
                    at += self._tls.write(memoryview(part)[at:])
        except OSError as error:
            self.record_error(error)
            return None
        self.flush()
        return None if self._unsent is None else []

    def flush(self) -> None:
        """Hand the kernel what is encrypted."""
        parts: list[Buffer] = self._unsent or []
        if self._outgoing.pending:
            parts.append(self._outgoing.read())
        self._unsent = super().write(parts) if parts else None

    def send_eof(self) -> bool:
        """Send close_notify, then FIN; what the peer sends is still read."""
        if not self._close_notify_sent:
            self._close_notify_sent = True
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # WantRead: close_notify is written; any other: the peer sees the FIN without it
        self.flush()
        if self._unsent is not None:
            return False
        return super().send_eof()


async def start_memory_tls(
    sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> MemoryTlsTransport:
    """Shake hands; the deadline is the caller's.

    Args:
        sock: Connected and non-blocking; it belongs to this function from now on, and is closed if it fails.
        context: Certificates and rules.
        server_side: Whether we accepted the connection.
        server_hostname: The name to ask for and to verify.

    Raises:
        OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
    """
    try:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        wire = MemoryTlsTransport(sock, tls, incoming, outgoing)
        plain = SocketTransport(sock)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await plain.write_all(outgoing.read())
            except ssl.SSLError:
                plain.write([outgoing.read()])
                raise
            else:
                await plain.write_all(outgoing.read())
                # application data may have come with the end of the handshake
                gathered: list[bytes] = []
                wire._decrypt(gathered)
                wire.unread(b"".join(gathered))
                return wire
            data = await plain.read_some()
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()
    except BaseException:
        sock.close()
        raise


TLS_RECORD_BYTES = 16384
"""Payload of a full TLS record, in bytes (RFC 8446 section 5.1)."""

MAX_RECORDS_PER_READ = 128
"""Records taken in one read: each costs the same however few bytes are in it."""

_ZERO_INT = struct.pack("i", 0)


class TlsTransport(SocketTransport):
    """An established TLS connection."""

    __slots__ = ("_pending", "_read", "_tls", "_wants_write", "_write", "_write_retry")

    def __init__(self, tls: ssl.SSLSocket) -> None:
        super().__init__(tls)
        self._tls = tls
        self._read = tls.read
        self._write = tls.write
        self._pending = tls.pending
        self._write_retry = False
        self._wants_write = False

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Wire.read`; gathers records, up to `MOST_RECORDS`."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        gathered: list[bytes] = []
        total = 0
        try:
            while True:
                data = self._read(max_bytes - total)
                if not data:
                    self.readable = False
                    self.read_state = self.read_state or EOF
                    break
                gathered.append(data)
                total += len(data)
                if not self._pending() and not self.peer_hung_up and ioctl(self.fd, FIONREAD, _ZERO_INT) == _ZERO_INT:
                    self.readable = False
                    break
                if total >= max_bytes or len(gathered) >= MAX_RECORDS_PER_READ:
                    break
        except ssl.SSLWantReadError:
            self.readable = False
        except ssl.SSLWantWriteError:
            self.readable = False
            self._wants_write = True
        except ssl.SSLZeroReturnError:
            self.readable = False
            self.read_state = self.read_state or EOF
        except OSError as error:
            self.record_error(error)
            self.readable = False
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    def read_bulk(self) -> Buffer:
        """Read as `read` does: what is decrypted has a buffer of its own."""
        return self.read()

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Wire.write`; what OpenSSL could not send is repeated unchanged before anything else."""
        if len(parts) > 1 and not self._write_retry:
            parts = _align_to_records(parts)
        for index, part in enumerate(parts):
            size = len(part)
            at = 0
            while at < size:
                try:
                    at += self._write(memoryview(part)[at:] if at else part)
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    self._write_retry = True
                    return [memoryview(part)[at:] if at else part, *parts[index + 1 :]]
                except OSError as error:
                    self.record_error(error)
                    self.readable = True  # OpenSSL still reads what the peer sent before
                    return None
        self._write_retry = False
        return None

    def record_error(self, error: OSError) -> None:
        """Record the first error."""
        clear_openssl_errors()
        if is_truncated(error):
            error = ConnectionResetError(errno.ECONNRESET, "truncated: the connection ended without close_notify")
        super().record_error(error)

    def has_buffered(self) -> bool:
        """See `Wire.holds`."""
        return bool(self._unread or self._pending())

    def send_eof(self) -> bool:
        """Send close_notify, then FIN."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantWriteError:
            return False
        except ssl.SSLWantReadError:
            pass  # close_notify is out
        except (OSError, ValueError):
            clear_openssl_errors()  # the connection is gone, and the shutdown below tells
        try:
            socket.socket.shutdown(self._tls, socket.SHUT_WR)
        except OSError as error:
            self.record_error(error)
        return True

    def with_tls_details(self, peer: Peer) -> Peer:
        """See `Wire.with_hello`."""
        return with_tls_details(peer, self._tls)

    async def wait_ready(self) -> None:
        """Wait for what the last read wanted."""
        if self._wants_write:
            self._wants_write = False
            await trio.lowlevel.wait_writable(self.fd)
        else:
            await trio.lowlevel.wait_readable(self.fd)


def _align_to_records(parts: list[Buffer]) -> list[Buffer]:
    """Cut buffers anew where full records end, so that a header shares the record of what follows it."""
    out: list[Buffer] = []
    group: list[Buffer] = []
    size = 0
    for part in parts:
        rest = memoryview(part)
        if size:
            missing = TLS_RECORD_BYTES - size
            group.append(rest[:missing])
            size += len(group[-1])
            if size < TLS_RECORD_BYTES:
                continue
            out.append(b"".join(group))
            rest = rest[missing:]
        full = len(rest) - len(rest) % TLS_RECORD_BYTES
        if full:
            out.append(rest[:full])
        group = [rest[full:]]
        size = len(rest) - full
    if size:
        out.append(b"".join(group))
    return out


async def start_tls(
    sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> TlsTransport:
    """Shake hands; the deadline is the caller's.

    Args:
        sock: Connected and non-blocking; it belongs to this function from now on, and is closed if it fails.
        context: Certificates and rules.
        server_side: Whether we accepted the connection.
        server_hostname: The name to ask for and to verify.

    Raises:
        OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
    """
    fd = sock.fileno()
    tls = None
    try:
        sock.getpeername()  # on a connection that has gone, wrapping fails with the descriptor left to the collector
        tls = context.wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=server_hostname,
        )
        while True:
            try:
                tls.do_handshake()
                return TlsTransport(tls)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(fd)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(fd)
    except BaseException:
        clear_openssl_errors()
        (tls or sock).close()
        raise
