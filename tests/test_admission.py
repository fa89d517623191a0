"""Admission: route matching, rejections, and the order of the checks."""

import pytest

from tests.rejections import outcome
from tests.serving import config_of, written
from wsbridge.admission import AdmittedRequest, admit, find_route
from wsbridge.backends.base import DialServices
from wsbridge.counters import RouteStats
from wsbridge.generation import build_generation
from wsbridge.net.resolver import Resolver
from wsbridge.protocol.http1 import Headers, Request, bad_request
from wsbridge.reasons import Reason, Rejected, Termination

BACK = {"backend": "tcp://127.0.0.1:9", "auth": "none"}
ASK = [
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
    ("Sec-WebSocket-Version", "13"),
]


def listener(routes, *, listeners=None, name="web"):
    """Build a listener that reaches these routes."""
    config = config_of(written(routes=routes, listeners=listeners))
    return build_generation(config, DialServices(Resolver()), lambda _: RouteStats()).listeners[name]


def request(target="/", *lines, upgrade=True, host="localhost", method="GET"):
    """Make a request as the parser gives it."""
    headers = [("Host", host), *(ASK if upgrade else []), *lines]
    return Request(method, target, "1.1", Headers((n.encode(), v.encode()) for n, v in headers))


def route_of(found):
    """Give the name of the route, or the reason why there is none."""
    return found.route.name if isinstance(found, AdmittedRequest) else found.reason.value


def judge(listener, request):
    """Return what admission says: the admitted request, or how the connection ends."""
    found = outcome(lambda: admit(listener, find_route(listener, request), request))
    return found.termination() if isinstance(found, Rejected) else found


def test_the_first_route_that_matches_takes_it():
    """Routes are asked in the order of the file, by path before the question mark and by host."""
    web = listener(
        {
            "exact": {"match": {"path": "/a"}, **BACK},
            "below": {"match": {"path": "/a/*"}, **BACK},
            "host": {"match": {"host": "x.localhost"}, **BACK},
            "rest": {"match": "any", **BACK},
        }
    )
    assert route_of(judge(web, request("/a"))) == "exact"
    assert route_of(judge(web, request("/a?b=/c"))) == "exact"
    assert route_of(judge(web, request("/a/"))) == "below"
    assert route_of(judge(web, request("/a/b/c"))) == "below"
    assert route_of(judge(web, request("/A"))) == "rest"
    assert route_of(judge(web, request("/z", host="X.localhost.:8080"))) == "host"
    assert route_of(judge(web, request("/z"))) == "rest"


def test_routes_of_another_listener_are_not_reached():
    """A route that names listeners is for those alone; one without a match is for nobody that speaks WebSocket."""
    listeners = {
        "web": {"bind": "127.0.0.1:0"},
        "other": {"bind": "127.0.0.1:1"},
        "old": {"bind": "127.0.0.1:2", "protocol": "tcp", "route": "raw"},
    }
    routes = {"there": {"match": {"listener": "other"}, **BACK}, "raw": BACK}
    assert route_of(judge(listener(routes, listeners=listeners), request())) == "no_route"
    assert route_of(judge(listener(routes, listeners=listeners, name="other"), request())) == "there"
    assert listener(routes, listeners=listeners, name="old").route.name == "raw"


def test_files_and_a_backend_share_a_path(tmp_path):
    """Requests with Upgrade go to the backend, those without to the files, whichever is first."""
    files = {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}
    for routes in ({"page": files, "app": {"match": "any", **BACK}}, {"app": {"match": "any", **BACK}, "page": files}):
        web = listener(routes)
        assert route_of(judge(web, request("/x"))) == "app"
        assert route_of(judge(web, request("/x", upgrade=False))) == "page"


def test_a_plain_request_where_only_websocket_fits_is_426():
    """The response says which protocol and which version the address accepts."""
    end = judge(listener({"app": {"match": {"path": "/ws"}, **BACK}}), request("/ws", upgrade=False))
    assert end.http_status == 426
    assert ("Sec-WebSocket-Version", "13") in end.headers
    assert dict(end.headers)["Upgrade"] == "websocket"


def test_other_methods_are_refused_before_anybody_is_asked(tmp_path):
    """Files accept GET and HEAD, a fixed response OPTIONS, too, a backend an upgrade by GET; else 405 with Allow."""
    routes = {
        "page": {"match": {"path": "/page/*"}, "files": str(tmp_path), "auth": "none"},
        "health": {"match": {"path": "/health"}, "respond": "204", "auth": "none"},
        "app": {"match": {"path": "/app"}, **BACK},
    }
    web = listener(routes)
    for path, upgrade, allowed in (
        ("/page/", False, "GET, HEAD"),
        ("/health", False, "GET, HEAD, OPTIONS"),
        ("/app", False, "GET"),
        ("/app", True, "GET"),
    ):
        end = judge(web, request(path, upgrade=upgrade, method="POST"))
        assert (end.http_status, end.headers) == (405, (("Allow", allowed),)), path
    assert isinstance(judge(web, request("/health", upgrade=False, method="HEAD")), AdmittedRequest)
    assert judge(web, request("/nowhere", upgrade=False, method="POST")).http_status == 404


def test_nothing_fits():
    """404 says where; a route that matches but accepts no WebSocket is named."""
    web = listener({"page": {"match": {"path": "/p"}, "respond": "200"}})
    end = judge(web, request("/q", host="LOCALHOST:1"))
    assert (end.reason, end.http_status) == (Reason.NO_ROUTE, 404)
    assert '"/q"' in end.detail
    assert '"localhost"' in end.detail
    end = judge(web, request("/p"))
    assert (end.reason, end.http_status) == (Reason.NO_ROUTE, 404)
    assert "route page matches, but accepts no WebSocket" in end.detail


def test_the_order_of_the_checks():
    """Host before handshake, handshake before Origin, Origin before subprotocol."""
    web = listener({"app": {"match": "any", **BACK}})
    wrong = [("Origin", "https://evil.example"), ("Sec-WebSocket-Protocol", "x")]
    bare = [("Upgrade", "websocket"), ("Host", "evil.example"), *wrong]
    everything = Request("GET", "/", "1.1", Headers((n.encode(), v.encode()) for n, v in bare))
    assert judge(web, everything).reason is Reason.HOST_NOT_ALLOWED
    bare[1] = ("Host", "localhost")
    everything = Request("GET", "/", "1.1", Headers((n.encode(), v.encode()) for n, v in bare))
    assert judge(web, everything).http_status == 400
    assert judge(web, request("/", *wrong)).reason is Reason.ORIGIN_NOT_ALLOWED
    assert judge(web, request("/", wrong[1])).reason is Reason.BAD_REQUEST


def test_the_host_of_a_loopback_listener():
    """A foreign name is refused there unless the route names it; a Unix socket has no such rule."""
    listeners = {"web": {"bind": "127.0.0.1:0"}, "local": {"bind": "unix:/run/x.sock"}}
    routes = {"app": {"match": "any", **BACK}}
    end = judge(listener(routes, listeners=listeners), request(host="gw.example"))
    assert (end.reason, end.http_status) == (Reason.HOST_NOT_ALLOWED, 403)
    assert "match.host" in end.detail
    assert isinstance(
        judge(listener(routes, listeners=listeners, name="local"), request(host="gw.example")), AdmittedRequest
    )
    named = {"app": {"match": {"host": "GW.example"}, **BACK}}
    assert isinstance(judge(listener(named), request(host="gw.example:9")), AdmittedRequest)


@pytest.mark.parametrize(
    ("configured", "offered", "chosen", "fitting"),
    [
        (["binary"], None, None, ()),
        (["binary"], "binary", "binary", ("binary",)),
        (["a", "b"], "b, a, c", "a", ("a", "b")),
        ([], None, None, ()),
    ],
)
def test_subprotocols(configured, offered, chosen, fitting):
    """The first of the route's list that is offered is selected; all that match are kept for the backend's choice."""
    web = listener({"app": {"match": "any", "subprotocols": configured, **BACK}})
    admitted = judge(web, request("/", *([("Sec-WebSocket-Protocol", offered)] if offered else [])))
    assert (admitted.subprotocol, admitted.subprotocols) == (chosen, fitting)


def test_no_subprotocol_fits():
    """The refusal names the route's list and never what was offered: secrets travel there."""
    web = listener({"app": {"match": "any", **BACK}})
    end = judge(web, request("/", ("Sec-WebSocket-Protocol", "token-abc123")))
    assert end.http_status == 400
    assert "binary" in end.detail
    assert "abc123" not in end.detail


def test_a_token_is_no_subprotocol():
    """What carries a token is never chosen nor passed on; alone it is refused with what to offer beside it."""
    web = listener({"app": {"match": "any", "subprotocols": ["binary", "mqtt"], **BACK}})
    admitted = judge(web, request("/", ("Sec-WebSocket-Protocol", "wsbridge.token.aHVudGVyMg, mqtt")))
    assert (admitted.subprotocol, admitted.subprotocols) == ("mqtt", ("mqtt",))
    end = judge(web, request("/", ("Sec-WebSocket-Protocol", "wsbridge.token.aHVudGVyMg")))
    assert end.http_status == 400
    assert "only a token was offered as a subprotocol: offer one of the route's (binary, mqtt) beside it" in end.detail
    assert "aHVudGVyMg" not in end.detail


def test_what_is_wrong_with_a_head_becomes_an_end():
    """The status and the headers are kept; the reason follows from the status."""
    assert bad_request("x", 403).reason is Reason.ORIGIN_NOT_ALLOWED
    assert bad_request("x", 431).reason is Reason.REQUEST_TOO_LARGE
    end = bad_request("x", 405, (("Allow", "GET"),)).termination()
    assert end == Termination(Reason.BAD_REQUEST, "client", "x", status=405, headers=(("Allow", "GET"),))
