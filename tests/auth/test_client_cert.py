"""Authentication by the certificate of a TLS client."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import authority
from tests.auth.methods import auth_services, caller
from tests.client import BINARY, frame
from tests.client import request as upgrade_request
from tests.client_authority import ClientAuthority
from tests.config.loading import summaries
from tests.rejections import async_outcome, rejection_body, without_id
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.auth.client_cert import CertificateAuth, CertificateConfig
from wsbridge.auth.identity import ANONYMOUS, Identity, unauthenticated
from wsbridge.config.errors import ConfigError
from wsbridge.net.address import Peer
from wsbridge.reasons import Rejected

UNTIL = 1798761600.0
ALICE = {
    "subject": ((("organizationName", "Example"),), (("commonName", "alice"),)),
    "subjectAltName": (("DNS", "alice.example.org"), ("URI", "spiffe://example.org/alice")),
    "notAfter": "Jan  1 00:00:00 2027 GMT",
}
CLAIMS = {"O": "Example", "CN": "alice", "DNS": "alice.example.org", "URI": "spiffe://example.org/alice"}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    """Give an authority for clients."""
    return ClientAuthority(tmp_path_factory.mktemp("clients"))


async def identify(certificate: object, allow: object = "any", *, now: float = UNTIL - 1, **keys: str) -> object:
    """Ask a way by certificate who shows this."""
    config = CertificateConfig.model_validate({"kind": "certificate", "allow": allow, **keys})
    services, _ = auth_services(ANONYMOUS)
    way = CertificateAuth(config, type(services)(services.build, wall_clock=lambda: now))
    peer = Peer("203.0.113.7", 5, socket.AF_INET, certificate=certificate)
    return await async_outcome(way.identify(caller(request=None, peer=peer)))


@pytest.mark.parametrize(
    ("allow", "keys", "name"),
    [
        ("any", {}, "alice"),
        (["CN=alice,O=Example"], {}, "alice"),
        (["O=Example"], {}, "alice"),
        (["CN=bob", "DNS:alice.example.org"], {}, "alice.example.org"),
        (["URI:spiffe://example.org/alice"], {}, "spiffe://example.org/alice"),
        (["URI:spiffe://example.org/alice"], {"name": "CN"}, "alice"),
        ("any", {"name": "organizationName"}, "Example"),
        ("any", {"name": "URI"}, "spiffe://example.org/alice"),
    ],
)
async def test_allowed_clients_and_their_names(allow: object, keys: dict[str, str], name: str) -> None:
    """By default the other name that the rule fits, else the CN; what it says is claims; it ends when it ends."""
    assert await identify(ALICE, allow, **keys) == Identity(name, "certificate", CLAIMS, UNTIL)


@pytest.mark.parametrize(
    ("certificate", "allow", "keys", "detail", "genuine"),
    [
        (None, "any", {}, "no client certificate", False),
        ({}, "any", {}, "a client certificate that cannot be read", True),
        (ALICE, ["CN=bob", "O=Example,CN=bob"], {}, "no rule of allow matches the certificate of O='Example'", True),
        (ALICE, "any", {"name": "email"}, "has not exactly one email to name the client by", True),
        ({"notAfter": ALICE["notAfter"]}, "any", {}, "has not exactly one CN or URI or email or DNS", True),
        ({"subject": ALICE["subject"]}, "any", {}, "has expired", True),
    ],
)
async def test_who_is_not(certificate: object, allow: object, keys: dict[str, str], detail: str, genuine: bool) -> None:
    """A certificate that no rule matches is denied, but it is no guess: a CA has signed it."""
    denied = await identify(certificate, allow, **keys)
    assert isinstance(denied, Rejected)
    assert detail in denied.detail
    assert denied.args == unauthenticated(denied.detail, genuine=genuine).args


async def test_one_that_is_over_is_denied() -> None:
    """A resumed TLS session may show one that has expired since."""
    denied = await identify(ALICE, now=UNTIL)
    assert isinstance(denied, Rejected)
    assert "has expired" in denied.detail


async def test_what_a_certificate_says_is_shown_escaped() -> None:
    """Nothing in it breaks a line of the log, and it is cut."""
    subject = ((("commonName", "a\nb\x1b[2J" + "c" * 500),),)
    denied = await identify({**ALICE, "subject": subject}, ["CN=bob"])
    assert isinstance(denied, Rejected)
    assert r"CN='a\nb\x1b[2Jccc" in denied.detail
    assert denied.detail.isprintable()
    assert len(denied.detail) < 260


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({}, "routes.app.auth.allow", "is missing"),
        ({"allow": []}, "routes.app.auth.allow", "needs at least one entry"),
        ({"allow": "CN=alice"}, "routes.app.auth.allow", '"CN=alice" is neither any nor a list of rules'),
        ({"allow": ["CN=alice", "alice"]}, "routes.app.auth.allow[1]", '"alice" is no rule: write attributes'),
        ({"allow": ["XX=alice"]}, "routes.app.auth.allow[0]", '"XX" is no attribute of a subject'),
        ({"allow": "any", "name": "who"}, "routes.app.auth.name", '"who" is no attribute of a subject'),
    ],
)
def test_mistakes_in_the_file(clients: ClientAuthority, keys: dict[str, Any], path: str, message: str) -> None:
    """Each is reported at its place."""
    listeners = {"web": {"bind": "127.0.0.1:0", "tls": clients.listener_tls()}}
    route = {"match": "any", "backend": "tcp://127.0.0.1:9", "auth": {"kind": "certificate", **keys}}
    with pytest.raises(ConfigError) as caught:
        config_of(written(listeners=listeners, routes={"app": route}))
    (problem,) = caught.value.problems
    assert problem.setting == path
    assert problem.message.startswith(message)


CERT = {"kind": "certificate", "allow": "any"}
HERE = {"kind": "network", "allow": ["127.0.0.1"]}


@pytest.mark.parametrize(
    ("auth", "asking", "path"),
    [
        (CERT, ("asks",), None),
        (CERT, ("asks", "silent"), "routes.app.auth"),
        (CERT, ("asks", "plain"), "routes.app.auth"),
        ({"all_of": [HERE, CERT]}, ("asks", "silent"), "routes.app.auth"),
        ({"any_of": [HERE, CERT]}, ("asks", "silent"), None),
        ({"any_of": [HERE, CERT]}, ("silent", "plain"), "routes.app.auth.any_of[1]"),
        ({"any_of": [HERE, {"all_of": [HERE, CERT]}]}, ("silent",), "routes.app.auth.any_of[1]"),
    ],
)
def test_each_listener_must_ask_for_it(
    clients: ClientAuthority, auth: dict[str, Any], asking: tuple[str, ...], path: str | None
) -> None:
    """Where it is needed, every listener that leads here must have client_ca; where it is one of several, one must."""
    every = {
        "asks": {"bind": "127.0.0.1:0", "tls": clients.listener_tls()},
        "silent": {"bind": "127.0.0.1:0", "tls": authority.listener_tls()},
        "plain": {"bind": "127.0.0.1:0"},
    }
    route = {"match": "any", "backend": "tcp://127.0.0.1:9", "auth": auth}
    text = written(listeners={name: every[name] for name in asking}, routes={"app": route})
    if path is None:
        config_of(text)
    else:
        with pytest.raises(ConfigError) as caught:
            config_of(text)
        assert summaries(caught.value.problems) == [f"E028 {path}"]
        assert f'the listener "{next(n for n in asking if n != "asks")}" has no tls: {{client_ca' in str(caught.value)


async def connected(served: Served, context: ssl.SSLContext, **options: Any) -> trio.SSLStream[trio.SocketStream]:
    """Connect by TLS, as a client with this context."""
    plain = await trio.open_tcp_stream("127.0.0.1", served.port())
    return trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True, **options)


async def answered(served: Served, context: ssl.SSLContext) -> str:
    """Ask for an upgrade; give the first of the answer."""
    stream = await connected(served, context)
    try:
        await stream.send_all(upgrade_request())
        return bytes(await stream.receive_some(65536)).decode()
    finally:
        stream.transport_stream.socket.close()


def route_by(url: str, clients: ClientAuthority, asked: str, auth: object, speaks: str = "websocket") -> str:
    """Write a configuration whose one listener asks for certificates."""
    web: dict[str, Any] = {"bind": "127.0.0.1:0", "tls": clients.listener_tls(asked), "protocol": speaks}
    route: dict[str, Any] = {"backend": url, "auth": auth}
    if speaks == "tcp":
        web["route"] = "app"
    else:
        route["match"] = "any"
    return written(listeners={"web": web}, routes={"app": route})


ALLOW = {"kind": "certificate", "allow": ["CN=alice,O=Example", "URI:spiffe://example.org/db"]}


async def test_who_shows_a_right_one_reaches_the_backend(clients: ClientAuthority) -> None:
    """A certificate is accepted by subject or alternative name, and logged; with any other nothing is dialled."""
    async with backend() as back, serving(route_by(back.url, clients, "optional", ALLOW)) as served:
        for context in (
            clients.context("CN=alice", "O=Example"),
            clients.context("CN=bob", names=("URI:spiffe://example.org/db",)),
        ):
            assert (await answered(served, context)).startswith("HTTP/1.1 101 ")
        lines = [await served.records.ended(count) for count in (1, 2)]
        assert {line["identity"] for line in lines} == {"alice", "spiffe://example.org/db"}
        assert back.dials == 2
        answers = {
            without_id(await answered(served, clients.context())),
            without_id(await answered(served, clients.context("CN=alice"))),
            without_id(await answered(served, clients.context("CN=alice,O=Example"))),
        }
        refused = [await served.records.ended(count) for count in (3, 4, 5)]
        assert back.dials == 2
    (one,) = answers
    assert one.startswith("HTTP/1.1 401 ")
    assert one.endswith("\r\n\r\n" + rejection_body("unauthenticated"))
    assert len({line["detail"] for line in refused}) == 3


@pytest.mark.parametrize(
    ("source", "preface", "lines", "status"),
    [
        ("x-forwarded-for", b"", (), 401),
        ("x-forwarded-for", b"", ("X-Forwarded-For: unknown",), 401),
        ("x-forwarded-for", b"", ("X-Forwarded-For: 203.0.113.7",), 401),
        ("forwarded", b"", ("Forwarded: for=_hidden",), 401),
        ("proxy-protocol", b"PROXY UNKNOWN\r\n", (), 401),
        ("proxy-protocol", b"PROXY TCP4 203.0.113.7 192.0.2.1 5 443\r\n", (), 101),
    ],
)
async def test_a_proxys_certificate_authenticates_no_client(
    clients: ClientAuthority, source: str, preface: bytes, lines: tuple[str, ...], status: int
) -> None:
    """Whatever the proxy reports; behind a PROXY header that names the client, the certificate is the client's own."""
    listener = {
        "bind": "127.0.0.1:0",
        "tls": clients.listener_tls("optional"),
        "trusted_proxies": ["127.0.0.0/8"],
        "client_address_from": source,
    }
    async with backend() as back:
        routes = {"app": {"match": "any", "backend": back.url, "auth": ALLOW}}
        async with serving(written(listeners={"web": listener}, routes=routes)) as served:
            plain = await trio.open_tcp_stream("127.0.0.1", served.port())
            await plain.send_all(preface)
            context = clients.context("CN=alice", "O=Example")
            secure = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
            await secure.send_all(upgrade_request("/", *lines))
            assert int(bytes(await secure.receive_some(65536)).split()[1]) == status
            plain.socket.close()


async def test_it_is_for_plain_bytes_too(clients: ClientAuthority) -> None:
    """A listener that speaks tcp knows its clients by their certificates; others are reset before a dial."""
    async with backend() as back, serving(route_by(back.url, clients, "optional", ALLOW, "tcp")) as served:
        stream = await connected(served, clients.context("CN=alice", "O=Example"))
        await stream.send_all(b"hello")
        assert await stream.receive_some(100) == b"hello"
        await stream.aclose()
        assert (await served.records.ended())["identity"] == "alice"
        other = await connected(served, clients.context("CN=bob"))
        with pytest.raises((trio.BrokenResourceError, OSError)):
            await other.send_all(b"hello")
            await other.receive_some(100)
        other.transport_stream.socket.close()
        line = await served.records.ended(2)
        assert (line["reason"], back.dials) == ("unauthenticated", 1)


async def test_failed_handshakes_are_reported_in_words(clients: ClientAuthority, tmp_path: Path) -> None:
    """None where one is required, one of a stranger, one that is over, one for servers: each has its sentence."""
    stranger = ClientAuthority(tmp_path)
    over = clients.context("CN=alice", lasts=-60.0)
    wrong = clients.context("CN=alice", server_only=True)
    async with backend() as back, serving(route_by(back.url, clients, "required", CERT)) as served:
        for count, (context, words) in enumerate(
            [
                (clients.context(), "the client showed no certificate, and client_certificate is required"),
                (
                    stranger.context("CN=alice"),
                    "the client's certificate is not accepted by client_ca: unable to get local",
                ),
                (over, "the client's certificate is not accepted by client_ca: certificate has expired"),
                (wrong, "the client's certificate is not accepted by client_ca: unsuitable certificate purpose"),
            ],
            1,
        ):
            with pytest.raises((trio.BrokenResourceError, OSError)):
                assert not await answered(served, context)
                raise OSError("an end is as good")
            line = await served.records.ended(count)
            assert line["reason"] == "tls_failed"
            assert line["detail"].startswith(words)
        assert back.dials == 0


async def test_a_connection_ends_with_its_certificate(clients: ClientAuthority) -> None:
    """When it no longer holds, the connection is closed: 1008, auth_expired."""
    context = clients.context("CN=alice", lasts=4.0)
    async with backend() as back, serving(route_by(back.url, clients, "required", CERT)) as served:
        stream = await connected(served, context)
        await stream.send_all(upgrade_request())
        head = bytes(await stream.receive_some(65536))
        assert head.startswith(b"HTTP/1.1 101 ")
        await stream.send_all(frame(BINARY, b"hello"))
        got = b""
        with trio.fail_after(10):
            while b"auth_expired" not in got:
                got += bytes(await stream.receive_some(65536))
        stream.transport_stream.socket.close()
        assert (await served.records.ended())["reason"] == "auth_expired"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_session_shows_it_again(clients: ClientAuthority, version: ssl.TLSVersion) -> None:
    """Without the certificate being sent again, the client is known."""
    context = clients.context("CN=alice")
    context.maximum_version = version

    def resumed(port: int) -> list[bool]:
        found, session = [], None
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
            ):
                tls.sendall(upgrade_request())
                assert tls.recv(4096).startswith(b"HTTP/1.1 101 ")
                found.append(bool(tls.session_reused))
                session = tls.session
        return found

    async with backend() as back, serving(route_by(back.url, clients, "required", CERT)) as served:
        assert await trio.to_thread.run_sync(resumed, served.port()) == [False, True]
        lines = [await served.records.ended(count) for count in (1, 2)]
        assert [line["identity"] for line in lines] == ["alice"] * 2
