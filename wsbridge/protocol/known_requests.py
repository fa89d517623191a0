"""Requests for WebSocket whose heads differ from an earlier one in Sec-WebSocket-Key alone.

Most clients of a listener are copies of one program, which sends the same request with a new key each time. Such a head
is parsed and admitted once. The rules are those of `http1` and `admission`: nothing is accepted or rejected here.
"""

from __future__ import annotations

import re
from typing import Final

from wsbridge.protocol.handshake import is_protocol_name
from wsbridge.protocol.http1 import REPEATED_NAMES, KnownRequest, Request

MAX_KNOWN_REQUESTS: Final = 256
"""Requests that are remembered; with one more, all before it are forgotten. All of them take at most some 2 MiB."""
MAX_KNOWN_HEAD_BYTES: Final = 2048
"""Bytes of the head of such a request."""

_KEY_NAME: Final = b"sec-websocket-key"
_KEY_LINE: Final = b"\r\nSec-WebSocket-Key: "
_KEY_BYTES: Final = 24
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""RFC 6455 section 4.1: 16 bytes in base64. No rule of a head depends on which of these characters come."""


class KnownRequests:
    """The requests that one listener of one configuration remembers; others have other limits and routes.

    A request is remembered only if it holds no secret: it has no query, only headers that many clients send alike, and
    no subprotocol that could be a token. A listener whose paths may be secrets has no `KnownRequests`.
    """

    __slots__ = ("_by_rest",)

    def __init__(self) -> None:
        self._by_rest: dict[bytes, KnownRequest] = {}  # by the head without the key

    def find(self, head: bytes) -> Request | None:
        """Return the request of a head; None if none was added that differs in the key alone.

        Args:
            head: All that was read of a connection, or since the request before: any bytes.
        """
        line = head.find(_KEY_LINE) if len(head) <= MAX_KNOWN_HEAD_BYTES else -1
        if line < 0:
            return None
        at = line + len(_KEY_LINE)
        end = at + _KEY_BYTES
        known = self._by_rest.get(head[:at] + head[end:])
        if known is None or _KEY.fullmatch(head, at, end) is None:
            return None
        return known.with_key(head[at:end])

    def add(self, head: bytes, request: Request) -> None:
        """Remember a request, if it may be.

        Args:
            head: What a client has sent, and nothing besides.
            request: As it was parsed, all of it.
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
            or _KEY.fullmatch(head, at, end) is None
            or not _holds_no_secret(request)
        ):
            return
        if len(self._by_rest) >= MAX_KNOWN_REQUESTS:
            self._by_rest.clear()
        self._by_rest[head[:at] + head[end:]] = request.known = KnownRequest(request)

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._by_rest)


def _holds_no_secret(request: Request) -> bool:
    """Return whether a request may stay in memory."""
    if "?" in request.target:
        return False
    for name, value in request.headers:
        if name == b"sec-websocket-protocol":
            offered = value.decode("latin-1").split(",")
            if not all(is_protocol_name(one.strip(" \t")) for one in offered):
                return False
        elif name != _KEY_NAME and name not in REPEATED_NAMES:
            return False
    return True
