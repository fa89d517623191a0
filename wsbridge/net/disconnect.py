"""Notice a client that leaves during the dial."""

from __future__ import annotations

import select
from types import TracebackType
from typing import Self

import trio

from wsbridge.log.logger import log
from wsbridge.net.tls_transport import TlsTransport
from wsbridge.net.transport import READ_SIZE, RESET, Transport
from wsbridge.reasons import Reason

MAX_BUFFERED_BYTES = READ_SIZE
"""Bytes read from a TLS connection while it is watched, after which it is read no more."""


class Monitored:
    """One peer, while it is watched: a context manager around what is done in that time.

    Attributes:
        scope: Around the block; cancelled when the peer goes, and by `Watch.end`.
        disconnect_detail: How it went, in words; empty while it is there.
    """

    __slots__ = (
        "_allow_half_close",
        "_buffered",
        "_buffered_bytes",
        "_monitor",
        "disconnect_detail",
        "scope",
        "transport",
    )

    def __init__(self, monitor: DisconnectMonitor, transport: Transport, *, allow_half_close: bool) -> None:
        self._monitor = monitor
        self.scope = trio.CancelScope()
        self.disconnect_detail = ""
        self.transport = transport
        self._allow_half_close = allow_half_close
        self._buffered: list[bytes] = []
        self._buffered_bytes = 0

    def __enter__(self) -> Self:
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
        """Return which events to ask for; errors come unasked."""
        return (0 if self._allow_half_close else select.EPOLLRDHUP) | (select.EPOLLIN if self._should_read() else 0)

    def _should_read(self) -> bool:
        return (
            isinstance(self.transport, TlsTransport)
            and not self._allow_half_close
            and self._buffered_bytes < MAX_BUFFERED_BYTES
        )

    def on_events(self, events: int) -> None:
        """Look at what an event reported."""
        if events & select.EPOLLERR:
            self.transport.record_socket_error()
        elif self._should_read():
            data = self.transport.read()
            if data:
                self._buffered.append(data)
                self._buffered_bytes += len(data)
        if self.transport.read_state is not None:
            self._on_end()
        elif events & select.EPOLLHUP or (events & select.EPOLLRDHUP and not self._allow_half_close):
            self.disconnect("closed")  # a Unix socket hangs up where TCP resets

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
    """All peers that are watched now; one for the process."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._monitored: dict[int, Monitored] = {}

    def __len__(self) -> int:
        return len(self._monitored)

    async def run(self) -> None:
        """Look until cancelled."""
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
                    self.unregister(fd)  # the event lasts, and what is cancelled may take its time
                elif watched.event_mask() != before:
                    self._epoll.modify(fd, watched.event_mask())

    def watch(self, transport: Transport, *, allow_half_close: bool) -> Monitored:
        """Watch one peer over the block of a `with` statement, which is left when it goes.

        Args:
            transport: Its transport; the block must leave it alone.
            allow_half_close: Whether a peer that has ended what it sends may still wait for an answer; then only a
                connection
                that broke counts.
        """
        return Monitored(self, transport, allow_half_close=allow_half_close)

    def register(self, monitored: Monitored) -> None:
        """Begin to watch."""
        self._monitored[monitored.transport.fd] = monitored
        self._epoll.register(monitored.transport.fd, monitored.event_mask())

    def unregister(self, fd: int) -> None:
        """Watch no more."""
        if self._monitored.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def cancel_all(self) -> None:
        """Leave all blocks."""
        for watched in self._monitored.values():
            watched.scope.cancel()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
