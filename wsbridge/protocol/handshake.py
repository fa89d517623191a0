"""The opening handshake of RFC 6455 section 4, for both roles, over heads that `http1` has read.

Lives here: what makes a request an upgrade and a response its acceptance, and writing both. Must not live here: heads
and limits (`http1`), Origin (`origin`), which route it is. Gives an `Upgrade` or an `Accepted`; the framing follows.
"""

from __future__ import annotations

import enum
import re
import secrets
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Final, Literal

from wsbridge.protocol.head import BadHead, Headers, Request, Response, method_refused, shown
from wsbridge.protocol.http1 import header_lines

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r'/[!"$-~]*')
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_BODY_SHOWN = 200
_NEEDED: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))

CARRIER: Final = "wsbridge.token."
"""What a subprotocol begins with that carries a token: it is offered by clients, and never chosen nor passed on."""

OWN_HEADERS: Final = frozenset(
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
"""Headers (lower case) that `client_request` writes itself and does not take as further ones."""


class Refuse(enum.Enum):
    """The type of `REFUSE`."""

    REFUSE = "refuse"


REFUSE: Final = Refuse.REFUSE
"""What `select_subprotocol` gives if subprotocols were offered and none of them fits."""


@dataclass(slots=True)
class Upgrade:
    """A valid request for a WebSocket.

    Attributes:
        key: Sec-WebSocket-Key as sent, for `accept_response`.
        protocols: The subprotocols offered, in the client's order, each once. May hold secrets.
        origin: The Origin header as sent, or None.
        host: The Host header as sent, with its port.
        path: The target before `?`, as sent.
        target: The whole target, as sent. Its query may hold secrets.
    """

    key: str
    protocols: tuple[str, ...]
    origin: str | None
    host: str
    path: str
    target: str


@dataclass(slots=True)
class Accepted:
    """An upstream that switched to WebSocket, and the subprotocol it chose, if any."""

    subprotocol: str | None


def wants_upgrade(request: Request) -> bool:
    """Say whether a request names WebSocket in Upgrade, rightly or wrongly in all else."""
    return request.headers.has_token(b"upgrade", b"websocket")


def upgrade_required(text: str = "this address takes WebSocket connections only") -> BadHead:
    """Give the 426 for a request that is none for WebSocket, or for another version of it."""
    return BadHead(426, text, headers=_NEEDED)


def read_upgrade(request: Request) -> Upgrade | BadHead:
    """Judge the request of a client by RFC 6455 section 4.2.1.

    Args:
        request: A request as `http1.HeadReader` gives it, so with one good Host, no body and a harmless target.

    Returns:
        The upgrade, or what to answer: 405 unless GET, 426 if it is no WebSocket or not version 13, 403 for several
        Origins, 400 for all else.
    """
    headers = request.headers
    if request.method != "GET":
        return method_refused(request.method, ("GET",))
    if not headers.has_token(b"upgrade", b"websocket"):
        return upgrade_required()
    if not headers.has_token(b"connection", b"upgrade"):
        return BadHead(400, 'no Connection: Upgrade (behind nginx: proxy_set_header Connection "upgrade")')
    if headers.get_all(b"sec-websocket-version") != [b"13"]:
        return upgrade_required("the Sec-WebSocket-Version is not 13")
    keys = headers.get_all(b"sec-websocket-key")
    if len(keys) != 1:
        many = "several" if keys else "no"
        hint = "" if keys else " (does a proxy in front turn HTTP/2 into HTTP/1.1?)"
        return BadHead(400, f"the request has {many} Sec-WebSocket-Key{hint}")
    if not _KEY.fullmatch(keys[0]):
        return BadHead(400, "the Sec-WebSocket-Key is not 16 bytes in base64")
    origins = headers.get_all(b"origin")
    if len(origins) > 1:
        return BadHead(403, f"the request has {len(origins)} Origin headers")
    protocols = _tokens(headers.get_all(b"sec-websocket-protocol"))
    if protocols is None:
        return BadHead(400, "an entry of Sec-WebSocket-Protocol is not a token")
    return Upgrade(
        keys[0].decode("ascii"),
        protocols,
        origins[0].decode("latin-1") if origins else None,
        request.host(),
        request.path,
        request.target,
    )


def _tokens(values: list[bytes]) -> tuple[str, ...] | None:
    """Take a list of tokens over several lines apart, in linear time; None if an entry is not a token."""
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


def new_key() -> str:
    """Make a fresh Sec-WebSocket-Key."""
    return b2a_base64(secrets.token_bytes(16), newline=False).decode("ascii")


def select_subprotocol(configured: Sequence[str], offered: Sequence[str]) -> str | Literal[Refuse.REFUSE] | None:
    """Choose the first configured subprotocol that was offered.

    Returns:
        It; None if none was offered; `REFUSE` if some were offered but none fits, since browsers would then fail the
        connection themselves, and nothing that is not configured may be echoed.
    """
    if not offered:
        return None
    for name in configured:
        if name in offered:
            return name
    return REFUSE


def accept_response(key: str, subprotocol: str | None, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """Write the whole 101.

    Args:
        key: The client's Sec-WebSocket-Key.
        subprotocol: One that it offered, or None.
        extra: Further header lines.

    Raises:
        ValueError: A header cannot be written (see `http1.header_lines`).
    """
    more = [*extra] if subprotocol is None else [("Sec-WebSocket-Protocol", subprotocol), *extra]
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{''.join(header_lines(more))}\r\n"
    ).encode("latin-1")


def client_request(
    host_header: str,
    target: str,
    key: str,
    protocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    origin: str | None = None,
) -> bytes:
    """Write the request of RFC 6455 section 4.1.

    Args:
        host_header: Host, with the port unless it is the scheme's default.
        target: Path and query.
        key: From `new_key`.
        protocols: Subprotocols to offer, in order.
        headers: Further header lines, none of `OWN_HEADERS`.
        origin: The Origin to send, or None.

    Raises:
        ValueError: One of these cannot be written.
    """
    if not _TARGET.fullmatch(target):
        raise ValueError(f"not a target of a request: {target!a}")
    headers = list(headers)
    for name, _ in headers:
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"the header {name} is written by the handshake itself")
    for name in protocols:
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
    if protocols:
        lines.append(("Sec-WebSocket-Protocol", ", ".join(protocols)))
    return f"GET {target} HTTP/1.1\r\n{''.join(header_lines([*lines, *headers]))}\r\n".encode("latin-1")


def check_response(response: Response, key: str, offered: Sequence[str], body: bytes = b"") -> Accepted | BadHead:
    """Judge an upstream's answer by RFC 6455 section 4.1.

    Args:
        response: The final response.
        key: The key that was sent.
        offered: The subprotocols that were offered.
        body: What came after the head (`HeadReader.rest`, and more if the caller cares to wait): the first of it is
            told if the answer is a refusal.

    Returns:
        The acceptance, or a `BadHead` of status 502 whose text tells the answer.
    """
    headers = response.headers
    if response.status != 101:
        return _refused(response, body)
    if response.version != "1.1":
        return BadHead(502, f"the upstream answered 101 in HTTP/{response.version}")
    if not headers.has_token(b"upgrade", b"websocket"):
        return BadHead(502, "the upstream's 101 has no Upgrade: websocket")
    if not headers.has_token(b"connection", b"upgrade"):
        return BadHead(502, "the upstream's 101 has no Connection: Upgrade")
    if headers.get_all(b"sec-websocket-accept") != [accept_key(key).encode("ascii")]:
        return BadHead(502, "the upstream's Sec-WebSocket-Accept is missing, repeated or wrong")
    if any(value.strip(b", \t") for value in headers.get_all(b"sec-websocket-extensions")):
        return BadHead(502, "the upstream chose an extension, but none was offered")
    return _chosen(headers, offered)


def _chosen(headers: Headers, offered: Sequence[str]) -> Accepted | BadHead:
    """Judge the subprotocol of a 101 that is right in all else."""
    chosen = headers.get_all(b"sec-websocket-protocol")
    if not chosen:
        return Accepted(None)
    name = chosen[0].decode("latin-1")
    if len(chosen) > 1 or name not in offered:
        return BadHead(502, f"the upstream chose the subprotocol {shown(b', '.join(chosen))}, which was not offered")
    return Accepted(name)


def _refused(response: Response, body: bytes) -> BadHead:
    """Tell an answer that is no 101: status, where it points to, and the first of the body."""
    text = f"the upstream answered {response.status}"
    if response.reason:
        text += f" {shown(response.reason, 80)}"
    location = response.headers.get(b"location")
    if location is not None:
        text += f", Location {shown(location)}"
    if response.status in _REDIRECTS:
        text += " (redirects are not followed)"
    if body:
        text += f", body {shown(body, _BODY_SHOWN)}"
    return BadHead(502, text, upstream_status=response.status)
