"""Reload: new connections begin with the new configuration, old ones keep theirs, and an error changes nothing."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.authority import folder, listener_tls
from tests.client import CLOSE, Client, frame, request
from tests.clients.program import free_port
from tests.serving import Served, backend, config_of, recording, serving, written
from wsbridge import daemon, server
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import build_endpoints
from wsbridge.config.load import LoadedConfig, load_file, load_text
from wsbridge.generation import Generation
from wsbridge.log.logger import log
from wsbridge.net import listeners as listeners_module
from wsbridge.net.listeners import ListenError
from wsbridge.reasons import Reason
from wsbridge.registry import CONFIG_REGISTRY, LISTENERS
from wsbridge.reload import SHORT_TURNS, Reloader
from wsbridge.server import NotServingError
from wsbridge.worker_thread import NoThreadError


async def status_at(port: int) -> int:
    """Send a plain request, and give the status of the response."""
    client = await Client.connect(port)
    try:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await client.everything()
    finally:
        client.drop()
    return int(answer.split()[1])


async def test_new_connections_get_the_new_route_and_old_ones_keep_theirs():
    """A changed backend is dialed from the next connection on; the one before continues with the old backend."""
    async with backend() as first, backend() as second, serving(written(route={"backend": first.url})) as served:
        before = await served.upgraded()
        await served.server.apply(config_of(written(route={"backend": second.url})))
        after = await served.upgraded()
        await before.echoed()
        await after.echoed()
        assert (first.open, second.open) == (1, 1)
        assert [one.number for one in served.server.generations] == [1, 2]
        await before.close()
        await served.records.wait("generation.ended", generation=1)
        assert [one.number for one in served.server.generations] == [2]
        await after.close()


async def test_no_connection_is_refused_while_reloads_follow_each_other():
    """A listener that both configurations have stays open: every attempt during the reloads is served."""
    statuses: list[int] = []
    async with serving(written(route={"respond": "200", "auth": "none"})) as served:
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                while True:
                    statuses.append(await status_at(served.port()))

            nursery.start_soon(connect)
            nursery.start_soon(connect)
            for number in range(30):
                await served.server.apply(config_of(written(route={"respond": f"{201 + number % 2}", "auth": "none"})))
                while len(statuses) < 4 * number:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert set(statuses) == {200, 201, 202}
        await served.quiet()
        await trio.testing.wait_all_tasks_blocked()
        assert served.records.of("listener.opened", listener="web") == served.records.of("listener.opened")
        assert not served.records.of("listener.closed")
        assert [one.number for one in served.server.generations] == [31]


async def test_listeners_are_added_removed_and_renamed():
    """A renamed listener keeps its socket; one that is gone is closed; a new one accepts."""
    one, two, three = free_port(), free_port(), free_port()

    def with_listeners(**ports: int) -> str:
        listeners = {name: {"bind": f"127.0.0.1:{port}"} for name, port in ports.items()}
        return written(listeners=listeners, route={"respond": "204", "auth": "none"})

    async with serving(with_listeners(a=one, b=two)) as served:
        await served.server.apply(config_of(with_listeners(renamed=one, c=three)))
        assert await status_at(one) == 204
        assert await status_at(three) == 204
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", two)
        assert [line["listener"] for line in served.records.of("listener.closed")] == ["b"]
        assert [line["listener"] for line in served.records.of("http.request")] == ["renamed", "c"]


async def test_a_removed_listener_serves_its_backlog():
    """Connections that the kernel has accepted already are served, by the configuration they came to."""
    port = free_port()
    old = {"web": {"bind": "127.0.0.1:0"}, "old": {"bind": f"127.0.0.1:{port}"}}
    async with serving(written(listeners=old, route={"respond": "204", "auth": "none"})) as served:
        clients = []
        for _ in range(200):  # more than one turn of the accept loop takes
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            clients.append(Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), sock))
        await served.server.apply(config_of(written(route={"respond": "403", "auth": "none"})))
        for client in clients:
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await client.everything()).startswith(b"HTTP/1.1 204")
            client.drop()


async def test_the_protocol_of_a_listener_may_change():
    """The socket stays; the next client speaks TCP where the one before spoke WebSocket."""
    port = free_port()
    async with backend() as back:
        listener: dict[str, Any] = {"bind": f"127.0.0.1:{port}"}
        async with serving(written(listeners={"web": listener}, route={"backend": back.url})) as served:
            before = await served.upgraded()
            raw = {"web": {**listener, "protocol": "tcp", "route": "app"}}
            route = {"backend": back.url, "auth": "none"}
            await served.server.apply(config_of(written(listeners=raw, routes={"app": route})))
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"raw")
                assert await stream.receive_some(10) == b"raw"
            await before.echoed()
            await before.close()


async def test_a_unix_socket_gets_its_new_mode(tmp_path):
    """The file of a listener that stays is the same one, with the mode of the new configuration."""
    path = tmp_path / "web.sock"

    def with_mode(mode: str) -> str:
        return written(listeners={"web": {"bind": f"unix:{path}", "mode": mode}}, route={"respond": "204"})

    async with serving(with_mode("0600")) as served:
        inode = path.stat().st_ino
        await served.server.apply(config_of(with_mode("0666")))
        assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o666)
    assert not path.exists()


async def test_a_failed_reload_leaves_modes_as_they_were(tmp_path):
    """The mode is changed before the audit file turns out to be a directory."""
    path, audit = tmp_path / "web.sock", tmp_path / "audit.jsonl"

    def with_mode(mode: str, **rest: Any) -> str:
        return written(listeners={"web": {"bind": f"unix:{path}", "mode": mode}}, route={"respond": "204"}, **rest)

    new = config_of(with_mode("0666", audit={"file": str(audit)}))
    audit.mkdir()
    async with serving(with_mode("0600")) as served:
        with pytest.raises(ValueError, match="cannot be opened"):
            await served.server.apply(new)
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_unix_socket_whose_file_is_gone_is_bound_again(tmp_path):
    """As after a cleanup of /tmp: the reload makes another file, and clients find the listener again."""
    path = tmp_path / "web.sock"
    text = written(listeners={"web": {"bind": f"unix:{path}"}}, route={"respond": "204", "auth": "none"})
    async with serving(text) as served:
        path.unlink()
        await served.server.apply(config_of(text))
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b" 204 " in bytes(await stream.receive_some())
    assert not path.exists()


async def test_a_file_that_another_process_put_there_is_left_alone(tmp_path):
    """A link in place of the socket would otherwise lead mode and owner to any file; nothing listens at it either."""
    path, other = tmp_path / "web.sock", tmp_path / "other"
    other.touch(0o600)
    text = written(listeners={"web": {"bind": f"unix:{path}", "mode": "0666"}}, route={"respond": "204"})
    async with serving(text) as served:
        path.unlink()
        path.symlink_to(other)
        with pytest.raises(ListenError, match="the file exists and is no socket"):
            await served.server.apply(config_of(text))
        assert other.stat().st_mode & 0o777 == 0o600
    assert path.is_symlink()


@pytest.mark.parametrize("wrong", ["address", "file"])
async def test_an_error_changes_nothing(wrong, tmp_path):
    """An address in use, or an audit file that cannot be opened: the old routes serve, and no new listener is open."""
    extra = free_port()
    listeners = {"web": {"bind": "127.0.0.1:0"}, "extra": {"bind": f"127.0.0.1:{extra}"}}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rest: dict[str, Any] = {}
        if wrong == "address":
            listeners["taken"] = {"bind": f"127.0.0.1:{taken.getsockname()[1]}"}
        else:
            rest["audit"] = {"file": str(tmp_path / "audit.jsonl")}
        new = config_of(written(listeners=listeners, route={"respond": "403", "auth": "none"}, **rest))
        if wrong == "file":
            (tmp_path / "audit.jsonl").mkdir()
        async with serving(written(route={"respond": "204", "auth": "none"})) as served:
            with pytest.raises((ListenError, ValueError), match=r"already in use|cannot be opened"):
                await served.server.apply(new)
            assert await status_at(served.port()) == 204
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", extra)
            await trio.testing.wait_all_tasks_blocked()
            assert [one.number for one in served.server.generations] == [1]


@pytest.mark.parametrize(("policy", "change"), [("close", "removed"), ("close", "changed"), ("drain", "changed")])
async def test_connections_of_a_removed_route_are_closed(policy, change):
    """At once, or after `drain`, with 1012; those of a route that is the same in both are left alone."""
    timeouts = {"drain": "600ms" if policy == "drain" else "60s", "drain_spread": "100ms"}
    async with backend() as back:
        app = {"match": {"path": "/app"}, "backend": back.url, "auth": "none", "on_remove": policy}
        other = {"match": {"path": "/other"}, "backend": back.url, "auth": "none", "on_remove": "close"}
        async with serving(written(routes={"app": app, "other": other}, timeouts=timeouts)) as served:
            client, untouched = await served.upgraded("/app"), await served.upgraded("/other")
            routes = {"other": other} if change == "removed" else {"app": {**app, "subprotocols": []}, "other": other}
            began = trio.current_time()
            await served.server.apply(config_of(written(routes=routes, timeouts=timeouts)))
            assert await client.closing() == (1012, "route_removed")
            assert 0.45 * (policy == "drain") < trio.current_time() - began < 10
            await client.send(frame(CLOSE, b"\x03\xf4"))
            await client.everything()
            client.drop()
            assert (await served.records.ended())["reason"] == "route_removed"
            await untouched.echoed()
            await untouched.close()


async def test_a_connection_that_was_dialing_is_closed_too():
    """A route that is removed while its backend does not answer yet: the connection ends soon after it is relayed."""
    answer = trio.Event()
    port = free_port()
    app = {"match": "any", "backend": f"tcp://127.0.0.1:{port}", "auth": "none", "dial": {"retry_for": "10s"}}
    async with serving(written(routes={"app": {**app, "on_remove": "close"}})) as served:
        client = await served.connect()
        await client.send(b"")
        async with trio.open_nursery() as nursery:

            async def upgrade() -> None:
                await client.upgrade("/")
                answer.set()

            nursery.start_soon(upgrade)
            await served.records.wait("backend.retry")
            await served.server.apply(config_of(written(route={"respond": "204", "auth": "none"})))
            (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
            async with listener:
                await answer.wait()
                assert await client.closing() == (1012, "route_removed")
        client.drop()


async def test_limits_are_those_of_the_new_configuration():
    """The limit of all connections, and those per address."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        first = await served.upgraded()
        limits = {"connections": 1, "per_address": {"exempt": [], "connections": 5}}
        await served.server.apply(config_of(written(route={"backend": back.url}, limits=limits)))
        second = await served.connect()
        await second.send(request())
        assert b" 503 " in (await second.everything()).splitlines()[0]
        second.drop()
        assert served.server.services.client_table.limits.connections == 5
        await first.close()


async def test_another_audit_file(tmp_path):
    """Connections write to the audit file that was configured when they began, and it is closed after the last one."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"

    def events(path: Path) -> list[str]:
        return [json.loads(line)["event"] for line in path.read_text().splitlines()]

    async with backend() as back:
        text = written(route={"backend": back.url}, audit={"file": str(one)})
        async with serving(text) as served:
            before = await served.upgraded()
            await before.echoed()
            await served.server.apply(config_of(written(route={"backend": back.url}, audit={"file": str(two)})))
            after = await served.upgraded()
            await after.echoed()
            await before.close()
            with trio.fail_after(9):
                while "audit.stopped" not in events(one):
                    await trio.sleep(0.01)
            await after.close()
    assert events(one) == ["audit.started", "access.granted", "access.ended", "audit.stopped"]
    assert events(two) == ["audit.started", "access.granted", "access.ended", "audit.stopped"]


async def no_thread(*_: object, **_options: object) -> None:
    """Fail as at the limit of tasks of the unit."""
    raise RuntimeError("can't start new thread")


async def test_an_audit_file_is_closed_without_a_thread(tmp_path, monkeypatch):
    """As soon as there is one: the event loop does not wait for a disk, and other connections go on."""
    failed = trio.Event()

    async def fail_without_thread(*_: object, **_options: object) -> None:
        failed.set()
        raise NoThreadError("can't start new thread")

    monkeypatch.setattr(server, "THREAD_RETRY_DELAY", 0.01)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    async with backend() as back:
        text = written(route={"backend": back.url}, audit={"file": str(one)})
        async with serving(text) as served:
            before = await served.upgraded()
            await served.server.apply(config_of(written(route={"backend": back.url}, audit={"file": str(two)})))
            after = await served.upgraded()
            with monkeypatch.context() as patch, trio.fail_after(9):
                patch.setattr(server, "run_in_thread", fail_without_thread)
                await before.close()
                await failed.wait()
                await after.echoed()
            assert "audit.stopped" not in one.read_text()
            with trio.fail_after(9):
                while "audit.stopped" not in one.read_text():
                    await trio.sleep(0.01)
            await after.echoed()
            await after.close()


async def test_a_reload_without_a_thread_changes_nothing(monkeypatch):
    """And says why."""
    async with serving(written(route={"respond": "204"})) as served:
        reloader = Reloader(served.server, pytest.fail)
        monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
        assert (await reloader.reload()).error == "the files cannot be read: can't start new thread"
        monkeypatch.undo()
        assert await status_at(served.port()) == 204


async def test_an_admin_socket_without_a_thread_stays_as_it_is(tmp_path, monkeypatch):
    """That is an error of this reload, which says so, and no bug."""
    path, calls = tmp_path / "wsbridge.yaml", []
    path.write_text(written(route={"respond": "204"}, admin={"bind": f"unix:{tmp_path}/admin.sock"}))
    run_sync = trio.to_thread.run_sync

    async def only_first(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return await (run_sync if len(calls) == 1 else no_thread)(*args, **options)

    async with serving(written(route={"respond": "204"})) as served, trio.open_nursery() as nursery:
        handler = AdminApi(served.server, Reloader(served.server, None), Reloader(served.server, None).reload)
        parts = build_endpoints(handler, MonitoringApi(served.server), {}, nursery)
        reloader = Reloader(served.server, loader(path), parts=parts)
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", only_first)
            error = (await reloader.reload()).error
        assert error is not None
        assert error.startswith('listener "admin": cannot listen on unix:')
        assert error.endswith("can't start new thread (raise TasksMax= of a systemd unit)")
        assert not served.records.of("internal_error")
        assert (await reloader.reload()).error is None
        for part in parts:
            part.close()
        nursery.cancel_scope.cancel()


async def test_a_server_that_stops_refuses_another_configuration():
    """Nothing is opened while the last connections end."""
    async with backend() as back, serving(written(route={"backend": back.url}, timeouts={"drain": "20s"})) as served:
        client = await served.upgraded()
        served.server.stop(Reason.DRAINING)
        with pytest.raises(NotServingError, match="shutting down"):
            await served.server.apply(config_of(written(route={"respond": "204"})))
        await client.close()
        await served.returned.wait()


async def test_a_user_database_that_hangs_does_not_outlive_a_stop(tmp_path, monkeypatch):
    """As that of a directory service: the owner of a new Unix socket is looked up in a thread, too."""
    go, reached = threading.Event(), threading.Event()

    def hang(_: str) -> None:
        reached.set()
        go.wait(20)
        raise KeyError

    text = written(route={"respond": "204"}, timeouts={"close": "200ms"})
    listeners = {"web": {"bind": f"unix:{tmp_path}/web.sock", "owner": "root"}}
    new = config_of(written(route={"respond": "204"}, listeners=listeners))
    try:
        async with serving(text) as served, trio.open_nursery() as nursery:
            monkeypatch.setattr(listeners_module.pwd, "getpwnam", hang)
            nursery.start_soon(served.server.apply, new)
            while not reached.is_set():
                await trio.sleep(0.01)
            served.server.stop(Reason.SHUTDOWN)
            with trio.fail_after(9):
                await served.returned.wait()
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
    finally:
        go.set()


@pytest.mark.parametrize("step", ["_build_generation", "prepare_audit"])
async def test_a_file_system_that_hangs_does_not_outlive_a_stop(step, monkeypatch):
    """A reload waits for it in a thread, which a shutdown leaves behind."""
    go, reached = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        reached.set()
        go.wait(20)
        raise ValueError("it came back")

    text = written(route={"respond": "204"}, timeouts={"close": "200ms"})
    try:
        async with serving(text) as served, trio.open_nursery() as nursery:
            owner = served.server if step == "_build_generation" else served.server.services
            monkeypatch.setattr(owner, step, hang)
            nursery.start_soon(served.server.apply, config_of(text))
            while not reached.is_set():
                await trio.sleep(0.01)
            served.server.stop(Reason.SHUTDOWN)
            with trio.fail_after(9):
                await served.returned.wait()
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
    finally:
        go.set()


def loader(path: Path) -> Any:
    """Give what reads a file again."""
    return lambda: load_file(path, CONFIG_REGISTRY, {})


async def test_a_missing_credential_keeps_the_old_configuration(tmp_path):
    """What systemd no longer passes at a reload: the pair that serves goes on serving."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("cert.pem", "key.pem"):
        (credentials / name).write_bytes((folder() / name).read_bytes())
    pair = {"cert": {"credential": "cert.pem"}, "key": {"credential": "key.pem"}}
    web = {"bind": "127.0.0.1:0", "tls": {"certificates": [pair]}}
    path = tmp_path / "wsbridge.yaml"
    path.write_text(written(listeners={"web": web}, route={"respond": "204", "auth": "none"}))
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    async with serving(written(tls=True, route={"respond": "204", "auth": "none"})) as served:
        reloader = Reloader(served.server, lambda: load_file(path, CONFIG_REGISTRY, environ))
        assert (await reloader.reload()).error is None
        (credentials / "key.pem").unlink()
        result = await reloader.reload()
        assert (result.generation, result.error) == (2, "1 error in the configuration")
        assert [problem.code for problem in result.problems if problem.severity == "error"] == ["E037"]
        client = await served.connect(tls=True)
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b" 204 " in (await client.everything()).splitlines()[0]
        client.drop()


async def test_the_reloader_reports_errors_with_their_places(tmp_path):
    """An invalid file: its errors are logged and returned, the old configuration serves, and the next file is read."""
    path = tmp_path / "wsbridge.yaml"
    async with serving(written(route={"respond": "204", "auth": "none"})) as served:
        reloader = Reloader(served.server, loader(path))
        path.write_text("listeners: {web: {bind: '127.0.0.1:0'}}\nroutes: {app: {match: any, respond: 99}}\n")
        result = await reloader.reload()
        assert (result.generation, result.error) == (1, "1 error in the configuration")
        assert [(problem.code, problem.line) for problem in result.problems] == [("E012", 2)]
        assert served.records.of("config.error", file=str(path), line=2)
        assert served.records.of("config.reload_failed", generation=1)
        assert await status_at(served.port()) == 204
        path.write_text(written(route={"respond": "205", "auth": "none"}))
        assert (await reloader.reload()).error is None
        assert await status_at(served.port()) == 205
        assert served.records.of("config.reloaded", generation=2, routes=1)
        assert (reloader.count, reloader.last.error if reloader.last else "") == (2, None)


async def test_of_many_problems_the_first_are_reported(tmp_path):
    """An error in each of many routes does not keep connections waiting for as many lines of the log."""
    path = tmp_path / "wsbridge.yaml"
    routes = {f"r{number}": {"match": {"path": f"/{number}"}, "backend": "tcp://127.0.0.1:1"} for number in range(120)}
    path.write_text(written(routes={**routes, "wrong": {"match": {"path": "/x"}, "respond": "no status"}}))
    async with serving(written(route={"respond": "204"})) as served:
        reloader = Reloader(served.server, loader(path))
        result = await reloader.reload()
        assert result.error == "1 error in the configuration"
        path.write_text(path.read_text().replace("tcp://127.0.0.1:1", "tcp:"))
        result = await reloader.reload()
        assert result.error == "121 errors in the configuration, of which 100 are listed; wsbridge check prints all"
        assert len(result.problems) == 100
        assert len(served.records.of("config.error")) == 1 + 100 + 1
        assert served.records.of("config.error")[-1]["detail"] == "and 21 more, which wsbridge check prints"


async def test_an_address_that_this_process_holds_needs_a_restart(tmp_path):
    """From one address to all of them: the old listener is open until the new one is, so the error says what to do."""
    port = free_port()

    def bound(host: str) -> str:
        return written(listeners={"web": {"bind": f"{host}:{port}"}}, route={"respond": "204", "auth": "none"})

    path = tmp_path / "wsbridge.yaml"
    path.write_text(bound("0.0.0.0"))
    async with serving(bound("127.0.0.1")) as served:
        result = await Reloader(served.server, loader(path)).reload()
        assert result.error is not None
        assert f"by this process, at 127.0.0.1:{port}" in result.error
        assert "restart" in result.error
        assert await status_at(port) == 204


async def test_a_bug_while_loading_is_reported_as_ours(tmp_path):
    """An unexpected exception fails the reload; the server goes on."""

    def load() -> LoadedConfig:
        raise ZeroDivisionError

    with recording() as records:
        async with trio.open_nursery() as nursery:
            text = written(route={"respond": "204"})
            server = daemon.Server(config_of(text))
            nursery.start_soon(server.run)
            await records.wait("listener.opened")
            result = await Reloader(server, load).reload()
            server.stop(Reason.SHUTDOWN)
        assert result.error == "an internal error, which the log has"
        assert records.of("internal_error", component="reload")


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """Stand in for the service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.mark.parametrize("valid", [True, False])
async def test_sighup_reloads_and_reports_to_systemd(valid, manager):
    """RELOADING=1 with its time in one datagram, and READY=1 at the end, also of one that failed (sd_notify(3))."""
    new = written(route={"respond": "205" if valid else "no status"})

    def load() -> LoadedConfig:
        return load_text(new, file="test.yaml", registry=CONFIG_REGISTRY, environ={})

    async def beside(_server: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await records.wait("config.reloaded" if valid else "config.reload_failed")
        os.kill(os.getpid(), signal.SIGTERM)

    with recording() as records, trio.fail_after(9):
        await daemon.serve(config_of(written(route={"respond": "204"})), extra_task=beside, load=load)
    datagrams = []
    with pytest.raises(BlockingIOError):
        while True:
            datagrams.append(manager.recv(4096).decode())
    reloading = next(number for number, text in enumerate(datagrams) if "RELOADING=1" in text)
    assert "MONOTONIC_USEC=" in datagrams[reloading]
    assert any("READY=1" in text for text in datagrams[:reloading])
    assert any("READY=1" in text for text in datagrams[reloading + 1 :])


async def test_a_hangup_during_the_start_reloads_after_it(manager, monkeypatch):
    """It neither binds the addresses that are being bound, nor reports READY=1 before they are."""

    async def listen(name, config):
        if not listening:
            listening.append(name)
            os.kill(os.getpid(), signal.SIGHUP)
            await wait_all_tasks_blocked()
        return await listeners_module.listen_tcp(name, config)

    async def beside(_server: object) -> None:
        await records.wait("config.reloaded")
        os.kill(os.getpid(), signal.SIGTERM)

    def load() -> LoadedConfig:
        return load_text(written(route={"respond": "205"}), file="", registry=CONFIG_REGISTRY, environ={})

    listening: list[str] = []
    monkeypatch.setitem(LISTENERS, "tcp", listen)
    with recording() as records, trio.fail_after(5):
        await daemon.serve(config_of(written(route={"respond": "204"})), extra_task=beside, load=load)
    states = []
    with contextlib.suppress(BlockingIOError):
        while True:
            states.append(manager.recv(4096).decode().partition("\n")[0])
    assert [state for state in states if not state.startswith("STATUS")][:3] == ["READY=1", "RELOADING=1", "READY=1"]
    assert not records.of("config.reload_failed")


async def test_reloads_one_after_the_other_are_reported_one_after_the_other(tmp_path, manager):
    """One that waits has not begun: `systemctl reload` would else end with the READY=1 of the one before."""
    path = tmp_path / "wsbridge.yaml"
    path.write_text(written(route={"respond": "204"}))
    async with serving(path.read_text()) as served:
        reloader = Reloader(served.server, loader(path))
        with contextlib.closing(daemon.SystemdNotifier()) as notifier:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(daemon.reload, served.server, notifier, reloader)
    states = []
    with pytest.raises(BlockingIOError):
        while True:
            states.append(manager.recv(4096).decode().partition("\n")[0])
    assert states == ["RELOADING=1", "READY=1"] * 3


async def test_the_log_level_follows_the_file(tmp_path):
    """The function that applies a reload to the process is called with the new configuration only."""
    seen = []
    path = tmp_path / "wsbridge.yaml"
    async with serving(written(route={"respond": "204"})) as served:
        reloader = Reloader(served.server, loader(path), lambda config: seen.append(config.log.level))
        path.write_text("nonsense")
        await reloader.reload()
        path.write_text(written(route={"respond": "204"}, log={"level": "error"}))
        await reloader.reload()
    assert seen == ["error"]
    assert log.level != "error"


def describe(served: Served) -> tuple[int, int]:
    """Count what a reload may leave behind: descriptors, and tasks."""
    return len(list(Path("/proc/self/fd").iterdir())), trio.lowlevel.current_statistics().tasks_living


async def test_reloads_leave_nothing_behind(tmp_path):
    """Descriptors, tasks and objects of fifty generations are gone: files, keys to fetch, lists, TLS, names."""
    (tmp_path / "page").mkdir()
    (tmp_path / "tokens").write_text(f"alice sha256:{64 * '0'}\n")
    (tmp_path / "targets").write_text("a: 127.0.0.1:1\n")
    bearer = {"kind": "bearer", "tokens": str(tmp_path / "tokens")}
    keys = [{"jwks": "https://127.0.0.1:1/keys", "algorithms": ["RS256"]}]
    jwt = {"kind": "jwt", "keys": keys, "issuer": "https://issuer.example.org", "audience": "wsbridge"}
    allowed = {"networks": ["127.0.0.1/32"], "ports": [1], "names": ["*.example.org"]}
    targets = {"tokens": str(tmp_path / "targets"), "token_from": "query.token"}
    text = written(
        listeners={"web": {"bind": "127.0.0.1:0"}, "tls": {"bind": "127.0.0.1:0", "tls": listener_tls()}},
        routes={
            "bearer": {"match": {"path": "/a"}, "respond": "204", "auth": bearer},
            "jwt": {"match": {"path": "/b"}, "backend": "tls://127.0.0.1:1", "auth": jwt},
            "targets": {"match": {"path": "/c"}, "backend": targets, "allowed_targets": allowed, "auth": "none"},
            "page": {"match": "any", "files": str(tmp_path / "page"), "auth": "none"},
        },
    )
    async with serving(text) as served:
        await served.server.apply(config_of(text))
        await served.records.wait("jwks.refresh_failed")
        await served.records.wait("generation.ended")
        before = describe(served)
        for _ in range(50):
            await served.server.apply(config_of(text))
        await served.records.wait("generation.ended", count=51)
        await settled(served, before)
        gc.unfreeze()  # what daemons of earlier tests have left
        gc.collect()
        assert sum(isinstance(one, Generation) for one in gc.get_objects()) == 1


async def settled(served: Served, counts: tuple[int, int]) -> None:
    """Wait until there is no more than before."""
    with trio.fail_after(10):
        while any(now > before for now, before in zip(describe(served), counts, strict=True)):
            await trio.sleep(0.01)


async def test_the_event_loop_has_short_turns_while_a_file_is_loaded():
    """Threads switch often and no full garbage collection runs, until the reload has ended, with an error or not."""
    text = written(route={"respond": "204", "auth": "none"})
    before = sys.getswitchinterval(), gc.get_threshold()
    seen = []

    def load() -> LoadedConfig:
        seen.append((sys.getswitchinterval(), gc.get_threshold()))
        return load_text(text if len(seen) == 1 else "", file="w.yaml", registry=CONFIG_REGISTRY)

    async with serving(text) as served:
        for _ in range(2):
            await Reloader(served.server, load).reload()
            assert (sys.getswitchinterval(), gc.get_threshold()) == before
    for interval, thresholds in seen:
        assert interval < before[0] / 5
        assert thresholds[:2] == before[1][:2]
        assert thresholds[2] > 1_000_000
    assert len(seen) == 2


async def test_a_file_system_that_does_not_respond_fails_the_reload(monkeypatch):
    """The configuration that works stays; the next reload fails at once, and works again when the file system does."""
    text = written(route={"respond": "204", "auth": "none"})
    responds, left = threading.Event(), threading.Event()

    def load() -> LoadedConfig:
        responds.wait(20)
        left.set()
        return load_text(text, file="w.yaml", registry=CONFIG_REGISTRY)

    monkeypatch.setattr(server, "FILES_TIMEOUT", 0.2)
    async with serving(text) as served:
        reloader = Reloader(served.server, load)
        result = await reloader.reload()
        assert result.error == "the files were not read within 0.2 s: a file system may not respond"
        assert (await reloader.reload()).error == "a file system has not responded since an earlier reload"
        with pytest.raises(ValueError, match="since an earlier reload"):
            await served.server.apply(config_of(text))
        assert await status_at(served.port()) == 204
        responds.set()
        await trio.to_thread.run_sync(left.wait)
        monkeypatch.setattr(server, "FILES_TIMEOUT", 20)
        with trio.fail_after(9):
            while (await reloader.reload()).error is not None:
                await trio.sleep(0.01)
        assert served.server.generation.number == 2


def test_short_turns_end_with_the_last_user():
    """A reload may begin and end while the settings are written for an operator, and vice versa."""
    before = sys.getswitchinterval(), gc.get_threshold()
    SHORT_TURNS.__enter__()
    SHORT_TURNS.__enter__()
    SHORT_TURNS.__exit__()
    assert sys.getswitchinterval() < before[0] / 5
    SHORT_TURNS.__exit__()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before


async def test_counters_and_keys_end_with_their_route():
    """Reloads that always have other routes do not make the process grow; a route that stays keeps its counters."""

    def text(number: int) -> str:
        keys = [{"jwks": f"https://127.0.0.1:1/{number}", "algorithms": ["RS256"]}]
        auth = {"kind": "jwt", "keys": keys, "issuer": "https://issuer.example.org", "audience": "wsbridge"}
        return written(
            routes={
                f"route-{number}": {"match": {"path": f"/{number}"}, "backend": "tcp://127.0.0.1:1", "auth": auth},
                "stays": {"match": "any", "respond": "204", "auth": "none"},
            }
        )

    async with serving(text(0)) as served:
        services = served.server.services
        stays = services.route_stats("stays")
        gone = weakref.ref(services.route_stats("route-0"))
        for number in range(1, 4):
            await served.server.apply(config_of(text(number)))
        await served.records.wait("generation.ended", 3)
        gc.collect()
        assert gone() is None
        assert len(services.fetched_keys) == 1
        assert services.route_stats("stays") is stays


async def test_included_files_are_read_again(tmp_path: Path):
    """A reload finds routes in new files and loses those of files that are gone; an error in one changes nothing."""
    port = free_port()
    file, folder = tmp_path / "wsbridge.yaml", tmp_path / "conf.d"
    folder.mkdir()
    file.write_text(
        f"include: [conf.d/*.yaml]\nlisteners: {{web: {{bind: '127.0.0.1:{port}'}}}}\ndefaults: {{auth: none}}\n"
    )
    (folder / "a.yaml").write_text("routes: {a: {match: any, respond: 201}}\n")
    async with serving(file.read_text() + (folder / "a.yaml").read_text()) as served:
        reloader = Reloader(served.server, lambda: load_file(file, CONFIG_REGISTRY))
        assert await status_at(port) == 201
        (folder / "0.yaml").write_text("routes: {b: {match: {path: /}, respond: 202}}\n")
        assert (await reloader.reload()).error is None
        assert await status_at(port) == 202
        (folder / "a.yaml").write_text("routes: {a: {match: any, respnd: 201}}\n")
        (folder / "0.yaml").unlink()
        result = await reloader.reload()
        assert result.error == "1 error in the configuration"
        assert (result.problems[0].file, result.problems[0].line) == (str(folder / "a.yaml"), 1)
        assert await status_at(port) == 202
