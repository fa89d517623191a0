"""The figures side by side: as text, as a table of ratios, as JSON."""

from __future__ import annotations

import os
import platform
import ssl
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from bench.cases import CASES, TRANSPORTS, Case, Transport
from bench.measure import Sample
from wsbridge import __version__

_NONE = "-"


@dataclass
class Figures:
    """All samples of a comparison.

    Attributes:
        peers: Names, in the order of the table.
        references: The ratios are those of each bridge to the first of these that was measured in the transport.
        cases: What is measured, by name, in the order of the table.
        samples: By case, transport and peer, then by round; a round that gave nothing is left out.
    """

    peers: list[str]
    references: tuple[str, ...]
    cases: Mapping[str, Case] = field(default_factory=lambda: CASES)
    samples: dict[tuple[str, Transport, str], dict[int, Sample]] = field(default_factory=dict)

    def add(self, case: str, transport: Transport, peer: str, round_: int, sample: Sample) -> None:
        """Note what one run gave."""
        self.samples.setdefault((case, transport, peer), {})[round_] = sample

    def reference(self, transport: Transport) -> str | None:
        """Name the bridge that the others are compared with; None if it was not measured."""
        measured = self.measured(transport)
        return next((name for name in self.references if name in measured), None)

    def ratio(self, case: str, transport: Transport, peer: str) -> float | None:
        """Give the median over the rounds of peer/reference, per CPU-second or memory; None unless a round has both."""
        ours = self.samples.get((case, transport, peer), {})
        theirs = self.samples.get((case, transport, self.reference(transport) or ""), {})
        rounds = ours.keys() & theirs.keys()
        figure = attrgetter("rate" if self.cases[case].once else "per_cpu")
        return statistics.median(figure(ours[n]) / figure(theirs[n]) for n in rounds) if rounds else None

    def middle(self, case: str, transport: Transport, peer: str) -> Sample | None:
        """Give the median of each figure over the rounds; None if no round gave any."""
        rounds = list(self.samples.get((case, transport, peer), {}).values())
        if not rounds:
            return None
        medians = {part.name: statistics.median(getattr(one, part.name) for one in rounds) for part in fields(Sample)}
        return Sample(**medians)

    def measured_cases(self) -> list[str]:
        """Name the cases that have a figure, in the order of the table."""
        return [case for case in self.cases if any(key[0] == case for key in self.samples)]

    def transports(self) -> list[Transport]:
        """Name the transports that have a figure."""
        return [transport for transport in TRANSPORTS if any(key[1] == transport for key in self.samples)]

    def measured(self, transport: Transport) -> list[str]:
        """Name the bridges that have a figure in a transport, in the order of the table."""
        return [peer for peer in self.peers if any(key[1:] == (transport, peer) for key in self.samples)]


def text(figures: Figures) -> Iterable[str]:
    """Give every figure, a line for each bridge."""
    for case in figures.measured_cases():
        for transport in figures.transports():
            yield f"{figures.cases[case].title}, {transport} ({figures.cases[case].unit[1]})"
            for peer in figures.measured(transport):
                yield _line(figures, case, transport, peer)


def _line(figures: Figures, case: str, transport: Transport, peer: str) -> str:
    found = figures.middle(case, transport, peer)
    if found is None:
        return f"  {peer:16} {_NONE:>12}"
    line = f"  {peer:16} {found.rate:12,.1f}"
    if not figures.cases[case].once:
        line += f"   per CPU-second {found.per_cpu:12,.0f}   load {found.load:4.0%}"
    ratio, reference = figures.ratio(case, transport, peer), figures.reference(transport)
    if ratio is not None and peer != reference:
        line += f"   of {reference} {ratio:6.2f}"
    if found.p99_us:
        line += f"   p50 {found.p50_us:,.0f} µs, p99 {found.p99_us:,.0f} µs"
    return line


def markdown(figures: Figures) -> Iterable[str]:
    """Give the ratios by CPU-second as a table; memory and latency as they are, beside those of the reference."""
    compared = [transport for transport in figures.transports() if figures.reference(transport)]
    columns = [
        (transport, peer)
        for peer in figures.peers
        for transport in compared
        if peer in figures.measured(transport) and peer != figures.reference(transport)
    ]
    heads = [peer + ("" if transport == "plain" else f", {transport}") for transport, peer in columns]
    yield "| " + " | ".join(["", *heads]) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for case in sorted(figures.measured_cases(), key=lambda name: figures.cases[name].once):
        cells = [_cell(figures, case, transport, peer) for transport, peer in columns]
        yield "| " + " | ".join([figures.cases[case].title, *cells]) + " |"


def _cell(figures: Figures, case: str, transport: Transport, peer: str) -> str:
    ours = figures.middle(case, transport, peer)
    theirs = figures.middle(case, transport, figures.reference(transport) or "")
    ratio = figures.ratio(case, transport, peer)
    if ours is None or theirs is None or ratio is None:
        return _NONE
    if figures.cases[case].once:
        return f"{ours.rate:,.1f} / {theirs.rate:,.1f} {figures.cases[case].unit[1]}"
    if figures.cases[case].busy:
        return f"{ours.p99_us / 1000:,.1f} / {theirs.p99_us / 1000:,.1f} ms"
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}"


def as_json(figures: Figures, **how: float) -> dict[str, Any]:
    """Give everything as it goes into JSON: where and how, then by case, transport and peer medians, ratio, rounds."""
    cases: dict[str, Any] = {}
    for (case, transport, peer), rounds in figures.samples.items():
        middle = figures.middle(case, transport, peer)
        assert middle is not None
        cases.setdefault(case, {}).setdefault(transport, {})[peer] = {
            "median": asdict(middle),
            "ratio": figures.ratio(case, transport, peer),
            "rounds": {str(number): asdict(sample) for number, sample in sorted(rounds.items())},
        }
    return {"machine": machine(), **how, "cases": cases}


def machine() -> dict[str, str | int]:
    """Say where this was measured, and with what."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": found[0].partition(":")[2].strip() if found else platform.machine(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "wsbridge": __version__,
    }
