"""Time limits of a relay (idle, lifetime, ping, write, close), and the timer wheel that they are kept in."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Generic, Protocol, TypeVar

from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import RX_OPEN, TX_OPEN, TX_RESETTING, Endpoint
from wsbridge.relay.relay import UNKNOWN, Relay, RelayOptions

MAX_CHECK_INTERVAL = 3600.0
"""Seconds after which a pair without any deadline is looked at all the same."""
WRITE_CHECKS = 8
"""Looks at a side within `write`: since a stall is noticed at a look, it lasts at most an eighth longer."""


def check_timeouts(relay: Relay, now: float) -> float:
    """Do what is due, and give when to look again.

    Args:
        relay: Not done.
        now: Seconds of the loop's clock.
    """
    due = now + MAX_CHECK_INTERVAL
    if relay.front.tx is TX_OPEN or relay.back.tx is TX_OPEN:
        due = min(check_lifetime(relay, now), check_idle(relay, now))
    for side in (relay.front, relay.back):
        if side.tx is TX_OPEN or relay.has_pending_delivery(side):
            due = min(due, check_write(relay, side, now))
        if side.tx is TX_OPEN and side.rx is RX_OPEN and side.is_websocket:
            due = min(due, check_ping(relay, side, now))
    if relay.termination is not None and not relay.done:
        due = min(due, check_close(relay, now))
    return due


def first_check(options: RelayOptions, now: float) -> float:
    """Return when to look for the first time at a pair that begins now, with nothing pending."""
    due = MAX_CHECK_INTERVAL
    for limit in (options.max_lifetime, options.idle, options.ping_interval):
        if limit is not None and limit < due:
            due = limit
    if options.write is not None and options.write / WRITE_CHECKS < due:
        due = options.write / WRITE_CHECKS
    return now + due if options.auth_expires is None else min(now + due, options.auth_expires)


def calm_deadline(
    options: RelayOptions, now: float, started: float, last_payload: float, pinged: Sequence[float]
) -> float:
    """Return when something is due for a pair for which nothing waits.

    Args:
        options: Its time limits.
        now: Seconds of the loop's clock.
        started: When it began.
        last_payload: When payload last moved, either way.
        pinged: Since when each of its WebSocket sides is silent, in either direction.
    """
    due = now + MAX_CHECK_INTERVAL
    if options.max_lifetime is not None:
        due = min(due, started + options.max_lifetime)
    if options.auth_expires is not None:
        due = min(due, options.auth_expires)
    if options.idle is not None:
        due = min(due, last_payload + options.idle)
    if options.ping_interval is not None:
        due = min([due, *(since + options.ping_interval for since in pinged)])
    return due


def check_lifetime(relay: Relay, now: float) -> float:
    """End what is too old, or whose client's credentials have expired."""
    limit, expires = relay.options.max_lifetime, relay.options.auth_expires
    due = now + MAX_CHECK_INTERVAL
    if limit is not None:
        due = relay.started + limit
        if now >= due:
            relay.terminate(Termination(Reason.MAX_LIFETIME, "wsbridge", f"older than max_lifetime, {limit:g} s"))
    if expires is not None:
        due = min(due, expires)
        if now >= expires:
            relay.terminate(Termination(Reason.AUTH_EXPIRED, "client", "what proved who the client is has expired"))
    return due


def check_idle(relay: Relay, now: float) -> float:
    """End what has carried no payload within `idle`."""
    limit = relay.options.idle
    if limit is None:
        return now + MAX_CHECK_INTERVAL
    if now >= relay.last_payload + limit:
        taken = [_has_new_acks(side) and _has_unacked_data(side) for side in (relay.front, relay.back)]  # each is asked
        if any(taken):
            relay.last_payload = now
        else:
            relay.terminate(Termination(Reason.IDLE_TIMEOUT, "wsbridge", f"no payload for idle, {limit:g} s"))
    return relay.last_payload + limit


def _has_new_acks(side: Endpoint) -> bool:
    """Whether a peer acknowledged bytes since this was last asked."""
    if side.closed:
        return False
    before, side.acked_bytes = side.acked_bytes, side.transport.acked_bytes()
    return side.acked_bytes > before != UNKNOWN


def _has_unacked_data(side: Endpoint) -> bool:
    """Return whether bytes are pending for a peer, or not acknowledged by it."""
    return side.pending is not None or side.transport.unacked_bytes() > 0


def check_write(relay: Relay, side: Endpoint, now: float) -> float:
    """A side with pending bytes must acknowledge some within `write`."""
    limit = relay.options.write
    if limit is None:
        return now + MAX_CHECK_INTERVAL
    if side.pending is None and side.tx is TX_OPEN:
        side.stalled_since = None
        return now + limit / WRITE_CHECKS
    acked = side.transport.acked_bytes()
    if side.stalled_since is None or acked != side.stalled_acked_bytes:
        side.stalled_since, side.stalled_acked_bytes = now, acked
    elif now >= side.stalled_since + limit:
        relay.terminate(
            Termination(Reason.WRITE_STALLED, relay.initiator_of(side), f"took nothing for write, {limit:g} s")
        )
        return now
    return min(now + limit / WRITE_CHECKS, side.stalled_since + limit)


def check_ping(relay: Relay, side: Endpoint, now: float) -> float:
    """Ping a side that is silent in either direction; without any byte from it, `ping_timeout` runs.

    It runs from when the ping was acknowledged, and is suspended while that side is not read because the other one is
    blocked or because of its rate limit. A peer whose kernel does not even acknowledge retransmissions gets no more
    time.
    """
    ping, pong = relay.options.ping_interval, relay.options.ping_timeout
    if ping is None:
        return now + MAX_CHECK_INTERVAL
    if side.ping_started is not None and side.last_received > side.ping_started:
        side.ping_started = None
    if side.ping_started is None:
        due = min(side.last_received, side.last_sent) + ping
        if now < due:
            return due
        side.ping_started = side.ping_timer_start = now
        side.ping_ack_target, side.ping_acked_bytes = None, side.transport.acked_bytes()
    if side.ping_ack_target is None and side.pending is None:
        side.ping(now)  # it would queue behind pending bytes, and those ask the same of the peer's kernel
        side.ping_ack_target = side.transport.acked_bytes() + side.transport.unacked_bytes()
    acked = side.transport.acked_bytes()
    if (
        ((side.other.pending is not None or side.rate_limited) and not side.discard_payload)
        or (acked < (side.ping_ack_target or 0) and acked > side.ping_acked_bytes)
        or ((side.ping_ack_target is None or acked < side.ping_ack_target) and not side.transport.retransmitting())
    ):
        side.ping_timer_start = now
    side.ping_acked_bytes = acked
    if now >= side.ping_timer_start + pong:
        relay.on_connection_lost(side, side.other, f"no answer to a ping within ping_timeout, {pong:g} s")
    return min(side.ping_timer_start + pong, now + min(ping / 2, pong / 4))


def check_close(relay: Relay, now: float) -> float:
    """An ending that makes no progress within its limit is forced."""
    sides = (relay.front, relay.back)
    for side in sides:
        relay.advance_close(side)
    if any(relay.has_pending_delivery(side) for side in sides):
        relay.close_timer_start = now  # `write` limits that; then the peers have their time to answer
    elif not relay.done:
        _count_close_progress(relay, now)
        if now >= relay.close_timer_start + relay.close_timeout:
            if relay.close_held:
                relay.send_held_close()
            else:
                relay.force_close()
            for side in sides:
                relay.advance_close(side)
    relay.close_checked = now
    return min(_close_check_due(relay, side, now) for side in sides)


def _close_check_due(relay: Relay, side: Endpoint, now: float) -> float:
    """When a side of an ending must be looked at again."""
    due = relay.close_timer_start + relay.close_timeout
    if side.closed:
        return due
    if side.tx is TX_RESETTING:
        return now
    if side.linger_deadline is not None:
        due = min(due, side.linger_deadline)
    if side.tx is not TX_OPEN and _has_unacked_data(side):
        due = min(due, now + relay.close_timeout / 4)
    return due


def _count_close_progress(relay: Relay, now: float) -> None:
    """Let the time of an ending run from its latest progress: payload, or bytes that a slow peer acknowledged.

    A peer that has acknowledged everything since the latest look may have done so right after it.
    """
    if relay.half_closed:
        relay.close_timer_start = max(relay.close_timer_start, relay.last_payload)
    for side in (relay.front, relay.back):
        # a side that is still sent payload may accept it forever: that counts only while half-closed
        if _has_new_acks(side) and (side.tx is not TX_OPEN or relay.half_closed):
            latest = now if _has_unacked_data(side) else relay.close_checked
            relay.close_timer_start = max(relay.close_timer_start, latest)


SLOT_SECONDS = 0.05
"""Seconds a slot is wide: how late a deadline may be noticed."""


class Timed(Protocol):
    """What a wheel holds.

    Attributes:
        timer_slot: The slot it is in; None for none. The wheel's own.
    """

    timer_slot: int | None


class TimedPair(Timed, Protocol):
    """What a loop checks the timeouts of."""

    @property
    def done(self) -> bool:
        """Whether there is nothing to check any more."""


_TimedItem = TypeVar("_TimedItem", bound=Timed)


class TimerWheel(Generic[_TimedItem]):
    """Deadlines by slot; an item is in one slot at most, so that items that ended leave nothing behind."""

    __slots__ = ("_heap", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[_TimedItem]] = {}
        self._heap: list[int] = []

    def schedule(self, item: _TimedItem, deadline: float) -> bool:
        """Have an item due no later than `deadline` (plus a slot); False if it is due earlier, which stays."""
        number = ceil(deadline / SLOT_SECONDS)
        if item.timer_slot is not None:
            if item.timer_slot <= number:
                return False
            self._slots[item.timer_slot].discard(item)
        item.timer_slot = number
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {item}
            heapq.heappush(self._heap, number)
        else:
            slot.add(item)
        return True

    def cancel(self, item: _TimedItem) -> None:
        """Remove an item."""
        if item.timer_slot is not None:
            self._slots[item.timer_slot].discard(item)
            item.timer_slot = None

    def next_deadline(self) -> float | None:
        """When the next slot with an item in it is due."""
        while self._heap:
            number = self._heap[0]
            if self._slots[number]:
                return number * SLOT_SECONDS
            heapq.heappop(self._heap)
            del self._slots[number]
        return None

    def pop_due(self, now: float) -> Iterator[_TimedItem]:
        """Remove and give the items whose time has come, one by one: those not given yet may still be cancelled."""
        while (when := self.next_deadline()) is not None and when <= now:
            item = self._slots[self._heap[0]].pop()
            item.timer_slot = None
            yield item
