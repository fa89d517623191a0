"""The resources of the admin API and of the monitoring endpoint. Keys in JSON are those of the log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from wsbridge import __version__
from wsbridge.admin.bans import BANS_PATH, BansApi
from wsbridge.admin.connections import CONNECTIONS_PATH, ConnectionsApi
from wsbridge.admin.http import AdminHandler, AdminRequest, AdminResponse, error_response
from wsbridge.admin.metrics import Metrics
from wsbridge.admin.routes import RoutesApi
from wsbridge.config.effective import to_json
from wsbridge.log.logger import LOG_LEVELS, log
from wsbridge.reload import SHORT_TURNS, Reloader, ReloadResult
from wsbridge.server import NotServingError, Server
from wsbridge.worker_thread import run_in_thread

TAKEOVER_PATH = "/v1/takeover"
"""It needs no token but the right user ID; see `takeover`."""


def json_response(value: object, status: int = HTTPStatus.OK) -> AdminResponse:
    """Make a response of JSON."""
    return AdminResponse(status, json.dumps(value, indent=2) + "\n", "application/json")


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class MonitoringApi:
    """What anyone may ask: /livez, whether the event loop runs; /readyz, whether clients should be sent here; /metrics.

    Args:
        server: What serves.
        metrics: Its metrics; None: they are not served.
    """

    def __init__(self, server: Server, metrics: Metrics | None = None) -> None:
        self._server = server
        self._metrics = metrics
        self.paths = ("/livez", "/readyz", *(() if metrics is None else ("/metrics",)))

    async def handle(self, request: AdminRequest) -> AdminResponse:
        """Answer a request."""
        if request.path not in self.paths:
            return error_response(HTTPStatus.NOT_FOUND, f"there are {', '.join(self.paths)}")
        if request.method not in ("GET", "HEAD"):
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))
        if request.path == "/metrics" and self._metrics is not None:
            pieces, media_type = await self._metrics.page(request.headers.get("accept", ""))
            return AdminResponse(HTTPStatus.OK, pieces, media_type)
        state = "ok" if request.path == "/livez" else self.readiness()
        return AdminResponse(HTTPStatus.OK if state == "ok" else HTTPStatus.SERVICE_UNAVAILABLE, state + "\n")

    def readiness(self) -> str:
        """Say `ok`, or why no clients should be sent here."""
        server = self._server
        if server.has_successor:
            return "ok"
        if server.is_draining:
            return "draining"
        if not server.listeners:
            return "starting"
        if server.is_ready:
            return "ok"
        return "memory is short" if server.acceptor.memory_pressure else "connection limit reached"


class AdminApi:
    """What an operator may ask and do.

    Args:
        server: What serves.
        reloader: Reloads its configuration.
        reload: Runs a reload, with what the service manager has to know.
        handover: Hands the sockets to another process; None: it is not offered.
        metrics: Of the server; None: they are not served.
    """

    def __init__(
        self,
        server: Server,
        reloader: Reloader,
        reload: Callable[[], Awaitable[ReloadResult]],
        handover: AdminHandler | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._server = server
        self._reloader = reloader
        self._reload = reload
        self._monitoring = MonitoringApi(server, metrics)
        self._started = time.time()
        connections, bans = ConnectionsApi(server), BansApi(server.services.client_table)
        self._resources: Mapping[str, Mapping[str, AdminHandler]] = {
            "/v1/status": {"GET": self._get_status},
            "/v1/listeners": {"GET": self._get_listeners},
            "/v1/routes": {"GET": RoutesApi(server).get},
            CONNECTIONS_PATH: {"GET": connections.get, "DELETE": connections.delete},
            BANS_PATH: {"GET": bans.get},
            "/v1/config": {"GET": self._get_config},
            "/v1/reload": {"POST": self._post_reload},
            "/v1/drain": {"POST": self._post_drain},
            "/v1/undrain": {"POST": self._post_undrain},
            "/v1/log-level": {"POST": self._post_log_level},
            **({} if handover is None else {TAKEOVER_PATH: {"POST": handover}}),
        }
        self._items: Mapping[str, Mapping[str, AdminHandler]] = {  # by the beginning of the path
            f"{CONNECTIONS_PATH}/": {"DELETE": connections.delete_one},
            f"{BANS_PATH}/": {"DELETE": bans.delete},
        }

    async def handle(self, request: AdminRequest) -> AdminResponse:
        """Answer a request that is allowed; what changes something is logged, and written to the audit log."""
        methods = self._resources.get(request.path) or self._item_methods(request.path)
        if methods is None:
            known = request.path in self._monitoring.paths
            return await self._monitoring.handle(request) if known else self._unknown()
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = ", ".join(methods)
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed}", ("Allow", allowed))
        response = await methods[method](request)
        if method != "GET":
            target = f"{request.path}?{request.query}" if request.query else request.path
            fields = {"method": method, "path": target, "status": int(response.status), **request.peer}
            log.info("admin.request", **fields)
            if self._server.services.audit_log is not None:
                self._server.services.audit_log.emit("admin.request", fields)
        return response

    def _item_methods(self, path: str) -> Mapping[str, AdminHandler] | None:
        found = (methods for start, methods in self._items.items() if path.startswith(start) and path != start)
        return next(found, None)

    def _unknown(self) -> AdminResponse:
        items = (f"{path}…" for path in self._items)
        names = ", ".join((*self._monitoring.paths, *self._resources, *items))
        return error_response(HTTPStatus.NOT_FOUND, f"there are {names}")

    async def _get_status(self, request: AdminRequest) -> AdminResponse:
        return json_response(self.status())

    def status(self) -> dict[str, Any]:
        """Describe the process, the configuration that serves, and the last reload."""
        server, last = self._server, self._reloader.last
        return {
            "version": __version__,
            "engine": server.services.engine.name,
            "engine_threads": server.services.engine_choice.threads or None,
            "pid": os.getpid(),
            "started": _timestamp(self._started),
            "uptime_seconds": int(time.time() - self._started),
            "ready": server.is_ready,
            "state": self._state(),
            "connections": len(server.connections),
            "connections_limit": server.acceptor.admission_limit,
            "sessions": len(server.services.sessions.sessions),
            "sessions_detached": len(server.services.sessions.detached),
            "memory": self._memory(),
            "loop_lag_seconds": round(server.loop_lag.recent, 3),
            "loop_lag_longest_seconds": round(server.loop_lag.longest, 3),
            "generation": server.generation.number,
            "generations": [
                {"generation": one.number, "connections": one.lifetime.connections} for one in server.generations
            ],
            "routes": len(server.generation.routes),
            "listeners": [address for opened in server.listeners for address in opened.listening.addresses],
            "log_level": log.level,
            "last_reload": None if last is None else self._describe_reload(last),
        }

    def _memory(self) -> dict[str, object] | None:
        """Describe the memory limit that is nearest; None without one."""
        usage = self._server.acceptor.memory
        if usage is None:
            return None
        return {
            "memory_bytes": usage.used,
            "memory_limit_bytes": usage.limit,
            "memory_limit": usage.source,
            "pressure": self._server.acceptor.memory_pressure,
        }

    def _state(self) -> str:
        if self._server.services.stop_requested.is_set():
            return "shutting down"
        return "draining" if self._server.is_draining else "serving"

    def _describe_reload(self, result: ReloadResult) -> dict[str, object]:
        return {
            "time": _timestamp(result.time),
            "generation": result.generation,
            "error": result.error,
            "problems": [problem.json() for problem in result.problems],
        }

    async def _get_listeners(self, request: AdminRequest) -> AdminResponse:
        return json_response(
            [
                {
                    "listener": opened.listener.name,
                    "listen_address": opened.listening.addresses,
                    "protocol": opened.listener.protocol,
                    "tls": opened.listener.tls is not None,
                    "certificates": [] if opened.listener.tls is None else opened.listener.tls.certificates(),
                    "connections": opened.connections,
                    "connections_limit": None if opened.max_connections == math.inf else opened.max_connections,
                }
                for opened in self._server.listeners
            ]
        )

    async def _get_config(self, request: AdminRequest) -> AdminResponse:
        loaded = self._reloader.loaded
        with SHORT_TURNS:
            return await run_in_thread(
                lambda: json_response(to_json(loaded.config, loaded.references)), abandon_on_cancel=False
            )

    async def _post_reload(self, request: AdminRequest) -> AdminResponse:
        result = await self._reload()
        status = HTTPStatus.OK if result.error is None else HTTPStatus.UNPROCESSABLE_ENTITY
        return json_response(self._describe_reload(result), status)

    async def _post_drain(self, request: AdminRequest) -> AdminResponse:
        return self._change(self._server.drain)

    async def _post_undrain(self, request: AdminRequest) -> AdminResponse:
        return self._change(self._server.undrain)

    def _change(self, change: Callable[[], None]) -> AdminResponse:
        try:
            change()
        except NotServingError as error:
            return error_response(HTTPStatus.CONFLICT, str(error))
        return json_response({"state": self._state(), "ready": self._server.is_ready})

    async def _post_log_level(self, request: AdminRequest) -> AdminResponse:
        try:
            level = json.loads(request.body)["level"]
        except (ValueError, TypeError, KeyError):
            level = None
        if level not in LOG_LEVELS:
            text = f'the body must be {{"level": LEVEL}}, where LEVEL is one of {", ".join(LOG_LEVELS)}'
            return error_response(HTTPStatus.BAD_REQUEST, text)
        log.set_level(level)
        return json_response({"level": level})
