"""The kinds of listeners, backends and authentication methods: their sections and their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wsbridge import native
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
from wsbridge.config.base import AuthSection, Registry
from wsbridge.config.unions import BackendSectionBase
from wsbridge.net import listeners
from wsbridge.net.listeners import ListenFunction

LISTENERS: Mapping[str, ListenFunction] = {
    "tcp": listeners.listen_tcp,
    "unix": listeners.listen_unix,
}
"""By `bind.kind`."""

BackendClass = Callable[[Any, Any], Backend]
AuthClass = Callable[[Any, AuthServices], Authenticator | None]

BACKEND_KINDS: Mapping[str, tuple[type[BackendSectionBase], BackendClass]] = {
    "tcp": (TcpBackendConfig, TcpBackend),
    "tls": (TlsBackendConfig, TlsBackend),
    "unix": (UnixBackendConfig, UnixBackend),
    "ws": (WebSocketBackendConfig, WebSocketBackend),
    "wss": (WebSocketBackendConfig, WebSocketBackend),
    "tokens": (TokensBackendConfig, DynamicBackend),
    "target": (TargetFromIdentityConfig, DynamicBackend),
}
"""Section and class, by the scheme of the URL or by how else the backend is given."""

AUTH_KINDS: Mapping[str, tuple[type[AuthSection], AuthClass]] = {
    "none": (NoAuthConfig, lambda config, services: None),
    "network": (NetworkConfig, NetworkAuth),
    "basic": (BasicConfig, BasicAuth),
    "bearer": (BearerConfig, BearerAuth),
    "ticket": (TicketConfig, TicketAuth),
    "certificate": (CertificateConfig, CertificateAuth),
    "jwt": (JwtConfig, JwtAuth),
    "forward": (ForwardConfig, ForwardAuth),
    "any_of": (AnyOfConfig, AnyOf),
    "all_of": (AllOfConfig, AllOf),
}
"""Section and class, by `auth.kind`."""

BACKENDS: Mapping[str, BackendClass] = {kind: runtime for kind, (_, runtime) in BACKEND_KINDS.items()}
AUTH: Mapping[str, AuthClass] = {kind: runtime for kind, (_, runtime) in AUTH_KINDS.items()}

CONFIG_REGISTRY = Registry(
    backends={kind: section for kind, (section, _) in BACKEND_KINDS.items()},
    auth={kind: section for kind, (section, _) in AUTH_KINDS.items()},
    missing_native_engine=native.required_but_missing,
)
"""The sections, for the loader, and what else it cannot know."""
