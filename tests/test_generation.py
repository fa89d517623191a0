"""A generation: the runtime objects made from a configuration."""

import dataclasses
import socket
import ssl
import threading

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization

from tests.authority import folder, listener_tls
from tests.serving import config_of, written
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.backends.base import DialRequest, DialServices
from wsbridge.backends.tcp import TcpBackend
from wsbridge.counters import RouteStats
from wsbridge.generation import build_generation
from wsbridge.net.resolver import Resolver
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.reasons import Rejected
from wsbridge.responders.base import FixedStatus
from wsbridge.responders.files import StaticFiles

BACK = {"backend": "tcp://127.0.0.1:9", "auth": "none"}


def made(**keys):
    """Build a generation."""
    return build_generation(config_of(written(**keys)), DialServices(Resolver()), lambda _: RouteStats())


def test_terms_come_from_the_route_and_then_from_the_file():
    """A route's own timeouts replace those of the file; the limits are the file's."""
    routes = {
        "own": {"match": {"path": "/own"}, "timeouts": {"ping_interval": "3s", "idle": "1m"}, **BACK},
        "app": {"match": "any", **BACK},
    }
    routes["own"] |= {"on_client_close": "deliver", "on_client_lost": "fin"}
    generation = made(
        routes=routes,
        timeouts={"ping_interval": "9s", "write": "off"},
        limits={"control_frame_rate": "77", "lingering_bytes": "1KiB"},
    )
    own, app = generation.routes["own"].relay_options, generation.routes["app"].relay_options
    assert (own.ping_interval, own.idle, own.write) == (3.0, 60.0, None)
    assert (app.ping_interval, app.idle, app.write) == (9.0, None, None)
    assert (own.deliver_after_close, own.half_close_on_loss, app.deliver_after_close, app.half_close_on_loss) == (
        True,
        True,
        False,
        False,
    )
    assert (app.control_frame_rate, app.lingering_bytes, app.lingering) == (77, 1024, 1.0)


def test_limits_of_a_route():
    """Those that are counted go with the route, the bytes of one connection with its terms; without any, None."""
    routes = {
        "slow": {"match": {"path": "/slow"}, "limits": {"bytes_per_second": "20KiB"}, **BACK},
        "few": {"match": {"path": "/few"}, "limits": {"connections": "3"}, **BACK},
        "app": {"match": "any", **BACK},
    }
    slow, few, app = made(routes=routes).routes.values()
    assert (slow.relay_options.bytes_per_second, slow.limits) == (20_480, None)
    assert few.limits.connections == 3
    assert (few.relay_options.bytes_per_second, app.relay_options.bytes_per_second, app.limits) == (None, None, None)


def test_what_a_route_gives(tmp_path):
    """A backend, files with their prefix, or a fixed answer; never two of them."""
    generation = made(
        routes={
            "app": {"match": {"path": "/app"}, "dial": {"when": "after-upgrade", "retry_for": "5s"}, **BACK},
            "page": {"match": {"path": "/novnc/*"}, "files": str(tmp_path), "auth": "none"},
            "health": {"match": "any", "respond": "204"},
        }
    )
    app, page, health = (generation.routes[name] for name in ("app", "page", "health"))
    assert isinstance(app.backend, TcpBackend)
    assert app.responder is None
    assert (app.dial_before_upgrade, app.retry_for, app.connect_timeout) == (False, 5.0, 10.0)
    assert isinstance(page.responder, StaticFiles)
    assert page.backend is None
    assert isinstance(health.responder, FixedStatus)


def test_which_routes_a_listener_reaches():
    """Those without a listener in their match, and those that name it, in the file's order; a raw one has one."""
    listeners = {
        "web": {"bind": "127.0.0.1:1"},
        "tls": {"bind": "127.0.0.1:2", "tls": listener_tls()},
        "old": {"bind": "127.0.0.1:3", "protocol": "tcp", "route": "raw"},
        "local": {"bind": "unix:/run/x.sock"},
    }
    routes = {
        "first": {"match": {"listener": ["tls", "web"], "path": "/1"}, **BACK},
        "second": {"match": {"path": "/2"}, **BACK},
        "third": {"match": {"listener": "tls", "path": "/3"}, **BACK},
        "raw": BACK,
    }
    reached = made(listeners=listeners, routes=routes).listeners
    names = {name: [route.name for route in one.routes] for name, one in reached.items()}
    assert names == {"web": ["first", "second"], "tls": ["first", "second", "third"], "old": [], "local": ["second"]}
    assert reached["old"].route.name == "raw"
    assert isinstance(reached["tls"].tls.context, ssl.SSLContext)
    assert reached["web"].tls is None
    assert [reached[name].is_unix for name in names] == [False, False, False, True]


def test_tls_of_a_listener_is_as_the_file_says(tmp_path):
    """Minimum version, suites, and the passphrase of the key."""
    certificate, key = (folder() / name for name in ("cert.pem", "key.pem"))
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "key.pem").write_bytes(encrypted)
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "passphrase").write_text("passphrase\n")
    pair = {
        "cert": str(certificate),
        "key": str(tmp_path / "key.pem"),
        "key_password": {"file": str(tmp_path / "passphrase")},
    }
    suites = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    for keys, version in (({"min_version": "1.3"}, 4), ({"ciphers": suites}, 3)):
        tls = {"certificates": [pair], **keys}
        context = (
            made(listeners={"web": {"bind": "127.0.0.1:0", "tls": tls}}, route={"respond": "204"})
            .listeners["web"]
            .tls.context
        )
        assert context.minimum_version == ssl.TLSVersion(0x0300 + version)
        if "ciphers" in keys:
            offered = {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"}
            assert offered == set(suites.split(":"))


def test_route_statistics_outlive_a_generation():
    """A route of the next generation counts on in the statistics of its name."""
    ledgers = {}
    config = config_of(written(routes={"app": {"match": "any", **BACK}}))

    def lend(name):
        return ledgers.setdefault(name, RouteStats())

    first, second = (build_generation(config, DialServices(Resolver()), lend) for _ in range(2))
    assert first.routes["app"].stats is second.routes["app"].stats is ledgers["app"]


async def test_names_that_clients_choose_are_looked_up_apart():
    """In threads of their own, and as absolute names; those of the configuration as the system has them."""
    go, asked = threading.Event(), []

    def lookup(host, port, **_):
        asked.append(host)
        if host.startswith("hang"):
            go.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    chosen = {"backend": "tcp://{query.host}:9", "allowed_targets": {"names": ["*.example.org"], "ports": ["9"]}}
    routes = {
        "chosen": {"match": {"path": "/chosen"}, "auth": "none", **chosen},
        "fixed": {"match": "any", **BACK, "backend": "tcp://fixed.example.org:9"},
    }
    with trio.fail_after(9):
        async with Resolver(1, getaddrinfo=lookup, client_threads=1) as resolver, trio.open_nursery() as nursery:
            config = config_of(written(routes=routes))
            generation = build_generation(config, DialServices(resolver), lambda _: RouteStats())

            async def dial(name, host=""):
                route = generation.routes[name]
                target = None
                if route.target_policy is not None:
                    request = Request("GET", f"/chosen?host={host}", "1.1", Headers())
                    target = await route.target_policy.select(request, ANONYMOUS)
                with pytest.raises(Rejected, match="unknown"):
                    await route.backend.dial(DialRequest(chosen=target))

            nursery.start_soon(dial, "chosen", "hang.example.org")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await dial("fixed")
            go.set()
    assert asked == ["hang.example.org.", "fixed.example.org"]


def test_it_is_immutable():
    """Connections keep the generation they began with, so nobody may change it."""
    generation = made(route={"respond": "204"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        generation.head_limits = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        generation.listeners["web"].protocol = "tcp"


def test_files_that_cannot_be_used_are_one_sentence(tmp_path):
    """A directory that is not there (any more), a certificate that cannot be read: ValueError that names it."""
    page = tmp_path / "page"
    page.mkdir()
    config = config_of(written(routes={"page": {"match": {"path": "/*"}, "files": str(page), "auth": "none"}}))
    page.rmdir()
    with pytest.raises(ValueError, match="there is no directory"):
        build_generation(config, DialServices(Resolver()), lambda _: RouteStats())
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((folder() / name).read_bytes())
    tls = {"certificates": [{"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}]}
    config = config_of(written(listeners={"web": {"bind": "127.0.0.1:0", "tls": tls}}, route={"respond": "204"}))
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ValueError, match=r"key\.pem"):
        build_generation(config, DialServices(Resolver()), lambda _: RouteStats())


async def test_two_generations_live_side_by_side():
    """Each has the background tasks of what it built, and they end with it, not with the other."""
    running = set()

    def begin(name):
        generation = made(routes={"app": {"match": "any", **BACK}})

        async def work():
            running.add(name)
            try:
                await trio.sleep_forever()
            finally:
                running.discard(name)

        generation.background_tasks.start(work)
        return generation

    async with begin("second").background_tasks:
        async with begin("first").background_tasks:
            await trio.testing.wait_all_tasks_blocked()
            assert running == {"first", "second"}
        assert running == {"second"}
    assert running == set()


def test_where_requests_are_remembered(tmp_path):
    """Not behind proxies, where each names its client, and not where a path may have a token."""
    (tmp_path / "desks").write_text("")
    by_path = {
        "match": {"path": "/{desk}"},
        "backend": {"tokens": str(tmp_path / "desks"), "token_from": "desk"},
        "auth": "none",
        "allowed_targets": {"networks": ["10.0.0.0/8"], "ports": [22]},
    }
    proxied = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "x-forwarded-for"}
    assert made(route=BACK).listeners["web"].known_requests is not None
    assert made(route=BACK, listeners={"web": proxied}).listeners["web"].known_requests is None
    assert made(routes={"desks": by_path}).listeners["web"].known_requests is None
