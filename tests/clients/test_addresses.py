"""Real addresses with real proxies: HAProxy and nginx in front of the bridge and behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.authority import listener_tls
from tests.clients.program import free_port
from tests.clients.proxies import ask, haproxy, nginx, report_head, temporary
from tests.clients.servers import serving
from tests.process.daemon import Daemon
from tests.serving import written

CONF = Path(__file__).parents[2] / "conf"
WAYS = {
    "send-proxy": "proxy-protocol",
    "send-proxy-v2": "proxy-protocol",
    "send-proxy-v2 proxy-v2-options crc32c,unique-id": "proxy-protocol",
    "": "x-forwarded-for",
}
"""The option of HAProxy's server line that sends the client address, and the listener's name of it."""


def bridge(backend: dict[str, Any], *, source: str = "proxy-protocol", tls: bool = False) -> Daemon:
    """A bridge that trusts this host's proxies."""
    listener: dict[str, Any] = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": source}
    if tls:
        listener["tls"] = listener_tls()
    return Daemon(written(listeners={"web": listener}, route={"backend": backend}))


def check_client(bridge: Daemon, address: str) -> None:
    """Look whether the one line of the connection has the client and the proxy."""
    line = bridge.wait("connection.closed")
    assert (line["peer"], line["via"]) == (address, ["127.0.0.1"])


@pytest.mark.parametrize(("way", "tls"), [*((way, False) for way in WAYS), *((way, True) for way in WAYS if way)])
def test_haproxy_in_front(tmp_path: Path, way: str, tls: bool) -> None:
    """By either version, by a header of the request, and by a PROXY header before TLS that HAProxy passes through."""
    port = free_port()
    with serving(report_head) as back:
        backend = {"url": f"tcp://127.0.0.1:{back}", "proxy_protocol": "v1"}
        with bridge(backend, source=WAYS[way], tls=tls) as daemon:
            text = (
                f"listen front\nmode {'tcp' if way else 'http'}\nbind 127.0.0.1:{port}\nunique-id-format %{{+X}}o%ci\n"
                f"{'' if way else 'option forwardfor'}\nserver bridge 127.0.0.1:{daemon.port()} {way}\n"
            )
            with haproxy(tmp_path, port, text):
                address, answer = ask(f"{'wss' if tls else 'ws'}://localhost:{port}/", port)
            if way:
                assert answer == address
                check_client(daemon, address)
            else:  # X-Forwarded-For has no port
                host = address.partition(":")[0]
                assert answer == f"{host}:0"
                check_client(daemon, f"{host}:0")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_behind(tmp_path: Path, version: str) -> None:
    """HAProxy that expects PROXY headers shows the client, and by version 2 the number of the connection."""
    behind, front = free_port(), free_port()
    shows = (
        f"frontend shows\nmode http\nbind 127.0.0.1:{behind} accept-proxy\n"
        'http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] id=%[fc_pp_unique_id]"\n'
    )
    with (
        haproxy(tmp_path, behind, shows),
        bridge({"url": f"tcp://127.0.0.1:{behind}", "proxy_protocol": version}) as it,
    ):
        sends = f"listen front\nmode tcp\nbind 127.0.0.1:{front}\nserver it 127.0.0.1:{it.port()} send-proxy-v2\n"
        with haproxy(tmp_path, front, sends):
            address, answer = ask(f"ws://localhost:{front}/", front)
        line = it.wait("connection.closed")
    assert line["peer"] == address
    assert answer == f"{address} id={line['id'] if version == 'v2' else ''}".strip()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_on_both_sides(tmp_path: Path, version: str) -> None:
    """Nginx sends a PROXY header from its stream block, and shows that of the bridge in its http block."""
    behind, front = free_port(), free_port()
    shows = (
        f"http {{\naccess_log off;\n{temporary(tmp_path)}server {{\nlisten 127.0.0.1:{behind} proxy_protocol;\n"
        'location / {\nreturn 200 "$proxy_protocol_addr:$proxy_protocol_port";\n}\n}\n}\n'
    )
    backend = {"url": f"tcp://127.0.0.1:{behind}", "proxy_protocol": version}
    with nginx(tmp_path, behind, shows), bridge(backend) as daemon:
        sends = (
            f"stream {{\nserver {{\nlisten 127.0.0.1:{front};\nproxy_pass 127.0.0.1:{daemon.port()};\n"
            "proxy_protocol on;\n}\n}\n"
        )
        with nginx(tmp_path, front, sends):
            address, answer = ask(f"ws://localhost:{front}/", front)
        assert answer == address
        check_client(daemon, address)
