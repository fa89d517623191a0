"""The text form of addresses, which no version of Python decides."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from wsbridge.backends.target_policy import parse_host
from wsbridge.config.backend_urls import read_backend_url
from wsbridge.net.address import NetworkSet, is_loopback
from wsbridge.protocol.ip import ip_text, unmap
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser
from wsbridge.protocol.uri import normalise_host

MAPPED = ["::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:127.0.0.1"]


@pytest.mark.parametrize("written", MAPPED)
def test_mapped_addresses_have_one_form(written: str) -> None:
    """Wherever they are read: targets of clients and of the file, Host headers, PROXY headers."""
    shown = "::ffff:127.0.0.1"
    assert ip_text(ip_address(written)) == shown
    assert parse_host(f"[{written}]") == shown
    assert normalise_host(f"[{written}]:80") == f"[{shown}]"
    target = read_backend_url(f"tcp://[{written}]:80")
    assert target.host == shown
    assert target.is_loopback
    parser = ProxyHeaderParser(4096)
    parser.feed(f"PROXY TCP6 {written} ::1 1 2\r\n".encode())
    assert isinstance(parser.result, ProxyHeader)
    assert parser.result.source is not None
    assert parser.result.source.host == shown


@pytest.mark.parametrize("written", MAPPED)
def test_mapped_addresses_count_as_ipv4(written: str) -> None:
    """In networks, and as loopback."""
    assert str(unmap(ip_address(written))) == "127.0.0.1"
    assert NetworkSet([ip_network("127.0.0.0/8")]).contains(written)
    assert is_loopback(ip_text(ip_address(written)))


def test_other_addresses_keep_theirs() -> None:
    """IPv4, and IPv6 in its shortest form."""
    assert ip_text(ip_address("192.0.2.1")) == "192.0.2.1"
    assert ip_text(ip_address("2001:DB8:0:0::1")) == "2001:db8::1"
    assert unmap(ip_address("2001:db8::1")) == ip_address("2001:db8::1")
