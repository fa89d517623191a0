"""A dial that takes time: watches the client for a disconnect, and logs steps and retries."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from wsbridge.backends.base import Backend, Connected, DialRequest
from wsbridge.context import ConnectionContext
from wsbridge.generation import Route
from wsbridge.log.logger import log
from wsbridge.net.dialer import MAX_DIAL_STEPS, DialProgress, retry
from wsbridge.net.disconnect import DisconnectMonitor
from wsbridge.net.transport import Transport
from wsbridge.protocol.websocket import WebSocketFraming, decode_close_body
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.endpoint import Side
from wsbridge.relay.relay import describe_close

DURING_DIAL = "while the backend was dialed"
"""When a connection ended, for the detail of its log line."""


async def dial_while_watched(
    backend: Backend,
    dial_request: DialRequest,
    route: Route,
    context: ConnectionContext,
    transport: Transport,
    front: Side | None,
    monitor: DisconnectMonitor,
) -> Connected | None:
    """Dial until the backend is connected, or the client disconnects.

    Args:
        backend: Of the route.
        dial_request: What the connection needs of it.
        route: How long an attempt may take, and for how long there are more.
        context: The client.
        transport: Its transport.
        front: Its side of the relay, if it has got its 101.
        monitor: Watches it.

    Returns:
        The backend; None if the monitor was asked to cancel the dial.

    Raises:
        Rejected: The backend cannot be reached, or the client has disconnected.
    """
    is_raw = context.request is None
    with (
        monitor.watch(transport, allow_half_close=is_raw, framing=_framing(front)) as client,
        _log_steps(context, dial_request.progress),
    ):
        return await retry(
            lambda: backend.dial(dial_request),
            timeout=route.connect_timeout,
            retry_for=route.retry_for,
            on_retry=lambda rejected: _log_retry(context, rejected),
            progress=dial_request.progress,
        )
    # The monitor has cancelled the block.
    if not client.disconnect_detail:
        return None
    if client.close_body is not None:
        closed = describe_close(*decode_close_body(client.close_body)) or "closed"
        raise Rejected(Reason.CLIENT_CLOSED, f"{DURING_DIAL}: {closed}", initiator="client")
    reason = transport.fault or Reason.CLIENT_LOST
    raise Rejected(
        reason,
        f"{DURING_DIAL}: {client.disconnect_detail}",
        initiator="wsbridge" if reason is Reason.INTERNAL_ERROR else "client",
    )


def _framing(front: Side | None) -> WebSocketFraming | None:
    """Return how the client that has got its 101 is decoded; None for one that has not, or is not WebSocket."""
    if front is None or front.role == "raw":
        return None
    framing = WebSocketFraming("server", "bytes") if front.state is None else front.state.framing
    return framing if isinstance(framing, WebSocketFraming) else None


@contextlib.contextmanager
def _log_steps(context: ConnectionContext, progress: DialProgress) -> Iterator[None]:
    """Log the steps of a dial at level debug: name lookup, attempts, handshakes, and how long each took."""
    if log.level != "debug":
        yield
        return
    progress.steps = deque(maxlen=MAX_DIAL_STEPS)
    try:
        yield
    except Rejected as rejected:
        progress.fail(rejected.detail)
        raise
    finally:
        progress.enter("")
        steps = list(progress.steps)
        if steps:
            log.debug("backend.dialed", id=context.id, route=context.route, backend=context.backend, steps=steps)


def _log_retry(context: ConnectionContext, rejected: Rejected) -> None:
    log.info(
        "backend.retry",
        id=context.id,
        route=context.route,
        backend=context.backend,
        reason=rejected.reason.value,
        detail=rejected.detail,
    )
