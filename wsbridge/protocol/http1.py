"""HTTP/1.1 heads: one request or response head from bytes as they arrive, and answers out.

Lives here: the limits, the rules that hold for every head (RFC 9112, tightened), and `response`. Must not live here:
what an upgrade means (`handshake`), routing, files. The bytes come from a wire; what follows the head stays in `rest`.

We find the end of the head ourselves, so that nothing grows past the limits, check the first line ourselves, since
parsers are lenient there, and then give httptools exactly the head for the header lines. Byte by byte, in random
pieces or whole: the outcome is the same, since every rule is judged at the byte that breaks it or at the head's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Literal

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from wsbridge.protocol.head import BadHead, Headers, HeadLimits, Request, Response, method_refused, shown
from wsbridge.protocol.target import check_target, split_host

__all__ = [
    "HeadLimits",
    "Headers",
    "Request",
    "Response",
    "BadHead",
    "HeadReader",
    "shown",
    "response",
    "refusal",
    "header_lines",
]

Role = Literal["server", "client"]

_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT_BYTES: Final = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_REQUEST_LINE = re.compile(rb'([A-Z]{3,7}) (/[!"$-~]*) HTTP/1\.1\r\n')
_ANY_REQUEST_LINE = re.compile(rb"([A-Z]{3,7}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_NOT_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e\r\n]")
_NOT_IN_STATUS_LINE = re.compile(rb"[^\t\x20-\x7e\x80-\xff\r\n]")
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"))
_TAKEN: Final = frozenset((b"GET", b"HEAD", b"POST"))
_ASCII_ONLY: Final = frozenset((b"host", b"origin", b"upgrade", b"connection"))
_LONGEST_METHOD = 24
_MOST_INTERIM = 5
_HINTS: Final = (
    (b"PROXY ", "a PROXY header, which this listener does not expect"),
    (b"SSH-", "an SSH client"),
    (b"PRI * HTTP/2", "HTTP/2 without negotiation"),
)


class _Collector(Headers):
    """Headers as httptools calls them out."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    on_header = Headers.add

    def on_headers_complete(self) -> None:
        self.complete = True


class HeadReader:
    """Reads one head; a fresh one for each.

    Args:
        limits: How large the head may be.
        role: `server` reads a request, `client` the final response, past at most five 1xx ones.

    Attributes:
        rest: The bytes that came after the head; empty until it is complete.
    """

    __slots__ = (
        "_buffer",
        "_client",
        "_head",
        "_interim",
        "_judged",
        "_limits",
        "_line",
        "_lines",
        "_quick",
        "_result",
        "rest",
    )

    def __init__(self, limits: HeadLimits, role: Role = "server") -> None:
        self.rest = b""
        self._limits = limits
        self._client = role == "client"
        self._quick = 0 if self._client else min(limits.total, limits.line)
        self._buffer = bytearray()
        self._head = 0
        self._line = 0
        self._lines = 0
        self._interim = 0
        self._judged = 0
        self._result: Request | Response | BadHead | None = None

    def feed(self, data: bytes) -> Request | Response | BadHead | None:
        """Take bytes as they come.

        Args:
            data: Any number of bytes; an end of the stream is the caller's to handle.

        Returns:
            None while more is needed, else the outcome; fed again after that, it is the same outcome and `rest` grows.
        """
        if self._result is not None:
            self.rest += data
            return self._result
        if self._quick and not self._buffer:
            # The usual case: the whole head at once, and no rule broken that has to be judged in the order of bytes.
            line = _REQUEST_LINE.match(data)
            if line is not None:
                end = data.find(b"\r\n\r\n", line.end() - 2) + 4
                if 4 <= end <= self._quick:
                    head = data[:end]
                    ends = head.count(b"\n")
                    if ends - 2 <= self._limits.headers and head.count(b"\r\n") == ends:
                        self.rest = data[end:]
                        self._result = _request(head, line)
                        return self._result
        self._buffer += data
        self._result = self._scan()
        return self._result

    def _scan(self) -> Request | Response | BadHead | None:
        """Go on, line by line, from where the last call left off."""
        buffer, limits = self._buffer, self._limits
        while True:
            end = buffer.find(b"\n", self._line) + 1
            upto = end or len(buffer)
            bound = min(self._line + limits.line, limits.total)
            if self._line == self._head and (bad := self._early(bytes(buffer[self._head : min(upto, bound + 1)]))):
                return bad
            if upto > bound:
                what, limit = ("head", limits.total) if bound == limits.total else ("line", limits.line)
                return self._bad(431, f"a {what} of the {self._what} is longer than {limit} bytes")
            if not end:
                return None
            if self._line == self._head:
                line = bytes(buffer[self._head : end])
                if not (_STATUS_LINE if self._client else _REQUEST_LINE).fullmatch(line):
                    return self._bad(502, "the status line is malformed") if self._client else _bad_request_line(line)
            elif buffer[self._line : end] == b"\r\n":
                done = self._complete(end)
                if done is not None:
                    self.rest = bytes(buffer[end:])
                    return done
                self._head, self._lines, self._judged = end, 0, 0
            elif not buffer.endswith(b"\r\n", self._line, end):
                return self._bad(400, "a header line ends in LF without CR")
            else:
                self._lines += 1
                if self._lines > limits.headers:
                    return self._bad(431, f"the {self._what} has more than {limits.headers} header lines")
            self._line = end

    @property
    def _what(self) -> str:
        return "response" if self._client else "request"

    def _bad(self, status: int, text: str) -> BadHead:
        return BadHead(502 if self._client else status, text)

    def _early(self, start: bytes) -> BadHead | None:
        """Judge the beginning of the first line before its end has come: the earliest bad byte decides."""
        judged, self._judged = self._judged, len(start)
        if not start:
            return None
        if start[0] == 0x16 or (self._client and start[0] == 0x15):
            if len(start) == 1:
                return None
            if start[1] == 0x03:
                return BadHead(
                    502 if self._client else 400,
                    "the upstream speaks TLS, but was dialled without it"
                    if self._client
                    else "a TLS hello on a listener without TLS",
                    kind="tls_on_plain",
                )
            return self._bad(400, "the first bytes are not HTTP")
        if self._client:
            if not start.startswith(b"HTTP/1."[: len(start)]):
                return BadHead(502, "the upstream does not speak HTTP/1")
            found = _NOT_IN_STATUS_LINE.search(start, judged)
            return None if found is None else BadHead(502, f"the status line has the byte 0x{found.group()[0]:02x}")
        if start[0] in b"\r\n":
            return BadHead(400, "the request begins with an empty line (so does a PROXY header of version 2)")
        if not 0x41 <= start[0] <= 0x5A:
            return BadHead(400, "the first bytes are not HTTP")
        found = _NOT_IN_REQUEST_LINE.search(start, judged)
        method = start[:_LONGEST_METHOD]
        endless = len(method) == _LONGEST_METHOD and b" " not in method and b"\n" not in method
        if endless and (found is None or found.start() >= _LONGEST_METHOD):
            return BadHead(400, "the first bytes are not HTTP")
        return None if found is None else BadHead(400, f"the request line has the byte 0x{found.group()[0]:02x}")

    def _complete(self, end: int) -> Request | Response | BadHead | None:
        """Judge a whole head that ends at `end`; None for a 1xx response, after which another one comes."""
        head = bytes(self._buffer[self._head : end])
        if not self._client:
            line = _REQUEST_LINE.match(head)
            return BadHead(400, "the request line is malformed") if line is None else _request(head, line)
        answer = _response(head)
        if isinstance(answer, BadHead) or answer.status >= 200 or answer.status == 101:
            return answer
        self._interim += 1
        if self._interim > _MOST_INTERIM:
            return BadHead(502, f"the upstream sent more than {_MOST_INTERIM} interim (1xx) responses")
        return None


def _bad_request_line(line: bytes) -> BadHead:
    """Say what is wrong with a whole first line that is not the one we take."""
    if not line.endswith(b"\r\n"):
        return BadHead(400, "the request line ends in LF without CR, or the peer does not speak HTTP")
    for start, who in _HINTS:
        if line.startswith(start):
            return BadHead(400, f"not a request, but {who}")
    found = _ANY_REQUEST_LINE.fullmatch(line[:-2])
    if found is None:
        return BadHead(400, "the request line is not of the form GET /path HTTP/1.1")
    method, target, major, minor = found.groups()
    if not target.startswith(b"/"):
        return BadHead(400, "the target of the request is not a path (absolute-form and others are refused)")
    if b"#" in target:
        return BadHead(400, "the target of the request has a fragment (#)")
    if method in _METHODS and (major, minor) == (b"1", b"0"):
        return BadHead(
            426,
            "the request is HTTP/1.0, which has no upgrades (behind nginx: proxy_http_version 1.1)",
            headers=(("Upgrade", "HTTP/1.1"),),
        )
    return BadHead(400, f"the request is HTTP/{major.decode()}.{minor.decode()}, not HTTP/1.1")


def _header_lines(head: bytes, parser: HttpRequestParser | HttpResponseParser, headers: _Collector) -> str | None:
    """Have httptools read the header lines of one whole head, and hold what no version of it may let through.

    Returns:
        What is wrong, or None.
    """
    if head.translate(None, _TEXT_BYTES):
        return "the head has a NUL or another control character"
    if head.count(b"\r") != head.count(b"\n"):
        return "the head has a CR without LF"
    if b"\r\n " in head or b"\r\n\t" in head:
        return "a header line is folded over several lines"
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        # After the last header line it only complains of what it takes a 101 or a body for, which is not its business.
        if not headers.complete:
            return f"a header line is malformed ({error})"
    if not headers.complete:
        return "a header line is malformed"
    if b"".join(headers.names()).translate(None, _TOKEN_BYTES):
        return "the name of a header is not a token"
    if not head.isascii():
        for name in headers.names():
            strict = name in _ASCII_ONLY or name.startswith(b"sec-websocket-")
            if strict and not all(value.isascii() for value in headers.get_all(name)):
                return f"the header {name.decode()} is not ASCII"
    return None


def _request(head: bytes, line: re.Match[bytes]) -> Request | BadHead:
    """Judge one whole request head whose first line matched."""
    headers = _Collector()
    wrong = _header_lines(head, HttpRequestParser(headers), headers)
    if wrong is not None:
        return BadHead(400, wrong)
    hosts = headers.get_all(b"host")
    if len(hosts) != 1:
        return BadHead(400, f"the request has {len(hosts)} Host headers, not one")
    if split_host(hosts[0].decode("ascii")) is None:
        if b"@" in hosts[0]:  # a password may stand before it, which is told nobody
            return BadHead(400, "the Host header has user information")
        return BadHead(400, f"the Host header {shown(hosts[0])} is not a host name or address")
    lengths = headers.get_all(b"content-length")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        return BadHead(400, "the Content-Length is malformed or repeated")
    if (lengths and lengths[0].strip(b"0")) or b"transfer-encoding" in headers:
        return BadHead(400, "the request has a body")
    target = line.group(2).decode("ascii")
    wrong = check_target(target)
    if wrong is not None:
        return BadHead(400, wrong)
    method = line.group(1)
    if method not in _TAKEN:
        if method not in _METHODS:
            return BadHead(400, f"the method {method.decode()} is unknown")
        return method_refused(method.decode(), ("GET", "HEAD", "POST"))
    return Request(method.decode("ascii"), target, "1.1", headers)


def _response(head: bytes) -> Response | BadHead:
    """Judge one whole response head."""
    line = _STATUS_LINE.match(head)
    if line is None:
        return BadHead(502, "the status line is malformed")
    headers = _Collector()
    wrong = _header_lines(head, HttpResponseParser(headers), headers)
    if wrong is not None:
        return BadHead(502, f"in the upstream's response, {wrong}")
    reason = (line.group(3) or b"").strip(b" \t").decode("latin-1")
    return Response(int(line.group(2)), reason, headers, line.group(1).decode("ascii"))


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def header_lines(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Write header lines, each with its line end.

    Raises:
        ValueError: A name is not a token, or a value holds CR, LF, another control character or non-Latin-1 text:
            our own mistake, for nothing that a peer sent may get here unescaped.
    """
    lines = []
    for name, value in headers:
        if not name or name.encode("latin-1").translate(None, _TOKEN_BYTES):
            raise ValueError(f"not the name of a header: {name!a}")
        if value.encode("latin-1").translate(None, _TEXT_BYTES) or "\r" in value or "\n" in value:
            raise ValueError(f"the value of header {name} has a control character")
        lines.append(f"{name}: {value}\r\n")
    return lines


def response(
    status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", *, keep_alive: bool = False
) -> bytes:
    """Write a whole response.

    Args:
        status: 101, or 200 to 599.
        headers: Further header lines; a Content-Length among them is kept (an answer to HEAD, a body sent later).
        body: The body.
        keep_alive: Leave the connection open for another request; else `Connection: close` is added.

    Raises:
        ValueError: A header cannot be written (see `header_lines`).
    """
    headers = list(headers)
    names = {name.lower() for name, _ in headers}
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n", *header_lines(headers)]
    if "content-length" not in names and status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}\r\n")
    if "connection" not in names:
        options = (["Upgrade"] if "upgrade" in names else []) + ([] if keep_alive else ["close"])
        if options:
            lines.append(f"Connection: {', '.join(options)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body


def refusal(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Write a refusal with its sentence as plain text; the connection closes after it."""
    body = f"{text}\n".encode()
    plain = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    return response(status, [*headers, *plain, ("Cache-Control", "no-store")], body)
