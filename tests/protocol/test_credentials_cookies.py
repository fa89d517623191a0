"""The Cookie header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.credentials import cookie_values
from wsbridge.protocol.http1 import Headers


def values(*lines: bytes, name: str = "sid") -> list[bytes]:
    """Give the values of one cookie in these header lines."""
    return cookie_values(Headers((b"Cookie", line) for line in lines), name)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"sid=abc", [b"abc"]),
        (b"a=b; sid=abc; c=d", [b"abc"]),
        (b"a=b;sid = abc ;c=d", [b"abc"]),
        (b"sid=a=b==", [b"a=b=="]),
        (b'sid="abc"', [b"abc"]),
        (b'sid="', [b'"']),
        (b"sid=", [b""]),
        (b"sid", []),
        (b"=sid; ;;", []),
        (b"SID=abc; xsid=abc; sidx=abc", []),
        (b"a=sid=abc", []),
        (b"sid=one; sid=two", [b"one", b"two"]),
        (b"sid=one, sid=two", [b"one, sid=two"]),
    ],
)
def test_all_values_of_a_name_are_found(line: bytes, found: list[bytes]) -> None:
    """Names are compared with their case, blanks and quotes around a value do not count, each value is told."""
    assert values(line) == found


def test_several_lines_count_as_one() -> None:
    """What stands in the second line is no less a cookie."""
    assert values(b"sid=one", b"a=b; sid=two") == [b"one", b"two"]
    assert values() == []


@given(st.lists(st.lists(st.sampled_from([b"sid", b"=", b";", b" ", b'"', b"x", b"\t", b",", b"\xff"]), max_size=12)))
def test_no_bytes_break_it(lines: list[list[bytes]]) -> None:
    """Whatever stands there, no value has a semicolon, and there are no more values than the name stands there."""
    joined = [b"".join(parts) for parts in lines]
    found = values(*joined)
    assert not any(b";" in value for value in found)
    assert len(found) <= sum(line.count(b"sid") for line in joined)


def test_many_pairs_are_quick() -> None:
    """A header as long as a head allows is taken apart in one go."""
    assert len(values(b"sid=x;" * 2700)) == 2700
