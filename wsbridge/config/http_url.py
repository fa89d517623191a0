"""HTTP URLs: services that are asked over HTTP, as the file has them.

Lives here: their text form and the value it becomes. Must not live here: URLs of backends (`address`), requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.address import Target, read_port, read_target, split_authority
from wsbridge.config.text import as_text

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A service that speaks HTTP.

    Attributes:
        scheme: http, https or unix (plain HTTP over a Unix socket).
        host: Address or name without brackets; empty for unix.
        port: 0 for unix.
        path: Path and query; of the socket for unix.
        text: As it was written.
    """

    scheme: Literal["http", "https", "unix"]
    host: str
    port: int
    path: str
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def authority(self) -> str:
        """The Host header: IPv6 in brackets, the default port left out, `localhost` for unix."""
        if self.scheme == "unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this host for certain: a loopback address, `localhost`, or a Unix socket."""
        return Target("tcp", self.host, self.port, "", "").is_loopback or self.scheme == "unix"


def read_http_path(value: object) -> str:
    """Read the path, with its query if it has one, of a request."""
    text = as_text(value)
    if not re.fullmatch(r"/[!-\"$-~]*", text):
        raise ValueError(f'"{text}" is no path: it begins with "/" and is printable ASCII without blanks and "#"')
    return text


def read_http_url(value: object) -> HttpUrl:
    """Read `http://host[:port]/path` or `https://…`."""
    if isinstance(value, HttpUrl):
        return value
    found = re.fullmatch(r"(https?)://([^/?#]*)(.*)", as_text(value), re.DOTALL | re.IGNORECASE)
    if found is None:
        raise ValueError("must be of the form http://host/path or https://host/path")
    scheme = found[1].lower()
    if "@" in found[2]:
        raise ValueError("a user and a password cannot stand in the URL")
    host, port_text = split_authority(found[2])
    port = PORTS[scheme] if port_text is None else read_port(port_text)
    if port == 0:
        raise ValueError(f'"{value}": port 0 cannot be dialled')
    path = read_http_path(found[3] if found[3].startswith("/") else f"/{found[3]}")
    return HttpUrl("https" if scheme == "https" else "http", host, port, path, as_text(value))


def read_https_url(value: object) -> HttpUrl:
    """Read `https://host[:port]/path`."""
    if isinstance(value, str) and not value.lower().startswith("https://"):
        raise ValueError(
            "must be of the form https://host/path: without TLS anybody on the way could change what comes"
        )
    return read_http_url(value)


def read_http_service(value: object) -> HttpUrl:
    """Read `http://host[:port]/path`, `https://…` or `unix:/path` of a socket."""
    if isinstance(value, str) and value.startswith("unix:"):
        target = read_target(value)
        return HttpUrl("unix", "", 0, target.path, value)
    if isinstance(value, str) and not value.lower().startswith(("http://", "https://")):
        raise ValueError("must be of the form http://host/path, https://host/path or unix:/path of a socket")
    return read_http_url(value)


_TEXT = PlainSerializer(str, return_type=str)

HttpsUrl = Annotated[
    HttpUrl, PlainValidator(read_https_url), _TEXT, WithJsonSchema({"type": "string", "pattern": "^https://.+$"})
]
HttpService = Annotated[
    HttpUrl,
    PlainValidator(read_http_service),
    _TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(https?://.+|unix:.+)$"}),
]
HttpPath = Annotated[str, PlainValidator(read_http_path), WithJsonSchema({"type": "string", "pattern": "^/[^#]*$"})]
