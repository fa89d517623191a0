"""SSL contexts, SNI, client certificate, error text."""

from __future__ import annotations

import contextlib
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from wsbridge.config.base import Issue, LoadContext
from wsbridge.net.address import Peer, PeerCertificate

_SNI_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})")


class ServerSSLSocket(ssl.SSLSocket):
    """The server's end of a connection that OpenSSL reads and writes itself.

    Attributes:
        sni: The name that the client asked for, in lower case; empty for none.
    """

    sni: str = ""


class ServerSSLObject(ssl.SSLObject):
    """The server's end of a connection through memory buffers. See `ServerSocket`."""

    sni: str = ""


class SniSelector:
    """SNI callback: takes the name down and picks the context whose certificate has it; no change if none does.

    Args:
        by_name: Contexts by DNS names in lower case, wildcards as `*.example.org`.
    """

    def __init__(self, by_name: Mapping[str, ssl.SSLContext]) -> None:
        self._by_name = by_name

    def __call__(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """Be called by OpenSSL in each handshake."""
        if not name:
            return
        host = name.lower().rstrip(".")
        if isinstance(connection, (ServerSSLSocket, ServerSSLObject)) and _SNI_HOST.fullmatch(host):
            connection.sni = host
        if not self._by_name:
            return
        found = self._by_name.get(host) or self._by_name.get("*." + host.partition(".")[2])
        if found is not None:
            connection.context = found


def install_sni(context: ssl.SSLContext, by_name: Mapping[str, ssl.SSLContext]) -> None:
    """Have a context of a server take down names, and give connections on to the contexts of these."""
    context.sslsocket_class = ServerSSLSocket
    context.sslobject_class = ServerSSLObject
    context.sni_callback = SniSelector(by_name)


def silence_sni_decode_errors() -> None:
    """Keep quiet of names that are not ASCII, for the rest of the process.

    Python decodes a name before it calls back; if it cannot, it fails the handshake, which is told like any other, and
    writes a traceback to standard error besides, which any client could fill.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            before(unraisable)

    sys.unraisablehook = hook


def with_tls_details(peer: Peer, tls: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Add to a peer what it said of itself.

    Args:
        peer: At the other end.
        tls: After the handshake, in which OpenSSL verified the certificate.
    """
    sni = tls.sni if isinstance(tls, (ServerSSLSocket, ServerSSLObject)) else ""
    certificate = None if tls.context.verify_mode is ssl.CERT_NONE else _peer_certificate(tls)
    if not sni and certificate is None:
        return peer
    return replace(peer, sni=sni or peer.sni, certificate=certificate)


def _peer_certificate(tls: ssl.SSLSocket | ssl.SSLObject) -> PeerCertificate | None:
    """Give the verified certificate, if one was shown.

    One that OpenSSL verifies and Python cannot read is an empty one: it is shown, and stands for nobody.
    """
    try:
        return tls.getpeercert()
    except (ValueError, ssl.SSLError):
        return {}


ALPN_PROTOCOLS: Final = ("http/1.1",)
SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites of a listener: forward secrecy and authenticated encryption; TLS 1.3 has its own list."""

_thread_local = threading.local()

_X509_CERT_EXPIRED: Final = 10
_X509_CERT_NOT_YET_VALID: Final = 9


class TlsError(ValueError):
    """A certificate, key or CA file cannot be used; the text is one sentence that names the file.

    Attributes:
        file: The file at fault.
    """

    def __init__(self, text: str, file: Path) -> None:
        super().__init__(text)
        self.file = file


def server_context(
    certificates: Sequence[tuple[Path, Path]],
    client_ca: Path | None = None,
    *,
    client_certificate_required: bool = True,
) -> ssl.SSLContext:
    """Context of a listener: TLS 1.2 or later, ALPN http/1.1, the certificate chosen by the client's SNI.

    Reads files and may take some milliseconds for each certificate.

    Args:
        certificates: Pairs of certificate chain and key, PEM. The first is for clients whose name fits none.
        client_ca: PEM file of the authorities whose client certificates are taken; None asks for none.
        client_certificate_required: Whether a client must show one; else it may.

    Raises:
        TlsError: a file cannot be read, a key does not fit its certificate, a certificate has expired.
    """
    contexts = [_single_server_context(cert, key) for cert, key in certificates]
    default = contexts[0]
    by_name: dict[str, ssl.SSLContext] = {}
    for (cert, _), context in zip(certificates, contexts, strict=True):
        for name in _certificate_dns_names(context, cert):
            by_name.setdefault(name, context)
    install_sni(default, by_name if len(contexts) > 1 else {})
    if client_ca is not None:
        for context in contexts:  # OpenSSL verifies by the store of the context that the name has chosen
            _load_ca(context, client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if client_certificate_required else ssl.CERT_OPTIONAL
    clear_openssl_errors()
    return default


def client_context(
    ca: Path | None = None,
    client_certificate: tuple[Path, Path] | None = None,
    *,
    insecure: bool = False,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Context for dialling: TLS 1.2 or later, certificate and name verified.

    Args:
        ca: PEM file of the authorities to trust; None for the system's.
        client_certificate: Certificate chain and key to show when asked.
        insecure: Verify nothing.
        alpn: Protocols to offer.

    Raises:
        TlsError: a file cannot be read or used.
    """
    context = _new_context(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_ca(context, ca)
    if client_certificate is not None:
        _load_cert_chain(context, *client_certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    clear_openssl_errors()
    return context


def validate_ca(ca: Path | None, context: LoadContext) -> Iterator[Issue]:
    """Tell what is wrong with the authorities that `ca:` of a section names."""
    if ca is not None and context.check_files:
        try:
            client_context(ca)
        except TlsError as error:
            yield Issue(("ca",), str(error), "E031")


def is_truncated(error: OSError) -> bool:
    """Tell whether a connection ended without close_notify; Python 3.11.2 has no class of its own for that."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def clear_openssl_errors() -> None:
    """Empty OpenSSL's queue of errors of this thread; to be called whenever a connection has failed.

    Some versions of Python (3.12 on, and what Linux distributions took over from it) leave a system error there when
    they raise it, and then the next call on any other connection fails with it
    (https://github.com/python/cpython/issues/148594). What empties the queue is the beginning of a handshake.
    """
    handshake: ssl.SSLObject | None = getattr(_thread_local, "handshake", None)
    if handshake is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        handshake = _thread_local.handshake = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with contextlib.suppress(ssl.SSLError):
        handshake.do_handshake()  # never answered


def tls_error_text(error: OSError, *, peer_is_client: bool = False) -> str:
    """One sentence for a failed TLS handshake or stream, in OpenSSL's words where it has any.

    Args:
        error: What the handshake raised.
        peer_is_client: Whether the peer is a client, which shows a certificate only where it is asked for.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if peer_is_client:
            return f"the client's certificate is not taken by client_ca: {error.verify_message}"
        return f"certificate verify failed: {error.verify_message}"
    if is_truncated(error) or isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection in the TLS handshake"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason == "CALLBACK_FAILED":
            return "the name that the client asks for (SNI) is not ASCII"
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "the client showed no certificate, and client_certificate is required"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return f"the peer does not speak TLS ({reason.lower().replace('_', ' ')})"
        return reason.lower().replace("_", " ") or str(error)
    return error.strerror or str(error)


def _new_context(protocol: int) -> ssl.SSLContext:
    """Make a context with what both roles share."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Python 3.10 to 3.11.2 set it: then a FIN from anybody on the way passes for the peer's orderly end
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    """Load the authorities that a context verifies by."""
    try:
        context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError:
        raise TlsError(f"{ca}: holds no certificate in PEM form", ca) from None
    except OSError as error:
        raise TlsError(f"{ca}: cannot be read: {error.strerror}", ca) from None


def _single_server_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(SERVER_CIPHERS)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    _load_cert_chain(context, cert, key)
    return context


def _load_cert_chain(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for file in (cert, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise TlsError(f"{file}: cannot be read: {error.strerror}", file) from None
    if b"-----BEGIN CERTIFICATE-----" not in cert.read_bytes():  # OpenSSL takes other forms, too
        raise TlsError(f"{cert}: holds no certificate in PEM form", cert)

    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(str(cert), str(key), password=password)
    except (ssl.SSLError, OSError, ValueError) as error:
        if asked:
            raise TlsError(f"{key}: the key is encrypted; a daemon cannot ask for its password", key) from None
        reason = getattr(error, "reason", None) or ""
        if reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key}: this key does not belong to the certificate {cert}", key) from None
        if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            raise TlsError(f"{cert}: {reason.lower().replace('_', ' ')}", cert) from None
        if b"PRIVATE KEY-----" not in key.read_bytes():
            raise TlsError(f"{key}: holds no private key in PEM form", key) from None
        raise TlsError(f"{cert}, {key}: {reason.lower().replace('_', ' ') or error}", cert) from None


def _certificate_dns_names(context: ssl.SSLContext, cert: Path) -> tuple[str, ...]:
    """Give the DNS names of a certificate, lower-cased, wildcards as written; an expired one is refused.

    It is read by a handshake with ourselves in memory: the one public way that Python has. Only the leaf is trusted, so
    the chain above it does not matter here.

    Raises:
        TlsError: The certificate has expired, is not valid yet, or cannot be used.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=_leaf_pem(cert))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(8):
            if _handshake_step(theirs) and _handshake_step(ours):
                break
            _handshake_step(ours)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _X509_CERT_EXPIRED:
            raise TlsError(f"{cert}: the certificate has expired", cert) from None
        if error.verify_code == _X509_CERT_NOT_YET_VALID:
            raise TlsError(f"{cert}: the certificate is not valid yet", cert) from None
        raise TlsError(f"{cert}: {error.verify_message}", cert) from None
    except ssl.SSLError as error:
        raise TlsError(f"{cert}: {tls_error_text(error)}", cert) from None
    found = theirs.getpeercert() or {}
    alternatives = cast("tuple[tuple[str, str], ...]", found.get("subjectAltName", ()))
    return tuple(value.lower() for kind, value in alternatives if kind == "DNS")


def _handshake_step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _leaf_pem(cert: Path) -> str:
    text = cert.read_text("ascii", "replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"
