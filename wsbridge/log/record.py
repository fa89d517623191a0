"""Records: what the calling thread does for one line, and no more than that.

Lives here: `log` itself, the level filter, and `settle`, which turns every value into plain, bounded data, so that
the writing thread never looks at an object that may change under it, and a queued record has a largest size.
Must not live here: text of a line, redaction, any system call. Records go to whatever `gate` points at.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from wsbridge.log.trace import Trace

LONGEST: Final = 1024
"""Characters of one text value; the rest is cut off and its length told."""
MOST_ITEMS: Final = 64
"""Values inside one list or mapping, all depths together."""
MOST_INT: Final = 2**64
"""Larger numbers are shown in hexadecimal, cut like text: making decimals of them takes quadratic time."""
LEVELS: Final = ("debug", "info", "warning", "error")

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
"""A value as it is queued."""
_Container = Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]


class Record(NamedTuple):
    """One record on its way from the caller to the writer."""

    time: float
    """Seconds since 1970, wall clock."""
    level: str
    facts: EventDict
    """What was logged, `event` among it; plain and bounded once `settle` has run."""


class Say(Protocol):
    """One level of the log."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Log one event by its stable name, with its facts."""


class Gate:
    """The end of structlog's chain: one stable object that is pointed at the writer of the moment."""

    __slots__ = ("critical", "debug", "error", "info", "put", "warning")

    def point_at(self, put: Callable[[Record], None]) -> None:
        """Send all further records to `put`."""
        self.put = self.debug = self.info = self.warning = self.error = self.critical = put


gate: Final = Gate()


def _stamp(_logger: object, method: str, facts: EventDict) -> tuple[tuple[Record], dict[str, Any]]:
    """The one processor: structlog calls `gate` with the arguments that it returns."""
    return (Record(time.time(), method, facts),), {}


class Log:
    """What the whole program logs with: a structlog bound logger whose level can still change.

    A method of a level that is off is a function that returns None. Values may be text, numbers, bytes, paths, enums,
    exceptions, lists and mappings; anything else is shown by its `str()`. `log.exception("bug")` inside an
    `except` block, or `exc_info=error` with any method, adds the traceback.
    """

    debug: Say
    info: Say
    warning: Say
    error: Say
    exception: Say

    def __init__(self, level: str) -> None:
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write records of this level and above from now on; loggers made by `bind` keep theirs.

        Raises:
            ValueError: There is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"log level {level!r}: must be one of {', '.join(LEVELS)}")
        structlog.configure(
            processors=structlog.get_config()["processors"],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda *_: gate,
            cache_logger_on_first_use=False,
        )
        self.level = level
        self._bound: FilteringBoundLogger = structlog.get_logger().bind()
        self.debug, self.info = self._bound.debug, self._bound.info
        self.warning, self.error = self._bound.warning, self._bound.error
        self.exception = self._bound.exception

    def bind(self, **facts: Any) -> FilteringBoundLogger:
        """A logger that adds these facts to each of its records. Bind after `start`, never in a module."""
        bound: FilteringBoundLogger = self._bound.bind(**facts)
        return bound


structlog.configure(processors=[_stamp])
log: Final = Log("info")


def settle(facts: EventDict) -> None:
    """Make all values plain and bounded, in place: the last thing the calling thread does. Never raises."""
    try:
        if "exc_info" in facts:
            _settle_exception(facts)
        for key, value in facts.items():
            kind = type(value)
            if kind is str:
                if len(value) > LONGEST:
                    facts[key] = cut(value, LONGEST)
            elif kind is int:
                if not -MOST_INT < value < MOST_INT:
                    facts[key] = _plain(value, [])
            elif kind is not float and kind is not bool and value is not None and kind is not Trace:
                facts[key] = _plain(value, [MOST_ITEMS])
    except Exception as error:  # a list that changes while it is copied, a mapping that raises
        event = cut(_text(facts.get("event")), LONGEST)
        facts.clear()
        facts.update(event="bug", where="log", detail=f"{event}: values could not be read: {type(error).__name__}")


def cut(text: str, longest: int) -> str:
    """`text`, or its first `longest` characters and how many are missing."""
    return text if len(text) <= longest else f"{text[:longest]}…(+{len(text) - longest})"


def _plain(value: object, left: list[int]) -> Plain:
    """A copy of `value` as plain data; `left` holds how many more inner values may be copied."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return int(value) if -MOST_INT < value < MOST_INT else cut(hex(value), LONGEST)
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "reveal"):
        return "***"
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value[: LONGEST * 4]).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _plain_container(value, left)
    return cut(_text(value), LONGEST)


def _plain_container(value: _Container, left: list[int]) -> Plain:
    if isinstance(value, Mapping):
        pairs: dict[str, Plain] = {}
        for key, item in value.items():
            left[0] -= 1
            if left[0] < 0:
                pairs["…"] = f"(+{len(value) - len(pairs)})"
                break
            pairs[cut(_text(key), 64)] = _plain(item, left)
        return pairs
    items: list[Plain] = []
    for item in value:
        left[0] -= 1
        if left[0] < 0:
            items.append(f"…(+{len(value) - len(items)})")
            break
        items.append(_plain(item, left))
    return items


def _text(value: object) -> str:
    try:
        if isinstance(value, BaseException):
            return str(value) or type(value).__name__
        return str(value)
    except Exception as error:  # whatever a __str__ raises, logging it must not fail
        return f"<{type(value).__name__}: no text, {type(error).__name__}>"


def _settle_exception(facts: EventDict) -> None:
    """Replace `exc_info` by `exception`, a summary without frames: no local variable outlives the caller."""
    given = facts.pop("exc_info")
    if given is True:
        given = sys.exc_info()
    if isinstance(given, tuple):
        given = given[1]
    if isinstance(given, BaseException):
        facts["exception"] = Trace.of(given)
