"""Keys, key files, token form and signature (PyJWT)."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema

from wsbridge.auth.credentials import token_denied
from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.secrets import Secret
from wsbridge.config.types import FilePath, as_text
from wsbridge.protocol.http1 import quoted

AsymmetricAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip

MIN_SECRET_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes that a secret needs at least (RFC 7518 section 3.2)."""
EC_CURVES: Final[Mapping[str, str]] = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA_BITS: Final = range(2048, 8193)
"""Sizes of RSA keys: smaller ones are weak, larger ones make each look at a token slow."""
MAX_KEYS_TRIED: Final = 4
"""Keys that one token is tried with; more than one fits only where keys share a kid or have none."""
MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""Bytes of a file with a key."""


def read_kid(value: object) -> str:
    """Read the name of a key."""
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
    """Secret for HS256 (at least 32 bytes), HS384 (48) or HS512 (64), as {file: PATH} or {env: NAME}."""
    kid: Annotated[str, PlainValidator(read_kid), WithJsonSchema({"type": "string"})] | None = None
    """Key ID: the key is used only for tokens with this kid. Default: for tokens with any kid or none."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Ask for a secret or a file, as the algorithm takes it."""
        algorithm = raw.get("algorithm")
        needed, wrong = ("secret", "file") if algorithm in MIN_SECRET_BYTES else ("file", "secret")
        if algorithm not in get_args(JwtAlgorithm) or not raw.keys() <= cls.model_fields.keys():
            return
        if wrong in raw:
            text = f"means nothing to {algorithm}, which takes a {'secret' if needed == 'secret' else 'public key'}"
            yield Issue((wrong,), f"{text}: write {needed}", "E013", at_key=True)
        elif needed not in raw:
            yield Issue((needed,), "is missing", "E011")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Tell whether the key can be used."""
        symmetric = self.algorithm in MIN_SECRET_BYTES
        if context.check_files and (self.secret is not None, self.file is not None) == (symmetric, not symmetric):
            try:
                load_jwt_key(self)
            except ModuleNotFoundError:
                pass  # told by the way that holds the key
            except ValueError as error:
                yield Issue(("secret" if self.secret else "file",), str(error), "E034")


@dataclass(frozen=True, slots=True)
class JwtKey:
    """One key.

    Attributes:
        algorithms: What it may be used for.
        material: A public key of cryptography, or the bytes of a secret.
        kid: Its name.
    """

    algorithms: frozenset[str]
    material: Any = field(repr=False)
    kid: str | None = None


class KeyRing:
    """Keys by their names. A name from a token is looked up here and nowhere else."""

    def __init__(self, keys: Iterable[JwtKey] = ()) -> None:
        self._by_kid: dict[str | None, list[JwtKey]] = {}
        self.algorithms: frozenset[str] = frozenset()
        for key in keys:
            self._by_kid.setdefault(key.kid, []).append(key)
            self.algorithms |= key.algorithms

    def candidates(self, kid: str | None, algorithm: str) -> list[JwtKey]:
        """Give the keys for a token: those of its kid, and those without one."""
        named = [] if kid is None else self._by_kid.get(kid, [])
        found = [key for key in (*named, *self._by_kid.get(None, ())) if algorithm in key.algorithms]
        return found[:MAX_KEYS_TRIED]

    def kids(self) -> frozenset[str | None]:
        """Give the names of all keys."""
        return frozenset(self._by_kid)


def load_jwt_key(config: JwtKeyConfig) -> JwtKey:
    """Read a key; a file is read.

    Raises:
        ValueError: It cannot be used; one sentence.
    """
    if config.secret is not None:
        secret = config.secret.reveal().encode()
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
    """Tell why a public key cannot be used for an algorithm; None if it can."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if algorithm[:2] in ("RS", "PS"):
        if not isinstance(material, rsa.RSAPublicKey):
            return f"holds no RSA key, which {algorithm} takes"
        if material.key_size not in RSA_BITS:
            return f"holds an RSA key of {material.key_size} bits: {RSA_BITS[0]} to {RSA_BITS[-1]} are taken"
        return None
    if algorithm in EC_CURVES:
        if not isinstance(material, ec.EllipticCurvePublicKey):
            return f"holds no key of an elliptic curve, which {algorithm} takes"
        if material.curve.name != EC_CURVES[algorithm]:
            return f"holds a key of the curve {material.curve.name}; {algorithm} takes {EC_CURVES[algorithm]}"
        return None
    if algorithm == "EdDSA" and isinstance(material, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return None
    return f"holds no key that {algorithm} takes"


def _is_symmetric_secret(secret: bytes, algorithm: str) -> bool:
    """Tell a secret from a public key or a certificate, which would let in everybody who has it."""
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
"""Bytes of a token."""
MAX_KID_LENGTH: Final = 256
"""Characters of the name of a key."""
REJECTED_HEADER_PARAMETERS: Final = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")
"""Header parameters that name a key of the sender's own, change the rules, or belong to encrypted tokens."""

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class NotJsonObjectError(ValueError):
    """A text that is not exactly one JSON object."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
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


def parse_jwt(text: str) -> UnverifiedToken:
    """Take a token apart.

    Raises:
        Rejected: It is malformed.
    """
    if len(text) > MAX_JWT_BYTES:
        raise token_denied(f"the token has {len(text)} bytes, and the limit is {MAX_JWT_BYTES}")
    found = _COMPACT.fullmatch(text)
    if found is None:
        raise token_denied("the token is not three parts in base64url")
    parts = [_decode_base64url(part) for part in found.groups()]
    if None in parts:
        raise token_denied("the token is not base64url")
    try:
        header = parse_json_object(parts[0] or b"")
    except NotJsonObjectError:
        raise token_denied("the token's header is not a JSON object") from None
    for name in REJECTED_HEADER_PARAMETERS:
        if name in header:
            raise token_denied(f"the token's header has {name}, which is not taken")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise token_denied("the token's header names no algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH):
        raise token_denied("the token's kid is not a short text")
    return UnverifiedToken(text, algorithm, kid, parts[1] or b"")


def verify_signature(token: UnverifiedToken, keys: Sequence[JwtKey]) -> bool:
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


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no name twice, no NaN and no infinity.

    Raises:
        NoObjectError: It is none, or is nested too deep, or has a number of thousands of digits.
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
    """Name the key and the algorithm that a token asks for, for the log."""
    kid = "no kid" if token.kid is None else f"kid {quoted(token.kid, 64)}"
    return f"{quoted(token.algorithm, 16, quote='')} with {kid}"


def _reject_duplicate_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJsonObjectError("a name stands twice")
    return found


def _reject_constant(name: str) -> Any:
    raise NotJsonObjectError(f"{name} is no number of JSON")


def _decode_base64url(part: str) -> bytes | None:
    """Decode base64url without padding, in its canonical form alone (RFC 7515 section 2)."""
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None
    return data if urlsafe_b64encode(data).rstrip(b"=") == part.encode("ascii") else None
