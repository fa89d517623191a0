"""WebSocket backends: the request, every wrong answer, secrets, TLS, proxies, an independent server."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trio
import websockets.sync.server

from tests.backends.upstream import SWITCH, says, upstream, wait_for_end
from wsbridge.backends import Dialled, Offer, Services
from wsbridge.backends import websocket as module
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.scalars import Secret
from wsbridge.config.section import Context, Kinds
from wsbridge.net.resolve import Resolver
from wsbridge.net.tls import server_context
from wsbridge.reasons import End, Reason

OFFER = Offer(("binary",))


def backend(port, path="/", scheme="ws", host="127.0.0.1", **keys):
    """A backend for a port of this machine."""
    config = WebSocketBackendConfig(url=f"{scheme}://{host}:{port}{path}", **keys)
    return WebSocketBackend(config, Services(Resolver()))


async def dial(serve, offer=OFFER, **keys):
    """One dial against a scripted server; gives the outcome, what it left in the wire, and the request."""
    async with upstream(serve) as server:
        outcome = await backend(server.port, **keys).dial(offer)
        rest = b""
        if isinstance(outcome, Dialled):
            rest = outcome.endpoint.wire.read()
            outcome.endpoint.wire.close()
        await server.closed.wait()
        return outcome, rest, server.requests[0]


def lines(request):
    """Header lines of a request, as a dict."""
    return dict(line.split(": ", 1) for line in request.split("\r\n")[1:] if line)


async def test_upgrade():
    """A proper answer gives a WebSocket endpoint in the role of the client."""
    outcome, rest, request = await dial(says(SWITCH + b"Sec-WebSocket-Protocol: binary\r\n\r\n"), path="/vnc?room=1")

    assert isinstance(outcome, Dialled)
    assert outcome.subprotocol == "binary"
    assert outcome.endpoint.is_websocket
    assert outcome.endpoint.framing.control(9, b"")[1] & 0x80, "clients mask"
    assert rest == b""
    assert request.startswith("GET /vnc?room=1 HTTP/1.1\r\n")
    assert lines(request)["Sec-WebSocket-Protocol"] == "binary"
    assert lines(request)["Host"].startswith("127.0.0.1:")


async def test_frames_glued_to_the_101_are_kept():
    """A server that speaks first loses nothing."""
    _, rest, _ = await dial(says(SWITCH + b"\r\n\x82\x03abc"))
    assert rest == b"\x82\x03abc"


async def test_no_subprotocol_chosen_is_fine():
    """Whatever was offered."""
    outcome, _, _ = await dial(says(SWITCH + b"\r\n"))
    assert outcome.subprotocol is None


@pytest.mark.parametrize(
    ("offer", "own", "expected"),
    [
        (Offer(("binary", "mqtt")), None, "binary, mqtt"),
        (Offer(("binary",)), ["mqtt"], "mqtt"),
        (Offer(("binary",)), [], None),
        (Offer(("binary",), from_client=True), ["mqtt"], "binary"),
        (Offer((), from_client=True), ["mqtt"], None),
    ],
)
async def test_what_is_offered(offer, own, expected):
    """On raw fronts the backend's own list or the route's; a WebSocket client's offer as it is."""
    _, _, request = await dial(says(SWITCH + b"\r\n"), offer, subprotocols=own)
    assert lines(request).get("Sec-WebSocket-Protocol") == expected


async def test_headers_origin_and_host():
    """Extra headers with revealed secrets, the Origin, and the Host by server_name."""
    _, _, request = await dial(
        says(SWITCH + b"\r\n"),
        headers={"X-Team": "blue", "Authorization": Secret("Bearer hunter2")},
        origin="https://gw.example.org",
        server_name="gw.example.org",
    )
    found = lines(request)
    assert (found["X-Team"], found["Authorization"]) == ("blue", "Bearer hunter2")
    assert found["Origin"] == "https://gw.example.org"
    assert found["Host"].startswith("gw.example.org:")


@pytest.mark.parametrize(
    ("url", "server_name", "host"),
    [
        ("ws://gw/", None, "gw"),
        ("wss://gw/", None, "gw"),
        ("wss://gw:8443/", None, "gw:8443"),
        ("ws://[2001:db8::1]:81/", None, "[2001:db8::1]:81"),
        ("wss://[2001:db8::1]/", "gw", "gw"),
        ("wss://[2001:db8::1]:8443/", "gw", "gw:8443"),
        ("wss://10.0.0.5:8443/", "gw", "gw:8443"),
    ],
)
def test_host_header(url, server_name, host):
    """The default port is left out, brackets stay; server_name takes the place of the host."""
    made = WebSocketBackend(WebSocketBackendConfig(url=url, server_name=server_name), Services(Resolver()))
    assert made._host_header == host


BODY = b"Content-Length: 11\r\n\r\nnot allowed"


@pytest.mark.parametrize(
    ("answer", "words", "final"),
    [
        (b"HTTP/1.1 200 OK\r\n" + BODY, ["200", "not allowed"], True),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://else/\r\n" + BODY, ["301", "https://else/", "not followed"], True),
        (b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n" + BODY, ["401", "not allowed"], True),
        (b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n" + BODY, ["426"], True),
        (b"HTTP/1.1 503 Busy\r\n" + BODY, ["503"], False),
        (b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + BODY, ["200"], True),
        (SWITCH.replace(b"{accept}", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") + b"\r\n", ["Sec-WebSocket-Accept"], False),
        (SWITCH.replace(b"Upgrade: websocket\r\n", b"") + b"\r\n", ["no Upgrade"], False),
        (SWITCH.replace(b"Connection: Upgrade\r\n", b"") + b"\r\n", ["no Connection"], False),
        (SWITCH + b"Sec-WebSocket-Protocol: mqtt\r\n\r\n", ["mqtt", "not offered"], False),
        (SWITCH + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", ["extension"], False),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 6 + SWITCH + b"\r\n", ["more than 5 interim"], False),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"y" * 65536 + b"\r\n\r\n", ["longer than 8192 bytes"], False),
        (b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 2000 + b"\r\n", ["more than 100 header lines"], False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ["does not speak HTTP"], False),
        (b"\x15\x03\x03\x00\x02\x02\x46", ["speaks TLS"], False),
    ],
)
async def test_wrong_answers(answer, words, final):
    """Each is backend_refused with words that say what came; those that time will not heal are final."""
    outcome, _, _ = await dial(says(answer))

    assert isinstance(outcome, End)
    assert (outcome.reason, outcome.blame, outcome.http_status) == (Reason.BACKEND_REFUSED, "back", 502)
    for word in words:
        assert word in outcome.detail
    assert (outcome.status is not None) is final


async def test_five_interim_answers_are_taken():
    """The sixth would be one too many."""
    outcome, _, _ = await dial(says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 5 + SWITCH + b"\r\n"))
    assert isinstance(outcome, Dialled)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgra"])
async def test_an_upstream_that_ends_early(answer):
    """Before the answer or in the middle of it."""
    outcome, _, _ = await dial(says(answer, close=True))
    assert outcome.reason is Reason.BACKEND_REFUSED
    assert "closed the connection before it answered" in outcome.detail or "broke the connection" in outcome.detail


async def test_an_upstream_that_resets():
    """Is a failure like any other."""

    async def serve(stream, _):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()

    outcome, _, _ = await dial(serve)
    assert outcome.reason is Reason.BACKEND_REFUSED
    assert "broke the connection" in outcome.detail


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgra"])
async def test_an_upstream_that_hangs(answer):
    """The caller's scope ends it and the socket is closed."""
    reached = trio.Event()

    async def serve(stream, _):
        await stream.send_all(answer)
        reached.set()
        with contextlib.suppress(trio.BrokenResourceError):
            await wait_for_end(stream)

    async with upstream(serve) as server:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend(server.port).dial, OFFER)
                await reached.wait()
                scope.cancel()
        await server.closed.wait()


async def test_the_body_is_not_waited_for_long(monkeypatch):
    """A refusal whose body never comes is told without it."""
    monkeypatch.setattr(module, "BODY_WAIT", 0.01)
    outcome, _, _ = await dial(says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n"))
    assert "403" in outcome.detail
    assert "body" not in outcome.detail


async def test_secrets_are_not_told():
    """An upstream that echoes the request gets none of it into the log."""
    secret = "c2VjcmV0LXZhbHVl"
    basic = "dXNlcjpodW50ZXIyMg=="  # user:hunter22
    answer = (
        f"HTTP/1.1 403 no {secret}\r\nLocation: /login?next={secret}&token=abcdef\r\n\r\n"
        f"you sent {secret} and {basic}, your password hunter22 is wrong, ?token=abcdef"
    ).encode()
    outcome, _, _ = await dial(
        says(answer, close=True),
        path="/?token=abcdef",
        headers={"Authorization": Secret(f"Bearer {secret}"), "X-Other": Secret(f"Basic {basic}")},
    )

    for word in (secret, basic, "hunter22", "abcdef"):
        assert word not in outcome.detail
    assert "403" in outcome.detail


async def test_the_text_of_an_upstream_is_escaped():
    """Escape codes and line breaks reach no log."""
    outcome, _, _ = await dial(says(b"HTTP/1.1 403 Forbidden\r\n\r\nred\x1b[31m\nnext line", close=True))
    assert outcome.detail.isprintable()


def test_the_name_has_no_secrets():
    """Nor has the name that stands in every line."""
    assert "abcdef" not in backend(80, "/?token=abcdef").name


@pytest.fixture
def secure(issue):
    """Context of a TLS server for gw.example.org."""
    return server_context([issue("gw.example.org")])


async def test_tls(secure, ca_file):
    """Verified against the CA file, the name by server_name."""
    async with upstream(says(SWITCH + b"\r\n\x82\x02hi"), secure) as server:
        made = backend(server.port, scheme="wss", ca=ca_file, server_name="gw.example.org")
        outcome = await made.dial(OFFER)
        assert isinstance(outcome, Dialled), outcome
        assert await outcome.endpoint.wire.read_some() == b"\x82\x02hi"
        outcome.endpoint.wire.close()


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
        outcome = await backend(server.port, scheme="wss", **keys).dial(OFFER)
        await server.closed.wait()

    assert outcome.reason is Reason.BACKEND_TLS
    assert words in outcome.detail


async def test_insecure_tls(secure):
    """Only where it is written."""
    async with upstream(says(SWITCH + b"\r\n"), secure) as server:
        outcome = await backend(server.port, scheme="wss", insecure=True).dial(OFFER)
        assert isinstance(outcome, Dialled)
        outcome.endpoint.wire.close()


async def test_wss_to_a_plain_server():
    """The message says that the peer speaks no TLS."""
    async with trio.open_nursery() as nursery:

        async def serve(stream):
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        outcome = await backend(listener.socket.getsockname()[1], scheme="wss").dial(OFFER)
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
        with_one = await backend(server.port, client_certificate=own, **keys).dial(OFFER)
        assert isinstance(with_one, Dialled)
        with_one.endpoint.wire.close()

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
            without = await backend(server.getsockname()[1], **keys).dial(OFFER)

    assert without.reason is Reason.BACKEND_TLS
    assert without.detail.endswith(": tlsv13 alert certificate required")


@pytest.fixture
def context():
    """What a file is read with."""
    return Context(Path.cwd(), {}, Kinds())


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
    assert [(fault.steps, fault.code) for fault in section.cautions(context)] == (
        [(("headers", "X-Key"), "W004")] if warned else []
    )


def test_secrets_that_cannot_be_sent(context):
    """Are told when the file is read, without the secret."""
    section = WebSocketBackendConfig(url="wss://gw/", headers={"X-Key": Secret("two\nlines")})
    (fault,) = section.faults(context)
    assert fault.steps == ("headers", "X-Key")
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
    """The proxy gets CONNECT with its password, the upstream the upgrade and never the password."""
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
        outcome = await made.dial(OFFER)
        assert isinstance(outcome, Dialled), outcome
        assert await outcome.endpoint.wire.read_some() == b"\x82\x02hi"
        outcome.endpoint.wire.close()

    assert seen[0].startswith(f"CONNECT gw.example.org:{server.port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in seen[0]
    assert "X-Mine" not in seen[0]
    assert "Proxy-Authorization" not in server.requests[0]
    assert "hunter2" not in outcome.address


async def test_a_proxy_that_refuses():
    """Its status is told, its password is not."""
    async with proxy(b"407 Proxy Authentication Required") as (port, _):
        outcome = await backend(1, proxy=f"http://user:hunter2@127.0.0.1:{port}").dial(OFFER)

    assert outcome.reason is Reason.BACKEND_REFUSED
    assert "407" in outcome.detail
    assert "hunter2" not in outcome.detail
    assert outcome.status == 502


async def test_a_proxy_that_is_down():
    """Refused, with the proxy's address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        outcome = await backend(1, proxy=f"http://127.0.0.1:{port}").dial(OFFER)
    assert outcome == End(Reason.BACKEND_REFUSED, "back", f"127.0.0.1:{port}: Connection refused")


async def test_the_websockets_library_as_upstream():
    """An independent server takes our handshake and chooses a subprotocol."""
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
                outcome = await backend(port, "/x?y=1").dial(Offer(("binary", "mqtt")))
                assert isinstance(outcome, Dialled), outcome
                assert (await outcome.endpoint.wire.read_some()).startswith(b"\x82\x06banner")
                outcome.endpoint.wire.close()
        finally:
            server.shutdown()
            await trio.to_thread.run_sync(thread.join)

    assert outcome.subprotocol == "mqtt"
    assert seen == [("/x?y=1", "mqtt")]
