"""TLS over a socket, through memory: OpenSSL gets a bounded number of records at a time.

Reading (`TlsTransport.read`):

    socket --read_bulk--> _ciphertext --slice--> incoming BIO --SSL_read--> payload
                              |
                              `- what is beyond the records of one turn waits here

Given the socket itself, OpenSSL would not return from SSL_read while records without payload keep coming (key updates
of TLS 1.3, attempts to renegotiate of TLS 1.2), and one peer would hold up the event loop. No library for asyncio or
trio bounds that: they all hand over whole reads.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import ssl
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, cast

import trio

from wsbridge import taskless
from wsbridge.net.address import Peer, PeerCertificate
from wsbridge.net.tls import is_truncated, tls_stream_error_text, verified_certificate, with_tls_details
from wsbridge.net.transport import EOF, READ_SIZE, RESET, SocketTransport, has_input
from wsbridge.protocol.tls_records import TLS_RECORD_BYTES, RecordScanner
from wsbridge.protocol.websocket import Buffer
from wsbridge.reasons import Reason
from wsbridge.taskless import need_task, wait_readable

MAX_PENDING_BYTES: Final = 1048576
"""Encrypted bytes that may wait in the transport: far more than one write leaves."""

MAX_RECORDS_PER_READ: Final = 128
"""Records decrypted in one read: each costs the same however few bytes are in it."""

MAX_RECORDS_PER_SLICE: Final = 32
SLICE_BYTES: Final = 32768
"""Bytes passed to OpenSSL per call: a message that is one of many in a record costs it some microseconds."""

MAX_RECORDS_WITHOUT_PAYLOAD: Final = 32
"""Records in a row that may give no payload."""

MAX_FETCHES: Final = 64
"""Reads of the socket in one `read`, whether they give payload or not; then others have their turn."""

GATHER_BYTES: Final = 32768
"""Ciphertext after which a read is over, although more has come."""

_NO_BYTES: Final = memoryview(b"")

_ENCODING_DER: Final = 2
"""ENCODING_DER of the module `_ssl`."""


HANDSHAKE_DONE, WAIT_READABLE, WAIT_WRITABLE, WAIT_TURN = range(4)
"""What a handshake waits for: nothing, the socket, or until others have had their turn."""


class EncryptedTransport(SocketTransport, ABC):
    """A TLS connection, and what its handshake has found out."""

    __slots__ = ()

    async def handshake(self, deadline: float = math.inf) -> None:
        """Complete the TLS handshake, without a task as long as it only waits for the peer to send.

        Args:
            deadline: When it has taken too long, by trio's clock.

        Raises:
            trio.TooSlowError: It has.
            OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
        """
        wait = self.continue_handshake()
        while wait == WAIT_READABLE and taskless.current is not None:
            if not await wait_readable(self.fd, deadline):  # too late, or a shutdown cut it short, which is for a task
                break
            wait = self.continue_handshake()
        if wait == HANDSHAKE_DONE:
            return
        await need_task()
        with trio.move_on_at(deadline):
            while wait != HANDSHAKE_DONE:
                if wait == WAIT_READABLE:
                    await trio.lowlevel.wait_readable(self.fd)
                elif wait == WAIT_WRITABLE:
                    await trio.lowlevel.wait_writable(self.fd)
                else:
                    await trio.lowlevel.checkpoint()
                wait = self.continue_handshake()
            return
        raise trio.TooSlowError

    @abstractmethod
    def continue_handshake(self) -> int:
        """Go on with the handshake as far as that is possible now, and return what it waits for.

        Raises:
            OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
        """

    @abstractmethod
    def cipher(self) -> str:
        """Return the name of the cipher suite."""

    @abstractmethod
    def verified_certificate(self) -> PeerCertificate | None:
        """Return the certificate of the peer if it was verified; None for none, empty if it cannot be read."""

    @abstractmethod
    def peer_certificate(self) -> bytes:
        """Give the certificate of the peer, DER; empty for none. It need not be verified."""

    def peer_subject(self) -> str:
        """Return subject and end of validity of the peer's certificate; empty if it showed none, or none verified."""
        certificate = self.verified_certificate() or {}
        subject = cast("Sequence[Sequence[tuple[str, str]]]", certificate.get("subject", ()))
        names = [f"{pair[0]}={pair[1]}" for part in subject for pair in part]
        end = certificate.get("notAfter")
        return ",".join(names) + (f" until {end}" if end else "")

    def describe(self) -> str:
        """Return version, cipher suite and certificate of the peer, in a few words for the log."""
        subject = self.peer_subject()
        return f"{self.tls_version} {self.cipher()}" + (f", certificate {subject}" if subject else "")


class TlsTransport(EncryptedTransport):
    """A TLS connection by OpenSSL, whose records are moved here.

    What is encrypted and the kernel has not accepted waits in the transport: never more than what one write was given.
    """

    __slots__ = (
        "_ciphertext",
        "_close_notify_sent",
        "_incoming",
        "_outgoing",
        "_read_disabled",
        "_records_left",
        "_records_without_payload",
        "_scanner",
        "_sends_bursts",
        "_tls",
        "_unsent",
    )

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__(sock)
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._ciphertext = _NO_BYTES
        self._scanner = RecordScanner()
        self._records_left = 0
        self._records_without_payload = 0
        self._sends_bursts = False
        self._unsent: list[Buffer] | None = None
        self._close_notify_sent = False
        self._read_disabled = False

    def continue_handshake(self) -> int:
        """See `EncryptedTransport.continue_handshake`."""
        while True:
            done = self._call_handshake()
            if self._unsent is not None:
                return WAIT_WRITABLE
            if done:
                break
            if self._ciphertext:  # of many small records
                self._records_left = self._feed(MAX_RECORDS_PER_SLICE)
                return WAIT_TURN
            if not self._fetch_handshake():
                return WAIT_READABLE
        if self._incoming.pending:  # application data, or records without payload, behind the end of the handshake
            payload: list[bytes] = []
            self._decrypt(payload, self._records_left)
            self.unread(b"".join(payload))
        return HANDSHAKE_DONE

    def _call_handshake(self) -> bool:
        """Have OpenSSL process what it has, and send what it wants to send; return whether that was all."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError:
            SocketTransport.write(self, [self._outgoing.read()])  # the alert
            raise
        else:
            done = True
        self.flush()
        if self.read_state == RESET:
            raise ConnectionResetError(self.error)
        return done

    def _fetch_handshake(self) -> bool:
        """Read the socket; return whether it gave OpenSSL anything, such as the end."""
        try:
            data = self._recv(READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            self.take_ciphertext(data)
        else:
            self._incoming.write_eof()
        return True

    def take_ciphertext(self, data: bytes) -> None:
        """Have the handshake go on with what was read from the socket."""
        self._ciphertext = memoryview(data)
        self._records_left = self._feed(MAX_RECORDS_PER_SLICE)

    def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """See `Transport.read`; what one read of the socket gave is decrypted whole, up to a number of records."""
        self._bulk_read_size = READ_SIZE  # what is decoded so many bytes at a time would have its rest copied each time
        return self.read_bulk()

    def read_bulk(self) -> bytes:
        """Read as `read` does, more at once where much keeps coming; what is decrypted has a buffer of its own."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        if self._unsent is not None:
            self.flush()
        payload: list[bytes] = []
        self._records_left = MAX_RECORDS_PER_READ
        if self._ciphertext:
            self._decrypt_records(payload)
        fetched = 0
        for _ in range(MAX_FETCHES):
            if self._records_left <= 0:
                break
            if payload and (fetched >= GATHER_BYTES or not self._has_more_small_records(payload)):
                break
            count = self._fetch(payload)
            if not count:
                break
            fetched += count
        self._sends_bursts = len(payload) > 1
        if self._outgoing.pending:
            self._flush_replies()
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _has_more_small_records(self, payload: list[bytes]) -> bool:
        """Return whether a peer that sends bursts of records has sent more while the last ones were decrypted.

        Then all of them are relayed in one write, which costs as much as the write of a single record. A peer whose
        last read gave a single record is not asked about: it waits for answers, and a system call more slows them.
        """
        if len(payload) == 1 and not self._sends_bursts:
            return False
        if self._ciphertext or self.peer_hung_up or self._read_disabled or self.read_state is not None:
            return False
        return has_input(self.fd)

    def _fetch(self, payload: list[bytes]) -> int:
        """Read the socket and decrypt what it gave; give the number of bytes."""
        if self._read_disabled or self.read_state == EOF:
            self.readable = False
            return 0
        data = super().read_bulk()
        if not data:
            if self.read_state == EOF:
                self._incoming.write_eof()
                self._decrypt(payload, 1)
            return 0
        if self._scanner.is_one_record(data):
            self._records_left -= 1
            self._incoming.write(data)
            self._decrypt(payload, 1)
        else:
            self._ciphertext = memoryview(data)
            self._decrypt_records(payload)
        return len(data)

    def _feed(self, max_records: int) -> int:
        """Hand a slice of what was fetched to OpenSSL; give how many records end in it."""
        end, records = self._scanner.next_slice(self._ciphertext, 0, max_records, SLICE_BYTES)
        self._incoming.write(self._ciphertext[:end])
        self._ciphertext = self._ciphertext[end:] or _NO_BYTES  # an empty slice would keep all of it in memory
        return records

    def _decrypt_records(self, payload: list[bytes]) -> None:
        """Decrypt what was fetched, a slice at a time, up to the records of one read."""
        while self._ciphertext and self._records_left > 0 and not self._read_disabled and self.read_state != EOF:
            records = self._feed(min(self._records_left, MAX_RECORDS_PER_SLICE))
            self._records_left -= records
            self._decrypt(payload, records)
        if self._records_left <= MAX_RECORDS_PER_READ // 2:
            self.shrink_read_buffer()
        if self._read_disabled or self.read_state == EOF:
            self._ciphertext = _NO_BYTES
        elif self._ciphertext:
            self._ciphertext = memoryview(bytes(self._ciphertext))  # the next fetch overwrites what it was part of
            self.readable = True

    def _decrypt(self, payload: list[bytes], records: int) -> None:
        """Read the payload of complete records, and count those that have none."""
        before = len(payload)
        try:
            for _ in range(records):
                data = self._tls.read(TLS_RECORD_BYTES)
                if not data:
                    self._end_of_input()
                    break
                payload.append(data)
        except ssl.SSLWantReadError:
            pass  # some of the records had no payload
        except ssl.SSLZeroReturnError:
            self._end_of_input()
        except ssl.SSLError as error:
            self._fail(error)
        if len(payload) > before:
            self._records_without_payload = 0
            return
        if self._read_disabled or self.read_state == EOF:
            return
        self._records_without_payload += records
        if self._records_without_payload <= MAX_RECORDS_WITHOUT_PAYLOAD:
            return
        self.fault = Reason.CONTROL_FLOOD
        text = f"more than {MAX_RECORDS_WITHOUT_PAYLOAD} TLS records in a row without payload, such as key updates"
        self._fail(OSError(errno.EPROTO, text))

    def _end_of_input(self) -> None:
        """Record close_notify."""
        self.readable = False
        self.read_state = EOF

    def _fail(self, error: OSError) -> None:
        """Record an error of TLS; nothing more is read."""
        if is_truncated(error):
            error = ConnectionResetError(errno.ECONNRESET, "truncated: the connection ended without close_notify")
        elif isinstance(error, ssl.SSLError):
            self.read_state = None  # an alert says why the write failed that has recorded a reset
        self.record_error(error)
        self._read_disabled = True
        self.readable = False

    def record_error(self, error: OSError) -> None:
        """See `SocketTransport.record_error`; errors of OpenSSL are recorded in plain words."""
        if isinstance(error, ssl.SSLError):
            error = OSError(errno.EPROTO, tls_stream_error_text(error, peer_is_client=self._tls.server_side))
        super().record_error(error)

    def _flush_replies(self) -> None:
        """Send what reading made OpenSSL reply; a peer that provokes much and reads none of it is cut off."""
        self.flush()
        if self._unsent is not None and sum(map(len, self._unsent)) > MAX_PENDING_BYTES:
            self._fail(OSError(errno.ENOBUFS, "does not read the replies to its key updates"))

    @property
    def tls_version(self) -> str:
        """See `Transport.tls_version`."""
        return sys.intern(self._tls.version() or "")

    def cipher(self) -> str:
        """See `EncryptedTransport.cipher`."""
        suite = self._tls.cipher()
        return "" if suite is None else suite[0]

    def verified_certificate(self) -> PeerCertificate | None:
        """See `EncryptedTransport.verified_certificate`."""
        return verified_certificate(self._tls)

    def peer_certificate(self) -> bytes:
        """See `EncryptedTransport.peer_certificate`."""
        return self._tls.getpeercert(binary_form=True) or b""

    def peer_chain(self) -> list[bytes]:
        """Give the certificates that the peer sent, DER, its own first. They need not be verified."""
        find = getattr(self._tls, "get_unverified_chain", None)  # Python 3.13 and later
        if find is not None:
            return list(find() or ())
        inner = getattr(self._tls, "_sslobj", None)  # what the public method calls there
        found = inner.get_unverified_chain() if inner is not None else None
        return [one.public_bytes(_ENCODING_DER) for one in found or ()]

    def with_tls_details(self, peer: Peer) -> Peer:
        """See `Transport.with_tls_details`."""
        return with_tls_details(peer, self._tls)

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Transport.write`; encrypts all of it and keeps what the kernel did not accept.

        A record at a time: a memory BIO never shrinks, and would keep the size of the largest write.
        """
        if len(parts) > 1:
            parts = _align_to_records(parts)
        records: list[Buffer] = []
        try:
            for part in parts:
                at = 0
                while at < len(part):
                    at += self._tls.write(memoryview(part)[at : at + TLS_RECORD_BYTES])
                    records.append(self._outgoing.read())
        except OSError as error:
            self.record_error(error)
            return None
        self._send_records(records)
        return None if self._unsent is None else []

    def flush(self) -> None:
        """Hand the kernel what is encrypted."""
        self._send_records([self._outgoing.read()] if self._outgoing.pending else [])

    def _send_records(self, records: list[Buffer]) -> None:
        """Hand the kernel what it has not accepted so far, and these records behind it."""
        if self._unsent is not None:
            records = self._unsent + records
        if records:
            self._unsent = super().write(records)

    def has_buffered(self) -> bool:
        """See `Transport.has_buffered`."""
        return bool(self._unread or self._ciphertext)

    def send_eof(self) -> bool:
        """Send close_notify, then FIN; what the peer sends is still read."""
        self._send_close_notify()
        if self._unsent is not None:
            return False
        return super().send_eof()

    def close(self) -> None:
        """Close the descriptor, after close_notify where the connection still works."""
        if self.read_state != RESET and self._unsent is None:
            self._send_close_notify()
        super().close()

    def _send_close_notify(self) -> None:
        if not self._close_notify_sent:
            self._close_notify_sent = True
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # WantRead: close_notify is written; any other: the peer sees the FIN without it
        self.flush()


def _align_to_records(parts: list[Buffer]) -> list[Buffer]:
    """Cut buffers where full records end, so that a header shares the record of what follows it."""
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
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
    deadline: float = math.inf,
    received: bytes = b"",
) -> TlsTransport:
    """Complete the TLS handshake. See `EncryptedTransport.handshake`.

    Args:
        sock: Connected and non-blocking; it belongs to this function from now on, and is closed if it fails.
        context: Certificates and rules.
        server_side: Whether we accepted the connection.
        server_hostname: The name to ask for and to verify.
        deadline: When it has taken too long, by trio's clock.
        received: What was read from the socket before.

    Raises:
        trio.TooSlowError: It has.
        OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
    """
    try:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        transport = TlsTransport(sock, tls, incoming, outgoing)
        if received:
            transport.take_ciphertext(received)
        await transport.handshake(deadline)
    except BaseException:
        sock.close()
        raise
    return transport
