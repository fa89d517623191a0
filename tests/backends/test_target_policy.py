"""The rules for targets and their resolved addresses."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.target_requests import rules
from wsbridge.backends.target_policy import SPECIAL_NETWORKS, TargetRules, is_ip_literal
from wsbridge.backends.target_template import host_target
from wsbridge.net.address import Address

EVERYTHING = ["0.0.0.0/0", "::/0"]


def at(host: str, port: int = 22) -> Address:
    """Give an address."""
    return Address(socket.AF_INET6, (host, port, 0, 0)) if ":" in host else Address(socket.AF_INET, (host, port))


def allowed(own: bool = False, **written: Any) -> TargetRules:
    """Give rules, ports 1 to 65535 unless written."""
    return TargetRules(rules(**{"ports": ["1-65535"], **written}), lambda _: own)


def passes(found: TargetRules, host: str, port: int = 22) -> bool:
    """Return whether an address that a client writes itself goes through both judgements."""
    target = host_target("tcp", host, port)
    return found.check(target) is None and found.check_address(at(host, port), found_by_name=False) is None


@pytest.mark.parametrize(
    ("host", "port", "fine"),
    [
        ("10.1.2.3", 22, True),
        ("10.1.2.3", 5900, True),
        ("10.1.2.3", 5999, True),
        ("10.1.2.3", 23, False),
        ("10.1.2.3", 6000, False),
        ("11.0.0.1", 22, False),
        ("2001:db8::1", 22, True),
        ("2001:db9::1", 22, False),
    ],
)
def test_networks_and_ports(host: str, port: int, fine: bool) -> None:
    """Both have to have the target."""
    found = allowed(networks=["10.0.0.0/8", "2001:db8::/32"], ports=["22", "5900-5999"])
    assert passes(found, host, port) is fine


@pytest.mark.parametrize("written", [{}, {"names": ["*.example.org"]}, {"unix": ["/run"]}])
def test_an_address_needs_networks(written: dict[str, Any]) -> None:
    """Names do not open addresses that a client writes itself."""
    assert not passes(allowed(**written), "10.0.0.1")


def test_without_ports_there_is_no_tcp() -> None:
    """Closed by default."""
    found = TargetRules(rules(networks=["10.0.0.0/8"], unix=["/run"], ports=[]), lambda _: False)
    assert (
        found.check(host_target("tcp", "10.0.0.1", 22)) == "10.0.0.1:22: the port is in none of allowed_targets.ports"
    )


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("db.example.org", True),
        ("a.vms.example.org", True),
        ("a.b.vms.example.org", True),
        ("vms.example.org", False),
        ("xvms.example.org", False),
        ("adb.example.org", False),
        ("db.example.org.evil.example", False),
        ("a.vms.example.org.evil.example", False),
    ],
)
def test_names(name: str, fine: bool) -> None:
    """Exactly, or all that end so; others are not even looked up."""
    found = allowed(names=["db.example.org", "*.vms.example.org"])
    assert (found.check(host_target("tcp", name, 22)) is None) is fine


def test_a_name_needs_names_or_networks() -> None:
    """With networks alone every name may be looked up, and its addresses are judged."""
    name = host_target("tcp", "db.example.org", 22)
    assert allowed(unix=["/run"]).check(name) == "db.example.org:22: allowed_targets has no names"
    found = allowed(networks=["10.0.0.0/8"])
    assert found.check(name) is None
    assert found.check_address(at("10.0.0.1"), found_by_name=True) is None
    assert found.check_address(at("11.0.0.1"), found_by_name=True) is not None


def test_with_names_alone_their_addresses_are_fine() -> None:
    """Unless they are special ones, which need a network."""
    found = allowed(names=["db.example.org"])
    assert found.check_address(at("10.0.0.1"), found_by_name=True) is None
    assert found.check_address(at("127.0.0.1"), found_by_name=True) is not None
    assert found.check_address(at("10.0.0.1"), found_by_name=False) is not None


SPECIAL_HOSTS = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.1.1", "169.254.169.254", "100.100.100.200"),
    *("168.63.129.16", "192.0.0.192", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "169.254.170.2"),
    *("::", "::1", "::2", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *(
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2001:0:1::",
    ),
    *(
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:1a9:fe:a9fe::",
        "fd20:ce::254",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ),
]


@pytest.mark.parametrize("host", SPECIAL_HOSTS)
def test_special_addresses_are_not_among_all(host: str) -> None:
    """A network of everything, and one of nearly everything, opens none of them."""
    for networks in (EVERYTHING, ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]):
        assert not passes(allowed(networks=networks), host)


@pytest.mark.parametrize(
    ("networks", "host", "fine"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.1/32"], "127.0.0.1", True),
        (["127.0.0.1/32"], "127.0.0.2", False),
        (["0.0.0.0/0", "127.0.0.1/32"], "127.0.0.1", True),
        (["0.0.0.0/0", "127.0.0.1/32"], "127.0.0.2", False),
        (["169.254.0.0/16"], "169.254.1.1", True),
        (["169.254.0.0/16"], "169.254.169.254", False),
        (["169.254.169.254/32"], "169.254.169.254", True),
        (["::1/128"], "::1", True),
        (["::ffff:0:0/96"], "::ffff:10.0.0.1", True),
        (["::ffff:0:0/96"], "::ffff:127.0.0.1", False),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", False),
        (["127.0.0.0/8", "::ffff:0:0/96"], "::ffff:127.0.0.1", True),
        (["64:ff9b::/96"], "64:ff9b::a00:1", True),
        (["64:ff9b::/96"], "64:ff9b::7f00:1", False),
        (["64:ff9b::/96"], "64:ff9b::a9fe:a9fe", False),
        (["2002::/16"], "2002:a00:1::1", True),
        (["2002::/16"], "2002:7f00:1::1", False),
        (["fe80::/10"], "fe80::1", True),
        (["fe00::/8"], "fe80::1", False),
        (["fd00::/8"], "fd00:ec2::254", False),
        (["fd00:ec2::/32"], "fd00:ec2::254", True),
    ],
)
def test_a_network_of_their_own_opens_them(networks: list[str], host: str, fine: bool) -> None:
    """One that lies entirely within the range; an address within an address needs both."""
    assert passes(allowed(networks=networks), host) is fine


def test_a_zone_does_not_hide_an_address() -> None:
    """A name can lead to one with a zone, by the hosts file."""
    found = allowed(names=["a"], networks=EVERYTHING)
    assert found.check_address(at("fe80::1%lo"), found_by_name=True) is not None


def test_own_listeners() -> None:
    """They are refused wherever they are, unless that is written."""
    assert not passes(allowed(own=True, networks=["10.0.0.0/8"]), "10.0.0.1")
    assert passes(allowed(own=True, networks=["10.0.0.0/8"], allow_own_listeners=True), "10.0.0.1")


def test_the_sentence_has_the_address_and_the_reason() -> None:
    """For the log."""
    found = allowed(networks=EVERYTHING)
    assert found.check(host_target("tcp", "127.0.0.1", 22)) == (
        "127.0.0.1:22: 127.0.0.1 is loopback, which needs a network of its own in allowed_targets.networks"
    )


V6 = st.integers(0, 2**128 - 1) | st.sampled_from([0xFFFF << 32, 0x64FF9B << 96, 0x2002 << 112, 0]).flatmap(
    lambda base: st.integers(0, 2**32 - 1).map(lambda low: base | low)
)


@given(st.integers(0, 2**32 - 1).map(ip_address) | V6.map(IPv6Address))
def test_no_address_passes_that_is_special(ip: Any) -> None:
    """With networks of everything, what is allowed is in no special range, and maps to no address in one."""
    if passes(allowed(networks=EVERYTHING), str(ip)):
        assert not any(ip in network for network, _ in SPECIAL_NETWORKS)
        assert not ip.is_loopback
        assert not ip.is_link_local
        assert not ip.is_multicast
        assert not ip.is_unspecified


@given(
    ip=st.integers(0, 2**32 - 1).map(ip_address),
    networks=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), min_size=1, max_size=3),
    port=st.integers(1, 65535),
    first=st.integers(1, 65535),
    more=st.integers(0, 100),
)
def test_what_passes_is_written(ip: Any, networks: list[tuple[int, int]], port: int, first: int, more: int) -> None:
    """Whatever networks and ports are written, a target that passes is in one of each."""
    written = [ip_network((number, length), strict=False) for number, length in networks]
    last = min(65535, first + more)
    found = allowed(networks=[str(each) for each in written], ports=[f"{first}-{last}"])
    if passes(found, str(ip), port):
        assert any(ip in network for network in written)
        assert first <= port <= last
    assert is_ip_literal(str(ip))


def own_addresses() -> list[str]:
    """The addresses of this host that are no loopback, found by where the kernel sends from."""
    found = []
    for family, far in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.connect((far, 9))
            found.append(sock.getsockname()[0])
    return [host for host in found if not ip_address(host).is_loopback]


def test_addresses_of_this_host_are_not_among_all() -> None:
    """Services that listen at all addresses are as open by those as by loopback; an entry of one address opens it."""
    for host in own_addresses():
        address = ip_address(host)
        wide = ["0.0.0.0/0", "::/0"]
        assert not passes(allowed(networks=wide), host)
        assert passes(allowed(networks=[*wide, f"{address}/{address.max_prefixlen}"]), host)
        if address.version == 4:
            nat64 = str(IPv6Address((0x64FF9B << 96) | int(address)))
            assert not passes(allowed(networks=[*wide, "64:ff9b::/96"]), nat64)


def test_nat64_prefixes_of_every_length_are_seen_through() -> None:
    """Where the range is written: the metadata service stays closed behind it, and other addresses are open."""
    for host in (
        "64:ff9b:1:a9fe:a9:fe00:808:808",
        "64:ff9b:1:1a9:fe:a9fe:808:808",
        "64:ff9b:1:0:a9:fea9:fe08:808",
        "64:ff9b:1::a9fe:a9fe",
    ):
        assert not passes(allowed(networks=["64:ff9b:1::/48"]), host)
    assert passes(allowed(networks=["64:ff9b:1::/48"]), "64:ff9b:1::5db8:d822")
    assert not passes(allowed(networks=EVERYTHING), "64:ff9b:1::5db8:d822")
