"""Which client address a connection is counted under, with and without a proxy; TLS."""

from __future__ import annotations

import pytest
import trio

from tests.auth.methods import Saying
from tests.client import Client, request
from tests.serving import backend, serving, written
from wsbridge.auth.identity import unauthenticated

ADDRESS = {"connections": "1", "max_failures": "1", "exempt": []}


def behind(source: str, back: str) -> str:
    """A listener behind a proxy on this host."""
    web = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": source}
    return written(listeners={"web": web}, route={"backend": back}, limits={"per_address": ADDRESS})


async def asked(served, host, source="proxy-protocol"):
    """Ask for an upgrade through the proxy, for a client at an address; give the client and its answer's head."""
    client = await served.connect()
    try:
        if source == "proxy-protocol":
            await client.send(f"PROXY TCP4 {host} 192.0.2.1 1000 80\r\n".encode() + request())
        else:
            await client.send(request("/", f"X-Forwarded-For: {host}"))
        return client, await client.head()
    except (trio.BrokenResourceError, EOFError):
        client.drop()
        return client, None


def deny(served):
    """Reject every login as wrong."""
    object.__setattr__(
        served.server.generation.routes["app"], "auth", Saying(unauthenticated("wrong", failed_login=True))
    )


@pytest.mark.parametrize("source", ["proxy-protocol", "x-forwarded-for"])
async def test_clients_behind_a_proxy_are_counted_one_by_one(source):
    """One connection too many of one client is 429; others come through the same proxy, as many as there are."""
    async with backend() as back, serving(behind(source, back.url)) as served:
        clients = []
        for number in range(5):
            client, head = await asked(served, f"203.0.113.{number}", source)
            assert head.startswith("HTTP/1.1 101")
            clients.append(client)
        over, head = await asked(served, "203.0.113.3", source)
        assert head.startswith("HTTP/1.1 429")
        assert "Retry-After: 1" in head
        over.drop()
        line = await served.records.wait("connection.rejected")
        assert line["detail"].startswith("1 connections from 203.0.113.3")
        await back.until(dials=5)
        await clients[3].close()
        await served.records.wait("connection.closed")
        await served.quiet(4)
        again, head = await asked(served, "203.0.113.3", source)
        assert head.startswith("HTTP/1.1 101")
        for client in (*clients, again):
            client.drop()


async def test_a_client_that_a_proxy_header_tells_is_banned_and_reset():
    """The proxy and its other clients are not; the reset comes before the head is read, and without a line each."""
    async with backend() as back, serving(behind("proxy-protocol", back.url)) as served:
        deny(served)
        client, head = await asked(served, "203.0.113.1")
        assert head.startswith("HTTP/1.1 401")
        client.drop()
        assert (await served.records.wait("address.banned"))["client_address"] == "203.0.113.1"
        for _ in range(20):
            client, head = await asked(served, "203.0.113.1")
            assert head is None
        client, head = await asked(served, "203.0.113.2")
        assert head.startswith("HTTP/1.1 401")
        client.drop()
        assert served.server.services.client_table.banned_count == 20
        assert {line["client_address"] for line in served.records.of("connection.banned")} == {"203.0.113.1"}
        await served.records.wait("connection.rejected", 2, level="info")
        assert back.dials == 0


async def test_a_client_that_a_header_tells_is_banned_by_429():
    """Its connection is the proxy's, and the answer says for how long."""
    async with backend() as back, serving(behind("x-forwarded-for", back.url)) as served:
        deny(served)
        for status in (401, 429):
            client, head = await asked(served, "203.0.113.1", "x-forwarded-for")
            assert head.startswith(f"HTTP/1.1 {status}")
            client.drop()
        assert "Retry-After: 300" in head
        client, head = await asked(served, "203.0.113.2", "x-forwarded-for")
        assert head.startswith("HTTP/1.1 401")
        client.drop()


async def test_a_proxy_that_speaks_for_itself_is_not_limited():
    """Its health checks are answered however many there are."""
    async with backend() as back, serving(behind("proxy-protocol", back.url)) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            await client.send(b"PROXY UNKNOWN\r\n" + request())
            assert (await client.head()).startswith("HTTP/1.1 101")
            client.drop()
        assert len(served.server.services.client_table) == 0


async def test_over_the_cap_a_proxied_client_is_rejected_as_such():
    """Its 503 comes behind the PROXY header, which is heard first."""
    web = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "proxy-protocol"}
    async with backend() as back:
        text = written(listeners={"web": web}, route={"backend": back.url}, limits={"connections": "1"})
        async with serving(text) as served:
            inside, head = await asked(served, "203.0.113.1")
            assert head.startswith("HTTP/1.1 101")
            over, head = await asked(served, "203.0.113.2")
            assert head.startswith("HTTP/1.1 503")
            assert (await served.records.wait("connection.rejected"))["peer"] == "203.0.113.2:1000"
            inside.drop()
            over.drop()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_what_is_no_tls_is_let_go(said):
    """Within `tls`, with the reason in the log."""
    async with serving(written(route={"backend": "tcp://127.0.0.1:9"}, tls=True)) as served:
        plain = await trio.open_tcp_stream("127.0.0.1", served.port())
        with Client(plain, plain.socket) as client:
            await client.send(said)
            await client.everything()
        assert (await served.records.wait("connection.rejected"))["reason"] == "tls_failed"
