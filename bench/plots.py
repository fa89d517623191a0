"""The command `python -m bench.plots`: measures the sweeps and draws them, or draws what was measured before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import report
from bench.cases import Case
from bench.sweeps import connections_sweep, sizes_sweep
from bench.turns import Plan, plan_options, take_turns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECTORY = Path("docs/benchmarks")
_TRANSPORTS = {"plain": "plain", "tls": "TLS", "tunnel": "tunnel", "tunnel-tls": "tunnel over TLS"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wsbridge",  # the same figures give the same file
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Rounds = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One diagram of a picture.

    Attributes:
        title: What it shows.
        lines: How each line is drawn, and what it shows of the medians and the rounds of a measurement.
    """

    title: str
    lines: Mapping[str, Callable[[Mapping[str, float], Rounds], float]]


def _median(name: str, per: float = 1) -> Callable[[Mapping[str, float], Rounds], float]:
    return lambda median, rounds: median[name] / per


def _first(name: str) -> Callable[[Mapping[str, float], Rounds], float]:
    return lambda median, rounds: rounds["0"][name] if "0" in rounds else 0


def _cost(median: Mapping[str, float], rounds: Rounds) -> float:
    return 1e6 / median["per_cpu"]


_LATENCY = Curve("latency in ms: median —, 99 % ···", {"-": _median("p50_us", 1000), ":": _median("p99_us", 1000)})
PICTURES: dict[str, tuple[str, str, list[Curve]]] = {
    "sizes": (
        "sizes",
        "bytes in a message; 64 connections, each with one message under way",
        [Curve("MB/s", {"-": _median("rate")}), Curve("MB per CPU-second", {"-": _median("per_cpu")}), _LATENCY],
    ),
    "connections": (
        "connections",
        "connections, each with one message of 64 bytes under way",
        [
            Curve("messages/s", {"-": _median("rate")}),
            Curve("messages per CPU-second", {"-": _median("per_cpu")}),
            _LATENCY,
        ],
    ),
    "cost": (
        "connections",
        "connections",
        [
            Curve("CPU µs a message", {"-": _cost}),
            Curve("CPU µs to open a connection", {"-": _median("opening_us")}),
            Curve("KiB a connection", {"-": _first("memory_kib")}),
        ],
    ),
}
"""By file: the sweep, what is counted from left to right, and the diagrams."""


def _points(found: Mapping[str, Any], transport: str, peer: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for name, by_transport in found["cases"].items():
        point = by_transport.get(transport, {}).get(peer)
        if point is not None:
            yield int(name), point


def _draw_curve(axes: Axes, curve: Curve, found: Mapping[str, Any], transport: str, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for peer, colour in colours.items():
        points = sorted(_points(found, transport, peer))
        for style, value in curve.lines.items():
            at = [(x, y) for x, point in points if (y := value(point["median"], point["rounds"])) > 0]
            if at:
                label = peer if style == "-" else None
                axes.plot(*zip(*at, strict=True), style, color=colour, marker=".", linewidth=1.2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a diagram may span less than a power of ten
    axes.set_title(f"{curve.title}, {_TRANSPORTS[transport]}", fontsize=9, loc="left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_locator(NullLocator())


def draw(picture: str, found: Mapping[str, Any], file: Path) -> None:
    """Draw a picture: a row of diagrams for each transport.

    Args:
        picture: A key of `PICTURES`.
        found: What `as_json` gave for its sweep.
        file: Where to write it, as SVG.
    """
    import matplotlib  # takes a second, and nothing else needs it
    from matplotlib.figure import Figure

    _, counted, curves = PICTURES[picture]
    cases = found["cases"].values()
    transports = [name for name in _TRANSPORTS if any(name in case for case in cases)]
    peers = dict.fromkeys(peer for case in cases for by_peer in case.values() for peer in by_peer)
    colours = {peer: f"C{number}" for number, peer in enumerate(peers)}
    with matplotlib.rc_context(_STYLE):
        size = (3.6 * len(curves), 2.6 * len(transports) + 0.8)
        figure = Figure(size, layout="constrained")
        grid = figure.subplots(len(transports), len(curves), squeeze=False)
        for row, transport in zip(grid, transports, strict=True):
            for axes, curve in zip(row, curves, strict=True):
                _draw_curve(axes, curve, found, transport, colours)
        lines = {line.get_label(): line for axes in grid.flat for line in axes.lines if line.get_label() in peers}
        machine = found["machine"]
        cores = "one core" if found["bridge_cores"] == 1 else f"{found['bridge_cores']} cores"
        where = f"bridge on {cores} of {machine['processor']}, {machine['system']}, wsbridge {machine['wsbridge']}"
        how = f"median of {found['rounds']} rounds of {found['seconds']:g} s"
        figure.suptitle(f"{counted}\n{where}; {how}", fontsize=9)
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)
        figure.savefig(file, metadata={"Date": None})


def _measure(plan: Plan, cases: Mapping[str, Case], *, fresh: bool) -> dict[str, Any]:
    """Measure a sweep; with fresh bridges for each of its cases, so that the memory of each is known."""
    peers = plan.peers()
    figures = report.Figures([peer.name for peer in peers], (), cases)
    take_turns(plan, peers, [[name] for name in cases] if fresh else [list(cases)], figures)
    return report.as_json(figures, **plan.numbers)


@click.command(context_settings={"show_default": True})
@plan_options(rounds=3, seconds=1.0, transports=("plain", "tls"))
@click.option("--out", type=click.Path(path_type=Path), default=DIRECTORY, help="The directory for the results.")
@click.option("--draw-only", is_flag=True, help="Measure nothing; draw the numbers that are there.")
@click.option("--points", type=click.IntRange(1), help="Only this many sizes and numbers of connections.")
def main(plan: Plan, out: Path, draw_only: bool, points: int | None) -> None:
    """Measure how speed, latency and cost change with the size of messages and the number of connections.

    Writes sizes.json and connections.json, and draws them: sizes.svg, connections.svg and cost.svg.
    """
    out.mkdir(parents=True, exist_ok=True)
    for sweep, cases in {"sizes": sizes_sweep(), "connections": connections_sweep()}.items():
        file = out / f"{sweep}.json"
        if not draw_only:
            some = dict(list(cases.items())[:points])
            file.write_text(json.dumps(_measure(plan, some, fresh=sweep == "connections"), indent=1) + "\n")
        found = json.loads(file.read_text())
        for picture in [name for name, (source, _, _) in PICTURES.items() if source == sweep]:
            draw(picture, found, out / f"{picture}.svg")
            click.echo(out / f"{picture}.svg")


if __name__ == "__main__":
    main()
