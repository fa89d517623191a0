"""Pairs whose backend the extension connects: what Python knows of them while they are there.

The clients that come together are bridged by one call, and wait for it. A pair that comes back gets a `Relay`, as any
other has; most live and end in the extension, and never have one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

from wsbridge.log.logger import log
from wsbridge.native import _native
from wsbridge.native.tls_transport import NativeTlsTransport
from wsbridge.net.address import LocalAddress
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.websocket import decode_close_body
from wsbridge.reasons import Reason, Termination
from wsbridge.relay import timeouts
from wsbridge.relay.endpoint import Side, build_endpoint
from wsbridge.relay.engine import PythonEngine, RelayResult
from wsbridge.relay.relay import Relay, RelayOptions, describe_close
from wsbridge.taskless import Wait

ROLES: Final = {"raw": 0, "server": 1, "client": 2, "guarded": 3}
"""What the extension calls the protocol of a side; `guarded` is a raw one, silent so far, that may not speak HTTP."""
TEXT_MESSAGES: Final = {"accept": 0, "reject": 1, "bytes": 2}
"""What it calls the ways of handling text messages."""

_ELSEWHERE: Final = -1


def can_be_bridged(front: Side, options: RelayOptions) -> bool:
    """Return whether the extension can connect the backend of a client, and carry the pair."""
    return (
        type(front.transport) in (SocketTransport, NativeTlsTransport)
        and front.transport.read_state is None
        and options.bytes_per_second is None
        and not front.reject_http
        and not (front.role != "raw" and front.messages == "text")
    )


def orderly_end(stage: str, close_body: bytes) -> Termination:
    """Return how a pair ends whose ending the extension has begun."""
    if stage == "client_closed":
        code, text = decode_close_body(close_body)
        return Termination(Reason.CLIENT_CLOSED, "client", describe_close(code, text), close_code=code)
    return Termination(Reason.BACKEND_CLOSED, "backend")


class Bridge:
    """One pair; see `Bridging`.

    Args:
        bridges: All of its engine.
        connection_id: Its connection.
        front: The accepted side.
        options: Time limits and rules.

    Attributes:
        connection_id: As given.
        front: As given: a relay of it begins with that.
        options: As given.
        started: When it was bridged, by the loop's clock.
        last_payload: See `Relay.last_payload`; as it was when the extension got the pair, as all that follows.
        last_received: See `Endpoint.last_received`, of the front.
        last_sent: See `Endpoint.last_sent`, of the front.
        round_trip: See `Endpoint.round_trip`, of the front.
        thread: Of the extension, while that has it; else negative.
        tag: By which the extension knows it.
        relay: What relays it while it is here; None while the extension does.
        termination: Why it ended in the extension; None before.
        received_bytes: Payload bytes that came from the client and from the backend; all of them once it has ended
            there.
        timer_slot: The wheel's slot it is in.
    """

    __slots__ = (
        "_bridges",
        "begun",
        "connect_seconds",
        "connection_id",
        "ended",
        "front",
        "is_relayed",
        "last_payload",
        "last_received",
        "last_sent",
        "options",
        "received_bytes",
        "relay",
        "round_trip",
        "started",
        "tag",
        "termination",
        "thread",
        "timer_slot",
    )

    def __init__(self, bridges: Bridges, connection_id: int, front: Side, options: RelayOptions) -> None:
        self._bridges = bridges
        self.connection_id = connection_id
        self.front = front
        self.options = options
        self.begun = Wait()
        self.ended = Wait()
        self.is_relayed = False
        self.connect_seconds: float | None = None
        self.started = self.last_payload = self.last_received = self.last_sent = 0.0
        self.round_trip: float | None = None
        self.thread = _ELSEWHERE
        self.tag = 0
        self.relay: Relay | None = None
        self.termination: Termination | None = None
        self.received_bytes = (0, 0)
        self.timer_slot: int | None = None

    @property
    def done(self) -> bool:
        """Whether the extension no longer has it."""
        return self.thread < 0

    def abort(self) -> None:
        """See `Relaying.abort`."""
        self._bridges.abort(self)

    def result(self) -> RelayResult:
        """See `Relaying.result`."""
        return self._bridges.forget(self)


_Order = tuple[Bridge, LocalAddress, bytes, Callable[[], bool]]


class Bridges:
    """The pairs of an engine whose backends the extension connects.

    Args:
        engine: The engine.
        lane: The threads.
        tags: By which the extension knows pairs, each used once.
        restore_relay: Goes on with a relay where the extension stopped.

    Attributes:
        orders: Those that are to be bridged: pair, address of the backend, response to the client, and what says
            whether it still may be.
        carried: Those that are in the extension, or have ended there, by connection.
    """

    def __init__(
        self,
        engine: PythonEngine,
        lane: _native.Lane,
        tags: Iterator[int],
        restore_relay: Callable[[Relay, _native.Returned], None],
    ) -> None:
        self._engine = engine
        self._loop = engine.loop
        self._lane = lane
        self._tags = tags
        self._restore_relay = restore_relay
        self._by_tag: dict[int, Bridge] = {}
        self._by_relay: dict[Relay, Bridge] = {}  # those that are here
        self.orders: list[_Order] = []
        self.carried: dict[int, Bridge] = {}

    # ------------------------------------------------------------------ there

    def begin(self) -> None:
        """Bridge those that were ordered, together."""
        orders, self.orders = self.orders, []
        given: list[_native.Order] = []
        bridges: list[Bridge] = []
        for bridge, address, response, may_begin in orders:
            try:
                order = self._given(bridge, address, response) if may_begin() else None
            except Exception:
                log.exception("internal_error", component="engine")
                order = None
            if order is None:
                bridge.begun.end()
            else:
                given.append(order)
                bridges.append(bridge)
        try:
            results = self._lane.bridge(given)
        except Exception:
            log.exception("internal_error", component="engine")
            results = [(_ELSEWHERE, 0, 0.0, None)] * len(bridges)
        self._loop.update_clock()
        for bridge, result in zip(bridges, results, strict=True):
            self._note(bridge, *result)
            bridge.begun.end()

    def _given(self, bridge: Bridge, address: LocalAddress, response: bytes) -> _native.Order:
        """Return an order as the extension takes it."""
        bridge.tag = next(self._tags)
        where, options, side = address.sockaddr, bridge.options, bridge.front
        transport = side.transport
        front = (
            transport.fd,
            ROLES[side.role],
            TEXT_MESSAGES[side.text_messages],
            transport.read_until_empty,
            side.max_frame_bytes,
            options.control_frame_rate,
            0.0,
            0,
            None,
            transport.stream if isinstance(transport, NativeTlsTransport) else None,
            transport.unread_bytes,
            None,
        )
        ends_here = not options.deliver_after_close
        if isinstance(where, str):
            return (bridge.tag, ends_here, front, os.fsencode(where), -1, response)
        return (bridge.tag, ends_here, front, where[0].encode(), where[1], response)

    def _note(
        self, bridge: Bridge, thread: int, client_error: int, seconds: float, unwatched: _native.Returned | None
    ) -> None:
        """Note what became of an order."""
        transport = bridge.front.transport
        assert isinstance(transport, SocketTransport)  # noqa: S101 (no other is bridged)
        if client_error:
            bridge.connect_seconds = seconds
            if client_error != errno.EAGAIN:
                transport.record_error(OSError(client_error, os.strerror(client_error)))
        elif thread >= 0 or unwatched is not None:
            transport.take_unread()
            bridge.connect_seconds, bridge.is_relayed = seconds, True
            bridge.started = bridge.last_payload = bridge.last_received = bridge.last_sent = self._loop.now
            self.carried[bridge.connection_id] = self._by_tag[bridge.tag] = bridge
            if unwatched is not None:
                self.restore(unwatched)
                return
            bridge.thread = thread
            self._loop.schedule(bridge, timeouts.first_check(bridge.options, bridge.started))

    def figures(self, bridge: Bridge) -> _native.Live | None:
        """Return bytes and ages of a pair in the extension; None for one that is not there, or on its way back."""
        return None if bridge.thread < 0 else self._lane.figures(bridge.thread, bridge.tag)

    def next_deadline(self, bridge: Bridge) -> float | None:
        """Return when something is due for a pair; None if it is on its way back."""
        live = self.figures(bridge)
        if live is None:
            return None
        _, payload_age, received_ages, sent_ages, _ = live
        now = self._loop.now
        last_payload = bridge.last_payload if payload_age < 0 else now - payload_age
        received = bridge.last_received if received_ages[0] < 0 else now - received_ages[0]
        sent = bridge.last_sent if sent_ages[0] < 0 else now - sent_ages[0]
        pinged = [min(received, sent)] if bridge.front.role != "raw" else []
        return timeouts.calm_deadline(bridge.options, now, bridge.started, last_payload, pinged)

    def can_dissolve(self, relay: Relay) -> bool:
        """Return whether the extension may have a pair again that came from there, with nothing of it here."""
        bridge = self._by_relay.get(relay)
        return bridge is not None and can_be_bridged(bridge.front, relay.options)

    def dissolve(self, relay: Relay, thread: int, tag: int) -> None:
        """Have no relay of a pair any more that the extension carries again, so that idle ones take little memory.

        Args:
            relay: As `can_dissolve` has been asked.
            thread: Of the extension.
            tag: By which the extension knows it.
        """
        bridge = self._by_relay.pop(relay)
        front, back = relay.front, relay.back
        bridge.options = relay.options
        bridge.last_payload, bridge.last_received, bridge.last_sent = (
            relay.last_payload,
            front.last_received,
            front.last_sent,
        )
        bridge.round_trip, bridge.received_bytes = relay.round_trip, relay.received_bytes
        bridge.thread, bridge.tag, bridge.relay = thread, tag, None
        self._loop.unschedule(relay)
        self._engine.drop(bridge.connection_id, relay)
        assert isinstance(back.transport, SocketTransport)  # noqa: S101 (`_build_relay` has made it)
        back.transport.sock.detach()
        self.carried[bridge.connection_id] = self._by_tag[tag] = bridge
        pinged = [min(front.last_received, front.last_sent)] if front.is_websocket else []
        now = self._loop.now
        due = timeouts.calm_deadline(bridge.options, now, bridge.started, bridge.last_payload, pinged)
        self._loop.schedule(bridge, due)

    # ------------------------------------------------------------------ back

    def recall(self, bridge: Bridge) -> Relay | None:
        """Get a pair back from the extension; None if it has ended there."""
        if bridge.thread >= 0:
            returned = self._lane.recall(bridge.thread, bridge.tag)
            if returned is not None:
                self.restore(returned)
        return bridge.relay

    def restore(self, returned: _native.Returned) -> bool:
        """Go on with a pair that the extension returns; False if it is none of these."""
        bridge = self._by_tag.pop(returned[0], None)
        if bridge is None:
            return False
        bridge.thread = _ELSEWHERE
        self._loop.unschedule(bridge)
        front, back = returned[6], returned[7]
        if isinstance(front, int) or isinstance(back, int):
            self._finish(bridge, returned)
        else:
            self._restore_relay(self._build_relay(bridge, back[-1][1]), returned)
        return True

    def _finish(self, bridge: Bridge, returned: _native.Returned) -> None:
        """Close what is left of a pair that the extension has brought to its end."""
        _, _, stage, close_body, _, _, front, back = returned
        assert isinstance(front, int) and isinstance(back, int)  # noqa: S101 (of such only the bytes are given)
        before = bridge.received_bytes
        bridge.termination = orderly_end(stage, close_body)
        bridge.received_bytes = before[0] + front, before[1] + back
        bridge.front.transport.close()
        bridge.ended.end()

    def _build_relay(self, bridge: Bridge, fd: int) -> Relay:
        """Build what relays a pair from now on, in place of the extension.

        Args:
            bridge: The pair.
            fd: The socket of its backend.
        """
        front, back = bridge.front, Side(SocketTransport(socket.socket(fileno=fd)))
        relay = Relay(build_endpoint(front), build_endpoint(back, text=front.writes_text), bridge.options, self._loop)
        relay.started, relay.last_payload = bridge.started, bridge.last_payload
        for side, received in zip((relay.front, relay.back), bridge.received_bytes, strict=True):
            side.last_received, side.last_sent, side.received_bytes = bridge.last_received, bridge.last_sent, received
        relay.front.round_trip = bridge.round_trip
        relay.carried_by = self._engine.name
        relay.on_done = bridge.ended.end
        bridge.relay = relay
        self._by_relay[relay] = bridge
        del self.carried[bridge.connection_id]
        self._engine.adopt(bridge.connection_id, relay, front, back)
        return relay

    def forget_relay(self, relay: Relay) -> None:
        """Forget a relay that has ended here."""
        self._by_relay.pop(relay, None)

    def abort(self, bridge: Bridge) -> None:
        """See `Relaying.abort`."""
        self.orders = [order for order in self.orders if order[0] is not bridge]
        relay = self.recall(bridge)
        if relay is not None:
            self._engine.abort(relay)

    def forget(self, bridge: Bridge) -> RelayResult:
        """See `Relaying.result`."""
        if bridge.relay is not None:
            return self._engine.forget(bridge.connection_id, bridge.relay)
        self.carried.pop(bridge.connection_id, None)
        end = bridge.termination or Termination(Reason.INTERNAL_ERROR, "wsbridge")
        return RelayResult(
            end.reason, end.initiator, end.detail, end.close_code, *bridge.received_bytes, engine=self._engine.name
        )
