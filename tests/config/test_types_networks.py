"""Networks as the file has them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from wsbridge.config.types import read_network, read_network_or_unix


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "2001:db8::/32", "::1"])
def test_what_is_a_network(text: str) -> None:
    """A range in either family, or one address."""
    assert read_network(text) == ip_network(text)
    assert read_network(ip_network(text)) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("[::ffff:c000:201]", "192.0.2.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_mapped_networks_are_ipv4(text: str, network: str) -> None:
    """Clients over IPv4 are compared as IPv4, so that a mapped rule would never match."""
    assert read_network(text) == ip_network(network)
    assert read_network(ip_network(text.strip("[]"))) == ip_network(network)


def test_an_address_in_brackets_is_one() -> None:
    """It may be written as everywhere else in the file."""
    assert read_network("[::1]") == ip_network("::1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0", "010.0.0.0/8", "host", "0x7f.0.0.1", "", "fe80::1%eth0/64"])
def test_what_is_none(text: str) -> None:
    """Anything that programs could read in two ways is refused, with what to write."""
    with pytest.raises(ValueError, match="is not a network: write"):
        read_network(text)


def test_an_address_with_a_mask_is_pointed_at() -> None:
    """`10.1.2.3/8` is meant as one of two things, and both are named."""
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/8, or the address alone"):
        read_network("10.1.2.3/8")


def test_unix_stands_for_unix_sockets() -> None:
    """It is taken only where clients of Unix sockets can come."""
    assert read_network_or_unix("unix") == "unix"
    assert read_network_or_unix("10.0.0.0/8") == ip_network("10.0.0.0/8")
    with pytest.raises(ValueError, match="is not a network"):
        read_network("unix")
