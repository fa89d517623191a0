"""The form of a token, and its signature."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from tests.auth.signing import EC, ED, RSA, SECRET, claims, forged, other_rsa, part, signed, signed_raw
from tests.rejections import result_or_detail
from wsbridge.auth.jwt_keys import (
    MAX_JWT_BYTES,
    JwtKey,
    NotJsonObjectError,
    UnverifiedToken,
    describe_token,
    parse_json_object,
    parse_jwt,
    verify_signature,
)

OF_RSA = JwtKey(frozenset({"RS256"}), RSA.private.public_key())


def token(text: str) -> UnverifiedToken:
    """Read one whose form is right."""
    found = result_or_detail(parse_jwt, text)
    assert isinstance(found, UnverifiedToken), found
    return found


def test_a_token_is_parsed() -> None:
    """Its header gives algorithm and kid, its second part stays as it is."""
    found = token(signed(RSA, {"kid": "k1"}, sub="bob"))
    assert (found.algorithm, found.kid) == ("RS256", "k1")
    assert json.loads(found.payload)["sub"] == "bob"
    assert describe_token(found) == 'RS256 with kid "k1"'
    assert describe_token(token(signed(RSA))) == "RS256 with no kid"
    assert found.text not in repr(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not three parts"),
        ("a.b", "not three parts"),
        ("a.b.c.d.e", "not three parts"),
        ("a..c", "not three parts"),
        (f"{part({'alg': 'none'})}.{part(claims())}.", "not three parts"),
        ("é.b.c", "not three parts"),
        ("a=.b.c", "not three parts"),
        ("a.b.c", "not base64url"),
        (f"{part({'alg': 'RS256'})}.{part({})}.eB", "not base64url"),
        (forged(b"\xff", {}), "not a JSON object"),
        (forged([], {}), "not a JSON object"),
        (forged(b'{"alg":"RS256","alg":"none"}', {}), "not a JSON object"),
        (forged(b"[" * 5000, {}), "not a JSON object"),
        (forged(b'{"a":' * 1200, {}), "not a JSON object"),
        (forged(b'{"alg":"RS256","n":' + b"9" * 5000 + b"}", {}), "not a JSON object"),
        (forged(b'{"alg":NaN}', {}), "not a JSON object"),
        (forged({}, {}), "names no algorithm"),
        (forged({"alg": ["RS256"]}, {}), "names no algorithm"),
        (forged({"alg": "RS256", "kid": 5}, {}), "kid is not a short text"),
        (forged({"alg": "RS256", "kid": ["k1"]}, {}), "kid is not a short text"),
        (forged({"alg": "RS256", "kid": "k" * 257}, {}), "kid is not a short text"),
        (forged({"alg": "RS256"}, {"x": "x" * MAX_JWT_BYTES}), "and the limit is 8192"),
    ],
)
def test_what_is_no_token_is_reported(text: str, why: str) -> None:
    """Whatever comes, a sentence says what is wrong with it."""
    found = result_or_detail(parse_jwt, text)
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://evil.example/keys"),
        ("x5u", "https://evil.example/cert"),
        ("jwk", RSA.jwk("k1")),
        ("x5c", ["MII"]),
        ("crit", ["exp"]),
        ("b64", True),
        ("zip", "DEF"),
        ("enc", "A256GCM"),
        ("jku", None),
    ],
)
def test_headers_that_bring_a_key_or_change_the_rules_are_refused(name: str, value: object) -> None:
    """Even where the signature is good."""
    text = signed_raw(RSA, {"alg": "RS256", name: value}, claims())
    assert result_or_detail(parse_jwt, text) == f"the token's header has {name}, which is not supported"


@pytest.mark.parametrize("pair", [RSA, EC, ED], ids=["rsa", "ec", "ed"])
def test_a_good_signature_holds(pair: object) -> None:
    """Each algorithm with its key; a change of any part breaks it."""
    found = token(signed(pair))
    key = JwtKey(frozenset({found.algorithm}), pair.private.public_key())
    assert verify_signature(found, [key])
    header, payload, signature = found.text.split(".")
    changed = [
        f"{part({'alg': found.algorithm, 'kid': 'x'})}.{payload}.{signature}",
        f"{header}.{part(claims(sub='root'))}.{signature}",
        f"{header}.{payload}.{part(bytes(64))}",
        f"{header}.{payload}.{part(b'x')}",
    ]
    assert not any(verify_signature(token(text), [key]) for text in changed)


def test_a_secret_signs_as_well() -> None:
    """HS256 with the right bytes."""
    key = JwtKey(frozenset({"HS256"}), SECRET.encode())
    assert verify_signature(token(signed(SECRET)), [key])
    assert not verify_signature(token(signed(SECRET[::-1])), [key])


def test_one_of_several_keys_is_enough() -> None:
    """Those of other algorithms are not tried, and wrong ones do no harm."""
    pairs = (EC, other_rsa())
    keys = [JwtKey(frozenset({pair.algorithm}), pair.private.public_key()) for pair in pairs]
    assert not verify_signature(token(signed(RSA)), keys)
    assert verify_signature(token(signed(RSA)), [*keys, OF_RSA])


def test_a_public_key_is_no_secret() -> None:
    """A token signed by HS256 with the text of the public key does not hold, whatever its header says."""
    for algorithm in ("HS256", "RS256"):
        text = f"{part({'alg': algorithm})}.{part(claims())}"
        found = token(f"{text}.{part(hmac.new(RSA.public, text.encode(), hashlib.sha256).digest())}")
        assert not verify_signature(found, [OF_RSA])


def test_json_is_read_strictly() -> None:
    """What two readers could read in two ways is refused."""
    assert parse_json_object(b'{"a": {"b": [1]}}') == {"a": {"b": [1]}}
    for text in (
        b"",
        b"[]",
        b"1",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":Infinity}',
        b"\xef\xbb\xbf{}",
    ):
        with pytest.raises(NotJsonObjectError):
            parse_json_object(text)
