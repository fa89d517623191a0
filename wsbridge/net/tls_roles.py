"""TLS of a listener and of what is dialed: their files are watched, and each connection begins with a handshake."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from wsbridge.config.errors import readable_name
from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.file_watcher import FileWatcher, Watched
from wsbridge.net.tls import (
    DEFAULT_CLIENT_TLS,
    ClientTlsOptions,
    ServerCertificate,
    ServerTlsOptions,
    combine_certificates,
    load_client_context,
    load_server_certificate,
)
from wsbridge.net.tls_transport import EncryptedTransport, start_tls


class ListenerTls:
    """TLS of a listener; its certificates, keys and client authorities are replaced when their files change.

    Args:
        watcher: Watches the files.
        certificates: The first is for clients whose name fits none.
        options: Of the listener.

    Attributes:
        context: What the next handshake begins with.

    Raises:
        TlsError: a file cannot be read, a key does not fit its certificate.
    """

    def __init__(
        self, watcher: FileWatcher, certificates: Sequence[TlsCertificateConfig], options: ServerTlsOptions
    ) -> None:
        self._certificates = [self._watch(watcher, pair, options) for pair in certificates]
        self.context = combine_certificates([one.current for one in self._certificates])
        for one in self._certificates:
            one.on_change.append(self._replace)

    async def accept(self, sock: socket.socket, deadline: float = math.inf) -> EncryptedTransport:
        """Complete the TLS handshake with a client. See `EncryptedTransport.handshake`.

        Args:
            sock: Connected and non-blocking; it belongs to this function from now on, and is closed if it fails.
            deadline: When it has taken too long, by trio's clock.

        Raises:
            trio.TooSlowError: It has.
            OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
        """
        return await start_tls(sock, self.context, server_side=True, deadline=deadline)

    def _watch(
        self, watcher: FileWatcher, pair: TlsCertificateConfig, options: ServerTlsOptions
    ) -> Watched[ServerCertificate]:
        files = pair.files if options.client_ca is None else (*pair.files, options.client_ca)
        return watcher.watch(("listener", id(self), pair), files, lambda: self._load(pair, options), pair.cert)

    def _load(self, pair: TlsCertificateConfig, options: ServerTlsOptions) -> ServerCertificate:
        return load_server_certificate(pair.read_again(), options)

    def certificates(self) -> list[dict[str, str | None]]:
        """Return file and expiry of the certificates that are in use; the file is a text to show."""
        found = self._certificates
        return [{"file": readable_name(str(one.certificate)), "expires": one.expires} for one in found]

    def _replace(self) -> None:
        self.context = combine_certificates([one.current for one in self._certificates])


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What is made of the files of a `ClientTls`; all of it is replaced at once.

    Attributes:
        context: With certificate, key and authorities.
    """

    context: ssl.SSLContext


class ClientTls:
    """TLS of what is dialed; certificate, key and authorities are replaced when their files change.

    Args:
        watcher: Watches the files.
        options: Of the backend.

    Raises:
        TlsError: a file cannot be read or used.
    """

    def __init__(self, watcher: FileWatcher, options: ClientTlsOptions = DEFAULT_CLIENT_TLS) -> None:
        own = options.client_certificate
        load = partial(self._load, options)
        self._credentials: Watched[ClientCredentials] = watcher.watch(
            (type(self), options), options.files, load, None if own is None else own.cert
        )

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake of OpenSSL begins with."""
        return self._credentials.current.context

    async def start(
        self,
        sock: socket.socket,
        server_name: str,
        reopen: Callable[[], Awaitable[socket.socket]],
    ) -> EncryptedTransport:
        """Complete the TLS handshake with a server; the deadline is the caller's.

        Args:
            sock: Connected and non-blocking; it belongs to this function from now on, and is closed if it fails.
            server_name: The name to ask for and to verify.
            reopen: Connects once more, where another implementation of TLS has to try.

        Raises:
            OSError: The handshake failed (`ssl.SSLError`) or the connection broke.
        """
        return await start_tls(sock, self.context, server_side=False, server_hostname=server_name)

    @staticmethod
    def _load(options: ClientTlsOptions) -> ClientCredentials:
        return ClientCredentials(load_client_context(options))


class TlsProvider(Protocol):
    """An implementation of TLS."""

    def for_listener(
        self, watcher: FileWatcher, certificates: Sequence[TlsCertificateConfig], options: ServerTlsOptions
    ) -> ListenerTls:
        """Make the TLS of a listener; see there."""

    def for_client(self, watcher: FileWatcher, options: ClientTlsOptions = DEFAULT_CLIENT_TLS) -> ClientTls:
        """Make the TLS of what is dialed; see there."""


class OpenSsl:
    """TLS by OpenSSL, which is that of Python."""

    for_listener = ListenerTls
    for_client = ClientTls
