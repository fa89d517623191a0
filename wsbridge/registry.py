"""One row per kind: (config class, runtime class)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wsbridge.auth.base import Authenticator, AuthServices, NoAuthConfig
from wsbridge.auth.basic import BasicAuth, BasicConfig
from wsbridge.auth.bearer import BearerAuth, BearerConfig
from wsbridge.auth.client_cert import CertificateAuth, CertificateConfig
from wsbridge.auth.forward import ForwardAuth, ForwardConfig
from wsbridge.auth.jwt import JwtAuth, JwtConfig
from wsbridge.auth.network import AllOf, AllOfConfig, AnyOf, AnyOfConfig, NetworkAuth, NetworkConfig
from wsbridge.auth.ticket import TicketAuth, TicketConfig
from wsbridge.backends.base import Backend
from wsbridge.backends.dynamic import DynamicBackend, TargetFromIdentityConfig, TokensBackendConfig
from wsbridge.backends.tcp import (
    TcpBackend,
    TcpBackendConfig,
    TlsBackend,
    TlsBackendConfig,
    UnixBackend,
    UnixBackendConfig,
)
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.base import Registry
from wsbridge.config.listener import ListenerConfig
from wsbridge.net import listeners
from wsbridge.net.listeners import ListeningSockets

LISTENERS: Mapping[str, Callable[[str, ListenerConfig], Awaitable[ListeningSockets]]] = {
    "tcp": listeners.listen_tcp,
    "unix": listeners.listen_unix,
}
"""By `bind.kind`."""

BACKENDS: Mapping[str, Callable[[Any, Any], Backend]] = {
    "tcp": TcpBackend,
    "tls": TlsBackend,
    "unix": UnixBackend,
    "ws": WebSocketBackend,
    "wss": WebSocketBackend,
    "tokens": DynamicBackend,
    "target": DynamicBackend,
}
"""By the scheme of the URL, or by how else the backend is told."""

AUTH: Mapping[str, Callable[[Any, AuthServices], Authenticator | None]] = {
    "none": lambda config, lent: None,
    "network": NetworkAuth,
    "basic": BasicAuth,
    "bearer": BearerAuth,
    "ticket": TicketAuth,
    "certificate": CertificateAuth,
    "jwt": JwtAuth,
    "forward": ForwardAuth,
    "any_of": AnyOf,
    "all_of": AllOf,
}
"""By `auth.kind`."""

CONFIG_REGISTRY = Registry(
    backends={
        "tcp": TcpBackendConfig,
        "tls": TlsBackendConfig,
        "unix": UnixBackendConfig,
        "ws": WebSocketBackendConfig,
        "wss": WebSocketBackendConfig,
        "tokens": TokensBackendConfig,
        "target": TargetFromIdentityConfig,
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
