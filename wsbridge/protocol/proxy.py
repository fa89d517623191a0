"""PROXY protocol v1/v2 with TLVs, both directions.

No library: the header is small, and each limit on it and reason for a rejection is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from wsbridge.protocol.http1 import quoted
from wsbridge.protocol.ip import ip_text
from wsbridge.reasons import Reason, Rejected

TLV_AUTHORITY: Final = 0x02
"""The server name that the client requested (SNI); UTF-8."""
TLV_CRC32C: Final = 0x03
"""CRC-32C of the whole header, computed with zeros in place of this value."""
TLV_NOOP: Final = 0x04
"""Padding."""
TLV_UNIQUE_ID: Final = 0x05
"""Bytes that name the connection, at most 128."""
TLV_IDENTITY: Final = 0xE0
"""The client's identity; UTF-8. One of the types that the specification leaves to applications."""

MAX_TLVS: Final = 128
"""TLVs in one header."""
MAX_AUTHORITY_BYTES: Final = 255
"""Bytes of an AUTHORITY."""
MAX_UNIQUE_ID_BYTES: Final = 128
"""Bytes of a UNIQUE_ID."""

_SINGLE_TLVS: Final = frozenset((TLV_AUTHORITY, TLV_CRC32C, TLV_UNIQUE_ID, TLV_IDENTITY))
_TLV_NAMES: Final = {TLV_AUTHORITY: "AUTHORITY", TLV_CRC32C: "CRC32C", TLV_UNIQUE_ID: "UNIQUE_ID", TLV_IDENTITY: "0xe0"}
_CRC_POLYNOMIAL: Final = 0x82F63B78


def _crc_table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_CRC_POLYNOMIAL if value & 1 else 0)
    return value


_CRC_TABLE: Final = tuple(_crc_table_entry(value) for value in range(256))


def crc32c(data: bytes) -> int:
    """Compute CRC-32C (RFC 3720 appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def bad_proxy_header(detail: str) -> Rejected:
    """Return the rejection for a PROXY header that breaks a rule, or for other bytes in its place."""
    return Rejected(Reason.BAD_PROXY_HEADER, detail)


def _malformed(detail: str) -> Rejected:
    return bad_proxy_header(f"a PROXY header is malformed: {detail}")


def parse_tlvs(header: bytes, start: int) -> dict[int, bytes]:
    """Read the TLVs of a header.

    Args:
        header: All of it.
        start: Where they begin.

    Returns:
        Values by type, padding left out, the first of a type that may appear more than once.

    Raises:
        Rejected: They are malformed.
    """
    found: dict[int, bytes] = {}
    at, count = start, 0
    while at < len(header):
        count += 1
        if count > MAX_TLVS:
            raise _malformed(f"it has more than {MAX_TLVS} TLVs")
        if len(header) - at < 3:
            raise _malformed(f"its last TLV has {len(header) - at} bytes of a head of 3")
        kind, size = header[at], int.from_bytes(header[at + 1 : at + 3], "big")
        value = header[at + 3 : at + 3 + size]
        if len(value) < size:
            raise _malformed(f"a TLV of type 0x{kind:02x} has {len(value)} of its {size} bytes")
        if kind in found and kind in _SINGLE_TLVS:
            raise _malformed(f"it has two TLVs {_TLV_NAMES[kind]}")
        wrong = _check_tlv(header, kind, value, at + 3)
        if wrong:
            raise _malformed(wrong)
        if kind != TLV_NOOP:
            found.setdefault(kind, value)
        at += 3 + size
    return found


def _check_tlv(header: bytes, kind: int, value: bytes, at: int) -> str:
    """Return what is wrong with one value, empty if nothing is."""
    if kind == TLV_CRC32C:
        if len(value) != 4:
            return f"its CRC32C has {len(value)} bytes, not 4"
        if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
            return "its CRC32C is wrong"
    elif kind == TLV_UNIQUE_ID and len(value) > MAX_UNIQUE_ID_BYTES:
        return f"its UNIQUE_ID has {len(value)} bytes, more than {MAX_UNIQUE_ID_BYTES}"
    elif kind == TLV_AUTHORITY:
        if len(value) > MAX_AUTHORITY_BYTES:
            return f"its AUTHORITY has {len(value)} bytes, more than {MAX_AUTHORITY_BYTES}"
        if _decode_tlv_text(value) is None:
            return "its AUTHORITY is not text"
    elif kind == TLV_IDENTITY and _decode_tlv_text(value) is None:
        return "its TLV 0xe0 is not text"
    return ""


def _decode_tlv_text(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def encode_tlvs(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    """Write TLVs; none may be longer than 65,535 bytes."""
    return b"".join(bytes((kind,)) + len(value).to_bytes(2, "big") + value for kind, value in tlvs)


V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""The first bytes of version 2."""
MAX_V1_BYTES: Final = 107
"""Bytes of a header of version 1, its line end counted."""
V2_FIXED_BYTES: Final = 16
"""Bytes of version 2 before its addresses."""
FAMILY_UNIX: Final = 0x31
"""Family and transport of a Unix stream socket in version 2."""
UNIX_PATH_BYTES: Final = 108
"""Bytes that version 2 has for the path of a Unix socket."""
ADDRESS_BLOCK_BYTES: Final = {0x00: 0, 0x11: 12, 0x21: 36, FAMILY_UNIX: 2 * UNIX_PATH_BYTES}
"""Bytes of both addresses, by family and transport: unspecified, TCP over IPv4, TCP over IPv6, Unix stream."""

_V1_PREFIX: Final = b"PROXY "
_NOT_PRINTABLE = re.compile(rb"[^ -~]")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class SockEndpoint:
    """One end of a connection.

    Attributes:
        host: IPv4 or IPv6 address, in its shortest form; empty for a Unix socket.
        port: 0 to 65535; 0 for a Unix socket.
        path: Path of a Unix socket; empty if it has none.
    """

    host: str
    port: int
    path: bytes = b""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy reports of one connection.

    Attributes:
        version: 1 or 2.
        source: Address of the client; None for connections of the proxy itself (LOCAL, such as health checks) and where
            it is not reported (UNKNOWN).
        destination: Address that the client connected to; None as above.
        tlvs: Further values by type; none in version 1.
    """

    version: int
    source: SockEndpoint | None = None
    destination: SockEndpoint | None = None
    tlvs: dict[int, bytes] = field(default_factory=dict)

    @property
    def server_name(self) -> str:
        """The server name that the client requested (SNI); empty if it is not reported."""
        return self.tlvs.get(TLV_AUTHORITY, b"").decode()


class ProxyHeaderParser:
    """Reads one header, however its bytes are cut.

    Args:
        limit: Bytes that a header of version 2 may have.

    Attributes:
        result: The header; None until it is complete.
    """

    __slots__ = ("_consumed", "_limit", "result")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._consumed = b""
        self.result: ProxyHeader | None = None

    @property
    def consumed_bytes(self) -> int:
        """Bytes of the header so far."""
        return len(self._consumed)

    def feed(self, chunk: bytes) -> int:
        """Read bytes that follow those consumed before.

        Returns:
            How many of them belong to the header, and are consumed.

        Raises:
            Rejected: The bytes are not a valid header.
        """
        data = self._consumed + chunk
        common = _common_prefix_length(data, V2_SIGNATURE)
        end = self._parse_v2(data) if common in (len(data), len(V2_SIGNATURE)) else self._parse_v1(data)
        taken = max(0, end - len(self._consumed))
        self._consumed = data[: len(self._consumed) + taken]
        return taken

    def _parse_v1(self, data: bytes) -> int:
        """Read version 1; return where the header ends, as far as it has arrived."""
        common = _common_prefix_length(data, _V1_PREFIX)
        if common < min(len(data), len(_V1_PREFIX)):
            hint = ", as TLS does" if data[0] == 0x16 else ""
            raise bad_proxy_header(f"no PROXY header: it begins with {quoted(data[: common + 1])}{hint}")
        line = data[:MAX_V1_BYTES]
        odd = _NOT_PRINTABLE.search(line)
        if odd is None:
            if len(line) == MAX_V1_BYTES:
                raise bad_proxy_header(f"the PROXY line does not end within {MAX_V1_BYTES} bytes")
            return len(line)
        at = odd.start()
        if odd[0] == b"\r" and at + 1 == len(line) < MAX_V1_BYTES:
            return len(line)
        if line[at : at + 2] != b"\r\n":
            raise bad_proxy_header(f"the PROXY line has the byte 0x{line[at]:02x}")
        self.result = _parse_v1_line(line[:at].decode("ascii"))
        return at + 2

    def _parse_v2(self, data: bytes) -> int:
        """Read version 2; return where the header ends, as far as it has arrived."""
        if len(data) < V2_FIXED_BYTES:
            return len(data)
        size = V2_FIXED_BYTES + int.from_bytes(data[14:V2_FIXED_BYTES], "big")
        if size > self._limit:
            raise bad_proxy_header(f"a PROXY header of {size} bytes, and the limit is {self._limit}")
        if len(data) >= size:
            self.result = _parse_v2_header(data[:size])
        return min(size, len(data))


def _common_prefix_length(data: bytes, start: bytes) -> int:
    """Count the bytes in which data begins as `start` does."""
    count = 0
    for one, other in zip(data, start, strict=False):
        if one != other:
            break
        count += 1
    return count


def _parse_v1_line(line: str) -> ProxyHeader:
    """Read a line of version 1, without its end."""
    parts = line.split(" ")
    if parts[1] == "UNKNOWN":  # what follows must be ignored
        return ProxyHeader(1)
    if parts[1] not in ("TCP4", "TCP6"):
        raise bad_proxy_header(f"the PROXY line names the protocol {quoted(parts[1])}, not TCP4, TCP6 or UNKNOWN")
    if len(parts) != 6:
        raise bad_proxy_header(f"the PROXY line has {len(parts)} fields, not 6")
    places: list[SockEndpoint] = []
    for host, port in ((parts[2], parts[4]), (parts[3], parts[5])):
        address = _parse_v1_address(host, parts[1])
        if address is None:
            raise bad_proxy_header(f"the PROXY line has the {parts[1]} address {quoted(host)}")
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise bad_proxy_header(f"the PROXY line has the port {quoted(port)}")
        places.append(SockEndpoint(address, int(port)))
    return ProxyHeader(1, places[0], places[1])


def _parse_v1_address(text: str, protocol: str) -> str | None:
    """Return an address in its shortest form; None if it is not one of that protocol."""
    try:
        return ip_text(IPv4Address(text) if protocol == "TCP4" else IPv6Address("" if "%" in text else text))
    except ValueError:
        return None


def _parse_v2_header(data: bytes) -> ProxyHeader:
    """Read a whole header of version 2."""
    version, command, family = data[12] >> 4, data[12] & 0x0F, data[13]
    if version != 2:
        raise bad_proxy_header(f"a PROXY header of version {version} behind the signature of version 2")
    if command > 1:
        raise bad_proxy_header(f"a PROXY header with the command {command}, not LOCAL or PROXY")
    if command == 0 or family == 0:  # what follows must be ignored
        return ProxyHeader(2)
    size = ADDRESS_BLOCK_BYTES.get(family)
    if size is None:
        raise bad_proxy_header(f"a PROXY header for the family and transport 0x{family:02x}, which is not a stream")
    if len(data) < V2_FIXED_BYTES + size:
        raise bad_proxy_header(f"a PROXY header with {len(data) - V2_FIXED_BYTES} of {size} bytes of addresses")
    tlvs = parse_tlvs(data, V2_FIXED_BYTES + size)
    block = data[V2_FIXED_BYTES : V2_FIXED_BYTES + size]
    if family == FAMILY_UNIX:
        paths = (block[:UNIX_PATH_BYTES].rstrip(b"\0"), block[UNIX_PATH_BYTES:].rstrip(b"\0"))
        return ProxyHeader(2, SockEndpoint("", 0, paths[0]), SockEndpoint("", 0, paths[1]), tlvs)
    width = (size - 4) // 2
    hosts = (ip_text(_unpack_address(block[:width])), ip_text(_unpack_address(block[width : 2 * width])))
    ports = (int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big"))
    return ProxyHeader(2, SockEndpoint(hosts[0], ports[0]), SockEndpoint(hosts[1], ports[1]), tlvs)


def _unpack_address(address: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(address) if len(address) == 4 else IPv6Address(address)


MAX_IDENTITY_BYTES: Final = 1024
"""Bytes of an identity in UTF-8; a longer one is omitted, since a part of a name is another name."""

_COMMAND_LOCAL: Final = 0x20
_COMMAND_PROXY: Final = 0x21


def encode_proxy_v1(source: SockEndpoint | None, destination: SockEndpoint | None) -> bytes:
    """Write version 1. It has no Unix sockets: for those, and without a client, it is UNKNOWN."""
    ends = _ip_endpoints(source, destination)
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (one, one_port), (other, other_port) = ends
    return f"PROXY TCP{one.version} {one} {other} {one_port} {other_port}\r\n".encode("ascii")


def encode_proxy_v2(
    source: SockEndpoint | None,
    destination: SockEndpoint | None,
    *,
    server_name: str = "",
    unique_id: bytes = b"",
    identity: str = "",
) -> bytes:
    """Write version 2, with a checksum at its end.

    Args:
        source: Address of the client; None writes LOCAL.
        destination: Address that it connected to; one of another family is written as far as that of the source allows.
        server_name: The server name that it requested (SNI); empty omits it.
        unique_id: Identifies the connection, at most 128 bytes; empty omits it.
        identity: The client's identity; empty, or longer than `MAX_IDENTITY_BYTES`, omits it.
    """
    ends = _ip_endpoints(source, destination)
    if ends is not None:
        (one, one_port), (other, other_port) = ends
        family = 0x11 if one.version == 4 else 0x21
        block = one.packed + other.packed + one_port.to_bytes(2, "big") + other_port.to_bytes(2, "big")
    elif source is not None:
        family = FAMILY_UNIX
        paths = (source.path, b"" if destination is None else destination.path)
        block = b"".join(path[:UNIX_PATH_BYTES].ljust(UNIX_PATH_BYTES, b"\0") for path in paths)
    else:
        family, block = 0, b""
    more = (
        (TLV_AUTHORITY, server_name.encode()),
        (TLV_UNIQUE_ID, unique_id),
        (TLV_IDENTITY, identity.encode("utf-8", "replace")),
    )
    longest = (MAX_AUTHORITY_BYTES, MAX_UNIQUE_ID_BYTES, MAX_IDENTITY_BYTES)
    tlvs = [tlv for tlv, most in zip(more, longest, strict=True) if 0 < len(tlv[1]) <= most]
    body = block + encode_tlvs([*tlvs, (TLV_CRC32C, bytes(4))])
    command = _COMMAND_LOCAL if source is None else _COMMAND_PROXY
    header = V2_SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body
    return header[:-4] + crc32c(header).to_bytes(4, "big")


_IpEndpoint = tuple[IPv4Address | IPv6Address, int]


def _ip_endpoints(
    source: SockEndpoint | None, destination: SockEndpoint | None
) -> tuple[_IpEndpoint, _IpEndpoint] | None:
    """Return both ends in the family of the source; None if that is no IP address.

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
