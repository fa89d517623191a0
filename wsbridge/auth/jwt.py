"""JWT authenticator: verifies tokens and maps their claims to an identity.

Claims are checked here and not by PyJWT, which reads the system clock, accepts duplicate names and booleans as times,
and does not report how long ago a token expired or which issuer it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import trio
from pydantic import AfterValidator, BeforeValidator, Discriminator, PlainValidator, Tag

from wsbridge.auth.base import AuthServices
from wsbridge.auth.credentials import TokenSection, find_token, token_denied
from wsbridge.auth.identity import Identity, auth_unavailable
from wsbridge.auth.jwks import Jwks, JwksConfig
from wsbridge.auth.jwt_keys import (
    JwtKey,
    JwtKeyConfig,
    KeyRing,
    NotJsonObjectError,
    UnverifiedToken,
    describe_token,
    load_jwt_key,
    parse_json_object,
    parse_jwt,
    verify_signature,
)
from wsbridge.config.base import UNION_TAG, Issue, LoadContext, require_packages
from wsbridge.config.types import Duration, DurationOrOff, as_text
from wsbridge.config.unions import ONE_OR_MANY_SCHEMA, as_tuple, check_unique, non_empty
from wsbridge.context import ConnectionContext
from wsbridge.file_watcher import FileWatcher, Watched
from wsbridge.protocol.http1 import quoted
from wsbridge.reasons import Rejected
from wsbridge.taskless import need_task

MAX_TIMESTAMP = 1e11
"""Seconds since 1970; larger values are not accepted as times."""


@dataclass(frozen=True, slots=True)
class JwtRules:
    """Required values of claims.

    Attributes:
        issuers: Accepted values of iss; None: not checked.
        audiences: Values of which aud must have one; None: not checked.
        name_claim: The claim that has the name of the client.
        leeway: Allowed clock skew in seconds.
        max_session: Seconds from now after which the identity ends at the latest.
    """

    issuers: frozenset[str] | None
    audiences: frozenset[str] | None
    name_claim: str = "sub"
    leeway: float = 30.0
    max_session: float | None = None


def validate_claims(payload: bytes, rules: JwtRules, now: float) -> Identity:
    """Check the claims of a token whose signature is valid.

    Args:
        payload: Its second part, decoded.
        rules: Required values.
        now: Seconds since 1970.

    Returns:
        The identity of the client.

    Raises:
        Rejected: It is not valid here or now. This is not a failed login, since the signature is valid.
    """
    try:
        claims = parse_json_object(payload)
    except NotJsonObjectError:
        raise token_denied("what the token claims is not a JSON object", genuine=True) from None
    problem = _check_times(claims, rules.leeway, now) or _check_issuer_and_audience(claims, rules)
    if problem is not None:
        raise token_denied(problem, genuine=True)
    name = claims.get(rules.name_claim)
    if not isinstance(name, str) or not name or not name.isprintable():
        text = f"the token's {rules.name_claim} is not a printable text that could name its bearer"
        raise token_denied(text, genuine=True)
    expires = claims["exp"] + rules.leeway
    if rules.max_session is not None:
        expires = min(expires, now + rules.max_session)
    return Identity(name, "jwt", flatten_claims(claims), float(expires))


def flatten_claims(claims: Mapping[str, Any]) -> dict[str, str]:
    """Return the claims that are printable text, numbers or booleans, as text; others are omitted."""
    found = {name: _claim_text(value) for name, value in claims.items() if name.isprintable()}
    return {name: text for name, text in found.items() if text is not None}


def _claim_text(value: object) -> str | None:
    if isinstance(value, str):
        return value if value.isprintable() else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _check_times(claims: Mapping[str, Any], leeway: float, now: float) -> str | None:
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_TIMESTAMP < value < MAX_TIMESTAMP:
            return "the token has no exp" if value is None else f"the token's {name} is no time"
    if now >= claims["exp"] + leeway:
        return f"the token expired {now - claims['exp']:.0f} s ago"
    for name in ("nbf", "iat"):
        if claims.get(name) is not None and claims[name] > now + leeway:
            return f"the token's {name} is {claims[name] - now:.0f} s in the future"
    return None


def _check_issuer_and_audience(claims: Mapping[str, Any], rules: JwtRules) -> str | None:
    issuer, audience = claims.get("iss"), claims.get("aud")
    if rules.issuers is not None and not (isinstance(issuer, str) and issuer in rules.issuers):
        return f"the token's issuer is {_quoted(issuer)}"
    if rules.audiences is None:
        return None
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(value, str) and value in rules.audiences for value in audiences):
        return f"the token is for {_quoted(audience)}"
    return None


def _quoted(value: object) -> str:
    return "not written" if value is None else quoted(json.dumps(value), 100, quote="")


ANY_VALUE: Final = "any"
"""Accepts every issuer or audience, and tokens without one."""
MAX_LEEWAY: Final = 600.0
"""Maximum leeway, in seconds."""


def read_claim_text(value: object) -> str:
    """Read the value or the name of a claim."""
    text = as_text(value)
    if not text or not text.isprintable():
        raise ValueError("must be printable text, and not empty")
    return text


def check_any_alone(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that `any` is the only value if it is one."""
    if ANY_VALUE in values and len(values) > 1:
        raise ValueError('"any" accepts all: it must be the only entry')
    return values


def check_leeway(seconds: float) -> float:
    """Check the maximum of leeway: a larger one would make expired tokens valid for too long."""
    if seconds > MAX_LEEWAY:
        raise ValueError(f"must be {MAX_LEEWAY / 60:g}m at most")
    return seconds


def _key_type(value: object) -> str:
    fetched = isinstance(value, JwksConfig) or (isinstance(value, dict) and "jwks" in value)
    return f"{UNION_TAG}jwks" if fetched else f"{UNION_TAG}key"


JwtKeySource = Annotated[
    Annotated[JwksConfig, Tag(f"{UNION_TAG}jwks")] | Annotated[JwtKeyConfig, Tag(f"{UNION_TAG}key")],
    Discriminator(_key_type),
]
ClaimText = Annotated[str, PlainValidator(read_claim_text)]
ClaimValues = Annotated[
    tuple[ClaimText, ...],
    BeforeValidator(as_tuple),
    AfterValidator(non_empty),
    AfterValidator(check_unique),
    AfterValidator(check_any_alone),
    ONE_OR_MANY_SCHEMA,
]


class JwtConfig(TokenSection):
    """JSON Web Tokens from trusted issuers."""

    kind: Literal["jwt"] = "jwt"
    """jwt: JSON Web Token."""
    keys: Annotated[tuple[JwtKeySource, ...], AfterValidator(non_empty)]
    """Keys to verify tokens with: {algorithm: …, file or secret: …}, or {jwks: https://…, algorithms: […]}."""
    issuer: ClaimValues
    """Required issuer (iss), or a list of them. any: not checked."""
    audience: ClaimValues
    """Required audience (aud), or a list of them. any: not checked, so tokens for other services are accepted."""
    name: ClaimText = "sub"
    """Claim that holds the client's name."""
    leeway: Annotated[Duration, AfterValidator(check_leeway)] = 30.0
    """Allowed clock skew; at most 10m."""
    max_session: DurationOrOff = None
    """Maximum lifetime of a connection after authentication, even if the token is valid for longer."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Report missing packages."""
        yield from require_packages(context, "jwt")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn about tokens issued for other services."""
        if self.audience == (ANY_VALUE,):
            text = "tokens of this issuer for other services are accepted, from their users and those services"
            yield Issue(("audience",), text, "W017")


class JwtAuth:
    """See `wsbridge.auth.base.Authenticator`.

    Raises:
        ValueError: A key cannot be used; one sentence.
    """

    def __init__(self, config: JwtConfig, services: AuthServices) -> None:
        self._sources = config.sources
        self._wall_clock = services.wall_clock
        self._keys = [_watch_key(key, services.watcher) for key in config.keys if isinstance(key, JwtKeyConfig)]
        self._load_ring()
        for key in self._keys:
            key.on_change.append(self._load_ring)
        self._jwks = [Jwks(key, services) for key in config.keys if isinstance(key, JwksConfig)]
        self._algorithms = self._ring.algorithms.union(*(one.algorithms for one in self._jwks))
        self._rules = JwtRules(
            issuers=_accepted_values(config.issuer),
            audiences=_accepted_values(config.audience),
            name_claim=config.name,
            leeway=config.leeway,
            max_session=config.max_session,
        )

    async def identify(self, context: ConnectionContext) -> Identity:
        """Find the token, verify its signature and check its claims, in this order."""
        shown = find_token(context, self._sources)
        try:
            return replace(await self._verify(shown.token), by_cookie=shown.by_cookie)
        except Rejected as rejected:
            rejected.credential = hash(shown.token)
            raise

    async def _verify(self, text: str) -> Identity:
        token = parse_jwt(text)
        if token.algorithm not in self._algorithms:
            raise token_denied(f"the token is signed by {describe_token(token)}, and no key is for that algorithm")
        if not self._signature_valid(token):
            await self._refresh_keys(token)
            if not self._signature_valid(token):
                raise self._signature_denied(token)
        return validate_claims(token.payload, self._rules, self._wall_clock())

    def _load_ring(self) -> None:
        self._ring = KeyRing(key.current for key in self._keys)

    def _signature_valid(self, token: UnverifiedToken) -> bool:
        rings = (self._ring, *(one.current_keys() for one in self._jwks))
        return any(verify_signature(token, ring.candidates(token.kid, token.algorithm)) for ring in rings)

    def _key_sets_to_refresh(self, token: UnverifiedToken) -> list[Jwks]:
        """Return the key sets that may have a new key for the token; none if a key with its kid is known."""
        rings = (self._ring, *(one.current_keys() for one in self._jwks))
        if token.kid is not None and any(token.kid in ring.kids() for ring in rings):
            return []
        return [one for one in self._jwks if token.algorithm in one.algorithms]

    async def _refresh_keys(self, token: UnverifiedToken) -> None:
        await need_task()
        async with trio.open_nursery() as nursery:
            for one in self._key_sets_to_refresh(token):
                nursery.start_soon(one.refresh)

    def _signature_denied(self, token: UnverifiedToken) -> Rejected:
        """Distinguish a token that no key verifies from one whose key could not be fetched."""
        failures = [one.failure for one in self._key_sets_to_refresh(token) if one.failure is not None]
        if failures:
            return auth_unavailable(f"the key of the token ({describe_token(token)}) cannot be had: {failures[0]}")
        return token_denied(f"no key here made the token's signature ({describe_token(token)})")


def _watch_key(key: JwtKeyConfig, watcher: FileWatcher) -> Watched[JwtKey]:
    return watcher.watch(key, () if key.source is None else (key.source,), lambda: load_jwt_key(key))


def _accepted_values(values: tuple[str, ...]) -> frozenset[str] | None:
    return None if values == (ANY_VALUE,) else frozenset(values)
