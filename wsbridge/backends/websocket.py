"""WebSocket backends: `ws://` and `wss://`, straight or through an HTTP proxy.

Lives here: the section, the class, and the opening handshake as the side that dials (RFC 6455 section 4.1). Must not
live here: what the handshake's bytes are (`protocol.handshake`), frames. No redirect is followed.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import trio
from pydantic import Field

from wsbridge.backends.backend import Dialled, Offer, Services, address_of, connect
from wsbridge.backends.client_headers import ClientHeader
from wsbridge.backends.tls import TlsClient, tls_end
from wsbridge.config.scalars import HeaderName, Origin, ProxyUrl, Secret, Target, TargetUrl, TextOrSecret, Token
from wsbridge.config.section import Context, Fault
from wsbridge.log.redact import HIDDEN, redact
from wsbridge.net import tls_wire
from wsbridge.net.proxy_connect import through
from wsbridge.net.tls import ALPN
from wsbridge.net.wire import SocketWire
from wsbridge.protocol.handshake import Accepted, check_response, client_request, new_key
from wsbridge.protocol.head import BadHead, Headers, Response
from wsbridge.protocol.http1 import HeadReader
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.relay.endpoint import WebSocketEndpoint

BODY_WAIT: Final = 0.5
"""Seconds to wait for the first of the body of a refusal, which is told in the log."""

_OPENSSL: Final = re.compile(r"^\[[^]]*\] (.*?)(?: \(_ssl\.c:\d+\))?$")
SHORTEST_SECRET: Final = 4
"""Bytes of a secret below which it is not looked for in answers: it would hide half of every sentence."""
SHORTEST_TEXT: Final = 8
"""The same for header values that are written as text."""

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})

_TRY_LATER: Final = frozenset({429, 502, 503, 504})


class WebSocketBackendConfig(TlsClient):
    """A server that is dialled by WebSocket."""

    url: TargetUrl
    """Where it is: `ws://host[:port]/path` or `wss://host[:port]/path`; a query may follow."""
    headers: dict[HeaderName, TextOrSecret] = Field(default_factory=dict)
    """Headers to add to the request; a value is text, or a secret as {file: PATH} or {env: NAME}."""
    client_headers: dict[HeaderName, ClientHeader] = Field(default_factory=dict)
    """Headers to add that tell of the client; a value is text with fields such as {address} and {identity}."""
    subprotocols: tuple[Token, ...] | None = None
    """What to offer when the client side is plain TCP. Left out: the list of the route. A WebSocket client's own
    offer is passed on instead."""
    proxy: ProxyUrl | None = None
    """HTTP proxy to go through by CONNECT: http://[user:password@]host:port."""
    origin: Origin | None = None
    """Origin header to send. Left out: none."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Keep the keys of TLS to wss."""
        if str(written.get("url", "")).lower().startswith("ws:"):
            for key in ("ca", "client_certificate", "insecure"):
                if key in written:
                    yield Fault((key,), "means nothing without TLS: write wss:// in the URL", "E013", at_key=True)

    @property
    def tells_client(self) -> bool:
        """See `AnyBackendSection.tells_client`."""
        return bool(self.client_headers)

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell which secrets cannot be sent, besides what is wrong with TLS."""
        yield from super().faults(context)
        if self.proxy is not None and self.fields:
            text = "cannot stand beside a URL with fields: the proxy looks the name up, and nobody judges what it finds"
            yield Fault(("proxy",), text, "E013", at_key=True)
        for name, value in self.headers.items():
            if isinstance(value, Secret) and not (value.reveal().isascii() and value.reveal().isprintable()):
                yield Fault(("headers", name), "the secret is not printable ASCII on one line", "E012")
        names = [name.lower() for name in (*self.headers, *self.client_headers)]
        for name in self.client_headers:
            if names.count(name.lower()) > 1:
                yield Fault(("client_headers", name), "is written twice for one request", "E013", at_key=True)

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of secrets in the file, or to another host unencrypted, besides what is risky with TLS."""
        yield from super().cautions(context)
        bare = self.url.scheme == "ws" and not self.url.is_loopback
        for name, value in self.headers.items():
            secret = name.lower() in _SECRET_HEADERS
            if bare and (secret or isinstance(value, Secret)):
                text = f"goes to {self.url.host} without TLS: everybody on the way can read it"
                yield Fault(("headers", name), text, "W004", at_key=True)
            if secret and not isinstance(value, Secret):
                text = "is a secret, and whoever may read this file has it: write {file: PATH} or {env: NAME}"
                yield Fault(("headers", name), text, "W013", at_key=True)


class WebSocketBackend:
    """See `Backend`.

    Raises:
        TlsError: a file of the configuration cannot be used.
    """

    def __init__(self, config: WebSocketBackendConfig, services: Services) -> None:
        url = config.url
        self.name = redact(url.text)
        self._url = url
        self._proxy = config.proxy
        self._subprotocols = config.subprotocols
        self._origin = config.origin
        self._services = services
        self._headers = [(name, _text(value)) for name, value in config.headers.items()]
        self._client_headers = config.client_headers
        self._hide = _hidden(config.headers)
        self._context: ssl.SSLContext | None = config.context(ALPN) if url.scheme == "wss" else None
        self._name_of = config.name_of
        self._server_name = config.server_name
        self._host_header = _host_header(url, config.server_name)

    def at_once(self, offer: Offer) -> None:
        """See `Backend.at_once`: a handshake has to be waited for."""

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        chosen = offer.chosen
        url = self._url if chosen is None else chosen.target
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (url.host, url.port)
        sock = await connect(self._services, host, port, chosen)
        if isinstance(sock, End):
            if self._proxy is None:
                return sock
            return replace(sock, detail=f"the proxy {self._proxy}: {sock.detail}")
        address = address_of(sock, self.name)
        wire = SocketWire(sock)
        try:
            if self._proxy is not None:
                failure = await through(wire, url.host, url.port, self._proxy, self._services.head)
                if failure is not None:
                    wire.close()
                    return failure.end()
                address = f"{url.authority} by the proxy {self._proxy}"
            if self._context is not None:
                # What a proxy may have sent ahead is left behind: in TLS the dialling side speaks first.
                try:
                    wire = await tls_wire.wrap(
                        sock, self._context, server_side=False, server_hostname=self._name_of(url.host)
                    )
                except OSError as error:
                    return tls_end(address, error)
            outcome = await self._shake_hands(wire, url, offer, address)
        except BaseException:
            wire.abort()
            raise
        if not isinstance(outcome, Accepted):
            wire.close()
            return outcome if isinstance(outcome, End) else self._end(address, outcome)
        return Dialled(WebSocketEndpoint(wire, "client", offer.text, offer.frame), outcome.subprotocol, address)

    async def _shake_hands(self, wire: SocketWire, url: Target, offer: Offer, address: str) -> Accepted | BadHead | End:
        """Ask for the upgrade; bytes past the answer's head are put back into the wire."""
        key = new_key()
        host = self._host_header if url is self._url else _host_header(url, self._server_name)
        offered = offer.subprotocols
        if self._subprotocols is not None and not offer.from_client:
            offered = self._subprotocols
        headers = [*self._headers, *self._told(offer)]
        request = client_request(host, url.path, key, offered, headers, self._origin)
        reader = HeadReader(self._services.head, "client")
        try:
            await wire.write_all(request)
            answer = None
            while answer is None:
                data = await wire.read_some()
                if not data:
                    return BadHead(502, "the upstream closed the connection before it answered the upgrade")
                answer = reader.feed(data)
        except OSError as error:
            text = _OPENSSL.sub(r"\1", error.strerror or str(error))
            if self._context is not None and " alert " in text:  # TLS 1.3 refuses a client after its handshake
                return End(Reason.BACKEND_TLS, "back", f"{address}: {text}")
            return BadHead(502, f"the upstream broke the connection before it answered: {text}")
        if not isinstance(answer, Response):
            return answer if isinstance(answer, BadHead) else BadHead(502, "the upstream sent no answer")
        if answer.status != 101:
            body = reader.rest or await _some_body(wire)
            return check_response(self._redacted(answer), key, offered, self._redact(body))
        outcome = check_response(answer, key, offered)
        if isinstance(outcome, Accepted):
            wire.unread(reader.rest)
        return outcome

    def _told(self, offer: Offer) -> Iterable[tuple[str, str]]:
        """What the server is told of the client; a header about which nothing is known is left out."""
        if offer.client is not None:
            for name, template in self._client_headers.items():
                value = template.fill(offer.client)
                if value:
                    yield name, value

    def _end(self, address: str, bad: BadHead) -> End:
        """How a refusal is told; one that time will not heal carries its HTTP status (see `net.retry`)."""
        final = bad.upstream_status is not None and bad.upstream_status not in _TRY_LATER
        text = redact(self._redact(bad.text.encode("utf-8", "replace")).decode("utf-8", "replace"))
        reason = Reason.BACKEND_REFUSED
        return End(reason, "back", f"{address}: {text}", ENDINGS[reason].status if final else None)

    def _redacted(self, answer: Response) -> Response:
        """The answer as far as it is told, without our secrets, should it echo them."""
        location = answer.headers.get(b"location")
        lines = []
        if location is not None:
            text = redact(self._redact(location).decode("latin-1"), url=True)
            lines.append((b"location", text.encode("latin-1", "replace")))
        reason = self._redact(answer.reason.encode("latin-1", "replace")).decode("latin-1")
        return Response(answer.status, reason, Headers(lines), answer.version)

    def _redact(self, data: bytes) -> bytes:
        for secret in self._hide:
            data = data.replace(secret, HIDDEN.encode())
        return data


def _host_header(url: Target, server_name: str | None) -> str:
    """What is asked for: host and port of the URL, the host by the name that is verified."""
    if server_name is None:
        return url.authority
    written = f"[{url.host}]" if ":" in url.host else url.host
    return server_name + url.authority.removeprefix(written)


async def _some_body(wire: SocketWire) -> bytes:
    """What of a refusal's body comes soon."""
    with trio.move_on_after(BODY_WAIT):
        try:
            return await wire.read_some()
        except OSError:
            return b""
    return b""


def _text(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _hidden(headers: dict[str, str | Secret]) -> list[bytes]:
    """What must not be told of the headers, longest first: values, their parts, the password in a Basic one."""
    found: set[bytes] = set()
    for value in headers.values():
        text = _text(value)
        scheme, _, rest = text.partition(" ")
        parts = {text.encode(), rest.encode()}
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):  # no base64: no password in it
                parts |= {part for part in b64decode(rest).partition(b":") if part != b":"}
        shortest = SHORTEST_SECRET if isinstance(value, Secret) else SHORTEST_TEXT
        found |= {part for part in parts if len(part) >= shortest}
    return sorted(found, key=len, reverse=True)
