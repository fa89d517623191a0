"""Values as text."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from wsbridge.top.text import age_text, fit, short_time_text, size_text, terminal_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1023.6, "1.0 KiB"),
        (99.96 * 1024, "100 KiB"),
        (999.4 * 1024, "999 KiB"),
        (1000 * 1024, "1.0 MiB"),
        (3.25 * 2**30, "3.2 GiB"),
        (5000 * 2**50, "5000 PiB"),
    ],
)
def test_sizes(count, text):
    """They need no more than eight characters."""
    assert size_text(count) == text
    assert len(text) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (99 * 86400 + 3600, "99d01h"),
        (4000 * 86400, "4000d"),
    ],
)
def test_durations(seconds, text):
    """Two units, at most six characters."""
    assert age_text(seconds) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0.0 ms"), (0.00042, "0.4 ms"), (0.012, "12 ms"), (0.9996, "1.0 s"), (120, "120 s")],
)
def test_short_times(seconds, text):
    """Milliseconds below a second."""
    assert short_time_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x07\x9b2J", "\\x1b[31mred\\x07\\x9b2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("e\u0301", "e\\u0301"),
        ("こんにちは", "こんにちは"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\udc80", "\\udc80"),
        (None, "-"),
        (True, "True"),
        (["192.0.2.1", "\x1b"], "192.0.2.1,\\x1b"),
        ({"backend_closed": 3, "a\x1b": 1}, "backend_closed 3, a\\x1b 1"),
    ],
)
def test_what_a_client_sent_is_escaped(value, text):
    """No control code, no bidi override, nothing that changes another character reaches the terminal."""
    assert terminal_text(value) == text
    assert terminal_text(value, "ascii").isascii()


@pytest.mark.parametrize("text", ["", "abc", "abcdefgh", "こんにちは", "aこんにちは", "日" * 50])
@pytest.mark.parametrize("width", [0, 1, 2, 5, 8, 9])
def test_text_fits(text, width):
    """Exactly so many cells, also where a character has two."""
    assert cell_len(fit(text, width)) == width
    assert cell_len(fit(text, width, right=True)) == width
