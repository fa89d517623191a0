"""Client addresses from trusted proxies: which proxies are trusted, and the resulting peer."""

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

from tests.client import request
from tests.rejections import async_outcome, outcome
from tests.serving import Served, backend, serving, written
from wsbridge.net.address import Peer
from wsbridge.protocol.forwarded import ForwardedFormat, PublicName
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.protocol.proxy import SockEndpoint, encode_proxy_v1, encode_proxy_v2
from wsbridge.real_ip import ClientAddressResolver
from wsbridge.reasons import Reason, Rejected, Termination

PROXY = Peer("10.0.0.1", 999, socket.AF_INET)
STRANGER = Peer("203.0.113.9", 999, socket.AF_INET)
LOCAL = Peer("", 0, socket.AF_UNIX, pid=5, uid=6)


def resolver(source: Literal["proxy-protocol"] | ForwardedFormat = "proxy-protocol") -> ClientAddressResolver:
    """Trust 10.0.0.0/24 and Unix sockets."""
    return ClientAddressResolver((ip_network("10.0.0.0/24"), "unix"), source, 3.0, 4096)


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
        return await async_outcome(resolver().from_connection(sock, peer))


@pytest.mark.parametrize("peer", [PROXY, LOCAL])
@pytest.mark.parametrize("write", [encode_proxy_v1, encode_proxy_v2])
async def test_a_trusted_proxy_is_believed(peer: Peer, write: object) -> None:
    """The client is the peer, and the proxy is part of its path."""
    assert callable(write)
    asked = SockEndpoint("192.0.2.1", 443)
    client = await introduced(write(SockEndpoint("203.0.113.7", 5), asked), peer)
    assert client == Peer("203.0.113.7", 5, socket.AF_INET, via=(peer.host or "unix",), destination=asked)
    client = await introduced(write(SockEndpoint("2001:db8::7", 5), SockEndpoint("::1", 443)), peer)
    assert isinstance(client, Peer)
    assert (client.host, client.family, client.pid) == ("2001:db8::7", socket.AF_INET6, None)


async def test_a_mapped_address_is_reported_as_ipv4() -> None:
    """An IPv4 client of a dual-stack proxy is held against IPv4 networks."""
    asked = SockEndpoint("::ffff:192.0.2.1", 443)
    client = await introduced(encode_proxy_v1(SockEndpoint("::ffff:203.0.113.7", 5), asked))
    assert isinstance(client, Peer)
    assert (client.host, client.family) == ("203.0.113.7", socket.AF_INET)
    assert client.destination == SockEndpoint("192.0.2.1", 443)


async def test_a_client_of_a_unix_socket_and_a_name() -> None:
    """The family of the client and the name that it asked for are those of the header."""
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
            "203.0.113.9 is not in trusted_prox",
        ),
        (b"", STRANGER, Reason.BAD_PROXY_HEADER, "203.0.113.9 is not in trusted_proxies"),
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
    """What is not whole in time ends the connection; how much came is reported."""
    one, other = socket.socketpair()
    other.setblocking(False)
    with one, other:
        one.send(b"PROXY ")
        end = await async_outcome(resolver().from_connection(other, PROXY))
    text = "no complete PROXY header within proxy_header, 3 s; 6 bytes received"
    assert isinstance(end, Rejected)
    assert end.termination() == Termination(Reason.BAD_PROXY_HEADER, "client", text)


@pytest.mark.parametrize(("sent", "detail"), [(b"PROXY ", "bytes of a PROXY header: "), (b"", "sent nothing")])
async def test_a_reset_within_the_header(sent: bytes, detail: str) -> None:
    """A proxy that vanishes is reported as a client that is lost; without a byte, as one that only looked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    with other:
        other.setblocking(False)
        one.sendall(sent)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
        end = await async_outcome(resolver().from_connection(other, PROXY))
    assert isinstance(end, Rejected)
    assert end.reason is Reason.CLIENT_LOST
    assert detail in end.detail


def asking(*lines: tuple[bytes, bytes]) -> Request:
    """Give a request with such header lines."""
    return Request("GET", "/", "1.1", Headers(lines))


async def test_requests_that_tell() -> None:
    """A trusted proxy's header line counts, hops that are trusted are part of the path, and nothing is read before."""
    by = resolver("x-forwarded-for")
    with sent(b"") as sock:
        assert await by.from_connection(sock, STRANGER) is STRANGER
    request = asking((b"X-Forwarded-For", b"127.0.0.1, 203.0.113.7:5, 10.0.0.2"))
    assert by.from_request(request, PROXY) == Peer("203.0.113.7", 5, socket.AF_INET, via=("10.0.0.2", "10.0.0.1"))
    assert by.from_request(request, LOCAL) == Peer("203.0.113.7", 5, socket.AF_INET, via=("10.0.0.2", "unix"))
    rfc = asking((b"Forwarded", b'for="[2001:db8::7]:5"'))
    assert resolver("forwarded").from_request(rfc, PROXY) == Peer("2001:db8::7", 5, socket.AF_INET6, via=("10.0.0.1",))


async def test_what_strangers_say_of_themselves_is_passed_over() -> None:
    """The header line of a peer that is no trusted proxy has no say, nor has that of the other form."""
    request = asking((b"X-Forwarded-For", b"10.0.0.1"), (b"Forwarded", b"nonsense"))
    assert resolver("x-forwarded-for").from_request(request, STRANGER) is STRANGER
    assert resolver("forwarded").from_request(request, STRANGER) is STRANGER
    assert resolver("proxy-protocol").from_request(request, PROXY) is PROXY


async def test_a_proxy_that_does_not_tell() -> None:
    """Without the header line, or with unknown in it, the request comes from the proxy; nonsense is 400."""
    by = resolver("x-forwarded-for")
    assert by.from_request(asking(), PROXY) is PROXY
    assert by.from_request(asking((b"X-Forwarded-For", b"203.0.113.7, unknown")), PROXY) is PROXY
    end = outcome(by.from_request, asking((b"X-Forwarded-For", b"203.0.113.7, nonsense")), PROXY)
    assert isinstance(end, Rejected)
    assert (end.reason, end.termination().http_status) == (Reason.BAD_REQUEST, 400)


def test_a_proxys_certificate_is_not_its_clients() -> None:
    """What a proxy presents in its TLS handshake says nothing about its clients; others keep theirs."""
    by = resolver("x-forwarded-for")
    proxy = replace(PROXY, sni="gw.example.org", certificate={"subject": ()})
    assert by.without_proxy_tls(proxy) == PROXY
    stranger = replace(STRANGER, sni="gw.example.org", certificate={"subject": ()})
    assert by.without_proxy_tls(stranger) is stranger


@pytest.mark.parametrize(
    ("form", "lines", "host", "https"),
    [
        ("x-forwarded-for", [(b"X-Forwarded-Host", b"gw.example.org"), (b"X-Forwarded-Proto", b"HTTPS")], True, True),
        ("x-forwarded-for", [(b"X-Forwarded-Proto", b"http")], False, False),
        ("x-forwarded-for", [(b"X-Forwarded-Proto", b"wss")], False, True),
        ("x-forwarded-for", [(b"X-Forwarded-Proto", b"ws")], False, False),
        ("x-forwarded-for", [(b"Forwarded", b"for=203.0.113.7;host=gw.example.org")], False, None),
        ("forwarded", [(b"Forwarded", b'for=203.0.113.7;host="gw.example.org";proto=https')], True, True),
        (
            "forwarded",
            [(b"Forwarded", b"for=1.1.1.1;host=evil.example, for=203.0.113.7;host=gw.example.org")],
            True,
            None,
        ),
        ("forwarded", [(b"Forwarded", b"for=203.0.113.7, for=10.0.0.9;host=evil.example")], False, None),
        ("forwarded", [(b"X-Forwarded-Host", b"gw.example.org")], False, None),
        ("x-real-ip", [(b"X-Forwarded-Host", b"gw.example.org")], False, None),
        ("proxy-protocol", [(b"X-Forwarded-Host", b"gw.example.org")], False, None),
    ],
)
def test_the_public_name_of_a_request(
    form: ForwardedFormat, lines: list[tuple[bytes, bytes]], host: bool, https: bool | None
) -> None:
    """It comes from the headers that belong to the format, and from trusted proxies only."""
    found = resolver(form).public_name(asking(*lines), PROXY)
    assert (found.host, found.https) == ("gw.example.org" if host else None, https)
    assert resolver(form).public_name(asking(*lines), STRANGER) == PublicName()


@pytest.mark.parametrize(
    "lines",
    [
        [(b"X-Forwarded-Host", b"a.example"), (b"X-Forwarded-Host", b"b.example")],
        [(b"X-Forwarded-Host", b"a.example, b.example")],
        [(b"X-Forwarded-Host", b"user@a.example")],
        [(b"X-Forwarded-Host", b"")],
        [(b"X-Forwarded-Proto", b"https, http")],
        [(b"X-Forwarded-Proto", b"tls")],
    ],
)
def test_a_public_name_that_is_not_clear_is_rejected(lines: list[tuple[bytes, bytes]]) -> None:
    """The client may have written one of the values."""
    end = outcome(resolver("x-forwarded-for").public_name, asking(*lines), PROXY)
    assert isinstance(end, Rejected)
    assert end.termination().http_status == 400


def test_x_real_ip() -> None:
    """One address; anything else is 400, and without the header the peer is the proxy."""
    by = resolver("x-real-ip")
    assert by.from_request(asking((b"X-Real-IP", b" ::ffff:203.0.113.7 ")), PROXY).host == "203.0.113.7"
    assert by.from_request(asking((b"X-Forwarded-For", b"203.0.113.7")), PROXY) is PROXY
    assert by.from_request(asking((b"X-Real-IP", b"203.0.113.7")), STRANGER) is STRANGER
    for values in (
        (b"203.0.113.7, 10.0.0.1",),
        (b"203.0.113.7", b"203.0.113.8"),
        (b"unknown",),
        (b"",),
        (b"1.1.1.1:5",),
    ):
        end = outcome(by.from_request, asking(*((b"X-Real-IP", value) for value in values)), PROXY)
        assert isinstance(end, Rejected), values
        assert end.termination().http_status == 400


async def test_a_page_behind_a_proxy_that_changes_the_host() -> None:
    """Its Origin is compared with the public host and scheme; without trust in the proxy it is not."""
    async with backend() as back:
        for proxies, origin, status in (
            ("127.0.0.0/8", "https://gw.example.org", 101),
            ("127.0.0.0/8", "http://gw.example.org", 403),
            ("192.0.2.1", "https://gw.example.org", 403),
        ):
            web = {"bind": "127.0.0.1:0", "trusted_proxies": [proxies], "client_address_from": "x-forwarded-for"}
            route = {"match": "any", "backend": back.url, "auth": "none"}
            async with serving(written(listeners={"web": web}, routes={"app": route})) as served:
                assert await status_behind_proxy(served, f"Origin: {origin}") == status


async def test_a_reported_host_chooses_no_route() -> None:
    """The client can write the header where a proxy does not overwrite it, so routes match the Host that was sent."""
    web = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"], "client_address_from": "x-forwarded-for"}
    route = {"match": {"host": "gw.example.org"}, "backend": "tcp://127.0.0.1:9", "auth": "none"}
    async with serving(written(listeners={"web": web}, routes={"app": route})) as served:
        assert await status_behind_proxy(served) == 404


async def status_behind_proxy(served: Served, *lines: str) -> int:
    """Send a request as a proxy in front does, and return the status."""
    with await served.connect() as client:
        reported = (
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Host: gw.example.org",
            "X-Forwarded-Proto: https",
        )
        await client.send(request("/", *reported, *lines))
        return int((await client.head()).split()[1])
