"""A peer that resets before and after each step of the spine, on either side, ends its own connection alone."""

import contextlib
import ssl
import struct

import pytest
import trio
import trio.testing

from tests.authority import folder, listener_tls, server_context
from tests.client import BINARY, CLOSE, Client, frame, request
from tests.serving import accept_upgrade, backend, echo, read_head, reset, serving, written

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError)

ENDINGS = {
    "client_lost",
    "client_closed",
    "tls_failed",
    "bad_request",
    "backend_reset",
    "backend_refused",
    "backend_tls",
    "backend_closed",
    "backend_timeout",
}
"""Reasons that a peer's reset may have, by how far it came."""


@contextlib.asynccontextmanager
async def with_canary(routes, *, tls, listeners=None):
    """Run a server with another connection that must go on echoing whatever happens beside it."""
    async with backend() as quiet:
        routes = {"canary": {"match": {"path": "/canary"}, "backend": quiet.url, "auth": "none"}, **routes}
        web = {"bind": "127.0.0.1:0", **({"tls": listener_tls()} if tls else {})}
        text = written(listeners={"web": web, **(listeners or {})}, routes=routes, timeouts={"connect": "20s"})
        async with serving(text) as served:
            with await served.upgraded("/canary", tls=tls) as canary:
                await canary.echoed()
                yield served
                await canary.echoed()
                await served.quiet(1)
                await canary.echoed(b"x" * 100_000)
                assert {line["reason"] for line in served.records.endings} <= ENDINGS
                await canary.close()


def client_hello():
    """Give the first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def vanish(client, how):
    """Reset a connection, or just close it."""
    if how == "reset":
        client.reset()
    else:
        client.drop()


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("speaks", ["websocket", "tcp"])
@pytest.mark.parametrize("part", ["nothing", "one byte", "half a hello", "a hello"])
async def test_front_before_and_in_the_tls_handshake(part, speaks, how):
    """A client goes before it says anything, or in the middle of the TLS handshake."""
    data = {"nothing": b"", "one byte": client_hello()[:1], "half a hello": client_hello()[:100]}.get(
        part, client_hello()
    )
    raw = {"raw": {"bind": "127.0.0.1:0", "tls": listener_tls(), "protocol": "tcp", "route": "canary"}}
    async with with_canary({}, tls=True, listeners=raw) as served:
        for pause in (False, True):
            client = await served.connect("web" if speaks == "websocket" else "raw")
            with contextlib.suppress(*GONE):
                await client.send(data)
            if pause:
                await trio.testing.wait_all_tasks_blocked(0.005)
            vanish(client, how)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("part", [0, 1, 40, None])
async def test_front_before_and_in_the_head(part, tls, how):
    """A client goes before, in or right after its request head, heard or not yet heard."""
    async with (
        backend() as back,
        with_canary({"app": {"match": "any", "backend": back.url, "auth": "none"}}, tls=tls) as served,
    ):
        for pause in (False, True):
            client = await served.connect(tls=tls)
            if part != 0:
                await client.send(request()[:part])
            if pause:
                await trio.testing.wait_all_tasks_blocked(0.005)
            vanish(client, how)
        await back.until(open=0)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("dial", ["before-upgrade", "after-upgrade"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("noticed", [False, True])
async def test_front_while_dialling(noticed, tls, dial, how):
    """A client goes while the backend is dialled: the 101 is written to nobody, and the backend is let go."""
    release = trio.Event()

    async def slow(stream):
        await read_head(stream)
        await release.wait()
        await echo(stream)

    async def slow_upgrade(stream):
        await release.wait()
        await accept_upgrade(stream)
        await echo(stream)

    async with backend(slow_upgrade) as back:
        route = {"match": "any", "backend": f"ws://127.0.0.1:{back.port}/", "auth": "none", "dial": {"when": dial}}
        async with with_canary({"app": route}, tls=tls) as served:
            client = await served.connect(tls=tls)
            await client.send(request())
            await back.until(dials=1)
            vanish(client, how)
            if noticed:
                await trio.testing.wait_all_tasks_blocked(0.005)
            release.set()
            await back.until(open=0)


async def come_to(client, when):
    """Bring a client that has its 101 to where it goes."""
    if when == "mid frame":
        await client.send(frame(BINARY, b"x" * 1000)[:500])
    elif when == "mid relay":
        await client.echoed(b"x" * 300_000)
        await client.send(frame(BINARY, b"x" * 300_000))
    elif when == "in a flood":
        await client.take(200_000)
    elif when == "after its close":
        await client.send(frame(CLOSE, b"\x03\xe8"))
    elif when == "at our close":
        await client.send(frame(BINARY, b"x"))
        assert (await client.closing())[0] == 1000


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "when", ["at the 101", "mid frame", "mid relay", "in a flood", "after its close", "at our close"]
)
async def test_front_from_the_101_to_the_end(when, tls, how):
    """A client goes right after the 101, in the middle of a frame, of the relay, or of the closing handshake."""

    async def server(stream):
        if when == "in a flood":
            while True:
                await stream.send_all(bytes(65536))
        if when == "at our close":
            await stream.receive_some(1)
            return
        await echo(stream)

    async with (
        backend(server) as back,
        with_canary({"app": {"match": "any", "backend": back.url, "auth": "none"}}, tls=tls) as served,
    ):
        client = await served.upgraded(tls=tls)
        await come_to(client, when)
        vanish(client, how)
        line = await served.records.wait("connection.closed")
        if when == "mid relay":
            assert line["reason"] == "client_lost"
        await back.until(open=0)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_front_of_a_refusal_and_of_a_file(when, tls, how, tmp_path):
    """A client goes while it is refused, or while a file is sent to it."""
    (tmp_path / "big").write_bytes(bytes(5_000_000))
    routes = {"page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}}
    async with with_canary(routes, tls=tls) as served:
        for head in (
            b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"bad\r\n\r\n",
        ):
            client = await served.connect(tls=tls)
            await client.send(head)
            if when == "after":
                await client.head()
            vanish(client, how)
            await served.quiet(1)


BACKS = ["tcp", "tls", "ws", "wss"]
STEPS = [
    "accepted",
    "mid TLS",
    "after TLS",
    "mid head",
    "after the 101",
    "glued to the 101",
    "mid relay",
    "at its close",
    "at our close",
]


def fits(kind, step):
    """Return whether a kind of backend has a step."""
    if "TLS" in step:
        return kind in ("tls", "wss")
    if "head" in step or "101" in step:
        return kind in ("ws", "wss")
    return True


async def serve_until(raw, kind, step):
    """Be a backend of this kind up to a step."""
    if step == "accepted":
        return
    stream = raw
    if kind in ("tls", "wss"):
        stream = trio.SSLStream(raw, server_context(), server_side=True, https_compatible=True)
        if step == "mid TLS":
            await raw.receive_some(100)
            return
        await stream.do_handshake()
    if step == "after TLS":
        return
    if kind in ("ws", "wss"):
        await upgrade_until(stream, step)
        if "head" in step or "101" in step:
            return
    await stream.receive_some(100)
    if step == "at its close":
        await say_the_end(raw, stream, kind)
    elif step == "at our close":
        with contextlib.suppress(*GONE, ssl.SSLError):
            await stream.receive_some(100)


async def upgrade_until(stream, step):
    """Answer a request for an upgrade, or half of it."""
    if step == "mid head":
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 101 Switching Pro")
        return
    last = frame(BINARY, b"last words", masked=False) if step == "glued to the 101" else b""
    await accept_upgrade(stream, glued=last)


async def say_the_end(raw, stream, kind):
    """End the stream in order, or under TLS say a last word."""
    if kind == "tcp":
        await raw.send_eof()
    elif kind == "tls":
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"bye")
    else:
        await stream.send_all(frame(CLOSE, struct.pack("!H", 1000), masked=False))


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("front", ["plain", "tls", "raw"])
@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind in BACKS for step in STEPS if fits(kind, step)])
async def test_back_at_every_step(kind, step, front, how):
    """A backend of each kind resets or closes at each step of the dial and the relay."""
    secure = kind in ("tls", "wss")

    async def server(raw):
        await serve_until(raw, kind, step)
        if how == "reset":
            reset(raw)
        else:
            raw.socket.close()

    async with backend(server) as back:
        host = "localhost" if secure else "127.0.0.1"
        url = {"url": f"{kind}://{host}:{back.port}" + ("/" if "w" in kind else "")}
        if secure:
            url["ca"] = str(folder() / "ca.pem")
        routes = {"app": {"match": {"path": "/app"}, "backend": url, "auth": "none"}}
        raw_listener = {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
        async with with_canary(routes, tls=front == "tls", listeners=raw_listener) as served:
            client = await served.connect("raw" if front == "raw" else "web", tls=front == "tls")
            with contextlib.suppress(*GONE):
                if front == "raw":
                    await client.send(b"hello")
                    if step == "at our close":
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        await client.stream.send_eof()
                    await client.everything()
                else:
                    await talk(client, step)
            client.drop()
            line = await served.records.ended()
            if step == "mid relay" and how == "reset":
                assert line["reason"] == "backend_reset"
            await back.until(open=0)


async def talk(client, step):
    """Be a WebSocket client whose backend goes away: whatever it gets is an answer or a close frame, never junk."""
    await client.send(request("/app"))
    head = await client.head()
    if not head.startswith("HTTP/1.1 101 "):
        assert head.startswith("HTTP/1.1 502 ")
        return
    await client.send(frame(BINARY, b"hello"))
    if step == "at our close":
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(frame(CLOSE, b"\x03\xe8"))
    code, _ = await client.closing()
    assert code in (1000, 1011)
    await client.send(frame(CLOSE, code.to_bytes(2, "big")))
    await client.everything()


async def test_many_at_once():
    """A hundred clients that reset at different moments leave the server as it was."""
    async with (
        backend() as back,
        with_canary({"app": {"match": "any", "backend": back.url, "auth": "none"}}, tls=True) as served,
    ):

        async def visit(number):
            try:
                client = await Client.connect(served.port(), tls=number % 2 == 0)
            except GONE:
                return
            with contextlib.suppress(*GONE, EOFError):
                await client.send(request()[: number * 3])
                if number > 70:
                    await client.head()
                    await client.send(frame(BINARY, b"x" * 5000)[: number * 50])
            client.reset()

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(visit, number)
        await back.until(open=0)
