"""The relay of a session that a client has opened here: how it ends, on both sides."""

from __future__ import annotations

from typing import Final

from wsbridge.net.transport import EOF
from wsbridge.protocol.resume import Ended
from wsbridge.protocol.resume_frames import ResumeCode
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.endpoint import RX_OPEN, TX_CLOSED, TX_RESETTING, Endpoint, Side, build_endpoint
from wsbridge.relay.relay import RelayOptions, Scheduler, describe_close, is_orderly
from wsbridge.relay.session_relay import CloseCarrier, SessionOwner, SessionRelay
from wsbridge.relay.session_stream import ReplayMemory, SessionEndpoint, SessionStream

_RULE_CODE: Final = int(ResumeCode.ENDED_BY_RULE)


class FrontSessionRelay(SessionRelay):
    """A client's session, and a backend.

    Args:
        machine: The state machine, past `opened`.
        back: The dialed side.
        options: See `SessionRelay`.
        loop: See there.
        memory: See there.
        owner: See there.
        close_carrier: See there.
    """

    __slots__ = ("_closed_by_peer", "_machine")

    def __init__(
        self,
        machine: ServerSession,
        back: Side,
        options: RelayOptions,
        loop: Scheduler,
        memory: ReplayMemory,
        owner: SessionOwner,
        close_carrier: CloseCarrier,
    ) -> None:
        stream = SessionStream(machine, memory)
        front = SessionEndpoint(stream, text=back.role != "raw" and back.messages == "text")
        endpoint = build_endpoint(back, Side(stream))
        super().__init__(machine, front, endpoint, stream, options, loop, memory, owner, close_carrier)
        self._machine = machine
        self._closed_by_peer: Ended | None = None
        self.on_done = owner.session_ended

    def go_away(self, after_ms: int, jitter_ms: int) -> None:
        """Announce that transports will be closed."""
        self._machine.go_away(after_ms, jitter_ms)
        self._settle(self.loop.now)

    def _end_code(self, reason: Reason) -> tuple[int, str]:
        """See `SessionRelay._end_code`."""
        code = REASONS[reason].session_code or _RULE_CODE
        return _RULE_CODE if code == 1000 and not self.session.complete else code, reason.value

    def _on_session_ended(self, end: Ended) -> None:
        """The session has ended by what the client did, or after its ttl."""
        if self.front.closed:
            return
        if end.by == "peer" and self.front.rx is RX_OPEN:
            self._closed_by_peer = end
            self.stream.read_state = EOF  # behind what was received before
            self.loop.mark_ready(self)
        elif end.by == "peer":
            self._on_closed_by_peer(end)
        elif end.code is None:
            self.terminate(self._terminated(Reason.SESSION_EXPIRED, f"no transport for ttl, {self.session.ttl} s"))
        elif self.carrier is not None:
            reason = Reason.RESUME_GAP if end.code == ResumeCode.GAP else Reason.PROTOCOL_ERROR
            self.terminate(self._terminated(reason, end.text))
        else:  # the client has closed after the ERROR of `abort_delivery`
            self.close_now(self.front)

    def on_transport_end(self, src: Endpoint, dst: Endpoint) -> None:
        """See `Relay.on_transport_end`."""
        if src is self.front and self._closed_by_peer is not None:
            self._on_closed_by_peer(self._closed_by_peer)
        else:
            super().on_transport_end(src, dst)

    def _on_closed_by_peer(self, end: Ended) -> None:
        """The client has ended the session, and all that it sent before was given to the backend."""
        front, back = self.front, self.back
        if self.termination is None or not end.complete:
            detail = describe_close(end.code, end.text)
            self.termination = self._terminated(Reason.CLIENT_CLOSED, detail, end.code)
        self.graceful, self.half_closed, self.close_held = True, False, False
        self.close_timeout = self.options.close
        self.start_close_timer()
        orderly = end.complete or (is_orderly(front, end.code) and not _is_error_code(end.code))
        if not back.closed:
            if orderly or self.options.half_close_on_loss:
                self.queue_close(back, 1000, Reason.CLIENT_CLOSED.value)
                self.start_discarding(back)
            else:
                self.abort(back)
        self.close_now(front)

    def terminate(self, termination: Termination) -> None:
        """See `Relay.terminate`: the client gets ERROR with the code of the reason, and no session waits for it."""
        if self.front.closed:
            super().terminate(termination)
            return
        self.termination = termination
        self.graceful = self.half_closed = self.close_held = False
        self.close_timeout = self.options.close
        self.start_close_timer()
        self.abort(self.front)
        back, code = self.back, REASONS[termination.reason].close_code_to_backend
        if back.closed:
            return
        if termination.reason is Reason.SESSION_EXPIRED and self.options.half_close_on_loss:
            self.queue_close(back, 1001, termination.reason.value)
            self.start_discarding(back)
        elif code is None or not back.is_websocket:
            self.abort(back)
        else:
            self.queue_close(back, code, termination.reason.value)
            back.discard_payload = True
        self.loop.mark_ready(self)

    def abort_delivery(self, side: Endpoint, reason: Reason) -> None:
        """See `Relay.abort_delivery`; for a session, the bytes come first, however long the client is away."""
        if side is not self.front:
            super().abort_delivery(side, reason)
            return
        self.graceful = True
        by_backend = self.termination is None or self.termination.initiator == "backend"
        code = int(ResumeCode.BACKEND_RESET) if by_backend else REASONS[reason].session_code or _RULE_CODE
        self.session.end_after_data(code, reason.value)
        if side.tx is not TX_CLOSED:
            side.tx = TX_RESETTING
        self.start_discarding(side)
        self.loop.mark_ready(self)


def _is_error_code(code: int | None) -> bool:
    """Return whether a code is one of the subprotocol's, by which a client says that a stream is not whole."""
    return code is not None and 4001 <= code <= 4099
