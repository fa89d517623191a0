"""An admin API on loopback that answers what a test gives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "engine": "python",
    "engine_threads": None,
    "pid": 4711,
    "started": "2026-01-31T10:00:00Z",
    "uptime_seconds": 7500,
    "ready": True,
    "state": "serving",
    "connections": 2,
    "connections_limit": 1000,
    "memory": {"memory_bytes": 64 << 20, "memory_limit_bytes": 512 << 20, "memory_limit": "cgroup", "pressure": False},
    "loop_lag_seconds": 0.001,
    "loop_lag_longest_seconds": 0.02,
    "generation": 2,
    "generations": [{"generation": 1, "connections": 1}, {"generation": 2, "connections": 1}],
    "routes": 1,
    "listeners": ["127.0.0.1:8080"],
    "log_level": "info",
    "last_reload": {"time": "2026-01-31T11:00:00Z", "generation": 2, "error": None, "problems": []},
}


def route(name: str = "office", **facts: Any) -> dict[str, Any]:
    """Make a route as `GET /v1/routes` has it."""
    row = {"route": name, "backend": "tcp://127.0.0.1:5900", "active": 2, "relayed": 5, "rejected": 1}
    return {**row, "bytes_to_backend": 0, "bytes_to_client": 0, **facts}


def connection(number: int, **facts: Any) -> dict[str, Any]:
    """Make a live connection as `GET /v1/connections` has it."""
    row = {
        "id": number,
        "peer": f"192.0.2.{number % 250}:{40000 + number}",
        "listener": "web",
        "route": "office",
        "backend": "tcp://127.0.0.1:5900",
        "backend_address": "127.0.0.1:5900",
        "path": f"/office/{number}",
        "user_agent": "test/1.0",
        "generation": 2,
        "duration_seconds": 100.0 + number,
        "state": "relaying",
        "bytes_to_backend": 0,
        "bytes_to_client": 0,
        "round_trip_seconds": 0.0123,
    }
    return {**row, **facts}


def ending(number: int, **facts: Any) -> dict[str, Any]:
    """Make an ending as `GET /v1/connections` has it."""
    row = {
        "time": "2026-01-31T12:34:56.000001Z",
        "id": number,
        "peer": "192.0.2.9:1",
        "route": "office",
        "event": "connection.closed",
        "reason": "backend_closed",
        "initiator": "backend",
        "duration_seconds": 12.5,
        "bytes_to_backend": 10,
        "bytes_to_client": 2048,
        "close_code": 1000,
    }
    return {**row, **facts}


class Stub:
    """The answers, which a test may change at any time.

    Attributes:
        status: Of `GET /v1/status`.
        routes: Of `GET /v1/routes`.
        listeners: Of `GET /v1/listeners`.
        connections: Live ones, of `GET /v1/connections`.
        ended: Endings, of the same.
        step: Bytes that each live connection, and its route, moves to the client from one answer to the next.
        token: What requests must have; empty for none.
        closed: Ids of connections that were closed.
    """

    def __init__(self) -> None:
        self.status = dict(STATUS)
        self.routes = [route()]
        self.listeners = [
            {"listener": "web", "listen_address": ["127.0.0.1:8080"], "protocol": "websocket", "connections": 2}
        ]
        self.connections = [connection(1), connection(2)]
        self.ended = [ending(7)]
        self.step = 0
        self.token = ""
        self.closed: list[int] = []
        self.requests: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def answer(self, method: str, path: str) -> tuple[int, object]:
        """Answer a request."""
        self.requests.append(f"{method} {path}")
        if method == "DELETE":
            number = int(path.rpartition("/")[2])
            found = [row for row in self.connections if row["id"] == number]
            self.connections = [row for row in self.connections if row["id"] != number]
            self.closed += [number] if found else []
            return (200, {"closed": 1}) if found else (404, "no such connection")
        if path == "/v1/connections":
            for row in (*self.connections, *self.routes):
                row["bytes_to_client"] += self.step
            live = {"time": "2026-01-31T12:35:00Z", "total": len(self.connections), "connections": self.connections}
            return 200, {**live, "ended": self.ended}
        found_answer = {"/v1/status": self.status, "/v1/routes": self.routes, "/v1/listeners": self.listeners}.get(path)
        return (404, "there are others") if found_answer is None else (200, found_answer)

    def start(self) -> None:
        """Listen, at the same port as before."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            server_version = "wsbridge/0.1.0"

            def do_GET(self) -> None:
                self.reply()

            def do_DELETE(self) -> None:
                self.reply()

            def reply(self) -> None:
                if stub.token and self.headers.get("Authorization") != f"Bearer {stub.token}":
                    status, found = 401, "a valid token is required"
                else:
                    status, found = stub.answer(self.command, self.path.partition("?")[0])
                body = (found if isinstance(found, str) else json.dumps(found)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to listen."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


@contextmanager
def stubbed() -> Iterator[Stub]:
    """Run a stub."""
    stub = Stub()
    stub.start()
    try:
        yield stub
    finally:
        stub.stop()
