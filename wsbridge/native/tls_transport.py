"""A TLS connection by rustls, as a transport."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

from wsbridge.native.tls_judge import read_certificate
from wsbridge.net.address import Peer, PeerCertificate
from wsbridge.net.tls import add_tls_details, normalize_server_name, tls_stream_error_text
from wsbridge.net.tls_transport import HANDSHAKE_DONE, EncryptedTransport
from wsbridge.net.transport import EOF, READ_SIZE, RESET
from wsbridge.protocol.websocket import Buffer
from wsbridge.reasons import Reason

if TYPE_CHECKING:
    from wsbridge.native import _native

_FAILED = -1
"""Result of `TlsStream.handshake` where it is not what the handshake waits for."""

_READABLE, _READ_END, _READ_FAILED = 1, 2, 4
"""Results of `TlsStream.read`."""


class HandshakeError(ssl.SSLError):
    """A handshake that rustls has failed; OpenSSL might do it."""


class ServerNameError(OSError):
    """A client asks for a name that rustls would reject; OpenSSL can serve it, since nothing was sent.

    Args:
        received: All that the client has sent.

    Attributes:
        received: The same.
    """

    def __init__(self, received: bytes) -> None:
        super().__init__(errno.EPROTO, "the server name is not a DNS name")
        self.received = received


class NativeTlsTransport(EncryptedTransport):
    """A TLS connection by rustls.

    Args:
        sock: Connected and non-blocking.
        stream: Of its descriptor.
        is_server: Whether the peer is a client.
        verifies: Whether certificates of the peer are verified.

    Attributes:
        stream: The connection, which a thread of the engine may have taken out.
    """

    __slots__ = ("_has_unsent", "_is_server", "_verifies", "_version", "stream")

    def __init__(self, sock: socket.socket, stream: _native.TlsStream, *, is_server: bool, verifies: bool) -> None:
        super().__init__(sock)
        self.stream = stream
        self._is_server = is_server
        self._verifies = verifies
        self._version = ""
        self._has_unsent = False

    def continue_handshake(self) -> int:
        """See `EncryptedTransport.continue_handshake`."""
        wait = self.stream.handshake()
        if wait == _FAILED:
            raise self._handshake_error()
        if wait == HANDSHAKE_DONE:
            self._version = self.stream.version
            self.sent_bytes = self.stream.sent_bytes
        return wait

    def _handshake_error(self) -> OSError:
        """Return the failure of a handshake as OpenSSL would report it."""
        verdict = self.stream.take_verdict()
        if isinstance(verdict, ssl.SSLCertVerificationError):
            return verdict
        kind, reason, text = self.stream.fault or ("tls", "", "the handshake failed")
        if kind == "truncated":
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
        if kind == "name":
            return ServerNameError(self.stream.unprocessed)
        if kind != "tls":
            return OSError(errno.EPROTO, text)
        error = HandshakeError(ssl.SSL_ERROR_SSL, text)
        error.reason = reason
        return error

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Transport.read`; what one read of the socket gave is decrypted whole, up to a number of records."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        if self._has_unsent:
            self.flush()
        try:
            data, state = self.stream.read(self.read_until_empty)
        except OSError as error:
            self.record_error(error)
            self.readable = False
            return b""
        self.readable = state == _READABLE
        if state > _READABLE:
            self._note_end(failed=state == _READ_FAILED)
        return data

    def read_bulk(self) -> bytes:
        """See `Transport.read_bulk`; what is decrypted has a buffer of its own."""
        return self.read()

    def _note_end(self, *, failed: bool) -> None:
        if not failed:
            self.read_state = self.read_state or EOF
            return
        kind, reason, text = self.stream.fault or ("tls", "", "TLS failed")
        if kind == "flood":
            self.fault = Reason.CONTROL_FLOOD
        error: OSError = OSError(errno.EPROTO, text)
        if kind == "tls" and reason:
            error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
            error.reason = reason
            self.read_state = None  # an alert says why the write failed that has recorded a reset
        self.record_error(error)

    def record_error(self, error: OSError) -> None:
        """See `SocketTransport.record_error`; errors of TLS are recorded in plain words."""
        if isinstance(error, ssl.SSLError):
            error = OSError(errno.EPROTO, tls_stream_error_text(error, peer_is_client=self._is_server))
        super().record_error(error)

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Transport.write`; encrypts all of it, and the stream keeps what the kernel did not accept."""
        stream = self.stream
        try:
            unsent = stream.write(parts) if parts else stream.flush()
        except OSError as error:
            self._has_unsent = False
            self.record_error(error)
            self.readable = True  # the kernel may still hold what the peer sent before
            return None
        self.sent_bytes = stream.sent_bytes
        self._has_unsent = unsent > 0
        return [] if unsent else None

    def flush(self) -> None:
        """Hand the kernel what is encrypted."""
        self.write([])

    def has_buffered(self) -> bool:
        """See `Transport.has_buffered`."""
        return bool(self._unread) or self.stream.has_buffered()

    def send_eof(self) -> bool:
        """Send close_notify, then FIN; what the peer sends is still read."""
        self._send_close_notify()
        if self._has_unsent:
            return False
        return super().send_eof()

    def _send_close_notify(self) -> None:
        try:
            self._has_unsent = self.stream.close_notify() > 0
        except OSError:  # the peer sees the FIN without it
            self._has_unsent = False

    def close(self) -> None:
        """Close the descriptor, after close_notify where the connection still works."""
        if self.read_state != RESET and not self._has_unsent and self._version:
            self._send_close_notify()
        self.drop()

    def drop(self) -> None:
        """Close the descriptor without a word."""
        self.stream.close()
        super().close()

    def abort(self) -> None:
        """See `Transport.abort`."""
        self.stream.close()
        super().abort()

    def take_back(self, stream: _native.TlsStream, *, has_unsent: bool) -> None:
        """Go on with the connection where a thread of the engine stopped.

        Args:
            stream: Has the connection.
            has_unsent: Whether it has bytes that the kernel did not accept.
        """
        self.stream = stream
        self._has_unsent = has_unsent

    @property
    def tls_version(self) -> str:
        """See `Transport.tls_version`."""
        return self._version

    def cipher(self) -> str:
        """See `EncryptedTransport.cipher`."""
        return self.stream.cipher

    def peer_certificate(self) -> bytes:
        """See `EncryptedTransport.peer_certificate`."""
        return next(iter(self.stream.peer_certificates()), b"")

    def verified_certificate(self) -> PeerCertificate | None:
        """See `EncryptedTransport.verified_certificate`."""
        found = self.peer_certificate() if self._verifies else b""
        if not found:
            return None
        try:
            return read_certificate(found)
        except (ValueError, ssl.SSLError):
            return {}

    def with_tls_details(self, peer: Peer) -> Peer:
        """See `Transport.with_tls_details`."""
        return add_tls_details(peer, normalize_server_name(self.stream.server_name), self.verified_certificate())
