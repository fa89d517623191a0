"""What a step raises, as a value that tests compare."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from wsbridge.reasons import REASONS, Reason, Rejected

T = TypeVar("T")


def outcome(call: Callable[..., T], *arguments: object, **named: object) -> T | Rejected:
    """Call; return the result or the rejection."""
    try:
        return call(*arguments, **named)
    except Rejected as rejected:
        return rejected


async def async_outcome(awaitable: Awaitable[T]) -> T | Rejected:
    """Await; return the result or the rejection."""
    try:
        return await awaitable
    except Rejected as rejected:
        return rejected


def result_or_detail(call: Callable[..., T], *arguments: object, **named: object) -> T | str:
    """Call; return the result, or the sentence with which it rejects."""
    found = outcome(call, *arguments, **named)
    return found.detail if isinstance(found, Rejected) else found


def challenges(rejected: Rejected) -> tuple[str, ...]:
    """Return the values of WWW-Authenticate."""
    return tuple(value for name, value in rejected.headers if name == "WWW-Authenticate")


def rejection_body(reason: str) -> str:
    """Return the plain-text body of a rejection, whose connection has the number N."""
    return f"{reason}: {REASONS[Reason(reason)].advice} (id=N)\n"


def without_id(response: str) -> str:
    """Return a whole rejection with N as the number of the connection, and without what depends on it."""
    text = re.sub(r"\r\nContent-Length: \d+", "", response)
    return re.sub(r"\(id=\d+\)\n$", "(id=N)\n", text)
