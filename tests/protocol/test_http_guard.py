"""HTTP requests among the first bytes of raw connections."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.http_guard import MAX_FIRST_LINE_BYTES, HttpRequestGuard

HTTP = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET a b\r\n",
    b"POST /x HTTP/1.0\nrest",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"HEAD http://a/ HTTP/1.9\r\n",
    b"GET /" + b"a" * MAX_FIRST_LINE_BYTES,
]
OTHER = [
    b"GET key\r\nGET / HTTP/1.1\r\n",
    b"GET\r\n",
    b"GET / HTTP/1.1 \r\n",
    b"GET / HTTP/2.0\r\n",
    b"SSH-2.0-x\r\n",
    b"\x16\x03\x01",
    b"GETEX k\r\nGET / HTTP/1.1\r\n",
    b"get / HTTP/1.1\r\n",
    b"PING\r\n",
    b"\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"",
    b"GET ke",
    b"P",
]


def passed_on(pieces: list[bytes]) -> bytes | None:
    """Return what passes, None for a request."""
    guard = HttpRequestGuard()
    out = b""
    for piece in pieces:
        out += piece if guard.decided else guard.feed(piece)
        if guard.is_http:
            assert not out
            return None
    return out if guard.decided else out + guard.finish()


@given(st.sampled_from(HTTP + OTHER), st.lists(st.integers(0, 40), max_size=8))
def test_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    """A request is recognised, and all else passes whole, in one piece, byte by byte and cut anywhere."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    expected = None if data in HTTP else data
    assert passed_on([data]) == passed_on(pieces) == expected


@pytest.mark.parametrize("data", HTTP[:5] + OTHER)
def test_byte_by_byte(data: bytes) -> None:
    """No cut makes a difference."""
    assert passed_on([data[at : at + 1] for at in range(len(data))]) == (None if data in HTTP else data)


@pytest.mark.parametrize("data", [b"S", b"GO", b"\x00", b"GET\t", b"POSTX"])
def test_what_begins_no_request_passes_at_once(data: bytes) -> None:
    """A protocol whose clients wait for an answer to less than a line is not held up."""
    assert HttpRequestGuard().feed(data) == data
