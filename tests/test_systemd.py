"""systemd: the datagrams that the service manager gets, and the unit."""

from __future__ import annotations

import configparser
import os
import re
import socket
from pathlib import Path

import pytest

from wsbridge.daemon import SystemdNotifier

UNIT = Path(__file__).parents[1] / "systemd" / "wsbridge.service"


def manager(address: str) -> socket.socket:
    """Stand in for the service manager."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(address)
    listening.settimeout(10)
    return listening


def test_what_is_sent(tmp_path: Path) -> None:
    """Each call is one datagram of assignments."""
    path = str(tmp_path / "notify")
    with manager(path) as listening:
        notifier = SystemdNotifier({"NOTIFY_SOCKET": path})

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
        assert SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listening.recv(4096) == b"READY=1"


def test_a_status_stays_one_line(tmp_path: Path) -> None:
    """Text with line breaks cannot add assignments."""
    path = str(tmp_path / "notify")
    with manager(path) as listening:
        SystemdNotifier({"NOTIFY_SOCKET": path}).status("a\nMAINPID=1\r\nb\udc80")

        assert listening.recv(4096) == b"STATUS=a MAINPID=1 b?"


def test_no_manager() -> None:
    """Without the variable, or with an address of another kind, nothing happens."""
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        assert not SystemdNotifier(environ)
        assert not SystemdNotifier(environ).ready()


@pytest.mark.parametrize("path", ["/nonexistent/notify", "/" + "x" * 200, "/a\0b", "@" + "x" * 200])
def test_a_manager_that_is_not_there(path: str) -> None:
    """An address that nobody listens at, or that cannot be one, is no error."""
    assert not SystemdNotifier({"NOTIFY_SOCKET": path}).ready()


def test_a_manager_that_does_not_read(tmp_path: Path) -> None:
    """A full queue loses the datagram instead of blocking."""
    path = str(tmp_path / "notify")
    with manager(path):
        notifier = SystemdNotifier({"NOTIFY_SOCKET": path})

        assert not all(notifier.status("x") for _ in range(10_000))


def unit() -> dict[str, str]:
    """Give the section [Service] of the unit."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of a unit keep their case
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def test_unit_knows_what_the_daemon_does() -> None:
    """The unit waits for READY=1, stops no sooner than a drain takes, and does not restart into a wrong file."""
    service = unit()

    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 20 + 5
    assert service["RestartPreventExitStatus"] == "78"
    assert service["KillSignal"] == "SIGTERM"


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
