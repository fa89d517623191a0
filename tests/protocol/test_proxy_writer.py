"""Writing PROXY headers: what is written is what the reader reads, and mixed families lose no client."""

from __future__ import annotations

import pytest

from tests.rejections import outcome
from wsbridge.protocol import proxy
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser, SockEndpoint, encode_proxy_v1, encode_proxy_v2


def read(data: bytes) -> ProxyHeader:
    """Read a header back, which must be all of the bytes."""
    reader = ProxyHeaderParser()
    assert reader.feed(data) == len(data)
    assert isinstance(reader.result, ProxyHeader)
    return reader.result


def test_version_1() -> None:
    """The line is the one of the specification's example, in both families."""
    assert encode_proxy_v1(SockEndpoint("192.168.0.1", 56324), SockEndpoint("192.168.0.11", 443)) == (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert (
        encode_proxy_v1(SockEndpoint("2001:db8::1", 1), SockEndpoint("::1", 2)) == b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"
    )


@pytest.mark.parametrize("source", [None, SockEndpoint("", 0), SockEndpoint("", 0, b"/x")])
def test_version_1_knows_no_unix_socket(source: SockEndpoint | None) -> None:
    """A client of a Unix socket, or none, is UNKNOWN."""
    assert encode_proxy_v1(source, SockEndpoint("192.0.2.1", 443)) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("source", "destination", "read_source", "read_destination"),
    [
        (
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("192.0.2.1", 6),
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("192.0.2.1", 6),
        ),
        (
            SockEndpoint("2001:db8::7", 5),
            SockEndpoint("::1", 6),
            SockEndpoint("2001:db8::7", 5),
            SockEndpoint("::1", 6),
        ),
        (
            SockEndpoint("2001:db8::7", 5),
            SockEndpoint("192.0.2.1", 6),
            SockEndpoint("2001:db8::7", 5),
            SockEndpoint("::ffff:192.0.2.1", 6),
        ),
        (
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("2001:db8::1", 6),
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("0.0.0.0", 6),
        ),
        (
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("::ffff:192.0.2.1", 6),
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("192.0.2.1", 6),
        ),
        (
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("", 0, b"/run/x"),
            SockEndpoint("203.0.113.7", 5),
            SockEndpoint("0.0.0.0", 0),
        ),
        (SockEndpoint("2001:db8::7", 5), None, SockEndpoint("2001:db8::7", 5), SockEndpoint("::", 0)),
        (
            SockEndpoint("fe80::1%eth0", 5),
            SockEndpoint("fe80::2%eth0", 6),
            SockEndpoint("fe80::1", 5),
            SockEndpoint("fe80::2", 6),
        ),
        (
            SockEndpoint("", 0, b"/a"),
            SockEndpoint("", 0, b"/b" * 99),
            SockEndpoint("", 0, b"/a"),
            SockEndpoint("", 0, b"/b" * 54),
        ),
        (SockEndpoint("", 0), SockEndpoint("192.0.2.1", 6), SockEndpoint("", 0), SockEndpoint("", 0)),
    ],
)
def test_version_2(
    source: SockEndpoint, destination: SockEndpoint | None, read_source: SockEndpoint, read_destination: SockEndpoint
) -> None:
    """The client's address is always sent; the address it connected to only if it has the same family."""
    header = read(encode_proxy_v2(source, destination))
    assert (header.source, header.destination) == (read_source, read_destination)
    assert proxy.TLV_CRC32C in header.tlvs


def test_version_2_without_a_client() -> None:
    """It is LOCAL."""
    assert read(encode_proxy_v2(None, SockEndpoint("192.0.2.1", 6))) == ProxyHeader(2)
    assert encode_proxy_v2(None, None)[12] == 0x20


def test_version_2_with_more() -> None:
    """Name, id and identity go with it; what is empty or too long is left out whole."""
    ends = (SockEndpoint("203.0.113.7", 5), SockEndpoint("192.0.2.1", 6))
    header = read(encode_proxy_v2(*ends, server_name="gw.example.org", unique_id=b"17", identity="zoë"))
    assert header.server_name == "gw.example.org"
    assert header.tlvs[proxy.TLV_UNIQUE_ID] == b"17"
    assert header.tlvs[proxy.TLV_IDENTITY].decode() == "zoë"
    long = read(encode_proxy_v2(*ends, server_name="x" * 256, unique_id=b"x" * 129, identity="x" * 1025))
    assert long.tlvs.keys() == read(encode_proxy_v2(*ends)).tlvs.keys() == {proxy.TLV_CRC32C}


def test_the_checksum_is_checked() -> None:
    """One flipped bit anywhere behind the length is found."""
    whole = encode_proxy_v2(SockEndpoint("203.0.113.7", 5), SockEndpoint("192.0.2.1", 6), unique_id=b"17")
    for at in range(16, len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1
        reader = ProxyHeaderParser()
        outcome(reader.feed, bytes(broken))
        assert not isinstance(reader.result, ProxyHeader) or proxy.TLV_CRC32C not in reader.result.tlvs
