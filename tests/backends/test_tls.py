"""TLS backends: verification, the section's faults and warnings."""

import contextlib
import datetime
import os
from pathlib import Path

import pytest
import trio

from tests.backends.clients import client
from wsbridge.backends import Dialled, Offer, Services
from wsbridge.backends.tls import TlsBackend, TlsBackendConfig
from wsbridge.config.section import Context, Kinds
from wsbridge.net.resolve import Resolver
from wsbridge.net.tls import TlsError, server_context
from wsbridge.protocol.proxy_header import Place, ProxyHeaderReader
from wsbridge.reasons import Reason


@contextlib.asynccontextmanager
async def echo(context):
    """A TLS server that echoes, on a port of this machine."""

    async def serve(stream):
        secure = trio.SSLStream(stream, context, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in secure:
                await secure.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with trio.fail_after(10):
            yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def backend(port, **keys):
    """A backend for a port of this machine."""
    return TlsBackend(TlsBackendConfig(url=f"tls://127.0.0.1:{port}", **keys), Services(Resolver()))


async def test_tls(issue, ca_file):
    """A raw endpoint whose bytes travel encrypted."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await backend(port, ca=ca_file, server_name="gw.example.org").dial(Offer())
        assert isinstance(outcome, Dialled), outcome
        wire = outcome.endpoint.wire
        await wire.write_all(b"hello")
        assert await wire.read_some() == b"hello"
        wire.close()

    assert outcome.address == f"127.0.0.1:{port}"


async def test_the_client_is_introduced_before_tls(issue, ca_file):
    """The PROXY header comes in the clear, and the handshake follows it."""
    found = []

    async def serve(stream):
        reader = ProxyHeaderReader()
        while reader.outcome is None:
            reader.feed(await stream.receive_some(1))
        found.append(reader.outcome)
        secure = trio.SSLStream(stream, server_context([issue("gw.example.org")]), server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in secure:
                await secure.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        port = listener.socket.getsockname()[1]
        made = backend(port, ca=ca_file, server_name="gw.example.org", proxy_protocol="v2")
        with trio.fail_after(10):
            outcome = await made.dial(Offer(client=client()))
            assert isinstance(outcome, Dialled), outcome
            wire = outcome.endpoint.wire
            await wire.write_all(b"hello")
            assert await wire.read_some() == b"hello"
            wire.close()
        nursery.cancel_scope.cancel()

    assert found[0].source == Place("203.0.113.7", 4711)


@pytest.mark.parametrize(
    ("keys", "words"),
    [({}, "certificate verify failed"), ({"server_name": "x.example.org"}, "certificate verify failed")],
)
async def test_what_does_not_verify(issue, keys, words):
    """Is backend_tls with OpenSSL's words."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await backend(port, **keys).dial(Offer())

    assert outcome.reason is Reason.BACKEND_TLS
    assert words in outcome.detail


async def test_insecure(issue):
    """Only where it is written."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await backend(port, insecure=True).dial(Offer())
        assert isinstance(outcome, Dialled)
        outcome.endpoint.wire.close()


async def test_a_server_that_hangs_or_ends_in_the_handshake():
    """An end is backend_tls; a hang is the caller's to end, and leaves nothing open."""
    ended = trio.Event()
    reached = trio.Event()

    async def serve(stream):
        await stream.receive_some(65536)
        if not reached.is_set():
            reached.set()
            return
        reached.set()
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(65536):
                pass
        ended.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        made = backend(listener.socket.getsockname()[1])
        with trio.fail_after(10):
            outcome = await made.dial(Offer())
            with trio.move_on_after(0.05) as scope:
                await made.dial(Offer())
            await ended.wait()
        nursery.cancel_scope.cancel()

    assert outcome.reason is Reason.BACKEND_TLS
    assert scope.cancelled_caught


def test_files_that_cannot_be_used(tmp_path):
    """Are told when the backend is built."""
    path = tmp_path / "ca.pem"
    path.write_text("x")
    with pytest.raises(TlsError, match="holds no certificate"):
        backend(1, ca=path)


@pytest.fixture
def context():
    """What a file is read with."""
    return Context(Path.cwd(), os.environ, Kinds(), now=datetime.datetime.now(datetime.UTC))


def test_the_section_warns_of_insecure(context):
    """At each start."""
    loud = TlsBackendConfig(url="tls://gw:1", insecure=True)
    assert [fault.steps for fault in loud.cautions(context)] == [("insecure",)]
    assert list(TlsBackendConfig(url="tls://gw:1").cautions(context)) == []


def test_the_section_tells_of_a_bad_ca_file(tmp_path, context):
    """With its place."""
    path = tmp_path / "ca.pem"
    path.write_text("x")
    (fault,) = TlsBackendConfig(url="tls://gw:1", ca=path).faults(context)
    assert fault.steps == ("ca",)
    assert str(path) in fault.message
