"""What counts as a guess, for every credential and kind of route, and that a ban reaches what is in flight."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import request
from tests.http_service import answer, service
from tests.serving import Served, backend, serving, written
from wsbridge.auth.bearer import BearerToken, token_digest
from wsbridge.auth.passwords import ScryptHash, hash_password
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

KEY = "k" * 40
CROSS_SITE_IMAGE = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")


def limits(**keys: object) -> dict[str, Any]:
    """Limits that hold for clients on this host, too."""
    return {"per_address": {"exempt": [], "max_failures": "3", "ban_time": "1h", **keys}}


async def ask(served: Served, head: bytes) -> str:
    """Send a request and return the status; "reset" if the address is banned."""
    try:
        with await served.connect() as client:
            await client.send(head)
            return (await client.head()).split()[1]
    except (OSError, trio.BrokenResourceError, EOFError):
        return "reset"


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    """Write a request that is no upgrade."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode()


def basic(password: str) -> str:
    """Write the header of a login."""
    return f"Authorization: Basic {base64.b64encode(f'alice:{password}'.encode()).decode()}"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Write a page, a list of users, one of tokens, one of targets, and the key of tickets."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "x.js").write_text("1")
    (tmp_path / "users").write_text(f"alice:{hash_password(b'right', ln=12).text}\n")
    tokens = [BearerToken("old", token_digest("old"), time.time() - 9), BearerToken("new", token_digest("new"))]
    (tmp_path / "tokens").write_text("".join(f"{token.to_line()}\n" for token in tokens))
    (tmp_path / "key").write_text(KEY)
    return tmp_path


async def test_a_ban_reaches_logins_in_flight(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many logins at once exactly as many are verified as failures are allowed, by however many threads."""
    verified: list[bytes] = []
    verify = ScryptHash.verify

    def counting(stored: ScryptHash, password: bytes) -> bool:
        verified.append(password)
        return verify(stored, password)

    monkeypatch.setattr(ScryptHash, "verify", counting)
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "basic", "users": str(page / "users")}}
        rules = limits() | {"password_threads": "4", "password_queue_per_address": "100"}
        async with serving(written(route=route, limits=rules), folder=page) as served:
            outcomes: list[str] = []

            async def login(password: str) -> None:
                outcomes.append(await ask(served, request("/", basic(password))))

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(login, f"wrong{number}")
                await served.records.wait("connection.rejected")
                nursery.start_soon(login, "right")
            assert "101" not in outcomes
            assert outcomes.count("401") == 3
            assert len(served.records.of("address.banned")) == 1
        assert len(verified) == 3


async def test_passwords_that_wait_for_the_last_failure_are_bounded(page: Path) -> None:
    """With one failure left they are verified one after the other; few wait for that, more are 429, none is lost."""
    (page / "users").write_text(f"alice:{hash_password(b'right', ln=15).text}\n")
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "basic", "users": str(page / "users"), "cache": "0s"}}
        rules = limits(max_failures="2") | {"password_threads": "4", "password_queue_per_address": "2"}
        async with serving(written(route=route, limits=rules), folder=page) as served:
            assert await ask(served, request("/", basic("wrong"))) == "401"
            outcomes: list[str] = []

            async def login(password: str) -> None:
                outcomes.append(await ask(served, request("/", basic(password))))

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(login, "right" if number % 2 else f"wrong{number}")
            assert set(outcomes) <= {"101", "401", "429", "reset"}
            assert outcomes.count("401") <= 1
            details = [line["detail"] for line in served.records.endings if line["reason"] == "rate_limited"]
            assert any("limits.password_queue_per_address is 2" in detail for detail in details)


@pytest.mark.parametrize("kind", ["bearer", "target"])
async def test_tokens_sent_at_once_are_limited_like_others(page: Path, kind: str) -> None:
    """Of many wrong tokens at once as many are looked up as failures are allowed."""
    async with backend() as back:
        route: dict[str, Any] = {"backend": back.url, "auth": {"kind": "bearer", "tokens": str(page / "tokens")}}
        if kind == "target":
            (page / "targets").write_text(f"desk: 127.0.0.1:{back.port}\n")
            targets = {"networks": ["127.0.0.1"], "ports": [back.port]}
            route = {"backend": {"tokens": str(page / "targets")}, "auth": "none", "allowed_targets": targets}
        async with serving(written(route=route, limits=limits()), folder=page) as served:
            outcomes: list[str] = []

            async def login(token: str) -> None:
                lines = [f"Authorization: Bearer {token}"] if kind == "bearer" else []
                outcomes.append(await ask(served, request(f"/?token={token}", *lines)))

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(login, f"wrong{number}")
            assert outcomes.count("401" if kind == "bearer" else "403") == 3
            assert set(outcomes) - {"401", "403"} <= {"429", "reset"}
        assert back.dials == 0


async def test_a_ban_reaches_a_password_that_is_being_verified(page: Path) -> None:
    """The right password of an address that is banned in the meantime is rejected like a wrong one."""
    with (page / "users").open("a") as users:
        users.write(f"bob:{hash_password(b'right', ln=15, p=4).text}\n")
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "basic", "users": str(page / "users")}}
        rules = limits(max_failures="1") | {"password_threads": "2"}
        async with serving(written(route=route, limits=rules), folder=page) as served:
            with await served.connect() as bob:
                await bob.send(request("/", f"Authorization: Basic {base64.b64encode(b'bob:right').decode()}"))
                assert await ask(served, request("/", "Authorization: Basic malformed!")) == "401"
                await served.records.wait("address.banned")
                assert (await bob.head()).split()[1] == "429"
        assert back.dials == 0


async def test_an_address_cannot_fill_the_queue_of_passwords(page: Path) -> None:
    """It has a few places; what is more is 429, with the setting in the log."""
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "basic", "users": str(page / "users")}}
        rules = limits(max_failures="1000") | {"password_threads": "1", "password_queue_per_address": "2"}
        async with serving(written(route=route, limits=rules), folder=page) as served:
            outcomes: list[str] = []

            async def login(password: str) -> None:
                outcomes.append(await ask(served, request("/", basic(password))))

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(login, f"wrong{number}")
            assert set(outcomes) == {"401", "429"}
            details = [line["detail"] for line in served.records.endings if line["reason"] == "rate_limited"]
            assert "limits.password_queue_per_address is 2" in details[0]


@pytest.mark.parametrize("kind", ["files", "respond", "issue_tickets", "backend"])
async def test_every_kind_of_route_counts_failures_and_requests(page: Path, kind: str) -> None:
    """Wrong credentials ban, and requests that are authenticated count for the handshake rate."""
    async with backend() as back:
        responder: dict[str, Any] = {
            "files": {"files": str(page / "www")},
            "respond": {"respond": "204"},
            "issue_tickets": {"issue_tickets": {"route": "vnc", "key": {"file": str(page / "key")}}},
            "backend": {"backend": back.url},
        }[kind]
        auth = {"kind": "bearer", "tokens": str(page / "tokens")}
        vnc = {"match": {"path": "/vnc"}, "backend": back.url, "auth": {"kind": "ticket", "key": {"file": "key"}}}
        routes = {"vnc": vnc, "r": {"match": "any", "auth": auth, **responder}}

        def head(token: str) -> bytes:
            line = f"Authorization: Bearer {token}"
            if kind == "backend":
                return request("/x.js", line)
            return get("/x.js", line, method="POST" if kind == "issue_tickets" else "GET")

        async with serving(written(routes=routes, limits=limits()), folder=page) as served:
            outcomes = [await ask(served, head("guess")) for _ in range(4)]
            assert outcomes == ["401", "401", "401", "reset"]
        async with serving(
            written(routes=routes, limits=limits(handshake_rate="1", handshake_burst="2")), folder=page
        ) as served:
            outcomes = [await ask(served, head("new")) for _ in range(3)]
            assert outcomes[2] == "429"
            assert "429" not in outcomes[:2]


async def test_target_tokens_are_guesses(page: Path) -> None:
    """A token that is not in the list counts, and is the same 403 as a target that is not allowed."""
    (page / "targets").write_text("desk: 127.0.0.1:9\n")
    route = {
        "backend": {"tokens": "targets"},
        "auth": "none",
        "allowed_targets": {"networks": ["10.0.0.0/8"], "ports": ["9"]},
    }
    async with serving(written(route=route, limits=limits()), folder=page) as served:
        for _ in range(5):
            assert await ask(served, request("/?token=desk")) == "403"
        outcomes = [await ask(served, request("/?token=guess")) for _ in range(4)]
        assert outcomes == ["403", "403", "403", "reset"]


async def test_a_target_token_can_be_used_as_soon_as_it_was_written(page: Path) -> None:
    """Although the list was checked within the last second."""
    async with backend() as back:
        (page / "targets").write_text("")
        allowed = {"networks": ["127.0.0.1/32"], "ports": ["1-65535"]}
        route = {"backend": {"tokens": "targets"}, "auth": "none", "allowed_targets": allowed}
        async with serving(written(route=route), folder=page) as served:
            for number in range(5):
                assert await ask(served, request(f"/?token=desk{number}")) == "403"
                with (page / "targets").open("a") as file:
                    file.write(f"desk{number}: 127.0.0.1:{back.port}\n")
                assert await ask(served, request(f"/?token=desk{number}")) == "101"


async def test_a_user_and_a_token_can_be_used_as_soon_as_they_were_written(page: Path) -> None:
    """A new password as well: nobody has to wait for the next check."""
    async with backend() as back:
        ways = [
            {"kind": "basic", "users": str(page / "users")},
            {"kind": "bearer", "tokens": str(page / "tokens")},
        ]
        route = {"backend": back.url, "auth": {"any_of": ways}}
        async with serving(written(route=route), folder=page) as served:
            assert await ask(served, request("/", basic("right"))) == "101"
            (page / "users").write_text(f"alice:{hash_password(b'changed', ln=12).text}\n")
            assert await ask(served, request("/", basic("changed"))) == "101"
            assert await ask(served, request("/", basic("right"))) == "401"
            line = "Authorization: Bearer fresh"
            assert await ask(served, request("/", line)) == "401"
            with (page / "tokens").open("a") as file:
                file.write(BearerToken("fresh", token_digest("fresh")).to_line() + "\n")
            assert await ask(served, request("/", line)) == "101"


@pytest.mark.parametrize("alone", [True, False])
async def test_credentials_issued_here_are_no_guesses(page: Path, alone: bool) -> None:
    """An expired token does not ban, whatever the other methods of any_of say of it."""
    async with backend() as back:
        key = {"algorithm": "HS256", "secret": {"file": str(page / "key")}}
        jwt = {"kind": "jwt", "keys": [key], "issuer": "any", "audience": "x"}
        bearer = {"kind": "bearer", "tokens": str(page / "tokens")}
        auth = bearer if alone else {"any_of": [bearer, jwt]}
        async with serving(written(route={"backend": back.url, "auth": auth}, limits=limits()), folder=page) as served:
            for _ in range(6):
                assert await ask(served, request("/", "Authorization: Bearer old")) == "401"
            outcomes = [await ask(served, request("/", "Authorization: Bearer guess")) for _ in range(4)]
            assert outcomes == ["401", "401", "401", "reset"]


async def test_a_used_ticket_excuses_no_wrong_password(page: Path) -> None:
    """Only what was issued here is no guess, not what comes with it; a wrong password alone bans."""
    now = int(time.time() * 1000)
    ticket = encode_ticket(Ticket(id=new_ticket_id(), route="app", issued=now - 60_000, expires=now - 1), KEY.encode())
    async with backend() as back:
        methods = [
            {"kind": "ticket", "key": {"file": str(page / "key")}},
            {"kind": "basic", "users": str(page / "users")},
        ]
        route = {"backend": back.url, "auth": {"any_of": methods}}
        async with serving(written(route=route, limits=limits()), folder=page) as served:
            for _ in range(5):
                assert await ask(served, request(f"/?ticket={ticket}")) == "401"
            outcomes = [await ask(served, request(f"/?ticket={ticket}", basic(f"wrong{n}"))) for n in range(4)]
            assert outcomes == ["401", "401", "401", "reset"]


async def test_nobody_is_banned_while_a_method_is_unavailable(page: Path) -> None:
    """The credential may be right for the one that cannot be asked."""
    async with backend() as back, service(answer(500)) as broken:
        forward = {"kind": "forward", "url": f"http://127.0.0.1:{broken.port}/", "headers": ["Authorization"]}
        auth = {"any_of": [{"kind": "bearer", "tokens": str(page / "tokens")}, forward]}
        async with serving(written(route={"backend": back.url, "auth": auth}, limits=limits()), folder=page) as served:
            for _ in range(6):
                assert await ask(served, request("/", "Authorization: Bearer guess")) == "503"


async def test_credentials_in_the_query_of_forward_are_guesses(page: Path) -> None:
    """As those in headers are; a query without any is not."""
    async with backend() as back, service(answer(401)) as denying:
        auth = {"kind": "forward", "url": f"http://127.0.0.1:{denying.port}/"}
        async with serving(written(route={"backend": back.url, "auth": auth}, limits=limits()), folder=page) as served:
            for _ in range(5):
                assert await ask(served, request("/?page=1")) == "401"
            outcomes = [await ask(served, request("/?access_token=guess")) for _ in range(4)]
            assert outcomes == ["401", "401", "401", "reset"]


@pytest.mark.parametrize("kind", ["ticket", "cookie"])
async def test_no_page_can_have_its_visitors_banned(page: Path, kind: str) -> None:
    """What another site embeds is rejected before its credentials are checked; links and own pages are served."""
    auth: dict[str, Any] = {"kind": "ticket", "key": {"file": str(page / "key")}}
    if kind == "cookie":
        auth = {"kind": "bearer", "tokens": str(page / "tokens"), "sources": ["cookie:sid"]}
    path, cookie = "/x.js?ticket=guess", "Cookie: sid=guess"
    route = {"match": "any", "files": str(page / "www"), "auth": auth}
    async with serving(written(routes={"r": route}, limits=limits()), folder=page) as served:
        for _ in range(6):
            assert await ask(served, get(path, cookie, *CROSS_SITE_IMAGE)) == "403"
            assert await ask(served, get(path, cookie, "Origin: https://evil.example")) == "403"
        assert served.records.endings[0]["reason"] == "origin_not_allowed"
        link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
        for lines in (("Sec-Fetch-Site: same-origin",), link, ()):
            assert await ask(served, get(path, cookie, *lines)) == "401"
        assert await ask(served, get(path, cookie)) == "reset"


async def test_frames_of_listed_pages_alone_reach_the_authentication(page: Path) -> None:
    """The browser names the framing page in Referer, which no other page can forge."""
    portal = "https://portal.example.org"
    files = {"dir": str(page / "www"), "frame_ancestors": [portal]}
    auth = {"kind": "bearer", "tokens": str(page / "tokens"), "sources": ["cookie:sid"]}
    route = {"match": "any", "files": files, "auth": auth}
    frame = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")
    async with serving(written(routes={"r": route}, limits=limits()), folder=page) as served:
        for line in (f"Referer: {portal}/", f"Referer: {portal}/desk?a=/b", f"Referer: {portal}"):
            assert await ask(served, get("/x.js", "Cookie: sid=new", *frame, line)) == "200"
        others = (
            "https://evil.example/",
            f"{portal}.evil.example/",
            f"https://evil.example/{portal}/",
            "http://portal",
        )
        for other in others:
            assert await ask(served, get("/x.js", "Cookie: sid=guess", *frame, f"Referer: {other}")) == "403"
        twice = (f"Referer: {portal}/", "Referer: https://evil.example/")
        assert await ask(served, get("/x.js", "Cookie: sid=guess", *frame, *twice)) == "403"
        assert await ask(served, get("/x.js", "Cookie: sid=guess", *frame)) == "403"
        image = get("/x.js", "Cookie: sid=new", *CROSS_SITE_IMAGE, f"Referer: {portal}/")
        assert await ask(served, image) == "403"


async def test_cross_site_requests_without_such_credentials_pass(page: Path) -> None:
    """Public files may be embedded, and so may those behind a header that no other page can send."""
    files = {"files": str(page / "www")}
    routes = {
        "public": {"match": {"path": "/public/*"}, "auth": "none", **files},
        "users": {"match": {"path": "/users/*"}, "auth": {"kind": "basic", "users": str(page / "users")}, **files},
    }
    async with serving(written(routes=routes, limits=limits()), folder=page) as served:
        assert await ask(served, get("/public/x.js", *CROSS_SITE_IMAGE)) == "200"
        assert await ask(served, get("/users/x.js", basic("right"), *CROSS_SITE_IMAGE)) == "200"


async def test_a_ban_ends_a_connection_that_sends_another_request(page: Path) -> None:
    """A connection that is kept alive is no way around it."""
    route = {"match": "any", "files": str(page / "www"), "auth": "none"}
    secret = {"match": {"path": "/s"}, "respond": "204", "auth": {"kind": "bearer", "tokens": str(page / "tokens")}}
    async with serving(written(routes={"s": secret, "r": route}, limits=limits()), folder=page) as served:
        with await served.connect() as client:
            await client.send(b"GET /x.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.head()).split()[1] == "200"
            assert await client.take(1) == b"1"
            for _ in range(3):
                assert await ask(served, get("/s", "Authorization: Bearer guess")) == "401"
            await client.send(b"GET /x.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.head()).split()[1] == "429"


async def test_the_defaults_fit_plain_tcp() -> None:
    """One host may open 400 connections at once and keep them."""
    async with backend() as back:
        listeners = {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
        rules = {"connections": "1000", "per_address": {"exempt": []}}
        route = {"backend": back.url, "auth": "none"}
        async with serving(written(listeners=listeners, routes={"app": route}, limits=rules)) as served:
            clients = [await served.connect("raw") for _ in range(400)]
            for client in clients:
                await client.send(b"x")
                assert await client.take(1) == b"x"
            for client in clients:
                client.drop()
