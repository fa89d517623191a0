"""THE SPINE: one connection from accept to its line in the log, one call per step, in order.

Lives here: the order of the steps and what each hands to the next. Must not live here: how any step is done.

The steps: visit, TLS, hear, admit, authenticate, occupy, dial, answer, relay (which ends both sides, too),
account. What a peer does is a value that some step returns, an `End`; only a bug is an exception, and it ends this
connection alone.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from wsbridge.access import authenticate, ends_at
from wsbridge.account import Account
from wsbridge.admit import Admitted, admit
from wsbridge.arrival import enter, introduce, secure
from wsbridge.auth.auth import Auth
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Identity
from wsbridge.backends.backend import Dialled, Offer
from wsbridge.generation import Generation, Listener, Route
from wsbridge.limits.visit import Visit
from wsbridge.log import log
from wsbridge.net.address import Peer
from wsbridge.net.retry import attempts
from wsbridge.net.sockets import reset
from wsbridge.net.wire import SocketWire, Wire
from wsbridge.quota import FREE, Quota, occupy, token_of
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.relay.endpoint import Endpoint, WebSocketEndpoint
from wsbridge.relay.terms import Terms
from wsbridge.routes.answer import Asked
from wsbridge.speaks.exchange import Exchange
from wsbridge.speaks.raw import RawExchange
from wsbridge.speaks.websocket import HttpExchange, hear

if TYPE_CHECKING:
    from wsbridge.server import Server


async def serve(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> End:
    """Carry one accepted connection to its end, and give that; never raises for what a peer did.

    Args:
        sock: Accepted, non-blocking; it belongs to this function.
        sockaddr: What `accept` gave with it.
        listener: Of the generation that the connection keeps for life.
        server: What outlives the connection.
    """
    http = listener.speaks == "websocket"
    account = Account(server.next_id(), listener.name, http=http, trail=server.trail, shown=listener.shown)
    try:
        account.peer = Peer.of(sock, sockaddr)
    except OSError as error:
        reset(sock)
        end = End(Reason.CLIENT_LOST, "front", f"before the first byte: {error.strerror or error}")
        account.close(end)
        return end
    visit = Visit(server.addresses)
    try:
        end = await _carry(sock, listener, server.generation, server, account, visit)
    except trio.Cancelled:
        reset(sock)
        account.close(End(server.ending or Reason.STOP, "bridge"))
        raise
    except Exception:
        reset(sock)
        log.exception("bug", where="connection", id=account.id)
        end = End(Reason.INTERNAL_ERROR, "bridge")
    finally:
        visit.leave()
    account.close(end)
    return end


async def turn_away(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    """Tell one client over the cap so, and let him go."""
    http = listener.speaks == "websocket"
    account = Account(server.next_id(), listener.name, http=http, trail=server.trail, shown=listener.shown)
    end = End(Reason.OVERLOAD, "bridge", f"{server.connections} connections, and the limit is {server.limit}")
    unheard: End | None = end
    try:
        account.peer = Peer.of(sock, sockaddr)
        with trio.move_on_after(server.generation.config.timeouts.shed):
            unheard = await introduce(sock, listener, account)
    except OSError as error:
        unheard = end = End(Reason.CLIENT_LOST, "front", f"before the first byte: {error.strerror or error}")
    if unheard is None:
        await _tell(sock, listener, end, server)
    else:
        reset(sock)
    account.close(end)


async def _tell(sock: socket.socket, listener: Listener, end: End, server: Server) -> None:
    """Tell a client that there is too much: TLS, its head and the answer within `shed`; a raw one is reset."""
    seconds = server.generation.config.timeouts.shed
    wire: Wire | End | None = None
    try:
        if listener.speaks == "websocket":
            with trio.move_on_after(seconds):
                wire = await secure(sock, listener, seconds)
                if not isinstance(wire, End):
                    heard = await _hear(wire, listener, server.generation, server)
                    exchange = heard[0] if isinstance(heard, tuple) else heard
                    await _refuse(exchange, end, wire, server)
    except Exception:
        log.exception("bug", where="turn_away")
    finally:
        if wire is None or isinstance(wire, End):
            reset(sock)
        else:
            wire.close()


async def _carry(
    sock: socket.socket, listener: Listener, generation: Generation, server: Server, account: Account, visit: Visit
) -> End:
    if listener.whence is not None and (end := await introduce(sock, listener, account)) is not None:
        reset(sock)
        return end
    crowded = enter(visit, listener, account.peer)
    if crowded is not None:
        return await _send_off(sock, listener, crowded, server, account)
    if listener.tls is None:
        wire: Wire = SocketWire(sock)
    else:
        secured = await secure(sock, listener, generation.config.timeouts.tls)
        if isinstance(secured, End):
            return secured
        wire, account.tls = secured, True
        account.peer = wire.with_hello(account.peer)
    try:
        return await _converse(wire, listener, generation, server, account, visit)
    except Exception:
        log.exception("bug", where="connection", id=account.id)
        end = End(Reason.INTERNAL_ERROR, "bridge")
        if listener.speaks == "websocket" and not account.answering:
            return await _refuse(HttpExchange(wire, account.request, server.lingering), end, wire, server)
        wire.abort()
        return end
    except BaseException:
        wire.abort()
        raise


async def _send_off(sock: socket.socket, listener: Listener, end: End, server: Server, account: Account) -> End:
    """End a connection that its address may not have: told so where there is room, and reset where it is banned."""
    if end.reason is Reason.BANNED:
        server.addresses.reset(sock, listener.name, account.peer.host)
    elif server.shedding < server.generation.config.limits.shed:
        server.shedding += 1
        try:
            await _tell(sock, listener, end, server)
        finally:
            server.shedding -= 1
    else:
        reset(sock)
    return end


async def _converse(
    wire: Wire, listener: Listener, generation: Generation, server: Server, account: Account, visit: Visit
) -> End:
    """Steps 3 to 7: one request or several, until one is refused or relayed or the connection ends."""
    nearest = account.peer
    while True:
        heard = await _hear(wire, listener, generation, server)
        if isinstance(heard, tuple):
            exchange, end = heard
            return await _refuse(exchange, end, wire, server)
        account.request, account.answering = heard.request, False
        if listener.whence is not None and heard.request is not None:
            client = listener.whence.of_request(heard.request, nearest)
            if isinstance(client, End):
                return await _refuse(heard, client, wire, server)
            account.peer = client
            crowded = enter(visit, listener, account.peer)
            if crowded is not None:
                return await _refuse(heard, crowded, wire, server)
        admitted = _admit(heard, listener, server)
        if isinstance(admitted, End):
            return await _refuse(heard, admitted, wire, server)
        account.route = admitted.route
        if admitted.route.backend is not None and (hasty := visit.shake_hands()) is not None:
            return await _refuse(heard, hasty, wire, server)
        if admitted.route.auth is not None:
            identity = await _authenticate(admitted.route.auth, admitted, listener, account, visit)
            if isinstance(identity, End):
                return await _refuse(heard, identity, wire, server)
            account.identity = identity
        if admitted.route.backend is not None:
            quota = FREE if admitted.route.limits is None else _occupy(admitted.route, heard, server, account)
            if isinstance(quota, End):
                return await _refuse(heard, quota, wire, server)
            with quota:
                return await _bridge(heard, admitted, wire, server, account, quota)
        end, again = await _answer(heard, admitted.route, wire, account)
        if not again:
            return end
        account.served(end)
        await trio.lowlevel.checkpoint()


async def _hear(
    wire: Wire, listener: Listener, generation: Generation, server: Server
) -> Exchange | tuple[Exchange | None, End]:
    """Step 3: what is asked for."""
    if listener.speaks == "tcp":
        return RawExchange(wire)
    heard = await hear(wire, generation.head, generation.config.timeouts.handshake, server.lingering, server.hearing)
    if server.ending is not None and isinstance(heard, tuple) and heard[1].reason is Reason.HANDSHAKE_TIMEOUT:
        return heard[0], End(server.ending, "bridge", heard[1].detail)
    return heard


def _admit(exchange: Exchange, listener: Listener, server: Server) -> Admitted | End:
    """Step 4: which route it is for, and whether it may."""
    if server.ending is not None:
        return End(server.ending, "bridge")
    if exchange.request is None:
        assert listener.route is not None  # noqa: S101 (the configuration's check holds it)
        return Admitted(listener.route, fitting=listener.route.subprotocols)
    return admit(listener, exchange.request)


async def _authenticate(
    auth: Auth, admitted: Admitted, listener: Listener, account: Account, visit: Visit
) -> Identity | End:
    """Step 4, where the route asks for it: who it is."""
    protocols = () if admitted.upgrade is None else admitted.upgrade.protocols
    caller = Caller(account.peer, account.request, admitted.route.name, listener.tls is not None, protocols)
    return await authenticate(auth, caller, visit)


def _occupy(route: Route, exchange: Exchange, server: Server, account: Account) -> Quota | End:
    """Take what the connection needs of its route's limits."""
    token = token_of(route, exchange.request, account.identity)
    return occupy(route, account.identity, token, server.counts, server.shares)


async def _answer(exchange: Exchange, route: Route, wire: Wire, account: Account) -> tuple[End, bool]:
    """Answer from files or with a fixed status; tell whether another request may follow."""
    request = exchange.request
    assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
    assert request is not None and isinstance(exchange, HttpExchange)  # noqa: S101 (raw routes have backends)
    asked = Asked(request, route.prefix, account.identity, account.peer)
    with await route.responder.answer(asked) as answer:
        end = End(Reason.SERVED, "front", answer.detail, status=answer.status)
        account.answering = True
        try:
            return end, await exchange.answer(answer, route.terms.write, lasting=route.responder.lasting)
        except TimeoutError as error:
            wire.abort()
            return End(Reason.WRITE_STALLED, "front", str(error)), False
        except OSError as error:
            wire.abort()
            return End(Reason.CLIENT_LOST, "front", f"while a file was sent: {error}"), False


async def _bridge(
    exchange: Exchange, admitted: Admitted, wire: Wire, server: Server, account: Account, quota: Quota
) -> End:
    """Steps 5 to 7: dial, answer, relay; or, where the route says so, answer first."""
    route = admitted.route
    front: Endpoint | None = None
    if not route.dial_first and exchange.request is not None:
        account.subprotocol, account.answering = admitted.subprotocol, True
        accepted = await exchange.accept(admitted.subprotocol, route.offer.text, route.offer.frame)
        if isinstance(accepted, End):
            return accepted
        front = accepted
    dialled = await _dial(admitted, exchange, wire, server, account)
    if isinstance(dialled, End):
        route.ledger.refused += 1
        if front is None:
            return await _refuse(exchange, dialled, wire, server)
        return await server.engine.dismiss(front, dialled, route.terms)
    account.address = dialled.address
    if front is None:
        accepted = await _greet(exchange, admitted, dialled, server, account)
        if isinstance(accepted, End):
            return accepted
        front = accepted
    account.admitted()
    server.relaying()
    try:
        terms = _terms(route, account.identity)
        return await server.engine.relay(front, dialled.endpoint, terms, route.ledger, quota.share)
    finally:
        account.carried(front.received, dialled.endpoint.received)


def _terms(route: Route, identity: Identity) -> Terms:
    """What holds for this connection: the route's terms, until who the client is no longer holds."""
    return route.terms if identity.expires is None else replace(route.terms, expires=ends_at(identity))


async def _greet(
    exchange: Exchange, admitted: Admitted, dialled: Dialled, server: Server, account: Account
) -> Endpoint | End:
    """Step 6: the 101; where it cannot be given, the backend is let go."""
    offer = admitted.route.offer
    account.answering = True
    try:
        if server.ending is not None:  # it began while the backend was dialled
            end = End(server.ending, "bridge")
            await exchange.refuse(end, int(server.generation.config.timeouts.retry_after))
            accepted: Endpoint | End = end
        else:
            account.subprotocol = dialled.subprotocol or (None if _picky(dialled) else admitted.subprotocol)
            accepted = await exchange.accept(account.subprotocol, offer.text, offer.frame)
    except BaseException:
        dialled.endpoint.wire.abort()
        raise
    if isinstance(accepted, End):
        dialled.endpoint.wire.abort()
    return accepted


def _picky(dialled: Dialled) -> bool:
    """Whether the backend's choice of a subprotocol is the client's answer, even if it chose none."""
    return isinstance(dialled.endpoint, WebSocketEndpoint)


async def _dial(admitted: Admitted, exchange: Exchange, wire: Wire, server: Server, account: Account) -> Dialled | End:
    """Step 5: what the client chose; the backend, within `connect`, and again within `retry_for`, while he is there."""
    if server.ending is not None:  # it began while he was asked who he is
        return End(server.ending, "bridge")
    route = admitted.route
    backend = route.backend
    assert backend is not None  # noqa: S101 (asked only for such routes)
    chosen = None if route.choice is None else await route.choice.choose(exchange.request, account.identity)
    if isinstance(chosen, End):
        return chosen
    account.target = None if chosen is None else chosen.target.text
    plan = route.offer
    # a client that has its 101 was told the first; a WebSocket backend must not choose another
    fitting = admitted.fitting if route.dial_first or exchange.request is None else admitted.fitting[:1]
    told_of = account.client(wire) if route.tells_client else None
    offer = Offer(fitting, exchange.request is not None, plan.text, plan.frame, chosen, told_of)

    def told(end: End) -> None:
        log.info(
            "backend.retry",
            id=account.id,
            route=route.name,
            backend=backend.name,
            reason=end.reason.value,
            detail=end.detail,
        )

    at_once = backend.at_once(offer)
    if at_once is not None:
        return at_once
    with server.watch.over(wire, halves=exchange.request is None) as client:
        return await attempts(lambda: backend.dial(offer), timeout=route.connect, retry_for=route.retry_for, told=told)
    if client.gone:
        return End(Reason.CLIENT_LOST, "front", f"while the backend was dialled: {client.gone}")
    return End(server.ending or Reason.STOP, "bridge", "while the backend was dialled")


async def _refuse(exchange: Exchange | None, end: End, wire: Wire, server: Server) -> End:
    """Say why not, where that can be said."""
    if exchange is None or ENDINGS[end.reason].status is None:
        wire.close()
    else:
        await exchange.refuse(end, int(server.generation.config.timeouts.retry_after))
    return end
