"""Whence: whose word on a client's address is taken, and what it makes of the peer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Literal

import pytest
import trio
import trio.testing

from tests.rejections import async_outcome, outcome
from wsbridge.net.address import Peer
from wsbridge.protocol.forwarded import ForwardedFormat
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.protocol.proxy import SockEndpoint, encode_proxy_v1, encode_proxy_v2
from wsbridge.real_ip import ClientAddressResolver
from wsbridge.reasons import Reason, Rejected, Termination

PROXY = Peer("10.0.0.1", 999, socket.AF_INET)
STRANGER = Peer("203.0.113.9", 999, socket.AF_INET)
LOCAL = Peer("", 0, socket.AF_UNIX, pid=5, uid=6)


def whence(told: Literal["proxy-protocol"] | ForwardedFormat = "proxy-protocol") -> ClientAddressResolver:
    """Trust 10.0.0.0/24 and Unix sockets."""
    return ClientAddressResolver((ip_network("10.0.0.0/24"), "unix"), told, 3.0, 4096)


@contextmanager
def sent(data: bytes) -> Iterator[socket.socket]:
    """Give our end of a connection on which so much has come, and no more will."""
    one, other = socket.socketpair()
    other.setblocking(False)
    with one, other:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        yield other


async def introduced(data: bytes, peer: Peer = PROXY) -> Peer | Rejected:
    """Read what came."""
    with sent(data) as sock:
        return await async_outcome(whence().from_connection(sock, peer))


@pytest.mark.parametrize("peer", [PROXY, LOCAL])
@pytest.mark.parametrize("write", [encode_proxy_v1, encode_proxy_v2])
async def test_a_trusted_proxy_is_believed(peer: Peer, write: object) -> None:
    """The client is the peer, and the proxy stands in the way that it came."""
    assert callable(write)
    asked = SockEndpoint("192.0.2.1", 443)
    client = await introduced(write(SockEndpoint("203.0.113.7", 5), asked), peer)
    assert client == Peer("203.0.113.7", 5, socket.AF_INET, via=(peer.host or "unix",), destination=asked)
    client = await introduced(write(SockEndpoint("2001:db8::7", 5), SockEndpoint("::1", 443)), peer)
    assert isinstance(client, Peer)
    assert (client.host, client.family, client.pid) == ("2001:db8::7", socket.AF_INET6, None)


async def test_a_mapped_address_is_told_as_ipv4() -> None:
    """An IPv4 client of a dual-stack proxy is held against IPv4 networks."""
    client = await introduced(encode_proxy_v1(SockEndpoint("::ffff:203.0.113.7", 5), SockEndpoint("::1", 443)))
    assert isinstance(client, Peer)
    assert (client.host, client.family) == ("203.0.113.7", socket.AF_INET)


async def test_a_client_of_a_unix_socket_and_a_name() -> None:
    """The family of the client and the name it asked for are taken over."""
    client = await introduced(encode_proxy_v2(SockEndpoint("", 0, b"/x"), None, server_name="gw.example.org"))
    assert client == Peer("", 0, socket.AF_UNIX, via=("10.0.0.1",), sni="gw.example.org")


@pytest.mark.parametrize("header", [encode_proxy_v1(None, None), encode_proxy_v2(None, None)])
async def test_a_proxy_that_speaks_for_itself(header: bytes) -> None:
    """A health check comes from the proxy's own address."""
    assert await introduced(header) is PROXY


@pytest.mark.parametrize(
    ("data", "peer", "reason", "text"),
    [
        (
            encode_proxy_v2(SockEndpoint("10.0.0.1", 5), None),
            STRANGER,
            Reason.BAD_PROXY_HEADER,
            "203.0.113.9 is none of trusted_prox",
        ),
        (b"", STRANGER, Reason.BAD_PROXY_HEADER, "203.0.113.9 is none of trusted_proxies"),
        (b"GET / HTTP/1.1\r\n", PROXY, Reason.BAD_PROXY_HEADER, 'no PROXY header: it begins with "G"'),
        (b"PROXY TCP4 ", PROXY, Reason.BAD_PROXY_HEADER, "closed after 11 bytes of a PROXY header"),
        (b"PROXY TCP4 1.2.3.4\r\n", PROXY, Reason.BAD_PROXY_HEADER, "3 fields, not 6"),
        (b"", PROXY, Reason.CLIENT_LOST, "sent nothing"),
    ],
)
async def test_who_is_turned_away(data: bytes, peer: Peer, reason: Reason, text: str) -> None:
    """A header that is absent or malformed, and everybody who is no trusted proxy, ends the connection."""
    end = await introduced(data, peer)
    assert isinstance(end, Rejected)
    assert end.reason is reason
    assert text in end.detail


async def test_a_late_header(autojump_clock: trio.testing.MockClock) -> None:
    """What is not whole in time ends the connection; how much came is told."""
    one, other = socket.socketpair()
    other.setblocking(False)
    with one, other:
        one.send(b"PROXY ")
        end = await async_outcome(whence().from_connection(other, PROXY))
    text = "no whole PROXY header within proxy_header, 3 s; 6 bytes came"
    assert isinstance(end, Rejected)
    assert end.termination() == Termination(Reason.BAD_PROXY_HEADER, "client", text)


@pytest.mark.parametrize(("sent", "detail"), [(b"PROXY ", "bytes of a PROXY header: "), (b"", "sent nothing")])
async def test_a_reset_within_the_header(sent: bytes, detail: str) -> None:
    """A proxy that vanishes is told as a client that is lost; without a byte, as one that only looked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    with other:
        other.setblocking(False)
        one.sendall(sent)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
        end = await async_outcome(whence().from_connection(other, PROXY))
    assert isinstance(end, Rejected)
    assert end.reason is Reason.CLIENT_LOST
    assert detail in end.detail


def asking(*lines: tuple[bytes, bytes]) -> Request:
    """Give a request with such header lines."""
    return Request("GET", "/", "1.1", Headers(lines))


async def test_requests_that_tell() -> None:
    """A trusted proxy's header line counts, hops that are trusted stand in the way, and nothing is read before."""
    by = whence("x-forwarded-for")
    with sent(b"") as sock:
        assert await by.from_connection(sock, STRANGER) is STRANGER
    request = asking((b"X-Forwarded-For", b"127.0.0.1, 203.0.113.7:5, 10.0.0.2"))
    assert by.from_request(request, PROXY) == Peer("203.0.113.7", 5, socket.AF_INET, via=("10.0.0.2", "10.0.0.1"))
    assert by.from_request(request, LOCAL) == Peer("203.0.113.7", 5, socket.AF_INET, via=("10.0.0.2", "unix"))
    rfc = asking((b"Forwarded", b'for="[2001:db8::7]:5"'))
    assert whence("forwarded").from_request(rfc, PROXY) == Peer("2001:db8::7", 5, socket.AF_INET6, via=("10.0.0.1",))


async def test_what_strangers_say_of_themselves_is_passed_over() -> None:
    """The header line of a peer that is no trusted proxy has no say, nor has that of the other form."""
    request = asking((b"X-Forwarded-For", b"10.0.0.1"), (b"Forwarded", b"nonsense"))
    assert whence("x-forwarded-for").from_request(request, STRANGER) is STRANGER
    assert whence("forwarded").from_request(request, STRANGER) is STRANGER
    assert whence("proxy-protocol").from_request(request, PROXY) is PROXY


async def test_a_proxy_that_does_not_tell() -> None:
    """Without the header line, or with unknown in it, the request comes from the proxy; nonsense is 400."""
    by = whence("x-forwarded-for")
    assert by.from_request(asking(), PROXY) is PROXY
    assert by.from_request(asking((b"X-Forwarded-For", b"203.0.113.7, unknown")), PROXY) is PROXY
    end = outcome(by.from_request, asking((b"X-Forwarded-For", b"203.0.113.7, nonsense")), PROXY)
    assert isinstance(end, Rejected)
    assert (end.reason, end.termination().http_status) == (Reason.BAD_REQUEST, 400)


async def test_a_proxys_certificate_is_not_its_clients() -> None:
    """What the proxy showed in its TLS with us proves nothing of those that it passes on, and stays its own."""
    proxy = replace(PROXY, sni="gw.example.org", certificate={"subject": ()})
    by = whence("x-forwarded-for")
    client = by.from_request(asking((b"X-Forwarded-For", b"203.0.113.7")), proxy)
    assert isinstance(client, Peer)
    assert (client.host, client.sni, client.certificate) == ("203.0.113.7", "", None)
    assert by.from_request(asking(), proxy) is proxy
