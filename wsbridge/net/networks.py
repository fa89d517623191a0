"""Networks: whether an address is in one of several ranges.

Lives here: the question, asked for each connection and so answered from memory where it was asked before. Must not
live here: how ranges are written (`config.network`), what follows from the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

REMEMBERED = 4096
"""Addresses whose answer is kept, for each set of networks."""


class Networks:
    """A set of ranges.

    Args:
        members: Ranges; `unix` stands for peers of Unix sockets, whose host is empty.
    """

    __slots__ = ("_members", "_unix", "holds")

    def __init__(self, members: Iterable[IPv4Network | IPv6Network | Literal["unix"]]) -> None:
        members = list(members)
        self._unix = "unix" in members
        self._members = [member for member in members if not isinstance(member, str)]
        self.holds = lru_cache(maxsize=REMEMBERED)(self._look)
        """Tell whether a host, an address as text or empty for a Unix socket, is in one of the ranges."""

    def _look(self, host: str) -> bool:
        if not host:
            return self._unix
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in member for member in self._members)
