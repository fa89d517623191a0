"""The Debian package: installed with the real dpkg under a real systemd, served, upgraded, purged.

What needs no package to be built is in `test_debian_sources`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
import time
import urllib.request

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.client import request
from tests.clients.program import PATIENCE, free_port, program
from tests.package.builds import ROOT
from tests.process.booted_systemd import BootedSystemd, CannotBootError
from tests.process.plain import Socket, backend
from tests.process.test_restart import Loop, attempt
from tests.serving import written
from wsbridge import __version__

pytestmark = pytest.mark.soak

CONFIG = "/etc/wsbridge/wsbridge.yaml"
NEWER = "9.9.9"
PACKAGE, UPGRADE = "/srv/wsbridge.deb", "/srv/newer.deb"


@pytest.fixture(scope="module")
def package(wheel, tmp_path_factory):
    """The package of this tree."""
    target = tmp_path_factory.mktemp("package")
    command = [ROOT / "package/debian/build.sh", wheel, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = target.glob(f"wsbridge_{__version__}-*.deb")
    assert done.stdout.split()[-1] == str(path)
    return path


@pytest.fixture(scope="module")
def newer(package, tmp_path_factory):
    """The same package with a higher version, in the program too."""
    root = tmp_path_factory.mktemp("newer") / "root"
    subprocess.run(["dpkg-deb", "-R", package, root], check=True)
    (module,) = root.glob("usr/lib/wsbridge/lib/python3.*/site-packages/wsbridge/__init__.py")
    for path, old in ((root / "DEBIAN/control", f"Version: {__version__}"), (module, f'__version__ = "{__version__}"')):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, old.replace(__version__, NEWER)))
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, root.parent], check=True)
    (path,) = root.parent.glob("*.deb")
    return path


@pytest.fixture
def booted(package, newer):
    """A systemd with the packages at hand; a policy of the host does not keep services from starting."""
    try:
        with BootedSystemd({PACKAGE: package, UPGRADE: newer}, installed=False) as systemd:
            systemd.run("rm", "-f", "/usr/sbin/policy-rc.d")
            systemd.run("systemctl", "start", "systemd-journald")
            yield systemd
    except CannotBootError as error:
        pytest.skip(f"systemd cannot be booted here: {error}")


@pytest.fixture
def back():
    """A backend that echoes."""
    with backend() as found:
        yield found


def succeeds(booted, *command):
    """Run a command inside, which must succeed; return what it prints."""
    done = booted.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr + booted.journal()
    return done.stdout


def install(booted, package=PACKAGE):
    """Install or upgrade; return what is printed."""
    environ = ("env", "DEBIAN_FRONTEND=noninteractive")
    done = booted.run(*environ, "apt-get", "install", "-y", "--no-install-recommends", package)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(booted, path, text):
    """Write a file inside."""
    succeeds(booted, "sh", "-c", f"cat > {path} <<'END'\n{text}\nEND")


def configuration(bind, url, **route):
    """Return a configuration with a page and a backend."""
    routes = {
        "app": {"match": {"path": "/ws"}, "backend": url, "auth": "none", **route},
        "page": {"match": {"path": "/"}, "respond": "204", "auth": "none"},
    }
    timeouts = {"drain": "6s", "drain_spread": "200ms", "close": "1s"}
    return written(listeners={"web": {"bind": bind}}, routes=routes, timeouts=timeouts)


def shell_block(beginning):
    """Return the commands of docs/install.md that begin like this."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/install.md").read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(beginning))
    return found


def status(booted):
    """Return what `wsbridge status` reports."""
    return json.loads(succeeds(booted, "wsbridge", "status", "--json"))


def test_lintian_finds_nothing(package):
    """But what is overridden, with a reason for each."""
    command = [program("lintian"), "--fail-on", "error,warning", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_build_can_be_repeated(package, wheel, tmp_path):
    """Another build has the same bytes, whatever the time and the file system."""
    environ = {**os.environ, "TMPDIR": "/dev/shm"}
    subprocess.run([ROOT / "package/debian/build.sh", wheel, tmp_path], check=True, capture_output=True, env=environ)
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()


def test_a_fresh_installation_serves_nobody_and_can_be_configured(booted, back):
    """It runs at once, at a Unix socket alone; then it is configured as docs/install.md says."""
    install(booted)
    assert booted.show("wsbridge", "ActiveState") == "active"
    assert booted.show("wsbridge", "UnitFileState") == "enabled"
    assert booted.show("wsbridge.socket", "UnitFileState") == "disabled"
    assert booted.show("wsbridge", "User") == "wsbridge"
    assert status(booted)["listeners"] == ["unix:/run/wsbridge/local.sock"]
    health = "curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/wsbridge/local.sock http://localhost/healthz"
    assert succeeds(booted, "sh", "-c", health) == "204"
    assert succeeds(booted, "dpkg", "--verify", "wsbridge") == ""
    assert "/usr/share/man/man5/wsbridge.yaml.5.gz" in succeeds(booted, "man", "-w", "wsbridge.yaml")
    assert (
        succeeds(booted, "systemd-analyze", "verify", "wsbridge.service", "wsbridge.socket", "wsbridge@a.service") == ""
    )
    schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", succeeds(booted, "cat", CONFIG))
    assert json.loads(succeeds(booted, "cat", schema[1]))["title"] == "wsbridge.yaml"
    found = succeeds(booted, "stat", "-c", "%a %U %G", "/etc/wsbridge/secrets", CONFIG)
    assert found.splitlines() == ["750 root wsbridge", "644 root root"]

    port = free_port()
    assert "install -m 0640 -g wsbridge /dev/null /etc/wsbridge/secrets/users" in succeeds(booted, "cat", CONFIG)
    commands = shell_block("install -m 0640").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    succeeds(booted, "sh", "-ec", f"cd /root\n{commands}".replace("tcp://10.0.0.5:5900", back.url))
    secret = succeeds(booted, "cat", "/root/alice.secret").strip()
    for password, answer in ((secret, "101"), ("wrong", "401")):
        with Socket.connect(port) as client:
            token = base64.b64encode(f"alice:{password}".encode()).decode()
            client.send(request("/vnc", f"Authorization: Basic {token}"))
            assert client.head().split()[1] == answer


def test_the_demo(booted):
    """The command of the package serves the page and its connection."""
    install(booted)
    port = free_port()
    succeeds(booted, "systemd-run", "--unit=demo", "-p", "DynamicUser=yes", "wsbridge", "demo", "--port", str(port))
    deadline = time.monotonic() + PATIENCE
    while "The demo is at" not in succeeds(booted, "journalctl", "-u", "demo", "-o", "cat"):
        assert time.monotonic() < deadline, booted.journal()
        time.sleep(0.1)
    url = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        assert b"wsbridge" in answer.read()
    with connect(f"ws://127.0.0.1:{port}/ws", origin=Origin(url), subprotocols=[Subprotocol("binary")]) as client:
        assert b"wsbridge demo service" in client.recv()


def test_an_upgrade_keeps_the_configuration_and_drains(booted, back):
    """With socket activation: nobody is refused, an open connection goes on meanwhile, and the new version runs."""
    install(booted)
    port = free_port()
    drop_in = "/etc/systemd/system/wsbridge.service.d/socket-activation.conf"
    example = "/usr/share/doc/wsbridge/systemd/drop-ins/socket-activation.conf"
    succeeds(booted, "install", "-D", "-m", "0644", example, drop_in)
    succeeds(booted, "mkdir", "-p", "/etc/systemd/system/wsbridge.socket.d")
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    write(booted, "/etc/systemd/system/wsbridge.socket.d/port.conf", listen)
    text = configuration("fd:web", back.url)
    write(booted, CONFIG, text)
    booted.systemctl("daemon-reload")
    booted.systemctl("stop", "wsbridge")
    booted.systemctl("enable", "--now", "wsbridge.socket", "wsbridge.service")
    assert status(booted)["version"] == __version__

    printed = []
    with Loop(("127.0.0.1", port)) as loop, Socket.upgraded(port, "/ws") as client:
        loop.reach(50)
        upgrade = threading.Thread(target=lambda: printed.append(install(booted, UPGRADE)))
        upgrade.start()
        while status_of(booted) != "deactivating":
            client.echoed()
        client.echoed()
        assert client.closing()[0] == 1012
        upgrade.join(PATIENCE)
        loop.reach(loop.count + 50)
    assert loop.responses == {"HTTP/1.1 204 No Content": loop.count}
    assert status(booted)["version"] == NEWER
    assert succeeds(booted, "cat", CONFIG).strip() == text.strip()
    assert succeeds(booted, "find", "/etc/wsbridge", "-name", "*.dpkg-*") == ""
    assert "not restarted" not in printed[0]


def status_of(booted):
    """Return the state of the service."""
    return booted.show("wsbridge", "ActiveState")


def test_an_upgrade_restarts_only_what_has_a_valid_configuration(booted, back):
    """The old process serves on if the new version rejects the file; instances of the template are upgraded too."""
    install(booted)
    ports = (free_port(), free_port())
    write(booted, CONFIG, configuration(f"127.0.0.1:{ports[0]}", back.url))
    write(booted, "/etc/wsbridge/gw.yaml", configuration("127.0.0.1:${PORT}", back.url))
    succeeds(booted, "mkdir", "-p", "/etc/systemd/system/wsbridge@gw.service.d")
    write(booted, "/etc/systemd/system/wsbridge@gw.service.d/port.conf", f"[Service]\nEnvironment=PORT={ports[1]}")
    booted.systemctl("daemon-reload")
    booted.systemctl("reload", "wsbridge")
    booted.systemctl("start", "wsbridge@gw")
    pids = [booted.show(unit, "MainPID") for unit in ("wsbridge", "wsbridge@gw")]

    write(booted, CONFIG, "listeners: {web: {bind: nowhere}}")
    printed = install(booted, UPGRADE)

    assert "wsbridge.service was not restarted" in printed
    assert "listeners.web.bind" in printed
    assert booted.show("wsbridge", "MainPID") == pids[0]
    assert booted.show("wsbridge@gw", "MainPID") != pids[1]
    for port in ports:
        assert attempt(("127.0.0.1", port)).startswith(b"HTTP/1.1 204")


def test_a_purge_leaves_nothing_but_files_of_others(booted):
    """`remove` keeps configuration and logs; `purge` removes all that came with the package or from the service."""
    before = own_files(booted)
    install(booted)
    audit = "/var/log/wsbridge/audit.jsonl"
    text = succeeds(booted, "cat", CONFIG)
    write(booted, CONFIG, f"{text}\naudit: {{file: {audit}}}\n")
    booted.systemctl("restart", "wsbridge")
    install(booted)  # once more the same
    succeeds(booted, "dpkg", "--remove", "wsbridge")
    assert booted.run("systemctl", "is-active", "wsbridge").stdout.strip() == "inactive"
    assert succeeds(booted, "stat", "-c", "%U %a", audit) == "wsbridge 600\n"

    install(booted)
    assert booted.show("wsbridge", "ActiveState") == "active"
    write(booted, "/etc/wsbridge/secrets/mine", "secret")
    succeeds(booted, "dpkg", "--purge", "wsbridge")
    assert own_files(booted) - before == {"/etc/wsbridge"}
    assert succeeds(booted, "find", "/etc/wsbridge", "-type", "f") == "/etc/wsbridge/secrets/mine\n"
    assert booted.run("systemctl", "cat", "wsbridge").returncode != 0

    succeeds(booted, "rm", "-r", "/etc/wsbridge")
    install(booted)
    succeeds(booted, "dpkg", "--purge", "wsbridge")
    assert own_files(booted) == before
    assert booted.run("getent", "passwd", "wsbridge").returncode == 0  # a number that files may have is not used again


def own_files(booted):
    """Return the files of the system that have the name."""
    found = succeeds(
        booted, "sh", "-c", "find /etc /usr /lib /var /run -xdev -name '*wsbridge*' ! -path '*-test.target*'"
    )
    return {path for path in found.splitlines() if not re.search(r"/apt/|/run/systemd/", path)}
