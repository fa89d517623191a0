"""Head: a request's or a response's head as values, or what is wrong with it.

Lives here: the values that go from step to step, their limits, and the one way to show a peer's text. Must not live
here: reading them from bytes (`http1`) or judging what they ask for (`handshake`, `origin`, routes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["tls_on_plain", "http_on_tls"]


@dataclass(slots=True, frozen=True)
class HeadLimits:
    """How large a head may be; more is answered with 431.

    Attributes:
        total: Bytes of the whole head, with its last empty line (of all heads of one answer, 1xx counted in).
        line: Bytes of one line, with its line end.
        headers: Header lines.
    """

    total: int = 16384
    line: int = 8192
    headers: int = 100


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
    """A request that kept all rules of `http1`: GET, HEAD or POST, origin-form, HTTP/1.1, one Host, no body."""

    __slots__ = ("headers", "method", "target", "version")

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers

    @property
    def path(self) -> str:
        """The target before `?`, as sent."""
        return self.target.partition("?")[0]

    def host(self) -> str:
        """Give the Host header as sent, with its port; its syntax is known to be right."""
        return (self.headers.get(b"host") or b"").decode("ascii")

    @property
    def keep_alive(self) -> bool:
        """Whether the peer means to send another request (RFC 9112 section 9.3)."""
        return not self.headers.has_token(b"connection", b"close")

    def __repr__(self) -> str:
        return f"Request({self.method} {shown(self.path)})"


class Response:
    """The final response of an upstream, with any status and any headers."""

    __slots__ = ("headers", "reason", "status", "version")

    def __init__(self, status: int, reason: str, headers: Headers, version: str = "1.1") -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.version = version

    def __repr__(self) -> str:
        return f"Response({self.status} {shown(self.reason)})"


@dataclass(slots=True)
class BadHead:
    """A head that broke a rule, or an answer that is no success: a value, never an exception.

    Attributes:
        status: HTTP status to answer with. For an upstream's mistakes and refusals always 502.
        text: One sentence for the log and the body of the answer; escaped, and without secrets.
        kind: What the peer seems to speak instead.
        headers: Header lines that the answer must carry.
        upstream_status: The status of an upstream that answered with another than 101.
    """

    status: int
    text: str
    kind: Kind | None = None
    headers: tuple[tuple[str, str], ...] = ()
    upstream_status: int | None = None


def method_refused(method: str, allowed: Sequence[str]) -> BadHead:
    """Give the 405 for a method that is none of those allowed (RFC 9110 section 15.5.6)."""
    first, last = ", ".join(allowed[:-1]), allowed[-1]
    text = f"the method is {method}, not {first} or {last}" if first else f"the method is {method}, not {last}"
    return BadHead(405, text, headers=(("Allow", ", ".join(allowed)),))


def shown(value: str | bytes, limit: int = 200, quote: str = '"') -> str:
    r"""Make a peer's text fit for a log line or an answer: printable ASCII, the rest as \xNN, cut, within quotes."""
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value[:limit])
    text = "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02x}" for c in raw[:limit])
    return f"{quote}{text}{'...' if len(value) > limit else ''}{quote}"
