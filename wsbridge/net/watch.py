"""Watch: tells of peers that go while nobody reads them, because the other side is still being dialled.

Lives here: one epoll set for all of them and the task that looks at it. Must not live here: what their going means.
A plain socket is left unread: the kernel tells of its end by an event, and keeps what comes. The end of a TLS stream
may be a record like any other, so there the wire is read, and what it gave is put back.
"""

from __future__ import annotations

import select
from types import TracebackType
from typing import Self

import trio

from wsbridge.net.tls_wire import TlsWire
from wsbridge.net.wire import READ_SIZE, RESET, Wire

MOST_KEPT = READ_SIZE
"""Bytes read from a TLS connection meanwhile, after which it is read no more."""


class Watched:
    """One peer, while it is watched: a context manager over what is done meanwhile.

    Attributes:
        scope: Around the block; cancelled when the peer goes, and by `Watch.end`.
        gone: How it went, in words; empty while it is there.
    """

    __slots__ = ("_halves", "_kept", "_size", "_watch", "gone", "scope", "wire")

    def __init__(self, watch: Watch, wire: Wire, *, halves: bool) -> None:
        self._watch = watch
        self.scope = trio.CancelScope()
        self.gone = ""
        self.wire = wire
        self._halves = halves
        self._kept: list[bytes] = []
        self._size = 0

    def __enter__(self) -> Self:
        if self.wire.ended is not None:
            self._ended()
        if not self.gone:
            self._watch.add(self)
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watch.forget(self.wire.fd)
        self.wire.unread(b"".join(self._kept))
        return bool(self.scope.__exit__(kind, error, trace))

    def wanted(self) -> int:
        """Tell which events to ask for; errors come unasked."""
        return (0 if self._halves else select.EPOLLRDHUP) | (select.EPOLLIN if self._reads() else 0)

    def _reads(self) -> bool:
        return isinstance(self.wire, TlsWire) and not self._halves and self._size < MOST_KEPT

    def happened(self, events: int) -> None:
        """Look at what an event told of."""
        if events & select.EPOLLERR:
            self.wire.fail()
        elif self._reads():
            data = self.wire.read()
            if data:
                self._kept.append(data)
                self._size += len(data)
        if self.wire.ended is not None:
            self._ended()
        elif events & select.EPOLLHUP or (events & select.EPOLLRDHUP and not self._halves):
            self._go("closed")  # a Unix socket hangs up where TCP resets

    def _ended(self) -> None:
        if self.wire.ended == RESET:
            self._go(self.wire.error)
        elif not self._halves:
            self._go("closed")

    def _go(self, how: str) -> None:
        self.gone = how
        self.scope.cancel()


class Watch:
    """All peers that are watched now; one for the process."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0):
                watched = self._watched[fd]
                before = watched.wanted()
                watched.happened(events)
                if watched.gone:
                    self.forget(fd)  # the event lasts, and what is cancelled may take its time
                elif watched.wanted() != before:
                    self._epoll.modify(fd, watched.wanted())

    def over(self, wire: Wire, *, halves: bool) -> Watched:
        """Watch one peer over the block of a `with` statement, which is left when it goes.

        Args:
            wire: Its transport; the block must leave it alone.
            halves: Whether a peer that has ended what it sends may still wait for an answer; then only a connection
                that broke counts.
        """
        return Watched(self, wire, halves=halves)

    def add(self, watched: Watched) -> None:
        """Begin to watch."""
        self._watched[watched.wire.fd] = watched
        self._epoll.register(watched.wire.fd, watched.wanted())

    def forget(self, fd: int) -> None:
        """Watch no more."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def end(self) -> None:
        """Leave all blocks."""
        for watched in self._watched.values():
            watched.scope.cancel()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
