"""Certificates, keys, client authorities and JWT keys are replaced when their files change, without a reload."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.auth.signing import EC, ec_pair, signed
from tests.client import Client
from tests.serving import Served, backend, config_of, open_files, recording, serving, written
from wsbridge import file_watcher
from wsbridge.file_watcher import FileWatcher
from wsbridge.worker_thread import NoThreadError, run_in_thread

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Renewals:
    """A directory of a certificate and its key, and an authority that renews them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.number = 0

    def issue(self, not_after: datetime.datetime | None = None) -> tuple[bytes, bytes]:
        """Issue a certificate for localhost: PEM of it and of its key."""
        made = self.authority.issue_cert("localhost", not_after=not_after, key_type=trustme.KeyType.ECDSA)
        return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()

    def in_place(self) -> bytes:
        """Write over both files; the certificate is returned."""
        cert, key = self.issue()
        self.cert.write_bytes(cert)
        self.key.write_bytes(key)
        self.key.chmod(0o600)
        return cert

    def by_rename(self) -> bytes:
        """Rename others over both files, the key first."""
        cert, key = self.issue()
        for path, data in ((self.key, key), (self.cert, cert)):
            path.with_suffix(".new").write_bytes(data)
            path.with_suffix(".new").chmod(0o600)
            path.with_suffix(".new").replace(path)
        return cert

    def by_certbot(self) -> bytes:
        """Write numbered files into an archive, and set the links, one after the other."""
        self.number += 1
        archive = self.directory / "archive"
        archive.mkdir(exist_ok=True)
        cert, key = self.issue()
        for path, data in ((self.cert, cert), (self.key, key)):
            found = archive / f"{path.stem}{self.number}.pem"
            found.write_bytes(data)
            found.chmod(0o600)
            path.unlink(missing_ok=True)
            path.symlink_to(Path("archive") / found.name)
        return cert

    def by_kubernetes(self) -> bytes:
        """Switch the link ..data to another directory, as a kubelet does for a mounted secret."""
        self.number += 1
        cert, key = self.issue()
        fresh = self.directory / f"..{self.number}"
        fresh.mkdir()
        for path, data in ((self.cert, cert), (self.key, key)):
            (fresh / path.name).write_bytes(data)
            (fresh / path.name).chmod(0o600)
            if not path.is_symlink():
                path.unlink(missing_ok=True)
                path.symlink_to(Path("..data") / path.name)
        (self.directory / "..data_tmp").symlink_to(fresh.name)
        (self.directory / "..data_tmp").replace(self.directory / "..data")
        return cert

    @property
    def tls(self) -> dict[str, Any]:
        """The section `tls` of a listener."""
        return {"certificates": [{"cert": str(self.cert), "key": str(self.key)}]}

    def text(self, **keys: Any) -> str:
        """Write a configuration whose listener has TLS."""
        web = {"bind": "127.0.0.1:0", "tls": {**self.tls, **keys.pop("tls", {})}}
        return written(listeners={"web": web}, **(keys or {"route": {"respond": "204"}}))

    def client_context(self) -> ssl.SSLContext:
        """Trust the authority."""
        return ssl.create_default_context(cafile=str(self.directory / "ca.pem"))


async def served_certificate(served: Served, context: ssl.SSLContext) -> bytes:
    """Connect, and return the certificate of the server in PEM form."""
    async with await trio.open_tcp_stream("127.0.0.1", served.port()) as raw:
        stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
        await stream.do_handshake()
        shown = stream.getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return ssl.DER_cert_to_PEM_cert(shown).encode()


async def until_served(served: Served, context: ssl.SSLContext, cert: bytes, seconds: float = 5.0) -> None:
    """Wait until a listener serves a certificate."""
    with trio.fail_after(seconds):
        while b"".join((await served_certificate(served, context)).split()) != b"".join(cert.split()):
            await trio.sleep(0.02)


async def tls_client(served: Served, context: ssl.SSLContext) -> Client:
    """Connect a client that trusts the authority, and have it upgraded."""
    raw = await trio.open_tcp_stream("127.0.0.1", served.port())
    stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
    client = Client(stream, raw.socket._sock)
    await client.upgrade("/")
    return client


@pytest.fixture
def renewals(tmp_path: Path) -> Renewals:
    """A directory with a valid pair."""
    found = Renewals(tmp_path)
    found.in_place()
    return found


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check much more often than in service."""
    monkeypatch.setattr(file_watcher, "WATCH_INTERVAL", 0.05)


@pytest.mark.parametrize("way", ["by_certbot", "by_kubernetes", "in_place", "by_rename"])
@pytest.mark.usefixtures("often")
async def test_a_renewed_certificate_is_served(renewals: Renewals, way: str) -> None:
    """However the files are replaced, and twice; a connection from before goes on, and nothing is reported as wrong."""
    replace: Callable[[], bytes] = getattr(renewals, way)
    replace()
    context = renewals.client_context()
    async with backend() as back, serving(renewals.text(route={"backend": back.url})) as served:
        client = await tls_client(served, context)
        for _ in range(2):
            await until_served(served, context, replace())
            await client.echoed()
        assert {line["file"] for line in served.records.of("certificate.reloaded")} <= {
            str(renewals.cert),
            str(renewals.key),
        }
        assert not served.records.of("config.reloaded")
        tls = served.server.generation.listeners["web"].tls
        assert tls is not None
        (shown,) = tls.certificates()
        assert shown == {
            "file": str(renewals.cert),
            "expires": served.records.of("certificate.reloaded")[-1]["expires"],
        }
        await client.close()


async def test_a_renewed_certificate_is_served_within_five_seconds(renewals: Renewals) -> None:
    """The interval in service is short enough, and a reload in between does not disturb it."""
    renewals.by_certbot()
    context = renewals.client_context()
    async with serving(renewals.text()) as served:
        renewed = renewals.by_certbot()
        await until_served(served, context, renewed, 5)
        renewed = renewals.by_certbot()
        await served.server.apply(config_of(renewals.text()))
        await until_served(served, context, renewed, 1)
        await until_served(served, context, renewals.by_certbot(), 5)


@pytest.mark.usefixtures("often")
async def test_what_cannot_be_used_never_replaces_a_valid_pair(renewals: Renewals) -> None:
    """Garbage, a missing key and a key of another certificate: the old pair stays, with one error for each cause."""
    context = renewals.client_context()
    cert, key = renewals.cert.read_bytes(), renewals.key.read_bytes()
    async with serving(renewals.text()) as served:
        renewals.cert.write_bytes(b"garbage")
        line = await served.records.wait("certificate.reload_failed")
        assert line["detail"] == f"{renewals.cert} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        assert line["file"] == str(renewals.cert)
        await trio.sleep(0.5)
        await until_served(served, context, cert)
        renewals.cert.write_bytes(cert)
        renewals.key.unlink()
        line = await served.records.wait("certificate.reload_failed", 2)
        assert line["detail"] == f"{renewals.key}: cannot be read: No such file or directory"
        renewals.key.write_bytes(renewals.issue()[1])
        line = await served.records.wait("certificate.reload_failed", 3)
        assert "does not belong to the certificate" in line["detail"]
        await until_served(served, context, cert)
        renewals.key.write_bytes(key)
        await trio.sleep(0.3)
        await until_served(served, context, cert)
        await until_served(served, context, renewals.in_place())
        assert len(served.records.of("certificate.reload_failed")) == 3
        assert len(served.records.of("certificate.reloaded")) == 1


@pytest.mark.parametrize("first", ["cert", "key"])
async def test_a_pair_may_be_replaced_one_file_after_the_other(
    renewals: Renewals, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check in between finds two files that do not belong together: it keeps the old pair and reports nothing."""
    monkeypatch.setattr(file_watcher, "WATCH_INTERVAL", 0.4)
    context = renewals.client_context()
    old = renewals.cert.read_bytes()
    async with serving(renewals.text()) as served:
        failed = trio.Event()
        fail = file_watcher.Watched.fail

        def failing(watched: Any, detail: str, *, at_once: bool) -> bool:
            failed.set()
            return fail(watched, detail, at_once=at_once)

        monkeypatch.setattr(file_watcher.Watched, "fail", failing)
        cert, key = renewals.issue()
        order = [(renewals.cert, cert), (renewals.key, key)]
        for path, data in order if first == "cert" else order[::-1]:
            path.write_bytes(data)
            if path == {"cert": renewals.cert, "key": renewals.key}[first]:
                await failed.wait()
                await until_served(served, context, old)
        await until_served(served, context, cert)
        assert not served.records.of("certificate.reload_failed")


@pytest.mark.usefixtures("often")
async def test_one_certificate_of_several_is_replaced_while_another_one_is_broken(tmp_path: Path) -> None:
    """The certificates of a listener do not depend on each other; SNI selects the new one."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    broken, good = Renewals(first), Renewals(second)
    broken.in_place()
    good.in_place()
    good.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    other = good.authority.issue_cert("other.example.org", key_type=trustme.KeyType.ECDSA)
    good.issue = lambda _=None: (other.cert_chain_pems[0].bytes(), other.private_key_pem.bytes())
    tls = {"certificates": [*broken.tls["certificates"], *good.tls["certificates"]]}
    context = ssl.create_default_context()
    good.authority.configure_trust(context)
    async with serving(broken.text(tls=tls)) as served:
        broken.cert.write_bytes(b"garbage")
        await served.records.wait("certificate.reload_failed")
        good.in_place()
        await served.records.wait("certificate.reloaded")
        async with await trio.open_tcp_stream("127.0.0.1", served.port()) as raw:
            stream = trio.SSLStream(raw, context, server_hostname="other.example.org", https_compatible=True)
            await stream.do_handshake()
        await served_certificate(served, broken.client_context())


@pytest.mark.usefixtures("often")
async def test_client_authorities_are_replaced(renewals: Renewals, tmp_path: Path) -> None:
    """Certificates of an authority that was added are accepted, those of one that was removed are not."""
    ours, theirs = trustme.CA(), trustme.CA()
    bundle = tmp_path / "clients.pem"
    ours.cert_pem.write_to_path(str(bundle))

    def context_of(authority: trustme.CA) -> ssl.SSLContext:
        context = renewals.client_context()
        authority.issue_cert("client").configure_cert(context)
        return context

    async def status(context: ssl.SSLContext) -> bytes:
        async with await trio.open_tcp_stream("127.0.0.1", served.port()) as raw:
            stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
            try:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return bytes(await stream.receive_some(12))
            except trio.BrokenResourceError:
                return b""

    old, new = context_of(ours), context_of(theirs)
    async with serving(renewals.text(tls={"client_ca": str(bundle)})) as served:
        assert (await status(old), await status(new)) == (b"HTTP/1.1 204", b"")
        theirs.cert_pem.write_to_path(str(bundle))
        line = await served.records.wait("certificate.reloaded")
        assert line["file"] == str(bundle)
        assert (await status(old), await status(new)) == (b"", b"HTTP/1.1 204")


@pytest.mark.usefixtures("often")
async def test_the_client_certificate_and_authorities_of_a_backend_are_replaced(
    renewals: Renewals, tmp_path: Path
) -> None:
    """The next dial shows the new certificate, and accepts the server by the new authority."""
    seen: list[bytes] = []
    clients = Renewals(tmp_path / "client") if (tmp_path / "client").mkdir() is None else renewals
    clients.in_place()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(renewals.cert, renewals.key)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(clients.directory / "ca.pem")

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            await tls.do_handshake()
            seen.append(ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)).encode())
            await tls.send_all(await tls.receive_some(100))

    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    async with backend(serve) as back:
        pair = {"cert": str(clients.cert), "key": str(clients.key)}
        url = f"tls://localhost:{back.port}"
        route = {"backend": {"url": url, "ca": str(bundle), "client_certificate": pair}}
        async with serving(written(route=route)) as served:
            rejected = await served.connect()
            await rejected.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            await rejected.send(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert (await rejected.everything()).startswith(b"HTTP/1.1 502")
            rejected.drop()
            bundle.write_bytes((renewals.directory / "ca.pem").read_bytes())
            await served.records.wait("certificate.reloaded", file=str(bundle))
            renewed = clients.in_place()
            await served.records.wait("certificate.reloaded", file=str(clients.cert))
            client = await served.upgraded()
            await client.echoed()
            assert b"".join(seen[-1].split()) == b"".join(renewed.split())
            client.drop()


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("kind", ["public key", "secret"])
async def test_a_jwt_key_is_replaced(tmp_path: Path, kind: str) -> None:
    """Tokens of the new key are accepted, those of the old one are not; a file that is no key changes nothing."""
    path = tmp_path / "key"
    other = ec_pair()
    old, new, data = (EC, other, other.public) if kind == "public key" else ("o" * 32, "n" * 32, b"n" * 32)
    path.write_bytes(EC.public if kind == "public key" else b"o" * 32)
    path.chmod(0o600)
    key = (
        {"algorithm": "ES256", "file": str(path)}
        if kind == "public key"
        else {"algorithm": "HS256", "secret": {"file": str(path)}}
    )
    route = {"respond": "204", "auth": {"kind": "jwt", "keys": [key], "issuer": "any", "audience": "any"}}

    async def status(pair: Any) -> int:
        client = await served.connect()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Authorization: Bearer " + signed(pair).encode() + b"\r\n\r\n"
        )
        found = await client.everything()
        client.drop()
        return int(found.split()[1])

    async with serving(written(routes={"app": {"match": "any", **route}})) as served:
        assert (await status(old), await status(new)) == (204, 401)
        path.write_bytes(b"no key")
        line = await served.records.wait("file.reload_failed")
        assert line["file"] == str(path)
        assert (await status(old), await status(new)) == (204, 401)
        path.write_bytes(data)
        await served.records.wait("file.reloaded")
        assert (await status(old), await status(new)) == (401, 204)


@pytest.mark.usefixtures("often")
async def test_the_passphrase_of_a_key_may_change_with_it(renewals: Renewals, tmp_path: Path) -> None:
    """The file of the passphrase is read again, too."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    phrase = tmp_path / "phrase"

    def lock(words: bytes) -> bytes:
        cert, key = renewals.issue()
        locked = load_pem_private_key(key, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(words)
        )
        phrase.write_bytes(words)
        phrase.chmod(0o600)
        renewals.key.write_bytes(locked)
        renewals.cert.write_bytes(cert)
        return cert

    lock(b"first")
    pair = {**renewals.tls["certificates"][0], "key_password": {"file": str(phrase)}}
    async with serving(renewals.text(tls={"certificates": [pair]})) as served:
        await until_served(served, renewals.client_context(), lock(b"second"))


@pytest.mark.usefixtures("often")
async def test_a_hung_file_system_delays_no_other(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A thread that hangs is abandoned and reported once; certificates on other file systems are still replaced."""
    hung, released = tmp_path / "hung.pem", threading.Event()
    renewals.authority.cert_pem.write_to_path(str(hung))
    state = file_watcher.file_signature

    def signature(path: Path) -> Any:
        if path != hung:
            return state(path)
        if threading.current_thread() is not threading.main_thread():
            released.wait(20)
        return tuple((name, found and found._replace(device=-1)) for name, found in state(path))

    monkeypatch.setattr(file_watcher, "file_signature", signature)
    monkeypatch.setattr(file_watcher, "CHECK_TIMEOUT", 0.2)
    context = renewals.client_context()
    routes = {
        "app": {"match": "any", "auth": "none", "backend": {"url": "tls://localhost:9", "ca": str(hung)}},
    }
    try:
        async with serving(renewals.text(routes=routes)) as served:
            line = await served.records.wait("file.reload_failed")
            assert line["detail"] == f"{hung}: its file system did not respond within 0.2 s"
            for _ in range(2):
                await until_served(served, context, renewals.in_place())
            assert len(served.records.of("file.reload_failed")) == 1
    finally:
        released.set()


@pytest.mark.usefixtures("often")
async def test_a_check_without_a_thread_ends_no_connection(renewals: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported once, and as no bug; the next check that can run finds the new certificate."""
    lacking, failed = [True], itertools.count()

    async def run_or_fail(*args: Any, **options: Any) -> Any:
        if lacking:
            if next(failed) == 4:
                again.set()
            raise NoThreadError("can't start new thread")
        return await run_in_thread(*args, **options)

    again = trio.Event()
    monkeypatch.setattr(file_watcher, "run_in_thread", run_or_fail)
    context = renewals.client_context()
    async with backend() as back, serving(renewals.text(route={"backend": back.url})) as served:
        client = await tls_client(served, context)
        line = await served.records.wait("certificate.reload_failed")
        assert line["detail"] == f"{line['file']}: can't start new thread"
        renewed = renewals.in_place()
        with trio.fail_after(10):
            await again.wait()
        assert len(served.records.of("certificate.reload_failed")) == 1
        lacking.clear()
        await until_served(served, context, renewed)
        await client.echoed()
        await client.close()


@pytest.mark.usefixtures("often")
async def test_one_file_that_makes_a_bug_show_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """Whatever goes wrong with it, what is made of other files is replaced."""
    (tmp_path / "a").write_text("good")
    (tmp_path / "b").write_text("old")

    def load() -> int:
        return 1 // ((tmp_path / "a").read_text() == "good")

    watcher = file_watcher.FileWatcher()
    watcher.watch("a", [tmp_path / "a"], load)
    second = watcher.watch("b", [tmp_path / "b"], (tmp_path / "b").read_text)
    with recording() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            (tmp_path / "a").write_text("bad")
            (tmp_path / "b").write_text("new")
            with trio.fail_after(9):
                while second.current != "new":
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert len(records.of("internal_error", component="file watcher")) == 1


@pytest.mark.parametrize(("days", "warned"), [(13, True), (15, False), (-1, True)])
async def test_the_end_of_a_certificate_is_warned_of_each_day(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch, days: float, warned: bool
) -> None:
    """From 14 days before, once a day; the day after a start or reload, which warned of it by W008."""
    monkeypatch.setattr(file_watcher, "WATCH_INTERVAL", 0.01)
    cert, key = renewals.issue(NOW + days * DAY)
    renewals.cert.write_bytes(cert)
    renewals.key.write_bytes(key)
    start = time.time()
    now = [start]
    watcher = FileWatcher(lambda: now[0])
    watcher.watch("pair", (renewals.cert, renewals.key), lambda: None, renewals.cert)
    with recording() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            await trio.sleep(0.2)
            assert not records.of("certificate.expiring")
            if warned:
                for day in (1, 2, 3):
                    now[0] = start + day * 86400 + 60
                    line = await records.wait("certificate.expiring", day)
                    assert line["level"] == "warning"
                    assert line["file"] == str(renewals.cert)
                    assert f"{NOW + days * DAY:%Y-%m-%d}" in line["detail"]
                    assert line["expires"].startswith(f"{NOW + days * DAY:%Y-%m-%dT}")
                await trio.sleep(0.1)
                assert len(records.of("certificate.expiring")) == 3
                renewals.in_place()
                await records.wait("certificate.reloaded")
                now[0] += 86400
                await trio.sleep(0.1)
                assert len(records.of("certificate.expiring")) == 3
            else:
                now[0] = (NOW + 2 * DAY).timestamp()
                await records.wait("certificate.expiring")
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def memory_of_python() -> Iterator[Callable[[], int]]:
    """Count resident bytes of this process."""
    page = os.sysconf("SC_PAGESIZE")
    yield lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page


async def test_two_hundred_renewals_leave_nothing_behind(renewals: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither descriptors nor memory grow; a connection from before the first one still relays."""
    monkeypatch.setattr(file_watcher, "WATCH_INTERVAL", 0.005)
    context = renewals.client_context()
    pairs = [renewals.issue() for _ in range(10)]
    async with backend() as back, serving(renewals.text(route={"backend": back.url})) as served:
        client = await tls_client(served, context)

        async def renew(count: int) -> None:
            for _ in range(count):
                cert, key = pairs[renewals.number % len(pairs)]
                renewals.number += 1
                renewals.key.write_bytes(key)
                renewals.cert.write_bytes(cert)
                await served.records.wait("certificate.reloaded", renewals.number)

        with memory_of_python() as memory:
            await renew(50)
            files, before = open_files(), memory()
            await renew(200)
            assert open_files() == files
            assert memory() - before < 4 << 20
        await client.echoed()
        await client.close()
