"""Whether an address is in one of several networks."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from wsbridge.net.address import NETWORK_CACHE_SIZE, NetworkSet


@pytest.mark.parametrize(
    ("host", "held"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::5%eth0", True),
        ("", False),
        ("nonsense", False),
    ],
)
def test_which_hosts_are_held(host: str, held: bool) -> None:
    """Both families, mapped addresses as what they stand for; what is no address is in none."""
    networks = NetworkSet([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
    assert networks.contains(host) is held
    assert networks.contains(host) is held


def test_unix_sockets_are_a_network_of_their_own() -> None:
    """Their clients have no address."""
    assert NetworkSet(["unix"]).contains("")
    assert not NetworkSet(["unix"]).contains("127.0.0.1")


def test_memory_is_bounded() -> None:
    """However many addresses ask, only so many answers are kept."""
    networks = NetworkSet([ip_network("10.0.0.0/8")])
    for number in range(NETWORK_CACHE_SIZE + 100):
        networks.contains(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert networks.contains.cache_info().currsize == NETWORK_CACHE_SIZE
