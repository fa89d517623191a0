"""Config, Log, Audit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wsbridge.config.base import LoadContext, Registry, Section
from wsbridge.config.limits import ClientLimits, Limits, RouteLimits, RouteTimeouts, Timeouts
from wsbridge.config.listener import ListenerConfig, ListenerTlsConfig, TlsCertificateConfig
from wsbridge.config.route import DialConfig, MatchConfig, RouteConfig
from wsbridge.config.types import Name, OutputPath
from wsbridge.config.unions import non_empty


class AuditConfig(Section):
    """Audit log: access granted and denied, as JSON lines in a separate file."""

    file: OutputPath
    """Audit file. Created with mode 0600, appended to, and reopened after it was renamed or removed (logrotate)."""


__all__ = [
    "Config",
    "LogConfig",
    "AuditConfig",
    "ListenerConfig",
    "ListenerTlsConfig",
    "TlsCertificateConfig",
    "RouteConfig",
    "MatchConfig",
    "DialConfig",
    "RouteTimeouts",
    "Timeouts",
    "Limits",
    "ClientLimits",
    "RouteLimits",
    "Registry",
    "LoadContext",
    "Section",
]


class LogConfig(Section):
    """Log level and format. The log goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""
    format: Literal["auto", "console", "json", "journal"] = "auto"
    """auto: console on a terminal, journal under systemd, else json (one object per line)."""


class Config(Section):
    """Configuration file of wsbridge."""

    log: LogConfig = Field(default_factory=LogConfig)
    """Log level and format."""
    audit: AuditConfig | None = None
    """Audit log: who accessed what, and whose access was denied. Default: disabled."""
    listeners: Annotated[dict[Name, ListenerConfig], AfterValidator(non_empty)]
    """Addresses to accept connections on, by name."""
    routes: Annotated[dict[Name, RouteConfig], AfterValidator(non_empty)]
    """Where requests go, by name. The first route in the file that matches a request handles it."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """Timeouts of the process, and defaults for all routes."""
    limits: Limits = Field(default_factory=Limits)
    """Resource limits."""
    engine: Literal["auto", "python"] = "auto"
    """Relay engine. auto: the fastest available."""
