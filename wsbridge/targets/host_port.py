"""Hosts and ports as clients may write them: in one way only, so that every program reads the same in them.

Lives here: the grammar. Must not live here: whether a host may be dialled (`allowed`), looking it up. Pure.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from wsbridge.config.address import HOST_NAME

LONGEST: Final = 253
"""Characters of a name (RFC 1035 section 2.3.4, in text form)."""

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def read_host(text: str) -> str:
    """Read a host: IPv4 in four decimal numbers, IPv6 without a zone and maybe in brackets, or a name.

    A name whose last label is a number (2130706433, 0x7f.1, 127.1, 0177.0.0.1) is refused, since the C library takes it
    for an address; international names are taken in their ASCII form (xn--…).

    Returns:
        The host in its normal form: lower case, IPv6 shortest and without brackets, no trailing dot.

    Raises:
        ValueError: It is none; one sentence that does not quote it.
    """
    if len(text) > LONGEST + 1:
        raise ValueError(f"the host has {len(text)} characters, and {LONGEST} are the most")
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inside:
        if "%" in inside:
            raise ValueError("the address has a zone")
        try:
            return str(IPv6Address(inside))
        except AddressValueError:
            raise ValueError("the host is no IPv6 address") from None
    if not HOST_NAME.fullmatch(text):
        raise ValueError("the host is no name and no address")
    name = text.removesuffix(".").lower()
    if len(name) > LONGEST:
        raise ValueError(f"the host has {len(name)} characters, and {LONGEST} are the most")
    if not _NUMBER.fullmatch(name.rpartition(".")[2]):
        return name
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError("the host is a number, but no IPv4 address of four decimal ones") from None


def read_port(text: str) -> int:
    """Read a port: 1 to 65535 in decimal digits, without zeros before them.

    Raises:
        ValueError: It is none; one sentence that does not quote it.
    """
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("the port is no number from 1 to 65535")
    return int(text)


def is_address(host: str) -> bool:
    """Tell whether a host that `read_host` gave is an address."""
    return ":" in host or host.rpartition(".")[2].isdigit()
