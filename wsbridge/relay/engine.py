"""The engine: how a connection has its two sides relayed, spoken in descriptors and values.

An engine is given two `Side`s, owns their descriptors until it gives a `RelayResult`, and knows each pair by the id of
its connection. What relays may change behind it: a lane in native code that carries a pair while nothing but data
moves and gives it back as two `Side`s; a session that detaches a pair, keeps one side for minutes and relays it with
another; a pair that goes on in another process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import trio

from wsbridge import taskless
from wsbridge.limits.rate import SharedBucket
from wsbridge.net.address import LocalAddress
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.reasons import REASONS, Initiator, Reason, Termination
from wsbridge.relay.back_session import BackSessionOwner, BackSessionRelay, OpenedSession
from wsbridge.relay.endpoint import Endpoint, RawEndpoint, Side, build_endpoint, detach_side
from wsbridge.relay.front_session import FrontSessionRelay
from wsbridge.relay.loop import RelayLoop
from wsbridge.relay.relay import Relay, RelayOptions
from wsbridge.relay.session_relay import SessionOwner, SessionRelay
from wsbridge.relay.session_stream import Carrier, ReplayMemory, encode_error


@dataclass(slots=True)
class RelayResult:
    """How a relay ended.

    Attributes:
        reason: The row of the table of reasons.
        initiator: Who ended it.
        detail: One sentence for the log, with the numbers; empty if the reason is enough.
        close_code: Close code that a peer sent, or None.
        bytes_to_backend: Payload bytes that came from the client.
        bytes_to_client: Payload bytes that came from the backend.
        incomplete: Whether it was given up before everything was delivered, although a side had ended cleanly.
        engine: The engine that carried it.
    """

    reason: Reason
    initiator: Initiator
    detail: str = ""
    close_code: int | None = None
    bytes_to_backend: int = 0
    bytes_to_client: int = 0
    incomplete: bool = False
    engine: str = field(default="", compare=False)


@dataclass(slots=True)
class RelayFigures:
    """What is known of one relay while it lasts.

    Attributes:
        bytes_to_backend: Payload bytes that came from the client so far.
        bytes_to_client: Payload bytes that came from the backend so far.
        engine: The engine that has carried it.
        round_trip_seconds: From the last ping to a WebSocket client to its pong; None before the first.
        backend_round_trip_seconds: The same of a WebSocket backend.
        blocked_to_client_seconds: For how long the client has accepted none of the bytes that wait for it; None if
            none do.
        blocked_to_backend_seconds: The same of the backend.
        ending: Why it ends, while an end is under way: one side has finished, or is still to read what waits for it.
    """

    bytes_to_backend: int
    bytes_to_client: int
    engine: str
    round_trip_seconds: float | None = None
    backend_round_trip_seconds: float | None = None
    blocked_to_client_seconds: float | None = None
    blocked_to_backend_seconds: float | None = None
    ending: Reason | None = None


class Relaying(Protocol):
    """A pair that an engine relays.

    Attributes:
        ended: Over once no descriptor of either side is open, or the pair was detached.
    """

    ended: taskless.Wait

    def abort(self) -> None:
        """Reset both sides."""

    def result(self) -> RelayResult:
        """Return how it ended, once; the engine forgets it."""


class Bridging(Relaying, Protocol):
    """A pair whose backend the engine connects.

    Attributes:
        begun: Over once the pair is relayed, or has failed to be.
        is_relayed: Whether it is, or was; else the client was sent nothing, and the front is as it was.
        connect_seconds: How long connecting took; None if the backend is not connected.
    """

    begun: taskless.Wait
    is_relayed: bool
    connect_seconds: float | None


class Engine(Protocol):
    """Relays bytes between two sides until one reason ends it.

    Attributes:
        name: What `--version` and the log call it.
    """

    name: str

    async def run(self) -> None:
        """Serve the pairs until cancelled."""

    def start(
        self,
        connection_id: int,
        front: Side,
        back: Side,
        options: RelayOptions,
        share: SharedBucket | None = None,
    ) -> Relaying:
        """Begin to relay a pair.

        Args:
            connection_id: By which the pair is known to the other methods while it lasts.
            front: The accepted side.
            back: The dialled side.
            options: Time limits and rules.
            share: Bytes a second that it has in common with others.

        Returns:
            The pair; the caller waits for its end, or aborts it, and takes its result.
        """

    def bridge(
        self,
        connection_id: int,
        front: Side,
        response: bytes,
        address: LocalAddress,
        options: RelayOptions,
        may_begin: Callable[[], bool],
    ) -> Bridging | None:
        """Connect the backend, respond to the client, and relay; None, and nothing has happened, if it does not do so.

        Args:
            connection_id: See `start`.
            front: The accepted side.
            response: What it is sent once the backend is connected.
            address: Of the backend, which speaks plain bytes.
            options: See `start`.
            may_begin: Asked right before; if it returns False, nothing is done.
        """

    def open_session(
        self,
        session: ServerSession,
        back: Side,
        options: RelayOptions,
        memory: ReplayMemory,
        owner: SessionOwner,
        share: SharedBucket | None = None,
    ) -> FrontSessionRelay:
        """Begin to relay between a backend and a session, which has no transport before `carry`.

        Args:
            session: Its state machine, past `opened`.
            back: The dialled side.
            options: See `start`.
            memory: What all sessions hold.
            owner: Decides whether the session is kept, and learns when it has ended.
            share: See `start`.
        """

    def carry(self, connection_id: int, relay: FrontSessionRelay, front: Side) -> Relaying:
        """Go on with a session over another transport; the one that it had before ends.

        Args:
            connection_id: See `start`. `terminate` of it ends the session.
            relay: That of the session, which has been opened or resumed for this transport.
            front: The accepted side, past the first frame.

        Returns:
            The transport; its end is that of the session only where its result says so.
        """

    def start_backend_session(
        self,
        connection_id: int,
        front: Side,
        back: Side,
        opened: OpenedSession,
        options: RelayOptions,
        memory: ReplayMemory,
        owner: BackSessionOwner,
        share: SharedBucket | None = None,
    ) -> Relaying:
        """Begin to relay between a plain client and a session that the backend has opened.

        Args:
            connection_id: See `start`.
            front: The accepted side.
            back: The first transport of the session.
            opened: The session.
            options: See `start`.
            memory: What all sessions hold.
            owner: Gives the session its further transports, by `BackSessionRelay.go_on`.
            share: See `start`.
        """

    async def close_front(
        self, front: Side, termination: Termination, options: RelayOptions, refusal: tuple[int, str] | None = None
    ) -> Termination:
        """End an accepted side for which there is no other; gives the termination with the close code that was sent.

        Args:
            front: The side.
            termination: Why.
            options: See `start`.
            refusal: Code and text for a client of a resumable session; None: those of the reason.
        """

    @property
    def connection_ids(self) -> list[int]:
        """Connections that are relayed now."""

    def carries_session(self, connection_id: int) -> bool:
        """Return whether a connection is the transport of a client's session."""

    def terminate(self, connection_id: int, reason: Reason, detail: str = "") -> bool:
        """End one pair for a reason of wsbridge; False if it is not relayed any more."""

    def update_options(self, connection_id: int, options: RelayOptions) -> bool:
        """Put a pair under other options; False if it is not relayed any more."""

    def figures(self, connection_id: int) -> RelayFigures | None:
        """What is known of one pair now; None if it is not relayed any more."""

    def payload_bytes(self, connection_id: int) -> tuple[int, int] | None:
        """Payload bytes of one pair to the backend and to the client; None once its result was taken."""

    def detach(self, connection_id: int, reason: Reason, detail: str = "") -> tuple[Side, Side] | None:
        """Remove a pair from the engine, with both descriptors open and nothing lost; they belong to the caller.

        It ends with this reason. None, and nothing has changed, where it is not relayed or one of its sides
        has already ended.

        Returns:
            Front and back; another `start` goes on with them exactly where this one stopped.
        """

    def set_max_lingering(self, sockets: int) -> None:
        """Limit the sockets that linger at the same time; those that do already are left to it."""

    def close(self) -> None:
        """Close the engine's descriptors; no pair may be left."""


_NO_REASON = Termination(Reason.INTERNAL_ERROR, "wsbridge", "ended without a reason")


def _limit_rate(relay: Relay, share: SharedBucket | None) -> None:
    """Put a new relay under the rate limits that it has."""
    if share is not None or relay.options.bytes_per_second is not None:
        relay.share = share
        relay.apply_rate_limits()


class StartedRelay:
    """A pair that Python relays; see `Relaying`.

    Args:
        engine: Its engine.
        connection_id: Its connection.
        relay: The pair.
    """

    __slots__ = ("_connection_id", "_engine", "_relay", "ended")

    def __init__(self, engine: PythonEngine, connection_id: int, relay: Relay) -> None:
        self._engine = engine
        self._connection_id = connection_id
        self._relay = relay
        self.ended = taskless.Wait()

    def abort(self) -> None:
        """See `Relaying.abort`."""
        self._engine.abort(self._relay)

    def result(self) -> RelayResult:
        """See `Relaying.result`."""
        return self._engine.forget(self._connection_id, self._relay)


class CarriedTransport:
    """A transport of a session; see `Relaying`.

    Args:
        engine: Its engine.
        carrier: The transport.
    """

    __slots__ = ("_carrier", "_engine", "ended")

    def __init__(self, engine: PythonEngine, carrier: Carrier) -> None:
        self._engine = engine
        self._carrier = carrier
        self.ended = carrier.ended

    def abort(self) -> None:
        """Reset the transport; the session goes on without it."""
        carrier = self._carrier
        self._engine.loop.update_clock()
        if carrier.relay is not None:
            carrier.relay.lose(carrier, "the connection was cut off")
        elif carrier.closing is not None:
            self._engine.abort(carrier.closing)
        elif not carrier.closed:
            carrier.closed = True
            carrier.transport.abort()

    def result(self) -> RelayResult:
        """See `Relaying.result`."""
        return self._engine.forget_carrier(self._carrier)


class PythonEngine:
    """The engine that needs nothing but Python; see `Engine`."""

    name = "python"

    def __init__(self, max_lingering: int = 256, loop: RelayLoop | None = None) -> None:
        self.loop = loop or RelayLoop(max_lingering)
        self._relays: dict[int, tuple[Relay, Side, Side]] = {}
        self._carriers: dict[int, tuple[Carrier, SessionRelay]] = {}
        self._dropped: set[Relay] = set()  # they close transports of sessions of backends
        self._closed_socket = socket.socket()
        self._closed_socket.close()

    @property
    def connection_ids(self) -> list[int]:
        """See `Engine.connection_ids`."""
        return [*self._relays, *self._carriers]

    def find(self, connection_id: int) -> Relay | None:
        """Give the state machine of a connection while it is relayed."""
        entry = self._relays.get(connection_id)
        return None if entry is None or entry[0].done else entry[0]

    def carries_session(self, connection_id: int) -> bool:
        """See `Engine.carries_session`."""
        found = self._carriers.get(connection_id)
        return found is not None and found[0].relay is not None

    def set_max_lingering(self, sockets: int) -> None:
        """See `Engine.set_max_lingering`."""
        self.loop.max_lingering = sockets

    def close(self) -> None:
        """See `Engine.close`."""
        for relay in list(self._dropped):
            self.abort(relay)
        self.loop.close()

    async def run(self) -> None:
        """See `Engine.run`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.loop.run)
            nursery.start_soon(self.loop.run_timers)

    def start(
        self,
        connection_id: int,
        front: Side,
        back: Side,
        options: RelayOptions,
        share: SharedBucket | None = None,
    ) -> Relaying:
        """See `Engine.start`."""
        self.loop.update_clock()
        relay = Relay(
            build_endpoint(front, text=back.writes_text),
            build_endpoint(back, text=front.writes_text),
            options,
            self.loop,
        )
        _limit_rate(relay, share)
        self._relays[connection_id] = (relay, front, back)
        relaying = StartedRelay(self, connection_id, relay)
        relay.on_done = relaying.ended.end
        try:
            self.loop.add(relay)
        except BaseException:
            relaying.abort()
            relaying.result()
            raise
        return relaying

    def bridge(
        self,
        connection_id: int,
        front: Side,
        response: bytes,
        address: LocalAddress,
        options: RelayOptions,
        may_begin: Callable[[], bool],
    ) -> Bridging | None:
        """See `Engine.bridge`: it does not."""
        return None

    def adopt(self, connection_id: int, relay: Relay, front: Side, back: Side) -> None:
        """Know a pair that is relayed already."""
        self._relays[connection_id] = (relay, front, back)

    def drop(self, connection_id: int, relay: Relay) -> None:
        """Forget a pair that continues elsewhere, with its descriptors."""
        relay.front.closed = relay.back.closed = True
        del self._relays[connection_id]
        relay.unlink()

    def forget(self, connection_id: int, relay: Relay) -> RelayResult:
        """Return how a relay ended, and forget it."""
        del self._relays[connection_id]
        relay.unlink()
        end = relay.termination or _NO_REASON
        return RelayResult(
            end.reason,
            end.initiator,
            end.detail,
            end.close_code,
            relay.front.received_bytes,
            relay.back.received_bytes,
            end.incomplete,
            relay.carried_by,
        )

    def open_session(
        self,
        session: ServerSession,
        back: Side,
        options: RelayOptions,
        memory: ReplayMemory,
        owner: SessionOwner,
        share: SharedBucket | None = None,
    ) -> FrontSessionRelay:
        """See `Engine.open_session`."""
        self.loop.update_clock()
        relay = FrontSessionRelay(session, back, options, self.loop, memory, owner, self._close_carrier)
        _limit_rate(relay, share)
        self.loop.add_session(relay)
        return relay

    def carry(self, connection_id: int, relay: FrontSessionRelay, front: Side) -> Relaying:
        """See `Engine.carry`."""
        self.loop.update_clock()
        carrier = Carrier(connection_id, front)
        self._carriers[connection_id] = (carrier, relay)
        carried = CarriedTransport(self, carrier)
        try:
            relay.attach(carrier)
        except BaseException:
            carried.abort()
            carried.result()
            raise
        return carried

    def start_backend_session(
        self,
        connection_id: int,
        front: Side,
        back: Side,
        opened: OpenedSession,
        options: RelayOptions,
        memory: ReplayMemory,
        owner: BackSessionOwner,
        share: SharedBucket | None = None,
    ) -> Relaying:
        """See `Engine.start_backend_session`."""
        self.loop.update_clock()
        relay = BackSessionRelay(opened.machine, front, options, self.loop, memory, owner, self._close_dropped)
        _limit_rate(relay, share)
        self._relays[connection_id] = (relay, front, back)
        owner.relay = relay
        relaying = StartedRelay(self, connection_id, relay)

        def done() -> None:
            owner.session_ended()
            relaying.ended.end()

        relay.on_done = done
        try:
            self.loop.add_session(relay)
            relay.attach(Carrier(connection_id, back, opened.reader))
        except BaseException:
            relaying.abort()
            relaying.result()
            raise
        return relaying

    def forget_carrier(self, carrier: Carrier) -> RelayResult:
        """Return how a transport of a session ended, and forget it."""
        del self._carriers[carrier.connection_id]
        if carrier.closing is not None:
            carrier.closing.unlink()
            carrier.closing = None
        end = carrier.termination or _NO_REASON
        return RelayResult(
            end.reason,
            end.initiator,
            end.detail,
            end.close_code,
            carrier.received_payload,
            carrier.sent_payload,
            end.incomplete,
            PythonEngine.name,
        )

    def _find_carried(self, connection_id: int) -> SessionRelay | None:
        """Return the relay of the session that a connection carries; None once that has another one, or has ended."""
        carrier, relay = self._carriers.get(connection_id, (None, None))
        return None if relay is None or relay.carrier is not carrier else relay

    def _carried_figures(self, connection_id: int) -> RelayFigures | None:
        """See `Engine.figures`."""
        relay, now = self._find_carried(connection_id), trio.current_time()
        if relay is None or relay.carrier is None:
            return None
        carrier, back = relay.carrier, relay.back
        blocked = carrier.blocked_seconds(now)
        return RelayFigures(
            carrier.received_payload,
            carrier.sent_payload,
            PythonEngine.name,
            carrier.round_trip,
            back.round_trip,
            relay.front.blocked_seconds(now) if blocked is None else blocked,
            back.blocked_seconds(now),
            None if relay.termination is None else relay.termination.reason,
        )

    def _close_carrier(self, carrier: Carrier, options: RelayOptions, code: int | None, text: str) -> None:
        """Close a transport that its session no longer uses."""
        relay = carrier.closing = self._begin_close(carrier, options)
        relay.termination = carrier.termination
        relay.on_done = carrier.ended.end
        carrier.discard_payload = True
        relay.queue_close(carrier, code, text)
        self._add_closing(relay)

    def _close_dropped(self, carrier: Carrier, options: RelayOptions, code: int | None, text: str) -> None:
        """Close a transport of which no connection takes the result."""
        self._close_carrier(carrier, options, code, text)
        relay = carrier.closing
        assert relay is not None  # noqa: S101 (`_close_carrier` has set it)
        self._dropped.add(relay)
        carrier.ended.then(partial(self._forget_dropped, carrier, relay))

    def _forget_dropped(self, carrier: Carrier, relay: Relay) -> None:
        self._dropped.discard(relay)
        carrier.closing = None
        trio.lowlevel.current_trio_token().run_sync_soon(relay.unlink)  # it is still at work

    def _begin_close(self, front: Endpoint, options: RelayOptions) -> Relay:
        """Return a relay for a side for which there is no other."""
        nobody = SocketTransport(self._closed_socket)  # needs no descriptor: there may be none left
        relay = Relay(front, RawEndpoint(nobody), options, self.loop)
        relay.abort(relay.back)
        return relay

    def _add_closing(self, relay: Relay) -> None:
        relay.start_close_timer()
        self.loop.add(relay)
        self.loop.mark_ready(relay)

    async def close_front(
        self, front: Side, termination: Termination, options: RelayOptions, refusal: tuple[int, str] | None = None
    ) -> Termination:
        """See `Engine.close_front`."""
        self.loop.update_clock()
        relay = self._begin_close(build_endpoint(front), options)
        row, text = REASONS[termination.reason], termination.reason.value
        code = row.session_code if front.resumable else row.close_code
        if refusal is not None:
            code, text = refusal
        if not front.resumable or code is None:
            relay.terminate(termination)
        else:
            relay.front.pending = [*(relay.front.pending or ()), *encode_error(relay.front, code, text)]
            relay.termination, relay.front.discard_payload = termination, True
            relay.queue_close(relay.front, code, text)
            relay.start_close_timer()
            self.loop.mark_ready(relay)
        wait = taskless.Wait()
        relay.on_done = wait.end
        try:
            self.loop.add(relay)
            if not relay.done:
                await wait
        except BaseException:
            self.abort(relay)
            raise
        finally:
            relay.unlink()
        return replace(termination, close_code=code)

    def abort(self, relay: Relay) -> None:
        """Abort both sides at once."""
        for side in (relay.front, relay.back):
            relay.abort(side)

    def terminate(self, connection_id: int, reason: Reason, detail: str = "") -> bool:
        """See `Engine.terminate`."""
        relay = self._find_carried(connection_id) or self.find(connection_id)
        if relay is None:
            return False
        self.loop.update_clock()
        relay.terminate(Termination(reason, "wsbridge", detail))
        return True

    def update_options(self, connection_id: int, options: RelayOptions) -> bool:
        """See `Engine.update_options`."""
        relay = self._find_carried(connection_id) or self.find(connection_id)
        if relay is None:
            return False
        changed = options.bytes_per_second != relay.options.bytes_per_second
        relay.options = options
        if changed:
            relay.apply_rate_limits()
            self.loop.mark_ready(relay)
        self.loop.schedule(relay, self.loop.update_clock())
        return True

    def figures(self, connection_id: int) -> RelayFigures | None:
        """See `Engine.figures`."""
        if connection_id in self._carriers:
            return self._carried_figures(connection_id)
        relay = self.find(connection_id)
        if relay is None:
            return None
        front, back, now = relay.front, relay.back, trio.current_time()
        return RelayFigures(
            front.received_bytes,
            back.received_bytes,
            relay.carried_by,
            front.round_trip,
            back.round_trip,
            front.blocked_seconds(now),
            back.blocked_seconds(now),
            None if relay.termination is None else relay.termination.reason,
        )

    def payload_bytes(self, connection_id: int) -> tuple[int, int] | None:
        """See `Engine.payload_bytes`."""
        if connection_id in self._carriers:
            carrier = self._carriers[connection_id][0]
            return carrier.received_payload, carrier.sent_payload
        entry = self._relays.get(connection_id)
        return None if entry is None else (entry[0].front.received_bytes, entry[0].back.received_bytes)

    def detach(self, connection_id: int, reason: Reason, detail: str = "") -> tuple[Side, Side] | None:
        """See `Engine.detach`."""
        relay = self.find(connection_id)
        if relay is None or not relay.calm:
            return None
        _, front, back = self._relays[connection_id]
        detached = detach_side(front, relay.front), detach_side(back, relay.back)
        relay.termination = Termination(reason, "wsbridge", detail)
        relay.release()
        return detached
