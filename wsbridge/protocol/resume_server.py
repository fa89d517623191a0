"""The server's half of a resumable session: OPENED, RESUME and takeover, tokens, keepalive, state as plain values."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from wsbridge.protocol.replay_buffer import ReplayBuffer
from wsbridge.protocol.resume import (
    ATTACHED,
    DETACHED,
    ENDED,
    OPENING,
    SEND_BYTES,
    Ended,
    Event,
    ResumeMessage,
    Session,
    ack_bytes_for,
    granted_window,
)
from wsbridge.protocol.resume_frames import (
    REJECTED_TEXT,
    Ack,
    Data,
    DataRun,
    Fin,
    Frame,
    GoAway,
    Keepalive,
    Open,
    Opened,
    Resume,
    ResumeCode,
    Resumed,
    encode_frame,
)

STATE_VERSION = 1
"""Version of what `ServerSession.export_state` gives."""


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
    return hashlib.sha256(token).digest()


def reject_resume(frame: Resume) -> Resumption:
    """Reject a RESUME of a session that is unknown, or of another identity or route: as one with a wrong token.

    It takes the time that `ServerSession.resume` takes for that.
    """
    presented = hash_token(frame.token)
    for _ in range(2):
        hmac.compare_digest(presented, bytes(len(presented)))
    return Resumption((ResumeCode.REJECTED, REJECTED_TEXT), bad_token=True)


class ServerSession(Session):
    """The server's half of a session; it begins with the OPEN of the first transport.

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
        super().__init__()
        self.state = OPENING
        self.transports = 1
        self.epoch = epoch
        self.session_id = session_id
        self.ttl = terms.ttl
        self.node = terms.node
        self._terms = terms
        self._new_token = new_token
        self._token_hash = b""
        self._previous_token_hash = b""  # valid until the client confirms the current one
        self._attempt = 0
        self._window = granted_window(opening.window, terms.window)
        self._peer_window = terms.window
        self._ack_bytes = ack_bytes_for(terms.window)
        self._ack_seconds = terms.ack_ms / 1000
        self._last_sent = 0.0
        self._keepalive_due = False

    def opened(self, now: float) -> None:
        """Answer OPEN, once the backend is connected; before that `end` refuses (4010, 4011, 4013, ...).

        Raises:
            ValueError: The session is not opening any more.
        """
        if self.state is not OPENING:
            raise ValueError(f"the session is {self.state.value}")
        token = self._new_token()
        self._token_hash = hash_token(token)
        terms = self._terms
        answer = Opened(
            self.epoch,
            self.session_id,
            token,
            self.ttl,
            terms.window,
            ack_bytes_for(self._window),
            terms.ack_ms,
            terms.keepalive,
            self.node,
        )
        self._control.append(encode_frame(answer))
        self.state = ATTACHED
        self._last_sent = now

    def resume(self, frame: Resume, now: float) -> Resumption:
        """Judge a RESUME whose epoch and session id are this session's, and let its transport take over.

        In this order: token (4001), a session that has ended (its code), an attempt that is not newer than the last
        (4003), positions (4002, which ends the session). The caller checks the epoch before (4004), and that identity
        and route are the session's. After another refusal the session and its transport are as before.
        """
        presented = hash_token(frame.token)
        is_current = hmac.compare_digest(presented, self._token_hash)
        is_previous = hmac.compare_digest(presented, self._previous_token_hash)
        if not (is_current or is_previous):
            return Resumption((ResumeCode.REJECTED, REJECTED_TEXT), bad_token=True)
        if self.ended is not None:
            code = self.ended.code or 0
            return Resumption((code, self.ended.text) if code >= 4000 else (ResumeCode.REJECTED, REJECTED_TEXT))
        if frame.attempt <= self._attempt:
            return Resumption((ResumeCode.SUPERSEDED, f"attempt {frame.attempt} after attempt {self._attempt}"))
        gap = self._find_gap(frame)
        if gap:
            self.end(ResumeCode.GAP, gap, now)
            return Resumption((ResumeCode.GAP, gap))
        replaced = self.state is ATTACHED
        self._attempt = frame.attempt
        self.transports += 1
        token = self._new_token()
        self._previous_token_hash = presented
        self._token_hash = hash_token(token)
        replayed = self._attach(frame.received)
        self._control = [encode_frame(Resumed(self.received_position, token, self.ttl))]
        self._last_sent = now
        self._keepalive_due = False
        return Resumption(replaced=replaced, replayed=replayed)

    def _find_gap(self, frame: Resume) -> str:
        """Say why the positions of a RESUME do not fit; empty if they do."""
        if not self._holds(frame.received):
            return f"received {frame.received}, not {self.acked_position} to {self.sent_position}"
        if frame.first_available > self.received_position:
            return f"available from {frame.first_available} on, and needed from {self.received_position}"
        return ""

    def receive_run(self, run: DataRun, now: float) -> bool:
        """See `Session.receive_run`."""
        if self._previous_token_hash and self.state is ATTACHED:
            self._previous_token_hash = b""
        return super().receive_run(run, now)

    def receive(self, frames: Iterable[Frame], now: float) -> list[Event]:
        """See `Session.receive`."""
        if self._previous_token_hash:
            frames = list(frames)
            if self.state is ATTACHED and any(type(frame) in (Ack, Data, Fin) for frame in frames):
                self._previous_token_hash = b""
        return super().receive(frames, now)

    def take(self, max_bytes: int, now: float) -> list[ResumeMessage]:
        """See `Session.take`."""
        messages = super().take(max_bytes, now)
        if not messages and self._keepalive_due and self.state is ATTACHED:
            messages.append((encode_frame(Keepalive()), b""))
        if messages:
            self._last_sent = now
            self._keepalive_due = False
        return messages

    @property
    def wants_to_send(self) -> bool:
        """See `Session.wants_to_send`."""
        return super().wants_to_send or (self._keepalive_due and self.state is ATTACHED)

    def go_away(self, after_ms: int, jitter_ms: int) -> None:
        """Announce to an attached client that its transport will be closed (1012), and when to reconnect."""
        if self.state is ATTACHED:
            self._control.append(encode_frame(GoAway(after_ms, jitter_ms)))

    def _detaches(self, close_code: int | None) -> bool:
        if self.state is OPENING:
            return False
        return super()._detaches(close_code) or close_code == ResumeCode.SUPERSEDED

    @property
    def deadline(self) -> float | None:
        """See `Session.deadline`."""
        due = super().deadline
        if self.state is ATTACHED and self._terms.keepalive and not self._keepalive_due:
            keepalive = self._last_sent + self._terms.keepalive
            return keepalive if due is None else min(due, keepalive)
        return due

    def on_deadline(self, now: float) -> list[Event]:
        """See `Session.on_deadline`."""
        keepalive = self._terms.keepalive
        if self.state is ATTACHED and keepalive and self._last_sent + keepalive <= now:
            self._keepalive_due = True
        return super().on_deadline(now)

    def export_state(self, now: float) -> dict[str, Any]:
        """Give the whole state as plain values (int, float, bytes, str, bool, None, list), for another process.

        The session is as if detached: what was received and not consumed is not in it, and the client sends it again.
        Token hashes and buffered payload are in it. Times are relative to `now`.

        Raises:
            ValueError: The session is still opening.
        """
        if self.state is OPENING:
            raise ValueError("the session is still opening")
        ended = self.ended
        terms = self._terms
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "session_id": self.session_id,
            "ttl": self.ttl,
            "node": self.node,
            "window": terms.window,
            "ack_ms": terms.ack_ms,
            "keepalive": terms.keepalive,
            "send_window": self._window,
            "token_hash": self._token_hash,
            "previous_token_hash": self._previous_token_hash,
            "attempt": self._attempt,
            "detached_seconds": 0.0 if self._detached_at is None else now - self._detached_at,
            "transports": self.transports,
            "replayed_bytes": self.replayed_bytes,
            "buffer": self._buffer.copy_bytes(),
            "buffer_start": self._buffer.start,
            "finished": self.finished,
            "sent": self.sent_position,
            "acked": self.acked_position,
            "consumed": self.consumed_position,
            "ack_sent": self._ack_sent,
            "peer_finished": self.peer_finished and self.consumed_position == self.received_position,
            "failure": None if self._failure is None else list(self._failure),
            "ended": None if ended is None else [ended.code, ended.text, ended.by, ended.complete],
        }

    @classmethod
    def restore(cls, state: dict[str, Any], now: float, new_token: Callable[[], bytes]) -> Self:
        """Build a detached session from what `export_state` gave.

        Raises:
            ValueError: The state is not of this version, or contradicts itself.
        """
        try:
            return cls._restore(state, now, new_token)
        except (KeyError, TypeError) as error:
            raise ValueError(f"state of a session: {error!r}") from None

    @classmethod
    def _restore(cls, state: dict[str, Any], now: float, new_token: Callable[[], bytes]) -> Self:
        if state["version"] != STATE_VERSION:
            raise ValueError(f"state of a session of version {state['version']}, not {STATE_VERSION}")
        terms = SessionTerms(state["window"], state["ttl"], state["ack_ms"], state["keepalive"], state["node"])
        session = cls(Open(), epoch=state["epoch"], session_id=state["session_id"], terms=terms, new_token=new_token)
        session.state = DETACHED
        session._window = state["send_window"]
        session._token_hash = state["token_hash"]
        session._previous_token_hash = state["previous_token_hash"]
        session._attempt = state["attempt"]
        session._detached_at = now - state["detached_seconds"]
        session.transports = state["transports"]
        session.replayed_bytes = state["replayed_bytes"]
        session._buffer = ReplayBuffer(state["buffer_start"])
        payload = state["buffer"]
        for at in range(0, len(payload), SEND_BYTES):
            session._buffer.append(payload[at : at + SEND_BYTES])
        session.finished = state["finished"]
        session.sent_position = state["sent"]
        session.acked_position = state["acked"]
        session.received_position = session.consumed_position = state["consumed"]
        session._ack_sent = state["ack_sent"]
        session.peer_finished = state["peer_finished"]
        session._failure = None if state["failure"] is None else (state["failure"][0], state["failure"][1])
        if state["ended"] is not None:
            session._conclude(Ended(*state["ended"]))
        session._check_restored()
        return session

    def _check_restored(self) -> None:
        """Check that positions fit together.

        Raises:
            ValueError: They do not.
        """
        buffer = self._buffer
        end = buffer.end + self.finished
        held = self.state is ENDED or (
            min(self.acked_position, buffer.end) == buffer.start and buffer.end - buffer.start <= self._window
        )
        if not (held and self.acked_position <= self.sent_position <= end and self._ack_sent <= self.consumed_position):
            raise ValueError("state of a session: its positions contradict each other")
