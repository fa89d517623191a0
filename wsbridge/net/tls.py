"""SSL contexts, SNI, client certificate, error text."""

from __future__ import annotations

import contextlib
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal
from weakref import WeakValueDictionary

from wsbridge.config.base import Issue, LoadContext
from wsbridge.config.certificates import CertificateError, dns_names, load_key_pair
from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.file_watcher import FileWatcher, Watched
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
        if isinstance(connection, (ServerSSLSocket, ServerSSLObject)):
            connection.sni = normalize_server_name(name)
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

    Python decodes a name before it calls back; if it cannot, it fails the handshake, which is reported like any other,
    and writes a traceback to standard error besides, which any client could fill.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            before(unraisable)

    sys.unraisablehook = hook


def with_tls_details(peer: Peer, tls: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Add what the TLS handshake shows of a peer: server name and certificate.

    Args:
        peer: At the other end.
        tls: After the handshake, in which OpenSSL verified the certificate.
    """
    sni = tls.sni if isinstance(tls, (ServerSSLSocket, ServerSSLObject)) else ""
    return add_tls_details(peer, sni, verified_certificate(tls))


def add_tls_details(peer: Peer, sni: str, certificate: PeerCertificate | None) -> Peer:
    """Add what the TLS handshake shows of a peer: server name and certificate.

    Args:
        peer: At the other end.
        sni: The name that it asked for; empty for none.
        certificate: What it showed, verified; None for none.
    """
    if not sni and certificate is None:
        return peer
    return replace(peer, sni=sni or peer.sni, certificate=certificate)


def verified_certificate(tls: ssl.SSLSocket | ssl.SSLObject) -> PeerCertificate | None:
    """Give the certificate of the peer, if one was shown and verified.

    One that OpenSSL verifies and Python cannot read is an empty one: it is shown, and identifies nobody.
    """
    if tls.context.verify_mode is ssl.CERT_NONE:
        return None
    try:
        return tls.getpeercert()
    except (ValueError, ssl.SSLError):
        return {}


def normalize_server_name(name: str) -> str:
    """Return the name that a client asks for, in lower case without final dot; empty if it is no name of a host."""
    host = name.lower().rstrip(".")
    return host if _SNI_HOST.fullmatch(host) else ""


ALPN_PROTOCOLS: Final = ("http/1.1",)
SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites of a listener: forward secrecy and authenticated encryption; TLS 1.3 has its own list."""

_thread_local = threading.local()


KeyPair = tuple[Path, Path] | tuple[Path, Path, str | None]
"""Certificate chain and private key (PEM), and the passphrase of the key if it has one."""


class TlsError(ValueError):
    """A certificate, key or CA file cannot be used; the text is one sentence that names the file.

    Attributes:
        file: The file at fault.
    """

    def __init__(self, text: str, file: Path) -> None:
        super().__init__(text)
        self.file = file


@dataclass(frozen=True, slots=True)
class ServerTlsOptions:
    """TLS options of a listener.

    Attributes:
        client_ca: PEM file of the authorities whose client certificates are accepted; None requests none.
        client_certificate_required: Whether a client must show one; else it may.
        min_version: Minimum TLS version.
        ciphers: Suites of TLS 1.2 in the form of OpenSSL.
    """

    client_ca: Path | None = None
    client_certificate_required: bool = True
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = SERVER_CIPHERS


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """One certificate of a listener, loaded.

    Attributes:
        context: Serves it.
        names: Its DNS names in lower case, wildcards as `*.example.org`.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]


def load_server_certificate(pair: KeyPair, options: ServerTlsOptions) -> ServerCertificate:
    """Load a certificate of a listener: TLS 1.2 or later, ALPN http/1.1.

    Reads files, and may take some milliseconds.

    Args:
        pair: Certificate chain and private key.
        options: Of the listener.

    Raises:
        TlsError: a file cannot be read, a key does not fit its certificate.
    """
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(options.ciphers)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # a client comes back over one connection at a time
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    _load_cert_chain(context, *pair)
    if options.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if options.client_ca is not None:  # OpenSSL verifies by the store of the context that the name has chosen
        _load_ca(context, options.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if options.client_certificate_required else ssl.CERT_OPTIONAL
    clear_openssl_errors()
    return ServerCertificate(context, dns_names(pair[0]))


def combine_certificates(certificates: Sequence[ServerCertificate]) -> ssl.SSLContext:
    """Return the context of a listener, which selects the certificate by the client's SNI.

    Args:
        certificates: The first is for clients whose name fits none.
    """
    by_name: dict[str, ssl.SSLContext] = {}
    for one in certificates if len(certificates) > 1 else ():
        for name in one.names:
            by_name.setdefault(name, one.context)
    install_sni(certificates[0].context, by_name)
    return certificates[0].context


def client_context(
    ca: Path | None = None,
    client_certificate: KeyPair | None = None,
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
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority will do, or the certificate
    if client_certificate is not None:
        _load_cert_chain(context, *client_certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    clear_openssl_errors()
    return context


@dataclass(frozen=True, slots=True)
class ClientTlsOptions:
    """TLS options of what is dialed.

    Attributes:
        ca: PEM file of the authorities to trust; None for the system's.
        client_certificate: What to show when asked.
        insecure: Verify nothing.
        alpn: Protocols to offer.
    """

    ca: Path | None = None
    client_certificate: TlsCertificateConfig | None = None
    insecure: bool = False
    alpn: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        own = () if self.client_certificate is None else self.client_certificate.files
        return own if self.ca is None or self.insecure else (*own, self.ca)


DEFAULT_CLIENT_TLS: Final = ClientTlsOptions()


def load_client_context(options: ClientTlsOptions) -> ssl.SSLContext:
    """Return a context as `client_context` makes it, of what the files hold now.

    Those with the trust store of the system are the same one for all configurations.

    Raises:
        TlsError: a file cannot be read or used.
    """
    if not options.files and not options.insecure:
        return _system_context(options.alpn)
    own = options.client_certificate
    pair = None if own is None else own.read_again()
    return client_context(options.ca, pair, insecure=options.insecure, alpn=options.alpn)


def watched_client_context(
    watcher: FileWatcher, options: ClientTlsOptions = DEFAULT_CLIENT_TLS
) -> Watched[ssl.SSLContext]:
    """Return a context of `load_client_context`, which is replaced when its files change; one for the same options.

    Raises:
        TlsError: a file cannot be read or used.
    """
    own = options.client_certificate
    load = partial(load_client_context, options)
    return watcher.watch(("client", options), options.files, load, None if own is None else own.cert)


def _system_context(alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return a context with the trust store of the system; the same one as long as that has not changed.

    Each has a copy of all authorities, most of a mebibyte, and each reload needs one.
    """
    key = (alpn, _system_store_state())
    context = _system_contexts.get(key)
    if context is None:
        context = _system_contexts[key] = client_context(alpn=alpn)
    return context


def _system_store_state() -> tuple[object, ...]:
    """Return what changes whenever the trust store of the system does."""
    state: list[object] = []
    paths = ssl.get_default_verify_paths()  # None for what does not exist
    for path in (paths.cafile, paths.capath):
        if path is not None:
            found = Path(path).stat()
            state.append((path, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size))
    return tuple(state)


_system_contexts: WeakValueDictionary[tuple[object, ...], ssl.SSLContext] = WeakValueDictionary()


def validate_ca(ca: Path | None, context: LoadContext) -> Iterator[Issue]:
    """Report what is wrong with the authorities that `ca:` of a section names."""
    if ca is not None and context.check_files:
        try:
            client_context(ca)
        except TlsError as error:
            yield Issue(("ca",), str(error), "E031")


_NOT_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
        "UNEXPECTED_MESSAGE",
        "BAD_RECORD_TYPE",
    }
)
"""What OpenSSL says where the first bytes of a peer are no TLS."""

_CERTIFICATE_ALERTS: Final = frozenset(
    {
        "TLSV1_ALERT_UNKNOWN_CA",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)
"""Alerts of a peer that rejects our certificate."""

_UNKNOWN_AUTHORITY_CODES: Final = frozenset({2, 18, 19, 20, 21})
"""X509_V_ERR_… of chains that lead to no authority that is trusted."""
_WRONG_NAME_CODES: Final = frozenset({62, 64})
"""X509_V_ERR_… of a name or address that the certificate does not have."""


def is_truncated(error: OSError) -> bool:
    """Return whether a connection ended without close_notify; Python 3.11.2 has no class of its own for that."""
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
            return f"the client's certificate is not accepted by client_ca: {error.verify_message}"
        message = error.verify_message.rstrip(".")
        return f"certificate verify failed: {message}{_verify_remedy(error.verify_code)}"
    if is_truncated(error) or isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection in the TLS handshake"
    if isinstance(error, ssl.SSLError):
        return _handshake_error_text(error, peer_is_client=peer_is_client)
    return error.strerror or str(error)


def _handshake_error_text(error: ssl.SSLError, *, peer_is_client: bool) -> str:
    reason = error.reason or ""
    text = reason.lower().replace("_", " ")
    if reason == "CALLBACK_FAILED":
        return "the name that the client asks for (SNI) is not ASCII"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the client showed no certificate, and client_certificate is required"
    if reason == "HTTP_REQUEST" and peer_is_client:
        return "the client speaks HTTP without TLS, and the listener has tls: use https:// or wss://"
    if reason in _NOT_TLS:
        remedy = "" if peer_is_client else "; if that is intended, write tcp:// for tls://, or ws:// for wss://"
        return f"the peer does not speak TLS ({text}){remedy}"
    if reason == "SSLV3_ALERT_HANDSHAKE_FAILURE" and not peer_is_client:
        return f"{text}: no TLS version or cipher in common, or the server requires a client_certificate"
    return _alert_text(error, peer_is_client=peer_is_client)


def _alert_text(error: ssl.SSLError, *, peer_is_client: bool) -> str:
    text = (error.reason or "").lower().replace("_", " ")
    if error.reason in _CERTIFICATE_ALERTS:
        if peer_is_client:
            return (
                f"the client does not trust the certificate of the listener ({text}): "
                "install its authority at the client, and let cert hold the whole chain"
            )
        return f"the server does not accept our client certificate, or got none ({text}): see client_certificate"
    return text or str(error)


def tls_stream_error_text(error: ssl.SSLError, *, peer_is_client: bool) -> str:
    """One sentence for a TLS stream that broke after its handshake.

    In TLS 1.3 a server rejects a client certificate only then, since the client's handshake is complete before.

    Args:
        error: What reading or writing raised.
        peer_is_client: Whether the peer is a client.
    """
    return _alert_text(error, peer_is_client=peer_is_client)


def _verify_remedy(code: int) -> str:
    """Say what helps where the certificate of a server is for another name, or its authority is not known."""
    if code in _WRONG_NAME_CODES:
        return "; dial a name that it has, or set server_name to one"
    if code not in _UNKNOWN_AUTHORITY_CODES:
        return ""
    if not has_system_authorities():
        return "; this host has no certificate authorities: install them (ca-certificates), or set ca"
    return "; set ca to a file with the certificate of its authority, and let the server send its whole chain"


def has_system_authorities() -> bool:
    """Return whether the trust store of the host, where OpenSSL looks for it, has anything in it that can be read."""
    paths = ssl.get_default_verify_paths()  # None for what does not exist
    try:
        if paths.cafile is not None and Path(paths.cafile).stat().st_size:
            return True
        return paths.capath is not None and any(Path(paths.capath).iterdir())
    except OSError:  # OpenSSL leaves it out in silence, too
        return False


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


def _load_cert_chain(context: ssl.SSLContext, cert: Path, key: Path, password: str | None = None) -> None:
    try:
        load_key_pair(context, cert, key, password)
    except CertificateError as error:
        raise TlsError(str(error), error.file) from None
