"""The tables of kinds: what may stand in the file, one line a kind.

Lives here: names and the classes behind them. Must not live here: anything else. A new kind is one file with its
section and its class, and a line here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wsbridge.auth.all_of import AllOf, AllOfConfig
from wsbridge.auth.any_of import AnyOf, AnyOfConfig
from wsbridge.auth.auth import Auth, Lent
from wsbridge.auth.basic import BasicAuth, BasicConfig
from wsbridge.auth.bearer import BearerAuth, BearerConfig
from wsbridge.auth.certificate import CertificateAuth, CertificateConfig
from wsbridge.auth.forward import Forward, ForwardConfig
from wsbridge.auth.jwt import JwtAuth, JwtConfig
from wsbridge.auth.network import NetworkAuth, NetworkConfig
from wsbridge.auth.none import NoAuthConfig
from wsbridge.auth.ticket import TicketAuth, TicketConfig
from wsbridge.backends.backend import Backend
from wsbridge.backends.chosen import ChosenBackend, TokensBackendConfig, ToldBackendConfig
from wsbridge.backends.tcp import TcpBackend, TcpBackendConfig
from wsbridge.backends.tls import TlsBackend, TlsBackendConfig
from wsbridge.backends.unix import UnixBackend, UnixBackendConfig
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.model import Kinds, Listener
from wsbridge.listeners import Listening, tcp, unix

LISTENERS: Mapping[str, Callable[[str, Listener], Awaitable[Listening]]] = {
    "tcp": tcp.listen,
    "unix": unix.listen,
}
"""By `bind.kind`."""

BACKENDS: Mapping[str, Callable[[Any, Any], Backend]] = {
    "tcp": TcpBackend,
    "tls": TlsBackend,
    "unix": UnixBackend,
    "ws": WebSocketBackend,
    "wss": WebSocketBackend,
    "tokens": ChosenBackend,
    "target": ChosenBackend,
}
"""By the scheme of the URL, or by how else the backend is told."""

AUTH: Mapping[str, Callable[[Any, Lent], Auth | None]] = {
    "none": lambda config, lent: None,
    "network": NetworkAuth,
    "basic": BasicAuth,
    "bearer": BearerAuth,
    "ticket": TicketAuth,
    "certificate": CertificateAuth,
    "jwt": JwtAuth,
    "forward": Forward,
    "any_of": AnyOf,
    "all_of": AllOf,
}
"""By `auth.kind`."""

CONFIG_KINDS = Kinds(
    backends={
        "tcp": TcpBackendConfig,
        "tls": TlsBackendConfig,
        "unix": UnixBackendConfig,
        "ws": WebSocketBackendConfig,
        "wss": WebSocketBackendConfig,
        "tokens": TokensBackendConfig,
        "target": ToldBackendConfig,
    },
    auth={
        "none": NoAuthConfig,
        "network": NetworkConfig,
        "basic": BasicConfig,
        "bearer": BearerConfig,
        "ticket": TicketConfig,
        "certificate": CertificateConfig,
        "jwt": JwtConfig,
        "forward": ForwardConfig,
        "any_of": AnyOfConfig,
        "all_of": AllOfConfig,
    },
)
"""Their sections, for the loader."""
