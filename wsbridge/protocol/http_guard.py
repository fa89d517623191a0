"""Recognises an HTTP request among the first bytes of a connection that should carry another protocol."""

from __future__ import annotations

import re
from typing import Final

MAX_FIRST_LINE_BYTES: Final = 65536
"""Bytes that are held at most; a line that begins like a request and is longer counts as one."""

HTTP_ON_RAW_LISTENER: Final = (
    "an HTTP request, which any web page can send, on a listener with protocol: tcp; allow_http: true lets it pass"
)

_METHODS: Final = tuple(
    name + b" " for name in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE")
)
"""All methods that a page of another origin can have its browser send: others need an OPTIONS request first."""
_END_OF_REQUEST_LINE: Final = re.compile(rb" HTTP/1\.[0-9]\r?\Z")


class HttpRequestGuard:
    """Holds the first bytes of a connection until it is known that they do not begin an HTTP request.

    A page of any origin can have a browser send an HTTP request to any port, with bytes of its choice in the body; a
    service that reads line by line, such as Redis, skips the head and runs the body as commands. A request is
    recognised by its whole first line, `METHOD target HTTP/1.x`, however the line is split into reads, so that
    `GET key` of another protocol passes.

    Attributes:
        decided: Whether the bytes are known to be no request, so that the guard is not needed any longer.
        is_http: Whether they begin a request; what was held is then dropped.
    """

    __slots__ = ("_held", "decided", "is_http")

    def __init__(self) -> None:
        self._held = b""
        self.decided = False
        self.is_http = False

    @property
    def holds_bytes(self) -> bool:
        """Whether it has been fed, and is not decided."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """Add what was read; return the bytes that may be passed on, all held ones once it is decided."""
        held = self._held + data
        if not held or any(held.startswith(method) or method.startswith(held) for method in _METHODS):
            end = held.find(b"\n")
            if end < 0 and len(held) <= MAX_FIRST_LINE_BYTES:
                self._held = held
                return b""
            if end < 0 or end > MAX_FIRST_LINE_BYTES or _END_OF_REQUEST_LINE.search(held, 0, end):
                self._held = b""
                self.is_http = True
                return b""
        self._held = b""
        self.decided = True
        return held

    def finish(self) -> bytes:
        """Return what is held at the end of the stream: an unfinished line is no request."""
        held, self._held = self._held, b""
        self.decided = True
        return held
