"""Socket options, unacknowledged bytes, resets."""

import socket

import pytest

from wsbridge.net.sockets import reset, tune


@pytest.fixture
def pair():
    """A connected pair of TCP sockets on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


def option(sock, name):
    return sock.getsockopt(socket.IPPROTO_TCP, name)


def test_tune_sets_what_every_connection_has(pair):
    """No delay, keepalive 60/15/4, and no user timeout, which would end peers that read slowly."""
    client, _ = pair
    tune(client)

    assert option(client, socket.TCP_NODELAY) == 1
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(client, socket.TCP_KEEPIDLE) == 60
    assert option(client, socket.TCP_KEEPINTVL) == 15
    assert option(client, socket.TCP_KEEPCNT) == 4
    assert option(client, socket.TCP_USER_TIMEOUT) == 0


def test_unix_sockets_are_left_alone():
    """They have none of these options, and that is no error."""
    left, right = socket.socketpair()
    with left, right:
        tune(left)


def test_reset_is_seen_as_a_reset(pair):
    """The peer gets ECONNRESET, not an orderly end."""
    client, accepted = pair
    reset(client)

    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    assert client.fileno() == -1


def test_reset_of_a_closed_socket_is_no_error(pair):
    """Closing what is closed already is fine."""
    client, _ = pair
    client.close()
    reset(client)


def test_reset_of_a_unix_socket_closes_it():
    """There is no reset there: the peer sees the end."""
    left, right = socket.socketpair()
    with right:
        reset(left)
        assert right.recv(1) == b""
