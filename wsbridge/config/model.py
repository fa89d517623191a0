"""The whole configuration file, and its sections `log` and `audit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wsbridge.config.admin import AdminConfig, MonitoringConfig
from wsbridge.config.base import Issue, LoadContext, Registry, Section
from wsbridge.config.errors import closest_match
from wsbridge.config.include import IncludePattern
from wsbridge.config.limits import ClientLimits, Limits, RouteLimits, RouteTimeouts, Timeouts
from wsbridge.config.listener import ListenerConfig, ListenerTlsConfig, TlsCertificateConfig
from wsbridge.config.paths import OutputPath
from wsbridge.config.route import DialConfig, MatchConfig, RouteConfig, RouteDefaults
from wsbridge.config.types import DurationOrOff, Name
from wsbridge.config.unions import ONE_OR_MANY_SCHEMA, as_tuple


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


REQUIRED_SECTIONS = ("listeners", "routes")


class LogConfig(Section):
    """Log level and format. The log goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""
    format: Literal["auto", "console", "json", "journal"] = "auto"
    """auto: console on a terminal, journal under systemd, else json (one object per line)."""
    loop_lag: DurationOrOff = 0.25
    """Lag of the event loop above which it is logged: loop.lag, or loop.stalled if the process did not run. off:
    never."""


class Config(Section):
    """Configuration file of wsbridge."""

    include: Annotated[tuple[IncludePattern, ...], BeforeValidator(as_tuple), ONE_OR_MANY_SCHEMA] = ()
    """Files with more listeners and routes, such as conf.d/*.yaml. Default: none."""

    engine: Literal["auto", "python", "native"] = "auto"
    """What relays bytes: auto is native, which is faster, where it is installed. A change needs a restart."""
    log: LogConfig = Field(default_factory=LogConfig)
    """Log level and format."""
    audit: AuditConfig | None = None
    """Audit log: who accessed what, and whose access was denied. Default: disabled."""
    admin: AdminConfig | None = None
    """Admin API: status, reload, drain. Default: under systemd unix:$RUNTIME_DIRECTORY/admin.sock, else disabled."""
    monitoring: MonitoringConfig | None = None
    """Monitoring endpoint, with /livez, /readyz and /metrics. Default: disabled."""
    listeners: dict[Name, ListenerConfig] = Field(default_factory=dict)
    """Addresses to accept connections on, by name. Required, here or in an included file."""
    defaults: RouteDefaults = Field(default_factory=RouteDefaults)
    """Settings of all routes that do not set them and to which they apply."""
    routes: dict[Name, RouteConfig] = Field(default_factory=dict)
    """Where requests go, by name. The first route in the file that matches a request handles it. Required, here or in
    an included file."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """Timeouts of the process, and defaults for all routes."""
    limits: Limits = Field(default_factory=Limits)
    """Resource limits."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require the two sections; they have a default so that the rest of a file without them is checked as well."""
        guesses = {closest_match(key, cls.model_fields) for key in raw if key not in cls.model_fields}
        for key in REQUIRED_SECTIONS:
            if key not in raw and key not in guesses:
                yield Issue((key,), "is missing", "E011")
            elif raw.get(key) == {}:
                yield Issue((key,), "needs at least one entry", "E012")
        limits = raw.get("limits")
        if raw.get("engine") == "python" and isinstance(limits, dict) and "engine_threads" in limits:
            yield Issue(("limits", "engine_threads"), "has no effect with engine: python", "E013", at_key=True)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Require an engine that is installed."""
        missing = context.registry.missing_native_engine() if self.engine == "native" and context.check_files else ""
        if missing:
            yield Issue(("engine",), missing, "E044")
