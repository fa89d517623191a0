"""Rendering: one record becomes one line of bytes, in one of three formats.

Lives here: the formats and the escaping. Must not live here: descriptors, threads, what a record means. Whatever a
peer put into a value, a line holds only printable characters (JSON: only printable ASCII), so that it can neither
forge a line nor steer a terminal.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from structlog.typing import EventDict

from wsbridge.log.record import Record
from wsbridge.log.redact import HIDDEN, Kind, kind_of, redact
from wsbridge.log.trace import Trace

FORMATS: Final = ("auto", "console", "json", "journal")

Render = Callable[[Record], bytes]
"""Makes the line of one record, its newline included."""

_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
_COLOURS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_BARE: Final = re.compile(r"[^\s\"=\\]+")
_LATEST: Final = 253402214400.0  # a day before the year 10000


def choose_format(name: str, fd: int, environ: Mapping[str, str] = os.environ) -> str:
    """The format that `name` means for this descriptor: console, json or journal.

    Raises:
        ValueError: There is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"log format {name!r}: must be one of {', '.join(FORMATS)}")
    if name != "auto":
        return name
    try:
        if _is_journal(fd, environ.get("JOURNAL_STREAM", "")):
            return "journal"
        return "console" if os.isatty(fd) else "json"
    except OSError:
        return "json"


def wants_colour(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the console format may use colours there (https://no-color.org)."""
    try:
        return os.isatty(fd) and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"
    except OSError:
        return False


def renderer(name: str, *, colour: bool = False) -> Render:
    """The function that renders records in the format console, json or journal."""
    if name == "json":
        return _json_line
    if name == "journal":
        return _journal_line
    return lambda record: _console_line(record, colour=colour)


def _is_journal(fd: int, stream: str) -> bool:
    """Whether systemd connected this very descriptor to the journal (it sets JOURNAL_STREAM=device:inode)."""
    if not stream:
        return False
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


_second: tuple[int, str] = (-1, "")


def _split(moment: float) -> tuple[int, int]:
    """Seconds and milliseconds, within what calendars know."""
    return divmod(int(min(max(moment, 0.0), _LATEST) * 1000), 1000)


def _when(moment: float) -> str:
    """UTC to the millisecond: 2026-11-22T09:30:01.250Z."""
    global _second  # noqa: PLW0603  a cache of one: lines of the same second share all but the milliseconds
    second, rest = _split(moment)
    known, text = _second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = second, text
    return f"{text}.{rest:03d}Z"


def _clean(key: str, value: Any) -> Any:
    """The value with its secrets replaced."""
    kind, about = type(value), kind_of(key)
    if about is Kind.SECRET:
        return HIDDEN
    if kind is str:
        return redact(value, url=about is Kind.URL)
    if kind is float:
        return value if value - value == 0 else str(value)  # JSON has no infinity and no NaN
    if kind is dict:
        return {name: _clean(name, inner) for name, inner in value.items()}
    if kind is list:
        return [_clean(key, inner) for inner in value]
    return value


# JSON

_encoder: Final = json.JSONEncoder(ensure_ascii=True, check_circular=False, allow_nan=False, separators=(",", ":"))
_encode: Final = _encoder.encode


def _json_line(record: Record) -> bytes:
    return _json({"ts": _when(record.time), "level": record.level, "event": record.facts.get("event")}, record.facts)


def event_line(record: Record) -> bytes:
    """JSON as in the log, for a stream whose records have no level."""
    return _json({"ts": _when(record.time), "event": record.facts.get("event")}, record.facts)


def _json(line: dict[str, Any], facts: EventDict) -> bytes:
    for key, value in facts.items():
        if type(value) is Trace:
            line[key] = redact(value.full())
        elif key == "event":
            line[key] = value
        else:
            line[key + "_" if key in line else key] = _clean(key, value)
    return _encode(line).replace("\x7f", "\\u007f").encode("ascii") + b"\n"


# logfmt, as console and journal use it


def escape(text: str) -> str:
    """`text` with everything that is not printable (C0, C1, bidi, separators, surrogates) as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    number = ord(character)
    return _SHORT.get(character) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is list and value and all(type(item) is str and _BARE.fullmatch(item) for item in value):
        value = ",".join(value)
    elif type(value) is dict or type(value) is list:
        value = _encode(value)
    if type(value) is not str:
        return str(value)
    text = value
    if text.isprintable() and _BARE.fullmatch(text) and text != "-":
        return text
    return f'"{escape(text.replace(chr(92), chr(92) * 2)).replace(chr(34), chr(92) + chr(34))}"'


def _pairs(facts: EventDict) -> list[tuple[str, str]]:
    return [
        (key if key.isidentifier() and key.isascii() else escape(key), _value(_clean(key, value)))
        for key, value in facts.items()
        if key != "event" and type(value) is not Trace
    ]


def _journal_line(record: Record) -> bytes:
    """`<6>connection.end id=1 …`: the priority for the journal, which keeps the time itself."""
    _, level, facts = record
    parts = [_PRIORITIES.get(level, "<3>") + escape(str(facts.get("event")))]
    parts += [f"{key}={value}" for key, value in _pairs(facts)]
    parts += [f"{escape(key)}={_value(redact(value.short()))}" for key, value in facts.items() if type(value) is Trace]
    return (" ".join(parts) + "\n").encode("utf-8", "backslashreplace")


def _console_line(record: Record, *, colour: bool) -> bytes:
    """`09:30:01.250 info    connection.end  id=1 …`; a traceback follows on indented lines."""
    moment, level, facts = record
    second, rest = _split(moment)
    clock = f"{time.strftime('%H:%M:%S', time.localtime(second))}.{rest:03d}"
    event = escape(str(facts.get("event")))
    if colour:
        start = f"{_DIM}{clock}{_RESET} {_COLOURS.get(level, '')}{level:<7}{_RESET} {_BOLD}{event:<18}{_RESET}"
        parts = [f"{_DIM}{key}={_RESET}{value}" for key, value in _pairs(facts)]
    else:
        start = f"{clock} {level:<7} {event:<18}"
        parts = [f"{key}={value}" for key, value in _pairs(facts)]
    lines = [" ".join([start, *parts]).rstrip()]
    for value in facts.values():
        if type(value) is Trace:
            lines += ["    " + escape(part) for part in redact(value.full()).split("\n")]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
