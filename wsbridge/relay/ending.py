"""Ending: how each side of a pair is brought to its end, whatever the reason.

Lives here: one side at a time: FIN or close frame behind what is pending, reading on, lingering, closing. Must not
live here: which reason means what for which side (`pair`), when patience is over (`liveness`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from wsbridge.net.wire import RESET
from wsbridge.relay.endpoint import Endpoint
from wsbridge.relay.terms import Terms

if TYPE_CHECKING:
    from wsbridge.relay.pump import Pump


class Ending(ABC):
    """The part of a pair that ends its sides.

    Attributes:
        patience: Once it ends: seconds without progress after which it is forced.
        ending_since: When it last made progress towards its end.
        half_closed: Whether one side has ended and the other goes on, for `half_close` of silence.
        in_order: Whether it ends because of a side, so that what waits for the other has `write` to go.
    """

    __slots__ = ("back", "ending_since", "front", "half_closed", "in_order", "patience", "pump", "terms")

    def __init__(self, front: Endpoint, back: Endpoint, terms: Terms, pump: Pump) -> None:
        self.front = front
        self.back = back
        self.terms = terms
        self.pump = pump
        self.patience = terms.close
        self.ending_since = pump.now
        self.half_closed = False
        self.in_order = False

    @abstractmethod
    def look_again(self, when: float) -> None:
        """Have `liveness` look at the pair no later than `when`."""

    @abstractmethod
    def both_closed(self) -> None:
        """Be told that nothing can touch either descriptor any more."""

    def progressed(self) -> None:
        """Start the patience of the ending anew."""
        self.ending_since = self.pump.now
        self.look_again(self.ending_since + min(self.patience, self.terms.close))

    def finish(self, side: Endpoint, code: int | None, text: str) -> None:
        """End what a side is sent, behind what is pending."""
        if side.tx == "open":
            side.tx = "finishing"
            if side.is_websocket:
                side.say_goodbye(code, text)

    def discard(self, side: Endpoint) -> None:
        """From now on read what a side sends and drop it, undecoded."""
        if side.rx == "open" and not side.closed:
            side.rx = "discarding"
            side.rest = b""
            side.wire.readable = True
            if side.linger_until is None:
                side.linger_left = self.terms.linger_bytes

    def settle(self, side: Endpoint) -> None:
        """Bring the ending of one side as far as it goes now."""
        if side.closed:
            return
        now = self.pump.now
        finished = False
        if side.tx == "finishing" and side.pending is None and not self.held(side):
            if side.goodbye:
                frame, side.goodbye = side.goodbye, b""
                side.send(frame, now)
            if side.pending is None and (side.is_websocket or side.wire.finish()):
                side.tx = "closed"
                finished = True
                self.ending_since = now
                self.look_again(now + self.terms.close)
        elif side.tx == "resetting" and side.pending is None:
            if side.wire.ended == RESET or not side.wire.unacked():
                self.abort(side)
                return
            self.look_again(now)
        if side.tx == "closed":
            if side.rx == "closed":
                self.shut(side)
            elif side.rx == "discarding":
                self.linger(side)
        elif side.rx == "discarding" and side.wire.ended == RESET:
            self.abort(side)
        elif side.rx == "discarding" and side.tx == "finishing":
            self.drop_input(side)  # else a peer that first wants its answer taken would never read on
        if finished:
            self.settle(side.other)  # its answer may have waited for this

    def delivers(self, side: Endpoint) -> bool:
        """Tell whether bytes wait for a side whose other has ended, so that `write` is their time and not `close`.

        For a front, those count too that only its kernel or ours holds, since closing the socket could destroy them. A
        client's close frame is answered within `close`, so what came before it has no longer either.
        """
        if side.tx == "open" or side.closed or not self.in_order:
            return False
        if side.pending is not None:
            return side.is_front or not side.other.is_websocket
        return side.is_front and side.wire.unacked() > 0 and not side.wire.unanswered()

    def held(self, side: Endpoint) -> bool:
        """Tell whether the answer to a close frame waits until what came before it has gone on to the other side."""
        other = side.other
        return side.is_websocket and side.rx == "closed" and other.tx == "finishing" and other.pending is not None

    def shut(self, side: Endpoint) -> None:
        """Both directions are over: close, unless unread input would turn that into a reset."""
        if side.is_websocket and side.linger_until is None:
            if not side.wire.finish():
                return
            dropped = side.wire.discard()
            if dropped and side.wire.ended is None:
                side.rx = "discarding"
                self.linger(side)
                return
        self.close(side)

    def linger(self, side: Endpoint) -> None:
        """Read and drop until the peer ends, for a bounded time and a bounded number of bytes."""
        now = self.pump.now
        if side.linger_until is None:
            if side.is_websocket and not side.wire.finish():
                return
            if not self.pump.may_linger():
                self.close(side)
                return
            side.linger_until = now + self.terms.linger
            side.linger_left = self.terms.linger_bytes
            self.pump.lingering += 1
            self.look_again(side.linger_until)
        self.drop_input(side)
        if side.wire.ended is not None or side.linger_left <= 0 or now >= side.linger_until:
            self.close(side)

    @staticmethod
    def drop_input(side: Endpoint) -> None:
        """Read and drop what has come, within the bytes allowed."""
        while side.linger_left > 0 and (dropped := side.wire.discard()):
            side.linger_left -= dropped

    def close(self, side: Endpoint) -> None:
        """Close a side's descriptor."""
        self.let_go(side, side.wire.close)

    def abort(self, side: Endpoint) -> None:
        """Reset a side."""
        if not side.closed:
            self.let_go(side, side.wire.abort)

    def let_go(self, side: Endpoint, how: Callable[[], None]) -> None:
        """Be done with a side."""
        self.pump.forget(side)
        if side.linger_until is not None:
            side.linger_until = None
            self.pump.lingering -= 1
        side.closed = True
        side.rx = side.tx = "closed"
        side.pending = None
        how()
        if side.other.closed:
            self.both_closed()

    def force(self) -> None:
        """Patience is over: cut what has not ended by itself."""
        for side in (self.front, self.back):
            if side.closed:
                continue
            if side.tx == "open":
                if side.is_websocket:
                    self.finish(side, 1000, "")
                    side.drop = True
                elif side.is_front:
                    self.abort(side)  # what it got of the answer is not whole
                else:
                    self.finish(side, None, "")
            elif side.tx in ("finishing", "resetting"):
                self.abort(side)
            elif side.rx == "open":
                self.discard(side)
            elif side.linger_until is None:
                self.abort(side)  # not even the end of what we send could be sent
        self.half_closed = self.in_order = False
        self.patience = self.terms.close
        self.progressed()
