"""Whether an IP address is one of this host."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from wsbridge.protocol.ip import unmap


def is_local_ip(host: str, *flow_and_scope: int) -> bool:
    """Return whether an IP address is one of this host, by whatever interface or local route.

    The kernel answers: towards one of its own addresses it sends from that address. Nothing is sent.

    Args:
        host: The address; a zone is left out of the comparison.
        flow_and_scope: Flow label and scope of an IPv6 address, if known.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((host, 9, *flow_and_scope))
            return _without_zone(sock.getsockname()[0]) == _without_zone(host)
    except OSError:
        return False


def _without_zone(host: str) -> object:
    return unmap(ip_address(host.partition("%")[0]))
