"""Request headers about the client for WebSocket backends (`client_headers`), filled from templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.errors import did_you_mean
from wsbridge.config.types import read_header_text
from wsbridge.context import ConnectionContext
from wsbridge.net.address import join_host_port


def _forwarded_node(client: ConnectionContext) -> str:
    """The client in the syntax of Forwarded: IPv6 in brackets, in quotes with a colon (RFC 7239 section 6)."""
    host, port = client.peer.host, client.peer.port
    if not host:
        return ""
    node = join_host_port(host, port) if port else f"[{host}]" if ":" in host else host
    return f'"{node}"' if ":" in node else node


CLIENT_FIELDS: Final[Mapping[str, Callable[[ConnectionContext], str]]] = {
    "address": lambda client: client.peer.host,
    "port": lambda client: str(client.peer.port or ""),
    "node": _forwarded_node,
    "via": lambda client: ", ".join(client.peer.via),
    "local_address": lambda client: "" if client.local_address is None else client.local_address.host,
    "local_port": lambda client: "" if client.local_address is None else str(client.local_address.port or ""),
    "identity": lambda client: client.identity.name,
    "auth": lambda client: client.identity.method,
    "id": lambda client: str(client.id),
    "host": lambda client: "" if client.request is None else client.request.host,
    "path": lambda client: "" if client.request is None else client.request.path,
    "scheme": lambda client: "https" if client.tls else "http",
    "sni": lambda client: client.peer.sni,
    "listener": lambda client: client.listener,
    "route": lambda client: client.route,
}
"""The fields of a template; `claims.NAME` is one, too."""

CLAIM_FIELD_PREFIX: Final = "claims."

_TEMPLATE_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_UNSAFE_BYTES = re.compile(rb"^ +|[^ -~]|%| +$")
_UNSAFE_IN_LIST = re.compile(rb"^ +|[^ -~]|[%,;\"]| +$")
_OWN_FIELDS: Final = frozenset(
    {"address", "port", "node", "via", "local_address", "local_port", "id", "auth", "scheme"}
)
"""Fields whose values wsbridge writes itself, so that their commas and quotes are syntax."""


@dataclass(frozen=True, slots=True)
class HeaderTemplate:
    """One value with fields in it.

    Attributes:
        text: As configured.
        parts: Literal texts and field names in turn, beginning with a text.
    """

    text: str
    parts: tuple[str, ...]

    def fill(self, client: ConnectionContext) -> str:
        """Return the value for a client; empty if all fields are."""
        filled = [_percent_encode(_field_value(name, client), name) for name in self.parts[1::2]]
        if not any(filled):
            return ""
        pairs = zip(self.parts[::2], [*filled, ""], strict=True)
        return "".join(text + value for text, value in pairs).strip()

    def __str__(self) -> str:
        return self.text


def read_header_template(value: object) -> HeaderTemplate:
    """Read a value such as `{address}`, with `{{` and `}}` for braces."""
    if isinstance(value, HeaderTemplate):
        return value
    text = read_header_text(value)
    parts: list[str] = [""]
    at = 0
    for found in _TEMPLATE_PART.finditer(text):
        parts[-1] += text[at : found.start()]
        at = found.end()
        if found[0] in ("{{", "}}"):
            parts[-1] += found[0][0]
        elif found[1] is None:
            raise ValueError(f'a single "{found[0]}": write {{{{ and }}}} for braces')
        else:
            parts += [_check_field(found[1]), ""]
    parts[-1] += text[at:]
    if len(parts) == 1:
        raise ValueError("has no field such as {address}: a header that is the same for all clients belongs in headers")
    return HeaderTemplate(text, tuple(parts))


def _check_field(name: str) -> str:
    if name in CLIENT_FIELDS or (name.startswith(CLAIM_FIELD_PREFIX) and name != CLAIM_FIELD_PREFIX):
        return name
    _, dot, claim = name.rpartition(".")
    guess = did_you_mean(name, [CLAIM_FIELD_PREFIX + claim] if dot and claim else CLIENT_FIELDS)
    raise ValueError(f"{{{name}}} is not a field{guess}: write one of {', '.join(CLIENT_FIELDS)} or claims.NAME")


def _field_value(name: str, client: ConnectionContext) -> str:
    read = CLIENT_FIELDS.get(name)
    return client.identity.claims.get(name.removeprefix(CLAIM_FIELD_PREFIX), "") if read is None else read(client)


def _percent_encode(value: str, field: str) -> str:
    """Encode everything that could end the header or split its value; decoding restores the value.

    That is everything but printable ASCII, spaces at the ends, and `%`; in values that the client or the issuer of its
    credentials chose also `,`, `;` and `"`, which separate the elements of a list (RFC 9110 section 5.6).
    """
    unsafe = _UNSAFE_BYTES if field in _OWN_FIELDS else _UNSAFE_IN_LIST
    data = value.encode("utf-8", "replace")
    return unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0]).encode(), data).decode("ascii")


ClientHeader = Annotated[
    HeaderTemplate,
    PlainValidator(read_header_template),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"\{"}),
]
