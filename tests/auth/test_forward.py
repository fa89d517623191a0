"""Authentication by an external service, and the cache of its answers."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.auth.methods import auth_services, caller
from tests.authority import folder
from tests.client import request
from tests.config.loading import LISTENERS, read, summaries, wrong
from tests.http_service import Service, Stream, answer, service
from tests.rejections import async_outcome, challenges
from tests.serving import backend, serving, written
from wsbridge.auth.forward import ForwardAuth, ForwardCache, ForwardConfig
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.reasons import Reason, Rejected

COOKIE = (b"cookie", b"sid=s3cret")
AUTHORIZATION = (b"authorization", b"Basic YWxpY2U6cw==")


def section(served: Service | str, **more: object) -> dict[str, Any]:
    """Give the section as written."""
    url = served if isinstance(served, str) else f"http://127.0.0.1:{served.port}/allow?x=y"
    return {"kind": "forward", "url": url, **more}


@contextlib.asynccontextmanager
async def asking(served: Service | str, **more: object) -> AsyncIterator[ForwardAuth]:
    """Build one with its tasks."""
    services, _ = auth_services(ANONYMOUS)
    found = ForwardAuth(ForwardConfig.model_validate(section(served, **more)), services)
    async with services.resolver, services.background_tasks:
        yield found


async def identified(asked: ForwardAuth, someone: ConnectionContext) -> Identity:
    """Ask about a client that is allowed."""
    found = await async_outcome(asked.identify(someone))
    assert isinstance(found, Identity), found
    return found


async def denied(asked: ForwardAuth, someone: ConnectionContext) -> Rejected:
    """Ask about somebody who is not."""
    found = await async_outcome(asked.identify(someone))
    assert isinstance(found, Rejected), found
    return found


async def test_a_yes_lets_in() -> None:
    """Any status from 200 to 299; without more in the configuration the client has no name."""
    for status in (200, 204, 299):
        async with service(answer(status)) as served, asking(served) as asked:
            assert await identified(asked, caller()) == Identity(method="forward")


async def test_the_request_is_described_and_nothing_else_is_sent() -> None:
    """Method, target, Host, scheme, address and Origin; of the rest only what is chosen, and no header is forged."""
    lines = (
        COOKIE,
        AUTHORIZATION,
        (b"origin", b"https://gw.example.org"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-uri", b"/public"),
        (b"x-user", b"root"),
        (b"upgrade", b"websocket"),
    )
    async with service() as served, asking(served) as asked:
        await async_outcome(asked.identify(caller(*lines, target="/vnc?token=a%20b")))
        assert served.asked[0].split("\r\n") == [
            "GET /allow?x=y HTTP/1.1",
            f"Host: 127.0.0.1:{served.port}",
            "X-Forwarded-Method: GET",
            "X-Forwarded-Uri: /vnc?token=a%20b",
            "X-Forwarded-Host: gw.example.org",
            "X-Forwarded-Proto: http",
            "X-Forwarded-For: 203.0.113.7",
            "Origin: https://gw.example.org",
        ]
        await async_outcome(asked.identify(caller(tls=True, method="HEAD", peer=Peer("", 0, socket.AF_UNIX))))
        assert (served.header("x-forwarded-proto"), served.header("x-forwarded-method")) == (["https"], ["HEAD"])
        assert served.header("x-forwarded-for") == []


async def test_chosen_headers_are_passed_on() -> None:
    """As the client sent them, each line."""
    async with service() as served, asking(served, headers=["Authorization", "Cookie", "X-Key"]) as asked:
        await async_outcome(asked.identify(caller(COOKIE, (b"cookie", b"b=c"), AUTHORIZATION)))
        assert served.header("cookie") == ["sid=s3cret", "b=c"]
        assert served.header("authorization") == ["Basic YWxpY2U6cw=="]
        assert served.header("x-key") == []


async def test_a_cookie_that_was_passed_on_is_reported() -> None:
    """Then an Origin is needed; without a cookie it is not."""
    async with service() as served, asking(served, headers=["cookie"]) as asked:
        assert (await identified(asked, caller(COOKIE))).by_cookie
        assert not (await identified(asked, caller())).by_cookie
    assert ForwardConfig.model_validate(section("http://a/", headers=["Cookie"])).accepts_cookies()
    config = ForwardConfig.model_validate(section("http://a/", headers=["Authorization"]))
    assert (config.accepts_cookies(), config.needs_request()) == (False, True)


async def test_an_answer_gives_identity_target_and_claims() -> None:
    """By the headers that the configuration names; a claim may be missing."""
    said = answer(200, "X-User: älice".encode().decode("latin-1"), "X-To: tcp://10.0.0.9:22", "X-Group: staff")
    names = {"identity_header": "X-User", "target_header": "x-to", "claims": {"group": "X-Group", "desk": "X-Desk"}}
    async with service(said) as served, asking(served, **names) as asked:
        assert await identified(asked, caller()) == Identity(
            "älice", "forward", {"group": "staff"}, target="tcp://10.0.0.9:22"
        )


@pytest.mark.parametrize("status", [401, 403])
async def test_a_no_is_a_denial(status: int) -> None:
    """It counts as a failed login if a credential was sent, also in the query; browsers send cookies of their own."""
    said = answer(status, 'WWW-Authenticate: Basic realm="id"', "WWW-Authenticate: Be\tarer", body=b"<html>" * 20_000)
    headers = ["Authorization", "Cookie", "User-Agent"]
    async with service(said) as served, asking(served, headers=headers) as asked:
        found = await denied(asked, caller(AUTHORIZATION))
        assert (found.reason, found.failed_login, challenges(found)) == (
            Reason.UNAUTHENTICATED, True, ('Basic realm="id"',),
        )  # fmt: skip
        assert (await denied(asked, caller(target="/app?x=1&token=guess"))).failed_login
        for someone in (caller(), caller((b"user-agent", b"curl")), caller(COOKIE), caller(target="/app?x=1")):
            assert not (await denied(asked, someone)).failed_login


BROKEN = {
    "a redirect to a login": answer(302, "Location: /login"),
    "an error": answer(500),
    "not found": answer(404),
    "too many": answer(429),
    "no name": answer(200),
    "an empty name": answer(200, "X-User: "),
    "two names": answer(200, "X-User: alice", "X-User: root"),
    "a name that is no text": answer(200, "X-User: a\x01b"),
    "a name of broken bytes": answer(200, "X-User: a\xff"),
    "a long name": answer(200, f"X-User: {'a' * 2000}"),
    "no HTTP": b"hello",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nX-User: al",
    "half a body": answer(200, "X-User: alice", body=b"x", length=5),
    "a huge head": b"HTTP/1.1 200 OK\r\nX-User: alice\r\nX: " + b"x" * 200_000,
    "hints without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 6,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nX-User: alice\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
async def test_what_is_neither_lets_nobody_in(said: bytes) -> None:
    """And it is the service's fault, not the client's."""

    async def speak(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(said)

    async with service(speak) as served, asking(served, headers=["Cookie"], identity_header="X-User") as asked:
        found = await denied(asked, caller(COOKIE))
        assert (found.reason, found.failed_login) == (Reason.AUTH_UNAVAILABLE, False)
        assert f"http://127.0.0.1:{served.port}/allow" in found.detail
        assert "s3cret" not in found.detail
        await served.until(open=0)


@pytest.mark.parametrize("to", ["", "10.0.0.9:22", "ftp://a/", "tcp://a", "tcp://u@a:1", "tcp://a:1\tb"])
async def test_a_target_that_is_none_lets_nobody_in(to: str) -> None:
    """Missing or no URL of a backend."""
    async with service(answer(200, f"X-To: {to}")) as served, asking(served, target_header="X-To") as asked:
        assert (await denied(asked, caller())).reason is Reason.AUTH_UNAVAILABLE


async def test_a_slow_answer_lets_nobody_in() -> None:
    """Whether nothing comes, or one byte now and then; timeout bounds all of it."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async def drip(served: Service, head: str, stream: Stream) -> None:
        for byte in answer():
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.02)

    for speak in (silent, drip):
        async with service(speak) as served, asking(served, timeout="150ms") as asked:
            with trio.fail_after(9):
                found = await denied(asked, caller())
            assert found.reason is Reason.AUTH_UNAVAILABLE
            assert "no answer within timeout, 0.15 s" in found.detail
            await served.until(open=0)


async def test_a_body_is_not_waited_for() -> None:
    """The head says it; an endless or a missing body changes nothing, and its connection is closed."""

    async def endless(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(answer(length=10**12))
        while True:
            await stream.send_all(b"x" * 65536)

    async def stuck(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(answer(length=10))
        await stream.receive_some(1)

    for speak in (endless, stuck):
        async with service(speak) as served, asking(served) as asked:
            with trio.fail_after(9):
                await identified(asked, caller())
            await served.until(open=0)


async def test_a_service_that_died_lets_nobody_in_until_it_is_back() -> None:
    """Connections that were kept do no harm."""
    async with service() as served, asking(served) as asked:
        await identified(asked, caller())
        port = served.port
        served.answers = b"HTTP/1.1 500"
    async with asking(f"http://127.0.0.1:{port}/") as asked:
        assert "Connection refused" in (await denied(asked, caller())).detail
        async with service(port=port):
            await identified(asked, caller())


async def test_requests_over_the_bound_wait_within_timeout() -> None:
    """A service that hangs has so many connections and no more."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async with service(silent) as served, asking(served, timeout="1s", connections="2") as asked:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(denied, asked, caller())
            await served.until(dials=2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert served.dials == 2
        served.answers = answer()
        await identified(asked, caller())


async def test_a_kept_yes_asks_nobody() -> None:
    """For the same request alone; a no is never kept."""
    async with service(answer(200, "X-User: alice")) as served:
        options = {"headers": ["Cookie"], "identity_header": "X-User", "cache": "1h"}
        async with asking(served, **options) as asked:
            for _ in range(3):
                assert (await identified(asked, caller(COOKIE))).name == "alice"
            assert len(served.asked) == 1
            others = [
                caller(),
                caller((b"cookie", b"sid=other")),
                caller(COOKIE, target="/other"),
                caller(COOKIE, (b"origin", b"https://evil.example")),
                caller(COOKIE, peer=Peer("203.0.113.8", 1, socket.AF_INET)),
                caller(COOKIE, tls=True),
            ]
            for count, someone in enumerate(others, 2):
                await identified(asked, someone)
                assert len(served.asked) == count
            served.answers = answer(403)
            for _ in range(2):
                await denied(asked, caller((b"cookie", b"sid=third")))
            assert len(served.asked) == len(others) + 3


async def test_headers_that_http_cannot_carry_are_the_clients_fault() -> None:
    """They are not sent, and nothing is raised."""
    async with service() as served, asking(served, headers=["X-Key"]) as asked:
        for value in (b"a\x0bb", b"\x1c", b"a\x7f", b"a\nb"):
            found = await denied(asked, caller((b"x-key", value)))
            assert (found.reason, found.failed_login) == (Reason.UNAUTHENTICATED, True)
        assert served.dials == 0
        await identified(asked, caller((b"x-key", b"a\tb \xe4")))


async def test_https_is_verified_and_sockets_are_asked(tmp_path: Path) -> None:
    """By the authorities of the configuration; insecure accepts any certificate."""
    async with service(tls=True) as served:
        url = f"https://localhost:{served.port}/"
        async with asking(url, ca=str(folder() / "ca.pem")) as asked:
            await identified(asked, caller())
        async with asking(url) as asked:
            assert "certificate verify failed" in (await denied(asked, caller())).detail
        async with asking(url, insecure="true") as asked:
            await identified(asked, caller())
    async with service(path=tmp_path / "s") as served, asking(f"unix:{tmp_path}/s", path="/allow") as asked:
        await identified(asked, caller())
        assert served.asked[0].startswith("GET /allow HTTP/1.1\r\nHost: localhost\r\n")


async def test_plain_tcp_is_nobody() -> None:
    """There is no request to ask about."""
    async with asking("http://127.0.0.1:1/") as asked:
        assert (await denied(asked, caller(request=None))).reason is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"url": "ftp://a"}, "E012 routes.r.auth.url"),
        ({"url": "http://u:p@a/"}, "E012 routes.r.auth.url"),
        ({"url": "unix:/s"}, "E011 routes.r.auth.path"),
        ({"path": "/x"}, "E013 routes.r.auth.path"),
        ({"url": "http://127.0.0.1/", "ca": "x"}, "E013 routes.r.auth.ca"),
        ({"url": "http://127.0.0.1/", "insecure": True}, "E013 routes.r.auth.insecure"),
        ({"headers": ["Host"]}, "E012 routes.r.auth.headers[0]"),
        ({"headers": ["Connection"]}, "E012 routes.r.auth.headers[0]"),
        ({"headers": ["X-Forwarded-For"]}, "E012 routes.r.auth.headers[0]"),
        ({"headers": ["Proxy-Authorization"]}, "E012 routes.r.auth.headers[0]"),
        ({"headers": ["Content-Type"]}, "E012 routes.r.auth.headers[0]"),
        ({"headers": ["Cookie", "cookie"]}, "E012 routes.r.auth.headers"),
        ({"headers": ["a b"]}, "E012 routes.r.auth.headers[0]"),
        ({"timeout": "off"}, "E012 routes.r.auth.timeout"),
        ({"connections": "0"}, "E012 routes.r.auth.connections"),
        ({"cache": "0s"}, "E012 routes.r.auth.cache"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_start(change: dict[str, Any], place: str) -> None:
    """With its place in the file."""
    auth = {**section("https://a/"), **change}
    route = {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": auth}
    assert summaries(wrong(LISTENERS + f"routes: {json.dumps({'r': route})}\n")) == [place]


def test_what_is_dangerous_is_warned_of() -> None:
    """No verification, and no TLS to another host."""

    def warnings(auth: dict[str, Any]) -> list[str]:
        route = {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": auth}
        return summaries(read(LISTENERS + f"routes: {json.dumps({'r': route})}\n").warnings)

    assert warnings(section("https://a/", insecure=True)) == ["W002 routes.r.auth.insecure"]
    assert warnings(section("http://a/")) == ["W004 routes.r.auth.url"]
    assert warnings(section("http://127.0.0.1/")) == []


async def test_through_the_bridge() -> None:
    """A rejected client never reaches the backend, the name of another is in the log, no connection stays open."""
    async with service(answer(401)) as served, backend() as back:
        auth = section(served, headers=["Authorization", "Cookie"], identity_header="X-User")
        async with serving(written(route={"backend": back.url, "auth": auth})) as bridge:
            for status, said in ((401, answer(401)), (503, answer(302)), (503, answer(200))):
                served.answers = said
                with await bridge.connect() as client:
                    await client.send(request("/", "Authorization: Basic YTpi"))
                    assert (await client.head()).startswith(f"HTTP/1.1 {status} ")
            served.answers = answer(200, "X-User: alice")
            with await bridge.connect() as client:
                await client.send(request("/", "Cookie: sid=1"))
                assert (await client.head()).startswith("HTTP/1.1 403 ")
            assert back.dials == 0
            with await bridge.upgraded("/", "Cookie: sid=1", "Origin: http://localhost") as client:
                await client.echoed()
                await client.close()
            assert (await bridge.records.wait("connection.closed"))["identity"] == "alice"
            assert (back.dials, len(served.asked)) == (1, 5)
        await served.until(open=0)


ALICE = Identity("alice", "forward")
LINES = [(b"cookie", b"sid=s3cret"), (b"origin", b"https://a")]


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        """Give them."""
        return self.now


def test_an_answer_is_kept_for_a_while() -> None:
    """Then it is forgotten, and its place is free."""
    clock = Clock()
    cache = ForwardCache(5.0, 10, clock)
    key = cache.key(LINES)
    assert cache.get(key) is None
    cache.put(key, ALICE)
    clock.now = 4.9
    assert cache.get(cache.key(LINES)) is ALICE
    clock.now = 5.0
    assert cache.get(key) is None
    assert len(cache) == 0


def test_cache_off_keeps_nothing() -> None:
    """Each request is asked about."""
    cache = ForwardCache(None, 10, Clock())
    cache.put(cache.key(LINES), ALICE)
    assert cache.get(cache.key(LINES)) is None
    assert len(cache) == 0


def test_the_cache_is_bounded() -> None:
    """The oldest answer makes room."""
    cache = ForwardCache(5.0, 3, Clock())
    keys = [cache.key([(b"a", b"%d" % at)]) for at in range(5)]
    for key in keys:
        cache.put(key, ALICE)
    assert len(cache) == 3
    assert [cache.get(key) is not None for key in keys] == [False, False, True, True, True]


def test_a_key_tells_all_that_was_sent_apart() -> None:
    """Other values, other names, another order, other bounds between the parts."""
    cache = ForwardCache(5.0, 10, Clock())
    sent = [
        LINES,
        LINES[::-1],
        LINES[:1],
        [],
        [(b"cookie", b"sid=s3cretorigin"), (b"", b"https://a")],
        [(b"cookie", b"sid=s3cret2"), LINES[1]],
        [(b"cookies", b"id=s3cret"), LINES[1]],
    ]
    assert len({cache.key(lines) for lines in sent}) == len(sent)


def test_what_was_sent_cannot_be_read_from_it() -> None:
    """A key is a hash whose own key is of this cache alone."""
    cache = ForwardCache(5.0, 10, Clock())
    key = cache.key(LINES)
    assert len(key) == 32
    assert b"s3cret" not in key
    assert ForwardCache(5.0, 10, Clock()).key(LINES) != key
