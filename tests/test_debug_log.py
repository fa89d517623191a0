"""What level debug says of the way to a relay: accepted, TLS, route, Origin, credentials, dial."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.authority import listener_tls
from tests.client import request
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.backends.base import DialServices
from wsbridge.debug_log import MAX_EXAMINED_ROUTES, MAX_NAMED_ROUTES, describe_mismatches
from wsbridge.generation import Listener, build_generation
from wsbridge.log.logger import log
from wsbridge.net.resolver import Resolver
from wsbridge.services import RouteStats

BACK: dict[str, Any] = {"backend": "tcp://127.0.0.1:9", "auth": "none"}


def listener_of(routes: dict[str, Any]) -> Listener:
    """Build the one listener of a configuration."""
    generation = build_generation(config_of(written(routes=routes)), DialServices(Resolver()), lambda _: RouteStats())
    return generation.listeners["web"]


def steps_of(served: Served) -> list[str]:
    """Give the events of the connection with the number 1, in their order."""
    return [line["event"] for line in served.records.all if line.get("id") == 1]


async def test_every_step_is_there() -> None:
    """From accept to relay: who, TLS, the route and those passed over, what allowed the Origin, the user, the dial."""
    routes = {
        "office": {"match": {"host": "office.example.org"}, **BACK},
        "page": {"match": {"path": "/vnc"}, "respond": "204", "auth": "none"},
    }
    async with backend() as back:
        routes["vnc"] = {
            "match": {"path": "/vnc"},
            "backend": back.url,
            "auth": {"kind": "network", "allow": ["127.0.0.1"]},
        }
        listeners = {"web": {"bind": "127.0.0.1:0", "tls": listener_tls()}}
        async with serving(written(listeners=listeners, routes=routes)) as served:
            client = await served.upgraded("/vnc?token=hunter2", "Origin: https://localhost", tls=True)
            await client.close()
            await served.records.wait("connection.closed")
    events = ["connection.accepted", "connection.tls", "request.routed", "request.admitted", "request.authenticated"]
    assert steps_of(served)[: len(events)] == events
    assert steps_of(served)[-2:] == ["connection.open", "connection.closed"]
    lines = {line["event"]: line for line in served.records.all if line.get("id") == 1}
    assert lines["connection.accepted"]["listener"] == "web"
    assert lines["connection.tls"]["tls"] == "TLSv1.3"
    assert lines["connection.tls"]["cipher"].startswith("TLS_")
    assert lines["connection.tls"]["server_name"] == "localhost"
    assert lines["request.routed"]["route"] == "vnc"
    assert lines["request.routed"]["path"] == "/vnc?token=***"
    assert lines["request.routed"]["skipped"] == ["page: no WebSocket", "office: host office.example.org"]
    assert lines["request.admitted"]["detail"] == "Origin is the same as Host"
    assert lines["request.authenticated"]["auth_method"] == "network"
    assert lines["connection.open"]["backend_address"] == f"127.0.0.1:{back.port}"


async def test_no_route() -> None:
    """Without a route, all of them are passed over; the nearest ones are named."""
    routes = {
        "other": {"match": {"host": "a.example.org", "path": "/x"}, **BACK},
        "near": {"match": {"path": "/vnc"}, **BACK},
    }
    async with serving(written(routes=routes)) as served:
        with await served.connect() as client:
            await client.send(request("/vnc/"))
            await client.everything()
        line = await served.records.wait("request.routed")
    assert "route" not in line
    assert line["skipped"] == ["near: path /vnc", "other: host a.example.org, path /x"]


@pytest.mark.parametrize(
    ("allowed", "origin", "detail"),
    [
        ("same", None, "no Origin: no page sent this"),
        ("any", "https://a.example", "allowed_origins: any"),
        (["https://a.example"], "https://a.example", "Origin is in allowed_origins"),
    ],
)
async def test_what_allowed_the_origin(allowed: Any, origin: str | None, detail: str) -> None:
    """The rule is named."""
    async with backend() as back, serving(written(route={"backend": back.url, "allowed_origins": allowed})) as served:
        client = await served.upgraded("/", *([f"Origin: {origin}"] if origin else []))
        await client.close()
        line = await served.records.wait("request.admitted")
    assert (line.get("origin"), line["detail"]) == (origin, detail)


def test_many_routes_are_bounded() -> None:
    """Eight routes are named, however many there are, the others counted; it takes milliseconds."""
    routes = {f"r{at}": {"match": {"path": f"/r{at}"}, **BACK} for at in range(2 * MAX_EXAMINED_ROUTES)}
    routes |= {f"h{at}": {"match": {"host": f"h{at}.example.org"}, **BACK} for at in range(3)}
    listener = listener_of(dict(sorted(routes.items())))  # the h come first

    began = time.perf_counter()
    texts = describe_mismatches(listener, None, "localhost", "/none", websocket=True)
    assert time.perf_counter() - began < 0.1
    assert len(texts) == MAX_NAMED_ROUTES + 2
    assert texts[0].endswith("path /r0")
    assert texts[-2] == f"{MAX_EXAMINED_ROUTES - MAX_NAMED_ROUTES} more (3 by host, 989 by path)"
    assert texts[-1] == f"the {len(routes) - MAX_EXAMINED_ROUTES} routes after the first 1000 are not listed"
    assert describe_mismatches(listener, next(iter(listener.routes)), "h0.example.org", "/", websocket=True) == []


async def test_a_dial_to_a_unix_socket(tmp_path: Path) -> None:
    """It is a step as well, with the cause, and the path only once."""
    path = f"{tmp_path}/gone.sock"
    async with serving(written(route={"backend": f"unix:{path}"})) as served:
        with await served.connect() as client:
            await client.send(request())
            await client.everything()
        line = await served.records.wait("backend.dialed")
    (step,) = line["steps"]
    assert step.startswith(f"connecting to unix:{path}: No such file or directory")
    assert step.count(path) == 1


async def test_nothing_at_info() -> None:
    """At level info none of it is written."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        log.set_level("info")
        client = await served.upgraded()
        await client.close()
        await served.records.wait("connection.closed")
    assert json.dumps(served.records.all).count('"request.') == 0
    assert steps_of(served) == ["connection.closed"]
