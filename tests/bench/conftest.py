"""A lab for the tests of the comparison, built once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab import Lab, opened
from bench.peers import HERE, Peer, read_peers

CORE = max(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Programs, a certificate and a running backend."""
    folder: Path = tmp_path_factory.mktemp("lab")
    with opened(folder, CORE) as made:
        yield made


@pytest.fixture
def values(lab: Lab) -> dict[str, str]:
    """What the commands of a bridge may name."""
    ports = {f"backend_{service}": str(port) for service, port in lab.services.items()}
    return {**ports, "lab": str(lab.directory), "here": str(HERE), "python": sys.executable}


def installed(name: str) -> Peer:
    """Give a bridge of the project's table; with the Python engine where the native one is not built."""
    peers = {peer.name: peer for peer in read_peers(HERE / "peers.toml")}
    return peers["wsbridge-python"] if name == "wsbridge-native" and peers[name].missing() else peers[name]
