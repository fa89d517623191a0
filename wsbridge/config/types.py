"""Scalar types: duration, size, count, names, header names, networks.

Pydantic's own types for these accept several spellings (ISO 8601, numbers without a unit) and report errors that name
no accepted form.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal

import idna
from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.protocol import uri
from wsbridge.protocol.handshake import TOKEN_SUBPROTOCOL_PREFIX


def to_ascii_authority(authority: str) -> str:
    """Return `host` or `host:port` with the host in its ASCII form; ASCII stays as it is.

    Raises:
        ValueError: The name is none that a browser could open.
    """
    if authority.isascii():
        return authority
    host, colon, port = authority.partition(":")
    try:
        name = idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f'"{host}" is no name of a host: {str(error).rstrip(".")}') from None
    return f"{name}{colon}{port}"


TOKEN_REGEX = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  (the grammar of RFC 9110, no secret)
NAME_REGEX = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
PATH_PATTERN_REGEX = r"(/(\{[A-Za-z_][A-Za-z0-9_]*\}|[^/?#\s*{}]*))+\*?"
OWNER_REGEX = r"[A-Za-z_0-9][A-Za-z0-9_.-]*(:[A-Za-z_0-9][A-Za-z0-9_.-]*)?"
FORBIDDEN_HEADERS = frozenset(
    {"host", "upgrade", "connection", "content-length", "transfer-encoding", "origin", "te", "trailer"}
)


_NEVER_PASSED = re.compile(
    r"x-forwarded-.*|forwarded|x-real-ip|via|proxy-.*|keep-alive|expect|content-.*", re.IGNORECASE
)
"""Headers about one hop, a body, or the proxies on the way, which a client could forge."""


class WrongShapeError(ValueError):
    """A list or mapping in place of a text, or vice versa; pydantic catches ValueError only."""


def as_text(value: object) -> str:
    """Return the text of a scalar.

    Raises:
        WrongShapeError: The value is a list or a mapping.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        raise WrongShapeError("must be text, not a list")
    if isinstance(value, dict):
        raise WrongShapeError("must be text, not a mapping")
    raise WrongShapeError(f"must be text, not {type(value).__name__}")


def read_name(value: object) -> str:
    """Read the name that the file gives to a listener or a route."""
    text = as_text(value)
    if not re.fullmatch(NAME_REGEX, text):
        raise ValueError(f'"{text}" is no name: 1 to 64 letters, digits, "-" and "_", the first a letter or digit')
    return text


def read_http_token(value: object) -> str:
    """Read a token of RFC 9110 section 5.6.2, as subprotocols are."""
    text = as_text(value)
    if not re.fullmatch(TOKEN_REGEX, text):
        raise ValueError(
            f'"{text}" has characters that a subprotocol must not have; letters, digits, "-", "." and "_" do'
        )
    return text


def read_subprotocol(value: object) -> str:
    """Read a subprotocol that may be answered."""
    token = read_http_token(value)
    if token.startswith(TOKEN_SUBPROTOCOL_PREFIX):
        raise ValueError(
            f"what begins with {TOKEN_SUBPROTOCOL_PREFIX} carries a token of the client and is never answered"
        )
    return token


def read_header_name(value: object) -> str:
    """Read the name of a header that a user may add to a request."""
    text = as_text(value)
    if not re.fullmatch(TOKEN_REGEX, text):
        raise ValueError(f'"{text}" is no name of a header')
    if text.lower() in FORBIDDEN_HEADERS or text.lower().startswith("sec-websocket-"):
        raise ValueError(f'"{text}" is written by wsbridge itself and cannot be set here')
    return text


def read_passed_header(value: object) -> str:
    """Read the name of a header of a client's request that may be passed on."""
    name = read_header_name(value)
    if _NEVER_PASSED.fullmatch(name):
        raise ValueError(f'"{name}" is never passed on')
    return name


def check_unique_headers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no header appears twice in a list, in whatever case."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f'"{name}" is a duplicate')
        seen.add(name.lower())
    return names


def read_header_text(value: object) -> str:
    """Read the value of a header: printable ASCII, no spaces at the ends; never quoted in an error."""
    text = as_text(value)
    if not re.fullmatch(r"[!-~](?:[ -~\t]*[!-~])?|", text):
        raise ValueError("must be printable ASCII on one line, without spaces at its ends")
    return text


def read_path_pattern(value: object) -> str:
    """Read a path pattern: `/x` exactly, `/x/*` for all below `/x/`, `/*` for all, `{name}` for any one segment."""
    text = as_text(value)
    return uri.PathPattern(text).text


def read_owner(value: object) -> str:
    """Read `user` or `user:group`."""
    text = as_text(value)
    if not re.fullmatch(OWNER_REGEX, text):
        raise ValueError(f'"{text}" is not of the form user or user:group')
    return text


def _pattern_schema(regex: str) -> dict[str, object]:
    return {"type": "string", "pattern": f"^{regex}$"}


Name = Annotated[str, PlainValidator(read_name), WithJsonSchema(_pattern_schema(NAME_REGEX))]
HttpToken = Annotated[str, PlainValidator(read_http_token), WithJsonSchema(_pattern_schema(TOKEN_REGEX))]
Subprotocol = Annotated[str, PlainValidator(read_subprotocol), WithJsonSchema(_pattern_schema(TOKEN_REGEX))]
HeaderName = Annotated[str, PlainValidator(read_header_name), WithJsonSchema(_pattern_schema(TOKEN_REGEX))]
PassedHeaders = Annotated[
    tuple[Annotated[str, PlainValidator(read_passed_header), WithJsonSchema(_pattern_schema(TOKEN_REGEX))], ...],
    AfterValidator(check_unique_headers),
]
HeaderText = Annotated[str, PlainValidator(read_header_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Owner = Annotated[str, PlainValidator(read_owner), WithJsonSchema(_pattern_schema(OWNER_REGEX))]
PathPatternText = Annotated[str, PlainValidator(read_path_pattern), WithJsonSchema(_pattern_schema(PATH_PATTERN_REGEX))]


IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
HALF_OF_ADDRESSES = {4: 2**31, 6: 2**124}
"""Of IPv6 only 2000::/3 is in use."""
UNIX_CLIENTS: Literal["unix"] = "unix"
"""Matches the clients of Unix sockets in a list of networks."""


def read_network(value: object) -> IpNetwork:
    """Read `10.0.0.0/8`, `2001:db8::/32`, or one address; IPv4-mapped IPv6 (`::ffff:192.0.2.1`) becomes IPv4.

    Clients that connect over IPv4 to an IPv6 listener are compared as IPv4.
    """
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return _unmap(value)
    text = as_text(value)
    try:
        return _unmap(ipaddress.ip_network(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    try:
        meant = _unmap(ipaddress.ip_network("" if "%" in text else text, strict=False))
    except ValueError:
        raise ValueError(f'"{text}" is not a network: write 10.0.0.0/8, "2001:db8::/32" or one address') from None
    raise ValueError(f'"{text}" is an address inside a network: write {meant}, or the address alone')


def _unmap(network: IpNetwork) -> IpNetwork:
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return (
        network if mapped is None or network.prefixlen < 96 else ipaddress.ip_network((mapped, network.prefixlen - 96))
    )


def covers_internet(networks: Iterable[IpNetwork]) -> bool:
    """Return whether networks include at least half of the IPv4 addresses, or of the global IPv6 addresses."""
    versions: dict[int, list[IpNetwork]] = {}
    for network in networks:
        versions.setdefault(network.version, []).append(network)
    for version, found in versions.items():
        apart = ipaddress.collapse_addresses(found)  # type: ignore[type-var]  # all of one version
        if sum(network.num_addresses for network in apart) >= HALF_OF_ADDRESSES[version]:
            return True
    return False


def read_network_or_unix(value: object) -> IpNetwork | Literal["unix"]:
    """Read a network, or `unix` for clients of Unix sockets."""
    return UNIX_CLIENTS if value == UNIX_CLIENTS else read_network(value)


Network = Annotated[
    IpNetwork,
    PlainValidator(read_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\[?[0-9A-Fa-f:.]+\]?(/[0-9]+)?$"}),
]
NetworkOrUnix = Annotated[
    IpNetwork | Literal["unix"],
    PlainValidator(read_network_or_unix),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(unix|\[?[0-9A-Fa-f:.]+\]?(/[0-9]+)?)$"}),
]


NUMBER_REGEX = r"[0-9]+(?:\.[0-9]+)?"
DURATION_REGEX = "(?=[0-9])" + "".join(f"(?:({NUMBER_REGEX}){unit})?" for unit in ("d", "h", "m", "s", "ms"))
DURATION_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
MAX_DURATION_SECONDS = 3650 * 86400.0
SIZE_REGEX = rf"({NUMBER_REGEX}) ?(B|KiB|MiB|GiB)?"
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
    if re.fullmatch(NUMBER_REGEX, text):
        raise ValueError(
            f'"{text}" has no unit: write {text}s' + (f", {text}ms, {text}m or {text}h" if float(text) else "")
        )
    found = re.fullmatch(DURATION_REGEX, text)
    if found is None:
        raise ValueError(f'"{text}" is not a duration: write numbers with d, h, m, s or ms, such as 20s or 1m30s')
    seconds = sum(float(part) * unit for part, unit in zip(found.groups(), DURATION_UNITS, strict=True) if part)
    if seconds > MAX_DURATION_SECONDS:
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
    """Write seconds as the file has them."""
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
    found = re.fullmatch(SIZE_REGEX, text)
    if found is None:
        raise ValueError(f'"{text}" is no size: write a number of bytes, or one with KiB, MiB or GiB, such as 64KiB')
    size = float(found[1]) * SIZE_UNITS[found[2]]
    if size > 2**40:  # infinite, perhaps
        raise ValueError(f'"{text}" is more than 1024GiB')
    if size != int(size):
        raise ValueError(f'"{text}" is no whole number of bytes')
    return int(size)


def write_size(size: int) -> str:
    """Write a number of bytes as the file has it."""
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
    """Write a number of bytes as the file has it."""
    return "off" if size is None else write_size(size)


PERCENT_REGEX = "(100|[1-9]?[0-9])%"


def read_percent_or_off(value: object) -> float | None:
    """Read a percentage such as `90%` as a share of 1, or None for `off`."""
    if value is None or value == "off":
        return None
    if isinstance(value, float):  # a default
        return value
    text = as_text(value)
    if not re.fullmatch(PERCENT_REGEX, text):
        raise ValueError(f'"{text}" is neither a whole number of percent, such as 90%, nor "off"')
    return int(text[:-1]) / 100


def write_percent_or_off(share: float | None) -> str:
    """Write a percentage as the file has it."""
    return "off" if share is None else f"{share:.0%}"


def read_flag(value: object) -> bool:
    """Read `true` or `false`, in exactly these words."""
    if isinstance(value, bool):
        return value
    text = as_text(value)
    if text not in {"true", "false"}:
        raise ValueError(f'"{text}" is neither true nor false')
    return text == "true"


def read_file_mode(value: object) -> int:
    """Read the mode of a file in octal digits, such as `0660`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = as_text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f'"{text}" is no mode of a file: write three octal digits, such as 0660')
    return int(text, 8)


RESUME_MODULE: Final = "resume.js"


def read_response(value: object) -> int | str:
    """Read what a route responds: an HTTP status that can be the final answer, 200 to 599, or the name of a module."""
    if value == RESUME_MODULE:
        return RESUME_MODULE
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{3}", value):
        raise ValueError(f'"{value}" is no HTTP status: write a number from 200 to 599, or {RESUME_MODULE}')
    status = read_count(value)
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not a final status: write a number from 200 to 599")
    return status


def at_least(minimum: int) -> Callable[[int], int]:
    """Return a check that a number is not below the minimum."""

    def check(number: int) -> int:
        if number < minimum:
            raise ValueError(f"{number} is too small: at least {minimum}")
        return number

    return check


def at_most(maximum: int) -> Callable[[int], int]:
    """Return a check that a number is not above the maximum."""

    def check(number: int) -> int:
        if number > maximum:
            raise ValueError(f"{number} is too large: at most {maximum}")
        return number

    return check


def check_whole_seconds(seconds: float) -> float:
    """Check that a duration is a whole number of seconds."""
    if seconds != int(seconds):
        raise ValueError("must be whole seconds")
    return seconds


_DURATION_PATTERN = r"([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?"
_DURATION_SCHEMA = {"type": "string", "pattern": f"^{_DURATION_PATTERN}$", "minLength": 2}
_DURATION_OR_OFF_SCHEMA = {"type": "string", "pattern": f"^(off|{_DURATION_PATTERN})$", "minLength": 2}
_COUNT_SCHEMA = {"type": "integer", "minimum": 0}

Duration = Annotated[
    float,
    PlainValidator(read_duration),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
PositiveDuration = Annotated[
    float,
    PlainValidator(read_positive_duration),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
DurationOrOff = Annotated[
    float | None,
    PlainValidator(read_duration_or_off),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(_DURATION_OR_OFF_SCHEMA),
]
Size = Annotated[
    int,
    PlainValidator(read_size),
    PlainSerializer(write_size, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{SIZE_REGEX}$", "minimum": 0}),
]
Count = Annotated[int, PlainValidator(read_count), WithJsonSchema(_COUNT_SCHEMA)]
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
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^(off|{SIZE_REGEX})$", "minimum": 0}),
]
PercentOrOff = Annotated[
    float | None,
    PlainValidator(read_percent_or_off),
    PlainSerializer(write_percent_or_off, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^(off|{PERCENT_REGEX})$"}),
]
Flag = Annotated[bool, PlainValidator(read_flag), WithJsonSchema({"type": "boolean"})]
FileMode = Annotated[
    int,
    PlainValidator(read_file_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^0?[0-7]{3}$"}),
]
FixedResponse = Annotated[
    int | str,
    PlainValidator(read_response),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 200, "maximum": 599}, {"const": RESUME_MODULE}]}),
]
PositiveCount = Annotated[Count, AfterValidator(at_least(1))]
