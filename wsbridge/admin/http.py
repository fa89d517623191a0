"""HTTP/1.1 for the admin API and the monitoring endpoint: one request a connection, within bounds, on h11."""

from __future__ import annotations

import contextlib
import hmac
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11
import trio

from wsbridge import __version__
from wsbridge.config.secrets import Secret
from wsbridge.log.logger import log
from wsbridge.net.address import Peer, peer_credentials
from wsbridge.net.reserved_fd import ReservedFd
from wsbridge.net.transport import reset_socket
from wsbridge.protocol.uri import HostPatterns, is_safe_from_rebinding, normalise_host
from wsbridge.worker_thread import NoThreadError

MAX_ADMIN_CONNECTIONS: Final = 32
"""Concurrent connections; further ones wait in the backlog."""
MAX_ADMIN_HEAD_BYTES: Final = 16 * 1024
MAX_READ_BYTES: Final = 4096
"""Bytes of one read; a head is rejected once it is this much larger than MAX_ADMIN_HEAD_BYTES."""
MAX_ADMIN_BODY_BYTES: Final = 64 * 1024
ADMIN_REQUEST_TIMEOUT: Final = 10.0
"""Seconds from the accepted connection to the complete request, and from the response until the client has it."""
ACCEPT_RETRY_DELAY: Final = 0.1
"""Seconds until the next attempt to accept when there is no descriptor."""

_ABSOLUTE_FORM: Final = re.compile(r"https?://([^/?]*)", re.IGNORECASE)
"""The beginning of a target that is a URL; its host takes the place of Host (RFC 9112 section 3.2.2)."""
_NO_HOSTS: Final = HostPatterns(())


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """One request.

    Attributes:
        method: In capitals, as sent.
        path: Path of the target, without the query.
        query: Query of the target, without the question mark.
        body: At most MAX_ADMIN_BODY_BYTES.
        headers: By lower-case name; of several with one name the last.
        peer: Who sent it, for the log: `uid` and `pid` on a Unix socket, else `client_address`.
    """

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    peer: Mapping[str, object] = field(default_factory=dict)
    query: str = ""


@dataclass(frozen=True, slots=True)
class AdminResponse:
    """One response.

    Attributes:
        status: HTTP status.
        body: Text; or its bytes in pieces, where it may be large.
        content_type: Its media type.
        headers: Further header lines.
        upgrade: With status 101, what goes on at the connection; it is closed afterwards.
    """

    status: int
    body: str | Sequence[bytes] = ""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    upgrade: Callable[[trio.SocketStream], Awaitable[None]] | None = None


AdminHandler = Callable[[AdminRequest], Awaitable[AdminResponse]]


class _BadRequestError(Exception):
    """The request cannot be read; the status and the text of the response."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


def error_response(status: int, text: str, *headers: tuple[str, str]) -> AdminResponse:
    """Make the response of an error, one sentence of text."""
    return AdminResponse(status, text + "\n", headers=headers)


def check_access(
    request: AdminRequest, token: Secret | None, *, checks_host: bool, checks_origin: bool = True
) -> AdminResponse | None:
    """Return the response to a request that is not allowed; None for one that is.

    Web pages are rejected: a browser that is made to send a request names the page (Origin), and one that was brought
    here by DNS rebinding the name of its host.

    Args:
        request: The request.
        token: What it must have in `Authorization: Bearer`; None for nothing.
        checks_host: Whether browsers can reach the listener: it is a TCP port, or its socket is for the status page.
        checks_origin: False for files of that page, since browsers name the page also where it loads its own scripts.
    """
    if checks_origin and "origin" in request.headers:
        return error_response(HTTPStatus.FORBIDDEN, "requests of web pages are not allowed (Origin)")
    host = normalise_host(request.headers.get("host", "")) or ""
    if checks_host and not is_safe_from_rebinding(host, _NO_HOSTS):
        return error_response(HTTPStatus.FORBIDDEN, "this Host is not allowed: use an IP address or localhost")
    if token is None:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.reveal().encode())
    if scheme.lower() == "bearer" and right:
        return None
    return error_response(HTTPStatus.UNAUTHORIZED, "a valid token is required", ("WWW-Authenticate", "Bearer"))


async def accept_requests(listening_socket: socket.socket, handle: AdminHandler, connections: trio.Nursery) -> None:
    """Accept connections and answer a request of each, until cancelled.

    When the process has no descriptor left, one client at a time is answered with a reserved one.

    Args:
        listening_socket: Listening, non-blocking; it is not closed.
        handle: Answers a request. A lack of threads is answered with 503; any other exception is logged as ours, and
            answered with 500.
        connections: Where connections run; they go on when this is cancelled.
    """
    places = trio.CapacityLimiter(MAX_ADMIN_CONNECTIONS)
    reserved_fd = ReservedFd()

    async def serve(sock: socket.socket, place: object) -> None:
        try:
            await _serve_connection(sock, handle)
        finally:
            if is_accepting:
                reserved_fd.reserve()
            places.release_on_behalf_of(place)

    is_accepting = True
    try:
        while True:
            await trio.lowlevel.wait_readable(listening_socket)
            place = object()
            await places.acquire_on_behalf_of(place)
            sock = _accept(listening_socket, reserved_fd)
            if sock is None:
                places.release_on_behalf_of(place)
                await trio.sleep(ACCEPT_RETRY_DELAY)
            else:
                sock.setblocking(False)
                connections.start_soon(serve, sock, place)
    finally:
        is_accepting = False
        reserved_fd.close()


def _accept(listening_socket: socket.socket, reserved_fd: ReservedFd) -> socket.socket | None:
    """Accept a connection; None if nobody waits any more, or without a descriptor."""
    try:
        return listening_socket.accept()[0]
    except BlockingIOError:
        return None
    except OSError as error:
        log.error("accept.error", listener="admin", error=error.strerror)
    with contextlib.suppress(BlockingIOError):
        return reserved_fd.accept(listening_socket)
    return None


async def _serve_connection(sock: socket.socket, handle: AdminHandler) -> None:
    """Read a request, answer it, and close the connection, whatever happens."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_ADMIN_HEAD_BYTES)
    try:
        with trio.move_on_after(ADMIN_REQUEST_TIMEOUT) as deadline:
            try:
                request = await _read_request(connection, stream, _describe_peer(sock))
            except _BadRequestError as error:
                request, response = None, error_response(error.status, error.text)
        if deadline.cancelled_caught:
            request, response = None, error_response(HTTPStatus.REQUEST_TIMEOUT, "the request was not complete in time")
        if request is not None:
            response = await _handle(handle, request)
        if response.upgrade is not None:
            await stream.send_all(
                connection.send(h11.InformationalResponse(status_code=101, headers=list(response.headers))) or b""
            )
            await _run_upgrade(response.upgrade, stream)
            return
        with trio.move_on_after(ADMIN_REQUEST_TIMEOUT):
            with_body = request is None or request.method != "HEAD"
            await _send_response(connection, stream, response, with_body=with_body)
    except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
        reset_socket(sock)
    finally:
        stream.socket.close()  # without a checkpoint, so that no other task gets the descriptor before it is reserved


async def _handle(handle: AdminHandler, request: AdminRequest) -> AdminResponse:
    try:
        return await handle(request)
    except NoThreadError as error:
        return error_response(HTTPStatus.SERVICE_UNAVAILABLE, f"no thread for this request: {error.strerror}")
    except Exception:
        log.exception("internal_error", component="admin")
        return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error, which the log has")


async def _run_upgrade(upgrade: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream) -> None:
    try:
        await upgrade(stream)
    except Exception:
        log.exception("internal_error", component="admin")


def _describe_peer(sock: socket.socket) -> dict[str, object]:
    """Name the process at the other end of a Unix socket, or the address at that of a port."""
    try:
        if sock.family == socket.AF_UNIX:
            pid, uid = peer_credentials(sock)
            return {"uid": uid, "pid": pid}
        return {"client_address": Peer.from_socket(sock, sock.getpeername()).host}
    except OSError:  # it is gone
        return {}


async def _read_request(
    connection: h11.Connection, stream: trio.SocketStream, peer: Mapping[str, object]
) -> AdminRequest:
    """Read a request to its end.

    Raises:
        _BadRequestError: It is malformed or too large.
        trio.BrokenResourceError: The client is gone.
    """
    head: h11.Request | None = None
    body = bytearray()
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    await stream.send_all(
                        connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                    )
                connection.receive_data(await stream.receive_some(MAX_READ_BYTES))
                continue
        except h11.RemoteProtocolError as error:
            raise _BadRequestError(error.error_status_hint, f"malformed request: {error}") from None
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_ADMIN_BODY_BYTES:
                raise _BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            target = head.target.decode("ascii")
            if absolute := _ABSOLUTE_FORM.match(target):
                headers["host"], target = absolute[1], target[absolute.end() :]
            path, _, query = target.partition("?")
            return AdminRequest(head.method.decode("ascii"), path, bytes(body), headers, peer, query)
        else:  # the connection was closed without a request
            raise trio.BrokenResourceError


async def _send_response(
    connection: h11.Connection, stream: trio.SocketStream, response: AdminResponse, *, with_body: bool
) -> None:
    """Send a response, and wait until the client has closed, so that no reset destroys it."""
    pieces = [response.body.encode()] if isinstance(response.body, str) else response.body
    lines = [
        ("Server", f"wsbridge/{__version__}"),
        ("Content-Type", response.content_type),
        ("Content-Length", str(sum(map(len, pieces)))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *response.headers,
    ]
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    try:
        reason = HTTPStatus(response.status).phrase
        head = h11.Response(status_code=response.status, headers=lines, reason=reason)
        data = connection.send(head) or b""
        for piece in pieces if with_body else ():
            await stream.send_all(data + (connection.send(h11.Data(data=piece)) or b""))
            data = b""
        await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
    except h11.LocalProtocolError:  # to a HEAD request whose end could not be read
        return
    await stream.send_eof()
    while await stream.receive_some():
        pass
