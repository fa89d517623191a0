"""Real client addresses through the whole bridge: what logs and checks use, and which clients are rejected."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
import trio.testing

from tests.authority import client_context, folder, listener_tls
from tests.client import Client, request
from tests.serving import Served, backend, serving, written
from wsbridge.protocol.proxy import SockEndpoint, encode_proxy_v1, encode_proxy_v2

CLIENT, ASKED = SockEndpoint("203.0.113.7", 4711), SockEndpoint("192.0.2.1", 443)
ANSWER = {"respond": 204, "auth": "none"}
PROXIED = {"trusted_proxies": ["127.0.0.1"], "client_address_from": "proxy-protocol"}


def listener(**keys: Any) -> dict[str, Any]:
    """Write one that trusts this host's proxies."""
    return {"bind": "127.0.0.1:0", **PROXIED, **keys}


async def behind(served: Served, header: bytes, name: str = "web") -> Client:
    """Connect as a proxy that introduces its client; a reset during that is noticed at the next read."""
    client = await served.connect(name)
    with contextlib.suppress(trio.BrokenResourceError):
        await client.send(header)
    return client


@pytest.mark.parametrize("write", [encode_proxy_v1, encode_proxy_v2])
async def test_the_client_of_a_proxy_is_the_peer(write: Any) -> None:
    """Behind either version, glued to the request or not, the log has the client and the way it came."""
    async with (
        backend() as back,
        serving(written(listeners={"web": listener()}, route={"backend": back.url})) as served,
    ):
        for glued in (False, True):
            client = await behind(served, write(CLIENT, ASKED) + (request() if glued else b""))
            if not glued:
                await client.send(request())
            assert (await client.head()).startswith("HTTP/1.1 101 ")
            await client.echoed(b"x" * 100_000)
            await client.close()
            line = await served.records.wait("connection.closed", 1 + glued)
            assert (line["peer"], line["via"]) == ("203.0.113.7:4711", ["127.0.0.1"])


async def test_before_tls() -> None:
    """The header comes in the clear, the handshake behind it is whole, though its hello came in the same segment."""
    listeners = {"web": listener(tls=listener_tls())}
    async with backend() as back, serving(written(listeners=listeners, route={"backend": back.url})) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port())
        stream.socket.setsockopt(6, 3, 1)  # TCP_CORK: the header waits for the hello
        await stream.send_all(encode_proxy_v2(CLIENT, ASKED))
        tls = trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.do_handshake)
            await trio.testing.wait_all_tasks_blocked()
            stream.socket.setsockopt(6, 3, 0)
        client = Client(tls, stream.socket)
        await client.upgrade()
        await client.echoed()
        await client.close()
        assert (await served.records.wait("connection.closed"))["peer"] == "203.0.113.7:4711"


async def test_on_a_raw_listener() -> None:
    """A listener with protocol: tcp removes the header and relays the rest, as it does behind TLS."""
    listeners = {"old": listener(protocol="tcp", route="app")}
    routes = {"app": {"auth": {"kind": "network", "allow": ["203.0.113.0/24"]}}}
    async with backend() as back:
        routes["app"]["backend"] = back.url
        async with serving(written(listeners=listeners, routes=routes)) as served:
            with await behind(served, encode_proxy_v1(CLIENT, ASKED) + b"hello", "old") as client:
                assert await client.take(5) == b"hello"
            assert (await served.records.wait("connection.closed"))["via"] == ["127.0.0.1"]
            with await behind(
                served, encode_proxy_v1(SockEndpoint("198.51.100.1", 1), ASKED) + b"hello", "old"
            ) as client:
                assert await client.everything() == b""
            line = await served.records.wait("connection.rejected")
            assert (line["peer"], line["reason"]) == ("198.51.100.1:1", "forbidden")
            assert back.dials == 1


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (request(), 'no PROXY header: it begins with "G"'),
        (b"PROXY TCP4 nonsense\r\n" + request(), "the PROXY line has 3 fields, not 6"),
        (encode_proxy_v2(CLIENT, ASKED)[:-1] + b"?" + request(), "CRC32C is wrong"),
        (encode_proxy_v2(CLIENT, ASKED, identity="x" * 900) + request(), "the limit is 600"),
        (b"PROXY ", "no complete PROXY header within proxy_header, 0.2 s; 6 bytes received"),
        (b"", "no complete PROXY header within proxy_header, 0.2 s; 0 bytes received"),
    ],
)
async def test_without_a_good_header_nothing_is_heard(sent: bytes, detail: str) -> None:
    """Absent, malformed, too long or late: reset without an answer, and one line says why."""
    limits, timeouts = {"max_proxy_header_bytes": 600}, {"proxy_header": "200ms"}
    text = written(listeners={"web": listener()}, limits=limits, timeouts=timeouts, route=ANSWER)
    async with serving(text) as served:
        with await behind(served, sent) as client:
            assert await client.everything() == b""
        line = await served.records.wait("connection.rejected")
        assert (line["reason"], line["level"]) == ("bad_proxy_header", "warning")
        assert line["peer"].startswith("127.0.0.1:")
        assert detail in line["detail"]
        assert "status" not in line
        assert len(served.records.endings) == 1


async def test_untrusted_proxies_are_rejected() -> None:
    """A client that comes past the proxy is not heard, whatever it claims to be."""
    keys = listener(trusted_proxies=["10.0.0.0/8"])
    async with serving(written(listeners={"web": keys}, route=ANSWER)) as served:
        with await behind(served, encode_proxy_v1(SockEndpoint("10.0.0.1", 1), ASKED) + request()) as client:
            assert await client.everything() == b""
        line = await served.records.wait("connection.rejected")
        assert line["detail"] == "127.0.0.1 is not in trusted_proxies"


async def test_a_health_check() -> None:
    """LOCAL comes from the proxy itself, and a connection without a byte is reported at debug alone."""
    text = written(listeners={"web": listener()}, route=ANSWER)
    async with serving(text) as served:
        with await behind(served, encode_proxy_v2(None, None) + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
            assert (await client.head()).startswith("HTTP/1.1 204 ")
        line = await served.records.wait("http.request")
        assert line["peer"].startswith("127.0.0.1:")
        assert "via" not in line
        with await served.connect():
            pass
        await served.records.wait("connection.empty")


async def test_over_the_cap_behind_a_proxy() -> None:
    """The PROXY header is read before a client over the limit is rejected."""
    text = written(listeners={"web": listener()}, limits={"connections": 1}, route=ANSWER)
    async with serving(text) as served:
        with await behind(served, b"PROXY"):
            with await behind(served, encode_proxy_v1(CLIENT, ASKED) + request()) as client:
                assert (await client.head()).startswith("HTTP/1.1 503 ")
            line = await served.records.wait("connection.rejected")
            assert (line["reason"], line["peer"]) == ("overload", "203.0.113.7:4711")


async def test_each_request_tells_its_own_client(tmp_path: Any) -> None:
    """On a proxy's persistent connection each request has its own client address, and the rights of that client."""
    (tmp_path / "a.txt").write_text("a")
    keys = {
        "bind": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.1", "10.0.0.0/8"],
        "client_address_from": "x-forwarded-for",
    }
    allowed = {"kind": "network", "allow": ["203.0.113.0/24"]}
    text = written(listeners={"web": keys}, route={"files": str(tmp_path), "auth": allowed})
    async with serving(text) as served:
        with await served.connect() as client:
            for spoofed, address in (("", "203.0.113.7"), ("203.0.113.1, ", "203.0.113.8, 10.0.0.9")):
                await client.send(asking(f"X-Forwarded-For: {spoofed}{address}"))
                assert (await client.head()).startswith("HTTP/1.1 200 ")
                await client.take(1)
            await client.send(asking("X-Forwarded-For: 203.0.113.1, 198.51.100.1"))
            assert (await client.head()).startswith("HTTP/1.1 403 ")
        await served.records.wait("http.request", 2)
        one, other = served.records.of("http.request")
        assert (one["peer"], one["via"]) == ("203.0.113.7:0", ["127.0.0.1"])
        assert (other["peer"], other["via"]) == ("203.0.113.8:0", ["10.0.0.9", "127.0.0.1"])
        assert (await served.records.wait("connection.rejected"))["peer"] == "198.51.100.1:0"


def asking(*headers: str) -> bytes:
    """Write a plain request that keeps the connection."""
    return "\r\n".join(["GET /a.txt HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


async def test_a_header_that_cannot_be_read() -> None:
    """An invalid address from the proxy is 400; a forwarding header sent by a client itself has no effect elsewhere."""
    keys = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "forwarded"}
    both = {"web": keys, "other": {**keys, "trusted_proxies": ["10.0.0.1"]}}
    async with serving(written(listeners=both, route=ANSWER)) as served:
        lines = ("Forwarded: for=203.0.113.7", 'Forwarded: for="203')
        with await served.connect() as client:
            await client.send(asking(*lines))
            answer = (await client.everything()).decode()
            assert answer.startswith("HTTP/1.1 400 ")
            assert "Forwarded cannot be read" in answer
        with await served.connect("other") as client:
            await client.send(asking(*lines))
            assert (await client.head()).startswith("HTTP/1.1 204 ")
        assert (await served.records.wait("http.request"))["peer"].startswith("127.0.0.1:")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_from_bridge_to_bridge(version: str, scheme: str) -> None:
    """A client address from a forwarding header is passed on in a PROXY header, before TLS as well."""
    inner = listener(protocol="tcp", route="app", **({"tls": listener_tls()} if scheme == "tls" else {}))
    outer = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "x-forwarded-for"}
    async with backend() as back:
        routes = {"app": {"backend": back.url, "auth": "none"}}
        async with serving(written(listeners={"web": inner}, routes=routes)) as behind_it:
            to = {"url": f"{scheme}://127.0.0.1:{behind_it.port()}", "proxy_protocol": version}
            if scheme == "tls":
                to["ca"] = str(folder() / "ca.pem")
            async with serving(written(listeners={"web": outer}, route={"backend": to})) as in_front:
                client = await in_front.upgraded("/", "X-Forwarded-For: 2001:db8::7")
                await client.echoed(b"x" * 100_000)
                await client.close()
                line = await in_front.records.wait("connection.closed", backend=back.url)  # one log for both
                assert (line["peer"], line["via"]) == ("[2001:db8::7]:0", ["127.0.0.1"])
                assert line["bytes_to_backend"] == 100_000
