"""The sweeps, measured and drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import sweeps
from bench.plots import PICTURES, draw

ROOT = Path(__file__).parents[2]
TEXT = "{http://www.w3.org/2000/svg}text"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-m", "bench.plots", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def texts(file: Path) -> list[str]:
    """Give what can be read in a picture."""
    return ["".join(text.itertext()) for text in ElementTree.parse(file).iter(TEXT)]


def test_sweeps_are_measured_and_drawn(tmp_path):
    """Numbers and pictures come from one run; the pictures can be drawn again from the numbers, and are the same."""
    how = ["--only", "wsbridge-python", "--only", "lighttpd", "--transport", "plain", "--rounds", "1"]
    done = run(*how, "--seconds", "0.1", "--points", "2", "--out", str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(tmp_path / f"{name}.svg") for name in PICTURES]
    sizes, connections = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("sizes", "connections"))
    assert list(sizes["cases"]) == ["16", "64"]
    assert list(connections["cases"]) == ["1", "10"]
    opened = connections["cases"]["10"]["plain"]["lighttpd"]["rounds"]["0"]
    assert opened["opening_us"] > 0
    assert {"wsbridge-python", "lighttpd", "MB/s, plain"} <= set(texts(tmp_path / "sizes.svg"))
    pictures = {name: (tmp_path / f"{name}.svg").read_text() for name in PICTURES}
    assert run("--draw-only", "--out", str(tmp_path)).returncode == 0
    assert pictures == {name: (tmp_path / f"{name}.svg").read_text() for name in PICTURES}


def found(peers: list[str], points: list[int]) -> dict:
    """Give numbers as they are in the files."""
    sample = {"rate": 5.0, "per_cpu": 6.0, "p50_us": 7, "p99_us": 8, "opening_us": 9.0, "memory_kib": 10.0}
    by_peer = {peer: {"median": sample, "rounds": {"0": sample}} for peer in peers}
    machine = {"processor": "a processor", "system": "a system", "wsbridge": "1.2.3"}
    cases = {str(point): {"plain": by_peer, "tls": by_peer} for point in points}
    return json.loads(json.dumps({"machine": machine, "rounds": 3, "seconds": 1.0, "bridge_cores": 1, "cases": cases}))


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_says_what_it_shows(tmp_path, picture):
    """Each transport has its row, each bridge its line, and the machine is named."""
    draw(picture, found(["one", "other"], [10, 100]), tmp_path / "picture.svg")
    said = texts(tmp_path / "picture.svg")

    _, counted, curves = PICTURES[picture]
    assert {f"{curve.title}, {transport}" for curve in curves for transport in ("plain", "TLS")} <= set(said)
    assert counted in said
    assert "bridge on one core of a processor, a system, wsbridge 1.2.3; median of 3 rounds of 1 s" in said
    assert said.count("one") == said.count("other") == 1


def test_a_bridge_that_lacks_points_has_a_shorter_line(tmp_path):
    """What was not measured is not drawn; the others are."""
    numbers = found(["one", "other"], [10, 100])
    del numbers["cases"]["100"]["tls"]
    del numbers["cases"]["100"]["plain"]["other"]
    del numbers["cases"]["10"]["plain"]["one"]["rounds"]["0"]
    draw("cost", numbers, tmp_path / "picture.svg")

    assert {"one", "other"} <= set(texts(tmp_path / "picture.svg"))


def test_as_many_connections_as_descriptors_allow(monkeypatch):
    """A bridge needs two descriptors for each; the largest number gives way to the limit."""
    monkeypatch.setattr(sweeps.resource, "getrlimit", lambda _: (1024, 5000))
    assert sweeps.counts() == [1, 10, 100, 1000, 2150]
    monkeypatch.setattr(sweeps.resource, "getrlimit", lambda _: (1024, 1 << 20))
    assert sweeps.counts()[-1] == 10000
