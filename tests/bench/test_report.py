"""The figures side by side."""

from __future__ import annotations

import json

from bench.measure import Sample
from bench.report import Figures, as_json, markdown, text


def figures() -> Figures:
    """Give three rounds of two bridges, of which the second lacks one."""
    found = Figures(["ours", "theirs"], ("other", "theirs"))
    for number, (ours, theirs) in enumerate([(10.0, 20.0), (30.0, 20.0), (100.0, None)]):
        found.add("echo64", "plain", "ours", number, Sample(ours * 2, ours, 5, 9, 0.5))
        if theirs is not None:
            found.add("echo64", "plain", "theirs", number, Sample(theirs * 2, theirs, 6, 10, 0.5))
    found.add("idle", "plain", "ours", 0, Sample(8.25, 0.1))
    found.add("idle", "plain", "theirs", 0, Sample(13.5, 0.2))
    found.add("down", "tls", "ours", 0, Sample(3.0, 7.5))
    found.add("down", "tls", "theirs", 0, Sample(1.0, 2.5))
    return found


def test_the_ratio_is_the_median_of_the_rounds():
    """Only rounds that both have count, each by its own ratio."""
    assert figures().ratio("echo64", "plain", "theirs") == 1.0
    assert figures().ratio("echo64", "plain", "ours") == 1.0
    assert figures().ratio("echo64", "tls", "ours") is None
    assert figures().ratio("down", "tls", "ours") == 3.0
    assert figures().ratio("idle", "plain", "ours") == 8.25 / 13.5


def test_the_reference_is_the_first_that_was_measured():
    """Each transport has its own; without one there are no ratios."""
    found = figures()

    assert found.reference("plain") == "theirs"
    assert found.reference("tunnel") is None
    assert Figures(found.peers, (), samples=found.samples).ratio("down", "tls", "ours") is None


def test_the_table_of_ratios():
    """Two digits below two and one above; latency and, at the end, memory as they are; a dash for what is missing."""
    found = figures()
    for peer, p99_us in (("ours", 1250), ("theirs", 2500)):
        found.add("connect_busy", "plain", peer, 0, Sample(1.0, 1.0, 800, p99_us))

    assert list(markdown(found)) == [
        "|  | ours | ours, tls |",
        "|---|---|---|",
        "| 64-byte echo, 64 connections | 1.00 | - |",
        "| down | - | 3.0 |",
        "| handshake beside 64 busy connections, p99 | 1.2 / 2.5 ms | - |",
        "| memory of an idle connection | 8.2 / 13.5 KiB | - |",
    ]


def words(line: str) -> str:
    """Split a line into its columns."""
    return " ".join(line.split())


def test_every_figure_as_text():
    """Each case has a line for each bridge: the rate, what it cost, the ratio, how late; none says so."""
    lines = list(text(figures()))
    at = lines.index("64-byte echo, 64 connections, plain (messages/s)")

    assert words(lines[at + 1]) == "ours 60.0 per CPU-second 30 load 50% of theirs 1.00 p50 5 µs, p99 9 µs"
    assert words(lines[at + 2]) == "theirs 40.0 per CPU-second 20 load 50% p50 6 µs, p99 10 µs"
    assert words(lines[lines.index("64-byte echo, 64 connections, tls (messages/s)") + 1]) == "ours -"


def test_samples_are_plain_json():
    """Where and how, every round, the medians and the ratio are there."""
    whole = json.loads(json.dumps(as_json(figures(), rounds=3)))
    found = whole["cases"]["echo64"]["plain"]["theirs"]

    assert whole["rounds"] == 3
    assert whole["machine"].keys() == {"processor", "cores", "system", "python", "openssl", "wsbridge"}

    assert found["ratio"] == 1.0
    assert found["median"]["rate"] == 40.0
    assert found["rounds"].keys() == {"0", "1"}
