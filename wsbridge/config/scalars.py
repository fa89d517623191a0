"""Scalars: numbers, sizes and durations, each read from text by the one parser of its type.

Lives here: the scalar types of the file; those of text, addresses, paths and secrets are in files of their own and are
offered here too, so that a section needs one import. Must not live here: sections. Every scalar of a file arrives as
text, so that `22:22`, `no`, `010` and `1_000` are what stands there; values of the final type are taken as well, for
defaults and for sections that are built by code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.address import Bind, BindAddress, Host, Origin, Port, Proxy, ProxyUrl, Target
from wsbridge.config.path import FilePath, FolderPath
from wsbridge.config.secret import Secret, TextOrSecret
from wsbridge.config.template import TargetUrl
from wsbridge.config.text import HeaderName, HeaderText, Name, Owner, PathPattern, Subprotocol, Token, as_text

__all__ = [
    "Duration",
    "PositiveDuration",
    "DurationOrOff",
    "Size",
    "Count",
    "PositiveCount",
    "CountOrAuto",
    "CountOrOff",
    "SizeOrOff",
    "Flag",
    "Mode",
    "Status",
    "at_least",
    "at_most",
    "whole_seconds",
    "read_duration",
    "write_duration",
    "Bind",
    "BindAddress",
    "Host",
    "Origin",
    "Port",
    "Proxy",
    "ProxyUrl",
    "Target",
    "TargetUrl",
    "FilePath",
    "FolderPath",
    "Secret",
    "TextOrSecret",
    "HeaderName",
    "HeaderText",
    "Name",
    "Owner",
    "PathPattern",
    "Subprotocol",
    "Token",
]

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DURATION = rf"(?=[0-9])(?:({NUMBER})d)?(?:({NUMBER})h)?(?:({NUMBER})m)?(?:({NUMBER})s)?(?:({NUMBER})ms)?"
DURATION_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
LONGEST = 3650 * 86400.0
SIZE = rf"({NUMBER}) ?(B|KiB|MiB|GiB)?"
SIZE_UNITS = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def read_duration(value: object) -> float:
    """Read a duration such as `20s`, `250ms`, `1m30s`, `1h` or `2d`.

    Returns:
        Seconds.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = as_text(value)
    if text == "off":
        raise ValueError('cannot be "off": write a duration such as 20s')
    if re.fullmatch(NUMBER, text):
        raise ValueError(
            f'"{text}" has no unit: write {text}s' + (f", {text}ms, {text}m or {text}h" if float(text) else "")
        )
    found = re.fullmatch(DURATION, text)
    if found is None:
        raise ValueError(f'"{text}" is no duration: write numbers with d, h, m, s or ms, such as 20s, 1m30s or 250ms')
    seconds = sum(float(part) * unit for part, unit in zip(found.groups(), DURATION_UNITS, strict=True) if part)
    if seconds > LONGEST:
        raise ValueError(f'"{text}" is more than ten years (3650d)')
    return seconds


def read_positive_duration(value: object) -> float:
    """Read a duration that must not be zero, in seconds."""
    seconds = 0.0 if value == "0" else read_duration(value)
    if seconds <= 0:
        raise ValueError("must be more than zero")
    return seconds


def read_duration_or_off(value: object) -> float | None:
    """Read a duration in seconds, or None for `off`."""
    if value is None or value == "off":
        return None
    seconds = 0.0 if value == "0" else read_duration(value)
    if seconds <= 0:
        raise ValueError('must be more than zero; to switch it off, write "off"')
    return seconds


def write_duration(seconds: float | None) -> str:
    """Write seconds the way the file has them."""
    if seconds is None:
        return "off"
    if seconds != int(seconds):
        return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".") + "ms"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % unit == 0:
            return f"{int(seconds) // unit}{name}"
    return f"{int(seconds)}s"


def read_size(value: object) -> int:
    """Read a number of bytes such as `4096`, `64KiB` or `1MiB`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = as_text(value)
    found = re.fullmatch(SIZE, text)
    if found is None:
        raise ValueError(f'"{text}" is no size: write a number of bytes, or one with KiB, MiB or GiB, such as 64KiB')
    size = float(found[1]) * SIZE_UNITS[found[2]]
    if size != int(size):
        raise ValueError(f'"{text}" is no whole number of bytes')
    if size > 2**40:
        raise ValueError(f'"{text}" is more than 1024GiB')
    return int(size)


def write_size(size: int) -> str:
    """Write a number of bytes the way the file has it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % SIZE_UNITS[unit] == 0:
            return f"{size // SIZE_UNITS[unit]}{unit}"
    return str(size)


def read_count(value: object) -> int:
    """Read a whole number of digits alone."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = as_text(value)
    if not re.fullmatch(r"0|[1-9][0-9]{0,11}", text):
        raise ValueError(f'"{text}" is no whole number: write digits alone, such as 1000')
    return int(text)


def read_count_or_auto(value: object) -> int | Literal["auto"]:
    """Read a whole number from 1, or `auto`."""
    if value == "auto":
        return "auto"
    if isinstance(value, str) and not value[:1].isdigit():
        raise ValueError(f'"{value}" is neither a whole number nor "auto"')
    return at_least(1)(read_count(value))


def read_count_or_off(value: object) -> int | None:
    """Read a whole number from 1, or None for `off`."""
    if value is None or value == "off":
        return None
    if isinstance(value, str) and not value[:1].isdigit():
        raise ValueError(f'"{value}" is neither a whole number nor "off"')
    count = read_count(value)
    if count < 1:
        raise ValueError('must be at least 1; to switch it off, write "off"')
    return count


def read_size_or_off(value: object) -> int | None:
    """Read a number of bytes, or None for `off`."""
    return None if value is None or value == "off" else read_size(value)


def write_size_or_off(size: int | None) -> str:
    """Write a number of bytes the way the file has it."""
    return "off" if size is None else write_size(size)


def read_flag(value: object) -> bool:
    """Read `true` or `false`, in exactly these words."""
    if isinstance(value, bool):
        return value
    text = as_text(value)
    if text not in {"true", "false"}:
        raise ValueError(f'"{text}" is neither true nor false')
    return text == "true"


def read_mode(value: object) -> int:
    """Read the mode of a file in octal digits, such as `0660`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = as_text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f'"{text}" is no mode of a file: write three octal digits, such as 0660')
    return int(text, 8)


def read_status(value: object) -> int:
    """Read an HTTP status that can be the final answer: 200 to 599."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{3}", value):
        raise ValueError(f'"{value}" is no HTTP status: write a number from 200 to 599')
    status = read_count(value)
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no status to answer: write a number from 200 to 599")
    return status


def at_least(least: int) -> Callable[[int], int]:
    """Give a check that a number is not below `least`."""

    def check(number: int) -> int:
        if number < least:
            raise ValueError(f"{number} is too small: at least {least}")
        return number

    return check


def at_most(most: int) -> Callable[[int], int]:
    """Give a check that a number is not above `most`."""

    def check(number: int) -> int:
        if number > most:
            raise ValueError(f"{number} is too large: at most {most}")
        return number

    return check


def whole_seconds(seconds: float) -> float:
    """Check that a duration is a whole number of seconds."""
    if seconds != int(seconds):
        raise ValueError("must be whole seconds")
    return seconds


_WRITTEN_DURATION = r"([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?"
_DURATION = {"type": "string", "pattern": f"^{_WRITTEN_DURATION}$", "minLength": 2}
_DURATION_OR_OFF = {"type": "string", "pattern": f"^(off|{_WRITTEN_DURATION})$", "minLength": 2}
_COUNT = {"type": "integer", "minimum": 0}

Duration = Annotated[
    float, PlainValidator(read_duration), PlainSerializer(write_duration, return_type=str), WithJsonSchema(_DURATION)
]
PositiveDuration = Annotated[
    float,
    PlainValidator(read_positive_duration),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(_DURATION),
]
DurationOrOff = Annotated[
    float | None,
    PlainValidator(read_duration_or_off),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(_DURATION_OR_OFF),
]
Size = Annotated[
    int,
    PlainValidator(read_size),
    PlainSerializer(write_size, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{SIZE}$", "minimum": 0}),
]
Count = Annotated[int, PlainValidator(read_count), WithJsonSchema(_COUNT)]
CountOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(read_count_or_auto),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
CountOrOff = Annotated[
    int | None,
    PlainValidator(read_count_or_off),
    PlainSerializer(lambda count: "off" if count is None else count),
    WithJsonSchema({"anyOf": [{"const": "off"}, {"type": "integer", "minimum": 1}]}),
]
SizeOrOff = Annotated[
    int | None,
    PlainValidator(read_size_or_off),
    PlainSerializer(write_size_or_off, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^(off|{SIZE})$", "minimum": 0}),
]
Flag = Annotated[bool, PlainValidator(read_flag), WithJsonSchema({"type": "boolean"})]
Mode = Annotated[
    int,
    PlainValidator(read_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^0?[0-7]{3}$"}),
]
Status = Annotated[
    int, PlainValidator(read_status), WithJsonSchema({"type": "integer", "minimum": 200, "maximum": 599})
]
PositiveCount = Annotated[Count, AfterValidator(at_least(1))]
