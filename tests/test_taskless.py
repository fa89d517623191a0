"""Connections that run by plain calls: when they get a task, how they wait without one, and how they are cut off."""

from __future__ import annotations

import gc
import math
import select
import socket

import jwt
import pytest
import trio

from tests.auth.signing import AUDIENCE, ISSUER, SECRET, claims
from tests.client import BINARY, frame, request
from tests.serving import backend, recording, serving, written
from wsbridge import taskless
from wsbridge.connection import Connection
from wsbridge.reasons import Reason
from wsbridge.taskless import Runner, Wait, need_task, wait_readable


class Running:
    """A runner that runs, and what its coroutines have done."""

    def __init__(self, runner, nursery):
        self.runner = runner
        self.nursery = nursery
        self.done = []
        self.ended = 0

    def start(self, coroutine):
        """Start one, and count its end."""

        async def counted():
            try:
                await coroutine
            finally:
                self.ended += 1

        self.runner.start(counted(), self.nursery)

    async def until(self, count):
        """Wait until so many have ended."""
        with trio.fail_after(9):
            while self.ended < count:
                await trio.sleep(0.002)


@pytest.fixture
async def running():
    """A runner in a nursery."""
    runner = Runner()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as tasks:
            yield Running(runner, tasks)
        runner.cut_off()
        nursery.cancel_scope.cancel()
    runner.close()


async def test_what_needs_no_waiting_is_over_when_start_returns(running):
    """Without a step of the event loop."""

    async def quick():
        running.done.append(taskless.current is not None)

    running.start(quick())
    assert (running.done, running.ended, taskless.current) == ([True], 1, None)


async def test_a_coroutine_that_needs_a_task_goes_on_in_one(running):
    """Where it stopped; trio's functions work from there on, and a second request for a task does nothing."""

    async def slow():
        await need_task()
        running.done.append(taskless.current)
        await need_task()
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        running.done.append("slept")

    running.start(slow())
    assert running.ended == 0
    await running.until(1)
    assert running.done == [None, "slept"]


async def test_a_descriptor_is_waited_for_without_a_task(running):
    """As often as it has to be; `waiting` counts the waits."""
    ours, theirs = socket.socketpair()

    async def read():
        for _ in range(3):
            running.done.append(await wait_readable(ours.fileno(), trio.current_time() + 5))
            running.done.append(ours.recv(1))

    tasks = trio.lowlevel.current_statistics().tasks_living
    running.start(read())
    assert running.runner.waiting == 1
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    theirs.send(b"no")
    while len(running.done) < 4:
        await trio.sleep(0.002)
    assert running.runner.waiting == 1
    theirs.send(b"w")
    await running.until(1)
    assert (running.done, running.runner.waiting) == ([True, b"n", True, b"o", True, b"w"], 0)
    ours.close()
    theirs.close()


async def test_a_wait_for_a_descriptor_takes_too_long(running):
    """Each wait has its own time, whichever began first."""
    pairs = [socket.socketpair() for _ in range(3)]
    began = trio.current_time()

    async def read(sock, seconds):
        ready = await wait_readable(sock.fileno(), began + seconds)
        running.done.append((seconds, ready, trio.current_time() - began))

    for (ours, _), seconds in zip(pairs, (0.5, 0.1, 0.3), strict=True):
        running.start(read(ours, seconds))
    await running.until(3)
    assert sorted((seconds, ready) for seconds, ready, _ in running.done) == [(0.1, False), (0.3, False), (0.5, False)]
    for seconds, _, after in running.done:
        assert seconds <= after < seconds + 10
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_waits_are_cut_short(running):
    """By a shutdown; what has come in the meantime is not looked at first."""
    ours, theirs = socket.socketpair()

    async def read():
        running.done.append(await wait_readable(ours.fileno(), trio.current_time() + 60))

    running.start(read())
    running.runner.cut_waits()
    await running.until(1)
    assert running.done == [False]
    ours.close()
    theirs.close()


async def test_without_a_watch_a_task_waits(running, monkeypatch):
    """The kernel limits how many descriptors a user may watch."""

    class Full:
        def register(self, *_):
            raise OSError(28, "No space left on device")

    ours, theirs = socket.socketpair()

    async def read():
        running.done.append(await wait_readable(ours.fileno(), trio.current_time() + 5))
        running.done.append(taskless.current)
        await trio.lowlevel.wait_readable(ours)
        running.done.append(ours.recv(1))

    monkeypatch.setattr(running.runner, "_epoll", Full())
    running.start(read())
    monkeypatch.undo()
    theirs.send(b"x")
    await running.until(1)
    assert running.done == [True, None, b"x"]
    ours.close()
    theirs.close()


async def test_a_wait_is_ended_by_a_call(running):
    """The coroutine goes on after the call, not within it; without a task or in one; ended before, it does not wait."""
    waits = [Wait(), Wait(), Wait()]

    async def both(number):
        if number == 1:
            await need_task()
        await waits[number]
        running.done.append(number)

    for number in (0, 1):
        running.start(both(number))
        await trio.testing.wait_all_tasks_blocked()
        waits[number].end()
        assert number not in running.done
        await running.until(number + 1)
    waits[2].end()
    running.start(both(2))
    assert running.done == [0, 1, 2]


async def test_a_wait_in_a_task_can_be_cancelled():
    """Ending it afterwards does nothing."""
    wait = Wait()
    with trio.move_on_after(0.01) as scope:
        await wait
    assert scope.cancelled_caught
    wait.end()
    await wait


async def test_a_call_follows_a_wait(running):
    """Instead of a coroutine: within `end`, or at once after it; a bug in what is called soon is logged."""
    wait = Wait()
    wait.then(lambda: running.done.append("first"))
    assert not running.done
    wait.end()
    wait.then(lambda: running.done.append("second"))
    assert running.done == ["first", "second"]

    def buggy():
        raise ValueError("a bug")

    with recording() as records:
        running.runner.call_soon(buggy)
        running.runner.call_soon(lambda: running.done.append("third"))
        assert len(running.done) == 2
        while len(running.done) < 3:
            await trio.sleep(0.002)
    assert [line["component"] for line in records.of("internal_error")] == ["runner"]


async def test_a_bug_ends_one_coroutine_alone(running):
    """It is logged; the others go on."""

    async def buggy():
        raise ValueError("a bug")

    wait = Wait()

    async def other():
        await wait

    with recording() as records:
        running.start(other())
        running.start(buggy())
        assert running.ended == 1
        wait.end()
        await running.until(2)
    assert [line["component"] for line in records.of("internal_error")] == ["runner"]


async def test_waiting_by_trio_without_a_task_is_a_bug_of_that_coroutine(running):
    """It gets an error where it waits, so that its `finally` blocks run, and the runner goes on."""

    async def wrong():
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except RuntimeError as error:
            running.done.append("without need_task" in str(error))

    running.start(wrong())
    assert (running.done, running.ended) == ([True], 1)


async def test_one_that_needs_a_task_where_none_can_begin_any_more_is_cut_off():
    """Its nursery is closed, as at the end of a server whose loop was late: it ends as what waits does, not unseen."""
    done, wait, runner = [], Wait(), Runner()

    async def late():
        try:
            await wait
            await need_task()
        except GeneratorExit:
            done.append("cut off")
            raise

    with recording() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.run)
            async with trio.open_nursery() as tasks:
                runner.start(late(), tasks)
            wait.end()
            await trio.testing.wait_all_tasks_blocked()
            runner.cut_off()
            nursery.cancel_scope.cancel()
    assert done == ["cut off"]
    assert not records.of("internal_error")
    runner.close()


async def test_what_is_left_at_the_end_is_cut_off():
    """Each wait ends by GeneratorExit, nothing is called any more, and a bug on the way is logged."""
    ours, theirs = socket.socketpair()
    done = []
    runner = Runner()
    wait = Wait()

    async def waits_for(kind):
        try:
            await (wait if kind == "wait" else wait_readable(ours.fileno(), math.inf))
        except GeneratorExit:
            wait.end()
            done.append(kind)
            raise

    async def buggy():
        try:
            await Wait()
        finally:
            raise ValueError("a bug")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        with recording() as records:
            for one in (waits_for("wait"), buggy(), waits_for("read")):
                runner.start(one, nursery)
            await trio.testing.wait_all_tasks_blocked()
            runner.call_soon(lambda: done.append("called"))
            runner.cut_off()
        assert sorted(done) == ["read", "wait"]
        assert [line["component"] for line in records.of("internal_error")] == ["runner"]
        theirs.send(b"late")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    runner.close()
    ours.close()
    theirs.close()
    gc.collect()


async def test_many_resumed_at_once_let_other_tasks_run(running, monkeypatch):
    """The list is left after a time slice, and continued later."""
    monkeypatch.setattr(taskless, "TIME_SLICE", 0.0)
    waits = [Wait() for _ in range(10)]
    turns = []

    async def one(wait):
        await wait

    async def other():
        while running.ended < 10:
            turns.append(running.ended)
            await trio.lowlevel.checkpoint()

    for wait in waits:
        running.start(one(wait))
    running.nursery.start_soon(other)
    for wait in waits:
        wait.end()
    await running.until(10)
    assert len(set(turns)) > 3


FORBIDDEN = ("current_task", "wait_task_rescheduled", "checkpoint", "cancel_shielded_checkpoint", "wait_readable")


@pytest.fixture
def no_trio_without_a_task(monkeypatch):
    """Let trio's functions fail that act on the current task, wherever there is none."""

    def forbid(owner, name):
        real = getattr(owner, name)

        def checked(*args, **kwargs):
            assert taskless.current is None, f"{name} without a task"
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, checked)

    for name in FORBIDDEN:
        forbid(trio.lowlevel, name)
    forbid(trio.CancelScope, "__enter__")
    forbid(trio, "sleep")
    forbid(trio, "open_nursery")


def where(run):
    """Name the functions in which a connection waits."""
    found, waits = [], run.coroutine
    while waits is not None:
        found.append(getattr(waits, "__name__", str(waits)))
        waits = getattr(waits, "cr_await", None)
    return found


def authenticated(tmp_path, kind):
    """Give a route's `auth` that needs no waiting, and the headers that satisfy it."""
    if kind == "none":
        return "none", []
    if kind == "jwt":
        (tmp_path / "key").write_text(SECRET)
        (tmp_path / "key").chmod(0o600)
        keys = [{"algorithm": "HS256", "secret": {"file": str(tmp_path / "key")}}]
        method = {"kind": "jwt", "keys": keys, "issuer": ISSUER, "audience": AUDIENCE}
        return method, [f"Authorization: Bearer {jwt.encode(claims(), SECRET, 'HS256')}"]
    return {"kind": "network", "allow": ["203.0.113.0/24"]}, ["X-Forwarded-For: 203.0.113.7"]


@pytest.mark.parametrize("limits", [{}, {"per_address": {"connections": 5, "handshake_rate": "50", "max_failures": 3}}])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("auth", ["none", "jwt", "network"])
async def test_a_plain_connection_never_has_a_task(no_trio_without_a_task, early, limits, auth, tmp_path):
    """From accept to its log line, WebSocket and raw, whether its first bytes have come with it or later."""
    listeners = {
        "web": {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "x-forwarded-for"},
        "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "raw"},
    }
    method, headers = authenticated(tmp_path, auth)
    async with backend() as back:
        routes = {
            "raw": {"backend": back.url, "auth": "none"},
            "app": {"match": "any", "backend": back.url, "auth": method, "limits": {"connections": 4}},
        }
        text = written(listeners=listeners, routes=routes, limits=limits)
        async with serving(text, folder=tmp_path) as served:
            started = []
            start_task = served.server.services.runner._start_task
            served.server.services.runner._start_task = lambda run: (started.append(where(run)), start_task(run))
            web = await served.connect()
            if not early:
                while not served.server.services.runner.waiting:
                    await trio.sleep(0.002)
            await web.send(request("/", *headers))
            assert (await web.head()).startswith("HTTP/1.1 101")
            await web.echoed()
            raw = await served.connect("raw")
            await raw.send(b"hello")
            assert await raw.take(5) == b"hello"
            await web.close()
            raw.drop()
            await served.quiet()
            assert {line["reason"] for line in served.records.of("connection.closed")} == {"client_closed"}
        assert started == []
        assert not served.records.of("internal_error")


async def test_a_client_without_a_head_has_no_task_and_is_cut_off_in_time():
    """Idle clients cost no task each; they are disconnected after `handshake`, and at once by a shutdown."""
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts={"handshake": "2s"})) as served:
        runner = served.server.services.runner
        began = trio.current_time()
        clients = [await served.connect() for _ in range(20)]
        while runner.waiting < 20:
            await trio.sleep(0.002)
        assert trio.lowlevel.current_statistics().tasks_living < 20 + 12
        for client in clients:
            assert await client.everything() == b""
            client.drop()
        assert 1.8 < trio.current_time() - began < 9
        late = await served.connect()
        while not runner.waiting:
            await trio.sleep(0.002)
        served.server.stop(Reason.SHUTDOWN)
        assert await late.everything() == b""
        late.drop()
        await served.returned.wait()
        assert not runner.waiting
        assert served.server.services.route_stats("app").rejected == 0


async def test_a_head_that_comes_in_parts_is_read_by_a_task():
    """As one that comes whole; the task ends as soon as the client is relayed."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.connect()
        head = request()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for part in (head[:20], head[20:40], head[40:]):
            await client.send(part)
            await trio.sleep(0.02)
        assert (await client.head()).startswith("HTTP/1.1 101")
        await client.send(frame(BINARY, b"hello"))
        assert await client.payload(5) == b"hello"
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1  # of the backend
        await client.close()


async def test_a_bug_after_a_relay_has_its_line(monkeypatch):
    """As `internal_error`; the connection is not counted any more."""

    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(Connection, "_note_relayed", fail)
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        await client.close()
        await served.quiet()
        stats = served.server.services.route_stats("app")
        assert (stats.active, stats.relayed) == (0, 1)
        line = await served.records.wait("connection.rejected")
        assert line["reason"] == "internal_error"
        (bug,) = served.records.of("internal_error")
        assert bug["component"] == "connection"
        served.records.all.remove(bug)


async def test_what_has_ended_when_it_is_cut_off_keeps_its_reason():
    """The call that follows a relay may not have come yet."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        await client.echoed()
        called = trio.Event()
        served.server.services.runner.call_soon = lambda _: called.set()
        await client.close()
        (connection,) = served.server.connections.values()
        await called.wait()
        connection.cut_off()
        line = await served.records.wait("connection.closed")
        assert line["reason"] == "client_closed"
        connection.cut_off()
        assert not served.server.connections


async def test_cancelling_the_server_cuts_off_what_has_no_task():
    """Relayed connections and silent ones: each has its log line, and no descriptor is left."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        relayed, silent = await served.upgraded(), await served.connect()
        await relayed.echoed()
        while not served.server.services.runner.waiting:
            await trio.sleep(0.002)
        served.server.services.shutdown_reason = Reason.SHUTDOWN
        await served.server.acceptor.__aexit__(None, None, None)
        line = served.records.of("connection.closed")[0]
        assert (line["reason"], line["initiator"]) == ("shutdown", "wsbridge")
        assert not served.server.connections
        for client in (relayed, silent):
            with pytest.raises((trio.BrokenResourceError, AssertionError)):
                assert await client.everything() == b"never"
            client.drop()


def test_one_watch_is_asked_for_one_event():
    """So that a descriptor that is relayed later wakes nobody here."""
    assert taskless._ONCE & select.EPOLLONESHOT
