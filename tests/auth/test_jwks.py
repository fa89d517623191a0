"""Keys that are fetched, from a local https server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from pydantic import ValidationError

from tests.auth.methods import auth_services
from tests.auth.signing import EC, ED, RSA, Pair, other_rsa
from tests.authority import folder
from tests.http_service import Service, Stream, answer, service
from tests.serving import Records, recording
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.auth.jwks import MAX_JWKS_KEYS, Jwks, JwksConfig, parse_jwks
from wsbridge.auth.jwt_keys import JwtKey

EVERY = frozenset({"RS256", "PS256", "ES256", "EdDSA"})


def published(*keys: object) -> bytes:
    """Write a set of keys."""
    return json.dumps({"keys": keys}).encode()


def read(body: bytes, algorithms: frozenset[str]) -> list[JwtKey]:
    """Read a key set that is one."""
    keys = parse_jwks(body, algorithms)
    assert keys is not None
    return keys


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        """Give them."""
        return self.now


@contextlib.asynccontextmanager
async def fetching(served: Service, **keys: object) -> AsyncIterator[tuple[Jwks, Clock, Records]]:
    """Fetch keys from a service, beginning with the first time."""
    config = JwksConfig.model_validate(
        {
            "jwks": f"https://localhost:{served.port}/keys",
            "algorithms": ["RS256", "ES256"],
            "ca": str(folder() / "ca.pem"),
            **keys,
        }
    )
    services, _ = auth_services(ANONYMOUS)
    clock = Clock()
    with recording() as records:
        jwks = Jwks(config, services, clock)
        async with services.resolver, services.background_tasks:
            await jwks.refresh()
            await trio.testing.wait_all_tasks_blocked(0.01)
            yield jwks, clock, records


def kids(jwks: Jwks) -> set[str | None]:
    """Give the names of the keys that hold."""
    return set(jwks.current_keys().kids())


async def test_keys_are_fetched_before_they_are_asked_for() -> None:
    """At the start, over https, with one request."""
    async with service(answer(body=published(RSA.jwk("k1"), EC.jwk("k2"))), tls=True) as served:
        async with fetching(served) as (jwks, _, records):
            assert kids(jwks) == {"k1", "k2"}
            assert len(jwks.current_keys().candidates("k1", "RS256")) == 1
            assert jwks.failure is None
            assert served.asked[0].startswith("GET /keys HTTP/1.1\r\n")
            assert (len(served.asked), records.of("jwks.refreshed")[0]["count"]) == (1, 2)
        await served.until(open=0)


async def test_a_rotation_is_followed_and_not_more_often_than_pause() -> None:
    """An unknown kid has them fetched again; many unknown ones within pause do not."""
    async with service(answer(body=published(RSA.jwk("k1"))), tls=True) as served, fetching(served) as (jwks, clock, _):
        served.answers = answer(body=published(other_rsa().jwk("k2")))
        for _ in range(20):
            await jwks.refresh()
        assert (kids(jwks), len(served.asked)) == ({"k1"}, 1)
        clock.now += 10.0
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(jwks.refresh)
        assert (kids(jwks), len(served.asked)) == ({"k2"}, 2)


async def test_they_are_fetched_again_after_refresh() -> None:
    """Without anybody asking, so that a key that was withdrawn is forgotten."""
    async with (
        service(answer(body=published(RSA.jwk("k1"))), tls=True) as served,
        fetching(served, refresh="50ms") as (jwks, _, _),
    ):
        served.answers = answer(body=published(other_rsa().jwk("k2")))
        with trio.fail_after(9):
            while kids(jwks) != {"k2"}:
                await trio.sleep(0.01)


BROKEN = {
    "an error": answer(500, body=published(RSA.jwk("bad"))),
    "a redirect": answer(302, "Location: https://localhost/", body=published(RSA.jwk("bad"))),
    "no JSON": answer(body=b"<html>"),
    "another JSON": answer(body=b"[]"),
    "no list of keys": answer(body=b'{"keys": {}}'),
    "a bomb": answer(body=b"[" * 200_000),
    "too much": answer(body=published(RSA.jwk("bad"), "x" * 300_000)),
    "nothing": b"HTTP/1.1",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_the_last_keys_hold_while_none_can_be_fetched_but_not_for_ever(broken: bytes) -> None:
    """For keep; then there are none. It is logged once, not at every try."""

    async def breaks(served: Service, head: str, stream: Stream) -> None:
        await stream.send_all(broken)

    async with (
        service(answer(body=published(RSA.jwk("k1"))), tls=True) as served,
        fetching(served, max_stale="1h") as (jwks, clock, records),
    ):
        served.answers = breaks
        for _ in range(3):
            clock.now += 10
            await jwks.refresh()
        assert kids(jwks) == {"k1"}
        assert jwks.failure is not None
        assert len(records.of("jwks.refresh_failed")) == 1
        assert records.of("jwks.refresh_failed")[0]["detail"] == jwks.failure
        clock.now += 3600
        assert kids(jwks) == set()
        served.answers = answer(body=published(RSA.jwk("k1")))
        await jwks.refresh()
        assert (kids(jwks), jwks.failure) == ({"k1"}, None)


@pytest.mark.parametrize(
    "keys", [[], [RSA.jwk("k1", use="enc")], ["RSA"]], ids=["empty", "keys for something else", "no keys at all"]
)
async def test_a_set_without_keys_withdraws_the_old_ones(keys: list[object]) -> None:
    """An issuer that publishes no usable key has withdrawn all of them; it is logged, once."""
    async with (
        service(answer(body=published(RSA.jwk("k1"))), tls=True) as served,
        fetching(served) as (jwks, clock, records),
    ):
        served.answers = answer(body=published(*keys))
        for _ in range(3):
            clock.now += 10
            await jwks.refresh()
        assert kids(jwks) == set()
        assert "published no usable key" in str(jwks.failure)
        assert [record["detail"] for record in records.of("jwks.refresh_failed")] == [jwks.failure]
        served.answers = answer(body=published(other_rsa().jwk("k2")))
        clock.now += 10
        await jwks.refresh()
        assert (kids(jwks), jwks.failure) == ({"k2"}, None)


async def test_one_that_does_not_answer_is_waited_for_within_timeout() -> None:
    """Other requests wait no longer, and nothing is left open."""

    async def silent(served: Service, head: str, stream: Stream) -> None:
        await stream.receive_some(1)

    async with service(silent, tls=True) as served, fetching(served, timeout="50ms") as (jwks, _, _):
        with trio.fail_after(9):
            while "no answer within timeout" not in str(jwks.failure):
                await trio.sleep(0.01)
        assert kids(jwks) == set()
        await served.until(open=0)


async def test_a_certificate_of_others_is_not_trusted() -> None:
    """The authorities of the system do not know the one of this test."""
    async with service(tls=True) as served, fetching(served, ca=None) as (jwks, _, _):
        assert "certificate verify failed" in str(jwks.failure)
        assert served.asked == []


def test_http_is_refused_in_the_file() -> None:
    """And so are secrets as algorithms, and none at all."""
    good: dict[str, Any] = {"jwks": "https://a/b", "algorithms": ["RS256"]}
    JwksConfig.model_validate(good)
    for wrong in ({"jwks": "http://a/b"}, {"jwks": "unix:/x"}, {"algorithms": ["HS256"]}, {"algorithms": ["none"]},
                  {"algorithms": []}, {"refresh": "off"}, {"max_response_bytes": "100"}):  # fmt: skip
        with pytest.raises(ValidationError):
            JwksConfig.model_validate({**good, **wrong})


@pytest.mark.parametrize(
    ("pair", "algorithms"), [(RSA, {"RS256", "PS256"}), (EC, {"ES256"}), (ED, {"EdDSA"})], ids=["rsa", "ec", "ed"]
)
def test_a_key_is_for_what_fits_it(pair: Pair, algorithms: set[str]) -> None:
    """Of the algorithms that the configuration names, and of that which the key names."""
    (key,) = read(published(pair.jwk("k")), EVERY)
    assert (key.algorithms, key.kid) == (algorithms, "k")
    (key,) = read(published(pair.jwk(None, alg=pair.algorithm, use="sig", key_ops=["verify"])), EVERY)
    assert (key.algorithms, key.kid) == ({pair.algorithm}, None)


SECRET_JWK = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "k", "alg": "HS256"}
LEFT_OUT = [
    SECRET_JWK,
    RSA.jwk("k", use="enc"),
    RSA.jwk("k", key_ops=["encrypt"]),
    RSA.jwk("k", key_ops="verify"),
    RSA.jwk("k", alg="HS256"),
    RSA.jwk("k", alg="RS512"),
    RSA.jwk("k", d="AQAB"),
    {**RSA.jwk("k"), "kid": 5},
    {**RSA.jwk("k"), "kid": "k" * 300},
    {**RSA.jwk("k"), "n": 5},
    {**RSA.jwk("k"), "n": "!"},
    {**RSA.jwk("k"), "n": "AQAB"},
    {**RSA.jwk("k"), "e": ""},
    {**RSA.jwk("k"), "kty": ["RSA"]},
    {**EC.jwk("k"), "crv": "P-384"},
    {**EC.jwk("k"), "crv": "secp256k1"},
    {**EC.jwk("k"), "y": "AAAA"},
    {**ED.jwk("k"), "x": "AAAA"},
    {**ED.jwk("k"), "crv": "X25519"},
    {"kty": "RSA"},
    {},
    None,
    "RSA",
]


@pytest.mark.parametrize("entry", LEFT_OUT, ids=range(len(LEFT_OUT)))
def test_what_is_no_public_key_is_left_out(entry: object) -> None:
    """Secrets, private keys, keys for other purposes and broken ones; the others of the set hold."""
    assert [key.kid for key in read(published(entry, EC.jwk("good")), EVERY)] == ["good"]


@pytest.mark.parametrize("pair", [RSA, EC, ED], ids=lambda pair: pair.jwk("k")["kty"])
@pytest.mark.parametrize("value", [[], {}, None, 5])
def test_parameters_of_other_kinds_of_keys_are_ignored(pair: Pair, value: object) -> None:
    """Whatever they are; RFC 7517 section 4 wants members that are not understood ignored."""
    others = {"crv", "x", "y", "n", "e"} - set(pair.jwk("k"))
    assert [key.kid for key in read(published(pair.jwk("k", **dict.fromkeys(others, value))), EVERY)] == ["k"]


def test_the_number_of_keys_is_bounded() -> None:
    """A long set costs no more than that."""
    assert len(read(published(*[RSA.jwk("k")] * (MAX_JWKS_KEYS + 50)), EVERY)) == MAX_JWKS_KEYS


async def test_without_a_thread_the_last_keys_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: that ends neither the process nor what tokens are good for."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    keys = answer(body=published(RSA.jwk("k1")))
    async with service(keys, tls=True) as served, fetching(served) as (jwks, clock, records):
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", fail)
            clock.now += 20
            await jwks.refresh()
        assert kids(jwks) == {"k1"}
        assert jwks.failure == f"https://localhost:{served.port}/keys: can't start new thread"
        assert [record["detail"] for record in records.of("jwks.refresh_failed")] == [jwks.failure]
        clock.now += 20
        await jwks.refresh()
        assert jwks.failure is None
