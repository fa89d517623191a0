"""Json, console, journal; redaction."""

from __future__ import annotations

import enum
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from structlog.typing import EventDict

from wsbridge.log.logger import ExceptionTrace, Record

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
_SHOWN_AS_IT_IS: Final = "!\"#$&'()*+,/:;<=>?@[\\]^`{|}%"
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


FORMATS: Final = ("auto", "console", "json", "journal")

Render = Callable[[Record], bytes]
"""Makes the line of one record, its newline included."""

_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
_COLOURS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_UNQUOTED: Final = re.compile(r"[^\s\"=\\]+")
_MAX_TIMESTAMP: Final = 253402214400.0  # a day before the year 10000


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


_timestamp_cache: tuple[int, str] = (-1, "")


def _split_timestamp(timestamp: float) -> tuple[int, int]:
    """Seconds and milliseconds, within what calendars know."""
    return divmod(int(min(max(timestamp, 0.0), _MAX_TIMESTAMP) * 1000), 1000)


def _format_timestamp(timestamp: float) -> str:
    """UTC to the millisecond: 2026-11-22T09:30:01.250Z."""
    global _timestamp_cache  # noqa: PLW0603  a cache of one: lines of the same second share all but the milliseconds
    second, rest = _split_timestamp(timestamp)
    known, text = _timestamp_cache
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _timestamp_cache = second, text
    return f"{text}.{rest:03d}Z"


def _redact_value(key: str, value: Any) -> Any:
    """The value with its secrets replaced."""
    kind, about = type(value), value_kind(key)
    if about is ValueKind.SECRET:
        return REDACTED
    if kind is str:
        return redact(value, url=about is ValueKind.URL)
    if kind is float:
        return value if value - value == 0 else str(value)  # JSON has no infinity and no NaN
    if kind is dict:
        return {name: _redact_value(name, inner) for name, inner in value.items()}
    if kind is list:
        return [_redact_value(key, inner) for inner in value]
    return value


# JSON

_encoder: Final = json.JSONEncoder(ensure_ascii=True, check_circular=False, allow_nan=False, separators=(",", ":"))
_encode: Final = _encoder.encode


def _json_line(record: Record) -> bytes:
    return _encode_json_line(
        {"ts": _format_timestamp(record.time), "level": record.level, "event": record.fields.get("event")},
        record.fields,
    )


def audit_line(record: Record) -> bytes:
    """JSON as in the log, for a stream whose records have no level."""
    return _encode_json_line({"ts": _format_timestamp(record.time), "event": record.fields.get("event")}, record.fields)


def _encode_json_line(line: dict[str, Any], fields: EventDict) -> bytes:
    for key, value in fields.items():
        if type(value) is ExceptionTrace:
            line[key] = redact(value.format_full())
        elif key == "event":
            line[key] = value
        else:
            line[key + "_" if key in line else key] = _redact_value(key, value)
    return _encode(line).replace("\x7f", "\\u007f").encode("ascii") + b"\n"


# logfmt, as console and journal use it


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


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is list and value and all(type(item) is str and _UNQUOTED.fullmatch(item) for item in value):
        value = ",".join(value)
    elif type(value) is dict or type(value) is list:
        value = _encode(value)
    if type(value) is not str:
        return str(value)
    text = value
    if text.isprintable() and _UNQUOTED.fullmatch(text) and text != "-":
        return text
    return f'"{escape(text.replace(chr(92), chr(92) * 2)).replace(chr(34), chr(92) + chr(34))}"'


def _format_pairs(fields: EventDict) -> list[tuple[str, str]]:
    return [
        (key if key.isidentifier() and key.isascii() else escape(key), _format_value(_redact_value(key, value)))
        for key, value in fields.items()
        if key != "event" and type(value) is not ExceptionTrace
    ]


def _journal_line(record: Record) -> bytes:
    """`<6>connection.closed id=1 …`: the priority for the journal, which keeps the time itself."""
    _, level, facts = record
    parts = [_PRIORITIES.get(level, "<3>") + escape(str(facts.get("event")))]
    parts += [f"{key}={value}" for key, value in _format_pairs(facts)]
    parts += [
        f"{escape(key)}={_format_value(redact(value.format_short()))}"
        for key, value in facts.items()
        if type(value) is ExceptionTrace
    ]
    return (" ".join(parts) + "\n").encode("utf-8", "backslashreplace")


def _console_line(record: Record, *, colour: bool) -> bytes:
    """`09:30:01.250 info    connection.closed  id=1 …`; a traceback follows on indented lines."""
    moment, level, facts = record
    second, rest = _split_timestamp(moment)
    clock = f"{time.strftime('%H:%M:%S', time.localtime(second))}.{rest:03d}"
    event = escape(str(facts.get("event")))
    if colour:
        start = f"{_DIM}{clock}{_RESET} {_COLOURS.get(level, '')}{level:<7}{_RESET} {_BOLD}{event:<18}{_RESET}"
        parts = [f"{_DIM}{key}={_RESET}{value}" for key, value in _format_pairs(facts)]
    else:
        start = f"{clock} {level:<7} {event:<18}"
        parts = [f"{key}={value}" for key, value in _format_pairs(facts)]
    lines = [" ".join([start, *parts]).rstrip()]
    for value in facts.values():
        if type(value) is ExceptionTrace:
            lines += ["    " + escape(part) for part in redact(value.format_full()).split("\n")]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
