"""Certificates that are wrong in one way each."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta

import trustme

from tests import authority

_EC = trustme.KeyType.ECDSA


@functools.cache
def ca() -> trustme.CA:
    """An authority that nobody trusts unless told."""
    return trustme.CA(organization_name="Own Authority", key_type=_EC)


@functools.cache
def ca_file() -> str:
    """The file with its certificate."""
    path = authority.folder() / "probe-ca.pem"
    ca().cert_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def client_pair() -> tuple[str, str]:
    """Certificate and key of a client, from the same authority."""
    issued = ca().issue_cert("client@example.org", key_type=_EC)
    cert, key = authority.folder() / "probe-client.pem", authority.folder() / "probe-client-key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    return str(cert), str(key)


@functools.cache
def server(*names: str, days: float = 90.0, whole_chain: bool = True, demand: bool = False) -> ssl.SSLContext:
    """Give the context of a server.

    Args:
        names: Of its certificate.
        days: Until the certificate ends.
        whole_chain: False: it is from an intermediate authority whose certificate is not sent.
        demand: Whether clients have to show a certificate.
    """
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    begin = min(now, end) - timedelta(days=30)
    issuer = ca() if whole_chain else ca().create_child_ca(key_type=_EC)
    issued = issuer.issue_cert(*names, not_before=begin, not_after=end, key_type=_EC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if whole_chain:
        issued.configure_cert(context)
    else:
        with issued.private_key_pem.tempfile() as key, issued.cert_chain_pems[0].tempfile() as cert:
            context.load_cert_chain(cert, key)
    if demand:
        context.verify_mode = ssl.CERT_REQUIRED
        ca().configure_trust(context)
    return context
