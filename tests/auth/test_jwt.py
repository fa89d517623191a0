"""Authentication by JSON Web Token: the whole way, with the attacks that are known."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.auth.methods import auth_services, caller
from tests.auth.signing import AUDIENCE, EC, ISSUER, RSA, SECRET, claims, forged, other_rsa, part, signed
from tests.authority import folder
from tests.client import request
from tests.config.loading import LISTENERS, read, summaries, wrong
from tests.http_service import Service, Stream, answer, service
from tests.rejections import async_outcome, challenges, rejection_body, without_id
from tests.serving import Backend, Served, backend, serving, written
from wsbridge.auth.credentials import BEARER_CHALLENGE
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.auth.jwt import JwtAuth, JwtConfig
from wsbridge.reasons import Reason, Rejected


@pytest.fixture
def keys(tmp_path: Path) -> list[dict[str, Any]]:
    """Write an RSA key named k1, an EC key without a name and a secret, as the file has them."""
    (tmp_path / "rsa.pem").write_bytes(RSA.public)
    (tmp_path / "ec.pem").write_bytes(EC.public)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    return [
        {"algorithm": "RS256", "file": str(tmp_path / "rsa.pem"), "kid": "k1"},
        {"algorithm": "ES256", "file": str(tmp_path / "ec.pem")},
        {"algorithm": "HS256", "secret": {"file": str(tmp_path / "secret")}, "kid": "s"},
    ]


def section(keys: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    """Give the section as written."""
    return {"kind": "jwt", "keys": keys, "issuer": ISSUER, "audience": AUDIENCE, **more}


def authenticator(keys: list[dict[str, Any]], **more: object) -> JwtAuth:
    """Build one."""
    return JwtAuth(JwtConfig.model_validate(section(keys, **more)), auth_services(ANONYMOUS)[0])


def bearer(token: str) -> tuple[bytes, bytes]:
    """Give the header that shows a token."""
    return (b"authorization", b"Bearer " + token.encode())


async def test_who_shows_a_good_token_is_let_in(keys: list[dict[str, Any]]) -> None:
    """By each key: its name, method, claims and end are in the identity."""
    for token in (signed(RSA, {"kid": "k1"}), signed(EC), signed(EC, {"kid": "any"}), signed(SECRET, {"kid": "s"})):
        found = await async_outcome(authenticator(keys).identify(caller(bearer(token))))
        assert isinstance(found, Identity), found
        assert (found.name, found.method, found.claims["iss"]) == ("alice", "jwt", ISSUER)
        assert found.expires == pytest.approx(time.time() + 330, abs=5)
        assert not found.by_cookie


async def test_a_token_may_stand_in_a_cookie(keys: list[dict[str, Any]]) -> None:
    """Then the identity says so."""
    found = await authenticator(keys, sources=["cookie:sid"]).identify(
        caller((b"cookie", b"sid=" + signed(EC).encode()))
    )
    assert isinstance(found, Identity)
    assert found.by_cookie
    config = JwtConfig.model_validate(section(keys, sources=["cookie:sid"]))
    assert config.accepts_cookies()
    assert config.needs_request()


def hs_with_the_public_key(algorithm: str = "HS256") -> str:
    """Forge a token whose secret is the text of the public key."""
    text = f"{part({'alg': algorithm, 'kid': 'k1'})}.{part(claims())}"
    return f"{text}.{part(hmac.new(RSA.public, text.encode(), hashlib.sha256).digest())}"


ATTACKS: dict[str, Callable[[], str]] = {
    "none": lambda: forged({"alg": "none"}, claims()),
    "None": lambda: forged({"alg": "None", "kid": "k1"}, claims()),
    "none and no signature": lambda: forged({"alg": "none"}, claims()).rpartition(".")[0] + ".",
    "the public key as a secret": hs_with_the_public_key,
    "the same under another name": lambda: hs_with_the_public_key("RS256"),
    "signed by another": lambda: signed(other_rsa(), {"kid": "k1"}),
    "another algorithm of the same key": lambda: signed_as("PS256"),
    "without the kid of the key": lambda: signed(RSA),
    "a path": lambda: signed(RSA, {"kid": "../../../../dev/null"}),
    "SQL": lambda: signed(RSA, {"kid": "x' UNION SELECT 'key"}),
    "a URL": lambda: signed(RSA, {"kid": "https://evil.example/k"}),
    "an empty kid": lambda: signed(other_rsa(), {"kid": ""}),
    "the name of another key": lambda: signed(RSA, {"kid": "s"}),
    "jku": lambda: signed(RSA, {"kid": "k1", "jku": "https://evil.example/keys"}),
    "jwk": lambda: signed(other_rsa(), {"kid": "k1", "jwk": other_rsa().jwk("k1")}),
    "x5u": lambda: signed(RSA, {"kid": "k1", "x5u": "https://evil.example/c"}),
    "crit": lambda: signed(RSA, {"kid": "k1", "crit": ["exp"]}),
    "expired": lambda: signed(EC, exp=int(time.time()) - 31),
    "without an end": lambda: signed(EC, exp=None),
    "not yet": lambda: signed(EC, nbf=int(time.time()) + 60),
    "issued tomorrow": lambda: signed(EC, iat=int(time.time()) + 86400),
    "for another": lambda: signed(EC, aud="mail"),
    "for nobody": lambda: signed(EC, aud=None),
    "by another": lambda: signed(EC, iss="https://evil.example"),
    "by nobody": lambda: signed(EC, iss=None),
    "of nobody": lambda: signed(EC, sub=None),
    "huge": lambda: signed(EC, x="x" * 8192),
    "a bomb in the header": lambda: forged(b"[" * 4000, {}),
    "a bomb in the claims": lambda: forged({"alg": "ES256"}, b'{"a":' * 800),
    "encrypted": lambda: "a.b.c.d.e",
    "cut": lambda: signed(EC)[:-5],
    "no token": lambda: "alice:password",
}


GENUINE = {
    *("expired", "without an end", "not yet", "issued tomorrow", "for another", "for nobody", "by another"),
    *("by nobody", "of nobody"),
}
"""Those that are signed by a key of ours, which are no guesses."""


def signed_as(algorithm: str) -> str:
    """Sign by another algorithm that the same key could be used for."""
    import jwt

    return jwt.encode(claims(), RSA.private, algorithm, {"kid": "k1"})


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_is_denied_like_all_others(
    keys: list[dict[str, Any]], attack: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    """The client learns nothing, and the log has no token; without a valid signature it counts as a failed login."""
    token, genuine = attack(), request.node.callspec.id in GENUINE
    found = await async_outcome(authenticator(keys).identify(caller(bearer(token))))
    assert isinstance(found, Rejected), found
    assert (found.reason, challenges(found)) == (Reason.UNAUTHENTICATED, (BEARER_CHALLENGE,))
    assert (found.failed_login, found.genuine) == (not genuine, genuine)
    assert token[-20:] not in found.detail


async def test_no_token_is_no_failed_login(keys: list[dict[str, Any]]) -> None:
    """A client that is asked for the first time has done nothing wrong."""
    for someone in (caller(), caller(request=None)):
        found = await async_outcome(authenticator(keys).identify(someone))
        assert isinstance(found, Rejected)
        assert (found.reason, found.failed_login) == (Reason.UNAUTHENTICATED, False)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"keys": []}, "E012 routes.r.auth.keys"),
        ({"issuer": []}, "E012 routes.r.auth.issuer"),
        ({"issuer": ["any", "x"]}, "E012 routes.r.auth.issuer"),
        ({"audience": ""}, "E012 routes.r.auth.audience"),
        ({"leeway": "11m"}, "E012 routes.r.auth.leeway"),
        ({"max_session": "0s"}, "E012 routes.r.auth.max_session"),
        ({"name": ""}, "E012 routes.r.auth.name"),
        ({"algorithms": ["RS256"]}, "E010 routes.r.auth.algorithms"),
    ],
)
def test_what_would_let_in_too_many_is_refused(keys: list[dict[str, Any]], change: dict[str, Any], place: str) -> None:
    """No keys, no issuer, a leeway that makes old tokens good."""
    text = json.dumps({"r": {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": {**section(keys), **change}}})
    assert summaries(wrong(LISTENERS + f"routes: {text}\n")) == [place]


def test_issuer_and_audience_must_be_written(keys: list[dict[str, Any]]) -> None:
    """`audience` is required, since without it any token of the key would do; `any` is a warning."""
    auth = section(keys)
    del auth["issuer"], auth["audience"]
    route = {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": auth}
    problems = wrong(LISTENERS + f"routes: {json.dumps({'r': route})}\n")
    assert summaries(problems) == ["E011 routes.r.auth.issuer", "E011 routes.r.auth.audience"]
    route["auth"] = section(keys, audience="any", issuer="any")
    assert summaries(read(LISTENERS + f"routes: {json.dumps({'r': route})}\n").warnings) == [
        "W017 routes.r.auth.audience"
    ]


def test_what_is_not_installed_is_reported(keys: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("wsbridge.config.base.find_spec", lambda name: None)
    jwks = {"jwks": "https://a/b", "algorithms": ["RS256"]}
    route = {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": section([*keys, jwks])}
    (problem,) = wrong(LISTENERS + f"routes: {json.dumps({'r': route})}\n", folder=tmp_path)
    assert problem.code == "E035"
    assert problem.message == ("needs jwt, which is not installed: pip install 'PyJWT[crypto]'")


def test_libraries_are_imported_only_where_they_are_used() -> None:
    """Those of the extra are not imported before a configuration names the kind; cryptography is no extra."""
    code = "import sys, wsbridge.registry; print(sorted({'jwt', 'h11'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def jwks(served: Service, **more: object) -> dict[str, Any]:
    """Give the keys of a service, as the file has them."""
    url = f"https://localhost:{served.port}/keys"
    return {"jwks": url, "algorithms": ["RS256"], "ca": str(folder() / "ca.pem"), "min_refresh_interval": "1ms", **more}


def published(*entries: dict[str, Any]) -> bytes:
    """Write the answer of a service."""
    return answer(body=json.dumps({"keys": entries}).encode())


@contextlib.asynccontextmanager
async def fetching(*keys: dict[str, Any]) -> AsyncIterator[JwtAuth]:
    """Build one with its tasks."""
    services, _ = auth_services(ANONYMOUS)
    found = JwtAuth(JwtConfig.model_validate(section(list(keys))), services)
    async with services.resolver, services.background_tasks:
        yield found


async def test_a_rotated_key_is_fetched_when_its_token_comes() -> None:
    """The first token of a new key waits for it; one of the old key is denied from then on."""
    async with service(published(RSA.jwk("k1")), tls=True) as served, fetching(jwks(served)) as asked:
        old, new = signed(RSA, {"kid": "k1"}), signed(other_rsa(), {"kid": "k2"})
        assert isinstance(await async_outcome(asked.identify(caller(bearer(old)))), Identity)
        served.answers = published(other_rsa().jwk("k2"))
        await trio.sleep(0.002)
        assert isinstance(await async_outcome(asked.identify(caller(bearer(new)))), Identity)
        found = await async_outcome(asked.identify(caller(bearer(old))))
        assert isinstance(found, Rejected)
        assert found.reason is Reason.UNAUTHENTICATED


async def test_keys_that_cannot_be_had_let_nobody_in() -> None:
    """Where a key cannot be fetched, a token of it is auth_unavailable; tokens of other keys are decided as usual."""
    async with (
        service(answer(500), tls=True) as served,
        service(published(RSA.jwk("k1")), tls=True) as other,
        fetching(jwks(served), jwks(other)) as asked,
    ):
        found = await async_outcome(asked.identify(caller(bearer(signed(other_rsa(), {"kid": "k9"})))))
        assert isinstance(found, Rejected)
        assert (found.reason, found.failed_login) == (Reason.AUTH_UNAVAILABLE, False)
        assert "status 500" in found.detail
        assert isinstance(await async_outcome(asked.identify(caller(bearer(signed(RSA, {"kid": "k1"}))))), Identity)
        forged_one = await async_outcome(asked.identify(caller(bearer(signed(other_rsa(), {"kid": "k1"})))))
        assert isinstance(forged_one, Rejected)
        assert forged_one.reason is Reason.UNAUTHENTICATED


async def test_tokens_that_no_fetched_key_could_have_made_fetch_nothing() -> None:
    """Other algorithms and known names ask nobody."""
    async with service(published(RSA.jwk("k1")), tls=True) as served, fetching(jwks(served)) as asked:
        await async_outcome(asked.identify(caller(bearer(signed(RSA, {"kid": "k1"})))))
        for token in (signed(EC, {"kid": "k7"}), signed(other_rsa(), {"kid": "k1"}), "a.b.c"):
            await trio.sleep(0.002)
            assert isinstance(await async_outcome(asked.identify(caller(bearer(token)))), Rejected)
        assert len(served.asked) == 1


@contextlib.asynccontextmanager
async def behind(*keys: dict[str, Any], **more: object) -> AsyncIterator[tuple[Served, Backend]]:
    """Serve a route behind tokens."""
    async with backend() as back:
        route = {"backend": back.url, "auth": section(list(keys), **more)}
        async with serving(written(route=route)) as served:
            yield served, back


async def test_nobody_without_a_token_reaches_the_backend(keys: list[dict[str, Any]]) -> None:
    """No token, a wrong one, an expired one, one for others: the same answer, byte by byte, and no dial."""
    async with behind(*keys) as (served, back):
        answers = []
        shown = ["", signed(other_rsa(), {"kid": "k1"}), signed(EC, exp=1), signed(EC, aud="mail"), "x"]
        for token in shown:
            with await served.connect() as client:
                await client.send(request("/", *([f"Authorization: Bearer {token}"] if token else [])))
                answers.append(without_id((await client.everything()).decode()))
        assert len(set(answers)) == 1
        assert answers[0].startswith("HTTP/1.1 401 ")
        assert f"WWW-Authenticate: {BEARER_CHALLENGE}" in answers[0]
        assert answers[0].endswith("\r\n\r\n" + rejection_body("unauthenticated"))
        assert back.dials == 0
        with await served.upgraded("/", f"Authorization: Bearer {signed(EC)}") as client:
            await client.echoed()
        carrier = f"wsbridge.token.{part(signed(EC).encode())}"
        with await served.upgraded("/", f"Sec-WebSocket-Protocol: binary, {carrier}") as client:
            await client.echoed()
        assert back.dials == 2
        ended = [line for line in served.records.all if line["event"] == "connection.closed"]
        assert all(signed(EC)[:30] not in str(line) for line in served.records.all)
        assert not ended or ended[0]["identity"] == "alice"


async def test_the_end_of_a_token_ends_its_connection(keys: list[dict[str, Any]]) -> None:
    """1008 and auth_expired, with leeway: 0s at exp itself."""
    async with behind(*keys, leeway="0s") as (served, back):
        token = signed(EC, exp=time.time() + 2)
        with await served.upgraded("/", f"Authorization: Bearer {token}") as client:
            await client.echoed()
            assert await client.closing() == (1008, "auth_expired")
        line = await served.records.wait("connection.closed")
        assert (line["reason"], line["identity"]) == ("auth_expired", "alice")
        await back.until(open=0)


async def test_max_session_ends_it_as_well(keys: list[dict[str, Any]]) -> None:
    """However long the token holds."""
    async with behind(*keys, max_session="1s") as (served, _):
        with await served.upgraded("/", f"Authorization: Bearer {signed(EC, exp=time.time() + 3600)}") as client:
            await client.echoed()
            assert await client.closing() == (1008, "auth_expired")


async def test_the_server_fetches_keys_and_closes_what_it_opened() -> None:
    """Keys are fetched from start to shutdown; while they cannot be fetched, clients get 503."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async with service(published(RSA.jwk("k1")), tls=True) as good, service(silent, tls=True) as dead:
        async with behind(jwks(good)) as (served, _):
            with await served.upgraded("/", f"Authorization: Bearer {signed(RSA, {'kid': 'k1'})}") as client:
                await client.echoed()
            assert served.records.of("jwks.refreshed")[0]["url"] == f"https://localhost:{good.port}/keys"
        async with behind(jwks(dead, timeout="100ms")) as (served, back):
            with await served.connect() as client:
                await client.send(request("/", f"Authorization: Bearer {signed(RSA, {'kid': 'k1'})}"))
                text = (await client.everything()).decode()
            assert text.startswith("HTTP/1.1 503 ")
            assert without_id(text).endswith("\r\n\r\n" + rejection_body("auth_unavailable"))
            assert back.dials == 0
        await good.until(open=0)
        await dead.until(open=0)
