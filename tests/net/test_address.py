"""Addresses and peers: text forms, loopback, networks, and the process at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_network

import pytest

from wsbridge.net.address import (
    NETWORK_CACHE_SIZE,
    Address,
    NetworkSet,
    Peer,
    join_host_port,
    local_address,
    local_endpoint,
    peer_credentials,
)
from wsbridge.protocol.proxy import SockEndpoint


@pytest.mark.parametrize(
    ("host", "text"),
    [("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), ("example.org", "example.org:80")],
)
def test_host_port(host, text):
    """IPv6 addresses are in brackets, everything else is not."""
    assert join_host_port(host, 80) == text
    assert str(Address(socket.AF_INET, (host, 80))) == text


@pytest.mark.parametrize(
    ("host", "family", "loopback"),
    [
        ("127.0.0.1", socket.AF_INET, True),
        ("127.9.9.9", socket.AF_INET, True),
        ("127.example.org", socket.AF_INET, False),
        ("::1", socket.AF_INET6, True),
        ("192.0.2.1", socket.AF_INET, False),
        ("2001:db8::127", socket.AF_INET6, False),
        ("", socket.AF_UNIX, True),
    ],
)
def test_peer_is_loopback(host, family, loopback):
    """Loopback addresses and Unix sockets are this machine's."""
    assert Peer(host, 1, family).is_loopback is loopback


def test_ipv4_peer_of_a_dual_stack_socket_is_reported_as_ipv4():
    """A client that came by IPv4 to `[::]` shows its IPv4 address."""
    with socket.socket(socket.AF_INET6) as sock:
        peer = Peer.from_socket(sock, ("::ffff:192.0.2.7", 52044, 0, 0))

    assert str(peer) == "192.0.2.7:52044"
    assert peer.family == socket.AF_INET


def test_where_an_ipv4_client_of_a_dual_stack_socket_has_connected_to():
    """It is IPv4, as its own address is."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            with accepted:
                assert local_endpoint(accepted.fileno()) == SockEndpoint("127.0.0.1", port)


def test_peer_asks_the_kernel_when_accept_gave_nothing():
    """Without an address from accept, the socket is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            assert str(Peer.from_socket(accepted)) == local_address(client)


def test_peer_of_a_unix_socket_has_process_and_user():
    """The kernel's credentials name the process at the other end."""
    left, right = socket.socketpair()
    with left, right:
        peer = Peer.from_socket(left)

    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert str(peer) == f"unix:pid={os.getpid()},uid={os.getuid()}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_large_user_ids_are_positive():
    """IDs are unsigned; those of containers and directory services can be above 2^31."""
    os.seteuid(4_000_000_000)
    try:
        one, other = socket.socketpair()
    finally:
        os.seteuid(0)
    with one, other:
        assert Peer.from_socket(one).uid == peer_credentials(one)[1] == 4_000_000_000


def test_local_name_of_a_unix_socket(tmp_path):
    """A bound Unix socket shows its path."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert local_address(sock) == f"unix:{tmp_path / 's'}"


def test_local_place(tmp_path):
    """Where a socket is bound to, by its descriptor, which stays open."""
    with socket.socket(socket.AF_INET) as sock:
        sock.bind(("127.0.0.1", 0))
        assert local_endpoint(sock.fileno()) == SockEndpoint("127.0.0.1", sock.getsockname()[1])
        assert sock.getsockname()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert local_endpoint(sock.fileno()) == SockEndpoint("", 0, str(tmp_path / "s").encode())


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
def test_hosts_in_networks(host: str, held: bool) -> None:
    """Both families, mapped addresses as the IPv4 addresses they contain; what is no address is in none."""
    networks = NetworkSet([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
    assert networks.contains(host) is held
    assert networks.contains(host) is held


def test_unix_sockets_are_a_network_of_their_own() -> None:
    """Their clients have no address."""
    assert NetworkSet(["unix"]).contains("")
    assert not NetworkSet(["unix"]).contains("127.0.0.1")


def test_the_network_cache_is_bounded() -> None:
    """However many addresses ask, only so many answers are kept."""
    networks = NetworkSet([ip_network("10.0.0.0/8")])
    for number in range(NETWORK_CACHE_SIZE + 100):
        networks.contains(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert networks.contains.cache_info().currsize == NETWORK_CACHE_SIZE
