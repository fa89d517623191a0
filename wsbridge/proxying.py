"""The last steps of a connection: its backend is dialed, its client is upgraded, and both are relayed."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

import trio

from wsbridge.access_log import LOGGED_HEADERS, AccessLog, count_bytes
from wsbridge.admission import (
    UNLIMITED,
    AdmittedRequest,
    RouteSlot,
    acquire_route_slot,
    limited_token_name,
    relay_options,
)
from wsbridge.backends.base import Backend, ChosenTarget, Connected, DialRequest
from wsbridge.context import ConnectionContext
from wsbridge.frontend import Exchange
from wsbridge.generation import Generation, Listener, Route
from wsbridge.limits.clients import ClientSlot
from wsbridge.log.logger import log
from wsbridge.net.address import local_endpoint
from wsbridge.net.dialer import MAX_DIAL_STEPS, DialProgress, retry
from wsbridge.net.loop_detection import MAX_HOPS, OutgoingChain, loop_rejection, marks_in_via
from wsbridge.net.transport import Transport
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, Open
from wsbridge.protocol.websocket import WebSocketFraming, decode_close_body
from wsbridge.reasons import Reason, Rejected, Termination
from wsbridge.relay.back_session import OpenedSession
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import Bridging, Relaying, RelayResult
from wsbridge.relay.relay import RelayOptions, describe_close
from wsbridge.services import Services
from wsbridge.sessions.backend_session import BackendSession
from wsbridge.sessions.first_frame import read_first_frame, session_side
from wsbridge.sessions.session import ResumableSession
from wsbridge.taskless import need_task

_BUG = Termination(Reason.INTERNAL_ERROR, "wsbridge")
"""How a relay ended whose result could not be had."""


class Proxying:
    """What `Connection` does with a request that is for a backend; it has set all attributes before.

    Attributes:
        id: Number of the connection since the process started.
        generation: The configuration in effect when it began.
    """

    __slots__ = (
        "_access_log",
        "_admitted",
        "_backend_session",
        "_chain",
        "_client_slot",
        "_context",
        "_exchange",
        "_front",
        "_is_only_connection",
        "_listener",
        "_relaying",
        "_requested_end",
        "_route",
        "_route_slot",
        "_services",
        "generation",
        "id",
    )

    id: int
    generation: Generation
    _access_log: AccessLog
    _admitted: AdmittedRequest | None
    _backend_session: BackendSession | None
    _chain: OutgoingChain | None
    _client_slot: ClientSlot
    _context: ConnectionContext
    _exchange: Exchange
    _front: Side | None
    _is_only_connection: bool
    _listener: Listener
    _relaying: Relaying | None
    _requested_end: Rejected | None
    _route: Route | None
    _route_slot: RouteSlot
    _services: Services

    def _relay_options(self, route: Route) -> RelayOptions:
        """Return those of the relay; most identities do not expire, and take the route's as they are."""
        identity = self._context.identity
        return route.relay_options if identity.expires is None else relay_options(route, identity)

    @property
    @abstractmethod
    def _transport(self) -> Transport:
        """The client's transport."""

    @abstractmethod
    def _check_ended(self) -> None:
        """Raise why the connection is to end, if it is."""

    @abstractmethod
    def _check_may_continue(self, detail: str = "", *, silent: bool = False) -> None:
        """Raise why the connection is to end, if it is, or if the server is draining or stopping."""

    @abstractmethod
    def _may_continue(self) -> bool:
        """Return whether `_check_may_continue` would raise nothing."""

    @abstractmethod
    def _as_requested(self, termination: Termination) -> Termination:
        """Return how it ended: as was wanted, if something was."""

    @abstractmethod
    def _log_bug(self) -> None:
        """Log an exception."""

    @abstractmethod
    def _finish(self, termination: Termination) -> None:
        """Release what the connection holds, and write its log line."""

    def _acquire_route_slot(self, route: Route) -> RouteSlot:
        """Count the connection under the limits of its route, while the slot is held."""
        if route.limits is None:
            return UNLIMITED
        identity, services = self._context.identity, self._services
        token_name = limited_token_name(route, self._context.request, identity)
        return acquire_route_slot(route, identity, token_name, services.connection_counts, services.shared_buckets)

    def _take_only_connection(self) -> None:
        """With `--once`, become the only connection that is served: the first that is about to dial."""
        if not self._services.one_connection:
            return
        if not self._services.take_only_connection():
            detail = "only one connection is served, and another one was first"
            raise Rejected(Reason.OVERLOAD, detail, initiator="wsbridge")
        self._is_only_connection = True

    async def _proxy(self) -> None:
        """Connect the client and the backend, and begin to relay between them."""
        admitted, self._admitted = self._admitted, None
        assert admitted is not None  # noqa: S101 (`_serve` has set it)
        route = admitted.route
        try:
            if admitted.resumable:
                self._relaying = relaying = await self._connect_session(admitted)
            else:
                chain = self._enter_route(route)
                self._relaying = relaying = await self._connect(admitted, chain)
        except BaseException:
            self._release_route()
            raise
        if self._chain is not None and not self._chain.noted and self._backend_session is None:
            self._chain = None  # an idle connection has no more memory than it needs
        route.stats.active += 1
        route.stats.relayed += 1
        relaying.ended.then(self._schedule_relayed)

    def _enter_route(self, route: Route) -> OutgoingChain:
        """Acquire what the connection needs to be relayed; `_release_route` releases it."""
        self._route_slot = self._acquire_route_slot(route)
        self._take_only_connection()
        self._chain = chain = self._extend_chain(route)
        return chain

    def _release_route(self) -> None:
        """Release what the connection holds of its route."""
        if self._route_slot is not UNLIMITED:
            self._route_slot.release()
        self._route_slot = UNLIMITED
        if self._chain is not None:
            self._chain.forget()
            self._chain = None

    def _schedule_relayed(self) -> None:
        """Go on where the engine calls nothing of a relay any more."""
        self._services.runner.call_soon(self._relayed)

    def _relayed(self) -> None:
        """Go on after a relay that has ended."""
        relaying, self._relaying = self._relaying, None
        route = self._route
        if relaying is None or route is None:
            return
        route.stats.active -= 1
        termination = _BUG
        try:
            termination = self._as_requested(self._note_relayed(relaying.result()))
        except Exception:
            self._log_bug()
        finally:
            self._finish(termination)

    def cut_off(self) -> None:
        """End a relay at once: both sides are reset."""
        relaying = self._relaying
        if relaying is None:
            return
        if relaying.ended.is_over:
            self._relayed()
            return
        self._requested_end = Rejected(self._services.shutdown_reason or Reason.SHUTDOWN, initiator="wsbridge")
        relaying.abort()
        self._relayed()

    async def _connect_session(self, admitted: AdmittedRequest) -> Relaying:
        """Begin to carry a resumable session: one that the client opens, or one that it resumes."""
        route, services, context = admitted.route, self._services, self._context
        await need_task()
        await self._accept_client(route, RESUME_SUBPROTOCOL)
        assert self._front is not None  # noqa: S101 (`_accept_client` has set it)
        self._front = session_side(self._front)
        try:
            frame = await read_first_frame(self._front, route.first_frame_timeout, services.request_read_scopes)
        except Rejected as rejected:
            if rejected.reason is Reason.HANDSHAKE_TIMEOUT:  # a shutdown cuts the wait short
                self._check_may_continue(rejected.detail)
            raise
        self._check_may_continue()
        if isinstance(frame, Open):
            session = await self._open_session(admitted, frame)
        else:
            if route.target_policy is not None:
                await self._choose_target(route)
            with trio.move_on_after(route.first_frame_timeout):
                await services.sessions.wait_until_adopted(frame.session_id)
            self._check_may_continue()
            session = services.sessions.resume(frame, route, context)
        self._access_log.log_established(services.open_level)
        self._forget_unneeded()
        return services.engine.carry(self.id, session.relay, self._front)

    async def _open_session(self, admitted: AdmittedRequest, opening: Open) -> ResumableSession:
        """Connect the backend of a session that begins; what the connection holds of the route is that session's."""
        route, sessions = admitted.route, self._services.sessions
        sessions.check_room()
        chain = self._enter_route(route)
        self._access_log.dial_started()
        connected = await self._dial(admitted, chain, await self._choose_target(route))
        try:
            self._access_log.dial_ended(connected.address)
            self._check_may_continue()
            session = sessions.open(
                opening,
                connected,
                self._relay_options(route),
                self._services.engine,
                route=route,
                generation=self.generation,
                context=self._context,
                redact_target=self._listener.redact_target,
                slot=self._route_slot,
                chain=chain,
            )
        except BaseException:
            connected.side.transport.abort()
            raise
        self._route_slot, self._chain = UNLIMITED, None
        return session

    def _extend_chain(self, route: Route) -> OutgoingChain:
        """Add the route to those that the connection came through (`net.loop_detection`).

        Raises:
            Rejected: It came through this route before, or through too many.
        """
        context, request = self._context, self._context.request
        if request is not None and b"via" in request.headers:
            context.chain = max(context.chain, marks_in_via(request.headers.get_all(b"via")), key=len)
        if context.chain and (route.mark in context.chain or len(context.chain) >= MAX_HOPS):
            raise loop_rejection(context.chain, route.mark, route.name)
        return OutgoingChain(self._services.own_connections, (*context.chain, route.mark))

    async def _connect(self, admitted: AdmittedRequest, chain: OutgoingChain) -> Relaying:
        """Dial and send the 101, in the route's order, and begin to relay."""
        route, context = admitted.route, self._context
        if not route.dial_before_upgrade and context.request is not None:
            await self._accept_client(route, admitted.subprotocol)
        self._access_log.dial_started()
        if route.target_policy is None:
            self._check_may_continue()  # as `_choose_target` does
            chosen = None
        else:
            chosen = await self._choose_target(route)
        if self._front is None and self._route_slot.shared_bucket is None:
            bridging = await self._bridge(admitted, chain, chosen)
            if bridging is not None:
                return bridging
        connected = await self._dial(admitted, chain, chosen)
        try:
            self._access_log.dial_ended(connected.address)
            if self._front is None:
                self._check_may_continue()  # a shutdown may have begun while the backend was dialed
                await self._accept_client(route, _agreed_subprotocol(admitted, connected))
            assert self._front is not None  # noqa: S101 (`_accept_client` has set it)
            self._check_ended()
            if connected.session is not None:
                context.session = connected.session.machine.session_id.hex()
            self._access_log.log_established(self._services.open_level)
            self._forget_unneeded()
            options = self._relay_options(route)
            bucket = self._route_slot.shared_bucket
            if connected.session is not None:
                dial_request = self._build_dial_request(admitted, chain, chosen)
                return self._start_backend_session(connected.side, connected.session, route, dial_request)
            return self._services.engine.start(self.id, self._front, connected.side, options, bucket)
        except BaseException:
            connected.side.transport.abort()
            raise

    def _start_backend_session(
        self, back: Side, opened: OpenedSession, route: Route, dial_request: DialRequest
    ) -> Relaying:
        """Begin to relay to a resumable session that the backend has opened."""
        context, services = self._context, self._services
        assert self._front is not None and route.backend is not None  # noqa: S101 (`_connect` has set it, and dialed)
        kept = BackendSession(opened.machine, route.backend, dial_request, route, context)
        options, bucket = self._relay_options(route), self._route_slot.shared_bucket
        memory = services.sessions.memory
        self._backend_session = kept
        return services.engine.start_backend_session(self.id, self._front, back, opened, options, memory, kept, bucket)

    async def _choose_target(self, route: Route) -> ChosenTarget | None:
        """Choose the target, where it is not that of the configuration."""
        self._check_may_continue()  # a shutdown may have begun while the 101 was written
        context, chosen, policy = self._context, None, route.target_policy
        if policy is not None and not (policy.is_fixed and context.identity.target is None):
            await self._client_slot.begin_guess()
            chosen = await policy.select(context.request, context.identity)
            self._client_slot.end_guess()
            self._check_ended()
        context.target = None if chosen is None else chosen.target.text
        return chosen

    async def _bridge(
        self, admitted: AdmittedRequest, chain: OutgoingChain, chosen: ChosenTarget | None
    ) -> Bridging | None:
        """Have the engine connect a backend on this machine, send the 101, and begin to relay; None if it has not."""
        route, context, backend = admitted.route, self._context, admitted.route.backend
        address = None if backend is None else backend.local_address(chosen)
        if address is None or chain.may_lead_here(address.sockaddr):
            return None
        defaults, options = route.dial_defaults, self._relay_options(route)
        front, response = self._exchange.prepare(admitted.subprotocol, defaults.text_messages, defaults.max_frame_bytes)
        engine = self._services.engine
        bridging = engine.bridge(self.id, front, response, address, options, self._may_continue)
        if bridging is None:
            return None
        try:
            await bridging.begun
            if bridging.connect_seconds is not None:
                self._access_log.dial_ended(address.text, None if chosen else bridging.connect_seconds)
                context.subprotocol = admitted.subprotocol
            if bridging.is_relayed:
                context.response_started = True
                self._access_log.log_established(self._services.open_level)
                self._forget_unneeded()
                return bridging
        except BaseException:
            bridging.abort()
            bridging.result()
            raise
        self._check_may_continue()  # a shutdown may have begun in the meantime
        self._exchange.check_accepted()
        return None

    async def _dial(self, admitted: AdmittedRequest, chain: OutgoingChain, chosen: ChosenTarget | None) -> Connected:
        """Dial the backend, each attempt within `connect`, while the client waits."""
        route, backend = admitted.route, admitted.route.backend
        assert backend is not None  # noqa: S101 (asked only for such routes)
        if route.needs_client_info:
            self._note_local_address()
        dial_request = self._build_dial_request(admitted, chain, chosen)
        return backend.connect_nowait(dial_request) or await self._dial_while_watched(route, backend, dial_request)

    def _build_dial_request(
        self, admitted: AdmittedRequest, chain: OutgoingChain, chosen: ChosenTarget | None
    ) -> DialRequest:
        route, context, request = admitted.route, self._context, self._context.request
        subprotocols = admitted.subprotocols
        if self._front is not None:  # its 101 names the first of them, so that the backend must not choose another
            subprotocols = subprotocols[:1]
        return DialRequest(
            subprotocols,
            from_client=request is not None,
            text_messages=route.dial_defaults.text_messages,
            max_frame_bytes=route.dial_defaults.max_frame_bytes,
            chosen=chosen,
            client=context if route.needs_client_info else None,
            passed=None if route.request_passer is None or request is None else route.request_passer.extract(request),
            chain=chain,
            client_key=context.client.key,
        )

    async def _dial_while_watched(self, route: Route, backend: Backend, dial_request: DialRequest) -> Connected:
        """Dial until the backend is connected, the client disconnects, or a shutdown ends all waits."""
        transport, raw = self._transport, self._context.request is None
        await need_task()
        with (
            self._services.disconnect_monitor.watch(
                transport, allow_half_close=raw, framing=self._front_framing()
            ) as client,
            self._log_steps(dial_request.progress),
        ):
            return await retry(
                lambda: backend.dial(dial_request),
                timeout=route.connect_timeout,
                retry_for=route.retry_for,
                on_retry=self._log_retry,
                progress=dial_request.progress,
            )
        # The monitor has cancelled the block: the client disconnected, or a shutdown or `end` wants it to.
        self._check_ended()
        where = "while the backend was dialed"
        if not client.disconnect_detail:
            raise Rejected(self._services.shutdown_reason or Reason.SHUTDOWN, where, initiator="wsbridge")
        if client.close_body is not None:
            closed = describe_close(*decode_close_body(client.close_body)) or "closed"
            raise Rejected(Reason.CLIENT_CLOSED, f"{where}: {closed}", initiator="client")
        reason = transport.fault or Reason.CLIENT_LOST
        raise Rejected(
            reason,
            f"{where}: {client.disconnect_detail}",
            initiator="wsbridge" if reason is Reason.INTERNAL_ERROR else "client",
        )

    def _front_framing(self) -> WebSocketFraming | None:
        """Return how the client that has got its 101 is decoded; None for one that has not, or is not WebSocket."""
        front = self._front
        if front is None or front.role == "raw":
            return None
        framing = WebSocketFraming("server", "bytes") if front.state is None else front.state.framing
        return framing if isinstance(framing, WebSocketFraming) else None

    def _note_local_address(self) -> None:
        """Note where the client connected to, for a backend that receives it."""
        context = self._context
        context.local_address = context.peer.destination
        if context.local_address is None:
            with contextlib.suppress(OSError):  # the client may have disconnected
                context.local_address = local_endpoint(self._transport.fd)

    @contextlib.contextmanager
    def _log_steps(self, progress: DialProgress) -> Iterator[None]:
        """Log the steps of a dial at level debug: name lookup, attempts, handshakes, and how long each took."""
        if log.level != "debug":
            yield
            return
        progress.steps = deque(maxlen=MAX_DIAL_STEPS)
        try:
            yield
        except Rejected as rejected:
            progress.fail(rejected.detail)
            raise
        finally:
            progress.enter("")
            context, steps = self._context, list(progress.steps)
            if steps:
                log.debug("backend.dialed", id=context.id, route=context.route, backend=context.backend, steps=steps)

    def _log_retry(self, rejected: Rejected) -> None:
        context = self._context
        log.info(
            "backend.retry",
            id=context.id,
            route=context.route,
            backend=context.backend,
            reason=rejected.reason.value,
            detail=rejected.detail,
        )

    async def _accept_client(self, route: Route, subprotocol: str | None) -> None:
        """Make the client's side of the relay: over HTTP by the 101, which the client must read within `handshake`."""
        self._context.subprotocol, self._context.response_started = subprotocol, True
        defaults, timeout = route.dial_defaults, self.generation.config.timeouts.handshake
        front, response = self._exchange.prepare(subprotocol, defaults.text_messages, defaults.max_frame_bytes)
        await self._exchange.accept(response, timeout)
        self._front = front

    def _forget_unneeded(self) -> None:
        """Forget what is not needed while a relay lasts: neither memory nor credentials are."""
        if self._context.request is not None:
            self._context.request.headers.keep_only(LOGGED_HEADERS)
        del self._exchange

    def _note_relayed(self, result: RelayResult) -> Termination:
        """Note how the relay ended, and count its bytes."""
        context = self._context
        context.relayed = True
        context.bytes_to_backend, context.bytes_to_client = result.bytes_to_backend, result.bytes_to_client
        count_bytes(context, result.bytes_to_backend, result.bytes_to_client)
        context.engine = result.engine
        return Termination(
            result.reason,
            result.initiator,
            result.detail,
            close_code=result.close_code,
            incomplete=result.incomplete,
        )


def _agreed_subprotocol(admitted: AdmittedRequest, connected: Connected) -> str | None:
    """Return the subprotocol of the 101: a WebSocket backend's choice is the client's, even if it chose none."""
    return admitted.subprotocol if connected.side.role == "raw" else connected.subprotocol
