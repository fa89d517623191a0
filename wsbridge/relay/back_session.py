"""The relay of a plain client and a resumable session that its backend has opened: how it ends, on both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from wsbridge.net.transport import EOF, RESET
from wsbridge.protocol.resume import Ended, Event, GoingAway, SessionResumed, TransportUseless
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import FrameReader, ResumeCode
from wsbridge.reasons import Reason
from wsbridge.relay.endpoint import RX_OPEN, Endpoint, Side, build_endpoint
from wsbridge.relay.relay import RelayOptions, Scheduler
from wsbridge.relay.session_relay import CloseCarrier, SessionOwner, SessionRelay
from wsbridge.relay.session_stream import Carrier, ReplayMemory, SessionEndpoint, SessionStream, SourceEndpoint

_REASON_BY_CODE = {
    ResumeCode.REJECTED: Reason.RESUME_REJECTED,
    ResumeCode.GAP: Reason.RESUME_GAP,
    ResumeCode.SUPERSEDED: Reason.SUPERSEDED,
    ResumeCode.RESTARTED: Reason.SESSION_LOST,
    ResumeCode.PROTOCOL: Reason.PROTOCOL_ERROR,
}


@dataclass(slots=True)
class OpenedSession:
    """A session that a backend has opened.

    Attributes:
        machine: Its state machine.
        reader: Of the frames of its first transport.
    """

    machine: ClientSession
    reader: FrameReader


class BackSessionOwner(SessionOwner, Protocol):
    """Who gives a session its transports.

    Attributes:
        relay: That of the session; the engine sets it.
    """

    relay: BackSessionRelay

    def session_resumed(self, replayed_bytes: int) -> None:
        """The session goes on over the transport that it was given."""

    def going_away(self, after: float, jitter: float) -> None:
        """The server will close the transport; the next one is wanted so many seconds, and a random part, later."""


class BackSessionRelay(SessionRelay):
    """A plain client, and a session that the backend has opened.

    Args:
        machine: The state machine, past its OPENED.
        front: The accepted side.
        options: See `SessionRelay`.
        loop: See there.
        memory: See there.
        owner: Gives it further transports, by `go_on`.
        close_carrier: See there.
    """

    __slots__ = ("_back_owner", "_is_over", "_machine")

    def __init__(
        self,
        machine: ClientSession,
        front: Side,
        options: RelayOptions,
        loop: Scheduler,
        memory: ReplayMemory,
        owner: BackSessionOwner,
        close_carrier: CloseCarrier,
    ) -> None:
        stream = SessionStream(machine, memory)
        back = SessionEndpoint(stream, text=False)
        endpoint = build_endpoint(front, plain=SourceEndpoint)
        super().__init__(machine, endpoint, back, stream, options, loop, memory, owner, close_carrier)
        self._machine = machine
        self._back_owner = owner
        self._is_over = False  # whether the server has closed the session in order, before both streams were complete

    def go_on(self, side: Side) -> None:
        """Go on over another transport: past its 101, which selects the subprotocol; it belongs to the relay."""
        now = self.loop.update_clock()
        carrier = Carrier(0, side)
        self._machine.connect(now)
        self.attach(carrier)

    def give_up(self, reason: Reason, detail: str) -> None:
        """End a session that gets no further transport; the client still gets what has come for it."""
        self.session.end(ResumeCode.REJECTED, detail, self.loop.update_clock())
        self._cut_off(reason, detail)

    def _end_code(self, reason: Reason) -> tuple[int, str]:
        """See `SessionRelay._end_code`: what the server connects to must not take a part for the whole."""
        return (1000, "") if self.session.complete else (int(ResumeCode.BACKEND_RESET), reason.value)

    def _on_client_event(self, event: Event) -> None:
        if isinstance(event, SessionResumed):
            self._back_owner.session_resumed(event.replayed)
        elif isinstance(event, GoingAway):
            self._back_owner.going_away(event.after, event.jitter)
        elif isinstance(event, TransportUseless):
            self._drop_carrier(event.text)

    def _drop_carrier(self, detail: str) -> None:
        """Close a transport by which the session does not go on."""
        carrier, closing = self.carrier, self.session.closing
        if carrier is not None and closing is not None:
            self._release(carrier, self._terminated(Reason.BACKEND_RESET, detail))
            self._close_carrier(carrier, self.options, *closing)
            self._note_detached()

    def _on_session_ended(self, end: Ended) -> None:
        """See `SessionRelay._on_session_ended`."""
        if self.here.closed:
            return
        if end.complete:
            self.close_now(self.here)
        elif end.code == 1000 and self.here.rx is RX_OPEN:
            self._is_over = True
            self.stream.read_state = EOF  # behind what was received before
            self.loop.mark_ready(self)
        elif end.code is None:
            text = f"no transport for the ttl of the session, {self.session.ttl} s"
            self._cut_off(Reason.SESSION_EXPIRED, f"{text}; {self.last_loss}" if self.last_loss else text)
        else:
            reason = _REASON_BY_CODE.get(ResumeCode(end.code)) if end.code in set(ResumeCode) else None
            shown = f"the session was ended with {end.code}" + (f": {end.text}" if end.text else "")
            self._cut_off(reason or Reason.BACKEND_RESET, shown)

    def _cut_off(self, reason: Reason, detail: str) -> None:
        """End both sides since the session is lost: the client gets what has come for it, then a reset."""
        stream = self.stream
        if self.here.closed:
            return
        self._back_owner.no_more_transports()
        stream.fault, stream.error = reason, detail
        ended, stream.read_state = stream.read_state is not None, RESET
        self.loop.mark_ready(self)
        if ended and self.termination is not None:  # the server's stream was complete, and ours may not be
            self.termination = replace(self.termination, detail=detail, incomplete=True)
            self.on_connection_lost(self.here, self.there, detail)

    def on_transport_end(self, src: Endpoint, dst: Endpoint) -> None:
        """See `Relay.on_transport_end`."""
        super().on_transport_end(src, dst)
        if src is self.here and self._is_over and not src.closed:
            self.start_discarding(dst)
            self.close_now(src)
