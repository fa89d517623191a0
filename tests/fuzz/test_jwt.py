"""Fuzz: whatever is sent as a token is rejected, never accepted, and never an exception."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.auth.methods import auth_services, caller
from tests.auth.signing import AUDIENCE, EC, ISSUER, RSA, SECRET, claims, forged, part, signed, signed_raw
from tests.rejections import async_outcome, result_or_detail
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.auth.jwks import parse_jwks
from wsbridge.auth.jwt import JwtAuth, JwtConfig, JwtRules, validate_claims
from wsbridge.auth.jwt_keys import UnverifiedToken, parse_jwt
from wsbridge.reasons import Rejected


@functools.cache
def way() -> JwtAuth:
    """Build one with a key of each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rsa").write_bytes(RSA.public)
        (folder / "ec").write_bytes(EC.public)
        (folder / "secret").write_text(SECRET)
        keys = [
            {"algorithm": "RS256", "file": str(folder / "rsa")},
            {"algorithm": "ES256", "file": str(folder / "ec"), "kid": "k"},
            {"algorithm": "HS256", "secret": {"file": str(folder / "secret")}},
        ]
        config = {"kind": "jwt", "keys": keys, "issuer": ISSUER, "audience": AUDIENCE, "sources": ["authorization"]}
        return JwtAuth(JwtConfig.model_validate(config), auth_services(ANONYMOUS)[0])


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)
algorithms = st.one_of(st.sampled_from(["RS256", "ES256", "HS256", "none", "PS256", "EdDSA"]), values)
headers = st.fixed_dictionaries(
    {"alg": algorithms},
    optional={"kid": st.one_of(st.just("k"), values), "typ": values, "jku": values, "crit": values, "b64": values},
)
names = st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "x"])
times = st.one_of(st.integers(0, 2**33), values)
good = {"RS256": RSA, "ES256": EC}


async def shown(raw: bytes) -> None:
    """Show a token that nobody signed."""
    found = await async_outcome(way().identify(caller((b"authorization", b"Bearer " + raw))))
    assert isinstance(found, Rejected)


@given(st.one_of(st.binary(max_size=300), st.text("abcABC019-_.=", max_size=300).map(str.encode)))
async def test_any_bytes(raw: bytes) -> None:
    """Whatever is in the header."""
    await shown(raw)


@given(headers, values, st.binary(max_size=300))
async def test_any_parts(header: object, payload: object, signature: bytes) -> None:
    """JSON of any kind in the right form, with a signature of any bytes."""
    await shown(forged(header, payload, signature or b"x").encode())


@given(st.integers(0, 2), st.integers(0, 2000), st.integers(0, 255), st.sampled_from([RSA, EC, SECRET]))
async def test_any_change_of_a_good_one(which: int, at: int, to: int, pair: object) -> None:
    """One character other than it was."""
    parts = signed(pair).encode().split(b".")
    changed = bytearray(parts[which])
    at %= len(changed)
    if changed[at] != to:
        changed[at] = to
        await shown(b".".join([*parts[:which], bytes(changed), *parts[which + 1 :]]))


@given(st.dictionaries(names, st.one_of(times, values), max_size=6))
async def test_any_claims_of_a_trusted_issuer(changes: dict[str, object]) -> None:
    """Signed as it should be: an identity only if all rules hold, and then with a name and an end."""
    payload = {**claims(), **changes}
    found = await async_outcome(
        way().identify(
            caller((b"authorization", b"Bearer " + signed_raw(EC, {"alg": "ES256", "kid": "k"}, payload).encode()))
        )
    )
    if isinstance(found, Identity):
        assert payload["iss"] == ISSUER
        assert found.name == payload["sub"]
        assert found.expires is not None
        assert all(text.isprintable() for text in (*found.claims, *found.claims.values()))


@given(st.binary(max_size=200))
def test_any_bytes_as_claims(payload: bytes) -> None:
    """A sentence, whatever was signed."""
    assert isinstance(result_or_detail(validate_claims, payload, JwtRules(None, None), 1.7e9), str)


@given(st.text(max_size=200))
def test_any_text_as_a_token(text: str) -> None:
    """A token or a sentence."""
    assert isinstance(result_or_detail(parse_jwt, text), (UnverifiedToken, str))


fields = st.sampled_from(["kty", "n", "e", "crv", "x", "y", "use", "alg", "kid", "key_ops", "d"])
words = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "RS256", "AQAB", part(bytes(range(32)))])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.dictionaries(fields, st.one_of(words, values), max_size=8), max_size=3).map(
            lambda entries: json.dumps({"keys": entries}).encode()
        ),
    )
)
def test_any_bytes_as_a_set_of_keys(body: bytes) -> None:
    """Usable keys, or none, or no key set at all."""
    for key in parse_jwks(body, frozenset({"RS256", "ES256", "EdDSA"})) or ():
        assert key.algorithms
