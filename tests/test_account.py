"""The line of a connection in the log."""

from dataclasses import replace

import pytest

from tests.serving import config_of, recording, written
from wsbridge.account import UNKNOWN, Account
from wsbridge.audit.events import EVENTS as AUDITED
from wsbridge.auth.identity import Identity
from wsbridge.backends.backend import Services
from wsbridge.generation import build
from wsbridge.ledger import Ledger
from wsbridge.log.events import EVENTS
from wsbridge.net.address import Peer
from wsbridge.net.resolve import Resolver
from wsbridge.protocol.head import Headers, Request
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.speaks.websocket import SILENT


@pytest.fixture
def records():
    """What is logged."""
    with recording() as collected:
        yield collected


def account(trail=None):
    """Make an account with all facts."""
    text = written(route={"backend": "tcp://127.0.0.1:9"})
    made = Account(7, "web", trail=trail)
    made.peer = Peer("192.0.2.1", 5000, 2)
    made.request = Request("GET", "/x?token=abc", "1.1", Headers())
    made.route = build(config_of(text), Services(Resolver()), lambda _: Ledger()).routes["app"]
    made.address = "127.0.0.1:9"
    made.subprotocol = "binary"
    return made


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("relayed", [False, True])
def test_every_reason_has_its_line(records, reason, relayed):
    """One line, at the level of the table, with no key that the table of events does not know."""
    one = account()
    if relayed:
        one.carried(10, 20)
    one.close(End(reason, "bridge", "why", code=1000 if relayed else None))
    (line,) = records.all
    if reason is Reason.SERVED:
        assert line["event"] == "request.served"
    else:
        assert line["event"] == ("connection.end" if relayed else "connection.refused")
        assert line["level"] == ENDINGS[reason].level
        assert line["reason"] == reason.value
    assert set(line) - {"event", "level"} <= set(EVENTS[line["event"]].keys)


@pytest.mark.parametrize(("status", "level"), [(200, "debug"), (304, "debug"), (404, "info"), (500, "info")])
def test_answers_that_went_well_are_told_at_debug(records, status, level):
    """A page with all its files, and a balancer's health checks, leave the log to what matters."""
    account().served(End(Reason.SERVED, "front", status=status))

    assert [line["level"] for line in records.all] == [level]
    assert "detail" not in records.all[0]


def test_all_facts_of_a_relay(records):
    """Who, where to, why, how long, and the bytes each way."""
    one = account()
    one.carried(10, 20)
    one.close(End(Reason.CLIENT_CLOSED, "front", code=4000))
    (line,) = records.all
    assert line.pop("seconds") >= 0
    assert line == {
        "level": "info",
        "event": "connection.end",
        "id": 7,
        "peer": "192.0.2.1:5000",
        "listener": "web",
        "reason": "client_closed",
        "blame": "front",
        "route": "app",
        "backend": "tcp://127.0.0.1:9",
        "path": "/x?token=abc",
        "address": "127.0.0.1:9",
        "subprotocol": "binary",
        "code": 4000,
        "to_back": 10,
        "to_front": 20,
    }


def test_a_refusal_tells_its_status(records):
    """The status that was answered, or the close code where the 101 had been sent."""
    account().close(End(Reason.BAD_REQUEST, "front", "no key", status=405))
    account().close(End(Reason.BACKEND_REFUSED, "back", "down", code=1014))
    account().close(End(Reason.CLIENT_LOST, "front", "gone"))
    first, second, third = records.all
    assert (first["status"], "code" in first) == (405, False)
    assert (second["code"], "status" in second) == (1014, False)
    assert "status" not in third


def test_a_silent_client_is_told_to_the_debug_log_alone(records):
    """Health checks and browsers that open connections to spare make no noise."""
    one = Account(1, "web")
    one.close(End(Reason.CLIENT_LOST, "front", SILENT))
    assert [(line["event"], line["level"]) for line in records.all] == [("connection.silent", "debug")]


def test_after_an_answer_the_next_request_is_unknown(records):
    """What follows on the same connection is not told with the request before it."""
    one = account()
    one.served(End(Reason.SERVED, "front", status=200))
    one.close(End(Reason.HANDSHAKE_TIMEOUT, "front", "half a head"))
    served, refused = records.all
    assert (served["path"], served["route"], served["status"]) == ("/x?token=abc", "app", 200)
    assert "path" not in refused
    assert "route" not in refused


def test_a_peer_that_was_never_known(records):
    """A connection that was gone before its peer could be asked for has a line all the same."""
    one = Account(1, "web")
    assert one.peer is UNKNOWN
    one.close(End(Reason.CLIENT_LOST, "front", "before the first byte"))
    assert records.all[0]["event"] == "connection.refused"


def test_the_way_of_a_client_is_told(records):
    """Every line of a client behind proxies names them."""
    one = account()
    one.peer = Peer("203.0.113.7", 5, 2, via=("10.0.0.2", "10.0.0.1"))
    one.served(End(Reason.SERVED, "front", status=404))
    one.close(End(Reason.CLIENT_LOST, "front", SILENT))
    one.close(End(Reason.NO_ROUTE, "front"))

    assert [line["event"] for line in records.all] == ["request.served", "connection.silent", "connection.refused"]
    assert all(line["peer"] == "203.0.113.7:5" and line["via"] == ["10.0.0.2", "10.0.0.1"] for line in records.all)


class Told:
    """Stands where the audit's file does."""

    def __init__(self):
        self.lines = []

    def tell(self, event, facts):
        """Take what the table has for the event."""
        self.lines.append({"event": event, **{key: facts[key] for key in AUDITED[event].keys if key in facts}})


def test_the_audit_has_who_and_how_proven(records):
    """What was admitted, and its end, have the same id; and neither has a key that the table does not know."""
    one = account(Told())
    one.peer = Peer("192.0.2.1", 5000, 2, via=("10.0.0.1",))
    one.identity = Identity("alice", "basic+network", {"secret": "geheim"})
    one.admitted()
    one.carried(10, 20)
    one.close(End(Reason.CLIENT_CLOSED, "front", code=4000))
    admitted, ended = one._trail.lines
    assert admitted == {
        "event": "admitted",
        "id": 7,
        "peer": "192.0.2.1:5000",
        "via": ["10.0.0.1"],
        "listener": "web",
        "route": "app",
        "identity": "alice",
        "proof": "basic+network",
        "path": "/x?token=abc",
        "subprotocol": "binary",
        "backend": "tcp://127.0.0.1:9",
        "address": "127.0.0.1:9",
    }
    assert ended.pop("seconds") >= 0
    assert ended == {
        **{key: admitted[key] for key in ("id", "peer", "via", "listener", "route", "identity", "proof", "address")},
        "event": "ended",
        "reason": "client_closed",
        "blame": "front",
        "code": 4000,
        "to_back": 10,
        "to_front": 20,
    }


def test_the_audit_has_refusals_and_what_is_known(records):
    """A refusal has its reason, its status and the page that asked; a client that said nothing has none."""
    one = account(Told())
    one.request.headers.add(b"Origin", b"https://evil.example")
    one.address = None
    one.close(End(Reason.ORIGIN, "front", "not that one"))
    silent = Account(8, "web", trail=one._trail)
    silent.close(End(Reason.CLIENT_LOST, "front", SILENT))
    (line,) = one._trail.lines
    assert (line["event"], line["reason"], line["status"], line["detail"]) == ("refused", "origin", 403, "not that one")
    assert line["origin"] == b"https://evil.example"
    assert "proof" not in line


def test_the_audit_has_answers_of_routes_that_ask(records):
    """What a route answers by itself is audited only if it asks who the client is."""
    for auth in (None, object()):
        one = account(Told())
        one.route = replace(one.route, backend=None, auth=auth)
        one.identity = Identity("alice", "basic")
        one.served(End(Reason.SERVED, "front", status=200))
        assert [(line["event"], line["status"], line["proof"]) for line in one._trail.lines] == (
            [("served", 200, "basic")] if auth else []
        )
