"""`wsbridge bridge LISTEN TARGET`: one bridge, now, without a file.

Lives here: its arguments, and what it prints. Must not live here: their meaning as a configuration (`written`),
standard input and output (`stdio`).
"""

from __future__ import annotations

import click

from wsbridge.cli.bridge_config import STDIO, BridgeOptions, build_bridge_config, print_warnings, split_listen
from wsbridge.cli.main import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.cli.run import LOG_LEVEL_CHOICES, serve_config, serve_until_end
from wsbridge.cli.self_signed import SelfSignedCertificate
from wsbridge.cli.stdio import StdioConnection
from wsbridge.config.load import LoadedConfig
from wsbridge.config.urls import read_bind
from wsbridge.log.format import FORMATS
from wsbridge.net.listeners import ListeningSockets


@click.command("bridge", cls=PreformattedCommand)
@click.argument("listen", metavar="LISTEN")
@click.argument("target", metavar="TARGET")
@click.option("--once", is_flag=True, help="Take one connection, and end with it.")
@click.option("--allow-anyone", is_flag=True, help="Listen where other hosts can connect.")
@click.option("--cert", metavar="FILE", type=click.Path(), help="Certificate of a wss:// or tls:// listener, PEM.")
@click.option("--key", metavar="FILE", type=click.Path(), help="Its private key, PEM.")
@click.option("--self-signed", is_flag=True, help="Make a certificate for now; tells its fingerprint.")
@click.option("--ca", metavar="FILE", type=click.Path(), help="Trust these certificates of targets, not the system's.")
@click.option("--insecure", is_flag=True, help="Take any certificate of the target: anyone may read along.")
@click.option("--server-name", metavar="NAME", help="Name to expect in the target's certificate.")
@click.option("--header", "headers", metavar="'N: V'", multiple=True, help="Send this header to a ws(s):// target.")
@click.option("--subprotocol", "subprotocols", metavar="NAME", multiple=True, help="Offer or take it; default: binary.")
@click.option("--no-subprotocol", is_flag=True, help="Offer and take none.")
@click.option(
    "--allowed-origins", metavar="ORIGIN", multiple=True, help="Pages that may connect: same, any, or origins."
)
@click.option("--ping-interval", metavar="TIME", help="Ping after so much silence: 20s (default), off.")
@click.option("--idle", metavar="TIME", help="End a connection without payload for so long; default: off.")
@click.option("--retry-for", metavar="TIME", help="Try a target that is not up yet again for so long.")
@click.option(
    "--on-client-close",
    type=click.Choice(["discard", "deliver"]),
    help="What TARGET still sends after the client's Close; deliver: send it on.",
)
@click.option(
    "--on-client-lost",
    type=click.Choice(["reset", "fin"]),
    help="How TARGET learns that the client vanished; fin: as if it had ended well.",
)
@click.option("--proxy", metavar="URL", help="HTTP proxy to a ws(s):// target; off: none. Default: https_proxy etc.")
@click.option("--log-level", type=click.Choice(LOG_LEVEL_CHOICES), help="Default: info.")
@click.option("--log-format", type=click.Choice(FORMATS), default="console", help="Default: console.")
def bridge_command(
    *,
    once: bool,
    self_signed: bool,
    no_subprotocol: bool,
    subprotocols: tuple[str, ...],
    log_level: str | None,
    log_format: str,
    cert: str | None,
    key: str | None,
    listen: str,
    **given: object,
) -> int:
    """Carry connections from LISTEN to TARGET, without a file.

    LISTEN: ws://host:port/path   WebSocket; "/" takes every path, port 0 picks a free port and tells it
            wss://host:port/path  the same with TLS: --cert and --key, or --self-signed
            tcp://host:port       plain bytes (tls://host:port with TLS)
            unix:/path            plain bytes on a Unix socket
            -                     standard input and output
    TARGET: ws://  wss://  tcp://  tls://  unix:/path

    Only this host can connect (127.0.0.1, ::1, localhost) unless --allow-anyone is given. Options are seen by every
    user of this host (ps): for secrets, several routes and all other settings write a file for `wsbridge run`.

    A browser's VNC client to a VNC server:
      wsbridge bridge ws://127.0.0.1:8080/ tcp://127.0.0.1:5900

    An old client to a server behind WebSocket:
      wsbridge bridge tcp://127.0.0.1:5901 wss://gw.example.org/vnc

    SSH through a web server (the same line in ~/.ssh/config: ProxyCommand wsbridge bridge - wss://…):
      ssh -o ProxyCommand='wsbridge bridge - wss://gw.example.org/ssh' user@host

    One request by hand; the far wsbridge has after_close: deliver:
      echo request | wsbridge bridge - ws://127.0.0.1:8080/

    TLS for an afternoon:
      wsbridge bridge wss://0.0.0.0:8443/ tcp://127.0.0.1:5900 --self-signed --allow-anyone

    Exit codes: 0 ended in order, 1 the one connection of "-" failed, 64 wrong arguments, 69 an address cannot be had.
    """
    signed = None
    if self_signed:
        if cert is not None or key is not None:
            raise CliError("--self-signed stands in place of --cert and --key, not beside them", EXIT_USAGE)
        signed = SelfSignedCertificate(_certificate_host(listen))
        cert, key = str(signed.cert), str(signed.key)
    try:
        wish = BridgeOptions(
            listen=listen,
            cert=cert,
            key=key,
            subprotocols=() if no_subprotocol else subprotocols or None,
            **given,  # type: ignore[arg-type]  # click has checked them by the options above
        )
        loaded = build_bridge_config(wish)
        if listen == STDIO:
            return _bridge_stdio(loaded, log_level or "error", log_format)

        def ready(listening: list[ListeningSockets]) -> None:
            for address in (address for one in listening for address in one.addresses):
                click.echo(f"wsbridge: {_listen_url(listen, address)} -> {wish.target}", err=True)
            if signed is not None:
                signed.remove()
                click.echo(f"wsbridge: self-signed certificate, SHA-256 {signed.fingerprint}", err=True)

        return serve_config(
            loaded,
            level=log_level or "info",
            format=log_format,
            one_connection=once,
            on_ready=ready,
            stop_on_hangup=True,
        )
    finally:
        if signed is not None:
            signed.remove()


def _bridge_stdio(loaded: LoadedConfig, log_level: str, log_format: str) -> int:
    """Bridge standard input and output; problems are told in one sentence, not in the log."""
    stdio = StdioConnection()
    print_warnings(loaded.warnings)
    unheard = loaded.config.model_copy(update={"listeners": {}})
    code, result = serve_until_end(
        LoadedConfig(unheard), level=log_level, format=log_format, extra_task=stdio.run, stop_on_hangup=True
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


def _certificate_host(listen: str) -> str:
    """Give the host that a certificate is for; whatever else is wrong with LISTEN is told later."""
    if listen == STDIO:
        return ""
    try:
        return read_bind(split_listen(listen)[1]).host
    except ValueError:
        return ""


def _listen_url(listen: str, address: str) -> str:
    """Write LISTEN with the address that the system gave."""
    scheme, _, path = split_listen(listen)
    if scheme == "unix":
        return address
    return f"{scheme}://{address}{path if scheme in ('ws', 'wss') else ''}"
