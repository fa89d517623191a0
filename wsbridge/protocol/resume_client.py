"""The client's half of a resumable session: OPEN and RESUME on each new transport, and when one is of no use."""

from __future__ import annotations

from collections.abc import Iterable

from wsbridge.protocol.resume import (
    ATTACHED,
    DETACHED,
    ENDED,
    OPENING,
    RESUMING,
    Ended,
    Event,
    GoingAway,
    ResumeMessage,
    Session,
    SessionOpened,
    SessionResumed,
    TransportUseless,
    granted_window,
)
from wsbridge.protocol.resume_frames import (
    DataRun,
    Failure,
    Frame,
    GoAway,
    Open,
    Opened,
    Resume,
    ResumeCode,
    Resumed,
    encode_frame,
)

SILENT_KEEPALIVES = 2
"""A client that has received nothing for this many times the keepalive takes its transport to be lost."""

RETRY_CODES = frozenset((ResumeCode.CAPACITY, ResumeCode.DRAINING))
"""Answers to a RESUME that leave the session as it is."""


class ClientSession(Session):
    """The client's half of a session.

    Args:
        window: Bytes that the server may have unacknowledged; 0 for the server's own window.
    """

    def __init__(self, window: int = 0) -> None:
        super().__init__()
        self._wanted_window = window
        self._token = b""
        self._attempt = 0
        self._keepalive = 0
        self._last_received = 0.0

    def connect(self, now: float) -> None:
        """Begin on a new transport, whose WebSocket handshake is done: `take` gives OPEN or RESUME first.

        An earlier transport that is still attached counts as lost; drop it (close code 4003).

        Raises:
            ValueError: The session has ended.
        """
        if self.state is ENDED:
            raise ValueError("the session has ended")
        if self.state is not DETACHED:
            self._detach(now)
        self.transports += 1
        self.closing = None
        self._last_received = now
        if not self.session_id:
            self.state = OPENING
            self._control = [encode_frame(Open(self._wanted_window))]
            return
        self.state = RESUMING
        self._attempt += 1
        resume = Resume(
            self.epoch, self.session_id, self._token, self._attempt, self.received_position, self.acked_position
        )
        self._control = [encode_frame(resume)]

    def note_alive(self, now: float) -> None:
        """Note that anything came (a ping), or that the transport is not being read: it is not silent."""
        self._last_received = now

    def receive_run(self, run: DataRun, now: float) -> bool:
        """See `Session.receive_run`."""
        self._last_received = now
        accepted = super().receive_run(run, now)
        if accepted and run.acked_position is not None and self.complete:
            self.closing = (1000, "")
        return accepted

    def receive(self, frames: Iterable[Frame], now: float) -> list[Event]:
        """See `Session.receive`."""
        self._last_received = now
        return super().receive(frames, now)

    def _on_control(self, frame: Frame, now: float, events: list[Event]) -> None:
        match frame:
            case Opened() if self.state is OPENING:
                self._on_opened(frame, now, events)
            case Resumed() if self.state is RESUMING:
                self._on_resumed(frame, now, events)
            case GoAway():
                events.append(GoingAway(frame.after_ms / 1000, frame.jitter_ms / 1000))
            case _:
                super()._on_control(frame, now, events)
        if self.state is ATTACHED and self.complete:
            self.closing = (1000, "")

    def _on_opened(self, frame: Opened, now: float, events: list[Event]) -> None:
        if not frame.window:
            return self._violate("OPENED with a window of 0 bytes", now, events)
        self.state = ATTACHED
        self.epoch, self.session_id, self._token = frame.epoch, frame.session_id, frame.token
        self.ttl, self.node = frame.ttl, frame.node
        self._window = frame.window
        self._peer_window = granted_window(self._wanted_window, frame.window)
        self._ack_bytes = max(1, frame.ack_bytes)
        self._ack_seconds = frame.ack_ms / 1000
        self._keepalive = frame.keepalive
        events.append(SessionOpened())
        return None

    def _on_resumed(self, frame: Resumed, now: float, events: list[Event]) -> None:
        if not self._holds(frame.received):
            detail = f"RESUMED from position {frame.received}, not {self.acked_position} to {self.sent_position}"
            return self._violate(detail, now, events, ResumeCode.GAP)
        self._token, self.ttl = frame.token, frame.ttl
        events.append(SessionResumed(self._attach(frame.received)))
        return None

    def _on_failure(self, frame: Failure, now: float, events: list[Event]) -> None:
        if self.state is RESUMING and frame.code in RETRY_CODES:
            self._drop_transport(frame.code, f"{frame.code} {frame.text}", now, events)
        else:
            super()._on_failure(frame, now, events)

    def _drop_transport(self, code: int, text: str, now: float, events: list[Event]) -> None:
        self._detach(now)
        self.closing = (code, "")
        events.append(TransportUseless(text))

    def take(self, max_bytes: int, now: float) -> list[ResumeMessage]:
        """See `Session.take`."""
        messages = super().take(max_bytes, now)
        if self.state is ATTACHED and self.complete:
            self.closing = (1000, "")
        return messages

    def transport_lost(self, now: float, close_code: int | None = None, text: str = "") -> list[Event]:
        """See `Session.transport_lost`."""
        if self.state is ATTACHED and self.complete:
            events: list[Event] = []
            self._conclude(Ended(1000, "", "us", complete=True), events)
            return events
        return super().transport_lost(now, close_code, text)

    def _detaches(self, close_code: int | None) -> bool:
        if self.state is RESUMING and close_code in RETRY_CODES:
            return True
        return super()._detaches(close_code)

    def _detach(self, now: float) -> None:
        super()._detach(now)
        if not self.session_id:
            self._detached_at = None  # there is nothing that could expire

    @property
    def deadline(self) -> float | None:
        """See `Session.deadline`."""
        due = super().deadline
        if self.state is ATTACHED and self._keepalive:
            silent = self._last_received + SILENT_KEEPALIVES * self._keepalive
            return silent if due is None else min(due, silent)
        return due

    def on_deadline(self, now: float) -> list[Event]:
        """See `Session.on_deadline`."""
        events = super().on_deadline(now)
        silent = SILENT_KEEPALIVES * self._keepalive
        if self.state is ATTACHED and self._keepalive and self._last_received + silent <= now:
            self._drop_transport(ResumeCode.SUPERSEDED, f"nothing received for {silent} s", now, events)
        return events
