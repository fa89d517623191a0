"""One case on one bridge, with the real clients and services."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from bench.cases import CASES, TRANSPORTS, TUNNELS, Case
from bench.measure import RunError, Sample, measure
from bench.peers import HERE, Peer, read_peers, started
from tests.bench.conftest import CORE, installed

DISHONEST = f"{sys.executable} {Path(__file__).with_name('dishonest.py')}"
PORTS = "{listen_echo} {listen_source} {listen_sink}"


@pytest.mark.parametrize(
    ("name", "transport"), [*(("wsbridge-native", each) for each in TRANSPORTS), ("wsbridge-python", "plain")]
)
def test_every_case_gives_a_figure(lab, values, name, transport):
    """Each engine passes all cases, the native one also in TLS and as a tunnel, with what it cost."""
    cases = CASES if transport not in TUNNELS else {name: CASES[name] for name in ("idle", "echo64", "up", "connect")}
    wsbridge = dataclasses.replace(installed(name), most=100)
    with started(wsbridge, transport, values, lab.directory, CORE) as bridge:
        samples = {name: measure(case, bridge, lab, CORE, 0.1) for name, case in cases.items()}

    assert all(sample.rate > 0 and sample.per_cpu > 0 for sample in samples.values())
    assert {name for name, sample in samples.items() if sample.opening_us} == {
        name for name, case in cases.items() if case.kind != "connect"
    }
    assert all(sample.load > 0 for name, sample in samples.items() if name != "idle")
    assert [name for name, sample in samples.items() if not _has_latency(cases[name], sample)] == []


def _has_latency(case: Case, sample: Sample) -> bool:
    """Return whether there is one exactly where clients wait for an answer."""
    return (0 < sample.p50_us <= sample.p99_us) == (case.kind in ("echo", "connect"))


def test_sessions_give_figures(lab, values):
    """Clients of resumable sessions pass the cases, and more than a window passes through each."""
    peers = {peer.name: peer for peer in read_peers(HERE / "sessions.toml")}
    with started(dataclasses.replace(peers["sessions"], most=10), "plain", values, lab.directory, CORE) as bridge:
        samples = {
            name: measure(CASES[name], bridge, lab, CORE, 0.2)
            for name in ("echo64", "bursts", "echo16k", "down", "up", "connect")
        }

    assert all(sample.rate > 0 and sample.per_cpu > 0 for sample in samples.values())
    assert min(samples[name].rate for name in ("down", "up")) * 0.2 > 1.048576


@pytest.mark.parametrize(
    ("kind", "case", "said"),
    [
        ("change", "pipelined", "8 connections got bytes that were not sent"),
        ("change", "connect", "connections got bytes that were not sent"),
        ("refuse", "echo64", "load: answered HTTP/1.1 403 Forbidden"),
        ("refuse", "connect", "connections failed"),
        ("mute", "echo64x1", "nothing came through"),
    ],
)
def test_a_run_that_proves_nothing_is_an_error(lab, values, kind, case, said):
    """Bytes that were changed on the way and refused connections are reported, never counted."""
    peer = Peer("dishonest", {"plain": (f"{DISHONEST} {kind} {PORTS}",)})
    with started(peer, "plain", values, lab.directory, CORE) as bridge, pytest.raises(RunError) as caught:
        measure(CASES[case], bridge, lab, CORE, 0.1)

    assert said in str(caught.value)


@pytest.mark.parametrize("case", ["echo64x1", "connect"])
def test_a_run_lasts_until_something_came(lab, values, case):
    """A machine that is busy with other things may not let one message through in a short time."""
    peer = Peer("late", {"plain": (f"{DISHONEST} late {PORTS}",)})
    with started(peer, "plain", values, lab.directory, CORE) as bridge:
        assert measure(CASES[case], bridge, lab, CORE, 0.1).p50_us > 400_000


def test_the_latency_of_a_handshake_is_the_whole_of_it(lab, values):
    """It counts from the beginning of the connection, so one with TLS takes longer, beside busy connections too."""
    p50 = {}
    for transport in ("plain", "tls"):
        with started(installed("wsbridge-native"), transport, values, lab.directory, CORE) as bridge:
            p50[transport] = measure(CASES["connect"], bridge, lab, CORE, 0.3).p50_us
            busy = measure(CASES["connect_busy"], bridge, lab, CORE, 0.3)

    assert p50["tls"] > p50["plain"] > 0
    assert busy.p50_us > 0


def test_an_end_without_close_notify_concerns_one_connection_only(lab, values):
    """What OpenSSL says of a connection that was cut is not taken for an error of the next one."""
    peer = Peer("dishonest", {"tls": (f"{DISHONEST} cut {PORTS}",)})
    with started(peer, "tls", values, lab.directory, CORE) as bridge:
        assert measure(CASES["connect"], bridge, lab, CORE, 0.5).rate > 0
