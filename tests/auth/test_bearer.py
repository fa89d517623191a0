"""Authentication by a token of a list."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.auth.methods import auth_services, caller
from tests.client import request as upgrade_request
from tests.rejections import async_outcome, rejection_body, without_id
from tests.serving import Served, accept_upgrade, backend, config_of, recording, serving, written
from wsbridge.auth.bearer import BearerAuth, BearerConfig, BearerToken, load_tokens, token_digest
from wsbridge.auth.identity import ANONYMOUS, Identity, unauthenticated
from wsbridge.config.errors import ConfigError
from wsbridge.reasons import Rejected

NOW = 1_790_000_000.0
ORIGIN = "Origin: http://localhost"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Give a list: alice for all, one that is over, one that will be, one for another route."""
    lines = [
        BearerToken("alice", token_digest("alice-token")),
        BearerToken("old", token_digest("old-token"), NOW),
        BearerToken("soon", token_digest("soon-token"), NOW + 60),
        BearerToken("other", token_digest("other-token"), None, frozenset(["elsewhere"])),
        BearerToken("here", token_digest("here-token"), None, frozenset(["app", "elsewhere"])),
    ]
    path = tmp_path / "tokens"
    path.write_text("".join(f"{token.to_line()}\n" for token in lines))
    return path


def authenticator(tokens: Path, *sources: str) -> BearerAuth:
    """Build one; the time is `NOW`."""
    section: dict[str, Any] = {"kind": "bearer", "tokens": str(tokens)}
    if sources:
        section["sources"] = sources
    services, _ = auth_services(ANONYMOUS)
    return BearerAuth(BearerConfig.model_validate(section), type(services)(services.build, wall_clock=lambda: NOW))


def header(token: str) -> tuple[bytes, bytes]:
    """Give the header that shows a token."""
    return (b"authorization", b"Bearer " + token.encode())


def carrier(token: str) -> str:
    """Give the subprotocol that carries a token."""
    return "wsbridge.token." + urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


async def test_a_token_of_the_list_comes_in(tokens: Path) -> None:
    """The identity has the token's name and expiry, and a claim that differs between tokens of one name."""
    alice = {"token": token_digest("alice-token").hex()[:16]}
    assert await async_outcome(authenticator(tokens).identify(caller(header("alice-token")))) == Identity(
        "alice", "bearer", alice, token_name="alice"
    )
    soon = await async_outcome(authenticator(tokens).identify(caller(header("soon-token"))))
    assert isinstance(soon, Identity)
    assert soon.expires == NOW + 60
    here = await async_outcome(authenticator(tokens).identify(caller(header("here-token"))))
    assert isinstance(here, Identity)


async def test_a_cookie_is_reported_as_one(tokens: Path) -> None:
    """So that it counts only with an Origin."""
    found = await authenticator(tokens, "cookie:sid").identify(caller((b"cookie", b"sid=alice-token")))
    assert isinstance(found, Identity)
    assert (found.name, found.by_cookie) == ("alice", True)


@pytest.mark.parametrize(
    ("token", "detail", "guess"),
    [
        ("nobody", "the token is not in the list", True),
        ("old-token", 'of "old" has expired', False),
        ("other-token", 'of "other" is not for the route app', False),
        ("ALICE-TOKEN", "the token is not in the list", True),
    ],
)
async def test_the_client_gets_the_same_answer_whatever_is_wrong(
    tokens: Path, token: str, detail: str, guess: bool
) -> None:
    """The response is the same, and no sentence has the token in it; a token of the list is no guess."""
    denied = await async_outcome(authenticator(tokens).identify(caller(header(token))))
    assert isinstance(denied, Rejected)
    assert detail in denied.detail
    assert token not in denied.detail
    challenges = ('Bearer realm="wsbridge"',)
    wanted = unauthenticated(denied.detail, failed_login=guess, genuine=not guess, challenges=challenges)
    assert denied.args == wanted.args


async def test_who_shows_none_did_not_try(tokens: Path) -> None:
    """It is no failed login, but the challenge is the same."""
    denied = await async_outcome(authenticator(tokens).identify(caller()))
    assert (
        denied.args
        == unauthenticated("no token in authorization, subprotocol", challenges=('Bearer realm="wsbridge"',)).args
    )


async def test_the_list_is_read_again(tokens: Path, mock_clock: MockClock) -> None:
    """A removed line revokes its token; an empty list admits nobody; a bad line changes nothing."""
    asked = authenticator(tokens)
    with recording():
        assert isinstance(await async_outcome(asked.identify(caller(header("alice-token")))), Identity)
        tokens.write_text(f"{BearerToken('bob', token_digest('bob-token')).to_line()}\n")
        mock_clock.jump(1)
        assert isinstance(await async_outcome(asked.identify(caller(header("alice-token")))), Rejected)
        assert isinstance(await async_outcome(asked.identify(caller(header("bob-token")))), Identity)
        tokens.write_text("bob bob-token\n")
        mock_clock.jump(1)
        assert isinstance(await async_outcome(asked.identify(caller(header("bob-token")))), Identity)
        tokens.write_text("")
        mock_clock.jump(1)
        assert isinstance(await async_outcome(asked.identify(caller(header("bob-token")))), Rejected)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", 'holds no token; "wsbridge new-token NAME" makes one'),
        (b"# nothing\n", "holds no token"),
        (b"\n\nalice hunter2\n", "line 3: the name must be followed by sha256:"),
        (b"\n\xff\n", "line 2: is not UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_a_configuration_error(tmp_path: Path, data: bytes, wrong: str) -> None:
    """Nothing starts with a list that is empty or has a bad line; the error names the file, but not its content."""
    path = tmp_path / "tokens"
    path.write_bytes(data)
    route = {"backend": "tcp://127.0.0.1:9", "auth": {"kind": "bearer", "tokens": str(path)}}
    with pytest.raises(ConfigError) as caught:
        config_of(written(route=route))
    (problem,) = caught.value.problems
    assert (problem.setting, problem.code) == ("routes.app.auth.tokens", "E033")
    assert problem.message.startswith(f"{path}: ")
    assert wrong in problem.message
    assert "hunter2" not in problem.text()


def test_a_list_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no list does not fill the memory."""
    monkeypatch.setattr("wsbridge.reloading_file.MAX_LIST_FILE_BYTES", 10)
    path = tmp_path / "tokens"
    path.write_text("# 345678901")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        load_tokens(path)


def test_cookies_forbid_every_origin(tokens: Path) -> None:
    """Where a cookie authenticates, pages of other origins are rejected."""
    auth = {"kind": "bearer", "tokens": str(tokens), "sources": ["cookie:sid"]}
    route = {"backend": "tcp://127.0.0.1:9", "allowed_origins": "any", "auth": auth}
    with pytest.raises(ConfigError, match="cannot be any on a route that accepts cookies"):
        config_of(written(route=route))


def test_it_needs_a_request(tokens: Path) -> None:
    """A listener that speaks tcp cannot ask for a token."""
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
    routes = {"app": {"backend": "tcp://127.0.0.1:9", "auth": {"kind": "bearer", "tokens": str(tokens)}}}
    with pytest.raises(ConfigError, match="needs a request over HTTP"):
        config_of(written(listeners=listeners, routes=routes))


def route(url: str, tokens: Path, *sources: str, **more: object) -> dict[str, Any]:
    """Write a route that asks for a token."""
    return {"backend": url, "auth": {"kind": "bearer", "tokens": str(tokens), "sources": list(sources)}, **more}


async def answer(served: Served, *headers: str) -> str:
    """Ask for an upgrade, and give the whole of what is answered."""
    with await served.connect() as client:
        await client.send(upgrade_request("/", *headers))
        return (await client.everything()).decode()


async def test_who_is_refused_reaches_nothing_and_learns_nothing(tokens: Path) -> None:
    """None, unknown, over, for another route, malformed, two: the same answer to the byte, and no dial."""
    async with (
        backend() as back,
        serving(written(route=route(back.url, tokens, "authorization", "subprotocol", "cookie:sid"))) as served,
    ):
        tries: list[tuple[str, ...]] = [
            (),
            ("Authorization: Bearer nobody",),
            ("Authorization: Bearer old-token",),
            ("Authorization: Bearer other-token",),
            ("Authorization: Bearer",),
            ("Authorization: Bearer alice-token", "Authorization: Bearer alice-token"),
            ("Authorization: Bearer alice-token", "Cookie: sid=here-token"),
            ("Cookie: sid=alice-token; sid=alice-token", ORIGIN),
            (f"Sec-WebSocket-Protocol: binary, {carrier('nobody')}",),
            ("Sec-WebSocket-Protocol: binary, wsbridge.token.!",),
        ]
        answers = {without_id(await answer(served, *headers)) for headers in tries}
        lines = [await served.records.ended(count) for count in range(1, len(tries) + 1)]
        assert back.dials == 0
    (one,) = answers
    assert one.startswith("HTTP/1.1 401 ")
    assert 'WWW-Authenticate: Bearer realm="wsbridge"\r\n' in one
    assert one.endswith("\r\n\r\n" + rejection_body("unauthenticated"))
    assert {line["reason"] for line in lines} == {"unauthenticated"}
    assert len({line["detail"] for line in lines}) == len(tries) - 1
    for secret in ("alice-token", "old-token", "other-token", carrier("nobody")):
        assert secret not in str(lines)


async def test_a_program_comes_in_by_a_header(tokens: Path) -> None:
    """The backend is dialled, and the log names the identity."""
    async with backend() as back, serving(written(route=route(back.url, tokens, "authorization"))) as served:
        with await served.upgraded("/", "Authorization: Bearer alice-token") as client:
            await client.close()
        line = await served.records.ended()
        assert (line["identity"], back.dials) == ("alice", 1)
        assert "alice-token" not in str(served.records.all)


async def test_a_page_comes_in_by_a_subprotocol(tokens: Path) -> None:
    """The real protocol beside the token is answered and passed on; the token is neither, nor is it in the log."""
    heads: list[str] = []

    async def upstream(stream: trio.SocketStream) -> None:
        heads.append(await accept_upgrade(stream, "Sec-WebSocket-Protocol: binary"))
        await stream.receive_some(65536)

    async with (
        backend(upstream) as back,
        serving(written(route=route(f"ws://127.0.0.1:{back.port}/", tokens, "subprotocol"))) as served,
    ):
        offer = f"Sec-WebSocket-Protocol: {carrier('alice-token')}, binary"
        with await served.connect() as client:
            head = await client.upgrade("/", offer, ORIGIN)
            await client.close()
        line = await served.records.ended()
    assert "Sec-WebSocket-Protocol: binary\r\n" in f"{head}\r\n"
    assert "wsbridge.token" not in head
    assert "Sec-WebSocket-Protocol: binary\r\n" in heads[0]
    assert "wsbridge.token" not in heads[0]
    assert (line["identity"], line["subprotocol"]) == ("alice", "binary")
    assert carrier("alice-token") not in str(served.records.all)


async def test_a_token_alone_is_rejected_with_what_is_missing(tokens: Path) -> None:
    """A page that offers only the token gets a 400 that says to offer a real protocol beside it, good token or not."""
    async with backend() as back, serving(written(route=route(back.url, tokens, "subprotocol"))) as served:
        answers = {
            without_id(await answer(served, f"Sec-WebSocket-Protocol: {carrier(token)}"))
            for token in ("alice-token", "nobody")
        }
        line = await served.records.ended()
        assert back.dials == 0
    assert len(answers) == 1
    assert answers.pop().startswith("HTTP/1.1 400 ")
    assert "offer one of the route's (binary) beside it" in line["detail"]


async def test_a_cookie_needs_an_origin(tokens: Path) -> None:
    """A cookie comes in with the page's own Origin, and with none or another it is a 403."""
    async with backend() as back, serving(written(route=route(back.url, tokens, "cookie:sid"))) as served:
        cookie = "Cookie: a=b; sid=alice-token"
        with await served.upgraded("/", cookie, ORIGIN) as client:
            await client.close()
        assert (await answer(served, cookie)).startswith("HTTP/1.1 403 ")
        assert (await answer(served, cookie, "Origin: http://evil.example")).startswith("HTTP/1.1 403 ")
        await back.until(dials=1)
