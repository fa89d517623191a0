"""JSON Web Tokens as text: the compact form of a signed one (RFC 7515 section 7.1), and whether its signature holds.

Lives here: taking a token apart, what its header may say, the signature. Must not live here: which keys there are
(`jwt_keys`, `jwks`), what a token claims (`jwt_claims`). Whatever the text is, the outcome is a value.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wsbridge.auth.jwt_keys import Key
from wsbridge.protocol.head import shown

LARGEST: Final = 8192
"""Bytes of a token."""
LONGEST_KID: Final = 256
"""Characters of the name of a key."""
REFUSED: Final = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")
"""Header parameters that name a key of the sender's own, change the rules, or belong to encrypted tokens."""

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class NoObjectError(ValueError):
    """A text that is not exactly one JSON object."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose form is right; nothing of it is proved yet.

    Attributes:
        text: As it came.
        algorithm: What its header says.
        kid: Name of the key, as its header says.
        payload: What it claims, not decoded.
    """

    text: str = field(repr=False)
    algorithm: str
    kid: str | None
    payload: bytes = field(repr=False)


def read_token(text: str) -> Token | str:
    """Take a token apart.

    Returns:
        The token; or one sentence that says what is wrong with it.
    """
    if len(text) > LARGEST:
        return f"the token has {len(text)} bytes, and the limit is {LARGEST}"
    found = _COMPACT.fullmatch(text)
    if found is None:
        return "the token is not three parts in base64url"
    parts = [_decoded(part) for part in found.groups()]
    if None in parts:
        return "the token is not base64url"
    try:
        header = json_object(parts[0] or b"")
    except NoObjectError:
        return "the token's header is not a JSON object"
    for name in REFUSED:
        if name in header:
            return f"the token's header has {name}, which is not taken"
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        return "the token's header names no algorithm"
    if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
        return "the token's kid is not a short text"
    return Token(text, algorithm, kid, parts[1] or b"")


def holds(token: Token, keys: Sequence[Key]) -> bool:
    """Tell whether one of the keys made a token's signature; each is for the token's algorithm."""
    import jwt

    verifier = jwt.PyJWS(algorithms=[token.algorithm])
    for key in keys:
        if token.algorithm not in key.algorithms:
            continue
        try:
            verifier.decode_complete(token.text, key.material, algorithms=[token.algorithm])
        except jwt.PyJWTError:
            continue
        return True
    return False


def json_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no name twice, no NaN and no infinity.

    Raises:
        NoObjectError: It is none, or is nested too deep, or has a number of thousands of digits.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise NoObjectError("not a JSON object") from None
    if not isinstance(found, dict):
        raise NoObjectError("not a JSON object")
    return found


def told(token: Token) -> str:
    """Name the key and the algorithm that a token asks for, for the log."""
    kid = "no kid" if token.kid is None else f"kid {shown(token.kid, 64)}"
    return f"{shown(token.algorithm, 16, quote='')} with {kid}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NoObjectError("a name stands twice")
    return found


def _refuse(name: str) -> Any:
    raise NoObjectError(f"{name} is no number of JSON")


def _decoded(part: str) -> bytes | None:
    """Decode base64url without padding, in its canonical form alone (RFC 7515 section 2)."""
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None
    return data if urlsafe_b64encode(data).rstrip(b"=") == part.encode("ascii") else None
