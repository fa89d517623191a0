"""The PROXY header: what a proxy says of its client before the client's first byte.

Lives here: the value, and reading versions 1 and 2 from bytes as they come, without a byte past the header's end, where
TLS may begin. Must not live here: TLVs (`proxy_tlv`), writing (`proxy_writer`), whose word is taken. Source: "The PROXY
protocol, versions 1 & 2" of HAProxy, sections 2.1 and 2.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from wsbridge.protocol import proxy_tlv
from wsbridge.protocol.head import shown

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""The first bytes of version 2."""
LONGEST_LINE: Final = 107
"""Bytes of a header of version 1, its line end counted."""
FIXED: Final = 16
"""Bytes of version 2 before its addresses."""
FAMILY_UNIX: Final = 0x31
"""Family and transport of a Unix stream socket in version 2."""
UNIX_PATH: Final = 108
"""Bytes that version 2 has for the path of a Unix socket."""
ADDRESS_SIZES: Final = {0x00: 0, 0x11: 12, 0x21: 36, FAMILY_UNIX: 2 * UNIX_PATH}
"""Bytes of both addresses, by family and transport: unspecified, TCP over IPv4, TCP over IPv6, Unix stream."""

_BEGIN: Final = b"PROXY "
_NOT_PRINTABLE = re.compile(rb"[^ -~]")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Place:
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
    """What a proxy says of one connection.

    Attributes:
        version: 1 or 2.
        source: Where the client comes from; None where the proxy speaks for itself (LOCAL, as health checks do) or does
            not say (UNKNOWN).
        destination: What the client connected to; None as above.
        tlvs: What else is said, by type (`proxy_tlv`); nothing in version 1.
    """

    version: int
    source: Place | None = None
    destination: Place | None = None
    tlvs: dict[int, bytes] = field(default_factory=dict)

    @property
    def server_name(self) -> str:
        """The name that the client asked the proxy for; empty if it is not said."""
        return self.tlvs.get(proxy_tlv.AUTHORITY, b"").decode()


@dataclass(frozen=True, slots=True)
class BadProxyHeader:
    """A header that breaks a rule, or is none: a value, never an exception.

    Attributes:
        text: One sentence for the log.
    """

    text: str


class ProxyHeaderReader:
    """Reads one header, however its bytes are cut.

    Args:
        limit: Bytes that a header of version 2 may have.

    Attributes:
        outcome: The header or what is wrong with it; None until that is known.
    """

    __slots__ = ("_have", "_limit", "outcome")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._have = b""
        self.outcome: ProxyHeader | BadProxyHeader | None = None

    @property
    def got(self) -> int:
        """Bytes taken so far."""
        return len(self._have)

    def feed(self, seen: bytes) -> int:
        """Look at bytes that follow those taken before.

        Returns:
            How many of them belong to the header; those are taken. What a header with a mistake takes says nothing.
        """
        data = self._have + seen
        common = _common(data, SIGNATURE)
        end = self._second(data) if common in (len(data), len(SIGNATURE)) else self._first(data)
        taken = max(0, end - len(self._have))
        self._have = data[: len(self._have) + taken]
        return taken

    def _first(self, data: bytes) -> int:
        """Read version 1; give where the header ends, as far as it is here."""
        common = _common(data, _BEGIN)
        if common < min(len(data), len(_BEGIN)):
            hint = ", as TLS does" if data[0] == 0x16 else ""
            self.outcome = BadProxyHeader(f"no PROXY header: it begins with {shown(data[: common + 1])}{hint}")
            return common
        line = data[:LONGEST_LINE]
        odd = _NOT_PRINTABLE.search(line)
        if odd is None:
            if len(line) == LONGEST_LINE:
                self.outcome = BadProxyHeader(f"the PROXY line does not end within {LONGEST_LINE} bytes")
            return len(line)
        at = odd.start()
        if odd[0] == b"\r" and at + 1 == len(line) < LONGEST_LINE:
            return len(line)
        if line[at : at + 2] != b"\r\n":
            self.outcome = BadProxyHeader(f"the PROXY line has the byte 0x{line[at]:02x}")
            return at
        self.outcome = _parse(line[:at].decode("ascii"))
        return at + 2

    def _second(self, data: bytes) -> int:
        """Read version 2; give where the header ends, as far as it is here."""
        if len(data) < FIXED:
            return len(data)
        size = FIXED + int.from_bytes(data[14:FIXED], "big")
        if size > self._limit:
            self.outcome = BadProxyHeader(f"a PROXY header of {size} bytes, and the limit is {self._limit}")
            return FIXED
        if len(data) >= size:
            self.outcome = _decode(data[:size])
        return min(size, len(data))


def _common(data: bytes, start: bytes) -> int:
    """Count the bytes in which data begins as `start` does."""
    count = 0
    for one, other in zip(data, start, strict=False):
        if one != other:
            break
        count += 1
    return count


def _parse(line: str) -> ProxyHeader | BadProxyHeader:
    """Read a line of version 1, without its end."""
    parts = line.split(" ")
    if parts[1] == "UNKNOWN":  # what follows must be ignored
        return ProxyHeader(1)
    if parts[1] not in ("TCP4", "TCP6"):
        return BadProxyHeader(f"the PROXY line names the protocol {shown(parts[1])}, not TCP4, TCP6 or UNKNOWN")
    if len(parts) != 6:
        return BadProxyHeader(f"the PROXY line has {len(parts)} fields, not 6")
    places: list[Place] = []
    for host, port in ((parts[2], parts[4]), (parts[3], parts[5])):
        address = _address(host, parts[1])
        if address is None:
            return BadProxyHeader(f"the PROXY line has the {parts[1]} address {shown(host)}")
        if not _PORT.fullmatch(port) or int(port) > 65535:
            return BadProxyHeader(f"the PROXY line has the port {shown(port)}")
        places.append(Place(address, int(port)))
    return ProxyHeader(1, places[0], places[1])


def _address(text: str, protocol: str) -> str | None:
    """Give an address in its shortest form; None if it is none of that protocol."""
    try:
        return str(IPv4Address(text) if protocol == "TCP4" else IPv6Address("" if "%" in text else text))
    except ValueError:
        return None


def _decode(data: bytes) -> ProxyHeader | BadProxyHeader:
    """Read a whole header of version 2."""
    version, command, family = data[12] >> 4, data[12] & 0x0F, data[13]
    if version != 2:
        return BadProxyHeader(f"a PROXY header of version {version} behind the signature of version 2")
    if command > 1:
        return BadProxyHeader(f"a PROXY header with the command {command}, not LOCAL or PROXY")
    if command == 0 or family == 0:  # what follows must be ignored
        return ProxyHeader(2)
    size = ADDRESS_SIZES.get(family)
    if size is None:
        return BadProxyHeader(f"a PROXY header for the family and transport 0x{family:02x}, which is no stream")
    if len(data) < FIXED + size:
        return BadProxyHeader(f"a PROXY header with {len(data) - FIXED} of {size} bytes of addresses")
    tlvs = proxy_tlv.read(data, FIXED + size)
    if isinstance(tlvs, str):
        return BadProxyHeader(f"a PROXY header is malformed: {tlvs}")
    block = data[FIXED : FIXED + size]
    if family == FAMILY_UNIX:
        paths = (block[:UNIX_PATH].rstrip(b"\0"), block[UNIX_PATH:].rstrip(b"\0"))
        return ProxyHeader(2, Place("", 0, paths[0]), Place("", 0, paths[1]), tlvs)
    width = (size - 4) // 2
    hosts = (str(_packed(block[:width])), str(_packed(block[width : 2 * width])))
    ports = (int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big"))
    return ProxyHeader(2, Place(hosts[0], ports[0]), Place(hosts[1], ports[1]), tlvs)


def _packed(address: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(address) if len(address) == 4 else IPv6Address(address)
