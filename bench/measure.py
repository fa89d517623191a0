"""One case on one bridge: how much came through, what it cost."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bench.cases import TUNNELS, Case, Transport
from bench.lab import Lab
from bench.peers import Running

_LEAST_CPU_S = 1e-3
_FAILURES = 0.01
"""The share of connections that may fail before a run says nothing."""
_SPEAKS: dict[Transport, tuple[str, ...]] = {"plain": (), "tls": ("-T",), **dict.fromkeys(TUNNELS, ("-R",))}
"""Arguments of `load`: how the clients talk."""
_BUSY_S = 60.0
"""Clients that only keep the bridge busy run longer than any case, and are ended after it."""


class RunError(Exception):
    """A run gave no figure; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run gave.

    Attributes:
        rate: The case's figure a second, or KiB of memory a connection.
        per_cpu: The case's figure a CPU second of the bridge's processes; for memory, its inverse: connections a KiB.
        p50_us: Median latency in microseconds; 0 where there is none.
        p99_us: The 99th percentile of it.
        load: CPU seconds of the bridge's processes a second. Near 1: it was the bridge that limited the rate, not the
            clients.
        opening_us: CPU microseconds of the bridge for each connection that was opened before the clock started.
        memory_kib: By how much each of these made the bridge grow; of interest only for the first run on a bridge.
    """

    rate: float
    per_cpu: float
    p50_us: int = 0
    p99_us: int = 0
    load: float = 0.0
    opening_us: float = 0.0
    memory_kib: float = 0.0


def _line(load: subprocess.Popen[str]) -> dict[str, float]:
    assert load.stdout is not None
    text = load.stdout.readline()
    if not text:
        _, said = load.communicate()
        raise RunError(said.strip() or f"the load ended with {load.returncode}")
    found: dict[str, float] = json.loads(text)
    return found


def _begin(load: subprocess.Popen[str]) -> None:
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()


@contextlib.contextmanager
def _clients(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as load:
        try:
            yield load
        finally:
            load.kill()


@contextlib.contextmanager
def _busy(command: list[str], connections: int) -> Iterator[None]:
    """Keep connections busy for the time of the block."""
    if not connections:
        yield
        return
    with _clients([*command, "-c", str(connections), "-t", str(_BUSY_S)]) as load:
        _line(load)
        _begin(load)
        yield
        if load.poll() is not None:
            raise RunError("the busy connections ended early")


def measure(case: Case, bridge: Running, lab: Lab, core: int, seconds: float) -> Sample:
    """Run a case once.

    Args:
        case: What to run.
        bridge: On what.
        lab: With what.
        core: The CPU for the clients.
        seconds: The time that is measured, after all connections are open; longer if nothing has come through by then,
            up to some 5 s.

    Raises:
        RunError: Connections failed, bytes came back wrong, or nothing came at all.
    """
    bridge.settle()
    connections = min(case.connections, bridge.peer.most or case.connections)
    speaks = [*_SPEAKS[bridge.transport], *bridge.peer.clients]
    program = ["taskset", "-c", str(core), str(lab.load)]
    command = [*program, case.kind, str(bridge.ports[case.service]), *speaks, *case.options]
    command += ["-c", str(connections), "-t", str(min(seconds, case.most_s))]
    with _busy([*program, "echo", str(bridge.ports["echo"]), *speaks], case.busy):
        memory, opening_s = bridge.memory(), bridge.cpu_s()
        with _clients(command) as load:
            opened = _line(load)["open"]
            if bridge.transport in TUNNELS:
                bridge.settle()  # its clients are connected before it has connected to its other end
            memory, opening_s = bridge.memory() - memory, bridge.cpu_s() - opening_s
            cpu_s = bridge.cpu_s()
            _begin(load)
            result = _line(load)
            cpu_s = bridge.cpu_s() - cpu_s
    _check(result)
    opening_us, memory_kib = (opening_s / opened * 1e6, memory / 1024 / opened) if opened else (0.0, 0.0)
    if case.kind == "idle":
        return Sample(memory_kib, 1 / max(memory_kib, 1e-3), opening_us=opening_us, memory_kib=memory_kib)
    count = result[case.figure] / case.unit[0]
    if not count:
        raise RunError("nothing came through")
    return Sample(
        rate=count / result["seconds"],
        per_cpu=count / max(cpu_s, _LEAST_CPU_S),
        p50_us=int(result["p50_us"]),
        p99_us=int(result["p99_us"]),
        load=cpu_s / result["seconds"],
        opening_us=opening_us,
        memory_kib=memory_kib,
    )


def _check(result: dict[str, float]) -> None:
    if result["corrupt"]:
        raise RunError(f"{result['corrupt']:.0f} connections got bytes that were not sent")
    if result["failed"] > result["opened"] * _FAILURES:
        raise RunError(f"{result['failed']:.0f} of {result['opened'] + result['failed']:.0f} connections failed")
