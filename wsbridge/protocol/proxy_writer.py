"""Writing PROXY headers, as the side that knows the client.

Lives here: both versions from plain values. Must not live here: reading them (`proxy_header`), which client it is.
Source: "The PROXY protocol, versions 1 & 2" of HAProxy, sections 2.1 and 2.2.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from wsbridge.protocol import proxy_tlv
from wsbridge.protocol.proxy_header import FAMILY_UNIX, SIGNATURE, UNIX_PATH, Place

LONGEST_IDENTITY: Final = 1024
"""Bytes of an identity in UTF-8; a longer one is left out, for a part of a name is another name."""

_LOCAL: Final = 0x20
_PROXY: Final = 0x21


def write_v1(source: Place | None, destination: Place | None) -> bytes:
    """Write version 1. It knows no Unix sockets: for those, and for no client, it is UNKNOWN."""
    ends = _ends(source, destination)
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (one, one_port), (other, other_port) = ends
    return f"PROXY TCP{one.version} {one} {other} {one_port} {other_port}\r\n".encode("ascii")


def write_v2(
    source: Place | None,
    destination: Place | None,
    *,
    server_name: str = "",
    unique_id: bytes = b"",
    identity: str = "",
) -> bytes:
    """Write version 2, with a checksum at its end.

    Args:
        source: Where the client comes from; None writes LOCAL.
        destination: What it connected to; None, or one of another family than the client's, as far as it can be said.
        server_name: The name that it asked for; empty leaves it out.
        unique_id: Names the connection, at most 128 bytes; empty leaves it out.
        identity: Who the client is; empty, or longer than `LONGEST_IDENTITY`, leaves it out.
    """
    ends = _ends(source, destination)
    if ends is not None:
        (one, one_port), (other, other_port) = ends
        family = 0x11 if one.version == 4 else 0x21
        block = one.packed + other.packed + one_port.to_bytes(2, "big") + other_port.to_bytes(2, "big")
    elif source is not None:
        family = FAMILY_UNIX
        paths = (source.path, b"" if destination is None else destination.path)
        block = b"".join(path[:UNIX_PATH].ljust(UNIX_PATH, b"\0") for path in paths)
    else:
        family, block = 0, b""
    more = (
        (proxy_tlv.AUTHORITY, server_name.encode()),
        (proxy_tlv.UNIQUE_ID, unique_id),
        (proxy_tlv.IDENTITY, identity.encode("utf-8", "replace")),
    )
    longest = (proxy_tlv.LONGEST_NAME, proxy_tlv.LONGEST_ID, LONGEST_IDENTITY)
    tlvs = [tlv for tlv, most in zip(more, longest, strict=True) if 0 < len(tlv[1]) <= most]
    body = block + proxy_tlv.write([*tlvs, (proxy_tlv.CRC32C, bytes(4))])
    command = _LOCAL if source is None else _PROXY
    header = SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body
    return header[:-4] + proxy_tlv.crc32c(header).to_bytes(4, "big")


_End = tuple[IPv4Address | IPv6Address, int]


def _ends(source: Place | None, destination: Place | None) -> tuple[_End, _End] | None:
    """Give both ends in the family of the source; None if that is no IP address.

    An IPv4 destination of an IPv6 source is mapped; any other that does not fit is the family's zero address.
    """
    if source is None or not source.host:
        return None
    one = ip_address(source.host.partition("%")[0])
    other: IPv4Address | IPv6Address = IPv4Address(0) if one.version == 4 else IPv6Address(0)
    port = 0
    if destination is not None and destination.host:
        port = destination.port
        written = ip_address(destination.host.partition("%")[0])
        if written.version == one.version:
            other = written
        elif isinstance(written, IPv4Address):
            other = IPv6Address(0xFFFF << 32 | int(written))
        elif written.ipv4_mapped is not None:
            other = written.ipv4_mapped
    return (one, source.port), (other, port)
