"""HTTP/1.1 with an upgrade to WebSocket, the accepting side.

Lives here: reading a head from a wire, and writing what answers it. Must not live here: what a head must look like
(`protocol`), which route it is for (`admit`).
"""

from __future__ import annotations

import math
import random
from typing import Literal

import trio

from wsbridge.net.wire import Wire
from wsbridge.protocol.handshake import accept_response
from wsbridge.protocol.head import BadHead, HeadLimits, Request
from wsbridge.protocol.http1 import HeadReader, refusal
from wsbridge.reasons import End, Reason
from wsbridge.relay.endpoint import WebSocketEndpoint
from wsbridge.routes.answer import Answer
from wsbridge.speaks.exchange import Lingering

SILENT = "sent nothing"

LATEST = 1.1
"""Times `handshake` that a head is waited for at the most, so that a crowd that came at once times out one by one."""

_PASSING = (Reason.OVERLOAD, Reason.RATE, Reason.DRAIN, Reason.STOP)
"""After these it may go better soon."""


class HttpExchange:
    """One request on a connection that may see several; see `Exchange`."""

    __slots__ = ("_lingering", "_wire", "request")

    def __init__(self, wire: Wire, request: Request | None, lingering: Lingering) -> None:
        self._wire = wire
        self.request = request
        self._lingering = lingering

    async def refuse(self, end: End, retry_after: int) -> None:
        """Answer with the reason's status and `Connection: close`, then close."""
        headers = list(end.headers)
        if end.reason in _PASSING and not any(name == "Retry-After" for name, _ in headers):
            headers.append(("Retry-After", str(retry_after)))
        text = end.detail if end.reason in (Reason.BAD_REQUEST, Reason.TOO_BIG) else end.reason.value
        with trio.move_on_after(1):
            try:
                await self._wire.write_all(refusal(end.http_status, text, headers))
            except OSError:
                self._wire.close()
                return
        await self._lingering.close(self._wire)

    async def accept(
        self, subprotocol: str | None, text: Literal["accept", "refuse"], frame: int
    ) -> WebSocketEndpoint | End:
        """Answer 101."""
        request = self.request
        assert request is not None  # noqa: S101 (an exchange without a request is only ever refused)
        key = (request.headers.get(b"sec-websocket-key") or b"").decode("ascii")
        try:
            await self._wire.write_all(accept_response(key, subprotocol))
        except OSError as error:
            self._wire.close()
            return End(Reason.CLIENT_LOST, "front", f"before the 101: {error}")
        return WebSocketEndpoint(self._wire, "server", text, frame)

    async def answer(self, answer: Answer, patience: float | None, *, lasting: bool) -> bool:
        """Write a whole answer; tell whether the connection may carry another request.

        Args:
            answer: What to write.
            lasting: Whether the connection may carry another request, if the client means to send one.
            patience: Seconds in which the peer must have taken a chunk of it; None for any.

        Raises:
            TimeoutError: It has not.
            OSError: The peer has gone, or the answer's source broke off.
        """
        keep = lasting and self.request is not None and self.request.keep_alive and answer.status < 400
        await self._write(answer.head(keep_alive=keep) + (answer.body or b""), patience)
        if answer.chunks is not None:
            while chunk := await answer.chunks.read():
                await self._write(chunk, patience)
        if not keep:
            await self._lingering.close(self._wire)
        return keep

    async def _write(self, data: bytes, patience: float | None) -> None:
        with trio.move_on_after(math.inf if patience is None else patience):
            await self._wire.write_all(data)
            return
        raise TimeoutError(f"took nothing for write, {patience:g} s")


async def hear(
    wire: Wire, limits: HeadLimits, seconds: float, lingering: Lingering, hearing: set[trio.CancelScope]
) -> HttpExchange | tuple[HttpExchange | None, End]:
    """Read one request head.

    Args:
        wire: Its transport.
        limits: Of the head.
        seconds: Until the whole head is here; up to a tenth more is given.
        lingering: For refusals.
        hearing: Where this wait stands while it lasts; cancelling it there counts as the end of the time.

    Returns:
        The exchange; or the end, with an exchange by which it can be told if the peer may still hear it.
    """
    reader = HeadReader(limits)
    data = wire.read()
    head = reader.feed(data) if data else None
    if isinstance(head, Request):  # it was here already: no deadline to set
        wire.unread(reader.rest)
        return HttpExchange(wire, head, lingering)
    got = len(data)
    try:
        with trio.move_on_after(seconds * random.uniform(1, LATEST)) as scope:  # noqa: S311  (no secret)
            hearing.add(scope)
            while head is None:
                data = await wire.read_some()
                if not data:
                    detail = f"closed after {got} bytes of a request" if got else SILENT
                    return None, End(Reason.CLIENT_LOST, "front", detail)
                got += len(data)
                head = reader.feed(data)
    except OSError as error:
        detail = f"after {got} bytes of a request: {error}" if got else SILENT
        return None, End(Reason.CLIENT_LOST, "front", detail)
    finally:
        hearing.discard(scope)
    if head is None:
        detail = f"no whole request head within handshake, {seconds:g} s; {got} bytes came" if got else SILENT
        end = End(Reason.HANDSHAKE_TIMEOUT, "front", detail)
        return (HttpExchange(wire, None, lingering) if got else None), end
    if isinstance(head, Request):
        wire.unread(reader.rest)
        return HttpExchange(wire, head, lingering)
    assert isinstance(head, BadHead)  # noqa: S101 (a server's reader gives no response)
    reason = Reason.TOO_BIG if head.status == 431 else Reason.BAD_REQUEST
    end = End(reason, "front", head.text, status=head.status, headers=head.headers)
    return (None if head.kind == "tls_on_plain" else HttpExchange(wire, None, lingering)), end
