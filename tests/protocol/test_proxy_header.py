"""Reading PROXY headers: what is accepted, what is rejected, and that no byte past the header is consumed."""

from __future__ import annotations

import pytest

from tests.rejections import outcome
from wsbridge.protocol import proxy
from wsbridge.protocol.proxy import V2_SIGNATURE, ProxyHeader, ProxyHeaderParser, SockEndpoint
from wsbridge.reasons import Rejected

V4 = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + (40000).to_bytes(2, "big") + (443).to_bytes(2, "big")


def second(body: bytes = V4, family: int = 0x11, first: int = 0x21, size: int | None = None) -> bytes:
    """Write a header of version 2 by hand."""
    return V2_SIGNATURE + bytes((first, family)) + (len(body) if size is None else size).to_bytes(2, "big") + body


def read(data: bytes, limit: int = 4096) -> tuple[ProxyHeader | Rejected | None, int]:
    """Feed all at once; return the outcome and how many bytes were consumed."""
    reader = ProxyHeaderParser(limit)
    taken = outcome(reader.feed, data)
    if isinstance(taken, Rejected):
        return taken, 0
    assert reader.consumed_bytes == taken
    return reader.result, taken


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (
            b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n",
            ProxyHeader(1, SockEndpoint("203.0.113.7", 40000), SockEndpoint("192.0.2.1", 443)),
        ),
        (
            b"PROXY TCP6 2001:DB8:0::7 ::1 1 0\r\n",
            ProxyHeader(1, SockEndpoint("2001:db8::7", 1), SockEndpoint("::1", 0)),
        ),
        (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
        (b"PROXY UNKNOWN ffff::ffff whatever 65535 65536\r\n", ProxyHeader(1)),
    ],
)
def test_a_line_of_version_1(line: bytes, header: ProxyHeader) -> None:
    """Addresses and ports are read; UNKNOWN says nothing; what follows the line is left alone."""
    assert read(line + b"\r\n\x16\x03") == (header, len(line))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\x16\x03\x01", 'begins with "\\x16", as TLS does'),
        (b"GET / HTTP/1.1\r\n", 'begins with "G"'),
        (b"PROXX ", 'begins with "PROXX"'),
        (b"\r\n\r\nGET", 'begins with "\\x0d"'),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\n", "the byte 0x0a"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\r\n", "the byte 0x0d"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\0\r\n", "the byte 0x00"),
        (b"PROXY TCP4 203.0.113.7  192.0.2.1 40000 443\r\n", "7 fields, not 6"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000\r\n", "5 fields, not 6"),
        (b"PROXY TCP4 203.0.113.007 192.0.2.1 40000 443\r\n", 'address "203.0.113.007"'),
        (b"PROXY TCP4 ::1 ::1 40000 443\r\n", 'TCP4 address "::1"'),
        (b"PROXY TCP6 203.0.113.7 ::1 40000 443\r\n", 'TCP6 address "203.0.113.7"'),
        (b"PROXY TCP6 fe80::1%eth0 ::1 40000 443\r\n", 'address "fe80::1%eth0"'),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n", 'port "65536"'),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 040 443\r\n", 'port "040"'),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n", 'port "-1"'),
        (b"PROXY UDP4 203.0.113.7 192.0.2.1 40000 443\r\n", 'protocol "UDP4"'),
        (b"PROXY \r\n", 'protocol ""'),
        (b"PROXY UNKNOWN " + b"x" * 93 + b"\r\n", "does not end within 107 bytes"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "the byte 0x0d"),
    ],
)
def test_a_line_that_is_none(line: bytes, text: str) -> None:
    """Each mistake is reported in one sentence."""
    found, _ = read(line)
    assert isinstance(found, Rejected)
    assert text in found.detail


def test_the_longest_line() -> None:
    """107 bytes, including the line end, are accepted."""
    line = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert read(line) == (ProxyHeader(1), 107)


def test_version_2_over_ip() -> None:
    """Addresses of both families are read in their shortest form."""
    assert read(second() + b"more") == (
        ProxyHeader(2, SockEndpoint("203.0.113.7", 40000), SockEndpoint("192.0.2.1", 443)),
        28,
    )
    six = bytes.fromhex("20010db8000000000000000000000007") + bytes(15) + b"\x01" + b"\x00\x01\x00\x02"
    assert read(second(six, 0x21)) == (ProxyHeader(2, SockEndpoint("2001:db8::7", 1), SockEndpoint("::1", 2)), 52)


def test_version_2_over_a_unix_socket() -> None:
    """Paths are read without their padding."""
    body = b"/run/a.sock".ljust(108, b"\0") + bytes(108)
    assert read(second(body, 0x31)) == (
        ProxyHeader(2, SockEndpoint("", 0, b"/run/a.sock"), SockEndpoint("", 0, b"")),
        232,
    )


@pytest.mark.parametrize(
    "data",
    [
        second(b"", 0, 0x20),
        second(b"\xff" * 50, 0x77, 0x20),
        second(b"", 0x00, 0x21),
        second(b"\xff" * 50, 0x00, 0x21),
    ],
)
def test_a_proxy_that_speaks_for_itself(data: bytes) -> None:
    """LOCAL and the unspecified family say nothing of a client, and what follows is passed over."""
    assert read(data + b"x") == (ProxyHeader(2), len(data))


def test_tlvs() -> None:
    """Name and id are found behind the addresses; with them in front, the checksum is right."""
    tlvs = proxy.encode_tlvs([(2, b"gw.example.org"), (5, b"\x00id")])
    found, _ = read(second(V4 + tlvs))
    assert isinstance(found, ProxyHeader)
    assert found.server_name == "gw.example.org"
    assert found.tlvs[proxy.TLV_UNIQUE_ID] == b"\x00id"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (second(first=0x11), "version 1 behind the signature"),
        (second(first=0x22), "command 2"),
        (second(family=0x12), "0x12, which is not a stream"),
        (second(family=0x41), "0x41, which is not a stream"),
        (second(V4[:11]), "11 of 12 bytes of addresses"),
        (second(V4, 0x21), "12 of 36 bytes of addresses"),
        (second(V4 + b"\x02"), "malformed: its last TLV"),
        (second(V4 + b"\x03\x00\x04abcd"), "malformed: its CRC32C is wrong"),
        (second(b"", size=4081), "a PROXY header of 4097 bytes, and the limit is 4096"),
    ],
)
def test_version_2_that_is_malformed(data: bytes, text: str) -> None:
    """Each mistake is reported in one sentence, one of size as soon as the size is known."""
    found, _ = read(data)
    assert isinstance(found, Rejected)
    assert text in found.detail


def test_what_is_not_whole_is_waited_for() -> None:
    """Every part of a header is accepted and gives no outcome."""
    for whole in (second(), b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n"):
        for size in range(len(whole)):
            assert read(whole[:size]) == (None, size)
