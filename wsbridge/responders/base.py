"""What a route responds itself: the interface, responses, and a fixed status."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

from wsbridge.context import ConnectionContext
from wsbridge.protocol.http1 import Request, encode_response_head, reason_phrase

SAFE_METHODS = ("GET", "HEAD")

Header = tuple[str, str]


class BodyError(Exception):
    """The source of a body failed, or became shorter, while it was sent; one sentence."""


class BodyStream(Protocol):
    """The body of a response that is too big to be held at once."""

    async def read(self) -> bytes:
        """Return the next chunk, or `b""` after the last.

        Raises:
            OSError: The source failed or became shorter. The connection is then dropped: its length was sent.
        """

    def close(self) -> None:
        """Close the source; may be called twice."""


class HttpResponse:
    """One HTTP response. A context manager: leaving it closes the source of a big body.

    The response to a HEAD request has the length of that to GET, with neither `body` nor `body_stream`.

    Args:
        status: HTTP status.
        headers: Header lines, without Content-Length, Connection and Date.
        body: The whole body, if it is small; None if there is none or it comes from `body_stream`.
        body_stream: Where a big body comes from.
        content_length: Value of Content-Length in bytes, or None for a response that cannot have one (204, 304).
        detail: One sentence for the log if the request was rejected; never shown to the peer.
    """

    __slots__ = ("body", "body_stream", "content_length", "detail", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        *,
        body: bytes | None = None,
        body_stream: BodyStream | None = None,
        content_length: int | None = None,
        detail: str = "",
    ) -> None:
        self.status = int(status)
        self.headers = headers
        self.body = body
        self.body_stream = body_stream
        self.content_length = content_length
        self.detail = detail

    def encode_head(self, *, keep_alive: bool) -> bytes:
        """Write the status line and the headers, up to and with the empty line."""
        return encode_response_head(
            self.status, self.headers, content_length=self.content_length, keep_alive=keep_alive
        )

    def close(self) -> None:
        """Close the source of a big body; may be called twice."""
        if self.body_stream is not None:
            self.body_stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Responder(Protocol):
    """A route that responds to requests itself.

    Attributes:
        keep_alive: Whether the connection may carry another request after a whole response.
        methods: The methods that it accepts; admission rejects all others.
    """

    @property
    def keep_alive(self) -> bool: ...  # noqa: D102 (see above)

    @property
    def methods(self) -> tuple[str, ...]: ...  # noqa: D102 (see above)

    async def respond(self, request: Request, context: ConnectionContext) -> HttpResponse:
        """Respond to one request; never raises for what a peer sent."""


def plain_text_response(
    status: int, method: str, *, extra_headers: Iterable[Header] = (), detail: str = ""
) -> HttpResponse:
    """Return a short response that says its status in plain text."""
    headers = [*extra_headers]
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return HttpResponse(status, headers, detail=detail)
    body = f"{status} {reason_phrase(status)}".rstrip().encode() + b"\n"
    length = len(body)
    if status == HTTPStatus.RESET_CONTENT:
        body, length = b"", 0
    if length:
        headers += [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    headers.append(("Cache-Control", "no-store"))
    return HttpResponse(status, headers, body=None if method == "HEAD" else body, content_length=length, detail=detail)


class FixedStatus:
    """The route `respond: STATUS`, for health checks of load balancers.

    Args:
        status: The status of the response, 200 to 599.
    """

    keep_alive = False
    methods = ("GET", "HEAD", "OPTIONS")

    def __init__(self, status: int) -> None:
        self._status = status

    async def respond(self, request: Request, context: ConnectionContext) -> HttpResponse:
        """Respond with the status; the body is its reason phrase, where it can have one."""
        method = request.method
        headers = [("Allow", ", ".join(self.methods))] if method == "OPTIONS" else []
        return plain_text_response(self._status, method, extra_headers=headers)
