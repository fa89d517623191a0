"""Headers, Request, Response, RequestParser/ResponseParser, response writing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from wsbridge.protocol.uri import normalise_target, split_host
from wsbridge.reasons import Reason, Rejected


@dataclass(slots=True, frozen=True)
class HeadLimits:
    """How large a head may be; more is answered with 431.

    Attributes:
        max_head_bytes: Bytes of the whole head, with its last empty line (of all heads of one answer, 1xx counted in).
        max_head_line_bytes: Bytes of one line, with its line end.
        max_headers: Header lines.
    """

    max_head_bytes: int = 16384
    max_head_line_bytes: int = 8192
    max_headers: int = 100


class Headers:
    """The header lines of a head: names in lower case, values without blanks and tabs around them, both bytes.

    Lines of one name keep their order; the order between names is that of their first line.
    """

    __slots__ = ("_by_name",)

    def __init__(self, lines: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._by_name: dict[bytes, list[bytes]] = {}
        for name, value in lines:
            self.add(name, value)

    def add(self, name: bytes, value: bytes) -> None:
        """Add one header line."""
        name = name.lower()
        value = value.strip(b" \t")
        values = self._by_name.get(name)
        if values is None:
            self._by_name[name] = [value]
        else:
            values.append(value)

    def get(self, name: bytes) -> bytes | None:
        """Give the first value of a name (lower case), or None."""
        values = self._by_name.get(name)
        return None if values is None else values[0]

    def get_all(self, name: bytes) -> list[bytes]:
        """Give all values of a name (lower case), one for each header line."""
        return self._by_name.get(name, [])

    def has_token(self, name: bytes, token: bytes) -> bool:
        """Say whether a comma-separated list, over any number of lines, holds a token (lower case given)."""
        for value in self._by_name.get(name, ()):
            lower = value.lower()
            if lower == token or any(part.strip(b" \t") == token for part in lower.split(b",")):
                return True
        return False

    def names(self) -> Iterator[bytes]:
        """Give each name once."""
        return iter(self._by_name)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((name, value) for name, values in self._by_name.items() for value in values)

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return f"Headers({list(self._by_name)})"


class Request:
    """A request that kept all rules of `http1`: GET, HEAD or POST, origin-form, HTTP/1.1, one Host, no body.

    Attributes:
        target: Path in normal form (see `uri.normalise_path`), and the query as sent.
    """

    __slots__ = ("headers", "method", "target", "version")

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers

    @property
    def path(self) -> str:
        """The target before `?`."""
        return self.target.partition("?")[0]

    def host(self) -> str:
        """Give the Host header as sent, with its port; its syntax is known to be right."""
        return (self.headers.get(b"host") or b"").decode("ascii")

    @property
    def keep_alive(self) -> bool:
        """Whether the peer means to send another request (RFC 9112 section 9.3)."""
        return not self.headers.has_token(b"connection", b"close")

    def __repr__(self) -> str:
        return f"Request({self.method} {quoted(self.path)})"


class Response:
    """The final response of an upstream, with any status and any headers."""

    __slots__ = ("headers", "reason", "status", "version")

    def __init__(self, status: int, reason: str, headers: Headers, version: str = "1.1") -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.version = version

    def __repr__(self) -> str:
        return f"Response({self.status} {quoted(self.reason)})"


RETRYABLE_STATUSES: Final = frozenset((429, 502, 503, 504))
"""Statuses after which a backend or a proxy may accept the same request soon."""


def bad_request(detail: str, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> Rejected:
    """Return the rejection of a request that breaks a rule.

    Args:
        detail: One sentence for the log and the body of the response; escaped, and without secrets.
        status: HTTP status to respond with; it decides the reason.
        headers: Header lines that the response must carry.
    """
    reason = {403: Reason.ORIGIN_NOT_ALLOWED, 431: Reason.REQUEST_TOO_LARGE}.get(status, Reason.BAD_REQUEST)
    return Rejected(reason, detail, status=status, headers=headers)


def bad_response(detail: str, status: int | None = None) -> Rejected:
    """Return the rejection for a response of a backend or proxy that is invalid or no success.

    Args:
        detail: One sentence for the log; escaped.
        status: The status of a valid response; it decides whether another attempt makes sense.
    """
    permanent = status is not None and status not in RETRYABLE_STATUSES
    return Rejected(Reason.BACKEND_REFUSED, detail, initiator="backend", permanent=permanent)


def method_not_allowed(method: str, allowed: Sequence[str]) -> Rejected:
    """Give the 405 for a method that is none of those allowed (RFC 9110 section 15.5.6)."""
    first, last = ", ".join(allowed[:-1]), allowed[-1]
    text = f"the method is {method}, not {first} or {last}" if first else f"the method is {method}, not {last}"
    return bad_request(text, 405, (("Allow", ", ".join(allowed)),))


def quoted(value: str | bytes, limit: int = 200, quote: str = '"') -> str:
    r"""Make a peer's text fit for a log line or an answer: printable ASCII, the rest as \xNN, cut, within quotes."""
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value[:limit])
    text = "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02x}" for c in raw[:limit])
    return f"{quote}{text}{'...' if len(value) > limit else ''}{quote}"


__all__ = [
    "HeadLimits",
    "Headers",
    "Request",
    "Response",
    "bad_request",
    "bad_response",
    "HeadParser",
    "quoted",
    "encode_response",
    "encode_error_response",
    "encode_headers",
]

HttpRole = Literal["server", "client"]

_FIELD_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEAD_BYTES: Final = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_REQUEST_LINE = re.compile(rb'([A-Z]{3,7}) (/[!"$-~]*) HTTP/1\.1\r\n')
_ANY_REQUEST_LINE = re.compile(rb"([A-Z]{3,7}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_NOT_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e\r\n]")
_NOT_IN_STATUS_LINE = re.compile(rb"[^\t\x20-\x7e\x80-\xff\r\n]")
_KNOWN_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE")
)
_ALLOWED_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST"))
_ASCII_ONLY: Final = frozenset((b"host", b"origin", b"upgrade", b"connection"))
_MAX_METHOD_BYTES = 24
_MAX_INTERIM_RESPONSES = 5
_PROTOCOL_HINTS: Final = (
    (b"PROXY ", "a PROXY header, which this listener does not expect"),
    (b"SSH-", "an SSH client"),
    (b"PRI * HTTP/2", "HTTP/2 without negotiation"),
)


class _HeaderCollector(Headers):
    """Headers as httptools calls them out."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    on_header = Headers.add

    def on_headers_complete(self) -> None:
        self.complete = True


class HeadParser:
    """Reads one head; a fresh one for each.

    Args:
        limits: How large the head may be.
        role: `server` reads a request, `client` the final response, past at most five 1xx ones.

    Attributes:
        trailing_data: The bytes that came after the head; empty until it is complete.
    """

    __slots__ = (
        "_buffer",
        "_checked_bytes",
        "_fast_path_limit",
        "_head_start",
        "_interim_count",
        "_is_client",
        "_limits",
        "_line_count",
        "_line_start",
        "_result",
        "trailing_data",
    )

    def __init__(self, limits: HeadLimits, role: HttpRole = "server") -> None:
        self.trailing_data = b""
        self._limits = limits
        self._is_client = role == "client"
        self._fast_path_limit = 0 if self._is_client else min(limits.max_head_bytes, limits.max_head_line_bytes)
        self._buffer = bytearray()
        self._head_start = 0
        self._line_start = 0
        self._line_count = 0
        self._interim_count = 0
        self._checked_bytes = 0
        self._result: Request | Response | None = None

    def feed(self, data: bytes) -> Request | Response | None:
        """Take bytes as they come.

        Args:
            data: Any number of bytes; an end of the stream is the caller's to handle.

        Returns:
            None while more is needed, else the head; fed again, it returns the same head and `trailing_data` grows.

        Raises:
            Rejected: The head breaks a rule; nothing more may be fed.
        """
        if self._result is not None:
            self.trailing_data += data
            return self._result
        if self._fast_path_limit and not self._buffer:
            # The usual case: the whole head at once, and no rule broken that has to be judged in the order of bytes.
            line = _REQUEST_LINE.match(data)
            if line is not None:
                end = data.find(b"\r\n\r\n", line.end() - 2) + 4
                if 4 <= end <= self._fast_path_limit:
                    head = data[:end]
                    ends = head.count(b"\n")
                    if ends - 2 <= self._limits.max_headers and head.count(b"\r\n") == ends:
                        self.trailing_data = data[end:]
                        self._result = _parse_request(head, line)
                        return self._result
        self._buffer += data
        self._result = self._scan()
        return self._result

    def _scan(self) -> Request | Response | None:
        """Go on, line by line, from where the last call left off."""
        buffer, limits = self._buffer, self._limits
        while True:
            end = buffer.find(b"\n", self._line_start) + 1
            upto = end or len(buffer)
            bound = min(self._line_start + limits.max_head_line_bytes, limits.max_head_bytes)
            if self._line_start == self._head_start:
                self._check_first_line_prefix(bytes(buffer[self._head_start : min(upto, bound + 1)]))
            if upto > bound:
                what, limit = (
                    ("head", limits.max_head_bytes)
                    if bound == limits.max_head_bytes
                    else ("line", limits.max_head_line_bytes)
                )
                raise self._error(431, f"a {what} of the {self._message_kind} is longer than {limit} bytes")
            if not end:
                return None
            if self._line_start == self._head_start:
                line = bytes(buffer[self._head_start : end])
                if not (_STATUS_LINE if self._is_client else _REQUEST_LINE).fullmatch(line):
                    raise bad_response("the status line is malformed") if self._is_client else _request_line_error(line)
            elif buffer[self._line_start : end] == b"\r\n":
                done = self._parse_head(end)
                if done is not None:
                    self.trailing_data = bytes(buffer[end:])
                    return done
                self._head_start, self._line_count, self._checked_bytes = end, 0, 0
            elif not buffer.endswith(b"\r\n", self._line_start, end):
                raise self._error(400, "a header line ends in LF without CR")
            else:
                self._line_count += 1
                if self._line_count > limits.max_headers:
                    raise self._error(431, f"the {self._message_kind} has more than {limits.max_headers} header lines")
            self._line_start = end

    @property
    def _message_kind(self) -> str:
        return "response" if self._is_client else "request"

    def _error(self, status: int, detail: str) -> Rejected:
        return bad_response(detail) if self._is_client else bad_request(detail, status)

    def _check_first_line_prefix(self, prefix: bytes) -> None:
        """Judge the beginning of the first line before its end has come: the earliest bad byte decides."""
        checked, self._checked_bytes = self._checked_bytes, len(prefix)
        if not prefix:
            return
        if prefix[0] == 0x16 or (self._is_client and prefix[0] == 0x15):
            if len(prefix) == 1:
                return
            if prefix[1] != 0x03:
                raise self._error(400, "the first bytes are not HTTP")
            if self._is_client:
                raise bad_response("the upstream speaks TLS, but was dialled without it")
            raise Rejected(Reason.BAD_REQUEST, "a TLS hello on a listener without TLS", silent=True)
        if self._is_client:
            if not prefix.startswith(b"HTTP/1."[: len(prefix)]):
                raise bad_response("the upstream does not speak HTTP/1")
            found = _NOT_IN_STATUS_LINE.search(prefix, checked)
            if found is not None:
                raise bad_response(f"the status line has the byte 0x{found.group()[0]:02x}")
            return
        _check_request_prefix(prefix, checked)

    def _parse_head(self, end: int) -> Request | Response | None:
        """Judge a whole head that ends at `end`; None for a 1xx response, after which another one comes."""
        head = bytes(self._buffer[self._head_start : end])
        if not self._is_client:
            line = _REQUEST_LINE.match(head)
            if line is None:
                raise bad_request("the request line is malformed")
            return _parse_request(head, line)
        response = _parse_response(head)
        if response.status >= 200 or response.status == 101:
            return response
        self._interim_count += 1
        if self._interim_count > _MAX_INTERIM_RESPONSES:
            raise bad_response(f"the upstream sent more than {_MAX_INTERIM_RESPONSES} interim (1xx) responses")
        return None


def _check_request_prefix(prefix: bytes, checked: int) -> None:
    """Check the beginning of a request line, of which the first bytes were checked before."""
    if prefix[0] in b"\r\n":
        raise bad_request("the request begins with an empty line (so does a PROXY header of version 2)")
    if not 0x41 <= prefix[0] <= 0x5A:
        raise bad_request("the first bytes are not HTTP")
    found = _NOT_IN_REQUEST_LINE.search(prefix, checked)
    method = prefix[:_MAX_METHOD_BYTES]
    endless = len(method) == _MAX_METHOD_BYTES and b" " not in method and b"\n" not in method
    if endless and (found is None or found.start() >= _MAX_METHOD_BYTES):
        raise bad_request("the first bytes are not HTTP")
    if found is not None:
        raise bad_request(f"the request line has the byte 0x{found.group()[0]:02x}")


def _request_line_error(line: bytes) -> Rejected:
    """Say what is wrong with a whole first line that is not the one we take."""
    if not line.endswith(b"\r\n"):
        return bad_request("the request line ends in LF without CR, or the peer does not speak HTTP")
    for start, who in _PROTOCOL_HINTS:
        if line.startswith(start):
            return bad_request(f"not a request, but {who}")
    found = _ANY_REQUEST_LINE.fullmatch(line[:-2])
    if found is None:
        return bad_request("the request line is not of the form GET /path HTTP/1.1")
    method, target, major, minor = found.groups()
    if not target.startswith(b"/"):
        return bad_request("the target of the request is not a path (absolute-form and others are refused)")
    if b"#" in target:
        return bad_request("the target of the request has a fragment (#)")
    if method in _KNOWN_METHODS and (major, minor) == (b"1", b"0"):
        return bad_request(
            "the request is HTTP/1.0, which has no upgrades (behind nginx: proxy_http_version 1.1)",
            426,
            (("Upgrade", "HTTP/1.1"),),
        )
    return bad_request(f"the request is HTTP/{major.decode()}.{minor.decode()}, not HTTP/1.1")


def _parse_header_lines(
    head: bytes, parser: HttpRequestParser | HttpResponseParser, headers: _HeaderCollector
) -> str | None:
    """Have httptools read the header lines of one whole head, and hold what no version of it may let through.

    Returns:
        What is wrong, or None.
    """
    if head.translate(None, _HEAD_BYTES):
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
    if b"".join(headers.names()).translate(None, _FIELD_NAME_BYTES):
        return "the name of a header is not a token"
    if not head.isascii():
        for name in headers.names():
            strict = name in _ASCII_ONLY or name.startswith(b"sec-websocket-")
            if strict and not all(value.isascii() for value in headers.get_all(name)):
                return f"the header {name.decode()} is not ASCII"
    return None


def _parse_request(head: bytes, line: re.Match[bytes]) -> Request:
    """Judge one whole request head whose first line matched."""
    headers = _HeaderCollector()
    wrong = _parse_header_lines(head, HttpRequestParser(headers), headers)
    if wrong is not None:
        raise bad_request(wrong)
    hosts = headers.get_all(b"host")
    if len(hosts) != 1:
        raise bad_request(f"the request has {len(hosts)} Host headers, not one")
    if split_host(hosts[0].decode("ascii")) is None:
        if b"@" in hosts[0]:  # a password may stand before it, which is told nobody
            raise bad_request("the Host header has user information")
        raise bad_request(f"the Host header {quoted(hosts[0])} is not a host name or address")
    lengths = headers.get_all(b"content-length")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        raise bad_request("the Content-Length is malformed or repeated")
    if (lengths and lengths[0].strip(b"0")) or b"transfer-encoding" in headers:
        raise bad_request("the request has a body")
    try:
        target = normalise_target(line.group(2).decode("ascii"))
    except ValueError as error:
        raise bad_request(str(error)) from None
    method = line.group(1)
    if method not in _ALLOWED_METHODS:
        if method not in _KNOWN_METHODS:
            raise bad_request(f"the method {method.decode()} is unknown")
        raise method_not_allowed(method.decode(), ("GET", "HEAD", "POST"))
    return Request(method.decode("ascii"), target, "1.1", headers)


def _parse_response(head: bytes) -> Response:
    """Judge one whole response head."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise bad_response("the status line is malformed")
    headers = _HeaderCollector()
    wrong = _parse_header_lines(head, HttpResponseParser(headers), headers)
    if wrong is not None:
        raise bad_response(f"in the upstream's response, {wrong}")
    reason = (line.group(3) or b"").strip(b" \t").decode("latin-1")
    return Response(int(line.group(2)), reason, headers, line.group(1).decode("ascii"))


_REASON_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Write header lines, each with its line end.

    Raises:
        ValueError: A name is not a token, or a value holds CR, LF, another control character or non-Latin-1 text:
            our own mistake, for nothing that a peer sent may get here unescaped.
    """
    lines = []
    for name, value in headers:
        if not name or name.encode("latin-1").translate(None, _FIELD_NAME_BYTES):
            raise ValueError(f"not the name of a header: {name!a}")
        if value.encode("latin-1").translate(None, _HEAD_BYTES) or "\r" in value or "\n" in value:
            raise ValueError(f"the value of header {name} has a control character")
        lines.append(f"{name}: {value}\r\n")
    return lines


def encode_response(
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
    lines = [f"HTTP/1.1 {status} {_REASON_PHRASES.get(status, '')}\r\n", *encode_headers(headers)]
    if "content-length" not in names and status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}\r\n")
    if "connection" not in names:
        options = (["Upgrade"] if "upgrade" in names else []) + ([] if keep_alive else ["close"])
        if options:
            lines.append(f"Connection: {', '.join(options)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body


def encode_error_response(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Write a refusal with its sentence as plain text; the connection closes after it."""
    body = f"{text}\n".encode()
    plain = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    return encode_response(status, [*headers, *plain, ("Cache-Control", "no-store")], body)
