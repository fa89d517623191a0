"""The formats of the log: structlog processors that turn the fields of a record into one line of bytes."""

from __future__ import annotations

import enum
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.processors import ExceptionRenderer, TimeStamper, add_log_level
from structlog.typing import EventDict, Processor

from wsbridge.log.exceptions import exception_line, exception_text

REDACTED: Final = "***"

_SECRET_WORDS: Final = (
    *("token", "secret", "passw", "passphrase", "pwd", "signature", "auth", "jwt"),
    *("ticket", "credential", "apikey", "cookie"),
)
_SECRET_NAMES: Final = frozenset(
    ("key", "sig", "code", "pass", "pin", "otp", "sid", "session", "sessionid", "assertion"),
)
_SECRET_KEYS: Final = frozenset(
    (
        *("password", "passwd", "pwd", "passphrase", "token", "secret", "authorization", "proxy_authorization"),
        *("cookie", "set_cookie", "api_key", "private_key", "jwt"),
    )
)
_SECRET_KEY_ENDS: Final = ("_password", "_token", "_secret", "_cookie", "_authorization", "_api_key")

_URL_KEYS: Final = frozenset({"path", "target", "url", "query", "location", "referer", "referrer", "uri"})
_QUERY_NAME: Final = re.compile(r"(^|[?&;#])([^?&;#=\s]++)=")
_QUERY_VALUE: Final = re.compile(r"[^&;#\s]*")
_VALUE_UNTIL_QUERY: Final = re.compile(r"[^?&;#\s]*")
MAX_ENCODING_DEPTH: Final = 10
"""Levels of percent-encoding that are looked through; a text with more is not shown at all."""
_SHOWN_AS_IT_IS: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}%"
_USERINFO: Final = re.compile(r"(//[^/?#@\s:]*):[^/?#@\s]*@")
_TOKEN_SUBPROTOCOL: Final = re.compile(
    r"(wsbridge\.token\.|(?:authorization\.bearer|bearer\.authorization\.k8s\.io)\.)[^\s,;\"']+", re.IGNORECASE
)


class ValueKind(enum.Enum):
    """What a key says of its value."""

    PLAIN = enum.auto()
    URL = enum.auto()
    """A request target, a URL or a query as a whole."""
    SECRET = enum.auto()
    """Hidden whatever it is."""


_URL, _SECRET = ValueKind.URL, ValueKind.SECRET  # a look-up in an enum takes twice as long as the rest of its line


@lru_cache(maxsize=1024)
def value_kind(key: str) -> ValueKind:
    """What the key of a record, or of a mapping in it, says of its value."""
    name = key.lower().replace("-", "_")
    if name in _SECRET_KEYS or name.endswith(_SECRET_KEY_ENDS):
        return ValueKind.SECRET
    return ValueKind.URL if name in _URL_KEYS else ValueKind.PLAIN


def redact(text: str, *, url: bool = False) -> str:
    """`text` without the secrets that query parameters, URL users and subprotocols carry.

    Args:
        text: Any text, from a peer or not.
        url: The text is a target, URL or query as a whole, so that its very beginning may be a parameter.
    """
    text = _redact_decoded(text, url=url, decode=True)
    return _redact_encoded(text, url=url) if "%" in text else text


def _redact_decoded(text: str, *, url: bool, decode: bool) -> str:
    """Redact one level of encoding."""
    if "=" in text:
        text = _redact_query(text, url=url, decode=decode)
    if "@" in text:
        text = _USERINFO.sub(rf"\1:{REDACTED}@", text)
    if "." in text:
        low = text.lower()
        if "token." in low or "bearer" in low:
            text = _TOKEN_SUBPROTOCOL.sub(rf"\1{REDACTED}", text)
    return text


def _redact_query(text: str, *, url: bool, decode: bool) -> str:
    parts: list[str] = []
    done = 0
    while found := _QUERY_NAME.search(text, done):
        before, name = found.groups()
        start = found.end()
        parts.append(text[done:start])
        done = start
        if not before and not url:
            continue
        if _is_secret_name(name) or (decode and _contains_secret(_match_at(_VALUE_UNTIL_QUERY, text, start))):
            parts.append(REDACTED)
            done += len(_match_at(_QUERY_VALUE, text, start))
    return "".join(parts) + text[done:]


def _redact_encoded(text: str, *, url: bool) -> str:
    """Redact what is a secret only after percent-decoding, once or several times (`%3Ftoken%3Dhunter2`).

    Each level of encoding is redacted before the next one is decoded, so that an encoded separator within a value does
    not end it. A text without secrets stays as it is.
    """
    shown = level = text
    for _ in range(MAX_ENCODING_DEPTH):
        decoded = unquote(level, errors="backslashreplace")
        if decoded == level:
            return shown
        level = _redact_decoded(decoded, url=url, decode=False)
        if level != decoded:
            shown = quote(level, safe=_SHOWN_AS_IT_IS)
    return REDACTED


def _match_at(pattern: re.Pattern[str], text: str, start: int) -> str:
    found = pattern.match(text, start)
    return found[0] if found else ""


def _is_secret_name(name: str) -> bool:
    plain = unquote(name).lower().replace("-", "_").strip("[]_ ")
    if plain in _SECRET_NAMES or plain.endswith(("key", "_sig", "_code", "_sid")):
        return True
    plain = plain.replace("_", "")
    return any(word in plain for word in _SECRET_WORDS)


def _contains_secret(value: str) -> bool:
    """Whether a percent-encoded value, decoded, is a target with a secret of its own (noVNC's `path=` is one)."""
    return "%" in value and _redact_encoded(value, url=False) != value


MAX_TEXT_CHARS: Final = 1024
"""Characters of one text value; the rest is cut off and replaced by the number of characters omitted."""
MAX_ITEMS: Final = 64
"""Values inside one list or mapping, all depths together."""
MAX_DECIMAL_INT: Final = 2**64
"""Larger numbers are written in hexadecimal, cut like text: converting them to decimal takes quadratic time."""

PlainValue = str | int | float | bool | None | list["PlainValue"] | dict[str, "PlainValue"]


def clean_values(_logger: object, _level: str, fields: EventDict) -> EventDict:
    """Make all values plain, bounded and free of secrets; the time, the level and the event come first.

    A structlog processor that never raises: where values cannot be read, the record becomes an `internal_error`.
    """
    frame = {key: fields.pop(key) for key in ("ts", "level", "event") if key in fields}
    cleaned = frame.copy()
    try:
        for key, value in fields.items():  # most values take one of the first branches, for speed
            about, kind = value_kind(key), type(value)
            if about is _SECRET:
                cleaned[key] = REDACTED
            elif kind is str and (len(value) <= MAX_TEXT_CHARS or key == "exception"):  # its renderer has bounded it
                may_hide = "=" in value or "." in value or "@" in value or "%" in value
                cleaned[key] = redact(value, url=about is _URL) if may_hide else value
            elif value is None or (kind is int and -MAX_DECIMAL_INT < value < MAX_DECIMAL_INT):
                cleaned[key] = value
            else:
                cleaned[key] = _clean_value(key, value, [MAX_ITEMS])
    except Exception as error:  # a list that changes while it is copied, a mapping that raises
        return {**frame, "event": "internal_error", **_unreadable(frame.get("event"), error)}
    return cleaned


def _unreadable(event: object, error: Exception) -> dict[str, str]:
    """What is logged in place of values that cannot be read."""
    return {"component": "log", "detail": f"{event}: values could not be read: {type(error).__name__}"}


def truncate(text: str, limit: int) -> str:
    """`text`, or its first `limit` characters and how many are omitted."""
    return text if len(text) <= limit else f"{text[:limit]}…(+{len(text) - limit})"


def _clean_value(key: str, value: object, budget: list[int]) -> PlainValue:
    """A plain copy of `value` without secrets; `budget` holds how many more inner values may be copied."""
    about = value_kind(key)
    if about is _SECRET or hasattr(value, "reveal"):
        return REDACTED
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -MAX_DECIMAL_INT < value < MAX_DECIMAL_INT else truncate(hex(value), MAX_TEXT_CHARS)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)  # JSON has no infinity and no NaN
    if isinstance(value, Mapping):
        return _clean_mapping(value, budget)
    if isinstance(value, list | tuple | set | frozenset):
        items: list[PlainValue] = []
        for item in value:
            budget[0] -= 1
            if budget[0] < 0:
                items.append(f"…(+{len(value) - len(items)})")
                break
            items.append(_clean_value(key, item, budget))
        return items
    return redact(truncate(_to_text(value), MAX_TEXT_CHARS), url=about is _URL)


def _clean_mapping(value: Mapping[Any, Any], budget: list[int]) -> dict[str, PlainValue]:
    pairs: dict[str, PlainValue] = {}
    for key, item in value.items():
        budget[0] -= 1
        if budget[0] < 0:
            pairs["…"] = f"(+{len(value) - len(pairs)})"
            break
        name = truncate(_to_text(key), 64)
        pairs[name] = _clean_value(name, item, budget)
    return pairs


def _to_text(value: object) -> str:
    try:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value[: MAX_TEXT_CHARS * 4]).decode("utf-8", "backslashreplace")
        return str(value) or (type(value).__name__ if isinstance(value, BaseException) else "")
    except Exception as error:  # whatever a __str__ raises, logging it must not fail
        return f"<{type(value).__name__}: no text, {type(error).__name__}>"


FORMATS: Final = ("auto", "console", "json", "journal")

_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
_LEVEL_COLOURS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNQUOTED: Final = re.compile(r"[^\s\"=\\]+")
_EVENT_WIDTH: Final = 18


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


def _is_journal(fd: int, stream: str) -> bool:
    """Whether systemd connected this very descriptor to the journal (it sets JOURNAL_STREAM=device:inode)."""
    if not stream:
        return False
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


def line_processors(name: str, *, colour: bool = False) -> list[Processor]:
    """The structlog processors of the format console, json or journal; the last one returns a line of bytes."""
    if name == "json":
        return [render_json]
    if name == "journal":  # which keeps the time itself
        return [add_log_level, ExceptionRenderer(exception_line), clean_values, _journal_line, _encode_line]
    timestamp = TimeStamper(fmt="%H:%M:%S.%f", utc=False, key="ts")
    console = _console_renderer(colour=colour)
    return [
        *(timestamp, add_log_level, ExceptionRenderer(exception_text)),
        *(clean_values, _format_for_console, console, _encode_line),
    ]


def render(processors: Sequence[Processor], level: str, fields: EventDict) -> bytes:
    """Make a line outside of the log, as structlog does for `log`."""
    made: Any = fields
    for process in processors:
        made = process(None, level, made)
    return bytes(made)


def _encode_line(_logger: object, _level: str, line: Any) -> bytes:
    return f"{line}\n".encode("utf-8", "backslashreplace")


# JSON, in one pass: each connection ends with such a line, made on the event loop

_encode: Final = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
_quote: Final = json.encoder.encode_basestring_ascii
_render_exception: Final = ExceptionRenderer(exception_text)


def utc_timestamp() -> str:
    """The time now, as in `2026-01-31T23:59:59.000001Z`."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_format_second(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=2)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=1024)
def _json_key(key: str) -> tuple[str, ValueKind]:
    """What a member begins with (`,"key":`), and what its key says of its value."""
    return f",{_quote(key)}:", value_kind(key)


MAX_REPEATED_CHARS: Final = 100
_REPEATED_KEYS: Final = frozenset(
    (
        *("listener", "reason", "initiator", "route", "backend", "backend_address", "host"),
        *("user_agent", "subprotocol", "tls", "engine"),
    )
)
"""Keys whose values are few, and none of which is a secret: names of the configuration, and what many clients send."""


@lru_cache(maxsize=1024)
def _repeated_member(key: str, value: str) -> str:
    """Write a member whose value many lines have."""
    return f"{_json_key(key)[0]}{_quote(redact(value, url=value_kind(key) is _URL))}"


def render_json(_logger: object, level: str, fields: EventDict) -> bytes:
    """Make a line of JSON: time, level, event, then the values as `clean_values` has them.

    A structlog processor that needs no other one, and never raises.
    """
    return _json_line(f'{{"ts":"{utc_timestamp()}","level":"{level}","event":', fields)


def render_audit_json(_logger: object, _level: str, fields: EventDict) -> bytes:
    """Do the same for a stream whose records have no level."""
    return _json_line(f'{{"ts":"{utc_timestamp()}","event":', fields)


def _json_line(start: str, fields: EventDict) -> bytes:
    event = str(fields.pop("event"))
    fields.pop("ts", None)  # the line has its own
    fields.pop("level", None)
    try:
        if "exc_info" in fields:
            fields = _render_exception(None, "", fields)
        assert isinstance(fields, dict)  # noqa: S101 (structlog's are)
        members = _write_members(fields)
    except Exception as error:  # see `clean_values`
        event, members = "internal_error", _json_members(_unreadable(event, error))
    return f"{start}{_quote(event)}{members}}}\n".replace("\x7f", "\\u007f").encode("ascii")


def _json_members(fields: dict[str, Any]) -> str:
    """Write the values as members of an object, each after a comma; the same values as those of `clean_values`."""
    members: list[str] = []
    for key, value in fields.items():
        kind = type(value)
        if kind is str and key in _REPEATED_KEYS and len(value) <= MAX_REPEATED_CHARS:
            members.append(_repeated_member(key, value))
            continue
        member, about = _json_key(key)
        if about is _SECRET:
            text = f'"{REDACTED}"'
        elif kind is str and (len(value) <= MAX_TEXT_CHARS or key == "exception"):
            may_hide = "=" in value or "." in value or "@" in value or "%" in value
            text = _quote(redact(value, url=about is _URL) if may_hide else value)
        elif kind is int and -MAX_DECIMAL_INT < value < MAX_DECIMAL_INT:
            text = str(value)
        elif kind is float and math.isfinite(value):
            text = repr(value)
        else:
            text = _encode(_clean_value(key, value, [MAX_ITEMS]))
        members.append(member + text)
    return "".join(members)


MembersWriter = Callable[[dict[str, Any]], str]
"""Writes values as members of an object, each after a comma."""

_write_members: MembersWriter = _json_members


def describe_key(key: str) -> tuple[str, bool, bool]:
    """Return what the members of a key begin with, whether their values are shown, and whether these are few."""
    member, about = _json_key(key)
    return member, about is not _SECRET, key in _REPEATED_KEYS


def write_member(key: str, value: object) -> str:
    """Return one member, with the comma before it."""
    return _json_members({key: value})


def set_members_writer(writer: MembersWriter | None) -> None:
    """Set the function that writes the values of all lines of JSON from now on; None for the one of this file."""
    global _write_members  # noqa: PLW0603  (there is one for the process)
    _write_members = _json_members if writer is None else writer


AUDIT_PROCESSORS: Final[list[Processor]] = [render_audit_json]
"""JSON as in the log, for a stream whose records have no level."""


# logfmt, which console and journal use


def escape(text: str) -> str:
    """`text` with everything that is not printable (C0, C1, bidi, separators, surrogates) as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    number = ord(character)
    return _SHORT_ESCAPES.get(character) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def _format_value(value: object) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, list) and value and all(type(item) is str and _UNQUOTED.fullmatch(item) for item in value):
        value = ",".join(value)
    elif isinstance(value, list) and value and all(type(item) is str for item in value):
        value = "; ".join(value)  # sentences
    elif isinstance(value, dict | list):
        value = _encode(value)
    if not isinstance(value, str):
        return str(value)
    if value.isprintable() and _UNQUOTED.fullmatch(value) and value != "-":
        return value
    return f'"{escape(value.replace(chr(92), chr(92) * 2)).replace(chr(34), chr(92) + chr(34))}"'


def _journal_line(_logger: object, _level: str, fields: EventDict) -> str:
    """`<6>connection.closed id=1 …`: the number is the priority."""
    start = _PRIORITIES.get(fields.pop("level"), "<3>") + escape(str(fields.pop("event")))
    return " ".join([start, *(f"{escape(key)}={_format_value(value)}" for key, value in fields.items())])


def _format_for_console(_logger: object, _level: str, fields: EventDict) -> EventDict:
    """Escape what `ConsoleRenderer` copies as it is; a traceback follows on indented lines."""
    if "exception" in fields:
        fields["exception"] = "\n".join(f"    {escape(line)}" for line in fields["exception"].split("\n"))
    return {escape(key): value for key, value in fields.items()}


def _console_renderer(*, colour: bool) -> ConsoleRenderer:
    """`09:30:01.250000 [info   ] connection.closed  id=1 …`."""
    reset, bold, dim = (_RESET, _BOLD, _DIM) if colour else ("", "", "")
    levels = _LEVEL_COLOURS if colour else dict.fromkeys(_LEVEL_COLOURS, "")
    columns = [
        Column("", KeyValueColumnFormatter(dim, "", reset, _format_value)),
        Column("ts", KeyValueColumnFormatter(None, dim, reset, str)),
        Column("level", LogLevelColumnFormatter(levels, reset)),
        Column("event", KeyValueColumnFormatter(None, bold, reset, _escape_text, _EVENT_WIDTH)),
    ]
    return ConsoleRenderer(sort_keys=False, columns=columns)


def _escape_text(value: object) -> str:
    return escape(str(value))
