"""Certificates and private keys: loading a pair, and what is wrong with it or may be rejected by clients.

OpenSSL decides what can be served; `cryptography` names the cause, and reads names and dates. It is imported where
it is used, since it costs a process without TLS some megabytes.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from cryptography import x509

EXPIRY_WARNING: Final = timedelta(days=14)
"""How long before its end a certificate is warned of; at most a third of its lifetime."""
PEM_BEGIN, PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
NO_CERTIFICATE: Final = f"holds no certificate in PEM form ({PEM_BEGIN.decode()})"
TOO_WEAK: Final = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})

PairField = Literal["cert", "key", "key_password"]


class CertificateError(ValueError):
    """A certificate, key or CA file cannot be used; the text is one sentence that names the file.

    Attributes:
        field: The setting at fault.
        file: The file at fault.
    """

    def __init__(self, text: str, field: PairField, file: Path) -> None:
        super().__init__(text)
        self.field = field
        self.file = file


def load_key_pair(context: ssl.SSLContext, cert: Path, key: Path, password: str | None = None) -> None:
    """Load a certificate chain and its private key; nobody is asked for a passphrase at the terminal.

    Args:
        context: Where they are loaded into.
        cert: PEM, leaf first.
        key: PEM; may be the same file.
        password: The passphrase of the key.

    Raises:
        CertificateError: They cannot be used.
    """
    for field, file in (("cert", cert), ("key", key)):
        _read(file, "cert" if field == "cert" else "key")
    _check_pem(cert)
    asked = False

    def give_password() -> str:
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(str(cert), str(key), password=give_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _pair_error(getattr(error, "reason", None) or "", error, cert, key, password, asked=asked) from None


def _read(file: Path, field: PairField) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{file} cannot be read: {error.strerror}", field, file) from None


def _check_pem(file: Path) -> None:
    data = _read(file, "cert")
    if PEM_BEGIN not in data:  # OpenSSL accepts other forms, too
        raise CertificateError(f"{file} {NO_CERTIFICATE}", "cert", file)
    if data.count(PEM_BEGIN) != data.count(PEM_END):
        text = f"{file} is truncated: a certificate begins that has no end ({PEM_END.decode()})"
        raise CertificateError(text, "cert", file)


def _pair_error(
    reason: str, error: Exception, cert: Path, key: Path, password: str | None, *, asked: bool
) -> CertificateError:
    """Name the cause for which OpenSSL rejected a pair."""
    if asked and password is None:
        text = f"the private key {key} has a passphrase: write key_password: {{file: …}}, or remove it (openssl pkey)"
        return CertificateError(text, "key", key)
    if asked:
        return CertificateError(f"the passphrase does not decrypt the private key {key}", "key_password", key)
    if reason == "KEY_VALUES_MISMATCH":
        if position := _position_of_key(cert, key, password):
            text = f"the certificate of the private key is number {position} in {cert}, and has to be the first"
            return CertificateError(f"{text}, followed by the intermediates", "cert", cert)
        return CertificateError(f"the private key {key} does not belong to the certificate {cert}", "key", key)
    if b"PRIVATE KEY-----" not in _read(key, "key"):
        text = f"{key} holds no private key in PEM form"
        return CertificateError(text, "cert" if key == cert else "key", key)
    cause = reason.lower().replace("_", " ") or str(error)
    text = f"{cert}: {cause}" if reason in TOO_WEAK else f"{cert} and {key} cannot be loaded: {cause}"
    return CertificateError(text, "cert", cert)


def _position_of_key(cert: Path, key: Path, password: str | None) -> int | None:
    """Return which certificate of a file belongs to a key, from 1."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    def encoded(public: object) -> bytes:
        data: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]  # every public key has it
        return data

    try:
        private = load_pem_private_key(key.read_bytes(), password.encode() if password else None)
        ours = encoded(private.public_key())
        found = [encoded(each.public_key()) == ours for each in read_certificates(cert)]
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return found.index(True) + 1 if True in found else None


def check_ca_file(path: Path) -> str | None:
    """Return why a CA bundle cannot be used, or None."""
    try:
        _check_pem(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except CertificateError as error:
        return str(error)
    except ssl.SSLError:
        return f"{path} {NO_CERTIFICATE}"
    return None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file in its order; none where one cannot be parsed.

    OpenSSL is more tolerant, so that a file without a certificate here may well be served.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError, x509.InvalidVersion):
        return []


def dns_names(path: Path) -> tuple[str, ...]:
    """Return the DNS names of the first certificate of a file in lower case, wildcards as written."""
    from cryptography import x509

    for certificate in read_certificates(path)[:1]:
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (ValueError, x509.DuplicateExtension, x509.ExtensionNotFound):
            continue
        return tuple(name.lower() for name in names.value.get_values_for_type(x509.DNSName))
    return ()


def expiry_warnings(path: Path, now: datetime) -> Iterator[str]:
    """Find certificates of a chain in a file that are not valid now or not for long."""
    return chain_expiry_warnings(read_certificates(path), path, now)


def chain_expiry_warnings(chain: Sequence[x509.Certificate], path: Path, now: datetime) -> Iterator[str]:
    """Find certificates of a chain that are not valid now or not for long.

    Args:
        chain: Read before.
        path: Of its file.
        now: The time.
    """
    for at, certificate in enumerate(chain):
        what = f"the certificate {path}" if at == 0 else f"certificate number {at + 1} in {path}"
        end = certificate.not_valid_after_utc
        if now > end:
            yield f"{what} expired on {end:%Y-%m-%d}: clients reject it"
        elif now < certificate.not_valid_before_utc:
            yield f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: clients reject it"
        elif end - now <= _warning_time(certificate):
            days = (end - now).days
            yield f"{what} expires in {f'{days} days' if days else 'less than a day'} ({end:%Y-%m-%d})"


def expiry_warning_start(chain: Sequence[x509.Certificate]) -> float:
    """Return when the first certificate of a chain is to be warned of, in seconds since 1970."""
    return min((one.not_valid_after_utc - _warning_time(one)).timestamp() for one in chain)


def _warning_time(certificate: x509.Certificate) -> timedelta:
    """Return how long before its end a certificate is warned of; one for a few days is renewed late."""
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return min(EXPIRY_WARNING, lifetime / 3)


def chain_warnings(path: Path) -> Iterator[str]:
    """Find what is wrong with the order of a chain, and missing intermediates of public authorities."""
    chain = read_certificates(path)
    for at in range(1, len(chain)):
        if chain[at - 1].issuer == chain[at].subject:
            continue
        if any(chain[at - 1].issuer == other.subject for other in chain):
            yield f"the certificates in {path} are in the wrong order: each has to be followed by that of its issuer"
        else:
            yield f"certificate number {at + 1} in {path} is not the issuer of the one before it"
        return
    if len(chain) == 1 and chain[0].issuer != chain[0].subject and has_issuer_url(chain[0]):
        yield f"{path} has no intermediate certificate, without which many clients reject it: use fullchain.pem"


def has_issuer_url(certificate: x509.Certificate) -> bool:
    """Return whether a certificate says where that of its issuer is, as those of public authorities do."""
    from cryptography import x509
    from cryptography.x509.oid import AuthorityInformationAccessOID

    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (ValueError, x509.DuplicateExtension, x509.ExtensionNotFound):
        return False
    return any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)


def server_warnings(path: Path) -> Iterator[str]:
    """Find extensions for which clients may reject a certificate of a server (RFC 5280 section 4.2)."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    for certificate in read_certificates(path)[:1]:
        try:
            extensions = list(certificate.extensions)
        except (ValueError, x509.DuplicateExtension) as error:
            yield f"clients may reject the certificate {path}: {error}"
            return
        for extension in extensions:
            value = extension.value
            if isinstance(value, x509.ExtendedKeyUsage):
                if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(value):
                    yield f"clients may reject the certificate {path}: its extended key usage has no serverAuth"
            elif isinstance(value, x509.KeyUsage):
                if not (value.digital_signature or value.key_encipherment or value.key_agreement):
                    yield f"clients may reject the certificate {path}: its key usage has no digitalSignature"
            elif isinstance(value, x509.UnrecognizedExtension) and extension.critical:
                text = f"the critical extension {extension.oid.dotted_string} is unknown"
                yield f"clients may reject the certificate {path}: {text}"
