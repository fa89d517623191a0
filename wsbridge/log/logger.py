"""The logger of the whole program: structlog's filtering bound logger, with a level and an output that can change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog
from structlog.typing import Processor

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class LogMethod(Protocol):
    """One level of the log."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Log one event by its stable name, with its fields."""


class LineLogger:
    """The logger at the end of structlog's processors: each level hands its line to one function."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.debug = self.info = self.warning = self.error = put


class Logger:
    """What the whole program logs with.

    A method of a level that is off is a function that returns None. Values may be text, numbers, bytes, paths, enums,
    exceptions, lists and mappings; of anything else the log has its `str()`. `log.exception("internal_error")` inside
    an `except` block, or `exc_info=error` with any method, adds the traceback.

    Attributes:
        level: Least level that is written.
        put: Where the lines go.
    """

    debug: LogMethod
    info: LogMethod
    warning: LogMethod
    error: LogMethod
    exception: LogMethod

    def __init__(self, level: str) -> None:
        self.level = level
        self.set_output((), lambda _: None)

    def set_level(self, level: str) -> None:
        """Write records of this level and above from now on.

        Raises:
            ValueError: There is no such level.
        """
        if level not in LOG_LEVELS:
            raise ValueError(f"log level {level!r}: must be one of {', '.join(LOG_LEVELS)}")
        self.level = level
        self.set_output(self._processors, self.put)

    def set_output(self, processors: Sequence[Processor], put: Callable[[bytes], None]) -> None:
        """Make lines with these structlog processors, on the calling thread, and hand each line to `put`."""
        self._processors, self.put = processors, put
        structlog.configure(
            processors=list(processors),
            wrapper_class=structlog.make_filtering_bound_logger(self.level),
            logger_factory=lambda *_: LineLogger(put),
            cache_logger_on_first_use=False,
        )
        bound = structlog.get_logger().bind()
        self.debug, self.info, self.warning, self.error = bound.debug, bound.info, bound.warning, bound.error
        self.exception = bound.exception
        self._written = frozenset(LOG_LEVELS[LOG_LEVELS.index(self.level) :])

    def emit(self, level: str, fields: dict[str, Any]) -> None:
        """Log one event as the method of the level does, in half the time: for the lines that every connection has.

        Args:
            level: One of `LOG_LEVELS`.
            fields: Those of the event, and its name as `event`; the log may change them.
        """
        if level not in self._written:
            return
        made: Any = fields
        try:
            for process in self._processors:
                made = process(None, level, made)
        except structlog.DropEvent:
            return
        self.put(made)


log: Final = Logger("info")
