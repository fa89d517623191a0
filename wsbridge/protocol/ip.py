"""One text form of IP addresses: that of `ipaddress` depends on the version of Python for IPv4-mapped ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

IpAddress = IPv4Address | IPv6Address


def unmap(address: IpAddress) -> IpAddress:
    """Return the IPv4 address of an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`); others as they are."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def ip_text(address: IpAddress) -> str:
    """Write an address as RFC 5952 does, an IPv4-mapped one as `::ffff:192.0.2.1`."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)
