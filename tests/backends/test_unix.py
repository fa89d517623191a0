"""Unix backends: both spellings, with and without a wait."""

from __future__ import annotations

import socket

import pytest
import trio

from tests.rejections import async_outcome
from wsbridge.backends.base import DialRequest, DialServices
from wsbridge.backends.tcp import UnixBackend, UnixBackendConfig
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Termination

DEAD_SOCKET = "no process listens on the socket; one that has ended may have left it behind"


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_dial(tmp_path, form, at_once):
    """A raw endpoint on the socket file."""
    path = tmp_path / "s"
    backend = UnixBackend(UnixBackendConfig(url=form.format(path)), DialServices(Resolver()))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        dialled = backend.connect_nowait(DialRequest()) if at_once else await backend.dial(DialRequest())
        server.accept()[0].close()

    assert (dialled.subprotocol, dialled.address) == (None, f"unix:{path}")
    assert dialled.side.role == "raw"
    with trio.fail_after(9):
        assert await dialled.side.transport.read_some() == b""
    dialled.side.transport.close()


async def test_a_path_that_is_no_socket(tmp_path):
    """Is refused, and the detail says why."""
    path = tmp_path / "s"
    path.touch(0o666)
    backend = UnixBackend(UnixBackendConfig(url=f"unix:{path}"), DialServices(Resolver()))
    end = await async_outcome(backend.dial(DialRequest()))
    assert (end.reason, end.detail) == (Reason.BACKEND_REFUSED, f"unix:{path}: Connection refused: this is no socket")


async def test_refused(tmp_path):
    """No file, or a file at which nobody listens: a reason with the path, and nothing at once."""
    path = tmp_path / "s"
    backend = UnixBackend(UnixBackendConfig(url=f"unix:{path}"), DialServices(Resolver()))
    missing = "No such file or directory: the service has not made its socket, or the path is another"
    for reason, words in (
        (Reason.BACKEND_UNREACHABLE, missing),
        (Reason.BACKEND_REFUSED, f"Connection refused: {DEAD_SOCKET}"),
    ):
        assert backend.connect_nowait(DialRequest()) is None
        end = await async_outcome(backend.dial(DialRequest()))
        assert end.termination() == Termination(reason, "backend", f"unix:{path}: {words}")
        with socket.socket(socket.AF_UNIX) as server:
            if not path.exists():
                server.bind(str(path))
