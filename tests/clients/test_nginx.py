"""nginx in front: TLS ends there, and it passes the WebSocket on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.authority import client_context, folder
from tests.clients.program import PATIENCE, Program, free_port, program
from tests.clients.proxies import CLIENT
from tests.clients.servers import echo, serving
from tests.process.daemon import Daemon

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Daemon]:
    """The bridge, on the Unix socket of conf/behind-nginx.yaml, in front of an echo."""
    with (
        serving(echo) as port,
        Daemon(
            (CONF / "behind-nginx.yaml")
            .read_text()
            .replace("/run/wsbridge", str(tmp_path))
            .replace("gw.example.org", "localhost")
            .replace("tcp://10.0.0.5:5900", f"tcp://127.0.0.1:{port}"),
        ) as bridge,
    ):
        yield bridge


@pytest.fixture
def nginx(tmp_path: Path, bridge: Daemon) -> Iterator[int]:
    """An nginx of this test with conf/nginx.conf; gives its port."""
    port = free_port()
    server = (
        (CONF / "nginx.conf")
        .read_text()
        .replace("/run/wsbridge", str(tmp_path))
        .replace("443 ssl", f"127.0.0.1:{port} ssl")
        .replace("listen [::]:", "# listen [::]:")
        .replace("/etc/nginx/tls/chain.pem", str(folder() / "cert.pem"))
        .replace("/etc/nginx/tls/key.pem", str(folder() / "key.pem"))
        .replace("gw.example.org", "localhost")
    )
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"daemon off;\npid {tmp_path}/nginx.pid;\nworker_processes 1;\nerror_log stderr;\n{user}"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{server}\n}}\n"
    )
    with Program(program("nginx"), "-e", "stderr", "-c", config, "-p", tmp_path) as front:
        front.accepts(port)
        yield port


def test_through_nginx(nginx: int, bridge: Daemon) -> None:
    """A client behind nginx's TLS reaches the backend; the page's Origin is judged by the Host that nginx passes.

    The log has the client's address, not what the client claims it to be.
    """
    context = client_context()
    url = f"wss://localhost:{nginx}/vnc"
    blob = os.urandom(1_000_000)

    sock = socket.create_connection(("127.0.0.1", nginx), PATIENCE, source_address=(CLIENT, 0))
    with connect(
        url,
        sock=sock,
        ssl=context,
        proxy=None,
        origin=f"https://localhost:{nginx}",
        additional_headers={"X-Forwarded-For": "198.51.100.1"},
        max_size=None,
        open_timeout=PATIENCE,
    ) as client:
        client.send(blob)
        got = bytearray()
        while len(got) < len(blob):
            message = client.recv(timeout=PATIENCE)
            assert isinstance(message, bytes)
            got += message
        assert bytes(got) == blob
    line = bridge.wait("connection.closed")
    assert line["reason"] == "client_closed"
    assert (line["peer"], line["via"]) == (f"{CLIENT}:0", ["unix"])

    with (
        pytest.raises(InvalidStatus) as refused,
        connect(url, ssl=context, proxy=None, origin="https://elsewhere.example", open_timeout=PATIENCE),
    ):
        pass
    assert refused.value.response.status_code == 403
    assert bridge.wait("connection.rejected")["reason"] == "origin_not_allowed"
