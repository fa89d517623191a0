"""Clients that want a server to hold more, do more or say more than it should, and peers that go at a bad moment."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.admin.test_connections import operated, until
from tests.client import BINARY, CLOSE, PING, Client, frame
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.serving import Served, backend, reset, serving, written
from tests.sessions.client import OFFER, clients, message, one_session, opened, route_of
from tests.sessions.test_backend_sessions import near_side
from wsbridge.protocol.resume_frames import Data, Failure, Fin, FrameReader, Open, decode_message, encode_frame
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import Reason
from wsbridge.sessions.session import ResumableSession

BULK = message(b"\x05" + bytes(60000)) * 33
"""DATA: more than one turn of the loop reads."""
BULK_BYTES = 33 * 60000
"""Payload of it."""


async def opened_by_hand(served: Served) -> Client:
    """Open a session by the bytes of its frames, and read the answer; what comes then is up to the test."""
    client = await served.upgraded("/", OFFER)
    await client.send(message(encode_frame(Open(0))))
    await client.frame()
    return client


def only_session(served: Served) -> ResumableSession:
    """Give the one session of a server."""
    (kept,) = served.server.services.sessions.sessions.values()
    return kept


async def block(stream: trio.SocketStream) -> None:
    """Serve a connection of a backend without reading it."""
    await trio.sleep_forever()


async def fill_backend(client: Client, served: Served) -> ResumableSession:
    """Send to a backend that reads nothing until the kernel takes no more, and bytes wait behind what was refused."""
    kept = only_session(served)
    with trio.fail_after(30):
        while not (refused := await settled_bytes(kept)):
            await client.send(BULK)
        await client.send(BULK)
        while kept.machine.unconsumed_bytes < refused + BULK_BYTES:
            await trio.sleep(0.005)
    return kept


async def settled_bytes(kept: ResumableSession) -> int:
    """Give the bytes that wait for the backend once ten turns of the loop have changed nothing."""
    turns, seen = 0, -1
    while turns < 10:
        held = kept.machine.unconsumed_bytes
        turns, seen = (turns + 1, seen) if held == seen else (0, held)
        await trio.sleep(0.005)
    return seen


def flood(descriptor: int, data: bytes, stop: threading.Event, end: float) -> None:
    """Send again and again, and read what comes, until told to stop or until then."""
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
        sock.setblocking(True)
        while not stop.is_set() and time.monotonic() < end:
            sock.sendall(data)
            with contextlib.suppress(BlockingIOError):
                while sock.recv(1 << 20, socket.MSG_DONTWAIT):
                    pass


@pytest.mark.parametrize("opcode", [PING, 0])
async def test_a_flood_before_the_first_frame_holds_up_nobody(opcode: int) -> None:
    """Of pings, or of empty fragments: it ends as one that comes later does, and others are served meanwhile."""
    stop, end = threading.Event(), time.monotonic() + 30
    async with backend() as back, serving(route_of(back)) as served:
        client = await served.upgraded("/", OFFER)
        await client.send(frame(BINARY, b"", fin=False) if opcode == 0 else b"")
        data = frame(opcode, fin=opcode != 0) * 10000
        sender = threading.Thread(target=flood, args=(os.dup(client.raw.fileno()), data, stop, end))
        sender.start()
        try:
            line = await served.records.wait("connection.rejected")
            assert line["reason"] == "control_flood"
            assert time.monotonic() < end
        finally:
            stop.set()
            client.drop()
            await trio.to_thread.run_sync(sender.join)


@pytest.mark.parametrize("found_by", ["read", "write"])
async def test_a_session_that_its_client_has_closed_ends_with_its_backend(found_by: str) -> None:
    """What the client sent before still waits for the backend, and the backend is reset: nothing is left of it."""
    release = trio.Event()

    async def block(stream: trio.SocketStream) -> None:
        await release.wait()
        reset(stream)
        if found_by == "write":  # in its next turn, before the event
            kept.relay.loop.mark_ready(kept.relay)

    rest = {"resume": {"window": "16MiB"}, "timeouts": {"close": "1m"}}
    async with backend(block) as back, serving(route_of(back, **rest)) as served:
        with await opened_by_hand(served) as client:
            kept = await fill_backend(client, served)
            await client.send(frame(CLOSE, (1000).to_bytes(2, "big")))
            while (await client.frame())[0] != CLOSE:
                pass
        release.set()
        line = await served.records.wait("session.closed")
        assert line["reason"] == "backend_reset"
        assert not served.server.services.sessions.sessions


async def test_a_session_that_its_client_has_closed_is_shown(tmp_path: Path) -> None:
    """As long as its backend does not accept what the client sent before; an operator can end it."""
    rest = {"resume": {"window": "16MiB"}, "timeouts": {"close": "1m"}}
    async with operated(tmp_path, block, **rest) as (admin, _):
        served = admin.served
        with await opened_by_hand(served) as client:
            await fill_backend(client, served)
            await client.send(frame(CLOSE, (1000).to_bytes(2, "big")))
            while (await client.frame())[0] != CLOSE:
                pass
        await served.records.wait("connection.closed")
        found = await until(admin, state="closing")
        assert found["session"] == only_session(served).name and "ttl_seconds" not in found
        assert await admin.json("DELETE", f"/v1/connections/{found['id']}") == {"closed": 1}
        assert (await served.records.wait("session.closed"))["reason"] == "closed_by_operator"


def resident_bytes() -> int:
    """Give the memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_single_bytes_are_held_as_bytes() -> None:
    """DATA frames of one byte for a backend that is blocked take little more memory than the window counts."""
    async with backend(block) as back, serving(route_of(back, resume={"window": "16MiB"})) as served:
        with await opened_by_hand(served) as client:
            kept = await fill_backend(client, served)
            before, held = resident_bytes(), kept.machine.unconsumed_bytes
            tiny = message(b"\x05x") * 10_000
            for _ in range(10):
                await client.send(tiny)
            with trio.fail_after(20):
                while kept.machine.unconsumed_bytes < held + 100_000:
                    await trio.sleep(0.01)
            assert resident_bytes() - before < 6 << 20


async def test_what_waits_for_backends_is_limited_too() -> None:
    """Beyond `replay_memory` no more is read than 64 KiB for each; once there is room again, all of it arrives."""
    release, taken = trio.Event(), 0

    async def wait(stream: trio.SocketStream) -> None:
        nonlocal taken
        await release.wait()
        while data := await stream.receive_some(65536):
            taken += len(data)

    limits, timeouts = {"replay_memory": "1MiB"}, {"ping_interval": "300ms", "ping_timeout": "300ms"}
    size = 8 << 20
    async with (
        backend(wait) as back,
        serving(route_of(back, limits=limits, timeouts=timeouts, resume={"window": "4MiB"})) as served,
        clients(served.port(), 4) as found,
        trio.open_nursery() as nursery,
    ):
        memory = served.server.services.sessions.memory
        for client in found:
            await opened(client)
            nursery.start_soon(client.send, bytes(size))
        with trio.fail_after(10):
            while not memory.is_full:
                await trio.sleep(0.01)
        await trio.sleep(1)  # longer than a pong may take: they are not read because of us
        assert memory.used < (1 << 20) + 4 * 524288
        release.set()
        with trio.fail_after(20):
            while taken < 4 * size:
                await trio.sleep(0.01)
        assert not served.records.of("session.detached")


async def test_a_client_that_is_not_read_may_leave() -> None:
    """It is noticed although nothing more is read for want of memory, and the memory is free again."""
    limits = {"replay_memory": "1MiB"}
    async with backend(block) as back, serving(route_of(back, limits=limits, resume={"window": "16MiB"})) as served:
        memory = served.server.services.sessions.memory
        with await opened_by_hand(served) as client:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    while True:
                        await client.send(BULK)

                nursery.start_soon(send)
                with trio.fail_after(30):
                    while not memory.is_full:
                        await trio.sleep(0.01)
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
            assert memory.is_full
            assert isinstance(client.stream, trio.SocketStream)
            reset(client.stream)
            line = await served.records.wait("session.closed")
            assert line["reason"] == "overload"
        assert memory.used == 0


async def test_coming_back_too_late_is_no_failed_login() -> None:
    """A whole office behind one address that was away for longer than anything is remembered is not banned."""
    limits = {"per_address": {"max_failures": "3", "exempt": []}}
    async with (
        backend() as back,
        serving(route_of(back, limits=limits, resume={"ttl": "1s"})) as served,
        clients(served.port(), 5) as found,
    ):
        for client in found:
            await opened(client)
        for client in found:
            client.cut()
        await served.records.wait("session.closed", 5, reason="session_expired")
        await trio.sleep(1.1)
        for client in found:
            await client.connect()
            await client.until(lambda client=client: client.ended)
            assert client.end == (4001, "session or token not accepted")
        assert served.server.services.client_table.count_bans() == 0


async def read_slowly(client: Client) -> tuple[int, Failure | None]:
    """Read a transport through a small buffer with pauses; give its bytes of DATA, and the ERROR at its end."""
    framing, reader, count = WebSocketFraming("client"), FrameReader(), 0
    rest = client.buffer
    while True:
        used, chunks, marks, _, _ = framing.decode(rest)
        rest = rest[used:]
        for one in reader.read(chunks, marks or []):
            if isinstance(one, Failure):
                return count, one
            count += len(one.payload) if isinstance(one, Data) else 0
        if not used:
            await trio.sleep(0.02)
            if not (data := bytes(await client.stream.receive_some(16384))):
                return count, None
            rest += data


async def test_a_slow_client_gets_all_before_the_reset_of_the_backend() -> None:
    """`close` is the time for the answer to our close frame, not for what is on the way before it."""
    size = 1 << 17

    async def fail(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(bytes(size))
        await trio.sleep(0.2)
        reset(stream)

    async with backend(fail) as back, serving(route_of(back, timeouts={"close": "400ms"})) as served:
        with await opened_by_hand(served) as client:
            assert isinstance(client.stream, trio.SocketStream)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            await client.send(message(b"\x05!"))
            count, failure = await read_slowly(client)
            assert (count, failure) == (size, Failure(4012, "backend_reset"))


async def test_what_comes_for_a_backend_that_is_gone_is_dropped() -> None:
    """The last bytes of the client and its FIN arrive at once, after the backend was reset: it learns of that."""

    async def fail(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(bytes(100))
        await trio.sleep(0.1)
        reset(stream)

    async with backend(fail) as back, serving(route_of(back)) as served:
        with await opened_by_hand(served) as client:
            kept = only_session(served)
            await client.send(message(b"\x05!"))
            await back.until(open=0)
            with trio.fail_after(9):
                while not kept.machine.is_failing:
                    await trio.sleep(0.01)
            await client.send(message(b"\x05" + bytes(5000)) + message(encode_frame(Fin(5001))))
            assert await read_slowly(client) == (100, Failure(4012, "backend_reset"))
            await client.send(frame(CLOSE, (4012).to_bytes(2, "big")))
            assert (await served.records.wait("session.closed"))["reason"] == "backend_reset"


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.SHUTDOWN])
async def test_a_shutdown_before_the_first_frame(reason: Reason) -> None:
    """The client, which may be about to resume, learns that it may try again, not that it has done something wrong."""
    async with backend() as back, serving(route_of(back)) as served:
        with await served.upgraded("/", OFFER) as client:
            with trio.fail_after(9):
                while not served.server.services.request_read_scopes:
                    await trio.sleep(0.01)
            served.server.stop(reason)
            opcode, body = await client.frame()
            failure = decode_message(body)
            assert opcode == BINARY and isinstance(failure, Failure) and failure.code == 4014


async def test_a_resume_brings_no_allowance_for_a_flood() -> None:
    """What was acknowledged over earlier transports allows no control frames on this one."""
    size = 32 << 20

    async def source(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(bytes(size))
        await stream.receive_some(1)

    async with one_session(source, resume={"window": "4MiB"}, limits={"control_frame_rate": "100"}) as run:
        _, served, client = run
        await client.send(b"!")
        await client.until(lambda: len(client.received) == size)
        client.cut()
        await client.resume()
        await client.control(message(b"\x80") * 1000)
        line = await served.records.wait("session.closed")
        assert line["reason"] == "control_flood"


async def test_a_client_may_take_its_time_with_a_few_bytes() -> None:
    """`write` is for what is held up: a program that receives nothing for a while holds up nobody."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        while data := await stream.receive_some(100):
            await stream.send_all(data)

    async with one_session(talk, paused=True, timeouts={"write": "300ms"}) as (_, served, client):
        await client.until(lambda: client.received == b"hello")
        await trio.sleep(1)
        assert not served.records.of("session.closed")
        client.go_on()
        await client.send(b" again")
        await client.until(lambda: client.received == b"hello again")


async def test_a_session_of_a_backend_expires_after_its_client_was_lost() -> None:
    """With `on_client_lost: fin`, whose FIN is never delivered: the client's connection is over with the session."""
    async with tunnel_until_cut() as (near, proxy):
        client = await near.connect("old")
        await client.send(b"hello")
        assert await client.take(5) == b"hello"
        proxy.go_down()
        await near.records.wait("backend.lost")
        assert isinstance(client.stream, trio.SocketStream)
        reset(client.stream)
        line = await near.records.wait("connection.closed", route="out")
        assert line["reason"] == "client_lost"


@contextlib.asynccontextmanager
async def tunnel_until_cut() -> AsyncIterator[tuple[Served, CuttingProxy]]:
    """Run a wsbridge whose TCP clients have sessions of another one, behind a proxy."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url, "resume": {"ttl": "1s"}})) as far,
        cutting_proxy(far.port()) as proxy,
    ):
        text = json.loads(near_side(proxy.url))
        text["routes"]["out"]["on_client_lost"] = "fin"
        async with serving(json.dumps(text)) as near:
            yield near, proxy
