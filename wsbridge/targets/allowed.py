"""What clients may choose: a target, and each address that it is found to have, judged by `targets:` of the route.

Lives here: the rules. Must not live here: looking anything up, the file system (`sockets`). Pure.

A target is allowed by what is written and by nothing else. Addresses that lead to this host, to the link, to a cloud's
own services or to another address inside of them are special: they need a network that is written for that range, so
that 0.0.0.0/0 or ::/0 opens none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from wsbridge.config.address import Target
from wsbridge.config.network import AnyNetwork
from wsbridge.config.targets import Targets
from wsbridge.net.address import Address, host_port
from wsbridge.targets.host_port import is_address

AnyAddress = IPv4Address | IPv6Address

_METADATA: Final = "the metadata service of a cloud"
SPECIAL: Final[tuple[tuple[AnyNetwork, str], ...]] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this host without a name"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("169.254.169.254/32", _METADATA),
        ("169.254.170.2/32", _METADATA),
        ("169.254.170.23/32", _METADATA),
        ("100.100.100.200/32", _METADATA),
        ("168.63.129.16/32", _METADATA),
        ("192.0.0.192/32", _METADATA),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("255.255.255.255/32", "broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4 within IPv6"),
        ("::ffff:0:0/96", "IPv4 within IPv6"),
        ("::ffff:0:0:0/96", "IPv4 within IPv6"),
        ("64:ff9b::/96", "IPv4 within IPv6 (NAT64)"),
        ("64:ff9b:1::/48", "IPv4 within IPv6 (NAT64)"),
        ("2001::/32", "IPv4 within IPv6 (Teredo)"),
        ("2002::/16", "IPv4 within IPv6 (6to4)"),
        ("fd00:ec2::/32", _METADATA),
        ("fd20:ce::254/128", _METADATA),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""Ranges that a network has to be written for, each with what it is."""


class Allowed:
    """The rules of one route.

    Args:
        targets: As written.
        is_own: Tells whether an address is one that this process listens at.
    """

    def __init__(self, targets: Targets, is_own: Callable[[Address], bool]) -> None:
        self._networks = targets.networks
        self._names = targets.names
        self._ports = targets.ports or ()
        self.folders = targets.unix or ()
        self.own_listeners = targets.own_listeners
        self._is_own = is_own

    def why_not(self, target: Target) -> str | None:
        """Judge a target as far as that goes before its name is looked up.

        Args:
            target: TCP, or what runs over it; its host is in its normal form.

        Returns:
            One sentence, or None.
        """
        where = host_port(target.host, target.port)
        if not any(ports.first <= target.port <= ports.last for ports in self._ports):
            return f"{where}: the port is in none of targets.ports"
        if is_address(target.host):
            reason = self._why_not_ip(ip_address(target.host))
            return None if reason is None else f"{where}: {reason}"
        if self._names is None:
            return None if self._networks is not None else f"{where}: targets has no names"
        if not any(_named(target.host, pattern) for pattern in self._names):
            return f"{where}: the name is none of targets.names"
        return None

    def why_not_address(self, address: Address, *, named: bool) -> str | None:
        """Judge one address that is about to be dialled.

        Args:
            address: Of a target that `why_not` had nothing against.
            named: Whether it was found by a name, so that the name allows it where no networks are written.

        Returns:
            One sentence, or None.
        """
        reason = self._why_not_ip(ip_address(address.sockaddr[0].partition("%")[0]), named=named)
        if reason is None and not self.own_listeners and self._is_own(address):
            reason = "wsbridge itself listens there, and own_listeners is false"
        return None if reason is None else f"{address}: {reason}"

    def _why_not_ip(self, ip: AnyAddress, *, named: bool = False) -> str | None:
        networks: Sequence[AnyNetwork] = self._networks or ()
        if self._networks is None:
            if not (named and self._names):
                return "targets has no networks, which an address needs"
        elif not any(ip in network for network in networks):
            return "the address is in none of targets.networks"
        for each in (ip, *_inside(ip)):
            for special, what in SPECIAL:
                if each in special and not any(each in n and _within(n, special) for n in networks):
                    return f"{each} is {what}, which needs a network of its own in targets.networks"
        return None


def _named(name: str, pattern: str) -> bool:
    """Tell whether a name is one that a pattern means."""
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]) and len(name) > len(pattern) - 1)


def _within(network: AnyNetwork, special: AnyNetwork) -> bool:
    if isinstance(network, IPv4Network) and isinstance(special, IPv4Network):
        return network.subnet_of(special)
    return isinstance(network, IPv6Network) and isinstance(special, IPv6Network) and network.subnet_of(special)


def _inside(ip: AnyAddress) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for, or for a part of the way."""
    if isinstance(ip, IPv4Address):
        return []
    number = int(ip)
    low = IPv4Address(number & 0xFFFFFFFF)
    if ip.teredo is not None:
        return list(ip.teredo)
    if ip.sixtofour is not None:
        return [ip.sixtofour]
    if (number >> 32 in (0, 0xFFFF, 0xFFFF0000, 0x64FF9B << 64) or number >> 80 == 0x64FF9B0001) and number > 1:
        return [low]
    return []
