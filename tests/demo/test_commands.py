"""What each command of the demo's service says, without a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from wsbridge.demo import service
from wsbridge.demo.service import DEMO_COMMANDS, FLOOD_BLOCK_BYTES, HELP_TEXT


class Listener:
    """A conversation that keeps what it gets.

    Attributes:
        heard: All of it.
        steps: How often a stream went on, with the pause between.
        patience: After so many steps a line comes; None for never.
        input_ended: Whether the caller has nothing more to say.
    """

    def __init__(self, patience: int | None = None, *, input_ended: bool = False) -> None:
        self.heard = b""
        self.steps: list[float] = []
        self.patience = patience
        self.input_ended = input_ended

    async def send_text(self, text: str) -> None:
        """See `DemoConnection.send_text`."""
        self.heard += text.encode()

    async def send(self, data: bytes) -> None:
        """See `DemoConnection.send`."""
        self.heard += data

    async def send_by_bytes(self, data: bytes) -> None:
        """See `DemoConnection.send_by_bytes`."""
        self.heard += data

    async def stream(self, step: Callable[[], Awaitable[bool]], pause: float = 0.0) -> bool:
        """See `DemoConnection.stream`."""
        while True:
            self.steps.append(pause)
            if not await step():
                return True
            if self.patience is not None and len(self.steps) >= self.patience:
                return False


async def output_of(name: str, rest: str = "", listener: Listener | None = None) -> str:
    """Give what a command says."""
    listener = listener or Listener()
    await DEMO_COMMANDS[name](listener, rest)
    return listener.heard.decode()


async def test_the_same_and_the_rest() -> None:
    """`echo` gives back what stood behind it; `help`, `inert` and `unicode` say their texts."""
    assert await output_of("echo", "a  b ü") == "a  b ü\n"
    assert await output_of("help") == HELP_TEXT
    assert await output_of("inert") == service.INERT
    assert await output_of("unicode") == service.UNICODE


async def test_counting() -> None:
    """Numbers from 1, ten a second, ten of them if none is asked for; a line ends it."""
    listener = Listener()
    assert await output_of("count", "3", listener) == "1\n2\n3\n"
    assert listener.steps == [0.1] * 3
    assert (await output_of("count")).split() == [str(at) for at in range(1, 11)]
    assert await output_of("count", "9", Listener(patience=2)) == "1\n2\n"


async def test_reciting() -> None:
    """Four lines, with time between them."""
    listener = Listener()
    assert await output_of("slow", "", listener) == service.SONNET
    assert set(listener.steps) == {service.SLOW_INTERVAL}


@pytest.mark.parametrize(
    ("name", "number", "most"),
    [("count", "0", 1_000_000), ("count", "1000001", 1_000_000), ("flood", "4097", 4096)],
)
async def test_numbers_out_of_bounds(name: str, number: str, most: int) -> None:
    """They are rejected with the bound, and nothing else is sent."""
    assert await output_of(name, number) == f"the number must be from 1 to {most}\n"


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "²", "٣", "9" * 10, " 1"])
async def test_what_is_no_number(text: str) -> None:
    """Only ASCII digits, and not more than nine of them."""
    assert "the number must be from 1 to" in await output_of("flood", text)


async def test_a_flood_is_exact_and_of_whole_lines() -> None:
    """So many MiB, the last line cut to end there, then the summary."""
    heard, _, summary = (await output_of("flood", "1")).rpartition("Done: ")

    assert len(heard) == 2**20
    assert heard.endswith("\n")
    assert summary.startswith("1.0 MiB in ")


async def test_a_flood_that_a_line_ends() -> None:
    """It is reported as stopped, with what was sent until then."""
    heard, _, summary = (await output_of("flood", "64", Listener(patience=3))).rpartition("Stopped: ")

    assert 2 * FLOOD_BLOCK_BYTES < len(heard) <= 3 * FLOOD_BLOCK_BYTES
    assert summary.startswith("0.2 MiB in ")


async def test_a_stream_without_a_caller_to_end_it() -> None:
    """It ends by itself after a block once the caller has said all."""
    listener = Listener(input_ended=True)

    assert "Done: " in await output_of("stream", "", listener)
    assert len(listener.steps) == 1


async def test_help_names_every_command() -> None:
    """The commands that exist are those that `help` lists."""
    for name in [*DEMO_COMMANDS, "quit", "reset"]:
        assert name == "help" or name in HELP_TEXT
