"""Claims: what a token says of its bearer, and whether it lets him in (RFC 7519 section 4.1).

Lives here: the rules for iss, aud, exp, nbf and iat, and the identity that claims make. Must not live here: whether the
token is genuine (`jwt_token`); that was asked before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsbridge.auth.identity import Identity
from wsbridge.auth.jwt_token import NoObjectError, json_object
from wsbridge.protocol.head import shown

LAST = 1e11
"""Seconds since 1970 beyond which no time is meant."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What claims must say.

    Attributes:
        issuers: One of these must be iss; None does not look at it.
        audiences: One of these must be in aud; None does not look at it.
        name: The claim that names the bearer.
        leeway: Seconds by which clocks may differ.
        max_age: Seconds from now after which the identity ends at the latest.
    """

    issuers: frozenset[str] | None
    audiences: frozenset[str] | None
    name: str = "sub"
    leeway: float = 30.0
    max_age: float | None = None


def judge(payload: bytes, rules: Rules, now: float) -> Identity | str:
    """Judge what a genuine token claims.

    Args:
        payload: Its second part, decoded.
        rules: What it must say.
        now: Seconds since 1970.

    Returns:
        Who its bearer is; or one sentence that says why it lets nobody in.
    """
    try:
        claims = json_object(payload)
    except NoObjectError:
        return "what the token claims is not a JSON object"
    problem = _times(claims, rules.leeway, now) or _for_us(claims, rules)
    if problem is not None:
        return problem
    name = claims.get(rules.name)
    if not isinstance(name, str) or not name or not name.isprintable():
        return f"the token's {rules.name} is not a printable text that could name its bearer"
    expires = claims["exp"] + rules.leeway
    if rules.max_age is not None:
        expires = min(expires, now + rules.max_age)
    return Identity(name, "jwt", flat(claims), float(expires))


def flat(claims: Mapping[str, Any]) -> dict[str, str]:
    """Give the claims that are printable text, numbers or booleans, as text; others are left out."""
    found = {name: _text(value) for name, value in claims.items() if name.isprintable()}
    return {name: text for name, text in found.items() if text is not None}


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value if value.isprintable() else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _times(claims: Mapping[str, Any], leeway: float, now: float) -> str | None:
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LAST < value < LAST:
            return "the token has no exp" if value is None else f"the token's {name} is no time"
    if now >= claims["exp"] + leeway:
        return f"the token expired {now - claims['exp']:.0f} s ago"
    for name in ("nbf", "iat"):
        if claims.get(name) is not None and claims[name] > now + leeway:
            return f"the token's {name} is {claims[name] - now:.0f} s in the future"
    return None


def _for_us(claims: Mapping[str, Any], rules: Rules) -> str | None:
    issuer, audience = claims.get("iss"), claims.get("aud")
    if rules.issuers is not None and not (isinstance(issuer, str) and issuer in rules.issuers):
        return f"the token's issuer is {_named(issuer)}"
    if rules.audiences is None:
        return None
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(value, str) and value in rules.audiences for value in audiences):
        return f"the token is for {_named(audience)}"
    return None


def _named(value: object) -> str:
    return "not written" if value is None else shown(json.dumps(value), 100, quote="")
