"""The figures side by side: as text, as a table of ratios, as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.cases import CASES, TRANSPORTS, Transport
from bench.measure import Sample

_NONE = "-"


@dataclass
class Figures:
    """All samples of a comparison.

    Attributes:
        peers: Names, in the order of the table; the ratios are those of the first to each other one.
        samples: By case, transport and peer, then by round; a round that gave nothing is left out.
    """

    peers: list[str]
    samples: dict[tuple[str, Transport, str], dict[int, Sample]] = field(default_factory=dict)

    def add(self, case: str, transport: Transport, peer: str, round_: int, sample: Sample) -> None:
        """Note what one run gave."""
        self.samples.setdefault((case, transport, peer), {})[round_] = sample

    def ratio(self, case: str, transport: Transport, peer: str) -> float | None:
        """Give the median over the rounds of first/peer by CPU-second; None unless a round has both."""
        ours = self.samples.get((case, transport, self.peers[0]), {})
        theirs = self.samples.get((case, transport, peer), {})
        rounds = ours.keys() & theirs.keys()
        return statistics.median(ours[n].per_cpu / theirs[n].per_cpu for n in rounds) if rounds else None

    def middle(self, case: str, transport: Transport, peer: str) -> Sample | None:
        """Give the median of each figure over the rounds; None if no round gave any."""
        rounds = list(self.samples.get((case, transport, peer), {}).values())
        if not rounds:
            return None
        return Sample(
            statistics.median(sample.rate for sample in rounds),
            statistics.median(sample.per_cpu for sample in rounds),
            int(statistics.median(sample.p50_us for sample in rounds)),
            int(statistics.median(sample.p99_us for sample in rounds)),
        )

    def cases(self) -> list[str]:
        """Name the cases that have a figure, in the order of the table."""
        return [case for case in CASES if any(key[0] == case for key in self.samples)]

    def transports(self) -> list[Transport]:
        """Name the transports that have a figure."""
        return [transport for transport in TRANSPORTS if any(key[1] == transport for key in self.samples)]


def text(figures: Figures) -> Iterable[str]:
    """Give every figure, a line for each bridge."""
    for case in figures.cases():
        for transport in figures.transports():
            yield f"{CASES[case].title}, {transport} ({CASES[case].unit[1]})"
            for peer in figures.peers:
                found = figures.middle(case, transport, peer)
                ratio = figures.ratio(case, transport, peer)
                if found is None:
                    yield f"  {peer:12} {_NONE:>12}"
                    continue
                line = f"  {peer:12} {found.rate:12,.1f}"
                if not CASES[case].once:
                    line += f"   per CPU-second {found.per_cpu:12,.0f}"
                if ratio is not None and peer != figures.peers[0]:
                    line += f"   {figures.peers[0]}/{peer} {ratio:6.2f}"
                if found.p99_us:
                    line += f"   p50 {found.p50_us:,} µs, p99 {found.p99_us:,} µs"
                yield line


def markdown(figures: Figures) -> Iterable[str]:
    """Give the ratios by CPU-second as a table, and the memory as it is."""
    first, *others = figures.peers
    columns = [(transport, peer) for transport in figures.transports() for peer in others]
    heads = [f"{first} / {peer}" + (", TLS" if transport == "tls" else "") for transport, peer in columns]
    yield "| " + " | ".join(["", *heads]) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for case in sorted(figures.cases(), key=lambda name: CASES[name].once):
        cells = [_cell(figures, case, transport, peer) for transport, peer in columns]
        yield "| " + " | ".join([CASES[case].title, *cells]) + " |"


def _cell(figures: Figures, case: str, transport: Transport, peer: str) -> str:
    ours, theirs = figures.middle(case, transport, figures.peers[0]), figures.middle(case, transport, peer)
    ratio = figures.ratio(case, transport, peer)
    if ours is None or theirs is None or ratio is None:
        return _NONE
    if CASES[case].once:
        return f"{ours.rate:,.1f} / {theirs.rate:,.1f} {CASES[case].unit[1]}"
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}"


def samples(figures: Figures) -> dict[str, Any]:
    """Give everything as it goes into JSON: case, transport, peer, then the medians, the ratio and each round."""
    out: dict[str, Any] = {}
    for (case, transport, peer), rounds in figures.samples.items():
        middle = figures.middle(case, transport, peer)
        assert middle is not None
        out.setdefault(case, {}).setdefault(transport, {})[peer] = {
            "median": asdict(middle),
            "ratio": figures.ratio(case, transport, peer),
            "rounds": {str(number): asdict(sample) for number, sample in sorted(rounds.items())},
        }
    return out
