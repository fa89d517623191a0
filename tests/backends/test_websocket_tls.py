"""WebSocket backends through TLS and proxies, their settings, and an independent server."""

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest
import trio
import websockets.sync.server

from tests.backends.test_websocket import OFFER, backend
from tests.backends.upstream import SWITCH, says, upstream
from tests.rejections import async_outcome
from tests.tls_contexts import server_context
from tests.tls_providers import providers
from wsbridge.backends.base import Connected, DialRequest
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.config.base import LoadContext, Registry
from wsbridge.config.secrets import Secret
from wsbridge.protocol.handshake import encode_upgrade_request
from wsbridge.reasons import Reason, Termination


@pytest.fixture
def secure(issue):
    """Context of a TLS server for gw.example.org."""
    return server_context([issue("gw.example.org")])


async def test_tls(secure, ca_file):
    """Verified against the CA file, the name by server_name."""
    async with upstream(says(SWITCH + b"\r\n\x82\x02hi"), secure) as server:
        made = backend(server.port, scheme="wss", ca=ca_file, server_name="gw.example.org")
        outcome = await async_outcome(made.dial(OFFER))
        assert isinstance(outcome, Connected), outcome
        assert await outcome.side.transport.read_some() == b"\x82\x02hi"
        outcome.side.transport.close()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"server_name": "gw.example.org"}, "certificate verify failed"),
        ({"ca": True}, "IP address mismatch"),
        ({"ca": True, "server_name": "other.example.org"}, "Hostname mismatch"),
    ],
)
async def test_tls_verification(secure, ca_file, keys, words):
    """What does not verify is backend_tls, in OpenSSL's words."""
    keys = {key: ca_file if key == "ca" else value for key, value in keys.items()}
    async with upstream(says(SWITCH + b"\r\n"), secure) as server:
        outcome = await async_outcome(backend(server.port, scheme="wss", **keys).dial(OFFER))
        await server.closed.wait()

    assert outcome.reason is Reason.BACKEND_TLS
    assert words in outcome.detail


async def test_insecure_tls(secure):
    """Only where it is written."""
    async with upstream(says(SWITCH + b"\r\n"), secure) as server:
        outcome = await async_outcome(backend(server.port, scheme="wss", insecure=True).dial(OFFER))
        assert isinstance(outcome, Connected)
        outcome.side.transport.close()


async def test_the_certificate_of_a_wss_server_is_pinned(secure):
    """Another certificate is backend_tls, although `pin_sha256` without `ca` needs no authority."""
    async with upstream(says(SWITCH + b"\r\n"), secure) as server:
        wrong = await async_outcome(backend(server.port, scheme="wss", pin_sha256="a" * 64).dial(OFFER))
        assert wrong.reason is Reason.BACKEND_TLS
        fingerprint = wrong.detail.partition("SHA-256 fingerprint ")[2].partition(",")[0]
        outcome = await async_outcome(backend(server.port, scheme="wss", pin_sha256=fingerprint).dial(OFFER))
        assert isinstance(outcome, Connected), outcome
        outcome.side.transport.close()


async def test_wss_to_a_plain_server():
    """The message says that the peer speaks no TLS."""
    async with trio.open_nursery() as nursery:

        async def serve(stream):
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        outcome = await async_outcome(backend(listener.socket.getsockname()[1], scheme="wss").dial(OFFER))
        nursery.cancel_scope.cancel()

    assert outcome.reason is Reason.BACKEND_TLS
    assert "does not speak TLS" in outcome.detail


async def test_a_server_that_wants_a_client_certificate(issue, ca_file):
    """With one it works; without one it is backend_tls, though TLS 1.3 says so only after the handshake."""
    context = server_context([issue("gw.example.org")])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(ca_file))
    cert, key = issue("client.example.org")
    keys = {"scheme": "wss", "ca": ca_file, "server_name": "gw.example.org"}
    async with upstream(says(SWITCH + b"\r\n"), context) as server:
        own = {"cert": str(cert), "key": str(key)}
        with_one = await async_outcome(backend(server.port, client_certificate=own, **keys).dial(OFFER))
        assert isinstance(with_one, Connected)
        with_one.side.transport.close()

    def refuse(server):
        accepted, _ = server.accept()
        with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as tls:
            with contextlib.suppress(ssl.SSLError):
                tls.do_handshake()
            while socket.socket.recv(tls, 65536):  # a close with input unread is a reset, and that overtakes the alert
                pass

    with socket.create_server(("127.0.0.1", 0)) as server, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse, server)
            without = await async_outcome(backend(server.getsockname()[1], **keys).dial(OFFER))

    assert without.reason is Reason.BACKEND_TLS
    assert without.detail.endswith(
        ": the server does not accept our client certificate, or got none (tlsv13 alert certificate required): "
        "see client_certificate"
    )


@pytest.mark.parametrize("provider", providers())
async def test_a_rejected_client_certificate_is_known_where_the_request_cannot_be_sent(
    issue, ca_file, monkeypatch, provider
):
    """The alert came before the reset at which the write fails."""
    context = server_context([issue("gw.example.org")])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(ca_file))
    closed = threading.Event()

    def refuse(server):
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(accepted, server_side=True):
            pass
        closed.set()

    def encode(*arguments):
        closed.wait(5)
        return encode_upgrade_request(*arguments)

    monkeypatch.setattr("wsbridge.backends.websocket.encode_upgrade_request", encode)
    keys = {"scheme": "wss", "ca": ca_file, "server_name": "gw.example.org", "provider": provider}
    with socket.create_server(("127.0.0.1", 0)) as server, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse, server)
            outcome = await async_outcome(backend(server.getsockname()[1], **keys).dial(OFFER))

    assert outcome.reason is Reason.BACKEND_TLS
    assert "tlsv13 alert certificate required" in outcome.detail


@pytest.fixture
def context():
    """What a file is read with."""
    return LoadContext(Path.cwd(), {}, Registry())


@pytest.mark.parametrize(
    ("url", "value", "warned"),
    [
        ("ws://gw/", Secret("hunter2"), True),
        ("ws://127.0.0.1/", Secret("hunter2"), False),
        ("wss://gw/", Secret("hunter2"), False),
        ("ws://gw/", "blue", False),
    ],
)
def test_secrets_without_tls_are_warned_of(context, url, value, warned):
    """Unless they stay on this host."""
    section = WebSocketBackendConfig(url=url, headers={"X-Key": value})
    assert [(fault.key_path, fault.code) for fault in section.warnings(context)] == (
        [(("headers", "X-Key"), "W004")] if warned else []
    )


def test_secrets_that_cannot_be_sent(context):
    """Header values that cannot be sent are reported when the file is read, without the secret."""
    section = WebSocketBackendConfig(url="wss://gw/", headers={"X-Key": Secret("two\nlines")})
    (fault,) = section.validate_values(context)
    assert fault.key_path == ("headers", "X-Key")
    assert "lines" not in fault.message.partition("one line")[0]


def test_keys_of_tls_belong_to_wss():
    """A plain URL with a CA file is a mistake."""
    with pytest.raises(ValueError, match="insecure: means nothing without TLS"):
        WebSocketBackendConfig(url="ws://gw/", insecure="true")


@contextlib.asynccontextmanager
async def proxy(status=b"200 OK", extra=b""):
    """An HTTP proxy that tunnels to whatever it is asked for; gives its port and the heads it saw."""
    seen = []

    async def pump(source, sink):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()

    async def serve(stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(65536)
        seen.append(head.decode())
        await stream.send_all(b"HTTP/1.1 " + status + b"\r\n\r\n" + extra)
        if not status.startswith(b"200"):
            return
        port = head.split()[1].decode().rpartition(":")[2]
        async with await trio.open_tcp_stream("127.0.0.1", int(port)) as there, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, there)
            nursery.start_soon(pump, there, stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1], seen
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_through_a_proxy(secure, ca_file, scheme):
    """The proxy gets CONNECT with its password, the backend the upgrade and never the password."""
    context = secure if scheme == "wss" else None
    async with upstream(says(SWITCH + b"\r\n\x82\x02hi"), context) as server, proxy() as (port, seen):
        made = backend(
            server.port,
            scheme=scheme,
            host="gw.example.org",
            **({"ca": ca_file} if scheme == "wss" else {}),
            proxy=f"http://user:hunter2@127.0.0.1:{port}",
            headers={"X-Mine": "upstream alone"},
        )
        outcome = await async_outcome(made.dial(OFFER))
        assert isinstance(outcome, Connected), outcome
        assert await outcome.side.transport.read_some() == b"\x82\x02hi"
        outcome.side.transport.close()

    assert seen[0].startswith(f"CONNECT gw.example.org:{server.port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in seen[0]
    assert "X-Mine" not in seen[0]
    assert "Proxy-Authorization" not in server.requests[0]
    assert "hunter2" not in outcome.address


async def test_a_proxy_that_refuses():
    """Its status is reported, its password is not."""
    async with proxy(b"407 Proxy Authentication Required") as (port, _):
        outcome = await async_outcome(backend(1, proxy=f"http://user:hunter2@127.0.0.1:{port}").dial(OFFER))

    assert outcome.reason is Reason.BACKEND_REJECTED
    assert "407" in outcome.detail
    assert "hunter2" not in outcome.detail
    assert outcome.permanent


async def test_a_proxy_that_is_down():
    """Refused; the sentence says that it is the proxy that is down, not the backend, and hides its password."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        outcome = await async_outcome(backend(1, proxy=f"http://me:hunter2@127.0.0.1:{port}").dial(OFFER))
    said = f"the proxy http://***@127.0.0.1:{port}: 127.0.0.1:{port}: Connection refused"
    assert outcome.termination() == Termination(Reason.BACKEND_REFUSED, "backend", said)


async def test_the_websockets_library_as_upstream():
    """An independent server accepts our handshake and chooses a subprotocol."""
    seen = []

    def handler(connection):
        seen.append((connection.request.path, connection.subprotocol))
        connection.send(b"banner")

    with websockets.sync.server.serve(handler, "127.0.0.1", 0, subprotocols=["mqtt"]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        try:
            with trio.fail_after(10):
                outcome = await backend(port, "/x?y=1").dial(DialRequest(("binary", "mqtt")))
                assert isinstance(outcome, Connected), outcome
                assert (await outcome.side.transport.read_some()).startswith(b"\x82\x06banner")
                outcome.side.transport.close()
        finally:
            server.shutdown()
            await trio.to_thread.run_sync(thread.join)

    assert outcome.subprotocol == "mqtt"
    assert seen == [("/x?y=1", "mqtt")]
