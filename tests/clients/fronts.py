"""nginx, HAProxy and Caddy with their files of conf/, in front of a wsbridge with its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.authority import client_context, folder, threaded_client_context
from tests.client import CLOSE, frame, request
from tests.clients.program import PATIENCE, Program, free_port, program, run
from tests.clients.proxies import CLIENT, temporary
from tests.process.daemon import Daemon
from tests.process.plain import Socket

CONF = Path(__file__).parents[2] / "conf"
HOST = "gw.example.org"
FRONTS = ("nginx", "haproxy", "haproxy-unix", "caddy")
"""The proxies; `haproxy-unix` is HAProxy that connects to a Unix socket, as docs/deploy.md describes it."""
TEMPLATES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
OVER_UNIX = {
    "127.0.0.1:8080 send-proxy-v2": "unix@/run/wsbridge/gw.sock send-proxy-v2",
    "bind: 127.0.0.1:8080": "bind: unix:/run/wsbridge/gw.sock",
    "trusted_proxies: [127.0.0.1]": "trusted_proxies: [unix]",
}
"""What docs/deploy.md changes in haproxy.cfg and behind-haproxy.yaml for a Unix socket."""


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Replace parts of a text."""
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def placed(name: str, text: str, place: Path, port: int) -> str:
    """Put a proxy's file in place for a test: its port, its certificate, its sockets, its user.

    Args:
        name: The proxy.
        text: The file.
        place: Directory of the test, for sockets and the certificate.
        port: Where the proxy is to listen.
    """
    certificate, key = folder() / "cert.pem", folder() / "key.pem"
    pem = place / "gw.pem"
    pem.write_text(certificate.read_text() + key.read_text())
    changes = {
        "443 ssl": f"127.0.0.1:{port} ssl",
        "bind :127.0.0.1": "bind 127.0.0.1",
        "listen [::]:": "# listen [::]:",
        f"{HOST} {{": f"{HOST}:{port} {{",
        f"/etc/{name}/tls/chain.pem": str(certificate),
        f"/etc/{name}/tls/key.pem": str(key),
        "/etc/haproxy/tls/gw.pem": str(pem),
        "/run/haproxy/admin.sock": f"{place}/haproxy.sock",
        "maxconn 20000": "maxconn 200",
        "log /dev/log local0": "log stdout format raw local0",
        "    user haproxy\n    group haproxy\n": "",
    }
    return replaced(text, changes)


def open_socket(port: int) -> socket.socket:
    """Connect to a proxy from `CLIENT`."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(CLIENT, 0))


def upgraded(port: int) -> Socket:
    """Connect a WebSocket to a proxy from `CLIENT`, all in this thread.

    See `threaded_client_context` for why that matters.
    """
    client = Socket(client_context().wrap_socket(open_socket(port), server_hostname=HOST))
    client.send(request("/vnc", f"Origin: https://{HOST}:{port}", host=f"{HOST}:{port}"))
    head = client.head()
    assert head.startswith("HTTP/1.1 101"), head
    return client


def served(port: int) -> None:
    """Connect, be served by an echo and close."""
    with upgraded(port) as client:
        client.echoed()
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.closing()[0] == 1000


def open_websocket(port: int, path: str = "/vnc", origin: str = "", **headers: str) -> ClientConnection:
    """Connect a WebSocket to a proxy from `CLIENT`, by default with the Origin of a page of this proxy."""
    return connect(
        f"wss://{HOST}:{port}{path}",
        sock=open_socket(port),
        ssl=threaded_client_context(),
        proxy=None,
        origin=Origin(origin or f"https://{HOST}:{port}"),
        additional_headers=headers,
        max_size=None,
        open_timeout=PATIENCE,
    )


class Front:
    """A proxy in front of a wsbridge; use it as a context manager.

    Args:
        title: One of `FRONTS`.
        backend: URL of the route's backend.
        changes: Further changes of both files.
        more: Lines to add to the file of wsbridge.

    Attributes:
        title: As given.
        name: The program.
        port: Where the proxy listens, with TLS.
        folder: Directory of wsbridge, with its sockets.
        bridge: The process of wsbridge.
        proxy: The process of the proxy.
    """

    def __init__(self, title: str, backend: str, *, changes: Mapping[str, str] | None = None, more: str = "") -> None:
        self.title = title
        self.name, _, way = title.partition("-")
        self.port, self._inner = free_port(), free_port()
        self._changes = {**(OVER_UNIX if way else {}), **(changes or {})}
        self._backend, self._more = backend, more

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="wsbridge-front-")))
            self._bridges = stack.enter_context(ExitStack())
            self.start_bridge()
            self._file = self.folder / TEMPLATES[self.name]
            self._file.write_text(self._proxy_text())
            environ = {"XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)}
            self.proxy = stack.enter_context(Program(*self._command(), env=environ))
            self.proxy.accepts(self.port)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_bridge(self) -> None:
        """Start wsbridge; again after it has ended."""
        text = (CONF / f"behind-{self.name}.yaml").read_text() + self._more
        text += "\nadmin: {bind: unix:@FOLDER@/admin.sock}\n"
        text = replaced(text, {**self._changes, "tcp://10.0.0.5:5900": self._backend, **self._places("@FOLDER@")})
        self.bridge = self._bridges.enter_context(Daemon(text, folder=self.folder))

    def _places(self, run_folder: str) -> dict[str, str]:
        return {
            "/run/wsbridge": run_folder,
            "127.0.0.1:8080": f"127.0.0.1:{self._inner}",
        }

    def _proxy_text(self) -> str:
        text = replaced((CONF / TEMPLATES[self.name]).read_text(), {**self._changes, **self._places(str(self.folder))})
        text = placed(self.name, text, self.folder, self.port)
        match self.name:
            case "nginx":
                user = "user root;\n" if os.geteuid() == 0 else ""
                return (
                    f"daemon off;\npid {self.folder}/nginx.pid;\nworker_processes 2;\nerror_log stderr;\n{user}"
                    f"events {{}}\nhttp {{\naccess_log off;\n{temporary(self.folder)}{text}\n}}\n"
                )
            case "caddy":
                return f"{{\nadmin unix/{self.folder}/caddy.sock\nauto_https disable_redirects\n}}\n{text}"
        return text

    def _command(self) -> list[str]:
        match self.name:
            case "nginx":
                return [program("nginx"), "-e", "stderr", "-c", str(self._file), "-p", str(self.folder)]
            case "haproxy":
                return [program("haproxy"), "-W", "-db", "-f", str(self._file)]
        return [program("caddy"), "run", "--config", str(self._file), "--adapter", "caddyfile"]

    def reload(self) -> None:
        """Reload the proxy."""
        match self.name:
            case "nginx":
                self.proxy.process.send_signal(signal.SIGHUP)
            case "haproxy":
                self.proxy.process.send_signal(signal.SIGUSR2)
            case "caddy":
                address = f"unix/{self.folder}/caddy.sock"
                command = [program("caddy"), "reload", "--force", "--adapter", "caddyfile", "--address", address]
                run(*command, "--config", self._file)

    def socket(self) -> socket.socket:
        """Connect to the proxy from `CLIENT`."""
        return open_socket(self.port)

    def connect(self, path: str = "/vnc", origin: str = "", **headers: str) -> ClientConnection:
        """Connect a WebSocket from `CLIENT`, by default with the Origin of a page of this proxy."""
        return open_websocket(self.port, path, origin, **headers)

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        """Send a request without an upgrade; give the status and the body of the response."""
        with contextlib.closing(http.client.HTTPSConnection(HOST, self.port, timeout=PATIENCE)) as http_client:
            http_client.sock = client_context().wrap_socket(self.socket(), server_hostname=HOST)
            http_client.request("GET", path, headers=headers)
            response = http_client.getresponse()
            return response.status, response.read().decode()
