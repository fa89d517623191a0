"""One connection from accept to its log line: `Connection` calls the steps in order, and rejects in one place."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import trio

from wsbridge.access_log import LOGGED_HEADERS, AccessLog
from wsbridge.admission import (
    UNLIMITED,
    AdmittedRequest,
    RouteSlot,
    acquire_route_slot,
    admit,
    authenticate,
    find_route,
    limited_token_name,
)
from wsbridge.auth.identity import Identity
from wsbridge.backends.base import Connected, DialRequest
from wsbridge.context import ConnectionContext
from wsbridge.frontend import Exchange, HttpExchange, RawExchange, read_request
from wsbridge.generation import Generation, Listener, Route
from wsbridge.limits.clients import ClientSlot
from wsbridge.log.logger import log
from wsbridge.net import tls_transport
from wsbridge.net.address import Peer, local_endpoint
from wsbridge.net.dialer import retry
from wsbridge.net.loop_detection import MAX_HOPS, OutgoingChain, loop_rejection, marks_in_via
from wsbridge.net.tls import tls_error_text
from wsbridge.net.transport import SocketTransport, Transport, reset_socket
from wsbridge.protocol.forwarded import NO_PUBLIC_NAME
from wsbridge.reasons import REASONS, Reason, Rejected, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import RelayCounters
from wsbridge.relay.relay import RelayOptions
from wsbridge.services import Services

_BUG = Termination(Reason.INTERNAL_ERROR, "wsbridge")
"""How a connection ended that no step has ended."""


class Connection:
    """One accepted connection.

    Args:
        sock: Accepted, non-blocking; it belongs to the connection.
        context: What is known about it; each step adds to it.
        listener: Where it was accepted.
        generation: The listener's; the connection keeps it for life.
        services: What outlives the connection.
        overload: Why it is rejected as over the connection limit, for the log; None to serve it.
    """

    __slots__ = (
        "_access_log",
        "_client_slot",
        "_context",
        "_dials",
        "_exchange",
        "_front",
        "_generation",
        "_listener",
        "_nearest_peer",
        "_overload",
        "_route",
        "_services",
        "_sock",
        "_transport",
        "id",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ConnectionContext,
        listener: Listener,
        generation: Generation,
        services: Services,
        overload: str | None = None,
    ) -> None:
        self.id = context.id
        self._sock = sock
        self._context = context
        self._listener = listener
        self._generation = generation
        self._services = services
        self._overload = overload
        self._client_slot = ClientSlot(services.client_table)
        self._route: Route | None = None  # of the current request
        context.client = self._client_slot
        self._access_log = AccessLog(
            self._context,
            http=listener.protocol == "websocket",
            audit_log=services.audit_log,
            redact_target=listener.redact_target,
        )
        self._dials = False  # whether it got as far as dialing a backend
        self._transport: Transport | None = None  # set by `_start_tls`
        self._nearest_peer = self._context.peer  # the other end of the socket, before a request names the client
        self._exchange: Exchange = None  # type: ignore[assignment]  # set by `_read_request`, before it is used
        self._front: Side | None = None  # set by `_upgrade`

    async def run(self, sockaddr: object) -> Termination:
        """Serve the connection, reject it where a step raises `Rejected`, and write its log line whatever happens.

        Args:
            sockaddr: What `accept` returned with the socket.
        """
        termination = _BUG
        try:
            try:
                termination = await self._serve(sockaddr)
            except Rejected as rejected:
                termination = await self._reject(rejected)
            except Exception:
                log.exception("internal_error", component="connection", id=self._context.id)
                termination = await self._reject(Rejected(Reason.INTERNAL_ERROR, initiator="wsbridge"))
        except Exception:  # while it was rejected
            log.exception("internal_error", component="connection", id=self._context.id)
            self._abort()
        except BaseException as error:  # cancelled, perhaps inside a nursery, which makes it a group
            self._abort()
            termination = Termination(self._services.shutdown_reason or Reason.SHUTDOWN, "wsbridge")
            cancelled, others = error.split(trio.Cancelled) if isinstance(error, BaseExceptionGroup) else (error, None)
            if cancelled is None or not isinstance(others, ExceptionGroup | None):
                raise
            if others is not None:
                log.exception("internal_error", component="connection", id=self.id)
            raise cancelled from None
        finally:
            self._client_slot.release()
            if self._dials:
                self._services.only_connection_ended(termination)
            self._access_log.log_closed(termination)
        return termination

    async def _serve(self, sockaddr: object) -> Termination:
        """The steps in order; each may raise `Rejected`."""
        await self._identify_client(sockaddr)
        self._count_client()
        await self._start_tls()
        self._nearest_peer = self._context.peer
        while True:  # one request after the other
            await self._read_request()
            admitted = self._admit()
            await self._authenticate(admitted)
            if admitted.route.backend is not None:
                with self._acquire_route_slot(admitted.route) as slot:
                    self._take_only_connection()
                    return await self._proxy(admitted, slot)
            termination, keep_alive = await self._respond(admitted.route)
            if not keep_alive:
                return termination
            self._access_log.log_request(termination)
            await trio.lowlevel.checkpoint()

    async def _reject(self, rejected: Rejected) -> Termination:
        """Reject the client at any step: by a reset, an HTTP response, or a close frame after the 101.

        A client that sent nothing is closed without a response, under TLS with close_notify.
        """
        if rejected.failed_login:
            self._client_slot.record_failure()
        termination = rejected.termination()
        self._access_log.rejected_target = rejected.target
        route = self._route
        if route is not None and route.backend is not None:
            route.stats.rejected += 1
        if self._front is not None and route is not None:
            return await self._services.engine.close_front(self._front, termination, route.relay_options)
        if self._transport is None:
            await self._reject_before_tls(rejected, termination)
        elif rejected.silent or REASONS[rejected.reason].status is None:
            self._transport.close()
        elif self._context.response_started:
            self._transport.abort()
        else:
            await self._respond_rejected(self._transport, termination)
        return termination

    async def _reject_before_tls(self, rejected: Rejected, termination: Termination) -> None:
        """Reject a client over the connection limit: a 503 within `overload_reply`, or a reset."""
        services = self._services
        if rejected.reason is Reason.BANNED:
            services.client_table.reset_banned(self._sock, self._listener.name, self._context.peer.host)
            return
        responds = self._listener.protocol == "websocket" and REASONS[rejected.reason].status is not None
        if not responds or rejected.silent or (self._overload is None and not services.acquire_overload_reply()):
            reset_socket(self._sock)
            return
        try:
            with trio.move_on_after(self._generation.config.timeouts.overload_reply):
                await self._start_tls()
                await self._read_head()
                await self._respond_rejected(self._open_transport(), termination)
        except Rejected as unreadable:
            if self._transport is not None and not unreadable.silent:
                await self._respond_rejected(self._transport, termination)
        finally:
            if self._overload is None:
                services.release_overload_reply()
            if self._transport is None:
                reset_socket(self._sock)
            else:
                self._transport.close()

    async def _respond_rejected(self, transport: Transport, termination: Termination) -> None:
        exchange: Exchange = (
            RawExchange(transport)
            if self._listener.protocol == "tcp"
            else HttpExchange(transport, self._context.request, self._services.lingering_closer)
        )
        await exchange.reject(termination, int(self._generation.config.timeouts.retry_after))

    def _abort(self) -> None:
        """Reset the client's socket, whatever holds it; nothing happens to one that is closed."""
        if self._transport is None:
            reset_socket(self._sock)
        else:
            self._transport.abort()

    # The client's address, the limits on it, TLS.

    async def _identify_client(self, sockaddr: object) -> None:
        """Learn the client's address, from its socket or the PROXY header before its first byte."""
        context, resolver = self._context, self._listener.client_address_resolver
        if self._services.own_connections.chains:
            context.chain = self._services.own_connections.take(sockaddr)
        try:
            context.peer = self._nearest_peer = Peer.from_socket(self._sock, sockaddr)
        except OSError as error:
            raise Rejected(Reason.CLIENT_LOST, f"before the first byte: {error.strerror or error}") from None
        if self._overload is not None:
            await self._identify_overload_client()
        elif resolver is not None:
            context.peer = await resolver.from_connection(self._sock, context.peer)

    async def _identify_overload_client(self) -> None:
        """Do the same for a client over the connection limit, within `overload_reply`, and reject it."""
        context, resolver = self._context, self._listener.client_address_resolver
        readable = True
        if resolver is not None:
            readable = False
            with trio.move_on_after(self._generation.config.timeouts.overload_reply):
                context.peer = await resolver.from_connection(self._sock, context.peer)
                readable = True
        raise Rejected(Reason.OVERLOAD, self._overload or "", initiator="wsbridge", silent=not readable)

    def _count_client(self) -> None:
        """Count the connection under the address of its client, as soon as that is known, and when it changes."""
        host = self._context.peer.host
        if self._listener.is_direct_client(host):
            self._client_slot.assign(host)

    async def _start_tls(self) -> None:
        """Complete the TLS handshake within `tls`, if the listener has TLS."""
        listener = self._listener
        if listener.tls is None:
            self._transport = SocketTransport(self._sock, self._nearest_peer.family or None)
            return
        timeout = self._generation.config.timeouts.tls
        try:
            with trio.move_on_after(timeout):
                self._transport = await tls_transport.start_tls(self._sock, listener.tls, server_side=True)
        except OSError as error:
            raise Rejected(Reason.TLS_FAILED, tls_error_text(error, peer_is_client=True)) from None
        if self._transport is None:
            raise Rejected(Reason.TLS_FAILED, f"no TLS handshake within tls, {timeout:g} s")
        self._context.tls = self._transport.tls_version
        peer = self._transport.with_tls_details(self._context.peer)
        resolver = listener.client_address_resolver
        self._context.peer = peer if resolver is None else resolver.without_proxy_tls(peer)

    def _open_transport(self) -> Transport:
        assert self._transport is not None  # noqa: S101 (`_start_tls` sets it or raises)
        return self._transport

    # The request.

    async def _read_request(self) -> None:
        """Read a request, and the client's address from the headers that trusted proxies add."""
        context, resolver = self._context, self._listener.client_address_resolver
        context.start_request(None)
        self._exchange = exchange = await self._read_head()
        context.request = exchange.request
        if resolver is not None and exchange.request is not None:
            context.peer = resolver.from_request(exchange.request, self._nearest_peer)
            self._count_client()

    async def _read_head(self) -> Exchange:
        if self._listener.protocol == "tcp":
            return RawExchange(self._open_transport(), allow_http=self._listener.allow_http)
        services = self._services
        try:
            return await read_request(
                self._open_transport(),
                self._generation.head_limits,
                self._generation.config.timeouts.handshake,
                services.lingering_closer,
                services.request_read_scopes,
            )
        except Rejected as rejected:
            if rejected.reason is Reason.HANDSHAKE_TIMEOUT:
                self._check_shutdown(rejected.detail, silent=rejected.silent)
            raise

    def _check_shutdown(self, detail: str = "", *, silent: bool = False) -> None:
        """Reject a connection that is not relayed yet once the server is stopping."""
        if self._services.shutdown_reason is not None:
            raise Rejected(self._services.shutdown_reason, detail, initiator="wsbridge", silent=silent)

    # The route, who the client is, the limits of the route; a response of our own.

    def _admit(self) -> AdmittedRequest:
        """Find the route, and check that the request may use it."""
        self._check_shutdown()
        request, listener = self._exchange.request, self._listener
        if request is not None:
            resolver = listener.client_address_resolver
            by_proxy = resolver is not None and resolver.came_by_proxy(self._nearest_peer)
            route = find_route(listener, request)
            self._set_route(route)
            public = NO_PUBLIC_NAME if resolver is None else resolver.public_name(request, self._nearest_peer)
            admitted = admit(listener, route, request, by_proxy=by_proxy, public=public)
        else:
            assert listener.route is not None  # noqa: S101 (the configuration's check holds it)
            self._set_route(listener.route)
            admitted = AdmittedRequest(listener.route, subprotocols=listener.route.subprotocols or ())
        self._client_slot.check_ban()
        if admitted.route.backend is not None or admitted.route.checks_credentials:
            self._client_slot.take_handshake()
        return admitted

    def _set_route(self, route: Route) -> None:
        """Note the route of the request, also where the route rejects it."""
        self._route = route
        self._context.route = route.name
        self._context.backend = "" if route.backend is None else route.backend.name
        self._context.auth_required = route.auth is not None

    async def _authenticate(self, admitted: AdmittedRequest) -> None:
        """Authenticate the client, if the route requires it.

        A client that is banned in the meantime is rejected as banned, whether its credentials are right or wrong.
        """
        context = self._context
        if admitted.route.auth is None:
            return
        context.subprotocols = () if admitted.upgrade is None else admitted.upgrade.subprotocols
        try:
            context.identity = await authenticate(admitted.route.auth, context)
        except Rejected:
            self._client_slot.check_ban()
            raise
        self._client_slot.check_ban()

    def _acquire_route_slot(self, route: Route) -> RouteSlot:
        """Count the connection under the limits of its route."""
        if route.limits is None:
            return UNLIMITED
        identity, services = self._context.identity, self._services
        token_name = limited_token_name(route, self._exchange.request, identity)
        return acquire_route_slot(route, identity, token_name, services.connection_counts, services.shared_buckets)

    def _take_only_connection(self) -> None:
        """With `--once`, become the one connection that is served."""
        if not self._services.one_connection:
            return
        if not self._services.take_only_connection():
            detail = "only one connection is served, and another one was first"
            raise Rejected(Reason.OVERLOAD, detail, initiator="wsbridge")
        self._dials = True

    async def _respond(self, route: Route) -> tuple[Termination, bool]:
        """Answer from files or with a fixed status; return whether another request may follow."""
        exchange, context = self._exchange, self._context
        request = exchange.request
        assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
        assert request is not None and isinstance(exchange, HttpExchange)  # noqa: S101 (raw routes have backends)
        with await route.responder.respond(request, context) as response:
            termination = Termination(Reason.SERVED, "client", response.detail, status=response.status)
            context.response_started = True
            write_timeout = route.relay_options.write
            try:
                keep_alive = await exchange.respond(response, write_timeout, keep_alive=route.responder.keep_alive)
            except TimeoutError as error:
                self._abort()
                return Termination(Reason.WRITE_STALLED, "client", str(error)), False
            except OSError as error:
                self._abort()
                return Termination(Reason.CLIENT_LOST, "client", f"while a file was sent: {error}"), False
            return termination, keep_alive

    # Dial, upgrade, relay.

    async def _proxy(self, admitted: AdmittedRequest, slot: RouteSlot) -> Termination:
        """Dial, upgrade and relay."""
        chain = self._extend_chain(admitted.route)
        try:
            front, back = await self._connect(chain, admitted)
            return await self._relay(admitted.route, front, back, slot)
        finally:
            if chain.noted:
                chain.forget()

    def _extend_chain(self, route: Route) -> OutgoingChain:
        """Reject a connection that comes through the route for the second time."""
        context, request = self._context, self._exchange.request
        if request is not None and b"via" in request.headers:
            context.chain = max(context.chain, marks_in_via(request.headers.get_all(b"via")), key=len)
        if route.mark in context.chain or len(context.chain) >= MAX_HOPS:
            raise loop_rejection(context.chain, route.mark, route.name)
        return OutgoingChain(self._services.own_connections, (*context.chain, route.mark))

    async def _connect(self, chain: OutgoingChain, admitted: AdmittedRequest) -> tuple[Side, Side]:
        """Dial and upgrade, in the order of the route; give the client's and the backend's side."""
        route = admitted.route
        if not route.dial_before_upgrade and self._exchange.request is not None:
            self._front = await self._upgrade(route, admitted.subprotocol)
        self._access_log.dial_started()
        connected = await self._dial(admitted, chain)
        try:
            self._access_log.dial_ended(connected.address)
            if self._front is None:
                self._check_shutdown()  # it may have begun while the backend was dialed
                self._front = await self._upgrade(route, _agreed_subprotocol(admitted, connected))
            self._access_log.log_admitted(self._services.open_level)
        except BaseException:
            connected.side.transport.abort()
            raise
        return self._front, connected.side

    async def _relay(self, route: Route, front: Side, back: Side, slot: RouteSlot) -> Termination:
        """Relay until the end, and count it."""
        context, stats = self._context, route.stats
        if context.request is not None:  # neither memory nor credentials are needed for as long as the relay lasts
            context.request.headers.keep_only(LOGGED_HEADERS)
        options = _relay_options(route, context.identity)
        counters = RelayCounters()
        stats.active += 1
        stats.relayed += 1
        try:
            result = await self._services.engine.relay(context.id, front, back, options, counters, slot.shared_bucket)
        finally:
            stats.active -= 1
            stats.bytes_to_backend += counters.bytes_to_backend
            stats.bytes_to_client += counters.bytes_to_client
            context.relayed = True
            context.bytes_to_backend, context.bytes_to_client = counters.bytes_to_backend, counters.bytes_to_client
        stats.terminations[result.reason] += 1
        return Termination(
            result.reason,
            result.initiator,
            result.detail,
            close_code=result.close_code,
            incomplete=result.incomplete,
        )

    async def _dial(self, admitted: AdmittedRequest, chain: OutgoingChain) -> Connected:
        """Choose the target and dial the backend, each attempt within `connect`, while the client waits."""
        self._check_shutdown()  # it may have begun while the client was authenticated
        route, context, request = admitted.route, self._context, self._exchange.request
        backend = route.backend
        assert backend is not None  # noqa: S101 (asked only for such routes)
        chosen = None if route.target_policy is None else await route.target_policy.select(request, context.identity)
        context.target = None if chosen is None else chosen.target.text
        transport = self._open_transport()
        if route.needs_client_info:
            self._note_local_address(transport)
        # A client that has its 101 was given the first one: a WebSocket backend must not choose another.
        raw_or_waiting = route.dial_before_upgrade or request is None
        dial_request = DialRequest(
            admitted.subprotocols if raw_or_waiting else admitted.subprotocols[:1],
            request is not None,
            route.dial_defaults.text_messages,
            route.dial_defaults.max_frame_bytes,
            chosen,
            context if route.needs_client_info else None,
            None if route.request_passer is None or request is None else route.request_passer.extract(request),
            chain,
            context.client.key,
        )
        connected = backend.connect_nowait(dial_request)
        if connected is not None:
            return connected
        with self._services.disconnect_monitor.watch(transport, allow_half_close=request is None) as client:
            return await retry(
                lambda: backend.dial(dial_request),
                timeout=route.connect_timeout,
                retry_for=route.retry_for,
                on_retry=self._log_retry,
                progress=dial_request.progress,
            )
        if client.disconnect_detail:
            reason = transport.fault or Reason.CLIENT_LOST
            raise Rejected(
                reason,
                f"while the backend was dialed: {client.disconnect_detail}",
                initiator="wsbridge" if reason is Reason.INTERNAL_ERROR else "client",
            )
        self._check_shutdown("while the backend was dialed")
        raise Rejected(Reason.SHUTDOWN, "while the backend was dialed", initiator="wsbridge")

    def _note_local_address(self, transport: Transport) -> None:
        """Note where the client connected to, for a backend that receives it."""
        context = self._context
        context.local_address = context.peer.destination
        if context.local_address is None:
            with contextlib.suppress(OSError):  # the client may have disconnected
                context.local_address = local_endpoint(transport.fd)

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

    async def _upgrade(self, route: Route, subprotocol: str | None) -> Side:
        """Send the 101 to a WebSocket client, which must read it within `handshake`."""
        self._context.subprotocol, self._context.response_started = subprotocol, True
        defaults, timeout = route.dial_defaults, self._generation.config.timeouts.handshake
        return await self._exchange.accept(subprotocol, defaults.text_messages, defaults.max_frame_bytes, timeout)


def _agreed_subprotocol(admitted: AdmittedRequest, connected: Connected) -> str | None:
    """Return the subprotocol of the 101: a WebSocket backend's choice is the client's, even if it chose none."""
    if connected.subprotocol is not None or connected.side.role != "raw":
        return connected.subprotocol
    return admitted.subprotocol


def _relay_options(route: Route, identity: Identity) -> RelayOptions:
    """Return the options of this connection: the route's, until the client's identity expires."""
    if identity.expires is None:
        return route.relay_options
    return replace(route.relay_options, auth_expires=identity_deadline(identity))


def identity_deadline(identity: Identity) -> float | None:
    """Return when an identity expires, by the loop's clock: later steps of the wall clock do not move it."""
    if identity.expires is None:
        return None
    return trio.current_time() + identity.expires - time.time()
