"""What all bridges are measured with: the built programs, a certificate, and the services behind the bridges."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.cases import SERVICES, Service

HERE = Path(__file__).parent
_PROGRAMS = {"load": ("-lssl", "-lcrypto"), "backend": ()}


class LabError(Exception):
    """Something that measuring needs is not there; the text says what and how to get it."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A place to measure in.

    Attributes:
        directory: With the programs, cert.pem, key.pem, both.pem and the logs.
        services: The ports of the running backend.
    """

    directory: Path
    services: dict[Service, int]

    @property
    def load(self) -> Path:
        """The program that plays the clients."""
        return self.directory / "load"


def _run(command: list[str], get: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed: {get}") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}\n{error.stderr.strip()}\n({get})") from error


def _build(directory: Path) -> None:
    for name, libraries in _PROGRAMS.items():
        source = str(HERE / f"{name}.c")
        _run(["cc", "-O2", "-o", str(directory / name), source, *libraries], "apt-get install gcc libc6-dev libssl-dev")


def _certify(directory: Path) -> None:
    cert, key = directory / "cert.pem", directory / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _run(
        ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(cert)], "apt-get install openssl"
    )
    (directory / "both.pem").write_bytes(key.read_bytes() + cert.read_bytes())


@contextlib.contextmanager
def opened(directory: Path, core: int) -> Iterator[Lab]:
    """Build what is needed into a directory and run the backend on one core for the time of the block.

    Raises:
        LabError: A compiler, a library or openssl is missing.
    """
    _build(directory)
    _certify(directory)
    command = ["taskset", "-c", str(core), str(directory / "backend")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as backend:
        try:
            assert backend.stdout is not None
            ports = json.loads(backend.stdout.readline())
            yield Lab(directory, {service: ports[service] for service in SERVICES})
        finally:
            backend.kill()
