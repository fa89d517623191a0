"""An authority of the tests' own for the certificates of clients, which signs whatever subject a test wants."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests import authority

ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "UID": NameOID.USER_ID,
    "DC": NameOID.DOMAIN_COMPONENT,
}
NAMES = {"DNS": x509.DNSName, "URI": x509.UniformResourceIdentifier, "email": x509.RFC822Name}


def _subject(*parts: str) -> x509.Name:
    pairs = [part.partition("=") for part in parts]
    return x509.Name([x509.NameAttribute(ATTRIBUTES[key], value) for key, _, value in pairs])


class ClientAuthority:
    """Signs certificates of clients.

    Attributes:
        folder: Where its files are.
        ca: PEM file of its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = _subject(f"CN=clients of {folder.name}")
        self._made = 0
        self.ca = folder / "clients.pem"
        made = self._sign(self._issuer, self._key, datetime.timedelta(days=2), [])
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, *subject: str, names: tuple[str, ...] = (), lasts: float = 86400.0, server_only: bool = False
    ) -> tuple[Path, Path]:
        """Sign a certificate; give the files of it and of its key.

        Args:
            subject: Parts such as `CN=alice`, used as they are.
            names: Others, such as `DNS:host`.
            lasts: Seconds from now until it ends.
            server_only: Whether it is for servers, so that no client may show it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        others = [NAMES[kind](value) for kind, _, value in (name.partition(":") for name in names)]
        use = ExtendedKeyUsageOID.SERVER_AUTH if server_only else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[x509.ExtensionType] = [x509.ExtendedKeyUsage([use])]
        if others:
            extensions.append(x509.SubjectAlternativeName(others))
        made = self._sign(_subject(*subject), key, datetime.timedelta(seconds=lasts), extensions)
        self._made += 1
        cert, secret = self.folder / f"{self._made}.pem", self.folder / f"{self._made}-key.pem"
        cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return cert, secret

    def context(self, *subject: str, **options: object) -> ssl.SSLContext:
        """Give what a client connects with that shows such a certificate; without a subject it shows none."""
        context = ssl.create_default_context(cafile=str(authority.folder() / "ca.pem"))
        if subject or options:
            context.load_cert_chain(*self.issue(*subject, **options))
        return context

    def listener_tls(self, certificate: str = "required") -> dict[str, object]:
        """Give the section `tls:` of a listener that asks for certificates of this authority."""
        return {**authority.listener_tls(), "client_ca": str(self.ca), "client_certificate": certificate}

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lasts: datetime.timedelta,
        extensions: list[x509.ExtensionType],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + lasts)
        )
        builder = builder.add_extension(x509.BasicConstraints(key is self._key, None), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())
