"""Networks: ranges of addresses as the file has them.

Lives here: their text form and the value it becomes. Must not live here: whether an address is in one (`net.networks`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.text import as_text

AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
UNIX: Literal["unix"] = "unix"
"""Stands in a list of networks for the clients of Unix sockets."""


def read_network(value: object) -> AnyNetwork:
    """Read `10.0.0.0/8`, `2001:db8::/32`, or one address."""
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    text = as_text(value)
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network("" if "%" in text else text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is no network: write 10.0.0.0/8, "2001:db8::/32" or one address') from None
    raise ValueError(f'"{text}" is an address inside of a network: write {meant}, or the address alone')


def read_network_or_unix(value: object) -> AnyNetwork | Literal["unix"]:
    """Read a network, or `unix` for whoever comes by a Unix socket."""
    return UNIX if value == UNIX else read_network(value)


Network = Annotated[
    AnyNetwork,
    PlainValidator(read_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\[?[0-9A-Fa-f:.]+\]?(/[0-9]+)?$"}),
]
NetworkOrUnix = Annotated[
    AnyNetwork | Literal["unix"],
    PlainValidator(read_network_or_unix),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(unix|\[?[0-9A-Fa-f:.]+\]?(/[0-9]+)?)$"}),
]
