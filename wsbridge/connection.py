"""One connection, accept to access log: the steps in order."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from wsbridge.access_log import AccessLog
from wsbridge.admission import UNLIMITED, AdmittedRequest, RouteSlot, acquire_route_slot, admit, limited_token_name
from wsbridge.auth.base import Authenticator
from wsbridge.auth.identity import Denied, Identity
from wsbridge.backends.base import Connected, DialRequest
from wsbridge.context import AuthRequest
from wsbridge.frontend import Exchange, HttpExchange, RawExchange, read_request
from wsbridge.generation import Generation, Listener, Route
from wsbridge.limits.clients import ClientSlot
from wsbridge.log.logger import log
from wsbridge.net import tls_transport
from wsbridge.net.address import Peer
from wsbridge.net.dialer import retry
from wsbridge.net.tls import tls_error_text
from wsbridge.net.transport import SocketTransport, Transport, reset_socket
from wsbridge.protocol.http1 import Request
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import RelayCounters
from wsbridge.relay.relay import RelayOptions
from wsbridge.responders.base import ResponderContext

if TYPE_CHECKING:
    from wsbridge.server import Server


async def authenticate(auth: Authenticator, context: AuthRequest, client_slot: ClientSlot) -> Identity | Termination:
    """Find out who a client is.

    Args:
        auth: The route's way of authentication.
        context: Who asks for what.
        client_slot: Where a failed login is counted.

    Returns:
        Who he is, or how his connection ends. Whatever was wrong, he is told the same.
    """
    found = await auth.identify(context)
    if isinstance(found, Denied):
        if found.failed_login:
            client_slot.record_failure()
        return Termination(
            found.reason,
            "wsbridge" if found.reason in (Reason.AUTH_UNAVAILABLE, Reason.OVERLOAD) else "client",
            found.detail,
            headers=tuple(("WWW-Authenticate", value) for value in found.challenges),
        )
    if found.by_cookie and not _is_csrf_safe(context.request):
        return Termination(
            Reason.ORIGIN_NOT_ALLOWED, "client", "a cookie proves nothing without an Origin, which the request has not"
        )
    return found


def _is_csrf_safe(request: Request | None) -> bool:
    """Tell whether a request names the page that it comes from; that this page may connect was judged before.

    A plain GET or HEAD does nothing that another page could want, and that page cannot read the answer.
    """
    if request is None:
        return False
    if request.method in ("GET", "HEAD") and not request.headers.has_token(b"upgrade", b"websocket"):
        return True
    return b"origin" in request.headers


def identity_deadline(identity: Identity) -> float | None:
    """Give when an identity ends, by the loop's clock: later steps of the wall clock move it no more."""
    if identity.expires is None:
        return None
    return trio.current_time() + identity.expires - time.time()


async def resolve_client_address(sock: socket.socket, listener: Listener, access_log: AccessLog) -> Termination | None:
    """Hear what a proxy in front says of its client, where the listener has one; note it in the account."""
    if listener.client_address_resolver is not None:
        client = await listener.client_address_resolver.from_connection(sock, access_log.peer)
        if isinstance(client, Termination):
            return client
        access_log.peer = client
    return None


def is_direct_client(host: str, listener: Listener) -> bool:
    """Tell whether an address is a client's: a trusted proxy's own is not limited, whatever comes through it."""
    return listener.client_address_resolver is None or not listener.client_address_resolver.is_trusted(host)


def count_client(client_slot: ClientSlot, listener: Listener, peer: Peer) -> Termination | None:
    """Count a connection under the address of its client, as soon as that is known, and each time it changes."""
    return client_slot.assign(peer.host) if is_direct_client(peer.host, listener) else None


async def tls_handshake(sock: socket.socket, listener: Listener, timeout: float) -> Transport | Termination:
    """Shake hands by TLS where the listener has it."""
    if listener.tls is None:
        return SocketTransport(sock)
    try:
        with trio.move_on_after(timeout):
            return await tls_transport.start_tls(sock, listener.tls, server_side=True)
    except OSError as error:
        return Termination(Reason.TLS_FAILED, "client", tls_error_text(error, peer_is_client=True))
    return Termination(Reason.TLS_FAILED, "client", f"no TLS handshake within tls, {timeout:g} s")


async def handle_connection(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> Termination:
    """Carry one accepted connection to its end, and give that; never raises for what a peer did.

    Args:
        sock: Accepted, non-blocking; it belongs to this function.
        sockaddr: What `accept` gave with it.
        listener: Of the generation that the connection keeps for life.
        server: What outlives the connection.
    """
    http = listener.protocol == "websocket"
    account = AccessLog(
        server.next_id(), listener.name, http=http, audit_log=server.audit_log, redact_target=listener.redact_target
    )
    try:
        account.peer = Peer.from_socket(sock, sockaddr)
    except OSError as error:
        reset_socket(sock)
        end = Termination(Reason.CLIENT_LOST, "client", f"before the first byte: {error.strerror or error}")
        account.log_closed(end)
        return end
    visit = ClientSlot(server.client_table)
    try:
        end = await _handle(sock, listener, server.generation, server, account, visit)
    except trio.Cancelled:
        reset_socket(sock)
        account.log_closed(Termination(server.shutdown_reason or Reason.SHUTDOWN, "wsbridge"))
        raise
    except Exception:
        reset_socket(sock)
        log.exception("internal_error", component="connection", id=account.id)
        end = Termination(Reason.INTERNAL_ERROR, "wsbridge")
    finally:
        visit.release()
    account.log_closed(end)
    return end


async def reject_overload(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    """Tell one client over the cap so, and let him go."""
    http = listener.protocol == "websocket"
    account = AccessLog(
        server.next_id(), listener.name, http=http, audit_log=server.audit_log, redact_target=listener.redact_target
    )
    end = Termination(
        Reason.OVERLOAD, "wsbridge", f"{server.connections} connections, and the limit is {server.max_connections}"
    )
    unheard: Termination | None = end
    try:
        account.peer = Peer.from_socket(sock, sockaddr)
        with trio.move_on_after(server.generation.config.timeouts.overload_reply):
            unheard = await resolve_client_address(sock, listener, account)
    except OSError as error:
        unheard = end = Termination(Reason.CLIENT_LOST, "client", f"before the first byte: {error.strerror or error}")
    if unheard is None:
        await _reject_early(sock, listener, end, server)
    else:
        reset_socket(sock)
    account.log_closed(end)


async def _reject_early(sock: socket.socket, listener: Listener, termination: Termination, server: Server) -> None:
    """Tell a client that there is too much: TLS, its head and the answer within `shed`; a raw one is reset."""
    seconds = server.generation.config.timeouts.overload_reply
    wire: Transport | Termination | None = None
    try:
        if listener.protocol == "websocket":
            with trio.move_on_after(seconds):
                wire = await tls_handshake(sock, listener, seconds)
                if not isinstance(wire, Termination):
                    heard = await _read_request(wire, listener, server.generation, server)
                    exchange = heard[0] if isinstance(heard, tuple) else heard
                    await _reject(exchange, termination, wire, server)
    except Exception:
        log.exception("internal_error", component="turn_away")
    finally:
        if wire is None or isinstance(wire, Termination):
            reset_socket(sock)
        else:
            wire.close()


async def _handle(
    sock: socket.socket,
    listener: Listener,
    generation: Generation,
    server: Server,
    access_log: AccessLog,
    client_slot: ClientSlot,
) -> Termination:
    if (
        listener.client_address_resolver is not None
        and (end := await resolve_client_address(sock, listener, access_log)) is not None
    ):
        reset_socket(sock)
        return end
    crowded = count_client(client_slot, listener, access_log.peer)
    if crowded is not None:
        return await _reject_limited(sock, listener, crowded, server, access_log)
    if listener.tls is None:
        wire: Transport = SocketTransport(sock)
    else:
        secured = await tls_handshake(sock, listener, generation.config.timeouts.tls)
        if isinstance(secured, Termination):
            return secured
        wire, access_log.tls = secured, True
        access_log.peer = wire.with_tls_details(access_log.peer)
    try:
        return await _handle_requests(wire, listener, generation, server, access_log, client_slot)
    except Exception:
        log.exception("internal_error", component="connection", id=access_log.id)
        end = Termination(Reason.INTERNAL_ERROR, "wsbridge")
        if listener.protocol == "websocket" and not access_log.response_started:
            return await _reject(HttpExchange(wire, access_log.request, server.lingering_closer), end, wire, server)
        wire.abort()
        return end
    except BaseException:
        wire.abort()
        raise


async def _reject_limited(
    sock: socket.socket, listener: Listener, termination: Termination, server: Server, access_log: AccessLog
) -> Termination:
    """End a connection that its address may not have: told so where there is room, and reset where it is banned."""
    if termination.reason is Reason.BANNED:
        server.client_table.reset_banned(sock, listener.name, access_log.peer.host)
    elif server.active_overload_replies < server.generation.config.limits.overload_replies:
        server.active_overload_replies += 1
        try:
            await _reject_early(sock, listener, termination, server)
        finally:
            server.active_overload_replies -= 1
    else:
        reset_socket(sock)
    return termination


async def _handle_requests(
    transport: Transport,
    listener: Listener,
    generation: Generation,
    server: Server,
    access_log: AccessLog,
    client_slot: ClientSlot,
) -> Termination:
    """Steps 3 to 7: one request or several, until one is refused or relayed or the connection ends."""
    nearest = access_log.peer
    while True:
        heard = await _read_request(transport, listener, generation, server)
        if isinstance(heard, tuple):
            exchange, end = heard
            return await _reject(exchange, end, transport, server)
        access_log.request, access_log.response_started = heard.request, False
        if listener.client_address_resolver is not None and heard.request is not None:
            client = listener.client_address_resolver.from_request(heard.request, nearest)
            if isinstance(client, Termination):
                return await _reject(heard, client, transport, server)
            access_log.peer = client
            crowded = count_client(client_slot, listener, access_log.peer)
            if crowded is not None:
                return await _reject(heard, crowded, transport, server)
        admitted = _admit(heard, listener, server, nearest)
        if isinstance(admitted, Termination):
            return await _reject(heard, admitted, transport, server)
        access_log.route = admitted.route
        if admitted.route.backend is not None and (hasty := client_slot.take_handshake()) is not None:
            return await _reject(heard, hasty, transport, server)
        if admitted.route.auth is not None:
            identity = await _authenticate(admitted.route.auth, admitted, listener, access_log, client_slot)
            if isinstance(identity, Termination):
                return await _reject(heard, identity, transport, server)
            access_log.identity = identity
        if admitted.route.backend is not None:
            quota = (
                UNLIMITED
                if admitted.route.limits is None
                else _acquire_route_slot(admitted.route, heard, server, access_log)
            )
            if isinstance(quota, Termination):
                return await _reject(heard, quota, transport, server)
            if not server.take_only_connection():
                end = Termination(Reason.OVERLOAD, "wsbridge", "only one connection is served, and it is there already")
                return await _reject(heard, end, transport, server)
            with quota:
                end = await _proxy(heard, admitted, transport, server, access_log, quota)
            server.only_connection_ended(end)
            return end
        end, again = await _respond(heard, admitted.route, transport, access_log)
        if not again:
            return end
        access_log.log_request(end)
        await trio.lowlevel.checkpoint()


async def _read_request(
    transport: Transport, listener: Listener, generation: Generation, server: Server
) -> Exchange | tuple[Exchange | None, Termination]:
    """Step 3: what is asked for."""
    if listener.protocol == "tcp":
        return RawExchange(transport, allow_http=listener.allow_http)
    heard = await read_request(
        transport,
        generation.head_limits,
        generation.config.timeouts.handshake,
        server.lingering_closer,
        server.request_read_scopes,
    )
    if server.shutdown_reason is not None and isinstance(heard, tuple) and heard[1].reason is Reason.HANDSHAKE_TIMEOUT:
        return heard[0], Termination(server.shutdown_reason, "wsbridge", heard[1].detail)
    return heard


def _admit(exchange: Exchange, listener: Listener, server: Server, nearest: Peer) -> AdmittedRequest | Termination:
    """Step 4: which route it is for, and whether it may."""
    if server.shutdown_reason is not None:
        return Termination(server.shutdown_reason, "wsbridge")
    if exchange.request is None:
        assert listener.route is not None  # noqa: S101 (the configuration's check holds it)
        return AdmittedRequest(listener.route, subprotocols=listener.route.subprotocols)
    resolver = listener.client_address_resolver
    return admit(listener, exchange.request, by_proxy=resolver is not None and resolver.came_by_proxy(nearest))


async def _authenticate(
    auth: Authenticator, admitted: AdmittedRequest, listener: Listener, access_log: AccessLog, client_slot: ClientSlot
) -> Identity | Termination:
    """Step 4, where the route asks for it: who it is."""
    protocols = () if admitted.upgrade is None else admitted.upgrade.subprotocols
    caller = AuthRequest(access_log.peer, access_log.request, admitted.route.name, listener.tls is not None, protocols)
    return await authenticate(auth, caller, client_slot)


def _acquire_route_slot(
    route: Route, exchange: Exchange, server: Server, access_log: AccessLog
) -> RouteSlot | Termination:
    """Take what the connection needs of its route's limits."""
    token = limited_token_name(route, exchange.request, access_log.identity)
    return acquire_route_slot(route, access_log.identity, token, server.connection_counts, server.shared_buckets)


async def _respond(
    exchange: Exchange, route: Route, transport: Transport, access_log: AccessLog
) -> tuple[Termination, bool]:
    """Answer from files or with a fixed status; tell whether another request may follow."""
    request = exchange.request
    assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
    assert request is not None and isinstance(exchange, HttpExchange)  # noqa: S101 (raw routes have backends)
    asked = ResponderContext(request, route.path_prefix, access_log.identity, access_log.peer)
    with await route.responder.respond(asked) as answer:
        end = Termination(Reason.SERVED, "client", answer.detail, status=answer.status)
        access_log.response_started = True
        try:
            return end, await exchange.respond(answer, route.relay_options.write, keep_alive=route.responder.keep_alive)
        except TimeoutError as error:
            transport.abort()
            return Termination(Reason.WRITE_STALLED, "client", str(error)), False
        except OSError as error:
            transport.abort()
            return Termination(Reason.CLIENT_LOST, "client", f"while a file was sent: {error}"), False


async def _proxy(
    exchange: Exchange,
    admitted: AdmittedRequest,
    transport: Transport,
    server: Server,
    access_log: AccessLog,
    route_slot: RouteSlot,
) -> Termination:
    """Steps 5 to 7: dial, answer, relay; or, where the route says so, answer first."""
    route = admitted.route
    front: Side | None = None
    if not route.dial_before_upgrade and exchange.request is not None:
        access_log.subprotocol, access_log.response_started = admitted.subprotocol, True
        accepted = await exchange.accept(
            admitted.subprotocol, route.dial_defaults.text_messages, route.dial_defaults.max_frame_bytes
        )
        if isinstance(accepted, Termination):
            return accepted
        front = accepted
    dialled = await _dial(admitted, exchange, transport, server, access_log)
    if isinstance(dialled, Termination):
        route.stats.rejected += 1
        if front is None:
            return await _reject(exchange, dialled, transport, server)
        return await server.engine.close_front(front, dialled, route.relay_options)
    access_log.backend_address = dialled.address
    if front is None:
        accepted = await _upgrade(exchange, admitted, dialled, server, access_log)
        if isinstance(accepted, Termination):
            return accepted
        front = accepted
    access_log.log_admitted()
    options = _relay_options(route, access_log.identity)
    counters = RelayCounters()
    stats = route.stats
    stats.active += 1
    stats.relayed += 1
    try:
        result = await server.engine.relay(
            access_log.id, front, dialled.side, options, counters, route_slot.shared_bucket
        )
    finally:
        stats.active -= 1
        stats.bytes_to_backend += counters.bytes_to_backend
        stats.bytes_to_client += counters.bytes_to_client
        access_log.set_bytes(counters.bytes_to_backend, counters.bytes_to_client)
    stats.terminations[result.reason] += 1
    return Termination(result.reason, result.initiator, result.detail, close_code=result.close_code)


def _relay_options(route: Route, identity: Identity) -> RelayOptions:
    """What holds for this connection: the route's terms, until who the client is no longer holds."""
    return (
        route.relay_options
        if identity.expires is None
        else replace(route.relay_options, auth_expires=identity_deadline(identity))
    )


async def _upgrade(
    exchange: Exchange, admitted: AdmittedRequest, connected: Connected, server: Server, access_log: AccessLog
) -> Side | Termination:
    """Step 6: the 101; where it cannot be given, the backend is let go."""
    offer = admitted.route.dial_defaults
    access_log.response_started = True
    try:
        if server.shutdown_reason is not None:  # it began while the backend was dialled
            end = Termination(server.shutdown_reason, "wsbridge")
            await exchange.reject(end, int(server.generation.config.timeouts.retry_after))
            accepted: Side | Termination = end
        else:
            access_log.subprotocol = connected.subprotocol or (
                None if _backend_selects_subprotocol(connected) else admitted.subprotocol
            )
            accepted = await exchange.accept(access_log.subprotocol, offer.text_messages, offer.max_frame_bytes)
    except BaseException:
        connected.side.transport.abort()
        raise
    if isinstance(accepted, Termination):
        connected.side.transport.abort()
    return accepted


def _backend_selects_subprotocol(connected: Connected) -> bool:
    """Whether the backend's choice of a subprotocol is the client's answer, even if it chose none."""
    return connected.side.role != "raw"


async def _dial(
    admitted: AdmittedRequest, exchange: Exchange, transport: Transport, server: Server, access_log: AccessLog
) -> Connected | Termination:
    """Step 5: what the client chose; the backend, within `connect`, and again within `retry_for`, while he is there."""
    if server.shutdown_reason is not None:  # it began while he was asked who he is
        return Termination(server.shutdown_reason, "wsbridge")
    route = admitted.route
    backend = route.backend
    assert backend is not None  # noqa: S101 (asked only for such routes)
    chosen = (
        None if route.target_policy is None else await route.target_policy.select(exchange.request, access_log.identity)
    )
    if isinstance(chosen, Termination):
        return chosen
    access_log.target = None if chosen is None else chosen.target.text
    plan = route.dial_defaults
    # a client that has its 101 was told the first; a WebSocket backend must not choose another
    fitting = (
        admitted.subprotocols if route.dial_before_upgrade or exchange.request is None else admitted.subprotocols[:1]
    )
    told_of = access_log.client_info(transport) if route.needs_client_info else None
    offer = DialRequest(
        fitting, exchange.request is not None, plan.text_messages, plan.max_frame_bytes, chosen, told_of
    )

    def told(end: Termination) -> None:
        log.info(
            "backend.retry",
            id=access_log.id,
            route=route.name,
            backend=backend.name,
            reason=end.reason.value,
            detail=end.detail,
        )

    at_once = backend.connect_nowait(offer)
    if at_once is not None:
        return at_once
    with server.disconnect_monitor.watch(transport, allow_half_close=exchange.request is None) as client:
        return await retry(
            lambda: backend.dial(offer),
            timeout=route.connect_timeout,
            retry_for=route.retry_for,
            on_retry=told,
            progress=offer.progress,
        )
    if client.disconnect_detail:
        reason = transport.fault or Reason.CLIENT_LOST
        return Termination(reason, "client", f"while the backend was dialled: {client.disconnect_detail}")
    return Termination(server.shutdown_reason or Reason.SHUTDOWN, "wsbridge", "while the backend was dialled")


async def _reject(
    exchange: Exchange | None, termination: Termination, transport: Transport, server: Server
) -> Termination:
    """Say why not, where that can be said."""
    if exchange is None or REASONS[termination.reason].status is None:
        transport.close()
    else:
        await exchange.reject(termination, int(server.generation.config.timeouts.retry_after))
    return termination
