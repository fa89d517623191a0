"""Backends that are listeners of the same configuration: loops are found, chains are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import read, wrong

WEB = "web: {bind: '127.0.0.1:8080'}"
RAW = "raw: {bind: '127.0.0.1:6080', protocol: tcp, route: %s}"


def written(listeners: list[str], **routes: str) -> str:
    """Write a file of listeners, and of routes given by what is in them."""
    lines = [f"  {name}: {{auth: none, {keys}}}" for name, keys in routes.items()]
    return "\n".join(["listeners:", *(f"  {line}" for line in listeners), "routes:", *lines]) + "\n"


def codes(text: str) -> list[str]:
    """Return the codes that are about loops, with the setting of each."""
    return [f"{found.code} {found.setting}" for found in read(text).warnings if found.code == "W031"]


def errors(text: str) -> list[str]:
    """Return code and setting of each error."""
    return [f"{found.code} {found.setting}" for found in wrong(text) if found.severity == "error"]


def raw(bind: str, backend: str) -> str:
    """Write a raw listener whose route dials this."""
    return written([f"raw: {{bind: '{bind}', protocol: tcp, route: a}}"], a=f"backend: '{backend}'")


def web(backend: str, bind: str = "127.0.0.1:8080") -> str:
    """Write a WebSocket listener whose only route dials this."""
    return written([f"web: {{bind: '{bind}'}}"], a=f"match: any, backend: '{backend}'")


@pytest.mark.parametrize(
    ("bind", "backend"),
    [
        ("127.0.0.1:6080", "tcp://127.0.0.1:6080"),
        ("127.0.0.1:6080", "tcp://localhost:6080"),
        ("127.0.0.1:6080", "tcp://[::ffff:127.0.0.1]:6080"),
        ("127.0.0.1:6080", "tcp://0.0.0.0:6080"),
        ("localhost:6080", "tcp://[::1]:6080"),
        ("0.0.0.0:6080", "tcp://127.1.2.3:6080"),
        ("[::]:6080", "tcp://127.0.0.1:6080"),
        ("[::]:6080", "tcp://[::1]:6080"),
        ("gw.example.org:6080", "tcp://GW.example.org.:6080"),
        ("127.0.0.1:6080", "tls://127.0.0.1:6080"),
        ("127.0.0.1:6080", "ws://127.0.0.1:6080/"),
        ("unix:/run/gw.sock", "unix:/run/x/../gw.sock"),
        ("unix:/run/gw.sock", "ws+unix:/run/gw.sock:/"),
    ],
)
def test_a_raw_listener_that_is_its_own_backend(bind: str, backend: str) -> None:
    """By whatever form of the address."""
    assert "E042 routes.a.backend" in errors(raw(bind, backend))


@pytest.mark.parametrize(
    ("bind", "backend"),
    [
        ("127.0.0.1:6080", "tcp://127.0.0.1:6081"),
        ("127.0.0.1:6080", "tcp://127.0.0.2:6080"),
        ("127.0.0.1:0", "tcp://127.0.0.1:6080"),
        ("0.0.0.0:6080", "tcp://[::1]:6080"),
        ("0.0.0.0:6080", "tcp://192.0.2.1:6080"),
        ("127.0.0.1:6080", "tcp://db.example.org:6080"),
        ("unix:/run/gw.sock", "unix:/run/other.sock"),
    ],
)
def test_other_addresses(bind: str, backend: str) -> None:
    """Nothing is said of a backend that is elsewhere, or may be."""
    assert codes(raw(bind, backend)) == []


def test_the_message() -> None:
    """It names the listener, says what happens and what to write, and points at the backend."""
    (found,) = wrong(raw("127.0.0.1:6080", "tcp://localhost:6080"))
    lines = found.text().splitlines()
    assert lines[0] == (
        'w.yaml:4:28: routes.a.backend: tcp://localhost:6080 is the listener "raw" of this configuration and leads '
        "back to this route: every connection would open the next; write the address of the service "
        "behind wsbridge [E042]"
    )
    assert lines[2].index("^") == lines[1].index("'tcp")


def test_websocket_backends() -> None:
    """The route is found by Host and path, as for a request."""
    assert errors(web("ws://127.0.0.1:8080/x")) == ["E042 routes.a.backend"]
    assert errors(web("tcp://127.0.0.1:8080")) == ["E042 routes.a.backend"]
    assert codes(web("wss://127.0.0.1:8080/x")) == []
    b = "match: {path: /b}, backend: 'tcp://127.0.0.1:6379'"
    chain = written([WEB], a="match: {path: /a}, backend: 'ws://127.0.0.1:8080/b'", b=b)
    assert codes(chain) == []
    assert codes(chain.replace("8080/b'", "8080/none'")) == []
    assert errors(chain.replace("8080/b'", "8080/%61?x'")) == ["E042 routes.a.backend"]


def test_a_loop_of_two_routes_is_reported_once() -> None:
    """At the first of them, with the other one named."""
    text = written(
        [WEB, RAW % "b"],
        a="match: any, backend: 'tcp://127.0.0.1:6080'",
        b="backend: 'ws://127.0.0.1:8080/'",
    )
    (found,) = wrong(text)
    assert (found.code, found.setting) == ("E042", "routes.a.backend")
    assert 'through the route "b"' in found.message


def test_what_clients_decide_is_a_warning() -> None:
    """A raw backend at a listener with several routes, and a route that asks for credentials."""
    b = "match: {path: /b}, backend: 'tcp://127.0.0.1:6379'"
    assert codes(written([WEB], a="match: {path: /a}, backend: 'tcp://127.0.0.1:8080'", b=b)) == [
        "W031 routes.a.backend"
    ]
    bearer = web("ws://127.0.0.1:8080/").replace("auth: none", "auth: {kind: bearer, tokens: tokens.txt}")
    assert codes(bearer) == ["W031 routes.a.backend"]


def test_chains_are_accepted() -> None:
    """TCP to a WebSocket listener of its own to a service; a proxy's addresses are its own."""
    chain = written(
        [WEB, RAW % "a"],
        a="backend: 'ws://127.0.0.1:8080/'",
        b="match: any, backend: 'tcp://127.0.0.1:6379'",
    )
    assert codes(chain) == []
    assert (
        codes(web("ws://127.0.0.1:8080/").replace("'ws:", "{url: 'ws:").replace("/'}", "/', proxy: 'http://p:3128'}}"))
        == []
    )


def test_a_linked_directory_is_the_same(tmp_path: Path) -> None:
    """As /var/run and /run are."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert errors(raw(f"unix:{tmp_path}/run/gw", f"unix:{tmp_path}/link/gw")) == ["E042 routes.a.backend"]
