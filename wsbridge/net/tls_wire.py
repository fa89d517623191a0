"""TLS over a socket that OpenSSL reads and writes itself: the wire of WebSocket sides, which never half-close.

Lives here: driving one `ssl.SSLSocket` without waiting, and its handshake as a task. Must not live here: contexts and
certificates (`tls`), half-closed TLS (`bio_wire`).
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from fcntl import ioctl
from termios import FIONREAD

import trio

from wsbridge.net.address import Peer
from wsbridge.net.client_hello import with_hello
from wsbridge.net.tls import cut_off, forget_errors
from wsbridge.net.wire import EOF, READ_SIZE, SocketWire
from wsbridge.protocol.framing import Buffer

RECORD = 16384
"""Payload of a full TLS record, in bytes (RFC 8446 section 5.1)."""

MOST_RECORDS = 128
"""Records taken in one read: each costs the same however few bytes are in it."""

_NOTHING = struct.pack("i", 0)


class TlsWire(SocketWire):
    """An established TLS connection."""

    __slots__ = ("_pending", "_read", "_repeats", "_tls", "_wants_write", "_write")

    def __init__(self, tls: ssl.SSLSocket) -> None:
        super().__init__(tls)
        self._tls = tls
        self._read = tls.read
        self._write = tls.write
        self._pending = tls.pending
        self._repeats = False
        self._wants_write = False

    def read(self, most: int = READ_SIZE) -> bytes:
        """See `Wire.read`; gathers records, up to `MOST_RECORDS`."""
        if self._early:
            data, self._early = self._early, b""
            return data
        gathered: list[bytes] = []
        total = 0
        try:
            while True:
                data = self._read(most - total)
                if not data:
                    self.readable = False
                    self.ended = self.ended or EOF
                    break
                gathered.append(data)
                total += len(data)
                if not self._pending() and not self.hup and ioctl(self.fd, FIONREAD, _NOTHING) == _NOTHING:
                    self.readable = False
                    break
                if total >= most or len(gathered) >= MOST_RECORDS:
                    break
        except ssl.SSLWantReadError:
            self.readable = False
        except ssl.SSLWantWriteError:
            self.readable = False
            self._wants_write = True
        except ssl.SSLZeroReturnError:
            self.readable = False
            self.ended = self.ended or EOF
        except OSError as error:
            self.broke(error)
            self.readable = False
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    def read_bulk(self) -> Buffer:
        """Read as `read` does: what is decrypted has a buffer of its own."""
        return self.read()

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Wire.write`; what OpenSSL could not send is repeated unchanged before anything else."""
        if len(parts) > 1 and not self._repeats:
            parts = _in_records(parts)
        for index, part in enumerate(parts):
            size = len(part)
            at = 0
            while at < size:
                try:
                    at += self._write(memoryview(part)[at:] if at else part)
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    self._repeats = True
                    return [memoryview(part)[at:] if at else part, *parts[index + 1 :]]
                except OSError as error:
                    self.broke(error)
                    self.readable = True  # OpenSSL still reads what the peer sent before
                    return None
        self._repeats = False
        return None

    def broke(self, error: OSError) -> None:
        """Record the first error."""
        forget_errors()
        if cut_off(error):
            error = ConnectionResetError(errno.ECONNRESET, "truncated: the connection ended without close_notify")
        super().broke(error)

    def holds(self) -> bool:
        """See `Wire.holds`."""
        return bool(self._early or self._pending())

    def finish(self) -> bool:
        """Send close_notify, then FIN."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantWriteError:
            return False
        except ssl.SSLWantReadError:
            pass  # close_notify is out
        except (OSError, ValueError):
            forget_errors()  # the connection is gone, and the shutdown below tells
        try:
            socket.socket.shutdown(self._tls, socket.SHUT_WR)
        except OSError as error:
            self.broke(error)
        return True

    def with_hello(self, peer: Peer) -> Peer:
        """See `Wire.with_hello`."""
        return with_hello(peer, self._tls)

    async def ready(self) -> None:
        """Wait for what the last read wanted."""
        if self._wants_write:
            self._wants_write = False
            await trio.lowlevel.wait_writable(self.fd)
        else:
            await trio.lowlevel.wait_readable(self.fd)


def _in_records(parts: list[Buffer]) -> list[Buffer]:
    """Cut buffers anew where full records end, so that a header shares the record of what follows it."""
    out: list[Buffer] = []
    group: list[Buffer] = []
    size = 0
    for part in parts:
        rest = memoryview(part)
        if size:
            missing = RECORD - size
            group.append(rest[:missing])
            size += len(group[-1])
            if size < RECORD:
                continue
            out.append(b"".join(group))
            rest = rest[missing:]
        full = len(rest) - len(rest) % RECORD
        if full:
            out.append(rest[:full])
        group = [rest[full:]]
        size = len(rest) - full
    if size:
        out.append(b"".join(group))
    return out


async def wrap(
    sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> TlsWire:
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
                return TlsWire(tls)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(fd)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(fd)
    except BaseException:
        forget_errors()
        (tls or sock).close()
        raise
