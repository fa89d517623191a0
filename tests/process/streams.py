"""Streams over resumable sessions that run on while the daemon is restarted: what comes back is hashed."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator

import trio

from tests.serving import Backend, Handler, backend, echo
from wsbridge.client import ResumableStream, open_resumable

BLOCK_BYTES = 16384


class RunningStream:
    """A stream to an echo backend: blocks that differ are sent all the time, and all that returns is hashed.

    Attributes:
        stream: The stream.
        sent: Bytes that were sent.
        received: Bytes that came back.
        transports: How often the stream has had a transport.
    """

    def __init__(self, stream: ResumableStream, pause: float) -> None:
        self.stream = stream
        self.sent = self.received = 0
        self._pause = pause
        self._ended = False
        self._sent_hash, self._received_hash = hashlib.sha256(), hashlib.sha256()

    async def write(self) -> None:
        """Send blocks until the end, and then the end."""
        number = 0
        while not self._ended:
            block = number.to_bytes(8, "big") * (BLOCK_BYTES // 8)
            await self.stream.send_all(block)
            self._sent_hash.update(block)
            self.sent += len(block)
            number += 1
            await trio.sleep(self._pause)
        await self.stream.send_eof()

    async def read(self) -> None:
        """Receive to the end."""
        while data := await self.stream.receive_some():
            self._received_hash.update(data)
            self.received += len(data)

    async def moves(self, seconds: float = 30) -> None:
        """Wait until a block that is sent from now on has come back."""
        goal = self.sent + 2 * BLOCK_BYTES
        with trio.fail_after(seconds):
            while self.received < goal:
                await trio.sleep(0.005)

    def end(self) -> None:
        """Send no more blocks."""
        self._ended = True

    def check(self) -> None:
        """Compare what was sent and what came back, once both streams have ended."""
        assert self.sent == self.received
        assert self._sent_hash.digest() == self._received_hash.digest()


@contextlib.asynccontextmanager
async def running(
    url: str, count: int = 1, *, pause: float = 0.002, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[list[RunningStream]]:
    """Run streams within the block; after it, each ends in order, and nothing is missing or doubled.

    Args:
        url: Of a route to an echo backend.
        count: How many.
        pause: Seconds between two blocks.
        ssl_context: See `open_resumable`.
    """
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = await stack.enter_async_context(open_resumable(url, retry_for=10, ssl_context=ssl_context))
            streams.append(RunningStream(stream, pause))
        async with trio.open_nursery() as nursery:
            for one in streams:
                nursery.start_soon(one.write)
                nursery.start_soon(one.read)
            yield streams
            for one in streams:
                one.end()
        for one in streams:
            one.check()


@contextlib.asynccontextmanager
async def echo_backend(handler: Handler = echo) -> AsyncIterator[Backend]:
    """Serve an echo backend."""
    async with backend(handler) as back:
        yield back
