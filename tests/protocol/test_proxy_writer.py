"""Writing PROXY headers: what is written is what the reader reads, and mixed families lose no client."""

from __future__ import annotations

import pytest

from wsbridge.protocol import proxy_tlv
from wsbridge.protocol.proxy_header import Place, ProxyHeader, ProxyHeaderReader
from wsbridge.protocol.proxy_writer import write_v1, write_v2


def read(data: bytes) -> ProxyHeader:
    """Read a header back, which must be all of the bytes."""
    reader = ProxyHeaderReader()
    assert reader.feed(data) == len(data)
    assert isinstance(reader.outcome, ProxyHeader)
    return reader.outcome


def test_version_1() -> None:
    """The line is the one of the specification's example, in both families."""
    assert write_v1(Place("192.168.0.1", 56324), Place("192.168.0.11", 443)) == (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert write_v1(Place("2001:db8::1", 1), Place("::1", 2)) == b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"


@pytest.mark.parametrize("source", [None, Place("", 0), Place("", 0, b"/x")])
def test_version_1_knows_no_unix_socket(source: Place | None) -> None:
    """A client of a Unix socket, or none, is UNKNOWN."""
    assert write_v1(source, Place("192.0.2.1", 443)) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("source", "destination", "read_source", "read_destination"),
    [
        (Place("203.0.113.7", 5), Place("192.0.2.1", 6), Place("203.0.113.7", 5), Place("192.0.2.1", 6)),
        (Place("2001:db8::7", 5), Place("::1", 6), Place("2001:db8::7", 5), Place("::1", 6)),
        (Place("2001:db8::7", 5), Place("192.0.2.1", 6), Place("2001:db8::7", 5), Place("::ffff:c000:201", 6)),
        (Place("203.0.113.7", 5), Place("2001:db8::1", 6), Place("203.0.113.7", 5), Place("0.0.0.0", 6)),
        (Place("203.0.113.7", 5), Place("::ffff:192.0.2.1", 6), Place("203.0.113.7", 5), Place("192.0.2.1", 6)),
        (Place("203.0.113.7", 5), Place("", 0, b"/run/x"), Place("203.0.113.7", 5), Place("0.0.0.0", 0)),
        (Place("2001:db8::7", 5), None, Place("2001:db8::7", 5), Place("::", 0)),
        (Place("fe80::1%eth0", 5), Place("fe80::2%eth0", 6), Place("fe80::1", 5), Place("fe80::2", 6)),
        (Place("", 0, b"/a"), Place("", 0, b"/b" * 99), Place("", 0, b"/a"), Place("", 0, b"/b" * 54)),
        (Place("", 0), Place("192.0.2.1", 6), Place("", 0), Place("", 0)),
    ],
)
def test_version_2(source: Place, destination: Place | None, read_source: Place, read_destination: Place) -> None:
    """The client is always told; what it connected to as far as its family can say it."""
    header = read(write_v2(source, destination))
    assert (header.source, header.destination) == (read_source, read_destination)
    assert proxy_tlv.CRC32C in header.tlvs


def test_version_2_without_a_client() -> None:
    """It is LOCAL."""
    assert read(write_v2(None, Place("192.0.2.1", 6))) == ProxyHeader(2)
    assert write_v2(None, None)[12] == 0x20


def test_version_2_with_more() -> None:
    """Name, id and identity go with it; what is empty or too long is left out whole."""
    ends = (Place("203.0.113.7", 5), Place("192.0.2.1", 6))
    header = read(write_v2(*ends, server_name="gw.example.org", unique_id=b"17", identity="zoë"))
    assert header.server_name == "gw.example.org"
    assert header.tlvs[proxy_tlv.UNIQUE_ID] == b"17"
    assert header.tlvs[proxy_tlv.IDENTITY].decode() == "zoë"
    long = read(write_v2(*ends, server_name="x" * 256, unique_id=b"x" * 129, identity="x" * 1025))
    assert long.tlvs.keys() == read(write_v2(*ends)).tlvs.keys() == {proxy_tlv.CRC32C}


def test_the_checksum_is_checked() -> None:
    """One flipped bit anywhere behind the length is found."""
    whole = write_v2(Place("203.0.113.7", 5), Place("192.0.2.1", 6), unique_id=b"17")
    for at in range(16, len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1
        reader = ProxyHeaderReader()
        reader.feed(bytes(broken))
        assert not isinstance(reader.outcome, ProxyHeader) or proxy_tlv.CRC32C not in reader.outcome.tlvs
