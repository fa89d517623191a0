"""Policy for targets chosen by clients: allowed networks, names, ports and sockets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from wsbridge.config.route import AllowedTargetsConfig
from wsbridge.config.types import IpNetwork
from wsbridge.config.urls import HOST_NAME, MAX_UNIX_PATH_BYTES, Target
from wsbridge.net.address import Address, SockAddr, is_local_address, is_loopback, join_host_port
from wsbridge.protocol.ip import IpAddress, ip_text

MAX_HOST_LENGTH: Final = 253
"""Maximum length of a host name in characters (RFC 1035 section 2.3.4, in text form)."""

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def parse_host(text: str) -> str:
    """Parse a host: IPv4 in dotted decimal, IPv6 without a zone and with or without brackets, or a name.

    A name whose last label is a number (2130706433, 0x7f.1, 127.1, 0177.0.0.1) is rejected, since the C library parses
    it as an address; international names must be in their ASCII form (xn--…).

    Returns:
        The host in its normal form: lower case, IPv6 shortest and without brackets, no trailing dot.

    Raises:
        ValueError: It is invalid; one sentence that does not quote it.
    """
    if len(text) > MAX_HOST_LENGTH + 1:
        raise ValueError(f"the host has {len(text)} characters, and the maximum is {MAX_HOST_LENGTH}")
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inside:
        if "%" in inside:
            raise ValueError("the address has a zone")
        try:
            return ip_text(IPv6Address(inside))
        except AddressValueError:
            raise ValueError("the host is no IPv6 address") from None
    if not HOST_NAME.fullmatch(text):
        raise ValueError("the host is no name and no address")
    name = text.removesuffix(".").lower()
    if len(name) > MAX_HOST_LENGTH:
        raise ValueError(f"the host has {len(name)} characters, and the maximum is {MAX_HOST_LENGTH}")
    if not _NUMBER.fullmatch(name.rpartition(".")[2]):
        return name
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError("the host is a number, but no IPv4 address of four decimal ones") from None


def parse_port(text: str) -> int:
    """Parse a port: 1 to 65535 in decimal digits, without leading zeros.

    Raises:
        ValueError: It is invalid; one sentence that does not quote it.
    """
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("the port is no number from 1 to 65535")
    return int(text)


def is_ip_literal(host: str) -> bool:
    """Return whether a host returned by `parse_host` is an address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


_METADATA: Final = "the metadata service of a cloud"
SPECIAL_NETWORKS: Final[tuple[tuple[IpNetwork, str], ...]] = tuple(
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
        ("fd00:42::42/128", _METADATA),
        ("fd00:c1::a9fe:a9fe/128", _METADATA),
        ("fd20:ce::254/128", _METADATA),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""Networks that are rejected unless they are listed, each with its purpose."""


class TargetRules:
    """The allowed targets of one route.

    Args:
        targets: The configuration.
        is_own_listener: Returns whether this process listens on an address.
    """

    def __init__(self, targets: AllowedTargetsConfig, is_own_listener: Callable[[Address], bool]) -> None:
        self._networks = targets.networks
        self._names = targets.names
        self._ports = targets.ports or ()
        self.socket_directories = targets.unix or ()
        self.allow_own_listeners = targets.allow_own_listeners
        self._is_own_listener = is_own_listener

    def check(self, target: Target) -> str | None:
        """Check a target before its name is resolved.

        Args:
            target: A target over TCP; its host is normalised.

        Returns:
            Why it is not allowed, one sentence; None if it is.
        """
        where = join_host_port(target.host, target.port)
        if not any(ports.first <= target.port <= ports.last for ports in self._ports):
            return f"{where}: the port is in none of allowed_targets.ports"
        if is_ip_literal(target.host):
            reason = self._check_ip(ip_address(target.host))
            return None if reason is None else f"{where}: {reason}"
        if self._names is None:
            return None if self._networks is not None else f"{where}: allowed_targets has no names"
        if not any(_name_matches(target.host, pattern) for pattern in self._names):
            return f"{where}: the name is none of allowed_targets.names"
        return None

    def check_address(self, address: Address, *, found_by_name: bool) -> str | None:
        """Check one address before it is dialled.

        Args:
            address: An address of a target that `check` allows.
            found_by_name: Whether it is the result of a lookup; without networks, an allowed name then suffices.

        Returns:
            Why it is not allowed, one sentence; None if it is.
        """
        reason = self._check_ip(ip_address(address.sockaddr[0].partition("%")[0]), found_by_name=found_by_name)
        if reason is None and not self.allow_own_listeners and self._is_own_listener(address):
            reason = "wsbridge itself listens there, and allow_own_listeners is false"
        return None if reason is None else f"{address}: {reason}"

    def _check_ip(self, ip: IpAddress, *, found_by_name: bool = False) -> str | None:
        networks: Sequence[IpNetwork] = self._networks or ()
        if self._networks is None:
            if not (found_by_name and self._names):
                return "allowed_targets has no networks, which are needed for addresses"
        elif not any(ip in network for network in networks):
            return "the address is in none of allowed_targets.networks"
        for each in (ip, *_embedded_ipv4(ip)):
            if _is_own_address(each) and not any(n.num_addresses == 1 and each in n for n in networks):
                return f"{ip_text(each)} is an address of this host, which allowed_targets.networks must list by itself"
            for special, what in SPECIAL_NETWORKS:
                if each in special and not any(each in n and _is_subnet_of(n, special) for n in networks):
                    return f"{ip_text(each)} is {what}, which needs a network of its own in allowed_targets.networks"
        return None


def _name_matches(name: str, pattern: str) -> bool:
    """Return whether a name matches a pattern."""
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]) and len(name) > len(pattern) - 1)


def _is_subnet_of(network: IpNetwork, special: IpNetwork) -> bool:
    if isinstance(network, IPv4Network) and isinstance(special, IPv4Network):
        return network.subnet_of(special)
    return isinstance(network, IPv6Network) and isinstance(special, IPv6Network) and network.subnet_of(special)


def _embedded_ipv4(ip: IpAddress) -> list[IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address."""
    if isinstance(ip, IPv4Address):
        return []
    number = int(ip)
    low = IPv4Address(number & 0xFFFFFFFF)
    if ip.teredo is not None:
        return list(ip.teredo)
    if ip.sixtofour is not None:
        return [ip.sixtofour]
    if number >> 80 == 0x64FF9B0001:
        return _nat64_ipv4(number)
    if number >> 32 in (0, 0xFFFF, 0xFFFF0000, 0x64FF9B << 64) and number > 1:
        return [low]
    return []


def _nat64_ipv4(number: int) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address may embed: the prefix has 48, 56, 64 or 96 bits (RFC 6052, 2.2)."""
    octets = number.to_bytes(16, "big")
    places = (octets[6:8] + octets[9:11], octets[7:8] + octets[9:12], octets[9:13], octets[12:16])
    return [IPv4Address(place) for place in dict.fromkeys(places) if place[0]]


def _is_own_address(ip: IpAddress) -> bool:
    """Return whether an address belongs to this host; loopback is in `SPECIAL_NETWORKS`."""
    text = ip_text(ip)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sockaddr: SockAddr = (text, 0) if ip.version == 4 else (text, 0, 0, 0)
    return not is_loopback(text) and not ip.is_unspecified and is_local_address(Address(family, sockaddr))


def resolve_socket_path(
    path: str, directories: Iterable[Path], is_own_listener: Callable[[str], bool], *, must_exist: bool
) -> str:
    """Resolve the symbolic links in the path of a socket, and check the result.

    Args:
        path: Absolute.
        directories: Directories whose sockets may be dialled, including subdirectories.
        is_own_listener: Returns whether this process listens on a path.
        must_exist: Whether a missing socket is rejected here; otherwise connecting to it fails.

    Returns:
        The path to connect to, without symbolic links.

    Raises:
        ValueError: It is not allowed; one sentence.
    """
    place = Path(path)
    try:
        real = Path(os.path.realpath(place, strict=True))
    except OSError as error:
        if must_exist or place.is_symlink():
            raise ValueError(f"unix:{path}: {error.strerror}") from None
        try:
            real = Path(os.path.realpath(place.parent, strict=True)) / place.name
        except OSError as gone:
            raise ValueError(f"unix:{place.parent}: {gone.strerror}") from None
    if not any(_is_below(real, directory) for directory in directories):
        raise ValueError(f"unix:{path}: {real} is in none of the directories of allowed_targets.unix")
    if len(os.fsencode(real)) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"unix:{path}: {real} has more than {MAX_UNIX_PATH_BYTES} bytes")
    if is_own_listener(str(real)):
        raise ValueError(f"unix:{path}: wsbridge itself listens there, and allow_own_listeners is false")
    return str(real)


def _is_below(real: Path, directory: Path) -> bool:
    """Return whether a path without symbolic links is below a directory, whose path may have some."""
    parts = Path(os.path.realpath(directory)).parts
    return len(real.parts) > len(parts) and real.parts[: len(parts)] == parts
