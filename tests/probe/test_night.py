"""What an operator is called for at night: a wsbridge, nginx or HAProxy set up wrongly, and what `probe` says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import authority
from tests.cli.backends import echo, serving
from tests.clients.program import free_port
from tests.clients.proxies import haproxy, nginx, temporary
from tests.probe import certificates
from tests.probe.probing import Probed, answers, over_tls, page, probe, unanswered
from tests.process.daemon import Daemon
from tests.serving import written

UPGRADE = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
HOST = "proxy_set_header Host $http_host;"


def without_privileges() -> list[str]:
    """Give the prefix of a command that, run by root, may not open what the modes of files forbid."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    drop = "-dac_override,-dac_read_search"
    return [setpriv, f"--inh-caps={drop}", f"--bounding-set={drop}"]


@dataclass
class Night:
    """A wsbridge whose routes are wrong in one way each.

    Attributes:
        port: Where it listens.
        folder: Its directory.
    """

    port: int
    folder: Path

    def url(self, path: str) -> str:
        """Give the URL of a route."""
        return f"ws://127.0.0.1:{self.port}/{path}"


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    """Run the wsbridge, and what is behind it."""
    with contextlib.ExitStack() as stack:
        serve = stack.enter_context
        plain = serve(serving(echo))
        wrong_name = serve(serving(over_tls(certificates.server("gw.example.org"), echo)))
        expired = serve(serving(over_tls(certificates.server("127.0.0.1", days=-2), echo)))
        demanding = serve(serving(over_tls(certificates.server("127.0.0.1", demand=True), echo)))
        web = serve(serving(answers(page("200 OK", "hello"))))
        dropped = serve(unanswered())
        ca = certificates.ca_file()
        users, tokens = authority.folder() / "night-users", authority.folder() / "night-tokens"
        users.write_text("alice:$scrypt$ln=4,r=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43 + "\n")
        users.chmod(0o600)
        tokens.write_text(f"alice sha256:{'0' * 64}\n")
        tokens.chmod(0o600)
        backends: dict[str, object] = {
            "echo": f"tcp://127.0.0.1:{plain}",
            "down": f"tcp://127.0.0.1:{free_port()}",
            "dns": "tcp://nowhere.invalid:5900",
            "wrong-name": {"url": f"tls://127.0.0.1:{wrong_name}", "ca": ca},
            "expired": {"url": f"tls://127.0.0.1:{expired}", "ca": ca},
            "no-tls": f"tls://127.0.0.1:{plain}",
            "own-ca": f"tls://127.0.0.1:{expired}",
            "demanding": {"url": f"wss://127.0.0.1:{demanding}/", "ca": ca},
            "firewall": f"tcp://127.0.0.1:{dropped}",
            "denied": "unix:@FOLDER@/denied.sock",
            "missing": "unix:@FOLDER@/missing.sock",
            "no-websocket": f"ws://127.0.0.1:{web}/",
        }
        routes: dict[str, dict[str, object]] = {
            name: {"match": {"path": f"/{name}"}, "backend": backend, "auth": "none"}
            for name, backend in backends.items()
        }
        routes["after"] = {**routes["down"], "match": {"path": "/after"}, "dial": {"when": "after-upgrade"}}
        routes["token"] = {
            **routes["echo"],
            "match": {"path": "/token"},
            "auth": {"kind": "bearer", "tokens": str(tokens)},
        }
        routes["firewall"]["timeouts"] = {"connect": "400ms"}
        text = written(routes=routes)
        daemon = serve(Daemon(text, prefix=without_privileges()))
        denied = serve(socket.socket(socket.AF_UNIX))
        denied.bind(str(daemon.folder / "denied.sock"))
        denied.listen()
        (daemon.folder / "denied.sock").chmod(0)
        yield Night(daemon.port(), daemon.folder)


def ask(url: str, *args: str) -> Probed:
    """Run a probe with time for processes on a busy machine."""
    return probe(url, "--timeout", "10s", "--wait", "200ms", "--pings", "1", *args, quick=False)


@pytest.mark.parametrize(
    ("route", "cause", "remedy"),
    [
        ("down", "nothing listens on its address", "Start the service behind the route"),
        ("after", "nothing listens on its address", "Start the service behind the route"),
        ("dns", "cannot be resolved", "getent hosts NAME"),
        ("wrong-name", "TLS handshake .* wrong name", "server_name: NAME"),
        ("expired", "TLS handshake .* expired", "wsbridge probe URL"),
        ("no-tls", "TLS handshake .* no TLS at all", "tcp:// for tls://"),
        ("own-ca", "TLS handshake .* unknown authority", "ca: FILE"),
        ("demanding", "client certificate is demanded", "client_certificate: {cert: FILE}"),
        ("firewall", "firewall drops the packets", "Allow the port of the backend"),
        ("denied", "permissions of its Unix socket", "ls -l PATH.*SupplementaryGroups"),
        ("missing", "Unix socket of the backend does not exist", "start the service that makes the socket"),
        ("no-websocket", "answered something else than 101", "tcp:// for ws://"),
    ],
)
def test_backends(night: Night, route: str, cause: str, remedy: str) -> None:
    """The client learns that the backend is at fault, and what the operator can change."""
    done = ask(night.url(route))
    done.expect("backend", 18, cause, remedy)
    if route != "after":
        assert done.step("http")["facts"]["answered_by"] == "wsbridge"
    assert done.facts["steps"][-1]["facts"]["reason"].startswith("backend_")


def test_the_backend_itself(night: Night) -> None:
    """What `probe` advises: on the host of wsbridge, the backend's own URL names the very fault."""
    code = "import sys; from wsbridge.cli.main import main; sys.argv = ['wsbridge', *sys.argv[1:]]; main()"
    command = [*without_privileges(), sys.executable, "-c", code, "probe", "--json", f"unix:{night.folder}/denied.sock"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["failed_step"]) == (11, "tcp"), done
    assert "may not connect to the socket" in facts["cause"]
    assert "listeners.NAME.mode" in str(facts["remedies"])
    ask(f"unix:{night.folder}/missing.sock").expect("tcp", 11, "There is no socket", "ss -lx")


def test_a_wrong_origin(night: Night) -> None:
    """The line for the configuration."""
    done = ask(night.url("echo"), "--origin", "https://page.example")
    done.expect("origin", 15, "https://page.example", r'allowed_origins: \["https://page.example"\]')
    done = ask(night.url("echo"), "--origin", f"http://127.0.0.1:{night.port}")
    assert (done.code, done.step("origin")["result"]) == (0, "ok")


def test_a_wrong_token(night: Night) -> None:
    """None, a wrong one, and a Basic header where a token is expected."""
    ask(night.url("token")).expect("authentication", 17, "none were sent; it accepts Bearer", "--token-file")
    done = ask(night.url("token"), "--token", "hidden-word")
    done.expect("authentication", 17, "not valid: Bearer token was sent", "journalctl -u wsbridge")
    done = ask(night.url("token"), "--user", "alice:hidden-word")
    done.expect("authentication", 17, r"accepts Bearer, and Basic \(user alice\) was sent", "--token-file FILE")
    assert "hidden-word" not in str(done.facts)


def test_no_route_and_no_subprotocol(night: Night) -> None:
    """A wrong path, and a subprotocol that the route does not have."""
    ask(night.url("nowhere")).expect("http", 14, "No route .*/nowhere", "routes.NAME.match")
    done = ask(night.url("echo"), "--subprotocol", "mqtt")
    done.expect("subprotocol", 16, "mqtt", r"routes.NAME.subprotocols: \[mqtt\]")


def test_tls_to_a_listener_without(night: Night) -> None:
    """A TLS hello on a listener without TLS."""
    done = ask(f"wss://127.0.0.1:{night.port}/echo")
    done.expect("tls", 13, "speaks HTTP without TLS", "listeners.NAME.tls")


def test_no_tls_to_a_listener_with() -> None:
    """A plain request on a listener with TLS, and the same with TLS but without its authority."""
    with serving(echo) as port:
        text = written(tls=True, route={"backend": f"tcp://127.0.0.1:{port}"})
        with Daemon(text) as daemon:
            done = ask(f"ws://localhost:{daemon.port()}/")
            done.expect("http", 14, "speaks TLS", "Write wss:// for ws://")
            done = ask(f"wss://localhost:{daemon.port()}/")
            done.expect("tls", 13, "is not trusted here", "--ca FILE")
            done = ask(f"wss://localhost:{daemon.port()}/", "--ca", str(authority.folder() / "ca.pem"))
            assert done.code == 0


def test_the_port_is_in_use_so_that_nothing_serves() -> None:
    """A wsbridge that could not start: nothing listens."""
    done = ask(f"ws://127.0.0.1:{free_port()}/")
    done.expect("tcp", 11, "nothing listens on port", "systemctl status wsbridge")


@pytest.mark.parametrize(
    ("limits", "cause", "remedy"),
    [
        ({"connections": 1}, "reached a limit", "limits.connections"),
        ({"per_address": {"handshake_rate": 1, "handshake_burst": 1, "exempt": []}}, "too fast", "handshake_rate"),
    ],
)
def test_limits(limits: dict[str, object], cause: str, remedy: str) -> None:
    """Over the limit of connections, and too fast."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(echo))
        text = written(limits=limits, route={"backend": f"tcp://127.0.0.1:{port}"})
        daemon = stack.enter_context(Daemon(text))
        first = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port())))
        first.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        done = ask(f"ws://127.0.0.1:{daemon.port()}/")
        if not done.code:
            done = ask(f"ws://127.0.0.1:{daemon.port()}/")
        done.expect("http", 14, cause, remedy)


def test_a_name_that_the_listener_does_not_know(night: Night) -> None:
    """Without TLS: protection against DNS rebinding."""
    done = ask(night.url("echo"), "--host", "vnc.example.org")
    done.expect("http", 14, "DNS rebinding", "host_names")


def test_a_backend_that_leads_back(tmp_path: Path) -> None:
    """A route whose backend is wsbridge itself, by way of nginx."""
    port, front = free_port(), free_port()
    text = written(listeners={"web": {"bind": f"127.0.0.1:{port}"}}, route={"backend": f"ws://127.0.0.1:{front}/"})
    with behind_nginx(tmp_path, UPGRADE + HOST, port, front), Daemon(text):
        done = ask(f"ws://127.0.0.1:{port}/")
    done.expect("backend", 18, "leads back to wsbridge itself|something else than 101", "routes.NAME.backend")


def test_a_listener_that_expects_a_proxy_header() -> None:
    """It closes connections without one."""
    listener = {
        "bind": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.1"],
        "client_address_from": "proxy-protocol",
    }
    with serving(echo) as port:
        text = written(listeners={"web": listener}, route={"backend": f"tcp://127.0.0.1:{port}"})
        with Daemon(text) as daemon:
            done = ask(f"ws://127.0.0.1:{daemon.port()}/")
    done.expect("http", 14, "without an answer", "proxy-protocol expects a PROXY header")


# ---- nginx and HAProxy in front


def behind_nginx(
    tmp_path: Path, lines: str, upstream: int, port: int | None = None
) -> contextlib.AbstractContextManager[int]:
    """Run an nginx that passes everything on, by lines of its location."""
    port = port or free_port()
    text = (
        f"http {{\naccess_log off;\n{temporary(tmp_path)}server {{\nlisten 127.0.0.1:{port};\n"
        f"location / {{ proxy_pass http://127.0.0.1:{upstream}; {lines} }}\n}}\n}}\n"
    )
    return nginx(tmp_path, port, text)


def test_nginx_in_order(night: Night, tmp_path: Path) -> None:
    """With the lines of the documentation it works, and Origin as well."""
    with behind_nginx(tmp_path, UPGRADE + HOST, night.port) as port:
        done = ask(f"ws://127.0.0.1:{port}/echo", "--origin", f"http://127.0.0.1:{port}")
    assert done.code == 0, done.facts
    assert done.step("http")["facts"]["answered_by"] == "nginx"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (UPGRADE.replace("1.1", "1.0") + HOST, "nginx speaks HTTP/1.0 to the server behind it"),
        ("proxy_http_version 1.1;" + HOST, "nginx drops the Upgrade or Connection header"),
        ('proxy_http_version 1.1; proxy_set_header Connection "upgrade";' + HOST, "nginx drops the Upgrade"),
        ("proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;" + HOST, "nginx drops the Upgrade or Conn"),
    ],
    ids=["HTTP/1.0", "neither", "no Upgrade", "no Connection"],
)
def test_nginx_that_drops_the_upgrade(night: Night, tmp_path: Path, lines: str, cause: str) -> None:
    """The lines that are missing."""
    with behind_nginx(tmp_path, lines, night.port) as port:
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, cause, r"nginx: .*proxy_http_version 1.1; proxy_set_header Upgrade \$http_upgrade")
    assert done.step("http")["facts"]["answered_by"] == "wsbridge, through nginx"


def test_nginx_without_the_port_in_host(night: Night, tmp_path: Path) -> None:
    """The Origin of the very page that nginx serves is rejected."""
    with behind_nginx(tmp_path, UPGRADE + "proxy_set_header Host $host;", night.port) as port:
        done = ask(f"ws://127.0.0.1:{port}/echo", "--origin", f"http://127.0.0.1:{port}")
    done.expect("origin", 15, "a proxy in front changes the Host header", r"proxy_set_header Host \$http_host;")


def test_nginx_whose_server_is_down(tmp_path: Path) -> None:
    """An answer of nginx for wsbridge."""
    with behind_nginx(tmp_path, UPGRADE + HOST, free_port()) as port:
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, "nginx cannot connect to the server behind it", "Start wsbridge .*proxy_pass")


def test_nginx_whose_server_is_behind_a_firewall(tmp_path: Path) -> None:
    """An answer of nginx, which got none."""
    with unanswered() as dropped:
        lines = f"{UPGRADE}{HOST}proxy_connect_timeout 200ms;"
        with behind_nginx(tmp_path, lines, dropped) as port:
            done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, "nginx got no answer in time", "probe wsbridge itself")


def test_nginx_with_another_path(night: Night, tmp_path: Path) -> None:
    """A proxy_pass with a path replaces that of the location: wsbridge has no such route."""
    port = free_port()
    text = (
        f"http {{\naccess_log off;\n{temporary(tmp_path)}server {{\nlisten 127.0.0.1:{port};\n"
        f"location /gw/ {{ proxy_pass http://127.0.0.1:{night.port}/other/; {UPGRADE}{HOST} }}\n}}\n}}\n"
    )
    with nginx(tmp_path, port, text):
        ask(f"ws://127.0.0.1:{port}/gw/echo").expect("http", 14, "No route", "proxy_pass with a path")
        ask(f"ws://127.0.0.1:{port}/echo").expect("http", 14, "nginx does not pass the path on", "location /echo")


def test_nginx_with_tls(night: Night, tmp_path: Path) -> None:
    """TLS of nginx: plain to its port, and a client certificate that it demands."""
    port = free_port()
    folder = authority.folder()
    tls = f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"
    mutual = f"ssl_verify_client on; ssl_client_certificate {certificates.ca_file()};"
    text = (
        f"http {{\naccess_log off;\n{temporary(tmp_path)}server {{\nlisten 127.0.0.1:{port} ssl;\n{tls}{mutual}\n"
        f"location / {{ proxy_pass http://127.0.0.1:{night.port}; {UPGRADE}{HOST} }}\n}}\n}}\n"
    )
    ca = ("--ca", str(folder / "ca.pem"))
    cert, key = certificates.client_pair()
    with nginx(tmp_path, port, text):
        ask(f"ws://localhost:{port}/echo").expect("http", 14, "This port speaks TLS", "Write wss://")
        ask(f"wss://localhost:{port}/echo", *ca).expect("tls", 13, "demands a client certificate", "--client-cert")
        done = ask(f"wss://localhost:{port}/echo", *ca, "--client-cert", cert, "--client-key", key)
    # nginx accepts the certificate, and wsbridge, without TLS here, does not know the name localhost
    assert done.failed in (None, "http"), done.facts


HAPROXY = "defaults\nmode http\ntimeout connect 300ms\ntimeout client 5s\ntimeout server 2s\n"


def test_haproxy_without_a_server(tmp_path: Path) -> None:
    """All servers are down."""
    port = free_port()
    text = f"{HAPROXY}listen front\nbind 127.0.0.1:{port}\nserver one 127.0.0.1:{free_port()}\n"
    with haproxy(tmp_path, port, text):
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, "HAProxy has no server behind it that is up", "HAProxy: server, and its log")


def test_haproxy_that_drops_the_upgrade(night: Night, tmp_path: Path) -> None:
    """By a rule of its own."""
    port = free_port()
    text = (
        f"{HAPROXY}listen front\nbind 127.0.0.1:{port}\nhttp-request del-header upgrade\n"
        f"server one 127.0.0.1:{night.port}\n"
    )
    with haproxy(tmp_path, port, text):
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, "drops the Upgrade", "HAProxy: mode http .*del-header upgrade")


def test_haproxy_that_expects_a_proxy_header(night: Night, tmp_path: Path) -> None:
    """`accept-proxy` without a proxy in front of it."""
    port = free_port()
    text = f"{HAPROXY}listen front\nbind 127.0.0.1:{port} accept-proxy\nserver one 127.0.0.1:{night.port}\n"
    with haproxy(tmp_path, port, text):
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("http", 14, "without an answer|did not answer", "accept-proxy")


def test_haproxy_that_denies(night: Night, tmp_path: Path) -> None:
    """By a rule of its own."""
    port = free_port()
    text = f"{HAPROXY}listen front\nbind 127.0.0.1:{port}\nhttp-request deny\nserver one 127.0.0.1:{night.port}\n"
    with haproxy(tmp_path, port, text):
        done = ask(f"ws://127.0.0.1:{port}/echo")
    done.expect("authentication", 17, "HAProxy does not allow this", "http-request deny")
