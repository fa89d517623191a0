"""A generation: what a configuration becomes at run time."""

import dataclasses
import ssl

import pytest

from tests.authority import folder, listener_tls
from tests.serving import config_of, written
from wsbridge.backends.backend import Services
from wsbridge.backends.tcp import TcpBackend
from wsbridge.generation import build
from wsbridge.ledger import Ledger
from wsbridge.net.resolve import Resolver
from wsbridge.routes.answer import FixedAnswer
from wsbridge.routes.files import Files

BACK = {"backend": "tcp://127.0.0.1:9", "auth": "none"}


def made(**keys):
    """Build a generation."""
    return build(config_of(written(**keys)), Services(Resolver()), lambda _: Ledger())


def test_terms_come_from_the_route_and_then_from_the_file():
    """A route's own timeouts stand in place of the file's; the limits are the file's."""
    routes = {
        "own": {"match": {"path": "/own"}, "timeouts": {"ping": "3s", "idle": "1m"}, **BACK},
        "app": {"match": "any", **BACK},
    }
    routes["own"] |= {"after_close": "deliver", "on_client_lost": "fin"}
    generation = made(
        routes=routes, timeouts={"ping": "9s", "write": "off"}, limits={"control_rate": "77", "linger_bytes": "1KiB"}
    )
    own, app = generation.routes["own"].terms, generation.routes["app"].terms
    assert (own.ping, own.idle, own.write) == (3.0, 60.0, None)
    assert (app.ping, app.idle, app.write) == (9.0, None, None)
    assert (own.deliver, own.lost_is_fin, app.deliver, app.lost_is_fin) == (True, True, False, False)
    assert (app.chaff_rate, app.linger_bytes, app.linger) == (77, 1024, 0.3)


def test_limits_of_a_route():
    """Those that are counted go with the route, the bytes of one connection with its terms; without any, None."""
    routes = {
        "slow": {"match": {"path": "/slow"}, "limits": {"bytes_per_second": "20KiB"}, **BACK},
        "few": {"match": {"path": "/few"}, "limits": {"connections": "3"}, **BACK},
        "app": {"match": "any", **BACK},
    }
    slow, few, app = made(routes=routes).routes.values()
    assert (slow.terms.bytes_per_second, slow.limits) == (20_480, None)
    assert few.limits.connections == 3
    assert (few.terms.bytes_per_second, app.terms.bytes_per_second, app.limits) == (None, None, None)


def test_what_a_route_gives(tmp_path):
    """A backend, files with their prefix, or a fixed answer; never two of them."""
    generation = made(
        routes={
            "app": {"match": {"path": "/app"}, "dial": "after-upgrade", "connect": {"retry_for": "5s"}, **BACK},
            "page": {"match": {"path": "/novnc/*"}, "files": str(tmp_path), "auth": "none"},
            "health": {"match": "any", "answer": "204"},
        }
    )
    app, page, health = (generation.routes[name] for name in ("app", "page", "health"))
    assert isinstance(app.backend, TcpBackend)
    assert app.responder is None
    assert (app.dial_first, app.retry_for, app.connect) == (False, 5.0, 3.0)
    assert isinstance(page.responder, Files)
    assert page.prefix == "/novnc/"
    assert page.backend is None
    assert isinstance(health.responder, FixedAnswer)


def test_which_routes_a_listener_reaches():
    """Those without a listener in their match, and those that name it, in the file's order; a raw one has one."""
    listeners = {
        "web": {"bind": "127.0.0.1:1"},
        "tls": {"bind": "127.0.0.1:2", "tls": listener_tls()},
        "old": {"bind": "127.0.0.1:3", "speaks": "tcp", "route": "raw"},
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
    assert isinstance(reached["tls"].tls, ssl.SSLContext)
    assert reached["web"].tls is None
    assert [reached[name].unix for name in names] == [False, False, False, True]
    assert all(one.loopback for one in reached.values())


def test_ledgers_are_those_that_are_lent():
    """A route of the next generation counts on in the ledger of its name."""
    ledgers = {}
    config = config_of(written(routes={"app": {"match": "any", **BACK}}))

    def lend(name):
        return ledgers.setdefault(name, Ledger())

    first, second = (build(config, Services(Resolver()), lend) for _ in range(2))
    assert first.routes["app"].ledger is second.routes["app"].ledger is ledgers["app"]


def test_it_is_immutable():
    """Connections keep the generation they began with, so nobody may change it."""
    generation = made(route={"answer": "204"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        generation.head = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        generation.listeners["web"].speaks = "tcp"


def test_files_that_cannot_be_used_are_one_sentence(tmp_path):
    """A folder that is not there (any more), a certificate that cannot be read: ValueError that names it."""
    page = tmp_path / "page"
    page.mkdir()
    config = config_of(written(routes={"page": {"match": {"path": "/*"}, "files": str(page), "auth": "none"}}))
    page.rmdir()
    with pytest.raises(ValueError, match="there is no folder"):
        build(config, Services(Resolver()), lambda _: Ledger())
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((folder() / name).read_bytes())
    tls = {"certificates": [{"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}]}
    config = config_of(written(listeners={"web": {"bind": "127.0.0.1:0", "tls": tls}}, route={"answer": "204"}))
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ValueError, match=r"key\.pem"):
        build(config, Services(Resolver()), lambda _: Ledger())
