"""One connection from accept to its log line: `Connection` calls the steps in order, and rejects in one place."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Literal, NoReturn, Protocol

import trio

from wsbridge.access_log import LOGGED_HEADERS, AccessLog, count_bytes
from wsbridge.admission import (
    UNLIMITED,
    RouteSlot,
    acquire_route_slot,
    admit,
    authenticate,
    find_route,
    limited_token_name,
    relay_options,
)
from wsbridge.auth.base import Authenticator
from wsbridge.backends.base import ChosenTarget, Connected, DialRequest
from wsbridge.context import ConnectionContext
from wsbridge.debug_log import log_accepted, log_admitted, log_authenticated, log_client_tls, log_routing
from wsbridge.frontend import Exchange, HttpExchange, RawExchange, read_first, read_request
from wsbridge.generation import AdmittedRequest, Generation, Listener, Route
from wsbridge.limits.clients import ClientSlot
from wsbridge.log.logger import log
from wsbridge.net.address import Peer, local_endpoint
from wsbridge.net.loop_detection import MAX_HOPS, OutgoingChain, loop_rejection, marks_in_via
from wsbridge.net.tls import tls_error_text
from wsbridge.net.tls_roles import ListenerTls
from wsbridge.net.tls_transport import EncryptedTransport
from wsbridge.net.transport import SocketTransport, Transport, reset_socket
from wsbridge.protocol.forwarded import NO_PUBLIC_NAME
from wsbridge.protocol.handshake import KnownRequest, KnownRequests
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, Open
from wsbridge.real_ip import ClientAddressResolver
from wsbridge.reasons import REASONS, Reason, Rejected, Termination
from wsbridge.relay.back_session import OpenedSession
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import Bridging, RelayFigures, Relaying, RelayResult
from wsbridge.responders.base import BodyError
from wsbridge.services import Services
from wsbridge.sessions.backend_session import BackendSession
from wsbridge.sessions.first_frame import read_first_frame, session_side
from wsbridge.sessions.session import ResumableSession
from wsbridge.sessions.store import SessionRejected
from wsbridge.taskless import need_task
from wsbridge.watched_dial import DURING_DIAL, dial_while_watched

_BUG = Termination(Reason.INTERNAL_ERROR, "wsbridge")
"""How a connection ended if even its rejection failed, or if the result of its relay could not be had."""

ConnectionState = Literal["handshake", "dialing", "relaying", "reconnecting", "closing", "responding", "idle"]
"""The step of a connection: until its request is admitted, until the backend is connected, while bytes are relayed,
while a resumable session of the backend has no connection, while it is rejected or ends; or it sends a response of
wsbridge, or waits for another request after one."""


class ConnectionOwner(Protocol):
    """Who learns that a connection has ended."""

    def connection_ended(self, connection: Connection, termination: Termination) -> None:
        """Forget a connection: its socket is closed, and its log line is written."""


class Connection:
    """One accepted connection.

    Until it is relayed, `run` serves it; nothing runs while it is relayed, except where the backend has a resumable
    session, whose connections are replaced. A call says that the relay has ended.

    Args:
        sock: Accepted, non-blocking; it belongs to the connection.
        context: What is known about it; each step adds to it.
        listener: Where it was accepted.
        generation: The configuration in effect, as objects; the connection keeps it for life, whatever is reloaded.
        services: What all connections share.
        owner: Learns that it has ended.
        overload: For a connection over the connection limit, which is only rejected: the numbers, for the log.

    Attributes:
        id: Number of the connection since the process started.
        generation: As given.
        fixed_json: The admin API's: what it has written of `facts`, once they do not change.
    """

    __slots__ = (
        "_access_log",
        "_backend_session",
        "_chain",
        "_client_slot",
        "_connection_peer",
        "_context",
        "_exchange",
        "_front",
        "_is_closing",
        "_is_only_connection",
        "_is_persistent",
        "_known",
        "_listener",
        "_overload",
        "_owner",
        "_relaying",
        "_requested_end",
        "_route",
        "_route_slot",
        "_services",
        "_sock",
        "_socket_family",
        "_started_transport",
        "fixed_json",
        "generation",
        "id",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ConnectionContext,
        listener: Listener,
        generation: Generation,
        services: Services,
        owner: ConnectionOwner,
        overload: str | None = None,
    ) -> None:
        self.id = context.id
        self.fixed_json = ""
        self._sock = sock
        self._context = context
        self._listener = listener
        self.generation = generation
        self._services = services
        self._owner = owner
        self._overload = overload
        self._client_slot = ClientSlot(services.client_table)  # the connection's part in the limits on its address
        context.client = self._client_slot
        self._access_log = AccessLog(
            self._context,
            http=listener.protocol == "websocket",
            audit_log=services.audit_log,
            redact_target=listener.redact_target,
            endings=services.endings,
            listener_stats=listener.stats,
        )
        # Set by the steps:
        self._socket_family = 0
        self._connection_peer = context.peer  # as its socket, PROXY header and TLS show it; a request may name another
        self._started_transport: Transport | None = None
        self._exchange: Exchange  # the current request and how to respond to it, until it is relayed
        self._known: KnownRequest[AdmittedRequest] | None = None  # what the current request is like that was remembered
        self._route: Route | None = None  # of the current request
        self._is_only_connection = False  # with `--once`
        self._is_persistent = False  # whether it has carried a request, and may carry more
        self._front: Side | None = None  # the client's side of the relay, since its 101
        self._relaying: Relaying | None = None  # since the backend is connected
        self._route_slot = UNLIMITED  # from when it is to be relayed
        self._chain: OutgoingChain | None = None  # of its route, while it is noted
        self._backend_session: BackendSession | None = None  # where the backend has one for a plain client
        self._requested_end: Rejected | None = (
            None  # set by `end` before the relay; raised by the task at its next check
        )
        self._is_closing = (
            False  # whether `_reject` has begun, or `end` has told the engine, or `end` has ended its relay
        )

    async def run(self, sockaddr: object) -> None:
        """Serve the connection until nothing has to run for it any more.

        Args:
            sockaddr: What `accept` returned with the socket.
        """
        await self._run_until_relayed(sockaddr)
        if self._backend_session is not None:
            await self._backend_session.run()

    async def _run_until_relayed(self, sockaddr: object) -> None:
        """Serve the connection until it is relayed, or reject it where a step raises `Rejected`.

        Its log line is written whatever happens.
        """
        termination: Termination | None = _BUG
        try:
            try:
                served = await self._serve(sockaddr)
                if isinstance(served, Termination):
                    termination = self._as_requested(served)
                else:
                    await self._proxy(served)
                    termination = None
            except Rejected as rejected:
                termination = await self._reject(rejected)
            except Exception:
                self._log_bug()
                termination = await self._reject(Rejected(Reason.INTERNAL_ERROR, initiator="wsbridge"))
        except Exception:  # while it was rejected
            self._log_bug()
            self._abort()
        except BaseException as error:  # cancelled, in most cases
            self._abort()
            termination = Termination(self._services.shutdown_reason or Reason.SHUTDOWN, "wsbridge")
            if not isinstance(error, BaseExceptionGroup):
                raise
            cancelled, others = error.split(trio.Cancelled)  # a nursery groups it with what else its tasks raised
            if cancelled is None or not isinstance(others, ExceptionGroup | None):
                raise  # such as KeyboardInterrupt
            if others is not None:
                self._log_bug()
            raise cancelled from None
        finally:
            if termination is not None:
                self._finish(termination)

    def _finish(self, termination: Termination) -> None:
        """Release what the connection holds, and write its log line."""
        try:
            self._release_route()
            self._client_slot.release()
            if self._is_only_connection:
                self._services.only_connection_ended(termination)
            self._access_log.log_closed(termination)
        finally:
            self._owner.connection_ended(self, termination)

    async def _serve(self, sockaddr: object) -> AdmittedRequest | Termination:
        """The steps in order, up to a request that is for a backend; each may raise `Rejected`."""
        listener = self._listener
        self._identify_peer(sockaddr)
        if self._overload is not None:
            await self._reject_overload(self._overload)
        if listener.client_address_resolver is not None:
            await self._read_proxy_header(listener.client_address_resolver)
        self._count_client()
        await self._start_transport()
        while True:  # one request after the other
            head = await self._read_request()
            if listener.client_address_resolver is not None:
                self._note_forwarded_address(listener.client_address_resolver)
                self._count_client()
            admitted = self._admit()
            self._check_client(admitted.route)
            if admitted.route.auth is not None:
                await self._authenticate(admitted.route.auth, admitted)
            if admitted.route.backend is not None:
                self._remember(head, admitted)
                return admitted
            termination, keep_alive = await self._respond(admitted.route)
            if not keep_alive:
                return termination
            self._access_log.log_request(termination)
            self._context.forget_request()
            self._is_persistent = True
            await trio.lowlevel.checkpoint()  # many requests that have arrived must not keep other tasks waiting

    @property
    def context(self) -> ConnectionContext:
        """What is known about it."""
        return self._context

    def facts(self) -> dict[str, object]:
        """Return the fields that its log line would have now, and its generation; a relay does not change them."""
        return {**self._access_log.facts(), "generation": self._context.generation}

    def live_facts(self) -> dict[str, object]:
        """Return what the admin API shows besides: age, state, and the figures of its relay."""
        figures = self._services.engine.figures(self.id)
        facts: dict[str, object] = {
            "duration_seconds": round(time.monotonic() - self._context.started, 3),
            "state": self._state(figures),
        }
        if figures is None:
            return facts
        facts["bytes_to_backend"], facts["bytes_to_client"] = figures.bytes_to_backend, figures.bytes_to_client
        for key in (
            "round_trip_seconds",
            "backend_round_trip_seconds",
            "blocked_to_client_seconds",
            "blocked_to_backend_seconds",
        ):
            seconds = getattr(figures, key)
            if seconds is not None:
                facts[key] = round(seconds, 4)
        if figures.ending is not None:
            facts["reason"] = figures.ending.value
        return facts

    def _state(self, figures: RelayFigures | None) -> ConnectionState:
        context = self._context
        if figures is not None:
            if figures.ending is not None:
                return "closing"
            kept = self._backend_session
            return "relaying" if kept is None or kept.state == "attached" else "reconnecting"
        if self._is_closing or self._requested_end is not None or context.relayed:
            return "closing"
        if self._access_log.has_dialed:
            return "dialing"
        if context.response_started:
            return "responding"
        return "idle" if self._is_persistent and context.request is None else "handshake"

    def end(self, reason: Reason, detail: str) -> bool:
        """End it for a reason of wsbridge, in whatever step it is; False if it is already ending.

        A relayed pair gets the close frame or the reset of the reason, an HTTP request its status; a client whose
        request is not complete is disconnected. While its credentials are verified, it ends right after that.
        """
        if self._is_closing or self._requested_end is not None:
            return False
        if self._services.engine.terminate(self.id, reason, detail):
            self._is_closing = True
            return True
        if self._context.relayed:
            return False
        self._requested_end = Rejected(reason, detail, initiator="wsbridge")
        transport = self._started_transport
        if transport is None or not self._services.disconnect_monitor.cancel(transport):
            # Wake the task from its read, for which it needs the descriptor. SHUT_RD sends no FIN, so that a response
            # can follow; once one has begun, writes end, too.
            how = socket.SHUT_RDWR if self._context.response_started else socket.SHUT_RD
            with contextlib.suppress(OSError):
                self._sock.shutdown(how)
        return True

    def _check_ended(self) -> None:
        """Raise why `end` ended the connection, if it did."""
        if self._requested_end is not None:
            raise self._requested_end

    def _as_requested(self, termination: Termination) -> Termination:
        """Return how it ended: as `end` says, if that was called."""
        return termination if self._requested_end is None else self._requested_end.termination()

    def _log_bug(self) -> None:
        log.exception("internal_error", component="connection", id=self.id)

    async def _reject(self, rejected: Rejected) -> Termination:
        """Reject the client at any step: by a reset, an HTTP response, or a close frame after the 101.

        Without a response (`Rejected.silent`, or a reason without a status), the connection is closed, under TLS with
        close_notify.
        """
        await need_task()
        self._is_closing = True
        if rejected.failed_login:
            self._client_slot.record_failure()
        self._client_slot.end_guess()
        if self._requested_end is not None:
            self._requested_end.silent = rejected.silent or self._started_transport is None
            self._requested_end.target = rejected.target
            rejected = self._requested_end
        termination = rejected.termination()
        self._access_log.rejected_target = rejected.target
        route = self._route
        if self._front is not None and route is not None:
            refusal = rejected.refusal if isinstance(rejected, SessionRejected) else None
            return await self._services.engine.close_front(self._front, termination, route.relay_options, refusal)
        if self._started_transport is None:
            await self._reject_before_transport(rejected, termination)
        elif rejected.silent or REASONS[rejected.reason].status is None:
            self._transport.close()
        elif self._context.response_started:
            self._transport.abort()
        else:
            await self._respond_rejected(termination)
        return termination

    async def _reject_before_transport(self, rejected: Rejected, termination: Termination) -> None:
        """Reject a client before its TLS handshake and its request: by a response to that request, or by a reset.

        Only so many clients at once are given a response (`overload_replies`), over the connection limit or not.
        """
        services = self._services
        if rejected.reason is Reason.BANNED:
            services.client_table.reset_banned(self._sock, self._listener.name, self._context.peer.host)
        elif self._listener.protocol == "tcp" or rejected.silent or REASONS[rejected.reason].status is None:
            reset_socket(self._sock)
        elif self._overload is not None:  # `accept` has acquired the reply, and releases it
            await self._read_and_respond(termination)
        elif services.acquire_overload_reply():
            try:
                await self._read_and_respond(termination)
            finally:
                services.release_overload_reply()
        else:
            reset_socket(self._sock)

    async def _read_and_respond(self, termination: Termination) -> None:
        """Read the request, which must have been read before it is rejected, within `overload_reply`; then close."""
        try:
            with trio.move_on_after(self.generation.config.timeouts.overload_reply):
                await self._start_transport()
                await self._read_request()
                self._context.forget_request()  # nothing of it was checked
                await self._respond_rejected(termination)
        except Rejected as unreadable:
            if self._started_transport is not None and not unreadable.silent:
                await self._respond_rejected(termination)
        finally:
            if self._started_transport is None:
                reset_socket(self._sock)
            else:
                self._started_transport.close()

    async def _respond_rejected(self, termination: Termination) -> None:
        """Reject by a response, whether the request could be read or not; plain TCP has no response but a reset."""
        exchange: Exchange = (
            RawExchange(self._transport)
            if self._listener.protocol == "tcp"
            else HttpExchange(self._transport, self._context.request, self._services.lingering_closer)
        )
        timeouts = self.generation.config.timeouts
        await exchange.reject(termination, self.id, int(timeouts.retry_after), timeouts.close)

    def _abort(self) -> None:
        """Reset the client's socket, whatever holds it; nothing happens to one that is closed."""
        if self._started_transport is None:
            reset_socket(self._sock)
        else:
            self._started_transport.abort()

    # The client's address, the limits on it, TLS.

    def _identify_peer(self, sockaddr: object) -> None:
        """Learn the other end of the socket, and whether that is a route of this process (loop detection)."""
        context = self._context
        if self._services.own_connections.chains:
            context.chain = self._services.own_connections.take(sockaddr)
        try:
            context.peer = Peer.from_socket(self._sock, sockaddr)
        except OSError as error:
            raise Rejected(Reason.CLIENT_LOST, f"before the first byte: {error.strerror or error}") from None
        self._socket_family = context.peer.family
        if log.level == "debug":
            log_accepted(context)

    async def _reject_overload(self, overload: str) -> NoReturn:
        """Reject a connection over the connection limit, with its client's address in the log.

        A PROXY header that does not arrive within `overload_reply` leaves no time for a response.
        """
        await need_task()
        resolver = self._listener.client_address_resolver
        with trio.move_on_after(self.generation.config.timeouts.overload_reply) as reading:
            if resolver is not None:
                await self._read_proxy_header(resolver)
        raise Rejected(Reason.OVERLOAD, overload, initiator="wsbridge", silent=reading.cancelled_caught)

    async def _read_proxy_header(self, resolver: ClientAddressResolver) -> None:
        """Read the client's address from the PROXY header, where the listener expects one before the first byte."""
        self._context.peer = await resolver.from_connection(self._sock, self._context.peer)

    def _count_client(self) -> None:
        """Count the connection under the address of its client, as often as that may have changed.

        Raises:
            Rejected: The address is banned or has too many connections.
        """
        host = self._context.peer.host
        if self._listener.is_direct_client(host):
            self._client_slot.assign(host)

    async def _start_transport(self) -> None:
        """Make the transport; if the listener has TLS, complete the TLS handshake within `tls`."""
        listener, context = self._listener, self._context
        if listener.tls is None:
            self._started_transport = SocketTransport(self._sock, self._socket_family or None)
            self._connection_peer = context.peer
            return
        self._started_transport = transport = await self._start_tls(listener.tls)
        context.tls = transport.tls_version
        peer = transport.with_tls_details(context.peer)
        resolver = listener.client_address_resolver
        self._connection_peer = context.peer = peer if resolver is None else resolver.without_proxy_tls(peer)
        if log.level == "debug":
            log_client_tls(context, transport)

    async def _start_tls(self, tls: ListenerTls) -> EncryptedTransport:
        timeout = self.generation.config.timeouts.tls
        try:
            return await tls.accept(self._sock, trio.current_time() + timeout)
        except OSError as error:
            detail = tls_error_text(error, peer_is_client=True)
        except trio.TooSlowError:
            detail = f"no TLS handshake within tls, {timeout:g} s"
        raise Rejected(Reason.TLS_FAILED, detail)

    @property
    def _transport(self) -> Transport:
        """The transport of the steps after `_start_transport`."""
        assert self._started_transport is not None  # noqa: S101 (it sets it or raises)
        return self._started_transport

    # The request.

    async def _read_request(self) -> bytes:
        """Read a request; on plain TCP there is none. Return what was read first, or nothing where it is known."""
        listener, transport, context = self._listener, self._transport, self._context
        if listener.protocol == "tcp":
            self._exchange = RawExchange(transport, allow_http=listener.allow_http)
            return b""
        services, timeout = self._services, self.generation.config.timeouts.handshake
        data, deadline = await read_first(transport, timeout)
        requests = self._known_requests
        found = None if requests is None else requests.find(data)
        if found is not None:
            self._known, key = found
            context.request = self._known.request
            self._exchange = HttpExchange(transport, context.request, services.lingering_closer, key)
            return b""
        self._known = None
        idle_scopes = services.idle_scopes if self._is_persistent else None
        try:
            context.request = await read_request(
                transport,
                data,
                deadline,
                self.generation.head_limits,
                timeout,
                services.request_read_scopes,
                idle_scopes,
            )
        except Rejected as rejected:
            if rejected.reason is Reason.HANDSHAKE_TIMEOUT:  # a shutdown cuts the wait short
                self._check_may_continue(rejected.detail, silent=rejected.silent)
            raise
        self._exchange = HttpExchange(transport, context.request, services.lingering_closer)
        return data

    @property
    def _known_requests(self) -> KnownRequests[AdmittedRequest] | None:
        """Where its request may be remembered, so that it is not read and admitted step by step again; None: nowhere.

        At level debug each step is logged. A proxy answers for the Host of its clients, and may be at any Unix socket.
        """
        is_unix = self._connection_peer.family == socket.AF_UNIX
        return None if is_unix or log.level == "debug" else self._listener.known_requests

    def _remember(self, head: bytes, admitted: AdmittedRequest) -> None:
        """Remember a request that is not known and will be relayed; `head` is what was read first."""
        request = self._context.request
        if head and request is not None and self._known_requests is not None:
            self._known_requests.add(head, request, admitted)

    def _note_forwarded_address(self, resolver: ClientAddressResolver) -> None:
        """Note the client's address from the header that trusted proxies add."""
        if self._context.request is not None:
            self._context.peer = resolver.from_request(self._context.request, self._connection_peer)

    def _check_may_continue(self, detail: str = "", *, silent: bool = False) -> None:
        """Reject the connection if `end` has ended it, or if the server is draining or stopping."""
        if self._requested_end is not None:
            raise self._requested_end
        reason = self._shutdown_reason
        if reason is not None:
            raise Rejected(reason, detail, initiator="wsbridge", silent=silent)

    def _may_continue(self) -> bool:
        """Return whether `_check_may_continue` would reject nothing."""
        return self._requested_end is None and self._shutdown_reason is None

    @property
    def _shutdown_reason(self) -> Reason | None:
        """Why its request cannot be served now; None while it can."""
        reason = self._services.shutdown_reason
        if reason is Reason.DRAINING and self._listener.name in self._services.released_listeners:
            return None
        return reason

    # The route, who the client is, the limits of the route; a response of our own.

    def _admit(self) -> AdmittedRequest:
        """Find the route, and check that the request may use it; that of one that is known was found before."""
        self._check_may_continue()
        if self._known is not None:
            self._set_route(self._known.admitted.route)
            return self._known.admitted
        request, listener, resolver = self._context.request, self._listener, self._listener.client_address_resolver
        if request is None:
            assert listener.route is not None  # noqa: S101 (the configuration's check holds it)
            self._set_route(listener.route)
            return AdmittedRequest(listener.route, subprotocols=listener.route.subprotocols or ())
        by_proxy = resolver is not None and resolver.came_by_proxy(self._connection_peer)
        by_proxy = by_proxy or self._connection_peer.family == socket.AF_UNIX  # passed sockets may be of any kind
        if log.level == "debug":
            log_routing(self._context, listener, request)
        route = find_route(listener, request)
        self._set_route(route)
        public = NO_PUBLIC_NAME if resolver is None else resolver.public_name(request, self._connection_peer)
        admitted = admit(listener, route, request, by_proxy=by_proxy, public=public)
        if log.level == "debug":
            log_admitted(self._context, admitted)
        return admitted

    def _set_route(self, route: Route) -> None:
        """Note the route of the request, also where the route rejects it."""
        self._route = route
        self._context.route, self._context.route_stats = route.name, route.stats
        self._context.backend = "" if route.backend is None else route.backend.name
        self._context.auth_required = route.auth is not None

    def _check_client(self, route: Route) -> None:
        """Check the limits on the client's address again: banned since it was counted, or over the handshake rate."""
        self._client_slot.check_ban()
        if route.backend is not None or route.checks_credentials:
            self._client_slot.take_handshake()

    async def _authenticate(self, auth: Authenticator, admitted: AdmittedRequest) -> None:
        """Authenticate the client, as the route requires it.

        A client that is banned in the meantime is rejected as banned, whether its credentials are right or wrong.
        """
        context = self._context
        context.subprotocols = () if admitted.upgrade is None else admitted.upgrade.subprotocols
        try:
            context.identity = await authenticate(auth, context)
        except Rejected:
            self._client_slot.check_ban()
            raise
        self._client_slot.check_ban()
        self._client_slot.end_guess()
        if log.level == "debug":
            log_authenticated(context)
        self._check_may_continue()

    async def _respond(self, route: Route) -> tuple[Termination, bool]:
        """Answer from files or with a fixed status; return whether another request may follow."""
        exchange, context = self._exchange, self._context
        request = context.request
        assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
        assert request is not None and isinstance(exchange, HttpExchange)  # noqa: S101 (raw routes have backends)
        await need_task()
        with await route.responder.respond(request, context) as response:
            self._check_ended()
            termination = Termination(Reason.SERVED, "client", response.detail, status=response.status)
            context.response_started = True
            write_timeout = route.relay_options.write
            may_continue = route.responder.keep_alive and not self._services.stop_requested.is_set()
            try:
                keep_alive = await exchange.respond(response, write_timeout, keep_alive=may_continue)
            except TimeoutError as error:
                self._abort()
                return Termination(Reason.WRITE_STALLED, "client", str(error)), False
            except OSError as error:
                self._abort()
                return Termination(Reason.CLIENT_LOST, "client", f"while a file was sent: {error}"), False
            except BodyError as error:
                self._abort()
                detail = f"the response was cut off: {error}"
                return Termination(Reason.SERVED, "wsbridge", detail, status=response.status), False
            return termination, keep_alive

    # The backend: it is dialed, its client is upgraded, and both are relayed.

    async def _proxy(self, admitted: AdmittedRequest) -> None:
        """Connect the client and the backend, and begin to relay between them."""
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
        if route.limits is not None:
            self._route_slot = self._acquire_route_slot(route)
        if self._services.one_connection:
            self._take_only_connection()
        self._chain = chain = self._extend_chain(route)
        return chain

    def _acquire_route_slot(self, route: Route) -> RouteSlot:
        """Count the connection under the limits of its route, while the slot is held."""
        identity, services = self._context.identity, self._services
        token_name = limited_token_name(route, self._context.request, identity)
        return acquire_route_slot(route, identity, token_name, services.connection_counts, services.shared_buckets)

    def _take_only_connection(self) -> None:
        """With `--once`, become the only connection that is served: the first that is about to dial."""
        if not self._services.take_only_connection():
            detail = "only one connection is served, and another one was first"
            raise Rejected(Reason.OVERLOAD, detail, initiator="wsbridge")
        self._is_only_connection = True

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

    def _release_route(self) -> None:
        """Release what the connection holds of its route."""
        if self._route_slot is not UNLIMITED:
            self._route_slot.release()
        self._route_slot = UNLIMITED
        if self._chain is not None:
            self._chain.forget()
            self._chain = None

    async def _connect(self, admitted: AdmittedRequest, chain: OutgoingChain) -> Relaying:
        """Dial and send the 101, in the route's order, and begin to relay."""
        route, context = admitted.route, self._context
        if not route.dial_before_upgrade and context.request is not None:
            await self._accept_client(route, admitted.subprotocol)
            self._check_may_continue()  # a shutdown may have begun while the 101 was written
        self._access_log.dial_started()
        chosen = None if route.target_policy is None else await self._choose_target(route)
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
            options = relay_options(route, self._context.identity)
            bucket = self._route_slot.shared_bucket
            if connected.session is not None:
                dial_request = self._build_dial_request(admitted, chain, chosen)
                return self._start_backend_session(connected.side, connected.session, route, dial_request)
            return self._services.engine.start(self.id, self._front, connected.side, options, bucket)
        except BaseException:
            connected.side.transport.abort()
            raise

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
        defaults, options = route.dial_defaults, relay_options(route, self._context.identity)
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
        """Dial the backend, each attempt within `connect`, while the client waits; see `dial_while_watched`."""
        route, backend = admitted.route, admitted.route.backend
        assert backend is not None  # noqa: S101 (asked only for such routes)
        if route.needs_client_info:
            self._note_local_address()
        dial_request = self._build_dial_request(admitted, chain, chosen)
        connected = backend.connect_nowait(dial_request)
        if connected is not None:
            return connected
        await need_task()
        monitor = self._services.disconnect_monitor
        connected = await dial_while_watched(
            backend, dial_request, route, self._context, self._transport, self._front, monitor
        )
        if connected is None:  # `end` or a shutdown has cancelled it
            self._check_ended()
            reason = self._services.shutdown_reason or Reason.SHUTDOWN
            raise Rejected(reason, DURING_DIAL, initiator="wsbridge")
        return connected

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

    def _note_local_address(self) -> None:
        """Note where the client connected to, for a backend that receives it."""
        context = self._context
        context.local_address = context.peer.destination
        if context.local_address is None:
            with contextlib.suppress(OSError):  # the client may have disconnected
                context.local_address = local_endpoint(self._transport.fd)

    async def _accept_client(self, route: Route, subprotocol: str | None) -> None:
        """Make the client's side of the relay: over HTTP by the 101, which the client must read within `handshake`."""
        self._context.subprotocol, self._context.response_started = subprotocol, True
        defaults, timeout = route.dial_defaults, self.generation.config.timeouts.handshake
        front, response = self._exchange.prepare(subprotocol, defaults.text_messages, defaults.max_frame_bytes)
        await self._exchange.accept(response, timeout)
        self._front = front

    def _forget_unneeded(self) -> None:
        """Forget what is not needed while a relay lasts: neither memory nor credentials are."""
        if self._context.request is not None and self._known is None:
            self._context.request.headers.keep_only(LOGGED_HEADERS)
        del self._exchange

    # Resumable sessions: of the client, and of the backend.

    async def _connect_session(self, admitted: AdmittedRequest) -> Relaying:
        """Begin to carry a resumable session: one that the client opens, or one that it resumes."""
        route, services, context = admitted.route, self._services, self._context
        await need_task()
        await self._accept_client(route, RESUME_SUBPROTOCOL)
        assert self._front is not None  # noqa: S101 (`_accept_client` has set it)
        self._front = session_side(self._front)
        try:
            rate = route.relay_options.control_frame_rate
            frame = await read_first_frame(self._front, route.first_frame_timeout, rate, services.request_read_scopes)
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
                relay_options(route, self._context.identity),
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

    def _start_backend_session(
        self, back: Side, opened: OpenedSession, route: Route, dial_request: DialRequest
    ) -> Relaying:
        """Begin to relay to a resumable session that the backend has opened."""
        context, services = self._context, self._services
        assert self._front is not None and route.backend is not None  # noqa: S101 (`_connect` has set it, and dialed)
        kept = BackendSession(opened.machine, route.backend, dial_request, route, context)
        options, bucket = relay_options(route, self._context.identity), self._route_slot.shared_bucket
        memory = services.sessions.memory
        self._backend_session = kept
        return services.engine.start_backend_session(self.id, self._front, back, opened, options, memory, kept, bucket)

    # The end of the relay.

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
