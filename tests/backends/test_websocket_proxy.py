"""WebSocket backends through an HTTP proxy, from the configuration to the bytes that the proxy gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.client import request
from tests.config.loading import LISTENERS, read, summaries, wrong
from tests.serving import accept_upgrade, backend, read_head, serving, written

SECRET = "Bearer hunter2hunter2"


def proxied(port: int, folder: Path, **keys: object) -> str:
    """Write a configuration with a secret header for the proxy on that port."""
    (folder / "token").write_text(SECRET + "\n")
    headers = {"User-Agent": "curl/8", "Proxy-Authorization": {"file": "token"}}
    section = {"url": "ws://gw.example:81/x", "proxy": f"http://127.0.0.1:{port}", "proxy_headers": headers, **keys}
    return written(route={"backend": section})


async def test_the_proxy_gets_its_headers_and_the_server_does_not(tmp_path: Path) -> None:
    """Both requests go over one connection: CONNECT with the headers for the proxy, then the upgrade without."""
    heads: list[str] = []

    async def tunnel(stream: trio.SocketStream) -> None:
        heads.append(await read_head(stream))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
        heads.append(await accept_upgrade(stream))
        while await stream.receive_some():
            pass

    async with backend(tunnel) as proxy, serving(proxied(proxy.port, tmp_path), folder=tmp_path) as served:
        with await served.upgraded():
            pass
        await served.records.ended()
        shown = str(served.records.all)
    connect, upgrade = heads
    assert connect.startswith("CONNECT gw.example:81 HTTP/1.1\r\nHost: gw.example:81\r\n")
    assert f"\r\nUser-Agent: curl/8\r\nProxy-Authorization: {SECRET}\r\n" in connect
    assert "curl" not in upgrade and "hunter2" not in upgrade
    assert "hunter2" not in shown


async def test_a_proxy_that_repeats_the_request_puts_no_secret_into_the_log(tmp_path: Path) -> None:
    """Neither its reason nor its body."""

    async def refuse(stream: trio.SocketStream) -> None:
        head = await read_head(stream)
        await stream.send_all(f"HTTP/1.1 403 {SECRET}\r\n\r\n{head}".encode())

    async with backend(refuse) as proxy, serving(proxied(proxy.port, tmp_path), folder=tmp_path) as served:
        with await served.connect() as client:
            await client.send(request())
            line = await served.records.ended()
    assert "403" in line["detail"]
    assert "hunter2" not in str(served.records.all)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("proxy_headers: {A: b}", "E013 routes.r.backend.proxy_headers"),
        ("proxy: 'http://u:p@h:1', proxy_headers: {proxy-authorization: x}", "E013 .proxy-authorization"),
        ("proxy: 'http://h:1', proxy_headers: {Host: x}", "E012 .Host"),
        ("proxy: 'http://h:1', proxy_headers: {Content-Length: 1}", "E012 .Content-Length"),
        ("proxy: 'http://h:1', proxy_headers: {A: b, a: c}", "E013 .a"),
        ("headers: {A: b, a: c}", "E013 routes.r.backend.headers.a"),
        ("headers: {via: 1.1 gw}", "E012 routes.r.backend.headers.via"),
        ("client_headers: {Via: '1.1 {listener}'}", "E012 routes.r.backend.client_headers.Via"),
    ],
)
def test_mistakes(keys: str, problem: str) -> None:
    """Headers without a proxy, of the request itself, that wsbridge writes, or twice."""
    backend_section = f"{{url: 'ws://127.0.0.1:1/', {keys}}}"
    (found,) = summaries(wrong(f"{LISTENERS}routes: {{r: {{match: any, auth: none, backend: {backend_section}}}}}\n"))
    assert found == problem.replace(" .", " routes.r.backend.proxy_headers.")


@pytest.mark.parametrize("proxy", ["", "proxy: 'http://127.0.0.1:1', "])
def test_proxy_authorization_for_the_backend_is_warned_of(proxy: str) -> None:
    """The proxy would not get it."""
    backend_section = f"{{url: 'wss://gw/', {proxy}headers: {{Proxy-Authorization: {{env: TOKEN}}}}}}"
    text = f"{LISTENERS}routes: {{r: {{match: any, auth: none, backend: {backend_section}}}}}\n"
    found = summaries(read(text, {"TOKEN": SECRET}).warnings)
    assert "W029 routes.r.backend.headers.Proxy-Authorization" in found
