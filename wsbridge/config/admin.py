"""The admin API and the monitoring endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.secrets import Secret
from wsbridge.config.types import FileMode
from wsbridge.config.urls import Bind, BindAddress


def _passed_socket_issues(bind: BindAddress) -> Iterable[Issue]:
    if bind.kind == "fd":
        yield Issue(("bind",), f"{bind} is only for listeners: write unix:/path or host:port", "E013")


class AdminConfig(Section):
    """Admin API, which the commands status, reload, drain and undrain use."""

    bind: Bind
    """unix:/path, or a port of this host such as 127.0.0.1:9181, which needs a token."""
    mode: FileMode = 0o660
    """File mode of the socket, in octal; only for unix:/path. Anyone who can connect can do everything."""
    token: Secret | None = None
    """Token that clients send in the Authorization header, as {file: PATH}, {env: NAME} or {credential: NAME}. Default:
    none."""
    page: bool = False
    """Serve a read-only status page for browsers at /. It asks for the token, if there is one."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject a mode where there is no file, and require a token where other users can connect."""
        bind = raw.get("bind")
        if not isinstance(bind, str) or bind.startswith("unix:"):
            return
        if "mode" in raw:
            yield Issue(("mode",), "is only for bind: unix:/path", "E013", at_key=True)
        if "token" not in raw and raw.keys() <= cls.model_fields.keys():
            yield Issue(("token",), "is missing: every user of this host can connect to a port", "E011")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Reject addresses that other hosts reach."""
        yield from _passed_socket_issues(self.bind)
        if self.bind.kind != "fd" and not self.bind.is_loopback:
            text = "other hosts must not reach the admin API: write unix:/path or a loopback address"
            yield Issue(("bind",), text, "E013")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of a socket that every user of this host can use."""
        if self.bind.kind == "unix" and self.token is None and self.mode & 0o006:
            text = f"the mode {self.mode:04o} allows every user of this host to drain, reload and read the status"
            yield Issue(("mode",), text, "W010")


class MonitoringConfig(Section):
    """Monitoring endpoint: /livez, /readyz and /metrics without authentication, for load balancers and Prometheus."""

    bind: Bind
    """host:port or unix:/path."""
    mode: FileMode = 0o666
    """File mode of the socket, in octal; only for unix:/path."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject a mode where there is no file."""
        bind = raw.get("bind")
        if isinstance(bind, str) and not bind.startswith("unix:") and "mode" in raw:
            yield Issue(("mode",), "is only for bind: unix:/path", "E013", at_key=True)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Reject passed sockets."""
        yield from _passed_socket_issues(self.bind)

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn where other hosts reach it."""
        if not self.bind.is_loopback:
            text = "other hosts can reach this: it gives its state and metrics without authentication"
            yield Issue(("bind",), text, "W032")
