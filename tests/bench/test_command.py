"""The command that compares, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from bench import plots
from bench.__main__ import main
from bench.cases import CASES
from bench.peers import HERE, read_peers

ROOT = Path(__file__).parents[2]
README = (ROOT / "bench" / "README.md").read_text()
DOCUMENTS = README + (ROOT / "docs" / "benchmarks.md").read_text()
PYTHON = ("--only", "wsbridge-python")
LIGHTTPD = ("--only", "lighttpd")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command for a moment."""
    command = [sys.executable, "-m", "bench", "--rounds", "2", "--seconds", "0.1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_wsbridge_beside_lighttpd(tmp_path):
    """Figures, the table and the samples of both come from one run."""
    file = tmp_path / "figures.json"
    done = run(*PYTHON, *LIGHTTPD, "--case", "echo64", "--case", "down", "--json", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert "64-byte echo, 64 connections, plain (messages/s)\n  wsbridge-python " in done.stdout
    assert "|  | wsbridge-python | wsbridge-python, tls |" in done.stdout
    assert re.search(r"^\| down \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.MULTILINE)
    found = json.loads(file.read_text())
    assert (found["rounds"], found["seconds"], found["bridge_cores"]) == (2, 0.1, 1)
    assert found["cases"].keys() == {"echo64", "down"}
    assert found["cases"]["down"]["tls"]["lighttpd"]["rounds"].keys() == {"0", "1"}


def test_bridges_on_two_cores(tmp_path):
    """Each may use all that are given; the figures say how many there were."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        pytest.skip("there is one core")
    file = tmp_path / "peers.toml"
    command = "sh -c 'taskset -cp $$ >&2; exit 1'"
    file.write_text(f'[cores]\nplain = ["{command}"]\n')
    done = run(
        "--peers", str(file), "--bridge-core", str(first), "--bridge-core", str(others[0]), "--transport", "plain"
    )

    assert re.search(rf"current affinity list: {first}[,-]{others[0]}$", done.stderr, re.MULTILINE), done.stderr


def test_one_bridge_beside_another(tmp_path):
    """The bridge that the others are compared with can be chosen."""
    file = tmp_path / "peers.toml"
    own = tomllib.loads((ROOT / "bench" / "peers.toml").read_text())["wsbridge-python"]
    file.write_text("".join(f"[{name}]\nplain = {json.dumps(own['plain'])}\n" for name in ("old", "new")))
    done = run("--peers", str(file), "--to", "old", "--case", "up")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^\|  \| new \|\n\|---\|---\|\n\| up \| [\d.]+ \|$", done.stdout, re.MULTILINE)


def test_a_bridge_that_the_table_does_not_have():
    """A misspelt name is an error, not a comparison of nothing."""
    done = run("--only", "lightpd")

    assert (done.returncode, done.stderr) == (1, f"Error: {ROOT / 'bench/peers.toml'}: has no bridge lightpd\n")


def test_a_bridge_that_is_not_installed_is_left_out(tmp_path):
    """It is reported, with how to get it, and the others are measured."""
    file = tmp_path / "peers.toml"
    own = (ROOT / "bench" / "peers.toml").read_text()
    file.write_text(own + '\n[other]\nplain = ["no-such-bridge"]\nget = "buy one"\n')
    done = run("--peers", str(file), "--only", "other", *PYTHON, "--case", "echo64", "--transport", "plain")

    assert done.returncode == 0
    assert done.stderr == "other is left out: no no-such-bridge (buy one)\n"
    assert "  wsbridge-python " in done.stdout


def test_a_bridge_that_holds_few_connections(tmp_path):
    """Cases with more connections are not asked of it."""
    file = tmp_path / "peers.toml"
    own = (ROOT / "bench" / "peers.toml").read_text()
    file.write_text(own.replace("[lighttpd]", "[lighttpd]\nmost = 10"))
    arguments = [*PYTHON, *LIGHTTPD, "--case", "echo64", "--case", "pipelined", "--transport", "plain"]
    done = run("--peers", str(file), *arguments)

    assert re.search(r"^\| 64-byte echo, 64 connections \| - \|$", done.stdout, re.MULTILINE)
    assert re.search(r"^\| 64-byte echo, pipelined \| [\d.]+ \|$", done.stdout, re.MULTILINE)


def test_a_bridge_that_does_not_start_is_reported(tmp_path):
    """One sentence with its last words, and nothing else."""
    file = tmp_path / "peers.toml"
    file.write_text("[broken]\nplain = [\"sh -c 'echo no licence; exit 1'\"]\n")
    done = run("--peers", str(file), "--transport", "plain", "--case", "up")

    assert done.returncode == 1
    assert re.fullmatch(r"Error: broken does not listen on port \d+: no licence\n", done.stderr)


def test_a_bridge_that_does_not_start_does_not_end_the_comparison(tmp_path):
    """It is reported; the others are measured."""
    file = tmp_path / "peers.toml"
    own = (ROOT / "bench" / "peers.toml").read_text()
    file.write_text(own + "\n[broken]\nplain = [\"sh -c 'echo no licence; exit 1'\"]\n")
    done = run("--peers", str(file), "--only", "broken", *PYTHON, "--transport", "plain", "--case", "up")

    assert done.returncode == 0
    assert re.fullmatch(r"plain: broken does not listen on port \d+: no licence\n", done.stderr)
    assert "  wsbridge-python " in done.stdout


def first_column(section: str) -> list[str]:
    """Give the names in the first column of the table of a section of the README."""
    rows = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`[^|]+) \|", rows, re.MULTILINE)))


def test_every_case_and_every_bridge_is_explained():
    """The README's tables list them, in order."""
    assert first_column("Cases") == list(CASES)
    assert first_column("Bridges") == [peer.name for peer in read_peers(HERE / "peers.toml")]


@pytest.mark.parametrize(
    ("target", "module", "line"),
    re.findall(r"^(?:make (bench\S*) ARGS='(?=-)|python -m (bench\S*) )(.*?)'?$", DOCUMENTS, re.MULTILINE),
)
def test_commands_of_the_documentation(target, module, line):
    """What is shown can be typed."""
    command = plots.main if (target, module) in (("bench-plots", ""), ("", "bench.plots")) else main
    with click.Context(command) as context:
        command.parse_args(context, shlex.split(line))
        assert context.params["rounds"]


@pytest.mark.parametrize("command", ["bench", "bench-plots"])
def test_make_runs_the_command(command):
    """The targets are the commands, with their arguments."""
    make = ["make", "--no-print-directory", "--dry-run", "--always-make", command, "ARGS=--rounds 3"]
    said = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said.splitlines()[-1] == f".venv/bin/python -m {command.replace('-', '.')} --rounds 3"
