"""The Python client: bytes over cuts, what is retried and what is not, ends, errors, and trio's rules for streams."""

from __future__ import annotations

import array
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.authority import client_context, server_context
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.resume_service import ResumeService, resume_service
from wsbridge.client import (
    ConnectError,
    Reconnected,
    Reconnecting,
    ResumableStream,
    ResumeNotSupported,
    SessionExpired,
    SessionLost,
    SessionRefused,
    SessionReset,
    open_resumable,
)
from wsbridge.protocol.resume_frames import Failure
from wsbridge.protocol.resume_server import SessionTerms

SMALL = SessionTerms(window=65536, ttl=30)


@asynccontextmanager
async def opened(service: ResumeService, **options: Any) -> AsyncIterator[tuple[ResumableStream, CuttingProxy]]:
    """Open a session through a cutting proxy."""
    with trio.fail_after(60):
        async with cutting_proxy(service.port) as proxy, open_resumable(proxy.url, **options) as stream:
            yield stream, proxy


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end."""
    data = bytearray()
    while part := await stream.receive_some():
        data += part
    return bytes(data)


async def test_bytes_go_both_ways_and_end() -> None:
    """What is sent comes back; after send_eof the other direction goes on until its own end."""
    async with resume_service() as service, opened(service) as (stream, _):
        assert stream.state == "connected"
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.send_all(b"the rest")
        await stream.send_eof()

        assert await read_all(stream) == b"the rest"
    assert stream.state == "closed"
    await service.last.until(lambda: service.last.ended is not None)
    assert service.last.ended is not None
    assert service.last.ended.code == 1000
    assert service.last.ended.complete


async def test_no_byte_is_lost_or_doubled_over_many_cuts() -> None:
    """Random bytes are echoed over a proxy that cuts every 20 to 80 ms."""
    data = random.Random(5).randbytes(6 << 20)
    losses: list[Reconnecting] = []
    async with resume_service() as service, opened(service, on_reconnecting=losses.append) as (stream, proxy):

        async def send() -> None:
            for at in range(0, len(data), 50_000):
                await stream.send_all(data[at : at + 50_000])
                await trio.sleep(0.005)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.cut_often, 0.02, 0.08, 3)
            nursery.start_soon(send)
            back = await read_all(stream)
            nursery.cancel_scope.cancel()

        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        assert proxy.cuts >= 3
        assert stream.transports >= 4
        assert losses


async def test_a_server_that_grants_gigabytes_gets_no_more_held_than_16_mib() -> None:
    """What is not acknowledged is in memory, and a server may grant 4 GiB."""
    most = 16 << 20
    async with resume_service(SessionTerms(window=2**32 - 1)) as service, opened(service) as (stream, proxy):
        service.answers = False
        proxy.cut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(2 * most))
            while stream.unacknowledged_bytes < most - 65536:
                await trio.sleep(0.01)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert stream.unacknowledged_bytes <= most
        with trio.move_on_after(0.05) as waiting:
            await stream.wait_send_all_might_not_block()
        assert waiting.cancelled_caught
        await stream.abort()


async def test_callbacks_tell_loss_and_resumption() -> None:
    """One report for the loss, whose first attempt is made at once, and one when it goes on."""
    losses: list[Reconnecting] = []
    resumed: list[Reconnected] = []
    async with (
        resume_service() as service,
        opened(service, on_reconnecting=losses.append, on_reconnected=resumed.append) as (stream, proxy),
    ):
        await stream.send_all(b"one")
        assert await stream.receive_some() == b"one"
        proxy.cut()
        await stream.send_all(b"two")

        assert await stream.receive_some() == b"two"
        assert [(loss.failures, loss.delay) for loss in losses] == [(0, 0.0)]
        assert "reset" in losses[0].detail
        assert len(resumed) == 1
        assert resumed[0].seconds < 10
        assert stream.transports == 2


async def test_it_waits_while_the_server_is_down() -> None:
    """A server that cannot be reached is tried again, with pauses."""
    losses: list[Reconnecting] = []
    async with resume_service() as service, opened(service, on_reconnecting=losses.append) as (stream, proxy):
        proxy.go_down()
        await stream.send_all(b"later")
        while len(losses) < 3:
            await trio.sleep(0.01)
        assert stream.state == "reconnecting"
        proxy.come_up()

        assert await stream.receive_some() == b"later"
        assert [loss.failures for loss in losses[:3]] == [0, 1, 2]


async def test_a_dead_path_is_found_by_pings() -> None:
    """A transport that swallows everything is given up after ping_interval and ping_timeout."""
    losses: list[Reconnecting] = []
    options = {"ping_interval": 0.1, "ping_timeout": 0.1, "on_reconnecting": losses.append}
    async with resume_service() as service, opened(service, **options) as (stream, proxy):
        proxy.die()
        await stream.send_all(b"later")
        while not losses:
            await trio.sleep(0.01)
        assert losses[0].detail == "no answer to a ping within 0.1 s"
        proxy.cut()
        proxy.come_up()

        assert await stream.receive_some() == b"later"


REFUSALS = [
    (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401),
    (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
]


@pytest.mark.parametrize(("response", "status"), REFUSALS)
async def test_a_refusal_ends_it_at_once(response: bytes, status: int) -> None:
    """HTTP 401, 403 and 404 are not retried: whoever sends or receives learns it."""
    async with resume_service() as service, opened(service) as (stream, _):
        service.refusals.append(response)
        service.last.cut()
        with pytest.raises(SessionRefused, match=str(status)) as caught:
            await stream.receive_some()
        assert caught.value.status == status
        with pytest.raises(SessionRefused):
            await stream.send_all(b"x")
        assert len(service.requests) == 2


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_what_may_pass_is_retried(response: bytes) -> None:
    """A gateway without a server, the login page of a network: the session waits for better times."""
    async with resume_service() as service, opened(service) as (stream, _):
        service.refusals.append(response)
        service.last.cut()
        await stream.send_all(b"still here")

        assert await stream.receive_some() == b"still here"
        assert len(service.requests) == 3


async def test_retry_after_is_obeyed(autojump_clock: trio.testing.MockClock) -> None:
    """A 503 with Retry-After is not retried earlier."""
    losses: list[Reconnecting] = []
    async with (
        resume_service(SessionTerms(ttl=100)) as service,
        open_resumable(service.url, on_reconnecting=losses.append, ping_interval=None) as stream,
    ):
        service.refusals.append(b"HTTP/1.1 503 Busy\r\nRetry-After: 40\r\nContent-Length: 0\r\n\r\n")
        service.last.cut()
        began = trio.current_time()
        await stream.send_all(b"x")

        assert await stream.receive_some() == b"x"
        assert trio.current_time() - began >= 40
        assert losses[1].delay >= 40


@pytest.mark.parametrize(
    ("code", "error"),
    [(4001, SessionRefused), (4002, SessionLost), (4003, SessionLost), (4004, SessionLost), (4009, SessionLost)],
)
async def test_an_error_in_answer_to_resume_ends_it(code: int, error: type[SessionLost]) -> None:
    """Codes of the protocol that forbid another attempt are errors of their kind, with code and text."""
    async with resume_service() as service, opened(service) as (stream, _):
        service.failures.append(Failure(code, "because"))
        service.last.cut()
        with pytest.raises(error, match="because") as caught:
            await stream.receive_some()
        assert caught.value.code == code
        assert type(caught.value) is error


@pytest.mark.parametrize("code", [4013, 4014])
async def test_a_full_server_is_retried(code: int) -> None:
    """4013 and 4014 leave the session as it is."""
    async with resume_service() as service, opened(service) as (stream, _):
        service.failures.append(Failure(code, "not now"))
        service.last.cut()
        await stream.send_all(b"still here")
        assert await stream.receive_some() == b"still here"


async def test_it_expires(autojump_clock: trio.testing.MockClock) -> None:
    """Without a transport for the ttl the session is lost; the error names the latest failure."""
    async with (
        resume_service(SessionTerms(ttl=30)) as service,
        cutting_proxy(service.port) as proxy,
        open_resumable(proxy.url, ping_interval=None) as stream,
    ):
        proxy.go_down()
        with pytest.raises(SessionExpired, match=r"expired after 30 s without a transport; .*before it answered"):
            await stream.receive_some()


async def test_the_end_of_the_backend_comes_after_its_bytes() -> None:
    """A backend that breaks off: what it sent before is received, then comes SessionReset."""
    async with resume_service(echoes=False) as service, opened(service) as (stream, _):
        held = service.last
        held.session.send(b"last words")
        held.session.end_after_data(4012, "backend_reset")
        held.wake.unpark_all()

        assert await stream.receive_some() == b"last words"
        with pytest.raises(SessionReset, match="backend_reset"):
            await stream.receive_some()
        with pytest.raises(SessionReset):
            await stream.send_all(b"x")


async def test_send_all_waits_when_the_window_is_used_up() -> None:
    """While the server is away no more than the window is accepted; then all of it arrives."""
    async with resume_service(SMALL, echoes=False) as service, opened(service) as (stream, proxy):
        proxy.go_down()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(200_000))
            while stream.unacknowledged_bytes < SMALL.window:
                await trio.sleep(0.01)
            await trio.sleep(0.1)
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()
        assert stream.unacknowledged_bytes == SMALL.window
        proxy.come_up()
        await service.last.until(lambda: len(service.last.received) == SMALL.window)


async def test_items_of_several_bytes_are_bytes() -> None:
    """A view of integers, more than the window has room for at once."""
    data = array.array("I", range(40_000))
    async with resume_service(SMALL, echoes=False) as service, opened(service) as (stream, _):
        await stream.send_all(memoryview(data))
        await service.last.until(lambda: len(service.last.received) == 160_000)
        assert service.last.received == data.tobytes()


async def test_bytes_that_are_not_received_are_not_acknowledged() -> None:
    """The server may send its window, and no more until the application takes it."""
    async with resume_service(SMALL, echoes=False) as service, opened(service) as (stream, _):
        session = service.last.session
        session.send(bytes(SMALL.window))
        service.last.wake.unpark_all()
        await trio.sleep(0.4)
        assert session.acked_position == 0
        left = SMALL.window
        while left:
            left -= len(await stream.receive_some(10_000))
        await service.last.until(lambda: session.acked_position == SMALL.window)


async def test_aclose_delivers_what_was_sent() -> None:
    """The end of the block waits until all of it is acknowledged, over a cut, and ends the session with 1000."""
    data = bytes(range(256)) * 2000
    async with resume_service(echoes=False) as service:
        async with opened(service) as (stream, proxy):
            await stream.send_all(data)
            proxy.cut()
        held = service.last
        await held.until(lambda: held.ended is not None)
        assert held.received == data
        assert held.ended is not None
        assert held.ended.code == 1000


async def test_an_error_in_the_block_aborts_and_comes_out_as_it_is() -> None:
    """The server is told that the stream is not whole; the exception has no group around it, and keeps its cause."""
    cause = KeyError("cause")
    async with resume_service(echoes=False) as service:
        with pytest.raises(ZeroDivisionError) as caught:
            async with open_resumable(service.url) as stream:
                await stream.send_all(b"half of it")
                raise ZeroDivisionError("mine") from cause
        assert caught.value.__cause__ is cause
        held = service.last
        await held.until(lambda: held.ended is not None)
        assert held.ended is not None
        assert held.ended.code == 4012


async def test_cancelling_the_block_aborts() -> None:
    """A deadline of the application ends everything soon, and the server learns of it."""
    async with resume_service(echoes=False) as service:
        async with cutting_proxy(service.port) as proxy:
            with trio.CancelScope() as scope:
                async with open_resumable(proxy.url) as stream:
                    scope.deadline = trio.current_time() + 0.1
                    await stream.receive_some()
        held = service.last
        await held.until(lambda: held.ended is not None)
        assert held.ended is not None
        assert held.ended.code == 4012


async def test_it_can_be_closed_while_the_server_is_away() -> None:
    """Aclose gives up after close_timeout."""
    async with resume_service() as service, cutting_proxy(service.port) as proxy:
        async with open_resumable(proxy.url, close_timeout=0.2) as stream:
            proxy.go_down()
            await stream.send_all(b"never")
            began = trio.current_time()
        assert 0.1 < trio.current_time() - began < 9


async def test_url_and_headers_may_be_made_for_each_transport() -> None:
    """Functions are called for each transport; one that fails while it reconnects is tried again."""
    calls: list[str] = []

    async with resume_service() as service, cutting_proxy(service.port) as proxy:

        async def url() -> str:
            calls.append("url")
            if len(calls) == 2:
                raise LookupError("no ticket now")
            return f"{proxy.url}?ticket={len(calls)}"

        async def headers() -> dict[str, str]:
            return {"Authorization": f"Bearer {len(calls)}"}

        losses: list[Reconnecting] = []
        async with open_resumable(url, headers=headers, on_reconnecting=losses.append) as stream:
            proxy.cut()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert [request.split()[1] for request in service.requests] == ["/?ticket=1", "/?ticket=3"]
        assert "Authorization: Bearer 3\r\n" in service.requests[1]
        assert "LookupError: no ticket now" in losses[1].detail


@pytest.mark.parametrize(
    ("node", "written"), [("web2", "web2"), ("rack 2", "rack%202"), ("a&b#\r\nX: 1", "a%26b%23%0D%0AX%3A%201")]
)
async def test_the_node_hint_is_in_the_url_of_a_resume(node: str, written: str) -> None:
    """Load balancers find the node by the parameter n; whatever the hint is, it is a value and nothing else."""
    async with resume_service(SessionTerms(node=node)) as service, opened(service) as (stream, proxy):
        proxy.cut()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        assert [request.split()[1] for request in service.requests] == ["/", f"/?n={written}"]


async def test_goaway_delays_the_next_attempt() -> None:
    """After GOAWAY the client waits as long as the server wants it to."""
    losses: list[Reconnecting] = []
    async with resume_service() as service, opened(service, on_reconnecting=losses.append) as (stream, _):
        service.last.session.go_away(1500, 0)
        service.last.wake.unpark_all()
        await stream.send_all(b"one")
        assert await stream.receive_some() == b"one"
        service.last.cut()
        await stream.send_all(b"two")
        assert await stream.receive_some() == b"two"
        assert 0.25 < losses[0].delay <= 1.5


async def test_opening_fails_in_words() -> None:
    """Errors of the first transport are ConnectError, with reason and status."""
    async with resume_service() as service:
        service.refusals.append(REFUSALS[0][0])
        with pytest.raises(ConnectError, match="401") as refused:
            async with open_resumable(service.url):
                pass
        assert (refused.value.status, refused.value.reason) == (401, "backend_rejected")
        service.failures.append(Failure(4010, "backend_refused"))
        with pytest.raises(ConnectError, match="4010 backend_refused"):
            async with open_resumable(service.url):
                pass
        service.answers = False
        with pytest.raises(ConnectError, match=r"within 1 s: answer of 127.0.0.1:\d+ to OPEN"):
            async with open_resumable(service.url, connect_timeout=1):
                pass
        service.subprotocol = False
        with pytest.raises(ResumeNotSupported, match=r"not the subprotocol wsbridge.resume.v1"):
            async with open_resumable(service.url):
                pass


async def test_opening_can_wait_for_a_server_that_is_down() -> None:
    """With retry_for, what may pass is tried again: no connection, 503, 4014."""
    async with resume_service() as service, cutting_proxy(service.port) as proxy:
        service.refusals.append(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        service.failures.append(Failure(4014, "draining"))
        proxy.is_down = True

        async def come_up() -> None:
            await trio.sleep(0.2)
            proxy.come_up()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_up)
            async with open_resumable(proxy.url, retry_for=15) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("tcp://127.0.0.1:1", {}),
        ("ws://127.0.0.1:1/{x}", {}),
        ("ws://127.0.0.1:1/", {"proxy": "socks5://127.0.0.1:1"}),
        ("ws://127.0.0.1:1/", {"headers": {"Host": "x"}}),
        ("ws://127.0.0.1:1/", {"headers": {"X-A": "a\nb"}}),
    ],
)
async def test_arguments_that_cannot_be_used(url: str, options: dict[str, Any]) -> None:
    """They are ValueErrors before anything is connected."""
    with pytest.raises(ValueError, match=r".+"):
        async with open_resumable(url, **options):
            pass


async def test_misuse_has_trios_errors() -> None:
    """Two senders, two receivers, sending after send_eof, use after the end."""
    async with resume_service(SMALL, echoes=False) as service:
        async with opened(service) as (stream, proxy):
            proxy.go_down()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(SMALL.window * 2))
                nursery.start_soon(stream.receive_some)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(trio.BusyResourceError):
                    await stream.send_all(b"x")
                with pytest.raises(trio.BusyResourceError):
                    await stream.send_eof()
                with pytest.raises(trio.BusyResourceError):
                    await stream.receive_some()
                nursery.cancel_scope.cancel()
            proxy.come_up()
            await stream.send_eof()
            await stream.send_eof()
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
        for use in (lambda: stream.send_all(b"x"), stream.receive_some, stream.send_eof):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        await stream.aclose()


async def test_tls() -> None:
    """A context of the program is used as it is; without one the system's authorities verify the server."""
    async with resume_service(tls=server_context()) as service:
        url = f"wss://127.0.0.1:{service.port}/"
        with pytest.raises(ConnectError, match="certificate") as caught:
            async with open_resumable(url):
                pass
        assert caught.value.reason == "backend_tls"
        async with open_resumable(url, ssl_context=client_context()) as stream:
            await stream.send_all(bytes(100_000))
            await stream.send_eof()
            assert len(await read_all(stream)) == 100_000
