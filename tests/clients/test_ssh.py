"""ssh with `wsbridge bridge -` as its ProxyCommand, into a real sshd."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.program import Program, free_port, program, run
from tests.process.daemon import Daemon

SIZE = 2_000_000
ENDS = ("client_closed", "client_lost", "backend_closed")
"""At its end ssh kills its ProxyCommand while sshd closes: any may be first."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with a host key and a key of the user, neither with a passphrase."""
    for name in ("host", "user"):
        run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name)
    return tmp_path


@pytest.fixture
def sshd(keys: Path) -> Iterator[int]:
    """An sshd of this test, run as the user of the test; returns its port."""
    port = free_port()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it, and where nothing boots nobody made it
    config = keys / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {keys}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {keys}/user.pub\nPasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
    )
    with Program(program("sshd"), "-D", "-e", "-f", config) as server:
        server.line("Server listening")
        yield port


@pytest.fixture
def bridge(sshd: int) -> Iterator[Daemon]:
    """The bridge in front of sshd."""
    with Daemon(
        f"""
        listeners: {{web: {{bind: '127.0.0.1:0'}}}}
        routes: {{ssh: {{match: {{path: /ssh}}, backend: 'tcp://127.0.0.1:{sshd}', auth: none}}}}
        """,
    ) as bridge:
        yield bridge


def ssh_command(keys: Path, url: str, *options: str) -> list[str | Path]:
    """Give a command that runs ssh by way of a WebSocket server; what it is to run there is to be appended.

    Args:
        keys: See the fixture.
        url: Of the server.
        options: Of `bridge`.
    """
    known = keys / "known_hosts"
    known.write_text(f"far {(keys / 'host.pub').read_text()}")
    settings = {
        "ProxyCommand": shlex.join([sys.executable, "-m", "wsbridge", "bridge", *options, "-", url]),
        "UserKnownHostsFile": str(known),
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
    }
    written = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    return [program("ssh"), "-F", "none", "-i", keys / "user", *written, f"{getpass.getuser()}@far"]


def ssh(keys: Path, bridge: Daemon, command: str, input: bytes = b"") -> bytes:  # noqa: A002  as subprocess calls it
    """Run a command over ssh; give what it wrote."""
    return run(*ssh_command(keys, f"ws://127.0.0.1:{bridge.port()}/ssh"), command, input=input)


def test_command(keys: Path, bridge: Daemon) -> None:
    """A command runs on the far side, and what it writes comes back."""
    assert ssh(keys, bridge, "echo through $((6 * 7))") == b"through 42\n"
    end = bridge.wait("connection.closed", route="ssh")
    assert end["reason"] in ENDS
    assert end["bytes_to_client"] > 0


def test_bytes(keys: Path, bridge: Daemon) -> None:
    """Megabytes up are whole on the far side, and so are megabytes down."""
    blob = os.urandom(SIZE)

    assert ssh(keys, bridge, "sha256sum", blob).split()[0].decode() == hashlib.sha256(blob).hexdigest()
    assert ssh(keys, bridge, "cat", blob) == blob
