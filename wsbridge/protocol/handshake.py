"""RFC 6455 opening handshake, both roles; Origin policy; requests that are like one before."""

from __future__ import annotations

import re
import secrets
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Final, Generic, Literal, TypeVar

from wsbridge.protocol.http1 import (
    REPEATED_NAMES,
    RETRYABLE_STATUSES,
    Headers,
    Request,
    Response,
    bad_request,
    bad_response,
    encode_headers,
    method_not_allowed,
    quoted,
)
from wsbridge.protocol.uri import split_host
from wsbridge.reasons import Reason, Rejected

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # section 4.1: 16 bytes in base64
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r'/[!"$-~]*')
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PASSED_STATUSES: Final = frozenset((401, 403, 404, 410, 429, 503, 508))
_NO_WEBSOCKET_THERE: Final = frozenset((200, 204, 404))
_CREDENTIAL_STATUSES: Final = frozenset((401, 403))
_RETRY_AFTER = re.compile(rb"[0-9]{1,9}|[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9:]{8} GMT")
_MAX_QUOTED_BODY = 200
_SWITCHING_PROTOCOLS: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_UPGRADE_HEADERS: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))

TOKEN_SUBPROTOCOL_PREFIX: Final = "wsbridge.token."  # noqa: S105  (a prefix, no secret)
"""Prefix of a subprotocol that carries a token: clients offer it, and it is never selected or passed on."""

RESERVED_HEADERS: Final = frozenset(
    (
        "host",
        "upgrade",
        "connection",
        "origin",
        "content-length",
        "transfer-encoding",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "sec-websocket-accept",
    )
)
"""Headers (lower case) that `encode_upgrade_request` writes itself and does not accept as further ones."""


@dataclass(slots=True)
class UpgradeRequest:
    """A valid request for a WebSocket.

    Attributes:
        subprotocols: The subprotocols offered, in the client's order, each once. May hold secrets.
        origin: The Origin header as sent, or None.
        host: The Host header as sent, with its port.
        path: The target before `?`, in normal form.
        target: The whole target. Its query may hold secrets.
    """

    subprotocols: tuple[str, ...]
    origin: str | None
    host: str
    path: str
    target: str


def is_upgrade_request(request: Request) -> bool:
    """Return whether a request names WebSocket in Upgrade, valid or not in all else."""
    return request.wants_websocket


def upgrade_refused_to_http10() -> Rejected:
    """Return the 426 for an upgrade in HTTP/1.0, where Upgrade means nothing (RFC 9110 section 7.8)."""
    detail = "the request is HTTP/1.0, which has no upgrades (behind nginx: proxy_http_version 1.1)"
    return bad_request(detail, 426, (("Upgrade", "HTTP/1.1"),))


def has_lost_upgrade(request: Request) -> bool:
    """Return whether a request is one for WebSocket whose Upgrade header a proxy dropped."""
    return not request.wants_websocket and b"sec-websocket-key" in request.headers and request.method == "GET"


UPGRADE_DROPPED: Final = (
    "the request has Sec-WebSocket-Key, but no Upgrade: a proxy dropped Upgrade; for nginx write "
    'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
)


def upgrade_required(detail: str = "this address accepts WebSocket connections only") -> Rejected:
    """Return the 426 for a request that is not for WebSocket, or for another version of it."""
    return bad_request(detail, 426, _UPGRADE_HEADERS)


def parse_upgrade(request: Request) -> UpgradeRequest:
    """Check the request of a client by RFC 6455 section 4.2.1.

    Args:
        request: A request from `http1.RequestParser`, so with a valid Host, no body and a path in normal form.

    Raises:
        Rejected: 405 unless GET, 426 if it is no WebSocket or not version 13, 403 for several Origins, else 400.
    """
    headers = request.headers
    if request.method != "GET":
        raise method_not_allowed(request.method, ("GET",))
    if not request.wants_websocket:
        raise upgrade_required()
    if not headers.has_token(b"connection", b"upgrade"):
        raise bad_request('no Connection: Upgrade (behind nginx: proxy_set_header Connection "upgrade")')
    if headers.get_all(b"sec-websocket-version") != [b"13"]:
        raise upgrade_required("the Sec-WebSocket-Version is not 13")
    keys = headers.get_all(b"sec-websocket-key")
    if len(keys) != 1:
        many = "several" if keys else "no"
        hint = "" if keys else " (does a proxy in front turn HTTP/2 into HTTP/1.1?)"
        raise bad_request(f"the request has {many} Sec-WebSocket-Key{hint}")
    if not _WEBSOCKET_KEY.fullmatch(keys[0]):
        raise bad_request("the Sec-WebSocket-Key is not 16 bytes in base64")
    origins = headers.get_all(b"origin")
    if len(origins) > 1:
        raise bad_request(f"the request has {len(origins)} Origin headers", 403)
    protocols = _parse_tokens(headers.get_all(b"sec-websocket-protocol"))
    if protocols is None:
        raise bad_request("an entry of Sec-WebSocket-Protocol is not a token")
    return UpgradeRequest(
        protocols,
        origins[0].decode("latin-1") if origins else None,
        request.host,
        request.path,
        request.target,
    )


def _parse_tokens(values: list[bytes]) -> tuple[str, ...] | None:
    """Split a list of tokens over several lines, in linear time; None if an entry is not a token."""
    if not values:
        return ()
    found: dict[str, None] = {}
    for value in values:
        for part in value.split(b","):
            token = part.strip(b" \t")
            if not token:
                continue
            if not _TOKEN.fullmatch(token):
                return None
            found[token.decode("ascii")] = None
    return tuple(found)


def accept_key(key: str) -> str:
    """Compute Sec-WebSocket-Accept (RFC 6455 section 4.2.2)."""
    digest = sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode("ascii")


def generate_key() -> str:
    """Return a random Sec-WebSocket-Key."""
    return b2a_base64(secrets.token_bytes(16), newline=False).decode("ascii")


def acceptable_subprotocols(configured: Sequence[str] | None, offered: Sequence[str]) -> tuple[str, ...]:
    """Return the subprotocols of an offer that may be selected, the preferred one first.

    Args:
        configured: Those of the route, in its order; None: all that are offered, in the client's order.
        offered: Those of the client.

    Raises:
        Rejected: Some were offered but none is acceptable: browsers would fail such a connection themselves, and
            nothing that is not configured may be echoed.
    """
    if not offered:
        return ()
    names = [name for name in offered if not name.startswith(TOKEN_SUBPROTOCOL_PREFIX)]
    found = tuple(names) if configured is None else tuple(name for name in configured if name in offered)
    if found:
        return found
    known = "any" if configured is None else ", ".join(configured) or "none"
    if not names:
        raise bad_request(
            f"only a token was offered as a subprotocol: offer one of the route's ({known}) beside it to be answered"
        )
    shown = ", ".join(name if _is_protocol_name(name) else f"({len(name)} characters)" for name in names[:8])
    raise bad_request(f"the client offers the subprotocols {shown}, and the route accepts {known} (subprotocols)")


_PROTOCOL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,15}(?:[./:_+-][A-Za-z0-9]{1,12}){0,5}")
_HEX = re.compile(r"[0-9a-fA-F-]{20,}")


def _is_protocol_name(name: str) -> bool:
    """Return whether an offered subprotocol looks like the name of one, and not like a token that travels there."""
    low = name.lower()
    secret = any(word in low for word in ("token", "bearer", "auth", "secret", "jwt")) or _HEX.fullmatch(name)
    return not secret and _PROTOCOL_NAME.fullmatch(name) is not None


def encode_accept_response(key: str, subprotocol: str | None, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Write the whole 101.

    Args:
        key: The client's Sec-WebSocket-Key.
        subprotocol: One that it offered, or None.
        headers: Further header lines.

    Raises:
        ValueError: A header cannot be written (see `http1.encode_headers`).
    """
    lines = "" if subprotocol is None else _subprotocol_line(subprotocol)
    if headers:
        lines += "".join(encode_headers(headers))
    return f"{_SWITCHING_PROTOCOLS}{accept_key(key)}\r\n{lines}\r\n".encode("latin-1")


@lru_cache(maxsize=64)
def _subprotocol_line(subprotocol: str) -> str:
    """Write the header line of a subprotocol that was selected."""
    return encode_headers([("Sec-WebSocket-Protocol", subprotocol)])[0]


def encode_upgrade_request(
    host_header: str,
    target: str,
    key: str,
    subprotocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    origin: str | None = None,
) -> bytes:
    """Write the request of RFC 6455 section 4.1.

    Args:
        host_header: Host, with the port unless it is the scheme's default.
        target: Path and query.
        key: From `generate_key`.
        subprotocols: Subprotocols to offer, in order.
        headers: Further header lines, none of `RESERVED_HEADERS`.
        origin: The Origin to send, or None.

    Raises:
        ValueError: One of these cannot be written.
    """
    if not _TARGET.fullmatch(target):
        raise ValueError(f"not a target of a request: {target!a}")
    headers = list(headers)
    for name, _ in headers:
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"the header {name} is written by the handshake itself")
    for name in subprotocols:
        if not _TOKEN.fullmatch(name.encode("latin-1")):
            raise ValueError(f"not a subprotocol: {name!a}")
    lines = [
        ("Host", host_header),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if origin is not None:
        lines.append(("Origin", origin))
    if subprotocols:
        lines.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    return f"GET {target} HTTP/1.1\r\n{''.join(encode_headers([*lines, *headers]))}\r\n".encode("latin-1")


def check_upgrade_response(
    response: Response, key: str, offered: Sequence[str], body: bytes = b"", *, own_credentials: bool = False
) -> str | None:
    """Check the response of a WebSocket backend by RFC 6455 section 4.1.

    Args:
        response: The final response.
        key: The key that was sent.
        offered: The subprotocols that were offered.
        body: What came after the head, and more if the caller waits for it: its beginning is quoted in a rejection.
        own_credentials: Whether our configuration authenticates us, so that a 401 or 403 is not about the client.

    Returns:
        The subprotocol that the backend chose, if any.

    Raises:
        Rejected: The upgrade was refused, or the response is invalid; the detail describes the response.
    """
    headers = response.headers
    if response.status != 101:
        raise _backend_error(response, body, own_credentials)
    if response.version != "1.1":
        raise bad_response(f"the backend answered 101 in HTTP/{response.version}")
    if not headers.has_token(b"upgrade", b"websocket"):
        raise bad_response("the backend's 101 has no Upgrade: websocket")
    if not headers.has_token(b"connection", b"upgrade"):
        raise bad_response("the backend's 101 has no Connection: Upgrade")
    if headers.get_all(b"sec-websocket-accept") != [accept_key(key).encode("ascii")]:
        raise bad_response("the backend's Sec-WebSocket-Accept is missing, repeated or wrong")
    if any(value.strip(b", \t") for value in headers.get_all(b"sec-websocket-extensions")):
        raise bad_response("the backend chose an extension, but none was offered")
    return _check_subprotocol(headers, offered)


def _check_subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    """Check the subprotocol of a 101 that is valid in all else."""
    chosen = headers.get_all(b"sec-websocket-protocol")
    if not chosen:
        return None
    name = chosen[0].decode("latin-1")
    if len(chosen) > 1 or name not in offered:
        raise bad_response(f"the backend chose the subprotocol {quoted(b', '.join(chosen))}, which was not offered")
    return name


def _backend_error(response: Response, body: bytes, own_credentials: bool) -> Rejected:
    """Return the rejection for a response other than 101, with what the client may learn from it.

    A status that concerns the client is passed on, with Retry-After; a challenge (WWW-Authenticate) never
    does, for the client would send its password for the backend to wsbridge.
    """
    text = f"the backend answered {response.status}"
    if response.reason:
        text += f" {quoted(response.reason, 80)}"
    location = response.headers.get(b"location")
    if location is not None:
        text += f", Location {quoted(location)}"
    if response.status in _REDIRECTS:
        text += " (redirects are not followed)"
    if body:
        text += f", body {quoted(body, _MAX_QUOTED_BODY)}"
    if response.status in _NO_WEBSOCKET_THERE:
        text += "; if it serves WebSocket at another path, write that in the URL"
    status = response.status
    if status not in _PASSED_STATUSES or (own_credentials and status in _CREDENTIAL_STATUSES):
        status = 502
    retry_after = response.headers.get(b"retry-after") or b""
    passes = status in (429, 503) and _RETRY_AFTER.fullmatch(retry_after) is not None
    return Rejected(
        Reason.BACKEND_REJECTED,
        text,
        initiator="backend",
        status=status,
        headers=(("Retry-After", retry_after.decode("ascii")),) if passes else (),
        permanent=response.status not in RETRYABLE_STATUSES,
        answered=response.status,
    )


_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]+)")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_ORIGIN_CHARS = 1024

ParsedOrigin = tuple[str, str, int | None]


def parse_origin(text: str) -> ParsedOrigin | None:
    """Split a serialised origin (RFC 6454 section 6.2).

    Returns:
        Scheme and host in lower case and the port, the default one of http and https filled in; None if the text is
        not exactly `scheme://host[:port]` (so `null` gives None, too).
    """
    if text.lower() == "file://":  # local pages in Electron and Cordova
        return "file", "", None
    found = _ORIGIN.fullmatch(text) if len(text) <= _MAX_ORIGIN_CHARS else None
    authority = None if found is None else split_host(found.group(2))
    if found is None or authority is None:
        return None
    scheme = found.group(1).lower()
    host, port = authority
    return scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else port


class OriginPolicy:
    """Which origins a route accepts.

    Args:
        allowed: `same` (the page comes from the host and port that it connects to), `any`, or a list of origins such
            as `https://gw.example.org`, compared exactly after normalising case and default ports; the list may
            hold `https://*.example.org` for all names below example.org, at any depth, and `null`, the origin of
            sandboxed frames and local files.

    Raises:
        ValueError: An entry of the list is not an origin; the message shows the form.
    """

    __slots__ = ("_allow_any", "_allow_null", "_allowed", "_wildcards")

    def __init__(self, allowed: Literal["same", "any"] | Sequence[str]) -> None:
        self._allow_any = allowed == "any"
        self._allow_null = False
        self._allowed: frozenset[ParsedOrigin] | None = None
        self._wildcards: list[ParsedOrigin] = []
        if allowed in ("same", "any"):
            return
        entries = set()
        for text in [allowed] if isinstance(allowed, str) else allowed:
            if text == "null":
                self._allow_null = True
                continue
            parsed = parse_origin(text.replace("://*.", "://", 1))
            if parsed is None:
                raise ValueError(
                    f"{text!a} is not an origin: write scheme://host or scheme://host:port, without a path"
                    " (international names in their xn-- form)"
                )
            if "://*." in text:
                self._wildcards.append((parsed[0], "." + parsed[1], parsed[2]))
            else:
                entries.add(parsed)
        self._allowed = frozenset(entries)

    @property
    def allows_any(self) -> bool:
        """Whether every page may connect."""
        return self._allow_any

    def describe(self, origin: str | None) -> str:
        """Say why an origin that passed `check` is allowed."""
        if origin is None:
            return "no Origin: no page sent this"
        if self._allow_any:
            return "allowed_origins: any"
        return "Origin is the same as Host" if self._allowed is None else "Origin is in allowed_origins"

    def check(self, origin: str | None, host_header: str, tls: bool) -> str | None:
        """Check one request.

        Args:
            origin: The Origin header as sent; None if there is none: not a browser, and allowed.
            host_header: The Host header as sent, with its port.
            tls: Whether the listener has TLS. Without, the scheme is not compared: a proxy may terminate TLS.

        Returns:
            None if it is allowed, or the rejection: both values and the setting that would allow it.
        """
        if origin is None or self._allow_any:
            return None
        parsed = parse_origin(origin)
        if self._allowed is not None:
            if parsed in self._allowed or (self._allow_null and origin == "null") or self._is_below(parsed):
                return None
            return (
                f"Origin {quoted(origin)} is not in the route's allowed_origins (Host {quoted(host_header)}); "
                f"{_config_hint(origin)}"
            )
        host = split_host(host_header)
        if parsed is None or host is None or parsed[0] not in _DEFAULT_PORTS:
            return f"Origin {quoted(origin)} is not the same as Host {quoted(host_header)}; {_config_hint(origin)}"
        port = _DEFAULT_PORTS[parsed[0]] if host[1] is None else host[1]
        if (parsed[1], parsed[2]) != (host[0], port):
            return (
                f"Origin {quoted(origin)} is not the same as Host {quoted(host_header)}; {_config_hint(origin)}"
                " (or have a proxy in front pass the Host header on unchanged)"
            )
        if tls and parsed[0] != "https":
            return (
                f"Origin {quoted(origin)} is not https, but the listener of Host {quoted(host_header)} is;"
                f" {_config_hint(origin)}"
            )
        return None

    def _is_below(self, origin: ParsedOrigin | None) -> bool:
        """Return whether an origin is matched by a wildcard."""
        return origin is not None and any(
            (origin[0], origin[2]) == (scheme, port) and origin[1].endswith(suffix)
            for scheme, suffix, port in self._wildcards
        )


def _config_hint(origin: str) -> str:
    """Return the setting that would allow an origin."""
    if origin == "null" or parse_origin(origin) is not None:
        return f'to allow it, add it to the route: allowed_origins: ["{quoted(origin, quote="")}"]'
    return "it is not a valid origin, so only `allowed_origins: any` would allow it"


MAX_KNOWN_REQUESTS: Final = 256
"""Requests that are remembered; with one more, all before it are forgotten. All of them take at most some 2 MiB."""
MAX_KNOWN_HEAD_BYTES: Final = 2048
"""Bytes of the head of such a request."""
MAX_KNOWN_SUBPROTOCOLS: Final = 16
"""Subprotocols that such a request offers; each takes many times its bytes."""

_KEY_NAME: Final = b"sec-websocket-key"
_KEY_LINE: Final = b"\r\nSec-WebSocket-Key: "
_KEY_BYTES: Final = 24


Admitted = TypeVar("Admitted")
"""What was found out about a request that is the same for all that are like it."""


class KnownRequest(Generic[Admitted]):
    """A request that was admitted before, and all that differ from it in Sec-WebSocket-Key alone.

    Attributes:
        request: The request without that header. All connections that have sent it share it, so it never changes.
        admitted: What it was admitted as.
    """

    __slots__ = ("admitted", "request")

    def __init__(self, request: Request, admitted: Admitted) -> None:
        self.request = Request(request.method, request.target, request.version, request.headers.without(_KEY_NAME))
        self.admitted = admitted


class KnownRequests(Generic[Admitted]):
    """Requests for WebSocket that one listener of one configuration remembers: like them but for Sec-WebSocket-Key.

    Most clients of a listener are copies of one program, which sends the same request with a new key each time. Such a
    head is parsed and admitted once. The rules are those of `http1` and `admission`: nothing is accepted or rejected
    here. Other listeners have other limits and routes.

    A request is remembered only if it holds no secret: it has no query, only headers that many clients send alike, and
    no subprotocol that could be a token. A listener whose paths may be secrets has no `KnownRequests`.
    """

    __slots__ = ("_by_rest",)

    def __init__(self) -> None:
        self._by_rest: dict[bytes, KnownRequest[Admitted]] = {}  # by the head without the key

    def find(self, head: bytes) -> tuple[KnownRequest[Admitted], bytes] | None:
        """Return the request of a head, and its key; None if none was added that differs in the key alone.

        Args:
            head: All that was read of a connection, or since the request before: any bytes.
        """
        line = head.find(_KEY_LINE) if len(head) <= MAX_KNOWN_HEAD_BYTES else -1
        if line < 0:
            return None
        at = line + len(_KEY_LINE)
        end = at + _KEY_BYTES
        known = self._by_rest.get(head[:at] + head[end:])
        if known is None or _WEBSOCKET_KEY.fullmatch(head, at, end) is None:
            return None
        return known, head[at:end]

    def add(self, head: bytes, request: Request, admitted: Admitted) -> None:
        """Remember a request that was admitted, if it may be.

        Args:
            head: What was read of the connection when that was read first; it may be less than the head, or more.
            request: As it was parsed, all of it.
            admitted: What it was admitted as; it depends on nothing but the head, the listener and the configuration.
        """
        line = head.find(_KEY_LINE)
        at = line + len(_KEY_LINE)
        end = at + _KEY_BYTES
        if (
            line < 0
            or len(head) > MAX_KNOWN_HEAD_BYTES
            or head.find(b"\r\n\r\n") != len(head) - 4
            or not head.startswith(b"\r\n", end)
            or request.headers.get_all(_KEY_NAME) != [head[at:end]]
            or _WEBSOCKET_KEY.fullmatch(head, at, end) is None
            or not _may_be_remembered(request)
        ):
            return
        if len(self._by_rest) >= MAX_KNOWN_REQUESTS:
            self._by_rest.clear()
        self._by_rest[head[:at] + head[end:]] = KnownRequest(request, admitted)

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._by_rest)


def _may_be_remembered(request: Request) -> bool:
    """Return whether a request may stay in memory: it holds no secret, and not many subprotocols."""
    if "?" in request.target:
        return False
    offered: list[str] = []
    for name, value in request.headers:
        if name == b"sec-websocket-protocol":
            offered += value.decode("latin-1").split(",")
        elif name != _KEY_NAME and name not in REPEATED_NAMES:
            return False
    return len(offered) <= MAX_KNOWN_SUBPROTOCOLS and all(_is_protocol_name(one.strip(" \t")) for one in offered)
