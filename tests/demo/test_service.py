"""The demo's TCP service, talked to over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from wsbridge.demo import service as service_module
from wsbridge.demo.service import BANNER, MAX_LINE_BYTES, DemoService


class Caller:
    """One connection to the service, past its banner."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._kept = b""

    async def ask(self, text: str) -> None:
        await self.stream.send_all(text.encode())

    async def until(self, end: str) -> str:
        """Read until the text has come, and give all up to and with it."""
        mark = end.encode()
        while mark not in self._kept:
            data = await self.stream.receive_some()
            assert data, f"the service closed before {end!r}, after {self._kept[-200:]!r}"
            self._kept += data
        got, _, self._kept = self._kept.partition(mark)
        return (got + mark).decode()

    async def rest(self) -> bytes:
        got = bytearray(self._kept)
        async for data in self.stream:
            got += data
        return bytes(got)


@pytest.fixture
async def service() -> AsyncIterator[tuple[DemoService, int]]:
    """A running service and its port."""
    one = DemoService()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(one.run)
            yield one, port
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def call(port: int) -> AsyncIterator[Caller]:
    """Connect, and read the banner."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        caller = Caller(stream)
        assert await caller.until(BANNER) == BANNER
        yield caller


async def test_talks_first(service: tuple[DemoService, int]) -> None:
    """The banner comes before the caller has said anything."""
    async with call(service[1]):
        pass


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("echo hello  there\n", "hello  there\n"),
        ("ECHO over CRLF\r\n", "over CRLF\n"),
        ("echo grün\n", "grün\n"),
        ("ping 17\n", "pong 17\n"),
        ("count 3\n", "1\n2\n3\n"),
        ("help\n", service_module.HELP_TEXT),
        ("inert\n", service_module.INERT),
        ("unicode\n", service_module.UNICODE),
        ("nonsense 1\n", 'no command "nonsense"; "help" lists them\n'),
        ("flood x\n", "the number must be from 1 to 4096\n"),
        ("flood 0\n", "the number must be from 1 to 4096\n"),
        ("flood 99999999999999999999\n", "the number must be from 1 to 4096\n"),
        ("count ²\n", "the number must be from 1 to 1000000\n"),
    ],
)
async def test_answers(service: tuple[DemoService, int], line: str, answer: str) -> None:
    """Each command gives its answer and nothing else, and the next one works."""
    async with call(service[1]) as caller:
        await caller.ask(f"\n{line}")
        got = await caller.until(answer)
        await caller.ask("echo next\n")

        assert got == answer
        assert await caller.until("next\n") == "next\n"


@pytest.mark.parametrize("name", ["date", "time", "who", "uptime"])
async def test_tells_about_now(service: tuple[DemoService, int], name: str) -> None:
    """The commands whose answers change give one line each."""
    async with call(service[1]) as caller:
        await caller.ask(f"{name}\n")

        assert len(await caller.until("\n")) > 10


async def test_line_in_many_pieces(service: tuple[DemoService, int]) -> None:
    """A line that comes byte by byte is one line."""
    async with call(service[1]) as caller:
        for character in "echo slowly\r\n":
            await caller.ask(character)

        assert await caller.until("slowly\n") == "slowly\n"


async def test_endless_line_costs_nothing(service: tuple[DemoService, int]) -> None:
    """A line beyond the limit is dropped with a message; the next line works."""
    async with call(service[1]) as caller:
        await caller.ask("echo " + "x" * 1_000_000 + "\n")
        assert f"may have {MAX_LINE_BYTES} bytes" in await caller.until("\n")
        await caller.ask("echo still here\n")

        assert await caller.until("here\n") == "still here\n"


async def test_floods_exactly(service: tuple[DemoService, int]) -> None:
    """`flood N` sends N MiB of whole lines, then says so."""
    async with call(service[1]) as caller:
        await caller.ask("flood 2\n")
        got = await caller.until("Done: 2.0 MiB")

        assert len(got) - len("Done: 2.0 MiB") == 2 * 2**20


async def test_line_ends_a_stream(service: tuple[DemoService, int]) -> None:
    """`stream` goes on until a line comes; an empty one is enough, and another is obeyed."""
    async with call(service[1]) as caller:
        for line, answer in (("\n", "MiB/s\n"), ("echo enough\n", "\nenough\n")):
            await caller.ask("stream\n")
            await caller.until("fox")
            await caller.ask(line)
            await caller.until("\nStopped: ")
            await caller.until(answer)


async def test_pong_stands_alone_within_a_stream(service: tuple[DemoService, int]) -> None:
    """A ping is answered while a stream goes on, on a line of its own, and does not end the stream."""
    async with call(service[1]) as caller:
        await caller.ask("stream\n")
        await caller.until("fox")
        for number in range(20):
            await caller.ask(f"ping {number}\n")
            await caller.until(f"\npong {number}\n")
        await caller.until("fox")


async def test_slow_command_is_ended_by_a_line(
    service: tuple[DemoService, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause between two lines is no obstacle to ending a stream."""
    monkeypatch.setattr(service_module, "SLOW_INTERVAL", 1000)
    async with call(service[1]) as caller:
        await caller.ask("slow\n")
        await caller.until("day?\n")
        await caller.ask("echo enough\n")

        assert await caller.until("enough\n") == "enough\n"


async def test_quit_is_a_clean_end(service: tuple[DemoService, int]) -> None:
    """`quit` says goodbye and closes with FIN."""
    async with call(service[1]) as caller:
        await caller.ask("quit\n")

        assert await caller.rest() == b"Goodbye.\n"


@pytest.mark.parametrize("before", ["", "stream\n"])
async def test_reset_is_a_reset(service: tuple[DemoService, int], before: str) -> None:
    """`reset` drops the connection with RST, idle or in mid-stream."""
    async with call(service[1]) as caller:
        if before:
            await caller.ask(before)
            await caller.until("fox")
        await caller.ask("reset\n")
        with pytest.raises(trio.BrokenResourceError):
            await caller.rest()


async def test_answers_after_the_callers_end(service: tuple[DemoService, int]) -> None:
    """After the caller's FIN all that was asked is still answered, then the service closes."""
    async with call(service[1]) as caller:
        await caller.ask("echo first\nflood 1")
        await caller.stream.send_eof()
        got = await caller.rest()

        assert got.startswith(b"first\n")
        assert got.endswith(b"MiB/s\n")
        assert b"\nDone: 1.0 MiB" in got


async def test_endless_stream_ends_with_the_caller(service: tuple[DemoService, int]) -> None:
    """`stream` does not go on for a caller that can no longer end it."""
    async with call(service[1]) as caller:
        await caller.ask("stream\n")
        await caller.stream.send_eof()

        assert (await caller.rest()).endswith(b"MiB/s\n")


async def test_lost_callers_are_forgotten(service: tuple[DemoService, int]) -> None:
    """A client lost in mid-stream, unread or by a reset, affects no other client and is removed from the list."""
    one, port = service
    async with call(port) as witness:
        for _ in range(5):
            async with call(port) as caller:
                await caller.ask("stream\n")
                await caller.until("fox")
        while len(one.connections) > 1:
            await trio.testing.wait_all_tasks_blocked()
        await witness.ask("who\n")

        assert "(you)" in await witness.until("\n")


async def test_callers_are_bounded(service: tuple[DemoService, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound the service says so and closes."""
    monkeypatch.setattr("wsbridge.demo.service.MAX_DEMO_CONNECTIONS", 1)
    async with call(service[1]), await trio.open_tcp_stream("127.0.0.1", service[1]) as second:
        assert (await Caller(second).rest()).startswith(b"Too many")
