"""Tickets end to end: asked for over HTTP, used by a WebSocket, once."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import Client, request
from tests.rejections import rejection_body, without_id
from tests.serving import Served, backend, serving, written
from wsbridge.auth import passwords
from wsbridge.auth.bearer import BearerToken, token_digest
from wsbridge.log.format import line_processors, render
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

KEY = "canary-" + "k" * 32
NETWORK = {"kind": "network", "allow": ["127.0.0.0/8"]}


def routes(folder: Path, back: str = "tcp://127.0.0.1:9", **gives: Any) -> dict[str, Any]:
    """Write routes that accept tickets and one that issues them, and put their key into a directory."""
    (folder / "key").write_text(KEY + "\n")
    key = {"file": "key"}
    takes = {"kind": "ticket", "key": key}
    return {
        "vnc": {"match": {"path": "/vnc"}, "backend": back, "auth": takes},
        "other": {"match": {"path": "/other"}, "backend": back, "auth": takes},
        "page": {"match": {"path": "/page"}, "respond": "204", "auth": {"any_of": [takes]}},
        "give": {"match": {"path": "/give"}, "auth": NETWORK, "issue_tickets": {"route": "vnc", "key": key, **gives}},
    }


async def post(served: Served, *lines: str, path: str = "/give", method: str = "POST") -> tuple[str, bytes]:
    """Ask for a ticket; give head and body of the answer."""
    with await served.connect() as client:
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""])
        await client.send(head.encode())
        answer = await client.everything()
    text, _, body = answer.partition(b"\r\n\r\n")
    return text.decode(), body


async def ticket(served: Served, *lines: str) -> str:
    """Ask for a ticket and get it."""
    head, body = await post(served, *lines)
    assert head.startswith("HTTP/1.1 200 "), head
    text = json.loads(body)["ticket"]
    assert isinstance(text, str)
    return text


async def status(client: Client, path: str, *lines: str) -> str:
    """Ask for an upgrade and give the status."""
    await client.send(request(path, *lines))
    return (await client.head()).split()[1]


async def refused(served: Served, path: str) -> str:
    """Be refused with 401 and not a word more than that; give what the log says."""
    count = len(served.records.endings)
    with await served.connect() as client:
        await client.send(request(path))
        answer = (await client.everything()).decode()
    assert answer.startswith("HTTP/1.1 401 ")
    assert without_id(answer).endswith("\r\n\r\n" + rejection_body("unauthenticated"))
    return str((await served.records.ended(count + 1))["detail"])


async def test_a_page_asks_and_connects(tmp_path: Path) -> None:
    """A POST returns a ticket, the WebSocket with it is accepted, and the log has the identity but not the ticket."""
    async with backend() as back, serving(written(routes=routes(tmp_path, back.url)), folder=tmp_path) as served:
        head, body = await post(served, "Content-Length: 0", "Origin: http://localhost")
        assert head.startswith("HTTP/1.1 200 ")
        assert "Cache-Control: no-store" in head
        assert "Content-Type: application/json" in head
        given = json.loads(body)
        assert given["expires_in"] == 30
        assert back.dials == 0
        with await served.upgraded(f"/vnc?ticket={given['ticket']}") as client:
            await client.echoed()
            await client.close()
        line = await served.records.wait("connection.closed")
        assert line["route"] == "vnc"
        (asked,) = served.records.of("http.request", route="give")
        assert (asked["method"], asked["status"], asked["detail"]) == ("POST", 200, "a ticket for the route vnc")
        said = await refused(served, f"/vnc?ticket={given['ticket']}")
        assert said == "the ticket was used before"
        logged = "".join(render(line_processors("json"), r["level"], dict(r)).decode() for r in served.records.all)
        assert logged.count("/vnc?ticket=***") == 4  # of each request: its route, and how it ended
        assert not [part for part in given["ticket"].split(".")[1:] if part in logged]
        assert "canary" not in logged


async def test_two_at_once(tmp_path: Path) -> None:
    """Of many connections with one ticket exactly one is accepted, and one dial is made."""
    async with backend() as back, serving(written(routes=routes(tmp_path, back.url)), folder=tmp_path) as served:
        text = await ticket(served)
        clients = [await served.connect() for _ in range(20)]
        found: list[str] = []

        async def one(client: Client) -> None:
            found.append(await status(client, f"/vnc?ticket={text}"))

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(one, client)
        assert sorted(found) == ["101", *["401"] * 19]
        await back.until(dials=1)
        for client in clients:
            client.drop()


def by_token(folder: Path, back: str, **token: Any) -> dict[str, Any]:
    """Write routes of which the one that gives tickets knows alice by a token."""
    (folder / "tokens").write_text(BearerToken("alice", token_digest("abc"), **token).to_line() + "\n")
    table = routes(folder, back)
    table["give"]["auth"] = {"kind": "bearer", "tokens": "tokens", "sources": ["authorization", "cookie:pass"]}
    return table


async def test_the_connection_is_of_who_asked_for_the_ticket(tmp_path: Path) -> None:
    """The name is in the log; when the token expires, the connection ends, however short the ticket's life was."""
    async with backend() as back:
        text = written(routes=by_token(tmp_path, back.url, expires=int(time.time()) + 3))
        async with serving(text, folder=tmp_path) as served:
            assert (await post(served))[0].startswith("HTTP/1.1 401 ")
            one = await ticket(served, "Authorization: Bearer abc")
            with await served.upgraded(f"/vnc?ticket={one}") as client:
                await client.echoed()
                assert await client.closing() == (1008, "auth_expired")
            line = await served.records.wait("connection.closed")
            assert (line["identity"], line["reason"]) == ("alice", "auth_expired")


async def test_a_password_gives_a_ticket(tmp_path: Path) -> None:
    """As where a browser knows the user's password for the page, and forgets it for the WebSocket."""
    (tmp_path / "users").write_text(f"alice:{passwords.hash_password(b'wonderland', ln=12).text}\n")
    async with backend() as back:
        table = routes(tmp_path, back.url)
        table["give"]["auth"] = {"kind": "basic", "users": "users"}
        async with serving(written(routes=table), folder=tmp_path) as served:
            head, _ = await post(served)
            assert head.startswith("HTTP/1.1 401 ")
            assert "WWW-Authenticate: Basic" in head
            password = base64.b64encode(b"alice:wonderland").decode()
            one = await ticket(served, f"Authorization: Basic {password}")
            with await served.upgraded(f"/vnc?ticket={one}") as client:
                await client.echoed()
                await client.close()
            assert (await served.records.wait("connection.closed"))["identity"] == "alice"


async def test_by_cookie_the_page_must_be_named(tmp_path: Path) -> None:
    """Browsers send an Origin with every POST; a cookie without one is refused."""
    async with serving(written(routes=by_token(tmp_path, "tcp://127.0.0.1:9")), folder=tmp_path) as served:
        cookie = "Cookie: pass=abc"
        assert (await post(served, cookie))[0].startswith("HTTP/1.1 403 ")
        assert (await post(served, cookie, "Origin: https://evil.example"))[0].startswith("HTTP/1.1 403 ")
        assert await ticket(served, cookie, "Origin: http://localhost")


async def test_what_is_wrong_looks_the_same(tmp_path: Path) -> None:
    """None, another route, forged, cut, of another key, another address, expired: 401, the log says which; no dial."""
    now = int(time.time() * 1000)

    def made(key: str = KEY, **values: Any) -> str:
        plain = {
            "id": served.server.services.used_tickets.new_id(),
            "route": "vnc",
            "issued": now,
            "expires": now + 30_000,
        }
        return encode_ticket(Ticket(**{**plain, **values}), key.encode())

    async with backend() as back, serving(written(routes=routes(tmp_path, back.url)), folder=tmp_path) as served:
        good = await ticket(served)
        wrong = {
            "/vnc": "no ticket",
            f"/other?ticket={good}": "the ticket is for the route vnc",
            f"/vnc?ticket={good[:-1]}": "the ticket is malformed",
            f"/vnc?ticket={good[:-1]}{'A' if good[-1] != 'A' else 'B'}": "not signed with the key",
            f"/vnc?ticket={made('x' * 32)}": "not signed with the key",
            f"/vnc?ticket={made(address='192.0.2.1')}": "for a client at 192.0.2.1",
            f"/vnc?ticket={made(issued=now - 60_000, expires=now - 30_000)}": "expired",
            f"/vnc?ticket={made(issued=now - 60_000, id=new_ticket_id())}": "before this process started",
            f"/vnc?ticket={good}&ticket={good}": "2 parameters",
        }
        for path, said in wrong.items():
            assert said in await refused(served, path)
        assert back.dials == 0
        assert (await refused(served, "/vnc?ticket=x")).startswith("the ticket")
        with await served.upgraded(f"/vnc?ticket={good}"):
            pass


async def test_a_ticket_bound_to_who_asked(tmp_path: Path) -> None:
    """From the address that asked it is good."""
    text = written(routes=routes(tmp_path, bind_client_address="true", ttl="5s"))
    async with serving(text, folder=tmp_path) as served:
        one = await ticket(served)
        with await served.connect() as client:
            assert await status(client, f"/vnc?ticket={one}") == "502"


async def test_other_pages_get_none(tmp_path: Path) -> None:
    """A POST with a foreign Origin is 403 whatever its credentials; one without Origin is accepted."""
    async with serving(written(routes=routes(tmp_path)), folder=tmp_path) as served:
        for lines in (["Origin: https://evil.example"], ["Origin: null"], ["Origin: http://localhost"] * 2):
            head, body = await post(served, *lines)
            assert head.startswith("HTTP/1.1 403 ")
            assert body.startswith(b"origin_not_allowed: ")
        assert (await post(served))[0].startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("method", "lines", "code", "allow"),
    [
        ("GET", [], 405, "POST"),
        ("HEAD", [], 405, "POST"),
        ("OPTIONS", [], 405, "POST"),
        ("POST", ["Content-Length: 2"], 400, None),
        ("POST", ["Transfer-Encoding: chunked"], 400, None),
        ("POST", ["Upgrade: websocket"], 404, None),
    ],
)
async def test_only_a_bare_post_gets_one(
    tmp_path: Path, method: str, lines: list[str], code: int, allow: str | None
) -> None:
    """Another method is 405 with Allow, a body is 400."""
    async with serving(written(routes=routes(tmp_path)), folder=tmp_path) as served:
        head, _ = await post(served, *lines, method=method)
        assert head.startswith(f"HTTP/1.1 {code} ")
        assert allow is None or f"\r\nAllow: {allow}\r\n" in head


async def test_who_is_not_known_gets_none(tmp_path: Path) -> None:
    """The route's own authentication comes first."""
    table = routes(tmp_path)
    table["give"]["auth"] = {"kind": "network", "allow": ["192.0.2.0/24"]}
    async with serving(written(routes=table), folder=tmp_path) as served:
        head, body = await post(served)
        assert head.startswith("HTTP/1.1 403 ")
        assert without_id(body.decode()) == rejection_body("forbidden")


async def test_a_page_behind_a_ticket(tmp_path: Path) -> None:
    """Routes without a backend accept tickets, too."""
    async with serving(written(routes=routes(tmp_path)), folder=tmp_path) as served:
        now = int(time.time() * 1000)
        text = encode_ticket(
            Ticket(served.server.services.used_tickets.new_id(), "page", now, now + 9000), KEY.encode()
        )
        for code in ("204", "401"):
            head, _ = await post(served, path=f"/page?ticket={text}", method="GET")
            assert head.split()[1] == code


@pytest.mark.parametrize(
    ("setting", "code", "reason"),
    [("used_tickets", "503", "auth_unavailable"), ("used_tickets_per_identity", "429", "rate_limited")],
)
async def test_the_table_is_as_large_as_the_file_says(tmp_path: Path, setting: str, code: str, reason: str) -> None:
    """Beyond it, or beyond the share of one identity, no ticket is accepted."""
    text = written(routes=routes(tmp_path), limits={setting: "1"})
    async with serving(text, folder=tmp_path) as served:
        for expected in ("502", code):
            with await served.connect() as client:
                assert await status(client, f"/vnc?ticket={await ticket(served)}") == expected
        assert (await served.records.ended(2))["reason"] == reason
