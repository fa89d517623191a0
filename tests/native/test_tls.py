"""TLS of listeners and dials by rustls, held against OpenSSL: what it accepts, rejects, and says of it."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.net.tls_ends import connected, no_second_try
from tests.serving import recording
from tests.tls_contexts import server_context
from tests.tls_providers import providers
from wsbridge import file_watcher
from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.address import Peer
from wsbridge.net.tls import ClientTlsOptions, ServerTlsOptions, client_context, tls_error_text
from wsbridge.net.tls_roles import ClientTls, ListenerTls, OpenSsl
from wsbridge.net.tls_transport import EncryptedTransport

if len(providers()) == 1:
    pytest.skip("the extension is not installed", allow_module_level=True)

from wsbridge.native.tls import Rustls
from wsbridge.native.tls_judge import read_certificate
from wsbridge.native.tls_transport import NativeTlsTransport

PEER = Peer("203.0.113.7", 5, socket.AF_INET)
BOTH = [OpenSsl(), Rustls()]
Pair = tuple[Path, Path]


def listener(provider: Any, *pairs: Pair, **options: Any) -> ListenerTls:
    """Make TLS of a listener with these certificates."""
    certificates = [TlsCertificateConfig(cert=cert, key=key) for cert, key in pairs]
    made: ListenerTls = provider.for_listener(FileWatcher(), certificates, ServerTlsOptions(**options))
    return made


class Peers:
    """What came of one handshake.

    Attributes:
        ours: Our transport; or the sentence of the failure.
        theirs: The socket of the peer; or its error.
    """

    ours: EncryptedTransport | str
    theirs: ssl.SSLSocket | OSError

    @property
    def transport(self) -> EncryptedTransport:
        """Our transport, after a handshake that succeeded."""
        assert isinstance(self.ours, EncryptedTransport), self.ours
        return self.ours

    @property
    def peer(self) -> ssl.SSLSocket:
        """The peer's socket, likewise."""
        assert isinstance(self.theirs, ssl.SSLSocket), self.theirs
        return self.theirs


async def shake(
    start: Callable[[socket.socket], Awaitable[EncryptedTransport]],
    context: ssl.SSLContext,
    *,
    peer_serves: bool = False,
    name: str | None = None,
    session: ssl.SSLSession | None = None,
    is_client: bool | None = None,
) -> Peers:
    """Have a handshake with a peer of OpenSSL."""
    ours, theirs = connected()
    theirs.settimeout(10)
    peers = Peers()

    def peer() -> None:
        try:
            tls = context.wrap_socket(
                theirs, server_side=peer_serves, server_hostname=name, session=session, suppress_ragged_eofs=False
            )
        except OSError as error:
            peers.theirs = error
            theirs.close()
            return
        peers.theirs = tls

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, peer)
        with trio.fail_after(10):
            try:
                peers.ours = await start(ours)
            except OSError as error:
                peers.ours = tls_error_text(error, peer_is_client=not peer_serves)
    return peers


def hang_up(peers: Peers) -> None:
    """Close both ends."""
    for end in (peers.ours, peers.theirs):
        if isinstance(end, (EncryptedTransport, ssl.SSLSocket)):
            end.close()


async def texts(
    make: Callable[[Any], Callable[[socket.socket], Awaitable[EncryptedTransport]]],
    context: ssl.SSLContext,
    **how: Any,
) -> tuple[str, str]:
    """Return how both implementations describe a handshake that has to fail."""
    found = []
    for provider in BOTH:
        peers = await shake(make(provider), context, **how)
        assert isinstance(peers.ours, str)
        hang_up(peers)
        found.append(peers.ours)
    return found[0], found[1]


def lenient(ca: Path, **changes: Any) -> ssl.SSLContext:
    """Make the context of a client that accepts any name."""
    context = client_context(ca)
    context.check_hostname = False
    for key, value in changes.items():
        setattr(context, key, value)
    return context


def dns_names(tls: ssl.SSLSocket) -> set[Any]:
    """Return the names in the certificate of the peer."""
    certificate = tls.getpeercert()
    assert certificate
    return {value for _, value in certificate["subjectAltName"]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("a.example.org", "a.example.org"),
        ("B.EXAMPLE.org", "b.example.org"),
        ("x.wild.example.org", "*.wild.example.org"),
        ("other.example.org", "a.example.org"),
        ("deep.x.wild.example.org", "a.example.org"),
        (None, "a.example.org"),
    ],
)
async def test_certificates_are_chosen_by_name(issue: Any, ca_file: Path, asked: str | None, given: str) -> None:
    """As OpenSSL does: exact names, wildcards, and the first for all others; the name is reported."""
    tls = listener(Rustls(), issue("a.example.org"), issue("b.example.org"), issue("*.wild.example.org"))
    peers = await shake(tls.accept, lenient(ca_file), name=asked)
    assert dns_names(peers.peer) == {given}
    assert isinstance(peers.ours, NativeTlsTransport)
    assert peers.transport.with_tls_details(PEER).sni == (asked or "").lower()
    hang_up(peers)


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["mqtt"], None), ([], None)])
async def test_application_protocols(issue: Any, ca_file: Path, offered: list[str], chosen: str | None) -> None:
    """A client that offers only others is served without one, as OpenSSL does."""
    context = client_context(ca_file, alpn=offered)
    peers = await shake(listener(Rustls(), issue("localhost")).accept, context, name="localhost")
    assert peers.peer.selected_alpn_protocol() == chosen
    hang_up(peers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("key", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
async def test_versions_suites_and_keys_are_described_alike(
    tmp_path: Path, version: ssl.TLSVersion, key: trustme.KeyType
) -> None:
    """The log shows the same for both implementations, in both roles."""
    authority = trustme.CA(key_type=key)
    leaf = authority.issue_cert("localhost", key_type=key)
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(pair[0])
    leaf.private_key_pem.write_to_path(pair[1])
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for peer_serves in (False, True):
        described = set()
        for provider in BOTH:
            if peer_serves:
                client = provider.for_client(FileWatcher(), ClientTlsOptions(tmp_path / "ca.pem"))
                context = server_context([pair])
                start = dial(client, "localhost")
            else:
                start = listener(provider, pair).accept
                context = lenient(tmp_path / "ca.pem")
            context.maximum_version = version
            peers = await shake(start, context, peer_serves=peer_serves, name=None if peer_serves else "localhost")
            described.add(peers.transport.describe())
            assert type(peers.ours).__name__ == ("NativeTlsTransport" if provider is BOTH[1] else "TlsTransport")
            hang_up(peers)
        assert len(described) == 1, described


def dial(client: ClientTls, name: str) -> Callable[[socket.socket], Awaitable[EncryptedTransport]]:
    """Have a client do its handshake, and never a second one."""
    return lambda sock: client.start(sock, name, no_second_try)


async def test_min_version_and_weak_suites(issue: Any, ca_file: Path) -> None:
    """What OpenSSL rejects, rustls does as well."""
    pair = issue("localhost")
    old = lenient(ca_file, maximum_version=ssl.TLSVersion.TLSv1_2)
    await texts(lambda it: listener(it, pair, min_version="1.3").accept, old, name="localhost")
    peers = await shake(listener(Rustls(), pair).accept, old, name="localhost")
    assert peers.peer.version() == "TLSv1.2"
    hang_up(peers)
    for suite in ("ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256"):
        weak = lenient(ca_file, maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers(f"{suite}:@SECLEVEL=0")
        openssl, rustls = await texts(lambda it: listener(it, pair).accept, weak, name="localhost")
        assert openssl == rustls


@pytest.mark.parametrize("name", ["foo_bar.localhost", "-x.localhost", "x-", "foo bar", "x:y", "*.localhost"])
async def test_server_names_that_are_no_dns_names_are_served(issue: Any, ca_file: Path, name: str) -> None:
    """Where rustls would reject the name, OpenSSL goes on with what the client has sent."""
    context = lenient(ca_file)
    context.check_hostname = False
    for provider in (OpenSsl(), Rustls()):
        peers = await shake(listener(provider, issue("localhost")).accept, context, name=name)
        assert isinstance(peers.ours, EncryptedTransport)
        peers.peer.sendall(b"hello")
        assert await peers.ours.read_some() == b"hello"
        await peers.ours.write_all(b"hi")
        assert peers.peer.recv(10) == b"hi"
        hang_up(peers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificates(issue: Any, ca_file: Path, version: ssl.TLSVersion) -> None:
    """One that is missing or a stranger's is rejected in the same words; one that is verified is reported whole."""
    pair = issue("localhost")

    def asks(provider: Any) -> Callable[[socket.socket], Awaitable[EncryptedTransport]]:
        return listener(provider, pair, client_ca=ca_file).accept

    context = lenient(ca_file, maximum_version=version)
    openssl, rustls = await texts(asks, context, name="localhost")
    assert openssl == rustls == "the client showed no certificate, and client_certificate is required"

    stranger = lenient(ca_file, maximum_version=version)
    trustme.CA().issue_cert("alice.example.org").configure_cert(stranger)
    openssl, rustls = await texts(asks, stranger, name="localhost")
    assert openssl == rustls
    assert rustls.startswith("the client's certificate is not accepted by client_ca: ")

    context.load_cert_chain(*issue("alice.example.org"))
    found = []
    for provider in BOTH:
        peers = await shake(asks(provider), context, name="localhost")
        found.append(peers.transport.with_tls_details(PEER).certificate)
        hang_up(peers)
    assert found[0] == found[1]
    assert found[0] is not None


async def test_client_certificates_that_are_optional(issue: Any, ca_file: Path) -> None:
    """None is accepted, and one of a stranger is not."""
    tls = listener(Rustls(), issue("localhost"), client_ca=ca_file, client_certificate_required=False)
    context = lenient(ca_file)
    peers = await shake(tls.accept, context, name="localhost")
    assert peers.transport.with_tls_details(PEER).certificate is None
    hang_up(peers)
    trustme.CA().issue_cert("alice.example.org").configure_cert(context)
    peers = await shake(tls.accept, context, name="localhost")
    assert "not accepted by client_ca" in str(peers.ours)
    hang_up(peers)


async def test_client_certificates_under_tls_1_3_alone(issue: Any, ca_file: Path) -> None:
    """Certificates are judged in the form of TLS 1.2, which such a listener does not allow its clients."""
    tls = listener(Rustls(), issue("localhost"), client_ca=ca_file, min_version="1.3")
    context = lenient(ca_file)
    context.load_cert_chain(*issue("alice.example.org"))
    peers = await shake(tls.accept, context, name="localhost")
    assert "alice" in peers.transport.peer_subject() or peers.transport.verified_certificate()
    hang_up(peers)


@pytest.mark.parametrize(
    "key",
    [("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"), ("-newkey", "ed25519"), ("-newkey", "rsa:2048")],
    ids=["p384", "ed25519", "rsa"],
)
async def test_client_certificates_at_listeners_with_any_key(
    issue: Any, ca_file: Path, tmp_path: Path, key: tuple[str, ...]
) -> None:
    """The listener's own certificate takes part where clients' are judged; and keys of clients are of any kind."""
    pair = made_key(tmp_path, *key)
    both = tmp_path / "both.pem"
    both.write_bytes(ca_file.read_bytes() + pair[0].read_bytes())
    tls = listener(Rustls(), pair, client_ca=both)
    for own in (issue("alice.example.org"), pair):
        context = lenient(pair[0])
        context.load_cert_chain(*own)
        peers = await shake(tls.accept, context, name="localhost")
        assert isinstance(peers.ours, NativeTlsTransport), peers.ours
        assert peers.ours.verified_certificate()
        hang_up(peers)


def old_certificate(folder: Path, ca: trustme.CA) -> Pair:
    """Make a certificate of version 1, without any extension, as `openssl x509 -req` does by default."""
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.private_key_pem.write_to_path(folder / "ca.key")
    made = folder / "v1.pem", folder / "v1.key"
    request = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-subj", "/CN=old", "-keyout", str(made[1]), "-out", str(folder / "v1.csr")]
    sign = ["openssl", "x509", "-req", "-in", str(folder / "v1.csr"), "-CA", str(folder / "ca.pem")]
    more = ["-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-out", str(made[0])]
    for command in ([*request, *subject], [*sign, *more]):
        subprocess.run(command, check=True, capture_output=True)
    return made


async def test_certificates_of_version_1_are_accepted(issue: Any, tmp_path: Path, ca_file: Path) -> None:
    """OpenSSL judges, which accepts more than rustls would: of clients, and of servers by their common name."""
    authority = trustme.CA()
    old = old_certificate(tmp_path, authority)
    context = lenient(ca_file)
    context.load_cert_chain(*old)
    tls = listener(Rustls(), issue("localhost"), client_ca=tmp_path / "ca.pem")
    peers = await shake(tls.accept, context, name="localhost")
    assert "commonName=old" in peers.transport.peer_subject()
    hang_up(peers)
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(tmp_path / "ca.pem"))
    peers = await shake(dial(client, "old"), server_context([old]), peer_serves=True)
    assert "commonName=old" in peers.transport.peer_subject()
    hang_up(peers)


@pytest.mark.parametrize("fault", ["stranger", "name", "expired", "early", "no authority"])
async def test_servers_that_do_not_verify(issue: Any, ca_file: Path, tmp_path: Path, fault: str) -> None:
    """The same words, with the same remedy, and the same alert to the server."""
    begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days={"expired": -9, "early": 3}.get(fault, -1))
    pair = issue("localhost", not_before=begin, not_after=begin + datetime.timedelta(days=5))
    ca: Path | None = ca_file
    if fault == "stranger":
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        ca = tmp_path / "ca.pem"
    elif fault == "no authority":
        ca = None
    name = "elsewhere" if fault == "name" else "localhost"
    found, alerts = [], []
    for provider in BOTH:
        peers = await shake(
            dial(provider.for_client(FileWatcher(), ClientTlsOptions(ca)), name),
            server_context([pair]),
            peer_serves=True,
        )
        found.append(peers.ours)
        error = peers.theirs
        if isinstance(error, ssl.SSLSocket):  # TLS 1.3 lets the server read the alert only now
            try:
                error.recv(1)
            except OSError as read_error:
                error.close()
                error = read_error
        alerts.append(getattr(error, "reason", None))
        hang_up(peers)
    assert found[0] == found[1]
    assert str(found[0]).startswith("certificate verify failed: ")
    assert alerts[0] == alerts[1]


async def test_a_certificate_is_authority_enough(issue: Any) -> None:
    """`ca` may hold the certificate of the server itself."""
    pair = issue("localhost")
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(pair[0]))
    peers = await shake(dial(client, "localhost"), server_context([pair]), peer_serves=True)
    assert peers.transport.verified_certificate()
    hang_up(peers)


async def test_insecure_accepts_anything_and_verifies_nothing(issue: Any) -> None:
    """The certificate can still be pinned."""
    pair = issue("localhost")
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(insecure=True))
    peers = await shake(dial(client, "elsewhere"), server_context([pair]), peer_serves=True)
    assert peers.transport.verified_certificate() is None
    assert peers.transport.peer_certificate() == ssl.PEM_cert_to_DER_cert(pair[0].read_text())
    hang_up(peers)


async def test_a_dial_shows_its_certificate(issue: Any, ca_file: Path) -> None:
    """To servers that ask for one."""
    cert, key = issue("client.example.org")
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(ca_file, TlsCertificateConfig(cert=cert, key=key)))
    peers = await shake(dial(client, "localhost"), server_context([issue("localhost")], ca_file), peer_serves=True)
    assert dns_names(peers.peer) == {"client.example.org"}
    hang_up(peers)


async def test_a_renewed_client_certificate_is_shown(
    issue: Any, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as that is logged; until then the old one is, also while one file is written, or the other is not yet."""
    monkeypatch.setattr(file_watcher, "WATCH_INTERVAL", 0.05)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first, second = issue("first.example.org"), issue("second.example.org")
    for file, data in zip((cert, key), first, strict=True):
        file.write_bytes(data.read_bytes())
    watcher = FileWatcher()
    client = Rustls().for_client(watcher, ClientTlsOptions(ca_file, TlsCertificateConfig(cert=cert, key=key)))
    server = server_context([issue("localhost")], ca_file)

    async def shown() -> set[str]:
        peers = await shake(dial(client, "localhost"), server, peer_serves=True)
        assert isinstance(peers.transport, NativeTlsTransport)
        found = dns_names(peers.peer)
        hang_up(peers)
        return found

    with trio.fail_after(30), recording() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            for failures, data in enumerate((b"", second[0].read_bytes()), 1):
                cert.write_bytes(data)
                await records.wait("certificate.reload_failed", failures)
                assert await shown() == {"first.example.org"}
            key.write_bytes(second[1].read_bytes())
            await records.wait("certificate.reloaded")
            assert await shown() == {"second.example.org"}
            nursery.cancel_scope.cancel()


async def test_addresses_are_names_too(issue: Any, ca_file: Path) -> None:
    """They are verified, and not asked for by SNI."""
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(ca_file))
    for name in ("127.0.0.1", "::1"):
        peers = await shake(dial(client, name), server_context([issue(name)]), peer_serves=True)
        assert isinstance(peers.ours, NativeTlsTransport)
        hang_up(peers)
    peers = await shake(dial(client, "127.0.0.2"), server_context([issue("127.0.0.1")]), peer_serves=True)
    assert "IP address mismatch" in str(peers.ours)
    hang_up(peers)


def made_key(folder: Path, *arguments: str) -> Pair:
    """Make a self-signed certificate for localhost with a key of that kind."""
    made = folder / "made.pem", folder / "made.key"
    command = ["openssl", "req", "-x509", *arguments, "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    extension = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(made[1]), "-out", str(made[0])]
    subprocess.run([*command, *extension], check=True, capture_output=True)
    return made


P_521 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521")


async def test_a_key_that_rustls_does_not_have_is_served_by_openssl(tmp_path: Path) -> None:
    """As are ciphers in the form of OpenSSL; the log says so once."""
    pair = made_key(tmp_path, *P_521)
    for options in ({}, {"ciphers": "ECDHE+AESGCM"}):
        with recording() as records:
            tls = listener(Rustls(), pair, **options)
            for _ in range(2):
                peers = await shake(tls.accept, lenient(pair[0]), name="localhost")
                assert not isinstance(peers.transport, NativeTlsTransport)
                hang_up(peers)
        assert len(records.of("tls.openssl")) == 1


async def test_a_server_that_rustls_cannot_talk_to_is_left_to_openssl(tmp_path: Path) -> None:
    """The dial is made once more, and later ones begin with OpenSSL; the log says so once."""
    pair = made_key(tmp_path, *P_521)
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(pair[0]))
    context = server_context([pair])
    second: list[Peers] = []

    async def reopen() -> socket.socket:
        ours, theirs = connected()
        nursery.start_soon(trio.to_thread.run_sync, serve, theirs)
        return ours

    def serve(sock: socket.socket) -> None:
        sock.settimeout(10)
        peers = Peers()
        peers.theirs = context.wrap_socket(sock, server_side=True)
        second.append(peers)

    with recording() as records:
        async with trio.open_nursery() as nursery:
            first = await shake(lambda sock: client.start(sock, "localhost", reopen), context, peer_serves=True)
        assert not isinstance(first.transport, NativeTlsTransport)
        assert isinstance(first.theirs, ssl.SSLError)
        later = await shake(dial(client, "localhost"), context, peer_serves=True)
        assert not isinstance(later.transport, NativeTlsTransport)
    assert [line["server_name"] for line in records.of("tls.openssl")] == ["localhost"]
    for peers in (first, later, *second):
        peers.ours = getattr(peers, "ours", "")
        hang_up(peers)


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"\x16\x03\x01\x00\x05rubbish", b""],
    ids=["http", "ssh", "rubbish", "end"],
)
async def test_clients_that_speak_something_else(issue: Any, sent: bytes) -> None:
    """The sentences are those of OpenSSL, as far as they say what to do."""
    found = []
    for provider in BOTH:
        ours, theirs = connected()
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError) as caught, trio.fail_after(9):
            await listener(provider, issue("localhost")).accept(ours)
        theirs.close()
        assert ours.fileno() == -1
        found.append(tls_error_text(caught.value, peer_is_client=True))
    assert found[0].partition(" (")[0] == found[1].partition(" (")[0] or sent.endswith(b"rubbish")


async def test_a_client_that_does_not_trust_us_is_named(issue: Any, tmp_path: Path) -> None:
    """Its alert is all that the listener sees, in the handshake of TLS 1.2."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    distrusts = lenient(tmp_path / "ca.pem", maximum_version=ssl.TLSVersion.TLSv1_2)
    pair = issue("localhost")
    openssl, rustls = await texts(lambda it: listener(it, pair).accept, distrusts, name="localhost")
    assert openssl == rustls
    assert "does not trust the certificate of the listener" in rustls


async def test_a_name_that_is_not_ascii(issue: Any, ca_file: Path) -> None:
    """The sentence names it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = lenient(ca_file).wrap_bio(incoming, outgoing, server_hostname="aaaaaaaa.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    ours, theirs = connected()
    theirs.sendall(outgoing.read().replace(b"aaaaaaaa", b"\xff" * 8))
    with pytest.raises(OSError) as caught:
        await listener(Rustls(), issue("localhost")).accept(ours)
    assert tls_error_text(caught.value, peer_is_client=True) == "the name that the client asks for (SNI) is not ASCII"
    theirs.close()


async def test_a_renewed_certificate_serves_new_connections(issue: Any, ca_file: Path, tmp_path: Path) -> None:
    """It is swapped as a whole when its files change, and a pair that does not fit leaves the old one."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(pair: Pair) -> None:
        cert.write_bytes(pair[0].read_bytes())
        key.write_bytes(pair[1].read_bytes())

    put(issue("a.example.org"))
    watcher = FileWatcher()
    tls = Rustls().for_listener(watcher, [TlsCertificateConfig(cert=cert, key=key)], ServerTlsOptions())
    for name in ("a.example.org", "b.example.org"):
        put(issue(name))
        for watched in watcher._watched.values():
            loaded = watched.read_if_changed()
            if loaded is not None:
                watched.replace(loaded)
        peers = await shake(tls.accept, lenient(ca_file), name=name)
        assert dns_names(peers.peer) == {name}
        assert isinstance(peers.ours, NativeTlsTransport)
        hang_up(peers)


async def test_keys_with_a_passphrase(issue: Any, ca_file: Path, tmp_path: Path) -> None:
    """They are decrypted as they are for OpenSSL."""
    cert, key = issue("localhost")
    locked, secret = tmp_path / "locked.pem", tmp_path / "secret"
    subprocess.run(["openssl", "pkey", "-aes128", "-passout", "pass:geheim", "-in", key, "-out", locked], check=True)
    secret.write_text("geheim")
    secret.chmod(0o600)
    section = TlsCertificateConfig.model_validate({"cert": cert, "key": locked, "key_password": {"file": str(secret)}})
    tls = Rustls().for_listener(FileWatcher(), [section], ServerTlsOptions())
    peers = await shake(tls.accept, lenient(ca_file), name="localhost")
    assert isinstance(peers.ours, NativeTlsTransport)
    hang_up(peers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed_by_tickets(issue: Any, ca_file: Path, version: ssl.TLSVersion) -> None:
    """A client that comes again has a shorter handshake; a listener made anew does not know its ticket."""
    pair = issue("localhost")
    tls = listener(Rustls(), pair)
    context = lenient(ca_file, maximum_version=version)
    first = await shake(tls.accept, context, name="localhost")
    first.transport.write([b"x"])
    await trio.to_thread.run_sync(first.peer.recv, 1)
    session = first.peer.session
    hang_up(first)
    for server, reused in ((tls, True), (listener(Rustls(), pair), False)):
        peers = await shake(server.accept, context, name="localhost", session=session)
        assert peers.peer.session_reused is reused
        hang_up(peers)


async def test_one_ticket_is_sent(issue: Any, ca_file: Path) -> None:
    """By both implementations: a client comes back over one connection."""
    pair = issue("localhost")
    for provider in BOTH:
        messages: list[str] = []
        context = lenient(ca_file, minimum_version=ssl.TLSVersion.TLSv1_3)
        context._msg_callback = lambda *it, to=messages: to.append(getattr(it[4], "name", ""))
        peers = await shake(listener(provider, pair).accept, context, name="localhost")
        peers.transport.write([b"x"])
        await trio.to_thread.run_sync(peers.peer.recv, 1)
        hang_up(peers)
        assert messages.count("NEWSESSION_TICKET") == 1


@pytest.mark.parametrize("stop", range(0, 1500, 97))
async def test_a_peer_that_goes_at_any_byte_of_the_handshake(issue: Any, ca_file: Path, stop: int) -> None:
    """Ends as an `OSError` with the descriptor closed, by FIN and by reset, in both roles."""
    pair = issue("localhost")
    for peer_serves in (False, True):
        for reset in (False, True):
            ours, theirs = connected()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = server_context([pair]) if peer_serves else lenient(ca_file)
            peer = context.wrap_bio(incoming, outgoing, server_side=peer_serves)

            def talk(
                theirs: socket.socket = theirs,
                peer: ssl.SSLObject = peer,
                bios: tuple[ssl.MemoryBIO, ssl.MemoryBIO] = (incoming, outgoing),
                reset: bool = reset,
            ) -> None:
                left = stop
                theirs.settimeout(5)
                with contextlib.suppress(OSError):
                    while left > 0:
                        with contextlib.suppress(ssl.SSLWantReadError):
                            peer.do_handshake()
                        data = bios[1].read()[:left]
                        theirs.sendall(data)
                        left -= len(data)
                        received = theirs.recv(65536) if left > 0 else b""
                        if not received:
                            break
                        bios[0].write(received)
                if reset:
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                theirs.close()

            start = (
                dial(Rustls().for_client(FileWatcher(), ClientTlsOptions(ca_file)), "localhost")
                if peer_serves
                else None
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, talk)
                with trio.fail_after(10):
                    try:
                        transport = await (start or listener(Rustls(), pair).accept)(ours)
                    except OSError:
                        assert ours.fileno() == -1
                    else:
                        transport.abort()


async def test_dials_without_suites_of_tls_1_2_are_left_to_openssl(issue: Any, ca_file: Path) -> None:
    """Certificates could not be judged; an administrator of the host can restrict OpenSSL in such a way."""
    client = Rustls().for_client(FileWatcher(), ClientTlsOptions(ca_file))
    client.context.set_ciphers("DHE-RSA-AES128-GCM-SHA256")
    peers = await shake(dial(client, "localhost"), server_context([issue("localhost")]), peer_serves=True)
    assert not isinstance(peers.transport, NativeTlsTransport)
    hang_up(peers)


def test_certificates_are_read_as_getpeercert_does(issue: Any, tmp_path: Path) -> None:
    """All fields, for keys of several kinds; what is no certificate is an error."""
    for pair in (
        issue("localhost", "127.0.0.1"),
        made_key(tmp_path, *P_521),
        made_key(tmp_path, "-newkey", "rsa:2048"),
    ):
        der = ssl.PEM_cert_to_DER_cert(pair[0].read_text())
        found = read_certificate(der)
        assert found == ssl._ssl._test_decode_cert(str(pair[0]))
    with pytest.raises(ValueError, match="not a certificate"):
        read_certificate(b"rubbish")
