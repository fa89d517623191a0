"""TLS contexts: what a listener offers, what a backend is asked for, and what an OpenSSL error means.

Lives here: `ssl.SSLContext` objects built from files, words for failures. Must not live here: what a client says in its
handshake (`client_hello`), sockets and handshakes (`tls_wire`, `bio_wire`). Contexts belong to one generation of the
configuration.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

from wsbridge.config.section import Context, Fault
from wsbridge.net.client_hello import record_names

ALPN: Final = ("http/1.1",)
SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites of a listener: forward secrecy and authenticated encryption; TLS 1.3 has its own list."""

_of_thread = threading.local()

_EXPIRED: Final = 10
_NOT_YET: Final = 9


class TlsError(ValueError):
    """A certificate, key or CA file cannot be used; the text is one sentence that names the file.

    Attributes:
        file: The file at fault.
    """

    def __init__(self, text: str, file: Path) -> None:
        super().__init__(text)
        self.file = file


def server_context(
    certificates: Sequence[tuple[Path, Path]], client_ca: Path | None = None, *, required: bool = True
) -> ssl.SSLContext:
    """Context of a listener: TLS 1.2 or later, ALPN http/1.1, the certificate chosen by the client's SNI.

    Reads files and may take some milliseconds for each certificate.

    Args:
        certificates: Pairs of certificate chain and key, PEM. The first is for clients whose name fits none.
        client_ca: PEM file of the authorities whose client certificates are taken; None asks for none.
        required: Whether a client must show one; else it may.

    Raises:
        TlsError: a file cannot be read, a key does not fit its certificate, a certificate has expired.
    """
    contexts = [_one_server_context(cert, key) for cert, key in certificates]
    default = contexts[0]
    by_name: dict[str, ssl.SSLContext] = {}
    for (cert, _), context in zip(certificates, contexts, strict=True):
        for name in _names(context, cert):
            by_name.setdefault(name, context)
    record_names(default, by_name if len(contexts) > 1 else {})
    if client_ca is not None:
        for context in contexts:  # OpenSSL verifies by the store of the context that the name has chosen
            _trust(context, client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    forget_errors()
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
    context = _new(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, ca)
    if client_certificate is not None:
        _load(context, *client_certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    forget_errors()
    return context


def authority_faults(ca: Path | None, context: Context) -> Iterator[Fault]:
    """Tell what is wrong with the authorities that `ca:` of a section names."""
    if ca is not None and context.files:
        try:
            client_context(ca)
        except TlsError as error:
            yield Fault(("ca",), str(error), "E031")


def cut_off(error: OSError) -> bool:
    """Tell whether a connection ended without close_notify; Python 3.11.2 has no class of its own for that."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def forget_errors() -> None:
    """Empty OpenSSL's queue of errors of this thread; to be called whenever a connection has failed.

    Some versions of Python (3.12 on, and what Linux distributions took over from it) leave a system error there when
    they raise it, and then the next call on any other connection fails with it
    (https://github.com/python/cpython/issues/148594). What empties the queue is the beginning of a handshake.
    """
    handshake: ssl.SSLObject | None = getattr(_of_thread, "handshake", None)
    if handshake is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        handshake = _of_thread.handshake = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with contextlib.suppress(ssl.SSLError):
        handshake.do_handshake()  # never answered


def failure_text(error: OSError, *, of_client: bool = False) -> str:
    """One sentence for a failed TLS handshake or stream, in OpenSSL's words where it has any.

    Args:
        error: What the handshake raised.
        of_client: Whether the peer is a client, which shows a certificate only where it is asked for.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if of_client:
            return f"the client's certificate is not taken by client_ca: {error.verify_message}"
        return f"certificate verify failed: {error.verify_message}"
    if cut_off(error) or isinstance(error, ssl.SSLZeroReturnError):
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


def _new(protocol: int) -> ssl.SSLContext:
    """Make a context with what both roles share."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Python 3.10 to 3.11.2 set it: then a FIN from anybody on the way passes for the peer's orderly end
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    """Load the authorities that a context verifies by."""
    try:
        context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError:
        raise TlsError(f"{ca}: holds no certificate in PEM form", ca) from None
    except OSError as error:
        raise TlsError(f"{ca}: cannot be read: {error.strerror}", ca) from None


def _one_server_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = _new(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(SERVER_CIPHERS)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(ALPN))
    _load(context, cert, key)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
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


def _names(context: ssl.SSLContext, cert: Path) -> tuple[str, ...]:
    """Give the DNS names of a certificate, lower-cased, wildcards as written; an expired one is refused.

    It is read by a handshake with ourselves in memory: the one public way that Python has. Only the leaf is trusted, so
    the chain above it does not matter here.

    Raises:
        TlsError: The certificate has expired, is not valid yet, or cannot be used.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=_leaf(cert))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(8):
            if _step(theirs) and _step(ours):
                break
            _step(ours)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            raise TlsError(f"{cert}: the certificate has expired", cert) from None
        if error.verify_code == _NOT_YET:
            raise TlsError(f"{cert}: the certificate is not valid yet", cert) from None
        raise TlsError(f"{cert}: {error.verify_message}", cert) from None
    except ssl.SSLError as error:
        raise TlsError(f"{cert}: {failure_text(error)}", cert) from None
    found = theirs.getpeercert() or {}
    alternatives = cast("tuple[tuple[str, str], ...]", found.get("subjectAltName", ()))
    return tuple(value.lower() for kind, value in alternatives if kind == "DNS")


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _leaf(cert: Path) -> str:
    text = cert.read_text("ascii", "replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"
