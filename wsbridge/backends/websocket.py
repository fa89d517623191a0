"""WebSocket backends, `ws://` and `wss://`, also through an HTTP proxy (RFC 6455 section 4.1); no redirects."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import trio
from pydantic import Field

from wsbridge.backends.base import ChosenTarget, Connected, DialRequest, DialServices, connect_tcp, remote_address
from wsbridge.backends.client_headers import ClientHeader
from wsbridge.backends.resumption import open_session
from wsbridge.backends.tcp import TlsClientSection, tls_failure
from wsbridge.config.backend_urls import BackendUrl
from wsbridge.config.base import Issue, LoadContext
from wsbridge.config.secrets import SECRET_FORMS, Secret, TextOrSecret
from wsbridge.config.types import Flag, HeaderName, HttpToken, PassedHeaders
from wsbridge.config.unions import PassRules
from wsbridge.config.urls import WEBSOCKET_UNIX_PREFIX, HostHeader, Origin, ProxyUrl, Target
from wsbridge.log.format import redact
from wsbridge.log.sent_secrets import SentSecrets, header_text
from wsbridge.net.dialer import dial_unix
from wsbridge.net.http_proxy import ProxyConnector, retry_after
from wsbridge.net.loop_detection import via_header
from wsbridge.net.tls import ALPN_PROTOCOLS
from wsbridge.net.tls_roles import ClientTls
from wsbridge.net.tls_transport import EncryptedTransport
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.handshake import check_upgrade_response, encode_upgrade_request, generate_key
from wsbridge.protocol.http1 import ANSWERED_IN_TLS, NOT_HTTP, Headers, Response, ResponseParser, bad_response
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.endpoint import Side

REJECTION_BODY_TIMEOUT: Final = 0.5
"""Seconds to wait for the start of the body of a rejection, which is logged."""

_REMEDIES: Final = {
    ANSWERED_IN_TLS: ": write wss:// for ws://",
    NOT_HTTP: "; write tcp:// for ws:// if it is plain TCP",
}
"""What helps where a backend is no WebSocket server, by what is wrong with its response."""

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class WebSocketBackendConfig(TlsClientSection):
    """WebSocket backend."""

    url: BackendUrl
    """Address: `ws://host[:port]/path` or `wss://host[:port]/path`, optional query, or `ws+unix:/socket:/path`."""
    headers: dict[HeaderName, TextOrSecret] = Field(default_factory=dict)
    """Additional request headers; a value is text, or a secret as {file: PATH}, {env: NAME} or {credential: NAME}."""
    client_headers: dict[HeaderName, ClientHeader] = Field(default_factory=dict)
    """Additional request headers with client information; values are templates with fields such as {address} and
    {identity}."""
    subprotocols: tuple[HttpToken, ...] | None = None
    """Subprotocols to offer for plain TCP clients. Default: those of the route. For WebSocket clients their own
    offer is forwarded instead."""
    proxy: ProxyUrl | None = None
    """HTTP proxy to connect through (CONNECT): http://[user:password@]host:port."""
    proxy_headers: dict[HeaderName, TextOrSecret] = Field(default_factory=dict)
    """Additional headers of the CONNECT request to the proxy, such as User-Agent; a value is text, or a secret as
    {file: PATH}, {env: NAME} or {credential: NAME}."""
    host: HostHeader | None = None
    """Host header to send, host or host:port. Default: server_name, or else the host and port of the URL."""
    origin: Origin | None = None
    """Origin header to send. Default: none."""
    pass_headers: PassedHeaders = ()
    """Headers of a WebSocket client's request to pass on, such as Cookie or Accept-Language."""
    pass_origin: Flag = False
    """true passes on the Origin of a WebSocket client."""
    pass_path: Flag = False
    """true passes on the path of a WebSocket client's request: what follows the fixed beginning of match.path is
    appended to the path of the URL."""
    pass_query: Flag = False
    """true passes on the query of a WebSocket client's request, without parameters that the URL has itself."""
    pass_credentials: Flag = False
    """true also passes on what authenticates the client to this route: a header in pass_headers, the cookie, the
    ticket. Default: the backend does not get it."""
    messages: Literal["binary", "text"] = "binary"
    """Messages that the bytes of plain TCP clients become: binary, or text for servers that accept only text. One read
    is one message, cut at characters; bytes that are not UTF-8 close the connection."""
    resume: Literal["auto", "off"] = "auto"
    """Resumable sessions for plain TCP clients, where the server has them: a connection to it that is lost is replaced
    by another one, and the client notices a pause. auto offers them besides other subprotocols; off does not."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject the keys of TLS with other schemes than wss, and sessions where there cannot be any."""
        if str(raw.get("url", "")).lower().startswith(("ws:", WEBSOCKET_UNIX_PREFIX)):
            for key in ("ca", "client_certificate", "insecure", "pin_sha256"):
                if key in raw:
                    yield Issue((key,), "means nothing without TLS: write wss:// in the URL", "E013", at_key=True)
        if raw.get("resume") == "auto" and raw.get("messages") == "text":
            text = "auto has no effect with messages: text, since sessions consist of binary messages"
            yield Issue(("resume",), text, "E013")

    @property
    def needs_client_info(self) -> bool:
        """See `BackendSectionBase.needs_client_info`."""
        return bool(self.client_headers)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check proxy and headers, besides TLS."""
        yield from super().validate_values(context)
        if self.proxy is not None and self.url.socket_path:
            yield Issue(("proxy",), "is not supported for a Unix socket", "E013", at_key=True)
        if self.proxy is not None and self.fields:
            text = "cannot be combined with a URL with fields: the addresses that the proxy uses cannot be checked"
            yield Issue(("proxy",), text, "E013", at_key=True)
        for key, name in self._own_headers("via"):
            text = "is written by wsbridge itself, for loop detection, and cannot be set here"
            yield Issue((key, name), text, "E012", at_key=True)
        yield from _check_header_values("headers", self.headers)
        yield from _check_header_values("proxy_headers", self.proxy_headers)
        if self.proxy is None and self.proxy_headers:
            yield Issue(("proxy_headers",), "has no effect without proxy", "E013", at_key=True)
        if self.proxy is not None and self.proxy.user:
            for name in self.proxy_headers:
                if name.lower() == "proxy-authorization":
                    text = "conflicts with the user in the URL of the proxy: write one of them"
                    yield Issue(("proxy_headers", name), text, "E013", at_key=True)
        yield from _check_duplicates("headers", self.headers)
        yield from _check_duplicates("proxy_headers", self.proxy_headers)
        yield from _check_duplicates("client_headers", self.client_headers, self.headers)
        yield from self._check_passed()

    @property
    def pass_rules(self) -> PassRules | None:
        """See `BackendSectionBase.pass_rules`."""
        rules = PassRules(self.pass_headers, self.pass_origin, self.pass_path, self.pass_query, self.pass_credentials)
        return rules if rules != PassRules(credentials=rules.credentials) else None

    def _check_passed(self) -> Iterable[Issue]:
        own = {name.lower().replace("_", "-") for name in (*self.headers, *self.client_headers)}
        for at, name in enumerate(self.pass_headers):
            if name.lower().replace("_", "-") in own:  # many servers read both as one
                text = f"{name} is set by headers or client_headers already"
                yield Issue(("pass_headers", at), text, "E013")
        if self.pass_origin and self.origin is not None:
            yield Issue(("pass_origin",), "conflicts with origin: write one of them", "E013", at_key=True)
        for key in ("pass_path", "pass_query"):
            if getattr(self, key) and self.fields:
                text = "cannot be combined with a URL with fields: write the fields into its path and query"
                yield Issue((key,), text, "E013", at_key=True)
        if self.pass_credentials and not (self.pass_headers or self.pass_query):
            text = "has no effect without pass_headers or pass_query"
            yield Issue(("pass_credentials",), text, "E013", at_key=True)

    def _own_headers(self, lower_name: str) -> Iterable[tuple[str, str]]:
        """Find a header among those of the request to the backend: key and name as written."""
        for key, names in (("headers", self.headers), ("client_headers", self.client_headers)):
            yield from ((key, name) for name in names if name.lower() == lower_name)

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of secrets in the file, or to another host unencrypted, besides what is risky with TLS."""
        yield from super().warnings(context)
        bare = self.url.scheme == "ws" and not self.url.is_loopback
        yield from _warn_of_secrets("headers", self.headers, self.url.host if bare else "")
        for at, name in enumerate(self.pass_headers if bare else ()):
            if name.lower() in _SECRET_HEADERS:
                text = f"{name} goes to {self.url.host} without TLS: everybody on the network path can read it"
                yield Issue(("pass_headers", at), text, "W004")
        for key, name in self._own_headers("proxy-authorization"):
            text = "goes to the backend, not to a proxy: write it in proxy_headers (bridge: --proxy-header)"
            yield Issue((key, name), text, "W029", at_key=True)
        proxy_host = "" if self.proxy is None or self.proxy.is_loopback else self.proxy.host
        yield from _warn_of_secrets("proxy_headers", self.proxy_headers, proxy_host)


def _check_header_values(key: str, headers: Mapping[str, str | Secret]) -> Iterable[Issue]:
    for name, value in headers.items():
        if isinstance(value, Secret) and not (value.reveal().isascii() and value.reveal().isprintable()):
            yield Issue((key, name), "the secret is not printable ASCII on one line", "E012")


def _check_duplicates(key: str, names: Iterable[str], others: Iterable[str] = ()) -> Iterable[Issue]:
    """Report headers that one request would have twice; names are compared without case."""
    seen = {name.lower() for name in others}
    for name in names:
        if name.lower() in seen:
            yield Issue((key, name), "is a duplicate: the request has this header already", "E013", at_key=True)
        seen.add(name.lower())


def _warn_of_secrets(key: str, headers: Mapping[str, str | Secret], host: str) -> Iterable[Issue]:
    """Warn of secrets that are written as text, or sent without TLS to the host of that name; empty if they are not."""
    for name, value in headers.items():
        secret = name.lower() in _SECRET_HEADERS
        if host and (secret or isinstance(value, Secret)):
            text = f"goes to {host} without TLS: everybody on the network path can read it"
            yield Issue((key, name), text, "W004", at_key=True)
        if secret and not isinstance(value, Secret):
            text = f"is a secret, and everybody who can read this file has it: write {SECRET_FORMS}"
            yield Issue((key, name), text, "W013", at_key=True)


class WebSocketBackend:
    """See `Backend`.

    Raises:
        TlsError: a file of the configuration cannot be used.
    """

    def __init__(self, config: WebSocketBackendConfig, services: DialServices) -> None:
        url = config.url
        self.name = redact(url.text)
        self._url = url
        self._proxy = (
            None
            if config.proxy is None
            else ProxyConnector(config.proxy, config.proxy_headers, services.max_response_head_bytes)
        )
        self._subprotocols = config.subprotocols
        self._origin = config.origin
        self._messages = config.messages
        self._offers_resume = config.resume == "auto" and config.messages == "binary"
        self._services = services
        self._headers = [(name, header_text(value)) for name, value in config.headers.items()]
        self._client_headers = config.client_headers
        self._secrets = SentSecrets(config.headers)
        self._has_credentials = any(
            isinstance(value, Secret) or name.lower() in _SECRET_HEADERS for name, value in config.headers.items()
        )
        self._tls = config.build_tls(services, ALPN_PROTOCOLS) if url.scheme == "wss" else None
        self._verified_name = config.verified_name
        self._check_pin = config.check_pin
        self._server_name = config.server_name
        self._host = config.host
        self._host_header = config.host or _host_header(url, config.server_name)

    def local_address(self, chosen: ChosenTarget | None) -> None:
        """See `Backend.local_address`."""

    def connect_nowait(self, dial_request: DialRequest) -> None:
        """See `Backend.connect_nowait`: never, since the handshake takes time."""

    async def dial(self, dial_request: DialRequest) -> Connected:
        """See `Backend.dial`."""
        chosen = dial_request.chosen
        url = self._url if chosen is None else chosen.target
        transport, address = await self._open(url, dial_request)
        try:
            if self._tls is not None:
                transport = await self._start_tls(self._tls, transport, url, dial_request, address)
            dial_request.progress.enter(f"response of {address} to the upgrade request")
            subprotocol = await self._handshake(transport, url, dial_request, address)
        except Rejected:
            transport.close()
            raise
        except BaseException:
            transport.abort()
            raise
        side = Side(
            transport,
            "client",
            dial_request.text_messages,
            messages=self._messages,
            max_frame_bytes=dial_request.max_frame_bytes,
        )
        connected = Connected(side, subprotocol, address)
        if subprotocol != RESUME_SUBPROTOCOL or not self._offers_resume or dial_request.from_client:
            return connected
        dial_request.progress.enter(f"answer of {address} to OPEN (resume: off if it has no resumable sessions)")
        return await open_session(connected)

    async def _open(self, url: Target, dial_request: DialRequest) -> tuple[SocketTransport, str]:
        """Connect to the server, by the proxy in front of it if there is one; return the address for the log, too."""
        sock = await self._connect(url, dial_request)
        transport = SocketTransport(sock)
        if self._proxy is None:
            return transport, remote_address(sock, self.name)
        try:
            dial_request.progress.enter(f"CONNECT to the proxy {self._proxy.proxy}")
            await self._proxy.connect(transport, url.host, url.port)
        except Rejected:
            transport.close()
            raise
        except BaseException:
            transport.abort()
            raise
        return transport, f"{url.authority} by the proxy {self._proxy.proxy}"

    async def _start_tls(
        self, tls: ClientTls, plain: SocketTransport, url: Target, dial_request: DialRequest, address: str
    ) -> EncryptedTransport:
        """Complete the TLS handshake; bytes that a proxy sent early are dropped: in TLS the client sends first."""

        async def reopen() -> socket.socket:
            return (await self._open(url, dial_request))[0].sock

        dial_request.progress.enter(f"TLS handshake with {address}")
        try:
            transport = await tls.start(plain.sock, self._verified_name(url.host), reopen)
        except OSError as error:
            raise tls_failure(address, error) from None
        try:
            if dial_request.progress.steps is not None:
                dial_request.progress.note(transport.describe())
            self._check_pin(transport, address)
        except Rejected:
            transport.close()
            raise
        return transport

    async def _connect(self, url: Target, dial_request: DialRequest) -> socket.socket:
        """Connect to the server, or to the proxy in front of it."""
        if url.socket_path:
            return await dial_unix(url.socket_path, dial_request.chain)
        if self._proxy is None:
            return await connect_tcp(self._services, url.host, url.port, dial_request)
        proxy = self._proxy.proxy
        try:
            return await connect_tcp(self._services, proxy.host, proxy.port, dial_request)
        except Rejected as rejected:
            raise rejected.with_detail(f"the proxy {proxy}: {rejected.detail}") from None

    async def _handshake(
        self, transport: SocketTransport, url: Target, dial_request: DialRequest, address: str
    ) -> str | None:
        """Ask for the upgrade and return the subprotocol chosen; bytes past the response's head are put back."""
        host = self._host_header if url is self._url else self._host or _host_header(url, self._server_name)
        offered = dial_request.subprotocols
        if self._subprotocols is not None and not dial_request.from_client:
            offered = self._subprotocols
        if offered and self._offers_resume and not dial_request.from_client and RESUME_SUBPROTOCOL not in offered:
            offered = (*offered, RESUME_SUBPROTOCOL)  # last: some servers select the first one, whether they know it
        headers = [*self._headers, *self._client_header_values(dial_request)]
        if dial_request.chain is not None:
            headers.append(("Via", via_header(dial_request.chain.marks)))
        resource, origin, secrets = url.path, self._origin, self._secrets
        if dial_request.passed is not None:
            resource = dial_request.passed.add_to(resource)
            headers += dial_request.passed.headers
            origin = dial_request.passed.origin or origin
            secrets = secrets.including(dial_request.passed.secrets())
        key = generate_key()
        request = encode_upgrade_request(host, resource, key, offered, headers, origin)
        wait = None
        try:
            response, rest = await self._exchange_heads(transport, request, address)
            if response.status != 101:
                body = secrets.hide(rest or await _read_body_start(transport))
                if response.status in (429, 503):
                    wait = retry_after(response.headers, time.time())
                check_upgrade_response(  # always raises
                    _redact_response(response, secrets), key, offered, body, own_credentials=self._has_credentials
                )
            subprotocol = check_upgrade_response(response, key, offered)
        except Rejected as rejected:
            if rejected.reason is Reason.BACKEND_TLS:
                raise
            text = redact(secrets.hide_in_text(rejected.detail))
            failure = rejected.with_detail(f"{address}: {text}")
            failure.retry_after = wait
            raise failure from None
        transport.unread(rest)
        return subprotocol

    async def _exchange_heads(self, transport: SocketTransport, request: bytes, address: str) -> tuple[Response, bytes]:
        """Send the request and read the head of the response; return it with the bytes that came after it."""
        parser = ResponseParser(self._services.max_response_head_bytes)
        response = None
        try:
            with contextlib.suppress(OSError):  # a read gives the same error, or what the backend sent before
                await transport.write_all(request)
            while response is None:
                data = await transport.read_some()
                if not data:
                    raise _cut_short(parser.status_so_far, self._hint)
                response = parser.feed(data)
        except Rejected as rejected:
            raise rejected.with_detail(rejected.detail + _REMEDIES.get(rejected.detail, "")) from None
        except OSError as error:
            text = error.strerror or str(error)
            if (
                self._tls is not None and " alert " in text
            ):  # in TLS 1.3 a client certificate is rejected after the handshake
                raise Rejected(Reason.BACKEND_TLS, f"{address}: {text}", initiator="backend") from None
            raise bad_response(f"the backend broke the connection before it answered: {text}{self._hint}") from None
        return response, parser.trailing_data

    @property
    def _hint(self) -> str:
        """What may help where a backend hangs up on the request, as many services with TLS do."""
        return "" if self._tls is not None else "; if it speaks TLS, write wss:// for ws://"

    def _client_header_values(self, dial_request: DialRequest) -> Iterable[tuple[str, str]]:
        """Return headers with client information; those without a value are omitted."""
        if dial_request.client is not None:
            for name, template in self._client_headers.items():
                value = template.fill(dial_request.client)
                if value:
                    yield name, value


def _redact_response(answer: Response, secrets: SentSecrets) -> Response:
    """Return a response as far as it is logged, without secrets that it repeats."""
    location = answer.headers.get(b"location")
    lines = [(b"retry-after", value) for value in answer.headers.get_all(b"retry-after")[:1]]
    if location is not None:
        text = redact(secrets.hide(location).decode("latin-1"), url=True)
        lines.append((b"location", text.encode("latin-1", "replace")))
    reason = secrets.hide(answer.reason.encode("latin-1", "replace")).decode("latin-1")
    return Response(answer.status, reason, Headers(lines), answer.version)


def _host_header(url: Target, server_name: str | None) -> str:
    """Return the Host header: host and port of the URL, with the name that is verified as the host."""
    if server_name is None:
        return url.authority
    written = f"[{url.host}]" if ":" in url.host else url.host
    return server_name + url.authority.removeprefix(written)


def _cut_short(status: int | None, hint: str) -> Rejected:
    """Return the failure of a response that ended before its head did."""
    if status is None:
        return bad_response(f"the backend closed the connection before it answered the upgrade{hint}")
    return bad_response(f"the backend answered {status} and closed the connection within the head", status)


async def _read_body_start(transport: SocketTransport) -> bytes:
    """Return the start of the body of a rejection, as far as it comes soon."""
    with trio.move_on_after(REJECTION_BODY_TIMEOUT):
        try:
            return await transport.read_some()
        except OSError:
            return b""
    return b""
