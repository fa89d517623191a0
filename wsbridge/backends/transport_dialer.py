"""`TransportDialer`: dials the transports of a program's session; URL and headers may be made for each of them."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pydantic import ValidationError

from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.passed_request import PassedRequest
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.backend_urls import UrlTemplate, read_backend_url
from wsbridge.config.base import section_error
from wsbridge.config.urls import WEBSOCKET_DEFAULT_PORTS, HttpProxy, Target
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.dialer import DialProgress
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import DEFAULT_CLIENT_TLS, ClientTlsOptions
from wsbridge.net.tls_roles import ClientTls, ListenerTls, OpenSsl
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL

UrlSource = str | Callable[[], Awaitable[str]]
HeaderSource = Mapping[str, str] | Callable[[], Awaitable[Mapping[str, str]]]


class _GivenTls(ClientTls):
    """TLS by a context that the program has made."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    @property
    def context(self) -> ssl.SSLContext:
        """See `ClientTls.context`."""
        return self._context


class _GivenTlsProvider:
    """See `TlsProvider`."""

    for_listener = ListenerTls

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def for_client(self, watcher: FileWatcher, options: ClientTlsOptions = DEFAULT_CLIENT_TLS) -> ClientTls:
        """See `TlsProvider.for_client`; what the options say, the context says."""
        return _GivenTls(self._context)


class TransportDialer:
    """Dials transports, by the URL and the headers of each.

    Args:
        url: The URL, or what gives one for each transport.
        headers: Request headers, or what gives them.
        resolver: Resolves names.
        ssl_context: TLS of `wss://`; None for the authorities of the system.
        pin_sha256: Fingerprints, of which the certificate of the server must have one; none for no such check.
        find_proxy: Gives the HTTP proxy for a server; None for none.
        origin: Origin to send.

    Raises:
        ValueError: URL, headers, proxy or fingerprints cannot be used; `dial` raises it where they are made for each
            transport.
    """

    def __init__(
        self,
        url: UrlSource,
        headers: HeaderSource,
        resolver: Resolver,
        *,
        ssl_context: ssl.SSLContext | None,
        pin_sha256: Sequence[str],
        find_proxy: Callable[[Target], HttpProxy | None],
        origin: str | None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._pins = tuple(pin_sha256)
        self._find_proxy = find_proxy
        self._origin = origin
        tls = OpenSsl() if ssl_context is None else _GivenTlsProvider(ssl_context)
        self._services = DialServices(resolver, tls=tls)
        self._constant: WebSocketBackend | None = None
        if isinstance(url, str) and isinstance(headers, Mapping):
            self._constant = self._build(url, headers)

    async def dial(self, passed: PassedRequest | None, progress: DialProgress) -> Connected:
        """Make one attempt; see `resumption.DialTransport`."""
        backend = self._constant
        if backend is None:
            progress.enter("waiting for the URL and the headers")
            url = self._url if isinstance(self._url, str) else await self._url()
            headers = self._headers if isinstance(self._headers, Mapping) else await self._headers()
            backend = self._build(url, headers)
        return await backend.dial(
            DialRequest((RESUME_SUBPROTOCOL,), from_client=True, passed=passed, progress=progress)
        )

    def _build(self, url: str, headers: Mapping[str, str]) -> WebSocketBackend:
        target = read_backend_url(url)
        if target.scheme not in WEBSOCKET_DEFAULT_PORTS or isinstance(target, UrlTemplate):
            raise ValueError(f'"{target.text}": must be a WebSocket URL, ws://… or wss://…')
        settings: dict[str, object] = {
            "url": target,
            "headers": dict(headers),
            "proxy": self._find_proxy(target),
            "origin": self._origin,
        }
        if self._pins:
            settings["pin_sha256"] = self._pins  # without TLS the key is an error, even if empty
        try:
            config = WebSocketBackendConfig.model_validate(settings)
        except ValidationError as error:
            raise ValueError(str(section_error(error, WebSocketBackendConfig))) from None
        return WebSocketBackend(config, self._services)
