"""Logger, value bounding, exceptions."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, NamedTuple, Protocol, Self

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

MAX_FRAMES: Final = 30
"""Frames of one exception, the innermost ones."""
MAX_TRACE_CHARS: Final = 8192
"""Characters of a full trace; the middle is left out."""


@dataclass(frozen=True, slots=True)
class ExceptionTrace:
    """What is known of one exception."""

    summary: traceback.TracebackException

    @classmethod
    def from_exception(cls, error: BaseException) -> Self:
        """Take down `error`, its causes and its group: names and line numbers only, no source is read."""
        kind, trace = type(error), error.__traceback__
        return cls(
            traceback.TracebackException(kind, error, trace, limit=-MAX_FRAMES, lookup_lines=False, compact=True)
        )

    def format_full(self) -> str:
        """The usual form, many lines, at most `MOST_TEXT` characters and a mark."""
        text = "".join(self.summary.format()).rstrip("\n")
        if len(text) <= MAX_TRACE_CHARS:
            return text
        half = MAX_TRACE_CHARS // 2
        return f"{text[:half]}\n…(+{len(text) - 2 * half})…\n{text[-half:]}"

    def format_short(self) -> str:
        """One line, innermost frame first: `ValueError: text (at pump.py:120 turn < connection.py:88 run)`."""
        text = " ".join(_short_parts(self.summary, 0)).replace("\n", " ")
        return text if len(text) <= MAX_TRACE_CHARS else f"{text[:MAX_TRACE_CHARS]}…(+{len(text) - MAX_TRACE_CHARS})"


def _short_parts(summary: traceback.TracebackException, depth: int) -> Iterator[str]:
    yield "".join(summary.format_exception_only()).strip() if not summary.exceptions else str(summary)
    frames = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(summary.stack)]
    if frames:
        yield f"(at {' < '.join(frames)})"
    if depth < 3:
        for inner in (summary.exceptions or ())[:5]:
            yield f"[{' '.join(_short_parts(inner, depth + 1))}]"
        before = summary.__cause__ or (None if summary.__suppress_context__ else summary.__context__)
        if before is not None:
            yield f"after {' '.join(_short_parts(before, depth + 1))}"


MAX_TEXT_CHARS: Final = 1024
"""Characters of one text value; the rest is cut off and its length told."""
MAX_ITEMS: Final = 64
"""Values inside one list or mapping, all depths together."""
MAX_DECIMAL_INT: Final = 2**64
"""Larger numbers are shown in hexadecimal, cut like text: making decimals of them takes quadratic time."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

PlainValue = str | int | float | bool | None | list["PlainValue"] | dict[str, "PlainValue"]
"""A value as it is queued."""
_Container = Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]


class Record(NamedTuple):
    """One record on its way from the caller to the writer."""

    time: float
    """Seconds since 1970, wall clock."""
    level: str
    fields: EventDict
    """What was logged, `event` among it; plain and bounded once `settle` has run."""


class LogMethod(Protocol):
    """One level of the log."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Log one event by its stable name, with its facts."""


class Sink:
    """The end of structlog's chain: one stable object that is pointed at the writer of the moment."""

    __slots__ = ("critical", "debug", "error", "info", "put", "warning")

    def set_target(self, put: Callable[[Record], None]) -> None:
        """Send all further records to `put`."""
        self.put = self.debug = self.info = self.warning = self.error = self.critical = put


sink: Final = Sink()


def _make_record(_logger: object, level: str, fields: EventDict) -> tuple[tuple[Record], dict[str, Any]]:
    """The one processor: structlog calls `gate` with the arguments that it returns."""
    return (Record(time.time(), level, fields),), {}


class Logger:
    """What the whole program logs with: a structlog bound logger whose level can still change.

    A method of a level that is off is a function that returns None. Values may be text, numbers, bytes, paths, enums,
    exceptions, lists and mappings; anything else is shown by its `str()`. `log.exception("internal_error")` inside an
    `except` block, or `exc_info=error` with any method, adds the traceback.
    """

    debug: LogMethod
    info: LogMethod
    warning: LogMethod
    error: LogMethod
    exception: LogMethod

    def __init__(self, level: str) -> None:
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write records of this level and above from now on; loggers made by `bind` keep theirs.

        Raises:
            ValueError: There is no such level.
        """
        if level not in LOG_LEVELS:
            raise ValueError(f"log level {level!r}: must be one of {', '.join(LOG_LEVELS)}")
        structlog.configure(
            processors=structlog.get_config()["processors"],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda *_: sink,
            cache_logger_on_first_use=False,
        )
        self.level = level
        self._bound: FilteringBoundLogger = structlog.get_logger().bind()
        self.debug, self.info = self._bound.debug, self._bound.info
        self.warning, self.error = self._bound.warning, self._bound.error
        self.exception = self._bound.exception

    def bind(self, **fields: Any) -> FilteringBoundLogger:
        """A logger that adds these facts to each of its records. Bind after `start`, never in a module."""
        bound: FilteringBoundLogger = self._bound.bind(**fields)
        return bound


structlog.configure(processors=[_make_record])
log: Final = Logger("info")


def normalise_fields(fields: EventDict) -> None:
    """Make all values plain and bounded, in place: the last thing the calling thread does. Never raises."""
    try:
        if "exc_info" in fields:
            _normalise_exception(fields)
        for key, value in fields.items():
            kind = type(value)
            if kind is str:
                if len(value) > MAX_TEXT_CHARS:
                    fields[key] = truncate(value, MAX_TEXT_CHARS)
            elif kind is int:
                if not -MAX_DECIMAL_INT < value < MAX_DECIMAL_INT:
                    fields[key] = _plain_value(value, [])
            elif kind is not float and kind is not bool and value is not None and kind is not ExceptionTrace:
                fields[key] = _plain_value(value, [MAX_ITEMS])
    except Exception as error:  # a list that changes while it is copied, a mapping that raises
        event = truncate(_to_text(fields.get("event")), MAX_TEXT_CHARS)
        fields.clear()
        fields.update(
            event="internal_error", component="log", detail=f"{event}: values could not be read: {type(error).__name__}"
        )


def truncate(text: str, limit: int) -> str:
    """`text`, or its first `longest` characters and how many are missing."""
    return text if len(text) <= limit else f"{text[:limit]}…(+{len(text) - limit})"


def _plain_value(value: object, budget: list[int]) -> PlainValue:
    """A copy of `value` as plain data; `left` holds how many more inner values may be copied."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return int(value) if -MAX_DECIMAL_INT < value < MAX_DECIMAL_INT else truncate(hex(value), MAX_TEXT_CHARS)
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "reveal"):
        return "***"
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value[: MAX_TEXT_CHARS * 4]).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _plain_container(value, budget)
    return truncate(_to_text(value), MAX_TEXT_CHARS)


def _plain_container(value: _Container, budget: list[int]) -> PlainValue:
    if isinstance(value, Mapping):
        pairs: dict[str, PlainValue] = {}
        for key, item in value.items():
            budget[0] -= 1
            if budget[0] < 0:
                pairs["…"] = f"(+{len(value) - len(pairs)})"
                break
            pairs[truncate(_to_text(key), 64)] = _plain_value(item, budget)
        return pairs
    items: list[PlainValue] = []
    for item in value:
        budget[0] -= 1
        if budget[0] < 0:
            items.append(f"…(+{len(value) - len(items)})")
            break
        items.append(_plain_value(item, budget))
    return items


def _to_text(value: object) -> str:
    try:
        if isinstance(value, BaseException):
            return str(value) or type(value).__name__
        return str(value)
    except Exception as error:  # whatever a __str__ raises, logging it must not fail
        return f"<{type(value).__name__}: no text, {type(error).__name__}>"


def _normalise_exception(fields: EventDict) -> None:
    """Replace `exc_info` by `exception`, a summary without frames: no local variable outlives the caller."""
    given = fields.pop("exc_info")
    if given is True:
        given = sys.exc_info()
    if isinstance(given, tuple):
        given = given[1]
    if isinstance(given, BaseException):
        fields["exception"] = ExceptionTrace.from_exception(given)
