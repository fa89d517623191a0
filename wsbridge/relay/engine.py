"""Engine: the interface by which the spine has two endpoints relayed, and the engine written in Python.

Lives here: the contract, and how a task waits for the pump. Must not live here: moving bytes (`pump`, `pair`).
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Protocol

import trio

from wsbridge.limits.rate import SharedBucket
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.endpoint import Endpoint, RawEndpoint
from wsbridge.relay.loop import RelayLoop
from wsbridge.relay.relay import Relay, RelayOptions
from wsbridge.services import RouteStats


class Engine(Protocol):
    """Carries bytes between two endpoints until one reason ends it.

    Attributes:
        name: What `--version` and the log call it.
    """

    name: str

    async def run(self) -> None:
        """Serve `relay` until cancelled."""

    async def relay(
        self,
        front: Endpoint,
        back: Endpoint,
        options: RelayOptions,
        stats: RouteStats,
        share: SharedBucket | None = None,
    ) -> Termination:
        """Relay until the end; it owns both wires, and none is open when it returns or is cancelled.

        Args:
            front: The accepted side.
            back: The dialled side.
            options: What holds for it.
            stats: Where it is counted.
            share: Bytes a second that it has in common with others.

        Resource handling:
            Cancelling aborts both sides.
        """

    async def close_front(self, front: Endpoint, termination: Termination, options: RelayOptions) -> Termination:
        """End an accepted side for which there is no other."""

    def terminate(self, relay: Relay, reason: Reason, detail: str = "") -> None:
        """End one pair for a reason of the bridge."""

    def update_options(self, relay: Relay, options: RelayOptions) -> None:
        """Put a pair under other terms."""

    def supports(self, front: Endpoint, back: Endpoint, options: RelayOptions) -> str | None:
        """Say why this engine cannot carry a pair; None if it can."""

    @property
    def relays(self) -> list[Relay]:
        """What is being relayed now."""

    def close(self) -> None:
        """Give the engine's descriptors back; no pair may be left."""


class PythonEngine:
    """The engine that needs nothing but Python; see `Engine`."""

    name = "python"

    def __init__(self, max_lingering: int = 256) -> None:
        self.loop = RelayLoop(max_lingering)
        self._relays: set[Relay] = set()
        self._closed_socket = socket.socket()
        self._closed_socket.close()

    @property
    def relays(self) -> list[Relay]:
        """See `Engine.pairs`."""
        return list(self._relays)

    def close(self) -> None:
        """See `Engine.close`."""
        self.loop.close()

    async def run(self) -> None:
        """See `Engine.run`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.loop.run)
            nursery.start_soon(self.loop.run_timers)

    async def relay(
        self,
        front: Endpoint,
        back: Endpoint,
        options: RelayOptions,
        stats: RouteStats,
        share: SharedBucket | None = None,
    ) -> Termination:
        """See `Engine.relay`."""
        self.loop.now = trio.current_time()
        pair = Relay(front, back, options, self.loop)
        if share is not None or options.bytes_per_second is not None:
            pair.share = share
            pair.apply_rate_limits()
        stats.active += 1
        stats.relayed += 1
        try:
            end = await self._run_until_done(pair)
        finally:
            stats.active -= 1
            stats.bytes_to_backend += front.received_bytes
            stats.bytes_to_client += back.received_bytes
        stats.terminations[end.reason] += 1
        return end

    async def close_front(self, front: Endpoint, termination: Termination, options: RelayOptions) -> Termination:
        """See `Engine.dismiss`."""
        self.loop.now = trio.current_time()
        nobody = RawEndpoint(SocketTransport(self._closed_socket))  # needs no descriptor: there may be none left
        pair = Relay(front, nobody, options, self.loop)
        pair.abort(nobody)
        pair.terminate(termination)
        await self._run_until_done(pair)
        return replace(termination, close_code=REASONS[termination.reason].close_code)

    async def _run_until_done(self, relay: Relay) -> Termination:
        """Hand a pair to the pump and wait until nothing can touch its descriptors any more."""
        task = trio.lowlevel.current_task()
        waiting = False

        def done() -> None:
            if waiting:
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self.abort(relay)
            return trio.lowlevel.Abort.SUCCEEDED

        relay.on_done = done
        self._relays.add(relay)
        try:
            self.loop.add(relay)
            if not relay.done:
                waiting = True
                await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            waiting = False
            self.abort(relay)
            raise
        finally:
            self._relays.discard(relay)
            relay.unlink()
        return relay.termination or Termination(Reason.INTERNAL_ERROR, "wsbridge", "ended without a reason")

    @staticmethod
    def abort(relay: Relay) -> None:
        """Abort both sides at once."""
        for side in (relay.front, relay.back):
            relay.abort(side)

    def terminate(self, relay: Relay, reason: Reason, detail: str = "") -> None:
        """See `Engine.end`."""
        self.loop.update_clock()
        if not relay.done:
            relay.terminate(Termination(reason, "wsbridge", detail))

    def update_options(self, relay: Relay, options: RelayOptions) -> None:
        """See `Engine.revise`."""
        if options.bytes_per_second != relay.options.bytes_per_second:
            relay.options = options
            relay.apply_rate_limits()
            self.loop.mark_ready(relay)
        relay.options = options
        self.loop.schedule(relay, self.loop.update_clock())

    def supports(self, front: Endpoint, back: Endpoint, options: RelayOptions) -> str | None:
        """See `Engine.supports`: everything."""
        return None
