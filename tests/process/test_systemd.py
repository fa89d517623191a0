"""The shipped units under a real systemd, where one can be booted: that needs root, cgroup2 and systemd."""

import base64
import threading
import time

import pytest
import trio

from tests.client import CLOSE, frame, request
from tests.clients.program import free_port
from tests.process.booted_systemd import ROOT, BootedSystemd, CannotBootError
from tests.process.plain import Socket, backend
from tests.process.streams import echo_backend, running
from tests.process.test_restart import Loop, attempt
from tests.serving import written

pytestmark = pytest.mark.soak

CONFIG = "/etc/wsbridge/wsbridge.yaml"


def config(bind, url):
    """Return a configuration with a page and a backend."""
    routes = {
        "app": {"match": {"path": "/ws"}, "backend": url, "auth": "none", "resume": {}},
        "page": {"match": {"path": "/"}, "respond": "204", "auth": "none"},
    }
    timeouts = {"drain": "4s", "drain_spread": "200ms", "close": "1s"}
    return written(listeners={"web": {"bind": bind}}, routes=routes, timeouts=timeouts)


def write_config(booted, name, text):
    """Write the configuration of a service inside."""
    assert booted.run("sh", "-c", f"cat > /etc/wsbridge/{name}.yaml <<'END'\n{text}\nEND").returncode == 0


@pytest.fixture(scope="module")
def back():
    """A backend that echoes."""
    with backend() as found:
        yield found


@pytest.fixture(scope="module")
def ports():
    """The port of the socket unit, and that of an instance of the template."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def booted(back, ports):
    """A systemd with both services running: wsbridge with its socket, and wsbridge@gw with a listener of its own."""
    units = "/etc/systemd/system"
    drop_ins = ROOT / "systemd" / "drop-ins"
    files = {
        f"{units}/wsbridge.service.d/socket-activation.conf": (drop_ins / "socket-activation.conf").read_text(),
        f"{units}/wsbridge.service.d/test.conf": "[Service]\nTimeoutStopSec=1s\nWatchdogSec=2s\nRestartSec=100ms\n",
        f"{units}/wsbridge.socket.d/test.conf": f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{ports[0]}\n",
        CONFIG: config("fd:web", back.url),
        "/etc/wsbridge/gw.yaml": config(f"127.0.0.1:{ports[1]}", back.url),
    }
    try:
        with BootedSystemd(files) as systemd:
            systemd.systemctl("start", "wsbridge.socket", "wsbridge.service", "wsbridge@gw.service")
            yield systemd
    except CannotBootError as error:
        pytest.skip(f"systemd cannot be booted here: {error}")


def main_pid(booted):
    """Return the PID of the service, inside."""
    return booted.show("wsbridge", "MainPID")


def test_the_services_run_confined(booted, ports):
    """Both serve, each with a user, a directory and an admin socket of its own."""
    for port in ports:
        assert attempt(("127.0.0.1", port)).startswith(b"HTTP/1.1 204")
    for unit, directory in (("wsbridge", "/run/wsbridge"), ("wsbridge@gw", "/run/wsbridge-gw")):
        assert booted.show(unit, "StatusText").startswith(("serving", "0 connections"))
        done = booted.run("wsbridge", "status", "--admin", f"{directory}/admin.sock")
        assert "serving" in done.stdout, done.stderr
        assert booted.run("stat", "-c", "%U %a", f"{directory}/admin.sock").stdout.split()[1] == "660"
    assert booted.show("wsbridge", "User") == "wsbridge"


def test_a_reload_fails_if_the_file_is_invalid(booted, ports):
    """`systemctl reload` has the exit code of `wsbridge reload`; the service goes on with what it had."""
    pid = main_pid(booted)
    booted.systemctl("reload", "wsbridge")
    booted.run("cp", CONFIG, "/tmp/good.yaml")
    booted.run("sh", "-c", f"echo nonsense: 1 >> {CONFIG}")
    assert booted.run("systemctl", "reload", "wsbridge").returncode != 0
    booted.run("cp", "/tmp/good.yaml", CONFIG)
    assert attempt(("127.0.0.1", ports[0])).startswith(b"HTTP/1.1 204")
    assert main_pid(booted) == pid
    assert "config.reload_failed" in booted.journal()


def test_a_restart_refuses_nobody(booted, ports):
    """Over restarts, and over a drain that is longer than TimeoutStopSec, each attempt to connect is served."""
    with Loop(("127.0.0.1", ports[0])) as loop:
        for _ in range(3):
            loop.reach(loop.count + 100)
            booted.systemctl("restart", "wsbridge")
        with Socket.upgraded(ports[0], "/ws") as client:
            client.echoed()
            restarting = threading.Thread(target=booted.systemctl, args=("restart", "wsbridge"))
            restarting.start()
            time.sleep(2)  # TimeoutStopSec is 1s
            client.echoed()
            client.send(frame(CLOSE, b"\x03\xe8"))
            assert client.closing()[0] == 1000
            restarting.join(30)
        loop.reach(loop.count + 100)
    assert loop.responses == {"HTTP/1.1 204 No Content": loop.count}
    assert booted.show("wsbridge", "NRestarts") == "0"


def test_sessions_go_on_over_restarts(booted, ports, back):
    """Streams both ways, exact to the byte; the store is empty again when the service runs."""

    async def main():
        async with echo_backend() as echo:
            write_config(booted, "wsbridge", config("fd:web", echo.url))
            booted.systemctl("restart", "wsbridge")
            async with running(f"ws://127.0.0.1:{ports[0]}/ws", 5) as streams:
                for _ in range(3):
                    for one in streams:
                        await one.moves()
                    await trio.to_thread.run_sync(booted.systemctl, "restart", "wsbridge")
                    for one in streams:
                        await one.moves()
                    assert booted.show("wsbridge", "NFileDescriptorStore") == "0"
            assert echo.dials == 5

    try:
        trio.run(main)
    finally:
        write_config(booted, "wsbridge", config("fd:web", back.url))
        booted.systemctl("restart", "wsbridge")
    assert "sessions.adopted" in booted.journal()


@pytest.mark.parametrize(("number", "result"), [("KILL", "signal"), ("STOP", "watchdog")])
def test_a_process_that_dies_or_hangs_is_restarted(booted, ports, number, result):
    """After SIGKILL, and after the watchdog has found that it hangs, nobody is refused."""
    before = main_pid(booted)
    with Loop(("127.0.0.1", ports[0])) as loop:
        loop.reach(50)
        booted.systemctl("kill", "--kill-who=main", f"--signal={number}", "wsbridge")
        deadline = time.monotonic() + 30
        while main_pid(booted) in (before, "0") or booted.show("wsbridge", "ActiveState") != "active":
            assert time.monotonic() < deadline, booted.journal()
            time.sleep(0.1)
        loop.reach(loop.count + 50)
    assert "ConnectionRefusedError" not in loop.responses
    assert loop.count - loop.responses["HTTP/1.1 204 No Content"] <= 1
    assert f"Failed with result '{result}'" in booted.journal()


def test_a_fence_holds_for_backends_but_not_for_passed_sockets(booted, ports):
    """With IPAddressDeny=any, clients of the socket unit are served, and the backend cannot be reached."""
    booted.systemctl("set-property", "--runtime", "wsbridge.service", "IPAddressDeny=any")
    try:
        if "IP firewall" in booted.journal():
            pytest.skip("the kernel does not filter by control group")
        assert attempt(("127.0.0.1", ports[0])).startswith(b"HTTP/1.1 204")
        with Socket.connect(ports[0]) as client:
            client.send(request("/ws"))
            assert client.head().startswith(("HTTP/1.1 502", "HTTP/1.1 504"))
    finally:
        booted.systemctl("set-property", "--runtime", "wsbridge.service", "IPAddressDeny=")
    with Socket.upgraded(ports[0], "/ws") as client:
        client.echoed()


def test_a_restart_into_an_invalid_file_can_be_mended(booted, ports):
    """Clients wait until the file is valid, and are served then; the service starts by itself."""
    booted.run("cp", CONFIG, "/tmp/good.yaml")
    booted.run("sh", "-c", f"echo '[]' > {CONFIG}")
    assert booted.run("systemctl", "restart", "wsbridge").returncode != 0
    with Socket.connect(ports[0]) as client:
        client.send(request("/ws"))
        time.sleep(3)
        booted.run("cp", "/tmp/good.yaml", CONFIG)
        client.sock.settimeout(60)
        assert client.head().startswith("HTTP/1.1 101")
        client.echoed()
    assert "code=exited, status=78/CONFIG" in booted.journal()


def test_a_client_starts_the_service(booted, ports):
    """While the service is stopped and its socket is not, a client starts it; stopping the socket stops both."""
    booted.systemctl("stop", "wsbridge.service")
    assert attempt(("127.0.0.1", ports[0])).startswith(b"HTTP/1.1 204")
    booted.systemctl("stop", "wsbridge.socket")
    assert booted.show("wsbridge", "ActiveState") == "inactive"
    with pytest.raises(ConnectionRefusedError):
        attempt(("127.0.0.1", ports[0]))
    booted.systemctl("start", "wsbridge.socket", "wsbridge.service")


def test_files_of_a_group_can_be_read(booted, ports, back):
    """As docs/deploy.md says: a group owns the file with password hashes, and is one of those of the service."""
    drop_in = "/etc/systemd/system/wsbridge@gw.service.d"
    booted.run("groupadd", "--system", "wsbridge-config")
    booted.run("install", "-m", "0640", "-g", "wsbridge-config", "/dev/null", "/etc/wsbridge/users")
    hashed = booted.run("sh", "-c", "printf 'secret\\n' | wsbridge hash-password alice >> /etc/wsbridge/users")
    assert hashed.returncode == 0, hashed.stderr
    text = config(f"127.0.0.1:{ports[1]}", back.url).replace(
        '"auth": "none"', '"auth": {"kind": "basic", "users": "/etc/wsbridge/users"}', 1
    )
    write_config(booted, "gw", text)
    assert booted.run("systemctl", "restart", "wsbridge@gw").returncode != 0
    booted.run("mkdir", "-p", drop_in)
    booted.run("sh", "-c", f"printf '[Service]\\nSupplementaryGroups=wsbridge-config\\n' > {drop_in}/config.conf")
    booted.systemctl("daemon-reload")
    booted.systemctl("restart", "wsbridge@gw")
    answers = []
    for password in ("secret", "wrong"):
        with Socket.connect(ports[1]) as client:
            token = base64.b64encode(f"alice:{password}".encode()).decode()
            client.send(request("/ws", f"Authorization: Basic {token}"))
            answers.append(client.head().split()[1])
    assert answers == ["101", "401"]
