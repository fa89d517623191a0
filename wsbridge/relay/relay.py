"""The state machine of two sides: payload, half-close, and every ending.

A side has two states, `rx` (what is done with what it sends) and `tx` (how far what it is sent has ended):

    rx:  OPEN ----- FIN, Close, reset -----> CLOSED        read to the end
         OPEN ----- nobody wants it -------> DISCARDING    read and dropped, so that no unread input resets our answer

    tx:  OPEN --> FINISHING --- pending is written, then FIN or Close ---> CLOSED
         OPEN, FINISHING --> RESETTING --- everything is acknowledged ---> reset, descriptor closed

    rx CLOSED and tx CLOSED: the descriptor is closed. rx DISCARDING and tx CLOSED: it lingers, then is closed.

What happened to `src`, and what it becomes:

    event                      handler              src                       the other side
    FIN, orderly Close         on_stream_finished   rx CLOSED; Close echoed   FIN or Close behind all bytes (FINISHING)
    Close with an error code   on_error_close       rx CLOSED; Close echoed   WebSocket: passed on; raw: reset
    EOF without Close, reset,  on_connection_lost   aborted                   backend: reset at once; client: its bytes,
      no pong                                                                 then 1011 or a reset (RESETTING)
    protocol violation         on_violation         Close with its code       as for a lost one
    limit, drain, bug          terminate            Close with the reason's code, raw sides reset
    `close`, `half_close` over force_close          whatever has not ended is cut off

The rule behind the table: an ending that is not the source's own end of data is never passed on as one. A raw peer
gets FIN only where the other side ended its stream itself, cleanly; everything else is a reset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from wsbridge.limits.rate import RateLimiter, SharedBucket, TokenBucket
from wsbridge.net.transport import READ_SIZE, RESET
from wsbridge.protocol.websocket import CLOSE, PING, PONG, Violation, decode_close_body, is_orderly_close
from wsbridge.reasons import REASONS, Initiator, Reason, Termination
from wsbridge.relay.endpoint import (
    RX_CLOSED,
    RX_DISCARDING,
    RX_OPEN,
    TX_CLOSED,
    TX_FINISHING,
    TX_OPEN,
    TX_RESETTING,
    Endpoint,
)

MAX_READS_PER_TURN = 4
"""Reads in one turn of one direction; then it is the turn of other pairs."""

UNKNOWN = -1
"""In place of a count of acknowledged bytes: the next look sets it."""

CONTROL_FLOOD_WINDOW = 5.0
"""Seconds over which control and empty frames are counted."""


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Times in seconds, None for off.

    Attributes:
        idle: Without payload either way, the connection ends.
        ping_interval: A WebSocket side silent this long in either direction gets a ping.
        ping_timeout: Time in which any byte must come after a ping was acknowledged.
        write: A side that does not acknowledge pending bytes for this long is stalled.
        half_close: After one side has ended, the other direction may be silent this long.
        close: Time for the peer's part of an ending.
        max_lifetime: Longest life of a connection.
        auth_expires: When who the client is no longer holds, by the loop's clock.
        lingering: Time in which input is still read and dropped before a socket is closed.
        lingering_bytes: Bytes of it.
        control_frame_rate: Control and empty frames a second, over 5 s, that a peer may send.
        deliver_after_close: After a client's close frame, what the backend still sends is sent on.
        half_close_on_loss: When a client is lost, a raw backend gets FIN instead of a reset.
        hold_close: After a raw client's FIN, a WebSocket backend may be silent this long before it gets our close
            frame; None: at once.
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
    hold_close: float | None = None
    bytes_per_second: int | None = None


def is_awaited(side: Endpoint) -> bool:
    """Whether an ending waits for this side: for it to read what is pending, or for its own end."""
    if side.tx in (TX_FINISHING, TX_RESETTING):
        return True
    return side.rx is RX_OPEN and (side.tx is TX_CLOSED or side.other.rx is not RX_OPEN)


def describe_close(code: int | None, text: str) -> str:
    """Describe a close frame for the log; empty for a clean end without a text."""
    if text:
        return f"closed with {code}: {text}"
    return "" if code is None or code == 1000 else f"closed with {code}"


class Scheduler(Protocol):
    """What a relay asks of the loop that runs it.

    Attributes:
        now: The loop's clock, in seconds.
        lingering: Sockets that linger now.
    """

    now: float
    lingering: int

    def update_clock(self) -> float:
        """Read the clock."""

    def mark_ready(self, relay: Relay) -> None:
        """Run a relay before the next wait."""

    def schedule(self, relay: Relay, deadline: float) -> None:
        """Check a relay's timeouts no later than `deadline`."""

    def may_linger(self) -> bool:
        """Whether one more socket may linger."""

    def watch(self, relay: Relay, side: Endpoint) -> None:
        """Watch a side's descriptor."""

    def unregister(self, side: Endpoint) -> None:
        """Watch a side's descriptor no longer."""

    def finished(self, relay: Relay) -> None:
        """Nothing can touch either descriptor any more."""


class Relay:
    """Two endpoints under one set of options.

    Attributes:
        termination: Why it ends; None while nothing has ended.
        started: Clock's seconds when it began.
        last_payload: When payload last moved, either way.
        close_timeout: Once it ends: seconds without progress after which it is forced.
        close_timer_start: When it last made progress towards its end.
        close_checked: When its progress was last checked.
        half_closed: Whether one side has ended and the other goes on, for `half_close` of silence.
        close_held: Whether our close frame waits for `hold_close` of silence.
        graceful: Whether it ends because of a side, so that what waits for the other has `write` to go.
        carried_by: The engine; the native one if it carried it at any time.
        forced: Whether its ending took too long and was forced.
        ready: Whether it waits on the loop's list.
        timer_slot: The wheel's slot it is in.
        share: Bytes a second that it has in common with others.
        on_done: Called when nothing can touch either descriptor any more.
    """

    __slots__ = (
        "back",
        "carried_by",
        "close_checked",
        "close_held",
        "close_timeout",
        "close_timer_start",
        "forced",
        "front",
        "graceful",
        "half_closed",
        "last_payload",
        "loop",
        "on_done",
        "options",
        "ready",
        "share",
        "started",
        "termination",
        "timer_slot",
    )

    def __init__(self, front: Endpoint, back: Endpoint, options: RelayOptions, loop: Scheduler) -> None:
        self.front = front
        self.back = back
        self.options = options
        self.loop = loop
        self.close_timeout = options.close
        self.close_timer_start = self.close_checked = self.started = self.last_payload = loop.now
        self.half_closed = self.close_held = self.graceful = self.forced = self.ready = False
        self.termination: Termination | None = None
        self.timer_slot: int | None = None
        self.carried_by = "python"
        self.share: SharedBucket | None = None
        self.on_done: Callable[[], None] = lambda: None
        front.is_front = True
        for side, other in ((front, back), (back, front)):
            side.other = other
            side.last_received = side.last_sent = side.control_window_start = loop.now

    @property
    def done(self) -> bool:
        """Whether nothing can touch either descriptor any more."""
        return self.front.closed and self.back.closed

    @property
    def received_bytes(self) -> tuple[int, int]:
        """Payload bytes that came from the front and from the back."""
        return self.front.received_bytes, self.back.received_bytes

    @property
    def round_trip(self) -> float | None:
        """See `Endpoint.round_trip`, of the front."""
        return self.front.round_trip

    @property
    def calm(self) -> bool:
        """Whether nothing has ended on either side, so that the pair can be given away whole."""
        return (
            self.termination is None
            and not self.front.closed
            and not self.back.closed
            and self.front.transport.read_state is None
            and self.back.transport.read_state is None
            and self.front.detachable
            and self.back.detachable
        )

    def unlink(self) -> None:
        """Break the cycle of references; only once nothing will move any more."""
        del self.front.other, self.back.other

    def release(self) -> None:
        """Let both sides go with their descriptors open; they belong to the caller from now on."""
        for side in (self.front, self.back):
            self.loop.unregister(side)
            side.closed = True
        self.loop.finished(self)

    def apply_rate_limits(self) -> None:
        """Bound what each direction carries, by the options and the share."""
        rate, share = self.options.bytes_per_second, self.share
        for side in (self.front, self.back):
            buckets = [] if rate is None else [TokenBucket(rate)]
            if share is not None:
                buckets.append(share.to_backend if side.is_front else share.to_client)
            if buckets or side.rate_limiter is not None:  # what waits in `undecoded` goes out as limited bytes do
                side.rate_limiter = RateLimiter(tuple(buckets), READ_SIZE)

    # ------------------------------------------------------------------ moving bytes

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
        transport = src.transport
        now = self.loop.now
        rounds = MAX_READS_PER_TURN
        while (
            src.rx is RX_OPEN and (transport.readable or src.undecoded) and (dst.pending is None or src.discard_payload)
        ):
            if not rounds:
                self.loop.mark_ready(self)
                return
            rounds -= 1
            if src.rate_limiter is None:
                chunks, marks = src.receive(now)
            else:
                room = READ_SIZE if src.discard_payload else src.rate_limiter.available(now)
                if not room:
                    self.loop.schedule(self, src.rate_limiter.blocked_until)
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
        if transport.read_state is not None and src.rx is RX_OPEN and not transport.readable and not src.undecoded:
            self.on_transport_end(src, dst)

    def reset_is_final(self, side: Endpoint) -> bool:
        """Whether a side that was reset will not be read to its end, so that the reset counts now.

        It had finished, and cannot read the answer; or it is a front whose backend does not accept its data, or
        may not have it yet, and would be reset for it all the same.
        """
        if side.rx is RX_CLOSED:
            return side.tx is TX_OPEN
        held_up = side.other.pending is not None or side.rate_limited
        return side.is_front and side.rx is RX_OPEN and held_up and not self.options.half_close_on_loss

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
            elif opcode == PONG:
                src.note_pong(now)
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
        if self.close_was_answer(src, dst):
            src.rx, src.tx = RX_CLOSED, TX_CLOSED
            lost = src.transport.read_state == RESET and src.is_front and dst.tx is TX_OPEN
            if lost and not self.options.half_close_on_loss:
                self.abort(dst)  # what it sent may not be whole
            else:
                self.queue_close(dst, None, "")
            self.start_close_timer()
        elif src.transport.read_state == RESET or src.is_websocket:
            self.on_connection_lost(src, dst, src.transport.error or "the connection ended without a close frame")
        elif src.framing.incomplete:
            self.on_violation(src, dst, Violation(Reason.INVALID_UTF8, "the last character is not complete"))
        else:
            self.on_stream_finished(src, dst, None, "")

    @staticmethod
    def close_was_answer(src: Endpoint, dst: Endpoint) -> bool:
        """Whether a WebSocket side that ended without a close frame had ours before.

        It took that as the end, or never answered it. Not so for a backend whose raw client is still sent its answer:
        the answer may be truncated, and the client would read a FIN as its end.
        """
        if not src.is_websocket or src.close_frame is None or src.tx is TX_OPEN or src.pending is not None:
            return False
        return src.is_front or dst.is_websocket or dst.tx is not TX_OPEN

    def on_stream_finished(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """A side ended its stream cleanly: FIN from a raw one, a close frame from a WebSocket."""
        if src.is_websocket and not dst.is_websocket and not is_orderly_close(code, from_client=src.is_front):
            self.on_error_close(src, dst, code, text)
            return
        if self.termination is None and self._has_lost_bytes_for(src, dst):
            self.on_connection_lost(dst, src, dst.transport.error)
        first = self.termination is None
        reason = Reason.CLIENT_CLOSED if src.is_front else Reason.BACKEND_CLOSED
        if first:
            self.termination = Termination(reason, self.initiator_of(src), describe_close(code, text), close_code=code)
        src.rx = RX_CLOSED
        src.undecoded = b""
        if src.is_websocket:
            self.pass_on_close(src, dst, code, text)
            self.half_closed = first and dst.rx is RX_OPEN and not dst.is_websocket
        else:
            self.pass_on_fin(src, dst, reason)
            self.half_closed = first and not (dst.is_websocket and not src.is_front)
        self.graceful = True
        if self.close_held and self.options.hold_close is not None:
            self.close_timeout = self.options.hold_close
        else:
            self.close_timeout = self.options.half_close if self.half_closed else self.options.close
        if src.close_frame is not None and dst.rx is not RX_OPEN:
            self.queue_close(src, None, "")
        self.start_close_timer()

    def _has_lost_bytes_for(self, src: Endpoint, dst: Endpoint) -> bool:
        """Whether a write to the other side of a WebSocket that closes has found it reset, before any event told that.

        Not everything before the close frame was accepted, so that no orderly end follows. Where what the lost side
        sent before is still wanted, it is read first.
        """
        if not src.is_websocket or dst.transport.read_state != RESET or dst.rx is not RX_OPEN:
            return False
        return not (self.options.deliver_after_close if src.is_front else self.options.half_close_on_loss)

    def pass_on_close(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """Pass an orderly close frame on, and answer it: now if no payload can follow, else before the transport ends.

        To a WebSocket every close frame is passed on as it came (RFC 6455 section 7.1.5), to a raw side as FIN.
        """
        self.close_held = False
        if dst.is_websocket:
            self.queue_close(dst, code, text)
        else:
            self.queue_close(dst, None, "")
            if src.is_front and not self.options.deliver_after_close:
                self.start_discarding(dst)
        answer = 1000 if code is None else code
        if dst.rx is not RX_OPEN or dst.closed or dst.discard_payload:
            self.queue_close(src, answer, text)
        else:
            src.queue_close(answer, text)

    def pass_on_fin(self, src: Endpoint, dst: Endpoint, reason: Reason) -> None:
        """Pass the FIN of a raw side on; WebSocket has no half-close, so there it may be held back for the answer."""
        if self.options.hold_close is not None and src.is_front and dst.is_websocket and dst.rx is RX_OPEN:
            self.close_held = True
        else:
            self.queue_close(dst, 1000, reason.value)

    def resume_ending(self, termination: Termination, since: float) -> None:
        """Go on with an orderly ending that the native engine began.

        The close frame to the front has been sent, and after a client's the FIN to the back, unless a part of the close
        frame is pending.

        Args:
            termination: By a close frame of a WebSocket client, or by FIN of its raw backend.
            since: When it began.
        """
        front, back = self.front, self.back
        self.termination = termination
        self.graceful = True
        self.close_timeout = self.options.close
        sent = TX_CLOSED if front.pending is None and back.pending is None else TX_FINISHING
        front.close_frame = b""
        front.tx = sent
        if termination.reason is Reason.CLIENT_CLOSED:
            front.rx = RX_CLOSED
            back.tx = sent
            self.start_discarding(back)
        else:
            back.rx = RX_CLOSED
        self.start_close_timer()
        self.close_timer_start = since

    def on_error_close(self, src: Endpoint, dst: Endpoint, code: int | None, text: str) -> None:
        """A close frame whose code says that its stream is not whole: its raw other side must not get FIN."""
        detail = describe_close(code, text)
        if src.is_front:
            if self.termination is None:
                self.termination = Termination(Reason.CLIENT_CLOSED, "client", detail, close_code=code)
        elif self.termination is None or dst.tx is TX_OPEN:
            self.termination = Termination(Reason.BACKEND_RESET, "backend", detail, close_code=code)
        src.rx = RX_CLOSED
        src.undecoded = b""
        self.queue_close(src, code, "")
        self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
        if dst.closed:
            return
        if not src.is_front:
            dst.discard_payload = True
            self.abort_delivery(dst, Reason.BACKEND_RESET)
        elif self.options.half_close_on_loss:
            self.queue_close(dst, None, "")
            self.start_discarding(dst)
        else:
            self.abort(dst)

    def on_connection_lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """A side is lost: reset, or dead."""
        reason = src.transport.fault or (Reason.CLIENT_LOST if src.is_front else Reason.BACKEND_RESET)
        whole = (
            self.termination is not None
            and dst.tx is not TX_OPEN
            and (src.tx is not TX_OPEN or (src.rx is RX_CLOSED and dst.is_front))
        )
        if not whole:
            self.termination = Termination(reason, self.initiator_of(src), detail)
        self.abort(src)
        self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
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
        """A side broke the protocol: it gets that reason, and the other side sees that the stream is not whole."""
        if self.termination is None or src.tx is TX_OPEN:  # else it has got another reason
            self.termination = Termination(violation.reason, self.initiator_of(src), violation.detail)
        self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
        if src.is_websocket:
            self.queue_close(src, REASONS[violation.reason].close_code, violation.reason.value)
            self.start_discarding(src)
        else:
            self.abort_delivery(src, violation.reason)
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
        if (
            self.termination is not None
            and self.front.tx is not TX_OPEN
            and self.back.tx is not TX_OPEN
            and not stalled
        ):
            if self.graceful:
                self.graceful = False  # from now on, what waits has `close` to go
                self.start_close_timer()
            return
        self.termination = termination
        self.graceful = self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
        row = REASONS[termination.reason]
        for side in (self.front, self.back):
            if side.closed:
                continue
            if row.close_code is None or not side.is_websocket:
                self.abort(side)
            else:
                code = row.close_code if side.is_front else row.close_code_to_backend
                self.queue_close(side, code, termination.reason.value)
                side.discard_payload = True
        self.loop.mark_ready(self)

    def abort_delivery(self, side: Endpoint, reason: Reason) -> None:
        """Signal to the front that its data is truncated: its bytes first, then 1011 or a reset."""
        self.graceful = True
        if side.is_websocket:
            if side.close_frame:
                side.close_frame = None  # an orderly one, not sent yet
            side.queue_close(1011, reason.value)
            self.queue_close(side, 1011, reason.value)
        elif side.tx in (TX_OPEN, TX_FINISHING):
            side.tx = TX_RESETTING
            self.start_discarding(side)

    @staticmethod
    def initiator_of(side: Endpoint) -> Initiator:
        """Give the side its name in the log."""
        return "client" if side.is_front else "backend"

    # ------------------------------------------------------------------ ending both sides

    def start_close_timer(self) -> None:
        """Let the time of the ending run from now; what was acknowledged before does not count as progress."""
        self.close_timer_start = self.close_checked = self.loop.now
        self.front.acked_bytes = self.back.acked_bytes = UNKNOWN
        self.loop.schedule(self, self.close_timer_start + min(self.close_timeout, self.options.close) / 4)

    def queue_close(self, side: Endpoint, code: int | None, text: str) -> None:
        """End what a side is sent, behind what is pending."""
        if side.tx is TX_OPEN:
            side.tx = TX_FINISHING
            if side.is_websocket:
                side.queue_close(code, text)

    def start_discarding(self, side: Endpoint) -> None:
        """From now on read what a side sends and drop it, undecoded."""
        if side.rx is RX_OPEN and not side.closed:
            side.rx = RX_DISCARDING
            side.undecoded = b""
            side.transport.readable = True
            if side.linger_deadline is None:
                side.linger_bytes_left = self.options.lingering_bytes

    def advance_close(self, side: Endpoint) -> None:
        """Bring the ending of one side as far as it goes now."""
        if side.closed:
            return
        finished = False
        if side.pending is None:
            if side.tx is TX_FINISHING:
                finished = self.finish_sending(side)
            elif side.tx is TX_RESETTING and self.reset_when_acknowledged(side):
                return
        if side.tx is TX_CLOSED:
            self.end_receiving(side)
        elif side.rx is RX_DISCARDING:
            if side.transport.read_state == RESET:
                self.abort(side)
            else:
                self.discard_while_sending(side)
        if finished:
            self.advance_close(side.other)  # its answer may have waited for this

    def end_receiving(self, side: Endpoint) -> None:
        """Nothing more is sent: close, or wait for the peer's end."""
        if side.rx is RX_CLOSED:
            self.close_transport(side)
        elif side.rx is RX_DISCARDING:
            self.linger(side)

    def finish_sending(self, side: Endpoint) -> bool:
        """Send the close frame or FIN, with nothing pending before it; return whether all of it was written."""
        if self.close_deferred(side):
            return False
        now = self.loop.now
        if side.close_frame:
            frame, side.close_frame = side.close_frame, b""
            side.send_frame(frame, now)
        if side.pending is not None or not (side.is_websocket or side.transport.send_eof()):
            return False
        side.tx = TX_CLOSED
        self.close_timer_start = now
        self.loop.schedule(self, now + self.options.close)
        return True

    def reset_when_acknowledged(self, side: Endpoint) -> bool:
        """Reset a side once the peer's kernel has all that was sent before: a reset would destroy it on the way."""
        if side.transport.read_state == RESET or not side.transport.unacked_bytes():
            self.abort(side)
            return True
        self.loop.schedule(self, self.loop.now)
        return False

    def discard_while_sending(self, side: Endpoint) -> None:
        """Read and drop from a side that is still sent something: a peer that is not read may never read on itself.

        Without a limit on the bytes, since what is sent has one in time (`write`, `close`); but not for long at once.
        """
        if side.transport.discard():
            self.loop.mark_ready(self)

    def has_pending_delivery(self, side: Endpoint) -> bool:
        """Whether bytes wait for a side whose other has ended, so that `write` is their time and not `close`.

        For a front, those count too that only its kernel or ours holds, since closing the socket could destroy them. A
        client's close frame is answered within `close`, so what came before it has no longer either.
        """
        if side.tx is TX_OPEN or side.closed or not self.graceful:
            return False
        if side.pending is not None:
            return side.is_front or not side.other.is_websocket
        return side.is_front and side.transport.unacked_bytes() > 0 and not side.transport.retransmitting()

    def close_deferred(self, side: Endpoint) -> bool:
        """Whether the answer to a close frame waits until the other side was sent what came before it."""
        other = side.other
        return side.is_websocket and side.rx is RX_CLOSED and other.tx is TX_FINISHING and other.pending is not None

    def close_transport(self, side: Endpoint) -> None:
        """Both directions are over: close, unless unread input would turn that into a reset."""
        if side.is_websocket and side.linger_deadline is None:
            if not side.transport.send_eof():
                return
            dropped = side.transport.discard()
            if dropped and side.transport.read_state is None:
                side.rx = RX_DISCARDING
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
            self.loop.schedule(self, side.linger_deadline)
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
        """Unregister a side and close its descriptor; what is pending is dropped."""
        self.loop.unregister(side)
        if side.linger_deadline is not None:
            side.linger_deadline = None
            self.loop.lingering -= 1
        side.closed = True
        side.rx, side.tx = RX_CLOSED, TX_CLOSED
        side.pending = None
        close()
        if side.other.closed:
            self.loop.finished(self)

    def force_close(self) -> None:
        """Time is over: cut off what has not ended by itself, and log which side it waited for."""
        self.describe_forced_close()
        for side in (self.front, self.back):
            if side.closed:
                continue
            if side.tx is TX_OPEN:
                if side.is_websocket:
                    self.queue_close(side, 1000 if side.is_front else 1011, "")
                    side.discard_payload = True
                else:
                    self.abort(side)  # what it was sent may not be whole
            elif side.tx in (TX_FINISHING, TX_RESETTING):
                self.abort(side)
            elif side.rx is RX_OPEN:
                self.start_discarding(side)
            elif side.linger_deadline is None:
                self.abort(side)  # not even the end of what we send could be sent
        self.half_closed = self.graceful = False
        self.close_timeout = self.options.close
        self.start_close_timer()

    def describe_forced_close(self) -> None:
        """Add to the detail of an ending who did not end in time, and what was reset for it."""
        if self.termination is None or self.forced:
            return
        self.forced = True
        sides = [side for side in (self.front, self.back) if not side.closed]
        waited = [self.initiator_of(side) for side in sides if is_awaited(side)]
        reset = [
            self.initiator_of(side)
            for side in sides
            if (side.tx is TX_OPEN and not side.is_websocket) or side.tx in (TX_FINISHING, TX_RESETTING)
        ]
        setting = "half_close" if self.half_closed else "close"
        text = f"gave up waiting for {' and '.join(waited) or 'the end'} after {setting}, {self.close_timeout:g} s"
        if reset:
            text += f"; reset {' and '.join(reset)}"
        detail = f"{self.termination.detail}; {text}" if self.termination.detail else text
        incomplete = any(side.tx is not TX_CLOSED for side in sides)
        self.termination = replace(self.termination, detail=detail, incomplete=incomplete)

    def send_held_close(self) -> None:
        """A WebSocket backend was silent for `hold_close` after its raw client's FIN: end what it is sent."""
        self.close_held = False
        self.queue_close(self.back, 1000, Reason.CLIENT_CLOSED.value)
        self.close_timeout = self.options.half_close
        self.start_close_timer()
