"""Heads: what is accepted, what is rejected with which status, and that no limit can be exceeded."""

from __future__ import annotations

import tracemalloc
from time import thread_time

import pytest

from tests.rejections import outcome
from wsbridge.protocol.http1 import MAX_RESPONSE_HEAD_BYTES, HeadLimits, Request, RequestParser, ResponseParser
from wsbridge.reasons import Rejected

LIMITS = HeadLimits()
SMALL = HeadLimits(max_head_bytes=400, max_head_line_bytes=120, max_headers=5)
HELLO = bytes.fromhex("1603010200010001fc0303")


def head(*lines: str, first: str = "GET /ws HTTP/1.1", host: str | None = "gw.example.org") -> bytes:
    """Write a request's head."""
    named = [] if host is None else [f"Host: {host}"]
    return "".join(f"{line}\r\n" for line in [first, *named, *lines, ""]).encode("latin-1")


def whole(data: bytes, limits: HeadLimits = LIMITS) -> object:
    """Feed at once."""
    return outcome(RequestParser(limits).feed, data)


def bytewise(data: bytes, limits: HeadLimits = LIMITS, reader: RequestParser | ResponseParser | None = None) -> object:
    """Feed byte by byte; give the outcome."""
    reader = reader or RequestParser(limits)
    for at in range(len(data)):
        found = outcome(reader.feed, data[at : at + 1])
        if found is not None:
            return found
    return None


def refused(data: bytes, status: int, limits: HeadLimits = LIMITS) -> Rejected:
    """Feed whole and byte by byte; both must refuse with this status and in the same words."""
    first = whole(data, limits)
    assert isinstance(first, Rejected), first
    assert bytewise(data, limits).args == first.args
    assert first.termination().http_status == status
    return first


def upstream(data: bytes, limit: int = MAX_RESPONSE_HEAD_BYTES) -> object:
    """Feed a response at once."""
    return outcome(ResponseParser(limit).feed, data)


def upstream_refused(data: bytes, limit: int = MAX_RESPONSE_HEAD_BYTES) -> Rejected:
    """Feed a response whole and byte by byte; both must be refused in the same words."""
    first = upstream(data, limit)
    assert isinstance(first, Rejected), first
    assert bytewise(data, reader=ResponseParser(limit)).args == first.args
    assert first.termination().http_status == 502
    return first


class TestRequests:
    def test_usual_head(self) -> None:
        """A head of a browser becomes a request, and the bytes glued to it stay in rest."""
        reader = RequestParser(LIMITS)

        request = reader.feed(
            head("X-One:  a \t", "x-one: b", "Empty:", first="GET /a/b?c=/../d HTTP/1.1") + b"\x81\x00"
        )

        assert isinstance(request, Request)
        assert (request.method, request.target, request.path) == ("GET", "/a/b?c=/../d", "/a/b")
        assert request.version == "1.1"
        assert request.host == "gw.example.org"
        assert request.headers.get_all(b"x-one") == [b"a", b"b"]
        assert request.headers.get(b"x-one") == b"a"
        assert request.headers.get(b"empty") == b""
        assert request.headers.get(b"none") is None
        assert list(request.headers)[-1] == (b"empty", b"")
        assert reader.trailing_data == b"\x81\x00"

    def test_head_request(self) -> None:
        """HEAD is accepted, since files are served to it."""
        request = whole(head(first="HEAD / HTTP/1.1"))

        assert isinstance(request, Request)
        assert request.method == "HEAD"

    def test_byte_by_byte(self) -> None:
        """A head that comes byte by byte is complete at its last byte, not before, and its rest is kept."""
        reader = RequestParser(LIMITS)
        data = head("A: b")

        assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [None] * (len(data) - 1)
        assert isinstance(reader.feed(data[-1:] + b"rest"), Request)
        assert reader.trailing_data == b"rest"

    def test_fed_again(self) -> None:
        """After the outcome, the outcome stays and rest grows."""
        reader = RequestParser(LIMITS)
        request = reader.feed(head() + b"a")

        assert reader.feed(b"b") is request
        assert reader.trailing_data == b"ab"

    def test_lines_that_came_before(self) -> None:
        """Are read as they were the first time, and what is remembered of them does not grow without end."""
        lines = ("User-Agent: \tMozilla/5.0 ", "user-agent:x", "Upgrade : websocket", "Accept: \x01")
        for line in lines:
            first, second = whole(head(line)), whole(head(line))
            if isinstance(first, Request) and isinstance(second, Request):
                assert list(first.headers) == list(second.headers)
            else:
                assert isinstance(first, Rejected) and isinstance(second, Rejected)
                assert first.args == second.args
        tracemalloc.start()
        for number in range(5000):
            assert isinstance(whole(head(f"User-Agent: {number:0200}")), Request)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert used < 1_200_000

    def test_pipelined_request_is_rest(self) -> None:
        """A second request glued to the first is not looked at."""
        reader = RequestParser(LIMITS)

        assert isinstance(reader.feed(head() + b"NONSENSE \x00"), Request)
        assert reader.trailing_data == b"NONSENSE \x00"

    def test_keep_alive(self) -> None:
        """Connection: close in a list over several lines ends keep-alive."""
        kept, closed = whole(head("Connection: keep-alive")), whole(head("Connection: x", "connection: Y, CLOSE"))

        assert isinstance(kept, Request)
        assert kept.keep_alive
        assert isinstance(closed, Request)
        assert not closed.keep_alive

    def test_zero_content_length(self) -> None:
        """A Content-Length of 0 is no body."""
        assert isinstance(whole(head("Content-Length: 0")), Request)

    def test_text_beyond_ascii_elsewhere(self) -> None:
        """Bytes beyond ASCII are allowed in headers that decide nothing."""
        request = whole(head("X-Name: J\xfcrgen"))

        assert isinstance(request, Request)
        assert request.headers.get(b"x-name") == b"J\xfcrgen"

    def test_repr_has_no_query(self) -> None:
        """Printing a request does not print its query, which may hold a secret."""
        assert "hunter2" not in repr(whole(head(first="GET /a?token=hunter2 HTTP/1.1")))


class TestRequestLine:
    @pytest.mark.parametrize(
        "line",
        [
            "GET  /ws HTTP/1.1",
            "GET /ws  HTTP/1.1",
            " GET /ws HTTP/1.1",
            "GET /ws HTTP/1.1 ",
            "GET\t/ws HTTP/1.1",
            "GET /ws",
            "GET /ws HTTP/2.0",
            "GET /ws HTTP/1.2",
            "GET /ws HTTP/1.11",
            "GET /ws HTTP/0.9",
            "GET /ws http/1.1",
            "GET /ws RTSP/1.0",
            "get /ws HTTP/1.1",
            "G\xc9T /ws HTTP/1.1",
            "GET ftp://gw.example.org/ws HTTP/1.1",
            "GET http://user:hunter2@gw.example.org/ws HTTP/1.1",
            "GET http://other.example.org/ws HTTP/1.1",
            "GET http://gw.example.org:8080/ws HTTP/1.1",
            "GET http:///ws HTTP/1.1",
            "GET gw.example.org:80 HTTP/1.1",
            "CONNECT gw.example.org:80 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /ws#top HTTP/1.1",
            "GET /w\x7fs HTTP/1.1",
            "GET /w\x01s HTTP/1.1",
            "GET /w\xe4s HTTP/1.1",
            "GET /w s HTTP/1.1",
            "GET /w\rs HTTP/1.1",
            "GET /w\x00s HTTP/1.1",
            "FETCH /ws HTTP/1.1",
            "SOURCE /ws HTTP/1.1",
            "PRI * HTTP/2.0",
            "X" * 30 + " / HTTP/1.1",
            "",
        ],
    )
    def test_malformed(self, line: str) -> None:
        """A request line of any other form is 400."""
        refused(head(first=line), 400)

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
    def test_other_methods(self, method: str) -> None:
        """A known method on a head that is right otherwise is 405 and says what is allowed."""
        bad = refused(head(first=f"{method} /ws HTTP/1.1"), 405)

        assert bad.headers == (("Allow", "GET, HEAD, OPTIONS, POST"),)
        assert bad.detail == f"the method is {method}, not GET, HEAD, OPTIONS or POST"

    @pytest.mark.parametrize("length", [(), ("Content-Length: 0",)])
    def test_post_without_a_body(self, length: tuple[str, ...]) -> None:
        """A POST that brings no body is a request as any other."""
        found = RequestParser(HeadLimits()).feed(head(*length, first="POST /ws HTTP/1.1"))

        assert isinstance(found, Request)
        assert found.method == "POST"

    def test_other_method_with_a_body(self) -> None:
        """A body outranks the method."""
        refused(head("Content-Length: 3", first="POST /ws HTTP/1.1"), 400)
        refused(head("Transfer-Encoding: chunked", first="POST /ws HTTP/1.1"), 400)

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
    def test_http_1_0(self, method: str) -> None:
        """HTTP/1.0 is read, with Host or without, and never keeps the connection."""
        for host in ("gw.example.org", None):
            request = whole(head("Connection: keep-alive", first=f"{method} /ws HTTP/1.0", host=host))

            assert isinstance(request, Request)
            assert (request.version, request.keep_alive, request.host) == ("1.0", False, host or "")
        refused(head("Host: a", first="GET / HTTP/1.0"), 400)
        refused(head("Transfer-Encoding: chunked", first="GET / HTTP/1.0", host=None), 400)

    @pytest.mark.parametrize(
        ("target", "host", "path"),
        [
            ("http://gw.example.org/ws?a=b", "gw.example.org", "/ws?a=b"),
            ("HTTPS://GW.example.org:443/%61", "gw.example.org", "/a"),
            ("http://gw.example.org", "gw.example.org:80", "/"),
            ("http://gw.example.org?a=/b", "gw.example.org", "/?a=/b"),
            ("http://[2001:db8::1]:8080//x", "[2001:DB8:0::1]:8080", "/x"),
        ],
    )
    def test_absolute_form(self, target: str, host: str, path: str) -> None:
        """A URL of the same host as Host is its path (RFC 9112 section 3.2.2)."""
        request = whole(head(first=f"GET {target} HTTP/1.1", host=host))

        assert isinstance(request, Request)
        assert request.target == path
        assert isinstance(bytewise(head(first=f"GET {target} HTTP/1.1", host=host)), Request)

    def test_an_empty_line_before_the_request(self) -> None:
        """One CRLF is ignored (RFC 9112 section 2.2)."""
        for data in (b"\r\n" + head("A: b"), b"\r\n" + head(first="GET / HTTP/1.0")):
            assert isinstance(whole(data), Request)
            assert isinstance(bytewise(data), Request)

    @pytest.mark.parametrize("start", [b"\n", b"\r\n\r\n", b"\r\n\n", b"\rG", b"\r\r\n"])
    def test_leading_line_ends(self, start: bytes) -> None:
        """Anything else before the request line is 400."""
        refused(start + head(), 400)

    @pytest.mark.parametrize("target", ["/a/../b", "/%2e%2e/etc", "//..", "/a%5Cb", "/a\\b", "/%00"])
    def test_dangerous_targets(self, target: str) -> None:
        """A target that programs may read in two ways is 400."""
        refused(head(first=f"GET {target} HTTP/1.1"), 400)

    def test_target_at_the_limit(self) -> None:
        """A line of exactly the limit passes, one byte more is 431."""
        fits = "/" + "a" * (LIMITS.max_head_line_bytes - len("GET / HTTP/1.1\r\n"))

        assert isinstance(whole(head(first=f"GET {fits} HTTP/1.1")), Request)
        assert isinstance(bytewise(head(first=f"GET {fits} HTTP/1.1")), Request)
        refused(head(first=f"GET {fits}a HTTP/1.1"), 431)


class TestFirstBytes:
    @pytest.mark.parametrize("cut", [2, 3, 5, len(HELLO)])
    def test_tls_hello(self, cut: int) -> None:
        """A TLS hello on a plain port is named as such from its first two bytes."""
        assert refused(HELLO[:cut], 400).silent

    def test_tls_needs_two_bytes(self) -> None:
        """One byte is not yet a TLS hello, and a wrong second one makes it garbage."""
        assert whole(HELLO[:1]) is None
        assert not refused(b"\x16\x01", 400).silent

    @pytest.mark.parametrize(
        "data",
        [
            b"\x00",
            b"\x80\x2e",
            b" ",
            b"\ra",
            b"get",
            b"\x05\x01\x00",
            b"GE\xff",
            b"GET /\x80",
            b"A" * 24,
            b"RFB 003.008\n",
        ],
    )
    def test_garbage_at_once(self, data: bytes) -> None:
        """Bytes that cannot begin a request are refused before any line has ended."""
        assert not refused(data, 400).silent

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\r",
            b"\r\n",
            b"\r\nG",
            b"G",
            b"GET ",
            b"GET /ws HTTP/1.1\r",
            b"A" * 23,
            b"GET /ws HTTP/1.1\r\nA: \x00",
        ],
    )
    def test_more_is_needed(self, data: bytes) -> None:
        """The beginning of what may become a request waits for more."""
        assert whole(data) is None
        assert bytewise(data) is None

    @pytest.mark.parametrize(
        ("data", "word"),
        [
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        ],
    )
    def test_other_protocols_are_named(self, data: bytes, word: str) -> None:
        """Greetings of other protocols are named in the text."""
        assert word in refused(data, 400).detail


class TestLimits:
    def test_headers(self) -> None:
        """Exactly the limit of header lines passes, one more is 431."""
        lines = [f"a{n}: b" for n in range(LIMITS.max_headers)]

        assert isinstance(whole(head(*lines, host=None).replace(b"a0: b", b"Host: a")), Request)
        assert "100 header lines (limits.max_headers)" in refused(head(*lines), 431).detail

    def test_two_thousand_headers(self) -> None:
        """2,000 headers are 431."""
        refused(head(*["a: b"] * 2000), 431)

    def test_total(self) -> None:
        """Exactly the limit of the head passes, one byte more is 431."""
        bare = len(head("A: ", "B: ", "C: ", "D: "))

        def filled(more: int) -> bytes:
            return head(
                *(f"{name}: {'x' * 80}" for name in "ABC"), f"D: {'x' * (SMALL.max_head_bytes - bare - 240 + more)}"
            )

        assert len(filled(0)) == SMALL.max_head_bytes
        assert isinstance(whole(filled(0), SMALL), Request)
        assert isinstance(bytewise(filled(0), SMALL), Request)
        detail = refused(filled(1), 431, SMALL).detail
        assert "400 bytes (limits.max_head_bytes); its largest header is D, 102 bytes" in detail

    def test_header_line(self) -> None:
        """A header line over the limit is 431, and the text names it."""
        fits = "a" * (SMALL.max_head_line_bytes - len("A: \r\n"))

        assert isinstance(whole(head(f"A: {fits}"), SMALL), Request)
        detail = refused(head(f"A: {fits}a"), 431, SMALL).detail
        assert detail == "the header A is longer than 120 bytes (limits.max_head_line_bytes)"

    @pytest.mark.parametrize("chunk", [b"A", b"A: b\r\n", b"\x00", b" "])
    def test_endless_head(self, chunk: bytes) -> None:
        """An endless head ends with 431 while no more than the limit is held."""
        reader = RequestParser(LIMITS)
        found = outcome(reader.feed, b"GET / HTTP/1.1\r\nA: ")
        fed = 0
        while found is None and fed < 1 << 20:
            found = outcome(reader.feed, chunk * 64)
            fed += 64 * len(chunk)

        assert isinstance(found, Rejected)
        assert found.termination().http_status == 431
        assert fed <= LIMITS.max_head_bytes + 64 * len(chunk)

    def test_seventy_kilobyte_header(self) -> None:
        """A 70 KB header is 431 however it comes."""
        assert "the header Cookie is longer" in refused(head(f"Cookie: {'c' * 70_000}"), 431).detail

    def test_slow_long_line_is_linear(self) -> None:
        """8 KiB of request line, byte by byte, stay cheap."""
        data = b"GET /" + b"a" * 8000
        start = thread_time()

        assert bytewise(data) is None
        assert thread_time() - start < 0.5


class TestTargetSoFar:
    @pytest.mark.parametrize(
        ("data", "target"),
        [
            (head("A : b", first="GET /a?b HTTP/1.1"), "/a?b"),
            (head(first="GET //%61/x HTTP/1.1", host="a b"), "/a/x"),
            (b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "/a/../b"),
            (b"\r\nGET /" + b"a" * 9000, "/" + "a" * 2043),
            (head(first="PUT /a HTTP/1.1"), "/a"),
            (b"SSH-2.0-x /a\r\n", ""),
            (HELLO, ""),
        ],
    )
    def test_what_a_log_says_of_a_bad_head(self, data: bytes, target: str) -> None:
        """The target is known as far as it was read, in normal form where it has one."""
        parser = RequestParser(LIMITS)
        assert isinstance(outcome(parser.feed, data), Rejected)
        assert parser.target_so_far == target
