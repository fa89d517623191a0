"""systemd: sd_notify datagrams, and the unit."""

from __future__ import annotations

import configparser
import errno
import grp
import itertools
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from wsbridge.config.load import load_file
from wsbridge.daemon import SystemdNotifier
from wsbridge.registry import CONFIG_REGISTRY

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "systemd"
UNIT = UNITS / "wsbridge.service"
TEMPLATE = UNITS / "wsbridge@.service"
SOCKET = UNITS / "wsbridge.socket"
DROP_INS = sorted((UNITS / "drop-ins").glob("*.conf"))
FIRST_VERSION = {"notify-reload": 253}
"""The first version of systemd that knows what a drop-in uses, where the unit's (252) does not."""


def manager(address: str) -> socket.socket:
    """Stand in for the service manager."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(address)
    listening.settimeout(10)
    return listening


def test_what_is_sent(tmp_path: Path) -> None:
    """Each call is one datagram of assignments."""
    path = str(tmp_path / "notify")
    with manager(path) as listening, closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        assert bool(notifier)
        assert all(
            [
                notifier.ready("17 connections"),
                notifier.status("18"),
                notifier.stopping(),
                notifier.notify(X="1", Y="2"),
            ]
        )
        assert [listening.recv(4096) for _ in range(4)] == [
            b"READY=1\nSTATUS=17 connections",
            b"STATUS=18",
            b"STOPPING=1",
            b"X=1\nY=2",
        ]


def test_abstract_address() -> None:
    """An address with @ is in the abstract namespace."""
    name = f"wsbridge-test-{os.getpid()}"
    with manager(f"\0{name}") as listening:
        with closing(SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"})) as notifier:
            assert notifier.ready()
        assert listening.recv(4096) == b"READY=1"


def test_a_status_stays_one_line(tmp_path: Path) -> None:
    """Text with line breaks cannot add assignments."""
    path = str(tmp_path / "notify")
    with manager(path) as listening, closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        notifier.status("a\nMAINPID=1\r\nb\udc80")

        assert listening.recv(4096) == b"STATUS=a MAINPID=1 b?"


def test_no_manager() -> None:
    """Without the variable, or with an address of another kind, nothing happens."""
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        assert not SystemdNotifier(environ)
        assert not SystemdNotifier(environ).ready()


@pytest.mark.parametrize("path", ["/nonexistent/notify", "/" + "x" * 200, "/a\0b", "@" + "x" * 200])
def test_a_manager_that_is_not_there(path: str) -> None:
    """An address that nobody listens at, or that cannot be one, is no error."""
    with closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        assert not notifier.ready()
        assert notifier.resend()


def test_a_manager_that_does_not_read(tmp_path: Path) -> None:
    """A full queue loses the datagram instead of blocking."""
    path = str(tmp_path / "notify")
    with manager(path), closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        assert not all(notifier.status("x") for _ in range(10_000))


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
def test_a_state_is_sent_once_it_can_be(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the queue is full, or the kernel has no memory, a state waits; what is sent again anyway does not."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    path = str(tmp_path / "notify")
    with manager(path) as listening, closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "sendto", fail)
            assert not any((notifier.ready(), notifier.status("17"), notifier.watchdog(), notifier.reloading()))
            assert not any((notifier.stopping(), notifier.resend()))
        assert notifier.resend()
        received = [listening.recv(4096).partition(b"\n")[0] for _ in range(3)]
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(1)
    assert received == [b"READY=1", b"RELOADING=1", b"STOPPING=1"]


def test_without_a_free_descriptor_the_manager_is_notified(tmp_path: Path) -> None:
    """As with more connections than the limit of open files allows: the watchdog would end them all."""
    path, limits = str(tmp_path / "notify"), resource.getrlimit(resource.RLIMIT_NOFILE)
    with manager(path) as listening, closing(SystemdNotifier({"NOTIFY_SOCKET": path})) as notifier:
        assert notifier.ready()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            sent = notifier.watchdog(), notifier.stopping()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert sent == (True, True)
        assert [listening.recv(4096) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def unit(path: Path = UNIT, section: str = "Service") -> dict[str, str]:
    """Give a section of a unit or a drop-in."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(path.read_text())
    return dict(parser[section])


def test_unit_knows_what_the_daemon_does() -> None:
    """The unit waits for READY=1, allows a drain its time to stop, and does not restart with an invalid file."""
    service = unit()

    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 20 + 5
    assert service["RestartPreventExitStatus"] == "78"
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["WatchdogSec"].removesuffix("s")) >= 10


def test_unit_gives_no_privilege() -> None:
    """The unit runs without capabilities, as a user of its own."""
    service = unit()

    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
    assert service["DynamicUser"] == service["NoNewPrivileges"] == service["MemoryDenyWriteExecute"] == "yes"


def test_unit_explains_itself() -> None:
    """Each group of settings begins with a comment."""
    for block in UNIT.read_text().split("\n\n")[2:]:
        lines = block.strip().splitlines()
        settings = [line for line in lines if re.match(r"[A-Z]", line)]
        assert not settings or lines[0].startswith(("#", "[")), block


def analyze(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze with the units of a directory, or skip the test."""
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        [command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin"},
        timeout=60,
    )


def install(directory: Path, *drop_ins: Path) -> None:
    """Install all units, with wsbridge where it is, and some drop-ins for each service."""
    for source, name in ((UNIT, UNIT.name), (TEMPLATE, TEMPLATE.name), (SOCKET, SOCKET.name)):
        text = source.read_text().replace("/usr/local/bin/wsbridge", f"{sys.executable} -m wsbridge")
        (directory / name).write_text(text)
    for service in (UNIT, TEMPLATE):
        for drop_in in drop_ins:
            (directory / f"{service.name}.d").mkdir(exist_ok=True)
            (directory / f"{service.name}.d" / drop_in.name).write_text(drop_in.read_text())


SERVICES = [
    pytest.param(name, drop_in, id=f"{name}-{drop_in.stem if drop_in else 'alone'}")
    for name in ("wsbridge.service", "wsbridge@gw.service")
    for drop_in in (None, *DROP_INS)
]


@pytest.mark.parametrize(("name", "drop_in"), [*SERVICES, pytest.param(SOCKET.name, None, id=SOCKET.name)])
def test_systemd_accepts_it(tmp_path: Path, name: str, drop_in: Path | None) -> None:
    """Each unit, alone and with each drop-in, has nothing that systemd does not know."""
    install(tmp_path, *([] if drop_in is None else [drop_in]))
    version = int(re.findall(r"systemd (\d+)", analyze("--version", directory=tmp_path).stdout)[0])
    if drop_in is not None and version < FIRST_VERSION.get(drop_in.stem, 0):
        pytest.skip(f"systemd {version} is too old for this drop-in")
    done = analyze("verify", "--man=no", str(tmp_path / name), directory=tmp_path)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "wsbridge" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize(("name", "drop_in"), SERVICES)
def test_the_services_are_confined(tmp_path: Path, name: str, drop_in: Path | None) -> None:
    """Each service, also with each drop-in, is rated as exposed by at most 2.0 of 10."""
    install(tmp_path, *([] if drop_in is None else [drop_in]))
    done = analyze("security", "--offline=true", "--threshold=20", name, directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_is_the_unit() -> None:
    """Both have the same settings, but each instance has a name, a configuration, a user and directories of its own."""
    for key, value in unit().items():
        expected = value
        if key in ("ExecStart", "ExecReload", "User", "RuntimeDirectory", "LogsDirectory"):
            expected = value.replace("/wsbridge.yaml", "/%i.yaml").replace("/run/wsbridge/", "/run/wsbridge-%i/")
            expected = f"{value}-%i" if expected == value else expected
        assert unit(TEMPLATE)[key] == expected, key
    assert unit(TEMPLATE).keys() == unit().keys()


def test_the_socket_unit_has_a_sample() -> None:
    """The sample binds the socket by the name that the unit gives it."""
    name = unit(SOCKET, "Socket")["FileDescriptorName"]
    sample = load_file(ROOT / "conf" / "socket-activation.yaml", CONFIG_REGISTRY, {}, check_files=False)
    assert [str(listener.bind) for listener in sample.config.listeners.values()] == [f"fd:{name}"]
    assert unit(SOCKET, "Socket")["Accept"] == "no"


def test_the_unit_binds_only_ports_that_it_may() -> None:
    """The drop-in for ports below 1024 gives that capability and no other."""
    service = unit(ROOT / "systemd" / "drop-ins" / "privileged-ports.conf")
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert service["PrivateUsers"] == "no"


AS_ANOTHER_USER = """
import os, sys
import encodings.idna
from wsbridge.cli.main import main
from wsbridge.cli.run import load_config
user, group = int(sys.argv.pop(1)), int(sys.argv.pop(1))
load_config(sys.argv[-1])
os.setgroups([])
os.setgid(group)
os.setuid(user)
sys.argv[0] = "wsbridge"
main()
"""
"""Runs wsbridge without privileges, though its files are root's alone: they are loaded before."""


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can be tried by root alone")
def test_unit_and_behind_nginx_work_together() -> None:
    """Without any capability, with the group of the drop-in, the socket is nginx' to open and nobody else's."""
    group = grp.getgrnam(unit(ROOT / "systemd" / "drop-ins" / "behind-nginx.conf")["Group"]).gr_gid
    runtime = Path(tempfile.mkdtemp(dir="/run"))  # with parents that others may enter
    user = 61184  # one of those that systemd gives to dynamic users
    try:
        os.chown(runtime, user, group)
        runtime.chmod(int(unit()["RuntimeDirectoryMode"], 8))
        config = runtime / "wsbridge.yaml"
        config.write_text((ROOT / "conf" / "behind-nginx.yaml").read_text().replace("/run/wsbridge", str(runtime)))
        command = [sys.executable, "-c", AS_ANOTHER_USER, str(user), str(group), "run", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/") as daemon:
            try:
                assert daemon.stderr is not None
                lines = iter(daemon.stderr.readline, "")
                seen = list(itertools.takewhile(lambda line: "daemon.ready" not in line, lines))
                assert daemon.poll() is None, seen
                assert may_connect(runtime / "gw.sock", group)
                assert not may_connect(runtime / "gw.sock", pwd.getpwnam("nobody").pw_gid)
            finally:
                daemon.terminate()
        assert daemon.returncode == 0
    finally:
        shutil.rmtree(runtime)


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can be tried by root alone")
def test_an_owner_that_the_process_may_not_set_is_warned_of() -> None:
    """`check`, run without privileges, finds that the socket cannot be given away; `run` exits with 78."""
    runtime = Path(tempfile.mkdtemp(dir="/run"))
    try:
        os.chown(runtime, 61184, 61184)
        config = runtime / "wsbridge.yaml"
        listener = f'{{bind: "unix:{runtime}/gw.sock", owner: root, mode: "0660"}}'
        config.write_text(
            f"listeners: {{web: {listener}}}\nroutes: {{app: {{match: any, respond: 204, auth: none}}}}\n"
        )
        for command, code in (("check", 0), ("run", 78)):
            done = subprocess.run(
                [sys.executable, "-c", AS_ANOTHER_USER, "61184", "61184", command, str(config)],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                timeout=30,
            )
            assert done.returncode == code, done.stderr
            assert "W028" in done.stdout + done.stderr
    finally:
        shutil.rmtree(runtime)


def may_connect(path: Path, group: int) -> bool:
    """Try to connect as a user of this group."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(23456)
        with socket.socket(socket.AF_UNIX) as sock:
            os._exit(sock.connect_ex(str(path)) != 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
