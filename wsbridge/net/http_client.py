"""HTTP client: GET requests to one service, within bounds.

It keeps idle connections for reuse; deadlines are the caller's cancel scope. It follows no redirects, decompresses
nothing, keeps no cookies and ignores the proxy variables of the environment, all of which httpx would do. A cancelled
request leaves neither an open socket nor an occupied slot. Built on h11; callers import this module
only when they need it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import h11
import trio

from wsbridge.config.urls import HttpUrl
from wsbridge.net.dialer import dial, dial_unix
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import clear_openssl_errors, client_context, tls_error_text
from wsbridge.net.tls_transport import start_tls
from wsbridge.net.transport import SocketTransport, Transport
from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import Rejected

IDLE_CONNECTION_TIMEOUT: Final = 5.0
"""Seconds that an idle connection is kept."""
MAX_SERVICE_HEAD_BYTES: Final = 64 * 1024
"""Maximum size of the head of a response."""
MAX_INTERIM_RESPONSES: Final = 5
"""Maximum number of responses with status 1xx before the final one."""


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """The response of a service.

    Attributes:
        status: HTTP status.
        headers: Header lines.
        body: The body, as far as it was read.
        complete: Whether that is all of it.
    """

    status: int
    headers: Headers
    body: bytes
    complete: bool


class _RequestFailedError(Exception):
    """There is no response; the text says why."""


class HttpClient:
    """Sends requests to one service; `run` must run beside them.

    Args:
        url: Scheme, host and port of the service.
        resolver: Resolves its name.
        context: Returns the context of the next https connection. Default: the system trust store.
        max_connections: Concurrent connections; further requests wait.
    """

    def __init__(
        self,
        url: HttpUrl,
        resolver: Resolver,
        context: Callable[[], ssl.SSLContext] = client_context,
        max_connections: int = 1,
    ) -> None:
        self._url = url
        self._resolver = resolver
        self._context = context if url.scheme == "https" else None
        self._slots = trio.Semaphore(max_connections)
        self._idle: list[tuple[float, _Connection]] = []  # the one that was used last at the end
        self._may_keep = True
        self._kept = trio.Event()

    async def get(
        self, path: str, headers: Sequence[tuple[bytes, bytes]], max_body_bytes: int, body_timeout: float = math.inf
    ) -> ServiceResponse | str:
        """Send a request; if an idle connection gives no response, send it again on a new one.

        Args:
            path: Path and query.
            headers: Without Host.
            max_body_bytes: Bytes of the body that are read.
            body_timeout: Seconds after the head within which they are read.

        Returns:
            The response; or one sentence that says why there is none.
        """
        request = h11_request(path, self._url.authority, headers)
        if request is None:  # no cause: its text would quote what was to be sent
            return f"{self._url}: the request has something that HTTP cannot carry"
        async with self._slots:
            kept = self._take_idle()
            try:
                if kept is not None:
                    try:
                        return await self._exchange(kept, request, max_body_bytes, body_timeout)
                    except _RequestFailedError:
                        pass  # most likely it was closed just now
                return await self._exchange(await self._connect(), request, max_body_bytes, body_timeout)
            except _RequestFailedError as error:
                clear_openssl_errors()
                return f"{self._url}: {error}"

    async def run(self) -> None:
        """Close connections that have been idle for too long, until cancelled; then close all, and keep no others."""
        try:
            while True:
                while not self._idle:
                    self._kept = trio.Event()
                    await self._kept.wait()
                await trio.sleep_until(self._idle[0][0])
                self._close_idle(trio.current_time())
        finally:
            self._may_keep = False
            self._close_idle(math.inf)

    def _close_idle(self, now: float) -> None:
        while self._idle and self._idle[0][0] <= now:
            self._idle.pop(0)[1].close()

    def _take_idle(self) -> _Connection | None:
        """Return the idle connection that was used last and is still open."""
        while self._idle:
            until, connection = self._idle.pop()
            if trio.current_time() < until and not connection.has_ended():
                return connection
            connection.close()
        return None

    async def _exchange(
        self, connection: _Connection, request: h11.Request, max_body_bytes: int, body_timeout: float
    ) -> ServiceResponse:
        """Send a request on a connection, and keep that for reuse or close it."""
        reusable = False
        try:
            response = await connection.request(request, max_body_bytes, body_timeout)
            reusable = self._may_keep and connection.try_reuse()
        finally:
            if not reusable:
                connection.close()
        if reusable:
            self._idle.append((trio.current_time() + IDLE_CONNECTION_TIMEOUT, connection))
            self._kept.set()
        return response

    async def _connect(self) -> _Connection:
        url = self._url
        try:
            sock = await (dial_unix(url.path) if url.scheme == "unix" else dial(self._resolver, url.host, url.port))
        except Rejected as rejected:
            raise _RequestFailedError(rejected.detail) from None
        if self._context is None:
            return _Connection(SocketTransport(sock))
        try:
            return _Connection(await start_tls(sock, self._context(), server_side=False, server_hostname=url.host))
        except OSError as error:
            raise _RequestFailedError(tls_error_text(error)) from error


class _Connection:
    """One connection to a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_SERVICE_HEAD_BYTES)

    def has_ended(self) -> bool:
        """Return whether the service closed it, or sent what would be taken for the response to the next request."""
        return bool(self._transport.read()) or self._transport.read_state is not None

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def try_reuse(self) -> bool:
        """Prepare for another request; False: the connection cannot carry one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        return True

    async def request(self, request: h11.Request, max_body_bytes: int, body_timeout: float) -> ServiceResponse:
        """Send a request and read the response.

        Raises:
            _RequestFailedError: There is none, or it is invalid.
        """
        try:
            data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
            await self._transport.write_all(data)
            head = await self._receive_head()
            body = bytearray()
            whole = False
            with trio.move_on_after(body_timeout):
                while len(body) <= max_body_bytes:
                    await trio.lowlevel.checkpoint()  # a service that sends fast in small chunks gives no other
                    event = await self._next_event()
                    if not isinstance(event, h11.Data):
                        whole = True
                        break
                    body += event.data
            return ServiceResponse(head.status_code, Headers(head.headers), bytes(body[:max_body_bytes]), whole)
        except h11.RemoteProtocolError as error:
            rule = str(error).partition(":")[0]  # what follows quotes the response, which may have secrets
            raise _RequestFailedError(f"the response is not valid HTTP: {rule}") from error
        except OSError as error:
            raise _RequestFailedError(tls_error_text(error)) from error

    async def _receive_head(self) -> h11.Response:
        for _ in range(MAX_INTERIM_RESPONSES + 1):
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                break
            if event.status_code == 101:
                raise _RequestFailedError("answered with status 101 to a request without Upgrade")
        raise _RequestFailedError(f"more than {MAX_INTERIM_RESPONSES} responses with status 1xx")

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._transport.read_some()
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise _RequestFailedError("the connection ended without a response")
            self._http.receive_data(data)
        return event


def h11_request(path: str, host: str, headers: Sequence[tuple[bytes, bytes]]) -> h11.Request | None:
    """Make a request; None if a value is not valid in HTTP."""
    lines = [(b"Host", host.encode("ascii")), *headers]
    try:
        return h11.Request(method=b"GET", target=path.encode("ascii"), headers=lines)
    except h11.LocalProtocolError:
        return None
