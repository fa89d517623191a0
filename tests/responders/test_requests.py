"""Requests as other programs send them: HTTP/1.0, absolute-form, lost headers, and what a rejection says."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import request
from tests.rejections import rejection_body, without_id
from tests.serving import Served, backend, serving, written
from wsbridge.reasons import Reason
from wsbridge.responders import files


async def answer(served: Served, data: bytes) -> str:
    """Send bytes and return all that comes back."""
    with await served.connect() as client:
        await client.send(data)
        return (await client.everything()).decode("latin-1")


def status(text: str) -> int:
    """Return the status of a response."""
    return int(text.split(" ")[1])


@pytest.fixture
def routes(tmp_path: Path) -> dict[str, Any]:
    """Return routes of every kind."""
    (tmp_path / "index.html").write_text("<h1>home</h1>")
    return {
        "named": {"match": {"host": "gw.example.org", "path": "/health"}, "respond": "204", "auth": "none"},
        "health": {"match": {"path": "/health"}, "respond": "200", "auth": "none"},
        "app": {"match": {"path": "/ws"}, "backend": "tcp://127.0.0.1:9", "auth": "none"},
        "page": {"match": {"path": "/page/*"}, "files": str(tmp_path), "auth": "none"},
    }


async def test_http_1_0(routes: dict[str, Any]) -> None:
    """Health checks and pages are answered and the connection ends; without Host no route of one host matches."""
    async with serving(written(routes=routes)) as served:
        for method in ("GET", "HEAD", "OPTIONS"):
            text = await answer(served, f"{method} /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            assert status(text) == 200
            assert "\r\nConnection: close\r\n" in text
        assert "\r\nAllow: GET, HEAD, OPTIONS\r\n" in text
        assert status(await answer(served, b"GET /health HTTP/1.0\r\nHost: gw.example.org\r\n\r\n")) == 204
        text = await answer(served, b"GET /page/ HTTP/1.0\r\n\r\n")
        assert (status(text), text.endswith("<h1>home</h1>")) == (200, True)
        assert status(await answer(served, b"HEAD /page/ HTTP/1.0\r\n\r\n")) == 200
        assert status(await answer(served, b"OPTIONS /page/ HTTP/1.0\r\n\r\n")) == 405
        chunked = b"GET /page/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert status(await answer(served, chunked)) == 400
        for lines in (b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"):
            text = await answer(served, b"GET /ws HTTP/1.0\r\n" + lines + b"\r\n")
            assert status(text) == 426
            assert "proxy_http_version 1.1" in text


async def test_files_are_served_as_the_route_says(routes: dict[str, Any], tmp_path: Path) -> None:
    """Every key of the long form reaches the response."""
    (tmp_path / "vnc.html").write_text("<h1>noVNC</h1>")
    routes["page"]["files"] = {
        "dir": str(tmp_path),
        "index": "vnc.html",
        "redirect_root": "true",
        "headers": {"Cross-Origin-Opener-Policy": "same-origin"},
        "frame_ancestors": ["https://portal.example.org"],
        "cache": "1h",
    }
    async with serving(written(routes=routes)) as served:
        text = await answer(served, b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert text.endswith("\r\n\r\n<h1>noVNC</h1>")
        for line in (
            "Cross-Origin-Opener-Policy: same-origin",
            "Content-Security-Policy: frame-ancestors 'self' https://portal.example.org",
            "Cache-Control: max-age=3600",
        ):
            assert f"\r\n{line}\r\n" in text
        text = await answer(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (status(text), "\r\nLocation: /page/vnc.html\r\n" in text) == (302, True)


async def test_absolute_form_and_an_empty_line(routes: dict[str, Any]) -> None:
    """Both are what RFC 9112 asks a server to accept; another host than Host is 400."""
    async with serving(written(routes=routes)) as served:
        for data, expected in (
            (b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
            (b"\r\nGET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
            (b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (b"GET http://a@localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (b"GET http://localhost/%68ealth HTTP/1.1\r\nHost: gw.example.org\r\n\r\n", 400),
        ):
            assert status(await answer(served, data)) == expected


async def test_a_proxy_that_drops_upgrade(routes: dict[str, Any]) -> None:
    """The most common mistake in front of us is named, with the lines of nginx, also where files share the path."""
    routes["below"] = {"match": {"path": "/*"}, "respond": "200", "auth": "none"}
    async with serving(written(routes=routes)) as served:
        data = request("/ws").replace(b"Upgrade: websocket\r\n", b"")
        data = data.replace(b"Connection: Upgrade", b"Connection: close")
        in_http10 = await answer(served, data.replace(b"HTTP/1.1", b"HTTP/1.0"))  # what nginx sends by default
        text = await answer(served, data)
        assert without_id(text).partition("\r\n\r\n")[2] == without_id(in_http10).partition("\r\n\r\n")[2]
        assert status(text) == status(in_http10) == 426
        assert "a proxy dropped Upgrade" in text
        assert "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;" in text
        assert 'proxy_set_header Connection "upgrade";' in text
        assert "a proxy dropped Upgrade" in (await served.records.wait("connection.rejected"))["detail"]


@pytest.mark.parametrize(
    ("data", "code", "detail", "path"),
    [
        (
            request("/ws?a=b", "Cookie: " + "c" * 9000),
            431,
            "the header Cookie is longer than 8192 bytes (limits.max_head_line_bytes)",
            "/ws?a=b",
        ),
        (
            request("//ws", *(f"Cookie-{n}: {'c' * n}" for n in (5000, 6000, 7000))),
            431,
            "(limits.max_head_bytes); its largest header is Cookie-6000, 6013 bytes",
            "/ws",
        ),
        (request("/ws", *["A: b"] * 100), 431, "100 header lines (limits.max_headers)", "/ws"),
        (request("/ws", "X Y: b"), 400, "the name of the header X is not a token", "/ws"),
        (request("/ws", "Cookie: a\x01"), 400, "the header Cookie has a control character", "/ws"),
        (request("/../ws?token=hunter2"), 400, "a . or .. segment", "/../ws?token=***"),
    ],
)
async def test_a_bad_head_is_described(data: bytes, code: int, detail: str, path: str, routes: dict[str, Any]) -> None:
    """The response and the log name the header, its size and the limit's key, and the log has the path."""
    async with serving(written(routes=routes)) as served:
        text = await answer(served, data)
        assert status(text) == code
        assert detail in text
        line = await served.records.wait("connection.rejected")
        assert detail in line["detail"]
        assert line["path"] == path


async def test_a_host_that_is_not_allowed(routes: dict[str, Any]) -> None:
    """The log names the listener and the route where the name can be allowed."""
    async with serving(written(routes=routes)) as served:
        assert status(await answer(served, request("/ws", host="abc-8080.app.example.dev"))) == 403
        line = await served.records.wait("connection.rejected")
        assert "host_names of the listener web" in line["detail"]
        assert (line["reason"], line["level"]) == ("host_not_allowed", "warning")


async def test_a_missing_favicon_is_no_news(routes: dict[str, Any]) -> None:
    """Browsers ask for it by themselves, so its 404 is logged at debug level."""
    ask = b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with serving(written(routes=routes)) as served:
        assert status(await answer(served, ask)) == 404
        assert (await served.records.ended())["level"] == "debug"
        assert status(await answer(served, ask.replace(b"favicon", b"other"))) == 404
        assert (await served.records.ended(2))["level"] == "info"
    routes["page"]["match"] = {"path": "/*"}
    async with serving(written(routes=routes)) as served:
        assert status(await answer(served, ask)) == 404
        assert (await served.records.wait("http.request"))["level"] == "debug"


DATE = "Sun, 29 Nov 2026 10:00:00 GMT"


async def upstream(stream: trio.SocketStream, response: bytes, seen: list[bytes]) -> None:
    """Read a request's head and send a response."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(65536)
        if not data:
            return
        head += data
    seen.append(head)
    await stream.send_all(response)


@pytest.mark.parametrize(
    ("response", "headers", "code", "retry"),
    [
        (b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\n\r\n", {}, 401, None),
        (b"HTTP/1.1 401 No\r\n\r\n", {"Cookie": "a=bbbbbbbb"}, 502, None),
        (b"HTTP/1.1 403 No\r\nSet-Cookie: a=b\r\n\r\n", {"X-Office": "north"}, 403, None),
        (b"HTTP/1.1 404 No\r\n\r\n", {}, 404, None),
        (b"HTTP/1.1 410 No\r\n\r\n", {}, 410, None),
        (b"HTTP/1.1 429 No\r\nRetry-After: 11\r\n\r\n", {}, 429, "11"),
        (b"HTTP/1.1 503 No\r\nRetry-After: " + DATE.encode() + b"\r\n\r\n", {}, 503, DATE),
        (b"HTTP/1.1 302 No\r\nLocation: /login\r\n\r\n", {}, 502, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", {}, 502, None),
    ],
)
async def test_what_the_client_learns_of_a_backend(
    response: bytes, headers: dict[str, str], code: int, retry: str | None
) -> None:
    """The status where it is about the client, Retry-After, and never a challenge or a cookie."""
    seen: list[bytes] = []
    async with backend(lambda stream: upstream(stream, response, seen)) as back:
        route = {"backend": {"url": f"ws://127.0.0.1:{back.port}/", "headers": headers}, "match": "any", "auth": "none"}
        async with serving(written(routes={"app": route})) as served:
            text = await answer(served, request())
            assert status(text) == code
            assert (f"\r\nRetry-After: {retry}\r\n" in text) == (retry is not None)
            assert "Authenticate" not in text
            assert "Cookie" not in text
            assert without_id(text).endswith("\r\n\r\n" + rejection_body("backend_rejected"))
            line = await served.records.wait("connection.rejected")
            assert (line["reason"], line["initiator"]) == ("backend_rejected", "backend")
            assert response.split(b" ")[1].decode() in line["detail"]


async def test_any_subprotocol_is_passed_on() -> None:
    """A ws backend gets the client's whole offer, without what carries a token, and what it selects is the answer."""
    seen: list[bytes] = []
    async with backend(lambda stream: upstream(stream, b"HTTP/1.1 404 No\r\n\r\n", seen)) as back:
        route = {"backend": f"ws://127.0.0.1:{back.port}/", "match": "any", "auth": "none", "subprotocols": "any"}
        async with serving(written(routes={"app": route})) as served:
            await answer(served, request("/", "Sec-WebSocket-Protocol: v2.x, wsbridge.token.aHVudGVyMg, v1.x"))
            assert b"\r\nSec-WebSocket-Protocol: v2.x, v1.x\r\n" in seen[0]
            await answer(served, request("/"))
            assert b"Sec-WebSocket-Protocol" not in seen[1]


@pytest.mark.parametrize(
    ("data", "reason", "code"),
    [
        (request("/ws", "Origin: https://evil.example"), "origin_not_allowed", 403),
        (request("/ws", "Sec-WebSocket-Protocol: x"), "bad_request", 400),
        (request("/ws", host="evil.example"), "host_not_allowed", 403),
        (request("/ws").replace(b"GET", b"POST"), "bad_request", 405),
        (request("/ws").replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"), "bad_request", 426),
        (b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad_request", 426),
    ],
)
async def test_the_log_names_the_route(data: bytes, reason: str, code: int, routes: dict[str, Any]) -> None:
    """Whatever a route rejects, its name is in the line."""
    async with serving(written(routes=routes)) as served:
        assert status(await answer(served, data)) == code
        line = await served.records.wait("connection.rejected")
        assert (line["reason"], line["route"]) == (reason, "app")


async def test_a_browser_shows_cause_and_cure(routes: dict[str, Any]) -> None:
    """The 403 of a page for a wrong Host or Origin says what the operator can do, and quotes nothing."""
    page = {**routes["page"], "match": {"path": "/s3cret/*"}}
    async with serving(written(routes={**routes, "s3cret": page})) as served:
        wrong_host = await answer(served, b"GET /s3cret/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        wrong_origin = await answer(served, request("/ws", "Origin: https://evil.example"))
    for response, words in ((wrong_host, "host_names of the listener"), (wrong_origin, "allowed_origins of the route")):
        head, _, body = response.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 403 ")
        assert words in body
        assert not any(leak in body for leak in ("evil", "s3cret"))


async def test_a_hung_file_system_does_not_delay_the_end(
    routes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot return is left behind when the server stops."""
    go, busy = threading.Event(), threading.Event()
    timeouts = {"drain": "100ms", "drain_spread": "50ms", "close": "300ms"}

    def hanging(root: Path, names: list[str]) -> int:
        busy.set()
        go.wait(20)
        raise OSError("too late")

    monkeypatch.setattr(files, "open_beneath", hanging)
    try:
        with trio.fail_after(18):
            async with serving(written(routes=routes, timeouts=timeouts)) as served:
                with await served.connect() as client:
                    await client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await trio.to_thread.run_sync(busy.wait, 30)
                    served.server.stop(Reason.DRAINING)
                    await served.returned.wait()
    finally:
        go.set()


async def test_a_hung_file_system_is_503(routes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for requests that wait for one of its threads."""
    go = threading.Event()

    def hanging(root: Path, names: list[str]) -> int:
        go.wait(10)
        raise OSError("too late")

    monkeypatch.setattr(files, "open_beneath", hanging)
    outcomes: list[str] = []
    try:
        async with (
            serving(written(routes=routes, timeouts={"file_read": "200ms"})) as served,
            trio.open_nursery() as nursery,
        ):

            async def one() -> None:
                outcomes.append(await answer(served, b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n"))

            for _ in range(files.FILE_THREADS + 2):
                nursery.start_soon(one)
    finally:
        go.set()
    assert {status(text) for text in outcomes} == {503}
    assert "\r\nRetry-After: 10\r\n" in outcomes[0]


async def test_a_file_whose_rest_cannot_be_read_breaks_off(
    routes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the same time; the client sees that it is not whole."""
    go, read = threading.Event(), os.read
    served_chunks: list[int] = []

    def hanging(fd: int, size: int) -> bytes:
        if size != files.FILE_CHUNK_BYTES:  # somebody else's
            return read(fd, size)
        if served_chunks:
            go.wait(10)
        served_chunks.append(size)
        return read(fd, size)

    monkeypatch.setattr(os, "read", hanging)
    size = 3 * files.FILE_CHUNK_BYTES
    (Path(routes["page"]["files"]) / "big").write_bytes(bytes(size))
    try:
        async with serving(written(routes=routes, timeouts={"file_read": "1s"})) as served:
            with trio.fail_after(9):
                text = await answer(served, b"GET /page/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert len(text) < size
            assert "did not respond within file_read, 1 s" in (await served.records.wait("http.request"))["detail"]
    finally:
        go.set()
