"""The relay of a session that a client has opened here: how it ends, on both sides."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from wsbridge.net.transport import EOF, RESET, SocketTransport
from wsbridge.protocol.resume import Ended
from wsbridge.protocol.resume_frames import GoAway, ResumeCode, encode_frame
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.protocol.websocket import is_orderly_close
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.endpoint import RX_OPEN, TX_CLOSED, TX_RESETTING, Endpoint, Side, build_endpoint
from wsbridge.relay.relay import RelayOptions, Scheduler, describe_close
from wsbridge.relay.session_relay import CloseCarrier, SessionOwner, SessionRelay
from wsbridge.relay.session_stream import ReplayMemory, SessionEndpoint, SessionStream, SourceEndpoint, encode_error

_RULE_CODE: Final = int(ResumeCode.ENDED_BY_RULE)


@dataclass(frozen=True, slots=True)
class MovedBackend:
    """What of a session that moves to another process is not in its state machine.

    Attributes:
        sock: Connected to the backend; None where that connection is over.
        pending: What has come from it, and is to be sent behind what the machine has.
        is_reset: Whether it has reset the connection, which its kernel reports once: what is left to read ends with
            that, and not with FIN.
    """

    sock: socket.socket | None
    pending: bytes
    is_reset: bool


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
        front = SessionEndpoint(stream, text=back.writes_text)
        endpoint = build_endpoint(back, plain=SourceEndpoint)
        super().__init__(machine, front, endpoint, stream, options, loop, memory, owner, close_carrier)
        self._machine = machine
        self._closed_by_peer: Ended | None = None
        self.on_done = owner.session_ended

    def go_away(self, after_ms: int, jitter_ms: int) -> None:
        """Announce that transports will be closed."""
        self._machine.go_away(after_ms, jitter_ms)
        self._settle(self.loop.now)

    # ------------------------------------------------------------------ to and from another process

    @property
    def is_moving(self) -> bool:
        """Whether it has been stopped by `stop_to_move`."""
        return self.front.closed and self._machine.ended is None

    @property
    def can_move(self) -> bool:
        """Whether another process can go on with it.

        Not with a backend under TLS or with a WebSocket backend, whose state is only here, and not where the session
        ends already by what its client did.
        """
        back, session = self.back, self.session
        if self.front.closed or session.ended is not None or session.closing is not None:
            return False
        if back.closed:
            return session.finished or session.is_failing
        return type(back.transport) is SocketTransport and not back.is_websocket

    def stop_to_move(self) -> MovedBackend:
        """Stop for good, with the backend connected: nothing changes the machine any more. Only if `can_move`.

        Bytes that the backend's kernel has not accepted are dropped; the client sends them again.
        """
        front, back, stream, now = self.front, self.back, self.stream, self.loop.update_clock()
        dropped = len(front.undecoded) + sum(map(len, back.pending or ()))
        self.session.consumed(stream.taken - dropped, now)
        carrier = self.carrier
        if carrier is not None:  # what is sent here is a part of the state
            carrier.send_messages(self.session.take(0, now), now)
            self.loop.unregister(carrier)
        pending = b"".join([*(front.pending or ()), back.undecoded])
        sock: socket.socket | None = None
        if not back.closed:
            assert isinstance(back.transport, SocketTransport)  # noqa: S101 (see `can_move`)
            pending += back.transport.take_unread()
            sock = back.transport.sock
            self.loop.unregister(back)
        front.closed = back.closed = True
        self._count_held_bytes()
        return MovedBackend(sock, pending, sock is not None and back.transport.read_state == RESET)

    def end_move(self, termination: Termination, after_ms: int, jitter_ms: int) -> None:
        """Close the transport after `stop_to_move`: with GOAWAY and 1012, or, if the session is lost, with its code."""
        carrier, now = self.carrier, self.loop.update_clock()
        self.termination = termination
        if carrier is not None:
            code, reason = 1012, Reason.DRAINING
            if termination.reason is Reason.SESSION_LOST:
                code, reason = int(ResumeCode.RESTARTED), termination.reason
                carrier.pending = [*(carrier.pending or ()), *encode_error(carrier, code, reason.value)]
            else:
                carrier.send_messages([(encode_frame(GoAway(after_ms, jitter_ms)), b"")], now)
            self._release(carrier, Termination(reason, "wsbridge"))
            self._close_carrier(carrier, self.options, code, reason.value)
        self.loop.finished(self)

    def continue_moved(self, pending: bytes, age: float, idle: float, *, is_reset: bool) -> None:
        """Go on with a session that another process had; before its first turn.

        Args:
            pending: See `MovedBackend`.
            age: Seconds since it was opened.
            idle: Seconds since payload last moved.
            is_reset: See `MovedBackend`.
        """
        now = self.loop.now
        self.started, self.last_payload = now - age, now - idle
        if pending:
            self.front.pending = [pending]
        if is_reset:
            self.back.transport.record_socket_error()
            self.back.transport.readable = True  # there may be something before that
        if self.session.peer_finished:  # it was sent to the backend; if that has ended too, no second FIN can be
            self.back.tx = TX_CLOSED
            self.stream.read_state = EOF
        if self.session.is_failing:
            self.abort(self.back)
            self.termination = Termination(Reason.BACKEND_RESET, "backend")
            self.abort_delivery(self.front, Reason.BACKEND_RESET)
        self._settle(now)
        self.loop.mark_ready(self)

    def _end_code(self, reason: Reason) -> tuple[int, str]:
        """See `SessionRelay._end_code`."""
        code = REASONS[reason].session_code or _RULE_CODE
        return _RULE_CODE if code == 1000 and not self.session.complete else code, reason.value

    def _on_session_ended(self, end: Ended) -> None:
        """The session has ended by what the client did, or after its ttl."""
        if self.front.closed:
            return
        waits = self.back.pending is None or self._is_orderly(end) or self.options.half_close_on_loss
        if end.by == "peer" and self.front.rx is RX_OPEN and waits:
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
            if self.termination is None and dst.transport.read_state == RESET:  # a write has found that, just now
                self.on_connection_lost(dst, src, dst.transport.error)
            else:
                self._on_closed_by_peer(self._closed_by_peer)
        else:
            super().on_transport_end(src, dst)

    def _is_orderly(self, end: Ended) -> bool:
        """Return whether the client has ended the session in a way that makes its stream whole."""
        return end.complete or (is_orderly_close(end.code, from_client=True) and not _is_error_code(end.code))

    def _on_closed_by_peer(self, end: Ended) -> None:
        """The client has ended the session.

        All that it sent before was given to the backend, unless that accepts nothing now and is to be reset anyway.
        """
        front, back = self.front, self.back
        if self.termination is None or not end.complete:
            detail = describe_close(end.code, end.text)
            self.termination = self._terminated(Reason.CLIENT_CLOSED, detail, end.code)
        self.graceful, self.half_closed, self.close_held = True, False, False
        self.close_timeout = self.options.close
        self.start_close_timer()
        if not back.closed:
            if self._is_orderly(end) or self.options.half_close_on_loss:
                self.queue_close(back, 1000, Reason.CLIENT_CLOSED.value)
                self.start_discarding(back)
            else:
                self.abort(back)
        self.close_now(front)

    def on_connection_lost(self, src: Endpoint, dst: Endpoint, detail: str) -> None:
        """See `Relay.on_connection_lost`; a client that still sends learns that nobody accepts it."""
        super().on_connection_lost(src, dst, detail)
        front = self.front
        if dst is front and not front.closed and front.tx is not TX_RESETTING and not self.session.peer_finished:
            self.abort_delivery(front, Reason.BACKEND_RESET)

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
