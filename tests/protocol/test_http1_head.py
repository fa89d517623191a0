"""Heads as values, and how a peer's text is shown."""

from __future__ import annotations

import pytest

from wsbridge.protocol.http1 import Headers, HeadLimits, Request, Response, quoted


def test_names_in_any_case_and_values_without_blanks() -> None:
    """Lines of one name stay in order, the names in that of their first lines."""
    headers = Headers([(b"B", b" 1\t"), (b"a", b"2"), (b"b", b"3")])

    assert list(headers) == [(b"b", b"1"), (b"b", b"3"), (b"a", b"2")]
    assert (headers.get(b"b"), headers.get_all(b"b")) == (b"1", [b"1", b"3"])
    assert (headers.get(b"c"), headers.get_all(b"c")) == (None, [])
    assert list(headers.names()) == [b"b", b"a"]
    assert b"a" in headers
    assert b"c" not in headers


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        ([b"upgrade"], True),
        ([b"UPGRADE"], True),
        ([b"keep-alive, Upgrade"], True),
        ([b"keep-alive", b"\tupgrade ,x"], True),
        ([b""], False),
        ([], False),
        ([b"upgrades"], False),
        ([b"up grade"], False),
        ([b'"upgrade"'], False),
    ],
)
def test_tokens_over_lists_and_lines(lines: list[bytes], has: bool) -> None:
    """Only a whole element of a list is the token, in any case."""
    assert Headers((b"Connection", line) for line in lines).has_token(b"connection", b"upgrade") is has


def test_secrets_in_headers_are_not_in_their_text() -> None:
    """Only names are shown, of a request the path without what follows `?`."""
    headers = Headers([(b"Cookie", b"geheim")])
    request = Request("GET", "/x?token=geheim", "1.1", headers)

    assert "geheim" not in f"{headers!r} {request!r}"
    assert repr(request) == 'Request(GET "/x")'
    assert repr(Response(503, "a\r\nb", headers)) == 'Response(503 "a\\x0d\\x0ab")'


def test_parts_of_a_request() -> None:
    """The path ends at the first `?`; the host is what was sent; one that says close has no next."""
    request = Request("GET", "/a?b?c", "1.1", Headers([(b"Host", b"gw:8080")]))

    assert (request.path, request.host, request.keep_alive) == ("/a", "gw:8080", True)
    assert not Request("GET", "/", "1.1", Headers([(b"Connection", b"Close")])).keep_alive


def test_default_limits() -> None:
    """Those of the configuration."""
    assert HeadLimits() == HeadLimits(max_head_bytes=16_384, max_head_line_bytes=8192, max_headers=100)


def test_shown() -> None:
    """A peer's text is shown as printable ASCII, quoted and cut."""
    assert quoted(b'a\x1b[31m"\\\r\n\xff') == '"a\\x1b[31m\\x22\\x5c\\x0d\\x0a\\xff"'
    assert quoted("é\ud800") == '"\\xc3\\xa9\\xed\\xa0\\x80"'
    assert quoted("x" * 300, 5) == '"xxxxx..."'
