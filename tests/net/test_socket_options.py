"""Socket options, unacknowledged bytes, resets."""

import socket

import pytest

from wsbridge.net.transport import reset_socket, set_socket_options


@pytest.fixture
def pair():
    """A connected pair of TCP sockets on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


def option(sock, name):
    """Read an option of TCP."""
    return sock.getsockopt(socket.IPPROTO_TCP, name)


def test_tune_sets_what_every_connection_has(pair):
    """No delay, keepalive 60/15/4, and no user timeout, which would end peers that read slowly."""
    client, _ = pair
    set_socket_options(client)

    assert option(client, socket.TCP_NODELAY) == 1
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(client, socket.TCP_KEEPIDLE) == 60
    assert option(client, socket.TCP_KEEPINTVL) == 15
    assert option(client, socket.TCP_KEEPCNT) == 4
    assert option(client, socket.TCP_USER_TIMEOUT) == 0


def test_reset_is_seen_as_a_reset(pair):
    """The peer gets ECONNRESET, not an orderly end."""
    client, accepted = pair
    reset_socket(client)

    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    assert client.fileno() == -1


def test_reset_of_a_unix_socket_closes_it():
    """There is no reset there: the peer sees the end."""
    left, right = socket.socketpair()
    with right:
        reset_socket(left)
        assert right.recv(1) == b""
