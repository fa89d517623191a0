"""The certificate of `bridge --self-signed`."""

from __future__ import annotations

import hashlib
import ssl

import pytest

from tests.cli.program import invoke
from wsbridge.cli.self_signed import SelfSignedCertificate


def test_it_can_be_served_and_is_private() -> None:
    """Key and certificate belong together, others cannot read them, and `remove` leaves nothing."""
    signed = SelfSignedCertificate("gw.example.org")
    directory = signed.cert.parent

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(signed.cert, signed.key)
    der = ssl.PEM_cert_to_DER_cert(signed.cert.read_text())
    mode = directory.stat().st_mode
    signed.remove()
    signed.remove()

    assert signed.fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert b"gw.example.org" in der
    assert mode & 0o077 == 0
    assert not directory.exists()


@pytest.mark.parametrize("host", ["10.0.0.7", "::1", "0.0.0.0", "", "a,DNS:evil.example"])
def test_any_host_makes_a_certificate(host: str) -> None:
    """Addresses, no host and nonsense give a certificate for this machine, and for nothing else."""
    signed = SelfSignedCertificate(host)
    try:
        der = ssl.PEM_cert_to_DER_cert(signed.cert.read_text())
    finally:
        signed.remove()

    assert b"localhost" in der
    assert b"evil" not in der


def test_it_replaces_files() -> None:
    """`--self-signed` beside `--cert` is a usage error."""
    result = invoke("bridge", "wss://127.0.0.1:0/", "tcp://127.0.0.1:1", "--self-signed", "--cert", "x")

    assert result.exit_code == 64
    assert "--self-signed" in result.output
