"""Templates: the URL of a backend with fields that every client fills for himself.

Lives here: their text form, the value it becomes, and the names of fields. Must not live here: what a field is filled
with (`targets.template`), whether a route has it (`config.route`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.address import DEFAULT_PORTS, HOST_NAME, Target, read_target
from wsbridge.config.problems import did_you_mean
from wsbridge.config.text import as_text

FIELD: Final = re.compile(r"\{([^{}]*)\}")
SEGMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
QUERY: Final = "query."
CLAIMS: Final = "claims."
IDENTITY: Final = "identity"
TOLD: Final = "{target}"
"""Stands for the URL that goes with an identity."""
KNOWN: Final = "{NAME} of match.path, {query.NAME}, {claims.NAME} or {identity}"


@dataclass(frozen=True, slots=True)
class Template(Target):
    """A target with fields in it: its host and path hold them as they are written, its port is 0.

    Attributes:
        port_text: The port as it is written, fields and all; empty for unix.
        fields: The names of its fields, each once.
    """

    port_text: str = ""
    fields: tuple[str, ...] = ()


def read_field(value: object) -> str:
    """Read the name of a field: `NAME` of a path segment, `query.NAME`, `claims.NAME` or `identity`."""
    text = as_text(value)
    if re.fullmatch(r"(?:query|claims)\.[!-~]{1,64}", text) and not set(text) & set("{}"):
        return text
    if text == "target":
        raise ValueError(f'"{TOLD}" stands alone or not at all')
    if SEGMENT.fullmatch(text):
        return text
    guess = did_you_mean(text.partition(".")[0], (QUERY[:-1], CLAIMS[:-1])) if "." in text else ""
    raise ValueError(f'"{text}" is no field{guess}: write NAME of match.path, query.NAME, claims.NAME or identity')


def read_backend_url(value: object) -> Target:
    """Read a target, or a template of one."""
    if isinstance(value, Target):
        return value
    text = as_text(value)
    if "{" not in text and "}" not in text:
        return read_target(text)
    fields = [read_field(found[1]) for found in FIELD.finditer(text)]
    if re.search(r"[{}]", FIELD.sub("", text)):
        raise ValueError(f'"{text}": a field is a name within braces: {KNOWN}')
    return _template(text, tuple(dict.fromkeys(fields)))


def _template(text: str, fields: tuple[str, ...]) -> Template:
    """Take a template apart, and read it once with stand-ins, which tells what is wrong with the rest of it."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        read_target("unix:" + FIELD.sub("x", path))
        if "{" in path.partition("/")[0]:
            raise ValueError(f'"{text}": the path of a socket begins with a slash')
        return Template("unix", "", 0, path, text, "", fields)
    scheme, _, rest = text.partition("://")
    if "{" in scheme:
        raise ValueError(
            f'"{text}": what is spoken cannot be chosen: begin with tcp://, tls://, unix:, ws:// or wss://'
        )
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]  # matches anything
    inside, port = _authority(authority, text)
    # a field stands for a label of a name, for digits of a port, for any text of a path
    host = FIELD.sub("1" if re.search(r"[0-9]", FIELD.sub("", inside)) else "x", inside)
    written = f"[{host}]" if ":" in host else host
    number = "1" if FIELD.fullmatch(port) else FIELD.sub("1", port)
    stand_in = read_target(f"{scheme}://{written}{':' + number if port else ''}{FIELD.sub('x', path)}")
    if not port:
        port = str(DEFAULT_PORTS[stand_in.scheme])
    if stand_in.scheme in DEFAULT_PORTS and not path.startswith("/"):
        path = f"/{path}"
    return Template(stand_in.scheme, inside, 0, path if stand_in.path else "", text, port, fields)


def _authority(authority: str, text: str) -> tuple[str, str]:
    """Split `host:port`, `[host]:port` or `host`, fields among them; the host comes without brackets."""
    if authority.startswith("["):
        inside, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{text}": a bracket stands around all of an IPv6 address')
        if FIELD.search(inside) and not FIELD.fullmatch(inside):
            raise ValueError(f'"{text}": a field stands for a whole IPv6 address')
        return inside, rest.removeprefix(":")
    host, _, port = authority.rpartition(":") if ":" in FIELD.sub("", authority) else (authority, "", "")
    if not FIELD.fullmatch(host) and not HOST_NAME.fullmatch(FIELD.sub("1", host)):
        raise ValueError(f'"{text}": the host is a field, a name or an address, or a name with fields in it')
    return host, port


def by_request(field: str) -> bool:
    """Tell whether a field is of the request, not of who the client is."""
    return field not in (IDENTITY, "target") and not field.startswith(CLAIMS)


def missing_field(field: str, names: Iterable[str], *, identity: bool) -> str | None:
    """Tell why a route has no value for a field.

    Args:
        field: Its name.
        names: The named segments of the route's path.
        identity: Whether the route asks its clients who they are.

    Returns:
        A sentence, or None if it has one.
    """
    if not by_request(field):
        return None if identity else f'"{{{field}}}" needs an auth that says who a client is'
    if field.startswith(QUERY) or field in set(names):
        return None
    guess = did_you_mean(field, [*names, IDENTITY, "target"])
    return f'"{{{field}}}" is no segment of match.path{guess}: it has {_listed(names)}'


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "no named one, such as /to/{host}/{port}"


Field = Annotated[
    str,
    PlainValidator(read_field),
    WithJsonSchema({"type": "string", "pattern": r"^((query|claims)\.[!-~]+|[A-Za-z_][A-Za-z0-9_]*)$"}),
]
TargetUrl = Annotated[
    Target,
    PlainValidator(read_backend_url),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^((tcp|tls|ws|wss)://.+|unix:.+)$"}),
]
