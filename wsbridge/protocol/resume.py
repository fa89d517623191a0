"""Resumable sessions: the state machine of both roles of `wsbridge.resume.v1` (docs/resume-protocol.md), without I/O.

A session is two byte streams, one each way, that outlive the WebSocket connections (transports) that carry them.
`ServerSession` (`resume_server`) and `ClientSession` (`resume_client`) know one transport at a time, the newest: what
arrives on an older one is not given to them. The caller owns transports, clocks, randomness and the table of sessions.

    server:   OPENING ---- opened() ----> ATTACHED <---- resume() / transport_lost() ----> DETACHED
    client:   DETACHED -- connect() --> OPENING ---- OPENED ----> ATTACHED ---- transport_lost() ----> DETACHED
              DETACHED -- connect() --> RESUMING -- RESUMED ----> ATTACHED
    both:     any state -- end(), ERROR, close code that ends, ttl, both FINs acknowledged --> ENDED

How a caller drives one, for each transport:

    reader = FrameReader()                              # of the transport
    frames = reader.read(payloads, frame_headers)       # from WebSocketFraming.decode
    events = session.receive(frames, now)               # Received, PeerFinished, Ended, ...
    messages = session.take(max_bytes, now)             # when the transport can be written to
    buffers = framing.encode_messages(messages)
    session.closing                                     # once `take` gives nothing more: close with this code

Its streams: `send` what the source gives, at most `room` bytes; `consumed` as the sink accepts what was received.
A receiver reads on while its sink accepts nothing: ACK frames wait behind DATA frames, and not reading them could block
both directions for good. What it has to hold is bounded by the window; a peer that exceeds it violates the protocol.

Positions count bytes from the beginning of the session, each direction for itself; the FIN takes one position as well.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wsbridge.protocol.replay_buffer import ReplayBuffer
from wsbridge.protocol.resume_frames import (
    DATA_HEAD,
    Ack,
    Data,
    DataRun,
    Failure,
    Fin,
    Frame,
    Ignored,
    Keepalive,
    Malformed,
    ResumeCode,
    cut_error_text,
    encode_frame,
)
from wsbridge.protocol.websocket import Buffer

SEND_BYTES = 65535
"""Largest payload of a DATA frame that is sent, in bytes; with its type it is one frame of at most 64 KiB."""

MIN_WINDOW = 4096
"""A smaller window that a client asks for becomes this one, in bytes."""

MAX_ACK_BYTES = 131072
"""An ACK is sent when this many bytes, or an eighth of the window, have been consumed since the last."""

DETACHING_CLOSE_CODES = frozenset((None, 1001, 1005, 1006, 1012))
"""Close codes of a peer after which a session can be resumed; None: no close frame."""

ResumeMessage = tuple[bytes, Buffer]
"""One binary message: its first bytes, and the payload of a DATA frame behind them (empty for other frames)."""


class SessionState(enum.Enum):
    """Whether a session has a transport."""

    OPENING = "opening"
    """OPEN is not answered yet; the server connects its backend."""
    RESUMING = "resuming"
    """Client only: RESUME is not answered yet."""
    ATTACHED = "attached"
    DETACHED = "detached"
    """No transport; of a client before its first transport, too."""
    ENDED = "ended"


@dataclass(slots=True)
class Received:
    """Event: bytes of the peer's stream, in order; none is empty. `consumed` is due once the sink has accepted them."""

    payloads: list[Buffer]


@dataclass(slots=True)
class PeerFinished:
    """Event: the peer's stream is complete. `consumed_fin` is due once the sink has accepted that."""


@dataclass(slots=True)
class SessionOpened:
    """Event of a client: OPENED has arrived; `send` may be called."""


@dataclass(slots=True)
class SessionResumed:
    """Event of a client: RESUMED has arrived.

    Attributes:
        replayed: Bytes that are sent again.
    """

    replayed: int


@dataclass(slots=True)
class GoingAway:
    """Event of a client: the server will close this transport; reconnect `after` seconds (with jitter) later.

    Attributes:
        after: Seconds.
        jitter: Seconds, of which a random part is to be added.
    """

    after: float
    jitter: float


@dataclass(slots=True)
class TransportUseless:
    """Event of a client: the session is detached now; close the transport with `closing`, and open another.

    Attributes:
        text: Why: nothing came for twice the keepalive, or what the server answered to RESUME.
    """

    text: str


@dataclass(slots=True)
class Ended:
    """Event, the last one: the session has ended.

    Attributes:
        code: Close code; None where no peer sent one: a session that expired, a transport lost before OPENED.
        text: Reason; that of a peer is not to be trusted.
        by: Who ended it; `us` is this side.
        complete: Whether both streams were complete and acknowledged.
    """

    code: int | None
    text: str
    by: Literal["us", "peer"]
    complete: bool = False


Event = Received | PeerFinished | SessionOpened | SessionResumed | GoingAway | TransportUseless | Ended


def ack_bytes_for(window: int) -> int:
    """Give the consumed bytes after which a receiver acknowledges, for the window of the sender."""
    return max(1, min(window // 8, MAX_ACK_BYTES))


def granted_window(wanted: int, window: int) -> int:
    """Give the window of the server's stream, for what OPEN and OPENED say."""
    return min(window, max(wanted, MIN_WINDOW)) if wanted else window


OPENING, RESUMING, ATTACHED, DETACHED, ENDED = SessionState
# The byte path compares them for each read, and an attribute of an enum takes seven times as long to read.


class Session:
    """What both roles share.

    Attributes:
        state: Whether it has a transport.
        session_id: 16 bytes; empty for a client before OPENED.
        epoch: The server's; 0 for a client before OPENED.
        ttl: Seconds that it is kept without a transport; a server may change it, and RESUMED announces it.
        node: The server's node hint.
        ended: How it ended; None before.
        closing: Code and text with which to close the transport once `take` gives nothing more; None: leave it open.
        transports: Transports that it has had, this one among them.
        replayed_bytes: Bytes that were sent again so far.
        finished: Whether our stream has ended (`finish`).
        peer_finished: Whether the FIN of the peer has been received.
        sent_position: Highest position that was sent on any transport.
        acked_position: Position that the peer has acknowledged.
        received_position: Position up to which the peer's stream has been received.
        consumed_position: Position up to which the sink has accepted it.
        taken_bytes: Payload of DATA that `take` has given so far, what was sent again among it.
    """

    def __init__(self) -> None:
        self.state = DETACHED
        self.session_id = b""
        self.epoch = 0
        self.ttl = 0
        self.node = ""
        self.ended: Ended | None = None
        self.closing: tuple[int, str] | None = None
        self.transports = 0
        self.replayed_bytes = 0
        self.finished = False
        self.peer_finished = False
        self.sent_position = 0
        self.acked_position = 0
        self.received_position = 0
        self.consumed_position = 0
        self.taken_bytes = 0
        self._control: list[bytes] = []  # frames that go before all others
        self._buffer = ReplayBuffer()
        self._window = 0  # of our stream
        self._fin_sent = False  # on this transport, or the peer has it from an earlier one
        self._failure: tuple[int, str] | None = None  # of `end_after_data`
        self._peer_window = 0
        self._ack_bytes = 1
        self._ack_seconds = 0.25
        self._ack_sent = 0  # position of our last ACK
        self._ack_due = False
        self._ack_deadline: float | None = None
        self._detached_at: float | None = None

    # ------------------------------------------------------------------ our stream

    @property
    def room(self) -> int:
        """Bytes that the source may give now; 0 before the session is open, once finished or ended."""
        if self.finished or self._failure is not None or self.state is ENDED or self.state is OPENING:
            return 0
        return self._window - (self._buffer.end - self._buffer.start)

    def send(self, payload: Buffer) -> None:
        """Append to our stream; also without a transport.

        Args:
            payload: At most `room` bytes; `bytes` are kept, not copied, unless there are few.

        Raises:
            ValueError: More than `room`.
        """
        size = len(payload)
        if size > self.room:
            raise ValueError(f"{size} bytes given to a session with room for {self.room}")
        if size:
            self._buffer.append(payload)

    def finish(self) -> None:
        """End our stream (half-close): FIN follows its last byte. Again: nothing happens."""
        self.finished = True

    def take(self, max_bytes: int, now: float) -> list[ResumeMessage]:
        """Give messages to write to the current transport; they count as sent.

        Args:
            max_bytes: Payload of DATA to give at most (0: other frames alone).
            now: The clock, in seconds.

        Returns:
            Messages in order, each at most `1 + SEND_BYTES` bytes long; none: nothing is to be sent now.
        """
        messages: list[ResumeMessage] = []
        if self._control:
            messages += [(message, b"") for message in self._control]
            self._control = []
        if self.state is not ATTACHED:
            return messages
        if self._ack_due:
            self._ack_due = False
            self._ack_deadline = None
            self._ack_sent = self.consumed_position
            messages.append((encode_frame(Ack(self.consumed_position)), b""))
        buffer = self._buffer
        if buffer.cursor != buffer.end:
            self._take_data(messages, max_bytes)
        if buffer.cursor == buffer.end and (self.finished or self._failure is not None):
            self._take_end(messages)
        return messages

    def _take_data(self, messages: list[ResumeMessage], max_bytes: int) -> None:
        """Give the next bytes of our stream."""
        buffer = self._buffer
        begin = buffer.cursor
        messages += [(DATA_HEAD, payload) for payload in buffer.next_payloads(max_bytes, SEND_BYTES)]
        end = buffer.cursor
        self.taken_bytes += end - begin
        if begin < self.sent_position:
            self.replayed_bytes += min(end, self.sent_position) - begin
        if end > self.sent_position:
            self.sent_position = end

    def _take_end(self, messages: list[ResumeMessage]) -> None:
        """Give what follows the last byte of our stream: FIN, and the ERROR of `end_after_data`."""
        if self.finished and not self._fin_sent:
            self._fin_sent = True
            self.sent_position = self._buffer.end + 1
            messages.append((encode_frame(Fin(self._buffer.end)), b""))
        if self._failure is not None and self.closing is None:
            self.closing = self._failure
            messages.append((encode_frame(Failure(*self._failure)), b""))

    @property
    def can_wait(self) -> bool:
        """Whether `take` would give nothing but an ACK that may wait for payload, or else for `deadline`."""
        return (
            self._ack_deadline is not None
            and self.consumed_position - self._ack_sent < 2 * self._ack_bytes
            and self._buffer.cursor == self._buffer.end
            and not self._control
            and not self.finished
            and self._failure is None
        )

    @property
    def wants_to_send(self) -> bool:
        """Whether `take` would give something."""
        if self._control:
            return True
        if self.state is not ATTACHED:
            return False
        if self._ack_due or self._buffer.cursor != self._buffer.end:
            return True
        return (self.finished and not self._fin_sent) or (self._failure is not None and self.closing is None)

    # ------------------------------------------------------------------ the peer's stream

    def receive(self, frames: Iterable[Frame], now: float) -> list[Event]:
        """Process frames of the current transport.

        A violation ends the session: ERROR is among what `take` gives, and `closing` is set.
        """
        events: list[Event] = []
        for frame in frames:
            if self.state is ENDED or self.state is DETACHED:
                break
            if type(frame) is Data:
                self._on_data(frame.payload, now, events)
            else:
                self._on_control(frame, now, events)
        return events

    def receive_run(self, run: DataRun, now: float) -> bool:
        """Accept what `FrameReader.read_run` gives: its payload is received.

        Returns:
            False, and nothing has changed, where something is wrong with it: `receive` its frames.
        """
        position = self.received_position + run.size
        if (
            self.state is not ATTACHED
            or position - self._ack_sent > self._peer_window
            or (self.peer_finished and run.payloads)
            or not self._accept_ack(run.acked_position)
        ):
            return False
        self.received_position = position
        return True

    def _accept_ack(self, position: int | None) -> bool:
        """Drop what the peer has acknowledged; False, and nothing has changed, if that cannot be."""
        if position is None:
            return True
        buffer = self._buffer
        if not self.acked_position <= position <= buffer.cursor + self._fin_sent:
            return False
        self.acked_position = position
        buffer.acknowledge(min(position, buffer.end))
        return True

    def _on_data(self, payload: Buffer, now: float, events: list[Event]) -> None:
        if self.state is not ATTACHED or self.peer_finished:
            return self._violate(f"DATA {self._describe_order()}", now, events)
        position = self.received_position + len(payload)
        if position - self._ack_sent > self._peer_window:
            return self._violate(f"DATA beyond the window of {self._peer_window} bytes", now, events)
        self.received_position = position
        last = events[-1] if events else None
        if type(last) is Received:
            last.payloads.append(payload)
        else:
            events.append(Received([payload]))
        return None

    def _on_control(self, frame: Frame, now: float, events: list[Event]) -> None:
        match frame:
            case Ack() if self.state is ATTACHED:
                self._on_ack(frame.position, now, events)
            case Fin() if self.state is ATTACHED and not self.peer_finished:
                self._on_fin(frame.position, now, events)
            case Failure():
                self._on_failure(frame, now, events)
            case Keepalive() | Ignored():
                pass
            case Malformed():
                self._violate(frame.detail, now, events)
            case _:
                self._violate(f"{type(frame).__name__.upper()} {self._describe_order()}", now, events)

    def _describe_order(self) -> str:
        """Say after what a frame must not come."""
        return "after FIN" if self.peer_finished else f"while the session is {self.state.value}"

    def _on_ack(self, position: int, now: float, events: list[Event]) -> None:
        if not self._accept_ack(position):
            limit = self._buffer.cursor + self._fin_sent
            detail = f"ACK of position {position}, not {self.acked_position} to {limit}"
            self._violate(detail, now, events, ResumeCode.GAP)

    def _on_fin(self, position: int, now: float, events: list[Event]) -> None:
        if position != self.received_position:
            detail = f"FIN at position {position}, not {self.received_position}"
            return self._violate(detail, now, events, ResumeCode.GAP)
        self.received_position = position + 1
        self.peer_finished = True
        events.append(PeerFinished())
        return None

    def _on_failure(self, frame: Failure, now: float, events: list[Event]) -> None:
        self.closing = (frame.code, "")
        self._conclude(Ended(frame.code, frame.text, "peer", self.complete), events)

    def _violate(self, detail: str, now: float, events: list[Event], code: int = ResumeCode.PROTOCOL) -> None:
        """End the session because of what the peer sent."""
        self.end(code, detail, now)
        if self.ended is not None:
            events.append(self.ended)

    def consumed(self, size: int, now: float) -> None:
        """Note that the sink has accepted `size` more bytes; schedules the ACK. Also without a transport.

        Raises:
            ValueError: More than `unconsumed_bytes`.
        """
        if size > self.unconsumed_bytes:
            raise ValueError(f"{size} bytes consumed, and {self.unconsumed_bytes} were received")
        self.consumed_position += size
        if self._ack_deadline is None and size and not self._ack_due:
            self._ack_deadline = now + self._ack_seconds
        if self.consumed_position - self._ack_sent >= self._ack_bytes:
            self._ack_due = True

    def consumed_fin(self) -> None:
        """Note that the sink has accepted the end of the peer's stream; it is acknowledged at once.

        Raises:
            ValueError: The peer has not finished, or there are unconsumed bytes.
        """
        if not self.peer_finished or self.unconsumed_bytes:
            raise ValueError(f"the end of the stream was not received, or {self.unconsumed_bytes} bytes before it left")
        self.consumed_position = self.received_position
        self._ack_due = True
        self._ack_deadline = None

    # ------------------------------------------------------------------ endings

    def transport_lost(self, now: float, close_code: int | None = None, text: str = "") -> list[Event]:
        """Process the end of the current transport.

        Args:
            now: The clock, in seconds.
            close_code: Of the peer's close frame; None without one (EOF, reset, TLS error, ping timeout), 1005 for one
                without a code.
            text: Of the close frame.

        Returns:
            `Ended` where this ends the session; nothing where it is detached now, or was before.
        """
        events: list[Event] = []
        detaches = self._detaches(close_code)
        if self.state is ENDED or self.state is DETACHED:
            self.closing = None
        elif self._failure is not None and self.closing is not None and (close_code == 1005 or not detaches):
            self._conclude(Ended(*self._failure, "us"), events)
        elif detaches:
            self._detach(now)
        else:
            self._conclude(Ended(close_code, text, "peer", self.complete), events)
        return events

    def _detaches(self, close_code: int | None) -> bool:
        """Whether the session goes on after this end of its transport."""
        return close_code in DETACHING_CLOSE_CODES

    def _detach(self, now: float) -> None:
        self.state = DETACHED
        self.closing = None
        self._control = []
        if self._detached_at is None:
            self._detached_at = now

    def _attach(self, position: int) -> int:
        """Go on from the position up to which the peer has received; gives the bytes that are sent again."""
        buffer = self._buffer
        buffer.seek(min(position, buffer.end))
        self._fin_sent = position > buffer.end
        self.state = ATTACHED
        self.closing = None
        self._detached_at = None
        self._ack_due = True
        self._ack_deadline = None
        return max(0, min(self.sent_position, buffer.end) - buffer.cursor)

    def _holds(self, position: int) -> bool:
        """Whether our stream can go on from a position that the peer says it has received."""
        return self.acked_position <= position <= self.sent_position

    def end(self, code: int, text: str, now: float) -> None:
        """End the session now; what is not sent yet is dropped. Again: nothing happens.

        An attached peer gets ERROR (for codes below 4000 nothing but the close frame), a later RESUME with a valid
        token the same code and text.
        """
        if self.state is ENDED:
            return
        text = cut_error_text(text).decode()
        if self.state is not DETACHED:
            self.closing = (int(code), text)
            self._control = [encode_frame(Failure(code, text))] if code >= 4000 else []
        self._conclude(Ended(int(code), text, "us", self.complete))

    def _conclude(self, ended: Ended, events: list[Event] | None = None) -> None:
        self.state = ENDED
        self.ended = ended
        self._buffer.clear()
        if events is not None:
            events.append(ended)

    def end_after_data(self, code: int, text: str) -> None:
        """End the session once the peer has our stream as far as it goes (a backend that was reset).

        ERROR follows our last byte, on this transport or on a later one. The session has ended once the peer has
        closed in answer to it; a transport lost before that leaves it detached, until its ttl.
        """
        if self._failure is None:
            self._failure = (code, cut_error_text(text).decode())

    # ------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """When to call `on_deadline` at the latest, by the caller's clock; None for never."""
        if self.state is ATTACHED:
            return self._ack_deadline
        if self.state is DETACHED and self._detached_at is not None:
            return self._detached_at + self.ttl
        return None

    def on_deadline(self, now: float) -> list[Event]:
        """Do what is due; too early, nothing happens.

        That is an ACK or a KEEPALIVE (see `wants_to_send`), the end of a session that was detached for its ttl
        (`Ended`), and `TransportUseless`.
        """
        events: list[Event] = []
        if self.state is ATTACHED and self._ack_deadline is not None and self._ack_deadline <= now:
            self._ack_due = True
            self._ack_deadline = None
        elif self.state is DETACHED and self._detached_at is not None and self._detached_at + self.ttl <= now:
            self._conclude(Ended(None, f"expired after {self.ttl} s without a transport", "us", self.complete), events)
        return events

    # ------------------------------------------------------------------ figures

    @property
    def replay_bytes(self) -> int:
        """Bytes held to be sent or sent again: at most the window."""
        return self._buffer.end - self._buffer.start

    @property
    def progress(self) -> int:
        """How far the session has got, as a number: what has been received and what the peer has acknowledged."""
        return self.received_position + self.acked_position

    @property
    def held_bytes(self) -> int:
        """Bytes held in both directions: `replay_bytes` and `unconsumed_bytes`."""
        buffer = self._buffer
        held = buffer.end - buffer.start
        return held if self.consumed_position == self.received_position else held + self.unconsumed_bytes

    @property
    def unconsumed_bytes(self) -> int:
        """Bytes received that the sink has not accepted: at most the window."""
        if self.consumed_position == self.received_position:
            return 0
        return self.received_position - self.consumed_position - self.peer_finished

    @property
    def fin_acked(self) -> bool:
        """Whether the peer has acknowledged our whole stream and its end."""
        return self.finished and self.acked_position > self._buffer.end

    @property
    def is_failing(self) -> bool:
        """Whether `end_after_data` has been called."""
        return self._failure is not None

    @property
    def complete(self) -> bool:
        """Whether both streams are complete, and acknowledged as far as this side can know."""
        return self.fin_acked and self.peer_finished and self._ack_sent == self.received_position
