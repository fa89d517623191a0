"""The command that compares, run as a user runs it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bench.__main__ import main
from bench.cases import CASES

ROOT = Path(__file__).parents[2]
README = (ROOT / "bench" / "README.md").read_text()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command for a moment."""
    command = [sys.executable, "-m", "bench", "--rounds", "2", "--seconds", "0.1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_wsbridge_beside_lighttpd(tmp_path):
    """Figures, the table and the samples of both come from one run."""
    file = tmp_path / "figures.json"
    done = run("--only", "lighttpd", "--case", "echo64", "--case", "down", "--json", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert "64-byte echo, 64 connections, plain (messages/s)\n  wsbridge " in done.stdout
    assert "|  | wsbridge / lighttpd | wsbridge / lighttpd, TLS |" in done.stdout
    assert re.search(r"^\| down \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.MULTILINE)
    found = json.loads(file.read_text())
    assert found.keys() == {"echo64", "down"}
    assert found["down"]["tls"]["lighttpd"]["rounds"].keys() == {"0", "1"}


def test_a_bridge_that_is_not_installed_is_left_out(tmp_path):
    """It is reported, with how to get it, and the others are measured."""
    file = tmp_path / "peers.toml"
    own = (ROOT / "bench" / "peers.toml").read_text()
    file.write_text(own + '\n[other]\nplain = ["no-such-bridge"]\nget = "buy one"\n')
    done = run("--peers", str(file), "--only", "other", "--case", "echo64", "--transport", "plain")

    assert done.returncode == 0
    assert done.stderr == "other is left out: no no-such-bridge (buy one)\n"
    assert "  wsbridge " in done.stdout


def test_a_bridge_that_holds_few_connections(tmp_path):
    """Cases with more connections are not asked of it."""
    file = tmp_path / "peers.toml"
    own = (ROOT / "bench" / "peers.toml").read_text()
    file.write_text(own.replace("[lighttpd]", "[lighttpd]\nmost = 10"))
    arguments = ["--only", "lighttpd", "--case", "echo64", "--case", "pipelined", "--transport", "plain"]
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


def test_every_case_is_explained():
    """The README's table lists the cases, in order."""
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == list(CASES)


@pytest.mark.parametrize(
    "line", re.findall(r"^(?:make bench ARGS='(?=-)|python -m bench )(.*?)'?$", README, re.MULTILINE)
)
def test_commands_of_the_readme(line):
    """What the README shows can be typed."""
    with click.Context(main) as context:
        main.parse_args(context, shlex.split(line))
        assert context.params["rounds"]
