"""Server: what outlives connections and generations, and its life from the first listener to the last close.

Lives here: listeners, counts, the engine, the ending of everything. Must not live here: signals and the service
manager (`daemon`), one connection (`connection`).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Awaitable, Callable

import trio

from wsbridge.accept import Reserve, accept
from wsbridge.audit import Trail
from wsbridge.auth.background import Background
from wsbridge.auth.passwords import Passwords
from wsbridge.auth.spent import Spent
from wsbridge.backends.backend import Services
from wsbridge.config.model import Config
from wsbridge.generation import Generation, build, lend
from wsbridge.kinds import LISTENERS
from wsbridge.ledger import Ledger
from wsbridge.limits.addresses import Addresses
from wsbridge.limits.counts import Counts
from wsbridge.limits.shares import Shares
from wsbridge.listeners import Listening
from wsbridge.log import log
from wsbridge.net.own import OwnListeners
from wsbridge.net.resolve import Resolver
from wsbridge.net.sockets import tune
from wsbridge.net.watch import Watch
from wsbridge.protocol.head import HeadLimits
from wsbridge.reasons import Reason
from wsbridge.relay.engine import Engine, PythonEngine
from wsbridge.speaks.exchange import Lingering

DESCRIPTORS_KEPT = 64
"""Descriptors that `connections: auto` leaves for everything but connections."""


def connection_limit(config: Config) -> int:
    """Give the cap of connections: as written, or half of the descriptors that may be open, a reserve kept."""
    written = config.limits.connections
    if isinstance(written, int):
        return written
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - DESCRIPTORS_KEPT) // 2)


class Server:
    """Everything that serves.

    Args:
        config: Checked.
        once: Stop accepting as soon as one connection is relayed, and return when it has ended.

    Attributes:
        generation: What new connections begin with.
        connections: Connections now, in whatever step.
        limit: How many there may be.
        shedding: Clients over the cap that are being told so.
        addresses: What clients did lately, by address.
        counts: Connections now, by what routes limit.
        shares: Bytes a second that several connections have in common.
        hearing: Waits for a request, which an ending cuts short.
        watch: Clients whose backends are being dialled; an ending cuts that short, too.
        spent: The tickets that were used.
        passwords: Verifies passwords.
        trail: The audit, if there is one.
        ending: Why requests are refused now; None while serving.
    """

    def __init__(self, config: Config, *, once: bool = False) -> None:
        limits = config.limits
        self._config = config
        self._once = once
        self._ledgers: dict[str, Ledger] = {}
        self._number = 0
        self._stop = trio.Event()
        self._ended_at_once = trio.Event()
        self.connections = 0
        self.shedding = 0
        self.hearing: set[trio.CancelScope] = set()
        self.watch = Watch()
        self.trail = None if config.audit is None else Trail(config.audit.file)
        self.limit = connection_limit(config)
        self.addresses = Addresses(limits.address, time.monotonic)
        self.counts = Counts()
        self.shares = Shares()
        self.ending: Reason | None = None
        self.reserve = Reserve()
        self.engine: Engine = PythonEngine(limits.lingering)
        self.lingering = Lingering(limits.lingering, config.timeouts.linger, limits.linger_bytes)
        self.resolver = Resolver(threads=limits.dns_threads, ttl=limits.dns_ttl, negative_ttl=limits.dns_negative_ttl)
        self.own = OwnListeners()
        services = Services(self.resolver, HeadLimits(limits.head, limits.head_line, limits.headers), self.own)
        self.spent = Spent(limits.tickets)
        threads = limits.password_threads if isinstance(limits.password_threads, int) else None
        self.passwords = Passwords(threads, limits.password_queue)
        self.background = Background()
        lent = lend(spent=self.spent, passwords=self.passwords, resolver=self.resolver, background=self.background)
        self.generation: Generation = build(config, services, self.ledger, lent)

    def ledger(self, route: str) -> Ledger:
        """Give the counters of a route, by name, over all generations."""
        return self._ledgers.setdefault(route, Ledger())

    def next_id(self) -> int:
        """Number a connection."""
        self._number += 1
        return self._number

    def relaying(self) -> None:
        """Note that a connection is about to be relayed."""
        if self._once:
            self._stop.set()

    def stop(self, reason: Reason) -> None:
        """Begin to end: `drain` waits for connections to end by themselves, `stop` ends them all at once."""
        if self.ending is not Reason.STOP:
            self.ending = reason
        self._stop.set()
        if reason is Reason.STOP:
            self._ended_at_once.set()

    async def run(
        self,
        ready: Callable[[list[Listening]], None] = lambda _: None,
        beside: Callable[[Server], Awaitable[None]] | None = None,
    ) -> None:
        """Open the listeners, serve, and end when told to.

        Args:
            ready: Called once all listeners are open.
            beside: A task to run among the connections.

        Raises:
            ListenError: An address cannot be had.
            ValueError: The audit's file cannot be opened.
        """
        listening: list[Listening] = []
        try:
            if self.trail is not None:
                self.trail.open()
            async with self.resolver, self.background, trio.open_nursery() as engine:
                engine.start_soon(self.engine.run)
                engine.start_soon(self.watch.run)
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        for name, section in self._config.listeners.items():
                            listening.append(await LISTENERS[section.bind.kind](name, section))
                        for opened in listening:
                            for sock in opened.sockets:
                                self.own.add(sock)
                                tune(sock)  # accepted sockets inherit it
                                accepting.start_soon(accept, sock, opened.name, self, connections)
                            for address in opened.addresses:
                                log.info("listener.open", listener=opened.name, address=address)
                        if beside is not None:
                            connections.start_soon(beside, self)
                        ready(listening)
                        await self._stop.wait()
                        accepting.cancel_scope.cancel()
                    for opened in listening:
                        opened.close()
                        log.info("listener.close", listener=opened.name)
                    if self.ending is not None:
                        await self._end(connections)
                engine.cancel_scope.cancel()
        finally:
            for opened in listening:
                opened.close()
            self.reserve.close()
            self.engine.close()
            self.watch.close()
            if self.trail is not None:
                self.trail.close()

    async def _end(self, connections: trio.Nursery) -> None:
        """Let connections end by themselves, then end them over `spread`, then cut what is left."""
        timeouts = self._config.timeouts
        with trio.CancelScope() as patience:
            if self._ended_at_once.is_set():
                patience.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hurry, patience)
                with trio.move_on_after(max(0.0, timeouts.drain - timeouts.spread)):
                    await self._until(0)
                self._wait_no_more()
                await self._close_over(timeouts.spread)
                nursery.cancel_scope.cancel()
        self._wait_no_more()
        for pair in self.engine.pairs:
            self.engine.end(pair, self.ending or Reason.STOP)
        with trio.move_on_after(timeouts.close):
            await self._until(0)
        connections.cancel_scope.cancel()

    async def _hurry(self, patience: trio.CancelScope) -> None:
        await self._ended_at_once.wait()
        patience.cancel()

    async def _until(self, count: int) -> None:
        """Wait until no more connections than that are left."""
        while self.connections + self.shedding > count:  # noqa: ASYNC110  an event would cost every connection
            await trio.sleep(0.05)

    async def _close_over(self, seconds: float) -> None:
        """End what is relayed, one pair after the other, spread over the time."""
        pairs = self.engine.pairs
        began = trio.current_time()
        for number, pair in enumerate(pairs, 1):
            if not pair.done:
                self.engine.end(pair, Reason.DRAIN)
                await trio.sleep_until(began + seconds * number / len(pairs))

    def _wait_no_more(self) -> None:
        """Cut short all waits: an idle connection closes; a request half heard, or waiting for a backend, gets 503."""
        self.watch.end()
        for scope in list(self.hearing):
            scope.cancel()
