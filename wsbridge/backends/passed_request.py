"""What of the request of an accepted WebSocket is passed on to a WebSocket backend: headers, Origin, path, query."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from wsbridge.config.base import Credential
from wsbridge.config.unions import PassRules
from wsbridge.protocol.http1 import Request, bad_request
from wsbridge.protocol.uri import PathPattern

_NOT_IN_QUERY: Final = re.compile(r"[^!-~]|#")
_CREDENTIAL_HEADERS: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
_MIN_CREDENTIAL_BYTES: Final = 4
_MIN_VALUE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class PassedRequest:
    """What one client's request adds to the request of the backend.

    Attributes:
        headers: Names and values, in the order of the client.
        origin: The client's Origin; None if it is not passed, or the client sent none.
        path: What follows the prefix of the route in the path, without a leading slash, in normal form.
        query: Parameters, without `?`.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    origin: str | None = None
    path: str = ""
    query: str = field(default="", repr=False)

    def add_to(self, resource: str) -> str:
        """Return path and query of the backend's URL with those of the client.

        Parameters of the URL cannot be repeated by the client, whichever of two the backend would use.
        """
        path, mark, own = resource.partition("?")
        if self.path:
            path = f"{path.removesuffix('/')}/{self.path}"
        fixed = _names(own.replace("&", ";"))
        query = "&".join(part for part in self.query.split("&") if part and not _names(part) & fixed)
        return f"{path}{mark}{own}" + (f"{'&' if own else '' if mark else '?'}{query}" if query else "")

    def secrets(self) -> Iterable[bytes]:
        """Return what must not be logged if the backend repeats it: values of headers, and parts of credentials."""
        for name, value in self.headers:
            data = value.encode("latin-1")
            if name.lower().encode() in _CREDENTIAL_HEADERS:
                parts = re.split(rb"[ ;,]+", data) + [pair.partition(b"=")[2] for pair in data.split(b";")]
                yield from (part.strip() for part in (data, *parts) if len(part.strip()) >= _MIN_CREDENTIAL_BYTES)
            elif len(data) >= _MIN_VALUE_BYTES:
                yield data


class RequestPasser:
    """Takes from requests what a route passes on.

    Args:
        rules: What the backend's section says.
        pattern: Path pattern of the route; None if it matches every path.
        credentials: Where clients show what authenticates them to this route; never passed on unless the rules say so.
    """

    __slots__ = ("_cookies", "_parameters", "_prefix_length", "_rules")

    def __init__(self, rules: PassRules, pattern: PathPattern | None, credentials: Iterable[Credential]) -> None:
        self._rules = rules
        self._prefix_length = 1 if pattern is None else len(literal_prefix(pattern.text))
        kept = [] if rules.credentials else list(credentials)
        self._cookies = {name.encode() for kind, name in kept if kind == "cookie"}
        self._parameters = {name.casefold() for kind, name in kept if kind == "query"}

    def extract(self, request: Request) -> PassedRequest:
        """Return what of a request is passed on.

        Raises:
            Rejected: The request cannot be passed on (400).
        """
        rules, headers = self._rules, request.headers
        for name in rules.headers:
            if headers.has_token(b"connection", name.lower().encode()):
                raise bad_request(f"Connection names the header {name}, which this route passes on")
        lines = [line for name in rules.headers for line in self._header_lines(name, request)]
        origin = headers.get(b"origin") if rules.origin else None
        path, _, query = request.target.partition("?")
        if rules.query and _NOT_IN_QUERY.search(query):
            raise bad_request("the query has characters that must be percent-encoded to be passed on")
        return PassedRequest(
            tuple(lines),
            None if origin is None else origin.decode("latin-1"),
            path[self._prefix_length :] if rules.path else "",
            self._without_credentials(query) if rules.query else "",
        )

    def _header_lines(self, name: str, request: Request) -> Iterable[tuple[str, str]]:
        values = request.headers.get_all(name.lower().encode())
        if len(values) > 1 and name.lower() == "authorization":  # servers differ in which of them they use
            raise bad_request(f"the request has {len(values)} Authorization headers")
        if name.lower() == "cookie":  # one line, which a request in HTTP/1.1 may have (RFC 6265 section 5.4)
            pairs = [pair.strip(b" \t") for value in values for pair in value.split(b";")]
            kept = [pair for pair in pairs if pair and pair.partition(b"=")[0].strip(b" \t") not in self._cookies]
            values = [b"; ".join(kept)] if kept else []
        return [(name, value.decode("latin-1")) for value in values]

    def _without_credentials(self, query: str) -> str:
        return "&".join(part for part in query.split("&") if not _names(part) & self._parameters)


def literal_prefix(pattern: str) -> str:
    """Return the directory that all paths of a pattern have in common: `/a/` for `/a/*`, `/a/{b}` and `/a/b`."""
    return pattern[: pattern.replace("{", "*").find("*") if set(pattern) & set("{*") else pattern.rindex("/") + 1]


def _names(part: str) -> set[str]:
    """Return the names of parameters that a part of a query has for any server: some split at semicolons, too."""
    return {_parameter_name(each) for each in part.split(";") if each}


def _parameter_name(part: str) -> str:
    name = unquote_to_bytes(part.partition("=")[0].replace("+", " ")).decode("utf-8", "replace")
    return name.strip().partition("[")[0].casefold()
