"""JWKS: keys that a token issuer publishes over https, fetched in the background (RFC 7517 section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import trio
from pydantic import AfterValidator

from wsbridge.auth.base import AuthServices
from wsbridge.auth.jwt_keys import (
    MAX_KID_LENGTH,
    AsymmetricAlgorithm,
    FetchedKeys,
    JwtKey,
    KeyRing,
    NotJsonObjectError,
    key_problem,
    parse_json_object,
)
from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.paths import FilePath
from wsbridge.config.types import PositiveDuration, Size, at_least, at_most
from wsbridge.config.unions import check_unique, non_empty
from wsbridge.config.urls import HttpsUrl
from wsbridge.log.logger import log
from wsbridge.net import tls
from wsbridge.worker_thread import NoThreadError, run_in_thread

MAX_JWKS_KEYS: Final = 100
"""Keys read from one response."""
JWK_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""The parameters of a public key, by `kty` (RFC 7518 section 6, RFC 8037 section 2)."""
EC_CURVE_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class JwksConfig(Section):
    """JSON Web Key Set, fetched from an issuer."""

    jwks: HttpsUrl
    """JWKS URL, https://host/path; redirects are not followed."""
    algorithms: Annotated[tuple[AsymmetricAlgorithm, ...], AfterValidator(non_empty), AfterValidator(check_unique)]
    """Allowed algorithms of these keys; HS algorithms are not possible."""
    ca: FilePath | None = None
    """CA bundle (PEM) to verify the server. Default: the system trust store."""
    refresh: PositiveDuration = 600.0
    """How often the keys are fetched."""
    min_refresh_interval: PositiveDuration = 10.0
    """Minimum time between two fetches, for an unknown kid or after a failure."""
    max_stale: PositiveDuration = 86400.0
    """How long the last keys stay valid while none can be fetched."""
    timeout: PositiveDuration = 5.0
    """Timeout of a fetch."""
    max_response_bytes: Annotated[Size, AfterValidator(at_least(1024)), AfterValidator(at_most(16 * 1024 * 1024))] = (
        256 * 1024
    )
    """Maximum size of the response."""

    def validate_values(self, context: LoadContext) -> list[Issue]:
        """Check whether the CA bundle can be used."""
        return list(tls.validate_ca(self.ca, context))


class Jwks:
    """The keys of one issuer: `run` fetches them, and the other methods look at what it fetched.

    No token causes more than one request in `min_refresh_interval`.

    Args:
        config: Where, and how often.
        services: Its background tasks and resolver are used.
        clock: Seconds that keys age by.

    Raises:
        TlsError: The CA bundle cannot be used.
    """

    def __init__(
        self, config: JwksConfig, services: AuthServices, clock: Callable[[], float] = trio.current_time
    ) -> None:
        from wsbridge.net.http_client import HttpClient

        self._config = config
        self._algorithms = frozenset(config.algorithms)
        self._clock = clock
        context = tls.watched_client_context(services.watcher, tls.ClientTlsOptions(config.ca))
        self._client = HttpClient(config.jwks, services.resolver, lambda: context.current)
        source = (str(config.jwks), self._algorithms, str(config.ca or ""))
        self._fetched = services.fetched_keys.setdefault(source, FetchedKeys())
        self._last_attempt: float | None = None  # when the last fetch ended; None while a fetch runs
        self._refresh_requested, self._refresh_done = trio.Event(), trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        services.background_tasks.start(self._client.run)
        services.background_tasks.start(self.run)

    @property
    def failure(self) -> str | None:
        """Why the keys may be out of date; None if the last fetch succeeded."""
        return self._fetched.failure

    @property
    def algorithms(self) -> frozenset[str]:
        """The algorithms that its keys may be used for."""
        return self._algorithms

    def current_keys(self) -> KeyRing:
        """Return the keys that are valid now; none if the last ones are too old."""
        if (
            self._fetched.last_success is not None
            and self._clock() < self._fetched.last_success + self._config.max_stale
        ):
            return self._fetched.ring
        return KeyRing()

    async def refresh(self) -> None:
        """Fetch the keys, or wait for a running fetch; at most every `min_refresh_interval`."""
        if self._last_attempt is not None:
            if self._clock() < self._last_attempt + self._config.min_refresh_interval:
                return
            self._refresh_requested.set()
        with trio.move_on_after(self._config.timeout):
            await self._refresh_done.wait()

    async def run(self) -> None:
        """Fetch the keys, again and again."""
        while True:
            self._last_attempt, self._refresh_requested = None, trio.Event()
            await self._fetch()
            self._last_attempt = self._clock()
            done, self._refresh_done = self._refresh_done, trio.Event()
            done.set()
            with trio.move_on_after(
                self._config.refresh if self._fetched.failure is None else self._config.min_refresh_interval
            ):
                await self._refresh_requested.wait()

    async def _fetch(self) -> None:
        """Fetch the keys once. A failed fetch leaves the last ones in place; a key set without keys replaces them."""
        ring: KeyRing | str = f"{self._config.jwks}: no answer within timeout, {self._config.timeout:g} s"
        with trio.move_on_after(self._config.timeout):
            answer = await self._client.get(
                self._config.jwks.path, [(b"Accept", b"application/json")], self._config.max_response_bytes
            )
            if isinstance(answer, str):
                ring = answer
            elif answer.status != 200:
                ring = f"{self._config.jwks}: answered with status {answer.status}"
            elif not answer.complete:
                limit = self._config.max_response_bytes
                ring = f"{self._config.jwks}: answered with more than max_response_bytes, {limit} bytes"
            else:
                ring = await self._parse_in_thread(answer.body)
        failure = ring if isinstance(ring, str) else None
        if isinstance(ring, KeyRing):
            if not ring.kids():
                failure = f"{self._config.jwks}: published no usable key, so no token is accepted"
            elif self._fetched.failure is not None or ring.kids() != self._fetched.ring.kids():
                log.info("jwks.refreshed", url=str(self._config.jwks), count=len(ring.kids()))
            self._fetched.ring, self._fetched.last_success = ring, self._clock()
        if failure is not None and failure != self._fetched.failure:
            log.error("jwks.refresh_failed", url=str(self._config.jwks), detail=failure)
        self._fetched.failure = failure

    async def _parse_in_thread(self, body: bytes) -> KeyRing | str:
        try:
            return await run_in_thread(lambda: self._parse(body), self._limiter, abandon_on_cancel=False)
        except NoThreadError as error:
            return f"{self._config.jwks}: {error.strerror}"

    def _parse(self, body: bytes) -> KeyRing | str:
        """Read the response as keys; runs in a thread."""
        keys = parse_jwks(body, self._algorithms)
        return f"{self._config.jwks}: answered with something that is no key set" if keys is None else KeyRing(keys)


def parse_jwks(body: bytes, algorithms: frozenset[str]) -> list[JwtKey] | None:
    """Read a key set.

    Returns:
        Its keys, without those that are no public keys or not for these algorithms; None if it is no key set at all.
    """
    try:
        found = parse_json_object(body).get("keys")
    except NotJsonObjectError:
        return None
    if not isinstance(found, list):
        return None
    keys = [_parse_key(entry, algorithms) for entry in found[:MAX_JWKS_KEYS]]
    return [key for key in keys if key is not None]


def _parse_key(entry: object, algorithms: frozenset[str]) -> JwtKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations, kid = entry.get("key_ops", ["verify"]), entry.get("kid")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_LENGTH):
        return None
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    material = _parse_public_key(entry)
    fitting = frozenset(name for name in algorithms if material is not None and key_problem(material, name) is None)
    return JwtKey(fitting, material, kid) if fitting else None


def _parse_public_key(entry: Mapping[str, Any]) -> Any:
    """Build a public key from its parameters; None for a private key that was published."""
    import jwt

    kty = entry.get("kty")
    fields = JWK_PARAMETERS.get(kty) if isinstance(kty, str) else None
    if fields is None or "d" in entry or not all(isinstance(entry.get(name), str) for name in fields):
        return None
    name = EC_CURVE_ALGORITHMS.get(entry["crv"]) if kty == "EC" else {"RSA": "RS256", "OKP": "EdDSA"}[str(kty)]
    if name is None:
        return None
    algorithm: Any = jwt.PyJWS().get_algorithm_by_name(name)
    try:
        return algorithm.from_jwk({"kty": kty, **{field: entry[field] for field in fields}})
    except (jwt.PyJWTError, ValueError):
        return None
