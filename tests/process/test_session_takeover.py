"""Resumable sessions go on in a process that takes over: no byte is missing, and none is doubled."""

import contextlib
import copy
import functools
import hashlib
import json

import pytest
import trio

from tests.authority import folder, server_context
from tests.process.daemon import Daemon
from tests.process.streams import running
from tests.process.test_takeover import Asking
from tests.serving import backend, echo, reset, written
from tests.sessions.client import clients, opened
from wsbridge.sessions.saved_state import SAVED_STATE_VERSION

ADMIN = {"bind": "unix:@FOLDER@/admin.sock"}
DRAIN = {"drain": "10s", "drain_spread": "200ms", "close": "1s"}
LIMITS = {"detached_sessions_per_identity": 1000}


def config(back, **rest):
    """Write a configuration with a route that has resumable sessions."""
    route = {"backend": back.url, "resume": {"ttl": "20s"}, **rest.pop("route", {})}
    return written(route=route, **{"admin": ADMIN, "timeouts": DRAIN, "limits": LIMITS, **rest})


@contextlib.asynccontextmanager
async def started(text, old=None):
    """Run a daemon, which takes over from another one if there is one."""
    daemon = Daemon(text) if old is None else Daemon(text, folder=old.folder, arguments=("--takeover",))
    await trio.to_thread.run_sync(daemon.__enter__)
    try:
        yield daemon
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(daemon.__exit__)


def url_of(daemon):
    """Return the URL of the route."""
    return f"ws://127.0.0.1:{daemon.port()}/"


async def line(daemon, event, count=1, **facts):
    """Wait for a line of the log of a daemon."""
    return await trio.to_thread.run_sync(lambda: daemon.wait(event, count, **facts))


async def ended(daemon):
    """Wait for the end of a daemon, in order."""
    assert await trio.to_thread.run_sync(daemon.ended) == 0
    assert not daemon.log_lines("internal_error")


@pytest.mark.parametrize("takeovers", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_streams_go_on_over_takeovers(takeovers):
    """Both directions are in full flow while one process after the other takes over."""

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            daemon = await stack.enter_async_context(started(config(back)))
            async with running(url_of(daemon), 3) as streams:
                for _ in range(takeovers):
                    for one in streams:
                        await one.moves()
                    old, daemon = daemon, await stack.enter_async_context(started(config(back), daemon))
                    assert (await line(daemon, "sessions.adopted"))["count"] == 3
                    assert (await line(old, "sessions.handed_over"))["count"] == 3
                    await ended(old)
                    for one in streams:
                        await one.moves()
            await back.until(open=0)
            assert back.dials == 3
            sent = sorted(one.sent for one in streams)
            await line(daemon, "session.closed", 3)
            closed = daemon.log_lines("session.closed")
            assert sorted(line["bytes_to_backend"] for line in closed) == sent
            assert sorted(line["bytes_to_client"] for line in closed) == sent
            assert {(line["reason"], line["transports"]) for line in closed} <= {
                ("client_closed", takeovers + 1),
                ("backend_closed", takeovers + 1),
            }
            assert not daemon.log_lines("internal_error")

    trio.run(main)


async def scripted(stream, stalled):
    """Echo a line, and do what it says: end the stream behind an answer, read nothing for now, be reset, or nothing.

    Then echo what comes.
    """
    command = b""
    while not command.endswith(b"\n"):
        command += await stream.receive_some(100)
    await stream.send_all(command)
    command, size = command.split()
    await stream.send_all(b"x" * int(size))
    if command == b"fin":
        await stream.send_eof()
    elif command == b"stall":
        await stalled.wait()
    elif command == b"reset":
        await trio.sleep(0.2)  # a reset destroys what was not read
        reset(stream)
        return
    await echo(stream)


def test_sessions_in_every_state_go_on():
    """Detached or not, with bytes that wait, half-closed by the backend or the client, reset: nothing of it is lost."""

    async def main():
        stalled = trio.Event()
        async with (
            backend(functools.partial(scripted, stalled=stalled)) as back,
            contextlib.AsyncExitStack() as stack,
        ):
            old = await stack.enter_async_context(started(config(back)))
            idle, fin, broken, full, half, held = await stack.enter_async_context(clients(old.port(), 6))
            for one, command in (
                (idle, b"none 10\n"),
                (fin, b"fin 100000\n"),
                (broken, b"reset 30000\n"),
                (full, b"none 3000000\n"),
                (half, b"none 10\n"),
                (held, b"stall 10\n"),
            ):
                await opened(one)
                one.paused = one is not idle
                await one.send(command)
                await one.until(lambda one=one: len(one.received) >= 10)
            await half.finish()
            await broken.until(lambda: back.open == 5)
            for one in (fin, broken, full):
                one.cut()
            await full.until(lambda: old.log_lines("connection.closed", reason="client_lost")[2:])
            held.go_on()
            upload = bytes(range(256)) * 65536  # more than the kernel holds for a backend that reads nothing
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(held.send, upload)
            await held.until(lambda: held.machine.room == 0)
            daemon = await stack.enter_async_context(started(config(back), old))
            assert (await line(daemon, "sessions.adopted"))["count"] == 6
            await ended(old)
            stalled.set()
            for one in (idle, fin, broken, full, half, held):
                one.go_on()
                await one.connect()
            await idle.send(b"more")
            await idle.until(lambda: idle.received.endswith(b"more"))
            await fin.until(lambda: fin.finished)
            assert fin.received == b"fin 100000\n" + b"x" * 100000
            await broken.until(lambda: broken.ended)
            assert broken.end == (4012, "backend_reset")
            assert broken.received == b"reset 30000\n" + b"x" * 30000
            await full.until(lambda: len(full.received) == 3000013)
            assert full.received == b"none 3000000\n" + b"x" * 3000000
            await half.until(lambda: half.finished)
            await held.until(lambda: len(held.received) >= 19 + len(upload))
            assert bytes(held.received[19:]) == upload
            assert not daemon.log_lines("internal_error")

    trio.run(main)


def test_what_the_new_configuration_does_not_allow_ends():
    """A route that is gone or leads elsewhere ends its sessions with the reason; one with TLS behind it loses them."""

    async def tls_echo(stream):
        await echo(trio.SSLStream(stream, server_context(), server_side=True))

    async def main():
        async with (
            backend() as back,
            backend() as other,
            backend(tls_echo) as tls,
            contextlib.AsyncExitStack() as stack,
        ):
            tls_backend = {
                "url": tls.url.replace("tcp", "tls"),
                "ca": str(folder() / "ca.pem"),
                "server_name": "localhost",
            }
            targets = {"kept": back.url, "changed": back.url, "gone": back.url, "tls": tls_backend}

            def text(**changes):
                routes = {
                    name: {"match": {"path": f"/{name}"}, "backend": url, "auth": "none", "resume": {}}
                    for name, url in {**targets, **changes}.items()
                    if url
                }
                return written(routes=routes, admin=ADMIN, timeouts=DRAIN, limits=LIMITS)

            old = await stack.enter_async_context(started(text()))
            found = dict(zip(targets, await stack.enter_async_context(clients(old.port(), 4)), strict=True))
            for name, one in found.items():
                await opened(one, f"/{name}")
                await one.send(name.encode())
                await one.until(lambda one=one: one.received)
            daemon = await stack.enter_async_context(started(text(changed=other.url, gone=None), old))
            adopted = await line(daemon, "sessions.adopted")
            assert (adopted["count"], adopted["ended"], adopted["lost"]) == (1, 2, 1)
            ends = {one["route"]: (one["reason"], one["detail"]) for one in daemon.log_lines("session.closed")}
            assert ends == {
                "changed": ("route_removed", "backend, auth or allowed_targets of the route have changed"),
                "gone": ("route_removed", "the route is no more, or has no resume"),
            }
            await back.until(lost=2)
            await found["kept"].resume("/kept")
            await found["changed"].connect("/changed")
            await found["changed"].until(lambda: found["changed"].ended)
            assert found["changed"].end == (4009, "route_removed")
            await found["tls"].send(b" goes on until the drain ends")
            await found["tls"].until(lambda: len(found["tls"].received) > 20)
            found["tls"].cut()
            await ended(old)
            await found["tls"].connect("/tls")
            await found["tls"].until(lambda: found["tls"].ended)
            assert found["tls"].end == (4004, "session_lost")
            assert (await line(old, "session.closed", route="tls"))["reason"] == "session_lost"

    trio.run(main)


def test_limits_hold_after_a_takeover():
    """Of more sessions than may wait for their clients, the oldest end."""

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(started(config(back)))
            found = await stack.enter_async_context(clients(old.port(), 3))
            for one in found:
                await opened(one)
            limits = {"detached_sessions_per_identity": 2}
            daemon = await stack.enter_async_context(started(config(back, limits=limits), old))
            assert (await line(daemon, "sessions.adopted"))["count"] >= 2
            assert (await line(daemon, "session.closed"))["reason"] == "session_displaced"
            await ended(old)

    trio.run(main)


def take_over(daemon, session_state):
    """Take over as another program; give its end of the connection, and what it gets once the sockets are released."""
    asking = Asking(daemon)
    assert asking.request() == 101
    kept = [True] * len(asking.message()["listeners"])
    asking.sock.sendall(json.dumps({"kept": kept, "session_state": session_state}).encode() + b"\n")
    return asking, asking.message()


def test_a_process_that_reads_another_state_gets_no_sessions():
    """It does not say that it reads this one: they go on in the old process, and are lost when their clients are."""

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(started(config(back, timeouts={**DRAIN, "drain": "1s"})))
            (first, second) = await stack.enter_async_context(clients(old.port(), 2))
            await opened(first)
            await opened(second)
            asking, released = await trio.to_thread.run_sync(take_over, old, 99)
            assert released == {"released": True}
            await first.send(b"x")
            await first.until(lambda: first.received == b"x")
            first.cut()
            assert (await line(old, "session.closed"))["reason"] == "session_lost"
            await second.until(lambda: second.ended)
            assert second.end == (4004, "session_lost")
            await ended(old)
            asking.close()

    trio.run(main)


def test_a_process_that_disappears_gets_one_session_at_most():
    """That one is lost; the others go on in the old process until its drain ends."""

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(started(config(back)))
            found = await stack.enter_async_context(clients(old.port(), 3))
            for one in found:
                await opened(one)
            asking, released = await trio.to_thread.run_sync(take_over, old, SAVED_STATE_VERSION)
            assert len(released["sessions"]) == 3
            assert "session" in await trio.to_thread.run_sync(asking.message)
            asking.close()
            handed = await line(old, "sessions.handed_over")
            assert (handed["count"], handed["lost"], handed["left"]) == (0, 1, 2)
            await back.until(lost=1)
            left = [one for one in found if not one.ended]
            for one in left:
                await one.send(b"x")
                await one.until(lambda one=one: one.received == b"x" or one.ended)
            assert [one.end for one in found if one.ended] == [(4004, "session_lost")]

    trio.run(main)


@pytest.mark.parametrize("revoked", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_identity_and_limits_go_along(tmp_path, revoked):
    """Who resumes must be who opened it, its place in the route's limits is taken, and its token must stay listed."""
    listed = tmp_path / "tokens"

    def tokens(*names):
        return "".join(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names)

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            auth = {"kind": "bearer", "tokens": str(listed), "on_revoke": "close"}
            text = config(back, route={"auth": auth, "limits": {"connections_per_identity": 1}})
            listed.write_text(tokens("alice", "bob"))
            listed.chmod(0o600)
            old = await stack.enter_async_context(started(text))
            alice, again, other = await stack.enter_async_context(clients(old.port(), 3))
            await opened(alice, "/", "Authorization: Bearer alice")
            daemon = await stack.enter_async_context(started(text, old))
            assert (await line(daemon, "sessions.adopted"))["count"] == 1
            await ended(old)
            await again.connect("/", "Authorization: Bearer alice")
            await again.until(lambda: again.ended)
            assert again.end == (4013, "rate_limited")
            other.machine = copy.copy(alice.machine)
            await other.connect("/", "Authorization: Bearer bob")
            await other.until(lambda: other.ended)
            assert other.end[0] == 4001
            await alice.resume("/", "Authorization: Bearer alice")
            if revoked:
                listed.write_text(tokens("bob"))
                await alice.until(lambda: alice.ended)
                assert alice.end == (4009, "access_revoked")

    trio.run(main)


def test_sessions_that_hold_too_much_end():
    """`replay_memory` of the new configuration holds: what is beyond it is not adopted."""

    async def main():
        serve = functools.partial(scripted, stalled=trio.Event())
        async with backend(serve) as back, contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(started(config(back)))
            found = await stack.enter_async_context(clients(old.port(), 3))
            for one in found:
                one.paused = True
                await opened(one)
                await one.send(b"none 700000\n")
                await one.until(lambda one=one: len(one.received) > 700000)
                one.cut()
            await found[0].until(lambda: len(old.log_lines("connection.closed")) == 3)
            text = config(back, limits={**LIMITS, "replay_memory": "1500KiB"})
            daemon = await stack.enter_async_context(started(text, old))
            adopted = await line(daemon, "sessions.adopted")
            assert (adopted["count"], adopted["ended"]) == (2, 1)
            assert (await line(daemon, "session.closed"))["reason"] == "overload"
            await ended(old)

    trio.run(main)
