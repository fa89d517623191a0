"""Sockets that the service manager passes: the variables, the descriptors, and the listeners that name them."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from wsbridge.config.listener import ListenerConfig
from wsbridge.config.urls import read_bind
from wsbridge.net.listeners import ListenError, listener_key
from wsbridge.net.socket_activation import PassedSockets, receive_sockets

FIRST = 700
"""Where the test puts the descriptors; the real ones begin at 3."""


def listener(name="web"):
    """Return the section of a listener with a passed socket."""
    return ListenerConfig.model_construct(bind=read_bind(f"fd:{name}"), backlog=1024, ipv6_only=False)


def variables(count, names=None, pid=None):
    """Return the environment that goes with so many descriptors."""
    found = {"LISTEN_PID": str(os.getpid() if pid is None else pid), "LISTEN_FDS": str(count), "HOME": "/root"}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


@pytest.fixture
def pass_sockets():
    """Give a function that duplicates sockets to consecutive, inheritable descriptors."""
    used = []

    def place(*sockets):
        for at, sock in enumerate(sockets, FIRST):
            os.dup2(sock.fileno(), at, inheritable=True)
            used.append(at)

    yield place
    for descriptor in used:
        with contextlib.suppress(OSError):  # most tests have closed it
            os.close(descriptor)


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    """Open a listening socket."""
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock


async def test_sockets_are_found_by_name(pass_sockets, tmp_path):
    """Several sockets of one name are one listener; the variables are removed, and children inherit nothing."""
    path = str(tmp_path / "s")
    with listening() as one, listening(socket.AF_INET6, ("::1", 0)) as two, listening(socket.AF_UNIX, path) as three:
        pass_sockets(one, two, three)
        environ = variables(3, "web:web:local")
        passed = receive_sockets(environ, FIRST)
        assert environ == {"HOME": "/root"}
        assert not any(os.get_inheritable(FIRST + at) for at in range(3))
        web, local = await passed.listen("w", listener()), await passed.listen("l", listener("local"))
        assert web.addresses == [
            f"127.0.0.1:{one.getsockname()[1]}",
            f"[::1]:{two.getsockname()[1]}",
        ]
        assert local.addresses == [f"unix:{path}"]
        assert web.is_passed
        assert web.key == listener_key("another", listener())
        assert not any(sock.getblocking() or sock.get_inheritable() for sock in web.sockets)
        assert passed.unused([listener()]) == ["local"]
        web.close()
        again = await passed.listen("w", listener())
        with socket.create_connection(one.getsockname()):
            accepted, _ = again.sockets[0].accept()
            accepted.close()
        again.close()
        local.close()
        assert Path(path).exists()  # it belongs to the service manager
        passed.close()
        passed.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(FIRST)


async def test_sockets_without_names_are_called_unknown(pass_sockets):
    """As sd_listen_fds_with_names(3) calls them."""
    with listening() as one:
        pass_sockets(one)
        passed = receive_sockets(variables(1), FIRST)
        (await passed.listen("w", listener("unknown"))).close()
        passed.close()


@pytest.mark.parametrize("environ", [{}, variables(1, "web", pid=1), {"LISTEN_FDS": "1"}, {"LISTEN_PID": "x"}])
async def test_variables_of_another_process_mean_nothing(environ):
    """They are removed, and a listener that wants a socket hears that none was passed."""
    left = dict(environ)
    passed = receive_sockets(left, FIRST)
    assert not [key for key in left if key.startswith("LISTEN_")]
    with pytest.raises(ListenError, match="no sockets were passed: start wsbridge together with") as found:
        await passed.listen("w", listener())
    assert (found.value.problem, found.value.errno) == ("E043", 0)


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        (variables("x"), "LISTEN_FDS: .x. is not a number"),
        (variables(2, "web"), "1 names for 2 descriptors"),
        (variables(1, ""), "0 names for 1 descriptors"),
        (variables(1, "web"), "descriptor 700: bad file descriptor"),
    ],
)
def test_variables_that_cannot_be_right(environ, text):
    """They are an error in one sentence."""
    with pytest.raises(ValueError, match=text):
        receive_sockets(environ, FIRST)


async def test_a_name_that_was_not_passed(pass_sockets):
    """The names that were passed are in the message."""
    with listening() as one, listening() as two:
        pass_sockets(one, two)
        passed = receive_sockets(variables(2, "http:admin"), FIRST)
        with pytest.raises(ListenError, match="no socket of this name was passed at the start, but fd:http, fd:admin"):
            await passed.listen("w", listener())
        passed.close()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "is not a stream socket: write ListenStream="),
        (lambda: socket.socket(socket.AF_UNIX), "does not listen: the .socket unit must have Accept=no"),
        (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), "is neither an IPv4, an IPv6 nor a Unix socket"),
        (lambda: Path(os.devnull).open(), "is not a socket"),  # noqa: SIM115  closed by the test
    ],
)
async def test_descriptors_that_cannot_be_listened_at(make, text):
    """Each is rejected with what to change in the unit, and leaves nothing open."""
    with make() as wrong, listening() as right:
        passed = PassedSockets({"web": [right.fileno(), wrong.fileno()]})
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (only counted)
        with pytest.raises(ListenError, match=f"descriptor {wrong.fileno()} {text}") as found:
            await passed.listen("w", listener())
        assert found.value.problem == "E043"
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
