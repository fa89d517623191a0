"""Headers, Origin, path and query of a WebSocket client's request that a WebSocket backend gets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import request
from tests.config.loading import LISTENERS, read, summaries, wrong
from tests.serving import Served, accept_upgrade, backend, read_head, serving, written
from wsbridge.auth.passwords import hash_password
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS
from wsbridge.backends.passed_request import PassedRequest, literal_prefix
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

KEY = "0123456789abcdef0123456789abcdef"


@contextlib.asynccontextmanager
async def bridge(
    folder: Path,
    path: str = "/base",
    match: object = "any",
    auth: object = "none",
    allowed_origins: str = "any",
    **keys: Any,
) -> AsyncIterator[tuple[Served, list[str]]]:
    """Serve a route to a WebSocket server; give it with the heads that the server gets."""
    heads: list[str] = []

    async def accept(stream: trio.SocketStream) -> None:
        heads.append(await accept_upgrade(stream))
        while await stream.receive_some():
            pass

    async with backend(accept) as server:
        section = {"url": f"ws://127.0.0.1:{server.port}{path}", **keys}
        text = written(route={"match": match, "auth": auth, "allowed_origins": allowed_origins, "backend": section})
        async with serving(text, folder=folder) as served:
            yield served, heads


def fresh_ticket(target: str | None = None) -> str:
    """Issue a ticket as another program does whose clock is ahead: a server accepts it as soon as it has started."""
    issued = int(time.time() * 1000) + MAX_CLOCK_SKEW_MS
    ticket = Ticket(new_ticket_id(), "app", issued, issued + 30_000, "alice", target=target)
    return encode_ticket(ticket, KEY.encode())


async def passed(folder: Path, target: str, *lines: str, **keys: Any) -> tuple[str, dict[str, list[str]]]:
    """Upgrade one client; give what the server is asked for, and the values of its header lines."""
    async with bridge(folder, **keys) as (served, heads):
        with await served.upgraded(target, *lines):
            pass
        await served.records.ended()
    first, *rest = heads[0].removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in rest:
        name, _, value = line.partition(": ")
        headers.setdefault(name, []).append(value)
    return first.removeprefix("GET ").removesuffix(" HTTP/1.1"), headers


async def test_nothing_is_passed_by_default(tmp_path: Path) -> None:
    """Neither headers nor Origin, path or query."""
    target, headers = await passed(tmp_path, "/a?b=c", "Cookie: sid=1", "Origin: http://localhost", "X-Team: blue")
    assert target == "/base"
    assert not {"Cookie", "Origin", "X-Team"} & set(headers)


async def test_chosen_headers(tmp_path: Path) -> None:
    """Those that are listed, in the client's order of one name; several Cookie lines become one; others are dropped."""
    lines = ("x-team: blue", "COOKIE: a=1", "X-Team: red", "Cookie: b=2", "X-Other: 1", "X_Team: evil")
    _, headers = await passed(tmp_path, "/", *lines, pass_headers=["Cookie", "X-Team"])
    assert headers["X-Team"] == ["blue", "red"]
    assert headers["Cookie"] == ["a=1; b=2"]
    assert not {"X-Other", "X_Team"} & set(headers)


@pytest.mark.parametrize("sent", [["Origin: http://a.example"], []])
async def test_origin(tmp_path: Path, sent: list[str]) -> None:
    """The client's own, if it sends one."""
    _, headers = await passed(tmp_path, "/", *sent, pass_origin=True)
    assert headers.get("Origin") == (["http://a.example"] if sent else None)


@pytest.mark.parametrize(
    ("match", "url", "sent", "expected"),
    [
        ("any", "/base", "/a/b", "/base/a/b"),
        ("any", "/base", "/", "/base"),
        ("any", "/", "/a", "/a"),
        ({"path": "/app/*"}, "/base/", "/app/x/", "/base/x/"),
        ({"path": "/app/*"}, "/base", "/app/", "/base"),
        ({"path": "/app/{room}/live"}, "/r", "/app/7/live", "/r/7/live"),
        ("any", "/base", "//a///b", "/base/a/b"),
        ("any", "/base", "/%61%2562%0d%0aX:%201", "/base/a%2562%0D%0AX:%201"),
        ("any", "/base?own=1", "/a", "/base/a?own=1"),
    ],
)
async def test_path(tmp_path: Path, match: object, url: str, sent: str, expected: str) -> None:
    """What follows the route's prefix, in normal form, with escapes as they are: nothing is decoded twice."""
    target, _ = await passed(tmp_path, sent, path=url, match=match, pass_path=True)
    assert target == expected


@pytest.mark.parametrize("sent", ["/../x", "/a/%2e%2e/x", "/a/..", "/a%2f..%2fx", "/a\\..\\x", "/.%2e/"])
async def test_no_path_leaves_the_url(tmp_path: Path, sent: str) -> None:
    """Dot segments and escaped separators are rejected before the backend is dialed."""
    async with bridge(tmp_path, pass_path=True) as (served, heads):
        with await served.connect() as client:
            await client.send(request(sent))
            assert (await client.head()).startswith("HTTP/1.1 400")
    assert heads == []


@pytest.mark.parametrize(
    ("url", "sent", "expected"),
    [
        ("/", "?a=1&b=%20&a=2", "/?a=1&b=%20&a=2"),
        ("/", "", "/"),
        ("/", "?", "/"),
        ("/?own=1", "?a=1", "/?own=1&a=1"),
        ("/?own=1", "?own=2&%6fwn=3&OWN=4&own[]=5&a;own=6&o+wn=7", "/?own=1&o+wn=7"),
        ("/?", "?a=1", "/?a=1"),
    ],
)
async def test_query(tmp_path: Path, url: str, sent: str, expected: str) -> None:
    """As sent, without what the URL has itself, however that is written."""
    target, _ = await passed(tmp_path, f"/{sent}", path=url, pass_query=True)
    assert target == expected


async def test_query_that_cannot_be_passed(tmp_path: Path) -> None:
    """Bytes that a request target must not have are rejected, not sent."""
    async with bridge(tmp_path, pass_query=True) as (served, heads):
        with await served.connect() as client:
            await client.send(request("/?a=\xe9"))
            assert (await client.head()).startswith("HTTP/1.1 400")
    assert heads == []


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: X-Team", "X-Team: blue"],
        ["Authorization: a", "Authorization: b"],
        ["X-Team: blue\r\n X-Admin: 1"],
        ["X-Team : blue"],
        ["X-Team: a\x00b"],
        ["X-Team: a\rX-Admin: 1"],
    ],
)
async def test_header_smuggling(tmp_path: Path, lines: list[str]) -> None:
    """What a backend could read in another way is rejected before it is dialed."""
    async with bridge(tmp_path, pass_headers=["X-Team", "Authorization"]) as (served, heads):
        with await served.connect() as client:
            await client.send(request("/", *lines))
            assert (await client.head()).startswith("HTTP/1.1 400")
    assert heads == []


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_ticket_stays_here(tmp_path: Path, allowed: bool) -> None:
    """The parameter that authenticates the client is not passed on unless pass_credentials says so."""
    (tmp_path / "key").write_text(KEY)
    keys = {"pass_credentials": True} if allowed else {}
    auth = {"kind": "ticket", "key": {"file": "key"}}
    async with bridge(tmp_path, auth=auth, pass_query=True, **keys) as (served, heads):
        ticket = fresh_ticket()
        with await served.upgraded(f"/?a=1&ticket={ticket}&b"):
            pass
        await served.records.ended()
    expected = f"/base?a=1&ticket={ticket}&b" if allowed else "/base?a=1&b"
    assert heads[0].startswith(f"GET {expected} HTTP/1.1")


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_cookie_of_a_token_stays_here(tmp_path: Path, allowed: bool) -> None:
    """Other cookies are passed on."""
    line = "alice sha256:" + sha256(b"t0ken").hexdigest()
    (tmp_path / "tokens").write_text(line + "\n")
    auth = {"kind": "bearer", "tokens": "tokens", "sources": ["cookie:sid"]}
    keys = {"pass_credentials": True} if allowed else {}
    lines = ("Origin: http://localhost", "Cookie: a=1; sid=t0ken; b=2")
    async with bridge(tmp_path, auth=auth, allowed_origins="same", pass_headers=["Cookie"], **keys) as (served, heads):
        with await served.upgraded("/", *lines):
            pass
        await served.records.ended()
    cookies = "a=1; sid=t0ken; b=2" if allowed else "a=1; b=2"
    assert f"\r\nCookie: {cookies}\r\n" in heads[0]


async def test_basic_credentials_that_may_be_passed(tmp_path: Path) -> None:
    """With pass_credentials, the backend gets the header that authenticated the client."""
    (tmp_path / "users").write_text(f"alice:{hash_password(b'pw', ln=12).text}\n")
    auth = {"kind": "basic", "users": "users"}
    line = "Authorization: Basic YWxpY2U6cHc="
    keys = {"pass_headers": ["Authorization"], "pass_credentials": True}
    _, headers = await passed(tmp_path, "/", line, auth=auth, **keys)
    assert headers["Authorization"] == ["Basic YWxpY2U6cHc="]


async def test_an_identity_for_one_target_reaches_no_other_path(tmp_path: Path) -> None:
    """A ticket for the URL of the backend is not one for what a client appends to it."""
    (tmp_path / "key").write_text(KEY)
    auth = {"kind": "ticket", "key": {"file": "key"}}
    async with bridge(tmp_path, auth=auth, pass_path=True, pass_query=True) as (served, heads):
        url = next(iter(served.server.generation.config.routes.values())).backend.url.text
        for target, status in (("/admin", 403), ("/?admin=1&x", 403), ("/", 101)):
            ticket = fresh_ticket(url)
            mark = "&" if "?" in target else "?"
            with await served.connect() as client:
                await client.send(request(f"{target}{mark}ticket={ticket}"))
                assert (await client.head()).startswith(f"HTTP/1.1 {status}")
    assert len(heads) == 1


async def test_what_is_passed_is_not_logged(tmp_path: Path) -> None:
    """A server that repeats the request in its refusal gets none of the credentials into the log."""

    async def refuse(stream: trio.SocketStream) -> None:
        head = (await read_head(stream)).partition("Cookie: ")[2].partition("\r\n\r\n")[0]
        await stream.send_all(f"HTTP/1.1 403 {head}\r\nLocation: /{head}\r\n\r\nno {head}".encode())

    async with backend(refuse) as server:
        section = {"url": f"ws://127.0.0.1:{server.port}/", "pass_headers": ["Cookie", "X-Api"], "pass_query": True}
        async with serving(written(route={"backend": section})) as served:
            with await served.connect() as client:
                lines = ("Cookie: lang=en; s1d=canary1canary1", "X-Api: canary2canary2")
                await client.send(request("/?token=canary3canary3", *lines))
                line = await served.records.ended()
            shown = str(served.records.all)
    assert "403" in line["detail"]
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("keys", "auth", "problem"),
    [
        ("pass_headers: [Host]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [Sec-WebSocket-Key]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [Connection]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [Origin]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [X-Forwarded-For]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [Via]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [X-Real-IP]", "none", "E012 backend.pass_headers[0]"),
        ("pass_headers: [Cookie, cookie]", "none", "E012 backend.pass_headers"),
        ("headers: {X-A: b}, pass_headers: [B, x_a]", "none", "E013 backend.pass_headers[1]"),
        ("client_headers: {X-User: '{identity}'}, pass_headers: [X-User]", "none", "E013 backend.pass_headers[0]"),
        ("origin: 'http://a', pass_origin: true", "none", "E013 backend.pass_origin"),
        ("pass_credentials: true", "none", "E013 backend.pass_credentials"),
        ("pass_headers: [Authorization]", "{kind: basic, users: u}", "E013 backend.pass_headers[0]"),
        ("pass_headers: [Authorization]", "{any_of: [{kind: bearer, tokens: t}]}", "E013 backend.pass_headers[0]"),
        (
            "pass_headers: [Cookie]",
            "{kind: forward, url: 'http://127.0.0.1/', headers: [cookie]}",
            "E013 backend.pass_headers[0]",
        ),
    ],
)
def test_mistakes(keys: str, auth: str, problem: str) -> None:
    """Headers that wsbridge writes itself, or uses as credentials."""
    backend_section = f"{{url: 'ws://127.0.0.1:1/', {keys}}}"
    text = f"{LISTENERS}routes: {{r: {{match: any, auth: {auth}, backend: {backend_section}}}}}\n"
    assert summaries(wrong(text)) == [problem.replace(" ", " routes.r.")]


def test_a_path_that_is_always_the_same() -> None:
    """pass_path has no effect on a route for one path, and none with a URL that has fields."""
    route = "routes: {{r: {{match: {{path: {}}}, auth: none, backend: {{url: '{}', pass_path: true}}{}}}}}\n"
    text = LISTENERS + route.format("/app", "ws://127.0.0.1:1/", "")
    assert summaries(wrong(text)) == ["E013 routes.r.backend.pass_path"]
    allowed = ", allowed_targets: {networks: [127.0.0.0/8], ports: [1]}"
    text = LISTENERS + route.format("'/app/{x}'", "ws://127.0.0.1:1/{x}", allowed)
    assert summaries(wrong(text)) == ["E013 routes.r.backend.pass_path"]


def test_a_route_for_plain_tcp_clients() -> None:
    """They send no request that could be passed on."""
    text = "listeners: {old: {bind: '127.0.0.1:1', protocol: tcp, route: r}}\n"
    text += "routes: {r: {auth: none, backend: {url: 'ws://127.0.0.1:2/', pass_query: true}}}\n"
    assert summaries(wrong(text)) == ["E013 routes.r.backend"]


def test_credentials_without_tls_are_warned_of() -> None:
    """Cookies that go to another host in the clear."""
    section = "{url: 'ws://10.0.0.5/', pass_headers: [Accept-Language, Cookie]}"
    warnings = read(f"{LISTENERS}routes: {{r: {{match: any, auth: none, backend: {section}}}}}\n").warnings
    assert "W004 routes.r.backend.pass_headers[1]" in summaries(list(warnings))


@pytest.mark.parametrize(
    ("pattern", "prefix"), [("/*", "/"), ("/a/*", "/a/"), ("/a/{b}/c", "/a/"), ("/a/{b}/*", "/a/"), ("/a/b", "/a/")]
)
def test_the_prefix_of_a_pattern(pattern: str, prefix: str) -> None:
    """What all its paths begin with."""
    assert literal_prefix(pattern) == prefix


def test_repr_has_no_secrets() -> None:
    """It may appear in a traceback."""
    assert "canary" not in repr(PassedRequest((("Cookie", "canary"),), query="canary"))
