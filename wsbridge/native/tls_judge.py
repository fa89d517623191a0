"""Whether a peer's certificates are accepted: OpenSSL decides, as where it does TLS itself.

rustls verifies what the handshake is signed with, and leaves the certificates to us. OpenSSL verifies certificates only
in handshakes, so it gets one: up to the certificates, in the clear, as TLS 1.2 has it, and then a message that no
handshake has. It rejects the certificates, with the error that it has for them; or else it comes to that message.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import struct
from collections.abc import Sequence
from typing import Final
from weakref import WeakKeyDictionary

from wsbridge.net.address import PeerCertificate
from wsbridge.protocol.tls_records import TLS_RECORD_BYTES

_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE, _NONE_SUCH = 1, 2, 11, 99

_RSA_KEY: Final = bytes.fromhex("06092a864886f70d010101")
"""The algorithm of an RSA key, encoded as a certificate has it."""

_RENEGOTIATION_INFO: Final = bytes.fromhex("ff01000100")
_GROUPS: Final = bytes.fromhex("000a000a0008001d001700180019")  # X25519; P-256, -384, -521, of certificates as well
_POINT_FORMATS: Final = bytes.fromhex("000b00020100")
_SIGNATURES: Final = bytes.fromhex("0403050306030804080508060401050106010807")

_NOT_JUDGED: Final = "OpenSSL did not judge the certificates"


def judge_server(
    context: ssl.SSLContext, chain: Sequence[bytes], server_name: str
) -> ssl.SSLCertVerificationError | ssl.SSLError | None:
    """Judge the certificates of a server.

    Args:
        context: What a dial would be made with.
        chain: DER, the server's own first.
        server_name: The name or address that it has to have.

    Returns:
        Why they are rejected; None if they are accepted.
    """
    error: ssl.SSLError | None = ssl.SSLError(ssl.SSL_ERROR_SSL, _NOT_JUDGED)
    for suite in _suites(context, chain):
        _, error = _show_server(context, chain, server_name, suite)
        if error.reason == "UNEXPECTED_MESSAGE":
            return None
        if error.reason != "WRONG_CERTIFICATE_TYPE":
            break
    return error


def judge_client(context: ssl.SSLContext, chain: Sequence[bytes]) -> ssl.SSLError | None:
    """Judge the certificates of a client.

    Args:
        context: Of the server; it asks for certificates, and has one of its own. It allows TLS 1.2.
        chain: DER, the client's own first.

    Returns:
        Why they are rejected; None if they are accepted.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    error = _fail(tls, incoming, _records(_client_hello()))
    if error is not None:
        return error
    error = _fail(tls, incoming, _records(_certificates(chain) + _message(_NONE_SUCH, b"")))
    if error is None:
        return ssl.SSLError(ssl.SSL_ERROR_SSL, _NOT_JUDGED)
    return None if error.reason == "UNEXPECTED_MESSAGE" else error


def read_certificate(certificate: bytes) -> PeerCertificate:
    """Return a certificate in the form of `ssl.SSLSocket.getpeercert`, as if it were verified.

    Args:
        certificate: DER.

    Raises:
        ValueError: Python cannot read it.
    """
    context = _reading_context()
    for suite in _suites(context, [certificate]):
        tls, _ = _show_server(context, [certificate], "", suite)
        found = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # public only from Python 3.13 on
        if found:
            facts: PeerCertificate = found[0].get_info()
            return facts
    raise ValueError("not a certificate that OpenSSL reads")


@functools.cache
def _reading_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # it only reads
    return context


def _suites(context: ssl.SSLContext, chain: Sequence[bytes]) -> list[int]:
    """Return suites of TLS 1.2 for both kinds of keys, the one that fits the first certificate first, most likely."""
    found = _suites_of.get(context)
    if found is None:
        by_kind: dict[str, int] = {}
        for cipher in context.get_ciphers():
            for kind in ("ECDHE-ECDSA-", "ECDHE-RSA-"):
                if cipher["name"].startswith(kind):
                    by_kind.setdefault(kind, cipher["id"] & 0xFFFF)
        found = _suites_of[context] = [by_kind[kind] for kind in sorted(by_kind)]
    return found[::-1] if chain and _RSA_KEY in chain[0] else found


_suites_of: WeakKeyDictionary[ssl.SSLContext, list[int]] = WeakKeyDictionary()


def can_judge_servers(context: ssl.SSLContext) -> bool:
    """Return whether a context can judge servers: whether it has suites of TLS 1.2 for both kinds of keys."""
    return len(_suites(context, ())) == 2


def _show_server(
    context: ssl.SSLContext, chain: Sequence[bytes], server_name: str, suite: int
) -> tuple[ssl.SSLObject, ssl.SSLError]:
    """Have OpenSSL see a server with these certificates; return its connection, and the error it ends with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name or None)
    error = _fail(tls, incoming, b"")
    if error is None:
        extensions = struct.pack(">H", len(_RENEGOTIATION_INFO)) + _RENEGOTIATION_INFO
        hello = b"\x03\x03" + bytes(32) + b"\0" + struct.pack(">H", suite) + b"\0" + extensions
        flight = _message(_SERVER_HELLO, hello) + _certificates(chain) + _message(_NONE_SUCH, b"")
        error = _fail(tls, incoming, _records(flight))
    return tls, error or ssl.SSLError(ssl.SSL_ERROR_SSL, _NOT_JUDGED)


def _fail(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, data: bytes) -> ssl.SSLError | None:
    """Go on with a handshake; return the error that it fails with, None if it wants more."""
    incoming.write(data)
    try:
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
    except ssl.SSLError as error:
        return error
    return None


def _client_hello() -> bytes:
    suites = struct.pack(">H", 14) + bytes.fromhex("c02bc02fc02cc030cca9cca800ff")
    signatures = b"\0\x0d" + struct.pack(">HH", len(_SIGNATURES) + 2, len(_SIGNATURES)) + _SIGNATURES
    extensions = _GROUPS + _POINT_FORMATS + signatures
    body = b"\x03\x03" + bytes(32) + b"\0" + suites + b"\x01\0" + struct.pack(">H", len(extensions)) + extensions
    return _message(_CLIENT_HELLO, body)


def _certificates(chain: Sequence[bytes]) -> bytes:
    entries = b"".join(len(one).to_bytes(3, "big") + one for one in chain)
    return _message(_CERTIFICATE, len(entries).to_bytes(3, "big") + entries)


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def _records(data: bytes) -> bytes:
    """Cut messages into records of a handshake."""
    return b"".join(
        b"\x16\x03\x03" + len(part).to_bytes(2, "big") + part
        for part in (data[at : at + TLS_RECORD_BYTES] for at in range(0, len(data), TLS_RECORD_BYTES))
    )
