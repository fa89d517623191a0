"""Listener, ListenerTls, certificate checks."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.types import (
    UNIX_CLIENTS,
    Count,
    FileMode,
    FilePath,
    Flag,
    Name,
    NetworkOrUnix,
    Owner,
    at_least,
    at_most,
)
from wsbridge.config.unions import ONE_OR_MANY_SCHEMA, as_tuple, non_empty
from wsbridge.config.urls import Bind, HostOrWildcard

EXPIRY_WARNING = timedelta(days=14)
"""How long before its end a certificate is warned of."""

PEM_BEGIN, PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class TlsCertificateConfig(Section):
    """Certificate and private key."""

    cert: FilePath
    """Certificate chain (PEM): leaf first, then intermediates."""
    key: FilePath
    """Private key (PEM), without a passphrase."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Tell whether the two belong together and hold now."""
        if not context.check_files:
            return
        problem = check_key_pair(self.cert, self.key)
        if problem is not None:
            yield Issue((problem.field,), problem.text, "E031")
            return
        for period in validity_periods(self.cert)[:1]:
            if context.now > period.not_after:
                yield Issue(("cert",), f"the certificate {self.cert} expired on {period.not_after:%Y-%m-%d}", "E032")
            elif context.now < period.not_before:
                text = f"the certificate {self.cert} holds only from {period.not_before:%Y-%m-%d %H:%M} UTC"
                yield Issue(("cert",), text, "E032")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of an end that is near, and of a key that everybody on this host can read."""
        if not context.check_files:
            return
        for period in validity_periods(self.cert)[:1]:
            left = period.not_after - context.now
            if left <= EXPIRY_WARNING:
                text = f"the certificate {self.cert} expires in {left.days} days ({period.not_after:%Y-%m-%d})"
                yield Issue(("cert",), text, "W008")
        if self.key.stat().st_mode & stat.S_IROTH:
            yield Issue(("key",), f"every user of this host can read the private key {self.key}", "W009")


@dataclass(frozen=True, slots=True)
class KeyPairProblem:
    """What is wrong with a pair of files, and at which of the two fields."""

    field: str
    text: str


def check_key_pair(cert: Path, key: Path) -> KeyPairProblem | None:
    """Try whether OpenSSL takes the two files together."""
    if b"ENCRYPTED" in key.read_bytes():
        return KeyPairProblem("key", f"the private key {key} has a passphrase; write it without one (openssl pkey)")
    if PEM_BEGIN not in cert.read_text(errors="replace"):
        return KeyPairProblem("cert", f"{cert} holds no certificate in PEM form ({PEM_BEGIN})")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return KeyPairProblem("key", f"the private key {key} does not belong to the certificate {cert}")
        if "PRIVATE KEY" not in key.read_text(errors="replace"):
            return KeyPairProblem("key", f"{key} holds no private key in PEM form")
        return KeyPairProblem("cert", f"{cert} and {key} cannot be loaded: {error.reason or error}")
    return None


def check_ca_file(path: Path) -> str | None:
    """Try whether OpenSSL takes a file of authorities to verify by."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        return f"{path} holds no certificate in PEM form ({PEM_BEGIN})"
    return None


@dataclass(frozen=True, slots=True)
class ValidityPeriod:
    """When a certificate holds: both ends in UTC."""

    not_before: datetime
    not_after: datetime


def validity_periods(path: Path) -> list[ValidityPeriod]:
    """Give when each certificate of a PEM file holds, in the order of the file."""
    found: list[ValidityPeriod] = []
    for part in path.read_text(errors="replace").split(PEM_BEGIN)[1:]:
        der = ssl.PEM_cert_to_DER_cert(f"{PEM_BEGIN}{part.partition(PEM_END)[0]}{PEM_END}")
        begin, end = _parse_validity(der)
        found.append(ValidityPeriod(begin, end))
    return found


def _der_elements(der: bytes) -> Iterator[tuple[int, bytes]]:
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


def _parse_validity(der: bytes) -> tuple[datetime, datetime]:
    """Find the validity in a certificate: RFC 5280 section 4.1, after version, serial, signature and issuer."""
    _, certificate = next(_der_elements(der))
    _, signed = next(_der_elements(certificate))
    fields = [content for tag, content in _der_elements(signed) if tag != 0xA0]
    begin, end = [_parse_der_time(tag, content.decode("ascii")) for tag, content in _der_elements(fields[3])]
    return begin, end


def _parse_der_time(tag: int, text: str) -> datetime:
    """Read UTCTime (tag 23, two digits of the year) or GeneralizedTime, by RFC 5280 section 4.1.2.5."""
    if tag == 23:
        text = f"{'19' if text >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


class ListenerTlsConfig(Section):
    """TLS settings of a listener; TLS 1.2 or later."""

    certificates: Annotated[tuple[TlsCertificateConfig, ...], AfterValidator(non_empty)]
    """One or more certificates, selected by SNI; the first is the default."""
    client_ca: FilePath | None = None
    """CA bundle (PEM) to verify client certificates (mTLS). Default: no client certificate is requested."""
    client_certificate: Literal["required", "optional"] = "required"
    """Whether a client certificate is required or optional; only with client_ca."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Ask for the authorities that certificates are verified by."""
        if "client_certificate" in raw and "client_ca" not in raw:
            yield Issue(("client_certificate",), "means nothing without client_ca", "E013", at_key=True)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Tell whether the authorities can be used."""
        if self.client_ca is not None and context.check_files:
            problem = check_ca_file(self.client_ca)
            if problem is not None:
                yield Issue(("client_ca",), problem, "E031")


class ListenerConfig(Section):
    """An address to accept connections on, and its protocol."""

    bind: Bind
    """host:port, '[v6]:port' (quoted) or unix:/path. Port 0 picks a free port, which is logged."""
    protocol: Literal["websocket", "tcp"] = "websocket"
    """Protocol of the clients: websocket (HTTP/1.1 upgrade) or tcp (raw bytes)."""
    route: Name | None = None
    """Route of all connections; required with protocol: tcp, not allowed otherwise."""
    tls: ListenerTlsConfig | None = None
    """TLS settings. Default: no TLS."""
    trusted_proxies: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(non_empty)] | None = None
    """Proxies that are trusted to report the client's address: networks, or unix for Unix sockets."""
    client_address_from: Literal["proxy-protocol", "x-forwarded-for", "forwarded"] | None = None
    """How they report it: PROXY protocol, X-Forwarded-For or Forwarded. Required with trusted_proxies, not allowed
    otherwise."""
    host_names: (
        Annotated[tuple[HostOrWildcard, ...], BeforeValidator(as_tuple), AfterValidator(non_empty), ONE_OR_MANY_SCHEMA]
        | None
    ) = None
    """Names by which clients reach a listener without TLS, or *.example.org for all names below one. Routes without
    match.host and without credentials accept only these, IP addresses and localhost (DNS rebinding)."""
    allow_http: Flag = False
    """true: a listener with protocol: tcp passes HTTP requests on. Default: they are rejected, since any web page can
    send them."""
    mode: FileMode = 0o660
    """File mode of the socket, in octal; only for unix:/path."""
    owner: Owner | None = None
    """Owner of the socket, user or user:group; only for unix:/path. Default: the user that runs wsbridge."""
    ipv6_only: Flag = False
    """For '[::]:port': true accepts IPv6 only; false accepts both."""
    backlog: Annotated[Count, AfterValidator(at_least(1)), AfterValidator(at_most(65535))] = 1024
    """Listen backlog (see listen(2))."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Hold the keys to what the address and the spoken form can use."""
        if raw.get("protocol") == "tcp":
            if "route" not in raw and raw.keys() <= cls.model_fields.keys():
                yield Issue(("route",), "is missing: a listener that speaks tcp names its route", "E011")
        elif "route" in raw and raw.get("protocol", "websocket") == "websocket":
            text = "only a listener with protocol: tcp names a route; here the routes pick by their match"
            yield Issue(("route",), text, "E013", at_key=True)
        yield from cls._validate_proxy_keys(raw)
        bind = raw.get("bind")
        if isinstance(bind, str):
            for key in ("mode", "owner"):
                if key in raw and not bind.startswith("unix:"):
                    yield Issue((key,), "is only for a listener on unix:/path", "E013", at_key=True)
            if "ipv6_only" in raw and not bind.startswith("["):
                yield Issue(("ipv6_only",), "is only for a listener on an IPv6 address", "E013", at_key=True)

    @classmethod
    def _validate_proxy_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Hold together whose word counts and how it is said."""
        keys = ("trusted_proxies", "client_address_from")
        for key, other in (keys, keys[::-1]):
            if key in raw and other not in raw and raw.keys() <= cls.model_fields.keys():
                yield Issue((other,), f"is missing: {key} needs it", "E011")
        told = raw.get("client_address_from")
        if raw.get("protocol") == "tcp" and told in ("x-forwarded-for", "forwarded"):
            text = "a listener that speaks tcp hears no request; write proxy-protocol"
            yield Issue(("client_address_from",), text, "E013")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Ask for the one proxy that can come by a Unix socket."""
        if self.bind.kind == "unix" and self.trusted_proxies is not None and UNIX_CLIENTS not in self.trusted_proxies:
            yield Issue(("trusted_proxies",), f"has no {UNIX_CLIENTS}, and nobody else comes by {self.bind}", "E013")
