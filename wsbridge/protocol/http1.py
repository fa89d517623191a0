"""HTTP/1.1: heads of requests and responses read within limits, and heads of responses written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from wsbridge.protocol.uri import normalise_target, split_host
from wsbridge.reasons import Reason, Rejected


@dataclass(slots=True, frozen=True)
class HeadLimits:
    """How large the head of a request may be; a larger one is rejected with 431.

    Attributes:
        max_head_bytes: Bytes of the whole head, with its last empty line.
        max_head_line_bytes: Bytes of one line, with its line end.
        max_headers: Header lines.
    """

    max_head_bytes: int = 16384
    max_head_line_bytes: int = 8192
    max_headers: int = 100


MAX_RESPONSE_HEAD_BYTES: Final = 65536
"""Default for the heads of responses: servers send long cookies and policies."""


class Headers:
    """The header lines of a head: names in lower case, values without spaces and tabs around them, both bytes.

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
        """Return the first value of a name (lower case), or None."""
        values = self._by_name.get(name)
        return None if values is None else values[0]

    def get_all(self, name: bytes) -> list[bytes]:
        """Return all values of a name (lower case), one for each header line."""
        return self._by_name.get(name, [])

    def has_token(self, name: bytes, token: bytes) -> bool:
        """Return whether a comma-separated list, over any number of lines, has a token (lower case)."""
        for value in self._by_name.get(name, ()):
            lower = value.lower()
            if lower == token or any(part.strip(b" \t") == token for part in lower.split(b",")):
                return True
        return False

    def without(self, name: bytes) -> Headers:
        """Return a copy without the header lines of a name (lower case)."""
        copy = Headers()
        copy._by_name = {other: values for other, values in self._by_name.items() if other != name}
        return copy

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Drop all header lines but those of these names (lower case)."""
        self._by_name = {name: self._by_name[name] for name in names if name in self._by_name}

    def names(self) -> Iterator[bytes]:
        """Return each name once."""
        return iter(self._by_name)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((name, value) for name, values in self._by_name.items() for value in values)

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return f"Headers({list(self._by_name)})"


class Request:
    """A valid request without a body, by GET, HEAD, OPTIONS or POST.

    Attributes:
        version: `1.1`, which has exactly one Host, or `1.0`, which has one or none.
        target: Path in normal form (see `uri.normalise_path`), and the query as sent.
        path: The target before `?`.
        wants_websocket: Whether it names WebSocket in Upgrade, valid or not in all else.
        host: The Host header as sent, with its port; empty if there is none. Its syntax is valid.
    """

    __slots__ = ("headers", "host", "method", "path", "target", "version", "wants_websocket")

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.path = target.partition("?")[0]
        self.host = (headers.get(b"host") or b"").decode("ascii")
        self.wants_websocket = headers.has_token(b"upgrade", b"websocket")

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request (RFC 9112 section 9.3)."""
        return self.version == "1.1" and not self.headers.has_token(b"connection", b"close")

    def __repr__(self) -> str:
        return f"Request({self.method} {quoted(self.path)})"


class Response:
    """The final response of a backend or proxy, with any status and any headers."""

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


ANSWERED_IN_TLS: Final = "the backend speaks TLS, but was dialed without it"
NOT_HTTP: Final = "the backend does not speak HTTP/1"


def bad_response(detail: str, status: int | None = None) -> Rejected:
    """Return the rejection for a response of a backend or proxy that is invalid or no success.

    Args:
        detail: One sentence for the log; escaped.
        status: The status of the response, if it has one; it decides whether another attempt makes sense.
    """
    if status is None:
        return Rejected(Reason.BACKEND_REFUSED, detail, initiator="backend")
    permanent = status not in RETRYABLE_STATUSES
    return Rejected(Reason.BACKEND_REJECTED, detail, initiator="backend", permanent=permanent, answered=status)


def method_not_allowed(method: str, allowed: Sequence[str]) -> Rejected:
    """Return the 405 for a method that is none of those allowed (RFC 9110 section 15.5.6)."""
    first, last = ", ".join(allowed[:-1]), allowed[-1]
    text = f"the method is {method}, not {first} or {last}" if first else f"the method is {method}, not {last}"
    return bad_request(text, 405, (("Allow", ", ".join(allowed)),))


def quoted(value: str | bytes, limit: int = 200, quote: str = '"') -> str:
    r"""Return a peer's text for a log line or a response: printable ASCII, the rest as \xNN, cut, in quotes."""
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value[:limit])
    text = "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02x}" for c in raw[:limit])
    return f"{quote}{text}{'...' if len(value) > limit else ''}{quote}"


_FIELD_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}")
_HEAD_BYTES: Final = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_REQUEST_LINE = re.compile(rb'([A-Z]{3,7}) (/[!"$-~]*|[Hh][Tt][Tt][Pp][Ss]?://[!"$-~]+) HTTP/1\.([01])\r\n')
_ANY_REQUEST_LINE = re.compile(rb"([A-Z]{3,7}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_NOT_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e\r\n]")
_NOT_IN_STATUS_LINE = re.compile(rb"[^\t\x20-\x7e\x80-\xff\r\n]")
_KNOWN_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE")
)
_ALLOWED_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST")
_ASCII_ONLY: Final = frozenset((b"host", b"origin", b"upgrade", b"connection"))
_MAX_METHOD_BYTES = 24
_MAX_STATUS_LINE_BYTES = 8192
_MAX_INTERIM_RESPONSES = 5
_MAX_SWITCH_HEADERS = 1000
_MAX_LOGGED_TARGET_BYTES = 2048
_PROTOCOL_HINTS: Final = (
    (b"PROXY ", "a PROXY header, which this listener does not expect"),
    (b"SSH-", "an SSH client"),
    (b"PRI * HTTP/2", "HTTP/2 without negotiation"),
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class RequestParser:
    """Reads the head of one request; a new parser for each.

    Args:
        limits: How large the head may be.

    Attributes:
        trailing_data: The bytes that came after the head; empty until it is complete.
    """

    __slots__ = (
        "_buffer",
        "_checked_bytes",
        "_fast_path_limit",
        "_head_start",
        "_limits",
        "_line_count",
        "_line_start",
        "_request",
        "trailing_data",
    )

    def __init__(self, limits: HeadLimits) -> None:
        self.trailing_data = b""
        self._limits = limits
        self._fast_path_limit = min(limits.max_head_bytes, limits.max_head_line_bytes)
        self._buffer = bytearray()
        self._head_start = 0
        self._line_start = 0
        self._line_count = 0
        self._checked_bytes = 0
        self._request: Request | None = None

    def feed(self, data: bytes) -> Request | None:
        """Read further bytes.

        Args:
            data: Any number of bytes; an end of the stream is the caller's to handle.

        Returns:
            None while more is needed, else the request; fed again, it returns the same one and `trailing_data` grows.

        Raises:
            Rejected: The head breaks a rule; nothing more may be fed.
        """
        if self._request is not None:
            self.trailing_data += data
            return self._request
        if not self._buffer:
            # The usual case: the whole head at once, and no rule broken that has to be checked in the order of bytes.
            line = _REQUEST_LINE.match(data)
            if line is not None:
                end = data.find(b"\r\n\r\n", line.end() - 2) + 4
                if 4 <= end <= self._fast_path_limit:
                    head = data[:end]
                    ends = head.count(b"\n")
                    if ends - 2 <= self._limits.max_headers and head.count(b"\r\n") == ends:
                        self._buffer += head  # for `target_so_far`
                        self.trailing_data = data[end:]
                        self._request = _parse_request(head, line)
                        return self._request
        self._buffer += data
        self._request = self._scan()
        return self._request

    @property
    def target_so_far(self) -> str:
        """The target of a request whose head is not complete or breaks a rule, as far as it was read; for the log."""
        line = bytes(self._buffer[self._head_start : self._head_start + _MAX_LOGGED_TARGET_BYTES])
        parts = re.split(rb"[ \r\n]", line, maxsplit=2)
        if len(parts) < 2 or parts[0] not in _KNOWN_METHODS:
            return ""
        target = parts[1].decode("latin-1")
        try:
            return normalise_target(target)
        except ValueError:
            return target

    def _scan(self) -> Request | None:
        """Continue line by line from where the last call stopped."""
        buffer, limits = self._buffer, self._limits
        if not self._head_start and buffer.startswith(b"\r\n"):
            self._head_start = self._line_start = 2  # RFC 9112 section 2.2: an empty line before it is ignored
        while True:
            end = buffer.find(b"\n", self._line_start) + 1
            upto = end or len(buffer)
            bound = min(self._line_start + limits.max_head_line_bytes, limits.max_head_bytes)
            if self._line_start == self._head_start:
                self._check_first_line(bytes(buffer[self._head_start : min(upto, bound + 1)]))
            if upto > bound:
                raise self._too_large(bound)
            if not end:
                return None
            if self._line_start == self._head_start:
                _match_request_line(bytes(buffer[self._head_start : end]))
            elif buffer[self._line_start : end] == b"\r\n":
                head = bytes(buffer[self._head_start : end])
                self.trailing_data = bytes(buffer[end:])
                return _parse_request(head, _match_request_line(head[: head.find(b"\n") + 1]))
            elif not buffer.endswith(b"\r\n", self._line_start, end):
                raise bad_request("a header line ends in LF without CR")
            else:
                self._line_count += 1
                if self._line_count > limits.max_headers:
                    raise bad_request(
                        f"the request has more than {limits.max_headers} header lines (limits.max_headers)", 431
                    )
            self._line_start = end

    def _too_large(self, bound: int) -> Rejected:
        """Return the 431 for a head or a line of it that does not end within its limit."""
        limits = self._limits
        if self._line_start == self._head_start:
            size, key = (
                (limits.max_head_line_bytes, "max_head_line_bytes")
                if bound < limits.max_head_bytes
                else (limits.max_head_bytes, "max_head_bytes")
            )
            return bad_request(f"the request line is longer than {size} bytes (limits.{key})", 431)
        if bound < limits.max_head_bytes:
            name = _header_name(self._buffer[self._line_start : bound])
            size = limits.max_head_line_bytes
            return bad_request(f"the header {name} is longer than {size} bytes (limits.max_head_line_bytes)", 431)
        lines = bytes(self._buffer[self._head_start : bound]).split(b"\r\n")[1:]
        largest = max(lines, key=len, default=b"")
        return bad_request(
            f"the head of the request is longer than {limits.max_head_bytes} bytes (limits.max_head_bytes); "
            f"its largest header is {_header_name(largest)}, {len(largest)} bytes",
            431,
        )

    def _check_first_line(self, prefix: bytes) -> None:
        """Check the beginning of the first line before its end has come: the earliest bad byte decides."""
        checked, self._checked_bytes = self._checked_bytes, len(prefix)
        if not prefix or prefix in (b"\x16", b"\r"):
            return
        if prefix.startswith(b"\x16\x03"):
            raise Rejected(
                Reason.BAD_REQUEST,
                "a TLS hello on a listener without TLS: use http:// or ws://, or add tls: to the listener",
                silent=True,
            )
        if prefix[0] in b"\r\n":
            raise bad_request("the request begins with empty lines (so does a PROXY header of version 2)")
        if not 0x41 <= prefix[0] <= 0x5A:
            raise bad_request("the first bytes are not HTTP")
        found = _NOT_IN_REQUEST_LINE.search(prefix, checked)
        method = prefix[:_MAX_METHOD_BYTES]
        endless = len(method) == _MAX_METHOD_BYTES and b" " not in method and b"\n" not in method
        if endless and (found is None or found.start() >= _MAX_METHOD_BYTES):
            raise bad_request("the first bytes are not HTTP")
        if found is not None:
            raise bad_request(f"the request line has the byte 0x{found.group()[0]:02x}")


def _match_request_line(line: bytes) -> re.Match[bytes]:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _request_line_error(line)
    return found


def _request_line_error(line: bytes) -> Rejected:
    """Say what is wrong with a whole first line that is not the one we accept."""
    if not line.endswith(b"\r\n"):
        return bad_request("the request line ends in LF without CR, or the peer does not speak HTTP")
    for start, who in _PROTOCOL_HINTS:
        if line.startswith(start):
            return bad_request(f"not a request, but {who}")
    found = _ANY_REQUEST_LINE.fullmatch(line[:-2])
    if found is None:
        return bad_request("the request line is not of the form GET /path HTTP/1.1")
    target, major, minor = found.group(2), found.group(3).decode(), found.group(4).decode()
    if b"#" in target:
        return bad_request("the target of the request has a fragment (#)")
    if f"{major}.{minor}" not in ("1.0", "1.1"):
        return bad_request(f"the request is HTTP/{major}.{minor}, not HTTP/1.1")
    return bad_request("the target of the request is neither a path nor an http or https URL")


REPEATED_NAMES: Final = frozenset(
    (
        *(b"host", b"upgrade", b"connection", b"origin", b"user-agent", b"pragma", b"cache-control"),
        *(b"sec-websocket-version", b"sec-websocket-extensions", b"accept", b"accept-encoding", b"accept-language"),
        *(b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site"),
    )
)
"""Headers whose lines many clients send alike, and that hold no secret."""
_MAX_KNOWN_LINES: Final = 1024
_MAX_KNOWN_LINE_BYTES: Final = 256
_KNOWN_LINES: Final[dict[bytes, tuple[bytes, bytes]]] = {}
"""Name and value of lines that have come before and break no rule: connections share the bytes, and the time."""


def _parse_header_lines(head: bytes, start: int) -> Headers:
    """Read the header lines of one whole head.

    Args:
        head: The head, which ends with an empty line.
        start: Where its first header line begins.

    Raises:
        ValueError: What is wrong; never with a value.
    """
    lines = head[start:-4].split(b"\r\n") if len(head) - start > 2 else []
    clean = not head.translate(None, _HEAD_BYTES) and head.count(b"\r") == head.count(b"\n")
    headers = Headers()
    by_name = headers._by_name  # `Headers.add` for each line takes twice as long
    for line in lines:
        name, value = _KNOWN_LINES.get(line) or _parse_header_line(line, clean=clean)
        if name in by_name:
            by_name[name].append(value)
        else:
            by_name[name] = [value]
    if not head.isascii():
        for name in headers.names():
            strict = name in _ASCII_ONLY or name.startswith(b"sec-websocket-")
            if strict and not all(value.isascii() for value in headers.get_all(name)):
                raise ValueError(f"the header {name.decode()} is not ASCII")
    return headers


def _parse_header_line(line: bytes, *, clean: bool) -> tuple[bytes, bytes]:
    """Read one header line; `clean` says that no line of the head has a control character.

    Raises:
        ValueError: What is wrong; never with a value.
    """
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, _FIELD_NAME_BYTES):
        raise ValueError(_header_line_error(line))
    if not clean and (line.translate(None, _HEAD_BYTES) or b"\r" in line):
        raise ValueError(f"the header {_header_name(line)} has a control character")
    parsed = name.lower(), value.strip(b" \t")
    if parsed[0] in REPEATED_NAMES and len(line) <= _MAX_KNOWN_LINE_BYTES:
        if len(_KNOWN_LINES) >= _MAX_KNOWN_LINES:
            _KNOWN_LINES.clear()
        _KNOWN_LINES[line] = parsed
    return parsed


def _header_name(line: bytes | bytearray) -> str:
    """Return the name that a header line begins with, for a message."""
    found = _FIELD_NAME.match(line)
    return found.group().decode("ascii") if found is not None else "without a name"


def _header_line_error(line: bytes) -> str:
    """Say what is wrong with a header line whose name is not a token."""
    if line[:1] in (b" ", b"\t"):
        return "a header line is folded over several lines"
    name = _header_name(line)
    if b":" not in line:
        return f"the header line {name} has no colon"
    return f"the name of the header {name} is not a token"


def _parse_request(head: bytes, line: re.Match[bytes]) -> Request:
    """Check one whole request head whose first line matched."""
    method, target, minor = line.groups()
    try:
        headers = _parse_header_lines(head, line.end())
        _check_framing(headers)
        host = _single_host(headers, required=minor == b"1")
        text = target.decode("ascii")
        text = normalise_target(text if text.startswith("/") else _origin_form(text, host))
    except ValueError as error:
        raise bad_request(str(error)) from None
    name = method.decode("ascii")
    if name not in _ALLOWED_METHODS:
        if method not in _KNOWN_METHODS:
            raise bad_request(f"the method {name} is unknown")
        raise method_not_allowed(name, _ALLOWED_METHODS)
    return Request(name, text, f"1.{minor.decode()}", headers)


def _check_framing(headers: Headers) -> None:
    """Refuse a body, and all that another program could read as one."""
    lengths = headers.get_all(b"content-length")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        raise ValueError("the Content-Length is malformed or repeated")
    if (lengths and lengths[0].strip(b"0")) or b"transfer-encoding" in headers:
        raise ValueError("the request has a body")


def _single_host(headers: Headers, *, required: bool) -> str:
    """Return the Host header; empty where HTTP/1.0 has none."""
    hosts = headers.get_all(b"host")
    if not hosts and not required:
        return ""
    if len(hosts) != 1:
        raise ValueError(f"the request has {len(hosts)} Host headers, not one")
    host = hosts[0].decode("ascii")
    if split_host(host) is None:
        if "@" in host:  # there may be a password before it, which is not shown
            raise ValueError("the Host header has user information")
        raise ValueError(f"the Host header {quoted(host)} is not a host name or address")
    return host


def _origin_form(target: str, host_header: str) -> str:
    """Return path and query of a target in absolute-form (RFC 9112 section 3.2.2) that names the same host as Host."""
    scheme, _, rest = target.partition("://")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    named, meant = split_host(rest[:end]), split_host(host_header)
    if "@" in rest[:end] or named is None:
        raise ValueError("the target of the request is not a valid URL without user information")
    default = _DEFAULT_PORTS[scheme.lower()]
    if meant is None or (named[0], named[1] or default) != (meant[0], meant[1] or default):
        raise ValueError("the target of the request is a URL with another host than the Host header")
    path = rest[end:]
    return path if path.startswith("/") else f"/{path}"


class ResponseParser:
    """Reads the head of the final response of a backend or proxy, past at most five 1xx ones; a new parser for each.

    The status is read first, and a response other than 101 is returned whatever is wrong with its header lines, even
    where they do not end within the limit: those that can be read are kept, so that the status is never lost.

    Args:
        max_head_bytes: Bytes of all heads of the response, 1xx ones included.

    Attributes:
        trailing_data: The bytes that came after the head; empty until it is complete, and for one beyond the limit.
    """

    __slots__ = (
        "_buffer",
        "_head_start",
        "_interim_count",
        "_is_cut_off",
        "_max_head_bytes",
        "_response",
        "_searched",
        "trailing_data",
    )

    def __init__(self, max_head_bytes: int) -> None:
        self.trailing_data = b""
        self._max_head_bytes = max_head_bytes
        self._buffer = bytearray()
        self._head_start = 0
        self._searched = 0
        self._interim_count = 0
        self._is_cut_off = False
        self._response: Response | None = None

    def feed(self, data: bytes) -> Response | None:
        """Read further bytes.

        Args:
            data: Any number of bytes; an end of the stream is the caller's to handle.

        Returns:
            None while more is needed, else the response; fed again, it returns the same one and `trailing_data` grows.

        Raises:
            Rejected: The head breaks a rule; nothing more may be fed.
        """
        if self._response is not None:
            if not self._is_cut_off:  # else it is the rest of the head, and no body
                self.trailing_data += data
            return self._response
        self._buffer += data
        while self._response is None:
            line = self._status_line()
            if line is None:
                return None
            found = _END_OF_HEAD.search(self._buffer, max(line.end() - 1, self._searched - 2))
            end = len(self._buffer) if found is None else found.end()
            if end > self._max_head_bytes:
                self._response = self._cut_off(line)
                self._is_cut_off = True
            elif found is None:
                self._searched = end
                return None
            else:
                self._finish_head(line, end)
        return self._response

    @property
    def status_so_far(self) -> int | None:
        """The final status of a response whose head is not complete yet, once it is known; never 101."""
        line = _STATUS_LINE.match(bytes(self._buffer), self._head_start)
        return None if line is None or int(line.group(2)) < 200 else int(line.group(2))

    def _status_line(self) -> re.Match[bytes] | None:
        """Return the status line once it is complete; what cannot become one is refused at its earliest bad byte."""
        end = self._buffer.find(b"\n", self._head_start) + 1
        bound = self._head_start + _MAX_STATUS_LINE_BYTES
        prefix = bytes(self._buffer[self._head_start : min(end or len(self._buffer), bound + 1)])
        if prefix[:2] in (b"\x15\x03", b"\x16\x03"):
            raise bad_response(ANSWERED_IN_TLS)
        if prefix in (b"\x15", b"\x16"):
            return None
        if not prefix.startswith(b"HTTP/1."[: len(prefix)]):
            raise bad_response(NOT_HTTP)
        wrong = _NOT_IN_STATUS_LINE.search(prefix)
        if wrong is not None:
            raise bad_response(f"the status line has the byte 0x{wrong.group()[0]:02x}")
        if len(prefix) > _MAX_STATUS_LINE_BYTES:
            raise bad_response(f"the status line is longer than {_MAX_STATUS_LINE_BYTES} bytes")
        if not end:
            return None
        line = _STATUS_LINE.fullmatch(prefix)
        if line is None:
            raise bad_response("the status line is malformed")
        # the same match, but with positions in the buffer
        return _STATUS_LINE.match(bytes(self._buffer[:end]), self._head_start)

    def _finish_head(self, line: re.Match[bytes], end: int) -> None:
        """Read a whole head; a 1xx one is passed over."""
        head = bytes(self._buffer[self._head_start : end])
        status, start = int(line.group(2)), line.end() - self._head_start
        if status == 101:
            try:
                headers = _parse_header_lines(_check_lines(head), start)
            except ValueError as error:
                raise bad_response(f"the backend answered 101, but {error}") from None
        elif status >= 200:
            headers = _readable_header_lines(head[start:])
        else:
            self._interim_count += 1
            if self._interim_count > _MAX_INTERIM_RESPONSES:
                raise bad_response(f"the backend sent more than {_MAX_INTERIM_RESPONSES} interim (1xx) responses")
            self._head_start = self._searched = end
            return
        self._response = _response(line, headers)
        self.trailing_data = bytes(self._buffer[end:])

    def _cut_off(self, line: re.Match[bytes]) -> Response:
        """Return what was read of a response whose head does not end within the limit."""
        status = int(line.group(2))
        if status < 300:  # what follows the head would be lost
            limit = f"{self._max_head_bytes} bytes (limits.max_response_head_bytes)"
            raise bad_response(
                f"the backend answered {status} with a head of more than {limit}", status if status >= 200 else None
            )
        lines = bytes(self._buffer[line.end() : self._max_head_bytes]).rpartition(b"\n")[0]
        return _response(line, _readable_header_lines(lines))


def _check_lines(head: bytes) -> bytes:
    if head.count(b"\n") != head.count(b"\r\n"):
        raise ValueError("a header line ends in LF without CR")
    if head.count(b"\n") > _MAX_SWITCH_HEADERS:
        raise ValueError(f"with more than {_MAX_SWITCH_HEADERS} header lines")
    return head


def _readable_header_lines(lines: bytes) -> Headers:
    """Return those header lines that have a name and a colon, without the others."""
    headers = Headers()
    for line in lines.split(b"\n"):
        name, colon, value = line.rstrip(b"\r").partition(b":")
        if colon and name and not name.translate(None, _FIELD_NAME_BYTES):
            headers.add(name, value)
    return headers


def _response(line: re.Match[bytes], headers: Headers) -> Response:
    reason = (line.group(3) or b"").strip(b" \t").decode("latin-1")
    return Response(int(line.group(2)), reason, headers, line.group(1).decode("ascii"))


_REASON_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    # RFC 9110, section 15.5; HTTPStatus has the phrases of RFC 7231 before Python 3.13
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status, empty if RFC 9110 has none."""
    return _REASON_PHRASES.get(status, "")


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


def encode_response_head(
    status: int,
    headers: Iterable[tuple[str, str]] = (),
    *,
    content_length: int | None = None,
    keep_alive: bool = False,
) -> bytes:
    """Write the head of a response, up to and with the empty line (RFC 9112 section 2.1).

    Args:
        status: 101, or 200 to 599.
        headers: Header lines; a Connection among them is kept as it is.
        content_length: Value of Content-Length; None for a response that has none (101, 204, 304).
        keep_alive: Leave the connection open for another request; else `Connection: close` is added.

    Raises:
        ValueError: A header cannot be written (see `encode_headers`).
    """
    headers = list(headers)
    names = {name.lower() for name, _ in headers}
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}\r\n", *encode_headers(headers)]
    if content_length is not None:
        lines.append(f"Content-Length: {content_length}\r\n")
    if "connection" not in names:
        options = (["Upgrade"] if "upgrade" in names else []) + ([] if keep_alive else ["close"])
        if options:
            lines.append(f"Connection: {', '.join(options)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")
