"""The examples in conf/: `wsbridge check` accepts each of them unchanged, once its files are there."""

from __future__ import annotations

import getpass
import grp
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests import forked

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.name for path in CONF.glob("*.yaml") if path.name != "wsbridge.yaml")
"""All but the full sample, which has tests of its own."""
PROBED = "behind-haproxy-cluster.yaml"
"""HAProxy on another host asks it for its state, which is a warning."""


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all files that the examples name under /etc/wsbridge."""
    etc = tmp_path_factory.mktemp("etc")
    tls = etc / "tls"
    tls.mkdir()
    leaf = trustme.CA().issue_cert("gw.example.org")
    leaf.cert_chain_pems[0].write_to_path(str(tls / "chain.pem"))
    leaf.private_key_pem.write_to_path(str(tls / "key.pem"))
    (tls / "key.pem").chmod(0o600)
    (etc / "vnc-tokens").write_text("north7: 10.20.0.7:5901\n")
    (etc / "tokens").write_text(f"alice sha256:{hashlib.sha256(b'token').hexdigest()}\n")
    for secret in ("vnc-tokens", "tokens"):
        (etc / secret).chmod(0o600)
    return etc


def check(tmp_path: Path, etc: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run `wsbridge check` over a configuration, its paths and owner put in place for this machine."""
    pages = tmp_path / "novnc"
    pages.mkdir()
    file = tmp_path / "wsbridge.yaml"
    file.write_text(
        text.replace("/etc/wsbridge", str(etc))
        .replace("/run/wsbridge", str(tmp_path))
        .replace("/usr/share/novnc", str(pages))
        .replace("wsbridge:www-data", f"{getpass.getuser()}:{grp.getgrgid(os.getegid()).gr_name}")
    )
    return forked.run(
        [sys.executable, "-m", "wsbridge", "check", "--strict", "-c", file],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "NODE": "a"},
    )


def test_there_are_examples() -> None:
    """There is one for each use."""
    uses = {
        "vnc.yaml",
        "ssh.yaml",
        "mqtt.yaml",
        "redis.yaml",
        "old-client.yaml",
        "behind-nginx.yaml",
        "behind-haproxy.yaml",
        "behind-haproxy-cluster.yaml",
        "behind-caddy.yaml",
        "vnc-tokens.yaml",
        "socket-activation.yaml",
    }
    assert uses <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example(tmp_path: Path, etc: Path, name: str) -> None:
    """The example has no mistake and no warning."""
    text = (CONF / name).read_text()
    if name == PROBED:
        text = text.replace("bind: 0.0.0.0:9090", "bind: 127.0.0.1:9090")
    done = check(tmp_path, etc, text)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_mistake(tmp_path: Path, etc: Path, name: str) -> None:
    """A misspelt key in the same file is found."""
    done = check(tmp_path, etc, (CONF / name).read_text().replace("routes:", "ruotes:", 1))

    assert done.returncode == 78
    assert 'did you mean "routes"' in done.stdout + done.stderr
