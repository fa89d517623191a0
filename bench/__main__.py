"""The command: `python -m bench` from the project directory."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from bench import report
from bench.cases import CASES, TRANSPORTS, Transport
from bench.lab import Lab, LabError, opened
from bench.measure import RunError, measure
from bench.peers import HERE, Peer, PeerError, Running, read_peers, started

_CONSOLE = Console(stderr=True)


def _cores() -> tuple[int, int]:
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def _installed(peers: list[Peer]) -> list[Peer]:
    found = []
    for peer in peers:
        program = peer.missing()
        if program is None:
            found.append(peer)
        else:
            click.echo(f"{peer.name} is left out: no {program}" + (f" ({peer.get})" if peer.get else ""), err=True)
    return found


def _fits(peer: Peer, case: str) -> bool:
    return peer.most is None or CASES[case].once or CASES[case].connections <= peer.most


def _compare(
    figures: report.Figures, bridges: list[Running], cases: list[str], lab: Lab, core: int, rounds: int, seconds: float
) -> None:
    once = [case for case in cases if CASES[case].once]
    turns = [(0, case) for case in once]
    turns += [(number, case) for number in range(rounds) for case in cases if case not in once]
    with _CONSOLE.status("") as status:
        for number, case in turns:
            for bridge in bridges:
                if not _fits(bridge.peer, case):
                    continue
                what = f"{bridge.peer.name}, {bridge.transport}, {case}, round {number + 1} of {rounds}"
                status.update(what)
                try:
                    sample = measure(CASES[case], bridge, lab, core, seconds)
                except RunError as error:
                    _CONSOLE.print(f"{what}: {error}", markup=False, highlight=False)
                else:
                    figures.add(case, bridge.transport, bridge.peer.name, number, sample)


@click.command(context_settings={"show_default": True})
@click.option(
    "--peers",
    "peers_file",
    type=click.Path(path_type=Path),
    default=HERE / "peers.toml",
    help="Which bridges there are.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this bridge besides the first; may be repeated.")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Only this case; may be repeated.")
@click.option(
    "--transport", "transports", multiple=True, type=click.Choice(TRANSPORTS), help="Only this one; may be repeated."
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of each bridge.")
@click.option("--seconds", type=click.FloatRange(0.05), default=2.0, help="Of each turn.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every sample to this file.")
@click.option("--bridge-core", type=int, default=_cores()[0], help="The CPU of the bridges.")
@click.option("--load-core", type=int, default=_cores()[1], help="The CPU of the clients and of the services.")
def main(
    peers_file: Path,
    only: tuple[str, ...],
    cases: tuple[str, ...],
    transports: tuple[Transport, ...],
    rounds: int,
    seconds: float,
    json_file: Path | None,
    bridge_core: int,
    load_core: int,
) -> None:
    """Measure wsbridge and its peers side by side.

    Prints every figure, then the ratios as a table.

    Every bridge takes its turn in each round, so that what else goes on in the machine meets all of them. Ratios are
    the median of the rounds' ratios of what came through in a CPU second of the bridge's processes. Bytes are compared;
    runs in which some came back wrong or connections failed are reported and not counted.
    """
    try:
        first, *others = read_peers(peers_file)
        peers = _installed([first, *(peer for peer in others if not only or peer.name in only)])
        figures = report.Figures([peer.name for peer in peers])
        with tempfile.TemporaryDirectory(prefix="wsbridge-bench-") as path, opened(Path(path), load_core) as lab:
            values = {f"backend_{service}": str(port) for service, port in lab.services.items()}
            values |= {"lab": path, "here": str(HERE), "python": sys.executable}
            for transport in transports or TRANSPORTS:
                with contextlib.ExitStack() as stack:
                    bridges = [
                        stack.enter_context(started(peer, transport, values, lab.directory, bridge_core))
                        for peer in peers
                        if transport in peer.commands
                    ]
                    _compare(figures, bridges, list(cases or CASES), lab, load_core, rounds, seconds)
    except (PeerError, LabError) as error:
        raise click.ClickException(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(report.samples(figures), indent=1) + "\n")
    click.echo("\n".join([*report.text(figures), "", *report.markdown(figures)]))


if __name__ == "__main__":
    main()
