"""One case on one bridge, with the real clients and services."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from bench.cases import CASES, TRANSPORTS
from bench.measure import RunError, measure
from bench.peers import HERE, Peer, read_peers, started
from tests.bench.conftest import CORE

DISHONEST = f"{sys.executable} {Path(__file__).with_name('dishonest.py')}"
PORTS = "{listen_echo} {listen_source} {listen_sink}"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_case_gives_a_figure(lab, values, transport):
    """The bridge passes all cases, plain and in TLS, with what it cost."""
    wsbridge = dataclasses.replace(read_peers(HERE / "peers.toml")[0], most=100)
    known = {**values, "here": str(HERE), "python": sys.executable}
    with started(wsbridge, transport, known, lab.directory, CORE) as bridge:
        samples = {name: measure(case, bridge, lab, CORE, 0.1) for name, case in CASES.items()}

    assert all(sample.rate > 0 and sample.per_cpu > 0 for sample in samples.values())
    echoes = {name for name, case in CASES.items() if case.kind in ("echo", "connect")}
    assert {name for name, sample in samples.items() if 0 < sample.p50_us <= sample.p99_us} == echoes


@pytest.mark.parametrize(
    ("kind", "case", "said"),
    [
        ("change", "pipelined", "8 connections got bytes that were not sent"),
        ("change", "connect", "connections got bytes that were not sent"),
        ("refuse", "echo64", "load: answered HTTP/1.1 403 Forbidden"),
        ("refuse", "connect", "connections failed"),
    ],
)
def test_a_run_that_proves_nothing_is_an_error(lab, values, kind, case, said):
    """Bytes that were changed on the way and refused connections are reported, never counted."""
    peer = Peer("dishonest", {"plain": (f"{DISHONEST} {kind} {PORTS}",)})
    with started(peer, "plain", values, lab.directory, CORE) as bridge, pytest.raises(RunError) as caught:
        measure(CASES[case], bridge, lab, CORE, 0.1)

    assert said in str(caught.value)
