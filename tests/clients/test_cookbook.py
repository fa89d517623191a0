"""The pages of docs/cookbook as they are written: their configurations, web pages and commands, with real programs."""

from __future__ import annotations

import getpass
import http.server
import os
import pwd
import re
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.authority import folder
from tests.clients.browser import browsing
from tests.clients.program import Program, free_port, missing, program, run
from tests.clients.test_mqtt import mosquitto  # noqa: F401  fixtures are imported, and used as parameters (F811)
from tests.clients.test_novnc import NOVNC, Screen, screen, shown  # noqa: F401  as above
from tests.clients.test_redis import redis  # noqa: F401  as above
from tests.clients.test_ssh import keys, sshd  # noqa: F401  as above
from tests.process.daemon import Daemon

COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook"
NPM_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wsbridge-tests" / "npm"


def blocks(page: str, language: str) -> list[str]:
    """Give the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (COOKBOOK / page).read_text(), re.MULTILINE | re.DOTALL)


def changed(text: str, **_: str) -> str:
    """Have a configuration listen on a port that the system chooses."""
    return text.replace("127.0.0.1:8080", "127.0.0.1:0")


def node_modules(packages: str) -> Path:
    """Install npm packages such as "mqtt@5.16.0", once; give their directory."""
    cache = NPM_CACHE / re.sub(r"[^\w.@-]+", "_", packages)
    if not cache.is_dir():
        partial_cache = cache.with_name(f"{cache.name}.{os.getpid()}")
        partial_cache.mkdir(parents=True)
        run(
            *(program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(partial_cache)),
            *shlex.split(packages),
            timeout=300,
        )
        partial_cache.rename(cache)  # whole, or not at all
    return cache / "node_modules"


@contextmanager
def site(
    page: str, root: str, backend: str, actual: str, tmp_path: Path, edit: Callable[[str], str] = str
) -> Iterator[Daemon]:
    """Run a page's wsbridge.yaml, with its index.html and the packages that its npm command names.

    Args:
        page: File of the cookbook.
        root: Directory of the files, as the page has it.
        backend: Address of the backend, as the page has it.
        actual: Address of the backend here.
        tmp_path: Where the files go.
        edit: Changes the configuration and the HTML.
    """
    (packages,) = re.findall(r"^npm install (.*)$", "\n".join(blocks(page, "sh")), re.MULTILINE)
    (tmp_path / "index.html").write_text(edit(blocks(page, "html")[0]))
    shutil.copytree(node_modules(packages), tmp_path / "node_modules")
    (text,) = blocks(page, "yaml")
    assert root in text
    assert backend in text
    with Daemon(changed(edit(text)).replace(root, str(tmp_path)).replace(backend, actual)) as bridge:
        yield bridge


@pytest.mark.browser
def test_terminal(tmp_path: Path) -> None:
    """What is typed into xterm.js runs in a shell, its output is shown, and so is the end of the shell."""
    (command,) = [line for line in blocks("terminal.md", "sh")[0].splitlines() if line.startswith("socat")]
    port = free_port()
    program("socat")
    with (
        Program(*shlex.split(command.replace("7000", str(port)))) as socat,
        site("terminal.md", "/srv/terminal", "127.0.0.1:7000", f"127.0.0.1:{port}", tmp_path) as bridge,
        browsing() as page,
    ):
        socat.accepts(port)
        page.goto(f"http://127.0.0.1:{bridge.port()}/")
        expect(page.locator(".xterm-rows")).to_contain_text(re.compile(r"[$#]"))  # the prompt
        page.locator("#terminal").click()
        page.keyboard.type("echo wonder$((6 * 7))land\n")
        expect(page.locator(".xterm-rows")).to_contain_text("wonder42land")
        page.screenshot(path=tmp_path / "terminal.png")
        page.keyboard.type("exit\n")
        expect(page.locator(".xterm-rows")).to_contain_text("[backend_closed]")
        assert bridge.wait("connection.closed", route="shell", reason="backend_closed")


@pytest.mark.browser
def test_mqtt(mosquitto: int, tmp_path: Path) -> None:  # noqa: F811  a fixture
    """The page gets back what it publishes."""
    backend = f"127.0.0.1:{mosquitto}"
    with site("mqtt.md", "/srv/mqtt", "127.0.0.1:1883", backend, tmp_path) as bridge, browsing() as page:
        page.goto(f"http://127.0.0.1:{bridge.port()}/")
        expect(page.locator("#messages")).to_have_text("demo/hello: from the browser\n")
        page.screenshot(path=tmp_path / "mqtt.png")


@pytest.fixture
def postgres() -> Iterator[int]:
    """A PostgreSQL server of this test, which trusts everybody; gives its port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        missing("postgresql")
    data = Path(tempfile.mkdtemp(prefix="wsbridge-postgres-", dir="/tmp"))
    as_user = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(data, user.pw_uid, user.pw_gid)
        as_user = [program("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    port = free_port()
    try:
        run(*as_user, str(found[-1].with_name("initdb")), "-D", str(data), "-U", "postgres", "-A", "trust", "-N")
        options = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        with Program(*as_user, str(found[-1]), *options) as server:
            server.line("ready to accept connections")
            yield port
    finally:
        shutil.rmtree(data)


@pytest.mark.browser
def test_postgresql(postgres: int, tmp_path: Path) -> None:
    """The page asks the database for its version."""
    backend = f"127.0.0.1:{postgres}"
    with site("postgresql.md", "/srv/sql", "127.0.0.1:5432", backend, tmp_path) as bridge, browsing() as page:
        page.goto(f"http://127.0.0.1:{bridge.port()}/")
        expect(page.locator("#result")).to_contain_text(re.compile(r"^PostgreSQL \d+"))
        page.screenshot(path=tmp_path / "postgresql.png")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, without a log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as http.server calls it)
        """Write nothing."""


@contextmanager
def other_site(page: Callable[[], str], directory: Path) -> Iterator[int]:
    """Serve one page from another origin; gives the port. The page is written once that is known."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.browser
def test_novnc(screen: Screen, tmp_path: Path) -> None:  # noqa: F811  a fixture
    """The screen is shown at / and in an iframe of the portal, and not in one of any other site."""
    if not NOVNC.is_dir():
        missing(str(NOVNC))
    (text,), (html,) = blocks("novnc.md", "yaml"), blocks("novnc.md", "html")
    screen.fill("#2060a0")
    portal, stranger = tmp_path / "portal", tmp_path / "stranger"
    portal.mkdir()
    stranger.mkdir()
    with other_site(str, portal) as allowed, other_site(str, stranger) as denied:
        config = changed(text).replace("127.0.0.1:5901", f"127.0.0.1:{screen.port}")
        config = config.replace("https://portal.example.org", f"http://127.0.0.1:{allowed}")
        with Daemon(config) as bridge, browsing() as page:
            for directory in (portal, stranger):
                (directory / "index.html").write_text(html.replace(":8080", f":{bridge.port()}"))
            page.goto(f"http://127.0.0.1:{bridge.port()}/")
            assert page.url.endswith("/novnc/vnc.html")
            page.goto(f"http://127.0.0.1:{bridge.port()}/novnc/vnc.html?autoconnect=true&path=vnc")
            shown(page, (0x20, 0x60, 0xA0))
            page.goto(f"http://127.0.0.1:{allowed}/")
            inside = page.frame_locator("iframe").locator("canvas").last
            expect(inside).to_be_visible()
            bridge.wait("connection.closed", route="vnc")  # of the page before
            page.screenshot(path=tmp_path / "novnc.png")
            page.goto(f"http://127.0.0.1:{denied}/")
            page.wait_for_timeout(500)
            assert page.frame_locator("iframe").locator("canvas").count() == 0


def test_ssh(keys: Path, sshd: int) -> None:  # noqa: F811  a fixture
    """The command line logs in through wsbridge."""
    (text,) = blocks("ssh.md", "yaml")
    known = keys / "known_hosts"
    known.write_text(f"far {(keys / 'host.pub').read_text()}")
    options = f"-F none -i {keys}/user -o UserKnownHostsFile={known} -o IdentityAgent=none -o BatchMode=yes"
    with Daemon(changed(text).replace("127.0.0.1:22", f"127.0.0.1:{sshd}")) as bridge:
        command = blocks("ssh.md", "sh")[0].strip().replace(":8080", f":{bridge.port()}")
        command = command.replace("wsbridge ", f"{sys.executable} -m wsbridge ")
        command = command.replace("ssh -o", f"{program('ssh')} {options} -o", 1)
        command = command.removesuffix(" far") + f" {getpass.getuser()}@far"
        assert run("sh", "-c", f"{command} 'echo through $((6 * 7))'") == b"through 42\n"


def test_redis(redis: int) -> None:  # noqa: F811  a fixture
    """redis-cli reaches Redis through both, and through `bridge` in place of the one beside it."""
    server, client = blocks("redis.md", "yaml")
    ping, command = blocks("redis.md", "sh")
    server = server.replace("0.0.0.0:8443", "127.0.0.1:0").replace(":6379", f":{redis}")
    server = server.replace("/etc/wsbridge/tls/chain.pem", str(folder() / "cert.pem"))
    server = server.replace("/etc/wsbridge/tls/key.pem", str(folder() / "key.pem"))
    program("redis-cli")
    with Daemon(server) as far:
        url = f"wss://localhost:{far.port()}/redis"
        ca = folder() / "ca.pem"
        backend = f"{{url: '{url}', ca: {ca}}}"
        client = client.replace(":6380", ":0").replace("wss://gw.example.org:8443/redis", backend)
        with Daemon(client) as near:
            assert run("sh", "-c", ping.replace("6380", str(near.port()))) == b"PONG\n"
        port = free_port()
        command = command.strip().replace("6380", str(port)).replace("wss://gw.example.org:8443/redis", url)
        words = shlex.split(command.replace("wsbridge", f"{sys.executable} -m wsbridge", 1))
        with Program(*words, "--ca", ca) as bridge:
            bridge.accepts(port)
            assert run("sh", "-c", ping.replace("6380", str(port))) == b"PONG\n"
