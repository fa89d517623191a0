"""Relay: two endpoints, transfer, half-close and close rules (one state machine)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsbridge.limits.rate import RateLimiter, SharedBucket, TokenBucket
from wsbridge.net.transport import READ_SIZE, RESET
from wsbridge.protocol.websocket import CLOSE, PING, Violation, decode_close_body
from wsbridge.reasons import REASONS, Initiator, Reason, Termination
from wsbridge.relay.endpoint import Endpoint

if TYPE_CHECKING:
    from wsbridge.relay.loop import RelayLoop


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Times in seconds, None for off.

    Attributes:
        idle: Without payload either way, the connection ends.
        ping_interval: A WebSocket side silent this long in either direction gets a ping.
        ping_timeout: Time for life after a ping was acknowledged.
        write: A side that has bytes to take may make no progress this long.
        half_close: After one side has ended, the other direction may be silent this long.
        close: Time for the peer's part of an ending.
        max_lifetime: Longest life of a connection.
        auth_expires: When who the client is no longer holds, by the loop's clock.
        lingering: Time in which input is still read and dropped before a socket is closed.
        lingering_bytes: Bytes of it.
        control_frame_rate: Control and empty frames a second, over 5 s, that a peer may send.
        deliver_after_close: After a client's close frame, what the backend still sends is sent on.
        half_close_on_loss: A client that vanished ends a raw backend with FIN instead of a reset.
        bytes_per_second: Payload that each direction may carry.
    """

    idle: float | None = None
    ping_interval: float | None = 20.0
    ping_timeout: float = 20.0
    write: float | None = 600.0
    half_close: float = 30.0
    close: float = 5.0
    max_lifetime: float | None = None
    auth_expires: float | None = None
    lingering: float = 2.0
    lingering_bytes: int = 262144
    control_frame_rate: int = 2000
    deliver_after_close: bool = False
    half_close_on_loss: bool = False
    bytes_per_second: int | None = None


class RelayBase(ABC):
    """The part of a pair that ends its sides.

    Attributes:
        close_timeout: Once it ends: seconds without progress after which it is forced.
        close_timer_start: When it last made progress towards its end.
        half_closed: Whether one side has ended and the other goes on, for `half_close` of silence.
        graceful: Whether it ends because of a side, so that what waits for the other has `write` to go.
    """

    __slots__ = ("back", "close_timeout", "close_timer_start", "front", "graceful", "half_closed", "loop", "options")

    def __init__(self, front: Endpoint, back: Endpoint, options: RelayOptions, loop: RelayLoop) -> None:
        self.front = front
        self.back = back
        self.options = options
        self.loop = loop
        self.close_timeout = options.close
        self.close_timer_start = loop.now
        self.half_closed = False
        self.graceful = False

    @abstractmethod
    def schedule(self, deadline: float) -> None:
        """Have `liveness` look at the pair no later than `when`."""

    @abstractmethod
    def on_both_closed(self) -> None:
        """Be told that nothing can touch either descriptor any more."""

    def reset_close_timer(self) -> None:
        """Start the patience of the ending anew."""
        self.close_timer_start = self.loop.now
        self.schedule(self.close_timer_start + min(self.close_timeout, self.options.close))

    def queue_close(self, side: Endpoint, code: int | None, text: str) -> None:
        """End what a side is sent, behind what is pending."""
        if side.tx == "open":
            side.tx = "finishing"
            if side.is_websocket:
                side.queue_close(code, text)

    def start_discarding(self, side: Endpoint) -> None:
        """From now on read what a side sends and drop it, undecoded."""
        if side.rx == "open" and not side.closed:
            side.rx = "discarding"
            side.undecoded = b""
            side.transport.readable = True
            if side.linger_deadline is None:
                side.linger_bytes_left = self.options.lingering_bytes

    def advance_close(self, side: Endpoint) -> None:
        """Bring the ending of one side as far as it goes now."""
        if side.closed:
            return
        now = self.loop.now
        finished = False
        if side.tx == "finishing" and side.pending is None and not self.close_deferred(side):
            if side.close_frame:
                frame, side.close_frame = side.close_frame, b""
                side.send_frame(frame, now)
            if side.pending is None and (side.is_websocket or side.transport.send_eof()):
                side.tx = "closed"
                finished = True
                self.close_timer_start = now
                self.schedule(now + self.options.close)
        elif side.tx == "resetting" and side.pending is None:
            if side.transport.read_state == RESET or not side.transport.unacked_bytes():
                self.abort(side)
                return
            self.schedule(now)
        if side.tx == "closed":
            if side.rx == "closed":
                self.close_transport(side)
            elif side.rx == "discarding":
                self.linger(side)
        elif side.rx == "discarding" and side.transport.read_state == RESET:
            self.abort(side)
        elif side.rx == "discarding" and side.tx == "finishing":
            self.discard_received(side)  # else a peer that first wants its answer taken would never read on
        if finished:
            self.advance_close(side.other)  # its answer may have waited for this

    def has_pending_delivery(self, side: Endpoint) -> bool:
        """Tell whether bytes wait for a side whose other has ended, so that `write` is their time and not `close`.

        For a front, those count too that only its kernel or ours holds, since closing the socket could destroy them. A
        client's close frame is answered within `close`, so what came before it has no longer either.
        """
        if side.tx == "open" or side.closed or not self.graceful:
            return False
        if side.pending is not None:
            return side.is_front or not side.other.is_websocket
        return side.is_front and side.transport.unacked_bytes() > 0 and not side.transport.retransmitting()

    def close_deferred(self, side: Endpoint) -> bool:
        """Tell whether the answer to a close frame waits until what came before it has gone on to the other side."""
        other = side.other
        return side.is_websocket and side.rx == "closed" and other.tx == "finishing" and other.pending is not None

    def close_transport(self, side: Endpoint) -> None:
        """Both directions are over: close, unless unread input would turn that into a reset."""
        if side.is_websocket and side.linger_deadline is None:
            if not side.transport.send_eof():
                return
            dropped = side.transport.discard()
            if dropped and side.transport.read_state is None:
                side.rx = "discarding"
                self.linger(side)
                return
        self.close_now(side)

    def linger(self, side: Endpoint) -> None:
        """Read and drop until the peer ends, for a bounded time and a bounded number of bytes."""
        now = self.loop.now
        if side.linger_deadline is None:
            if side.is_websocket and not side.transport.send_eof():
                return
            if not self.loop.may_linger():
                self.close_now(side)
                return
            side.linger_deadline = now + self.options.lingering
            side.linger_bytes_left = self.options.lingering_bytes
            self.loop.lingering += 1
            self.schedule(side.linger_deadline)
        self.discard_received(side)
        if side.transport.read_state is not None or side.linger_bytes_left <= 0 or now >= side.linger_deadline:
            self.close_now(side)

    @staticmethod
    def discard_received(side: Endpoint) -> None:
        """Read and drop what has come, within the bytes allowed."""
        while side.linger_bytes_left > 0 and (dropped := side.transport.discard()):
            side.linger_bytes_left -= dropped

    def close_now(self, side: Endpoint) -> None:
        """Close a side's descriptor."""
        self.detach(side, side.transport.close)

    def abort(self, side: Endpoint) -> None:
        """Reset a side."""
        if not side.closed:
            self.detach(side, side.transport.abort)

    def detach(self, side: Endpoint, close: Callable[[], None]) -> None:
        """Be done with a side."""
        self.loop.unregister(side)
        if side.linger_deadline is not None:
            side.linger_deadline = None
            self.loop.lingering -= 1
        side.closed = True
        side.rx = side.tx = "closed"
        side.pending = None
        close()
        if side.other.closed:
            self.on_both_closed()

    def force_close(self) -> None:
        """Patience is over: cut what has not ended by itself."""
        for side in (self.front, self.back):
            if side.closed:
                continue
            if side.tx == "open":
                if side.is_websocket:
                    self.queue_close(side, 1000, "")
                    side.discard_payload = True
                elif side.is_front:
                    self.abort(side)  # what it got of the answer is not whole
                else:
                    self.queue_close(side, None, "")
            elif side.tx in ("finishing", "resetting"):
                self.abort(side)
            elif side.rx == "open":
                self.start_discarding(side)
            elif side.linger_deadline is None:
                self.abort(side)  # not even the end of what we send could be sent
        self.half_closed = self.graceful = False
        self.close_timeout = self.options.close
        self.reset_close_timer()


MAX_READS_PER_TURN = 4
"""Reads in one turn of one direction; then other pairs have theirs."""

ERROR_CLOSE_CODES = frozenset((1002, 1003, 1007, 1008, 1009, 1010, 1011, 1013, 1014))
"""Close codes that tell of a fault: the stream before them is not whole (RFC 6455 section 7.4.1, IANA registry)."""

CONTROL_FLOOD_WINDOW = 5.0
"""Seconds over which control and empty frames are counted."""


class Relay(RelayBase):
    """Two endpoints under one set of terms.

    Attributes:
        termination: Why it ends; None while nothing has ended.
        started: Clock's seconds when it began.
        last_payload: When payload last moved, either way.
        ready: Whether it waits on the pump's list.
        timer_slot: The wheel's slot it is in.
        share: Bytes a second that it has in common with others.
    """

    __slots__ = ("last_payload", "on_done", "ready", "share", "started", "termination", "timer_slot")

    def __init__(self, front: Endpoint, back: Endpoint, options: RelayOptions, loop: RelayLoop) -> None:
        super().__init__(front, back, options, loop)
        self.termination: Termination | None = None
        self.started = self.last_payload = loop.now
        self.ready = False
        self.timer_slot: int | None = None
        self.share: SharedBucket | None = None
        self.on_done: Callable[[], None] = lambda: None
        front.is_front = True
        for side, other in ((front, back), (back, front)):
            side.relay, side.other = self, other
            side.last_received = side.last_sent = side.control_window_start = loop.now

    @property
    def done(self) -> bool:
        """Whether nothing can touch either descriptor any more."""
        return self.front.closed and self.back.closed

    def schedule(self, deadline: float) -> None:
        """See `Ending.look_again`."""
        self.loop.schedule(self, deadline)

    def on_both_closed(self) -> None:
        """See `Ending.both_closed`."""
        self.loop.finished(self)

    def unlink(self) -> None:
        """Break the cycle of references; only once nothing will move any more."""
        for side in (self.front, self.back):
            del side.relay, side.other

    def apply_rate_limits(self) -> None:
        """Bound what each direction carries, by the terms and the share."""
        rate, share = self.options.bytes_per_second, self.share
        for side in (self.front, self.back):
            buckets = [] if rate is None else [TokenBucket(rate)]
            if share is not None:
                buckets.append(share.to_backend if side.is_front else share.to_client)
            if buckets or side.rate_limiter is not None:  # what waits in `rest` goes out as metered bytes do
                side.rate_limiter = RateLimiter(tuple(buckets), READ_SIZE)

    # ------------------------------------------------------------------ moving

    def run_once(self) -> None:
        """Move what can be moved, both ways, and bring an ending forward."""
        for side in (self.front, self.back):
            if side.pending is not None or side.pending_pong is not None:
                side.flush(self.loop.now)
        self.transfer(self.front, self.back)
        self.transfer(self.back, self.front)
        for side in (self.front, self.back):
            if side.transport.read_state == RESET and self.reset_is_final(side):
                self.on_connection_lost(side, side.other, side.transport.error)
        if self.termination is not None:
            self.advance_close(self.front)
            self.advance_close(self.back)

    def transfer(self, src: Endpoint, dst: Endpoint) -> None:
        """Move payload from one side to the other until one of them would block, or the turn is over."""
        wire = src.transport
        now = self.loop.now
        rounds = MAX_READS_PER_TURN
        while src.rx == "open" and (wire.readable or src.undecoded) and (dst.pending is None or src.discard_payload):
            if not rounds:
                self.loop.mark_ready(self)
                return
            rounds -= 1
            if src.rate_limiter is None:
                chunks, marks = src.receive(now)
            else:
                room = READ_SIZE if src.discard_payload else src.rate_limiter.available(now)
                if not room:
                    self.schedule(src.rate_limiter.blocked_until)
                    return
                chunks, marks = src.receive_up_to(room, now)
                src.rate_limiter.consume(sum(map(len, chunks)))
            if chunks and not src.discard_payload:
                self.last_payload = now
                src.received_bytes += len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
                dst.send(chunks, marks, now)
                if dst.transport.read_state == RESET:
                    self.loop.mark_ready(self)
            if src.control_pending:
                self.process_control_frames(src, dst)
        if wire.read_state is not None and src.rx == "open" and not wire.readable and not src.undecoded:
            self.on_transport_end(src, dst)

    def reset_is_final(self, side: Endpoint) -> bool:
        """Tell whether a side that was reset will not be read to its end, so that the reset counts now.

        It had finished, and takes the answer no longer; or it is a front whose backend does not take what it sent, or
        may not have it yet, and would be reset for it all the same.
        """
        if side.rx == "closed":
            return side.tx == "open"
        held_up = side.other.pending is not None or side.rate_limited
        return side.is_front and side.rx == "open" and held_up and not self.options.half_close_on_loss

    def process_control_frames(self, src: Endpoint, dst: Endpoint) -> None:
        """Act on what came besides payload."""
        now = self.loop.now
        src.control_pending = False
        controls, src.control_frames = src.control_frames, None
        for opcode, body in controls or ():
            if opcode == PING:
                src.answer_ping(body, now)
            elif opcode == CLOSE:
                code, text = decode_close_body(body)
                self.on_stream_finished(src, dst, code, text)
        violation, src.violation = src.violation, None
        seconds = max(CONTROL_FLOOD_WINDOW, now - src.control_window_start)
        if (
            violation is None
            and src.framing.control_frame_count - src.control_window_base > self.options.control_frame_rate * seconds
        ):
            violation = Violation(
                Reason.CONTROL_FLOOD,
                f"more than {self.options.control_frame_rate} control or empty frames a second "
                f"over {CONTROL_FLOOD_WINDOW:.0f} s",
            )
        if violation is not None:
            self.on_violation(src, dst, violation)
        elif now - src.control_window_start >= CONTROL_FLOOD_WINDOW:
            src.control_window_start, src.control_window_base = now, src.framing.control_frame_count

    # ------------------------------------------------------------------ what a side did

    def on_transport_end(self, src: Endpoint, dst: Endpoint) -> None:
        """The transport of a side ended: FIN, reset, or TLS cut off."""
        told = src.is_websocket and src.close_frame is not None and src.tx != "open" and src.pending is None
        if told and src.transport.read_state == RESET and dst.is_front and not dst.is_websocket and dst.tx == "open":
            told = False  # a raw client had ended first, and its answer broke off
        if told:
            src.rx = "closed"  # it took our close frame as the end, or never answered it
            src.tx = "closed"
            if (
                src.transport.read_state == RESET
                and src.is_front
                and dst.tx == "open"
                and not self.options.half_close_on_loss
            ):
                self.abort(dst)  # what it sent may not be whole
            else:
                self.queue_close(dst, None, "")
            self.reset_close_timer()
        elif src.transport.read_state == RESET or src.is_websocket:
            self.on_connection_lost(src, dst, src.transport.error or "the connection ended without a close frame")
        else:
            self.on_stream_finished(src, dst, None, "")

    def on_stream_finished(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """A side ended its stream in order: FIN from a raw one, a close frame from a WebSocket."""
        if code in ERROR_CLOSE_CODES and not src.is_front and not dst.is_websocket:
            self.on_backend_failure(src, dst, f"closed with {code} {text}".rstrip(), code)
            return
        first = self.termination is None
        reason = Reason.CLIENT_CLOSED if src.is_front else Reason.BACKEND_CLOSED
        if first:
            self.termination = Termination(reason, self.initiator_of(src), close_code=code)
        src.rx = "closed"
        src.undecoded = b""
        if src.is_websocket:
            if dst.is_websocket:
                self.queue_close(dst, code, text)
            else:
                self.queue_close(dst, None, "")
                if src.is_front and not self.options.deliver_after_close:
                    self.start_discarding(dst)
            if dst.rx != "open" or dst.closed or dst.discard_payload:
                self.queue_close(src, 1000 if code is None else code, text)
            else:
                src.queue_close(1000 if code is None else code, text)
            self.half_closed = first and dst.rx == "open" and not dst.is_websocket
        else:
            self.queue_close(dst, 1000, reason.value)
            self.half_closed = first and not (dst.is_websocket and not src.is_front)
        self.graceful = True
        self.close_timeout = self.options.half_close if self.half_closed else self.options.close
        if src.close_frame is not None and dst.rx != "open":
            self.queue_close(src, None, "")
        self.reset_close_timer()

    def on_backend_failure(self, back: Endpoint, front: Endpoint, detail: str, code: int | None) -> None:
        """A WebSocket backend ended for a fault: a raw front must not take what it got for the whole."""
        if self.termination is None or front.tx == "open":
            self.termination = Termination(Reason.BACKEND_RESET, "backend", detail, close_code=code)
        back.rx = "closed"
        back.undecoded = b""
        self.queue_close(back, code, "")
        self.half_closed = False
        self.close_timeout = self.options.close
        self.reset_close_timer()
        if not front.closed:
            front.discard_payload = True
            self.abort_delivery(front, Reason.BACKEND_RESET)

    def on_connection_lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """A side vanished: reset, or no life in it."""
        reason = src.transport.fault or (Reason.CLIENT_LOST if src.is_front else Reason.BACKEND_RESET)
        whole = (
            self.termination is not None
            and dst.tx != "open"
            and (src.tx != "open" or (src.rx == "closed" and dst.is_front))
        )
        if not whole:
            self.termination = Termination(reason, self.initiator_of(src), detail)
        self.abort(src)
        self.half_closed = False
        self.close_timeout = self.options.close
        self.reset_close_timer()
        if dst.closed:
            return
        dst.discard_payload = True
        if whole:
            if not dst.is_websocket:
                self.start_discarding(dst)
        elif src.is_front and not self.options.half_close_on_loss:
            self.abort(dst)
        elif src.is_front:
            self.queue_close(dst, 1001, reason.value)
            self.start_discarding(dst)
        else:
            self.abort_delivery(dst, reason)

    def on_violation(self, src: Endpoint, dst: Endpoint, violation: Violation) -> None:
        """A side broke the protocol: it is told so, and the other side sees that the stream is not whole."""
        if self.termination is None or src.tx == "open":  # else it has been told another reason
            self.termination = Termination(violation.reason, self.initiator_of(src), violation.detail)
        self.half_closed = False
        self.close_timeout = self.options.close
        self.reset_close_timer()
        self.queue_close(src, REASONS[violation.reason].close_code, violation.reason.value)
        self.start_discarding(src)
        if dst.closed:
            return
        if src.is_front:
            self.abort(dst)
        else:
            dst.discard_payload = True
            self.abort_delivery(dst, violation.reason)

    def terminate(self, termination: Termination) -> None:
        """End both sides for a reason of our own: a time limit, a drain, a bug."""
        stalled = termination.reason is Reason.WRITE_STALLED
        if self.termination is not None and self.front.tx != "open" and self.back.tx != "open" and not stalled:
            if self.graceful:
                self.graceful = False  # from now on, what waits has `close` to go
                self.reset_close_timer()
            return
        self.termination = termination
        self.graceful = self.half_closed = False
        self.close_timeout = self.options.close
        self.reset_close_timer()
        row = REASONS[termination.reason]
        for side in (self.front, self.back):
            if side.closed:
                continue
            if (row.close_code is None and row.reset) or (row.reset and not side.is_websocket):
                self.abort(side)
            else:
                self.queue_close(side, row.close_code, termination.reason.value)
                side.discard_payload = True
                if not side.is_websocket:
                    self.start_discarding(side)
        self.loop.mark_ready(self)

    def abort_delivery(self, side: Endpoint, reason: Reason) -> None:
        """Tell the front that what it got is not whole: its bytes first, then 1011 or a reset."""
        self.graceful = True
        if side.is_websocket:
            if side.close_frame:
                side.close_frame = None  # an orderly one, not sent yet
            side.queue_close(1011, reason.value)
            self.queue_close(side, 1011, reason.value)
        elif side.tx in ("open", "finishing"):
            side.tx = "resetting"
            self.start_discarding(side)

    @staticmethod
    def initiator_of(side: Endpoint) -> Initiator:
        """Give the side its name in the log."""
        return "client" if side.is_front else "backend"
