"""The certificate that a server shows: its facts, and why it is rejected."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from wsbridge.config.certificates import EXPIRY_WARNING, has_issuer_url
from wsbridge.net.tls import has_system_authorities
from wsbridge.probe.peers import readable
from wsbridge.probe.steps import Diagnosis, ProbeStep

if TYPE_CHECKING:
    from cryptography import x509

MAX_SHOWN_NAMES: Final = 8
"""Names of a certificate that are printed."""

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_… of OpenSSL (x509_vfy.h)
_WRONG_NAME: Final = frozenset({62, 64})
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_WEAK: Final = frozenset({66, 67, 68})

_SERVER_CERT_KEYS: Final = (
    "wsbridge.yaml: listeners.NAME.tls.certificates[].cert; nginx: ssl_certificate; HAProxy: the file of bind … crt"
)


class ShownCertificate:
    """The certificates that a server sent.

    Args:
        chain: DER, that of the server first.
        now: The time.

    Attributes:
        chain: Those that can be read.
    """

    def __init__(self, chain: Sequence[bytes], now: datetime | None = None) -> None:
        from cryptography import x509

        self.chain: list[x509.Certificate] = []
        self.now = now or datetime.now(UTC)
        for der in chain:
            try:
                self.chain.append(x509.load_der_x509_certificate(der))
            except (ValueError, x509.InvalidVersion):
                break

    @property
    def leaf(self) -> x509.Certificate | None:
        """That of the server."""
        return self.chain[0] if self.chain else None

    @property
    def names(self) -> list[str]:
        """DNS names and addresses of the server's certificate."""
        from cryptography import x509

        if self.leaf is None:
            return []
        try:
            found = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.DuplicateExtension, x509.ExtensionNotFound):
            return []
        names = [readable(name.encode(), 253) for name in found.get_values_for_type(x509.DNSName)]
        return [*names, *map(str, found.get_values_for_type(x509.IPAddress))]

    @property
    def days_left(self) -> int:
        """Days until the server's certificate ends; negative once it has."""
        return 0 if self.leaf is None else int((self.leaf.not_valid_after_utc - self.now) / timedelta(days=1))

    @property
    def is_self_signed(self) -> bool:
        """Whether the server's certificate names itself as its issuer."""
        return self.leaf is not None and self.leaf.issuer == self.leaf.subject

    def notes(self) -> tuple[str, ...]:
        """Describe it in lines."""
        if self.leaf is None:
            return ()
        names = ", ".join(self.names[:MAX_SHOWN_NAMES]) or "none"
        more = len(self.names) - MAX_SHOWN_NAMES
        issuer = "itself (self-signed)" if self.is_self_signed else shown_name(self.leaf.issuer)
        end = self.leaf.not_valid_after_utc
        left = f"{self.days_left} days left" if end > self.now else f"expired {-self.days_left} days ago"
        count = len(self.chain)
        return (
            f"names: {names}{f' and {more} more' if more > 0 else ''}",
            f"issuer: {issuer}; the server sends {count} certificate{'s' * (count != 1)}",
            f"valid until {end:%Y-%m-%d %H:%M} UTC, {left}",
        )

    def facts(self) -> dict[str, object]:
        """Describe it for scripts."""
        from cryptography.hazmat.primitives.hashes import SHA256

        if self.leaf is None:
            return {}
        return {
            "certificate_names": self.names,
            "certificate_issuer": shown_name(self.leaf.issuer),
            "certificate_not_before": f"{self.leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
            "certificate_not_after": f"{self.leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            "certificate_days_left": self.days_left,
            "certificate_sha256": self.leaf.fingerprint(SHA256()).hex(":").upper(),
            "certificates_sent": len(self.chain),
        }

    def warnings(self) -> tuple[str, ...]:
        """Say what clients will soon reject, or some reject already."""
        if self.leaf is None:
            return ()
        found = []
        if self.leaf.not_valid_after_utc - self.now <= EXPIRY_WARNING:
            found.append(f"the certificate expires in {self.days_left} days: renew it")
        if not self.names:
            found.append("the certificate has no subjectAltName: browsers reject it")
        if len(self.chain) == 1 and not self.is_self_signed and has_issuer_url(self.leaf):
            text = "the server sends no intermediate certificate: clients that do not know it by chance reject this one"
            found.append(f"{text} ({_SERVER_CERT_KEYS}: fullchain.pem)")
        return tuple(found)

    def diagnose(self, error: ssl.SSLCertVerificationError, name: str) -> Diagnosis:
        """Say why it is rejected.

        Args:
            error: Of OpenSSL.
            name: The name that was verified.
        """
        code = error.verify_code
        if code in _WRONG_NAME:
            return self._wrong_name(name)
        if code in (_EXPIRED, _NOT_YET_VALID):
            return self._wrong_time()
        if code in _UNKNOWN_AUTHORITY:
            return self._unknown_authority()
        if code in _WEAK:
            text = f"The certificate is too weak for this client: {error.verify_message}."
            return Diagnosis(ProbeStep.TLS, text, (f"Issue one with a larger key and SHA-256: {_SERVER_CERT_KEYS}",))
        text = f"The certificate is rejected: {error.verify_message}."
        return Diagnosis(ProbeStep.TLS, text, (f"Replace it: {_SERVER_CERT_KEYS}",))

    def _wrong_name(self, name: str) -> Diagnosis:
        names = ", ".join(self.names[:MAX_SHOWN_NAMES]) or "no name at all"
        return Diagnosis(
            ProbeStep.TLS,
            f"The certificate is for {names}, not for {name}.",
            (
                f"Use a name of the certificate in the URL, or add {name} to the certificate ({_SERVER_CERT_KEYS})",
                "If the server has several certificates, it does not have one for this name (SNI): add it there",
                "wsbridge as the client: server_name of the backend, for the name to send and to verify",
            ),
        )

    def _wrong_time(self) -> Diagnosis:
        for at, one in enumerate(self.chain):
            what = "The certificate" if at == 0 else f"Certificate number {at + 1} of the chain ({_subject(one)})"
            if self.now > one.not_valid_after_utc:
                cause = f"{what} expired on {one.not_valid_after_utc:%Y-%m-%d}."
                break
            if self.now < one.not_valid_before_utc:
                cause = f"{what} is valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC."
                break
        else:
            cause = "A certificate of the chain has expired or is not valid yet."
        return Diagnosis(
            ProbeStep.TLS,
            cause,
            (
                (
                    "Renew the certificate (certbot renew), and check that the server uses the new file: "
                    f"{_SERVER_CERT_KEYS}; "
                    "nginx and HAProxy need a reload, wsbridge reads it by itself"
                ),
                f"If it is valid, the clock of this host is wrong: it says {self.now:%Y-%m-%d %H:%M} UTC (timedatectl)",
            ),
        )

    def _unknown_authority(self) -> Diagnosis:
        trust = (
            "For this command: --ca FILE with the certificate of the authority",
            "Clients: install the authority in their trust store (update-ca-certificates; browsers: settings)",
            "wsbridge as the client: ca: FILE of the backend, or pin_sha256",
        )
        if not has_system_authorities():
            text = "This host has no certificate authorities at all."
            return Diagnosis(ProbeStep.TLS, text, ("Install them: apt install ca-certificates", *trust))
        leaf, last = self.leaf, self.chain[-1] if self.chain else None
        if leaf is None or last is None:
            return Diagnosis(ProbeStep.TLS, "The certificate is from an authority that is not trusted here.", trust)
        if self.is_self_signed:
            text = "The certificate is self-signed: no authority vouches for it."
            return Diagnosis(
                ProbeStep.TLS, text, (*trust, "Public servers: get a certificate from an authority (certbot)")
            )
        if len(self.chain) == 1:
            text = (
                f"The certificate is from {shown_name(leaf.issuer)}, which is not trusted here, and the "
                "server sends no "
                "intermediate certificate."
            )
            chain = (
                "If that is an intermediate authority, let the server send the whole chain: "
                f"fullchain.pem as {_SERVER_CERT_KEYS}"
            )
            return Diagnosis(ProbeStep.TLS, text, (chain, *trust))
        authority = shown_name(last.issuer)
        return Diagnosis(ProbeStep.TLS, f"The authority of the certificate, {authority}, is not trusted here.", trust)


def shown_name(name: x509.Name) -> str:
    """Return the common name of a subject or issuer, or its organization, or all of it."""
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(oid):
            text = str(attribute.value)
            if text.isprintable():
                return text
    return name.rfc4514_string().encode("ascii", "backslashreplace").decode() or "an issuer without a name"


def _subject(certificate: x509.Certificate) -> str:
    return shown_name(certificate.subject)
