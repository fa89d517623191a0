"""The protocols of clients: HTTP with upgrade, or raw TCP; lingering close."""

from __future__ import annotations

import math
import random
from typing import Protocol

import trio

from wsbridge import taskless
from wsbridge.net.transport import RESET, Transport
from wsbridge.protocol.error_response import encode_error_response
from wsbridge.protocol.handshake import encode_accept_response
from wsbridge.protocol.http1 import HeadLimits, Request, RequestParser
from wsbridge.protocol.websocket import Buffer, TextMessages
from wsbridge.reasons import EMPTY_CONNECTION, REASONS, Reason, Rejected, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.responders.base import BodyError, BodyStream, HttpResponse
from wsbridge.taskless import need_task, wait_readable


class Exchange(Protocol):
    """One request and the way to respond to it.

    Attributes:
        request: The request; None on a raw connection, which has none.
    """

    @property
    def request(self) -> Request | None: ...  # noqa: D102 (see above)

    async def reject(self, termination: Termination, connection_id: int, retry_after: int, timeout: float) -> None:
        """Reject the request, over HTTP with the status of the reason, and close the connection.

        Args:
            termination: Why.
            connection_id: Number of the connection in the log.
            retry_after: Seconds for Retry-After in an overload, where the termination has none.
            timeout: Seconds in which the client must accept the response.
        """

    def prepare(self, subprotocol: str | None, text_messages: TextMessages, max_frame_bytes: int) -> tuple[Side, bytes]:
        """Return the client's side of the relay, and the response with which it begins; empty for none.

        Bytes that were read past the request belong to the side.

        Args:
            subprotocol: The subprotocol of the 101; None for none.
            text_messages: What happens to text messages that the client sends.
            max_frame_bytes: Largest payload of a frame that is sent to the client.
        """

    async def accept(self, response: bytes, timeout: float) -> None:
        """Send this response, within so many seconds.

        Raises:
            Rejected: The client has disconnected, or does not read.
        """

    def check_accepted(self) -> None:
        """Check that the client has not disconnected before it got the response.

        Raises:
            Rejected: It has.
        """


class LingeringCloser:
    """Closes connections whose peer may still be sending, so that no reset destroys data that the peer has not read.

    Args:
        max_sockets: Concurrent lingering sockets; further ones are closed immediately.
        timeout: Seconds for each socket.
        max_bytes: Bytes read and dropped from each socket.
    """

    def __init__(self, max_sockets: int, timeout: float, max_bytes: int) -> None:
        self._active = 0
        self.configure(max_sockets, timeout, max_bytes)

    def configure(self, max_sockets: int, timeout: float, max_bytes: int) -> None:
        """Change the limits; the parameters are those of the constructor."""
        self._max_sockets = max_sockets
        self._timeout = timeout
        self._max_bytes = max_bytes

    async def close(self, transport: Transport) -> None:
        """Send FIN, read and drop input for a limited time, and close."""
        try:
            if not transport.send_eof() or transport.read_state is not None or self._active >= self._max_sockets:
                return
            self._active += 1
            try:
                left = self._max_bytes
                with trio.move_on_after(self._timeout):
                    while transport.read_state is None and left > 0:
                        dropped = transport.discard()
                        left -= dropped
                        if not dropped and transport.read_state is None:
                            await trio.lowlevel.wait_readable(transport.fd)
            finally:
                self._active -= 1
        finally:
            transport.close()


class RawExchange:
    """A raw connection; see `Exchange`."""

    request: None = None

    def __init__(self, transport: Transport, *, allow_http: bool = False) -> None:
        self._transport = transport
        self._allow_http = allow_http

    async def reject(self, termination: Termination, connection_id: int, retry_after: int, timeout: float) -> None:
        """Reset: the client must not read an empty response as a complete one."""
        self._transport.abort()

    def prepare(self, subprotocol: str | None, text_messages: TextMessages, max_frame_bytes: int) -> tuple[Side, bytes]:
        """See `Exchange.prepare`."""
        return Side(self._transport, reject_http=not self._allow_http), b""

    async def accept(self, response: bytes, timeout: float) -> None:
        """See `Exchange.accept`."""

    def check_accepted(self) -> None:
        """See `Exchange.check_accepted`."""


MAX_HANDSHAKE_JITTER = 1.1
"""Largest factor on `handshake` for a request head, so that clients that connect together time out one by one."""

_RETRYABLE_REASONS = (Reason.OVERLOAD, Reason.RATE_LIMITED, Reason.DRAINING, Reason.SHUTDOWN)
"""Reasons after which another attempt may succeed soon."""


class HttpExchange:
    """One request on a connection that may see several; see `Exchange`.

    Args:
        transport: Of the connection.
        request: The request; None for one that could not be read.
        lingering_closer: For rejections.
        key: Its Sec-WebSocket-Key, where that is not among its headers.
    """

    __slots__ = ("_key", "_lingering_closer", "_transport", "request")

    def __init__(
        self, transport: Transport, request: Request | None, lingering_closer: LingeringCloser, key: bytes = b""
    ) -> None:
        self._transport = transport
        self.request = request
        self._lingering_closer = lingering_closer
        self._key = key

    async def reject(self, termination: Termination, connection_id: int, retry_after: int, timeout: float) -> None:
        """Respond with the reason's status and `Connection: close`, then close."""
        headers = list(termination.headers)
        if termination.reason in _RETRYABLE_REASONS and not any(name == "Retry-After" for name, _ in headers):
            headers.append(("Retry-After", str(retry_after)))
        reason = termination.reason
        about_request = reason in (Reason.BAD_REQUEST, Reason.REQUEST_TOO_LARGE)  # only the client can correct it
        sentence = termination.detail if about_request else REASONS[reason].advice
        response = encode_error_response(
            termination.http_status, reason.value, sentence, connection_id, headers, self.request
        )
        with trio.move_on_after(timeout):
            try:
                await self._transport.write_all(response)
            except OSError:
                self._transport.close()
                return
        await self._lingering_closer.close(self._transport)

    def prepare(self, subprotocol: str | None, text_messages: TextMessages, max_frame_bytes: int) -> tuple[Side, bytes]:
        """See `Exchange.prepare`: the response is the 101."""
        assert self.request is not None  # noqa: S101 (an exchange without a request is only ever refused)
        key = self._key or self.request.headers.get(b"sec-websocket-key") or b""
        side = Side(self._transport, "server", text_messages, max_frame_bytes=max_frame_bytes)
        return side, encode_accept_response(key.decode("ascii"), subprotocol)

    async def accept(self, response: bytes, timeout: float) -> None:
        """See `Exchange.accept`."""
        rest = self._transport.write([response])
        if rest is not None:  # rare, so a deadline is rarely set
            await need_task()
            await self._write_rest(rest, timeout)
        self.check_accepted()

    def check_accepted(self) -> None:
        """See `Exchange.check_accepted`."""
        transport = self._transport
        if transport.read_state == RESET:
            transport.close()
            raise Rejected(Reason.CLIENT_LOST, f"before the 101: {transport.error}", silent=True)

    async def _write_rest(self, rest: list[Buffer] | None, timeout: float) -> None:
        """Write the rest of the 101; the state of the transport shows whether the client has disconnected."""
        with trio.move_on_after(timeout):
            while rest is not None:
                await trio.lowlevel.wait_writable(self._transport.fd)
                rest = self._transport.write(rest)
            return
        raise Rejected(Reason.HANDSHAKE_TIMEOUT, f"did not read the 101 within handshake, {timeout:g} s", silent=True)

    async def respond(self, response: HttpResponse, write_timeout: float | None, *, keep_alive: bool) -> bool:
        """Write a whole response; return whether the connection may carry another request.

        Args:
            response: What to write.
            keep_alive: Whether the connection may carry another request, if the client may send one.
            write_timeout: Seconds in which the peer must accept a chunk of it; None for no limit.

        Raises:
            TimeoutError: It has not.
            OSError: The peer has disconnected.
            BodyError: The source of the body failed.
        """
        keep = keep_alive and self.request is not None and self.request.keep_alive and response.status < 400
        await self._write(response.encode_head(keep_alive=keep) + (response.body or b""), write_timeout)
        if response.body_stream is not None:
            while chunk := await _next_chunk(response.body_stream):
                await self._write(chunk, write_timeout)
        if not keep:
            await self._lingering_closer.close(self._transport)
        return keep

    async def _write(self, data: bytes, timeout: float | None) -> None:
        with trio.move_on_after(math.inf if timeout is None else timeout):
            await self._transport.write_all(data)
            return
        raise TimeoutError(f"did not accept a chunk of the response within write, {timeout:g} s")


async def _next_chunk(body: BodyStream) -> bytes:
    try:
        return await body.read()
    except OSError as error:
        raise BodyError(error.strerror or str(error)) from None


async def read_first(transport: Transport, timeout: float) -> tuple[bytes, float | None]:
    """Read the first bytes of a request: without a task, as far as the caller has none.

    Args:
        transport: Of the connection.
        timeout: Seconds until the whole head has arrived; up to a tenth more is given.

    Returns:
        The bytes, empty if none have come, and the deadline of the whole head, None if it was not waited for.
    """
    data = transport.read()
    if data or transport.read_state is not None or taskless.current is None:
        return data, None
    deadline = _head_deadline(timeout)
    while not data and transport.read_state is None and taskless.current is not None:
        if not await wait_readable(transport.fd, deadline):
            deadline = -math.inf
            await need_task()
        data = transport.read()
    return data, deadline


def _head_deadline(timeout: float) -> float:
    return trio.current_time() + timeout * random.uniform(1, MAX_HANDSHAKE_JITTER)  # noqa: S311  (no secret)


async def read_request(
    transport: Transport,
    data: bytes,
    deadline: float | None,
    head_limits: HeadLimits,
    timeout: float,
    read_scopes: set[trio.CancelScope],
    idle_scopes: set[trio.CancelScope] | None = None,
) -> Request:
    """Read one request head.

    Args:
        transport: Of the connection; bytes that come after the head stay there.
        data: What was read of it; empty for nothing. See `read_first`.
        deadline: Of the whole head, by trio's clock; None if it was not waited for so far.
        head_limits: Of the head.
        timeout: Seconds until the whole head has arrived; up to a tenth more is given.
        read_scopes: Contains the scope of this wait while it lasts; cancelling that counts as the timeout.
        idle_scopes: Contains it as well until the first byte arrives; None for the first request of a connection, since
            a client that has not sent it is not idle.

    Raises:
        Rejected: No valid head arrived in time.
    """
    parser = RequestParser(head_limits)
    try:
        request = parser.feed(data) if data else None
        if request is None:  # else it had arrived already, and there is no deadline to set
            deadline = _head_deadline(timeout) if deadline is None else deadline
            await need_task()
            idle = set() if idle_scopes is None or data else idle_scopes
            request = await _wait_for_head(transport, parser, timeout, deadline, len(data), read_scopes, idle)
    except Rejected as rejected:
        rejected.target = parser.target_so_far
        raise
    transport.unread(parser.trailing_data)
    return request


async def _wait_for_head(
    transport: Transport,
    parser: RequestParser,
    timeout: float,
    deadline: float,
    received: int,
    read_scopes: set[trio.CancelScope],
    idle_scopes: set[trio.CancelScope],
) -> Request:
    """Read until the head is complete; `received` bytes of it came before."""
    try:
        with trio.move_on_at(deadline) as scope:
            read_scopes.add(scope)
            idle_scopes.add(scope)
            while data := await transport.read_some():
                idle_scopes.discard(scope)
                received += len(data)
                if (request := parser.feed(data)) is not None:
                    return request
            detail = f"closed after {received} bytes of a request" if received else EMPTY_CONNECTION
            raise Rejected(Reason.CLIENT_LOST, detail, silent=True)
    except OSError as error:
        if transport.fault is not None:
            raise Rejected(transport.fault, str(error), silent=True) from None
        detail = f"after {received} bytes of a request: {error}" if received else EMPTY_CONNECTION
        raise Rejected(Reason.CLIENT_LOST, detail, silent=True) from None
    finally:
        read_scopes.discard(scope)
        idle_scopes.discard(scope)
    if not received:
        raise Rejected(Reason.HANDSHAKE_TIMEOUT, EMPTY_CONNECTION, silent=True)
    raise Rejected(
        Reason.HANDSHAKE_TIMEOUT, f"no whole request head within handshake, {timeout:g} s; {received} bytes came"
    )
