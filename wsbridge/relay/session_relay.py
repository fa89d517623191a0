"""The relay of a resumable session: one side, and one transport of the peer after the other.

    there -- SessionStream | here -- Session -- Carrier -- the peer of the session
              `SessionRelay`                    (changes)

To the state machine of `relay`, the session is a raw side (`session_stream`). What carries it is one WebSocket
connection, a `Carrier`, or none. A carrier that is lost, or replaced by a newer one, leaves the pair as it is. The
session is the front where a client has it (`front_session`), the back where the backend has it (`back_session`).

While there is no carrier, the other side is read until the window is full. What limits an ending (`close`,
`half_close`) waits, since only `ttl` limits how long a peer is away; `idle`, `max_lifetime` and the expiry of
credentials count.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from wsbridge.net.transport import EOF, RESET
from wsbridge.protocol.resume import Ended, Event, PeerFinished, Received, Session, SessionState
from wsbridge.protocol.resume_frames import ResumeCode
from wsbridge.protocol.websocket import (
    CLOSE,
    PING,
    PONG,
    FrameHeaders,
    Payloads,
    Violation,
    decode_close_body,
    encode_close_body,
)
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.endpoint import RX_CLOSED, RX_DISCARDING, RX_OPEN, TX_CLOSED, TX_OPEN, Endpoint
from wsbridge.relay.relay import (
    CONTROL_FLOOD_WINDOW,
    MAX_READS_PER_TURN,
    Relay,
    RelayOptions,
    Scheduler,
    describe_close,
)
from wsbridge.relay.session_stream import (
    HELD_BYTES_ALWAYS,
    Carrier,
    ReplayMemory,
    SessionStream,
    encode_error,
)
from wsbridge.relay.timeouts import (
    MAX_CHECK_INTERVAL,
    WRITE_CHECKS,
    check_close,
    check_idle,
    check_lifetime,
    check_ping,
    check_write,
)

SEND_BATCH_BYTES: Final = 262144
"""Payload that is given to the kernel in one call."""
WAIT_FOR_MEMORY: Final = 1.0
"""Seconds after which a transport that is not read for want of memory is looked at again."""
SOON: Final = 0.2
"""Seconds within which no deadline of a session can come up: less than the time of an ACK."""
MAX_UNCOUNTED_ACKS: Final = 8
"""ACKs of one read for which it is not looked whether there are too many of them."""
BYTES_PER_ACK: Final = 4096
"""Acknowledged bytes for each of which one ACK is no flood."""

CloseCarrier = Callable[[Carrier, RelayOptions, int | None, str], None]
"""Closes a transport that is not a session's any more, with a code and a text."""


class SessionOwner(Protocol):
    """Who keeps sessions."""

    def session_detached(self) -> Termination | None:
        """The session has lost its transport; returns why it ends now, or None if it is kept."""

    def no_more_transports(self) -> None:
        """The session gets no further transport; only its other side may still have to end."""

    def session_ended(self) -> None:
        """Nothing can touch a descriptor of it any more."""


class SessionRelay(Relay):
    """A session and another side; which of them is the front, and how the session ends, is its subclass's.

    Args:
        session: The state machine.
        front: The accepted side.
        back: The dialed side.
        stream: That of the session, which is one of them.
        options: Time limits and rules.
        loop: Runs it.
        memory: What all sessions hold.
        owner: Who keeps the session.
        close_carrier: Closes a transport that is not the session's any more, with a code and a text.

    Attributes:
        session: As given.
        stream: As given.
        here: The side that the session is.
        there: The other one.
        carrier: The newest transport; None while it is detached.
        detached_since: When it lost its transport, by the loop's clock; None while it has one.
        last_loss: Why it lost its latest transport.
    """

    __slots__ = (
        "_close_carrier",
        "_held_bytes",
        "_memory",
        "_next_check",
        "_owner",
        "_stalled_position",
        "_stalled_since",
        "carrier",
        "detached_since",
        "here",
        "last_loss",
        "session",
        "stream",
        "there",
    )

    def __init__(
        self,
        session: Session,
        front: Endpoint,
        back: Endpoint,
        stream: SessionStream,
        options: RelayOptions,
        loop: Scheduler,
        memory: ReplayMemory,
        owner: SessionOwner,
        close_carrier: CloseCarrier,
    ) -> None:
        super().__init__(front, back, options, loop)
        self.session = session
        self.stream = stream
        self.here, self.there = (front, back) if front.transport is stream else (back, front)
        self.carrier: Carrier | None = None
        self.detached_since: float | None = loop.now
        self.last_loss = ""
        self._memory = memory
        self._owner = owner
        self._close_carrier = close_carrier
        self._held_bytes = 0
        self._next_check = 0.0
        self._stalled_since: float | None = None
        self._stalled_position = 0
        stream.on_end = self._end_session

    # ------------------------------------------------------------------ transports

    def attach(self, carrier: Carrier) -> None:
        """Go on over another transport, for which the session has been opened or resumed."""
        before, now = self.carrier, self.loop.now
        if before is not None:
            self._replace(before)
        self.carrier, self.detached_since = carrier, None
        carrier.relay, carrier.other = self, self.there
        carrier.last_received = carrier.last_sent = carrier.control_window_start = now
        carrier.control_window_base = self._count_control_frames(carrier)
        self._stalled_since = None
        if self.termination is not None:
            self.start_close_timer()
        self.loop.watch(self, carrier)
        self._settle(now)
        self._check_soon()

    def _replace(self, before: Carrier) -> None:
        """Close a transport for which another one has come."""
        self._release(before, self._terminated(Reason.SUPERSEDED, "another transport of the session came"))
        code, text = int(ResumeCode.SUPERSEDED), Reason.SUPERSEDED.value
        before.pending = [*(before.pending or ()), *encode_error(before, code, text)]
        self._close_carrier(before, self.options, code, text)

    def lose(self, carrier: Carrier, detail: str) -> None:
        """Note that a transport is lost, and reset it; the session is kept if it may be."""
        reason = Reason.CLIENT_LOST if self.here.is_front else Reason.BACKEND_RESET
        self._release(carrier, self._terminated(carrier.transport.fault or reason, detail))
        carrier.closed = True
        carrier.transport.abort()
        carrier.ended.end()
        self.process(self.session.transport_lost(self.loop.now))
        self._note_detached()

    def _terminated(self, reason: Reason, detail: str = "", code: int | None = None) -> Termination:
        """Return how something ended that the peer of the session has ended."""
        return Termination(reason, self.initiator_of(self.here), detail, close_code=code)

    def _release(self, carrier: Carrier, termination: Termination) -> None:
        """Detach a transport from the session."""
        self.loop.unregister(carrier)
        carrier.relay = self.carrier = None
        carrier.termination = termination
        self.last_loss = termination.detail

    def _note_detached(self) -> None:
        """Ask whether the session is kept, now that it has no transport."""
        if self.session.state is not SessionState.DETACHED or self.here.closed:
            return
        self.detached_since = self.loop.now
        termination = self._owner.session_detached()
        if termination is not None:
            self.terminate(termination)
        self._check_soon()

    def _end_session(self) -> None:
        """The side of the session has ended: end the session, and close its transport."""
        session, now = self.session, self.loop.now
        end = self.termination or Termination(Reason.INTERNAL_ERROR, "wsbridge")
        if session.state is not SessionState.ENDED:
            session.end(*self._end_code(end.reason), now)
        code, text = session.closing or self._end_code(end.reason)
        self._owner.no_more_transports()
        carrier = self.carrier
        if carrier is not None:
            carrier.send_messages(session.take(0, now), now)
            self._release(carrier, end)
            self._close_carrier(carrier, self.options, code, text)
        self._count_held_bytes()

    @abstractmethod
    def _end_code(self, reason: Reason) -> tuple[int, str]:
        """Return the code and the text with which the session is ended for a reason."""

    # ------------------------------------------------------------------ moving bytes

    def run_once(self) -> None:
        """See `Relay.run_once`."""
        carrier = self.carrier
        if carrier is not None and (carrier.pending is not None or carrier.pending_pong is not None):
            carrier.flush(self.loop.now)
        super().run_once()
        self._settle(self.loop.now)

    def transfer(self, src: Endpoint, dst: Endpoint) -> None:
        """See `Relay.transfer`; a transport is read whether the other side accepts bytes or not, for its ACKs."""
        here, there = self.here, self.there
        if src is there:
            super().transfer(there, here)
        else:
            stream = self.stream
            if self.carrier is not None:
                self._read_carrier(self.carrier)
            if stream.readable or stream.read_state is not None or here.undecoded:
                super().transfer(here, there)
            if here.pending is not None and here.flush(self.loop.now):
                super().transfer(there, here)
        self._settle(self.loop.now)

    def _read_carrier(self, carrier: Carrier) -> None:
        """Read from the transport until there is nothing, or the turn is over."""
        now, transport = self.loop.now, carrier.transport
        rounds = MAX_READS_PER_TURN
        while carrier.relay is self and (transport.readable or carrier.undecoded):
            if (self._memory.is_full or not carrier.discard_payload) and self._must_wait(carrier):
                self.loop.schedule(self, now + WAIT_FOR_MEMORY)
                return
            if not rounds:
                self.loop.mark_ready(self)
                return
            rounds -= 1
            chunks, marks = carrier.receive(now)
            is_usual = chunks and self._receive(carrier, chunks, marks or [], now)
            if carrier.relay is self and (carrier.control_pending or not is_usual):
                self._process_control(carrier, now)
        if carrier.relay is self and transport.read_state is not None and not (transport.readable or carrier.undecoded):
            self.lose(carrier, transport.error or "the connection ended without a close frame")

    def _receive(self, carrier: Carrier, chunks: Payloads, marks: FrameHeaders, now: float) -> bool:
        """Process what was read of a transport; return whether it was payload, with a few ACKs at most."""
        session, reader = self.session, carrier.reader
        run = reader.read_run(chunks, marks)
        if run is None:
            self.process(session.receive(reader.read(chunks, marks), now))
        elif not session.receive_run(run, now):
            self.process(session.receive(run.frames(), now))
        elif run.payloads:
            self.stream.put(run.payloads, run.size)
            carrier.received_payload += run.size
        if self._memory.is_full:
            self._count_held_bytes()
        return run is not None and run.acks <= MAX_UNCOUNTED_ACKS

    def _must_wait(self, carrier: Carrier) -> bool:
        """Whether reading pauses: all sessions together hold as much as they may, and this one has its share of it.

        Its ACKs then wait as well, so that this is no way to slow down a peer as long as there is memory. A peer that
        has gone is read to the end, which ends the wait.
        """
        carrier.discard_payload = not (
            self._memory.is_full
            and self.there.pending is not None
            and not carrier.transport.peer_hung_up
            and self.session.unconsumed_bytes > HELD_BYTES_ALWAYS
        )
        return not carrier.discard_payload

    def process(self, events: list[Event]) -> None:
        """Act on what the session says."""
        for event in events:
            if isinstance(event, Received):
                size = sum(map(len, event.payloads))
                self.stream.put(event.payloads, size)
                if self.carrier is not None:
                    self.carrier.received_payload += size
            elif isinstance(event, PeerFinished):
                self.stream.read_state = EOF
            elif isinstance(event, Ended):
                self._on_session_ended(event)
            else:
                self._on_client_event(event)

    @abstractmethod
    def _on_session_ended(self, end: Ended) -> None:
        """The session has ended by what the peer did, or after its ttl."""

    def _on_client_event(self, event: Event) -> None:
        """Act on what only a client's session says."""

    def _settle(self, now: float) -> None:
        """Acknowledge what the other side has accepted, send what can be sent, and note what is held and due."""
        session, stream, there = self.session, self.stream, self.there
        if self.here.closed:
            return
        if stream.taken and (there.pending is None or there.closed):
            session.consumed(stream.taken, now)
            stream.taken = 0
        unconsumed = session.received_position - session.consumed_position
        if unconsumed == 1 and session.peer_finished and there.tx is TX_CLOSED:  # the FIN alone
            session.consumed_fin()
        carrier = self.carrier
        if carrier is not None and carrier.pending is None and not session.can_wait:
            self._send(carrier, now)
        if stream.readable:
            stream.collect()
        self._count_held_bytes()
        if self._next_check > now + SOON:
            deadline = session.deadline
            if deadline is not None and deadline < self._next_check:
                self._next_check = deadline
                self.loop.schedule(self, deadline)

    def _send(self, carrier: Carrier, now: float) -> None:
        """Write to the transport until it accepts no more, or nothing is left."""
        session = self.session
        while carrier.pending is None:
            before = session.taken_bytes
            messages = session.take(SEND_BATCH_BYTES, now)
            if not messages:
                break
            sent = session.taken_bytes - before
            carrier.sent_payload += sent
            carrier.send_messages(messages, now)
            if carrier.transport.read_state == RESET:
                self.loop.mark_ready(self)
                return
            if sent < SEND_BATCH_BYTES:
                break
        if session.closing is not None and carrier.pending is None and carrier.close_frame is None:
            code, text = session.closing
            carrier.send_frame(carrier.framing.encode_control(CLOSE, encode_close_body(code, text)), now)
            carrier.close_frame, carrier.tx = b"", TX_CLOSED
            carrier.close_deadline = now + self.options.close
            self.loop.schedule(self, carrier.close_deadline)

    def _count_held_bytes(self) -> None:
        held = 0 if self.here.closed else self.session.held_bytes
        if held != self._held_bytes:
            self._memory.used += held - self._held_bytes
            self._held_bytes = held

    # ------------------------------------------------------------------ control frames of the transport

    def _process_control(self, carrier: Carrier, now: float) -> None:
        """Act on what came besides payload."""
        if carrier.control_pending:
            carrier.control_pending = False
            controls, carrier.control_frames = carrier.control_frames, None
            violation, carrier.violation = carrier.violation, None
            for opcode, body in controls or ():
                if opcode == PING:
                    carrier.answer_ping(body, now)
                elif opcode == PONG:
                    carrier.note_pong(now)
                    self.here.round_trip = carrier.round_trip
                elif opcode == CLOSE:
                    self._on_carrier_close(carrier, *decode_close_body(body))
                    return
            if violation is not None:
                self._on_carrier_violation(violation)
                return
        count = self._count_control_frames(carrier)
        seconds = max(CONTROL_FLOOD_WINDOW, now - carrier.control_window_start)
        rate = self.options.control_frame_rate
        if count - carrier.control_window_base > rate * seconds:
            detail = f"more than {rate} control or empty frames a second over {CONTROL_FLOOD_WINDOW:.0f} s"
            self.terminate(self._terminated(Reason.CONTROL_FLOOD, detail))
        elif now - carrier.control_window_start >= CONTROL_FLOOD_WINDOW:
            carrier.control_window_start, carrier.control_window_base = now, count

    def _count_control_frames(self, carrier: Carrier) -> int:
        """Return how much work a transport has made without payload; an ACK of many bytes is none."""
        count = carrier.framing.control_frame_count + carrier.reader.control_frame_count
        return count - self.session.acked_position // BYTES_PER_ACK

    def _on_carrier_close(self, carrier: Carrier, code: int | None, text: str) -> None:
        """The peer has closed the transport; the code says whether that ends the session."""
        now = self.loop.now
        carrier.rx = RX_CLOSED
        reason = Reason.CLIENT_CLOSED if self.here.is_front else Reason.BACKEND_CLOSED
        self._release(carrier, self._terminated(reason, describe_close(code, text), code))
        self._close_carrier(carrier, self.options, 1000 if code is None else code, "")
        self.process(self.session.transport_lost(now, 1005 if code is None else code, text))
        self._note_detached()

    def _on_carrier_violation(self, violation: Violation) -> None:
        """The peer has violated RFC 6455: that is no network failure, so the session ends."""
        self.terminate(self._terminated(violation.reason, violation.detail))

    # ------------------------------------------------------------------ what a side did, and endings

    def on_connection_lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """See `Relay.on_connection_lost`; a transport that is lost is not the session's end."""
        if isinstance(src, Carrier):
            self.lose(src, detail)
        else:
            super().on_connection_lost(src, dst, detail)

    def reset_when_acknowledged(self, side: Endpoint) -> bool:
        """See `Relay.reset_when_acknowledged`; the session says when that is."""
        return False if side is self.here else super().reset_when_acknowledged(side)

    def close_transport(self, side: Endpoint) -> None:
        """See `Relay.close_transport`; a session has ended once its peer has everything and knows that we have."""
        if side is not self.here:
            super().close_transport(side)

    def linger(self, side: Endpoint) -> None:
        """See `Relay.linger`; a session reads what its peer sends, and has no unread input."""
        if side is not self.here:
            super().linger(side)

    def advance_close(self, side: Endpoint) -> None:
        """See `Relay.advance_close`; a session that has ended, and of which nothing is wanted any more, is closed."""
        here = self.here
        super().advance_close(here if isinstance(side, Carrier) else side)
        if here.rx is RX_DISCARDING and self.session.state is SessionState.ENDED:
            self.close_now(here)
        self._settle(self.loop.now)

    # ------------------------------------------------------------------ time limits

    def check_timeouts(self, now: float) -> float:
        """Do what is due, and give when to look again; see `timeouts.check_timeouts`."""
        self._next_check = now + MAX_CHECK_INTERVAL
        due = now + MAX_CHECK_INTERVAL
        here, there = self.here, self.there
        if not here.closed:
            self.process(self.session.on_deadline(now))
        if not here.closed:
            due = min(due, check_lifetime(self, now), check_idle(self, now))
        if not here.closed:
            due = min(due, self._check_carrier(now))
        if there.tx is TX_OPEN or self.has_pending_delivery(there):
            due = min(due, check_write(self, there, now))
        if there.tx is TX_OPEN and there.rx is RX_OPEN and there.is_websocket:
            due = min(due, check_ping(self, there, now))
        if self.termination is not None and not self.done and (here.closed or self.carrier is not None):
            due = min(due, check_close(self, now))
        if not here.closed:
            self._settle(now)
            due = min(due, self.session.deadline or due)
        self._next_check = due
        return due

    def _check_carrier(self, now: float) -> float:
        """Check the transport, and whether its peer acknowledges anything."""
        carrier = self.carrier
        if carrier is None:
            return now + MAX_CHECK_INTERVAL
        if carrier.close_deadline is not None:
            return self._check_closing(carrier, carrier.close_deadline, now)
        if not carrier.discard_payload and not self._must_wait(carrier):
            self.loop.mark_ready(self)
        due = check_ping(self, carrier, now)
        if self.carrier is None:
            return now
        if not carrier.discard_payload:
            due = min(due, now + WAIT_FOR_MEMORY)
        limit, acked = self.options.write, self.session.acked_position
        if limit is None:
            return due
        waits = self.here.pending is not None or carrier.pending is not None or self.here.tx is not TX_OPEN
        if not (waits and self.stream.unacked_bytes()):  # else its application may take its time: the rest has room
            self._stalled_since = None
        elif self._stalled_since is None or acked != self._stalled_position:
            self._stalled_since, self._stalled_position = now, acked
        elif now >= self._stalled_since + limit:
            detail = f"acknowledged nothing for write, {limit:g} s"
            self.terminate(self._terminated(Reason.WRITE_STALLED, detail))
            return now
        return min(due, now + limit / WRITE_CHECKS)

    def _check_closing(self, carrier: Carrier, deadline: float, now: float) -> float:
        """Wait for the answer to our close frame, which is behind what the peer has not read yet."""
        acked = carrier.transport.acked_bytes() + self.session.acked_position
        if acked != carrier.acked_bytes:
            carrier.acked_bytes = acked
            carrier.close_deadline = deadline = now + self.options.close
        elif now >= deadline:
            self.lose(carrier, f"no answer to a close frame within close, {self.options.close:g} s")
        return min(deadline, now + self.options.close / 4)

    def _check_soon(self) -> None:
        """Have the time limits checked in the next turn, since what they depend on has changed."""
        if not self.done:
            self._next_check = self.loop.now
            self.loop.schedule(self, self.loop.now)
