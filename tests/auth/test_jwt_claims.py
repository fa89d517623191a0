"""What a token claims, and whether that lets its bearer in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.auth.signing import AUDIENCE, ISSUER, claims
from tests.rejections import result_or_detail
from wsbridge.auth.identity import Identity
from wsbridge.auth.jwt import JwtRules, flatten_claims, validate_claims

NOW = 1_700_000_000.0
RULES = JwtRules(frozenset({ISSUER}), frozenset({AUDIENCE, "other"}))


def judged(rules: JwtRules = RULES, **changes: object) -> Identity | str:
    """Judge claims that are right but for these changes."""
    return result_or_detail(validate_claims, json.dumps(claims(NOW, **changes)).encode(), rules, NOW)


def test_right_claims_make_an_identity() -> None:
    """Name, claims as text, and the end with its leeway."""
    found = judged(admin=True, level=7, weight=1.5, note="héllo", groups=["a"], realm={"a": "b"}, nothing="")
    assert isinstance(found, Identity)
    assert (found.name, found.method, found.expires, found.by_cookie) == ("alice", "jwt", NOW + 330, False)
    assert found.claims == {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": "1700000000", "exp": "1700000300",
        "admin": "true", "level": "7", "weight": "1.5", "note": "héllo", "nothing": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": None}, "the token has no exp"),
        ({"exp": NOW - 30}, "the token expired 30 s ago"),
        ({"exp": NOW - 1e6}, "the token expired 1000000 s ago"),
        ({"exp": "1800000000"}, "the token's exp is no time"),
        ({"exp": True}, "the token's exp is no time"),
        ({"exp": [NOW + 9]}, "the token's exp is no time"),
        ({"exp": 10**400}, "the token's exp is no time"),
        ({"exp": 1e300}, "the token's exp is no time"),
        ({"nbf": NOW + 31}, "the token's nbf is 31 s in the future"),
        ({"nbf": "soon"}, "the token's nbf is no time"),
        ({"iat": NOW + 31}, "the token's iat is 31 s in the future"),
        ({"iat": {}}, "the token's iat is no time"),
        ({"iss": None}, "the token's issuer is not written"),
        ({"iss": "https://evil.example"}, "the token's issuer is \\x22https://evil.example\\x22"),
        ({"iss": [ISSUER]}, "the token's issuer is"),
        ({"iss": ISSUER + "/"}, "the token's issuer is"),
        ({"aud": None}, "the token is for not written"),
        ({"aud": "Wsbridge"}, "the token is for"),
        ({"aud": ["a", "b"]}, "the token is for"),
        ({"aud": {"wsbridge": 1}}, "the token is for"),
        ({"aud": [["wsbridge"]]}, "the token is for"),
        ({"aud": []}, "the token is for"),
        ({"sub": None}, "the token's sub is not a printable text"),
        ({"sub": ""}, "the token's sub is not a printable text"),
        ({"sub": 7}, "the token's sub is not a printable text"),
        ({"sub": "a\r\nX: y"}, "the token's sub is not a printable text"),
        ({"sub": "\ud800"}, "the token's sub is not a printable text"),
    ],
)
def test_wrong_claims_let_nobody_in(changes: dict[str, object], why: str) -> None:
    """One that is missing, of another type or for others; the sentence says which."""
    found = judged(**changes)
    assert isinstance(found, str)
    assert why in found


def test_clocks_may_differ_by_the_leeway() -> None:
    """Just within it a token holds, for exp, nbf and iat; then its end is later by as much."""
    found = judged(exp=NOW - 29.9, nbf=NOW + 30, iat=NOW + 30)
    assert isinstance(found, Identity)
    assert found.expires == pytest.approx(NOW + 0.1)
    strict = replace(RULES, leeway=0.0)
    assert isinstance(judged(strict, exp=NOW + 0.5), Identity)
    assert "expired" in str(judged(strict, exp=NOW))
    assert "future" in str(judged(strict, nbf=NOW + 1))


def test_one_of_several_audiences_is_enough() -> None:
    """In the token and in the rules."""
    assert isinstance(judged(aud=["x", "other"]), Identity)
    assert isinstance(judged(aud="other"), Identity)


def test_what_is_not_asked_for_is_not_looked_at() -> None:
    """Issuer and audience may be left open; the times never."""
    rules = JwtRules(None, None)
    assert isinstance(judged(rules, iss=None, aud=None), Identity)
    assert "expired" in str(judged(rules, exp=NOW - 100))


def test_max_session_ends_it_earlier() -> None:
    """The earlier of the two ends counts."""
    for seconds, end in ((60.0, NOW + 60), (3600.0, NOW + 330)):
        found = judged(replace(RULES, max_session=seconds))
        assert isinstance(found, Identity)
        assert found.expires == end


def test_another_claim_may_be_the_name() -> None:
    """The one that the rules say."""
    found = judged(replace(RULES, name_claim="email"), email="a@example.org", sub=None)
    assert isinstance(found, Identity)
    assert found.name == "a@example.org"


def test_claims_that_could_do_harm_are_left_out() -> None:
    """Line breaks, broken Unicode and infinities neither get into headers nor into addresses."""
    assert flatten_claims({"a": "x\r\ny", "b\n": "x", "c": "\ud800", "d": float("inf"), "e": None, "f": -2}) == {
        "f": "-2"
    }


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b'"x"', b"\xff", b"[" * 9000, b'{"exp":1,"exp":2}'])
def test_what_is_no_object_claims_nothing(payload: bytes) -> None:
    """By any signer."""
    assert result_or_detail(validate_claims, payload, RULES, NOW) == "what the token claims is not a JSON object"
