"""Both sides of a takeover in one process: many sockets, delays, errors. With real processes: process/test_takeover."""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.admin import takeovers
from tests.admin.takeovers import Running, begin
from tests.serving import config_of, open_files, recording, written
from wsbridge.admin import takeover
from wsbridge.admin.takeover import Takeover, TakeoverError
from wsbridge.config.limits import Limits
from wsbridge.net.listeners import listen_unix
from wsbridge.net.sealed_file import write_sealed_file
from wsbridge.reasons import Reason
from wsbridge.server import Server
from wsbridge.sessions.handover import SessionAdopter
from wsbridge.sessions.store import SessionStore

SESSIONS = SessionStore(Limits(), deque())


@contextlib.asynccontextmanager
async def running(folder: Path, listeners: int = 1, environ: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run a server with so many Unix listeners that can be taken over from."""
    sections: dict[str, Any] = {
        f"l{number}": {"bind": f"unix:{folder}/{number}.sock"} for number in range(1, listeners + 1)
    }
    text = written(listeners=sections, route={"respond": "204"}, admin={"bind": f"unix:{folder}/admin.sock"})
    async with takeovers.running(text, folder / "admin.sock", environ) as first:
        yield first


def unix_listener(path: Path) -> socket.socket:
    """Listen at a path."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


async def answered(path: Path) -> bytes:
    """Send a request to a Unix listener; give the begin of the response."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return await stream.receive_some(12)


async def test_more_sockets_than_one_message_can_pass(tmp_path):
    """All arrive, each at its listener; the files stay, and are removed by the server that has them last."""
    before = open_files()
    async with running(tmp_path, listeners=150) as first, trio.open_nursery() as nursery:
        asked = await begin(first.path)
        second = Server(first.config)
        ready = trio.Event()
        nursery.start_soon(
            second.run, lambda _: ready.set(), None, asked.sockets, partial(asked.complete, second.services.sessions)
        )
        await ready.wait()
        await first.served.returned.wait()
        assert first.served.records.of("takeover.completed", pid=os.getpid(), count=150)
        assert len({opened.listening.file for opened in second.listeners}) == 150
        for number in (1, 150):
            assert await answered(tmp_path / f"{number}.sock") == b"HTTP/1.1 204"
        assert not first.path.exists()
        second.stop(Reason.SHUTDOWN)
    assert list(tmp_path.iterdir()) == []
    assert open_files() <= before + 2


async def test_a_new_process_without_descriptors(tmp_path):
    """The limit of open files is named; the running process serves, and no descriptor is left over."""
    async with running(tmp_path, listeners=40) as first:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = open_files()
        free_descriptors(10)
        try:
            with pytest.raises(TakeoverError, match="41 sockets are too many open files"):
                await begin(first.path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await first.served.records.wait("takeover.failed")
        assert await answered(tmp_path / "1.sock") == b"HTTP/1.1 204"
        with trio.fail_after(9):
            while open_files() > before:
                await trio.sleep(0.01)


async def test_a_new_process_that_is_too_slow(tmp_path, monkeypatch):
    """The running one serves on, and allows the next."""
    monkeypatch.setattr(takeover, "TAKEOVER_TIMEOUT", 0.2)
    async with running(tmp_path) as first:
        slow = await begin(first.path)
        await first.served.records.wait("takeover.failed")
        with pytest.raises(TakeoverError, match=r"was not ready within 0\.2 s"):
            await slow.complete(SESSIONS)
        slow.close()
        assert await answered(tmp_path / "1.sock") == b"HTTP/1.1 204"
        (await begin(first.path)).close()


async def test_a_new_process_that_fails_leaves_modes_as_they_were(tmp_path):
    """It gives the files of Unix sockets the modes of its configuration before it is ready."""
    path = tmp_path / "1.sock"
    async with running(tmp_path) as first:
        before = path.stat().st_mode
        section = {"bind": f"unix:{path}", "mode": "0666"}
        config = config_of(written(listeners={"l1": section}, route={"respond": "204"}))
        asked = await begin(first.path)
        taken = await asked.sockets.listen("l1", config.listeners["l1"], listen_unix)
        assert path.stat().st_mode & 0o777 == 0o666
        taken.close()
        asked.close()
        assert path.stat().st_mode == before


@contextlib.asynccontextmanager
async def asked_of(path: Path, answer: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[Takeover]:
    """Ask for the sockets of another program, which has none, and does something else instead of what follows."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n")
        await stream.send_all(b'{"pid": 1, "listeners": []}\n')
        await answer(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.bind(str(path))
            sock.listen()
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(sock)])
            asked = await begin(path)
            yield asked
            asked.close()
        nursery.cancel_scope.cancel()


async def test_a_running_process_that_hangs(tmp_path, monkeypatch):
    """The new one does not wait for ever for its sockets to be released."""
    monkeypatch.setattr(takeover, "TAKEOVER_TIMEOUT", 0.2)
    async with asked_of(tmp_path / "admin.sock", lambda _: trio.lowlevel.checkpoint()) as asked:
        with trio.fail_after(9), pytest.raises(TakeoverError, match=r"did not release its sockets within 0\.2 s"):
            await asked.complete(SESSIONS)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_new_process_that_was_stopped_while_the_sockets_were_released(tmp_path, monkeypatch, is_whole):
    """Nobody else accepts by then: it goes on, also where the list of sessions is more than one read, or broken off."""
    monkeypatch.setattr(takeover, "TAKEOVER_TIMEOUT", 0.2)
    monkeypatch.setattr(takeover, "SEND_TIMEOUT", 0.2)
    listed = [number.to_bytes(16, "big") for number in range(2500)]
    message = json.dumps({"released": True, "epoch": 5, "sessions": [one.hex() for one in listed]}).encode() + b"\n"
    assert len(message) > 65536

    async def release(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        part = message if is_whole else message[:-1]
        assert os.write(stream.socket.fileno(), part) == len(part)
        time.sleep(0.5)  # both processes are this one

    async with asked_of(tmp_path / "admin.sock", release) as asked:
        sessions = SessionStore(Limits(), deque())
        with trio.fail_after(9):
            await asked.complete(sessions)
        assert [sessions.is_expected(one) for one in (listed[0], listed[-1])] == [is_whole, is_whole]


async def test_a_new_process_that_ends_right_after_it_was_ready(tmp_path):
    """What it has sent is read when it is gone: nobody else would accept, so the running one serves on."""
    head = b"POST /v1/takeover HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: wsbridge-takeover\r\n\r\n"
    async with running(tmp_path) as first:
        stream = await trio.open_unix_socket(first.path)
        await stream.send_all(head)
        offer = b""
        while not offer.endswith(b"]}\n\n"):
            offer += await stream.receive_some()
        await stream.send_all(b'{"kept": [true, true]}\n')
        await stream.aclose()
        await first.served.records.wait("takeover.failed", detail="the new process has ended")
        assert await answered(tmp_path / "1.sock") == b"HTTP/1.1 204"
        assert not first.served.server.is_draining


@pytest.mark.parametrize("message", [b"[]", b'{"kept": 1}', b'{"kept": []}', b"\xff", b"[" * 60_000, b""])
async def test_a_new_process_that_says_something_else(tmp_path, message):
    """The running one answers with an error, and serves on."""
    head = b"POST /v1/takeover HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: wsbridge-takeover\r\n\r\n"
    async with running(tmp_path) as first:
        async with await trio.open_unix_socket(first.path) as stream:
            await stream.send_all(head)
            await stream.send_all(message + b"\n")
            await stream.send_eof()
            answer = b"".join([part async for part in stream])
        assert answer.endswith(b'{"error": "the new process has ended before it was ready"}\n')
        assert await answered(tmp_path / "1.sock") == b"HTTP/1.1 204"


def free_descriptors(count: int) -> None:
    """Lower the limit of open files, so that so many can be opened, and the one by which this is counted."""
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in range(limits[0]) if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, count, None)), limits[1]))


@pytest.mark.parametrize(
    ("kinds", "room", "detail"),
    [
        ("f", None, "the running process has sent 1 descriptors in place of 2"),
        ("fss", None, "the running process has sent 3 descriptors in place of 2"),
        ("fs", 0, "2 descriptors are too many open files (raise LimitNOFILE)"),
        ("ff", None, "is not a socket"),
        ("sf", None, "is not a socket"),
        ("ss", None, "is no sealed file"),
    ],
)
async def test_a_session_whose_descriptors_are_wrong_leaves_none(
    tmp_path: Path, kinds: str, room: int | None, detail: str
) -> None:
    """Too few, since the running process ends; too many; more than may be open; of the wrong kind."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(unix_listener(tmp_path / "admin.sock")))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def hand_over() -> None:
        async with await listener.accept() as stream:
            head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: wsbridge-takeover\r\n\r\n"
            await stream.send_all(head + b'{"pid": 1, "listeners": []}\n')
            received = b""
            while b'"kept"' not in received:
                received += await stream.receive_some()
            session = b"11" * 16
            await stream.send_all(b'{"released": true, "epoch": 7, "sessions": ["%s"]}\n' % session)
            await stream.send_all(b'{"session": "%s", "backend": true}\n' % session)
            sent = [
                write_sealed_file("state", [b"payload"]) if kind == "f" else socket.socket().detach() for kind in kinds
            ]
            if room is not None:
                free_descriptors(room)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))]
            await stream.socket.sendmsg([b"\n"], rights)
            await stream.send_eof()
            await stream.receive_some()
            for descriptor in sent:
                os.close(descriptor)

    server = Server(config_of(written(route={"respond": "204"})))
    try:
        with recording() as records:
            async with listener, trio.open_nursery() as nursery:
                before = open_files()
                nursery.start_soon(hand_over)
                asked = await begin(tmp_path / "admin.sock")
                await asked.complete(server.services.sessions)
                adopter = SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)
                await asked.adopt_sessions(adopter)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert adopter.counts.lost == 1
    assert detail in records.of("session.lost")[0]["detail"]
    assert open_files() < before  # the listener is closed as well


async def test_reloads_and_takeovers_wait_for_each_other(tmp_path):
    """The sockets of both processes are the same all the time."""
    async with running(tmp_path) as first, trio.open_nursery() as nursery:
        async with first.reloader.paused():
            with trio.move_on_after(0.1) as waited:
                await begin(first.path)
            assert waited.cancelled_caught
        await first.served.records.wait("takeover.failed")
        asked = await begin(first.path)
        nursery.start_soon(first.reloader.reload)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert first.reloader.is_queued
        asked.close()


async def test_a_unit_without_notifications(tmp_path):
    """The variable names the process that systemd has started; children inherit it."""
    async with running(tmp_path, environ={"SYSTEMD_EXEC_PID": str(os.getpid())}) as first:
        with pytest.raises(TakeoverError, match="main process of a systemd unit"):
            await begin(first.path)
    async with running(tmp_path, environ={"SYSTEMD_EXEC_PID": "1"}) as first:
        (await begin(first.path)).close()


async def test_what_is_no_admin_api(tmp_path):
    """A listener of clients answers with an error, another program with anything."""
    async with running(tmp_path) as first:
        with pytest.raises(TakeoverError, match=r"takeover from .*1\.sock: .*status 4"):
            await begin(tmp_path / "1.sock")
        assert first.served.server.listeners
    with trio.socket.socket(trio.socket.AF_UNIX) as other:
        await other.bind(str(tmp_path / "other.sock"))
        other.listen()

        async def answer(line: bytes) -> None:
            sock, _ = await other.accept()
            with sock:
                await sock.recv(4096)
                await sock.sendmsg([line])

        upgraded = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        messages = (b"[]", b"{", b"{}", b'{"pid": 1}', b'{"listeners": [{"sockets": 0, "key": 1}]}', b"[" * 60_000)
        for line in (b"SSH-2.0-nothing\r\n", b"", *(upgraded + message + b"\n" for message in messages)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, line)
                with pytest.raises(TakeoverError, match="takeover from"):
                    await begin(tmp_path / "other.sock")
