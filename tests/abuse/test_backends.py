"""Backends and upstreams that misbehave: what the client gets, and what it never gets."""

import struct

import pytest
import trio

from tests.client import BINARY, CLOSE, KEY, accept_of, frame, request
from tests.rejections import rejection_body, without_id
from tests.serving import accept_upgrade, backend, read_head, reset, serving, written

SECRET = b"bytes of the backend's private conversation"

GOOD = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_of(KEY)}\r\n"
ANSWERS = {
    "200": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "200 with Upgrade": "HTTP/1.1 200 OK\r\n@GOOD@\r\n",
    "426": "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "401": "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n",
    "302": "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n",
    "101 without Upgrade": "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: @ACCEPT@\r\n\r\n",
    "101 without Connection": "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: @ACCEPT@\r\n\r\n",
    "101 with a wrong Accept": f"HTTP/1.1 101 Switching\r\n{GOOD}\r\n",
    "101 without Accept": "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "101 with an extension": "HTTP/1.1 101 Switching\r\n@GOOD@Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    "101 with a subprotocol": "HTTP/1.1 101 Switching\r\n@GOOD@Sec-WebSocket-Protocol: other\r\n\r\n",
    "101 in HTTP/1.0": "HTTP/1.0 101 Switching\r\n@GOOD@\r\n",
    "six 100s": "HTTP/1.1 100 Continue\r\n\r\n" * 6 + "HTTP/1.1 101 Switching\r\n@GOOD@\r\n",
    "not HTTP": "SSH-2.0-OpenSSH\r\n",
    "nothing": "",
    "half a head": "HTTP/1.1 101 Swit",
    "70 KB header": "HTTP/1.1 101 Switching\r\nX: " + "x" * 70_000 + "\r\n@GOOD@\r\n",
    "2,000 headers": "HTTP/1.1 101 Switching\r\n" + "X: 1\r\n" * 2000 + "@GOOD@\r\n",
}


@pytest.mark.parametrize("dial", ["before-upgrade", "after-upgrade"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_upstream_that_does_not_upgrade(answer, dial):
    """Anything but a right 101 is a clean 502 (or 1014); no byte or Location passes, and a status only by the list."""
    status = int(answer.split(" ")[1]) if answer.startswith("HTTP/1.1 ") else 0
    reason = "backend_rejected" if status >= 200 else "backend_refused"

    async def upstream(stream):
        head = await read_head(stream)
        key = next(line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        good = GOOD.replace(accept_of(KEY), accept_of(key))
        text = answer.replace("@GOOD@", good).replace("@ACCEPT@", accept_of(key))
        await stream.send_all(text.encode())
        if text.endswith("\r\n"):
            await stream.send_all(frame(BINARY, SECRET, masked=False) + SECRET)
            while await stream.receive_some(65536):
                pass

    async with backend(upstream) as back:
        route = {"backend": f"ws://127.0.0.1:{back.port}/", "dial": {"when": dial}}
        async with serving(written(route=route)) as served:
            with await served.connect() as client:
                await client.send(request())
                if dial == "after-upgrade":
                    assert "101" in await client.head()
                    assert (await client.closing()) == (1014, reason)
                    await client.send(frame(CLOSE, struct.pack("!H", 1014)))
                    assert await client.everything() == b""
                else:
                    got = (await client.everything()).decode()
                    assert got.startswith(f"HTTP/1.1 {401 if status == 401 else 502} ")
                    assert without_id(got).endswith("\r\n\r\n" + rejection_body(reason))
                    for word in ("Location", "evil", "WWW-Authenticate", "private"):
                        assert word not in got
            line = await served.records.ended()
            assert (line["reason"], line["initiator"]) == (reason, "backend")
            assert line["detail"]
            await back.until(open=0)


async def test_hostile_text_of_an_upstream_is_escaped():
    """What a backend says is shown in the log as plain, bounded text, and never to the client."""

    async def upstream(stream):
        await read_head(stream)
        nasty = "HTTP/1.1 500 <script>\x1b\r\n\r\n<script>alert(1)</script>\x1b[31m\u202e\n".encode()
        await stream.send_all(nasty.replace(b"\x1b\r\n\r\n", b"\xe2\x80\xae\r\n\r\n"))

    async with backend(upstream) as back, serving(written(route={"backend": f"ws://127.0.0.1:{back.port}/"})) as served:
        with await served.connect() as client:
            await client.send(request())
            assert b"script" not in await client.everything()
        detail = (await served.records.ended())["detail"]
        assert "500" in detail
        assert detail.isascii()
        assert detail.isprintable()


async def test_a_close_reason_of_an_upstream_stays_text():
    """A close reason passes through unchanged as text of the close frame, and is in the detail of the log alone."""

    async def upstream(stream):
        await accept_upgrade(stream)
        await stream.send_all(frame(CLOSE, struct.pack("!H", 4001) + b"<script>", masked=False))
        while await stream.receive_some(100):
            pass

    async with backend(upstream) as back, serving(written(route={"backend": f"ws://127.0.0.1:{back.port}/"})) as served:
        client = await served.upgraded()
        assert await client.closing() == (4001, "<script>")
        client.drop()
        line = await served.records.wait("connection.closed")
        assert line["close_code"] == 4001
        assert "closed with 4001: <script>" in line["detail"]
        assert "script" not in str({key: value for key, value in line.items() if key != "detail"})


async def test_everything_sent_before_the_end_arrives():
    """A backend that sends a lot and closes at once, with input unread: all of its bytes come, then 1000."""

    async def hasty(stream):
        await stream.send_all(bytes(3_000_000))

    async with backend(hasty) as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        await client.send(frame(BINARY, b"unread"))
        total = 0
        while True:
            opcode, body = await client.frame()
            if opcode == CLOSE:
                break
            total += len(body)
        # with our input unread, its close is a reset: then what its kernel had not sent yet is lost, and 1011 says so
        assert total == 3_000_000 or int.from_bytes(body[:2], "big") == 1011
        client.drop()


async def test_a_backend_that_never_reads():
    """Uploads into a backend that never reads are held back; after `write` without progress it is stalled."""

    async def deaf(_stream):
        await trio.sleep_forever()

    timeouts = {"write": "500ms", "ping_interval": "off"}
    async with backend(deaf) as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        client = await served.upgraded()

        async def upload():
            block = frame(BINARY, bytes(60_000))
            try:
                while True:
                    await client.send(block)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            line = await served.records.wait("connection.closed")
            nursery.cancel_scope.cancel()
        assert (line["reason"], line["initiator"]) == ("write_stalled", "backend")
        client.drop()


async def test_a_client_held_back_by_the_backend_is_not_blamed():
    """While a backend does not read, its client is not read either, and so none of its pongs can be missed."""
    release = trio.Event()

    async def late(stream):
        await release.wait()
        total = 0
        while total < 20_000_000:
            total += len(await stream.receive_some(262_144))
        await stream.send_all(b"all of it")
        await stream.receive_some(1)

    timeouts = {"ping_interval": "200ms", "ping_timeout": "1s", "write": "60s"}
    async with backend(late) as back, serving(written(route={"backend": back.url}, timeouts=timeouts)) as served:
        client = await served.upgraded()

        async def upload():
            for _ in range(400):
                await client.send(frame(BINARY, bytes(50_000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.sleep(1.5)  # more than ping_interval and ping_timeout: the time itself is tested
            assert not served.records.endings
            release.set()
            assert await client.payload(9) == b"all of it"
        client.drop()


async def test_a_backend_that_resets_while_it_is_accepted():
    """Resets at the moment of connecting end that connection alone."""

    async def rude(stream):
        reset(stream)

    async with backend(rude) as back, serving(written(route={"backend": back.url})) as served:
        for _ in range(30):
            with await served.connect() as client:
                await client.send(request())
                if "101" in await client.head():
                    assert await client.closing() == (1011, "backend_reset")
                client.reset()
        for count in range(1, 31):
            assert (await served.records.ended(count))["reason"] in ("backend_reset", "backend_refused")


@pytest.mark.parametrize(
    "path",
    [
        "//host/%2f..",
        "/%2f%2fhost",
        "//evil.example",
        "/\\evil.example",
        "/..//evil",
        "/a//",
        "/.",
        "/x/..",
        "/%5cevil",
    ],
)
@pytest.mark.parametrize("upgrade", [False, True])
async def test_no_redirect_is_ever_built(path, upgrade, tmp_path):
    """No path brings about a Location header or a 3xx (CVE-2021-3654)."""
    (tmp_path / "x").mkdir()
    routes = {
        "app": {"match": "any", "backend": "tcp://127.0.0.1:9", "auth": "none"},
        "page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"},
    }
    async with serving(written(routes=routes)) as served:
        with await served.connect() as client:
            plain = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            await client.send(request(path) if upgrade else plain)
            answer = await client.everything()
        # empty segments merge: what is left is a path of the route, here without a backend or a file
        merged = path in ("//evil.example", "/a//")
        expected = (b"502" if upgrade else b"404") if merged else b"400"
        assert answer.startswith(b"HTTP/1.1 " + expected + b" ")
        assert b"ocation:" not in answer
