"""WebSocket backends on Unix sockets: `ws+unix:/socket:/resource`."""

import socket

import pytest
import trio

from tests.backends.upstream import SWITCH
from tests.rejections import async_outcome
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.backend_urls import read_backend_url
from wsbridge.config.urls import read_target
from wsbridge.net.resolver import Resolver
from wsbridge.protocol.handshake import accept_key
from wsbridge.reasons import Rejected


def backend(url):
    """A backend for a URL."""
    return WebSocketBackend(WebSocketBackendConfig(url=url), DialServices(Resolver()))


@pytest.mark.parametrize(("resource", "sent"), [(":/vnc?room=1:2", "/vnc?room=1:2"), ("", "/")])
async def test_upgrade(tmp_path, resource, sent):
    """The upgrade request goes to the socket, with the resource and `Host: localhost`."""
    path = tmp_path / "app.sock"
    heads = []

    async def serve():
        stream = trio.SocketStream((await listener.accept())[0])
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(65536)
        heads.append(head.decode())
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        await stream.send_all(SWITCH.replace(b"{accept}", accept_key(key).encode()) + b"\r\n\x82\x03abc")
        await stream.aclose()

    with trio.socket.socket(socket.AF_UNIX) as listener, trio.fail_after(10):
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            outcome = await async_outcome(backend(f"ws+unix:{path}{resource}").dial(DialRequest(())))
    assert isinstance(outcome, Connected)
    assert outcome.side.transport.read() == b"\x82\x03abc"
    outcome.side.transport.close()
    assert heads[0].startswith(f"GET {sent} HTTP/1.1\r\n")
    assert "\r\nHost: localhost\r\n" in heads[0]


async def test_missing_socket(tmp_path):
    """A socket that does not exist is named in the rejection."""
    outcome = await async_outcome(backend(f"ws+unix:{tmp_path}/none.sock:/").dial(DialRequest(())))
    assert isinstance(outcome, Rejected)
    assert f"{tmp_path}/none.sock" in outcome.detail


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws+unix:/run/{name}:/", "fields"),
        ("ws+unix:/run/a.sock:8080", "of the form"),
        ("ws+unix:relative.sock:/", "whole path"),
        ("ws+unix:/run/a.sock:/a#b", "never sent"),
    ],
)
def test_rejected_urls(url, words):
    """Fields, ports, relative paths and fragments are errors."""
    with pytest.raises(ValueError, match=words):
        read_backend_url(url)


def test_not_for_chosen_targets():
    """Targets from clients, tickets and token files cannot name one: allowed_targets does not check it."""
    with pytest.raises(ValueError, match="must be of the form"):
        read_target("ws+unix:/run/a.sock:/")
