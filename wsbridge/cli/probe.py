"""`wsbridge probe URL`: walk the path of a client, and name the step that failed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import sys
import textwrap
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import click
import trio

from wsbridge.cli.bridge_config import without_userinfo
from wsbridge.cli.main import EXIT_CONFIG, EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.config.backend_urls import UrlTemplate, read_backend_url
from wsbridge.config.secrets import Secret
from wsbridge.config.types import read_duration
from wsbridge.config.urls import HttpProxy, Target, read_proxy_url
from wsbridge.net.http_proxy import proxy_from_environment
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import ALPN_PROTOCOLS, TlsError, client_context
from wsbridge.probe.options import ProbeOptions
from wsbridge.probe.steps import STEP_EXIT_CODES, STEP_LABELS, StepReport, StepResult
from wsbridge.probe.walk import ProbeOutcome, Walk
from wsbridge.protocol.handshake import RESERVED_HEADERS, encode_upgrade_request, generate_key, parse_origin

_USER_IN_URL: Final = re.compile(r"^[^/?#]*://([^/?#]*)@")
_WEBSOCKET_ONLY: Final = {
    "host": "--host",
    "origin": "--origin",
    "headers": "--header",
    "subprotocols": "--subprotocol",
    "user": "--user",
    "password_file": "--password-file",
    "token": "--token",
    "token_file": "--token-file",
    "proxy": "--proxy",
    "proxy_headers": "--proxy-header",
    "idle": "--idle",
}
_TLS_ONLY: Final = {
    "ca": "--ca",
    "insecure": "--insecure",
    "server_name": "--server-name",
    "client_cert": "--client-cert",
    "client_key": "--client-key",
}
_MARKS: Final[dict[StepResult, tuple[str, str, str]]] = {
    "ok": ("✓", "green", "ok"),
    "warning": ("!", "yellow", "warning"),
    "failed": ("✗", "red", "FAILED"),
    "skipped": ("·", "bright_black", "skipped"),
}
"""How results are printed: the mark and its colour on a terminal, and the word elsewhere."""


@click.command("probe", cls=PreformattedCommand)
@click.argument("url", metavar="URL")
@click.option("--origin", metavar="ORIGIN", help="Origin header to send, as a page in the browser does.")
@click.option("--subprotocol", "subprotocols", metavar="NAME", multiple=True, help="Offer it. Default: none.")
@click.option("--user", metavar="NAME[:PASSWORD]", help="Basic authentication; without a password it is asked for.")
@click.option("--password-file", metavar="FILE", type=click.Path(), help="File with the password of --user.")
@click.option("--token", metavar="TOKEN", help="Bearer token; every user of this host can see it (ps).")
@click.option("--token-file", metavar="FILE", type=click.Path(), help="File with the bearer token.")
@click.option("--header", "headers", metavar="'N: V'", multiple=True, help="Header to send, such as Cookie.")
@click.option("--host", metavar="HOST", help="Host header to send. Default: that of URL, or --server-name.")
@click.option("--server-name", metavar="NAME", help="Server name to send (SNI) and to verify. Default: that of URL.")
@click.option("--ca", metavar="FILE", type=click.Path(), help="CA bundle to verify the server. Default: the system's.")
@click.option("--insecure", is_flag=True, help="Do not verify the certificate; credentials are sent all the same.")
@click.option("--client-cert", metavar="FILE", type=click.Path(), help="Client certificate (mTLS), PEM.")
@click.option("--client-key", metavar="FILE", type=click.Path(), help="Its key. Default: in the file of --client-cert.")
@click.option("--proxy", metavar="URL", help="HTTP proxy; off: none. Default: https_proxy etc.")
@click.option("--proxy-header", "proxy_headers", metavar="'N: V'", multiple=True, help="Header to send to the proxy.")
@click.option("--timeout", metavar="TIME", default="10s", help="Time for each step. Default: 10s.")
@click.option("--wait", metavar="TIME", default="1s", help="How long the open connection is watched. Default: 1s.")
@click.option("--pings", type=click.IntRange(0, 100), default=5, help="Pings for the round trip. Default: 5.")
@click.option("--idle", metavar="TIME", help="Find what cuts idle connections, with idle times up to TIME.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def probe_command(url: str, *, as_json: bool, **given: Any) -> int:
    """Find out which step of a client's path fails, and why.

    URL: ws://  wss://  ws+unix:/socket:/path, and for backends tcp://  tls://  unix:/path

    Walks DNS, TCP, proxy, TLS, HTTP, Origin, subprotocol, authentication and backend, prints a line for each with its
    time, and for the one that fails the cause and what to change in which file. Then it measures the round trip.
    It sends one request; where that is rejected without a reason, up to two more that differ in Origin or subprotocol.

    A WebSocket as a page in the browser opens it:
      wsbridge probe wss://gw.example.org/vnc --origin https://gw.example.org --subprotocol binary

    With credentials:
      wsbridge probe wss://gw.example.org/ssh --token-file token
      wsbridge probe wss://gw.example.org/vnc --user alice

    A backend, on the host of wsbridge:
      wsbridge probe tcp://10.0.0.5:5900
      wsbridge probe tls://10.0.0.5:8883 --ca /etc/wsbridge/ca.pem

    What cuts idle connections, and which ping interval prevents it; takes up to 5 minutes, at most 10:
      wsbridge probe wss://gw.example.org/vnc --idle 5m

    Exit codes: 0 all steps succeeded, 10 DNS, 11 TCP or Unix socket, 12 proxy, 13 TLS, 14 HTTP, 15 Origin,
    16 subprotocol, 17 authentication, 18 backend, 19 ping, 20 idle connections are cut, 64 wrong command line,
    78 wrong proxy in the environment, 128 + N stopped by signal N.
    """
    options = _read_options(url, given)
    outcome = _run(options, as_json=as_json)
    if as_json:
        click.echo(json.dumps(outcome_facts(outcome, options), indent=2))
    else:
        _print_end(outcome)
    return outcome.exit_code


# ---- options


def _read_options(url: str, given: Mapping[str, Any]) -> ProbeOptions:
    """Read the command line.

    Raises:
        CliError: It is wrong; the sentence names the argument.
    """
    target = _read_url(url)
    websocket, tls = target.scheme in ("ws", "wss"), target.scheme in ("wss", "tls")
    for allowed, names in ((websocket, _WEBSOCKET_ONLY), (tls, _TLS_ONLY)):
        for name, option in names.items():
            if given[name] and not allowed:
                raise CliError(f"{option}: means nothing for a {target.scheme} URL", EXIT_USAGE)
    headers, credential = _read_headers(url, given)
    server_name = given["server_name"]
    options = ProbeOptions(
        target=target,
        context=_read_context(given, websocket=websocket) if tls else None,
        insecure=given["insecure"],
        server_name=(server_name or target.host).strip("[]").partition("%")[0].rstrip("."),
        host=given["host"] or _default_host(target, server_name),
        origin=given["origin"],
        headers=headers,
        credential=credential,
        subprotocols=given["subprotocols"],
        proxy=_read_proxy(target, given["proxy"]),
        proxy_headers=_header_lines("--proxy-header", given["proxy_headers"]),
        timeout=_read_time("--timeout", given["timeout"]),
        wait=_read_time("--wait", given["wait"]),
        pings=given["pings"],
        idle=None if given["idle"] is None else _read_time("--idle", given["idle"]),
    )
    _check_sendable(options)
    _check_server_name(options)
    return options


def _read_url(url: str) -> Target:
    try:
        target = read_backend_url(without_userinfo(url), Path.cwd())
    except ValueError as error:
        raise CliError(f"URL: {error}", EXIT_USAGE) from None
    if isinstance(target, UrlTemplate):
        raise CliError("URL: write values for the fields in braces", EXIT_USAGE)
    return target


def _default_host(target: Target, server_name: str | None) -> str:
    if server_name is None:
        return target.authority
    written = f"[{target.host}]" if ":" in target.host else target.host
    return server_name + target.authority.removeprefix(written)


def _read_time(option: str, text: str) -> float:
    try:
        return read_duration(text)
    except ValueError as error:
        raise CliError(f"{option}: {error}", EXIT_USAGE) from None


def _read_context(given: Mapping[str, Any], *, websocket: bool) -> ssl.SSLContext:
    cert, key = given["client_cert"], given["client_key"]
    if key is not None and cert is None:
        raise CliError("--client-key needs --client-cert FILE", EXIT_USAGE)
    try:
        return client_context(
            None if given["ca"] is None else Path(given["ca"]),
            None if cert is None else (Path(cert), Path(key or cert)),
            insecure=given["insecure"],
            alpn=ALPN_PROTOCOLS if websocket else (),
        )
    except TlsError as error:
        raise CliError(str(error), EXIT_USAGE) from None


def _read_proxy(target: Target, written: str | None) -> HttpProxy | None:
    if written == "off" or target.socket_path:
        return None
    if written is not None:
        try:
            return read_proxy_url(written)
        except ValueError as error:
            raise CliError(f"--proxy: {error}", EXIT_USAGE) from None
    try:
        return proxy_from_environment(target, os.environ)
    except ValueError as error:
        raise CliError(str(error), EXIT_CONFIG) from None


def _read_headers(url: str, given: Mapping[str, Any]) -> tuple[dict[str, str | Secret], str]:
    """Return the headers to send, and in words what authenticates."""
    headers = _header_lines("--header", given["headers"])
    lower = {name.lower() for name in headers}
    credential = "the Authorization header" if "authorization" in lower else "a cookie" if "cookie" in lower else ""
    user, token = _read_user(url, given), _read_token(given)
    if (user is not None) + (token is not None) + ("authorization" in lower) > 1:
        raise CliError("--user, --token, --token-file and an Authorization header: write one of them", EXIT_USAGE)
    if user is not None:
        name, password = user
        encoded = b64encode(f"{name}:{password}".encode()).decode("ascii")
        headers["Authorization"] = Secret(f"Basic {encoded}")
        return headers, f"Basic (user {name})"
    if token is not None:
        headers["Authorization"] = Secret(f"Bearer {token}")
        return headers, "Bearer token"
    return headers, credential


def _header_lines(option: str, lines: Sequence[str]) -> dict[str, str | Secret]:
    headers: dict[str, str | Secret] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise CliError(f"{option}: write 'Name: value'", EXIT_USAGE)
        if name.lower() in RESERVED_HEADERS:
            raise CliError(f"{option}: {name} is written by the handshake itself", EXIT_USAGE)
        headers[name] = Secret(value.strip(" \t"))
    return headers


def _read_user(url: str, given: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return user and password, of --user or of the URL."""
    in_url = _USER_IN_URL.match(url)
    if given["user"] is not None:
        name, colon, password = given["user"].partition(":")
    elif in_url is not None:
        name, colon, password = in_url[1].partition(":")
        name, password = unquote(name), unquote(password)
    elif given["password_file"] is not None:
        raise CliError("--password-file needs --user NAME", EXIT_USAGE)
    else:
        return None
    if given["password_file"] is not None:
        return name, _read_secret_file("--password-file", given["password_file"])
    if not colon and given["user"] is not None:
        if not sys.stdin.isatty():
            raise CliError("--user: write --password-file FILE, or NAME:PASSWORD", EXIT_USAGE)
        password = click.prompt("Password", hide_input=True, err=True, default="", show_default=False)
    return name, password


def _read_token(given: Mapping[str, Any]) -> str | None:
    if given["token_file"] is None:
        token: str | None = given["token"]
        option = "--token"
    else:
        token, option = _read_secret_file("--token-file", given["token_file"]), "--token-file"
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise CliError(f"{option}: a token is printable ASCII without spaces", EXIT_USAGE)
    return token


def _read_secret_file(option: str, path: str) -> str:
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise CliError(f"{option}: {path}: {error.strerror}", EXIT_USAGE) from None
    except UnicodeDecodeError:
        raise CliError(f"{option}: {path}: is not text in UTF-8", EXIT_USAGE) from None
    return text.removesuffix("\n").removesuffix("\r")


def _check_sendable(options: ProbeOptions) -> None:
    """Reject what HTTP cannot carry; values are not quoted."""
    if not options.is_websocket:
        return
    if options.origin is not None and options.origin != "null" and parse_origin(options.origin) is None:
        raise CliError("--origin: write scheme://host or scheme://host:port, without a path", EXIT_USAGE)
    try:
        path, headers = options.target.path, options.sent_headers
        encode_upgrade_request(options.host, path, generate_key(), options.subprotocols, headers, options.origin)
    except (ValueError, UnicodeError):
        text = "a header, the host, the path or a subprotocol has characters that HTTP cannot carry"
        raise CliError(text, EXIT_USAGE) from None


def _check_server_name(options: ProbeOptions) -> None:
    """Reject a name that cannot be sent in TLS."""
    if options.context is not None:
        try:
            options.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=options.server_name)
        except ValueError as error:
            raise CliError(f"--server-name: {error}", EXIT_USAGE) from None


# ---- running and printing


def _run(options: ProbeOptions, *, as_json: bool) -> ProbeOutcome:
    """Probe, and print each step as soon as it is done."""
    if not as_json:
        _print(f"probing {options.shown_url}")

    async def run() -> ProbeOutcome:
        async with trio.open_nursery() as nursery, Resolver() as resolver:
            walk = Walk(
                options,
                resolver,
                (lambda _: None) if as_json else _print_step,
                (lambda _: None) if as_json else _print_progress,
            )
            await nursery.start(_stop_on_signal, walk.outcome, nursery.cancel_scope)
            await walk.run()
            nursery.cancel_scope.cancel()
        return walk.outcome

    try:
        return trio.run(run)
    except BaseExceptionGroup as group:  # an output that is closed or full: `main` reports it
        if (broken := group.subgroup(OSError)) is not None:
            raise _first(broken) from None
        raise


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    inner = group.exceptions[0]
    return inner if isinstance(inner, OSError) else _first(inner)


async def _stop_on_signal(
    outcome: ProbeOutcome,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """End the probe with what is known by then."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            outcome.interrupted = number
            scope.cancel()
            return


def _print(text: str, *, err: bool = False) -> None:
    """Print a line; characters that the output cannot show are replaced."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), err=err)


def _print_step(report: StepReport) -> None:
    symbol, colour, word = _MARKS[report.result]
    terminal = sys.stdout.isatty()
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    label = f"{report.label or STEP_LABELS[report.step]:<14}"
    mark = click.style(symbol, fg=colour) if terminal and utf8 else f"{word:<7}"
    if terminal and "NO_COLOR" in os.environ:
        mark = click.unstyle(mark)
    time = "" if report.seconds is None else f" ({_time_text(report.seconds)})"
    _print(f"{mark} {label} {report.text}{time}")
    indent = " " * (len(click.unstyle(mark)) + len(label) + 2)
    for note in report.notes:
        _print_paragraph(indent, note)


def _time_text(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _print_progress(text: str) -> None:
    _print(f"        … {text}", err=True)


def _print_end(outcome: ProbeOutcome) -> None:
    if outcome.interrupted and outcome.diagnosis is None:
        _print(f"\nstopped by {signal.Signals(outcome.interrupted).name}; the steps above are what is known")
    diagnosis = outcome.diagnosis
    if diagnosis is None:
        if not outcome.interrupted:
            _print("\nall steps succeeded" + _warnings_text(outcome))
        return
    label = outcome.steps[-1].label or STEP_LABELS[diagnosis.step]
    _print(f"\nThe step that failed: {label} (exit code {STEP_EXIT_CODES[diagnosis.step]})\n")
    _print_paragraph("cause:  ", diagnosis.cause)
    for at, remedy in enumerate(diagnosis.remedies):
        _print_paragraph("remedy: - " if at == 0 else "        - ", remedy)


def _warnings_text(outcome: ProbeOutcome) -> str:
    count = sum(one.result == "warning" for one in outcome.steps)
    return f", {count} with a warning" if count else ""


def _print_paragraph(start: str, text: str) -> None:
    """Print a text behind its start; wrapped for a terminal, else on one line for grep."""
    if not sys.stdout.isatty():
        _print(start + text)
        return
    width = max(shutil.get_terminal_size().columns - 1, 40)
    _print(
        textwrap.fill(
            text,
            width,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def outcome_facts(outcome: ProbeOutcome, options: ProbeOptions) -> dict[str, object]:
    """Describe an outcome for scripts."""
    diagnosis = outcome.diagnosis
    return {
        "url": options.shown_url,
        "ok": outcome.exit_code == 0,
        "exit_code": outcome.exit_code,
        "failed_step": None if diagnosis is None else diagnosis.step.value,
        "cause": None if diagnosis is None else diagnosis.cause,
        "remedies": [] if diagnosis is None else list(diagnosis.remedies),
        "steps": [
            {
                "step": one.step.value,
                "result": one.result,
                "seconds": None if one.seconds is None else round(one.seconds, 6),
                "text": one.text,
                "notes": list(one.notes),
                "facts": dict(one.facts),
            }
            for one in outcome.steps
        ],
        "round_trip_seconds": [round(one, 6) for one in outcome.round_trips],
        "idle": None if outcome.idle is None else outcome.idle.facts(),
    }
