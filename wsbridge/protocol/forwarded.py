"""X-Forwarded-For and Forwarded (RFC 7239), read from the right as far as the proxies are trusted.

What is left of the first address that is not a trusted proxy may have been written by the client and is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from wsbridge.protocol.http1 import bad_request, quoted
from wsbridge.protocol.ip import unmap

MAX_TRUSTED_PROXIES: Final = 32
"""Trusted proxies of one request."""

ForwardedFormat = Literal["x-forwarded-for", "forwarded"]

_WORD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[^"\\]|\\.)*+"'
_ELEMENT = re.compile(rb'(?:[^",]|' + _QUOTED + rb")*+", re.DOTALL)
_PAIR = re.compile(rb"[ \t]*+(" + _WORD + rb")=(" + _QUOTED + rb'|[^",;= \t]++)[ \t]*+', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NODE = re.compile(rb"(\[[0-9a-f:.]+\]|[0-9.]+|unknown|_[a-z0-9._-]+)(?::([0-9]{1,5}|_[a-z0-9._-]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ForwardedNode:
    """One end that a proxy saw.

    Attributes:
        host: IP address in its shortest form, an IPv4 one never mapped; empty if the proxy does not report it.
        port: 0 if it is not reported.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ForwardedChain:
    """The proxies that a request passed.

    Attributes:
        client: The client; None if only the nearest proxy is known.
        proxies: Hosts of the trusted proxies between the client and the nearest proxy, nearest last.
    """

    client: ForwardedNode | None
    proxies: tuple[str, ...]


def parse_forwarded(
    form: ForwardedFormat, values: Sequence[bytes], is_trusted: Callable[[str], bool]
) -> ForwardedChain:
    """Find the client of a request that a trusted proxy passed on.

    Args:
        form: Which header the values are of.
        values: One for each header line, in order.
        is_trusted: Returns whether a host is a trusted proxy.

    Returns:
        The rightmost host that is no trusted proxy. If all are trusted, the leftmost; if a trusted proxy reports none,
        that proxy itself.

    Raises:
        Rejected: An entry that counts cannot be read, or the chain is too long.
    """
    read = _parse_x_forwarded_for if form == "x-forwarded-for" else _parse_element
    name = "X-Forwarded-For" if form == "x-forwarded-for" else "Forwarded"
    hops: list[ForwardedNode] = []
    for entry in _entries_reversed(form, values):
        hop = None if entry is None else read(entry)
        if hop is None:
            raise bad_request(f"{name} cannot be read" + (f": {quoted(entry, 80)}" if entry else ": a quote is open"))
        if not hop.host:
            break
        hops.append(hop)
        if not is_trusted(hop.host):
            break
        if len(hops) > MAX_TRUSTED_PROXIES:
            raise bad_request(f"{name} names more than {MAX_TRUSTED_PROXIES} trusted proxies")
    if not hops:
        return ForwardedChain(None, ())
    return ForwardedChain(hops[-1], tuple(hop.host for hop in reversed(hops[:-1])))


def _entries_reversed(form: ForwardedFormat, values: Sequence[bytes]) -> Iterator[bytes | None]:
    """Return the entries of all lines, last first, empty ones left out; None for a line that has no end."""
    for value in reversed(values):
        parts = value.split(b",") if form == "x-forwarded-for" else _split_elements(value)
        if parts is None:
            yield None
            return
        yield from (part for part in map(_strip_spaces, reversed(parts)) if part)


def _strip_spaces(part: bytes) -> bytes:
    return part.strip(b" \t")


def _split_elements(value: bytes) -> list[bytes] | None:
    """Cut a line at the commas outside of quotes; None if a quote is left open."""
    parts: list[bytes] = []
    at = 0
    while True:
        found = _ELEMENT.match(value, at)
        assert found is not None  # noqa: S101 (it matches nothing, too)
        parts.append(found[0])
        at = found.end()
        if at == len(value):
            return parts
        if value[at : at + 1] != b",":
            return None
        at += 1


def _parse_x_forwarded_for(entry: bytes) -> ForwardedNode | None:
    """Read an entry of X-Forwarded-For: an address, with or without port; a bare IPv6 one as well."""
    if entry.count(b":") > 1 and not entry.startswith(b"["):
        return _parse_address(entry, b"")
    return _parse_node(entry)


def _parse_element(entry: bytes) -> ForwardedNode | None:
    """Read an element of Forwarded: pairs with semicolons between them, of which one is `for`."""
    node: bytes | None = None
    at = 0
    while at < len(entry):
        if entry[at : at + 1] == b";":
            at += 1
            continue
        found = _PAIR.match(entry, at)
        if found is None or entry[found.end() : found.end() + 1] not in (b"", b";"):
            return None
        if found[1].lower() == b"for":
            if node is not None:
                return None
            node = _ESCAPED.sub(rb"\1", found[2][1:-1]) if found[2].startswith(b'"') else found[2]
        at = found.end()
    return ForwardedNode("", 0) if node is None else _parse_node(node)


def _parse_node(node: bytes) -> ForwardedNode | None:
    """Read a node (RFC 7239 section 6)."""
    found = _NODE.fullmatch(node)
    if found is None:
        return None
    if found[1].startswith(b"_") or found[1].lower() == b"unknown":
        return ForwardedNode("", 0)
    return _parse_address(
        found[1].removeprefix(b"[").removesuffix(b"]"), found[2] or b"", bracketed=found[1].startswith(b"[")
    )


def _parse_address(host: bytes, port: bytes, *, bracketed: bool | None = None) -> ForwardedNode | None:
    try:
        address: IPv4Address | IPv6Address = ip_address(host.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None or bracketed is False:
            return None
        address = unmap(address)
    elif bracketed:
        return None
    number = int(port) if port.isdigit() else 0
    return ForwardedNode(str(address), number) if number <= 65535 else None
