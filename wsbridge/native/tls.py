"""TLS by rustls, for listeners and dials; where it cannot do what is configured, OpenSSL does, and the log says so.

`tls_judge` has OpenSSL judge the certificates of peers, so that both accept the same ones. A dial whose handshake
rustls fails is made once more with OpenSSL, which knows more algorithms; if that succeeds, it serves from then on.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.file_watcher import FileWatcher
from wsbridge.log.logger import log
from wsbridge.native import _native
from wsbridge.native.tls_judge import can_judge_servers, judge_client, judge_server
from wsbridge.native.tls_transport import HandshakeError, NativeTlsTransport, ServerNameError
from wsbridge.net.tls import (
    DEFAULT_CLIENT_TLS,
    SERVER_CIPHERS,
    ClientTlsOptions,
    KeyPair,
    ServerCertificate,
    ServerTlsOptions,
    load_client_context,
    load_server_certificate,
)
from wsbridge.net.tls_roles import ClientCredentials, ClientTls, ListenerTls
from wsbridge.net.tls_transport import EncryptedTransport, start_tls

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_SETTLED: Final = frozenset({"WRONG_VERSION_NUMBER", "BAD_RECORD_TYPE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"})
"""Failures of a dial that are the same for every implementation: the peer does not speak TLS."""

DerPair = tuple[list[bytes], bytes]
"""A certificate chain and its private key, DER."""


def read_key_pair(pair: KeyPair) -> DerPair:
    """Read a chain and its key, which OpenSSL has loaded.

    Raises:
        ValueError: One sentence.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    cert, key, password = (*pair, None)[:3]
    try:
        chain = [ssl.PEM_cert_to_DER_cert(one.decode("ascii")) for one in _CERTIFICATE.findall(cert.read_bytes())]
        private = load_pem_private_key(key.read_bytes(), None if password is None else password.encode())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{cert} and {key} cannot be read: {error}") from None
    return chain, private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, slots=True)
class NativeCertificate(ServerCertificate):
    """One certificate of a listener, loaded by OpenSSL, and read for rustls.

    Attributes:
        pair: Chain and key; None if they cannot be read.
        judge: What clients' certificates are judged with; None if none are asked for.
    """

    pair: DerPair | None = None
    judge: ssl.SSLContext | None = None


def supports_listener(options: ServerTlsOptions) -> str | None:
    """Return why rustls cannot do the TLS of a listener, in one sentence; None if it can."""
    if options.ciphers != SERVER_CIPHERS:
        return "ciphers is set, in the form of OpenSSL"
    return None


class NativeListenerTls(ListenerTls):
    """See `ListenerTls`."""

    def __init__(
        self, watcher: FileWatcher, certificates: Sequence[TlsCertificateConfig], options: ServerTlsOptions
    ) -> None:
        self._options = options
        self._tls: _native.ServerTls | None = None
        self._refusal: str | None = None
        super().__init__(watcher, certificates, options)
        self._build()

    async def accept(self, sock: socket.socket, deadline: float = math.inf) -> EncryptedTransport:
        """See `ListenerTls.accept`."""
        if self._tls is None:
            return await super().accept(sock, deadline)
        stream = _native.TlsStream.server(sock.fileno(), self._tls)
        verifies = self._options.client_ca is not None
        try:
            return await _handshake(NativeTlsTransport(sock, stream, is_server=True, verifies=verifies), deadline)
        except ServerNameError as error:
            received = error.received
        return await start_tls(sock, self.context, server_side=True, deadline=deadline, received=received)

    def _load(self, pair: TlsCertificateConfig, options: ServerTlsOptions) -> ServerCertificate:
        files = pair.read_again()
        loaded = load_server_certificate(files, options)
        judge = None
        if options.client_ca is not None:
            judge = load_server_certificate(files, replace(options, min_version="1.2")).context
        try:
            found = read_key_pair(files)
        except ValueError:
            found = None
        return NativeCertificate(loaded.context, loaded.names, found, judge)

    def _replace(self) -> None:
        super()._replace()
        self._build()

    def _build(self) -> None:
        try:
            self._tls = self._make()
        except ValueError as error:
            self._tls = None
            self._report(str(error))
        else:
            self._refusal = None

    def _make(self) -> _native.ServerTls:
        refusal = supports_listener(self._options)
        if refusal is not None:
            raise ValueError(refusal)
        found = []
        judge = None
        for watched in self._certificates:
            one = watched.current
            assert isinstance(one, NativeCertificate)  # noqa: S101 (see _load)
            judge = judge or one.judge
            if one.pair is None:
                raise ValueError(f"the key of {watched.certificate} cannot be read")
            found.append((*one.pair, list(one.names)))
        only_tls13 = self._options.min_version == "1.3"
        if judge is None:
            return _native.ServerTls(found, only_tls13, None, None)
        required, context = self._options.client_certificate_required, judge
        error = judge_client(context, found[0][0])  # rejected most likely, but it has to be the certificate's fault
        if error is not None and not isinstance(error, ssl.SSLCertVerificationError):
            raise ValueError(f"OpenSSL judges no certificates for rustls: {error.reason or error}")
        return _native.ServerTls(found, only_tls13, required, lambda chain, _: judge_client(context, chain))

    def _report(self, refusal: str) -> None:
        """Log, once for each cause, that OpenSSL serves."""
        if refusal != self._refusal:
            self._refusal = refusal
            log.info("tls.openssl", file=str(self._certificates[0].certificate), detail=refusal)


@dataclass(frozen=True, slots=True)
class NativeClientCredentials(ClientCredentials):
    """See `ClientCredentials`.

    Attributes:
        pair: Chain and key to show, which OpenSSL has loaded, too; None for none, or if they cannot be read for rustls.
    """

    pair: DerPair | None = None


class NativeClientTls(ClientTls):
    """See `ClientTls`."""

    def __init__(self, watcher: FileWatcher, options: ClientTlsOptions = DEFAULT_CLIENT_TLS) -> None:
        super().__init__(watcher, options)
        self._options = options
        self._made_for: ClientCredentials | None = None
        self._tls: _native.ClientTls | None = None
        self._openssl_names: set[str] = set()

    @staticmethod
    def _load(options: ClientTlsOptions) -> NativeClientCredentials:
        context = load_client_context(options)
        pair = None
        if options.client_certificate is not None:
            with contextlib.suppress(ValueError):
                pair = read_key_pair(options.client_certificate.read_again())
        return NativeClientCredentials(context, pair)

    async def start(
        self, sock: socket.socket, server_name: str, reopen: Callable[[], Awaitable[socket.socket]]
    ) -> EncryptedTransport:
        """See `ClientTls.start`."""
        tls = self._current()
        if tls is None or server_name in self._openssl_names:
            return await super().start(sock, server_name, reopen)
        try:
            stream = _native.TlsStream.client(sock.fileno(), tls, server_name)
        except ValueError:  # a name that only OpenSSL accepts
            return await super().start(sock, server_name, reopen)
        try:
            return await _handshake(
                NativeTlsTransport(sock, stream, is_server=False, verifies=not self._options.insecure)
            )
        except HandshakeError as error:
            if error.reason in _SETTLED:
                raise
            failure = error
        transport = await super().start(await reopen(), server_name, reopen)
        self._give_up(server_name, str(failure.strerror))
        return transport

    def _current(self) -> _native.ClientTls | None:
        """Return the configuration for what the files hold now; None if rustls cannot do it."""
        credentials = self._credentials.current
        if self._made_for is not credentials:
            self._made_for = credentials
            self._openssl_names.clear()
            self._tls = self._make(credentials)
        return self._tls

    def _make(self, credentials: ClientCredentials) -> _native.ClientTls | None:
        assert isinstance(credentials, NativeClientCredentials)  # noqa: S101 (see `_load`)
        context, pair = credentials.context, credentials.pair
        judge = None if self._options.insecure else lambda chain, name: judge_server(context, chain, name)
        refusal = None
        own = self._options.client_certificate
        if own is not None and pair is None:
            refusal = f"the key of {own.cert} cannot be read"
        elif judge is not None and not can_judge_servers(context):
            refusal = "OpenSSL has no suites of TLS 1.2, with which it judges certificates for rustls"
        else:
            try:
                return _native.ClientTls(judge, pair, [name.encode("ascii") for name in self._options.alpn])
            except ValueError as error:
                refusal = str(error)
        log.info("tls.openssl", detail=refusal)
        return None

    def _give_up(self, server_name: str, detail: str) -> None:
        """Leave a server to OpenSSL, which succeeded where rustls did not."""
        if len(self._openssl_names) < MAX_OPENSSL_NAMES:
            self._openssl_names.add(server_name)
        log.info("tls.openssl", server_name=server_name, detail=detail)


MAX_OPENSSL_NAMES: Final = 1000
"""Servers of one backend that are remembered; clients choose names of some backends."""


class Rustls:
    """TLS of the native engine. See `wsbridge.net.tls_roles.TlsProvider`."""

    for_listener = NativeListenerTls
    for_client = NativeClientTls


async def _handshake(transport: NativeTlsTransport, deadline: float = math.inf) -> NativeTlsTransport:
    try:
        await transport.handshake(deadline)
    except ServerNameError:
        raise  # the socket stays open
    except BaseException:
        transport.drop()
        raise
    return transport
