"""Pair: two endpoints, moving bytes between them, and ending both by one reason.

Lives here: what the state of one side means for the other, for every kind of ending (the table in `reasons`). Must not
live here: how one side is ended (`ending`), waiting for sockets (`pump`), time (`liveness`).

Each direction ends for itself: a side has finished when it sent FIN or a close frame, and then the other is told the
same behind the bytes that are still on their way. A side is closed when both of its directions are; the pair is done
when both sides are closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wsbridge.limits.bucket import Bucket
from wsbridge.limits.meter import Meter
from wsbridge.limits.shares import Share
from wsbridge.net.wire import READ_SIZE, RESET
from wsbridge.protocol.frames import CLOSE, PING, read_close_body
from wsbridge.protocol.framing import Violation
from wsbridge.reasons import ENDINGS, Blame, End, Reason
from wsbridge.relay.ending import Ending
from wsbridge.relay.endpoint import Endpoint
from wsbridge.relay.terms import Terms

if TYPE_CHECKING:
    from wsbridge.relay.pump import Pump

ROUNDS = 4
"""Reads in one turn of one direction; then other pairs have theirs."""

FAULT_CODES = frozenset((1002, 1003, 1007, 1008, 1009, 1010, 1011, 1013, 1014))
"""Close codes that tell of a fault: the stream before them is not whole (RFC 6455 section 7.4.1, IANA registry)."""

FLOOD_WINDOW = 5.0
"""Seconds over which control and empty frames are counted."""


class Pair(Ending):
    """Two endpoints under one set of terms.

    Attributes:
        end: Why it ends; None while nothing has ended.
        began: Clock's seconds when it began.
        moved: When payload last moved, either way.
        ready: Whether it waits on the pump's list.
        due: The wheel's slot it is in.
        share: Bytes a second that it has in common with others.
    """

    __slots__ = ("began", "due", "end", "moved", "on_done", "ready", "share")

    def __init__(self, front: Endpoint, back: Endpoint, terms: Terms, pump: Pump) -> None:
        super().__init__(front, back, terms, pump)
        self.end: End | None = None
        self.began = self.moved = pump.now
        self.ready = False
        self.due: int | None = None
        self.share: Share | None = None
        self.on_done: Callable[[], None] = lambda: None
        front.is_front = True
        for side, other in ((front, back), (back, front)):
            side.pair, side.other = self, other
            side.heard = side.spoke = side.flood_since = pump.now

    @property
    def done(self) -> bool:
        """Whether nothing can touch either descriptor any more."""
        return self.front.closed and self.back.closed

    def look_again(self, when: float) -> None:
        """See `Ending.look_again`."""
        self.pump.look_at(self, when)

    def both_closed(self) -> None:
        """See `Ending.both_closed`."""
        self.pump.finished(self)

    def part(self) -> None:
        """Break the cycle of references; only once nothing will move any more."""
        for side in (self.front, self.back):
            del side.pair, side.other

    def meter(self) -> None:
        """Bound what each direction carries, by the terms and the share."""
        rate, share = self.terms.bytes_per_second, self.share
        for side in (self.front, self.back):
            buckets = [] if rate is None else [Bucket(rate)]
            if share is not None:
                buckets.append(share.to_back if side.is_front else share.to_front)
            if buckets or side.meter is not None:  # what waits in `rest` goes out as metered bytes do
                side.meter = Meter(tuple(buckets), READ_SIZE)

    # ------------------------------------------------------------------ moving

    def turn(self) -> None:
        """Move what can be moved, both ways, and bring an ending forward."""
        for side in (self.front, self.back):
            if side.pending is not None or side.pong is not None:
                side.flush(self.pump.now)
        self.move(self.front, self.back)
        self.move(self.back, self.front)
        for side in (self.front, self.back):
            if side.wire.ended == RESET and self.cannot_read_on(side):
                self.lost(side, side.other, side.wire.error)
        if self.end is not None:
            self.settle(self.front)
            self.settle(self.back)

    def move(self, src: Endpoint, dst: Endpoint) -> None:
        """Move payload from one side to the other until one of them would block, or the turn is over."""
        wire = src.wire
        now = self.pump.now
        rounds = ROUNDS
        while src.rx == "open" and (wire.readable or src.rest) and (dst.pending is None or src.drop):
            if not rounds:
                self.pump.later(self)
                return
            rounds -= 1
            if src.meter is None:
                chunks, marks = src.pull(now)
            else:
                room = READ_SIZE if src.drop else src.meter.room(now)
                if not room:
                    self.look_again(src.meter.until)
                    return
                chunks, marks = src.pull_some(room, now)
                src.meter.take(sum(map(len, chunks)))
            if chunks and not src.drop:
                self.moved = now
                src.received += len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
                dst.push(chunks, marks, now)
                if dst.wire.ended == RESET:
                    self.pump.later(self)
            if src.notice:
                self.heed(src, dst)
        if wire.ended is not None and src.rx == "open" and not wire.readable and not src.rest:
            self.stream_ended(src, dst)

    def cannot_read_on(self, side: Endpoint) -> bool:
        """Tell whether a side that was reset will not be read to its end, so that the reset counts now.

        It had finished, and takes the answer no longer; or it is a front whose backend does not take what it sent, or
        may not have it yet, and would be reset for it all the same.
        """
        if side.rx == "closed":
            return side.tx == "open"
        held_up = side.other.pending is not None or side.starved
        return side.is_front and side.rx == "open" and held_up and not self.terms.lost_is_fin

    def heed(self, src: Endpoint, dst: Endpoint) -> None:
        """Act on what came besides payload."""
        now = self.pump.now
        src.notice = False
        controls, src.controls = src.controls, None
        for opcode, body in controls or ():
            if opcode == PING:
                src.answer_ping(body, now)
            elif opcode == CLOSE:
                code, text = read_close_body(body)
                self.finished(src, dst, code, text)
        violation, src.violation = src.violation, None
        seconds = max(FLOOD_WINDOW, now - src.flood_since)
        if violation is None and src.framing.chaff - src.flood_base > self.terms.chaff_rate * seconds:
            violation = Violation(
                Reason.FLOOD,
                f"more than {self.terms.chaff_rate} control or empty frames a second over {FLOOD_WINDOW:.0f} s",
            )
        if violation is not None:
            self.violated(src, dst, violation)
        elif now - src.flood_since >= FLOOD_WINDOW:
            src.flood_since, src.flood_base = now, src.framing.chaff

    # ------------------------------------------------------------------ what a side did

    def stream_ended(self, src: Endpoint, dst: Endpoint) -> None:
        """The transport of a side ended: FIN, reset, or TLS cut off."""
        told = src.is_websocket and src.goodbye is not None and src.tx != "open" and src.pending is None
        if told and src.wire.ended == RESET and dst.is_front and not dst.is_websocket and dst.tx == "open":
            told = False  # a raw client had ended first, and its answer broke off
        if told:
            src.rx = "closed"  # it took our close frame as the end, or never answered it
            src.tx = "closed"
            if src.wire.ended == RESET and src.is_front and dst.tx == "open" and not self.terms.lost_is_fin:
                self.abort(dst)  # what it sent may not be whole
            else:
                self.finish(dst, None, "")
            self.progressed()
        elif src.wire.ended == RESET or src.is_websocket:
            self.lost(src, dst, src.wire.error or "the connection ended without a close frame")
        else:
            self.finished(src, dst, None, "")

    def finished(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """A side ended its stream in order: FIN from a raw one, a close frame from a WebSocket."""
        if code in FAULT_CODES and not src.is_front and not dst.is_websocket:
            self.failed(src, dst, f"closed with {code} {text}".rstrip(), code)
            return
        first = self.end is None
        reason = Reason.CLIENT_CLOSED if src.is_front else Reason.BACKEND_CLOSED
        if first:
            self.end = End(reason, self.blame(src), code=code)
        src.rx = "closed"
        src.rest = b""
        if src.is_websocket:
            if dst.is_websocket:
                self.finish(dst, code, text)
            else:
                self.finish(dst, None, "")
                if src.is_front and not self.terms.deliver:
                    self.discard(dst)
            if dst.rx != "open" or dst.closed or dst.drop:
                self.finish(src, 1000 if code is None else code, text)
            else:
                src.say_goodbye(1000 if code is None else code, text)
            self.half_closed = first and dst.rx == "open" and not dst.is_websocket
        else:
            self.finish(dst, 1000, reason.value)
            self.half_closed = first and not (dst.is_websocket and not src.is_front)
        self.in_order = True
        self.patience = self.terms.half_close if self.half_closed else self.terms.close
        if src.goodbye is not None and dst.rx != "open":
            self.finish(src, None, "")
        self.progressed()

    def failed(self, back: Endpoint, front: Endpoint, detail: str, code: int | None) -> None:
        """A WebSocket backend ended for a fault: a raw front must not take what it got for the whole."""
        if self.end is None or front.tx == "open":
            self.end = End(Reason.BACKEND_RESET, "back", detail, code=code)
        back.rx = "closed"
        back.rest = b""
        self.finish(back, code, "")
        self.half_closed = False
        self.patience = self.terms.close
        self.progressed()
        if not front.closed:
            front.drop = True
            self.break_off(front, Reason.BACKEND_RESET)

    def lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """A side vanished: reset, or no life in it."""
        reason = Reason.CLIENT_LOST if src.is_front else Reason.BACKEND_RESET
        whole = (
            self.end is not None and dst.tx != "open" and (src.tx != "open" or (src.rx == "closed" and dst.is_front))
        )
        if not whole:
            self.end = End(reason, self.blame(src), detail)
        self.abort(src)
        self.half_closed = False
        self.patience = self.terms.close
        self.progressed()
        if dst.closed:
            return
        dst.drop = True
        if whole:
            if not dst.is_websocket:
                self.discard(dst)
        elif src.is_front and not self.terms.lost_is_fin:
            self.abort(dst)
        elif src.is_front:
            self.finish(dst, 1001, reason.value)
            self.discard(dst)
        else:
            self.break_off(dst, reason)

    def violated(self, src: Endpoint, dst: Endpoint, violation: Violation) -> None:
        """A side broke the protocol: it is told so, and the other side sees that the stream is not whole."""
        if self.end is None or src.tx == "open":  # else it has been told another reason
            self.end = End(violation.reason, self.blame(src), violation.detail)
        self.half_closed = False
        self.patience = self.terms.close
        self.progressed()
        self.finish(src, ENDINGS[violation.reason].code, violation.reason.value)
        self.discard(src)
        if dst.closed:
            return
        if src.is_front:
            self.abort(dst)
        else:
            dst.drop = True
            self.break_off(dst, violation.reason)

    def terminate(self, end: End) -> None:
        """End both sides for a reason of our own: a time limit, a drain, a bug."""
        stalled = end.reason is Reason.WRITE_STALLED
        if self.end is not None and self.front.tx != "open" and self.back.tx != "open" and not stalled:
            if self.in_order:
                self.in_order = False  # from now on, what waits has `close` to go
                self.progressed()
            return
        self.end = end
        self.in_order = self.half_closed = False
        self.patience = self.terms.close
        self.progressed()
        row = ENDINGS[end.reason]
        for side in (self.front, self.back):
            if side.closed:
                continue
            if (row.code is None and row.reset) or (row.reset and not side.is_websocket):
                self.abort(side)
            else:
                self.finish(side, row.code, end.reason.value)
                side.drop = True
                if not side.is_websocket:
                    self.discard(side)
        self.pump.later(self)

    def break_off(self, side: Endpoint, reason: Reason) -> None:
        """Tell the front that what it got is not whole: its bytes first, then 1011 or a reset."""
        self.in_order = True
        if side.is_websocket:
            if side.goodbye:
                side.goodbye = None  # an orderly one, not sent yet
            side.say_goodbye(1011, reason.value)
            self.finish(side, 1011, reason.value)
        elif side.tx in ("open", "finishing"):
            side.tx = "resetting"
            self.discard(side)

    @staticmethod
    def blame(side: Endpoint) -> Blame:
        """Give the side its name in the log."""
        return "front" if side.is_front else "back"
