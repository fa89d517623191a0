"""WebSocket backends: the request, every wrong answer, secrets, TLS, proxies, an independent server."""

import contextlib
import socket

import pytest
import trio

from tests.backends.upstream import SWITCH, says, upstream, wait_for_end
from tests.client import request
from tests.rejections import async_outcome
from tests.serving import accept_upgrade, echo, serving, written
from tests.serving import backend as service
from wsbridge.backends import websocket as module
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.secrets import Secret
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls_roles import OpenSsl
from wsbridge.protocol.handshake import accept_key
from wsbridge.reasons import Reason, Rejected

OFFER = DialRequest(("binary",))


def backend(port, path="/", scheme="ws", host="127.0.0.1", provider=None, **keys):
    """A backend for a port of this machine."""
    config = WebSocketBackendConfig(url=f"{scheme}://{host}:{port}{path}", **keys)
    return WebSocketBackend(config, DialServices(Resolver(), tls=provider or OpenSsl()))


async def dial(serve, offer=OFFER, **keys):
    """One dial against a scripted server; gives the outcome, what it left in the transport, and the request."""
    async with upstream(serve) as server:
        outcome = await async_outcome(backend(server.port, **keys).dial(offer))
        rest = b""
        if isinstance(outcome, Connected):
            rest = outcome.side.transport.read()
            outcome.side.transport.close()
        await server.closed.wait()
        return outcome, rest, server.requests[0]


def lines(request):
    """Header lines of a request, as a dict."""
    return dict(line.split(": ", 1) for line in request.split("\r\n")[1:] if line)


async def test_upgrade():
    """A proper answer gives a WebSocket endpoint in the role of the client."""
    outcome, rest, request = await dial(says(SWITCH + b"Sec-WebSocket-Protocol: binary\r\n\r\n"), path="/vnc?room=1")

    assert isinstance(outcome, Connected)
    assert outcome.subprotocol == "binary"
    assert outcome.side.role == "client"
    assert rest == b""
    assert request.startswith("GET /vnc?room=1 HTTP/1.1\r\n")
    assert lines(request)["Sec-WebSocket-Protocol"] == "binary, wsbridge.resume.v1"
    assert lines(request)["Host"].startswith("127.0.0.1:")


@pytest.mark.parametrize(("messages", "first_byte"), [("binary", 0x82), ("text", 0x81)])
async def test_what_a_plain_client_sends_becomes_messages_of_this_type(messages, first_byte):
    """Through a whole bridge, from the key in the file to the frame that the server gets."""
    frames = []

    async def serve(stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        await stream.send_all(SWITCH.replace(b"{accept}", accept_key(key).encode()) + b"\r\n")
        frames.append(await stream.receive_some())

    async with service(serve) as back:
        listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
        url = f"ws://127.0.0.1:{back.port}/"
        routes = {"app": {"backend": {"url": url, "messages": messages}, "auth": "none"}}
        async with serving(written(listeners=listeners, routes=routes)) as served:
            with await served.connect("old") as client:
                await client.send(b"hello")
                await served.records.ended()
    assert frames[0][0] == first_byte


async def test_frames_glued_to_the_101_are_kept():
    """A server that speaks first loses nothing."""
    _, rest, _ = await dial(says(SWITCH + b"\r\n\x82\x03abc"))
    assert rest == b"\x82\x03abc"


async def test_no_subprotocol_chosen_is_fine():
    """Whatever was offered."""
    outcome, _, _ = await dial(says(SWITCH + b"\r\n"))
    assert outcome.subprotocol is None


@pytest.mark.parametrize(
    ("offer", "keys", "expected"),
    [
        (DialRequest(("binary", "mqtt")), {}, "binary, mqtt, wsbridge.resume.v1"),
        (DialRequest(("binary",)), {"subprotocols": ["mqtt"]}, "mqtt, wsbridge.resume.v1"),
        (DialRequest(("binary",)), {"subprotocols": []}, None),
        (DialRequest(("binary",)), {"resume": "off"}, "binary"),
        (DialRequest(("binary",)), {"messages": "text"}, "binary"),
        (DialRequest(("binary",), from_client=True), {"subprotocols": ["mqtt"]}, "binary"),
        (DialRequest((), from_client=True), {"subprotocols": ["mqtt"]}, None),
    ],
)
async def test_what_is_offered(offer, keys, expected):
    """On raw fronts the backend's own list or the route's, and sessions last; a WebSocket client's offer as it is."""
    _, _, request = await dial(says(SWITCH + b"\r\n"), offer, **keys)
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
    """The default port is left out, brackets stay; server_name replaces the host."""
    made = WebSocketBackend(WebSocketBackendConfig(url=url, server_name=server_name), DialServices(Resolver()))
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
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"y" * 65536 + b"\r\n\r\n", ["limits.max_response_head"], False),
        (b"HTTP/1.1 401 No\r\nSet-Cookie: " + b"y" * 9000 + b"\r\n" + BODY, ["401", "not allowed"], True),
        (b"HTTP/1.1 302 No\r\nLocation: /login\r\nA : b\r\n c\r\n" + BODY, ["302", "/login"], True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ["does not speak HTTP", "write tcp:// for ws://"], False),
        (b"\x15\x03\x03\x00\x02\x02\x46", ["speaks TLS", "write wss:// for ws://"], False),
    ],
)
async def test_wrong_answers(answer, words, final):
    """Each has words that say what came; another status is backend_rejected, and final if time will not heal it."""
    outcome, _, _ = await dial(says(answer))

    assert isinstance(outcome, Rejected)
    status = int(answer.split()[1]) if answer.startswith(b"HTTP/") else 101
    reason = Reason.BACKEND_REJECTED if status >= 200 else Reason.BACKEND_REFUSED
    assert (outcome.reason, outcome.initiator) == (reason, "backend")
    assert outcome.termination().http_status == (status if status in (401, 503) else 502)
    for word in words:
        assert word in outcome.detail
    assert outcome.permanent is final


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (503, 7), (502, None)])
async def test_the_time_that_a_server_asks_for_is_passed_to_the_retries(status, seconds):
    """Retry-After counts where the server is overloaded, and nowhere else."""
    answer = f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\n".encode() + BODY
    outcome, _, _ = await dial(says(answer))
    assert outcome.retry_after == seconds


async def test_the_limit_of_the_head_of_a_response_is_that_of_the_configuration():
    """A 101 whose head is longer than `limits.max_response_head_bytes` is no success."""

    async def long_head(stream):
        await accept_upgrade(stream, "X-Long: " + "y" * 3000)
        await echo(stream)

    async with service(long_head) as back:
        for limit, status in (("2KiB", "502"), ("8KiB", "101")):
            text = written(route={"backend": f"ws://127.0.0.1:{back.port}/"}, limits={"max_response_head_bytes": limit})
            async with serving(text) as served:
                with await served.connect() as client:
                    await client.send(request())
                    assert (await client.head()).startswith(f"HTTP/1.1 {status} ")


async def test_five_interim_responses_are_accepted():
    """The sixth would be one too many."""
    outcome, _, _ = await dial(says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 5 + SWITCH + b"\r\n"))
    assert isinstance(outcome, Connected)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgra"])
async def test_an_upstream_that_ends_early(answer):
    """Before the answer or in the middle of it."""
    outcome, _, _ = await dial(says(answer, close=True))
    assert outcome.reason is Reason.BACKEND_REFUSED
    assert "closed the connection before it answered" in outcome.detail or "broke the connection" in outcome.detail
    assert answer or outcome.detail.endswith("; if it speaks TLS, write wss:// for ws://")


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
    """A refusal whose body never comes is reported without it."""
    monkeypatch.setattr(module, "REJECTION_BODY_TIMEOUT", 0.01)
    outcome, _, _ = await dial(says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n"))
    assert "403" in outcome.detail
    assert "body" not in outcome.detail


async def test_secrets_are_not_logged():
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
    """Neither has the name that is in every line."""
    assert "abcdef" not in backend(80, "/?token=abcdef").name
