"""What a step raises, as a value that tests compare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from wsbridge.reasons import Rejected

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
