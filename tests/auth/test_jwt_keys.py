"""Keys that tokens are verified with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.auth.signing import EC, ED, RSA, SECRET, Pair, ec_pair, rsa_pair
from tests.config.loading import LISTENERS, summaries, wrong
from wsbridge.auth.jwt_keys import MAX_KEYS_TRIED, JwtKey, KeyRing, key_problem


def auth(folder: Path, **key: object) -> list[str]:
    """Load a route with one key that is wrong; give code, path and message of what is reported."""
    way = {"kind": "jwt", "keys": [key], "issuer": "any", "audience": "x"}
    route = {"match": "any", "backend": "tcp://127.0.0.1:1", "auth": way}
    problems = wrong(LISTENERS + f"routes: {json.dumps({'r': route})}\n", folder=folder)
    assert len(problems) == 1
    return [*summaries(problems), problems[0].message]


@pytest.mark.parametrize(
    ("pem", "algorithm", "message"),
    [
        (RSA.public, "ES256", "holds no key of an elliptic curve, which ES256 needs"),
        (EC.public, "RS256", "holds no RSA key, which RS256 needs"),
        (EC.public, "ES384", "holds a key of the curve secp256r1; ES384 needs secp384r1"),
        (EC.public, "EdDSA", "holds no key for EdDSA"),
        (ED.public, "PS256", "holds no RSA key, which PS256 needs"),
        (RSA.secret, "RS256", "holds a private key: give the public one alone (openssl pkey -pubout)"),
        (rsa_pair(1024).public, "RS256", "holds an RSA key of 1024 bits: 2048 to 8192 are supported"),
        (ec_pair(ec.SECP256K1()).public, "ES256", "holds a key of the curve secp256k1; ES256 needs secp256r1"),
        (b"-----BEGIN CERTIFICATE-----\n", "RS256", "holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)"),
        (b"\0\xff", "RS256", "holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_at_start(tmp_path: Path, pem: bytes, algorithm: str, message: str) -> None:
    """The file is named, with what is wrong."""
    (tmp_path / "k.pem").write_bytes(pem)
    code, sentence = auth(tmp_path, algorithm=algorithm, file="k.pem")
    assert code == "E034 routes.r.auth.keys[0].file"
    assert sentence == f"{tmp_path}/k.pem {message}"


@pytest.mark.parametrize(
    ("secret", "algorithm", "message"),
    [
        ("x" * 31, "HS256", "a secret for HS256 needs 32 bytes at least; this one has 31"),
        ("x" * 47, "HS384", "a secret for HS384 needs 48 bytes at least; this one has 47"),
        ("x" * 63, "HS512", "a secret for HS512 needs 64 bytes at least; this one has 63"),
        (RSA.public.decode(), "HS256", "the secret for HS256 is a key of another kind, which others may know"),
        ("ssh-rsa " + "A" * 64, "HS256", "the secret for HS256 is a key of another kind, which others may know"),
    ],
)
def test_a_secret_that_is_none_is_refused_at_start(tmp_path: Path, secret: str, algorithm: str, message: str) -> None:
    """Short ones can be guessed, and public keys are known: HS256 with one would authenticate everybody."""
    (tmp_path / "s").write_text(secret)
    code, sentence = auth(tmp_path, algorithm=algorithm, secret={"file": "s"})
    assert (code, sentence) == ("E034 routes.r.auth.keys[0].secret", message)


def test_secrets_and_files_are_for_their_algorithms(tmp_path: Path) -> None:
    """HS algorithms need a secret, all others a file; none is not an algorithm."""
    (tmp_path / "k.pem").write_bytes(RSA.public)
    (tmp_path / "s").write_text(SECRET)
    assert auth(tmp_path, algorithm="HS256", file="k.pem")[0] == "E013 routes.r.auth.keys[0].file"
    assert auth(tmp_path, algorithm="RS256", file="k.pem", secret={"file": "s"})[0].startswith("E013")
    assert auth(tmp_path, algorithm="RS256")[0] == "E011 routes.r.auth.keys[0].file"
    assert auth(tmp_path, algorithm="HS256")[0] == "E011 routes.r.auth.keys[0].secret"
    assert auth(tmp_path, algorithm="none", file="k.pem")[0] == "E012 routes.r.auth.keys[0].algorithm"
    assert auth(tmp_path, algorithm="RS256", file="k.pem", kid="")[0] == "E012 routes.r.auth.keys[0].kid"


@pytest.mark.parametrize(
    ("pair", "fits"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (EC, {"ES256"}),
        (ED, {"EdDSA"}),
        (ec_pair(ec.SECP384R1(), "ES384"), {"ES384"}),
        (ec_pair(ec.SECP521R1(), "ES512"), {"ES512"}),
    ],
)
def test_what_fits_what(pair: Pair, fits: set[str]) -> None:
    """Each kind of key fits its own algorithms alone; no public key fits HS256."""
    every = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256"]
    assert {name for name in every if key_problem(pair.private.public_key(), name) is None} == fits


def test_a_kid_picks_among_the_keys_and_does_nothing_else() -> None:
    """The keys of that name come first, then those without one; an unknown name has these alone."""
    one, two = JwtKey(frozenset({"RS256"}), 1, "one"), JwtKey(frozenset({"ES256"}), 2, "one")
    bare = JwtKey(frozenset({"RS256"}), 3)
    ring = KeyRing([bare, one, two])
    assert ring.candidates("one", "RS256") == [one, bare]
    assert ring.candidates("one", "ES256") == [two]
    assert ring.candidates("../../etc/passwd", "RS256") == [bare]
    assert ring.candidates(None, "RS256") == [bare]
    assert ring.candidates("one", "HS256") == []
    assert (ring.kids(), ring.algorithms) == ({"one", None}, {"RS256", "ES256"})


def test_few_keys_are_tried() -> None:
    """Many keys of one name cost no more than a few."""
    assert len(KeyRing(JwtKey(frozenset({"RS256"}), at) for at in range(50)).candidates("x", "RS256")) == MAX_KEYS_TRIED


def test_no_key_is_shown() -> None:
    """Secrets stay out of tracebacks and logs."""
    assert SECRET not in repr(JwtKey(frozenset({"HS256"}), SECRET.encode()))
