"""TLS through memory buffers: the wire of raw sides, where close_notify can leave while data still comes in.

Lives here: driving one `ssl.SSLObject` without waiting, and its handshake as a task. Must not live here: contexts and
certificates (`tls`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl

from wsbridge.net.address import Peer
from wsbridge.net.client_hello import with_hello
from wsbridge.net.tls import cut_off
from wsbridge.net.wire import EOF, READ_SIZE, RESET, SocketWire
from wsbridge.protocol.framing import Buffer

MOST_WAITING = 1048576
"""Encrypted bytes that may wait in the wire: far more than one write leaves."""

MANY_RECORDS = 128
"""Records in one read beyond which the next one is small: each costs the same however few bytes are in it."""

RECORDS_WITHOUT_DATA = 4
"""Reads of the socket in one `read` that may give no payload; then others have their turn."""


class BioWire(SocketWire):
    """A TLS connection whose records we move ourselves.

    What is encrypted and not yet taken by the kernel waits in the wire: never more than what one write was given.
    """

    __slots__ = ("_deaf", "_finishing", "_in", "_out", "_outgoing", "_tls")

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__(sock)
        self._tls = tls
        self._in = incoming
        self._outgoing = outgoing
        self._out: list[Buffer] | None = None
        self._finishing = False
        self._deaf = False

    def read(self, most: int = READ_SIZE) -> bytes:
        """See `Wire.read`; what one read of the socket gave is decrypted whole."""
        if self._early:
            data, self._early = self._early, b""
            return data
        if self._out is not None:
            self.flush()
        gathered: list[bytes] = []
        for _ in range(RECORDS_WITHOUT_DATA):
            if not self._fetch():
                break
            self._decrypt(gathered)
            if len(gathered) > MANY_RECORDS:
                self.read_less()
            if gathered:
                break
        if self._outgoing.pending:
            self._answer()
        return b"".join(gathered)

    def read_bulk(self) -> Buffer:
        """Read as `read` does: what is decrypted has a buffer of its own."""
        return self.read()

    def _answer(self) -> None:
        """Send what reading made OpenSSL say; a peer that has it say much and takes none of it is cut."""
        self.flush()
        if self._out is not None and sum(map(len, self._out)) > MOST_WAITING:
            self.broke(OSError(errno.ENOBUFS, "takes no answers to its key updates"))
            self._deaf = True
            self.readable = False

    def _fetch(self) -> bool:
        """Move what the socket gives to OpenSSL; tell whether that is worth a look."""
        if self._deaf or self.ended == EOF:
            self.readable = False
            return False
        data = super().read_bulk()
        if data:
            self._in.write(data)
            return True
        return self._told_end()

    def _told_end(self) -> bool:
        if self.ended == EOF:
            self._in.write_eof()
        return self.ended == EOF

    def _decrypt(self, gathered: list[bytes]) -> None:
        try:
            while True:
                data = self._tls.read(READ_SIZE)
                if not data:
                    break
                gathered.append(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            if cut_off(error):
                self.error = "truncated: the connection ended without close_notify"
                self.ended = RESET
                return
            self.broke(error)
            self._deaf = True
            self.readable = False
            return
        self.readable = False
        self.ended = EOF

    def with_hello(self, peer: Peer) -> Peer:
        """See `Wire.with_hello`."""
        return with_hello(peer, self._tls)

    def write(self, parts: list[Buffer]) -> list[Buffer] | None:
        """See `Wire.write`; keeps what the kernel did not take."""
        try:
            for part in parts:
                at = 0
                while at < len(part):
                    at += self._tls.write(memoryview(part)[at:])
        except OSError as error:
            self.broke(error)
            return None
        self.flush()
        return None if self._out is None else []

    def flush(self) -> None:
        """Hand the kernel what is encrypted."""
        parts: list[Buffer] = self._out or []
        if self._outgoing.pending:
            parts.append(self._outgoing.read())
        self._out = super().write(parts) if parts else None

    def finish(self) -> bool:
        """Send close_notify, then FIN; what the peer sends is still read."""
        if not self._finishing:
            self._finishing = True
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # WantRead: close_notify is written; any other: the peer sees the FIN without it
        self.flush()
        if self._out is not None:
            return False
        return super().finish()


async def wrap(
    sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> BioWire:
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
        wire = BioWire(sock, tls, incoming, outgoing)
        plain = SocketWire(sock)
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
