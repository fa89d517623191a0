"""The engine whose calm pairs are carried by the extension; every rule stays in `relay`.

A pair is calm while both sides are open and accept what is written, and no rule looks at each read of it: no rate
limit, no first bytes that may be HTTP where that is rejected, no text messages made of raw bytes. Such a pair is lent
to the extension, which gives it back at the first thing that it does not handle. Then Python relays it, and lends it
again once it has been calm for a while.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Final

import trio

from wsbridge.log.logger import log
from wsbridge.native import _native
from wsbridge.native.bridge import ROLES, TEXT_MESSAGES, Bridge, Bridges, can_be_bridged, orderly_end
from wsbridge.native.tls_transport import NativeTlsTransport
from wsbridge.net.address import LocalAddress
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.websocket import CLOSE, FIN, PONG, Framing, RawFraming, WebSocketFraming
from wsbridge.reasons import Reason, Termination
from wsbridge.relay import timeouts
from wsbridge.relay.endpoint import RX_OPEN, TX_OPEN, Endpoint, GuardedRawEndpoint, Side
from wsbridge.relay.engine import Bridging, PythonEngine, RelayFigures
from wsbridge.relay.loop import EPOLL_EVENTS, RelayLoop
from wsbridge.relay.relay import Relay, RelayOptions
from wsbridge.relay.timeouts import TimedPair
from wsbridge.taskless import Wait

REST: Final = 0.2
"""Seconds that Python relays a pair after it came back."""
MAX_REST: Final = 10.0
"""Seconds between two tries to lend a pair that is not calm."""
MAX_BLOCKED: Final = 1.0
"""Seconds for which a side of a pair that is lent has accepted nothing; after as many the extension gives it back."""
MAX_ARRIVALS: Final = 16
"""New pairs that wait to be lent together: one after the other, each would wake a thread."""
MAX_TAKEN: Final = 32
"""Pairs of one thread of the extension that are taken back in one turn of the event loop; some milliseconds."""

_CLOSE: Final = bytes((FIN | CLOSE,))


def _can_be_lent(side: Endpoint) -> bool:
    """Return whether the extension can carry a side of this kind."""
    return (
        type(side.transport) in (SocketTransport, NativeTlsTransport)
        and side.rate_limiter is None
        and not (isinstance(side.framing, RawFraming) and side.framing.text)
    )


def _is_calm(side: Endpoint, now: float) -> bool:
    """Return whether one side has nothing now that a rule looks at.

    What waits for it is no obstacle where it has just accepted some: a stream is faster than its reader at any time.
    """
    transport = side.transport
    return (
        (side.detachable or _awaits_first_bytes(side))
        and transport.read_state is None
        and not transport.peer_hung_up
        and side.rx is RX_OPEN
        and side.tx is TX_OPEN
        and (side.pending is None or now - side.last_sent < MAX_BLOCKED)
        and not side.discard_payload
        and not side.control_pending
        and side.pending_pong is None
        and side.close_frame is None
        and (side.ping_started is None or side.last_received > side.ping_started)
    )


def _awaits_first_bytes(side: Endpoint) -> bool:
    """Return whether a side must not begin with HTTP, and has not begun: then the extension gives such bytes back."""
    return isinstance(side, GuardedRawEndpoint) and side.awaits_first_bytes


def _given_framing(framing: WebSocketFraming) -> _native.Framing | None:
    """Return the state of a framing as the extension takes it; None while nothing has come."""
    if framing.between_messages and not framing.control_frame_count:
        return None
    return (
        framing.control_frame_count,
        framing.partial_header,
        framing.payload_left,
        framing.mask_key,
        framing.fin,
        framing.control_opcode,
        framing.control_body,
        framing.message_opcode,
        framing.message_started,
        framing.utf8_tail,
    )


def _restore_framing(framing: Framing, state: _native.Framing) -> None:
    assert isinstance(framing, WebSocketFraming)  # noqa: S101 (only such have a state)
    (
        framing.control_frame_count,
        framing.partial_header,
        framing.payload_left,
        framing.mask_key,
        framing.fin,
        framing.control_opcode,
        framing.control_body,
        framing.message_opcode,
        framing.message_started,
        framing.utf8_tail,
    ) = state
    framing.between_messages = not (
        framing.payload_left or framing.message_opcode or framing.partial_header or framing.control_opcode
    )


def _has_read_close(side: Endpoint) -> bool:
    """Return whether what is to be decoded begins with a close frame."""
    framing = side.framing
    return (
        isinstance(framing, WebSocketFraming)
        and side.undecoded[:1] == _CLOSE
        and not (framing.payload_left or framing.partial_header or framing.control_opcode)
    )


class NativeLoop(RelayLoop):
    """The loop of `relay`, for the pairs that are not lent.

    Args:
        threads: Threads of the extension.
        max_lingering: See `RelayLoop`.
    """

    def __init__(self, threads: int, max_lingering: int = 256) -> None:
        super().__init__(max_lingering)
        self._lane = _native.Lane(threads)
        self.bridges: Bridges  # set by `bridge_for`
        self._new_tags = itertools.count(1)
        self._lent: dict[int, Relay] = {}
        self._tags: dict[Relay, tuple[int, int]] = {}  # thread and tag of those that are lent
        self._tries: dict[Relay, int] = {}  # how often those that are here were found not to be calm
        self._arrivals: dict[Relay, None] = {}  # those that are about to be lent; nothing watches them
        self._wait = Wait()  # for arrivals

    # ------------------------------------------------------------------ lending

    def add(self, relay: Relay) -> None:
        """See `RelayLoop.add`; a calm pair never meets Python's epoll set."""
        if not self._may_lend(relay):
            self._add_here(relay)
            return
        self.schedule(relay, self._next_deadline(relay))
        self._arrivals[relay] = None
        if len(self._arrivals) >= MAX_ARRIVALS:
            self._lend_arrivals()
        else:
            self._wait.end()

    def _add_here(self, relay: Relay) -> None:
        super().add(relay)
        self._lend_later(relay)

    def _lend_later(self, relay: Relay) -> None:
        """Try to lend a pair that is here, at longer and longer intervals while it is not calm."""
        if relay.termination is None and _can_be_lent(relay.front) and _can_be_lent(relay.back):
            tries = self._tries.get(relay, 0)
            self._tries[relay] = tries + 1
            self.schedule(relay, self.now + min(REST * 2**tries, MAX_REST))

    def _may_lend(self, relay: Relay) -> bool:
        """Return whether nothing speaks against lending a pair now."""
        if relay.termination is not None:
            return False
        return all(_can_be_lent(side) and _is_calm(side, self.now) for side in (relay.front, relay.back))

    def _lend(self, relays: list[Relay]) -> list[Relay]:
        """Lend pairs that may be lent; return those that the extension does not take."""
        given: list[_native.LentPair] = []
        for relay in relays:
            for side in (relay.front, relay.back):
                self.unregister(side)
            front, back = self._given(relay, relay.front), self._given(relay, relay.back)
            given.append(
                (
                    next(self._new_tags),
                    not relay.options.deliver_after_close,
                    front,
                    back,
                    self.bridges.can_dissolve(relay),
                )
            )
        declined = []
        for relay, (tag, _, _, _, dissolves), thread in zip(relays, given, self._lane.add(given), strict=True):
            if thread < 0:  # the kernel watches no more descriptors for this user
                declined.append(relay)
                continue
            if relay.ready:  # the extension does what is left to do
                relay.ready = False
                self._ready.remove(relay)
            for side in (relay.front, relay.back):
                side.undecoded, side.pending = b"", None
                side.transport.take_unread()
            self._tries.pop(relay, None)
            if dissolves:
                self.bridges.dissolve(relay, thread, tag)
                continue
            self._lent[tag] = relay
            relay.carried_by = NativeEngine.name
            self._tags[relay] = (thread, tag)
        return declined

    def _lend_arrivals(self) -> None:
        """Lend the new pairs together."""
        arrivals, self._arrivals = list(self._arrivals), {}
        try:
            declined = self._lend(arrivals)
        except Exception:
            log.exception("internal_error", component="engine")
            for relay in arrivals:
                self._lend_alone(relay)
        else:
            for relay in declined:
                self._add_here(relay)

    def _lend_alone(self, relay: Relay) -> None:
        """Lend one of the pairs that could not be lent together; a bug ends that pair alone."""
        try:
            if self._lend([relay]):
                self._add_here(relay)
        except Exception:
            self._abort(relay)

    async def run_arrivals(self) -> None:
        """Lend new pairs once the connections that came together have all been served so far, until cancelled."""
        while True:
            await self._wait
            self._wait = Wait()
            if self._arrivals:
                self._lend_arrivals()
            if self.bridges.orders:
                self.bridges.begin()
            await trio.lowlevel.checkpoint()

    def bridge_for(self, engine: PythonEngine) -> None:
        """Make `bridges`, whose pairs are those of this engine."""
        self.bridges = Bridges(engine, self._lane, self._new_tags, self.restore_relay)

    def order(self, bridge: Bridge, address: LocalAddress, response: bytes, may_begin: Callable[[], bool]) -> None:
        """Have the extension connect the backend of a pair, together with those of others that come now."""
        self.bridges.orders.append((bridge, address, response, may_begin))
        if len(self.bridges.orders) >= MAX_ARRIVALS:
            self.bridges.begin()
        else:
            self._wait.end()

    def _given(self, relay: Relay, side: Endpoint) -> _native.GivenSide:
        """Return a side as the extension takes it."""
        transport, framing = side.transport, side.framing
        rate = relay.options.control_frame_rate
        stream = transport.stream if isinstance(transport, NativeTlsTransport) else None
        unread = side.undecoded + transport.unread_bytes
        unsent = None if side.pending is None else (b"".join(side.pending), self.now - side.last_sent)
        if isinstance(framing, RawFraming):
            return (
                transport.fd,
                ROLES["guarded" if _awaits_first_bytes(side) else "raw"],
                0,
                transport.read_until_empty,
                65536,
                rate,
                0.0,
                0,
                None,
                stream,
                unread,
                unsent,
            )
        assert isinstance(framing, WebSocketFraming)  # noqa: S101 (there are two)
        return (
            transport.fd,
            ROLES[framing.role],
            TEXT_MESSAGES[framing.text_messages],
            transport.read_until_empty,
            framing.max_frame_bytes,
            rate,
            self.now - side.control_window_start,
            side.control_window_base,
            _given_framing(framing),
            stream,
            unread,
            unsent,
        )

    # ------------------------------------------------------------------ getting back

    def recall(self, relay: Relay) -> None:
        """Get a pair back, if it is lent: what Python does to a pair, it does to one that is here."""
        if relay in self._arrivals:
            del self._arrivals[relay]
            self._add_here(relay)
        else:
            self.recall_lent(relay)

    def recall_lent(self, relay: Relay) -> None:
        """Get a pair back from the extension, if it is there."""
        lent = self._tags.get(relay)
        if lent is not None:
            returned = self._lane.recall(*lent)
            if returned is not None:
                self._restore(returned)

    def _restore(self, returned: _native.Returned) -> None:
        """Go on with a pair where the extension stopped."""
        if self.bridges.restore(returned):
            return
        relay = self._lent.pop(returned[0])
        del self._tags[relay]
        self.restore_relay(relay, returned)

    def restore_relay(self, relay: Relay, returned: _native.Returned) -> None:
        """Go on with a relay where the extension stopped; a bug ends that pair alone."""
        try:
            self._go_on(relay, returned)
        except Exception:
            log.exception("internal_error", component="engine")
            self._abort(relay)

    def _go_on(self, relay: Relay, returned: _native.Returned) -> None:
        _, cause, stage, close_body, stage_age, payload_age, front, back = returned
        self.update_clock()
        if payload_age >= 0:
            relay.last_payload = max(relay.last_payload, self.now - payload_age)
        if isinstance(front, int) or isinstance(back, int):
            self._finish(relay, stage, close_body, front, back)
            return
        for side, values in ((relay.front, front), (relay.back, back)):
            self._restore_side(side, values)
        if cause == "panic":
            self._abort(relay)
            return
        for side in (relay.front, relay.back):
            fd = side.transport.fd
            self._sides[fd] = (relay, side)
            self._epoll.register(fd, EPOLL_EVENTS)
        if stage != "open":
            relay.resume_ending(orderly_end(stage, close_body), self.now - stage_age)
        for side in (relay.front, relay.back):
            if _has_read_close(side):  # it counts from when it was read, whatever waits for the other side
                side.receive(self.now)
            if side.control_pending:
                relay.process_control_frames(side, side.other)
        self.mark_ready(relay)
        self._lend_later(relay)

    def _restore_side(self, side: Endpoint, values: _native.ReturnedSide) -> None:
        received, sent, received_age, sent_age, error, hung_up, pending, pong, rest, window, state, (stream, _) = values
        transport, now = side.transport, self.now
        assert isinstance(transport, SocketTransport)  # noqa: S101 (no other is lent)
        side.received_bytes += received
        transport.sent_bytes += sent
        if received_age >= 0:
            side.last_received = max(side.last_received, now - received_age)
        if sent_age >= 0:
            side.last_sent = max(side.last_sent, now - sent_age)
        if pending is not None:
            side.pending = [pending] if pending else []
        if pong is not None:
            side.pending_pong = side.framing.encode_control(PONG, pong)
        self._restore_input(side, received, rest)
        if state is not None:
            _restore_framing(side.framing, state)
            side.control_window_start, side.control_window_base = now - window[0], window[1]
            side.control_pending = side.framing.control_frame_count != side.control_window_base
        transport.readable = True
        if hung_up:
            transport.peer_hung_up = transport.read_until_empty = True
        if isinstance(transport, NativeTlsTransport) and stream is not None:
            transport.take_back(stream, has_unsent=pending is not None)
            if stream.fault is not None:
                error = 0  # the next read tells it in its own words
        if error:
            transport.record_error(OSError(error, os.strerror(error)))

    @staticmethod
    def _restore_input(side: Endpoint, received: int, rest: bytes) -> None:
        """Put back what the extension has read of a side and not passed on, beside what it has."""
        if received and isinstance(side, GuardedRawEndpoint):
            side.accept_first_bytes()  # else they would be among the rest
        if side.is_websocket:
            side.undecoded = rest
        else:
            side.transport.unread(rest)  # raw bytes are read from the transport alone

    def _finish(self, relay: Relay, stage: str, close_body: bytes, front: object, back: object) -> None:
        """Close a pair that the extension has brought to its end."""
        assert isinstance(front, int) and isinstance(back, int)  # noqa: S101 (of such only the bytes are given)
        relay.termination = orderly_end(stage, close_body)
        for side, received in ((relay.front, front), (relay.back, back)):
            side.received_bytes += received
            relay.close_now(side)

    @staticmethod
    def _abort(relay: Relay) -> None:
        relay.termination = Termination(Reason.INTERNAL_ERROR, "wsbridge")
        for side in (relay.front, relay.back):
            relay.abort(side)

    # ------------------------------------------------------------------ while it is lent

    def figures(self, relay: Relay) -> _native.Live | None:
        """Return bytes and ages of a pair that is lent; None for one that is not."""
        lent = self._tags.get(relay)
        return None if lent is None else self._lane.figures(*lent)

    def _refresh(self, relay: Relay) -> bool:
        """Learn when a pair that is lent was active; False if it is on its way back."""
        live = self.figures(relay)
        if live is None:
            return False
        _, payload_age, received_ages, sent_ages, _ = live
        now = self.now
        if payload_age >= 0:
            relay.last_payload = max(relay.last_payload, now - payload_age)
        for side, received_age, sent_age in zip((relay.front, relay.back), received_ages, sent_ages, strict=True):
            if received_age >= 0:
                side.last_received = max(side.last_received, now - received_age)
            if sent_age >= 0:
                side.last_sent = max(side.last_sent, now - sent_age)
        return True

    def _next_deadline(self, relay: Relay) -> float:
        """Return when something is due for a calm pair."""
        sides = [side for side in (relay.front, relay.back) if side.is_websocket]
        pinged = [min(side.last_received, side.last_sent) for side in sides]
        return timeouts.calm_deadline(relay.options, self.now, relay.started, relay.last_payload, pinged)

    def _check_due(self, pair: TimedPair) -> None:
        """See `RelayLoop._check_due`; a pair that is lent only comes back if something is due."""
        if isinstance(pair, Bridge):
            due = self.bridges.next_deadline(pair)
            if due is None or due > self.now:
                self.schedule(pair, self.now + REST if due is None else due)
                return
            relay = self.bridges.recall(pair)
            if relay is None or relay.done:
                return
        else:
            assert isinstance(pair, Relay)  # noqa: S101 (there are two)
            relay = pair
        self._guard(relay, self._check_timeouts)

    def _check_timeouts(self, relay: Relay) -> None:
        if relay in self._arrivals:
            self._lend_arrivals()
        if relay in self._tags:
            if not self._refresh(relay):
                self.schedule(relay, self.now + REST)
                return
            due = self._next_deadline(relay)
            if due > self.now:
                self.schedule(relay, due)
                return
            self.recall(relay)
        super()._check_timeouts(relay)
        if relay.done:
            return
        if not self._may_lend(relay):
            self._lend_later(relay)
        elif self._lend([relay]):
            self._add_here(relay)
        elif relay in self._tags:
            self.schedule(relay, self._next_deadline(relay))

    def finished(self, relay: Relay) -> None:
        """See `RelayLoop.finished`."""
        self._tries.pop(relay, None)
        self.bridges.forget_relay(relay)
        super().finished(relay)

    async def run_lane(self) -> None:
        """Take back the pairs that the extension returns, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._lane.fileno())
            returned, panics = self._lane.take(MAX_TAKEN)
            if panics:
                log.error("internal_error", component="engine")
            for one in returned:
                self._restore(one)

    def fail(self) -> None:
        """Make the first thread panic, as a bug would; for tests."""
        self._lane.fail(0)

    def close(self) -> None:
        """See `RelayLoop.close`."""
        self._lane.close()
        super().close()


class NativeEngine(PythonEngine):
    """The engine of the extension; see `Engine`.

    Args:
        threads: That carry pairs.
        max_lingering: See `PythonEngine`.
    """

    name = "native"
    loop: NativeLoop

    def __init__(self, threads: int, max_lingering: int = 256) -> None:
        super().__init__(max_lingering, NativeLoop(threads, max_lingering))
        self.loop.bridge_for(self)
        self.bridges = self.loop.bridges

    async def run(self) -> None:
        """See `Engine.run`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self.loop.run_lane)
            nursery.start_soon(self.loop.run_arrivals)

    def bridge(
        self,
        connection_id: int,
        front: Side,
        response: bytes,
        address: LocalAddress,
        options: RelayOptions,
        may_begin: Callable[[], bool],
    ) -> Bridging | None:
        """See `Engine.bridge`."""
        if not can_be_bridged(front, options):
            return None
        bridge = Bridge(self.bridges, connection_id, front, options)
        self.loop.order(bridge, address, response, may_begin)
        return bridge

    @property
    def connection_ids(self) -> list[int]:
        """See `Engine.connection_ids`."""
        return [*super().connection_ids, *(one for one, bridge in self.bridges.carried.items() if not bridge.done)]

    def find(self, connection_id: int) -> Relay | None:
        """See `PythonEngine.find`; the pair is not lent any more."""
        bridge = self.bridges.carried.get(connection_id)
        if bridge is not None:
            self.bridges.recall(bridge)
        relay = super().find(connection_id)
        if relay is not None:
            self.loop.recall(relay)
        return None if relay is None or relay.done else relay

    def abort(self, relay: Relay) -> None:
        """See `PythonEngine.abort`."""
        self.loop.recall(relay)
        super().abort(relay)

    def figures(self, connection_id: int) -> RelayFigures | None:
        """See `Engine.figures`; a pair that is lent stays so."""
        found, live = self._find_live(connection_id)
        if live is None or found is None:
            return super().figures(connection_id)
        (to_backend, to_client), _, _, _, (front_blocked, back_blocked) = live
        to_backend_before, to_client_before = found.received_bytes
        figures = RelayFigures(to_backend_before + to_backend, to_client_before + to_client, self.name)
        figures.round_trip_seconds = found.round_trip
        if isinstance(found, Relay):
            figures.backend_round_trip_seconds = found.back.round_trip
        figures.blocked_to_client_seconds = None if front_blocked < 0 else front_blocked
        figures.blocked_to_backend_seconds = None if back_blocked < 0 else back_blocked
        return figures

    def _find_live(self, connection_id: int) -> tuple[Relay | Bridge | None, _native.Live | None]:
        """Return a pair, and what the extension knows of it if it has it; one that is on its way back comes at once."""
        bridge = self.bridges.carried.get(connection_id)
        if bridge is not None:
            live = self.bridges.figures(bridge)
            if live is not None:
                return bridge, live
            self.bridges.recall(bridge)
        relay = super().find(connection_id)
        live = None if relay is None else self.loop.figures(relay)
        if relay is not None and live is None:
            self.loop.recall_lent(relay)
        return relay, live

    def payload_bytes(self, connection_id: int) -> tuple[int, int] | None:
        """See `Engine.payload_bytes`."""
        found, live = self._find_live(connection_id)
        if live is None or found is None:
            return super().payload_bytes(connection_id)
        to_backend, to_client = found.received_bytes
        return to_backend + live[0][0], to_client + live[0][1]
