"""Resumable sessions: the state machine of both roles of `wsbridge.resume.v1` (docs/resume-protocol.md), without I/O.

A session is two byte streams, one each way, that outlive the WebSocket connections (transports) that carry them.
`ServerSession` and `ClientSession` know one transport at a time, the newest: what arrives on an older one is not given
to them. The caller owns transports, clocks, randomness and the table of sessions.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

from wsbridge.protocol.resume_frames import Frame, Open, Resume
from wsbridge.protocol.websocket import Buffer

SEND_BYTES = 32768
"""Largest payload of a DATA frame that is sent, in bytes: two of them hold what a source gives in one read."""

MIN_WINDOW = 4096
"""A smaller window that a client asks for becomes this one, in bytes."""

MAX_ACK_BYTES = 65536

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


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a server grants to a session.

    Attributes:
        window: Bytes that each side may have unacknowledged; a client can ask for less from the server.
        ttl: Seconds that the session is kept without a transport.
        ack_ms: Milliseconds after which consumed bytes are acknowledged at the latest.
        keepalive: Seconds of silence after which KEEPALIVE is sent; 0 for never.
        node: Name of this node for load balancers, at most 255 characters of ASCII.
    """

    window: int = 1048576
    ttl: int = 120
    ack_ms: int = 250
    keepalive: int = 20
    node: str = ""


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
class TransportSilent:
    """Event of a client: nothing has come for twice the keepalive; the transport is lost, drop it (close code 4003)."""


@dataclass(slots=True)
class Completed:
    """Event: both streams are complete and acknowledged; the client closes with 1000, and the server awaits that."""


@dataclass(slots=True)
class Ended:
    """Event, the last one: the session has ended.

    Attributes:
        code: Close code; None where nothing said one (a client's session that expired).
        text: Reason; what a peer said is not to be trusted.
        by: Whose doing: `us` is this side.
        complete: Whether both streams were complete and acknowledged.
    """

    code: int | None
    text: str
    by: Literal["us", "peer"]
    complete: bool = False


Event = Received | PeerFinished | SessionOpened | SessionResumed | GoingAway | TransportSilent | Completed | Ended


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a server does with a RESUME.

    Attributes:
        refusal: Code and text of the ERROR for the transport of the RESUME; None where it has taken over.
        replaced: Whether another transport was attached until now: it gets ERROR and close code 4003.
        bad_token: Whether the token was wrong: counted for bans.
        replayed: Bytes that are sent again.
    """

    refusal: tuple[int, str] | None = None
    replaced: bool = False
    bad_token: bool = False
    replayed: int = 0


def hash_token(token: bytes) -> bytes:
    """Give the SHA-256 of a token: what a server keeps of it."""
    raise NotImplementedError


class Session:
    """What both roles share.

    Attributes:
        state: Whether it has a transport.
        session_id: 16 bytes; empty for a client before OPENED.
        epoch: The server's; 0 for a client before OPENED.
        ttl: Seconds that it is kept without a transport; a server may change it, and RESUMED announces it.
        node: The server's node hint.
        ended: How it ended; None before.
        transports: Transports that it has had, this one among them.
        replayed_bytes: Bytes that were sent again so far.
    """

    state: SessionState
    session_id: bytes
    epoch: int
    ttl: int
    node: str
    ended: Ended | None
    transports: int
    replayed_bytes: int

    # ------------------------------------------------------------------ our stream

    @property
    def room(self) -> int:
        """Bytes that the source may give now; 0 before the session is open, once finished or ended."""
        raise NotImplementedError

    def send(self, payload: Buffer) -> None:
        """Append to our stream; also without a transport.

        Args:
            payload: 1 to `room` bytes. It is kept, not copied, unless small: it must not change any more.

        Raises:
            ValueError: More than `room`.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """End our stream (half-close); FIN follows all its bytes. Again: nothing happens."""
        raise NotImplementedError

    def take(self, max_bytes: int, now: float) -> list[ResumeMessage]:
        """Give messages to write to the current transport; they count as sent.

        Args:
            max_bytes: Payload of DATA to give at most (0: control frames alone).
            now: The clock, in seconds.

        Returns:
            Messages in order, each at most `1 + SEND_BYTES` bytes long; none: nothing is to be sent now.
        """
        raise NotImplementedError

    @property
    def wants_to_send(self) -> bool:
        """Whether `take` would give something."""
        raise NotImplementedError

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and text with which to close the WebSocket once `take` gives nothing more; None: leave it open."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the peer's stream

    def receive(self, frames: Iterable[Frame], now: float) -> list[Event]:
        """Process frames of the current transport.

        A violation ends the session: ERROR is among what `take` gives, and `closing` is set.
        """
        raise NotImplementedError

    def consumed(self, size: int, now: float) -> None:
        """Note that the sink has accepted `size` more bytes; schedules the ACK. Also without a transport."""
        raise NotImplementedError

    def consumed_fin(self, now: float) -> None:
        """Note that the sink has accepted the end of the peer's stream; it is acknowledged at once."""
        raise NotImplementedError

    # ------------------------------------------------------------------ endings

    def transport_lost(self, now: float, close_code: int | None = None, text: str = "") -> list[Event]:
        """Process the end of the current transport.

        Args:
            now: The clock, in seconds.
            close_code: Of the peer's close frame; None without one (EOF, reset, TLS error, ping timeout), 1005 for one
                without a code.
            text: Of the close frame.

        Returns:
            `Ended` where this ends the session; nothing where it is detached now.
        """
        raise NotImplementedError

    def end(self, code: int, text: str, now: float) -> None:
        """End the session now; what is not sent yet is dropped. Again: nothing happens.

        An attached peer gets ERROR (for 1000 nothing but the close frame), a later RESUME with a valid token the same
        code and text.
        """
        raise NotImplementedError

    def end_after_data(self, code: int, text: str) -> None:
        """End the session once the peer has our stream as far as it goes (a backend that was reset).

        ERROR follows our last byte, on this transport or on a later one. The session has ended once the peer has
        closed in answer to it; a transport lost before that leaves it detached, until its ttl.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """When to call `on_deadline` at the latest, by the caller's clock; None for never."""
        raise NotImplementedError

    def on_deadline(self, now: float) -> list[Event]:
        """Do what is due; too early, nothing happens.

        That is an ACK or a KEEPALIVE (see `wants_to_send`), the end of a session that was detached for its ttl (`Ended`)
        and `TransportSilent`.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ figures

    @property
    def replay_bytes(self) -> int:
        """Bytes held to be sent or sent again: at most the window."""
        raise NotImplementedError

    @property
    def unconsumed_bytes(self) -> int:
        """Bytes received that the sink has not accepted: at most the window."""
        raise NotImplementedError

    @property
    def sent_position(self) -> int:
        """Highest position that was sent on any transport."""
        raise NotImplementedError

    @property
    def acked_position(self) -> int:
        """Position that the peer has acknowledged."""
        raise NotImplementedError

    @property
    def received_position(self) -> int:
        """Position up to which the peer's stream has been received."""
        raise NotImplementedError

    @property
    def consumed_position(self) -> int:
        """Position up to which the sink has accepted it."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether our stream has ended (`finish`)."""
        raise NotImplementedError

    @property
    def peer_finished(self) -> bool:
        """Whether the FIN of the peer has been received."""
        raise NotImplementedError

    @property
    def complete(self) -> bool:
        """Whether both streams are complete and acknowledged."""
        raise NotImplementedError


class ServerSession(Session):
    """The server's half of a session; it begins with the first transport's OPEN.

    Args:
        opening: The OPEN frame.
        epoch: The server's epoch, 64 bits.
        session_id: 16 bytes, unique within the epoch; not secret.
        terms: What is granted.
        new_token: Gives 32 unpredictable bytes; only their hash is kept.
    """

    def __init__(
        self, opening: Open, *, epoch: int, session_id: bytes, terms: SessionTerms, new_token: Callable[[], bytes]
    ) -> None:
        raise NotImplementedError

    def opened(self, now: float) -> None:
        """Answer OPEN, once the backend is connected; before that `end` refuses (4010, 4011, 4013, ...)."""
        raise NotImplementedError

    def resume(self, frame: Resume, now: float) -> Resumption:
        """Judge a RESUME whose epoch and session id are this session's, and let its transport take over.

        In this order: token (4001), a session that has ended (its code), an attempt that is not newer than the last
        (4003), positions (4002, which ends the session). The caller checks the epoch before (4004), and that identity
        and route are the session's. After a refusal the session and its transport are as before.
        """
        raise NotImplementedError

    def go_away(self, after_ms: int, jitter_ms: int) -> None:
        """Announce to an attached client that its transport will be closed (1012), and when to reconnect."""
        raise NotImplementedError

    def export_state(self, now: float) -> dict[str, Any]:
        """Give the whole state as plain values (int, bytes, str, None, bool, lists), for another process.

        The session is as if detached: what was received and not consumed is not in it, and the client sends it again.
        Token hashes and buffered payload are in it. Times are relative to `now`.
        """
        raise NotImplementedError

    @classmethod
    def restore(cls, state: dict[str, Any], now: float, new_token: Callable[[], bytes]) -> Self:
        """Build a detached session from what `export_state` gave.

        Raises:
            ValueError: The state is not of this version, or contradicts itself.
        """
        raise NotImplementedError


class ClientSession(Session):
    """The client's half of a session.

    Args:
        window: Bytes that the server may have unacknowledged; 0 for the server's own window.
    """

    def __init__(self, window: int = 0) -> None:
        raise NotImplementedError

    def connect(self, now: float) -> None:
        """Begin on a new transport, whose WebSocket handshake is done: `take` gives OPEN or RESUME first.

        An earlier transport that is still attached counts as lost; drop it (close code 4003).
        """
        raise NotImplementedError

    def note_alive(self, now: float) -> None:
        """Note that anything came (a ping) or that the transport is not being read: it is not silent."""
        raise NotImplementedError
