"""JWKS: keys that an issuer of tokens publishes over https (RFC 7517 section 5), fetched before they are needed.

Lives here: the section, the one task that fetches them, how old they may get, and reading what came. Must not live
here: tokens (`jwt_token`), single requests (`net.http_client`). No token causes more than one request in `pause`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import trio
from pydantic import AfterValidator

from wsbridge.auth.auth import Lent
from wsbridge.auth.jwt_keys import Key, KeyRing, Signed, misfit
from wsbridge.auth.jwt_token import LONGEST_KID, NoObjectError, json_object
from wsbridge.config.choice import filled, unique
from wsbridge.config.http_url import HttpsUrl
from wsbridge.config.scalars import FilePath, PositiveDuration, Size, at_least, at_most
from wsbridge.config.section import Context, Fault, Section
from wsbridge.log import log
from wsbridge.net import tls

MOST_KEYS: Final = 100
"""Keys that are taken from one answer."""
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""By `kty`: what makes a public key (RFC 7518 section 6, RFC 8037 section 2)."""
EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class JwksConfig(Section):
    """Keys that are fetched from an issuer of tokens."""

    jwks: HttpsUrl
    """Where the keys are published, as https://host/path; redirects are not followed."""
    algorithms: Annotated[tuple[Signed, ...], AfterValidator(filled), AfterValidator(unique)]
    """The algorithms that these keys may be used for. Those with HS, whose keys are secrets, are not among them."""
    ca: FilePath | None = None
    """PEM file of the authorities to trust. Left out: those of the system."""
    refresh: PositiveDuration = 600.0
    """How often the keys are fetched."""
    pause: PositiveDuration = 10.0
    """How soon at the earliest they are fetched again: for a token whose kid is unknown, or after a failure."""
    keep: PositiveDuration = 86400.0
    """How long the last keys hold while none can be fetched."""
    timeout: PositiveDuration = 5.0
    """How long fetching may take."""
    size: Annotated[Size, AfterValidator(at_least(1024)), AfterValidator(at_most(16 * 1024 * 1024))] = 256 * 1024
    """Largest answer."""

    def faults(self, context: Context) -> list[Fault]:
        """Tell whether the authorities can be used."""
        return list(tls.authority_faults(self.ca, context))


class Jwks:
    """Keys of one issuer. `run` fetches them; the others look at what it fetched.

    Args:
        config: Where, and how often.
        lent: For its tasks and names.
        clock: Seconds that keys age by.

    Raises:
        TlsError: The file of authorities cannot be used.
    """

    def __init__(self, config: JwksConfig, lent: Lent, clock: Callable[[], float] = trio.current_time) -> None:
        from wsbridge.net.http_client import HttpClient

        self._config = config
        self._algorithms = frozenset(config.algorithms)
        self._clock = clock
        self._client = HttpClient(config.jwks, lent.resolver, tls.client_context(config.ca))
        self._ring = KeyRing()
        self._fetched: float | None = None
        self._tried: float | None = None  # when it was last tried; None while it is
        self._failure: str | None = "no keys were fetched yet"
        self._wanted, self._done = trio.Event(), trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        lent.background.start(self.run)

    @property
    def failure(self) -> str | None:
        """Why the keys may be out of date; None if they were fetched well."""
        return self._failure

    @property
    def algorithms(self) -> frozenset[str]:
        """What its keys may be used for."""
        return self._algorithms

    def ring(self) -> KeyRing:
        """Give the keys that hold now; none if the last are too old."""
        if self._fetched is not None and self._clock() < self._fetched + self._config.keep:
            return self._ring
        return KeyRing()

    async def newer(self) -> None:
        """Have the keys fetched, or wait for that if it is under way; not at all within `pause` of the last time."""
        if self._tried is not None:
            if self._clock() < self._tried + self._config.pause:
                return
            self._wanted.set()
        with trio.move_on_after(self._config.timeout):
            await self._done.wait()

    async def run(self) -> None:
        """Fetch them again and again."""
        try:
            while True:
                self._tried, self._wanted = None, trio.Event()
                await self._fetch()
                self._tried = self._clock()
                done, self._done = self._done, trio.Event()
                done.set()
                with trio.move_on_after(self._config.refresh if self._failure is None else self._config.pause):
                    await self._wanted.wait()
        finally:
            await self._client.aclose()

    async def _fetch(self) -> None:
        """Fetch them once; what goes wrong leaves the last ones in place."""
        ring: KeyRing | str = f"{self._config.jwks}: no answer within timeout, {self._config.timeout:g} s"
        with trio.move_on_after(self._config.timeout):
            answer = await self._client.get(
                self._config.jwks.path, [(b"Accept", b"application/json")], self._config.size
            )
            if isinstance(answer, str):
                ring = answer
            elif answer.status != 200:
                ring = f"{self._config.jwks}: answered with status {answer.status}"
            elif not answer.whole:
                ring = f"{self._config.jwks}: answered with more than size, {self._config.size} bytes"
            else:
                ring = await trio.to_thread.run_sync(self._read, answer.body, limiter=self._limiter)
        if isinstance(ring, str):
            if ring != self._failure:
                log.error("keys.unusable", url=str(self._config.jwks), detail=ring)
            self._failure = ring
            return
        if self._failure is not None or ring.kids() != self._ring.kids():
            log.info("keys.fetched", url=str(self._config.jwks), count=len(ring.kids()))
        self._ring, self._fetched, self._failure = ring, self._clock(), None

    def _read(self, body: bytes) -> KeyRing | str:
        """Runs in a thread: what came, as keys."""
        keys = read_jwks(body, self._algorithms)
        return KeyRing(keys) if keys else f"{self._config.jwks}: answered without a key that can be used"


def read_jwks(body: bytes, algorithms: frozenset[str]) -> list[Key]:
    """Read a set of keys; those that are no public keys, or not for these algorithms, are left out."""
    try:
        found = json_object(body).get("keys")
    except NoObjectError:
        return []
    keys = [_key(entry, algorithms) for entry in found[:MOST_KEYS]] if isinstance(found, list) else []
    return [key for key in keys if key is not None]


def _key(entry: object, algorithms: frozenset[str]) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations, kid = entry.get("key_ops", ["verify"]), entry.get("kid")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if kid is not None and not (isinstance(kid, str) and len(kid) <= LONGEST_KID):
        return None
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    material = _material(entry)
    fitting = frozenset(name for name in algorithms if material is not None and misfit(material, name) is None)
    return Key(fitting, material, kid) if fitting else None


def _material(entry: Mapping[str, Any]) -> Any:
    """Make a public key of the fields that one has; a private key that somebody published is none."""
    import jwt

    kty = entry.get("kty")
    fields = FIELDS.get(kty) if isinstance(kty, str) else None
    if fields is None or "d" in entry or not all(isinstance(entry.get(name), str) for name in fields):
        return None
    if kty == "EC" and entry["crv"] not in EC_ALGORITHMS:
        return None
    name = {"RSA": "RS256", "EC": EC_ALGORITHMS.get(entry.get("crv", ""), ""), "OKP": "EdDSA"}[str(kty)]
    algorithm: Any = jwt.PyJWS().get_algorithm_by_name(name)
    try:
        return algorithm.from_jwk({"kty": kty, **{field: entry[field] for field in fields}})
    except (jwt.PyJWTError, ValueError):
        return None
