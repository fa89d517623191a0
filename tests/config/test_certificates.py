"""Certificates: pairs of files, and until when they hold."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.config.loading import ROUTES, read, summaries, wrong
from wsbridge.config.certificates import dns_names
from wsbridge.config.errors import ConfigError

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
    """A directory with a pair that holds for another year."""
    issued = authority.issue_cert("gw.example.org", not_after=NOW + timedelta(days=365))
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path


def test_a_good_pair(folder: Path) -> None:
    """A pair that belongs together and holds for long gives neither errors nor warnings."""
    assert summaries(read(TEXT, folder=folder).warnings) == []


def test_a_key_of_another_certificate(authority: trustme.CA, folder: Path) -> None:
    """A key that does not belong to its certificate is an error at the key."""
    (folder / "key.pem").write_bytes(authority.issue_cert("gw.example.org").private_key_pem.bytes())
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting, problem.line) == ("E031", "listeners.web.tls.certificates[0].key", 7)
    assert "does not belong to the certificate" in problem.message


def test_an_expired_certificate(folder: Path) -> None:
    """A certificate past its end is warned of with the day; it is served all the same, while it is being renewed."""
    (warning,) = read(TEXT, folder=folder, now=NOW + timedelta(days=366)).warnings
    assert (warning.code, warning.setting, warning.line) == ("W008", "listeners.web.tls.certificates[0].cert", 6)
    assert f"expired on {NOW + timedelta(days=365):%Y-%m-%d}" in warning.message


def test_a_certificate_that_does_not_hold_yet(folder: Path) -> None:
    """A certificate before its beginning is warned of as well."""
    (warning,) = read(TEXT, folder=folder, now=datetime(1999, 12, 31, tzinfo=UTC)).warnings
    assert warning.code == "W008"
    assert "is valid only from" in warning.message


@pytest.mark.parametrize(("days", "expected"), [(13, ["W008"]), (15, [])])
def test_a_certificate_that_ends_soon(folder: Path, days: int, expected: list[str]) -> None:
    """Less than 14 days before its end a certificate is warned of, earlier not."""
    warnings = read(TEXT, folder=folder, now=NOW + timedelta(days=365 - days)).warnings
    assert [warning.code for warning in warnings] == expected


@pytest.mark.parametrize(("days", "expected"), [(1.9, ["W008"]), (2.1, [])])
def test_a_short_lived_certificate_is_warned_of_late(
    authority: trustme.CA, folder: Path, days: float, expected: list[str]
) -> None:
    """One that is renewed every few days would be warned of all the time: a third of its lifetime counts."""
    issued = authority.issue_cert(
        "gw.example.org", not_before=NOW - timedelta(days=3), not_after=NOW + timedelta(days=3)
    )
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    warnings = read(TEXT, folder=folder, now=NOW + timedelta(days=3 - days)).warnings
    assert [warning.code for warning in warnings] == expected


def test_a_key_that_everybody_can_read(folder: Path) -> None:
    """A private key that is open to all users of the host is warned of."""
    (folder / "key.pem").chmod(0o644)
    assert summaries(read(TEXT, folder=folder).warnings) == ["W009 listeners.web.tls.certificates[0].key"]


def test_a_key_with_a_passphrase(folder: Path) -> None:
    """The passphrase comes from key_password, and nobody is asked for it at the terminal."""
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"geheim"))
    (folder / "key.pem").write_bytes(locked)
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting) == ("E031", "listeners.web.tls.certificates[0].key")
    assert "has a passphrase: write key_password" in problem.message
    text = TEXT.replace("key: key.pem", "key: key.pem\n          key_password: {env: PASS}")
    assert summaries(read(text, {"PASS": "geheim"}, folder).warnings) == []
    (problem,) = wrong(text, {"PASS": "wrong-one"}, folder)
    assert problem.setting == "listeners.web.tls.certificates[0].key_password"
    assert "does not decrypt" in problem.message
    assert "wrong-one" not in problem.text()


def test_the_word_encrypted_in_a_comment(folder: Path) -> None:
    """Only OpenSSL knows whether a key is."""
    (folder / "key.pem").write_bytes(b"# not ENCRYPTED\n" + (folder / "key.pem").read_bytes())
    assert summaries(read(TEXT, folder=folder).warnings) == []


def test_certificate_and_key_in_one_file(folder: Path) -> None:
    """Then key: is not needed."""
    both = (folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes()
    (folder / "key.pem").unlink()
    alone = TEXT.replace("          key: key.pem\n", "")
    problems = wrong(alone, folder=folder)
    assert [(problem.setting, "no private key" in problem.message) for problem in problems] == [
        ("listeners.web.tls.certificates[0].cert", True)
    ]
    (folder / "cert.pem").write_bytes(both)
    (folder / "cert.pem").chmod(0o600)
    assert summaries(read(alone, folder=folder).warnings) == []
    (folder / "cert.pem").chmod(0o644)
    assert summaries(read(alone, folder=folder).warnings) == ["W009 listeners.web.tls.certificates[0].cert"]
    (folder / "cert.pem").unlink()
    assert summaries(wrong(alone, folder=folder)) == ["E012 listeners.web.tls.certificates[0].cert"]


@pytest.fixture(scope="module")
def chain() -> list[bytes]:
    """A key, its certificate, and the two certificates of its issuers."""
    top = trustme.CA(organization_name="top")
    middle = top.create_child_ca().create_child_ca()
    issued = middle.issue_cert("gw.example.org", not_after=NOW + timedelta(days=365))
    assert len(issued.cert_chain_pems) == 3
    return [issued.private_key_pem.bytes(), *(blob.bytes() for blob in issued.cert_chain_pems)]


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ([1, 2, 3], ""),
        ([1, 2], ""),
        ([1], ""),
        ([1, 3, 2], "W027 are in the wrong order"),
        ([1, 3], "W027 is not the issuer of the one before it"),
        ([2, 1, 3], "E031 the certificate of the private key is number 2 in"),
    ],
)
def test_the_order_of_a_chain(folder: Path, chain: list[bytes], order: list[int], found: str) -> None:
    """The leaf comes first, or nothing can be served; what follows is up to the clients."""
    (folder / "key.pem").write_bytes(chain[0])
    (folder / "cert.pem").write_bytes(b"".join(chain[at] for at in order))
    try:
        problems = read(TEXT, folder=folder).warnings
    except ConfigError as error:
        problems = error.problems
    code, _, text = found.partition(" ")
    assert [problem.code for problem in problems] == ([code] if code else [])
    assert all(text in problem.message and problem.line == 6 for problem in problems)


def test_a_file_that_was_cut(folder: Path, chain: list[bytes]) -> None:
    """A certificate without its end is named as that."""
    (folder / "key.pem").write_bytes(chain[0])
    (folder / "cert.pem").write_bytes(b"".join(chain[1:])[:-100])
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.line) == ("E031", 6)
    assert "is truncated: a certificate begins that has no end" in problem.message


def signed(folder: Path, *extensions: x509.ExtensionType) -> None:
    """Make a self-signed pair with these extensions, as somebody else's name signs it."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().public_key(key.public_key()).serial_number(1)
    builder = builder.subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gw")]))
    builder = builder.issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]))
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=99))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.UnrecognizedExtension))
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("extension", "warned"),
    [
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), "extended key usage has no serverAuth"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), ""),
        (
            x509.KeyUsage(False, False, False, False, False, True, False, False, False),
            "key usage has no digitalSignature",
        ),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\5\0"), "extension 1.2.3.4.5 is unknown"),
        (
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(
                        x509.AuthorityInformationAccessOID.CA_ISSUERS,
                        x509.UniformResourceIdentifier("http://ca.example/ca.der"),
                    )
                ]
            ),
            "has no intermediate certificate",
        ),
    ],
)
def test_certificates_that_clients_may_reject(folder: Path, extension: x509.ExtensionType, warned: str) -> None:
    """Other servers accept them, so they are warned of at most."""
    signed(folder, extension)
    warnings = read(TEXT, folder=folder).warnings
    assert summaries(warnings) == (["W027 listeners.web.tls.certificates[0].cert"] if warned else [])
    assert all(warned in warning.message for warning in warnings)


def test_a_certificate_of_an_unknown_version(folder: Path) -> None:
    """OpenSSL serves it, so it is no error; only what reads more of it knows nothing."""
    path = folder / "cert.pem"
    data = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    path.write_bytes(ssl.DER_cert_to_PEM_cert(data.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\5", 1)).encode())
    assert read(TEXT, folder=folder).config.listeners["web"].tls is not None
    assert dns_names(path) == ()


def test_a_certificate_with_an_extension_twice(folder: Path) -> None:
    """RFC 5280 section 4.2 forbids it, OpenSSL serves it: a warning, whatever reads the extensions."""
    first, second = (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.4.{end}"), b"\5\0") for end in (5, 6))
    signed(folder, first, second)
    path = folder / "cert.pem"
    data = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    path.write_bytes(ssl.DER_cert_to_PEM_cert(data.replace(b"\x2a\3\4\6", b"\x2a\3\4\5")).encode())
    (warning,) = read(TEXT, folder=folder).warnings
    assert (warning.code, warning.setting) == ("W027", "listeners.web.tls.certificates[0].cert")
    assert "clients may reject the certificate" in warning.message
    assert dns_names(path) == ()


@pytest.mark.parametrize(
    ("written", "setting"),
    [
        ("min_version: '1.3'", None),
        ("min_version: 1.2", None),
        ("ciphers: ECDHE+AESGCM:ECDHE+CHACHA20", None),
        ("min_version: 1.1", "min_version"),
        ("ciphers: ROT13", "ciphers"),
        ("ciphers: aNULL@SECLEVEL=0", "ciphers"),
        ("ciphers: eNULL@SECLEVEL=0", "ciphers"),
        ("min_version: 1.3, ciphers: ECDHE+AESGCM", "ciphers"),
    ],
)
def test_versions_and_ciphers(folder: Path, written: str, setting: str | None) -> None:
    """TLS 1.2 or 1.3, and suites of TLS 1.2 that encrypt and authenticate."""
    lines = "".join(f"      {part}\n" for part in written.split(", "))
    text = TEXT.replace("    tls:\n", f"    tls:\n{lines}")
    if setting is None:
        assert summaries(read(text, folder=folder).warnings) == []
    else:
        assert [problem.setting for problem in wrong(text, folder=folder)] == [f"listeners.web.tls.{setting}"]


@pytest.mark.parametrize(("name", "what"), [("cert.pem", "no certificate"), ("key.pem", "no private key")])
def test_files_with_something_else_in_them(folder: Path, name: str, what: str) -> None:
    """A file that holds no PEM of its kind is reported as that."""
    (folder / name).write_text("hello\n")
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting.rpartition(".")[2]) == ("E031", name.removesuffix(".pem"))
    assert f"holds {what} in PEM form" in problem.message


def test_a_certificate_in_another_form_of_pem(folder: Path) -> None:
    """OpenSSL's own form (`openssl x509 -trustout`) is reported as no certificate, at its key."""
    text = (folder / "cert.pem").read_text()
    (folder / "cert.pem").write_text(text.replace(" CERTIFICATE--", " X509 CERTIFICATE--"))
    (problem,) = wrong(TEXT, folder=folder)
    assert (problem.code, problem.setting) == ("E031", "listeners.web.tls.certificates[0].cert")
    assert "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)" in problem.message


def test_a_certificate_whose_base64_is_broken(folder: Path) -> None:
    """A certificate that cannot be decoded is one error, not a crash."""
    text = (folder / "cert.pem").read_text()
    (folder / "cert.pem").write_text(text.replace("MII", "!!!", 1))
    assert summaries(wrong(TEXT, folder=folder)) == ["E031 listeners.web.tls.certificates[0].cert"]


def test_missing_files_are_reported_each(folder: Path) -> None:
    """Each file that cannot be read is an error of its own, at its key."""
    (folder / "cert.pem").unlink()
    (folder / "key.pem").unlink()
    problems = wrong(TEXT, folder=folder)
    assert [problem.setting.rpartition(".")[2] for problem in problems] == ["cert", "key"]
    assert all("No such file or directory" in problem.message for problem in problems)


def test_authorities_of_clients(folder: Path) -> None:
    """A file that holds no certificate, or is not there, is an error at its key."""
    asking = TEXT.replace("    tls:\n", "    tls:\n      client_ca: cert.pem\n")
    assert summaries(read(asking, folder=folder).warnings) == []
    (problem,) = wrong(asking.replace("client_ca: cert.pem", "client_ca: key.pem"), folder=folder)
    assert (problem.code, problem.setting, problem.line) == ("E031", "listeners.web.tls.client_ca", 5)
    assert "key.pem holds no certificate in PEM form" in problem.message
    (problem,) = wrong(asking.replace("client_ca: cert.pem", "client_ca: none.pem"), folder=folder)
    assert (problem.code, problem.setting) == ("E012", "listeners.web.tls.client_ca")
