"""What docs/troubleshooting.md quotes from the log is what wsbridge writes: each row is produced."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import trio

from tests.authority import folder, listener_tls, server_context
from tests.client import Client, request
from tests.probe.probing import unanswered
from tests.serving import Served, backend, serving, written

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
SECTION = "## What the log says"


def rows() -> list[tuple[str, str, re.Pattern[str]]]:
    """Give of each row what the client sees, the reason, and what the detail must be like; … is any text."""
    text = PAGE.read_text().partition(SECTION)[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]*) \| `(\w+)` \| `([^`]+)` \| .+ \|$", text, re.MULTILINE)
    return [
        (sees, reason, re.compile(".*".join(map(re.escape, quoted.split("…"))), re.DOTALL))
        for sees, reason, quoted in found
    ]


async def web(stream: trio.SocketStream) -> None:
    """Answer as a web server without WebSocket."""
    await stream.receive_some(65536)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def secured(stream: trio.SocketStream) -> None:
    """Complete a TLS handshake."""
    tls = trio.SSLStream(stream, server_context(), server_side=True)
    await tls.do_handshake()


async def ask(served: Served, data: bytes) -> None:
    """Send a request and read the answer."""
    with await served.connect() as client:
        await client.send(data)
        await client.everything()


def distrust(port: int) -> None:
    """Connect by TLS as a client that does not know the authority of the certificate."""
    context = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", port)) as sock, contextlib.suppress(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="localhost")


async def test_every_row_is_produced(tmp_path: Path) -> None:
    """Each situation of the table is brought about; its record has the reason and the words, its answer the status."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice sha256:{'0' * 64}\n")
    tokens.chmod(0o600)
    with unanswered() as dropped:
        async with backend() as back, backend(web) as site, backend(secured) as tls:
            ca = str(folder() / "ca.pem")
            backends: dict[str, Any] = {
                "down": "tcp://127.0.0.1:1",
                "firewall": f"tcp://127.0.0.1:{dropped}",
                "missing": f"unix:{tmp_path}/missing.sock",
                "plain": f"tls://127.0.0.1:{site.port}",
                "own-ca": f"tls://localhost:{tls.port}",
                "name": {"url": f"tls://127.0.0.1:{tls.port}", "ca": ca, "server_name": "other.example.org"},
                "site": f"ws://127.0.0.1:{site.port}/",
                "echo": back.url,
                "token": back.url,
            }
            routes: dict[str, Any] = {
                name: {"match": {"path": f"/{name}"}, "backend": url, "auth": "none", "subprotocols": ["binary"]}
                for name, url in backends.items()
            }
            routes["token"]["auth"] = {"kind": "bearer", "tokens": str(tokens)}
            listeners = {"web": {"bind": "127.0.0.1:0"}, "secure": {"bind": "127.0.0.1:0", "tls": listener_tls()}}
            routes["firewall"]["timeouts"] = {"connect": "200ms"}
            text = written(listeners=listeners, routes=routes)
            async with serving(text, folder=tmp_path) as served:
                for name in backends:
                    if name != "echo":
                        await ask(served, request(f"/{name}"))
                await ask(served, request("/token", "Authorization: Bearer nobody"))
                await ask(served, request("/token", "Authorization: Basic YWxpY2U6cHc="))
                await ask(served, request("/echo", "Origin: https://evil.example"))
                await ask(served, request("/echo", "Sec-WebSocket-Protocol: mqtt"))
                await ask(served, request("/echo", host="evil.example"))
                await ask(served, request("/echo/"))
                await ask(served, request("/echo").replace(b"Upgrade: websocket\r\n", b""))
                await ask(served, b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await ask(served, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
                with await Client.connect(served.port("secure")) as client:
                    await client.send(request("/echo"))
                    await client.everything()
                await trio.to_thread.run_sync(distrust, served.port("secure"))
                await served.records.ended(19)
                records = served.records.of("connection.rejected")
    left = rows()
    assert len(left) == len(records)
    for record in records:
        fitting = [row for row in left if row[1] == record["reason"] and row[2].fullmatch(record["detail"])]
        assert fitting, record
        sees = fitting[0][0]
        assert not sees[:3].isdigit() or int(sees[:3]) == record["status"], record
        left.remove(fitting[0])
