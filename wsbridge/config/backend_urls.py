"""URLs of backends, and templates of them, whose fields the request of a client fills in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from wsbridge.config.errors import did_you_mean
from wsbridge.config.types import TOKEN_REGEX, as_text
from wsbridge.config.urls import (
    HOST_NAME,
    WEBSOCKET_DEFAULT_PORTS,
    WEBSOCKET_UNIX_PREFIX,
    Target,
    directory_of,
    read_target,
    read_target_path,
    read_unix_path,
    split_after_authority,
    without_authority,
)

FIELD_REFERENCE: Final = re.compile(r"\{([^{}]*)\}")
SEGMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
QUERY_PREFIX: Final = "query."
COOKIE_FIELD_PREFIX: Final = "cookie."
CLAIMS_PREFIX: Final = "claims."
IDENTITY_FIELD: Final = "identity"
IDENTITY_TARGET: Final = "{target}"
"""Placeholder for the URL that belongs to an identity."""
FIELD_FORMS: Final = "{NAME} of match.path or match.host, {query.NAME}, {claims.NAME} or {identity}"


@dataclass(frozen=True, slots=True)
class UrlTemplate(Target):
    """A target with fields in it: its host and path hold them as they are written, its port is 0.

    Attributes:
        port_text: The port as it is written, fields and all; empty for unix.
        fields: The names of its fields, each once.
    """

    port_text: str = ""
    fields: tuple[str, ...] = ()


def read_field_name(value: object) -> str:
    """Read the name of a field: `NAME` of a path segment, `query.NAME`, `claims.NAME` or `identity`."""
    text = as_text(value)
    if re.fullmatch(r"(?:query|claims)\.[!-~]{1,64}", text) and not set(text) & set("{}"):
        return text
    if text == "target":
        raise ValueError(f'"{IDENTITY_TARGET}" must be the whole URL')
    if text.startswith(COOKIE_FIELD_PREFIX):
        raise ValueError(f'"{text}": only token_from of a token file reads cookies')
    if SEGMENT_NAME.fullmatch(text):
        return text
    guess = did_you_mean(text.partition(".")[0], (QUERY_PREFIX[:-1], CLAIMS_PREFIX[:-1])) if "." in text else ""
    raise ValueError(f'"{text}" is not a field{guess}: write NAME of match.path, query.NAME, claims.NAME or identity')


def read_target_token_source(value: object) -> str:
    """Read where a target token is: `cookie.NAME`, or a field as `read_field_name` does."""
    text = as_text(value)
    if not text.startswith(COOKIE_FIELD_PREFIX):
        return read_field_name(text)
    if not re.fullmatch(TOKEN_REGEX, text.removeprefix(COOKIE_FIELD_PREFIX)):
        raise ValueError(f'"{text}": after cookie. write the name of a cookie: letters, digits and !#$%&\'*+-.^_`|~')
    return text


def read_backend_url(value: object, directory: Path | None = None) -> Target:
    """Read a target, or a template of one. See `read_target`."""
    if isinstance(value, Target):
        return value
    text = as_text(value)
    if text.lower().startswith(WEBSOCKET_UNIX_PREFIX):
        return _read_websocket_unix(text, directory)
    if "{" not in text and "}" not in text:
        return read_target(text, directory)
    fields = [read_field_name(found[1]) for found in FIELD_REFERENCE.finditer(text)]
    if re.search(r"[{}]", FIELD_REFERENCE.sub("", text)):
        raise ValueError(f'"{text}": a field is a name within braces: {FIELD_FORMS}')
    return _parse_template(text, tuple(dict.fromkeys(fields)), directory)


def _read_websocket_unix(text: str, directory: Path | None) -> Target:
    """Read `ws+unix:/path` or `ws+unix:/path:/resource`: the first colon ends the path of the socket.

    Only the configuration may contain one: `read_target`, which reads what a client or a token file chose, does not
    accept it.
    """
    if set(text) & set("{}"):
        raise ValueError("a ws+unix: URL must not contain fields")
    socket_path, _, resource = text[len(WEBSOCKET_UNIX_PREFIX) :].partition(":")
    if resource and not resource.startswith("/"):
        raise ValueError("must be of the form ws+unix:/path/of/socket:/resource, without a colon in the socket's path")
    path = read_target_path("ws", resource, "ws+unix")
    return Target("ws", "localhost", 80, path, text, socket_path=read_unix_path(socket_path, directory))


def _parse_template(text: str, fields: tuple[str, ...], directory: Path | None = None) -> UrlTemplate:
    """Split a template, and read it once with placeholders, which finds what is wrong with the rest of it."""
    if text.startswith("unix:"):
        path = without_authority(text.removeprefix("unix:"))
        if "{" in path.partition("/")[0]:
            raise ValueError(f'"{text}": the path of a socket begins with a slash')
        if not path.startswith("/") and directory is not None:
            path = f"{directory}/{path}"
        read_target("unix:" + FIELD_REFERENCE.sub("x", path))
        return UrlTemplate("unix", "", 0, path, text, "", fields)
    scheme, _, rest = text.partition("://")
    if "{" in scheme:
        raise ValueError(
            f'"{text}": the scheme must not contain a field: begin with tcp://, tls://, unix:, ws:// or wss://'
        )
    authority, path = split_after_authority(rest)
    inside, port = _split_template_authority(authority, text)
    # a field replaces a label of a name, digits of a port, or any text of a path
    host = FIELD_REFERENCE.sub("1" if re.search(r"[0-9]", FIELD_REFERENCE.sub("", inside)) else "x", inside)
    written = f"[{host}]" if ":" in host else host
    number = "1" if FIELD_REFERENCE.fullmatch(port) else FIELD_REFERENCE.sub("1", port)
    stand_in = read_target(f"{scheme}://{written}{':' + number if port else ''}{FIELD_REFERENCE.sub('x', path)}")
    if not port:
        port = str(WEBSOCKET_DEFAULT_PORTS[stand_in.scheme])
    if stand_in.scheme in WEBSOCKET_DEFAULT_PORTS and not path.startswith("/"):
        path = f"/{path}"
    return UrlTemplate(stand_in.scheme, inside, 0, path if stand_in.path else "", text, port, fields)


def _split_template_authority(authority: str, text: str) -> tuple[str, str]:
    """Split `host:port`, `[host]:port` or `host`, fields among them; the host comes without brackets."""
    if authority.startswith("["):
        inside, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{text}": brackets enclose a whole IPv6 address')
        if FIELD_REFERENCE.search(inside) and not FIELD_REFERENCE.fullmatch(inside):
            raise ValueError(f'"{text}": a field replaces a whole IPv6 address')
        return inside, rest.removeprefix(":")
    host, _, port = authority.rpartition(":") if ":" in FIELD_REFERENCE.sub("", authority) else (authority, "", "")
    if not FIELD_REFERENCE.fullmatch(host) and not HOST_NAME.fullmatch(FIELD_REFERENCE.sub("1", host)):
        raise ValueError(f'"{text}": the host is a field, a name or an address, or a name with fields in it')
    return host, port


def is_request_field(field: str) -> bool:
    """Return whether a field belongs to the request, not to the identity."""
    return field not in (IDENTITY_FIELD, "target") and not field.startswith(CLAIMS_PREFIX)


def check_field(field: str, segments: Iterable[str], *, identity: bool) -> str | None:
    """Return why a route has no value for a field.

    Args:
        field: Its name.
        segments: The named segments of the route's path, and the named labels of its hosts.
        identity: Whether the route identifies its clients.

    Returns:
        A sentence, or None if it has one.
    """
    if not is_request_field(field):
        return None if identity else f'"{{{field}}}" needs an authentication method that identifies the client'
    if field.startswith((QUERY_PREFIX, COOKIE_FIELD_PREFIX)) or field in set(segments):
        return None
    guess = did_you_mean(field, [*segments, IDENTITY_FIELD, "target"])
    names = _segment_list(segments)
    return f'"{{{field}}}" is not a segment of match.path or label of match.host{guess}: the route has {names}'


def _segment_list(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "no named one, such as /to/{host}/{port}"


TargetTokenSource = Annotated[
    str,
    PlainValidator(read_target_token_source),
    WithJsonSchema({"type": "string", "pattern": r"^((query|claims|cookie)\.[!-~]+|[A-Za-z_][A-Za-z0-9_]*)$"}),
]


def _read_backend_url_of_file(value: object, info: ValidationInfo) -> Target:
    return read_backend_url(value, directory_of(info))


BackendUrl = Annotated[
    Target,
    PlainValidator(_read_backend_url_of_file),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^((tcp|tls|ws|wss)://.+|(ws\\+)?unix:.+)$"}),
]
