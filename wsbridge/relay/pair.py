"""Pair: two endpoints, moving bytes between them, and ending both by one reason.

Lives here: what the state of one side means for the other, for every kind of ending (the table in `reasons`). Must not
live here: waiting for sockets (`pump`), time (`liveness`).

Each direction ends for itself: a side has finished when it sent FIN or a close frame, and then the other is told the
same behind the bytes that are still on their way. A side is closed when both of its directions are; the pair is done
when both sides are closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wsbridge.net.wire import RESET
from wsbridge.protocol.frames import CLOSE, PING, read_close_body
from wsbridge.protocol.framing import Violation
from wsbridge.reasons import ENDINGS, Blame, End, Reason
from wsbridge.relay.endpoint import Endpoint
from wsbridge.relay.terms import Terms

if TYPE_CHECKING:
    from wsbridge.relay.pump import Pump

ROUNDS = 4
"""Reads in one turn of one direction; then other pairs have theirs."""

FLOOD_WINDOW = 5.0
"""Seconds over which control and empty frames are counted."""


class Pair:
    """Two endpoints under one set of terms.

    Attributes:
        end: Why it ends; None while nothing has ended.
        acked: Bytes that both peers had acknowledged when `liveness` last asked.
        began: Clock's seconds when it began.
        moved: When payload last moved, either way.
        patience: Once it ends: seconds without progress after which it is forced.
        ending_since: When it last made progress towards its end.
        ready: Whether it waits on the pump's list.
        due: The wheel's slot it is in.
    """

    __slots__ = (
        "acked",
        "back",
        "began",
        "due",
        "end",
        "ending_since",
        "front",
        "moved",
        "on_done",
        "patience",
        "pump",
        "ready",
        "terms",
        "token",
    )

    def __init__(self, front: Endpoint, back: Endpoint, terms: Terms, pump: Pump) -> None:
        self.front = front
        self.back = back
        self.terms = terms
        self.pump = pump
        self.end: End | None = None
        self.began = self.moved = self.ending_since = pump.now
        self.patience = terms.close
        self.acked = 0
        self.ready = False
        self.due: int | None = None
        self.on_done: Callable[[], None] = lambda: None
        front.is_front = True
        for side, other in ((front, back), (back, front)):
            side.pair, side.other = self, other
            side.heard = side.spoke = side.flood_since = pump.now

    @property
    def done(self) -> bool:
        """Whether nothing can touch either descriptor any more."""
        return self.front.closed and self.back.closed

    def part(self) -> None:
        """Break the cycle of references; only once nothing will move any more."""
        for side in (self.front, self.back):
            del side.pair, side.other

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
            chunks, marks = src.pull(now)
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

        It had finished, and takes the answer no longer; or it is a front whose backend does not take what it sent,
        and would be reset for it all the same.
        """
        if side.rx == "closed":
            return side.tx == "open"
        return side.is_front and side.rx == "open" and side.other.pending is not None and not self.terms.lost_is_fin

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
        if violation is None and src.framing.chaff - src.flood_base > self.terms.chaff_rate * FLOOD_WINDOW:
            violation = Violation(
                Reason.FLOOD, f"more than {self.terms.chaff_rate} control or empty frames a second over {FLOOD_WINDOW:.0f} s"
            )
        if violation is not None:
            self.violated(src, dst, violation)
        elif now - src.flood_since >= FLOOD_WINDOW:
            src.flood_since, src.flood_base = now, src.framing.chaff

    # ------------------------------------------------------------------ what a side did

    def stream_ended(self, src: Endpoint, dst: Endpoint) -> None:
        """The transport of a side ended: FIN, reset, or TLS cut off."""
        if src.is_websocket and src.goodbye is not None and src.tx != "open" and src.pending is None:
            src.rx = "closed"  # it took our close frame as the end, or never answered it
            self.finish(dst, None, "")
            src.tx = "closed"
            src.pending = None
            self.progressed()
        elif src.wire.ended == RESET or src.is_websocket:
            self.lost(src, dst, src.wire.error or "the connection ended without a close frame")
        else:
            self.finished(src, dst, None, "")

    def finished(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """A side ended its stream in order: FIN from a raw one, a close frame from a WebSocket."""
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
                if not self.terms.deliver or not src.is_front or not first:
                    self.discard(dst)
            if dst.rx != "open" or dst.closed or dst.drop:
                self.finish(src, 1000 if code is None else code, text)
            else:
                src.say_goodbye(1000 if code is None else code, text)
            self.patience = self.terms.half_close if first and dst.rx == "open" and not dst.is_websocket else self.terms.close
        else:
            self.finish(dst, 1000, reason.value)
            waits = dst.is_websocket and not src.is_front
            self.patience = self.terms.close if waits or not first else self.terms.half_close
        if src.goodbye is not None and dst.rx != "open":
            self.finish(src, None, "")
        self.progressed()

    def lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """A side vanished: reset, or no life in it."""
        reason = Reason.CLIENT_LOST if src.is_front else Reason.BACKEND_RESET
        whole = self.end is not None and dst.tx != "open" and src.tx != "open"
        if not whole:
            self.end = End(reason, self.blame(src), detail)
        self.abort(src)
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
        self.end = End(violation.reason, self.blame(src), violation.detail)
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
        if self.end is not None and self.front.tx != "open" and self.back.tx != "open":
            return  # it ends already, within `close`
        self.end = end
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
        if side.is_websocket:
            self.finish(side, 1011, reason.value)
        elif side.tx in ("open", "finishing"):
            side.tx = "resetting"
            self.discard(side)

    @staticmethod
    def blame(side: Endpoint) -> Blame:
        """Give the side its name in the log."""
        return "front" if side.is_front else "back"

    def progressed(self) -> None:
        """Start the patience of the ending anew."""
        self.ending_since = self.pump.now
        self.pump.look_at(self, self.ending_since + min(self.patience, self.terms.close))

    # ------------------------------------------------------------------ ending a side

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
        if side.tx == "finishing" and side.pending is None:
            if side.goodbye:
                frame, side.goodbye = side.goodbye, b""
                side.send(frame, now)
            if side.pending is None and (side.is_websocket or side.wire.finish()):
                side.tx = "closed"
                self.pump.look_at(self, now + self.terms.close)
        elif side.tx == "resetting" and side.pending is None:
            if side.wire.ended == RESET or not side.wire.unacked():
                self.abort(side)
                return
            self.pump.look_at(self, now)
        if side.tx == "closed":
            if side.rx == "closed":
                self.shut(side)
            elif side.rx == "discarding":
                self.linger(side)
        elif side.rx == "discarding" and side.wire.ended == RESET:
            self.abort(side)

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
            side.linger_until = now + self.terms.linger
            side.linger_left = side.linger_left or self.terms.linger_bytes
            if not self.pump.may_linger():
                self.close(side)
                return
            self.pump.lingering += 1
            self.pump.look_at(self, side.linger_until)
        side.linger_left -= side.wire.discard()
        if side.wire.ended is not None or side.linger_left <= 0 or now >= side.linger_until:
            self.pump.lingering -= 1
            self.close(side)

    def close(self, side: Endpoint) -> None:
        """Close a side's descriptor."""
        self.pump.forget(side)
        side.closed = True
        side.rx = side.tx = "closed"
        side.pending = None
        side.wire.close()
        if side.other.closed:
            self.pump.finished(self)

    def abort(self, side: Endpoint) -> None:
        """Reset a side."""
        if side.closed:
            return
        self.pump.forget(side)
        side.closed = True
        side.rx = side.tx = "closed"
        side.pending = None
        side.wire.abort()
        if side.other.closed:
            self.pump.finished(self)

    def force(self) -> None:
        """Patience is over: cut what has not ended by itself."""
        for side in (self.front, self.back):
            if side.closed:
                continue
            if side.tx == "open":
                if side.is_websocket:
                    self.finish(side, 1000, "")
                    side.drop = True
                else:
                    self.abort(side)
            elif side.tx in ("finishing", "resetting"):
                self.abort(side)
            elif side.rx == "open":
                self.discard(side)
        self.patience = self.terms.close
        self.progressed()
