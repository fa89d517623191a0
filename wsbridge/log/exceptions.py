"""Exceptions as bounded text without local variables."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from structlog.typing import ExcInfo

MAX_FRAMES: Final = 30
"""Frames of one exception, the innermost ones."""
MAX_TRACE_CHARS: Final = 8192
"""Characters of a traceback; the middle is left out."""


def exception_text(exc_info: ExcInfo) -> str:
    """The usual traceback of several lines, for structlog's `ExceptionRenderer`."""
    text = "".join(_summary(exc_info).format()).rstrip("\n")
    if len(text) <= MAX_TRACE_CHARS:
        return text
    half = MAX_TRACE_CHARS // 2
    return f"{text[:half]}\n…(+{len(text) - 2 * half})…\n{text[-half:]}"


def exception_line(exc_info: ExcInfo) -> str:
    """One line, innermost frame first: `ValueError: text (at loop.py:120 turn < connection.py:88 run)`."""
    text = " ".join(_line_parts(_summary(exc_info), 0)).replace("\n", " ")
    return text if len(text) <= MAX_TRACE_CHARS else f"{text[:MAX_TRACE_CHARS]}…(+{len(text) - MAX_TRACE_CHARS})"


def _summary(exc_info: ExcInfo) -> traceback.TracebackException:
    return traceback.TracebackException(*exc_info, limit=-MAX_FRAMES, lookup_lines=False, compact=True)


def _line_parts(summary: traceback.TracebackException, depth: int) -> Iterator[str]:
    yield "".join(summary.format_exception_only()).strip() if not summary.exceptions else str(summary)
    frames = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(summary.stack)]
    if frames:
        yield f"(at {' < '.join(frames)})"
    if depth < 3:
        for inner in (summary.exceptions or ())[:5]:
            yield f"[{' '.join(_line_parts(inner, depth + 1))}]"
        before = summary.__cause__ or (None if summary.__suppress_context__ else summary.__context__)
        if before is not None:
            yield f"after {' '.join(_line_parts(before, depth + 1))}"
