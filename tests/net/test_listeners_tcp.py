"""TCP listeners: families, ports, errors that say what to do."""

import errno
import os
import socket

import pytest

from wsbridge.config.listener import ListenerConfig
from wsbridge.net import listeners
from wsbridge.net.listeners import ListenError


def has_ipv6():
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


async def opened(bind, **keys):
    """Open a listener that is closed by the test."""
    return await listeners.listen_tcp("public", ListenerConfig(bind=bind, **keys))


def reaches(address):
    """Return whether a connection to the address is accepted."""
    try:
        socket.create_connection(address, 5).close()
    except OSError:
        return False
    return True


async def test_port_0_and_the_real_address():
    """The system's port is reported."""
    listening = await opened("127.0.0.1:0")
    (sock,) = listening.sockets
    port = sock.getsockname()[1]

    assert port
    assert listening.addresses == [f"127.0.0.1:{port}"]
    assert reaches(("127.0.0.1", port))
    listening.close()
    assert sock.fileno() == -1


async def test_sockets_are_non_blocking_and_not_inherited():
    """And listen with SO_REUSEADDR, so that a restart does not wait."""
    listening = await opened("127.0.0.1:0")
    (sock,) = listening.sockets

    assert sock.getblocking() is False
    assert os.get_inheritable(sock.fileno()) is False
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    listening.close()
    listening.close()


@needs_ipv6
async def test_localhost_is_both_families_on_one_port():
    """IPv4 and IPv6, the same port though the system chose it."""
    listening = await opened("localhost:0")
    port = listening.sockets[0].getsockname()[1]

    assert listening.addresses == [f"127.0.0.1:{port}", f"[::1]:{port}"]
    assert reaches(("127.0.0.1", port))
    assert reaches(("::1", port))
    listening.close()


async def test_localhost_without_ipv6_is_ipv4(monkeypatch):
    """A family that the machine lacks is left out."""
    bind = listeners._bind_tcp

    def lacking(address, port, config):
        if address.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no")
        return bind(address, port, config)

    monkeypatch.setattr(listeners, "_bind_tcp", lacking)
    listening = await opened("localhost:0")

    assert len(listening.sockets) == 1
    listening.close()


async def test_another_port_is_tried_where_one_is_taken_in_one_family(monkeypatch):
    """The port that the system chooses for IPv4 may be in use for IPv6."""
    bind = listeners._bind_tcp
    made = []

    def taken_once(address, port, config):
        if address.family == socket.AF_INET6:
            if len(made) == 1:
                raise OSError(errno.EADDRINUSE, "taken")
            return bind(listeners.Address(socket.AF_INET, ("127.0.0.2", 0)), port, config)
        made.append(bind(address, port, config))
        return made[-1]

    monkeypatch.setattr(listeners, "_bind_tcp", taken_once)
    listening = await opened("localhost:0")

    assert [sock.fileno() != -1 for sock in made] == [False, True]
    assert len({sock.getsockname()[1] for sock in listening.sockets}) == 1
    listening.close()


@needs_ipv6
@pytest.mark.parametrize("ipv6_only", [False, True])
async def test_dual_stack_unless_ipv6_only(ipv6_only):
    """`[::]` accepts IPv4 as well; ipv6_only leaves IPv4 free."""
    listening = await opened("[::]:0", ipv6_only=ipv6_only)
    port = listening.sockets[0].getsockname()[1]

    assert listening.addresses == [f"[::]:{port}"]
    assert reaches(("::1", port))
    assert reaches(("127.0.0.1", port)) is not ipv6_only
    listening.close()


async def test_address_in_use_is_one_clear_sentence():
    """With the names of the listener and the address; nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            await opened(f"127.0.0.1:{port}")

    assert str(caught.value) == f'listener "public": cannot listen on 127.0.0.1:{port}: address already in use'
    assert caught.value.errno == errno.EADDRINUSE


async def test_address_of_another_machine():
    """An address that no interface has."""
    with pytest.raises(ListenError, match="this machine has no such address"):
        await opened("192.0.2.1:0")


async def test_unknown_name(monkeypatch):
    """A name that cannot be looked up."""

    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(listeners.socket, "getaddrinfo", fail)
    with pytest.raises(ListenError, match="cannot look up the name: Name or service not known"):
        await opened("gw.invalid:0")


async def test_ports_below_1024(monkeypatch):
    """The message says what is needed."""

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listeners, "_bind_tcp", denied)
    with pytest.raises(ListenError, match=r"permission denied \(ports below 1024 need root or CAP_NET_BIND_SERVICE\)"):
        await opened("127.0.0.1:443")
