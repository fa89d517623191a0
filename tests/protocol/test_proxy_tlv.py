"""TLVs of PROXY headers: the checksum, the bounds, and that nothing is read twice."""

from __future__ import annotations

import pytest

from tests.rejections import result_or_detail
from wsbridge.protocol import proxy


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
    assert proxy.crc32c(data) == crc


def test_what_is_written_is_read() -> None:
    """Types with their values come back; padding does not, and types that we do not know do."""
    written = [
        (proxy.TLV_AUTHORITY, b"gw.example.org"),
        (proxy.TLV_NOOP, bytes(9)),
        (0x30, b"blue"),
        (0xE7, b""),
    ]
    assert proxy.parse_tlvs(b"head" + proxy.encode_tlvs(written), 4) == {
        2: b"gw.example.org",
        0x30: b"blue",
        0xE7: b"",
    }


@pytest.mark.parametrize(
    ("tlvs", "text"),
    [
        (b"\x02\x00", "its last TLV has 2 bytes of a head of 3"),
        (b"\x02\x00\x05abc", "a TLV of type 0x02 has 3 of its 5 bytes"),
        (proxy.encode_tlvs([(4, b"")] * 129), "more than 128 TLVs"),
        (proxy.encode_tlvs([(2, b"a"), (2, b"b")]), "two TLVs AUTHORITY"),
        (proxy.encode_tlvs([(2, b"\xff")]), "AUTHORITY is not text"),
        (proxy.encode_tlvs([(2, b"a\nb")]), "AUTHORITY is not text"),
        (proxy.encode_tlvs([(2, b"a" * 256)]), "AUTHORITY has 256 bytes, more than 255"),
        (proxy.encode_tlvs([(5, b"a" * 129)]), "UNIQUE_ID has 129 bytes, more than 128"),
        (proxy.encode_tlvs([(0xE0, b"\x1b[2J")]), "0xe0 is not text"),
        (proxy.encode_tlvs([(3, b"abc")]), "CRC32C has 3 bytes, not 4"),
        (proxy.encode_tlvs([(3, b"abcd")]), "CRC32C is wrong"),
    ],
)
def test_what_is_malformed_is_a_sentence(tlvs: bytes, text: str) -> None:
    """Each mistake is reported by its name."""
    found = result_or_detail(proxy.parse_tlvs, tlvs, 0)
    assert isinstance(found, str)
    assert text in found
