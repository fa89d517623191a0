"""Header lines, responses of upstreams, and what is written: the rest of `http1`."""

from __future__ import annotations

import pytest

from tests.protocol.test_http1 import HELLO, bytewise, head, refused, upstream, upstream_refused
from wsbridge.protocol.http1 import (
    MAX_RESPONSE_HEAD_BYTES,
    Response,
    ResponseParser,
    encode_headers,
    encode_response_head,
)


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
        """Lines that end in LF alone are 400 and are not waited on forever."""
        refused(raw, 400)

    @pytest.mark.parametrize(
        "name", ["Origin", "Upgrade", "Connection", "Sec-WebSocket-Protocol", "sec-websocket-key", "Sec-WebSocket-Foo"]
    )
    def test_ascii_only(self, name: str) -> None:
        """A header that decides something must be ASCII."""
        assert name.lower() in refused(head(f"{name}: a\xe4"), 400).detail

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
        """A body, or what another program may regard as one, is 400, with an upgrade and without."""
        refused(head(*upgrade, *lines), 400)


class TestResponses:
    def test_switch(self) -> None:
        """A 101 ends its head, and what follows is rest."""
        reader = ResponseParser(MAX_RESPONSE_HEAD_BYTES)
        answer = reader.feed(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x82\x01x"
        )

        assert isinstance(answer, Response)
        assert (answer.status, answer.reason, answer.version) == (101, "Switching Protocols", "1.1")
        assert answer.headers.get(b"upgrade") == b"websocket"
        assert reader.trailing_data == b"\x82\x01x"

    @pytest.mark.parametrize(
        "data", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 Connection established\r\n\r\n", b"HTTP/1.1 407 \r\n\r\n"]
    )
    def test_other_statuses(self, data: bytes) -> None:
        """Any status is a response, in HTTP/1.0 too; what it means is judged elsewhere."""
        assert isinstance(upstream(data), Response)
        assert isinstance(bytewise(data, reader=ResponseParser(MAX_RESPONSE_HEAD_BYTES)), Response)

    def test_body_is_rest(self) -> None:
        """The body of an answer is rest, whatever its framing."""
        reader = ResponseParser(MAX_RESPONSE_HEAD_BYTES)
        answer = reader.feed(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope")

        assert isinstance(answer, Response)
        assert reader.trailing_data == b"nope"

    def test_interim_responses(self) -> None:
        """Five 1xx responses are passed over, a sixth is refused."""
        final = b"HTTP/1.1 404 Not Found\r\n\r\n"
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        answer = upstream(interim * 5 + final)

        assert isinstance(answer, Response)
        assert answer.status == 404
        assert isinstance(bytewise(interim * 5 + final, reader=ResponseParser(MAX_RESPONSE_HEAD_BYTES)), Response)
        upstream_refused(interim * 6 + final)

    def test_interim_responses_share_the_limit(self) -> None:
        """The limit of bytes counts interim responses in."""
        interim = b"HTTP/1.1 100 Continue\r\nA: " + b"a" * 100 + b"\r\n\r\n"

        assert "400" in upstream_refused(interim * 4, 400).detail

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
            b"HTTP/1.1 101 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 101 OK\r\nA: b\n\r\n",
            b"HTTP/1.1 101 OK\n\n",
            b"HTTP/1.1 101 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 101 OK\r\nA: \x00\r\n\r\n",
            b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: \xe4\r\n\r\n",
            b"HTTP/1.1 200 " + b"K" * 9000,
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        """A malformed answer is 502 by one sentence."""
        upstream_refused(data)

    @pytest.mark.parametrize(
        "lines",
        [
            b"Set-Cookie: " + b"c" * 9000 + b"\r\n",
            b"A : b\r\n",
            b"A: b\r\n folded\r\n",
            b"A: b\n",
            b"no colon\r\n",
            b"A: \x00\x01\r\n",
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: 4\r\nContent-Length: 5\r\n",
            b"B: b\r\n" * 1000,
            b"",
        ],
    )
    def test_the_status_counts_whatever_follows(self, lines: bytes) -> None:
        """A response other than 101 keeps its status and Location, however malformed its other lines are."""
        for data in (lines + b"Location: /login\r\n", b"Location: /login\r\n" + lines):
            whole = b"HTTP/1.1 401 Unauthorized\r\n" + data + b"\r\nbody"
            for found in (upstream(whole), bytewise(whole, reader=ResponseParser(MAX_RESPONSE_HEAD_BYTES))):
                assert isinstance(found, Response)
                assert (found.status, found.reason) == (401, "Unauthorized")
                assert found.headers.get(b"location") == b"/login"

    def test_a_head_over_the_limit(self) -> None:
        """What was read of it counts; a 101 with such a head is refused, naming the limit."""
        long = b"Location: /login\r\nSet-Cookie: " + b"c" * 9000
        for found in (
            upstream(b"HTTP/1.1 503 Busy\r\n" + long, 1000),
            bytewise(b"HTTP/1.1 503 Busy\r\n" + long, reader=ResponseParser(1000)),
        ):
            assert isinstance(found, Response)
            assert (found.status, list(found.headers)) == (503, [(b"location", b"/login")])
        assert "limits.max_response_head_bytes" in upstream_refused(b"HTTP/1.1 101 Yes\r\n" + long, 1000).detail

    def test_the_rest_of_a_head_over_the_limit_is_no_body(self) -> None:
        """Whether it came with the beginning or later."""
        head = b"HTTP/1.1 302 Found\r\nSet-Cookie: " + b"c" * 900 + b"\r\n\r\n"
        for size in (len(head), 1, 700):
            parser = ResponseParser(500)
            for at in range(0, len(head), size):
                found = parser.feed(head[at : at + size])
            assert isinstance(found, Response)
            assert parser.trailing_data == b""

    @pytest.mark.parametrize("data", [b"\x15\x03\x01\x00\x02\x02\x46", HELLO])
    def test_tls_from_upstream(self, data: bytes) -> None:
        """TLS bytes from a backend that was dialled without TLS are named."""
        assert "speaks TLS" in upstream_refused(data).detail


class TestWriting:
    def test_response(self) -> None:
        """A response closes the connection by default, and has its length where that is given."""
        assert encode_response_head(404, [("X-A", "b")], content_length=3) == (
            b"HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        )
        kept = encode_response_head(200, content_length=0, keep_alive=True)
        assert kept == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        assert encode_response_head(599, keep_alive=True) == b"HTTP/1.1 599 \r\n\r\n"

    @pytest.mark.parametrize(
        ("status", "phrase"),
        [
            (413, b"Content Too Large"),
            (414, b"URI Too Long"),
            (416, b"Range Not Satisfiable"),
            (422, b"Unprocessable Content"),
        ],
    )
    def test_the_phrase_is_that_of_rfc_9110(self, status: int, phrase: bytes) -> None:
        """Reason phrases are the same with every version of Python."""
        assert encode_response_head(status).startswith(b"HTTP/1.1 %d %s\r\n" % (status, phrase))

    def test_upgrade_names_itself_in_connection(self) -> None:
        """An answer with Upgrade (426) lists it in Connection, as RFC 9110 section 7.8 asks."""
        assert b"\r\nConnection: Upgrade, close\r\n" in encode_response_head(426, [("Upgrade", "websocket")])

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
            encode_headers([line])

    def test_response_is_readable(self) -> None:
        """Our own reader accepts what we write."""
        answer = upstream(encode_response_head(503, [("Retry-After", "1")], content_length=0))

        assert isinstance(answer, Response)
        assert answer.headers.get(b"retry-after") == b"1"
