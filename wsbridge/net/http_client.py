"""HTTP client: GET requests to one service, within bounds.

Lives here: the pool of connections to it, how these are dialled, and what went wrong as a sentence. Must not live
here: deadlines (the caller's cancel scope), what is asked or what an answer means. Needs httpcore, which is an extra;
so it is imported by those who need it, when they do. No redirect is followed, nothing is unpacked, no cookie is kept
and no proxy is taken from the environment: httpcore knows none of that.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import trio

from wsbridge.config.http_url import HttpUrl
from wsbridge.net.dial import DialFailure, dial, dial_unix
from wsbridge.net.resolve import Resolver
from wsbridge.net.tls import failure_text, forget_errors
from wsbridge.protocol.head import Headers

KEEP: Final = 5.0
"""Seconds that an idle connection is kept."""
CLOSING: Final = 1.0
"""Seconds that closing all connections may take."""

_STALE: Final = (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError)
_FAILURES: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered.

    Attributes:
        status: Its status.
        headers: Its header lines.
        body: The first bytes of its body.
        whole: Whether that is all of it.
    """

    status: int
    headers: Headers
    body: bytes
    whole: bool


class HttpClient:
    """Asks one service.

    The head of an answer is bounded by httpcore (100 KiB).

    Args:
        url: Where it is.
        resolver: Looks its name up.
        context: For https.
        connections: Open at a time; who comes when there are so many waits.
    """

    def __init__(
        self, url: HttpUrl, resolver: Resolver, context: ssl.SSLContext | None = None, connections: int = 1
    ) -> None:
        self._url = url
        # httpcore's own bound loses a place for ever when a request is cancelled that waits for one
        self._places = trio.Semaphore(connections)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEP,
            uds=url.path if url.scheme == "unix" else None,
            network_backend=_Network(resolver),
        )

    async def get(
        self, path: str, headers: Sequence[tuple[bytes, bytes]], most: int, patience: float = math.inf
    ) -> Answer | str:
        """Ask once; once more if a connection that was kept turns out to be closed.

        Args:
            path: Path and query.
            headers: Without Host.
            most: Bytes of the body that are read.
            patience: Seconds after the head in which they are.

        Returns:
            The answer; or one sentence, if there is none.
        """
        async with self._places:
            failure = await self._ask(path, headers, most, patience)
            if isinstance(failure, _STALE):
                failure = await self._ask(path, headers, most, patience)
        if isinstance(failure, Answer):
            return failure
        forget_errors()
        if isinstance(failure, httpcore.LocalProtocolError):  # its words quote what was to be sent
            return f"{self._url}: the request has something that HTTP cannot carry"
        return f"{self._url}: {str(failure) or type(failure).__name__}"

    async def aclose(self) -> None:
        """Close all connections."""
        with trio.move_on_after(CLOSING, shield=True):
            await self._pool.aclose()

    async def _ask(
        self, path: str, headers: Sequence[tuple[bytes, bytes]], most: int, patience: float
    ) -> Answer | Exception:
        secure = self._url.scheme == "https"
        url = httpcore.URL(
            scheme=b"https" if secure else b"http",
            host=(self._url.host or "localhost").encode("ascii"),
            port=self._url.port or None,
            target=path.encode("ascii"),
        )
        lines = [(b"Host", self._url.authority.encode("ascii")), *headers]
        try:
            async with self._pool.stream("GET", url, headers=lines) as response:
                body = bytearray()
                # to leave the loop would leave httpcore's generators unfinished; a cancelled read finishes them
                with trio.move_on_after(patience) as scope:
                    async for chunk in response.aiter_stream():
                        body += chunk
                        if len(body) > most:
                            scope.cancel()
                whole = not scope.cancelled_caught and len(body) <= most
                return Answer(response.status, Headers(response.headers), bytes(body[:most]), whole)
        except _FAILURES as error:
            return error


class _Network(httpcore.AsyncNetworkBackend):
    """Dials the way that backends are dialled."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _stream(await dial(self._resolver, host, port))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _stream(await dial_unix(path))


class _Stream(httpcore.AsyncNetworkStream):
    """One connection, as httpcore wants it."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(_words(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:  # a cancellation here would leave a generator of httpcore unfinished
            return
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError(_words(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        assert isinstance(self._stream, trio.SocketStream)  # noqa: S101 (asked once)
        stream = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise httpcore.ConnectError(_words(error)) from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Stream(stream)

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return None
        plain = self._stream if isinstance(self._stream, trio.SocketStream) else self._stream.transport_stream
        return plain.socket.is_readable()


def _stream(dialled: socket.socket | DialFailure) -> _Stream:
    if isinstance(dialled, DialFailure):
        raise httpcore.ConnectError(dialled.detail)
    return _Stream(trio.SocketStream(trio.socket.from_stdlib_socket(dialled)))


def _words(error: BaseException) -> str:
    """Say how a connection broke, in the words of the system or of OpenSSL where they have any."""
    cause = error.__cause__
    return failure_text(cause) if isinstance(cause, OSError) else "the connection broke"
