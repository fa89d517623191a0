"""--self-signed."""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from wsbridge.cli.main import EXIT_UNAVAILABLE, CliError

VALIDITY_DAYS: Final = 30
"""How long it holds; more than the two weeks below which the configuration warns."""
OPENSSL_TIMEOUT: Final = 30
"""Seconds that `openssl` may take."""


class SelfSignedCertificate:
    """A new key and a certificate for it, in a folder of their own that only this user can read.

    Args:
        host: Name or address that the certificate is for; localhost and this machine's name are in it as well.

    Attributes:
        cert: PEM file.
        key: PEM file.
        fingerprint: SHA-256 of the certificate, as `openssl x509 -fingerprint` writes it.

    Raises:
        Failure: There is no `openssl` program, or it fails.
    """

    def __init__(self, host: str) -> None:
        program = shutil.which("openssl")
        if program is None:
            text = "--self-signed needs the openssl program, which is not installed (apt install openssl)"
            raise CliError(text, EXIT_UNAVAILABLE)
        self._directory = TemporaryDirectory(prefix="wsbridge-")
        self.cert = Path(self._directory.name) / "cert.pem"
        self.key = Path(self._directory.name) / "key.pem"
        command = [
            *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=wsbridge self-signed", "-addext", f"subjectAltName={','.join(_subject_alt_names(host))}"),
            *("-days", str(VALIDITY_DAYS), "-keyout", str(self.key), "-out", str(self.cert)),
        ]
        try:
            _run_openssl(command)
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.cert.read_text())).hexdigest().upper()
        except BaseException:
            self.remove()
            raise
        self.fingerprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    def remove(self) -> None:
        """Remove the files; safe to call twice."""
        self._directory.cleanup()


def _run_openssl(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=OPENSSL_TIMEOUT)  # noqa: S603  no shell, the arguments are ours
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CliError(f"--self-signed: openssl failed: {''.join(last)}", EXIT_UNAVAILABLE) from None
    except subprocess.TimeoutExpired:
        raise CliError(f"--self-signed: openssl took more than {OPENSSL_TIMEOUT} s", EXIT_UNAVAILABLE) from None


def _subject_alt_names(host: str) -> list[str]:
    """Give the subject's alternative names, each once."""
    names = ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]
    for name in (host, socket.gethostname()):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            if name and all(part.isalnum() or part in "-._" for part in name) and len(name) <= 253:
                names.append(f"DNS:{name}")
        else:
            if not address.is_unspecified:
                names.append(f"IP:{address}")
    return list(dict.fromkeys(names))
