"""TLS backends: verification, the section's faults and warnings."""

import contextlib
import datetime
import hashlib
import os
import re
import ssl
from collections import deque
from pathlib import Path

import pytest
import trio

from tests.backends.clients import client
from tests.rejections import async_outcome
from tests.tls_contexts import server_context
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.tcp import TlsBackend, TlsBackendConfig
from wsbridge.config.base import LoadContext, Registry
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import TlsError
from wsbridge.protocol.proxy import ProxyHeaderParser, SockEndpoint
from wsbridge.reasons import Reason

PEM_END = "-----END CERTIFICATE-----\n"


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
    return TlsBackend(TlsBackendConfig(url=f"tls://127.0.0.1:{port}", **keys), DialServices(Resolver()))


async def test_tls(issue, ca_file):
    """A raw endpoint whose bytes travel encrypted."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await async_outcome(backend(port, ca=ca_file, server_name="gw.example.org").dial(DialRequest()))
        assert isinstance(outcome, Connected), outcome
        wire = outcome.side.transport
        await wire.write_all(b"hello")
        assert await wire.read_some() == b"hello"
        wire.close()

    assert outcome.address == f"127.0.0.1:{port}"


async def test_the_handshake_is_a_step_of_the_dial(issue, ca_file):
    """At level debug it has version, cipher suite and certificate, with the end of its validity."""
    dial_request = DialRequest()
    dial_request.progress.steps = deque()
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await async_outcome(backend(port, ca=ca_file, server_name="gw.example.org").dial(dial_request))
        assert isinstance(outcome, Connected), outcome
        outcome.side.transport.close()
        dial_request.progress.enter("")

    last = dial_request.progress.steps[-1]
    assert re.fullmatch(
        rf"TLS handshake with 127\.0\.0\.1:{port}: TLSv1\.3 TLS_\w+, certificate .* until .* GMT \([0-9.]+ s\)", last
    )


async def test_the_client_is_introduced_before_tls(issue, ca_file):
    """The PROXY header comes in the clear, and the handshake follows it."""
    found = []

    async def serve(stream):
        reader = ProxyHeaderParser()
        while reader.result is None:
            reader.feed(await stream.receive_some(1))
        found.append(reader.result)
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
            outcome = await async_outcome(made.dial(DialRequest(client=client())))
            assert isinstance(outcome, Connected), outcome
            wire = outcome.side.transport
            await wire.write_all(b"hello")
            assert await wire.read_some() == b"hello"
            wire.close()
        nursery.cancel_scope.cancel()

    assert found[0].source == SockEndpoint("203.0.113.7", 4711)


@pytest.mark.parametrize(
    ("keys", "words"),
    [({}, "certificate verify failed"), ({"server_name": "x.example.org"}, "certificate verify failed")],
)
async def test_what_does_not_verify(issue, keys, words):
    """Is backend_tls with OpenSSL's words."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await async_outcome(backend(port, **keys).dial(DialRequest()))

    assert outcome.reason is Reason.BACKEND_TLS
    assert words in outcome.detail


async def test_insecure(issue):
    """Only where it is written."""
    async with echo(server_context([issue("gw.example.org")])) as port:
        outcome = await async_outcome(backend(port, insecure=True).dial(DialRequest()))
        assert isinstance(outcome, Connected)
        outcome.side.transport.close()


async def test_a_pinned_certificate_needs_no_authority(issue):
    """The fingerprint decides, written as openssl prints it; one of several is enough, another certificate is none."""
    pair, other = issue("gw.example.org"), issue("other.example.org")
    pins = []
    for cert, _ in (pair, other):
        der = ssl.PEM_cert_to_DER_cert(cert.read_text().partition("-----END CERTIFICATE-----")[0] + PEM_END)
        pins.append(hashlib.sha256(der).hexdigest())
    async with echo(server_context([pair])) as port:
        for pin in (bytes.fromhex(pins[0]).hex(":").upper(), [pins[1], pins[0]]):
            outcome = await async_outcome(backend(port, pin_sha256=pin).dial(DialRequest()))
            assert isinstance(outcome, Connected), outcome
            outcome.side.transport.close()
        outcome = await async_outcome(backend(port, pin_sha256=pins[1]).dial(DialRequest()))

    assert outcome.reason is Reason.BACKEND_TLS
    assert outcome.detail.endswith(
        f"the certificate has the SHA-256 fingerprint {bytes.fromhex(pins[0]).hex(':').upper()}, "
        "which is none of pin_sha256"
    )


@pytest.mark.parametrize("pin", ["abc", "g" * 64, "sha1:" + "a" * 40])
def test_what_is_no_fingerprint(pin):
    """The message has the form."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        backend(1, pin_sha256=pin)


async def test_a_server_that_hangs_or_ends_in_the_handshake():
    """An end is backend_tls; a hang is the caller's to end, and leaves nothing open."""
    reached, hanging, ended = trio.Event(), trio.Event(), trio.Event()

    async def serve(stream):
        await stream.receive_some(65536)
        if not reached.is_set():
            reached.set()
            return
        hanging.set()
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(65536):
                pass
        ended.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        made = backend(listener.socket.getsockname()[1])
        with trio.fail_after(10):
            outcome = await async_outcome(made.dial(DialRequest()))
            async with trio.open_nursery() as dialing:
                dialing.start_soon(made.dial, DialRequest())
                await hanging.wait()
                dialing.cancel_scope.cancel()
            await ended.wait()
        nursery.cancel_scope.cancel()

    assert outcome.reason is Reason.BACKEND_TLS


def test_files_that_cannot_be_used(tmp_path):
    """Unusable files are reported when the backend is built."""
    path = tmp_path / "ca.pem"
    path.write_text("x")
    with pytest.raises(TlsError, match="holds no certificate"):
        backend(1, ca=path)


@pytest.fixture
def context():
    """What a file is read with."""
    return LoadContext(Path.cwd(), os.environ, Registry(), now=datetime.datetime.now(datetime.UTC))


def test_the_section_warns_of_insecure(context):
    """At each start."""
    loud = TlsBackendConfig(url="tls://gw:1", insecure=True)
    assert [fault.key_path for fault in loud.warnings(context)] == [("insecure",)]
    assert list(TlsBackendConfig(url="tls://gw:1").warnings(context)) == []


def test_the_section_tells_of_a_bad_ca_file(tmp_path, context):
    """With its place."""
    path = tmp_path / "ca.pem"
    path.write_text("x")
    (fault,) = TlsBackendConfig(url="tls://gw:1", ca=path).validate_values(context)
    assert fault.key_path == ("ca",)
    assert str(path) in fault.message
