"""`wsbridge demo`: a service, a bridge to it, and a page that talks through the bridge.

Lives here: the arguments, the demo's configuration, and what it prints. Must not live here: the service and the page
(`wsbridge.demo`); the bridge is the ordinary one.
"""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping

import click
import trio

from wsbridge import daemon
from wsbridge.cli.main import EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.cli.run import log_warnings, run_with_log
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_data
from wsbridge.config.urls import read_bind
from wsbridge.config.yaml import YamlData
from wsbridge.demo import PAGE_DIRECTORY
from wsbridge.demo.service import DemoService
from wsbridge.net.listeners import ListeningSockets
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.server import Server

DEMO_TIMEOUTS: Mapping[str, YamlData] = {
    "close": "500ms",
    "lingering": "100ms",
    "drain": "0s",
    "drain_spread": "0s",
    "handshake": "60s",
}
"""Ctrl-C ends the demo at once; a page that is left open keeps its connection for the next click."""


class AnnouncingService(DemoService):
    """The demo's service, which tells of each caller as he comes; how it ended is in the bridge's log."""

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """See `Service.serve_lines`."""
        click.echo(f"connection {self.connection_count + 1}: a page is talking to the service", err=True)
        await super().handle_stream(stream)


@click.command("demo", cls=PreformattedCommand)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Default: 8080; 0 picks a free one.")
@click.option("--host", default="127.0.0.1", help="Default: 127.0.0.1; another one lets other hosts in.")
@click.option("--open-browser", type=click.BOOL, default=False, metavar="yes|no", help="Open the page. Default: no.")
def demo_command(port: int, host: str, open_browser: bool) -> int:
    """Show what wsbridge does, on a page in a browser.

    Starts a small TCP service, a bridge to it, and a page on http://127.0.0.1:8080/ that talks to the service through
    the bridge. Each connection is told as it comes and as it ends. Ctrl-C ends it.

      wsbridge demo
      wsbridge demo --port 9000 --open-browser yes
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
        click.echo(f"\n  The demo is at  {click.style(url, bold=True, fg='green')}\n\n  Ctrl-C ends it.\n", err=True)

    async def browse(server: Server) -> None:
        if open_browser:
            await trio.to_thread.run_sync(webbrowser.open, url, abandon_on_cancel=True)

    async def everything() -> None:
        async with trio.open_nursery() as nursery:
            backend = await nursery.start(AnnouncingService().run)
            loaded = load_data(demo_config(bind, backend), registry=CONFIG_REGISTRY)
            log_warnings(loaded.warnings)
            await daemon.serve(loaded.config, on_ready=ready, extra_task=browse, stop_on_hangup=True)
            nursery.cancel_scope.cancel()

    try:
        return run_with_log(everything, "info", "console", bind_error_hint="; choose another with --port")
    except ConfigError as error:
        raise CliError(str(error), EXIT_USAGE) from None


def page_url(address: str) -> str:
    """Give what to type into a browser on this host for a listener's real address."""
    host, _, port = address.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"http://{here.get(host, host)}:{port}/"


def demo_config(bind: str, port: int) -> YamlData:
    """Give the demo's configuration.

    Args:
        bind: Where the page is to be.
        port: Where the service is.
    """
    return {
        "listeners": {"page": {"bind": bind}},
        "routes": {
            "terminal": {"match": {"path": "/ws"}, "backend": f"tcp://127.0.0.1:{port}", "auth": "none"},
            "page": {"match": "any", "files": str(PAGE_DIRECTORY), "auth": "none"},
        },
        "timeouts": dict(DEMO_TIMEOUTS),
    }
