"""What a route that does not relay gives back, and the simplest such route: one fixed status (`answer: 204`).

Lives here: the value `Answer` and the head written from it. Must not live here: sockets, or the decision whether the
connection may go on. Answers come from `FixedAnswer` and `files.Files`; the connection writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

from wsbridge.auth.identity import Identity
from wsbridge.net.address import Peer
from wsbridge.protocol.head import Request

SAFE_METHODS = ("GET", "HEAD")

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that a route answers itself.

    Attributes:
        request: What is asked for; its method is one of the route's.
        prefix: The part of the path that the route's pattern names, `/novnc/` for `/novnc/*`.
        identity: Who asks.
        peer: Where he comes from.
    """

    request: Request
    prefix: str
    identity: Identity
    peer: Peer


class Chunks(Protocol):
    """The body of an answer that is too big to be held at once."""

    async def read(self) -> bytes:
        """Give the next chunk, or `b""` after the last.

        Raises:
            OSError: The source failed or became shorter. The connection must then be dropped, since its length is told.
        """

    def close(self) -> None:
        """Give back the source; may be called twice."""


class Answer:
    """One HTTP answer. A context manager: leaving it closes the source of a big body.

    The answer to a HEAD request carries the length that GET would have, with neither `body` nor `chunks`.

    Args:
        status: HTTP status.
        headers: Header lines, without Content-Length, Connection and Date.
        body: The whole body, if it is small; None if there is none or it comes from `chunks`.
        chunks: Where a big body comes from.
        length: Value of Content-Length in bytes, or None for an answer that cannot have one (204, 304).
        detail: One sentence for the log if the request was refused; never shown to the peer.
    """

    __slots__ = ("body", "chunks", "detail", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        *,
        body: bytes | None = None,
        chunks: Chunks | None = None,
        length: int | None = None,
        detail: str = "",
    ) -> None:
        self.status = int(status)
        self.headers = headers
        self.body = body
        self.chunks = chunks
        self.length = length
        self.detail = detail

    def head(self, *, keep_alive: bool) -> bytes:
        """Write the status line and the headers, up to and with the empty line (RFC 9112 section 2.1)."""
        lines = [f"HTTP/1.1 {self.status} {phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        if not keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def close(self) -> None:
        """Give back the source of a big body; may be called twice."""
        if self.chunks is not None:
            self.chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Responder(Protocol):
    """A route that answers requests itself.

    Attributes:
        lasting: Whether the connection may carry another request after a whole answer.
        methods: The methods that it answers; admission refuses all others.
    """

    @property
    def lasting(self) -> bool: ...  # noqa: D102 (see above)

    @property
    def methods(self) -> tuple[str, ...]: ...  # noqa: D102 (see above)

    async def answer(self, asked: Asked) -> Answer:
        """Answer one request; never raises for what a peer sent."""


def phrase(status: int) -> str:
    """Give the reason phrase of a status, empty if RFC 9110 names none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def plain(status: int, method: str, *, extra: Iterable[Header] = (), detail: str = "") -> Answer:
    """Make a short answer that says its status in plain text."""
    headers = [*extra]
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return Answer(status, headers, detail=detail)
    body = f"{status} {phrase(status)}".rstrip().encode() + b"\n"
    length = len(body)
    if status == HTTPStatus.RESET_CONTENT:
        body, length = b"", 0
    if length:
        headers += [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    headers.append(("Cache-Control", "no-store"))
    return Answer(status, headers, body=None if method == "HEAD" else body, length=length, detail=detail)


class FixedAnswer:
    """The route `answer: STATUS`, as a balancer's health check wants it.

    Args:
        status: The status to answer, 200 to 599.
    """

    lasting = False
    methods = SAFE_METHODS

    def __init__(self, status: int) -> None:
        self._status = status

    async def answer(self, asked: Asked) -> Answer:
        """Answer with the status; its body says the reason phrase where a body may be."""
        return plain(self._status, asked.request.method)
