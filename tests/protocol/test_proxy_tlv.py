"""TLVs of PROXY headers: the checksum, the bounds, and that nothing is read twice."""

from __future__ import annotations

import pytest

from wsbridge.protocol import proxy_tlv


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_is_that_of_the_source(data: bytes, crc: int) -> None:
    """The vectors of RFC 3720 appendix B.4, and the one that all of its kind are compared by."""
    assert proxy_tlv.crc32c(data) == crc


def test_what_is_written_is_read() -> None:
    """Types with their values come back; padding does not, and types that we do not know do."""
    written = [(proxy_tlv.AUTHORITY, b"gw.example.org"), (proxy_tlv.NOOP, bytes(9)), (0x30, b"blue"), (0xE7, b"")]
    assert proxy_tlv.read(b"head" + proxy_tlv.write(written), 4) == {2: b"gw.example.org", 0x30: b"blue", 0xE7: b""}


@pytest.mark.parametrize(
    ("tlvs", "text"),
    [
        (b"\x02\x00", "its last TLV has 2 bytes of a head of 3"),
        (b"\x02\x00\x05abc", "a TLV of type 0x02 has 3 of its 5 bytes"),
        (proxy_tlv.write([(4, b"")] * 129), "more than 128 TLVs"),
        (proxy_tlv.write([(2, b"a"), (2, b"b")]), "two TLVs AUTHORITY"),
        (proxy_tlv.write([(2, b"\xff")]), "AUTHORITY is no text"),
        (proxy_tlv.write([(2, b"a\nb")]), "AUTHORITY is no text"),
        (proxy_tlv.write([(2, b"a" * 256)]), "AUTHORITY has 256 bytes, more than 255"),
        (proxy_tlv.write([(5, b"a" * 129)]), "UNIQUE_ID has 129 bytes, more than 128"),
        (proxy_tlv.write([(0xE0, b"\x1b[2J")]), "0xe0 is no text"),
        (proxy_tlv.write([(3, b"abc")]), "CRC32C has 3 bytes, not 4"),
        (proxy_tlv.write([(3, b"abcd")]), "CRC32C is wrong"),
    ],
)
def test_what_is_malformed_is_a_sentence(tlvs: bytes, text: str) -> None:
    """Each mistake is told by its name."""
    found = proxy_tlv.read(tlvs, 0)
    assert isinstance(found, str)
    assert text in found
