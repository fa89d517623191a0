"""What a client says of itself in a TLS handshake: the name it asks for (SNI), and its certificate.

Lives here: taking both down, and the choice of our certificate by the name. Must not live here: which authorities are
trusted (`tls`), who a certificate stands for (`auth.certificate`).
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from wsbridge.net.address import Certificate, Peer

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})")


class ServerSocket(ssl.SSLSocket):
    """The server's end of a connection that OpenSSL reads and writes itself.

    Attributes:
        sni: The name that the client asked for, in lower case; empty for none.
    """

    sni: str = ""


class ServerObject(ssl.SSLObject):
    """The server's end of a connection through memory buffers. See `ServerSocket`."""

    sni: str = ""


class Chooser:
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
        if isinstance(connection, (ServerSocket, ServerObject)) and _HOST.fullmatch(host):
            connection.sni = host
        if not self._by_name:
            return
        found = self._by_name.get(host) or self._by_name.get("*." + host.partition(".")[2])
        if found is not None:
            connection.context = found


def record_names(context: ssl.SSLContext, by_name: Mapping[str, ssl.SSLContext]) -> None:
    """Have a context of a server take down names, and give connections on to the contexts of these."""
    context.sslsocket_class = ServerSocket
    context.sslobject_class = ServerObject
    context.sni_callback = Chooser(by_name)


def ignore_unreadable_names() -> None:
    """Keep quiet of names that are not ASCII, for the rest of the process.

    Python decodes a name before it calls back; if it cannot, it fails the handshake, which is told like any other, and
    writes a traceback to standard error besides, which any client could fill.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            before(unraisable)

    sys.unraisablehook = hook


def with_hello(peer: Peer, tls: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Add to a peer what it said of itself.

    Args:
        peer: At the other end.
        tls: After the handshake, in which OpenSSL verified the certificate.
    """
    sni = tls.sni if isinstance(tls, (ServerSocket, ServerObject)) else ""
    certificate = None if tls.context.verify_mode is ssl.CERT_NONE else _certificate(tls)
    if not sni and certificate is None:
        return peer
    return replace(peer, sni=sni or peer.sni, certificate=certificate)


def _certificate(tls: ssl.SSLSocket | ssl.SSLObject) -> Certificate | None:
    """Give the verified certificate, if one was shown.

    One that OpenSSL verifies and Python cannot read is an empty one: it is shown, and stands for nobody.
    """
    try:
        return tls.getpeercert()
    except (ValueError, ssl.SSLError):
        return {}
