"""Heads: what is taken, what is refused with which status, and that no limit can be passed."""

from __future__ import annotations

from time import perf_counter

import pytest

from wsbridge.protocol.http1 import (
    BadHead,
    Headers,
    HeadLimits,
    HeadReader,
    Request,
    Response,
    header_lines,
    refusal,
    response,
    shown,
)

LIMITS = HeadLimits()
SMALL = HeadLimits(total=400, line=120, headers=5)
HELLO = bytes.fromhex("1603010200010001fc0303")


def head(*lines: str, first: str = "GET /ws HTTP/1.1", host: str | None = "gw.example.org") -> bytes:
    named = [] if host is None else [f"Host: {host}"]
    return "".join(f"{line}\r\n" for line in [first, *named, *lines, ""]).encode("latin-1")


def whole(data: bytes, limits: HeadLimits = LIMITS) -> object:
    return HeadReader(limits).feed(data)


def bytewise(data: bytes, limits: HeadLimits = LIMITS, role: str = "server") -> object:
    reader = HeadReader(limits, role)  # type: ignore[arg-type]  # the tests name roles by their text
    for at in range(len(data)):
        outcome = reader.feed(data[at : at + 1])
        if outcome is not None:
            return outcome
    return None


def refused(data: bytes, status: int, limits: HeadLimits = LIMITS) -> BadHead:
    """Feed whole and byte by byte; both must refuse with this status and in the same words."""
    first = whole(data, limits)
    assert isinstance(first, BadHead), first
    assert bytewise(data, limits) == first
    assert first.status == status
    return first


def upstream(data: bytes, limits: HeadLimits = LIMITS) -> object:
    return HeadReader(limits, "client").feed(data)


def upstream_refused(data: bytes, limits: HeadLimits = LIMITS) -> BadHead:
    first = upstream(data, limits)
    assert isinstance(first, BadHead), first
    assert bytewise(data, limits, "client") == first
    assert first.status == 502
    return first


class TestRequests:
    def test_usual_head(self) -> None:
        """A head of a browser becomes a request, and the bytes glued to it stay in rest."""
        reader = HeadReader(LIMITS)

        request = reader.feed(
            head("X-One:  a \t", "x-one: b", "Empty:", first="GET /a/b?c=/../d HTTP/1.1") + b"\x81\x00"
        )

        assert isinstance(request, Request)
        assert (request.method, request.target, request.path) == ("GET", "/a/b?c=/../d", "/a/b")
        assert request.version == "1.1"
        assert request.host() == "gw.example.org"
        assert request.headers.get_all(b"x-one") == [b"a", b"b"]
        assert request.headers.get(b"x-one") == b"a"
        assert request.headers.get(b"empty") == b""
        assert request.headers.get(b"none") is None
        assert list(request.headers)[-1] == (b"empty", b"")
        assert reader.rest == b"\x81\x00"

    def test_head_request(self) -> None:
        """HEAD is taken, for files are served to it."""
        request = whole(head(first="HEAD / HTTP/1.1"))

        assert isinstance(request, Request)
        assert request.method == "HEAD"

    def test_byte_by_byte(self) -> None:
        """A head that comes byte by byte is complete at its last byte, not before, and its rest is kept."""
        reader = HeadReader(LIMITS)
        data = head("A: b")

        assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [None] * (len(data) - 1)
        assert isinstance(reader.feed(data[-1:] + b"rest"), Request)
        assert reader.rest == b"rest"

    def test_fed_again(self) -> None:
        """After the outcome, the outcome stays and rest grows."""
        reader = HeadReader(LIMITS)
        request = reader.feed(head() + b"a")

        assert reader.feed(b"b") is request
        assert reader.rest == b"ab"

    def test_pipelined_request_is_rest(self) -> None:
        """A second request glued to the first is not looked at."""
        reader = HeadReader(LIMITS)

        assert isinstance(reader.feed(head() + b"NONSENSE \x00"), Request)
        assert reader.rest == b"NONSENSE \x00"

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
            "GET http://gw.example.org/ws HTTP/1.1",
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

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_other_methods(self, method: str) -> None:
        """A known method on a head that is right otherwise is 405 and says what is allowed."""
        assert refused(head(first=f"{method} /ws HTTP/1.1"), 405).headers == (("Allow", "GET, HEAD"),)

    def test_other_method_with_a_body(self) -> None:
        """A body outranks the method."""
        refused(head("Content-Length: 3", first="POST /ws HTTP/1.1"), 400)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 is 426 and hints at the proxy setting that usually causes it."""
        bad = refused(head("Upgrade: websocket", "Connection: upgrade", first="GET /ws HTTP/1.0"), 426)

        assert "proxy_http_version" in bad.text
        assert bad.headers == (("Upgrade", "HTTP/1.1"),)

    @pytest.mark.parametrize("start", [b"\r\n", b"\n", b"\r\n\r\n"])
    def test_leading_line_ends(self, start: bytes) -> None:
        """Line ends before the request line are 400."""
        refused(start + head(), 400)

    @pytest.mark.parametrize("target", ["/a/../b", "/%2e%2e/etc", "//evil.example", "/a%5Cb", "/a\\b", "/%00"])
    def test_dangerous_targets(self, target: str) -> None:
        """A target that programs may read in two ways is 400."""
        refused(head(first=f"GET {target} HTTP/1.1"), 400)

    def test_target_at_the_limit(self) -> None:
        """A line of exactly the limit passes, one byte more is 431."""
        fits = "/" + "a" * (LIMITS.line - len("GET / HTTP/1.1\r\n"))

        assert isinstance(whole(head(first=f"GET {fits} HTTP/1.1")), Request)
        assert isinstance(bytewise(head(first=f"GET {fits} HTTP/1.1")), Request)
        refused(head(first=f"GET {fits}a HTTP/1.1"), 431)


class TestFirstBytes:
    @pytest.mark.parametrize("cut", [2, 3, 5, len(HELLO)])
    def test_tls_hello(self, cut: int) -> None:
        """A TLS hello on a plain port is named as such from its first two bytes."""
        assert refused(HELLO[:cut], 400).kind == "tls_on_plain"

    def test_tls_needs_two_bytes(self) -> None:
        """One byte is not yet a TLS hello, and a wrong second one makes it garbage."""
        assert whole(HELLO[:1]) is None
        assert refused(b"\x16\x01", 400).kind is None

    @pytest.mark.parametrize(
        "data",
        [
            b"\x00",
            b"\x80\x2e",
            b" ",
            b"\r",
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
        assert refused(data, 400).kind is None

    @pytest.mark.parametrize(
        "data", [b"", b"G", b"GET ", b"GET /ws HTTP/1.1\r", b"A" * 23, b"GET /ws HTTP/1.1\r\nA: \x00"]
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
        assert word in refused(data, 400).text


class TestLimits:
    def test_headers(self) -> None:
        """Exactly the limit of header lines passes, one more is 431."""
        lines = [f"a{n}: b" for n in range(LIMITS.headers)]

        assert isinstance(whole(head(*lines, host=None).replace(b"a0: b", b"Host: a")), Request)
        refused(head(*lines), 431)

    def test_two_thousand_headers(self) -> None:
        """2,000 headers are 431."""
        refused(head(*["a: b"] * 2000), 431)

    def test_total(self) -> None:
        """Exactly the limit of the head passes, one byte more is 431."""
        bare = len(head("A: ", "B: ", "C: ", "D: "))

        def filled(more: int) -> bytes:
            return head(*(f"{name}: {'x' * 80}" for name in "ABC"), f"D: {'x' * (SMALL.total - bare - 240 + more)}")

        assert len(filled(0)) == SMALL.total
        assert isinstance(whole(filled(0), SMALL), Request)
        assert isinstance(bytewise(filled(0), SMALL), Request)
        assert "400" in refused(filled(1), 431, SMALL).text

    def test_header_line(self) -> None:
        """A header line over the limit is 431, and the text names it."""
        fits = "a" * (SMALL.line - len("A: \r\n"))

        assert isinstance(whole(head(f"A: {fits}"), SMALL), Request)
        assert "120" in refused(head(f"A: {fits}a"), 431, SMALL).text

    @pytest.mark.parametrize("chunk", [b"A", b"A: b\r\n", b"\x00", b" "])
    def test_endless_head(self, chunk: bytes) -> None:
        """An endless head ends with 431 while no more than the limit is held."""
        reader = HeadReader(LIMITS)
        outcome = reader.feed(b"GET / HTTP/1.1\r\nA: ")
        fed = 0
        while outcome is None and fed < 1 << 20:
            outcome = reader.feed(chunk * 64)
            fed += 64 * len(chunk)

        assert isinstance(outcome, BadHead)
        assert outcome.status == 431
        assert fed <= LIMITS.total + 64 * len(chunk)

    def test_seventy_kilobyte_header(self) -> None:
        """A 70 KB header is 431 however it comes."""
        refused(head(f"Cookie: {'c' * 70_000}"), 431)

    def test_slow_long_line_is_linear(self) -> None:
        """8 KiB of request line, byte by byte, stay cheap."""
        data = b"GET /" + b"a" * 8000
        start = perf_counter()

        assert bytewise(data) is None
        assert perf_counter() - start < 0.5


class TestHeaderLines:
    @pytest.mark.parametrize(
        "raw",
        [
            b"A: b\nC: d\r\n",
            b"A: b\n\r\n",
            b"A: b\r\n c\r\n",
            b"A: b\r\n\tc\r\n",
            b" A: b\r\n",
            b"A: b\x00c\r\n",
            b"A: b\x01\r\n",
            b"A: b\x7f\r\n",
            b"A: b\rc\r\n",
            b"A: b\r\r\n",
            b"A : b\r\n",
            b"A\t: b\r\n",
            b": b\r\n",
            b"A b: c\r\n",
            b"A\xe4: b\r\n",
            b"A(: b\r\n",
            b"A\r\n",
            b"Host : evil\r\n",
        ],
    )
    def test_malformed(self, raw: bytes) -> None:
        """A malformed header line is 400."""
        refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + raw + b"\r\n", 400)

    @pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\n\n"])
    def test_bare_lf_is_refused_at_once(self, raw: bytes) -> None:
        """Lines that end in LF alone are 400 and are not waited on for ever."""
        refused(raw, 400)

    @pytest.mark.parametrize(
        "name", ["Origin", "Upgrade", "Connection", "Sec-WebSocket-Protocol", "sec-websocket-key", "Sec-WebSocket-Foo"]
    )
    def test_ascii_only(self, name: str) -> None:
        """A header that decides something must be ASCII."""
        assert name.lower() in refused(head(f"{name}: a\xe4"), 400).text

    @pytest.mark.parametrize(
        "host", ["", "a b", "a/b", "u@a", "a\xe4", "a:1:2", "a:x", "[::1", "::1", "a,b", "..", "a:65536"]
    )
    def test_bad_host(self, host: str) -> None:
        """A Host that is no host is 400."""
        refused(head(host=host), 400)

    def test_no_or_two_hosts(self) -> None:
        """There must be exactly one Host, even if two say the same."""
        refused(head(host=None), 400)
        refused(head("Host: gw.example.org"), 400)

    @pytest.mark.parametrize(
        "lines",
        [
            ["Content-Length: 1"],
            ["Content-Length: 00012"],
            ["Content-Length: +1"],
            ["Content-Length: -1"],
            ["Content-Length: 0x0"],
            ["Content-Length: "],
            ["Content-Length: 0, 0"],
            ["Content-Length: 0", "Content-Length: 0"],
            ["Content-Length: 99999999999999999999999"],
            ["Content-Length: " + "0" * 5000 + "1"],
            ["Transfer-Encoding: chunked"],
            ["Transfer-Encoding: identity"],
            ["Transfer-Encoding: "],
            ["Transfer-Encoding: chunked", "Content-Length: 0"],
        ],
    )
    @pytest.mark.parametrize("upgrade", [[], ["Upgrade: websocket", "Connection: Upgrade"]])
    def test_bodies(self, lines: list[str], upgrade: list[str]) -> None:
        """A body, or what another program may take for one, is 400, with an upgrade and without."""
        refused(head(*upgrade, *lines), 400)


class TestResponses:
    def test_switch(self) -> None:
        """A 101 ends its head, and what follows is rest."""
        reader = HeadReader(LIMITS, "client")
        answer = reader.feed(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x82\x01x"
        )

        assert isinstance(answer, Response)
        assert (answer.status, answer.reason, answer.version) == (101, "Switching Protocols", "1.1")
        assert answer.headers.get(b"upgrade") == b"websocket"
        assert reader.rest == b"\x82\x01x"

    @pytest.mark.parametrize(
        "data", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 Connection established\r\n\r\n", b"HTTP/1.1 407 \r\n\r\n"]
    )
    def test_other_statuses(self, data: bytes) -> None:
        """Any status is a response, in HTTP/1.0 too; what it means is judged elsewhere."""
        assert isinstance(upstream(data), Response)
        assert isinstance(bytewise(data, role="client"), Response)

    def test_body_is_rest(self) -> None:
        """The body of an answer is rest, whatever its framing."""
        reader = HeadReader(LIMITS, "client")
        answer = reader.feed(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope")

        assert isinstance(answer, Response)
        assert reader.rest == b"nope"

    def test_interim_responses(self) -> None:
        """Five 1xx responses are passed over, a sixth is refused."""
        final = b"HTTP/1.1 404 Not Found\r\n\r\n"
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        answer = upstream(interim * 5 + final)

        assert isinstance(answer, Response)
        assert answer.status == 404
        assert isinstance(bytewise(interim * 5 + final, role="client"), Response)
        upstream_refused(interim * 6 + final)

    def test_interim_responses_share_the_limit(self) -> None:
        """The limit of bytes counts interim responses in."""
        interim = b"HTTP/1.1 100 Continue\r\nA: " + b"a" * 100 + b"\r\n\r\n"

        assert "400" in upstream_refused(interim * 4, SMALL).text

    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 000 OK\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.2 200 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"RFB 003.008\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 O\x00K\r\n\r\n",
            b"HTTP/1.1 200 OK\n\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: \xe4\r\n\r\n",
            b"HTTP/1.1 200 " + b"K" * 9000,
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        """A malformed answer is 502 by one sentence."""
        upstream_refused(data)

    @pytest.mark.parametrize("data", [b"\x15\x03\x01\x00\x02\x02\x46", HELLO])
    def test_tls_from_upstream(self, data: bytes) -> None:
        """TLS bytes from an upstream that was dialled without TLS are named."""
        assert upstream_refused(data).kind == "tls_on_plain"


class TestWriting:
    def test_response(self) -> None:
        """A response closes the connection and tells its length unless told otherwise."""
        assert response(404, [("X-A", "b")], b"no\n") == (
            b"HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"
        )
        assert response(200, keep_alive=True) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        assert response(200, [("content-length", "9")]).count(b"ength") == 1
        assert b"Content-Length" not in response(204)
        assert b"Content-Length" not in response(304)

    def test_upgrade_names_itself_in_connection(self) -> None:
        """An answer with Upgrade (426) lists it in Connection, as RFC 9110 section 7.8 asks."""
        assert b"\r\nConnection: Upgrade, close\r\n" in response(426, [("Upgrade", "websocket")])

    def test_refusal(self) -> None:
        """A refusal is its sentence as plain text."""
        data = refusal(400, "no, ü", [("Retry-After", "1")])

        assert data.endswith("\r\n\r\nno, ü\n".encode())
        assert b"Retry-After: 1\r\n" in data
        assert b"text/plain; charset=utf-8" in data

    @pytest.mark.parametrize(
        "line",
        [
            ("A", "b\r\nC: d"),
            ("A", "b\n"),
            ("A", "\r"),
            ("A", "\0"),
            ("A", "\u20ac"),
            ("A\r\nB", "c"),
            ("", "b"),
            ("A ", "b"),
        ],
    )
    def test_injection(self, line: tuple[str, str]) -> None:
        """A header that would inject a line is our own bug and raises."""
        with pytest.raises(ValueError, match=r"."):
            header_lines([line])

    def test_response_is_readable(self) -> None:
        """Our own reader takes what we write."""
        answer = upstream(refusal(503, "busy", [("Retry-After", "1")]))

        assert isinstance(answer, Response)
        assert answer.headers.get(b"retry-after") == b"1"


def test_shown() -> None:
    """A peer's text is shown as printable ASCII, quoted and cut."""
    assert shown(b'a\x1b[31m"\\\r\n\xff') == '"a\\x1b[31m\\x22\\x5c\\x0d\\x0a\\xff"'
    assert shown("é\ud800") == '"\\xc3\\xa9\\xed\\xa0\\x80"'
    assert shown("x" * 300, 5) == '"xxxxx..."'


def test_headers_from_lines() -> None:
    """Headers can be made from lines, and tokens are found over lists and lines."""
    headers = Headers([(b"Connection", b" keep-alive , "), (b"connection", b"UPGRADE")])

    assert headers.has_token(b"connection", b"upgrade")
    assert headers.has_token(b"connection", b"keep-alive")
    assert not headers.has_token(b"connection", b"up")
    assert b"connection" in headers
