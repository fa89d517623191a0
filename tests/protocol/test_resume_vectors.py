"""The recorded sessions of tests/vectors/resume: the machine gives what was recorded, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.protocol.resume_vectors import VECTORS, dump, load, run_case

FILES = sorted(VECTORS.glob("*.json"))
CASES = [pytest.param(case, id=f"{path.stem}: {case['name']}") for path in FILES for case in load(path)]


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_session(case: dict[str, Any]) -> None:
    """Every step gives the events, the messages and the state that the file has."""
    for recorded, now in zip(case["steps"], run_case(case)["steps"], strict=True):
        assert now == recorded


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_written_as_they_are_recorded(path: Path) -> None:
    """One step on a line, so that a change can be read; names are unique."""
    cases = load(path)
    assert dump(cases) == path.read_text()
    assert len({case["name"] for case in cases}) == len(cases)


def test_the_recorded_sessions_end_whole() -> None:
    """Both sides of each, after several transports."""
    cases = load(VECTORS / "client-recorded.json") + load(VECTORS / "server-recorded.json")
    assert len(cases) == 8
    for case in cases:
        ends = [event for step in case["steps"] for event in step.get("events", ()) if event["event"] == "ended"]
        assert [(end["code"], end["complete"]) for end in ends] == [(1000, True)]
        assert sum(step["do"] in ("connect", "resume") for step in case["steps"]) > 4
