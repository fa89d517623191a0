"""Bind addresses, targets, service URLs, origins.

URL libraries neither parse `unix:` paths nor reject what is ambiguous (`urllib.parse` accepts it).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from wsbridge.config.base import load_context
from wsbridge.config.paths import without_dots
from wsbridge.config.secrets import Secret
from wsbridge.config.types import as_text, to_ascii_authority
from wsbridge.protocol.handshake import parse_origin
from wsbridge.protocol.ip import ip_text, unmap
from wsbridge.protocol.uri import HostPatterns

HOST_LABEL_REGEX = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{HOST_LABEL_REGEX}(?:\.{HOST_LABEL_REGEX})*\.?")
WEBSOCKET_UNIX_PREFIX: Final = "ws+unix:"
WEBSOCKET_DEFAULT_PORTS = {"ws": 80, "wss": 443}
ORIGIN_PORTS = {"http": "80", "https": "443"}
MAX_UNIX_PATH_BYTES = 107
"""Bytes of a socket's path that Linux allows (sun_path, less the final NUL)."""

Scheme = Literal["tcp", "tls", "unix", "ws", "wss"]


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback_ip(host: str) -> bool:
    ip = _parse_ip(host)
    return ip is not None and unmap(ip).is_loopback


def _bracket_ipv6(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class BindAddress:
    """Address of a listener. `str()` gives the written form.

    Attributes:
        kind: `tcp`, `unix`, or `fd` for sockets that the service manager passes.
        host: Address or name without brackets; empty for unix and fd.
        port: 0 means that the system picks one; 0 for unix and fd.
        path: Of the socket, for unix; else empty.
        name: Of the sockets, for fd; else empty. Their addresses are not known before the start.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"{_bracket_ipv6(self.host)}:{self.port}"
        return f"unix:{self.path}" if self.kind == "unix" else f"fd:{self.name}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address where it is written as one, else None."""
        return _parse_ip(self.host)

    @property
    def is_literal_loopback(self) -> bool:
        """Whether only this host can reach it whatever names mean: a loopback address or a Unix path."""
        return self.kind == "unix" or _is_loopback_ip(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether it is meant for this host alone: a loopback address, `localhost`, or a Unix path."""
        return self.is_literal_loopback or self.host.lower().rstrip(".") == "localhost"


@dataclass(frozen=True, slots=True)
class Target:
    """A backend address.

    Attributes:
        scheme: tcp, tls, unix, ws or wss.
        host: Address or name without brackets; empty for unix.
        port: 0 for unix.
        path: Of the socket for unix; path and query for ws and wss; else empty.
        text: As it was written.
        socket_path: Of the Unix socket to connect to instead of host and port, for `ws+unix:` (scheme ws, host
            localhost); else empty.
    """

    scheme: Scheme
    host: str
    port: int
    path: str
    text: str
    socket_path: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return self.text

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them: IPv6 in brackets, the default port left out."""
        host = _bracket_ipv6(_without_zone(self.host))
        return host if WEBSOCKET_DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is certainly on this host: a loopback address, `localhost`, or a Unix path."""
        return self.scheme == "unix" or _is_loopback_ip(self.host) or self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class HttpProxy:
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

    @property
    def is_loopback(self) -> bool:
        """Whether it is certainly on this host."""
        return _is_loopback_ip(self.host) or self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"http://{'***@' if self.user else ''}{_bracket_ipv6(self.host)}:{self.port}"


def read_port(value: object) -> int:
    """Read a port from 0 to 65535."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = as_text(value)
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise ValueError(f'"{text}" is not a port: write a number from 0 to 65535')
    return int(text)


def split_after_authority(text: str) -> tuple[str, str]:
    """Split what follows `scheme://` into the authority and the rest, which begins with one of `/?#`, or is empty."""
    end = next((at for at, char in enumerate(text) if char in "/?#"), len(text))
    return text[:end], text[end:]


def split_authority(text: str) -> tuple[str, str | None]:
    """Split `host:port` or `[v6]:port`; the port is None if it is omitted.

    The zone of a link-local address is written `[fe80::1%25eth0]` (RFC 6874) or `[fe80::1%eth0]`.

    Raises:
        ValueError: It is neither; one sentence.
    """
    found = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text)
    if found:
        return _read_ipv6(found[1]), found[2]
    if text.count(":") > 1:
        raise ValueError(f'"{text}": write an IPv6 address in brackets, such as "[::1]:8080", and all of it in quotes')
    host, colon, port = text.partition(":")
    if re.fullmatch(r"[0-9.]+", host):
        if _parse_ip(host) is None:
            raise ValueError(f'"{host}" is not an IPv4 address')
    elif not host.isascii():
        raise ValueError(f'"{host}": write a name in its ASCII form (xn--…)')
    elif not HOST_NAME.fullmatch(host) or len(host) > 253:
        hint = "; for the value of an environment variable write ${NAME}" if host.startswith("$") else ""
        raise ValueError(f'"{host}" is not a host name or an address{hint}')
    return host, port if colon else None


def _read_ipv6(text: str) -> str:
    """Read an IPv6 address without its brackets; a zone comes with a plain `%`."""
    address, percent, zone = text.partition("%")
    zone = zone.removeprefix("25")
    ip = _parse_ip(address)
    if ip is None or ip.version != 6 or (percent and not re.fullmatch(r"[A-Za-z0-9._~-]+", zone)):
        raise ValueError(f'"{text}" in brackets is not an IPv6 address')
    if percent and not ip.is_link_local and not ip.is_multicast:
        raise ValueError(f'"{text}" has a zone, which only link-local addresses have: write [{ip}]')
    return f"{ip}%{zone}" if percent else ip_text(ip)


def check_zone(host: str) -> str:
    """Check that a link-local address to bind or connect to names its interface."""
    ip = _parse_ip(host)
    if ip is not None and unmap(ip).version == 6 and ip.is_link_local and "%" not in host:
        raise ValueError(f'"{host}" is a link-local address: write its interface, such as [{host}%25eth0]')
    return host


def _without_zone(host: str) -> str:
    return host.partition("%")[0]


def read_unix_path(text: str, directory: Path | None = None) -> str:
    """Read the path of a Unix socket; `unix:///path` is another form of `unix:/path`.

    Args:
        text: After `unix:`.
        directory: Where relative paths begin; None if they are not allowed.
    """
    text = without_authority(text)
    if not text.startswith("/"):
        if directory is None or not text or text.startswith("@"):
            raise ValueError(f'"unix:{text}": write the whole path of the socket, such as unix:/run/wsbridge/gw.sock')
        text = str(without_dots(directory / text))
    size = len(os.fsencode(text))
    if size > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path of a socket may have {MAX_UNIX_PATH_BYTES} bytes, this one has {size}")
    if "\0" in text:
        raise ValueError("the path of a socket must not have a zero byte")
    return text


def without_authority(text: str) -> str:
    """Return what follows `unix:` without the empty host of `unix:///path`."""
    if text.startswith("//") and not text.startswith("///"):
        raise ValueError(f'"unix:{text}" has two slashes: write unix:{text[1:]}')
    return text.removeprefix("//")


def read_bind(value: object, directory: Path | None = None) -> BindAddress:
    """Read `host:port`, `[v6]:port`, `unix:/path` or `fd:NAME`.

    Args:
        value: As written.
        directory: Where relative paths begin; None if they are not allowed.
    """
    if isinstance(value, BindAddress):
        return value
    text = as_text(value)
    if text.startswith("unix:"):
        return BindAddress("unix", path=read_unix_path(text.removeprefix("unix:"), directory))
    if text.startswith("fd:"):
        return BindAddress("fd", name=_read_socket_name(text.removeprefix("fd:")))
    if "://" in text:
        raise ValueError(f'"{text}": write the address alone, such as 127.0.0.1:8080')
    if re.fullmatch(r"\*?:[^:]*", text) or re.fullmatch(r"[0-9]+", text):
        port = text.rpartition(":")[2]
        raise ValueError(f'"{text}" has no host: write 127.0.0.1:{port} for this host only, or 0.0.0.0:{port}')
    host, port_text = split_authority(text)
    if port_text is None:
        raise ValueError(f'"{text}" has no port: write {_bracket_ipv6(host)}:8080, for example')
    return BindAddress("tcp", host=check_zone(host), port=read_port(port_text))


def _read_socket_name(text: str) -> str:
    """Read a name of FileDescriptorName= (systemd.socket(5))."""
    if not re.fullmatch(r"[!-9;-~]{1,255}", text):
        raise ValueError(
            f'"fd:{text}": after fd: write the FileDescriptorName= of a .socket unit: at most 255 ASCII characters'
            " without spaces and colons"
        )
    return text


def read_target(value: object, directory: Path | None = None) -> Target:
    """Read `tcp://host:port`, `tls://host:port`, `unix:/path`, `ws://host[:port]/path` or `wss://…`.

    Args:
        value: As written.
        directory: Where relative paths of Unix sockets begin; None if they are not allowed.
    """
    if isinstance(value, Target):
        return value
    text = as_text(value)
    if text.startswith("unix:"):
        return Target("unix", "", 0, read_unix_path(text.removeprefix("unix:"), directory), text)
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in {"tcp", "tls", "ws", "wss"}:
        raise ValueError(
            "must be of the form tcp://host:port, tls://host:port, unix:/path, ws://host/path or wss://host/path"
            + _target_hint(scheme if found else "", rest if found else text)
        )
    authority, path = split_after_authority(rest)
    if "@" in authority:
        raise ValueError(
            "a user and a password are not allowed in the URL; ws and wss have headers: {Authorization: …}"
        )
    host, port_text = split_authority(to_ascii_authority(authority))
    path = read_target_path(scheme, path, text)
    if port_text is None and scheme not in WEBSOCKET_DEFAULT_PORTS:
        raise ValueError(f'"{text}" has no port')
    port = WEBSOCKET_DEFAULT_PORTS[scheme] if port_text is None else read_port(port_text)
    if port == 0:
        raise ValueError(f'"{text}": port 0 is not a port to connect to')
    return Target(scheme, check_zone(host), port, path, text)  # type: ignore[arg-type]  # one of the four by the check above


_HOST_ALONE: Final = re.compile(r"localhost|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+|\[[0-9A-Fa-f:.]+\]")


def _target_hint(scheme: str, rest: str) -> str:
    """Guess what a URL of another form was meant to be; one with a password or a query is not quoted."""
    if set(rest) & set("@?"):
        return ""
    if scheme in {"http", "https"}:
        return f"; write {'wss' if scheme == 'https' else 'ws'}://{rest}"
    if not scheme and re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", rest):
        return f"; write tcp://{rest}"
    if not scheme and re.fullmatch(r"[0-9]{1,5}", rest):
        return f"; write tcp://127.0.0.1:{rest}"
    if not scheme and _HOST_ALONE.fullmatch(rest):
        return f"; write tcp://{rest}:PORT, with its port"
    if not scheme and rest.startswith("/"):
        return f"; write unix:{rest}"
    without_slashes = re.fullmatch(r"(tcp|tls|ws|wss):/?([^/].*)", rest)
    if not scheme and without_slashes:
        return f"; write {without_slashes[1]}://{without_slashes[2]}"
    if not scheme and _HOST_ALONE.fullmatch(rest.partition("/")[0]):
        return f"; write wss://{rest}"
    return f'; "{scheme}" is none of these' if scheme else ""


def read_target_path(scheme: str, path: str, text: str) -> str:
    """Read what follows the authority: path and query for ws and wss, nothing for tcp and tls."""
    if "#" in path:
        raise ValueError(f'"{text}": a "#" and what follows is never sent; omit it')
    if scheme not in WEBSOCKET_DEFAULT_PORTS:
        if path not in {"", "/"}:
            raise ValueError(f'"{text}": a {scheme} backend has no path')
        return ""
    if not re.fullmatch(r"[!-~]*", path):
        raise ValueError(f'"{text}": a path must be printable ASCII without spaces')
    return path if path.startswith("/") else f"/{path}"


def read_proxy_url(value: object) -> HttpProxy:
    """Read `http://[user:password@]host:port`; the text is never quoted in an error."""
    if isinstance(value, HttpProxy):
        return value
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://", as_text(value))
    if scheme is not None and scheme[1].lower() != "http":
        raise ValueError(f"{scheme[1].lower()} proxies are not supported: use an HTTP proxy, http://host:port")
    found = re.fullmatch(r"(?i:http)://(?:([^@/:]*):?([^@/]*)@)?([^@/]+)/?", as_text(value))
    if found is None:
        raise ValueError(
            "must be of the form http://host:port or http://user:password@host:port, "
            'with "@" and "/" in the password written as %40 and %2F'
        )
    try:
        host, port_text = split_authority(found[3])
        port = None if port_text is None else read_port(port_text)
    except ValueError:  # which quotes what may be a password, if the "@" is missing
        raise ValueError("must be of the form http://host:port; what follows http:// is no host and port") from None
    if port is None:
        raise ValueError("has no port: write http://host:3128, for example")
    if port == 0:
        raise ValueError("port 0 is not a port to connect to")
    return HttpProxy(check_zone(host), port, found[1] or "", Secret(found[2]) if found[2] else None)


def read_origin(value: object) -> str:
    """Read an origin the way browsers send it: scheme, host, and the port unless it is the scheme's default.

    International names may be written as such, for hosts of routes, too. A slash at the end is dropped, except in
    `file://`, the origin of local pages in Electron and Cordova.
    """
    text = as_text(value)
    if text == "null":
        return text
    if text.lower() in {"file://", "file:///"}:
        return "file://"
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]+)/?", text)
    if found is None:
        if text == "*":
            raise ValueError('"*" is not an origin: write any in place of the list to allow every page')
        host = text if _HOST_ALONE.fullmatch(text) else "gw.example.org"
        raise ValueError(f'"{text}" is not an origin: write scheme and host only, such as https://{host}')
    scheme, authority = found[1].lower(), to_ascii_authority(found[2]).lower()
    if scheme not in ORIGIN_PORTS:
        if parse_origin(f"{scheme}://{authority}") is None:
            raise ValueError(f'"{authority}" in "{text}" is not a host')
        return f"{scheme}://{authority}"
    host, port = split_authority(authority)
    plain = f"{scheme}://{_bracket_ipv6(host)}"
    if port == ORIGIN_PORTS[scheme]:
        raise ValueError(f'"{text}": browsers do not send the default port of the scheme: write {plain}')
    return plain if port is None else f"{plain}:{read_port(port)}"


def read_origin_pattern(value: object) -> str:
    """Read an origin, or `https://*.example.org` for those of all names below example.org, at any depth."""
    text = as_text(value)
    if "://*." not in text:
        return read_origin(text)
    origin = read_origin(text.replace("://*.", "://", 1))
    scheme, _, authority = origin.partition("://")
    _read_wildcard_domain("*." + split_authority(authority)[0])
    return f"{scheme}://*.{authority}"


def _read_wildcard_domain(text: str) -> str:
    """Read what follows `*.`: the name of a domain, not an address."""
    domain = text.removeprefix("*.")
    host, port = split_authority(to_ascii_authority(domain))
    if "*" in domain or "/" in domain or port is not None or _parse_ip(host) is not None:
        raise ValueError(f'"{text}": write *. and a domain, such as *.example.org')
    return host.lower().rstrip(".")


def read_host(value: object) -> str:
    """Read a host as requests are compared with it: lower-case, no port, no trailing dot, IPv6 in brackets."""
    text = as_text(value)
    if "*" in text:
        raise ValueError(f'"{text}": a host is compared as a whole; wildcards are not supported here')
    if "/" in text:
        raise ValueError(f'"{text}": write the host only, such as gw.example.org')
    if _parse_ip(text) is not None and ":" in text:
        text = f"[{text}]"
    host, port = split_authority(to_ascii_authority(text))
    if port is not None:
        raise ValueError(f'"{text}": write the host without a port: {host}')
    return _bracket_ipv6(host.lower().rstrip("."))


def read_host_or_wildcard(value: object) -> str:
    """Read a host, or `*.example.org` for all names below example.org, at any depth."""
    text = as_text(value)
    if text.startswith("*."):
        return f"*.{_read_wildcard_domain(text)}"
    if "*" in text:
        raise ValueError(f'"{text}": "*" may only be the first label of a name, as in *.example.org')
    return read_host(text)


def read_matched_host(value: object) -> str:
    """Read a host, a wildcard, or a name with named labels such as `{tenant}.example.org`."""
    text = as_text(value)
    if not set(text) & set("{}"):
        return read_host_or_wildcard(text)
    written = text.rstrip(".").split(".")
    read = read_host(".".join("x" if "{" in label or "}" in label else label for label in written)).split(".")
    labels = [old if "{" in old or "}" in old else new for old, new in zip(written, read, strict=False)]
    return HostPatterns([".".join(labels)]).texts[0]


def read_host_header(value: object) -> str:
    """Read the value of a Host header: a host, or host and port (RFC 9110 section 7.2)."""
    host, port = split_authority(to_ascii_authority(as_text(value)))
    written = _bracket_ipv6(host)
    return written if port is None else f"{written}:{read_port(port)}"


_URL_AS_TEXT = PlainSerializer(str, return_type=str)


def directory_of(info: ValidationInfo) -> Path | None:
    """Return where relative paths of the file begin; None if there is no file."""
    context = load_context(info)
    return None if context is None else context.directory


def _read_bind_of_file(value: object, info: ValidationInfo) -> BindAddress:
    return read_bind(value, directory_of(info))


Bind = Annotated[
    BindAddress,
    PlainValidator(_read_bind_of_file),
    _URL_AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(unix:.+|fd:[^: ]+|.+:[0-9]+)$"}),
]
ProxyUrl = Annotated[
    HttpProxy,
    PlainValidator(read_proxy_url),
    _URL_AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(http://.+)$"}),
]
Origin = Annotated[str, PlainValidator(read_origin), WithJsonSchema({"type": "string"})]
OriginPattern = Annotated[str, PlainValidator(read_origin_pattern), WithJsonSchema({"type": "string"})]
HostOrWildcard = Annotated[str, PlainValidator(read_host_or_wildcard), WithJsonSchema({"type": "string"})]
MatchedHost = Annotated[str, PlainValidator(read_matched_host), WithJsonSchema({"type": "string"})]
Host = Annotated[str, PlainValidator(read_host), WithJsonSchema({"type": "string"})]
HostHeader = Annotated[str, PlainValidator(read_host_header), WithJsonSchema({"type": "string"})]


HTTP_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """An HTTP service.

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
        host = _bracket_ipv6(_without_zone(self.host))
        return host if HTTP_DEFAULT_PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is certainly on this host: a loopback address, `localhost`, or a Unix socket."""
        return Target("tcp", self.host, self.port, "", "").is_loopback or self.scheme == "unix"


def read_http_path(value: object) -> str:
    """Read the path, with its query if it has one, of a request."""
    text = as_text(value)
    if not re.fullmatch(r"/[!-\"$-~]*", text):
        raise ValueError(f'"{text}" is not a path: it begins with "/" and is printable ASCII without spaces and "#"')
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
        raise ValueError("a user and a password are not allowed in the URL")
    host, port_text = split_authority(found[2])
    port = HTTP_DEFAULT_PORTS[scheme] if port_text is None else read_port(port_text)
    if port == 0:
        raise ValueError(f'"{value}": port 0 is not a port to connect to')
    path = read_http_path(found[3] if found[3].startswith("/") else f"/{found[3]}")
    return HttpUrl("https" if scheme == "https" else "http", check_zone(host), port, path, as_text(value))


def read_https_url(value: object) -> HttpUrl:
    """Read `https://host[:port]/path`."""
    if isinstance(value, str) and not value.lower().startswith("https://"):
        raise ValueError("must be of the form https://host/path: without TLS the response could be changed on the way")
    return read_http_url(value)


def read_http_service_url(value: object, info: ValidationInfo | None = None) -> HttpUrl:
    """Read `http://host[:port]/path`, `https://…` or `unix:/path` of a socket."""
    if isinstance(value, str) and value.startswith("unix:"):
        target = read_target(value, None if info is None else directory_of(info))
        return HttpUrl("unix", "", 0, target.path, value)
    if isinstance(value, str) and not value.lower().startswith(("http://", "https://")):
        raise ValueError("must be of the form http://host/path, https://host/path or unix:/path of a socket")
    return read_http_url(value)


HttpsUrl = Annotated[
    HttpUrl, PlainValidator(read_https_url), _URL_AS_TEXT, WithJsonSchema({"type": "string", "pattern": "^https://.+$"})
]
HttpServiceUrl = Annotated[
    HttpUrl,
    PlainValidator(read_http_service_url),
    _URL_AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(https?://.+|unix:.+)$"}),
]
HttpPath = Annotated[str, PlainValidator(read_http_path), WithJsonSchema({"type": "string", "pattern": "^/[^#]*$"})]
