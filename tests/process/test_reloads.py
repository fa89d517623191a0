"""Reloads under load: no connection is rejected or cut off, and nothing of an old generation stays."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import statistics
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.client import BINARY, Client, frame
from tests.process.daemon import Daemon
from tests.serving import backend, written
from wsbridge.cli.control import call_admin

BROKEN = (
    "listeners: {}\n",
    "routes: [\n",
    '{"listeners": {"web": {"bind": "127.0.0.1:0", "tls": {"certificates": [{"cert": "/nowhere"}]}}}}',
    "\0",
)
"""Files that no reload may put into effect."""
CHUNK = 1024


class Operator:
    """Changes the configuration of a daemon and reloads it, each time in another way.

    Args:
        daemon: It has an admin API at `admin.sock` of its directory.
        backend_url: Of an echo.
        certificates: PEM files with a certificate and its key, one of which is served at a time.
    """

    def __init__(self, daemon: Daemon, backend_url: str, certificates: list[bytes]) -> None:
        self.daemon = daemon
        self.config = daemon.folder / "wsbridge.yaml"
        self.backend_url = backend_url
        self.certificates = certificates
        self.done = self.failed = 0

    async def reload(self, number: int) -> None:
        """Write the next configuration and have it read; every fifth is broken."""
        broken = number % 5 == 4
        if number % 3 == 0:
            replace(self.daemon.folder / "served.pem", self.certificates[number // 3 % len(self.certificates)])
        content = BROKEN[number // 5 % len(BROKEN)] if broken else configuration(self.backend_url, number)
        replace(self.config, content.replace("@FOLDER@", str(self.daemon.folder)).encode())
        if number % 2:
            status, answer = await trio.to_thread.run_sync(
                call_admin, str(self.daemon.folder / "admin.sock"), None, "POST", "/v1/reload", 60.0
            )
            assert (status, bool(answer["error"])) == ((422, True) if broken else (200, False)), answer
        else:
            self.daemon.signal(signal.SIGHUP)
        self.failed, self.done = self.failed + broken, self.done + (not broken)
        await self.finished()

    async def finished(self) -> None:
        """Wait for the log lines of all reloads."""
        with trio.fail_after(60):
            while (
                len(self.daemon.log_lines("config.reloaded")) < self.done
                or len(self.daemon.log_lines("config.reload_failed")) < self.failed
            ):
                await trio.sleep(0.002)


def replace(path: Path, content: bytes) -> None:
    """Exchange a file at once, as an editor or a certificate client does."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.replace(path)


def configuration(backend_url: str, number: int) -> str:
    """Write a configuration: what stays, and routes and listeners that only this one or only some have."""
    listeners: dict[str, Any] = {
        "web": {"bind": "127.0.0.1:0"},
        "tls": {"bind": "unix:@FOLDER@/tls.sock", "tls": {"certificates": [{"cert": "@FOLDER@/served.pem"}]}},
        "raw": {"bind": "unix:@FOLDER@/raw.sock", "protocol": "tcp", "route": "echo"},
    }
    if number % 2:
        listeners["more"] = {"bind": "unix:@FOLDER@/more.sock", "backlog": 16 + number % 7}
    token_auth = {"kind": "bearer", "tokens": "@FOLDER@/tokens"}
    keys = [{"jwks": f"https://127.0.0.1:1/{number}", "algorithms": ["RS256"], "ca": "@FOLDER@/ca.pem"}]
    jwt = {"kind": "jwt", "keys": keys, "issuer": "https://issuer.example.org", "audience": "wsbridge"}
    routes: dict[str, Any] = {
        f"only-{number}": {"match": {"path": f"/only/{number}"}, "respond": "204", "auth": token_auth},
        f"page-{number}": {"match": {"path": f"/page/{number}/*"}, "files": "@FOLDER@/page", "auth": "none"},
        "keys": {"match": {"path": "/keys"}, "backend": backend_url, "auth": jwt},
        "targets": {
            "match": {"path": "/targets"},
            "backend": {"tokens": "@FOLDER@/targets", "token_from": "query.token"},
            "allowed_targets": {"networks": ["127.0.0.1/32"], "ports": [1]},
            "auth": "none",
        },
        "tls-backend": {"match": {"path": "/tls-backend"}, "backend": "tls://localhost:1", "auth": "none"},
        "ok": {"match": {"path": "/ok"}, "respond": "204", "auth": "none"},
        "echo": {"match": {"path": "/"}, "backend": backend_url, "auth": "none"},
    }
    return written(
        listeners=listeners,
        routes=routes,
        limits={"connections": 1000 + number % 3, "overload_replies": number % 4},
        timeouts={"drain": "1s"},
        admin={"bind": "unix:@FOLDER@/admin.sock"},
    )


def prepare(folder: Path, authority: trustme.CA, certificate: bytes) -> None:
    """Write the files that the configurations name."""
    (folder / "page").mkdir()
    (folder / "tokens").write_text(f"alice sha256:{64 * '0'}\n")
    (folder / "targets").write_text("a: 127.0.0.1:1\n")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    replace(folder / "served.pem", certificate)


class Load:
    """Clients that connect as fast as they can, each kind one after the other.

    Attributes:
        served: How many were.
    """

    def __init__(self, daemon: Daemon, context: ssl.SSLContext) -> None:
        self._daemon = daemon
        self._port = daemon.port()
        self._context = context
        self.served = 0

    async def run(self, stop: trio.Event) -> None:
        """Connect until the stop."""
        async with trio.open_nursery() as nursery:
            for kind in (self._request, self._upgrade, self._tls, self._raw):
                nursery.start_soon(self._repeat, kind, stop)

    async def _repeat(self, kind: Any, stop: trio.Event) -> None:
        while not stop.is_set():
            await kind()
            self.served += 1

    async def _request(self) -> None:
        with await Client.connect(self._port) as client:
            await client.send(b"GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await client.everything()).startswith(b"HTTP/1.1 204 ")

    async def _upgrade(self) -> None:
        with await Client.connect(self._port) as client:
            await client.upgrade()
            await client.echoed()
            await client.close()

    async def _tls(self) -> None:
        plain = await trio.open_unix_socket(str(self._daemon.folder / "tls.sock"))
        stream = trio.SSLStream(plain, self._context, server_hostname="localhost", https_compatible=True)
        with Client(stream, plain.socket) as client:
            await client.send(b"GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await client.everything()).startswith(b"HTTP/1.1 204 ")

    async def _raw(self) -> None:
        async with await trio.open_unix_socket(str(self._daemon.folder / "raw.sock")) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some(5) == b"hello"
            await stream.send_eof()
            assert await stream.receive_some(1) == b""


async def carry(client: Client, index: int, stop: trio.Event) -> None:
    """Send counted bytes to an echo until the stop, and hold that the same bytes have come back."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    number = 0
    while not stop.is_set():
        data = f"{index} {number} ".encode().ljust(CHUNK, b".")
        number += 1
        sent.update(data)
        await client.send(frame(BINARY, data))
        received.update(await client.payload(len(data)))
        with trio.move_on_after(0.5):
            await stop.wait()
    assert sent.digest() == received.digest()
    await client.close()


def proportional_memory(pid: int) -> int:
    """Give the memory of a process in KiB: its part (PSS) of all but files, whose part depends on other processes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1])
    raise AssertionError("no such line")


async def status(daemon: Daemon) -> dict[str, Any]:
    """Ask the daemon for its status."""
    code, answer = await trio.to_thread.run_sync(
        call_admin, str(daemon.folder / "admin.sock"), None, "GET", "/v1/status"
    )
    assert code == 200
    return dict(answer)


@pytest.mark.parametrize(
    ("reloads", "long_connections"),
    [(50, 30), pytest.param(1000, 500, marks=pytest.mark.soak)],
)
async def test_reloads_under_load(reloads, long_connections):
    """No connection is rejected or lost, memory is flat, and no descriptor, thread or generation is left."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = [authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA) for _ in range(2)]
    pems = [b"".join(part.bytes() for part in (one.private_key_pem, *one.cert_chain_pems)) for one in issued]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with backend() as back:
        daemon = Daemon(configuration(back.url, 0))
        prepare(daemon.folder, authority, pems[0])
        with daemon:
            operator, load = Operator(daemon, back.url, pems), Load(daemon, context)
            memory = await under_load(operator, load, reloads, long_connections)
            assert load.served > reloads
            assert not daemon.log_lines("internal_error")
            for event in ("connection.rejected", "connection.shed", "accept.error"):
                assert not daemon.log_lines(event), daemon.log_lines(event)[:3]
            assert {line["reason"] for line in daemon.log_lines("connection.closed")} == {"client_closed"}
            assert len(memory) == reloads
            part = reloads // 10
            first = statistics.median(memory[4 * part : 5 * part])  # threads have their own parts of the heap by now
            last = statistics.median(memory[-part:])
            print(f"{load.served} connections, PSS {memory[0]}, {first}, {last} KiB")  # noqa: T201  seen with -s
            assert last < 1.05 * first, memory[:: max(1, reloads // 50)]
            daemon.term()
            assert daemon.ended() == 0


async def under_load(operator: Operator, load: Load, reloads: int, long_connections: int) -> list[int]:
    """Reload under load and see what is left; give the memory after each reload."""
    daemon, stop = operator.daemon, trio.Event()
    for number in (0, 1):
        await operator.reload(number)
    before = daemon.descriptors(), threads(daemon)
    memory: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, stop)
        opened = 0
        for number in range(2, reloads + 2):
            while opened < min(long_connections, long_connections * 5 * (number - 1) // reloads):
                client = await Client.connect(daemon.port())
                await client.upgrade()
                nursery.start_soon(carry, client, opened, stop)
                opened += 1
            await operator.reload(number)
            memory.append(proportional_memory(daemon.pid))
        assert len((await status(daemon))["generations"]) > 1
        stop.set()
    await operator.reload(reloads * 10 + 1)  # the same listeners as before
    with trio.fail_after(20):
        while len((await status(daemon))["generations"]) > 1 or daemon.descriptors() > before[0]:
            await trio.sleep(0.05)
    assert threads(daemon) <= before[1] + 8  # threads of trio that wait for work
    return memory


def threads(daemon: Daemon) -> int:
    """Count the threads of a process."""
    return len(os.listdir(f"/proc/{daemon.pid}/task"))  # noqa: PTH208  (only counted)
