"""Pages that send HTTP to listeners of other protocols."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.authority import listener_tls
from tests.serving import Served, backend, serving, written

POST = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1:6379\r\nOrigin: https://evil.example\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 16\r\n\r\nSET a b\r\nQUIT\r\n\r\n"
)


@asynccontextmanager
async def raw(greeting: bytes = b"", **keys: Any) -> AsyncIterator[tuple[Served, bytearray]]:
    """Serve a raw listener; give what its backend got."""
    got = bytearray()

    async def collect(stream: trio.SocketStream) -> None:
        if greeting:
            await stream.send_all(greeting)
        while data := await stream.receive_some(65536):
            got.extend(data)
            await stream.send_all(data)

    async with backend(collect) as back:
        listeners = {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app", **keys}}
        routes = {"app": {"backend": back.url, "auth": "none"}}
        async with serving(written(listeners=listeners, routes=routes)) as served:
            yield served, got


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("cut", [len(POST), 1, 4, 15, 16, 17])
async def test_a_request_reaches_no_backend(cut: int, tls: bool) -> None:
    """Not a byte of it passes, wherever it is cut, and the log says what to write."""
    keys = {"tls": listener_tls()} if tls else {}
    async with raw(b"+OK\r\n", **keys) as (served, got):
        with await served.connect("raw", tls=tls) as client:
            await client.send(POST[:cut])
            await trio.testing.wait_all_tasks_blocked(0.01)
            with contextlib.suppress(trio.BrokenResourceError):  # it is reset
                if cut < len(POST):
                    await client.send(POST[cut:])
                assert await client.everything() in (b"", b"+OK\r\n")
        line = await served.records.ended()
        assert (line["reason"], line["initiator"], line["bytes_to_backend"]) == ("bad_request", "client", 0)
        assert "allow_http" in line["detail"]
        assert not got


@pytest.mark.parametrize("data", [b"GET key\r\n", b"PING\r\n", b"GET ke", b"\x00\x01"])
async def test_other_protocols_pass(data: bytes) -> None:
    """Their first line goes through whole, also if the client ends within it, and a server may speak first."""
    async with raw(b"+OK\r\n") as (served, got), trio.open_nursery() as nursery:
        with await served.connect("raw") as client:
            assert await client.take(5) == b"+OK\r\n"
            for at in range(len(data)):
                await client.send(data[at : at + 1])
                await trio.sleep(0)
            nursery.start_soon(client.stream.send_eof)
            assert await client.everything() == data
        assert bytes(got) == data


async def test_clients_that_do_speak_http() -> None:
    """With allow_http all bytes pass."""
    async with raw(allow_http="true") as (served, got):
        with await served.connect("raw") as client:
            await client.send(POST)
            assert await client.take(len(POST)) == POST
        assert bytes(got) == POST


async def test_a_bandwidth_limit_changes_nothing() -> None:
    """The guard also works where reads are limited."""
    async with backend() as back:
        listeners = {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
        routes = {"app": {"backend": back.url, "auth": "none", "limits": {"bytes_per_second": "64KiB"}}}
        async with serving(written(listeners=listeners, routes=routes)) as served:
            with await served.connect("raw") as client:
                await client.send(POST)
                assert await client.everything() == b""
            with await served.connect("raw") as client:
                await client.send(b"GET key\r\n")
                assert await client.take(9) == b"GET key\r\n"
