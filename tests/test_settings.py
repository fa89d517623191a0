"""Settings from the configuration file to what a peer observes, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import authority
from tests.client import BINARY, CLOSE, TEXT, frame, request
from tests.serving import accept_upgrade, backend, read_head, serving, written
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

RAW = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}


@pytest.mark.parametrize(
    ("setting", "lines", "status"),
    [
        ({"max_head_bytes": 1024, "max_head_line_bytes": 1024}, [f"X-{at}: {'y' * 200}" for at in range(6)], 431),
        ({"max_head_line_bytes": 256}, [f"X: {'y' * 300}"], 431),
        ({"max_headers": 6}, ["X: y", "Z: y"], 431),
    ],
)
async def test_limits_of_request_heads(setting: dict[str, Any], lines: list[str], status: int) -> None:
    """A larger head is rejected, and the log names the setting; with the default it is accepted."""
    for limits, expected in ((setting, status), ({}, 101)):
        async with backend() as server, serving(written(route={"backend": server.url}, limits=limits)) as served:
            with await served.connect() as client:
                await client.send(request("/", *lines))
                assert (await client.head()).split()[1] == str(expected)
            line = await served.records.ended()
            assert limits == {} or next(iter(limits)) in line["detail"]


@pytest.mark.parametrize("limit", [1024, 65536])
async def test_limit_of_response_heads(limit: int) -> None:
    """A WebSocket backend whose response head is larger is rejected."""

    async def serve(stream: trio.SocketStream) -> None:
        await accept_upgrade(stream, f"X: {'y' * 2000}")
        await stream.receive_some()

    async with backend(serve) as server:
        route = {"backend": f"ws://127.0.0.1:{server.port}/"}
        async with serving(written(route=route, limits={"max_response_head_bytes": limit})) as served:
            with await served.connect() as client:
                await client.send(request())
                assert (await client.head()).split()[1] == ("502" if limit == 1024 else "101")
            line = await served.records.ended()
            assert ("limits.max_response_head_bytes" in line.get("detail", "")) is (limit == 1024)


async def test_largest_frame() -> None:
    """No frame that wsbridge sends is larger than max_frame_bytes."""
    async with (
        backend() as server,
        serving(written(route={"backend": server.url}, limits={"max_frame_bytes": 125})) as served,
    ):
        with await served.upgraded() as client:
            await client.send(frame(BINARY, b"x" * 1000))
            got = 0
            while got < 1000:
                opcode, payload = await client.frame()
                assert len(payload) <= 125
                assert opcode in (0, BINARY)
                got += len(payload)


async def test_retry_after() -> None:
    """The Retry-After of a rejection by overload."""
    text = written(timeouts={"retry_after": "7s"}, limits={"connections": 1}, route={"respond": 204})
    async with serving(text) as served:
        with await served.connect() as first, await served.connect() as second:
            await first.send(b"GET / HTTP/1.1\r\n")
            await second.send(request())
            head = await second.head()
    assert head.startswith("HTTP/1.1 503")
    assert "\r\nretry-after: 7" in head.lower()


@pytest.mark.parametrize(
    ("limits", "ending"),
    [({}, "end"), ({"lingering_sockets": 0}, "reset"), ({"lingering_bytes": "64KiB"}, "reset")],
)
async def test_lingering(limits: dict[str, Any], ending: str) -> None:
    """What a rejected client still sends is read, within limits, so that no reset destroys the response on its way."""
    async with serving(written(route={"respond": 204}, limits={"lingering_bytes": "8MiB"} | limits)) as served:
        with await served.connect() as client:
            try:
                await client.send(b"GET / HTTP/1.1\r\nno colon\r\n\r\n" + bytes(4_000_000))
                while await client.more():
                    pass
                assert client.buffer.startswith(b"HTTP/1.1 400")
                seen = "end"
            except trio.BrokenResourceError:
                seen = "reset"
    assert seen == ending


async def silent(stream: trio.SocketStream) -> None:
    """Send nothing, and read until the end."""
    while await stream.receive_some():
        pass


@pytest.mark.parametrize(
    ("timeouts", "reason"),
    [
        ({"idle": "100ms"}, "idle_timeout"),
        ({"max_lifetime": "100ms"}, "max_lifetime"),
        ({"ping_interval": "50ms", "ping_timeout": "50ms"}, "client_lost"),
    ],
)
@pytest.mark.parametrize("of_route", [False, True])
async def test_timeouts_of_connections(timeouts: dict[str, str], reason: str, of_route: bool) -> None:
    """Of the file, and of the route in place of the file's, which would not come."""
    far = dict.fromkeys(timeouts, "1h") | {"close": "100ms"}
    async with backend(silent) as server:
        route = {"backend": server.url, "timeouts": timeouts if of_route else {}}
        async with serving(written(route=route, timeouts=far if of_route else far | timeouts)) as served:
            with await served.upgraded():
                assert (await served.records.ended())["reason"] == reason


async def test_write_timeout() -> None:
    """A client that reads nothing is disconnected after write without progress."""

    async def flood(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(65536))

    async with backend(flood) as server:
        text = written(route={"backend": server.url}, timeouts={"write": "200ms"})
        async with serving(text) as served:
            with await served.upgraded():
                assert (await served.records.ended())["reason"] == "write_stalled"


@pytest.mark.parametrize("timeout", ["close", "half_close"])
async def test_closing_timeouts(timeout: str) -> None:
    """close: a client that does not answer a Close. half_close: a plain client that goes on after the backend's FIN."""

    async def leave(stream: trio.SocketStream) -> None:
        await stream.send_eof()
        await silent(stream)

    async with backend(leave) as server:
        listeners = {"web": {"bind": "127.0.0.1:0"}} if timeout == "close" else RAW
        route = (
            {"match": "any", "backend": server.url, "auth": "none"}
            if timeout == "close"
            else {"backend": server.url, "auth": "none"}
        )
        text = written(listeners=listeners, routes={"app": route}, timeouts={timeout: "100ms"})
        async with serving(text) as served:
            with await (served.upgraded() if timeout == "close" else served.connect("old")):
                line = await served.records.ended()
            assert f"after {timeout}, 0.1 s" in line["detail"]


async def test_connect_timeout() -> None:
    """A WebSocket backend that does not answer the upgrade."""
    async with backend(silent) as server:
        route = {"backend": f"ws://127.0.0.1:{server.port}/"}
        async with serving(written(route=route, timeouts={"connect": "100ms"})) as served:
            with await served.connect() as client:
                await client.send(request())
                assert (await client.head()).startswith("HTTP/1.1 504")
            assert (await served.records.ended())["reason"] == "backend_timeout"


async def test_handshake_timeout() -> None:
    """A request head that does not end."""
    async with serving(written(route={"respond": 204}, timeouts={"handshake": "100ms"})) as served:
        with await served.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            assert (await client.head()).startswith("HTTP/1.1 408")


@pytest.mark.parametrize("action", ["reset", "fin"])
async def test_on_client_lost(action: str) -> None:
    """The backend of a client that is reset gets a reset or a FIN."""
    async with backend() as server:
        text = written(route={"backend": server.url, "on_client_lost": action})
        async with serving(text) as served:
            with await served.upgraded() as client:
                await client.echoed()
                client.reset()
                await served.records.ended()
            await server.until(open=0)
    assert (server.finished, server.lost) == ((1, 0) if action == "fin" else (0, 1))


@pytest.mark.parametrize("action", ["close", "hold"])
async def test_on_client_fin(action: str) -> None:
    """hold: a WebSocket server gets no Close for a plain client's FIN while it still answers."""
    heard: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        await accept_upgrade(stream)
        data = b""
        while b"\x82\x87" not in data:
            data += await stream.receive_some()
        with trio.move_on_after(0.2 if action == "hold" else 10):
            heard.append(data[13:] or await stream.receive_some())
        await stream.send_all(frame(BINARY, b"answer", masked=False))
        if action == "close":
            await silent(stream)

    async with backend(answer) as server:
        route = {"backend": f"ws://127.0.0.1:{server.port}/", "auth": "none", "on_client_fin": action}
        timeouts = {"half_close": "20s" if action == "hold" else "300ms", "close": "200ms"}
        text = written(listeners=RAW, routes={"app": route}, timeouts=timeouts)
        async with serving(text) as served:
            with await served.connect("old") as client:
                await client.send(b"request")
                assert isinstance(client.stream, trio.SocketStream)
                await client.stream.send_eof()
                assert (await client.take(6) if action == "hold" else b"answer") == b"answer"
                await served.records.ended()
    assert [data[0] for data in heard] == ([] if action == "hold" else [0x80 | CLOSE])


@pytest.mark.parametrize(("action", "code"), [("accept", 1007), ("reject", 1003), ("bytes", None)])
async def test_text_messages(action: str, code: int | None) -> None:
    """What a text message that is not UTF-8 does."""
    async with backend() as server:
        text = written(route={"backend": server.url, "text_messages": action})
        async with serving(text) as served:
            with await served.upgraded() as client:
                await client.send(frame(TEXT, b"\xff\xfe"))
                if code is None:
                    assert await client.payload(2) == b"\xff\xfe"
                else:
                    assert (await client.closing())[0] == code


@pytest.mark.parametrize(("subprotocols", "offered"), [("any", "zz, yy"), (["yy"], "yy")])
async def test_subprotocols(subprotocols: object, offered: str) -> None:
    """any: a WebSocket backend is offered everything that the client offers, and its choice is the client's."""
    heads: list[str] = []

    async def choose(stream: trio.SocketStream) -> None:
        heads.append(await accept_upgrade(stream, "Sec-WebSocket-Protocol: yy"))
        await silent(stream)

    async with backend(choose) as server:
        route = {"backend": f"ws://127.0.0.1:{server.port}/", "subprotocols": subprotocols}
        async with serving(written(route=route)) as served:
            with await served.connect() as client:
                assert "\r\nSec-WebSocket-Protocol: yy" in await client.upgrade("/", "Sec-WebSocket-Protocol: zz, yy")
            await served.records.ended()
    assert f"\r\nSec-WebSocket-Protocol: {offered}\r\n" in heads[0]


async def test_host_origin_and_own_subprotocols_of_a_backend() -> None:
    """Keys of a WebSocket backend that are in its request."""
    heads: list[str] = []

    async def refuse(stream: trio.SocketStream) -> None:
        heads.append(await read_head(stream))
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with backend(refuse) as server:
        keys = {"host": "inner.example:81", "origin": "https://a.example", "subprotocols": ["mqtt"]}
        route = {"backend": {"url": f"ws://127.0.0.1:{server.port}/", **keys}, "auth": "none"}
        async with serving(written(listeners=RAW, routes={"app": route})) as served:
            with await served.connect("old"):
                await served.records.ended()
    for line in (
        "Host: inner.example:81",
        "Origin: https://a.example",
        "Sec-WebSocket-Protocol: mqtt, wsbridge.resume.v1",
    ):
        assert f"\r\n{line}\r\n" in heads[0]


def tls_session(port: int, **options: Any) -> tuple[str, str] | None:
    """Shake hands; give version and cipher, or None if the server refuses."""
    context = ssl.create_default_context(cafile=str(authority.folder() / "ca.pem"))
    for name, value in options.items():
        setattr(context, name, value)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            cipher = tls.cipher()
            return str(tls.version()), "" if cipher is None else cipher[0]
    except (ssl.SSLError, ConnectionError):
        return None


async def test_tls_of_a_listener(tmp_path: Path) -> None:
    """min_version, ciphers, and a private key with a passphrase."""
    key = tmp_path / "key.pem"
    command = ["openssl", "pkey", "-aes128", "-passout", "pass:open sesame", "-in"]
    subprocess.run([*command, authority.folder() / "key.pem", "-out", key], check=True)
    key.chmod(0o600)
    (tmp_path / "pass").write_text("open sesame\n")
    (tmp_path / "pass").chmod(0o600)
    cert = {"cert": str(authority.folder() / "cert.pem"), "key": str(key), "key_password": {"file": "pass"}}
    cipher = "ECDHE-ECDSA-AES256-GCM-SHA384"
    listeners = {
        "new": {"bind": "127.0.0.1:0", "tls": {"certificates": [cert], "min_version": "1.3"}},
        "few": {"bind": "127.0.0.1:0", "tls": {"certificates": [cert], "ciphers": cipher}},
    }
    text = written(listeners=listeners, routes={"app": {"match": "any", "respond": 204}})
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    async with serving(text, folder=tmp_path) as served:
        ask = trio.to_thread.run_sync
        assert await ask(lambda: tls_session(served.port("new"), **old)) is None
        new = await ask(lambda: tls_session(served.port("new")))
        assert new is not None and new[0] == "TLSv1.3"
        assert await ask(lambda: tls_session(served.port("few"), **old)) == ("TLSv1.2", cipher)


@pytest.mark.parametrize(("window", "reason"), [("100ms", "unauthenticated"), ("1h", "banned")])
async def test_failure_window(tmp_path: Path, window: str, reason: str) -> None:
    """Failed logins longer ago than failure_window do not count towards a ban."""
    (tmp_path / "tokens").write_text(f"alice sha256:{sha256(b'good').hexdigest()}\n")
    per_address = {"max_failures": 2, "failure_window": window, "exempt": []}
    section = {"backend": "tcp://127.0.0.1:1", "match": "any", "auth": {"kind": "bearer", "tokens": "tokens"}}
    text = written(routes={"app": section}, limits={"per_address": per_address})
    async with serving(text, folder=tmp_path) as served:
        for expected in ("unauthenticated", "unauthenticated", reason):
            answer = b""
            reset = contextlib.suppress(trio.BrokenResourceError, OSError)  # what happens to a banned client
            with reset, await served.connect() as client:
                await client.send(request("/", "Authorization: Bearer wrong"))
                answer = await client.everything()
            assert answer.startswith(b"HTTP/1.1 401") is (expected == "unauthenticated")
            await trio.sleep(0.15)  # longer than the shorter window


async def test_used_tickets_per_identity(tmp_path: Path) -> None:
    """One identity fills no more than its part of the table."""
    key = "0123456789abcdef0123456789abcdef"
    (tmp_path / "key").write_text(key)
    async with backend() as server:
        section = {"backend": server.url, "match": "any", "auth": {"kind": "ticket", "key": {"file": "key"}}}
        text = written(routes={"app": section}, limits={"used_tickets_per_identity": 1})
        async with serving(text, folder=tmp_path) as served:
            for status in (101, 429):
                issued = int(time.time() * 1000) + MAX_CLOCK_SKEW_MS
                ticket = encode_ticket(Ticket(new_ticket_id(), "app", issued, issued + 30_000, "alice"), key.encode())
                with await served.connect() as client:
                    await client.send(request(f"/?ticket={ticket}"))
                    assert (await client.head()).split()[1] == str(status)


async def test_identity_bytes_per_second(tmp_path: Path) -> None:
    """The connections of one identity share a rate."""
    (tmp_path / "tokens").write_text(f"alice sha256:{sha256(b'good').hexdigest()}\n")
    size = 96 * 1024

    async def send(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(size))
        await silent(stream)

    async with backend(send) as server:
        auth = {"kind": "bearer", "tokens": "tokens"}
        limits = {"identity_bytes_per_second": 64 * 1024}
        section = {"backend": server.url, "match": "any", "auth": auth, "limits": limits}
        async with serving(written(routes={"app": section}), folder=tmp_path) as served:
            began = trio.current_time()
            with await served.upgraded("/", "Authorization: Bearer good") as client:
                assert await client.payload(size) == bytes(size)
            assert trio.current_time() - began > 0.3
