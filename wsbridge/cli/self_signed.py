"""The temporary certificate of `bridge --self-signed`."""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY: Final = timedelta(days=30)
"""How long the certificate is valid; more than the 14 days below which a configuration is warned about it."""
CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far the clock of a client may be behind."""


class SelfSignedCertificate:
    """A new key and a self-signed certificate for it, in a directory that only this user can read.

    Args:
        host: Name or address that the certificate is for; it is also valid for localhost and for this machine's name.

    Attributes:
        cert: PEM file.
        key: PEM file.
        fingerprint: SHA-256 of the certificate, as `--pin-sha256` accepts it and `openssl x509 -fingerprint` prints it.
    """

    def __init__(self, host: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign_certificate(key, host)
        self._directory = TemporaryDirectory(prefix="wsbridge-")
        self.cert = Path(self._directory.name) / "cert.pem"
        self.key = Path(self._directory.name) / "key.pem"
        try:
            self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            with os.fdopen(os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(
                    key.private_bytes(
                        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                    )
                )
        except BaseException:
            self.remove()
            raise
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def remove(self) -> None:
        """Remove the files; safe to call twice."""
        self._directory.cleanup()


def _sign_certificate(key: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    """Build and sign the certificate of a server (RFC 5280)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wsbridge self-signed")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName(_subject_alt_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _subject_alt_names(host: str) -> list[x509.GeneralName]:
    """Return the subject alternative names, each once."""
    names: dict[x509.GeneralName, None] = {}
    for text in ("localhost", "127.0.0.1", "::1", host, socket.gethostname()):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            if text and all(part.isascii() and (part.isalnum() or part in "-._") for part in text) and len(text) <= 253:
                names[x509.DNSName(text)] = None
        else:
            if not address.is_unspecified:
                names[x509.IPAddress(address)] = None
    return list(names)
