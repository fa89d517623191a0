"""Lingering close: the peer gets the whole response of a rejection."""

import contextlib
import socket

import pytest
import trio
import trio.testing

from wsbridge.frontend import LingeringCloser
from wsbridge.net.transport import SocketTransport


@contextlib.contextmanager
def connection():
    """Give a connection over loopback: our transport, and the peer."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as peer,
    ):
        ours, _ = listening.accept()
        ours.setblocking(False)
        peer.setblocking(False)
        with ours:
            yield SocketTransport(ours), peer


async def read(peer):
    """Read to the end."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer.dup()))
    data = b""
    with contextlib.closing(stream.socket):
        while part := await stream.receive_some(65536):
            data += part
    return data


async def test_an_answer_survives_unread_input():
    """The peer reads the whole answer although what it sent was never read."""
    with connection() as (wire, peer):
        peer.send(b"x" * 50_000)
        await wire.write_all(b"answer")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(LingeringCloser(10, 5, 1 << 20).close, wire)
            assert await read(peer) == b"answer"
            peer.shutdown(socket.SHUT_WR)
        assert wire.sock.fileno() == -1


async def test_it_ends_after_its_time(autojump_clock):
    """A peer that neither sends nor ends is waited for no longer than that."""
    with connection() as (wire, _):
        began = trio.current_time()
        await LingeringCloser(10, 2, 1 << 20).close(wire)
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)
        assert wire.sock.fileno() == -1


async def test_it_ends_after_its_bytes():
    """A peer that sends on and on is cut after so many bytes."""
    with connection() as (wire, peer):
        sent = 0

        async def send():
            nonlocal sent
            with contextlib.suppress(OSError):
                while True:
                    await trio.lowlevel.wait_writable(peer)
                    sent += peer.send(bytes(65536))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with trio.fail_after(9):
                await LingeringCloser(10, 60, 300_000).close(wire)
        assert sent >= 300_000


async def test_only_so_many_linger():
    """Beyond the limit a socket is closed at once, and a place that has become free is used again."""
    lingering = LingeringCloser(1, 60, 1 << 20)
    with connection() as (first, peer), connection() as (second, _), connection() as (third, other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lingering.close, first)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(10):
                await lingering.close(second)
            assert second.sock.fileno() == -1
            assert first.sock.fileno() != -1
            peer.close()
        assert first.sock.fileno() == -1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lingering.close, third)
            await trio.testing.wait_all_tasks_blocked()
            assert third.sock.fileno() != -1
            other.close()


async def test_cancelling_closes():
    """The descriptor is closed and the place given back, whatever ends the wait."""
    lingering = LingeringCloser(1, 60, 1 << 20)
    for _ in range(2):
        with connection() as (wire, _):
            with trio.move_on_after(0.02):
                await lingering.close(wire)
            assert wire.sock.fileno() == -1
