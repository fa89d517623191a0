"""Certificates: pairs of files, and until when they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.config.loading import ROUTES, read, told, wrong

NOW = datetime.now(UTC)
TEXT = (
    """\
listeners:
  web:
    bind: 0.0.0.0:8443
    tls:
      certificates:
        - cert: cert.pem
          key: key.pem
"""
    + ROUTES
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture
def folder(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with a pair that holds for another year."""
    issued = authority.issue_cert("gw.example.org", not_after=NOW + timedelta(days=365))
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path


def test_a_good_pair(folder: Path) -> None:
    """A pair that belongs together and holds for long gives neither errors nor warnings."""
    assert told(read(TEXT, folder=folder).warnings) == []


def test_a_key_of_another_certificate(authority: trustme.CA, folder: Path) -> None:
    """A key that does not belong to its certificate is an error at the key."""
    (folder / "key.pem").write_bytes(authority.issue_cert("gw.example.org").private_key_pem.bytes())
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting, problem.line) == ("E031", "listeners.web.tls.certificates[0].key", 7)
    assert "does not belong to the certificate" in problem.message


def test_an_expired_certificate(folder: Path) -> None:
    """A certificate past its end is an error that names the day."""
    later = NOW + timedelta(days=366)
    (problem,) = wrong(TEXT, folder=folder, now=later)
    assert (problem.code, problem.setting, problem.line) == ("E032", "listeners.web.tls.certificates[0].cert", 6)
    assert f"expired on {NOW + timedelta(days=365):%Y-%m-%d}" in problem.message


def test_a_certificate_that_does_not_hold_yet(folder: Path) -> None:
    """A certificate before its beginning is an error."""
    (problem,) = wrong(TEXT, folder=folder, now=datetime(1999, 12, 31, tzinfo=UTC))
    assert problem.code == "E032"
    assert "holds only from" in problem.message


@pytest.mark.parametrize(("days", "expected"), [(13, ["W008"]), (15, [])])
def test_a_certificate_that_ends_soon(folder: Path, days: int, expected: list[str]) -> None:
    """Less than 14 days before its end a certificate is warned of, earlier not."""
    warnings = read(TEXT, folder=folder, now=NOW + timedelta(days=365 - days)).warnings
    assert [warning.code for warning in warnings] == expected


def test_a_key_that_everybody_can_read(folder: Path) -> None:
    """A private key that is open to all users of the host is warned of."""
    (folder / "key.pem").chmod(0o644)
    assert told(read(TEXT, folder=folder).warnings) == ["W009 listeners.web.tls.certificates[0].key"]


def test_a_key_with_a_passphrase(folder: Path) -> None:
    """A key with a passphrase is refused, and nobody is asked for it at the terminal."""
    key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    (folder / "key.pem").write_text(key)
    (problem,) = wrong(TEXT, folder=folder)
    assert "has a passphrase" in problem.message


@pytest.mark.parametrize(("name", "what"), [("cert.pem", "no certificate"), ("key.pem", "no private key")])
def test_files_with_something_else_in_them(folder: Path, name: str, what: str) -> None:
    """A file that holds no PEM of its kind is told as that."""
    (folder / name).write_text("hello\n")
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting.rpartition(".")[2]) == ("E031", name.removesuffix(".pem"))
    assert f"holds {what} in PEM form" in problem.message


def test_a_certificate_in_another_form_of_pem(folder: Path) -> None:
    """OpenSSL's own form (`openssl x509 -trustout`) is told as no certificate, at its key."""
    text = (folder / "cert.pem").read_text()
    (folder / "cert.pem").write_text(text.replace(" CERTIFICATE--", " X509 CERTIFICATE--"))
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting) == ("E031", "listeners.web.tls.certificates[0].cert")
    assert "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)" in problem.message


def test_a_certificate_whose_base64_is_broken(folder: Path) -> None:
    """A certificate that cannot be decoded is one error, not a crash."""
    text = (folder / "cert.pem").read_text()
    (folder / "cert.pem").write_text(text.replace("MII", "!!!", 1))
    assert told(wrong(TEXT, folder=folder)) == ["E031 listeners.web.tls.certificates[0].cert"]


def test_missing_files_are_told_each(folder: Path) -> None:
    """Each file that cannot be read is an error of its own, at its key."""
    (folder / "cert.pem").unlink()
    (folder / "key.pem").unlink()
    problems = wrong(TEXT, folder=folder)
    assert [problem.setting.rpartition(".")[2] for problem in problems] == ["cert", "key"]
    assert all("No such file or directory" in problem.message for problem in problems)


def test_authorities_of_clients(folder: Path) -> None:
    """A file that holds no certificate, or is not there, is an error at its key."""
    asking = TEXT.replace("    tls:\n", "    tls:\n      client_ca: cert.pem\n")
    assert told(read(asking, folder=folder).warnings) == []
    (problem,) = wrong(asking.replace("client_ca: cert.pem", "client_ca: key.pem"), folder=folder)
    assert (problem.code, problem.setting, problem.line) == ("E031", "listeners.web.tls.client_ca", 5)
    assert "key.pem holds no certificate in PEM form" in problem.message
    (problem,) = wrong(asking.replace("client_ca: cert.pem", "client_ca: none.pem"), folder=folder)
    assert (problem.code, problem.setting) == ("E012", "listeners.web.tls.client_ca")
