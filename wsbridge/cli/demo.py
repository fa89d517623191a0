"""`wsbridge demo`: a small TCP service, a bridge to it, and a page in the browser that talks to it."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Mapping, Sequence

import click
import trio

from wsbridge import daemon
from wsbridge.cli.main import EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.cli.run import engine_option, run_with_log
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_data
from wsbridge.config.urls import read_bind
from wsbridge.config.yaml import YamlData
from wsbridge.demo import PAGE_DIRECTORY
from wsbridge.demo.service import DemoService
from wsbridge.log import LogWriter
from wsbridge.net.listeners import ListeningSockets
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import log_problems
from wsbridge.server import Server
from wsbridge.worker_thread import NoThreadError, run_in_thread

DEMO_TIMEOUTS: Mapping[str, YamlData] = {
    "close": "500ms",
    "lingering": "100ms",
    "drain": "0s",
    "drain_spread": "0s",
    "handshake": "60s",
}
"""Ctrl-C ends the demo immediately; a page that is left open keeps its connection for the next click."""


@click.command("demo", cls=PreformattedCommand)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Default: 8080; 0 picks a free one.")
@click.option("--host", default="127.0.0.1", help="Default: 127.0.0.1; 0.0.0.0 allows other hosts.")
@click.option(
    "--host-name",
    "host_names",
    metavar="NAME",
    multiple=True,
    help="Name by which browsers reach the page, such as that of a port forward.",
)
@engine_option
@click.option("--open-browser", type=click.BOOL, default=False, metavar="yes|no", help="Open the page. Default: no.")
def demo_command(port: int, host: str, host_names: tuple[str, ...], engine: str | None, open_browser: bool) -> int:
    """Start the browser demo.

    Starts a small TCP service, a bridge to it, and a page on http://127.0.0.1:8080/ that talks to the service through
    the bridge. Connections are logged as they open and close. Ctrl-C exits.

      wsbridge demo
      wsbridge demo --port 9000 --open-browser yes
      wsbridge demo --host-name name-8080.app.example.org
    """
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        read_bind(bind)
    except ValueError as error:
        raise CliError(f"--host: {error}", EXIT_USAGE) from None

    url = ""

    def ready(listening: list[ListeningSockets]) -> None:
        nonlocal url
        url = page_url(listening[0].addresses[0])
        click.echo(f"\n  The demo is at  {click.style(url, bold=True, fg='green')}\n\n  Ctrl-C exits.\n", err=True)

    async def browse(server: Server) -> None:
        if open_browser:
            with contextlib.suppress(NoThreadError):  # the URL has been printed
                await run_in_thread(lambda: webbrowser.open(url))

    async def everything(_writer: LogWriter) -> None:
        async with trio.open_nursery() as nursery:
            backend = await nursery.start(DemoService().run)
            loaded = load_data(demo_config(bind, backend, host_names, engine), registry=CONFIG_REGISTRY)
            log_problems(loaded.warnings)
            await daemon.serve(loaded.config, open_level="info", on_ready=ready, extra_task=browse, stop_on_hangup=True)
            nursery.cancel_scope.cancel()

    try:
        return run_with_log(everything, "info", "console", bind_error_hint="; select another one with --port")
    except ConfigError as error:
        raise CliError(str(error), EXIT_USAGE) from None


def page_url(address: str) -> str:
    """Return the URL to open in a browser on this host, for the actual address of a listener."""
    host, _, port = address.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"http://{here.get(host, host)}:{port}/"


def demo_config(bind: str, port: int, host_names: Sequence[str] = (), engine: str | None = None) -> YamlData:
    """Return the demo's configuration; the page shows it, too.

    Args:
        bind: Address of the page.
        port: Port of the service.
        host_names: Names by which browsers reach the page.
        engine: What relays; None for the default.
    """
    names: dict[str, YamlData] = {"host_names": list(host_names)} if host_names else {}
    return {
        "listeners": {"page": {"bind": bind, **names}},
        "routes": {
            "terminal": {
                "match": {"path": "/ws"},
                "backend": f"tcp://127.0.0.1:{port}",
                "auth": "none",
                "resume": {"ttl": "1m", "keepalive": "5s"},
            },
            "resume-client": {"match": {"path": "/resume.js"}, "respond": "resume.js", "auth": "none"},
            "page": {"match": "any", "files": str(PAGE_DIRECTORY), "auth": "none"},
        },
        "timeouts": dict(DEMO_TIMEOUTS),
        **({} if engine is None else {"engine": engine}),
    }
