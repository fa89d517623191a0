"""`wsbridge status`, `reload`, `drain` and `undrain`: commands for a daemon that runs, by its admin API."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from wsbridge.cli.main import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    CliError,
    PreformattedCommand,
)
from wsbridge.config.errors import Problem, merge_warnings
from wsbridge.config.urls import BindAddress, read_bind

ADMIN_VARIABLE: Final = "WSBRIDGE_ADMIN"
DEFAULT_ADMIN: Final = "/run/wsbridge/admin.sock"
CONNECT_TIMEOUT: Final = 10.0
"""Seconds until the daemon must have accepted the connection, and until it must have answered."""
RELOAD_TIMEOUT: Final = 300.0
"""Seconds that a reload may take."""

_OPTIONS: Final = (
    click.option(
        "--admin",
        "address",
        metavar="ADDRESS",
        help=f"Admin API: a path, unix:/path or 127.0.0.1:PORT. Default: ${ADMIN_VARIABLE}, {DEFAULT_ADMIN}.",
    ),
    click.option(
        "--admin-token-file",
        "token_file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="File with the token of the admin API.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the response as JSON."),
)


def admin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all commands that use the admin API."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call_admin(
    address: str | None, token_file: str | None, method: str, path: str, timeout: float = CONNECT_TIMEOUT
) -> tuple[int, Any]:
    """Send a request to the admin API.

    Args:
        address: As given on the command line; None for the default.
        token_file: File with the token; None for no token.
        method: Of the request.
        path: Of the resource.
        timeout: Seconds until the response.

    Returns:
        Status and JSON; text where the response is no JSON.

    Raises:
        CliError: The daemon cannot be reached, or did not allow the request.
    """
    bind = read_admin_address(address)
    headers = {} if token_file is None else {"Authorization": f"Bearer {_read_token(token_file)}"}
    if bind.kind == "unix":
        connection: http.client.HTTPConnection = _UnixConnection(bind.path, timeout)
    else:
        connection = http.client.HTTPConnection(bind.host, bind.port, timeout=timeout)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode("utf-8", "replace")
    except TimeoutError:
        raise CliError(f"{bind}: no response within {timeout:g} s", EXIT_UNAVAILABLE) from None
    except (OSError, http.client.HTTPException) as error:
        raise CliError(f"{bind}: {_connect_error_text(error)}", EXIT_UNAVAILABLE) from None
    finally:
        connection.close()
    if not (response.getheader("Server") or "").startswith("wsbridge/"):
        raise CliError(f"{bind}: the response is not one of the admin API of wsbridge", EXIT_UNAVAILABLE)
    if response.status in (401, 403):
        option = " (--admin-token-file)" if response.status == 401 else ""
        raise CliError(f"{bind}: {body.strip()}{option}", EXIT_UNAVAILABLE)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = body.strip()
    if response.status == 200 and not isinstance(answer, dict | list):
        raise CliError(f"{bind}: the response is not one of the admin API of wsbridge", EXIT_UNAVAILABLE)
    return response.status, answer


def read_admin_address(address: str | None) -> BindAddress:
    """Read the address of the admin API.

    Args:
        address: As given on the command line; None for the default.

    Raises:
        CliError: It is not one.
    """
    text = address or os.environ.get(ADMIN_VARIABLE) or DEFAULT_ADMIN
    if ":" not in text and not text.isdecimal() and not text.startswith(("/", "./", "../")):
        raise CliError(f'--admin: "{text}": write ./{text} for a path, or 127.0.0.1:PORT', EXIT_USAGE)
    try:
        found = read_bind(f"unix:{text}" if text.startswith(("/", "./", "../")) else text, Path.cwd())
    except ValueError as error:
        raise CliError(f"--admin: {error}", EXIT_USAGE) from None
    if found.kind == "fd":
        raise CliError(f"--admin: {found} is not an address to connect to", EXIT_USAGE)
    return found


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text("ascii").strip()
    except OSError as error:
        raise CliError(f"--admin-token-file: {path}: {error.strerror}", EXIT_USAGE) from None
    except UnicodeDecodeError:
        token = ""
    if not re.fullmatch(r"[ -~]+", token):  # http.client would quote it in its exception
        raise CliError(f"--admin-token-file: {path}: must hold one token of printable ASCII", EXIT_USAGE)
    return token


def _connect_error_text(error: Exception) -> str:
    """Return the error as a sentence with a remedy."""
    if isinstance(error, FileNotFoundError):
        return "no such socket: is wsbridge running, and is admin configured? Name its address with --admin"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: is wsbridge running?"
    if isinstance(error, PermissionError):
        return "permission denied: the mode and the group of the socket decide who may use it (admin.mode)"
    return str(error) or type(error).__name__


def _finish(status: int, answer: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    """Print a response; return the exit code."""
    if as_json:
        click.echo(json.dumps(answer, indent=2) if not isinstance(answer, str) else json.dumps({"error": answer}))
    elif status == 200:
        click.echo(text(answer))
    else:
        click.echo(f"wsbridge: {answer}", err=True)
    return EXIT_OK if status == 200 else EXIT_FAILED


@click.command("status", cls=PreformattedCommand)
@admin_options
def status_command(address: str | None, token_file: str | None, as_json: bool) -> int:
    """Print the state of a daemon.

    Exit codes: 0 it serves and is ready, 1 it drains, shuts down, is short of memory or has reached its connection
    limit, 69 it cannot be reached.

    Examples:
      wsbridge status
      wsbridge status --admin 127.0.0.1:9181 --admin-token-file token --json
    """
    status, answer = call_admin(address, token_file, "GET", "/v1/status")
    code = _finish(status, answer, as_json, status_text)
    return code if code or not isinstance(answer, dict) or answer.get("ready") else EXIT_FAILED


def status_text(status: dict[str, Any]) -> str:
    """Return what `wsbridge status` prints."""
    memory = status["memory"]
    full = "memory is short" if memory and memory["pressure"] else "connection limit reached"
    state = status["state"] if status["ready"] or status["state"] != "serving" else f"serving, {full}"
    lines = [
        f"{'state':12} {state}",
        f"{'version':12} {status['version']}, pid {status['pid']}, up {_duration_text(status['uptime_seconds'])}",
        f"{'engine':12} {_engine_text(status)}",
        f"{'connections':12} {status['connections']} of at most {status['connections_limit']}",
        *([f"{'sessions':12} {_sessions_text(status)}"] if status.get("sessions") else []),
        *([f"{'memory':12} {_memory_text(memory)}"] if memory else []),
        f"{'loop lag':12} {status['loop_lag_seconds']:g} s (longest: {status['loop_lag_longest_seconds']:g} s)",
        f"{'listeners':12} {', '.join(status['listeners'])}",
        f"{'generation':12} {status['generation']}, with {status['routes']} route{'s' * (status['routes'] != 1)}",
    ]
    older = [one for one in status["generations"] if one["generation"] != status["generation"]]
    lines += [f"{'':12} {one['generation']} still has {one['connections']} connections" for one in older]
    reload = status["last_reload"]
    if reload is not None:
        outcome = "succeeded" if reload["error"] is None else f"failed: {reload['error']}"
        lines.append(f"{'last reload':12} {reload['time']} {outcome}")
    return "\n".join(lines)


def _engine_text(status: dict[str, Any]) -> str:
    threads = status["engine_threads"]
    return f"{status['engine']}{f', {threads} thread' if threads else ''}{'s' * (threads not in (None, 1))}"


def _sessions_text(status: dict[str, Any]) -> str:
    return f"{status['sessions']}, of which {status['sessions_detached']} wait for their clients"


def _memory_text(memory: dict[str, Any]) -> str:
    used, limit = memory["memory_bytes"], memory["memory_limit_bytes"]
    pressure = ", new connections are rejected" if memory["pressure"] else ""
    return f"{used >> 20} MiB of {limit >> 20} MiB ({memory['memory_limit']}){pressure}"


def _duration_text(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    parts = ((days, "d"), (hours, "h"), (rest // 60, "m"), (rest % 60, "s"))
    return " ".join([f"{count}{unit}" for count, unit in parts if count][:2]) or "0s"


@click.command("reload", cls=PreformattedCommand)
@admin_options
def reload_command(address: str | None, token_file: str | None, as_json: bool) -> int:
    """Reload the configuration of a daemon.

    It reads its file again; this command waits for the result.

    If the file is invalid, its errors are printed and nothing has changed: the daemon serves as before.

    Exit codes: 0 the new configuration is in effect, 78 the file is invalid, 1 it could not be put into effect (an
    address in use, for example), 69 the daemon cannot be reached.

    Examples:
      wsbridge reload
      wsbridge reload --admin unix:/run/wsbridge-office/admin.sock
    """
    status, answer = call_admin(address, token_file, "POST", "/v1/reload", RELOAD_TIMEOUT)
    if status == 422 and isinstance(answer, dict):
        if as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            _print_problem_records(answer["problems"])
            click.echo(f"wsbridge: the reload failed, nothing has changed: {answer['error']}", err=True)
        invalid = any(problem["severity"] == "error" for problem in answer["problems"])
        return EXIT_CONFIG if invalid else EXIT_FAILED
    if status == 200 and not as_json:
        _print_problem_records(answer["problems"])
    return _finish(status, answer, as_json, lambda done: f"reloaded: generation {done['generation']} is in effect")


def _print_problem_records(records: list[dict[str, Any]]) -> None:
    """Print problems as `check` does."""
    keys = ("file", "line", "column", "setting", "message", "source", "code")
    for problem in merge_warnings(Problem(*(record[key] for key in keys)) for record in records):
        click.echo(problem.text(), err=True)


@click.command("drain", cls=PreformattedCommand)
@admin_options
def drain_command(address: str | None, token_file: str | None, as_json: bool) -> int:
    """Let a daemon reject new clients, without ending it.

    For maintenance behind a load balancer: /readyz answers 503 at once. After timeouts.drain_delay new clients get 503
    with Retry-After; open connections go on. `wsbridge undrain` reverts it.

    Example:
      wsbridge drain
    """
    return _finish(*call_admin(address, token_file, "POST", "/v1/drain"), as_json, lambda answer: str(answer["state"]))


@click.command("undrain", cls=PreformattedCommand)
@admin_options
def undrain_command(address: str | None, token_file: str | None, as_json: bool) -> int:
    """Let a drained daemon serve again.

    Example:
      wsbridge undrain
    """
    return _finish(
        *call_admin(address, token_file, "POST", "/v1/undrain"), as_json, lambda answer: str(answer["state"])
    )
