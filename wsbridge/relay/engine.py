"""Engine: the interface by which the spine has two endpoints relayed, and the engine written in Python.

Lives here: the contract, and how a task waits for the pump. Must not live here: moving bytes (`pump`, `pair`).
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Protocol

import trio

from wsbridge.ledger import Ledger
from wsbridge.limits.shares import Share
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.relay.endpoint import Endpoint, RawEndpoint
from wsbridge.relay.pair import Pair
from wsbridge.relay.pump import Pump
from wsbridge.relay.terms import Terms


class Engine(Protocol):
    """Carries bytes between two endpoints until one reason ends it.

    Attributes:
        name: What `--version` and the log call it.
    """

    name: str

    async def run(self) -> None:
        """Serve `relay` until cancelled."""

    async def relay(
        self, front: Endpoint, back: Endpoint, terms: Terms, ledger: Ledger, share: Share | None = None
    ) -> End:
        """Relay until the end; it owns both wires, and none is open when it returns or is cancelled.

        Args:
            front: The accepted side.
            back: The dialled side.
            terms: What holds for it.
            ledger: Where it is counted.
            share: Bytes a second that it has in common with others.

        Resource handling:
            Cancelling aborts both sides.
        """

    async def dismiss(self, front: Endpoint, end: End, terms: Terms) -> End:
        """End an accepted side for which there is no other."""

    def end(self, pair: Pair, reason: Reason, detail: str = "") -> None:
        """End one pair for a reason of the bridge."""

    def revise(self, pair: Pair, terms: Terms) -> None:
        """Put a pair under other terms."""

    def supports(self, front: Endpoint, back: Endpoint, terms: Terms) -> str | None:
        """Say why this engine cannot carry a pair; None if it can."""

    @property
    def pairs(self) -> list[Pair]:
        """What is being relayed now."""

    def close(self) -> None:
        """Give the engine's descriptors back; no pair may be left."""


class PythonEngine:
    """The engine that needs nothing but Python; see `Engine`."""

    name = "python"

    def __init__(self, lingering: int = 256) -> None:
        self.pump = Pump(lingering)
        self._pairs: set[Pair] = set()
        self._nobody = socket.socket()
        self._nobody.close()

    @property
    def pairs(self) -> list[Pair]:
        """See `Engine.pairs`."""
        return list(self._pairs)

    def close(self) -> None:
        """See `Engine.close`."""
        self.pump.close()

    async def run(self) -> None:
        """See `Engine.run`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pump.run)
            nursery.start_soon(self.pump.keep_time)

    async def relay(
        self, front: Endpoint, back: Endpoint, terms: Terms, ledger: Ledger, share: Share | None = None
    ) -> End:
        """See `Engine.relay`."""
        self.pump.now = trio.current_time()
        pair = Pair(front, back, terms, self.pump)
        if share is not None or terms.bytes_per_second is not None:
            pair.share = share
            pair.meter()
        ledger.active += 1
        ledger.relayed += 1
        try:
            end = await self._wait(pair)
        finally:
            ledger.active -= 1
            ledger.to_back += front.received
            ledger.to_front += back.received
        ledger.endings[end.reason] += 1
        return end

    async def dismiss(self, front: Endpoint, end: End, terms: Terms) -> End:
        """See `Engine.dismiss`."""
        self.pump.now = trio.current_time()
        nobody = RawEndpoint(SocketWire(self._nobody))  # needs no descriptor: there may be none left
        pair = Pair(front, nobody, terms, self.pump)
        pair.abort(nobody)
        pair.terminate(end)
        await self._wait(pair)
        return replace(end, code=ENDINGS[end.reason].code)

    async def _wait(self, pair: Pair) -> End:
        """Hand a pair to the pump and wait until nothing can touch its descriptors any more."""
        task = trio.lowlevel.current_task()
        waiting = False

        def done() -> None:
            if waiting:
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self.drop(pair)
            return trio.lowlevel.Abort.SUCCEEDED

        pair.on_done = done
        self._pairs.add(pair)
        try:
            self.pump.add(pair)
            if not pair.done:
                waiting = True
                await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            waiting = False
            self.drop(pair)
            raise
        finally:
            self._pairs.discard(pair)
            pair.part()
        return pair.end or End(Reason.INTERNAL_ERROR, "bridge", "ended without a reason")

    @staticmethod
    def drop(pair: Pair) -> None:
        """Abort both sides at once."""
        for side in (pair.front, pair.back):
            pair.abort(side)

    def end(self, pair: Pair, reason: Reason, detail: str = "") -> None:
        """See `Engine.end`."""
        self.pump.tick()
        if not pair.done:
            pair.terminate(End(reason, "bridge", detail))

    def revise(self, pair: Pair, terms: Terms) -> None:
        """See `Engine.revise`."""
        if terms.bytes_per_second != pair.terms.bytes_per_second:
            pair.terms = terms
            pair.meter()
            self.pump.later(pair)
        pair.terms = terms
        self.pump.look_at(pair, self.pump.tick())

    def supports(self, front: Endpoint, back: Endpoint, terms: Terms) -> str | None:
        """See `Engine.supports`: everything."""
        return None
