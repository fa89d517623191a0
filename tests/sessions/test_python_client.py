"""The Python client and the real server: trio's rules for streams, and big streams over a proxy that cuts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.authority import client_context
from tests.cutting_proxy import cutting_proxy
from tests.serving import backend, reset, serving, written
from wsbridge.client import ResumableStream, SessionReset, open_resumable

Pair = tuple[ResumableStream, trio.SocketStream]


def route_to(url: str, **resume: Any) -> dict[str, Any]:
    """Give a route with resumable sessions."""
    return {"backend": url, "resume": resume, "limits": {}}


async def test_it_keeps_trios_rules_for_streams() -> None:
    """The one end is the client, the other one the connection that the server makes to its backend."""
    accepted: trio.MemoryReceiveChannel[trio.SocketStream]
    give, accepted = trio.open_memory_channel(10)

    async def serve(stream: trio.SocketStream) -> None:
        await give.send(stream)
        await trio.sleep_forever()

    async with (
        backend(serve) as back,
        serving(written(route=route_to(back.url, window="64KiB"), timeouts={"half_close": "10s"})) as served,
        trio.open_nursery() as nursery,
    ):
        url = f"ws://127.0.0.1:{served.port()}/"

        async def hold(task_status: trio.TaskStatus[ResumableStream]) -> None:
            async with open_resumable(url, window=65536, close_timeout=2) as stream:
                task_status.started(stream)
                await trio.sleep_forever()

        async def make() -> Pair:
            stream = await nursery.start(hold)
            return stream, await accepted.receive()

        async def make_clogged() -> Pair:
            pair = await make()
            for stream in (*pair, pair[0]):  # what one sends can make the kernel accept more of the other
                with trio.CancelScope() as scope:
                    while True:
                        scope.deadline = trio.current_time() + 0.1
                        await stream.send_all(bytes(65536))
            return pair

        with trio.fail_after(30):
            await trio.testing.check_half_closeable_stream(make, make_clogged)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True])
async def test_streams_both_ways_over_cuts(tls: bool) -> None:
    """Different bytes go up and down at the same time; each arrives once, over tens of connections."""
    size = 6 << 20
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    received = bytearray()

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(down)
                await stream.send_eof()

            nursery.start_soon(send)
            while data := await stream.receive_some(65536):
                received.extend(data)

    async with (
        backend(serve) as back,
        serving(written(route={**route_to(back.url), "auth": "none"}, tls=tls)) as served,
        cutting_proxy(served.port()) as proxy,
    ):
        url = f"{'wss' if tls else 'ws'}://localhost:{proxy.port}/"
        proxy.cut_every = 1_000_000
        with trio.fail_after(60):
            async with open_resumable(url, ssl_context=client_context() if tls else None) as stream:
                back_received = bytearray()
                async with trio.open_nursery() as nursery:

                    async def send() -> None:
                        await stream.send_all(up)
                        await stream.send_eof()

                    nursery.start_soon(send)
                    async for data in stream:
                        back_received += data
        await back.until(finished=1)
        assert hashlib.sha256(received).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(back_received).digest() == hashlib.sha256(down).digest()
        assert stream.transports >= 6
        line = await served.records.wait("session.closed")
        assert line["reason"] in ("client_closed", "backend_closed")  # whose FIN came first
        assert line["session"] == stream.session_id


async def end_of_backend(act: Callable[[trio.SocketStream], Awaitable[None]]) -> bytes:
    """Let a backend act, and give what the client receives of it."""
    async with backend(act) as back, serving(written(route=route_to(back.url))) as served:
        with trio.fail_after(10):
            async with open_resumable(f"ws://127.0.0.1:{served.port()}/") as stream:
                data = bytearray()
                async for part in stream:
                    data += part
    return bytes(data)


async def test_the_end_of_the_backend_is_the_end_of_the_stream() -> None:
    """All that it sent comes first."""

    async def act(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(300_000))
        await stream.send_eof()
        await stream.receive_some()

    assert await end_of_backend(act) == bytes(300_000)


async def test_a_reset_of_the_backend_is_an_error_of_its_own() -> None:
    """It is no end of the stream."""

    async def act(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half")
        await trio.sleep(0.05)
        reset(stream)

    with pytest.raises(ExceptionGroup) as caught:
        await end_of_backend(act)
    assert caught.group_contains(SessionReset)


async def test_aborting_resets_the_backend() -> None:
    """What was given up must not look whole."""

    async def act(stream: trio.SocketStream) -> None:
        while await stream.receive_some(65536):
            pass

    async with backend(act) as back, serving(written(route=route_to(back.url))) as served:
        with pytest.raises(ZeroDivisionError):
            async with open_resumable(f"ws://127.0.0.1:{served.port()}/") as stream:
                await stream.send_all(b"half of it")
                raise ZeroDivisionError
        await back.until(lost=1)


async def test_a_backend_that_accepts_nothing_is_reset_at_once() -> None:
    """A client that gives up does not wait for bytes that nobody reads."""

    async def act(stream: trio.SocketStream) -> None:
        await trio.sleep(0.3)
        while await stream.receive_some(1):
            await trio.sleep(0.02)

    async with backend(act) as back, serving(written(route=route_to(back.url, window="64KiB"))) as served:
        with trio.move_on_after(0.3):
            async with open_resumable(f"ws://127.0.0.1:{served.port()}/") as stream:
                while True:
                    await stream.send_all(bytes(65536))
        line = await served.records.wait("session.closed")
        assert (line["reason"], line["close_code"]) == ("client_closed", 4012)
        assert not back.finished


async def test_a_client_that_goes_on_sending_learns_that_the_backend_is_gone() -> None:
    """The backend has closed its connection: the end of its stream comes first, then the error of sending."""

    async def act(stream: trio.SocketStream) -> None:
        await stream.send_all(b"enough")

    async with backend(act) as back, serving(written(route=route_to(back.url))) as served:
        with trio.fail_after(9), pytest.raises(SessionReset):
            async with open_resumable(f"ws://127.0.0.1:{served.port()}/") as stream:
                assert await stream.receive_some() == b"enough"
                while True:
                    await stream.send_all(b"on and on")
                    await trio.sleep(0.01)
