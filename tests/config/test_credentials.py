"""Credentials of systemd: {credential: NAME} for secrets and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.authority import folder as certificates
from tests.config.loading import ROUTES, read, summaries, wrong
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.config.secrets import Secret

TLS = """\
listeners:
  web:
    bind: 0.0.0.0:8443
    tls:
      certificates:
        - cert: {credential: cert.pem}
          key: {credential: key.pem}
"""
SECRET = (
    "listeners: {web: {bind: 127.0.0.1:1}}\n"
    "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw/x', headers: {A: {credential: token}}}}}\n"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of credentials, as systemd makes it."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((certificates() / name).read_bytes())
        (tmp_path / name).chmod(0o400)
    (tmp_path / "token").write_text("geheim\n")
    (tmp_path / "token").chmod(0o400)
    return tmp_path


def environ(directory: Path) -> dict[str, str]:
    """Give what systemd sets."""
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_files_and_secrets_come_from_the_directory_of_credentials(directory: Path) -> None:
    """The same form for both; relative paths are not affected."""
    pair = read(TLS + ROUTES, environ(directory), directory).config.listeners["web"].tls
    assert pair is not None
    assert (pair.certificates[0].cert, pair.certificates[0].key) == (directory / "cert.pem", directory / "key.pem")
    backend = read(SECRET, environ(directory), directory).config.routes["vnc"].backend
    assert isinstance(backend, WebSocketBackendConfig)
    token = backend.headers["A"]
    assert isinstance(token, Secret)
    assert (token.reveal(), token.file) == ("geheim", directory / "token")


def test_outside_of_systemd_each_is_reported_as_missing(directory: Path) -> None:
    """With the place in the file, what to write in the unit, and how to check without them."""
    problems = wrong(TLS + ROUTES, {}, directory)
    place = "listeners.web.tls.certificates[0]"
    assert summaries(problems) == [f"E037 {place}.cert", f"E037 {place}.key"]
    assert "LoadCredential=cert.pem:…" in problems[0].message
    assert "--no-files" in problems[0].message
    assert summaries(wrong(SECRET, {}, directory)) == ["E037 routes.vnc.backend.headers.A"]
    assert read(TLS + ROUTES).warnings == read(SECRET).warnings == []  # without a look at files


def test_one_that_systemd_did_not_pass(directory: Path) -> None:
    """The path where it should be is named."""
    (directory / "key.pem").unlink()
    (problem,) = wrong(TLS + ROUTES, environ(directory), directory)
    assert problem.code == "E037"
    assert f"{directory / 'key.pem'} does not exist; write LoadCredential=key.pem:… in the unit" in problem.message


def test_a_directory_that_cannot_be_looked_into() -> None:
    """Such as that of another user, named by an inherited variable: the cause is reported."""
    problems = wrong(TLS + ROUTES, {"CREDENTIALS_DIRECTORY": "/" + 300 * "x"}, Path("/"))
    assert ["cannot be read: File name too long" in problem.message for problem in problems] == [True, True]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{credential: ../key.pem}", '"../key.pem" is no name of a credential'),
        ("{credential: ..}", '".." is no name of a credential'),
        ("{credential: 'a b'}", '"a b" is no name of a credential'),
        ("{credential: [a]}", "must be text, not a list"),
        ("{file: key.pem}", "must be a path, or {credential: NAME}"),
        ("{credential: a, file: b}", "must be a path, or {credential: NAME}"),
    ],
)
def test_what_is_no_credential(directory: Path, written: str, message: str) -> None:
    """No other directory can be reached by a name."""
    problems = wrong((TLS + ROUTES).replace("{credential: key.pem}", written), environ(directory), directory)
    assert any(message in problem.message for problem in problems)
