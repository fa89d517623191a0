"""Connections as operators see and end them, and sessions that wait for their clients: `/v1/connections`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_network
from typing import Final
from urllib.parse import parse_qsl

import trio

from wsbridge.admin.http import AdminRequest, AdminResponse, error_response
from wsbridge.admin.long_lists import JsonPieces, Turns, timestamp
from wsbridge.connection import Connection
from wsbridge.log.format import clean_values
from wsbridge.net.address import NetworkSet
from wsbridge.reasons import Reason
from wsbridge.server import Server
from wsbridge.sessions.session import ResumableSession

CONNECTIONS_PATH: Final = "/v1/connections"
FILTERS: Final = ("route", "identity", "client")
_MAX_ID_DIGITS: Final = 18


class QueryError(ValueError):
    """The query of a request is not valid; one sentence."""


@dataclass(frozen=True, slots=True)
class ConnectionFilter:
    """Which connections are meant: those that have all that is given.

    Attributes:
        route: Name of the route.
        identity: Name of the client.
        client: Networks of the client's address; None for any.
        limit: How many are listed, the newest ones.
    """

    route: str | None = None
    identity: str | None = None
    client: NetworkSet | None = None
    limit: int | None = None

    @classmethod
    def parse(cls, query: str, *, with_limit: bool) -> ConnectionFilter:
        """Parse a query.

        Raises:
            QueryError: It has an unknown or repeated parameter, or a value that is not valid.
        """
        names = (*FILTERS, "limit") if with_limit else FILTERS
        values: dict[str, str] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
        except ValueError:
            raise QueryError("the query is malformed") from None
        for name, value in pairs:
            if name not in names:
                raise QueryError(f"unknown parameter {json.dumps(name)}: there are {', '.join(names)}")
            if name in values:
                raise QueryError(f"{name} may be given only once")
            if not value:
                raise QueryError(f"{name} is empty")
            values[name] = value
        limit = values.get("limit")
        if limit is not None and not (limit.isascii() and limit.isdecimal() and len(limit) <= _MAX_ID_DIGITS):
            raise QueryError("limit must be a number")
        client = values.get("client")
        return cls(
            values.get("route"),
            values.get("identity"),
            None if client is None else _parse_client(client),
            None if limit is None else int(limit),
        )

    @property
    def is_empty(self) -> bool:
        """Whether it means all connections."""
        return self.route is None and self.identity is None and self.client is None

    def matches(self, connection: Connection | ResumableSession) -> bool:
        """Return whether it means a connection."""
        context = connection.context
        return self._matches(context.route, context.identity.name, context.peer.host)

    def matches_ended(self, host: str, facts: dict[str, object]) -> bool:
        """Return whether it means a connection that has ended, by its client's host and the fields of its line."""
        return self._matches(facts.get("route", ""), facts.get("identity", ""), host)

    def _matches(self, route: object, identity: object, host: str) -> bool:
        return (
            (self.route is None or self.route == route)
            and (self.identity is None or self.identity == identity)
            and (self.client is None or self.client.contains(host))
        )


def _parse_client(text: str) -> NetworkSet:
    """Parse an address or a network.

    Raises:
        QueryError: It is neither.
    """
    if text == "unix":
        return NetworkSet(["unix"])
    try:
        return NetworkSet([ip_network(text, strict=False)])
    except ValueError:
        raise QueryError(
            f"client {json.dumps(text)}: must be an address, a network such as 10.0.0.0/8, or unix"
        ) from None


def describe_client(request: AdminRequest) -> str:
    """Name the client of the admin API that sent a request, for the log."""
    peer = request.peer
    if "uid" in peer:
        return f"user ID {peer['uid']}, process {peer.get('pid')}"
    return str(peer.get("client_address") or "unknown")


class ConnectionsApi:
    """Lists and ends connections.

    Args:
        server: Whose they are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listing = trio.Lock()  # one at a time, so that many requests do not add up their turns

    async def get(self, request: AdminRequest) -> AdminResponse:
        """List the connections that are open, the oldest first, and the last ones that ended, the latest first."""
        try:
            wanted = ConnectionFilter.parse(request.query, with_limit=True)
        except QueryError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        async with self._listing:
            turns = Turns()
            found = await self._find(wanted, turns)
            total = len(found)
            if wanted.limit is not None:
                found = found[max(0, total - wanted.limit) :]
            ended = (
                _to_json({"time": timestamp(seconds), "event": event, **facts})
                for seconds, event, host, facts in reversed(list(self._server.services.endings))
                if wanted.matches_ended(host, facts)
            )
            pieces = JsonPieces()
            pieces.add("time", timestamp(time.time()))
            pieces.add("total", total)
            await pieces.add_list("connections", (_describe(one) for one in found if self._is_open(one)), turns)
            await pieces.add_list("ended", ended, turns)
            return AdminResponse(HTTPStatus.OK, pieces.finish(), "application/json")

    async def delete(self, request: AdminRequest) -> AdminResponse:
        """End the connections that a filter means."""
        try:
            wanted = ConnectionFilter.parse(request.query, with_limit=False)
        except QueryError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        if wanted.is_empty:
            text = f"which connections: {CONNECTIONS_PATH}/ID, or a query with {', '.join(FILTERS)}"
            return error_response(HTTPStatus.BAD_REQUEST, text)
        turns = Turns()
        closed = 0
        for connection in await self._find(wanted, turns):
            closed += self._end(connection, request)
            await turns.share()
        return _closed(closed)

    async def delete_one(self, request: AdminRequest) -> AdminResponse:
        """End one connection."""
        text = request.path.removeprefix(f"{CONNECTIONS_PATH}/")
        is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_ID_DIGITS
        connection = self._find_one(int(text)) if is_number else None
        if connection is None or not self._end(connection, request):
            return error_response(HTTPStatus.NOT_FOUND, "no open connection has this id")
        return _closed(1)

    async def _find(self, wanted: ConnectionFilter, turns: Turns) -> list[Connection | ResumableSession]:
        found: list[Connection | ResumableSession] = []
        sessions = self._server.services.sessions.without_transport()
        every: list[Connection | ResumableSession] = [*self._server.connections.values(), *sessions]
        for connection in every:
            if wanted.matches(connection):
                found.append(connection)
            await turns.share()
        return sorted(found, key=lambda one: one.id) if sessions else found

    def _find_one(self, number: int) -> Connection | ResumableSession | None:
        """Return the connection with a number, or the session whose latest connection had it and that waits."""
        waiting = self._server.services.sessions.without_transport()
        return self._server.connections.get(number) or next((one for one in waiting if one.id == number), None)

    def _is_open(self, connection: Connection | ResumableSession) -> bool:
        """Return whether it has not ended in the meantime."""
        if isinstance(connection, ResumableSession):
            return connection.is_without_transport
        return connection.id in self._server.connections

    def _end(self, connection: Connection | ResumableSession, request: AdminRequest) -> bool:
        """End a connection, unless it has ended in the meantime."""
        if not self._is_open(connection):
            return False
        return connection.end(Reason.CLOSED_BY_OPERATOR, f"through the admin API, by {describe_client(request)}")


def _describe(connection: Connection | ResumableSession) -> str:
    """Return JSON of an open connection; what does not change any more is encoded once."""
    now = connection.live_facts()
    fixed = connection.fixed_json or _to_json(connection.facts())[:-1]
    if now["state"] in ("relaying", "detached"):
        connection.fixed_json = fixed
    return f"{fixed}, {json.dumps(now)[1:]}"


def _to_json(facts: dict[str, object]) -> str:
    """Return JSON of fields, without secrets, and bounded, as the log writes them."""
    return json.dumps(clean_values(None, "", facts))


def _closed(count: int) -> AdminResponse:
    return AdminResponse(HTTPStatus.OK, json.dumps({"closed": count}) + "\n", "application/json")
