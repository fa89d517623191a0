"""The admin API and the monitoring endpoint, over real sockets, with a real server behind them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import request as upgrade_request
from tests.clients.program import free_port
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.admin import http
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import AdminEndpoint, admin_config, build_endpoints
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_file
from wsbridge.config.model import Config
from wsbridge.limits.memory import MemoryUsage
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListenError
from wsbridge.pressure import check_memory
from wsbridge.reasons import Reason
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import Reloader


class Admin:
    """A server with its admin API at a Unix socket.

    Attributes:
        served: The server.
        path: The socket.
        reloader: What reloads `config`.
        config: The configuration file.
        environ: For its variables.
    """

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.path = folder / "admin.sock"
        self.config = folder / "wsbridge.yaml"
        self.environ: dict[str, str] = {}
        self.endpoints: list[AdminEndpoint] = []
        self.reloader = Reloader(
            served.server, lambda: load_file(self.config, CONFIG_REGISTRY, self.environ), parts=self.endpoints
        )

    def text(self, respond: str = "204", **rest: Any) -> str:
        """Write a configuration with the admin API."""
        return written(route={"respond": respond, "auth": "none"}, admin={"bind": f"unix:{self.path}"}, **rest)

    async def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
        """Send a request to the socket; give status and body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return await raw(str(self.path), ("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    async def json(self, method: str, path: str, body: str = "") -> Any:
        """Send a request; give the JSON of its response."""
        return json.loads((await self.ask(method, path, body))[1])


async def raw(address: str | int, data: bytes) -> tuple[int, str]:
    """Send bytes to a path or a port; give status and body of what comes back."""
    open_stream = (
        trio.open_unix_socket(address) if isinstance(address, str) else trio.open_tcp_stream("127.0.0.1", address)
    )
    async with await open_stream as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        answer = b""
        async for part in stream:
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@contextlib.asynccontextmanager
async def administered(folder: Path, **rest: Any) -> AsyncIterator[Admin]:
    """Run a server with both endpoints, as the daemon does."""
    async with serving(written(route={"respond": "204", "auth": "none"}, **rest)) as served:
        admin = Admin(served, folder)
        admin.config.write_text(admin.text(**rest))
        async with trio.open_nursery() as nursery:
            api = AdminApi(served.server, admin.reloader, admin.reloader.reload)
            admin.endpoints += build_endpoints(api, MonitoringApi(served.server), {}, nursery)
            try:
                for endpoint in admin.endpoints:
                    await endpoint.prepare(config_of(admin.text(**rest)))
                    endpoint.commit()
                yield admin
            finally:
                for endpoint in admin.endpoints:
                    endpoint.close()
                nursery.cancel_scope.cancel()


async def test_status_has_what_an_operator_asks_first(tmp_path):
    """State, connections, generation; and of the last reload its error, with the place."""
    async with administered(tmp_path) as admin:
        status = await admin.json("GET", "/v1/status")
        assert (status["state"], status["ready"], status["generation"], status["routes"]) == ("serving", True, 1, 1)
        assert (status["pid"], status["last_reload"]) == (os.getpid(), None)
        assert status["listeners"] == [admin.served.addresses["web"]]
        client = await admin.served.connect()
        while not (await admin.json("GET", "/v1/status"))["connections"]:
            await trio.sleep(0.01)
        client.drop()
        admin.config.write_text("nonsense: 1\n")
        code, body = await admin.ask("POST", "/v1/reload")
        assert code == 422
        assert json.loads(body)["problems"][0]["line"] == 1
        assert (await admin.json("GET", "/v1/status"))["last_reload"]["error"] == json.loads(body)["error"]
        admin.config.write_text(admin.text("205"))
        assert (await admin.ask("POST", "/v1/reload"))[0] == 200
        status = await admin.json("GET", "/v1/status")
        assert (status["generation"], status["last_reload"]["error"]) == (2, None)


async def test_the_settings_in_effect(tmp_path):
    """With defaults, without secrets and variables; those of the last reload that succeeded."""
    token = tmp_path / "token"
    token.write_text("geheim\n")
    token.chmod(0o600)
    async with administered(tmp_path) as admin:
        found = await admin.json("GET", "/v1/config")
        assert found["routes"] == {"app": {"match": "any", "respond": 204, "auth": {"kind": "none"}}}
        assert found["listeners"]["web"]["backlog"] == 1024
        backend = {
            "url": "wss://gw/x?key=geheim",
            "headers": {"A": {"file": str(token)}, "B": "geheim"},
            "origin": "https://${HOME_HOST}",
        }
        admin.environ["HOME_HOST"] = "geheim"
        admin.config.write_text(
            written(route={"backend": backend, "auth": "none"}, admin={"bind": f"unix:{admin.path}"})
        )
        assert (await admin.ask("POST", "/v1/reload"))[0] == 200
        code, body = await admin.ask("GET", "/v1/config")
        assert code == 200
        assert "geheim" not in body
        found = json.loads(body)["routes"]["app"]["backend"]
        assert found["url"] == "wss://gw/x?***"
        assert found["headers"] == {"A": {"file": str(token)}, "B": "***"}
        assert found["origin"] == "https://${HOME_HOST}"
        admin.config.write_text("nonsense: 1\n")
        assert (await admin.ask("POST", "/v1/reload"))[0] == 422
        assert await admin.ask("GET", "/v1/config") == (200, body)


async def test_listeners_and_routes(tmp_path):
    """Names, addresses and counters, with the keys of the log."""
    async with administered(tmp_path) as admin:
        (listener,) = await admin.json("GET", "/v1/listeners")
        address = admin.served.addresses["web"]
        assert listener == {
            "listener": "web",
            "listen_address": [address],
            "protocol": "websocket",
            "tls": False,
            "certificates": [],
            "connections": 0,
            "connections_limit": None,
        }
        (route,) = await admin.json("GET", "/v1/routes")
        assert (route["route"], route["backend"], route["active"]) == ("app", "", 0)


async def test_drain_and_undrain(tmp_path):
    """Readiness goes first; what changes something is logged with the peer's uid."""
    async with administered(tmp_path) as admin:
        assert (await admin.ask("GET", "/readyz")) == (200, "ok\n")
        assert (await admin.json("POST", "/v1/drain"))["state"] == "draining"
        assert (await admin.ask("GET", "/readyz")) == (503, "draining\n")
        assert (await admin.ask("GET", "/livez")) == (200, "ok\n")
        assert (await admin.json("POST", "/v1/undrain")) == {"state": "serving", "ready": True}
        assert (await admin.ask("GET", "/readyz")) == (200, "ok\n")
        paths = [(line["path"], line["uid"], line["pid"]) for line in admin.served.records.of("admin.request")]
        assert paths == [(path, os.getuid(), os.getpid()) for path in ("/v1/drain", "/v1/undrain")]


async def test_a_server_that_stops_can_be_asked_but_not_changed(tmp_path):
    """The API answers until the end of the drain."""
    async with backend() as back, administered(tmp_path, timeouts={"drain": "20s", "drain_spread": "5s"}) as admin:
        text = written(route={"backend": back.url}, timeouts={"drain": "20s", "drain_spread": "5s"})
        await admin.served.server.apply(config_of(text))
        held = await admin.served.upgraded()
        admin.served.server.stop(Reason.DRAINING)
        assert (await admin.json("GET", "/v1/status"))["state"] == "shutting down"
        for path in ("/v1/drain", "/v1/undrain"):
            assert (await admin.ask("POST", path))[0] in (200, 409)
        assert (await admin.ask("POST", "/v1/reload"))[0] == 422
        assert (await admin.ask("POST", "/v1/undrain"))[0] == 409
        await held.close()
        await admin.served.returned.wait()


async def test_the_log_level(tmp_path):
    """It holds until the next reload; anything but a level is an error."""
    async with administered(tmp_path) as admin:
        assert await admin.json("POST", "/v1/log-level", '{"level": "error"}') == {"level": "error"}
        assert log.level == "error"
        for body in ("", "{}", '{"level": "loud"}', "[]", '"error"', '{"level": []}', "\xff"):
            assert (await admin.ask("POST", "/v1/log-level", body))[0] == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /v1/reload HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /livez HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + 40000 * b"x" + b"\r\n\r\n", 431),
        (b"POST /v1/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + 70000 * b"x", 413),
        (b"POST /v1/reload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n", 403),
    ],
)
async def test_requests_that_are_wrong(tmp_path, data, status):
    """Each is answered with its status and a sentence, and the API goes on."""
    async with administered(tmp_path) as admin:
        found, body = await raw(str(admin.path), data)
        assert found == status
        assert body.endswith("\n")
        assert (await admin.ask("GET", "/livez"))[0] == 200


async def test_a_whole_url_is_a_target_as_well(tmp_path):
    """The absolute form is what proxies send, and has to be accepted; its host counts (RFC 9112 section 3.2.2)."""
    port = free_port()
    (tmp_path / "token").write_text("let-me-in\n")
    section = {"bind": f"127.0.0.1:{port}", "token": {"file": str(tmp_path / "token")}}
    async with administered(tmp_path, monitoring={"bind": f"unix:{tmp_path}/monitoring"}) as admin:
        get = b"GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer let-me-in\r\n\r\n"
        for target in (b"http://localhost/readyz", b"HTTP://a.example:80/readyz?x", b"http://localhost//readyz"):
            status = (await raw(str(tmp_path / "monitoring"), get % target))[0]
            assert status == (404 if b"//readyz" in target else 200)
        admin.config.write_text(written(route={"respond": "204"}, admin=section))
        assert (await admin.reloader.reload()).error is None
        assert (await raw(port, get % b"http://localhost/v1/status"))[0] == 200
        assert (await raw(port, get % b"http://evil.example/v1/status"))[0] == 403


async def test_head_has_no_body(tmp_path):
    """A HEAD request, as some load balancers send it to /readyz."""
    async with administered(tmp_path) as admin:
        assert await admin.ask("HEAD", "/readyz") == (200, "")


async def test_without_a_thread_a_request_can_be_repeated(tmp_path, monkeypatch):
    """As at the limit of tasks of the unit: that is no bug, so nothing is logged as one."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    async with administered(tmp_path) as admin:
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", fail)
            assert await admin.ask("GET", "/v1/config") == (503, "no thread for this request: can't start new thread\n")
        assert (await admin.ask("GET", "/v1/config"))[0] == 200


async def test_one_that_is_closed_as_soon_as_it_is_open_ends(tmp_path):
    """As by a shutdown at the end of a reload: the task that would accept there has not begun yet."""
    text = written(route={"respond": "204"}, admin={"bind": f"unix:{tmp_path}/other.sock"})
    async with serving(text) as served:
        api = AdminApi(served.server, Reloader(served.server, None), Reloader(served.server, None).reload)
        async with trio.open_nursery() as nursery:
            endpoint = build_endpoints(api, MonitoringApi(served.server), {}, nursery)[0]
            await endpoint.prepare(config_of(text))
            endpoint.commit()
            endpoint.close()
    assert not (tmp_path / "other.sock").exists()


async def test_silent_clients_do_not_fill_the_places(tmp_path, monkeypatch):
    """They are answered with 408 after the timeout; who waits for a place is served then."""
    monkeypatch.setattr(http, "ADMIN_REQUEST_TIMEOUT", 0.3)
    monkeypatch.setattr(http, "MAX_ADMIN_CONNECTIONS", 2)
    async with administered(tmp_path) as admin:
        silent = [await trio.open_unix_socket(str(admin.path)) for _ in range(2)]
        assert (await admin.ask("GET", "/livez"))[0] == 200
        for stream in silent:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")
            await stream.aclose()


async def test_a_port_needs_the_token(tmp_path):
    """Over TCP: 401 without the token or with another, 403 for a name that DNS rebinding may have brought."""
    (tmp_path / "token").write_text("let-me-in\n")
    admin_section = {"bind": "127.0.0.1:0", "token": {"file": str(tmp_path / "token")}}
    async with serving(written(route={"respond": "204"})) as served, trio.open_nursery() as nursery:
        api = AdminApi(served.server, Reloader(served.server, None), Reloader(served.server, None).reload)
        endpoint = build_endpoints(api, MonitoringApi(served.server), {}, nursery)[0]
        await endpoint.prepare(config_of(written(route={"respond": "204"}, admin=admin_section)))
        endpoint.commit()
        port = int(served.records.of("listener.opened", listener="admin")[0]["listen_address"].rpartition(":")[2])

        async def status(*lines: str, host: str = "127.0.0.1") -> int:
            head = "\r\n".join(("GET /v1/status HTTP/1.1", f"Host: {host}", *lines))
            return (await raw(port, f"{head}\r\n\r\n".encode()))[0]

        assert await status("Authorization: Bearer let-me-in") == 200
        assert await status("Authorization: bearer  let-me-in", host="localhost:1") == 200
        assert await status() == 401
        assert await status("Authorization: Bearer let-me-out") == 401
        assert await status("Authorization: Basic let-me-in") == 401
        assert await status("Cookie: token=let-me-in") == 401
        assert await status("Authorization: Bearer let-me-in", host="evil.example") == 403
        assert len(served.records.of("admin.denied")) == 5
        assert "let-me" not in str(served.records.all)
        endpoint.close()
        nursery.cancel_scope.cancel()


async def test_a_reload_moves_the_endpoints(tmp_path):
    """Added, moved and removed with the rest of the configuration, and left alone where the rest fails.

    The request that has caused it is answered all the same.
    """
    async with administered(tmp_path) as admin:
        first, moved = admin.path, tmp_path / "moved.sock"
        monitoring = tmp_path / "monitoring.sock"
        admin.path = moved
        admin.config.write_text(admin.text(monitoring={"bind": f"unix:{monitoring}"}))
        admin.path = first
        assert (await admin.ask("POST", "/v1/reload"))[0] == 200
        admin.path = moved
        assert not first.exists()
        assert (await admin.ask("GET", "/v1/status"))[0] == 200
        plain = b"GET %s HTTP/1.1\r\nHost: anything.example\r\n\r\n"
        assert (await raw(str(monitoring), plain % b"/readyz"))[0] == 200
        assert (await raw(str(monitoring), plain % b"/v1/status"))[0] == 404
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listeners = {"taken": {"bind": f"127.0.0.1:{taken.getsockname()[1]}"}}
            admin.config.write_text(written(route={"respond": "204"}, listeners=listeners))
            assert "in use" in str((await admin.reloader.reload()).error)
        assert (await admin.ask("GET", "/v1/status"))[0] == 200
        admin.config.write_text(written(route={"respond": "204"}))
        assert (await admin.ask("POST", "/v1/reload"))[0] == 200
        assert not admin.path.exists()
        assert not monitoring.exists()


async def test_a_failed_reload_leaves_the_mode_of_the_socket(tmp_path):
    """It would otherwise allow others to use it although the configuration that says so is not in effect."""
    async with administered(tmp_path) as admin:
        before = admin.path.stat().st_mode
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listeners = {"taken": {"bind": f"127.0.0.1:{taken.getsockname()[1]}"}}
            section = {"bind": f"unix:{admin.path}", "mode": "0666"}
            admin.config.write_text(written(route={"respond": "204"}, listeners=listeners, admin=section))
            assert "in use" in str((await admin.reloader.reload()).error)
        assert admin.path.stat().st_mode == before


async def test_a_socket_whose_file_is_gone_is_bound_again(tmp_path):
    """A signal reloads when the command cannot: the file of the admin socket was removed."""
    async with administered(tmp_path) as admin:
        admin.path.unlink()
        assert (await admin.reloader.reload()).error is None
        assert (await admin.ask("GET", "/v1/status"))[0] == 200


async def test_an_address_that_this_process_holds_needs_a_restart(tmp_path):
    """From one address to all of them: the old one is open until the new one is, and the error says so."""
    port = free_port()
    async with administered(tmp_path, monitoring={"bind": f"127.0.0.1:{port}"}) as admin:
        admin.config.write_text(admin.text(monitoring={"bind": f"0.0.0.0:{port}"}))
        result = await admin.reloader.reload()
        assert f"by this process, at 127.0.0.1:{port}" in str(result.error)
        assert "restart" in str(result.error)


async def test_an_address_in_use_is_an_error_of_the_start(tmp_path):
    """Nobody starts without the API that the configuration asks for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = written(route={"respond": "204"}, monitoring={"bind": f"127.0.0.1:{taken.getsockname()[1]}"})
        async with serving(written(route={"respond": "204"})) as served, trio.open_nursery() as nursery:
            api = AdminApi(served.server, Reloader(served.server, None), Reloader(served.server, None).reload)
            _, monitoring = build_endpoints(api, MonitoringApi(served.server), {}, nursery)
            with pytest.raises(ListenError, match='listener "monitoring": cannot listen'):
                await monitoring.prepare(config_of(text))


def test_under_systemd_it_is_in_the_runtime_directory():
    """Without a section: a socket in the first runtime directory of the unit; elsewhere none."""
    config = config_of(written(route={"respond": "204"}))
    assert admin_config(config, {"RUNTIME_DIRECTORY": "/run/a"}) is None
    found = admin_config(config, {"RUNTIME_DIRECTORY": "/run/a:/run/b", "NOTIFY_SOCKET": "/run/notify"})
    assert found is not None
    assert (str(found.bind), found.mode, found.token) == ("unix:/run/a/admin.sock", 0o660, None)


async def test_memory_and_loop_lag_are_in_the_status(tmp_path):
    """And /readyz says that memory is short."""
    async with administered(tmp_path) as admin:
        status = await admin.json("GET", "/v1/status")
        assert (status["memory"], status["loop_lag_seconds"]) == (None, 0)
        admin.served.server.loop_lag.record(0.5, 0.0)
        client = await admin.served.connect()
        while not admin.served.server.connections:
            await trio.sleep(0.01)
        check_memory(admin.served.server, MemoryUsage(95, 100, "RLIMIT_AS"))
        status = await admin.json("GET", "/v1/status")
        memory = {"memory_bytes": 95, "memory_limit_bytes": 100, "memory_limit": "RLIMIT_AS", "pressure": True}
        assert (status["memory"], status["loop_lag_seconds"], status["connections_limit"]) == (memory, 0.5, 1)
        assert await admin.ask("GET", "/readyz") == (503, "memory is short\n")
        client.drop()


async def test_a_full_server_is_not_ready(tmp_path):
    """At the connection limit /readyz says so, and the API still answers."""
    async with backend() as back, administered(tmp_path) as admin:
        text = written(route={"backend": back.url}, limits={"connections": 1})
        await admin.served.server.apply(config_of(text))
        client = await admin.served.upgraded()
        assert await admin.ask("GET", "/readyz") == (503, "connection limit reached\n")
        over = await admin.served.connect()
        await over.send(upgrade_request())
        assert (await over.everything()).startswith(b"HTTP/1.1 503")
        over.drop()
        await client.close()


def config_problems(**section: Any) -> list[str]:
    """Load a configuration with an `admin` section; give its problems."""
    try:
        config_of(written(route={"respond": "204"}, admin=section))
    except ConfigError as error:
        return [f"{problem.setting}: {problem.message}" for problem in error.problems]
    return []


def test_what_a_configuration_may_not_say(tmp_path):
    """A port without a token, an address that others reach, a mode without a file."""
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    secret = {"file": str(token)}
    assert config_problems(bind="127.0.0.1:9181", token=secret) == []
    assert config_problems(bind="[::1]:9181", token=secret) == []
    assert "token: is missing" in config_problems(bind="127.0.0.1:9181")[0]
    assert "other hosts must not reach" in config_problems(bind="0.0.0.0:9181", token=secret)[0]
    assert "other hosts must not reach" in config_problems(bind="192.0.2.1:9181", token=secret)[0]
    assert "mode: is only for" in config_problems(bind="localhost:9181", token=secret, mode="0600")[0]
    assert isinstance(config_of(written(route={"respond": "204"})), Config)
