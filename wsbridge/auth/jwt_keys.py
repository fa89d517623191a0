"""Keys that JSON Web Tokens are verified with, and the algorithms that each may be used for.

Lives here: the section of one key, reading it, what fits what (RFC 7518 section 3), and finding keys. Must not live
here: keys that are fetched (`jwks`), tokens (`jwt_token`). PyJWT and cryptography are an extra, so they are imported
where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema

from wsbridge.config.scalars import FilePath, Secret
from wsbridge.config.section import Context, Fault, Section
from wsbridge.config.text import as_text

Signed = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip

SECRETS: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes that a secret needs at least (RFC 7518 section 3.2)."""
CURVES: Final[Mapping[str, str]] = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA_BITS: Final = range(2048, 8193)
"""Sizes of RSA keys: smaller ones are weak, larger ones make each look at a token slow."""
MOST_TRIED: Final = 4
"""Keys that one token is tried with; more than one fits only where keys share a kid or have none."""
LARGEST: Final = 64 * 1024
"""Bytes of a file with a key."""


def read_kid(value: object) -> str:
    """Read the name of a key."""
    text = as_text(value)
    if not re.fullmatch(r"[ -~]{1,256}", text):
        raise ValueError("must be 1 to 256 printable ASCII characters")
    return text


class JwtKeyConfig(Section):
    """One key, and the one algorithm that it is for."""

    algorithm: Algorithm
    """The algorithm; a token that names another is refused."""
    file: FilePath | None = None
    """PEM file with the public key (BEGIN PUBLIC KEY); for all algorithms but those with HS."""
    secret: Secret | None = None
    """The secret for HS256 (32 bytes at least), HS384 (48) or HS512 (64), as {file: PATH} or {env: NAME}."""
    kid: Annotated[str, PlainValidator(read_kid), WithJsonSchema({"type": "string"})] | None = None
    """Name of the key: for tokens with this kid alone. Left out: for tokens with any kid or none."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for a secret or a file, as the algorithm takes it."""
        algorithm = written.get("algorithm")
        needed, wrong = ("secret", "file") if algorithm in SECRETS else ("file", "secret")
        if algorithm not in get_args(Algorithm) or not written.keys() <= cls.model_fields.keys():
            return
        if wrong in written:
            text = f"means nothing to {algorithm}, which takes a {'secret' if needed == 'secret' else 'public key'}"
            yield Fault((wrong,), f"{text}: write {needed}", "E013", at_key=True)
        elif needed not in written:
            yield Fault((needed,), "is missing", "E011")

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell whether the key can be used."""
        symmetric = self.algorithm in SECRETS
        if context.files and (self.secret is not None, self.file is not None) == (symmetric, not symmetric):
            try:
                key_of(self)
            except ModuleNotFoundError:
                pass  # told by the way that holds the key
            except ValueError as error:
                yield Fault(("secret" if self.secret else "file",), str(error), "E034")


@dataclass(frozen=True, slots=True)
class Key:
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

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_kid: dict[str | None, list[Key]] = {}
        self.algorithms: frozenset[str] = frozenset()
        for key in keys:
            self._by_kid.setdefault(key.kid, []).append(key)
            self.algorithms |= key.algorithms

    def fitting(self, kid: str | None, algorithm: str) -> list[Key]:
        """Give the keys for a token: those of its kid, and those without one."""
        named = [] if kid is None else self._by_kid.get(kid, [])
        found = [key for key in (*named, *self._by_kid.get(None, ())) if algorithm in key.algorithms]
        return found[:MOST_TRIED]

    def kids(self) -> frozenset[str | None]:
        """Give the names of all keys."""
        return frozenset(self._by_kid)


def key_of(config: JwtKeyConfig) -> Key:
    """Read a key; a file is read.

    Raises:
        ValueError: It cannot be used; one sentence.
    """
    if config.secret is not None:
        secret = config.secret.reveal().encode()
        least = SECRETS[config.algorithm]
        if len(secret) < least:
            has = f"this one has {len(secret)}"
            raise ValueError(f"a secret for {config.algorithm} needs {least} bytes at least; {has}")
        if not _is_secret(secret, config.algorithm):
            raise ValueError(f"the secret for {config.algorithm} is a key of another kind, which others may know")
        return Key(frozenset({config.algorithm}), secret, config.kid)
    assert config.file is not None  # noqa: S101 (by the rule of the section)
    material = _public_key(config.file)
    problem = misfit(material, config.algorithm)
    if problem is not None:
        raise ValueError(f"{config.file} {problem}")
    return Key(frozenset({config.algorithm}), material, config.kid)


def misfit(material: Any, algorithm: str) -> str | None:
    """Tell why a public key cannot be used for an algorithm; None if it can."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if algorithm[:2] in ("RS", "PS"):
        if not isinstance(material, rsa.RSAPublicKey):
            return f"holds no RSA key, which {algorithm} takes"
        if material.key_size not in RSA_BITS:
            return f"holds an RSA key of {material.key_size} bits: {RSA_BITS[0]} to {RSA_BITS[-1]} are taken"
        return None
    if algorithm in CURVES:
        if not isinstance(material, ec.EllipticCurvePublicKey):
            return f"holds no key of an elliptic curve, which {algorithm} takes"
        if material.curve.name != CURVES[algorithm]:
            return f"holds a key of the curve {material.curve.name}; {algorithm} takes {CURVES[algorithm]}"
        return None
    if algorithm == "EdDSA" and isinstance(material, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return None
    return f"holds no key that {algorithm} takes"


def _is_secret(secret: bytes, algorithm: str) -> bool:
    """Tell a secret from a public key or a certificate, which would let in everybody who has it."""
    import jwt

    try:
        jwt.PyJWS().get_algorithm_by_name(algorithm).prepare_key(secret)
    except jwt.InvalidKeyError:
        return False
    return True


def _public_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with path.open("rb") as file:
            data = file.read(LARGEST)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY-----" in data:
        raise ValueError(f"{path} holds a private key: give the public one alone (openssl pkey -pubout)")
    try:
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path} holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
