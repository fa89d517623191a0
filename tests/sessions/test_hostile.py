"""Clients that want a server to hold more, do more or say more than it should, and peers that go at a bad moment."""

from __future__ import annotations

import gc
from pathlib import Path

import trio

from tests.client import CLOSE, Client, frame
from tests.serving import Served, backend, reset, serving
from tests.sessions.client import OFFER, message, route_of
from wsbridge.protocol.resume_frames import Open, encode_frame
from wsbridge.sessions.session import ResumableSession

BULK = message(b"\x05" + bytes(60000)) * 33
"""About 2 MB of DATA: more than one turn of the loop reads."""


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


async def fill_backend(client: Client, served: Served) -> ResumableSession:
    """Send to a backend that reads nothing until the kernel takes no more, and bytes wait behind what was refused."""
    kept = only_session(served)
    seen = -1
    with trio.fail_after(10):
        while kept.machine.unconsumed_bytes < 3 << 20 or kept.machine.unconsumed_bytes == seen:
            seen = kept.machine.unconsumed_bytes
            await client.send(BULK)
            await trio.sleep(0.05)
    return kept


async def test_a_session_that_its_client_has_closed_ends_with_its_backend() -> None:
    """What the client sent before still waits for the backend, and the backend is reset: nothing is left of it."""
    release = trio.Event()

    async def block(stream: trio.SocketStream) -> None:
        await release.wait()
        reset(stream)

    async with backend(block) as back, serving(route_of(back, resume={"window": "16MiB"})) as served:
        with await opened_by_hand(served) as client:
            await fill_backend(client, served)
            await client.send(frame(CLOSE, (1000).to_bytes(2, "big")))
            while (await client.frame())[0] != CLOSE:
                pass
        release.set()
        line = await served.records.wait("session.closed")
        assert line["reason"] == "backend_reset"
        assert not served.server.services.sessions.sessions


def resident_bytes() -> int:
    """Give the memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_single_bytes_are_held_as_bytes() -> None:
    """DATA frames of one byte for a backend that is blocked take little more memory than the window counts."""
    release = trio.Event()

    async def block(stream: trio.SocketStream) -> None:
        await release.wait()

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
        release.set()
