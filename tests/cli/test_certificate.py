"""Certificates for an hour at a shell."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from tests.cli.program import invoke
from tests.clients.program import program
from wsbridge.cli.main import CliError
from wsbridge.cli.self_signed import SelfSignedCertificate


def test_it_can_be_served_and_is_private() -> None:
    """Key and certificate belong together, others cannot read them, and `remove` leaves nothing."""
    program("openssl")
    signed = SelfSignedCertificate("gw.example.org")
    folder = signed.cert.parent

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(signed.cert, signed.key)
    der = ssl.PEM_cert_to_DER_cert(signed.cert.read_text())
    mode = folder.stat().st_mode
    signed.remove()
    signed.remove()

    assert signed.fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert b"gw.example.org" in der
    assert mode & 0o077 == 0
    assert not folder.exists()


@pytest.mark.parametrize("host", ["10.0.0.7", "::1", "0.0.0.0", "", "a,DNS:evil.example"])
def test_any_host_makes_a_certificate(host: str) -> None:
    """Addresses, no host and nonsense give a certificate for this machine, and for nothing else."""
    program("openssl")
    signed = SelfSignedCertificate(host)
    try:
        der = ssl.PEM_cert_to_DER_cert(signed.cert.read_text())
    finally:
        signed.remove()

    assert b"localhost" in der
    assert b"evil" not in der


def test_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `openssl` the sentence says what to install, with exit code 69."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CliError) as caught:
        SelfSignedCertificate("localhost")

    assert caught.value.exit_code == 69
    assert "apt install openssl" in caught.value.message


def test_a_program_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `openssl` says last is passed on."""
    fake = tmp_path / "openssl"
    fake.write_text("#!/bin/sh\necho no entropy >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(CliError) as caught:
        SelfSignedCertificate("localhost")

    assert caught.value.message == "--self-signed: openssl failed: no entropy"


def test_it_stands_in_place_of_files() -> None:
    """`--self-signed` beside `--cert` is a usage error."""
    result = invoke("bridge", "wss://127.0.0.1:0/", "tcp://127.0.0.1:1", "--self-signed", "--cert", "x")

    assert result.exit_code == 64
    assert "--self-signed" in result.output
