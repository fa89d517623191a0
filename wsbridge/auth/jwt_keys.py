"""JWT keys, key files, token syntax and signatures.

PyJWT verifies signatures. Headers are parsed here, because PyJWT accepts duplicate names, `jku` and `x5u` in them, and
has no limit on the size of a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema

from wsbridge.auth.credentials import token_denied
from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.paths import FilePath
from wsbridge.config.secrets import Secret
from wsbridge.config.types import as_text
from wsbridge.protocol.http1 import quoted
from wsbridge.protocol.uri import decode_base64url

AsymmetricAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip

MIN_SECRET_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Minimum length of a secret, in bytes (RFC 7518 section 3.2)."""
EC_CURVES: Final[Mapping[str, str]] = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA_BITS: Final = range(2048, 8193)
"""Sizes of RSA keys in bits: smaller ones are weak, larger ones make each verification slow."""
MAX_KEYS_TRIED: Final = 4
"""Keys that are tried for one token; more than one matches only if keys share a kid or have none."""
MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""Maximum size of a key file, in bytes."""


def read_kid(value: object) -> str:
    """Read a key ID."""
    text = as_text(value)
    if not re.fullmatch(r"[ -~]{1,256}", text):
        raise ValueError("must be 1 to 256 printable ASCII characters")
    return text


class JwtKeyConfig(Section):
    """A key for exactly one algorithm."""

    algorithm: JwtAlgorithm
    """Algorithm; tokens that name another are rejected."""
    file: FilePath | None = None
    """Public key (PEM, BEGIN PUBLIC KEY); for all algorithms except HS."""
    secret: Secret | None = None
    """Secret for HS256 (at least 32 bytes), HS384 (48) or HS512 (64), as {file: PATH}, {env: NAME} or {credential:
    NAME}."""
    kid: Annotated[str, PlainValidator(read_kid), WithJsonSchema({"type": "string"})] | None = None
    """Key ID: the key is used only for tokens with this kid. Default: for tokens with any kid or none."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require a secret or a file, depending on the algorithm."""
        algorithm = raw.get("algorithm")
        needed, wrong = ("secret", "file") if algorithm in MIN_SECRET_BYTES else ("file", "secret")
        if algorithm not in get_args(JwtAlgorithm) or not raw.keys() <= cls.model_fields.keys():
            return
        if wrong in raw:
            text = f"has no effect for {algorithm}, which needs a {'secret' if needed == 'secret' else 'public key'}"
            yield Issue((wrong,), f"{text}: write {needed}", "E013", at_key=True)
        elif needed not in raw:
            yield Issue((needed,), "is missing", "E011")

    @property
    def source(self) -> Path | None:
        """The file that it is read from; None for a secret from elsewhere."""
        return self.file if self.secret is None else self.secret.file

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check whether the key can be used."""
        symmetric = self.algorithm in MIN_SECRET_BYTES
        if context.check_files and (self.secret is not None, self.file is not None) == (symmetric, not symmetric):
            try:
                load_jwt_key(self)
            except ModuleNotFoundError:
                pass  # reported by the authentication method that has the key
            except ValueError as error:
                yield Issue(("secret" if self.secret else "file",), str(error), "E034")


@dataclass(frozen=True, slots=True)
class JwtKey:
    """One key.

    Attributes:
        algorithms: Algorithms it may be used for.
        material: A public key of the package cryptography, or the bytes of a secret.
        kid: Its key ID.
    """

    algorithms: frozenset[str]
    material: Any = field(repr=False)
    kid: str | None = None


class KeyRing:
    """Keys by key ID. A kid of a token is only used to look up keys here, never as a path or URL."""

    def __init__(self, keys: Iterable[JwtKey] = ()) -> None:
        self._by_kid: dict[str | None, list[JwtKey]] = {}
        self.algorithms: frozenset[str] = frozenset()
        for key in keys:
            self._by_kid.setdefault(key.kid, []).append(key)
            self.algorithms |= key.algorithms

    def candidates(self, kid: str | None, algorithm: str) -> list[JwtKey]:
        """Return the keys for a token: those with its kid, and those without one."""
        named = [] if kid is None else self._by_kid.get(kid, [])
        found = [key for key in (*named, *self._by_kid.get(None, ())) if algorithm in key.algorithms]
        return found[:MAX_KEYS_TRIED]

    def kids(self) -> frozenset[str | None]:
        """Return the key IDs of all keys."""
        return frozenset(self._by_kid)


@dataclass(slots=True, weakref_slot=True)
class FetchedKeys:
    """The keys of one issuer, which outlive a reload of the configuration.

    Attributes:
        ring: The last ones that were fetched.
        last_success: When that was, by the clock that they age by; None: never.
        failure: Why they may be out of date; None if the last fetch succeeded.
    """

    ring: KeyRing = field(default_factory=KeyRing)
    last_success: float | None = None
    failure: str | None = "no keys were fetched yet"


KeySource = tuple[str, frozenset[str], str]
"""Where keys were fetched: URL, allowed algorithms, CA bundle."""


def load_jwt_key(config: JwtKeyConfig) -> JwtKey:
    """Load a key, as its file has it now.

    Raises:
        ValueError: It cannot be used; one sentence.
    """
    if config.secret is not None:
        secret = config.secret.read_again().reveal().encode()
        least = MIN_SECRET_BYTES[config.algorithm]
        if len(secret) < least:
            has = f"this one has {len(secret)}"
            raise ValueError(f"a secret for {config.algorithm} needs {least} bytes at least; {has}")
        if not _is_symmetric_secret(secret, config.algorithm):
            raise ValueError(f"the secret for {config.algorithm} is a key of another kind, which others may know")
        return JwtKey(frozenset({config.algorithm}), secret, config.kid)
    assert config.file is not None  # noqa: S101 (by the rule of the section)
    material = _load_public_key(config.file)
    problem = key_problem(material, config.algorithm)
    if problem is not None:
        raise ValueError(f"{config.file} {problem}")
    return JwtKey(frozenset({config.algorithm}), material, config.kid)


def key_problem(material: Any, algorithm: str) -> str | None:
    """Return why a public key cannot be used for an algorithm; None if it can."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if algorithm[:2] in ("RS", "PS"):
        if not isinstance(material, rsa.RSAPublicKey):
            return f"holds no RSA key, which {algorithm} needs"
        if material.key_size not in RSA_BITS:
            return f"holds an RSA key of {material.key_size} bits: {RSA_BITS[0]} to {RSA_BITS[-1]} are supported"
        return None
    if algorithm in EC_CURVES:
        if not isinstance(material, ec.EllipticCurvePublicKey):
            return f"holds no key of an elliptic curve, which {algorithm} needs"
        if material.curve.name != EC_CURVES[algorithm]:
            return f"holds a key of the curve {material.curve.name}; {algorithm} needs {EC_CURVES[algorithm]}"
        return None
    if algorithm == "EdDSA" and isinstance(material, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return None
    return f"holds no key for {algorithm}"


def _is_symmetric_secret(secret: bytes, algorithm: str) -> bool:
    """Return whether a secret is none of the public keys and certificates, which others may have."""
    import jwt

    try:
        jwt.PyJWS().get_algorithm_by_name(algorithm).prepare_key(secret)
    except jwt.InvalidKeyError:
        return False
    return True


def _load_public_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY-----" in data:
        raise ValueError(f"{path} holds a private key: give the public one alone (openssl pkey -pubout)")
    try:
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path} holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None


MAX_JWT_BYTES: Final = 8192
"""Maximum length of a token, in bytes."""
MAX_KID_LENGTH: Final = 256
"""Maximum length of a key ID, in characters."""
REJECTED_HEADER_PARAMETERS: Final = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")
"""Header parameters that provide a key, change the rules, or belong to encrypted tokens."""

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class NotJsonObjectError(ValueError):
    """A text that is not exactly one JSON object."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A well-formed token whose signature is not verified yet.

    Attributes:
        text: The token as received.
        algorithm: alg of its header.
        kid: kid of its header.
        payload: Its claims as JSON text.
    """

    text: str = field(repr=False)
    algorithm: str
    kid: str | None
    payload: bytes = field(repr=False)


def parse_jwt(text: str) -> UnverifiedToken:
    """Parse a token without verifying it.

    Raises:
        Rejected: It is malformed.
    """
    if len(text) > MAX_JWT_BYTES:
        raise token_denied(f"the token has {len(text)} bytes, and the limit is {MAX_JWT_BYTES}")
    found = _COMPACT.fullmatch(text)
    if found is None:
        raise token_denied("the token is not three parts in base64url")
    try:
        head, payload, _ = [decode_base64url(part) for part in found.groups()]
    except ValueError:
        raise token_denied("the token is not base64url") from None
    try:
        header = parse_json_object(head)
    except NotJsonObjectError:
        raise token_denied("the token's header is not a JSON object") from None
    for name in REJECTED_HEADER_PARAMETERS:
        if name in header:
            raise token_denied(f"the token's header has {name}, which is not supported")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise token_denied("the token's header names no algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH):
        raise token_denied("the token's kid is not a short text")
    return UnverifiedToken(text, algorithm, kid, payload)


def verify_signature(token: UnverifiedToken, keys: Sequence[JwtKey]) -> bool:
    """Return whether one of the keys verifies the signature of a token; keys for other algorithms are skipped."""
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


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8, no duplicate names, no NaN and no infinity.

    Raises:
        NotJsonObjectError: It is not an object, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_reject_duplicate_names, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError):
        raise NotJsonObjectError("not a JSON object") from None
    if not isinstance(found, dict):
        raise NotJsonObjectError("not a JSON object")
    return found


def describe_token(token: UnverifiedToken) -> str:
    """Return the key and the algorithm that a token names, for the log."""
    kid = "no kid" if token.kid is None else f"kid {quoted(token.kid, 64)}"
    return f"{quoted(token.algorithm, 16, quote='')} with {kid}"


def _reject_duplicate_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJsonObjectError("duplicate name")
    return found


def _reject_constant(name: str) -> Any:
    raise NotJsonObjectError(f"{name} is not a JSON number")
