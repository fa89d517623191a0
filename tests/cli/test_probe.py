"""`wsbridge probe` on the command line: its arguments, and what it prints. What it finds is in tests/probe."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.backends import serving
from tests.cli.program import QUIET, WSBRIDGE, finished, invoke
from tests.clients.program import PATIENCE, free_port
from tests.probe.probing import QUICK, answers, page, read_head, websocket
from wsbridge.cli.main import cli

URL = "ws://gw.example.org/"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "URL: must be of the form"),
        (["https://gw.example.org/vnc"], "write wss://gw.example.org/vnc"),
        (["10.0.0.5:5900"], "write tcp://10.0.0.5:5900"),
        (["ws://{host}/"], "URL: write values for the fields"),
        ([URL, "--timeout", "soon"], "--timeout: "),
        ([URL, "--idle", "5"], "--idle: "),
        ([URL, "--ca", "x"], "--ca: means nothing for a ws URL"),
        (["tcp://10.0.0.5:22", "--origin", "https://a"], "--origin: means nothing for a tcp URL"),
        (["tcp://10.0.0.5:22", "--idle", "5m"], "--idle: means nothing for a tcp URL"),
        (["tls://10.0.0.5:22", "--user", "me:x"], "--user: means nothing for a tls URL"),
        ([URL, "--header", "x"], "--header: write 'Name: value'"),
        ([URL, "--header", "Upgrade: x"], "--header: Upgrade is written by the handshake itself"),
        ([URL, "--header", "A b: x"], "characters that HTTP cannot carry"),
        ([URL, "--subprotocol", "a b"], "characters that HTTP cannot carry"),
        ([URL, "--origin", "gw.example.org"], "--origin: write scheme://host"),
        ([URL, "--user", "me:x", "--token", "y"], "write one of them"),
        ([URL, "--user", "me"], "--user: write --password-file FILE"),
        ([URL, "--password-file", "x"], "--password-file needs --user"),
        ([URL, "--token", "two words"], "--token: a token is printable ASCII"),
        ([URL, "--token-file", "/nonexistent"], "--token-file: /nonexistent: No such file"),
        ([URL, "--proxy", "socks5://a:1"], "--proxy: socks5 proxies are not supported"),
        (["wss://gw.example.org/", "--server-name", ".example.org"], "--server-name: "),
        (["wss://gw.example.org/", "--client-key", "x"], "--client-key needs --client-cert"),
        (["wss://gw.example.org/", "--ca", "/nonexistent"], "/nonexistent: cannot be read"),
    ],
)
def test_wrong_arguments(args: list[str], message: str) -> None:
    """A usage error names the argument, and nothing is connected to."""
    result = invoke("probe", *args)
    assert (result.exit_code, result.stdout) == (64, ""), result.output
    assert message in result.stderr
    assert "two words" not in result.output


def test_a_wrong_proxy_in_the_environment() -> None:
    """It is named by its variable."""
    result = CliRunner().invoke(cli, ["probe", URL], env={**QUIET, "http_proxy": "socks5://a:1"})
    assert result.exit_code == 78
    assert "http_proxy: socks5 proxies are not supported" in result.stderr


def test_the_proxy_of_the_environment() -> None:
    """It is used as `bridge` uses it."""

    def handle(sock: socket.socket) -> None:
        assert read_head(sock).startswith("CONNECT gw.example.org:80 ")
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        websocket(sock)

    with serving(handle) as port:
        env = {**QUIET, "http_proxy": f"http://127.0.0.1:{port}"}
        result = CliRunner().invoke(cli, ["probe", *QUICK, URL], env=env)
    assert result.exit_code == 0, result.output
    assert f"http://127.0.0.1:{port} opened a tunnel to gw.example.org:80" in result.stdout


def test_lines_for_grep() -> None:
    """Without a terminal: a word for each result, no colour, cause and remedies each on one line."""
    with serving(answers(page("502 Bad Gateway", "<center>nginx</center>"))) as port:
        done = finished("probe", *QUICK, f"ws://127.0.0.1:{port}/vnc?token=hidden-word")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 14
    assert lines[0] == f"probing ws://127.0.0.1:{port}/vnc?token=***"
    assert lines[1] == "skipped DNS            127.0.0.1 is an address"
    assert lines[2].startswith(f"ok      TCP            127.0.0.1:{port} connected (")
    assert lines[3].startswith("FAILED  HTTP           502 Bad Gateway from nginx (")
    assert "The step that failed: HTTP (exit code 14)" in lines
    assert len([line for line in lines if line.startswith("cause: ")]) == 1
    assert len([line for line in lines if line.startswith("remedy: - ")]) == 1
    assert b"\x1b" not in done.stdout
    assert b"hidden-word" not in done.stdout + done.stderr


def test_success_is_said() -> None:
    """The last line says so."""
    with serving(websocket) as port:
        result = invoke("probe", *QUICK, f"ws://127.0.0.1:{port}/")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "all steps succeeded")


def test_a_unix_socket_is_called_so(tmp_path: Path) -> None:
    """And not TCP."""
    result = invoke("probe", f"unix:{tmp_path}/none")
    assert result.exit_code == 11
    assert "FAILED  Unix socket    unix:" in result.stdout
    assert "The step that failed: Unix socket (exit code 11)" in result.stdout


def test_secrets_of_files_and_of_the_url(tmp_path: Path) -> None:
    """A line end of a file does not count; user and password of the URL are Basic authentication."""
    heads: list[str] = []

    def handle(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(page("401 Unauthorized").encode())

    (tmp_path / "secret").write_text("hidden-word\n")
    file = str(tmp_path / "secret")
    with serving(handle) as port:
        results = [
            invoke("probe", *QUICK, f"ws://127.0.0.1:{port}/", "--token-file", file),
            invoke("probe", *QUICK, f"ws://127.0.0.1:{port}/", "--user", "alice", "--password-file", file),
            invoke("probe", *QUICK, f"ws://alice:hidden-word@127.0.0.1:{port}/"),
            invoke("probe", *QUICK, "--json", f"ws://alice:hidden-word@127.0.0.1:{port}/"),
        ]
    assert "Authorization: Bearer hidden-word\r\n" in heads[0]
    assert all("Authorization: Basic YWxpY2U6aGlkZGVuLXdvcmQ=\r\n" in head for head in heads[1:])
    assert [one.exit_code for one in results] == [17] * 4
    assert not [one for one in results if "hidden" in one.output or "aGlkZGVu" in one.output]
    assert json.loads(results[3].stdout)["url"] == f"ws://127.0.0.1:{port}/"


def test_on_a_terminal() -> None:
    """Marks and colours; the password is asked for and not echoed; texts are wrapped."""
    port = free_port()
    master, slave = pty.openpty()
    command = [*WSBRIDGE, "probe", f"ws://127.0.0.1:{port}/", "--user", "alice"]
    env = {**os.environ, **QUIET, "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "80"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True) as running:
        os.close(slave)
        seen = b""
        sent = False
        while select.select([master], [], [], PATIENCE)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:
                break
            if not sent and b"Password: " in seen:
                sent = True
                os.write(master, b"hidden-word\n")
        os.close(master)
    assert running.returncode == 11
    text = seen.decode()
    assert "\x1b[31m✗\x1b[0m TCP" in text
    assert "hidden-word" not in text
    assert max(map(len, text.partition("cause:")[2].splitlines())) <= 80
