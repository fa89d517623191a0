"""Origin: may the page that opens this connection do so (RFC 6455 section 10.2).

Lives here: the rule `same`, lists, and what a refusal tells the operator. Must not live here: Host rules (`target`),
authentication. Fed with the headers as sent; gives None or the text for the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from wsbridge.protocol.head import shown
from wsbridge.protocol.target import split_host

_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]+)")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LONGEST = 1024

Written = tuple[str, str, int | None]


def parse_origin(text: str) -> Written | None:
    """Take a serialised origin apart (RFC 6454 section 6.2).

    Returns:
        Scheme and host in lower case and the port, the default one of http and https filled in; None if the text is
        not exactly `scheme://host[:port]` (so `null` gives None, too).
    """
    found = _ORIGIN.fullmatch(text) if len(text) <= _LONGEST else None
    authority = None if found is None else split_host(found.group(2))
    if found is None or authority is None:
        return None
    scheme = found.group(1).lower()
    host, port = authority
    return scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else port


class Origins:
    """Which origins a route takes.

    Args:
        allowed: `same` (the page comes from the host and port that it connects to), `any`, or a list of origins such
            as `https://gw.example.org`, compared exactly after normalising case and default ports; the list may
            hold `null`, the origin of sandboxed frames and local files.

    Raises:
        ValueError: An entry of the list is not an origin; the message says what one looks like.
    """

    __slots__ = ("_any", "_list", "_null")

    def __init__(self, allowed: Literal["same", "any"] | Sequence[str]) -> None:
        self._any = allowed == "any"
        self._null = False
        self._list: frozenset[Written] | None = None
        if allowed in ("same", "any"):
            return
        entries = set()
        for text in [allowed] if isinstance(allowed, str) else allowed:
            if text == "null":
                self._null = True
                continue
            parsed = parse_origin(text)
            if parsed is None:
                raise ValueError(
                    f"{text!a} is not an origin: write scheme://host or scheme://host:port, without a path"
                    " (international names in their xn-- form)"
                )
            entries.add(parsed)
        self._list = frozenset(entries)

    def allows(self, origin: str | None, host_header: str, tls: bool) -> str | None:
        """Judge one request.

        Args:
            origin: The Origin header as sent; None if there was none: no browser, which passes.
            host_header: The Host header as sent, with its port.
            tls: Whether the listener speaks TLS. On a plain one the scheme is not compared, for TLS may end in front.

        Returns:
            None if it may pass, or the refusal: both values and what to write into the configuration.
        """
        if origin is None or self._any:
            return None
        parsed = parse_origin(origin)
        if self._list is not None:
            if parsed in self._list or (self._null and origin == "null"):
                return None
            return (
                f"Origin {shown(origin)} is not in the route's origins (Host {shown(host_header)}); {_remedy(origin)}"
            )
        host = split_host(host_header)
        if parsed is None or host is None or parsed[0] not in _DEFAULT_PORTS:
            return f"Origin {shown(origin)} is not the same as Host {shown(host_header)}; {_remedy(origin)}"
        port = _DEFAULT_PORTS[parsed[0]] if host[1] is None else host[1]
        if (parsed[1], parsed[2]) != (host[0], port):
            return (
                f"Origin {shown(origin)} is not the same as Host {shown(host_header)}; {_remedy(origin)}"
                " (or have a proxy in front pass the Host header on unchanged)"
            )
        if tls and parsed[0] != "https":
            return (
                f"Origin {shown(origin)} is not https, but the listener of Host {shown(host_header)} is;"
                f" {_remedy(origin)}"
            )
        return None


def _remedy(origin: str) -> str:
    """Say what to write so that this origin passes."""
    if origin == "null" or parse_origin(origin) is not None:
        return f'to let it in, add it to the route: origins: ["{shown(origin, quote="")}"]'
    return "it is not a valid origin, so only `origins: any` would let it in"
