"""`check`: what it says of a file, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import WSBRIDGE, finished, invoke
from tests.clients.program import PATIENCE

RISKY = """\
listeners:
  web: {bind: 127.0.0.1:8080}
routes:
  vnc: {match: any, backend: 'tcp://127.0.0.1:5900'}
  health: {match: {path: /health}, respond: 204}
"""
GOOD = RISKY.replace("5900'}", "5900', auth: none}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the configuration is."""
    return tmp_path / "wsbridge.yaml"


def test_good(file: Path) -> None:
    """A good file exits with 0 and is reported in numbers."""
    file.write_text(GOOD)

    result = invoke("check", str(file))

    assert result.exit_code == 0
    assert result.output == f"{file}: OK: 1 listener, 2 routes, 0 warnings\n"


def test_warnings(file: Path) -> None:
    """Warnings are shown with their code; only --strict makes them errors."""
    file.write_text(RISKY)

    lax, strict = invoke("check", "-c", str(file)), invoke("check", "--strict", "-c", str(file))

    assert (lax.exit_code, strict.exit_code) == (0, 78)
    for result in (lax, strict):
        assert f"{file}:4:3: warning: routes.vnc: " in result.output
        assert "[W001]" in result.output
    assert "OK: 1 listener, 2 routes, 1 warning\n" in lax.output
    assert "good" not in strict.output
    assert "--strict" in strict.output


def test_a_warning_that_is_allowed(file: Path) -> None:
    """Strict about all but those; they are printed. What is no warning cannot be allowed."""
    file.write_text(RISKY)
    allowed = invoke("check", "--strict", "--allow", "W032", "--allow", "W001", str(file))
    assert allowed.exit_code == 0
    assert "[W001]" in allowed.output
    assert "OK: 1 listener, 2 routes, 1 warning\n" in allowed.output

    other = invoke("check", "--strict", "--allow", "W032", str(file))
    assert other.exit_code == 78
    assert "1 warning, which --strict treats as errors" in other.output
    for code in ("E001", "w001", "W999"):
        wrong = invoke("check", "--allow", code, str(file))
        assert wrong.exit_code == 64
        assert f'"{code}" is no warning' in wrong.output


def test_the_effective_settings(file: Path) -> None:
    """As YAML that loads again, with places; as part of the JSON; and not where there is an error."""
    file.write_text(RISKY)
    result = invoke("check", "--show", str(file))
    assert result.exit_code == 0
    assert f"    match: any  # {file}:" in result.stdout
    assert "    backlog: 1024  # default\n" in result.stdout
    assert "[W001]" in result.stderr
    again = file.with_name("again.yaml")
    again.write_text(result.stdout)
    assert invoke("check", "--show", str(again)).stdout.replace("again.yaml", file.name).count("\n") == (
        result.stdout.count("\n")
    )
    report = json.loads(invoke("check", "--show", "--format", "json", str(file)).stdout)
    assert report["settings"]["listeners"]["web"]["backlog"] == 1024
    file.write_text("listeners: {}\n")
    assert invoke("check", "--show", str(file)).stdout == ""


def test_without_files(file: Path) -> None:
    """Certificates, secrets, credentials and their variables need not be there; the form is checked all the same."""
    file.write_text(
        "listeners:\n"
        "  web: {bind: '0.0.0.0:8443', tls: {certificates: [{cert: gone.pem, key: {credential: key.pem}}]}}\n"
        "routes:\n"
        "  vnc:\n"
        "    match: any\n"
        "    auth: {kind: basic, users: gone}\n"
        "    backend: {url: 'wss://gw.example.org', headers: {A: {file: gone}, B: {env: GONE}}}\n"
    )
    assert invoke("check", str(file)).exit_code == 78
    result = invoke("check", "--no-files", str(file))
    assert (result.exit_code, result.output) == (0, f"{file}: OK: 1 listener, 1 route, 0 warnings\n")
    file.write_text(file.read_text().replace("users: gone", "users: gone, x: y"))
    assert "unknown key" in invoke("check", "--no-files", str(file)).output


def test_json(file: Path) -> None:
    """The JSON form holds the verdict, the numbers and every problem with its place, and nothing else is printed."""
    file.write_text(RISKY)
    good = json.loads(invoke("check", "--format", "json", str(file)).output)
    file.write_text(RISKY.replace("any", "all").replace("204", "20"))
    result = invoke("check", "--format", "json", str(file))
    bad = json.loads(result.output)

    assert (good["ok"], good["listeners"], good["routes"]) == (True, 1, 2)
    assert [(each["code"], each["severity"], each["line"]) for each in good["problems"]] == [("W001", "warning", 4)]
    assert result.exit_code == 78
    assert (bad["ok"], bad["listeners"]) == (False, None)
    assert [each["setting"] for each in bad["problems"] if each["severity"] == "error"] == [
        "routes.vnc.match",
        "routes.health.respond",
    ]


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    """JSON holds it as every reader accepts it."""
    file = tmp_path / os.fsdecode(b"\xe9.yaml")
    file.write_text("x: 1\n")
    report = invoke("check", "--format", "json", str(file)).output.encode("utf-8")
    assert json.loads(report)["file"] == json.loads(report)["problems"][0]["file"] == f"{tmp_path}/\\xe9.yaml"
    assert b"\\ud" not in report
    file.write_text("")
    main = tmp_path / "main.yaml"
    routes = "routes: {vnc: {match: any, respond: '204'}}"
    main.write_text(f"include: ['*.yaml']\nlisteners: {{web: {{bind: 127.0.0.1:1}}}}\n{routes}\n")
    report = invoke("check", "--format", "json", str(main)).output.encode("utf-8")
    assert json.loads(report)["included"] == [f"{tmp_path}/\\xe9.yaml"]


def test_standard_input(file: Path) -> None:
    """`-` reads the configuration from standard input; problems name it, and its lines."""
    good = finished("check", "-", input=GOOD.encode())
    bad = finished("check", "-", input=GOOD.replace("bind", "bnid").encode())

    assert (good.returncode, good.stdout) == (0, b"standard input: OK: 1 listener, 2 routes, 0 warnings\n")
    assert bad.returncode == 78
    assert b"standard input:2:9: listeners.web.bnid: unknown key" in bad.stderr


def test_two_files_are_one_too_many(file: Path) -> None:
    """FILE and another -c FILE are a usage error."""
    result = invoke("check", str(file), "-c", "/other.yaml")

    assert result.exit_code == 64


def test_a_terminal_gets_a_table(file: Path) -> None:
    """On a terminal a table shows who leads to each route and where it leads."""
    site = "  page: {match: {path: /page/*}, files: {dir: site, index: vnc.html}, auth: none}\n"
    (file.parent / "site").mkdir()
    file.write_text(GOOD + site)
    mine, its = pty.openpty()
    try:
        env = {**os.environ, "COLUMNS": "120", "TERM": "dumb"}
        subprocess.run([*WSBRIDGE, "check", str(file)], stdout=its, env=env, check=True, timeout=PATIENCE)
        shown = os.read(mine, 65536).decode()
    finally:
        os.close(mine)
        os.close(its)

    assert "OK: 1 listener" in shown
    assert "web (127.0.0.1:8080)" in shown
    assert "tcp://127.0.0.1:5900" in shown
    assert "status 204" in shown
    assert "files in " in shown
    assert "FilesConfig" not in shown
