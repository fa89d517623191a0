"""By JSON Web Token: who signed the token that a client shows, and what it says, is what lets him in.

Lives here: the section behind `auth: {kind: jwt, …}` and the class: which keys a token is tried with. Must not live
here: where a token stands (`credentials`), its form (`jwt_token`), keys (`jwt_keys`, `jwks`), claims (`jwt_claims`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Final, Literal

import trio
from pydantic import AfterValidator, BeforeValidator, Discriminator, PlainValidator, Tag

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.credentials import TokenSection, denied, token_of
from wsbridge.auth.identity import Denied, Identity
from wsbridge.auth.jwks import Jwks, JwksConfig
from wsbridge.auth.jwt_claims import Rules, judge
from wsbridge.auth.jwt_keys import JwtKeyConfig, KeyRing, key_of
from wsbridge.auth.jwt_token import Token, holds, read_token, told
from wsbridge.config.choice import ONE_OR_MANY, filled, listed, unique
from wsbridge.config.extra import missing
from wsbridge.config.scalars import Duration, DurationOrOff
from wsbridge.config.section import TAG, Context, Fault
from wsbridge.config.text import as_text
from wsbridge.reasons import Reason

ANY: Final = "any"
"""Stands for every issuer or audience, and for none."""
MOST_LEEWAY: Final = 600.0
"""Seconds."""


def read_claim(value: object) -> str:
    """Read a text that a claim has, or the name of one."""
    text = as_text(value)
    if not text or not text.isprintable():
        raise ValueError("must be printable text, and not empty")
    return text


def any_alone(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that `any` does not stand among others."""
    if ANY in values and len(values) > 1:
        raise ValueError('"any" takes all: it stands alone')
    return values


def short(seconds: float) -> float:
    """Check that clocks may not differ by so much that an old token is as good as a new one."""
    if seconds > MOST_LEEWAY:
        raise ValueError(f"must be {MOST_LEEWAY / 60:g}m at most")
    return seconds


def _form(value: object) -> str:
    fetched = isinstance(value, JwksConfig) or (isinstance(value, dict) and "jwks" in value)
    return f"{TAG}jwks" if fetched else f"{TAG}key"


AnyKey = Annotated[
    Annotated[JwksConfig, Tag(f"{TAG}jwks")] | Annotated[JwtKeyConfig, Tag(f"{TAG}key")], Discriminator(_form)
]
Claim = Annotated[str, PlainValidator(read_claim)]
OneOf = Annotated[
    tuple[Claim, ...],
    BeforeValidator(listed),
    AfterValidator(filled),
    AfterValidator(unique),
    AfterValidator(any_alone),
    ONE_OR_MANY,
]


class JwtConfig(TokenSection):
    """Tokens signed by somebody who is trusted."""

    kind: Literal["jwt"] = "jwt"
    """jwt: by a JSON Web Token."""
    keys: Annotated[tuple[AnyKey, ...], AfterValidator(filled)]
    """Keys that tokens may be signed with: {algorithm: …, file or secret: …}, or {jwks: https://…, algorithms: […]}."""
    issuer: OneOf
    """Who must have issued a token (iss): one or a list. any: it is not looked at."""
    audience: OneOf
    """Whom a token must be for (aud): one or a list. any: it is not looked at, and tokens for others are taken, too."""
    name: Claim = "sub"
    """The claim that names who the client is."""
    leeway: Annotated[Duration, AfterValidator(short)] = 30.0
    """By how much clocks may differ; 10m at most."""
    max_age: DurationOrOff = None
    """Ends a connection so long after the token was shown, even if the token itself holds longer."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell what is not installed."""
        fetched = any(isinstance(key, JwksConfig) for key in self.keys)
        yield from missing(context, "jwt", "cryptography", *(("h11",) if fetched else ()))

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of tokens that were made for others."""
        if self.audience == (ANY,):
            text = "whoever gets a token of this issuer for another service, and that service too, may come in"
            yield Fault(("audience",), text, "W017")


class JwtAuth:
    """See `wsbridge.auth.auth.Auth`.

    Raises:
        ValueError: A key cannot be used; one sentence.
    """

    def __init__(self, config: JwtConfig, lent: Lent) -> None:
        self._sources = config.sources
        self._wall = lent.wall
        self._ring = KeyRing(key_of(key) for key in config.keys if isinstance(key, JwtKeyConfig))
        self._fetched = [Jwks(key, lent) for key in config.keys if isinstance(key, JwksConfig)]
        self._algorithms = self._ring.algorithms.union(*(one.algorithms for one in self._fetched))
        self._rules = Rules(
            issuers=_all_of(config.issuer),
            audiences=_all_of(config.audience),
            name=config.name,
            leeway=config.leeway,
            max_age=config.max_age,
        )

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Look for the token, its signature and its claims, in this order."""
        shown = token_of(caller, self._sources)
        if isinstance(shown, Denied):
            return shown
        token = read_token(shown.token)
        if isinstance(token, str):
            return denied(token)
        if token.algorithm not in self._algorithms:
            return denied(f"the token is signed by {told(token)}, and no key is for that algorithm")
        if not self._genuine(token):
            await self._fetch_again(token)
            if not self._genuine(token):
                return self._unproved(token)
        found = judge(token.payload, self._rules, self._wall())
        return denied(found) if isinstance(found, str) else replace(found, by_cookie=shown.by_cookie)

    def _genuine(self, token: Token) -> bool:
        rings = (self._ring, *(one.ring() for one in self._fetched))
        return any(holds(token, ring.fitting(token.kid, token.algorithm)) for ring in rings)

    def _strangers(self, token: Token) -> list[Jwks]:
        """Give the issuers that may have the token's key by now; none if a key of its name is known."""
        rings = (self._ring, *(one.ring() for one in self._fetched))
        if token.kid is not None and any(token.kid in ring.kids() for ring in rings):
            return []
        return [one for one in self._fetched if token.algorithm in one.algorithms]

    async def _fetch_again(self, token: Token) -> None:
        async with trio.open_nursery() as nursery:
            for one in self._strangers(token):
                nursery.start_soon(one.newer)

    def _unproved(self, token: Token) -> Denied:
        """Tell a token that nobody signed from one whose key could not be had."""
        failures = [one.failure for one in self._strangers(token) if one.failure is not None]
        if failures:
            return Denied(f"the key of the token ({told(token)}) cannot be had: {failures[0]}", Reason.AUTH_UNAVAILABLE)
        return denied(f"no key here made the token's signature ({told(token)})")


def _all_of(written: tuple[str, ...]) -> frozenset[str] | None:
    return None if written == (ANY,) else frozenset(written)
