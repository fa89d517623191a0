"""Headers by which proxies report where a request comes from: X-Forwarded-…, Forwarded (RFC 7239) and X-Real-IP.

Lists are read from the right, as far as the proxies are trusted: what is left of the first address that is no trusted
proxy may have been written by the client itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from wsbridge.protocol.http1 import bad_request, quoted
from wsbridge.protocol.ip import unmap
from wsbridge.protocol.uri import split_host

MAX_TRUSTED_PROXIES: Final = 32
"""Trusted proxies of one request."""

_SCHEMES: Final = {b"http": False, b"https": True, b"ws": False, b"wss": True}
"""Schemes that proxies report, and whether they have TLS; Traefik reports ws and wss for WebSocket."""

ForwardedFormat = Literal["x-forwarded-for", "forwarded", "x-real-ip"]

_WORD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[^"\\]|\\.)*+"'
_ELEMENT = re.compile(rb'(?:[^",]|' + _QUOTED + rb")*+", re.DOTALL)
_PAIR = re.compile(rb"[ \t]*+(" + _WORD + rb")=(" + _QUOTED + rb'|[^",;= \t]++)[ \t]*+', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NODE = re.compile(rb"(\[[0-9a-f:.]+\]|[0-9.]+|unknown|_[a-z0-9._-]+)(?::([0-9]{1,5}|_[a-z0-9._-]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PublicName:
    """The host and scheme of a request as its client sent it, reported by a proxy.

    Attributes:
        host: As in a Host header; None where the proxy does not report it.
        https: Whether the client uses https; None where the proxy does not report it.
    """

    host: str | None = None
    https: bool | None = None


NO_PUBLIC_NAME: Final = PublicName()


@dataclass(frozen=True, slots=True)
class ForwardedNode:
    """What a proxy reports of the peer that connected to it.

    Attributes:
        host: IP address in its shortest form, an IPv4 one never mapped; empty where the proxy does not report it.
        port: 0 if it is not reported.
        public_host: `host` of its element of Forwarded, as sent.
        public_proto: `proto` of it.
    """

    host: str
    port: int
    public_host: bytes | None = field(default=None, compare=False)
    public_proto: bytes | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ForwardedChain:
    """The proxies of a request, and its client.

    Attributes:
        client: The client; None where only the nearest proxy is known.
        proxies: Hosts of the trusted proxies between the client and the nearest proxy, nearest last.
    """

    client: ForwardedNode | None
    proxies: tuple[str, ...]


def parse_forwarded(
    form: ForwardedFormat, values: Sequence[bytes], is_trusted: Callable[[str], bool]
) -> ForwardedChain:
    """Find the client of a request that a trusted proxy forwarded.

    Args:
        form: Which header the values are of.
        values: One for each header line, in order.
        is_trusted: Whether a host is a trusted proxy.

    Returns:
        The rightmost host that is no trusted proxy. If all are trusted, the leftmost; if a trusted proxy does not
        report one, that proxy itself.

    Raises:
        Rejected: An entry that counts cannot be read, or the chain is too long.
    """
    if form == "x-real-ip":
        return _parse_x_real_ip(values)
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
    """Read an element of Forwarded: pairs separated by semicolons, of which `for`, `host` and `proto` are used."""
    pairs: dict[bytes, bytes] = {}
    at = 0
    while at < len(entry):
        if entry[at : at + 1] == b";":
            at += 1
            continue
        found = _PAIR.match(entry, at)
        if found is None or entry[found.end() : found.end() + 1] not in (b"", b";"):
            return None
        name = found[1].lower()
        if name in (b"for", b"host", b"proto"):
            if name in pairs:
                return None
            pairs[name] = _ESCAPED.sub(rb"\1", found[2][1:-1]) if found[2].startswith(b'"') else found[2]
        at = found.end()
    node = _parse_node(pairs[b"for"]) if b"for" in pairs else ForwardedNode("", 0)
    return None if node is None else replace(node, public_host=pairs.get(b"host"), public_proto=pairs.get(b"proto"))


def _parse_x_real_ip(values: Sequence[bytes]) -> ForwardedChain:
    """Read the one address of X-Real-IP."""
    if not values:
        return ForwardedChain(None, ())
    node = _parse_address(values[0].strip(b" \t"), b"") if len(values) == 1 else None
    if node is None:
        raise bad_request(f"X-Real-IP is not one address: {quoted(b', '.join(values), 80)}")
    return ForwardedChain(node, ())


def parse_public_name(
    form: ForwardedFormat, get_all: Callable[[bytes], Sequence[bytes]], is_trusted: Callable[[str], bool]
) -> PublicName:
    """Read the host and scheme that a trusted proxy reports: X-Forwarded-Host and -Proto, or those of Forwarded.

    The headers belong to the format by which the proxy reports its client; with X-Real-IP there are none. The client
    could write them, so the proxy must overwrite them.

    Args:
        form: By which header the proxy reports its client.
        get_all: Returns the values of a header, by its name in lower case.
        is_trusted: Whether a host is a trusted proxy.

    Raises:
        Rejected: A header has more than one value or an invalid one.
    """
    if form == "forwarded":
        client = parse_forwarded(form, get_all(b"forwarded"), is_trusted).client
        return NO_PUBLIC_NAME if client is None else _public_name(client.public_host, client.public_proto)
    if form == "x-real-ip":
        return NO_PUBLIC_NAME
    return _public_name(*(_single_value(name, get_all(name)) for name in (b"x-forwarded-host", b"x-forwarded-proto")))


def _single_value(name: bytes, values: Sequence[bytes]) -> bytes | None:
    if len(values) > 1 or any(b"," in value for value in values):
        raise bad_request(f"{name.decode()} has more than one value; the proxy must overwrite it")
    return values[0].strip(b" \t") if values else None


def _public_name(host: bytes | None, proto: bytes | None) -> PublicName:
    https = None if proto is None else _SCHEMES.get(proto.lower())
    if proto is not None and https is None:
        raise bad_request(
            f"the proxy reports the scheme {quoted(proto, 20)}, and only http, https, ws and wss are possible"
        )
    text = None if host is None else host.decode("latin-1")
    if text is not None and split_host(text) is None:
        raise bad_request(f"the proxy reports an invalid host: {quoted(text, 80)}")
    return PublicName(text, https)


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
