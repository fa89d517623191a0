"""The section of a listener, with its TLS settings."""

from __future__ import annotations

import contextlib
import ssl
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.certificates import (
    CertificateError,
    chain_warnings,
    check_ca_file,
    expiry_warnings,
    load_key_pair,
    server_warnings,
)
from wsbridge.config.owner import find_owner, may_give_to
from wsbridge.config.paths import FilePath
from wsbridge.config.secrets import Secret
from wsbridge.config.types import (
    UNIX_CLIENTS,
    Count,
    CountOrOff,
    FileMode,
    Flag,
    Name,
    NetworkOrUnix,
    Owner,
    as_text,
    at_least,
    at_most,
)
from wsbridge.config.unions import ONE_OR_MANY_SCHEMA, as_tuple, non_empty
from wsbridge.config.urls import Bind, HostOrWildcard


class TlsCertificateConfig(Section):
    """Certificate and private key."""

    cert: FilePath
    """Certificate chain (PEM): leaf first, then intermediates."""
    key: FilePath = Field(default_factory=lambda data: data["cert"])
    """Private key (PEM). Default: in the file of cert."""
    key_password: Secret | None = None
    """Passphrase of the private key, as {file: PATH}, {env: NAME} or {credential: NAME}. Default: none."""

    @property
    def password(self) -> str | None:
        """The passphrase itself."""
        return None if self.key_password is None else self.key_password.reveal()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the pair is read from, that of the passphrase among them."""
        secret = None if self.key_password is None else self.key_password.file
        return (self.cert, self.key) if secret is None else (self.cert, self.key, secret)

    def read_again(self) -> tuple[Path, Path, str | None]:
        """Return the two files, and the passphrase as its file has it now.

        Raises:
            ValueError: The file of the passphrase cannot be used.
        """
        return self.cert, self.key, None if self.key_password is None else self.key_password.read_again().reveal()

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check that the two belong together."""
        if context.check_files:
            try:
                load_key_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.cert, self.key, self.password)
            except CertificateError as error:
                yield Issue((error.field,), str(error), "E031")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of the end of validity, of incomplete chains, and of a key that every user of this host can read."""
        if not context.check_files:
            return
        for text in expiry_warnings(self.cert, context.now):
            yield Issue(("cert",), text, "W008")
        for text in chain_warnings(self.cert):
            yield Issue(("cert",), text, "W027")
        with contextlib.suppress(OSError):  # reported above
            if self.key.stat().st_mode & stat.S_IROTH:
                field = "key" if "key" in self.model_fields_set else "cert"
                yield Issue((field,), f"every user of this host can read the private key {self.key}", "W009")


def read_ciphers(value: object) -> str:
    """Read a list of cipher suites in the form of OpenSSL; none of them may be without encryption or certificates."""
    text = as_text(value)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(text)
    except ssl.SSLError:
        raise ValueError(f'"{text}" selects no cipher suite: write a list of OpenSSL, such as ECDHE+AESGCM') from None
    for cipher in context.get_ciphers():
        if cipher["strength_bits"] < MIN_CIPHER_BITS or cipher["auth"] == "auth-null":
            raise ValueError(f"includes {cipher['name']}, which is not secure: add :!aNULL:!eNULL:!LOW")
    return text


MIN_CIPHER_BITS = 112
Ciphers = Annotated[str, PlainValidator(read_ciphers), WithJsonSchema({"type": "string"})]
TlsVersion = Annotated[Literal["1.2", "1.3"], WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]})]


class ListenerTlsConfig(Section):
    """TLS settings of a listener; TLS 1.2 or later."""

    certificates: Annotated[tuple[TlsCertificateConfig, ...], AfterValidator(non_empty)]
    """One or more certificates, selected by SNI; the first is the default."""
    client_ca: FilePath | None = None
    """CA bundle (PEM) to verify client certificates (mTLS). Default: no client certificate is requested."""
    client_certificate: Literal["required", "optional"] = "required"
    """Whether a client certificate is required or optional; only with client_ca."""
    min_version: TlsVersion = "1.2"
    """Minimum TLS version: 1.2 or 1.3."""
    ciphers: Ciphers | None = None
    """Cipher suites of TLS 1.2, as a list in the form of OpenSSL. Default: forward secrecy and authenticated encryption
    only. TLS 1.3 has its own."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject keys that another one makes meaningless."""
        if "client_certificate" in raw and "client_ca" not in raw:
            yield Issue(("client_certificate",), "has no effect without client_ca", "E013", at_key=True)
        if "ciphers" in raw and raw.get("min_version") == "1.3":
            yield Issue(("ciphers",), "has no effect with min_version: 1.3", "E013", at_key=True)

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of certificates that clients may reject."""
        for at, pair in enumerate(self.certificates if context.check_files else ()):
            for text in server_warnings(pair.cert):
                yield Issue(("certificates", at, "cert"), text, "W027")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check the CA bundle."""
        if self.client_ca is not None and context.check_files:
            problem = check_ca_file(self.client_ca)
            if problem is not None:
                yield Issue(("client_ca",), problem, "E031")


class ListenerConfig(Section):
    """An address to accept connections on, and its protocol."""

    bind: Bind
    """host:port, '[v6]:port' (quoted), unix:/path, or fd:NAME for sockets that systemd passes. Port 0 picks a free
    port, which is logged."""
    protocol: Literal["websocket", "tcp"] = "websocket"
    """Protocol of the clients: websocket (HTTP/1.1 upgrade) or tcp (raw bytes)."""
    route: Name | None = None
    """Route of all connections; required with protocol: tcp, not allowed otherwise."""
    tls: ListenerTlsConfig | None = None
    """TLS settings. Default: no TLS."""
    trusted_proxies: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(non_empty)] | None = None
    """Proxies that are trusted to report the client's address: networks, or unix for Unix sockets."""
    client_address_from: Literal["proxy-protocol", "x-forwarded-for", "forwarded", "x-real-ip"] | None = None
    """How they report it: PROXY protocol, X-Forwarded-For, Forwarded or X-Real-IP. Required with trusted_proxies, not
    allowed otherwise."""
    host_names: (
        Annotated[tuple[HostOrWildcard, ...], BeforeValidator(as_tuple), AfterValidator(non_empty), ONE_OR_MANY_SCHEMA]
        | None
    ) = None
    """Names by which clients reach a listener without TLS, or *.example.org for all names below one. Routes without
    match.host and without credentials accept only these, IP addresses and localhost (DNS rebinding)."""
    allow_http: Flag = False
    """true: a listener with protocol: tcp passes HTTP requests on. Default: they are rejected, since any web page can
    send them."""
    connections: CountOrOff = None
    """Concurrent connections of this listener; more get 503, and with protocol: tcp a reset. off: limits.connections
    alone."""
    mode: FileMode = 0o660
    """File mode of the socket, in octal; only for unix:/path."""
    owner: Owner | None = None
    """Owner of the socket, user or user:group; only for unix:/path. Default: the user that runs wsbridge."""
    ipv6_only: Flag = False
    """For '[::]:port': true accepts IPv6 only; false accepts both."""
    backlog: Annotated[Count, AfterValidator(at_least(1)), AfterValidator(at_most(65535))] = 1024
    """Listen backlog (see listen(2)); not for fd:NAME."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject keys that the address or the protocol does not use."""
        if raw.get("protocol") == "tcp":
            if "route" not in raw and raw.keys() <= cls.model_fields.keys():
                yield Issue(("route",), "is missing: a listener with protocol: tcp names its route", "E011")
        elif "route" in raw and raw.get("protocol", "websocket") == "websocket":
            text = "only a listener with protocol: tcp names a route; here the routes pick by their match"
            yield Issue(("route",), text, "E013", at_key=True)
        yield from cls._validate_proxy_keys(raw)
        bind = raw.get("bind")
        if isinstance(bind, str):
            for key in ("mode", "owner"):
                if key in raw and not bind.startswith("unix:"):
                    yield Issue((key,), "is only for a listener on unix:/path", "E013", at_key=True)
            if "backlog" in raw and bind.startswith("fd:"):
                yield Issue(("backlog",), "is set by Backlog= of the .socket unit", "E013", at_key=True)
            if "ipv6_only" in raw and not bind.startswith("["):
                yield Issue(("ipv6_only",), "is only for a listener on an IPv6 address", "E013", at_key=True)

    @classmethod
    def _validate_proxy_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require trusted_proxies and client_address_from together."""
        keys = ("trusted_proxies", "client_address_from")
        for key, other in (keys, keys[::-1]):
            if key in raw and other not in raw and raw.keys() <= cls.model_fields.keys():
                yield Issue((other,), f"is missing: {key} needs it", "E011")
        source = raw.get("client_address_from")
        if raw.get("protocol") == "tcp" and source in ("x-forwarded-for", "forwarded", "x-real-ip"):
            text = "a listener with protocol: tcp receives no requests; write proxy-protocol"
            yield Issue(("client_address_from",), text, "E013")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Require unix on a Unix socket, and check the owner."""
        if self.bind.kind == "unix" and self.trusted_proxies is not None and UNIX_CLIENTS not in self.trusted_proxies:
            yield Issue(("trusted_proxies",), f"has no {UNIX_CLIENTS}, the only kind of client of {self.bind}", "E013")
        if self.owner is not None and context.check_files:
            try:
                find_owner(self.owner)
            except ValueError as error:
                yield Issue(("owner",), str(error), "E012")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of an owner that the socket cannot get."""
        if self.owner is not None and context.check_files and not may_give_to(*find_owner(self.owner)):
            text = f"this process may not give the socket to {self.owner}: that needs root, CAP_CHOWN or, for a group"
            yield Issue(("owner",), f"{text}, membership (SupplementaryGroups= of systemd)", "W028")
