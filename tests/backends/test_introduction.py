"""Introductions: the PROXY header that a backend gets, of whom, and when."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.backends.clients import client, header_of
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.backends import Dialled, Offer, Services
from wsbridge.backends.introduction import Introduction, Version
from wsbridge.backends.tcp import TcpBackend, TcpBackendConfig
from wsbridge.backends.unix import UnixBackend, UnixBackendConfig
from wsbridge.net.address import Peer
from wsbridge.net.resolve import Resolver
from wsbridge.net.wire import SocketWire
from wsbridge.protocol import proxy_tlv
from wsbridge.protocol.proxy_header import Place, ProxyHeader, ProxyHeaderReader
from wsbridge.reasons import End, Reason

UNIX = Peer("", 0, socket.AF_UNIX, pid=5)


def read(data: bytes) -> ProxyHeader:
    """Read a header that is all of the bytes."""
    reader = ProxyHeaderReader()
    assert reader.feed(data) == len(data)
    assert isinstance(reader.outcome, ProxyHeader)
    return reader.outcome


def test_version_1() -> None:
    """The line has the client and what it connected to."""
    assert Introduction("v1").header(client()) == b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"


def test_version_2() -> None:
    """Name, number of the connection and identity go with the addresses."""
    header = read(Introduction("v2").header(client()))
    assert (header.source, header.destination) == (Place("203.0.113.7", 4711), Place("192.0.2.1", 443))
    assert header.server_name == "gw.example.org"
    assert (header.tlvs[proxy_tlv.UNIQUE_ID], header.tlvs[proxy_tlv.IDENTITY]) == (b"17", b"alice")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_who_has_no_address(version: Version) -> None:
    """A client of a Unix socket is UNKNOWN in version 1, and has its family in 2; nobody at all speaks for himself."""
    header = read(Introduction(version).header(client(peer=UNIX, local=Place("", 0, b"/s"), identity=ANONYMOUS)))
    assert header.source == (None if version == "v1" else Place("", 0))
    assert proxy_tlv.IDENTITY not in header.tlvs
    assert read(Introduction(version).header(None)).source is None


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("unix", [False, True])
async def test_it_is_the_first_that_a_backend_gets(tmp_path: Path, version: Version, at_once: bool, unix: bool) -> None:
    """By TCP and by a Unix socket, with and without a wait, the header comes before the payload."""
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as server:
        server.bind(str(tmp_path / "s") if unix else ("127.0.0.1", 0))
        server.listen()
        backend: UnixBackend | TcpBackend
        if unix:
            config = UnixBackendConfig.model_validate({"url": f"unix:{tmp_path}/s", "proxy_protocol": version})
            backend = UnixBackend(config, Services(Resolver()))
        else:
            url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            tcp = TcpBackendConfig.model_validate({"url": url, "proxy_protocol": version})
            backend = TcpBackend(tcp, Services(Resolver()))
        offer = Offer(client=client())
        dialled = backend.at_once(offer) if at_once else await backend.dial(offer)
        assert isinstance(dialled, Dialled)
        dialled.endpoint.wire.write([b"hello"])
        dialled.endpoint.wire.close()
        with server.accept()[0] as sock:
            assert header_of(sock).source == Place("203.0.113.7", 4711)
            assert sock.recv(100) == b"hello"


async def test_a_backend_that_breaks_off() -> None:
    """What cannot be sent ends the connection as one that the backend refused, and the socket is closed."""
    one, other = socket.socketpair()
    other.close()
    one.setblocking(False)
    end = Introduction("v2").send(SocketWire(one), client(), "10.0.0.5:5900")
    assert end == End(
        Reason.BACKEND_REFUSED, "back", "10.0.0.5:5900: broke off before the PROXY header had gone: Broken pipe"
    )
    assert one.fileno() == -1
    assert Introduction(None).send(SocketWire(one), client(), "10.0.0.5:5900") is None
