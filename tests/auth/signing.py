"""Keys and tokens of the tests: whatever a good or a bad issuer could sign."""

from __future__ import annotations

import functools
import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = "0123456789abcdef0123456789abcdef"
ISSUER = "https://id.example.org"
AUDIENCE = "wsbridge"


class Pair:
    """A private key, and what the world sees of it."""

    def __init__(self, private: Any, algorithm: str) -> None:
        self.private = private
        self.algorithm = algorithm
        self.public: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.secret: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def jwk(self, kid: str | None, **more: object) -> dict[str, Any]:
        """Give it as an entry of a JWKS."""
        algorithm: Any = jwt.PyJWS().get_algorithm_by_name(self.algorithm)
        found: dict[str, Any] = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        found.pop("key_ops", None)
        return {**found, **({} if kid is None else {"kid": kid}), **more}


def rsa_pair(bits: int = 2048) -> Pair:
    """Make a key for RS256."""
    return Pair(rsa.generate_private_key(65537, bits), "RS256")


def ec_pair(curve: ec.EllipticCurve | None = None, algorithm: str = "ES256") -> Pair:
    """Make a key for ES256."""
    return Pair(ec.generate_private_key(curve or ec.SECP256R1()), algorithm)


RSA = rsa_pair()
EC = ec_pair()
ED = Pair(ed25519.Ed25519PrivateKey.generate(), "EdDSA")


@functools.cache
def other_rsa() -> Pair:
    """Give a second key for RS256."""
    return rsa_pair()


def claims(now: float | None = None, **more: object) -> dict[str, object]:
    """Give claims that are right, with changes; a value of None leaves a claim out."""
    at = int(time.time() if now is None else now)
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": at, "exp": at + 300, **more}
    return {name: value for name, value in found.items() if value is not None}


def signed(pair: Pair | str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """Sign claims, by HS256 with a text."""
    if isinstance(pair, str):
        return jwt.encode(claims(**changes), pair, "HS256", headers)
    return jwt.encode(claims(**changes), pair.private, pair.algorithm, headers)


def part(value: object) -> str:
    """Write one part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: object, payload: object, signature: bytes = b"x") -> str:
    """Write a token that nobody signed."""
    return f"{part(header)}.{part(payload)}.{part(signature)}"


def signed_raw(pair: Pair, header: object, payload: object) -> str:
    """Sign any two parts."""
    algorithm: Any = jwt.PyJWS().get_algorithm_by_name(pair.algorithm)
    text = f"{part(header)}.{part(payload)}"
    return f"{text}.{part(algorithm.sign(text.encode(), pair.private))}"
