"""Fill URL templates with values from requests and identities."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from wsbridge.auth.identity import Identity
from wsbridge.backends.target_policy import parse_host, parse_port
from wsbridge.config.backend_urls import (
    CLAIMS_PREFIX,
    COOKIE_FIELD_PREFIX,
    FIELD_REFERENCE,
    IDENTITY_FIELD,
    QUERY_PREFIX,
    UrlTemplate,
)
from wsbridge.config.urls import MAX_UNIX_PATH_BYTES, Scheme, Target
from wsbridge.protocol.credentials import cookie_values
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.protocol.uri import HostPatterns, PathPattern, normalise_host, normalise_target

MAX_FIELD_LENGTH: Final = 1024
"""Maximum length of a value, in characters."""
REDACTED_FIELD: Final = "***"

_INVALID_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def field_value(
    field: str,
    request: Request | None,
    path: PathPattern | None,
    identity: Identity,
    hosts: HostPatterns | None = None,
) -> str:
    """Return the value of a field for one client.

    Args:
        field: `query.NAME`, `cookie.NAME`, `claims.NAME`, `identity`, a named segment of the path or a named label of
            the host.
        request: Of the client; None with plain TCP.
        path: The pattern that the request matched.
        identity: Of the client.
        hosts: The patterns of which the request's host matched one.

    Raises:
        ValueError: The client has none, or several; one sentence for the log that does not quote it.
    """
    if field == IDENTITY_FIELD:
        value: str | None = identity.name
    elif field.startswith(CLAIMS_PREFIX):
        value = identity.claims.get(field.removeprefix(CLAIMS_PREFIX))
    elif request is None:
        value = None
    elif field.startswith(QUERY_PREFIX):
        value = _query_value(request.target.partition("?")[2], field.removeprefix(QUERY_PREFIX))
    elif field.startswith(COOKIE_FIELD_PREFIX):
        value = _cookie_value(request.headers, field.removeprefix(COOKIE_FIELD_PREFIX))
    else:
        segment = None if path is None else path.path_parameters(request.path).get(field)
        value = None if segment is None else _percent_decode(segment, field)
        if value is None and hosts is not None:
            value = hosts.parameters(normalise_host(request.host) or "").get(field)
    if not value:
        raise ValueError(f"the client has no {field}")
    if len(value) > MAX_FIELD_LENGTH:
        raise ValueError(f"{field} has {len(value)} characters, and the maximum is {MAX_FIELD_LENGTH}")
    return value


def redact_field(target: str, path: PathPattern | None, field: str) -> str:
    """Redact the value of a secret field in the target of a request, for the log.

    A path segment is also redacted if only the segments after it do not match the pattern.
    """
    if field.startswith(QUERY_PREFIX):
        name = field.removeprefix(QUERY_PREFIX)
        before, mark, query = target.partition("?")
        parts = [
            f"{part.partition('=')[0]}={REDACTED_FIELD}" if _is_parameter(part.partition("=")[0], name) else part
            for part in query.split("&")
        ]
        return before + mark + "&".join(parts)
    if path is None or field not in path.parameter_names:
        return target
    before, mark, query = target.partition("?")
    segments, pattern = before.split("/"), path.text.split("/")
    at = pattern.index(f"{{{field}}}")
    meant = len(segments) > at > 1 and all(
        wanted == found or wanted.startswith("{") for wanted, found in zip(pattern[:at], segments, strict=False)
    )
    if not meant and not path.matches(before):
        return target
    segments[at] = REDACTED_FIELD
    return "/".join(segments) + mark + query


def _query_value(query: str, name: str) -> str | None:
    """Find a parameter of a query (application/x-www-form-urlencoded); duplicates are rejected."""
    found: str | None = None
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if _is_parameter(key, name):
            if found is not None:
                raise ValueError(f"duplicate query parameter {name}")
            found = _percent_decode(value.replace("+", " "), name)
    return found


def _cookie_value(headers: Headers, name: str) -> str | None:
    """Find a cookie, as it is sent; duplicates, by which a sibling domain could add its own, are rejected."""
    values = cookie_values(headers, name)
    if len(values) > 1:
        raise ValueError(f"the request has {len(values)} cookies {name}")
    try:
        return values[0].decode() if values else None
    except UnicodeDecodeError:
        raise ValueError(f"the cookie {name} is not UTF-8") from None


def _is_parameter(written: str, name: str) -> bool:
    return written == name or unquote_to_bytes(written.replace("+", " ")) == name.encode()


def _percent_decode(text: str, field: str) -> str:
    """Decode percent escapes, once."""
    if _INVALID_ESCAPE.search(text):
        raise ValueError(f"{field} has a broken percent escape")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{field} is not UTF-8") from None


MAX_TARGET_PATH_LENGTH: Final = 4096
"""Maximum length of path and query in requests to ws and wss backends, in characters."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_DIGITS: Final = re.compile(r"[0-9]+")


def fill_template(template: UrlTemplate, values: Mapping[str, str]) -> Target:
    """Fill a template.

    Args:
        template: All of its fields have a value.
        values: Decoded and not trusted.

    Raises:
        ValueError: A value is not allowed in the place of its field; one sentence for the log that does not quote it.
    """
    if template.scheme == "unix":
        return unix_target(_substitute(template.path, values, _check_file_name))
    host = parse_host(_substitute(template.host, values, _check_host_part))
    port = parse_port(_substitute(template.port_text, values, _check_digits))
    path = _substitute(template.path, values, _escape_segment)
    if path:
        if "//" in path.partition("?")[0]:  # normalising it would request another resource
            raise ValueError("the path has an empty segment (//)")
        normalise_target(path)  # only checked: values are sent percent-encoded
    if len(path) > MAX_TARGET_PATH_LENGTH:
        raise ValueError(f"path and query have {len(path)} characters, and the maximum is {MAX_TARGET_PATH_LENGTH}")
    return host_target(template.scheme, host, port, path)


def host_target(scheme: Scheme, host: str, port: int, path: str = "") -> Target:
    """Return the target of a host (as returned by `parse_host`), a port and a path."""
    written = f"[{host}]" if ":" in host else host
    return Target(scheme, host, port, path, f"{scheme}://{written}:{port}{path}")


def unix_target(path: str) -> Target:
    """Return the target of a Unix socket.

    Raises:
        ValueError: The path is not absolute and normalised, or is too long.
    """
    if not path.startswith("/") or not path.isprintable() or any(part in (".", "..") for part in path.split("/")):
        raise ValueError("the path of the socket is not a plain one from the root")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path of the socket has more than {MAX_UNIX_PATH_BYTES} bytes")
    return Target("unix", "", 0, path, f"unix:{path}")


def _substitute(text: str, values: Mapping[str, str], convert: Callable[[str, bool], str]) -> str:
    """Replace fields by values converted by `convert`; its second argument is whether the field is the whole text."""
    alone = FIELD_REFERENCE.fullmatch(text) is not None
    return FIELD_REFERENCE.sub(lambda found: convert(values[found[1]], alone), text)


def _check_host_part(value: str, alone: bool) -> str:
    if not alone and not _LABEL.fullmatch(value):
        raise ValueError("what is put into the host is not letters, digits, - and _")
    return value


def _check_digits(value: str, alone: bool) -> str:
    if not _DIGITS.fullmatch(value):
        raise ValueError("what is put into the port is not digits")
    return value


def _escape_segment(value: str, alone: bool) -> str:
    if value in (".", ".."):
        raise ValueError("what is put into the path is . or ..")
    return quote(value, safe="")


def _check_file_name(value: str, alone: bool) -> str:
    if "/" in value or value in (".", ".."):
        raise ValueError("what is put into the path of the socket is not the name of one file")
    return value
