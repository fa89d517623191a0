"""Detect clients that disconnect while their backend is dialed."""

from __future__ import annotations

import select
from copy import copy
from types import TracebackType
from typing import Self

import trio

from wsbridge.log.logger import log
from wsbridge.net.tls_transport import EncryptedTransport
from wsbridge.net.transport import READ_SIZE, RESET, Transport, has_input
from wsbridge.protocol.websocket import CLOSE, WebSocketFraming, decode_close_body, is_orderly_close
from wsbridge.reasons import Reason

MAX_BUFFERED_BYTES = READ_SIZE
"""Bytes read from a connection under TLS, or after its 101, while it is watched; beyond them it is not read."""


class Monitored:
    """One peer that is watched: a context manager around the work in that time.

    Attributes:
        scope: Around the block; cancelled when the peer disconnects, and by `DisconnectMonitor.cancel_all`.
        disconnect_detail: How the peer disconnected, for the log; empty while it is connected.
        close_body: Of the close frame by which it disconnected; None for none.
        transport: The transport of the peer.
    """

    __slots__ = (
        "_allow_half_close",
        "_buffered",
        "_buffered_bytes",
        "_framing",
        "_has_payload",
        "_hung_up",
        "_monitor",
        "close_body",
        "disconnect_detail",
        "scope",
        "transport",
    )

    def __init__(
        self,
        monitor: DisconnectMonitor,
        transport: Transport,
        *,
        allow_half_close: bool,
        framing: WebSocketFraming | None = None,
    ) -> None:
        self._monitor = monitor
        self._framing = copy(framing)
        self._has_payload = False  # of a WebSocket, since the block began
        self.scope = trio.CancelScope()
        self.disconnect_detail = ""
        self.close_body: bytes | None = None
        self.transport = transport
        self._allow_half_close = allow_half_close
        self._hung_up = False
        self._buffered: list[bytes] = []
        self._buffered_bytes = 0

    def __enter__(self) -> Self:
        if self._framing is not None:
            self._keep(self.transport.take_unread())
        if self.transport.read_state is not None:
            self._on_end()
        if not self.disconnect_detail:
            self._monitor.register(self)
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._monitor.unregister(self.transport.fd)
        self.transport.unread(b"".join(self._buffered))
        return bool(self.scope.__exit__(kind, error, trace))

    def event_mask(self) -> int:
        """Return the events to wait for; errors and hang-ups are always reported, the latter only once."""
        if self._hung_up:
            return select.EPOLLONESHOT
        return (0 if self._allow_half_close else select.EPOLLRDHUP) | (select.EPOLLIN if self._should_read() else 0)

    def _should_read(self) -> bool:
        return (
            (self._framing is not None or isinstance(self.transport, EncryptedTransport))
            and not self._allow_half_close
            and self._buffered_bytes < MAX_BUFFERED_BYTES
        )

    def on_events(self, events: int) -> None:
        """Handle what an event reported."""
        if events & select.EPOLLERR:
            self.transport.record_socket_error()
        elif self._should_read():
            self._keep(self.transport.read())
        if self.disconnect_detail:
            return
        if self.transport.read_state is not None:
            self._on_end()
        elif events & select.EPOLLRDHUP and not self._allow_half_close:
            self.disconnect("closed")
        if events & select.EPOLLHUP and not self.disconnect_detail:
            if self._allow_half_close and self._has_input():
                self._hung_up = True
            else:
                self.disconnect("closed")

    def _has_input(self) -> bool:
        """Return whether the peer has sent what is for the backend.

        A Unix socket hangs up when its peer closes, where TCP gets a FIN: what was sent before is relayed all the same.
        """
        return bool(self._buffered) or self.transport.has_buffered() or has_input(self.transport.fd)

    def _keep(self, data: bytes) -> None:
        """Keep what was read; look for a close frame in it.

        What a client has sent before an orderly one is for the backend, so that the dial goes on.
        """
        if data:
            self._buffered.append(data)
            self._buffered_bytes += len(data)
        framing = self._framing
        while data and framing is not None:
            used, chunks, _, controls, _ = framing.decode(data)
            data = data[used:]
            self._has_payload = self._has_payload or any(map(len, chunks))
            for opcode, body in controls or ():
                if opcode != CLOSE:
                    continue
                code, _ = decode_close_body(body)
                if self._has_payload and is_orderly_close(code, from_client=True):
                    self._allow_half_close = True  # it may end its connection without waiting for the answer
                else:
                    self.close_body = body
                    self.disconnect("closed")

    def _on_end(self) -> None:
        if self.transport.read_state == RESET:
            self.disconnect(self.transport.error)
        elif not self._allow_half_close:
            self.disconnect("closed")

    def disconnect(self, detail: str) -> None:
        """Leave the block."""
        self.disconnect_detail = detail
        self.scope.cancel()


class DisconnectMonitor:
    """Watches all peers of the process whose backends are being dialed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._monitored: dict[int, Monitored] = {}

    def __len__(self) -> int:
        return len(self._monitored)

    async def run(self) -> None:
        """Wait for events and handle them, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0):
                watched = self._monitored[fd]
                before = watched.event_mask()
                try:
                    watched.on_events(events)
                except Exception:  # a bug in one connection ends that one alone
                    log.exception("internal_error", component="disconnect")
                    watched.transport.fault = Reason.INTERNAL_ERROR
                    watched.disconnect("internal error")
                if watched.disconnect_detail:
                    self.unregister(fd)  # the event is level-triggered, and the cancelled block may need time
                elif watched.event_mask() != before:
                    self._epoll.modify(fd, watched.event_mask())

    def watch(
        self, transport: Transport, *, allow_half_close: bool, framing: WebSocketFraming | None = None
    ) -> Monitored:
        """Watch one peer during the block of a `with` statement, which is cancelled when the peer disconnects.

        Args:
            transport: Its transport, which the block must not use.
            allow_half_close: Whether a peer that has sent FIN may still wait for an answer; then only a reset counts.
            framing: Of a WebSocket peer, which may close by a close frame; decodes what comes next, and is not changed.
        """
        return Monitored(self, transport, allow_half_close=allow_half_close, framing=framing)

    def register(self, monitored: Monitored) -> None:
        """Start to watch a peer."""
        self._monitored[monitored.transport.fd] = monitored
        self._epoll.register(monitored.transport.fd, monitored.event_mask())

    def unregister(self, fd: int) -> None:
        """Stop watching a descriptor; nothing happens if it is not watched."""
        if self._monitored.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def cancel(self, transport: Transport) -> bool:
        """Cancel the block of one peer; False if it is not watched."""
        watched = self._monitored.get(transport.fd)
        if watched is None or watched.transport is not transport:
            return False
        watched.scope.cancel()
        return True

    def cancel_all(self) -> None:
        """Cancel all blocks."""
        for watched in self._monitored.values():
            watched.scope.cancel()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()
