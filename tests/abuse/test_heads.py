"""Heads that are slow, huge, not HTTP or meant to smuggle: the status they get, and that the connection closes."""

import contextlib
import re
import ssl
import time

import pytest
import trio

from tests.authority import listener_tls
from tests.client import KEY, Client, frame, request
from tests.serving import backend, serving, written

APP = {"backend": "tcp://127.0.0.1:9"}


async def answer_to(served, data, *, tls=False):
    """Send bytes on a new connection and read all that comes back, to the end."""
    with await served.connect(tls=tls) as client:
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send(data)
        return (await client.everything()).decode("latin-1")


def refused(answer, status):
    """Hold that an answer is this refusal, whole, and closes."""
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert re.search(r"\r\nConnection: (Upgrade, )?close\r\n", answer)
    assert "\r\nLocation:" not in answer
    head, _, body = answer.partition("\r\n\r\n")
    assert f"\r\nContent-Length: {len(body)}" in head


@pytest.mark.parametrize("tls", [False, True])
async def test_a_slow_head_is_cut_at_the_deadline(tls):
    """One byte at a time does not extend the deadline: 408, and another client is served at the same time."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url}, timeouts={"handshake": "2s"}, tls=tls)) as served,
    ):
        other = await served.upgraded(tls=tls)
        began = trio.current_time()
        slow = await served.connect(tls=tls)

        async def drip():
            for byte in request("/slow", "X: " + "y" * 2000):
                try:
                    await slow.send(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            answer = (await slow.everything()).decode()
            nursery.cancel_scope.cancel()
        assert 1.9 < trio.current_time() - began < 10
        refused(answer, 408)
        await other.echoed()
        line = await served.records.wait("connection.rejected")
        assert (line["reason"], line["status"]) == ("handshake_timeout", 408)
        slow.drop()
        other.drop()


async def test_a_thousand_slow_heads_at_once():
    """Hundreds of dripping heads are each cut at the deadline, and a client is served quickly at the same time."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url}, timeouts={"handshake": "2s"})) as served,
    ):
        slow = []
        for _ in range(300):
            slow.append(await served.connect())
            await slow[-1].send(b"GET / HT")
        times = []
        for _ in range(5):
            began = time.monotonic()
            with await served.upgraded() as client:
                await client.echoed()
            times.append(time.monotonic() - began)
        assert min(times) < 1
        for client in slow:
            assert (await client.everything()).startswith(b"HTTP/1.1 408 ")
            client.drop()


async def test_a_silent_client_is_closed_without_a_line_for_all_to_see():
    """A connection that sends nothing is closed at the deadline, and logged at debug level only."""
    async with serving(written(route=APP, timeouts={"handshake": "200ms"})) as served:
        with await served.connect() as client:
            assert await client.everything() == b""
        await served.records.wait("connection.empty")
        assert not served.records.endings


@pytest.mark.parametrize(
    "head",
    [
        request("/", "X-Big: " + "x" * 70_000),
        request("/", *(f"X-{n}: 1" for n in range(2000))),
    ],
    ids=["70 KB header", "2,000 headers"],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_too_large_a_head_is_431(head, tls):
    """A head beyond the limits is refused as its bytes arrive."""
    async with serving(written(route=APP, tls=tls)) as served:
        refused(await answer_to(served, head, tls=tls), 431)
        assert (await served.records.ended())["reason"] == "request_too_large"


@pytest.mark.parametrize("name", ["Protocol", "Extensions"])
async def test_blanks_in_a_websocket_header_cost_nothing(name):
    """8 KB of spaces in a Sec-WebSocket header are judged in milliseconds (CVE-2021-32640)."""
    lines = request("/").decode().replace(f"Sec-WebSocket-{name}:", f"X-{name}:").rstrip("\r\n")
    head = f"{lines}\r\nSec-WebSocket-{name}: a{' ' * 8000}b\r\n\r\n".encode()
    async with serving(written(route=APP)) as served:
        await answer_to(served, request())
        began = time.thread_time()
        answer = await answer_to(served, head)
        assert time.thread_time() - began < 0.5
        assert answer.startswith("HTTP/1.1 ")
        assert "101" not in answer[:12]


# One or two of each kind, to see that they are refused here at all; protocol/test_http1 has all of them.
SMUGGLING = {
    "CL": ["Content-Length: 5"],
    "TE": ["Transfer-Encoding: chunked"],
    "CL and TE": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "TE tab": ["Transfer-Encoding:\tchunked"],
    "TE folded": ["X: y\r\n Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
async def test_smuggling_is_400_and_closes(lines, upgrade, tmp_path):
    """A body, or anything that two parsers could read differently, is 400; what follows is not answered."""
    (tmp_path / "index.html").write_text("secret")
    routes = {
        "app": {"match": {"path": "/"}, "backend": "tcp://127.0.0.1:9", "auth": "none"},
        "page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"},
    }
    async with serving(written(routes=routes)) as served:
        plain = "\r\n".join(["GET / HTTP/1.1", "Host: localhost", *lines]).encode() + b"\r\n\r\n"
        head = request("/", *lines) if upgrade else plain
        answer = await answer_to(served, head + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        refused(answer, 400)
        assert "secret" not in answer
        assert answer.count("HTTP/1.1 ") == 1


REQUEST_LINES = {
    "HTTP/1.0": (b"GET / HTTP/1.0", 426),
    "absolute, another host": (b"GET http://evil.example/ HTTP/1.1", 400),
    "encoded dots": (b"GET /%2e%2e/x HTTP/1.1", 400),
    "redirect": (b"GET //host/%2f.. HTTP/1.1", 400),
    "POST": (b"POST / HTTP/1.1", 405),
    "SSH": (b"SSH-2.0-OpenSSH_9.2", 400),
}


@pytest.mark.parametrize(("line", "status"), REQUEST_LINES.values(), ids=REQUEST_LINES)
async def test_odd_request_lines(line, status, tmp_path):
    """What is not exactly our form of a request is refused, and no redirect is ever built from it."""
    routes = {
        "app": {"match": "any", "backend": "tcp://127.0.0.1:9", "auth": "none"},
        "page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"},
    }
    async with serving(written(routes=routes)) as served:
        rest = request().partition(b"\r\n")[2]
        refused(await answer_to(served, line + b"\r\n" + rest), status)


HANDSHAKES = {
    "no Upgrade": ("Upgrade: websocket\r\n", "", 426),
    "no Connection": ("Connection: Upgrade\r\n", "", 400),
    "bad key": (KEY, "!" * 24, 400),
    "version 8": ("Version: 13", "Version: 8", 426),
    "HEAD": ("GET /", "HEAD /", 405),
}


@pytest.mark.parametrize(("old", "new", "status"), HANDSHAKES.values(), ids=HANDSHAKES)
async def test_handshakes_with_a_mistake(old, new, status):
    """Each mistake of RFC 6455 section 4.2.1 gets its status, before anything is dialled."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        text = request().decode()
        assert old in text
        answer = await answer_to(served, text.replace(old, new).encode())
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
        if status == 426:
            assert "Sec-WebSocket-Version: 13" in answer
        assert back.dials == 0


async def test_after_a_refused_upgrade_there_is_nothing():
    """A second request on the connection of a refused upgrade gets no answer (CVE-2018-1002105)."""
    async with backend() as back:
        routes = {
            "app": {"match": {"path": "/app"}, "backend": back.url, "auth": "none"},
            "health": {"match": {"path": "/health"}, "respond": "200", "auth": "none"},
        }
        async with serving(written(routes=routes)) as served:
            with await served.connect() as client:
                await client.send(request("/app", "Origin: https://evil.example"))
                assert "403" in await client.head()
                await client.send(request("/app") + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                rest = await client.everything()
            assert b"HTTP/" not in rest
            assert back.dials == 0


async def test_frames_sent_ahead_of_a_refusal_reach_no_backend():
    """What is pipelined behind a request that is refused never arrives anywhere."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        answer = await answer_to(served, request("/", "Origin: null") + frame(2, b"secret"))
        refused(answer, 403)
        assert back.dials == 0


async def test_tls_on_a_plain_port_is_named():
    """A TLS hello on a listener without TLS is closed at once and named in the log."""
    async with serving(written(route=APP)) as served:
        began = time.monotonic()
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await Client.connect(served.port(), tls=True)
        line = await served.records.wait("connection.rejected")
        assert "TLS hello on a listener without TLS: use http:// or ws://" in line["detail"]
        assert time.monotonic() - began < 9


@pytest.mark.parametrize("speaks", ["websocket", "tcp"])
async def test_http_on_a_tls_port_is_named(speaks):
    """Plain HTTP on a TLS listener is closed at once and named in the log."""
    web = {"bind": "127.0.0.1:0", "tls": listener_tls(), "protocol": speaks}
    if speaks == "tcp":
        web["route"] = "app"
    routes = {"app": {**APP, "match": "any", "auth": "none"} if speaks == "websocket" else {**APP, "auth": "none"}}
    async with serving(written(listeners={"web": web}, routes=routes)) as served:
        for data in (request(), b"GET / HT"):
            with await served.connect() as client:
                await client.send(data)
                assert b"HTTP" not in await client.everything()
        for count in (1, 2):
            line = await served.records.wait("connection.rejected", count=count)
            assert line["reason"] == "tls_failed"
            assert (
                line["detail"] == "the client speaks HTTP without TLS, and the listener has tls: use https:// or wss://"
            )
            assert line["duration_seconds"] < 1


@pytest.mark.parametrize("speaks", ["websocket", "tcp"])
async def test_a_tls_hello_never_finished(speaks):
    """A TLS handshake that stops half way is cut after `tls`, and named."""
    web = {"bind": "127.0.0.1:0", "tls": listener_tls(), "protocol": speaks}
    if speaks == "tcp":
        web["route"] = "app"
    routes = {"app": {**APP, "match": "any", "auth": "none"} if speaks == "websocket" else {**APP, "auth": "none"}}
    async with serving(written(listeners={"web": web}, routes=routes, timeouts={"tls": "300ms"})) as served:
        for part in (b"", hello()[:1], hello()[:100], hello()):
            with await served.connect() as client:
                await client.send(part)
                await client.everything()
        for count in range(1, 5):
            line = await served.records.wait("connection.rejected", count=count)
            assert (line["reason"], line["detail"]) == ("tls_failed", "no TLS handshake within tls, 0.3 s")


def hello():
    """Give the bytes of a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_garbage_on_a_tls_port():
    """Bytes that are neither TLS nor HTTP fail the handshake of that connection alone."""
    async with serving(written(route=APP, tls=True)) as served:
        for data in (
            b"\x00" * 500,
            b"\xff" * 500,
            hello()[:50] + b"\xff" * 5000,
            b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        ):
            with await served.connect() as client:
                with contextlib.suppress(trio.BrokenResourceError):
                    await client.send(data)
                await client.everything()
        for count in range(1, 5):
            assert (await served.records.ended(count))["reason"] == "tls_failed"
