"""TLVs: what may stand behind the addresses of a PROXY header of version 2 (its specification, section 2.2).

Lives here: the types, reading and writing a list of them, and the checksum. Must not live here: the header around them
(`proxy_header`, `proxy_writer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

AUTHORITY: Final = 0x02
"""The name that the client asked for, by SNI; UTF-8."""
CRC32C: Final = 0x03
"""CRC-32C of the whole header, this value taken as zeros."""
NOOP: Final = 0x04
"""Padding."""
UNIQUE_ID: Final = 0x05
"""Bytes that name the connection, at most 128."""
IDENTITY: Final = 0xE0
"""Who the client turned out to be; UTF-8. One of the types that the specification leaves to applications."""

MOST: Final = 128
"""TLVs in one header."""
LONGEST_NAME: Final = 255
"""Bytes of an AUTHORITY."""
LONGEST_ID: Final = 128
"""Bytes of a UNIQUE_ID."""

_ONCE: Final = frozenset((AUTHORITY, CRC32C, UNIQUE_ID, IDENTITY))
_NAMES: Final = {AUTHORITY: "AUTHORITY", CRC32C: "CRC32C", UNIQUE_ID: "UNIQUE_ID", IDENTITY: "0xe0"}
_POLYNOMIAL: Final = 0x82F63B78


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(_row(value) for value in range(256))


def crc32c(data: bytes) -> int:
    """Compute CRC-32C (RFC 3720 appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def read(header: bytes, start: int) -> dict[int, bytes] | str:
    """Read the TLVs of a header.

    Args:
        header: All of it.
        start: Where they begin.

    Returns:
        Values by type, padding left out, the first of a type that may stand more than once; or what is wrong, as one
        sentence.
    """
    found: dict[int, bytes] = {}
    at, count = start, 0
    while at < len(header):
        count += 1
        if count > MOST:
            return f"it has more than {MOST} TLVs"
        if len(header) - at < 3:
            return f"its last TLV has {len(header) - at} bytes of a head of 3"
        kind, size = header[at], int.from_bytes(header[at + 1 : at + 3], "big")
        value = header[at + 3 : at + 3 + size]
        if len(value) < size:
            return f"a TLV of type 0x{kind:02x} has {len(value)} of its {size} bytes"
        if kind in found and kind in _ONCE:
            return f"it has two TLVs {_NAMES[kind]}"
        wrong = _wrong(header, kind, value, at + 3)
        if wrong:
            return wrong
        if kind != NOOP:
            found.setdefault(kind, value)
        at += 3 + size
    return found


def _wrong(header: bytes, kind: int, value: bytes, at: int) -> str:
    """Tell what is wrong with one value; nothing if nothing is."""
    if kind == CRC32C:
        if len(value) != 4:
            return f"its CRC32C has {len(value)} bytes, not 4"
        if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
            return "its CRC32C is wrong"
    elif kind == UNIQUE_ID and len(value) > LONGEST_ID:
        return f"its UNIQUE_ID has {len(value)} bytes, more than {LONGEST_ID}"
    elif kind == AUTHORITY:
        if len(value) > LONGEST_NAME:
            return f"its AUTHORITY has {len(value)} bytes, more than {LONGEST_NAME}"
        if _text(value) is None:
            return "its AUTHORITY is no text"
    elif kind == IDENTITY and _text(value) is None:
        return "its TLV 0xe0 is no text"
    return ""


def _text(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def write(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    """Write TLVs; none may be longer than 65,535 bytes."""
    return b"".join(bytes((kind,)) + len(value).to_bytes(2, "big") + value for kind, value in tlvs)
