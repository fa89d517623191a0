"""Bridges that take turns: all are measured in rounds, so that what else goes on in the machine affects all alike."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cases import TRANSPORTS, Transport
from bench.lab import Lab, LabError, opened
from bench.measure import RunError, measure
from bench.peers import HERE, Peer, PeerError, Running, read_peers, started
from bench.report import Figures

_CONSOLE = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure; the fields are the options that `plan_options` adds to a command.

    Attributes:
        peers_file: Which bridges there are.
        only: Names of those that are measured; empty for all.
        transports: How the clients talk to them.
        rounds: Turns of each bridge.
        seconds: Of each turn.
        bridge_cores: The CPUs of the bridges.
        load_core: That of the clients and the services.
    """

    peers_file: Path
    only: tuple[str, ...]
    transports: tuple[Transport, ...]
    rounds: int
    seconds: float
    bridge_cores: tuple[int, ...]
    load_core: int

    @property
    def numbers(self) -> dict[str, float]:
        """What is written beside the figures: rounds, seconds of a turn, and on how many cores a bridge ran."""
        return {"rounds": self.rounds, "seconds": self.seconds, "bridge_cores": len(self.bridge_cores)}

    def peers(self) -> list[Peer]:
        """Give the bridges that are installed, and report the others.

        Raises:
            PeerError: The file cannot be read, or does not have a bridge that is asked for.
        """
        all_ = read_peers(self.peers_file)
        unknown = set(self.only) - {peer.name for peer in all_}
        if unknown:
            raise PeerError(f"{self.peers_file}: has no bridge {', '.join(sorted(unknown))}")
        found = []
        for peer in all_:
            if self.only and peer.name not in self.only:
                continue
            lacking = peer.missing()
            if lacking is None:
                found.append(peer)
            else:
                click.echo(f"{peer.name} is left out: no {lacking}" + (f" ({peer.get})" if peer.get else ""), err=True)
        return found


def plan_options(
    rounds: int, seconds: float, transports: Sequence[Transport] = TRANSPORTS
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a plan to a command, with these defaults; the command gets them as `plan`."""
    cores = sorted(os.sched_getaffinity(0))
    path = click.Path(path_type=Path)
    options = [
        click.option("--peers", "peers_file", type=path, default=HERE / "peers.toml", help="Which bridges there are."),
        click.option("--only", multiple=True, metavar="NAME", help="Only this bridge; may be repeated."),
        click.option(
            "--transport",
            "transports",
            multiple=True,
            type=click.Choice(TRANSPORTS),
            default=transports,
            help="Only this one; may be repeated.",
        ),
        click.option("--rounds", type=click.IntRange(1), default=rounds, help="Turns of each bridge."),
        click.option("--seconds", type=click.FloatRange(0.05), default=seconds, help="Of each turn."),
        click.option(
            "--bridge-core",
            "bridge_cores",
            multiple=True,
            type=int,
            default=cores[:1],
            help="The CPU of the bridges; may be repeated.",
        ),
        click.option("--load-core", type=int, default=cores[-1], help="The CPU of the clients and of the services."),
    ]

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            plan = Plan(**{option: values.pop(option) for option in Plan.__slots__})
            try:
                command(plan=plan, **values)
            except (PeerError, LabError) as error:
                raise click.ClickException(str(error)) from error

        decorated: Callable[..., None] = run
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return add


def take_turns(plan: Plan, peers: Sequence[Peer], groups: Iterable[Sequence[str]], figures: Figures) -> None:
    """Measure cases on all bridges, and add what came of it to the figures; runs that failed are reported.

    Args:
        plan: How to measure.
        peers: The bridges.
        groups: Names of cases; for each group the bridges are restarted.
        figures: Knows the cases.

    Raises:
        PeerError: None of the bridges can be started.
        LabError: Something that measuring needs is not there.
    """
    with tempfile.TemporaryDirectory(prefix="wsbridge-bench-") as path, opened(Path(path), plan.load_core) as lab:
        values = {f"backend_{service}": str(port) for service, port in lab.services.items()}
        values |= {"lab": path, "here": str(HERE), "python": sys.executable}
        for transport in plan.transports:
            for cases in groups:
                with contextlib.ExitStack() as stack:
                    able = [peer for peer in peers if transport in peer.commands]
                    bridges = _start(stack, able, transport, values, lab, plan.bridge_cores)
                    _interleave(plan, bridges, cases, lab, figures)


def _start(
    stack: contextlib.ExitStack,
    peers: Sequence[Peer],
    transport: Transport,
    values: Mapping[str, str],
    lab: Lab,
    cores: Sequence[int],
) -> list[Running]:
    """Start bridges until the stack is closed; one that cannot be started is reported and left out."""
    running: list[Running] = []
    errors: list[PeerError] = []
    for peer in peers:
        try:
            running.append(stack.enter_context(started(peer, transport, values, lab.directory, *cores)))
        except PeerError as error:
            errors.append(error)
    if errors and not running:
        raise errors[0]
    for failure in errors:
        click.echo(f"{transport}: {failure}", err=True)
    return running


def _interleave(plan: Plan, bridges: list[Running], names: Sequence[str], lab: Lab, figures: Figures) -> None:
    turns = [(0, name) for name in names if figures.cases[name].once]
    turns += [(number, name) for number in range(plan.rounds) for name in names if not figures.cases[name].once]
    with _CONSOLE.status("") as status:
        for number, name in turns:
            case = figures.cases[name]
            for bridge in bridges:
                if bridge.peer.most is not None and not case.once and case.connections > bridge.peer.most:
                    continue
                what = f"{bridge.peer.name}, {bridge.transport}, {name}, round {number + 1} of {plan.rounds}"
                status.update(what)
                try:
                    sample = measure(case, bridge, lab, plan.load_core, plan.seconds)
                except RunError as error:
                    _CONSOLE.print(f"{what}: {error}", markup=False, highlight=False)
                else:
                    figures.add(name, bridge.transport, bridge.peer.name, number, sample)
