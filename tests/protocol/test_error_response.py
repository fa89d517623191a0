"""Responses to rejected requests: text for programs, a page for browsers that navigate."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from wsbridge.protocol.error_response import MAX_ACCEPT_BYTES, encode_error_response, prefers_html
from wsbridge.protocol.http1 import Headers, Request

CHROMIUM = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def asking(accept: bytes | None, method: str = "GET") -> Request:
    """Make a request with this Accept."""
    return Request(method, "/", "1.1", Headers([] if accept is None else [(b"accept", accept)]))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (CHROMIUM, True),
        (b"text/html", True),
        (b"TEXT/HTML, text/html ; q=0.5 , */*;q=0.1", True),
        (b"text/html, text/plain", True),
        (b"text/html;level=1;q=0.4, */*;q=0.3", True),
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"text/*", False),
        (b"text/html;q=0, */*", False),
        (b"text/html;q=0.5, text/plain", False),
        (b"text/html;q=0.5, */*;q=0.8", False),
        (b"x-text/html", False),
        (b"text/html" + b", a/b" * (MAX_ACCEPT_BYTES // 5), False),
    ],
)
def test_who_gets_a_page(accept: bytes | None, expected: bool) -> None:
    """Clients that name text/html, and nothing else with a higher weight."""
    assert prefers_html(asking(accept)) is expected
    assert not prefers_html(None)


def test_text() -> None:
    """Programs get one line: reason, sentence, and the number of the connection."""
    data = encode_error_response(400, "bad_request", "no, ü", 17, [("Retry-After", "1")], asking(b"*/*"))

    head, _, body = data.partition(b"\r\n\r\n")
    assert body == "bad_request: no, ü (id=17)\n".encode()
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    for line in ("Retry-After: 1", f"Content-Length: {len(body)}", "Content-Type: text/plain; charset=utf-8"):
        assert f"\r\n{line}\r\n".encode() in head + b"\r\n"
    assert encode_error_response(400, "bad_request", "no, ü", 17, [("Retry-After", "1")]) == data


class _Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page() -> None:
    """Browsers get the same sentence as a page, without scripts and anything that is loaded, and escaped."""
    sentence = '<script src="//evil.example">&\' \udcff'
    head, _, body = encode_error_response(502, "backend_refused", sentence, 17, [], asking(CHROMIUM)).partition(
        b"\r\n\r\n"
    )
    page = _Page()
    page.feed(body.decode())

    assert page.text.count("502 Bad Gateway") == 2
    assert sentence.encode("utf-8", "backslashreplace").decode() in page.text
    assert "backend_refused, id=17" in page.text
    assert set(page.tags) == {"html", "head", "meta", "title", "style", "body", "h1", "p"}
    assert {name for name, _ in page.attributes} == {"lang", "charset", "name", "content"}
    assert b"url(" not in body
    assert re.search(rb"\r\nContent-Security-Policy: default-src 'none'; style-src 'sha256-[^']*';", head)
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head


def test_head_has_no_body() -> None:
    """A response to HEAD is that to GET without its body (RFC 9110 section 9.3.2)."""
    get = encode_error_response(404, "no_route", "nothing", 1, [], asking(CHROMIUM))

    assert encode_error_response(404, "no_route", "nothing", 1, [], asking(CHROMIUM, "HEAD")) == (
        get.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    )
