"""What the commands of the demo's service do.

Lives here: one function a command, the table of them and the texts they send. Must not live here: sockets and lines;
a command gets the `Conversation` it was given in and what stood behind its name. `quit`, `reset` and `ping`, which are
about the connection itself, are the conversation's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from wsbridge.demo.service import Conversation

Command = Callable[["Conversation", str], Awaitable[None]]

MAX_FLOOD = 4096
"""MiB that one `flood` may ask for."""
BLOCK = 64 * 1024
SLOW_STEP = 0.4
"""Seconds between the lines of `slow`."""
COUNT_STEP = 0.1
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


async def _help(caller: Conversation, rest: str) -> None:
    """Tell all commands."""
    await caller.say(HELP)


async def _echo(caller: Conversation, rest: str) -> None:
    """Say the same."""
    await caller.say(rest + "\n")


async def _date(caller: Conversation, rest: str) -> None:
    """Tell date and time of the machine's own zone."""
    await caller.say(datetime.now().astimezone().strftime("%A, %d %B %Y, %H:%M:%S %Z\n"))


async def _who(caller: Conversation, rest: str) -> None:
    """Tell who is connected."""
    now = trio.current_time()
    rows = [
        f"  #{other.number:<4} {now - other.since:8.0f} s  {other.sent / 2**20:10.1f} MiB sent"
        + ("   (you)" if other is caller else "")
        for other in caller.service.callers.values()
    ]
    await caller.say("\n".join(rows) + "\n")


async def _uptime(caller: Conversation, rest: str) -> None:
    """Tell how long the service runs and whom it served."""
    seconds = trio.current_time() - caller.service.started
    await caller.say(f"up {seconds:.0f} s, {caller.service.served} connections so far\n")


async def _count(caller: Conversation, rest: str) -> None:
    """Count up, ten a second."""
    last = await _number(caller, rest, default=10, most=1_000_000)
    if last is None:
        return
    at = 0

    async def step() -> bool:
        nonlocal at
        at += 1
        await caller.say(f"{at}\n")
        return at < last

    await caller.stream(step, COUNT_STEP)


async def _slow(caller: Conversation, rest: str) -> None:
    """Recite, a line at a time."""
    verses = iter(SONNET.splitlines(keepends=True))

    async def step() -> bool:
        verse = next(verses, "")
        if verse:
            await caller.say(verse)
        return bool(verse)

    await caller.stream(step, SLOW_STEP)


async def _flood(caller: Conversation, rest: str) -> None:
    """Send so many MiB as fast as they go."""
    size = await _number(caller, rest, default=64, most=MAX_FLOOD)
    if size is not None:
        await _pour(caller, size * 2**20)


async def _stream(caller: Conversation, rest: str) -> None:
    """Send as fast as it goes until a line comes."""
    await caller.say("Streaming; any line, even an empty one, ends it.\n")
    await _pour(caller, None)


async def _pour(caller: Conversation, size: int | None) -> None:
    """Send numbered lines, a block at a time, and tell how fast they went."""
    begin, sent, number = trio.current_time(), 0, 0

    async def step() -> bool:
        nonlocal sent, number
        number += 1
        filler = b"%08d  the quick brown fox jumps over the lazy dog, again and again and again\n" % number
        block = filler * (BLOCK // len(filler))
        if size is not None and size - sent < len(block):
            block = block[: size - sent - 1] + b"\n"
        await caller.send(block)
        sent += len(block)
        return not caller.heard_all if size is None else sent < size

    done = await caller.stream(step)
    seconds = max(trio.current_time() - begin, 1e-6)
    end = "Done" if done else "Stopped"
    await caller.say(f"{end}: {sent / 2**20:.1f} MiB in {seconds:.2f} s, {sent / 2**20 / seconds:.0f} MiB/s\n")


async def _inert(caller: Conversation, rest: str) -> None:
    """Send what a careless page would run, or be fooled by."""
    await caller.say(INERT)


async def _unicode(caller: Conversation, rest: str) -> None:
    """Send text whose characters are cut by the pieces it comes in."""
    await caller.send_by_bytes(UNICODE.encode())


async def _number(caller: Conversation, text: str, *, default: int, most: int) -> int | None:
    """Read the number behind a command, or tell what is wrong with it."""
    number = default if not text else int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if 1 <= number <= most:
        return number
    await caller.say(f"the number must be from 1 to {most}\n")
    return None


COMMANDS: dict[str, Command] = {
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

HELP = """\
  date, time     what time it is here
  echo TEXT      the same text back
  who, uptime    who is connected, and since when the service runs
  count N        count to N, ten a second
  slow           four lines, taking their time
  flood N        N MiB as fast as the page takes them (64)
  stream         the same without an end, until you send a line
  unicode        characters that come byte by byte
  inert          markup and control codes, which must stay text
  quit           the service says goodbye and closes
  reset          the service drops the connection
"""
