"""Traces: an exception as text, in two shapes, without keeping its frames alive.

Lives here: the long form with source lines (console, JSON) and the short form on one line (journal). Must not live
here: when to log one. Source lines are read from disk by `full`, that is by the writing thread.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Self

DEEPEST: Final = 30
"""Frames of one exception, the innermost ones."""
MOST_TEXT: Final = 8192
"""Characters of a full trace; the middle is left out."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of one exception."""

    summary: traceback.TracebackException

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Take down `error`, its causes and its group: names and line numbers only, no source is read."""
        kind, trace = type(error), error.__traceback__
        return cls(traceback.TracebackException(kind, error, trace, limit=-DEEPEST, lookup_lines=False, compact=True))

    def full(self) -> str:
        """The usual form, many lines, at most `MOST_TEXT` characters and a mark."""
        text = "".join(self.summary.format()).rstrip("\n")
        if len(text) <= MOST_TEXT:
            return text
        half = MOST_TEXT // 2
        return f"{text[:half]}\n…(+{len(text) - 2 * half})…\n{text[-half:]}"

    def short(self) -> str:
        """One line, innermost frame first: `ValueError: text (at pump.py:120 turn < connection.py:88 run)`."""
        text = " ".join(_short(self.summary, 0)).replace("\n", " ")
        return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…(+{len(text) - MOST_TEXT})"


def _short(summary: traceback.TracebackException, depth: int) -> Iterator[str]:
    yield "".join(summary.format_exception_only()).strip() if not summary.exceptions else str(summary)
    frames = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(summary.stack)]
    if frames:
        yield f"(at {' < '.join(frames)})"
    if depth < 3:
        for inner in (summary.exceptions or ())[:5]:
            yield f"[{' '.join(_short(inner, depth + 1))}]"
        before = summary.__cause__ or (None if summary.__suppress_context__ else summary.__context__)
        if before is not None:
            yield f"after {' '.join(_short(before, depth + 1))}"
