"""What a probe is asked for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsbridge.config.secrets import Secret
from wsbridge.config.urls import HttpProxy, Target
from wsbridge.log.format import redact
from wsbridge.log.sent_secrets import SentSecrets, header_text
from wsbridge.protocol.handshake import TOKEN_SUBPROTOCOL_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What a probe is asked for.

    Attributes:
        target: Where to.
        context: Verifies the server; None without TLS.
        insecure: Whether it verifies nothing.
        server_name: Name for SNI and verification.
        host: Host header.
        origin: Origin header, or None.
        headers: Further headers, those that authenticate among them.
        credential: What authenticates, in words without the secret, such as `Basic (user alice)`; empty for nothing.
        subprotocols: To offer.
        proxy: HTTP proxy, or None.
        proxy_headers: Headers of the CONNECT request.
        timeout: Seconds for each step.
        wait: Seconds for which the open connection is watched.
        pings: How many pings measure the round trip.
        idle: Seconds of the longest idle time to try; None to try none.
    """

    target: Target
    context: ssl.SSLContext | None = None
    insecure: bool = False
    server_name: str = ""
    host: str = ""
    origin: str | None = None
    headers: Mapping[str, str | Secret]
    credential: str = ""
    subprotocols: Sequence[str] = ()
    proxy: HttpProxy | None = None
    proxy_headers: Mapping[str, str | Secret]
    timeout: float = 10.0
    wait: float = 1.0
    pings: int = 5
    idle: float | None = None

    @property
    def is_websocket(self) -> bool:
        """Whether the target speaks WebSocket."""
        return self.target.scheme in ("ws", "wss")

    @property
    def shown_url(self) -> str:
        """The URL without secrets."""
        return redact(self.target.text, url=True)

    @property
    def sent_headers(self) -> list[tuple[str, str]]:
        """The further headers as they are sent."""
        return [(name, header_text(value)) for name, value in self.headers.items()]

    @property
    def secrets(self) -> SentSecrets:
        """What must not be printed of an answer."""
        tokens = [
            name.removeprefix(TOKEN_SUBPROTOCOL_PREFIX)
            for name in self.subprotocols
            if name.startswith(TOKEN_SUBPROTOCOL_PREFIX)
        ]
        cookies = [
            pair.partition("=")[2].strip()
            for name, value in self.headers.items()
            if name.lower() == "cookie"
            for pair in header_text(value).split(";")
        ]
        return SentSecrets(self.headers, [*tokens, *cookies])

    @property
    def shown_subprotocols(self) -> str:
        """The subprotocols to offer, without tokens in them."""
        return redact(", ".join(self.subprotocols))
