"""TLS handshakes of clients, on each engine: without a task, in pieces, too slow, broken, and while the server ends."""

from __future__ import annotations

import contextlib
import gc
import ssl

import pytest
import trio
import trustme

from tests.authority import folder
from tests.client import BINARY, Client, frame, request
from tests.client_authority import ClientAuthority
from tests.serving import backend, serving, written
from wsbridge import native
from wsbridge.connection import Connection
from wsbridge.reasons import Reason

ENGINES = ["python"] if native.load() is None else ["python", "native"]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class SlowClient:
    """A client that shakes hands a flight at a time.

    Args:
        plain: Connected.
        version: Of TLS.

    Attributes:
        is_done: Whether the handshake is complete for the client.
    """

    def __init__(self, plain: Client, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(folder() / "ca.pem"))
        context.minimum_version = context.maximum_version = version
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.is_done = False

    def next_flight(self) -> bytes:
        """Give what it has to send now."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.is_done = True
        return self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Give data as records."""
        self._tls.write(data)
        return self._outgoing.read()

    async def receive(self) -> None:
        """Take in what the server has sent."""
        await self.plain.more()
        self._incoming.write(self.plain.buffer)
        self.plain.buffer = b""

    async def read_until(self, end: bytes) -> bytes:
        """Read payload until it has this, or to its end."""
        data = b""
        while end not in data:
            try:
                more = self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self.receive()
                continue
            if not more:
                break
            data += more
        return data


@contextlib.asynccontextmanager
async def listening(engine, version=None, timeouts=None):
    """Serve TLS; also give the names of the runs that got a task."""
    async with backend() as back:
        text = written(route={"backend": back.url}, tls=True, engine=engine, timeouts=timeouts)
        async with serving(text) as served:
            tasks = []
            runner = served.server.services.runner
            start_task = runner._start_task
            runner._start_task = lambda run: (tasks.append(run), start_task(run))
            yield served, tasks


async def waiting(served, count=1):
    """Wait until so many connections wait for their clients without a task."""
    with trio.fail_after(9):
        while served.server.services.runner.waiting < count:
            await trio.sleep(0.002)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [7, 5000])
async def test_a_handshake_needs_no_task(engine, version, size):
    """In whatever pieces it comes; nor does a request that comes with the end of the handshake."""
    async with listening(engine) as (served, tasks):
        client = SlowClient(await served.connect(), version)
        await waiting(served)
        while not client.is_done:
            flight = client.next_flight()
            if client.is_done and version is ssl.TLSVersion.TLSv1_3:
                flight += client.encrypt(request("/"))
            for at in range(0, len(flight), size):
                await client.plain.send(flight[at : at + size])
                await trio.sleep(0)
            if not client.is_done:
                await client.receive()
        if version is ssl.TLSVersion.TLSv1_2:
            await client.plain.send(client.encrypt(request("/")))
        assert b" 101 " in await client.read_until(b"\r\n\r\n")
        await client.plain.send(client.encrypt(frame(BINARY, b"hello")))
        assert await client.read_until(b"hello") == b"\x82\x05hello"
        assert tasks == []
        client.plain.drop()
        assert (await served.records.ended())["tls"] == version.name.replace("_", ".")


@pytest.mark.parametrize("engine", ENGINES)
async def test_bytes_that_trickle_in_do_not_move_the_deadline(engine):
    """The time is that of the whole handshake."""
    async with listening(engine, timeouts={"tls": "300ms"}) as (served, _):
        client = SlowClient(await served.connect())
        began = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            for byte in client.next_flight():
                await client.plain.send(bytes([byte]))
                await trio.sleep(0.01)
        line = await served.records.wait("connection.rejected")
        assert (line["reason"], line["detail"]) == ("tls_failed", "no TLS handshake within tls, 0.3 s")
        assert 0.25 < trio.current_time() - began < 8
        client.plain.drop()


async def at_stage(served, stage):
    """Give a client that has stopped in its handshake."""
    client = SlowClient(await served.connect())
    if stage == "hello cut":
        await client.plain.send(client.next_flight()[:60])
    elif stage == "hello sent":
        await client.plain.send(client.next_flight())
        await client.receive()
    await waiting(served)
    return client


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", ["nothing sent", "hello cut", "hello sent"])
async def test_a_handshake_can_be_ended_by_an_operator(engine, stage):
    """At once, with the operator's reason."""
    async with listening(engine) as (served, _):
        client = await at_stage(served, stage)
        (connection,) = served.server.connections.values()
        assert connection.end(Reason.CLOSED_BY_OPERATOR, "by hand")
        line = await served.records.ended()
        assert (line["reason"], line["detail"]) == ("closed_by_operator", "by hand")
        client.plain.drop()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", ["nothing sent", "hello sent"])
async def test_a_drain_lets_a_handshake_come_to_its_end(engine, stage):
    """Then the request is rejected by a response, as any other."""
    async with listening(engine, timeouts={"drain": "10s"}) as (served, _):
        client = await at_stage(served, stage)
        served.server.stop(Reason.DRAINING)
        await trio.sleep(0.02)
        while not client.is_done:
            await client.plain.send(client.next_flight())
            if not client.is_done:
                await client.receive()
        await client.plain.send(client.encrypt(request("/")))
        assert b" 503 " in await client.read_until(b"\r\n\r\n")
        assert (await served.records.ended())["reason"] == "draining"
        client.plain.drop()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", ["nothing sent", "hello cut", "hello sent"])
async def test_a_shutdown_cuts_handshakes(engine, stage):
    """After `close`, with its own reason."""
    async with listening(engine, timeouts={"close": "100ms"}) as (served, _):
        client = await at_stage(served, stage)
        served.server.stop(Reason.SHUTDOWN)
        line = await served.records.ended()
        assert line["reason"] == "shutdown"
        with trio.fail_after(9):
            await served.returned.wait()
        client.plain.drop()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x03\x00\x28" + bytes(40), b"\x17\x03\x03\xff\xff"]
)
async def test_garbage_in_place_of_the_last_flight(engine, version, garbage):
    """It is named, the client gets an alert, and other connections go on."""
    async with listening(engine) as (served, _):
        client = SlowClient(await served.connect(), version)
        await client.plain.send(client.next_flight())
        await client.receive()
        await waiting(served)
        await client.plain.send(garbage)
        line = await served.records.ended()
        assert line["reason"] == "tls_failed"
        assert line["detail"]
        rest = await client.plain.everything()
        assert rest[-7:][:3] == b"\x15\x03\x03" or b"\x17\x03\x03" in rest, rest
        client.plain.drop()
        other = await served.upgraded(tls=True)
        await other.echoed()
        other.drop()


def connections() -> int:
    """Count the connections that are still in memory."""
    gc.collect()
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_client_whose_certificate_is_rejected_leaves_nothing(tmp_path, engine):
    """Neither the connection nor what it refers to stays in memory, so that nobody can fill it without a login."""
    text = written(
        listeners={"web": {"bind": "127.0.0.1:0", "tls": ClientAuthority(tmp_path).listener_tls()}},
        route={"respond": "204", "auth": "none"},
        engine=engine,
    )
    context = ssl.create_default_context(cafile=str(folder() / "ca.pem"))
    trustme.CA().issue_cert("mallory").configure_cert(context)
    before = connections()
    async with serving(text) as served:
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", served.port()) as plain:
                stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(request())
                    await stream.receive_some()
        line = await served.records.wait("connection.rejected", count=3, reason="tls_failed")
        assert "unable to get local issuer certificate" in line["detail"]
        await served.quiet()
        assert connections() == before


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_backend_whose_certificate_is_rejected_leaves_nothing(engine):
    """The same of the connections of clients whose backend cannot be verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    async def shake(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await trio.SSLStream(stream, context, server_side=True).do_handshake()

    before = connections()
    async with backend(shake) as back:
        address = {"url": back.url.replace("tcp://127.0.0.1", "tls://localhost"), "ca": str(folder() / "ca.pem")}
        async with serving(written(route={"backend": address}, engine=engine)) as served:
            for _ in range(3):
                client = await served.connect()
                await client.send(request())
                assert (await client.head()).startswith("HTTP/1.1 502 ")
                client.drop()
            await served.records.wait("connection.rejected", count=3, reason="backend_tls")
            await served.quiet()
            assert connections() == before
