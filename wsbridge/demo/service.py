"""The demo's TCP service: lines in, lines out, as many an old device speaks over telnet.

Lives here: the accept loop on a loopback port, and the conversation with one caller. Must not live here: what a command
does (`commands`), or anything of WebSocket. The service talks first (a banner), streams more than a page can show, and
ends connections in several ways, so that the page can show each. All that is sent ends with a newline, and so an answer
to `ping` always stands on a line of its own.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from wsbridge.demo.commands import COMMANDS

MAX_LINE = 4096
"""Bytes a line may have; the rest of a longer one is dropped."""
MAX_CONNECTIONS = 64
WAITING_LINES = 64
"""Lines read ahead while a command works; then no more is read."""
BYTE_STEP = 0.003
"""Seconds between the bytes of `unicode`."""

BANNER = """\
wsbridge demo service
A plain TCP service that knows nothing of WebSocket: the bridge carries every byte.
Type "help" for what it can do.
"""


@dataclass(slots=True)
class Service:
    """The service and who is connected to it.

    Attributes:
        started: Trio time of the start in seconds.
        callers: The open conversations by number.
        served: Connections so far.
    """

    started: float = 0.0
    callers: dict[int, Conversation] = field(default_factory=dict)
    served: int = 0

    async def run(
        self, host: str = "127.0.0.1", port: int = 0, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled.

        Args:
            host: Address to listen on.
            port: TCP port; 0 takes a free one.
            task_status: Told the real port once connections can be made (`await nursery.start(service.run)`).

        Raises:
            OSError: The address cannot be bound.
        """
        self.started = trio.current_time()
        listeners = await trio.open_tcp_listeners(port, host=host)
        real: int = listeners[0].socket.getsockname()[1]
        task_status.started(real)
        await trio.serve_listeners(self.serve_lines, listeners)

    async def serve_lines(self, stream: trio.SocketStream) -> None:
        """Talk with one caller until one of the two ends it; never raises for what a caller did."""
        async with stream:
            if len(self.callers) >= MAX_CONNECTIONS:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"Too many are connected already; try again later.\n")
                return
            self.served += 1
            caller = Conversation(self, stream, self.served)
            self.callers[caller.number] = caller
            try:
                await caller.hold()
            finally:
                del self.callers[caller.number]


class Conversation:
    """One connection: a task that reads lines, and one that works them off.

    `ping` is answered by the reading task, in between whatever is being streamed; any other line ends a stream and is
    then obeyed. After the caller's FIN the lines that came before it are still worked off, as `nc -N` expects.

    Args:
        service: Whose connection it is.
        stream: The connection.
        number: Its number, counted from 1.
    """

    def __init__(self, service: Service, stream: trio.SocketStream, number: int) -> None:
        self.service = service
        self.number = number
        self.since = trio.current_time()
        self.sent = 0
        self.heard_all = False
        self._stream = stream
        self._sending = trio.Lock()
        self._streaming: trio.Event | None = None

    async def hold(self) -> None:
        """Greet, answer, and return when the caller or a command has ended the connection."""
        lines, queue = trio.open_memory_channel[str](WAITING_LINES)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, lines)
                await self.say(BANNER)
                while not await self._obey(await queue.receive()):
                    pass
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            pass

    async def say(self, text: str) -> None:
        """Send text that ends with a newline."""
        await self.send(text.encode())

    async def send(self, data: bytes) -> None:
        """Send bytes, whole, before anyone else sends."""
        async with self._sending:
            await self._stream.send_all(data)
            self.sent += len(data)

    async def send_by_bytes(self, data: bytes) -> None:
        """Send bytes one by one, with time in between for each to travel alone."""
        async with self._sending:
            for at in range(len(data)):
                await self._stream.send_all(data[at : at + 1])
                await trio.sleep(BYTE_STEP)
            self.sent += len(data)

    async def stream(self, step: Callable[[], Awaitable[bool]], pause: float = 0) -> bool:
        """Repeat a step until it gives False or the caller sends a line.

        Args:
            step: Sends something; whether there is more.
            pause: Seconds between the steps.

        Returns:
            Whether it ran to its end.
        """
        self._streaming = stop = trio.Event()
        try:
            while not stop.is_set():
                if not await step():
                    return True
                if pause:
                    with trio.move_on_after(pause):
                        await stop.wait()
            return False
        finally:
            self._streaming = None

    def reset(self) -> None:
        """End the connection with a TCP reset instead of FIN."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()

    async def _read(self, lines: trio.MemorySendChannel[str]) -> None:
        """Split what comes into lines, and pass them on."""
        kept = bytearray()
        async with lines:
            async for data in self._stream:
                for piece in data.splitlines(keepends=True):
                    kept += piece[: MAX_LINE + 1 - len(kept)]
                    if piece.endswith(b"\n"):
                        await self._hear(bytes(kept), lines)
                        kept.clear()
            self.heard_all = True
            await self._hear(bytes(kept), lines)

    async def _hear(self, line: bytes, lines: trio.MemorySendChannel[str]) -> None:
        """Take one line: a ping is answered at once, any other ends a stream and waits for its turn."""
        text = line.decode(errors="replace").strip()
        name, _, rest = text.partition(" ")
        if len(line) > MAX_LINE:
            await self.say(f"a line may have {MAX_LINE} bytes; this one was longer\n")
        elif name == "ping":
            await self.say(f"pong {rest}\n")
        elif line:
            if self._streaming is not None:
                self._streaming.set()
            if text:
                await lines.send(text)

    async def _obey(self, text: str) -> bool:
        """Do what one line says; whether that ends the connection."""
        name, _, rest = text.partition(" ")
        name = name.lower()
        if name in COMMANDS:
            await COMMANDS[name](self, rest.strip())
            return False
        if name == "quit":
            await self.say("Goodbye.\n")
            return True
        if name == "reset":
            self.reset()
            return True
        await self.say(f'no command "{name}"; "help" tells them all\n')
        return False
