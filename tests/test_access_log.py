"""The access log line of a connection."""

import pytest

from tests.authority import listener_tls
from tests.client import request
from tests.serving import backend, recording, serving, written
from wsbridge.access_log import AccessLog
from wsbridge.auth.identity import Identity
from wsbridge.context import ConnectionContext
from wsbridge.frontend import EMPTY_CONNECTION
from wsbridge.log.events import AUDIT_EVENTS as AUDITED
from wsbridge.log.events import LOG_EVENTS
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.reasons import REASONS, Reason, Termination


@pytest.fixture
def records():
    """What is logged."""
    with recording() as collected:
        yield collected


def account(trail=None):
    """Make an account with all facts."""
    context = ConnectionContext(
        7,
        "web",
        peer=Peer("192.0.2.1", 5000, 2),
        request=Request("GET", "/x?token=abc", "1.1", Headers()),
        route="app",
        backend="tcp://127.0.0.1:9",
        backend_address="127.0.0.1:9",
        subprotocol="binary",
    )
    made = AccessLog(context, audit_log=trail)
    return made, context


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("relayed", [False, True])
def test_every_reason_has_its_line(records, reason, relayed):
    """One line, at the level of the table, with no key that the table of events does not know."""
    one, context = account()
    if relayed:
        context.relayed, context.bytes_to_backend, context.bytes_to_client = True, 10, 20
    one.log_closed(Termination(reason, "wsbridge", "why", close_code=1000 if relayed else None))
    (line,) = records.all
    if reason is Reason.SERVED:
        assert line["event"] == "http.request"
    else:
        assert line["event"] == ("connection.closed" if relayed else "connection.rejected")
        assert line["level"] == REASONS[reason].level
        assert line["reason"] == reason.value
    assert set(line) - {"event", "level"} <= set(LOG_EVENTS[line["event"]].keys)


@pytest.mark.parametrize(("status", "level"), [(200, "debug"), (304, "debug"), (404, "info"), (500, "info")])
def test_answers_that_went_well_are_reported_at_debug(records, status, level):
    """A page with all its files, and a balancer's health checks, leave the log to what matters."""
    account()[0].log_request(Termination(Reason.SERVED, "client", status=status))

    assert [line["level"] for line in records.all] == [level]
    assert "detail" not in records.all[0]


def test_all_facts_of_a_relay(records):
    """Who, where to, why, how long, and the bytes each way."""
    one, context = account()
    context.relayed, context.bytes_to_backend, context.bytes_to_client = True, 10, 20
    context.engine = "native"
    one.log_closed(Termination(Reason.CLIENT_CLOSED, "client", close_code=4000))
    (line,) = records.all
    assert line.pop("duration_seconds") >= 0
    assert line == {
        "level": "info",
        "event": "connection.closed",
        "id": 7,
        "peer": "192.0.2.1:5000",
        "listener": "web",
        "reason": "client_closed",
        "initiator": "client",
        "route": "app",
        "backend": "tcp://127.0.0.1:9",
        "path": "/x?token=***",
        "backend_address": "127.0.0.1:9",
        "subprotocol": "binary",
        "close_code": 4000,
        "bytes_to_backend": 10,
        "bytes_to_client": 20,
        "engine": "native",
    }


def test_a_refusal_tells_its_status(records):
    """The status that was answered, or the close code where the 101 had been sent."""
    account()[0].log_closed(Termination(Reason.BAD_REQUEST, "client", "no key", status=405))
    account()[0].log_closed(Termination(Reason.BACKEND_REFUSED, "backend", "down", close_code=1014))
    account()[0].log_closed(Termination(Reason.CLIENT_LOST, "client", "gone"))
    first, second, third = records.all
    assert (first["status"], "close_code" in first) == (405, False)
    assert (second["close_code"], "status" in second) == (1014, False)
    assert "status" not in third


def test_a_silent_client_is_logged_at_debug_alone(records):
    """Health checks and browsers that open connections to spare make no noise."""
    one = AccessLog(ConnectionContext(1, "web"))
    one.log_closed(Termination(Reason.CLIENT_LOST, "client", EMPTY_CONNECTION))
    assert [(line["event"], line["level"]) for line in records.all] == [("connection.empty", "debug")]


async def test_after_a_response_the_next_request_is_unknown(tmp_path):
    """A later request on the same connection is not logged with the facts of the request before it."""
    (tmp_path / "a.txt").write_text("one")
    routes = {"page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}}
    async with serving(written(routes=routes)) as served_by:
        with await served_by.connect() as client:
            await client.send(b"GET /a.txt HTTP/1.1\r\nHost: localhost\r\n\r\n?\r\n\r\n")
            served = await served_by.records.wait("http.request")
            refused = await served_by.records.wait("connection.rejected")
    assert (served["path"], served["route"], served["status"]) == ("/a.txt", "page", 200)
    assert refused["reason"] == "bad_request"
    assert "path" not in refused
    assert "route" not in refused


def test_a_peer_that_was_never_known(records):
    """A connection that was gone before its peer could be asked for has a line all the same."""
    one = AccessLog(ConnectionContext(1, "web"))
    one.log_closed(Termination(Reason.CLIENT_LOST, "client", "before the first byte"))
    assert records.all[0]["event"] == "connection.rejected"


def test_the_way_of_a_client_is_reported(records):
    """Every line of a client behind proxies names them."""
    one, context = account()
    context.peer = Peer("203.0.113.7", 5, 2, via=("10.0.0.2", "10.0.0.1"))
    one.log_request(Termination(Reason.SERVED, "client", status=404))
    one.log_closed(Termination(Reason.CLIENT_LOST, "client", EMPTY_CONNECTION))
    one.log_closed(Termination(Reason.NO_ROUTE, "client"))

    assert [line["event"] for line in records.all] == ["http.request", "connection.empty", "connection.rejected"]
    assert all(line["peer"] == "203.0.113.7:5" and line["via"] == ["10.0.0.2", "10.0.0.1"] for line in records.all)


class AuditLines:
    """Keeps audit records in place of the audit file."""

    def __init__(self):
        self.lines = []

    def emit(self, event, fields):
        """Keep the keys that the table has for the event."""
        self.lines.append({"event": event, **{key: fields[key] for key in AUDITED[event].keys if key in fields}})


def test_the_audit_has_who_and_how_proven(records):
    """What was admitted, and its end, have the same id; and neither has a key that the table does not know."""
    one, context = account(AuditLines())
    context.peer = Peer("192.0.2.1", 5000, 2, via=("10.0.0.1",))
    context.identity = Identity("alice", "basic+network", {"secret": "geheim"})
    one.log_established()
    context.relayed, context.bytes_to_backend, context.bytes_to_client = True, 10, 20
    one.log_closed(Termination(Reason.CLIENT_CLOSED, "client", close_code=4000))
    admitted, ended = one._audit_log.lines
    assert admitted == {
        "event": "access.granted",
        "id": 7,
        "peer": "192.0.2.1:5000",
        "via": ["10.0.0.1"],
        "listener": "web",
        "route": "app",
        "identity": "alice",
        "auth_method": "basic+network",
        "path": "/x?token=abc",
        "subprotocol": "binary",
        "backend": "tcp://127.0.0.1:9",
        "backend_address": "127.0.0.1:9",
    }
    assert ended.pop("duration_seconds") >= 0
    assert ended == {
        **{
            key: admitted[key]
            for key in ("id", "peer", "via", "listener", "route", "identity", "auth_method", "backend_address")
        },
        "event": "access.ended",
        "reason": "client_closed",
        "initiator": "client",
        "close_code": 4000,
        "bytes_to_backend": 10,
        "bytes_to_client": 20,
    }


def test_the_audit_has_refusals_and_what_is_known(records):
    """A refusal has its reason, its status and the page that asked; a client that said nothing has none."""
    one, context = account(AuditLines())
    context.request.headers.add(b"Origin", b"https://evil.example")
    context.backend_address = None
    one.log_closed(Termination(Reason.ORIGIN_NOT_ALLOWED, "client", "not that one"))
    silent = AccessLog(ConnectionContext(8, "web"), audit_log=one._audit_log)
    silent.log_closed(Termination(Reason.CLIENT_LOST, "client", EMPTY_CONNECTION))
    (line,) = one._audit_log.lines
    assert (line["event"], line["reason"], line["status"], line["detail"]) == (
        "access.denied",
        "origin_not_allowed",
        403,
        "not that one",
    )
    assert line["origin"] == b"https://evil.example"
    assert "auth_method" not in line


def test_the_audit_has_answers_of_routes_that_ask(records):
    """What a route answers by itself is audited only if it asks who the client is."""
    for auth in (False, True):
        one, context = account(AuditLines())
        context.backend = ""
        context.identity = Identity("alice", "basic")
        context.auth_required = auth
        one.log_request(Termination(Reason.SERVED, "client", status=200))
        assert [(line["event"], line["status"], line["auth_method"]) for line in one._audit_log.lines] == (
            [("access.served", 200, "basic")] if auth else []
        )


async def test_lines_of_connections_say_by_what_client():
    """Host, user agent, version of TLS, and how long the backend took; `connection.open` has what is known by then."""
    listeners = {"web": {"bind": "127.0.0.1:0", "tls": listener_tls()}}
    async with backend() as back, serving(written(listeners=listeners, route={"backend": back.url})) as served:
        client = await served.upgraded("/x", "User-Agent: Agent/1.0", "Origin: https://localhost", tls=True)
        opened = await served.records.wait("connection.open")
        await client.close()
        line = await served.records.wait("connection.closed")
    assert opened == {
        "level": "debug",
        "event": "connection.open",
        **{key: line[key] for key in ("id", "peer", "listener", "route", "backend", "backend_address")},
        "connect_seconds": line["connect_seconds"],
    }
    assert (line["host"], line["user_agent"], line["tls"]) == ("localhost", "Agent/1.0", "TLSv1.3")
    assert 0 <= line["connect_seconds"] <= line["duration_seconds"]


async def test_opened_connections_at_info():
    """Where the server is asked to, they are logged at info."""
    async with backend() as back, serving(written(route={"backend": back.url}), open_level="info") as served:
        client = await served.upgraded()
        assert (await served.records.wait("connection.open"))["level"] == "info"
        await client.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request("/", "Origin: https://evil.example"), 403),
        (request("/", "Sec-WebSocket-Protocol: mqtt"), 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 426),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        (request("/").replace(b"Host: localhost", b"Host: evil.example"), 403),
    ],
)
async def test_a_rejected_request_names_its_route(head, status):
    """Whatever is wrong with it: Origin, subprotocol, method, or Host."""
    route = {"backend": "tcp://127.0.0.1:9", "match": "any", "subprotocols": ["binary"]}
    async with serving(written(route=route)) as served:
        with await served.connect() as client:
            await client.send(head)
            await client.everything()
        line = await served.records.wait("connection.rejected")
    assert (line["route"], line["status"]) == ("app", status)
    assert "connect_seconds" not in line
