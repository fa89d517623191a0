"""`wsbridge bridge LISTEN TARGET`: a single bridge without a configuration file."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import CompletionItem

from wsbridge.cli.bridge_config import (
    STDIO,
    BridgeOptions,
    build_bridge_config,
    complete_listen,
    complete_target,
    print_warnings,
    split_listen,
)
from wsbridge.cli.main import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_SIGNAL,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    CliError,
    PreformattedCommand,
)
from wsbridge.cli.run import LOG_LEVEL_CHOICES, engine_option, one_connection_code, serve_until_end
from wsbridge.cli.self_signed import SelfSignedCertificate
from wsbridge.cli.stdio import DEFAULT_HOLD, STREAM_NAMES, StdioConnection
from wsbridge.config.load import LoadedConfig
from wsbridge.config.types import read_duration_or_off
from wsbridge.config.urls import read_bind
from wsbridge.log.format import FORMATS
from wsbridge.net.listeners import ListeningSockets

LISTEN_EXAMPLES: Final = {
    "ws://127.0.0.1:8080/": "WebSocket",
    "wss://127.0.0.1:8443/": "WebSocket with TLS",
    "tcp://127.0.0.1:5901": "TCP",
    "tls://127.0.0.1:8883": "TCP with TLS",
    "unix:/tmp/wsbridge.sock": "Unix socket",
    "-": "standard input and output",
}
TARGET_EXAMPLES: Final = {
    "tcp://127.0.0.1:5900": "TCP",
    "tls://localhost:8883": "TCP with TLS",
    "ws://127.0.0.1:8080/": "WebSocket",
    "wss://gw.example.org/": "WebSocket with TLS",
    "unix:/run/service.sock": "Unix socket",
}
"""Addresses that shells complete to, with what each is."""


def _complete_listen(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(text, help=what) for text, what in LISTEN_EXAMPLES.items() if text.startswith(begun)]


def _complete_target(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(text, help=what) for text, what in TARGET_EXAMPLES.items() if text.startswith(begun)]


@click.command("bridge", cls=PreformattedCommand)
@click.argument("listen", metavar="LISTEN", shell_complete=_complete_listen)
@click.argument("target", metavar="TARGET", shell_complete=_complete_target)
@click.option("--once", is_flag=True, help="Serve one connection, and exit with its exit code.")
@click.option("--files", metavar="DIR", type=click.Path(), help="Serve the files of DIR to plain HTTP requests.")
@click.option("--allow-anyone", is_flag=True, help="Allow LISTEN addresses that other hosts can reach.")
@click.option("--host-name", "host_names", metavar="NAME", multiple=True, help="Accept this Host too, without TLS.")
@click.option("--allowed-origins", metavar="ORIGIN", multiple=True, help="Pages that may connect: same, any or a list.")
@click.option("--allow-http", is_flag=True, help="Pass HTTP requests on to TARGET, on tcp, tls and unix listeners.")
@click.option("--handshake-rate", metavar="N", help="Connections per second and client address: 20 (default), off.")
@click.option("--mode", metavar="MODE", help="File mode of a unix: listener. Default: 0600.")
@click.option("--cert", metavar="FILE", type=click.Path(), help="Certificate of a wss:// or tls:// listener, PEM.")
@click.option("--key", metavar="FILE", type=click.Path(), help="Its private key, PEM. Default: in the file of --cert.")
@click.option("--self-signed", is_flag=True, help="Generate a temporary certificate, and print its fingerprint.")
@click.option("--ca", metavar="FILE", type=click.Path(), help="CA bundle to verify TARGET. Default: the system's.")
@click.option("--insecure", is_flag=True, help="Do not verify TARGET's certificate (man-in-the-middle attacks).")
@click.option("--pin-sha256", metavar="HEX", multiple=True, help="Accept only TARGET certificates with this SHA-256.")
@click.option("--server-name", metavar="NAME", help="Server name to send (SNI) and to verify.")
@click.option("--client-cert", metavar="FILE", type=click.Path(), help="Client certificate for TARGET (mTLS), PEM.")
@click.option("--client-key", metavar="FILE", type=click.Path(), help="Its key. Default: in the file of --client-cert.")
@click.option("--host", metavar="HOST", help="Host header to send to a ws(s):// target.")
@click.option("--origin", metavar="ORIGIN", help="Origin header to send to a ws(s):// target.")
@click.option("--header", "headers", metavar="'N: V'", multiple=True, help="Header to send to a ws(s):// target.")
@click.option("--subprotocol", "subprotocols", metavar="NAME", multiple=True, help="Offer and accept. Default: binary.")
@click.option("--no-subprotocol", is_flag=True, help="Offer and accept no subprotocol.")
@click.option(
    "--text-messages",
    type=click.Choice(["accept", "reject", "bytes"]),
    help="Text messages of the WebSocket; bytes: without the UTF-8 check. Default: accept.",
)
@click.option("--text", is_flag=True, help="Send text messages to a ws(s):// target, instead of binary ones.")
@click.option("--proxy", metavar="URL", help="HTTP proxy to a ws(s):// target; off: none. Default: https_proxy etc.")
@click.option("--proxy-header", "proxy_headers", metavar="'N: V'", multiple=True, help="Header to send to the proxy.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "off"]),
    help="Resumable sessions with a ws(s):// target that has them, for TCP clients. Default: auto.",
)
@click.option("--connect-timeout", metavar="TIME", help="Timeout for connecting to TARGET. Default: 5s.")
@click.option("--retry-for", metavar="TIME", help="Retry a refused or unreachable TARGET for this long.")
@click.option("--ping-interval", metavar="TIME", help="Keepalive pings after so much silence: 20s (default), off.")
@click.option("--ping-timeout", metavar="TIME", help="Time for the pong. Default: 20s.")
@click.option("--idle", metavar="TIME", help="Close a connection without payload for so long. Default: off.")
@click.option("--write-timeout", metavar="TIME", help="Time for a peer that accepts no data. Default: 10m.")
@click.option("--half-close", metavar="TIME", help="Time for one direction after the other has ended. Default: 30s.")
@click.option("--hold", metavar="TIME", help="Silence after the end of the input before Close: 2s (default), off.")
@click.option("--close-timeout", metavar="TIME", help="Time for the closing handshake. Default: 5s.")
@click.option("--max-lifetime", metavar="TIME", help="Maximum lifetime of a connection. Default: off.")
@click.option(
    "--on-client-fin",
    type=click.Choice(["close", "hold"]),
    help="When a ws(s):// target gets Close for a TCP client's FIN; hold: after --half-close. Default: close.",
)
@click.option(
    "--on-client-close",
    type=click.Choice(["discard", "deliver"]),
    help="Data that TARGET still sends after the client's Close. Default: discard.",
)
@click.option(
    "--on-client-lost",
    type=click.Choice(["reset", "fin"]),
    help="How TARGET's connection is closed when the client is lost. Default: reset.",
)
@engine_option
@click.option("--log-level", type=click.Choice(LOG_LEVEL_CHOICES), help="Default: info.")
@click.option("-v", "--verbose", is_flag=True, help="The same as --log-level debug.")
@click.option("--log-format", type=click.Choice(FORMATS), default="console", help="Default: console.")
def bridge_command(
    *,
    once: bool,
    self_signed: bool,
    no_subprotocol: bool,
    subprotocols: tuple[str, ...],
    log_level: str | None,
    verbose: bool,
    log_format: str,
    cert: str | None,
    key: str | None,
    listen: str,
    target: str,
    hold: str | None,
    **given: object,
) -> int:
    """Run a single bridge without a configuration file.

    LISTEN: ws://host:port/path   WebSocket; / matches every path, port 0 picks a free port
            wss://host:port/path  the same with TLS: --cert and --key, or --self-signed
            tcp://host:port       plain TCP (tls://host:port with TLS)
            unix:/path            a Unix socket
            -                     standard input and output
    TARGET: ws://  wss://  tcp://  tls://  unix:/path

    Short forms: TARGET host:port is tcp://host:port. LISTEN PORT is ws://127.0.0.1:PORT/, or tcp://127.0.0.1:PORT for
    a ws:// or wss:// target.

    Only this host can connect (127.0.0.1, ::1, localhost) unless --allow-anyone is given. Options are visible to every
    user of this host (ps): for secrets, several routes and all other settings use a file with `wsbridge run`.

    A VNC client in the browser to a VNC server, with the files of noVNC:
      wsbridge bridge ws://127.0.0.1:8080/ tcp://127.0.0.1:5900
      wsbridge bridge --files /usr/share/novnc 6080 localhost:5900

    A legacy client to a server behind WebSocket:
      wsbridge bridge tcp://127.0.0.1:5901 wss://gw.example.org/vnc

    SSH through a web server (the same line in ~/.ssh/config: ProxyCommand wsbridge bridge - wss://…):
      ssh -o ProxyCommand='wsbridge bridge - wss://gw.example.org/ssh' user@host

    A single request; the Close is sent after 2 s without an answer (--hold):
      echo request | wsbridge bridge - ws://127.0.0.1:8080/

    A temporary TLS certificate:
      wsbridge bridge wss://0.0.0.0:8443/ tcp://127.0.0.1:5900 --self-signed --allow-anyone

    Exit codes: 0 success, 64 wrong command line, 69 an address is in use, 78 an address that cannot be used. For "-"
    and --once: 0 the connection ended cleanly, 1 it could not be established or broke, 128 + N stopped by signal N.
    """
    target = complete_target(target)
    listen = complete_listen(listen, target, tls=self_signed or cert is not None)
    signed = None
    if self_signed:
        if cert is not None or key is not None:
            raise CliError("--self-signed replaces --cert and --key: use one or the other", EXIT_USAGE)
        signed = _write_self_signed(listen)
        cert, key = str(signed.cert), str(signed.key)
    level = "debug" if verbose else log_level
    try:
        options = BridgeOptions(
            listen=listen,
            target=target,
            cert=cert,
            key=key,
            subprotocols=() if no_subprotocol else subprotocols or None,
            **given,  # type: ignore[arg-type]  # click has checked them by the options above
        )
        loaded = build_bridge_config(options)
        if listen == STDIO:
            return _bridge_stdio(loaded, level or "error", log_format, _hold_seconds(hold))
        if hold is not None:
            raise CliError("--hold is for standard input (LISTEN -)", EXIT_USAGE)

        def ready(listening: list[ListeningSockets]) -> None:
            for address in (address for one in listening for address in one.addresses):
                click.echo(f"wsbridge: {_listen_url(listen, address)} -> {options.shown_target}", err=True)
                if options.files is not None:
                    scheme = "https" if split_listen(listen)[0] == "wss" else "http"
                    click.echo(f"wsbridge: {scheme}://{address}/ serves {options.files}", err=True)
            if signed is not None:
                signed.remove()
                click.echo(f"wsbridge: self-signed certificate, SHA-256 {signed.fingerprint}", err=True)

        code, result = serve_until_end(
            loaded,
            level=level or "info",
            format=log_format,
            one_connection=once,
            open_level="info",
            on_ready=ready,
            stop_on_hangup=True,
        )
        return code if code or result is None or not once else one_connection_code(result)
    finally:
        if signed is not None:
            signed.remove()


def _hold_seconds(text: str | None) -> float | None:
    """Read --hold; by default a person who ends the input at a terminal wants the end now."""
    if text is None:
        return None if os.isatty(0) else DEFAULT_HOLD
    try:
        return read_duration_or_off(text)
    except ValueError as error:
        raise CliError(f"--hold: {error}", EXIT_USAGE) from None


def _bridge_stdio(loaded: LoadedConfig, log_level: str, log_format: str, hold: float | None) -> int:
    """Bridge standard input and output; errors are one sentence on standard error, not a log record."""
    for descriptor in click.get_current_context().obj or ():
        if descriptor in STREAM_NAMES:
            raise CliError(f"-: standard {STREAM_NAMES[descriptor]} is closed", EXIT_USAGE)
    stdio = StdioConnection(hold=hold)
    print_warnings(loaded.warnings)
    without_listener = loaded.config.model_copy(update={"listeners": {}})
    code, result = serve_until_end(
        LoadedConfig(without_listener), level=log_level, format=log_format, extra_task=stdio.run, stop_on_hangup=True
    )
    if code or result is None:
        return code
    if result.signal is not None:
        click.echo(f"wsbridge: stopped by {result.signal.name}", err=True)
        return EXIT_SIGNAL + result.signal
    sentence = stdio.failure_message()
    if sentence is None:
        return EXIT_OK
    click.echo(f"wsbridge: {sentence}", err=True)
    return EXIT_FAILED


def _write_self_signed(listen: str) -> SelfSignedCertificate:
    """Write the temporary certificate.

    Raises:
        CliError: There is no room for it.
    """
    try:
        return SelfSignedCertificate(_certificate_host(listen))
    except OSError as error:
        text = f"the certificate cannot be written to a temporary file: {error.strerror}"
        raise CliError(f"--self-signed: {text}", EXIT_UNAVAILABLE) from None


def _certificate_host(listen: str) -> str:
    """Return the host that a certificate is for; other errors of LISTEN are reported later."""
    if listen == STDIO:
        return ""
    try:
        return read_bind(split_listen(listen)[1]).host
    except ValueError:
        return ""


def _listen_url(listen: str, address: str) -> str:
    """Write LISTEN with the address that the system chose."""
    scheme, _, path = split_listen(listen)
    if scheme == "unix":
        return address
    return f"{scheme}://{address}{path if scheme in ('ws', 'wss') else ''}"
