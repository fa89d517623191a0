"""One case on one bridge: how much came through, what it cost."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from bench.cases import Case
from bench.lab import Lab
from bench.peers import Running

_LEAST_CPU_S = 1e-3
_FAILURES = 0.01
"""The share of connections that may fail before a run says nothing."""


class RunError(Exception):
    """A run gave no figure; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run gave.

    Attributes:
        rate: The case's figure a second, or bytes of memory a connection.
        per_cpu: The case's figure a CPU second of the bridge's processes; for memory, its inverse: connections a byte.
        p50_us: Median latency in microseconds; 0 where there is none.
        p99_us: The 99th percentile of it.
    """

    rate: float
    per_cpu: float
    p50_us: int = 0
    p99_us: int = 0


def _line(load: subprocess.Popen[str]) -> dict[str, float]:
    assert load.stdout is not None
    text = load.stdout.readline()
    if not text:
        _, said = load.communicate()
        raise RunError(said.strip() or f"the load ended with {load.returncode}")
    found: dict[str, float] = json.loads(text)
    return found


def measure(case: Case, bridge: Running, lab: Lab, core: int, seconds: float) -> Sample:
    """Run a case once.

    Args:
        case: What to run.
        bridge: On what.
        lab: With what.
        core: The CPU for the clients.
        seconds: The time that is measured, after all connections are open.

    Raises:
        RunError: Connections failed, bytes came back wrong, or nothing came at all.
    """
    bridge.settle()
    connections = min(case.connections, bridge.peer.most or case.connections)
    command = ["taskset", "-c", str(core), str(lab.load), case.kind, str(bridge.ports[case.service])]
    command += ["-c", str(connections), "-t", str(min(seconds, case.most_s)), *case.options]
    command += ["-T"] * (bridge.transport == "tls")
    memory = bridge.memory() if case.kind == "idle" else 0
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as load:
        try:
            _line(load)
            memory = bridge.memory() - memory if case.kind == "idle" else 0
            cpu_s = bridge.cpu_s()
            assert load.stdin is not None
            load.stdin.write("\n")
            load.stdin.flush()
            result = _line(load)
            cpu_s = bridge.cpu_s() - cpu_s
        finally:
            load.kill()
    if result["corrupt"]:
        raise RunError(f"{result['corrupt']:.0f} connections got bytes that were not sent")
    if result["failed"] > result["opened"] * _FAILURES:
        raise RunError(f"{result['failed']:.0f} of {result['opened'] + result['failed']:.0f} connections failed")
    count = result[case.figure] / case.unit[0]
    if not count:
        raise RunError("nothing came through")
    if case.kind == "idle":
        return Sample(memory / 1024 / count, count / max(memory / 1024, 1))
    return Sample(
        count / result["seconds"], count / max(cpu_s, _LEAST_CPU_S), int(result["p50_us"]), int(result["p99_us"])
    )
