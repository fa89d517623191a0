"""Certificate: a pair of files, whether they belong together, and until when they hold.

Lives here: the section and its checks, by the standard library alone. Must not live here: TLS contexts (`net/tls`).
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wsbridge.config.path import FilePath
from wsbridge.config.section import Context, Fault, Section

WARN_BEFORE = timedelta(days=14)
"""How long before its end a certificate is warned of."""

PEM_BEGIN, PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Certificate(Section):
    """A certificate and its private key."""

    cert: FilePath
    """PEM file with the certificate first, then those between it and the root."""
    key: FilePath
    """PEM file with the private key, without a passphrase."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell whether the two belong together and hold now."""
        if not context.files:
            return
        problem = pair_problem(self.cert, self.key)
        if problem is not None:
            yield Fault((problem.field,), problem.text, "E031")
            return
        for period in periods(self.cert)[:1]:
            if context.now > period.end:
                yield Fault(("cert",), f"the certificate {self.cert} expired on {period.end:%Y-%m-%d}", "E032")
            elif context.now < period.begin:
                text = f"the certificate {self.cert} holds only from {period.begin:%Y-%m-%d %H:%M} UTC"
                yield Fault(("cert",), text, "E032")

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of an end that is near, and of a key that everybody on this host can read."""
        if not context.files:
            return
        for period in periods(self.cert)[:1]:
            left = period.end - context.now
            if left <= WARN_BEFORE:
                text = f"the certificate {self.cert} expires in {left.days} days ({period.end:%Y-%m-%d})"
                yield Fault(("cert",), text, "W008")
        if self.key.stat().st_mode & stat.S_IROTH:
            yield Fault(("key",), f"every user of this host can read the private key {self.key}", "W009")


@dataclass(frozen=True, slots=True)
class PairProblem:
    """What is wrong with a pair of files, and at which of the two fields."""

    field: str
    text: str


def pair_problem(cert: Path, key: Path) -> PairProblem | None:
    """Try whether OpenSSL takes the two files together."""
    if b"ENCRYPTED" in key.read_bytes():
        return PairProblem("key", f"the private key {key} has a passphrase; write it without one (openssl pkey)")
    if PEM_BEGIN not in cert.read_text(errors="replace"):
        return PairProblem("cert", f"{cert} holds no certificate in PEM form ({PEM_BEGIN})")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return PairProblem("key", f"the private key {key} does not belong to the certificate {cert}")
        if "PRIVATE KEY" not in key.read_text(errors="replace"):
            return PairProblem("key", f"{key} holds no private key in PEM form")
        return PairProblem("cert", f"{cert} and {key} cannot be loaded: {error.reason or error}")
    return None


def authorities_problem(path: Path) -> str | None:
    """Try whether OpenSSL takes a file of authorities to verify by."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        return f"{path} holds no certificate in PEM form ({PEM_BEGIN})"
    return None


@dataclass(frozen=True, slots=True)
class Period:
    """When a certificate holds: both ends in UTC."""

    begin: datetime
    end: datetime


def periods(path: Path) -> list[Period]:
    """Give when each certificate of a PEM file holds, in the order of the file."""
    found: list[Period] = []
    for part in path.read_text(errors="replace").split(PEM_BEGIN)[1:]:
        der = ssl.PEM_cert_to_DER_cert(f"{PEM_BEGIN}{part.partition(PEM_END)[0]}{PEM_END}")
        begin, end = _times(der)
        found.append(Period(begin, end))
    return found


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk the elements of DER, as tag and content (X.690 section 8.1)."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield tag, der[at : at + length]
        at += length


def _times(der: bytes) -> tuple[datetime, datetime]:
    """Find the validity in a certificate: RFC 5280 section 4.1, after version, serial, signature and issuer."""
    _, certificate = next(_elements(der))
    _, signed = next(_elements(certificate))
    fields = [content for tag, content in _elements(signed) if tag != 0xA0]
    begin, end = [_time(tag, content.decode("ascii")) for tag, content in _elements(fields[3])]
    return begin, end


def _time(tag: int, text: str) -> datetime:
    """Read UTCTime (tag 23, two digits of the year) or GeneralizedTime, by RFC 5280 section 4.1.2.5."""
    if tag == 23:
        text = f"{'19' if text >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
