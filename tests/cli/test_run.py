"""`run` as a process."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.cli.program import finished, started
from tests.clients.program import PATIENCE

CONFIG = """\
log: {level: error, format: json}
listeners:
  web: {bind: '127.0.0.1:%d'}
routes:
  vnc: {match: any, backend: 'tcp://127.0.0.1:5900'}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration with a warning, on a free port, that logs errors alone."""
    path = tmp_path / "wsbridge.yaml"
    path.write_text(CONFIG % 0)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(file: Path, number: signal.Signals) -> None:
    """A daemon without connections ends at once, with exit code 0 and all of its log written."""
    with started("run", str(file), "-v") as daemon:
        daemon.line('"event":"daemon.ready"')

        daemon.process.send_signal(number)

        assert daemon.process.wait(PATIENCE) == 0
        daemon.line('"event":"daemon.stopped"')
    assert "Traceback" not in "\n".join(daemon.lines)


def test_warnings_are_logged(file: Path) -> None:
    """What is risky is a log line with code and place; the options override what the file says about logs."""
    with started("run", "--log-level", "warning", "--log-format", "json", WSBRIDGE_CONFIG=str(file)) as daemon:
        line = json.loads(daemon.line(".*config.warning.*")[0])

    assert line["problem"] == "W001"
    assert (line["file"], line["line"], line["setting"]) == (str(file), 5, "routes.vnc")


def test_the_same_warning_of_many_routes_is_one_record(tmp_path: Path) -> None:
    """At start and at a reload; `check` prints it once."""
    file = tmp_path / "many.yaml"
    routes = "".join(f"  r{at}: {{match: {{path: /r{at}}}, backend: 'tcp://127.0.0.1:1'}}\n" for at in range(14))
    file.write_text(f"listeners: {{web: {{bind: 127.0.0.1:0}}}}\nroutes:\n{routes}")
    with started("run", str(file), "--log-format", "json") as daemon:
        daemon.line('"event":"daemon.ready"')
        daemon.process.send_signal(signal.SIGHUP)
        daemon.line('"event":"config.reloaded"')
    warnings = [json.loads(line) for line in daemon.lines if '"config.warning"' in line]

    assert [(line["problem"], line["setting"]) for line in warnings] == [("W001", "routes.r0")] * 2
    assert all(f"routes.r{at}" in warnings[0]["detail"] for at in range(1, 14))
    assert finished("check", str(file)).stderr.count(b"[W001]") == 1


def test_errors_of_the_file_are_records(file: Path) -> None:
    """Where no terminal reads them, the errors are lines of the log, so that a stream of JSON stays one."""
    file.write_text("listeners: {web: {bnid: x}}\nroutes: {}\n")

    done = finished("run", str(file))

    assert done.returncode == 78
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} == {"config.error"}
    assert ("listeners.web.bnid", 1, str(file)) in [(line.get("setting"), line["line"], line["file"]) for line in lines]


def test_an_address_that_is_taken(file: Path) -> None:
    """An address in use is one record that names listener and address, and exit code 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(CONFIG % port)

        done = finished("run", "-c", str(file))

    assert done.returncode == 69
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert said[-1]["event"] == "listener.error"
    assert said[-1]["detail"] == f'listener "web": cannot listen on 127.0.0.1:{port}: address already in use'
