"""The accept loop: the connection limit, load shedding, and running out of file descriptors."""

import contextlib
import errno
import socket

import pytest
import trio

from tests.client import request
from tests.serving import backend, open_files, serving, written
from wsbridge.accept import AcceptTask
from wsbridge.net.reserved_fd import ReservedFd


@pytest.fixture
def listening():
    """A listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def test_the_reserve_turns_a_client_away_and_comes_back(listening):
    """The waiting client is reset, and afterwards one descriptor is held again."""
    reserve = ReservedFd()
    before = open_files()
    with socket.create_connection(listening.getsockname()) as client:
        assert reserve.accept_and_reset(listening)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert open_files() == before
    reserve.close()
    assert open_files() == before - 1
    reserve.close()


def test_the_reserve_with_nobody_waiting(listening):
    """A client that has disconnected already costs nothing."""
    reserve = ReservedFd()
    before = open_files()
    assert reserve.accept_and_reset(listening)
    assert open_files() == before
    reserve.close()


class Full:
    """A listening socket of a system without descriptors."""

    def accept(self):
        """Fail as the system does."""
        raise OSError(errno.ENFILE, "Too many open files in system")


def test_the_reserve_is_held_again_even_if_it_was_not_enough():
    """If releasing it does not help, that is reported, and it is reserved again for the next time."""
    reserve = ReservedFd()
    before = open_files()
    assert not reserve.accept_and_reset(Full())
    assert open_files() == before
    reserve.close()


def accepting(listening_socket, served):
    """Return what a task needs that accepts at another socket of the listener."""
    (opened,) = served.server.listeners
    task = AcceptTask(listening_socket)
    opened.accepting.append(task)
    return task, opened


async def test_errors_of_single_clients_do_not_end_the_loop(listening):
    """ECONNABORTED and the like are logged; the next client is served."""

    class Odd:
        def __init__(self):
            self.errors = [errno.ECONNABORTED, errno.EPERM, errno.EPROTO]

        def fileno(self):
            return listening.fileno()

        def accept(self):
            if self.errors:
                raise OSError(self.errors.pop(), "odd")
            return listening.accept()

    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        with socket.create_connection(listening.getsockname()) as client:
            client.setblocking(False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.server.acceptor.run, *accepting(Odd(), served), nursery)
                client.send(request())
                await served.records.wait("accept.error", count=3)
                with trio.fail_after(9):
                    await trio.lowlevel.wait_readable(client)
                assert client.recv(12) == b"HTTP/1.1 101"
                client.close()
                await served.quiet()
                nursery.cancel_scope.cancel()


async def test_a_full_table_pauses_accepting(listening):
    """Where not even the reserve helps, the loop sleeps `accept_pause` instead of spinning."""
    asked = 0

    class Empty:
        def fileno(self):
            return listening.fileno()

        def accept(self):
            nonlocal asked
            asked += 1
            raise OSError(errno.EMFILE, "Too many open files")

    async with serving(written(route={"respond": "204"})) as served:
        with socket.create_connection(listening.getsockname()):
            began = trio.current_time()
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(served.server.acceptor.run, *accepting(Empty(), served), nursery)
                    while asked < 9:
                        await trio.sleep(0.01)
                    nursery.cancel_scope.cancel()
            assert trio.current_time() - began > 0.35  # it is asked twice a round, and there are 100 ms between two
        assert served.records.of("accept.error")[0]["level"] == "error"


@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 10), (10.0, 1)])
async def test_many_clients_at_once_let_other_tasks_run(listening, monkeypatch, seconds, turns):
    """Those that have waited in the backlog are served in time slices, since each is served as far as it goes."""
    monkeypatch.setattr("wsbridge.accept.TIME_SLICE", seconds)
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(10)]
        for client in clients:
            client.send(request())
        async with trio.open_nursery() as nursery:
            task, opened = accepting(listening, served)
            nursery.start_soon(served.server.acceptor.run, task, opened, nursery)
            while back.dials < 10:
                await trio.sleep(0.002)
            assert turns <= task.wakeups <= turns + 1
            for client in clients:
                client.close()
            await served.quiet()
            nursery.cancel_scope.cancel()


async def test_the_cap_counts_what_is_open():
    """Over the cap: 503 with Retry-After, no dial; below it again: served."""
    async with backend() as back:
        text = written(route={"backend": back.url}, limits={"connections": "1", "overload_replies": "1"})
        async with serving(text) as served:
            inside = await served.upgraded()
            await inside.echoed()
            waiting = await served.connect()
            while not served.server.services.active_overload_replies:
                await trio.sleep(0.002)
            with contextlib.suppress(OSError):  # reset at once, perhaps before it was told that it is connected
                beyond = await served.connect()
                await beyond.everything()
                beyond.drop()
            assert (await served.records.wait("connection.shed"))["detail"] == (
                "1 connections, and limits.connections is 1"
            )
            await waiting.send(request())
            answer = (await waiting.everything()).decode()
            assert answer.startswith("HTTP/1.1 503 ")
            assert "Retry-After: 1\r\n" in answer
            waiting.drop()
            assert back.dials == 1
            await inside.close()
            await served.quiet()
            with await served.upgraded() as client:
                await client.echoed()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("part", [0, 4])
async def test_shed_bounds_the_time_of_those_turned_away(tls, part):
    """A client over the cap that says nothing, or half a request or TLS hello, is gone after `overload_reply`."""
    data = (b"\x16\x03\x01\x00" if tls else b"GET ")[:part]
    timeouts = {"overload_reply": "200ms", "handshake": "60s", "tls": "60s"}
    async with backend() as back:
        text = written(route={"backend": back.url}, limits={"connections": "1"}, timeouts=timeouts, tls=tls)
        async with serving(text) as served:
            inside = await served.upgraded(tls=tls)
            with await served.connect() as over:
                began = trio.current_time()
                await over.send(data)
                await over.everything()
                assert trio.current_time() - began < 10
            await served.quiet(1)
            await inside.echoed()
            inside.drop()
