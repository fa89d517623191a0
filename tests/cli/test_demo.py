"""`demo` as a process; the page itself is tried in a browser by `tests.demo`."""

from __future__ import annotations

import signal
import socket
import urllib.error
import urllib.request

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.cli.program import finished, invoke, started
from tests.clients.program import PATIENCE
from wsbridge.cli.demo import page_url


def test_page_service_and_end() -> None:
    """The printed address serves the page; the page's WebSocket reaches the service; Ctrl-C ends the demo with 0."""
    with started("demo", "--port", "0") as demo:
        url = demo.line(r"The demo is at +(http://\S+)")[1]
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert b"wsbridge" in answer.read()
        origin = Origin(url.rstrip("/"))
        with connect(url.replace("http", "ws") + "ws", origin=origin, subprotocols=[Subprotocol("binary")]) as client:
            assert client.recv().startswith(b"wsbridge demo service")
            demo.process.send_signal(signal.SIGINT)
            assert demo.process.wait(30) == 0
            assert list(client) == []
            assert (client.close_code, client.close_reason) == (1001, "shutdown")
        demo.line(r"connection\.closed .*reason=shutdown .*route=terminal")
    assert "Traceback" not in "\n".join(demo.lines)


def test_a_host_name() -> None:
    """A page that is reached by a name (a port forward) is served if --host-name has it, and no other."""
    with started("demo", "--port", "0", "--host-name", "foo-8080.app.example", "--engine", "python") as demo:
        demo.line(r"daemon\.ready .*engine=python")
        url = demo.line(r"The demo is at +(http://\S+)")[1]
        for host, status in (("foo-8080.app.example", 200), ("evil.example", 403)):
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(url, headers={"Host": host}), timeout=PATIENCE
                ) as page:
                    found = page.status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status


def test_a_busy_port() -> None:
    """A port in use is one sentence that names --port, and exit code 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = finished("demo", "--port", str(port))

    assert done.returncode == 69
    assert done.stderr.count(b"\n") == 1
    assert f"127.0.0.1:{port}: address already in use; select another one with --port".encode() in done.stderr


def test_a_host_that_is_none() -> None:
    """A host of the wrong form is a usage error."""
    result = invoke("demo", "--host", "a b")

    assert result.exit_code == 64
    assert "--host: " in result.output


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("0.0.0.0:80", "http://127.0.0.1:80/"),
        ("[::]:80", "http://[::1]:80/"),
    ],
)
def test_the_page_is_reported_by_an_address_to_click(address: str, url: str) -> None:
    """For a listener on all addresses an address is printed that a browser on this host can open."""
    assert page_url(address) == url
