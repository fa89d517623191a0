"""The command: `python -m bench` from the project directory."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bench import report
from bench.cases import CASES
from bench.turns import Plan, plan_options, take_turns


@click.command(context_settings={"show_default": True})
@plan_options(rounds=5, seconds=1.0)
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Only this case; may be repeated.")
@click.option(
    "--to",
    "references",
    multiple=True,
    metavar="NAME",
    default=("lighttpd", "wstunnel"),
    help="The bridge that the others are compared with; the first that is there.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every sample to this file.")
def main(plan: Plan, cases: tuple[str, ...], references: tuple[str, ...], json_file: Path | None) -> None:
    """Measure wsbridge and its peers side by side.

    Prints every figure, then the ratios as a table.

    Every bridge takes its turn in each round, so that what else goes on in the machine affects all of them. Ratios are
    the median of the rounds' ratios of what came through in a CPU second of the bridge's processes. Bytes are compared;
    runs in which some came back wrong or connections failed are reported and not counted.
    """
    peers = plan.peers()
    figures = report.Figures([peer.name for peer in peers], references)
    take_turns(plan, peers, [list(cases or CASES)], figures)
    if json_file is not None:
        found = report.as_json(figures, **plan.numbers)
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    click.echo("\n".join([*report.text(figures), "", *report.markdown(figures)]))


if __name__ == "__main__":
    main()
