"""The TCP service of the demo and its commands."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import trio

DemoCommand = Callable[["DemoConnection", str], Awaitable[None]]

MAX_FLOOD_MIB = 4096
"""MiB that one `flood` may ask for."""
FLOOD_BLOCK_BYTES = 64 * 1024
SLOW_INTERVAL = 0.4
"""Seconds between the lines of `slow`."""
COUNT_INTERVAL = 0.1
"""Seconds between the numbers of `count`."""

SONNET = """\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date.
"""

INERT = """\
<b>markup</b> <img src=x onerror=alert(1)> <script>alert(2)</script>
\x1b[31mred\x1b[0m \x1b[2J\x1b]0;a new title\x07 and \a\b other control codes
right-to-left override: \u202egnp.exe and back\u202c
All of this stays text.
"""

UNICODE = "Grüße · Привет · 你好 · こんにちは · שלום · 👩\u200d🚀 (its bytes come one by one)\n"


async def _help(connection: DemoConnection, rest: str) -> None:
    """List all commands."""
    await connection.send_text(HELP_TEXT)


async def _echo(connection: DemoConnection, rest: str) -> None:
    """Send the same text back."""
    await connection.send_text(rest + "\n")


async def _date(connection: DemoConnection, rest: str) -> None:
    """Send date and time in the time zone of this host."""
    await connection.send_text(datetime.now().astimezone().strftime("%A, %d %B %Y, %H:%M:%S %Z\n"))


async def _who(connection: DemoConnection, rest: str) -> None:
    """List the connections."""
    now = trio.current_time()
    rows = [
        f"  #{other.number:<4} {now - other.connected_at:8.0f} s  {other.sent_bytes / 2**20:10.1f} MiB sent"
        + ("   (you)" if other is connection else "")
        for other in connection.service.connections.values()
    ]
    await connection.send_text("\n".join(rows) + "\n")


async def _uptime(connection: DemoConnection, rest: str) -> None:
    """Send how long the service has been running, and its number of connections."""
    seconds = trio.current_time() - connection.service.started
    await connection.send_text(f"up {seconds:.0f} s, {connection.service.connection_count} connections so far\n")


async def _count(connection: DemoConnection, rest: str) -> None:
    """Count up, ten a second."""
    last = await _parse_number(connection, rest, default=10, maximum=1_000_000)
    if last is None:
        return
    at = 0

    async def step() -> bool:
        nonlocal at
        at += 1
        await connection.send_text(f"{at}\n")
        return at < last

    await connection.stream(step, COUNT_INTERVAL)


async def _slow(connection: DemoConnection, rest: str) -> None:
    """Send a poem line by line."""
    verses = iter(SONNET.splitlines(keepends=True))

    async def step() -> bool:
        verse = next(verses, "")
        if verse:
            await connection.send_text(verse)
        return bool(verse)

    await connection.stream(step, SLOW_INTERVAL)


async def _flood(connection: DemoConnection, rest: str) -> None:
    """Send that many MiB as fast as possible."""
    size = await _parse_number(connection, rest, default=64, maximum=MAX_FLOOD_MIB)
    if size is not None:
        await _send_lines(connection, size * 2**20)


async def _stream(connection: DemoConnection, rest: str) -> None:
    """Send as fast as possible until a line is received."""
    await connection.send_text("Streaming; any line, even an empty one, ends it.\n")
    await _send_lines(connection, None)


async def _send_lines(connection: DemoConnection, size: int | None) -> None:
    """Send numbered lines in blocks, and report the rate."""
    begin, sent, number = trio.current_time(), 0, 0

    async def step() -> bool:
        nonlocal sent, number
        number += 1
        filler = b"%08d  the quick brown fox jumps over the lazy dog, again and again and again\n" % number
        block = filler * (FLOOD_BLOCK_BYTES // len(filler))
        if size is not None and size - sent < len(block):
            block = block[: size - sent - 1] + b"\n"
        await connection.send(block)
        sent += len(block)
        return not connection.input_ended if size is None else sent < size

    done = await connection.stream(step)
    seconds = max(trio.current_time() - begin, 1e-6)
    end = "Done" if done else "Stopped"
    await connection.send_text(
        f"{end}: {sent / 2**20:.1f} MiB in {seconds:.2f} s, {sent / 2**20 / seconds:.0f} MiB/s\n"
    )


async def _inert(connection: DemoConnection, rest: str) -> None:
    """Send markup and control codes that a careless page would interpret."""
    await connection.send_text(INERT)


async def _unicode(connection: DemoConnection, rest: str) -> None:
    """Send text byte by byte, so that its characters are split."""
    await connection.send_by_bytes(UNICODE.encode())


async def _parse_number(connection: DemoConnection, text: str, *, default: int, maximum: int) -> int | None:
    """Read the number after a command, or report what is wrong with it."""
    number = default if not text else int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if 1 <= number <= maximum:
        return number
    await connection.send_text(f"the number must be from 1 to {maximum}\n")
    return None


DEMO_COMMANDS: dict[str, DemoCommand] = {
    "help": _help,
    "echo": _echo,
    "date": _date,
    "time": _date,
    "who": _who,
    "uptime": _uptime,
    "count": _count,
    "slow": _slow,
    "flood": _flood,
    "stream": _stream,
    "inert": _inert,
    "unicode": _unicode,
}

HELP_TEXT = """\
  date, time     date and time at the service
  echo TEXT      the same text back
  who, uptime    the connections, and how long the service has been running
  count N        count to N, ten a second
  slow           four lines, slowly
  flood N        N MiB as fast as possible (64)
  stream         the same, until you send a line
  unicode        characters sent byte by byte
  inert          markup and control codes, which must stay text
  quit           the service closes the connection
  reset          the service resets the connection
"""


MAX_LINE_BYTES = 4096
"""Maximum length of a line; the rest of a longer one is dropped."""
MAX_DEMO_CONNECTIONS = 64
MAX_QUEUED_LINES = 64
"""Lines read ahead while a command runs; then reading pauses."""
BYTE_INTERVAL = 0.003
"""Seconds between the bytes of `unicode`."""

BANNER = """\
wsbridge demo service
A plain TCP service without WebSocket: wsbridge relays every byte.
Type "help" for its commands.
"""


@dataclass(slots=True)
class DemoService:
    """The service and its connections.

    Attributes:
        started: Trio time of the start in seconds.
        connections: The open connections by number.
        connection_count: Connections so far.
    """

    started: float = 0.0
    connections: dict[int, DemoConnection] = field(default_factory=dict)
    connection_count: int = 0

    async def run(
        self, host: str = "127.0.0.1", port: int = 0, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled.

        Args:
            host: Address to listen on.
            port: TCP port; 0 picks a free one.
            task_status: Receives the real port once connections can be made (`await nursery.start(service.run)`).

        Raises:
            OSError: The address cannot be bound.
        """
        self.started = trio.current_time()
        listeners = await trio.open_tcp_listeners(port, host=host)
        real: int = listeners[0].socket.getsockname()[1]
        task_status.started(real)
        await trio.serve_listeners(self.handle_stream, listeners)

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """Serve one client until one side ends the connection; never raises for what a client did."""
        async with stream:
            if len(self.connections) >= MAX_DEMO_CONNECTIONS:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"Too many are connected already; try again later.\n")
                return
            self.connection_count += 1
            caller = DemoConnection(self, stream, self.connection_count)
            self.connections[caller.number] = caller
            try:
                await caller.run()
            finally:
                del self.connections[caller.number]


class DemoConnection:
    """One connection: a task that reads lines, and one that executes them.

    `ping` is answered by the reading task, between the blocks of a stream; any other line ends a stream and is then
    executed. After the client's FIN the lines before it are still executed, as `nc -N` expects.

    Args:
        service: The service.
        stream: The connection.
        number: Its number, counted from 1.
    """

    def __init__(self, service: DemoService, stream: trio.SocketStream, number: int) -> None:
        self.service = service
        self.number = number
        self.connected_at = trio.current_time()
        self.sent_bytes = 0
        self.input_ended = False
        self._stream = stream
        self._send_lock = trio.Lock()
        self._stream_stop: trio.Event | None = None

    async def run(self) -> None:
        """Send the banner, execute lines, and return when the client or a command has ended the connection."""
        lines, queue = trio.open_memory_channel[str](MAX_QUEUED_LINES)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_lines, lines)
                await self.send_text(BANNER)
                while not await self._execute(await queue.receive()):
                    pass
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            pass

    async def send_text(self, text: str) -> None:
        """Send text that ends with a newline."""
        await self.send(text.encode())

    async def send(self, data: bytes) -> None:
        """Send all of the bytes before other tasks send."""
        async with self._send_lock:
            await self._stream.send_all(data)
            self.sent_bytes += len(data)

    async def send_by_bytes(self, data: bytes) -> None:
        """Send bytes one by one, with pauses, so that each arrives alone."""
        async with self._send_lock:
            for at in range(len(data)):
                await self._stream.send_all(data[at : at + 1])
                await trio.sleep(BYTE_INTERVAL)
            self.sent_bytes += len(data)

    async def stream(self, step: Callable[[], Awaitable[bool]], pause: float = 0) -> bool:
        """Repeat a step until it returns False or the client sends a line.

        Args:
            step: Sends something; returns whether there is more.
            pause: Seconds between the steps.

        Returns:
            Whether it ran to its end.
        """
        self._stream_stop = stop = trio.Event()
        try:
            while not stop.is_set():
                if not await step():
                    return True
                if pause:
                    with trio.move_on_after(pause):
                        await stop.wait()
            return False
        finally:
            self._stream_stop = None

    def reset(self) -> None:
        """End the connection with a TCP reset instead of FIN."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()

    async def _read_lines(self, lines: trio.MemorySendChannel[str]) -> None:
        """Split the input into lines, and pass them on."""
        kept = bytearray()
        async with lines:
            async for data in self._stream:
                for piece in data.splitlines(keepends=True):
                    kept += piece[: MAX_LINE_BYTES + 1 - len(kept)]
                    if piece.endswith(b"\n"):
                        await self._handle_line(bytes(kept), lines)
                        kept.clear()
            self.input_ended = True
            await self._handle_line(bytes(kept), lines)

    async def _handle_line(self, line: bytes, lines: trio.MemorySendChannel[str]) -> None:
        """Handle one line: a ping is answered immediately, any other ends a stream and is queued."""
        text = line.decode(errors="replace").strip()
        name, _, rest = text.partition(" ")
        if len(line) > MAX_LINE_BYTES:
            await self.send_text(f"a line may have {MAX_LINE_BYTES} bytes; this one was longer\n")
        elif name == "ping":
            await self.send_text(f"pong {rest}\n")
        elif line:
            if self._stream_stop is not None:
                self._stream_stop.set()
            if text:
                await lines.send(text)

    async def _execute(self, text: str) -> bool:
        """Execute one line; returns whether that ends the connection."""
        name, _, rest = text.partition(" ")
        name = name.lower()
        if name in DEMO_COMMANDS:
            await DEMO_COMMANDS[name](self, rest.strip())
            return False
        if name == "quit":
            await self.send_text("Goodbye.\n")
            return True
        if name == "reset":
            self.reset()
            return True
        await self.send_text(f'no command "{name}"; "help" lists them\n')
        return False
