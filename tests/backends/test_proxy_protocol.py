"""The PROXY header that a backend gets: of which client, and when."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.backends.clients import client, header_of
from tests.rejections import outcome
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.tcp import (
    ProxyProtocolSender,
    ProxyProtocolVersion,
    TcpBackend,
    TcpBackendConfig,
    UnixBackend,
    UnixBackendConfig,
)
from wsbridge.net.address import Peer
from wsbridge.net.resolver import Resolver
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol import proxy
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser, SockEndpoint
from wsbridge.reasons import Reason, Termination

UNIX = Peer("", 0, socket.AF_UNIX, pid=5)


def read(data: bytes) -> ProxyHeader:
    """Read a header that is all of the bytes."""
    reader = ProxyHeaderParser()
    assert reader.feed(data) == len(data)
    assert isinstance(reader.result, ProxyHeader)
    return reader.result


def test_version_1() -> None:
    """The line has the client and what it connected to."""
    assert ProxyProtocolSender("v1").build_header(client()) == b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"


def test_version_2() -> None:
    """Name, number of the connection and identity go with the addresses."""
    header = read(ProxyProtocolSender("v2").build_header(client()))
    assert (header.source, header.destination) == (SockEndpoint("203.0.113.7", 4711), SockEndpoint("192.0.2.1", 443))
    assert header.server_name == "gw.example.org"
    assert (header.tlvs[proxy.TLV_UNIQUE_ID], header.tlvs[proxy.TLV_IDENTITY]) == (b"17", b"alice")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_who_has_no_address(version: ProxyProtocolVersion) -> None:
    """A client of a Unix socket is UNKNOWN in version 1, and has its family in 2; none has no address either."""
    header = read(
        ProxyProtocolSender(version).build_header(
            client(peer=UNIX, local_address=SockEndpoint("", 0, b"/s"), identity=ANONYMOUS)
        )
    )
    assert header.source == (None if version == "v1" else SockEndpoint("", 0))
    assert proxy.TLV_IDENTITY not in header.tlvs
    assert read(ProxyProtocolSender(version).build_header(None)).source is None


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("unix", [False, True])
async def test_it_is_the_first_that_a_backend_gets(
    tmp_path: Path, version: ProxyProtocolVersion, at_once: bool, unix: bool
) -> None:
    """By TCP and by a Unix socket, with and without a wait, the header comes before the payload."""
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as server:
        server.bind(str(tmp_path / "s") if unix else ("127.0.0.1", 0))
        server.listen()
        backend: UnixBackend | TcpBackend
        if unix:
            config = UnixBackendConfig.model_validate({"url": f"unix:{tmp_path}/s", "proxy_protocol": version})
            backend = UnixBackend(config, DialServices(Resolver()))
        else:
            url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            tcp = TcpBackendConfig.model_validate({"url": url, "proxy_protocol": version})
            backend = TcpBackend(tcp, DialServices(Resolver()))
        offer = DialRequest(client=client())
        dialled = backend.connect_nowait(offer) if at_once else await backend.dial(offer)
        assert isinstance(dialled, Connected)
        dialled.side.transport.write([b"hello"])
        dialled.side.transport.close()
        with server.accept()[0] as sock:
            assert header_of(sock).source == SockEndpoint("203.0.113.7", 4711)
            assert sock.recv(100) == b"hello"


async def test_a_backend_that_breaks_off() -> None:
    """What cannot be sent ends the connection as one that the backend refused, and the socket is closed."""
    one, other = socket.socketpair()
    other.close()
    one.setblocking(False)
    end = outcome(ProxyProtocolSender("v2").send, SocketTransport(one), client(), "10.0.0.5:5900")
    text = "10.0.0.5:5900: the connection broke before the PROXY header was sent: Broken pipe"
    assert end.termination() == Termination(Reason.BACKEND_REFUSED, "backend", text)
    assert one.fileno() == -1
    ProxyProtocolSender(None).send(SocketTransport(one), client(), "10.0.0.5:5900")
