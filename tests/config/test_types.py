"""Numbers, sizes and durations: each has one form, and says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.config import types


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20s", 20),
        ("250ms", 0.25),
        ("1h", 3600),
        ("1m30s", 90),
        ("2d", 172800),
        ("1.5h", 5400),
        ("0s", 0),
        ("010s", 10),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is numbers with units, from the largest to the smallest."""
    assert types.read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "20 s", "20x", "30s1m", "-1s", "1_0s", "1e3s", "٣s", "20sec", "1s1s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match=r"is no duration: write"):
        types.read_duration(text)


def test_a_bare_number_is_no_duration() -> None:
    """A number without a unit is refused, and the message writes it with one."""
    with pytest.raises(ValueError, match='"20" has no unit: write 20s, 20ms'):
        types.read_duration("20")


def test_off_is_taken_only_where_it_means_something() -> None:
    """`off` is None for a timeout that may be off, and an error elsewhere; zero is not a way to say it."""
    assert types.read_duration_or_off("off") is None
    with pytest.raises(ValueError, match='cannot be "off"'):
        types.read_duration("off")
    for zero in ("0s", "0"):
        with pytest.raises(ValueError, match='write "off"'):
            types.read_duration_or_off(zero)
        with pytest.raises(ValueError, match="must be more than zero"):
            types.read_positive_duration(zero)
    with pytest.raises(ValueError, match=r'"0" has no unit: write 0s$'):
        types.read_duration("0")


def test_durations_are_bounded() -> None:
    """More than ten years is a mistake."""
    with pytest.raises(ValueError, match=r"more than ten years"):
        types.read_duration("3651d")


@given(st.integers(min_value=0, max_value=3650 * 86400 * 1000).map(lambda ms: ms / 1000))
def test_durations_are_written_as_they_are_read(seconds: float) -> None:
    """What is written for a duration reads as the same duration."""
    assert types.read_duration(types.write_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64KiB", 65536), ("1MiB", 1048576), ("1.5KiB", 1536), ("2 GiB", 2**31), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    """A size is a number of bytes, or one with a binary unit."""
    assert types.read_size(text) == size


@pytest.mark.parametrize("text", ["64KB", "64K", "64k", "", "-1", "1_000", "0x10", "1.5", "2000GiB", "KiB"])
def test_what_is_no_size(text: str) -> None:
    """Decimal units and other forms are refused."""
    with pytest.raises(ValueError, match=r"is no size|whole number of bytes|more than"):
        types.read_size(text)


@given(st.integers(min_value=0, max_value=2**40))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """What is written for a size reads as the same size."""
    assert types.read_size(types.write_size(size)) == size


@pytest.mark.parametrize("text", ["010", "1_000", "1,000", "-1", "1.0", "ten", "", "0x10", "٣"])
def test_what_is_no_count(text: str) -> None:
    """A count is digits alone, without a leading zero."""
    with pytest.raises(ValueError, match=r"is no whole number"):
        types.read_count(text)


def test_counts_and_auto() -> None:
    """A count may be `auto` where the key says so, and then not zero."""
    assert types.read_count("1000") == 1000
    assert types.read_count_or_auto("auto") == "auto"
    assert types.read_count_or_auto("5") == 5
    for text in ("0", "automatic"):
        with pytest.raises(ValueError, match=r"too small|neither"):
            types.read_count_or_auto(text)


def test_flags_are_two_words() -> None:
    """Only true and false are flags: yes, no, on, off and 1 are not."""
    assert types.read_flag("true") is True
    assert types.read_flag("false") is False
    for text in ("yes", "no", "on", "off", "1", "True", ""):
        with pytest.raises(ValueError, match=r"neither true nor false"):
            types.read_flag(text)


def test_modes_are_octal() -> None:
    """The mode of a socket is three octal digits, with or without a zero before."""
    assert types.read_file_mode("0660") == types.read_file_mode("660") == 0o660
    for text in ("0o660", "66", "0888", "rw", "1660"):
        with pytest.raises(ValueError, match=r"is no mode"):
            types.read_file_mode(text)


def test_statuses_that_can_be_answered() -> None:
    """A fixed answer has a status from 200 to 599."""
    assert types.read_http_status("204") == 204
    for text in ("101", "600", "99", "ok", "2e2", "0204"):
        with pytest.raises(ValueError, match=r"200 to 599"):
            types.read_http_status(text)


@pytest.mark.parametrize("read", [types.read_duration, types.read_size, types.read_count, types.read_flag])
@pytest.mark.parametrize("value", [["1"], {"a": "1"}])
def test_lists_and_mappings_are_no_scalars(read: object, value: object) -> None:
    """A list or mapping where a scalar is wanted is named as such."""
    with pytest.raises(ValueError, match=r"must be text, not a (list|mapping)"):
        read(value)  # type: ignore[operator]  # one of several functions
