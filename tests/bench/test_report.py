"""The figures side by side."""

from __future__ import annotations

import json

from bench.measure import Sample
from bench.report import Figures, markdown, samples, text


def figures() -> Figures:
    """Give three rounds of two bridges, of which the second lacks one."""
    found = Figures(["ours", "theirs"])
    for number, (ours, theirs) in enumerate([(10.0, 20.0), (30.0, 20.0), (100.0, None)]):
        found.add("echo64", "plain", "ours", number, Sample(ours * 2, ours, 5, 9))
        if theirs is not None:
            found.add("echo64", "plain", "theirs", number, Sample(theirs * 2, theirs, 6, 10))
    found.add("idle", "plain", "ours", 0, Sample(8.25, 0.1))
    found.add("idle", "plain", "theirs", 0, Sample(13.5, 0.2))
    found.add("down", "tls", "ours", 0, Sample(3.0, 7.5))
    found.add("down", "tls", "theirs", 0, Sample(1.0, 2.5))
    return found


def test_the_ratio_is_the_median_of_the_rounds():
    """Only rounds that both have count, each by its own ratio."""
    assert figures().ratio("echo64", "plain", "theirs") == 1.0
    assert figures().ratio("echo64", "plain", "ours") == 1.0
    assert figures().ratio("echo64", "tls", "theirs") is None


def test_the_table_of_ratios():
    """Two digits below two and one above; memory as it is, at the end; a dash where a bridge was not measured."""
    assert list(markdown(figures())) == [
        "|  | ours / theirs | ours / theirs, TLS |",
        "|---|---|---|",
        "| 64-byte echo, 64 connections | 1.00 | - |",
        "| down | - | 3.0 |",
        "| memory of an idle connection | 8.2 / 13.5 KiB | - |",
    ]


def words(line: str) -> str:
    """Split a line into its columns."""
    return " ".join(line.split())


def test_every_figure_as_text():
    """Each case has a line for each bridge: the rate, what it cost, the ratio, how late; none says so."""
    lines = list(text(figures()))
    at = lines.index("64-byte echo, 64 connections, plain (messages/s)")

    assert words(lines[at + 1]) == "ours 60.0 per CPU-second 30 p50 5 µs, p99 9 µs"
    assert words(lines[at + 2]) == "theirs 40.0 per CPU-second 20 ours/theirs 1.00 p50 6 µs, p99 10 µs"
    assert words(lines[lines.index("64-byte echo, 64 connections, tls (messages/s)") + 1]) == "ours -"


def test_samples_are_plain_json():
    """Every round, the medians and the ratio are there."""
    found = json.loads(json.dumps(samples(figures())))["echo64"]["plain"]["theirs"]

    assert found["ratio"] == 1.0
    assert found["median"]["rate"] == 40.0
    assert found["rounds"].keys() == {"0", "1"}
