"""Liveness: what time does to a pair.

Lives here: idle and age limits, pings and their deadlines, stalled writes, the patience of an ending. Must not live
here: the clock and when to look (`wheel`, `pump`).

Progress means bytes that the peer's TCP acknowledged: the kernel takes megabytes at once that a slow link needs
minutes for, so what the kernel took says nothing about the peer.
"""

from __future__ import annotations

from wsbridge.reasons import End, Reason
from wsbridge.relay.endpoint import Endpoint
from wsbridge.relay.pair import Pair

FAR = 3600.0
"""Seconds after which a pair without any deadline is looked at all the same."""


def check(pair: Pair, now: float) -> float:
    """Do what is due, and give when to look again.

    Args:
        pair: Not done.
        now: Seconds of the loop's clock.
    """
    due = now + FAR
    if pair.front.tx == "open" or pair.back.tx == "open":
        due = min(_age(pair, now), _idleness(pair, now))
    for side in (pair.front, pair.back):
        if side.tx == "open" or pair.delivers(side):
            due = min(due, _writing(pair, side, now))
        if side.tx == "open" and side.rx == "open" and side.is_websocket:
            due = min(due, _pinging(pair, side, now))
    if pair.end is not None and not pair.done:
        due = min(due, _ending(pair, now))
    return due


def _age(pair: Pair, now: float) -> float:
    limit, expires = pair.terms.max_age, pair.terms.expires
    due = now + FAR
    if limit is not None:
        due = pair.began + limit
        if now >= due:
            pair.terminate(End(Reason.MAX_AGE, "bridge", f"older than max_age, {limit:g} s"))
    if expires is not None:
        due = min(due, expires)
        if now >= expires:
            pair.terminate(End(Reason.AUTH_EXPIRED, "front", "what proved who the client is has expired"))
    return due


def _idleness(pair: Pair, now: float) -> float:
    limit = pair.terms.idle
    if limit is None:
        return now + FAR
    if now >= pair.moved + limit:
        taken = [_progressed(side) and _owed(side) for side in (pair.front, pair.back)]  # each is asked
        if any(taken):
            pair.moved = now
        else:
            pair.terminate(End(Reason.IDLE_TIMEOUT, "bridge", f"no payload for idle, {limit:g} s"))
    return pair.moved + limit


def _progressed(side: Endpoint) -> bool:
    """Tell whether a peer acknowledged bytes since this was last asked."""
    if side.closed:
        return False
    before, side.acked = side.acked, side.wire.acked()
    return side.acked > before


def _owed(side: Endpoint) -> bool:
    """Tell whether a peer still has bytes of ours to take."""
    return side.pending is not None or side.wire.unacked() > 0


def _writing(pair: Pair, side: Endpoint, now: float) -> float:
    """A side that has bytes to take must acknowledge some within `write`."""
    limit = pair.terms.write
    if (side.pending is None and side.tx == "open") or limit is None:
        side.stalled_since = None
        return now + (limit or FAR)
    if side.stalled_since is None or now >= side.stalled_since + limit:
        acked = side.wire.acked()
        if side.stalled_since is not None and acked == side.stalled_acked:
            pair.terminate(End(Reason.WRITE_STALLED, pair.blame(side), f"took nothing for write, {limit:g} s"))
            return now
        side.stalled_since, side.stalled_acked = now, acked
    return side.stalled_since + limit


def _pinging(pair: Pair, side: Endpoint, now: float) -> float:
    """Ping a side that is silent either way. Any byte received is life; without one `pong` runs.

    It runs from when the ping was acknowledged, and stands still while we do not read that side because the other
    is blocked or it may send no more for now. A peer whose kernel answers nothing, not even what is repeated, gets no
    more than `pong` either.
    """
    ping, pong = pair.terms.ping, pair.terms.pong
    if ping is None:
        return now + FAR
    if side.ping_since is not None and side.heard > side.ping_since:
        side.ping_since = None
    if side.ping_since is None:
        due = min(side.heard, side.spoke) + ping
        if now < due:
            return due
        side.ping_since = side.ping_clock = now
        side.ping_target, side.ping_acked = None, side.wire.acked()
    if side.ping_target is None and side.pending is None:
        side.ping(now)  # it would queue behind pending bytes, and those ask the same of the peer's kernel
        side.ping_target = side.wire.acked() + side.wire.unacked()
    acked = side.wire.acked()
    if (
        ((side.other.pending is not None or side.starved) and not side.drop)
        or (acked < (side.ping_target or 0) and acked > side.ping_acked)
        or ((side.ping_target is None or acked < side.ping_target) and not side.wire.unanswered())
    ):
        side.ping_clock = now
    side.ping_acked = acked
    if now >= side.ping_clock + pong:
        pair.lost(side, side.other, f"no answer to a ping for pong, {pong:g} s")
    return min(side.ping_clock + pong, now + min(ping / 2, pong / 4))


def _ending(pair: Pair, now: float) -> float:
    """An ending that makes no progress for as long as its patience is forced."""
    sides = (pair.front, pair.back)
    for side in sides:
        pair.settle(side)
    if any(pair.delivers(side) for side in sides):
        pair.ending_since = now  # `write` bounds that; then the peers have their time to answer
    elif not pair.done and now >= pair.ending_since + pair.patience:
        # a side that is still sent payload may take it for ever: that counts only while half-closed
        taken = [_progressed(side) and (side.tx != "open" or pair.half_closed) for side in sides]  # each is asked
        if any(taken) or (pair.half_closed and pair.moved > pair.ending_since):
            pair.ending_since = now
        else:
            pair.force()
            for side in sides:
                pair.settle(side)
    due = pair.ending_since + pair.patience
    for side in sides:
        if side.linger_until is not None and not side.closed:
            due = min(due, side.linger_until)
        if side.tx == "resetting":
            due = now
    return due
