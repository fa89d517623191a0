"""Addresses: where a listener binds, what a backend is dialled by, and the origins and hosts a route names.

Lives here: their text forms and the values these become. Must not live here: resolving names, sockets.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.idn import ascii_authority
from wsbridge.config.secret import Secret
from wsbridge.config.text import as_text
from wsbridge.protocol.origin import parse_origin

LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*\.?")
DEFAULT_PORTS = {"ws": 80, "wss": 443}
ORIGIN_PORTS = {"http": "80", "https": "443"}
LONGEST_UNIX_PATH = 107
"""Bytes of a socket's path that Linux takes (sun_path, less the final NUL)."""

Scheme = Literal["tcp", "tls", "unix", "ws", "wss"]


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class BindAddress:
    """Where a listener waits. `str()` gives the written form.

    Attributes:
        kind: `tcp` or `unix`.
        host: Address or name without brackets; empty for unix.
        port: 0 means that the system picks one; 0 for unix.
        path: Of the socket, for unix; else empty.
    """

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.kind == "unix" else f"{_bracketed(self.host)}:{self.port}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address where it is written as one, else None."""
        return _ip(self.host)

    @property
    def is_literal_loopback(self) -> bool:
        """Whether only this host can reach it whatever names mean: a loopback address or a Unix path."""
        ip = self.ip
        return self.kind == "unix" or (ip is not None and ip.is_loopback)

    @property
    def is_loopback(self) -> bool:
        """Whether it is meant for this host alone: a loopback address, `localhost`, or a Unix path."""
        return self.is_literal_loopback or self.host.lower().rstrip(".") == "localhost"


@dataclass(frozen=True, slots=True)
class Target:
    """What is dialled.

    Attributes:
        scheme: tcp, tls, unix, ws or wss.
        host: Address or name without brackets; empty for unix.
        port: 0 for unix.
        path: Of the socket for unix; path and query for ws and wss; else empty.
        text: As it was written.
    """

    scheme: Scheme
    host: str
    port: int
    path: str
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them: IPv6 in brackets, the default port left out."""
        host = _bracketed(self.host)
        return host if DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this host for certain: a loopback address, `localhost`, or a Unix path."""
        ip = _ip(self.host)
        return self.scheme == "unix" or (ip is not None and ip.is_loopback) or self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked by CONNECT.

    Attributes:
        host: Address or name without brackets.
        port: 1 to 65535.
        user: Empty if none is to be sent.
        password: Sent along with the user.
    """

    host: str
    port: int
    user: str = ""
    password: Secret | None = None

    def __str__(self) -> str:
        return f"http://{'***@' if self.user else ''}{_bracketed(self.host)}:{self.port}"


def read_port(value: object) -> int:
    """Read a port from 0 to 65535."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = as_text(value)
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise ValueError(f'"{text}" is no port: write a number from 0 to 65535')
    return int(text)


def split_authority(text: str) -> tuple[str, str | None]:
    """Split `host:port` or `[v6]:port`; the port is None where it is left out.

    Raises:
        ValueError: It is neither; one sentence.
    """
    found = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text)
    if found:
        ip = _ip(found[1])
        if ip is None or ip.version != 6:
            raise ValueError(f'"{found[1]}" in brackets is no IPv6 address')
        return str(ip), found[2]
    if text.count(":") > 1:
        raise ValueError(f'"{text}": write an IPv6 address in brackets, such as "[::1]:8080", and all of it in quotes')
    host, colon, port = text.partition(":")
    if re.fullmatch(r"[0-9.]+", host):
        if _ip(host) is None:
            raise ValueError(f'"{host}" is no IPv4 address')
    elif not host.isascii():
        raise ValueError(f'"{host}": write a name in its ASCII form (xn--…)')
    elif not HOST_NAME.fullmatch(host) or len(host) > 253:
        raise ValueError(f'"{host}" is no name of a host and no address')
    return host, port if colon else None


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f'"unix:{path}": write the whole path of the socket, such as unix:/run/wsbridge/gw.sock')
    if len(path.encode()) > LONGEST_UNIX_PATH:
        raise ValueError(f"the path of a socket may have {LONGEST_UNIX_PATH} bytes, this one has {len(path.encode())}")
    if "\0" in path:
        raise ValueError("the path of a socket must not have a zero byte")
    return path


def read_bind(value: object) -> BindAddress:
    """Read `host:port`, `[v6]:port` or `unix:/path`."""
    if isinstance(value, BindAddress):
        return value
    text = as_text(value)
    if text.startswith("unix:"):
        return BindAddress("unix", path=_unix_path(text.removeprefix("unix:")))
    if "://" in text:
        raise ValueError(f'"{text}": write the address alone, such as 127.0.0.1:8080')
    if re.fullmatch(r"\*?:[^:]*", text) or re.fullmatch(r"[0-9]+", text):
        port = text.rpartition(":")[2]
        raise ValueError(f'"{text}" names no address: write 127.0.0.1:{port} for this host alone, or 0.0.0.0:{port}')
    host, port_text = split_authority(text)
    if port_text is None:
        raise ValueError(f'"{text}" has no port: write {_bracketed(host)}:8080, for example')
    return BindAddress("tcp", host=host, port=read_port(port_text))


def read_target(value: object) -> Target:
    """Read `tcp://host:port`, `tls://host:port`, `unix:/path`, `ws://host[:port]/path` or `wss://…`."""
    if isinstance(value, Target):
        return value
    text = as_text(value)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return Target("unix", "", 0, _unix_path(path.removeprefix("//")), text)
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in {"tcp", "tls", "ws", "wss"}:
        raise ValueError(
            "must be of the form tcp://host:port, tls://host:port, unix:/path, ws://host/path or wss://host/path"
        )
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]  # matches anything
    if "@" in authority:
        raise ValueError("a user and a password cannot stand in the URL; ws and wss take headers: {Authorization: …}")
    host, port_text = split_authority(authority)
    if "#" in path:
        raise ValueError(f'"{text}": a "#" and what follows is never sent; leave it out')
    if scheme in {"tcp", "tls"} and path not in {"", "/"}:
        raise ValueError(f'"{text}": a {scheme} backend has no path')
    if port_text is None and scheme not in DEFAULT_PORTS:
        raise ValueError(f'"{text}" has no port')
    port = DEFAULT_PORTS[scheme] if port_text is None else read_port(port_text)
    if port == 0:
        raise ValueError(f'"{text}": port 0 cannot be dialled')
    if scheme in DEFAULT_PORTS:
        if not re.fullmatch(r"[!-~]*", path):
            raise ValueError(f'"{text}": a path must be printable ASCII without blanks')
        path = path if path.startswith("/") else f"/{path}"
    else:
        path = ""
    return Target(scheme, host, port, path, text)  # type: ignore[arg-type]  # one of the four by the check above


def read_proxy(value: object) -> Proxy:
    """Read `http://[user:password@]host:port`; the text is never quoted in an error."""
    if isinstance(value, Proxy):
        return value
    found = re.fullmatch(r"http://(?:([^@/:]*):?([^@/]*)@)?([^@/]+)/?", as_text(value))
    if found is None:
        raise ValueError(
            "must be of the form http://host:port or http://user:password@host:port, "
            'with "@" and "/" in the password written as %40 and %2F'
        )
    host, port_text = split_authority(found[3])
    if port_text is None:
        raise ValueError("has no port: write http://host:3128, for example")
    return Proxy(host, read_port(port_text), found[1] or "", Secret(found[2]) if found[2] else None)


def read_origin(value: object) -> str:
    """Read an origin the way browsers send it: scheme, host, and the port unless it is the scheme's own.

    International names may be written as such, for hosts of routes, too.
    """
    text = as_text(value)
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]+)(/?)", text)
    if text == "null":
        return text
    if found is None:
        raise ValueError(f'"{text}" is no origin: write scheme and host alone, such as https://gw.example.org')
    scheme, authority = found[1].lower(), ascii_authority(found[2]).lower()
    if scheme not in ORIGIN_PORTS:
        if parse_origin(f"{scheme}://{authority}") is None:
            raise ValueError(f'"{authority}" in "{text}" is no host')
        return f"{scheme}://{authority}"
    host, port = split_authority(authority)
    plain = f"{scheme}://{_bracketed(host)}"
    if port is not None and port != ORIGIN_PORTS[scheme]:
        return f"{plain}:{read_port(port)}"
    if port is not None or found[3]:
        raise ValueError(f'"{text}": browsers send neither the port of the scheme nor a slash: write {plain}')
    return plain


def read_host(value: object) -> str:
    """Read a host as requests are compared with it: lower-case, no port, no trailing dot, IPv6 in brackets."""
    text = as_text(value)
    if "*" in text:
        raise ValueError(f'"{text}": a host is compared as a whole; "*" is not known here')
    if "/" in text:
        raise ValueError(f'"{text}": write the host alone, such as gw.example.org')
    if _ip(text) is not None and ":" in text:
        text = f"[{text}]"
    host, port = split_authority(ascii_authority(text))
    if port is not None:
        raise ValueError(f'"{text}": write the host without a port: {host}')
    return _bracketed(host.lower().rstrip("."))


_TEXT = PlainSerializer(str, return_type=str)

Bind = Annotated[
    BindAddress,
    PlainValidator(read_bind),
    _TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(unix:/.*|.+:[0-9]+)$"}),
]
ProxyUrl = Annotated[
    Proxy, PlainValidator(read_proxy), _TEXT, WithJsonSchema({"type": "string", "pattern": "^(http://.+)$"})
]
Port = Annotated[int, PlainValidator(read_port), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 65535})]
Origin = Annotated[str, PlainValidator(read_origin), WithJsonSchema({"type": "string"})]
Host = Annotated[str, PlainValidator(read_host), WithJsonSchema({"type": "string"})]
