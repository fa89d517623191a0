"""Arguments of bridge to a config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from wsbridge.cli.main import EXIT_CONFIG, EXIT_USAGE, CliError
from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.load import LoadedConfig, load_data
from wsbridge.config.urls import BindAddress, read_bind, read_target
from wsbridge.config.yaml import YamlData
from wsbridge.net.http_proxy import proxy_from_environment
from wsbridge.registry import CONFIG_REGISTRY

STDIO: Final = "-"
BRIDGE_NAME: Final = "bridge"
"""The name of the one listener and of the one route; the log shows it."""
LISTEN_SCHEMES: Final = ("ws", "wss", "tcp", "tls", "unix")
UNUSED_BIND: Final = "unix:/dev/stdin"
"""Stands in the place of an address where the listener is standard input and output; never opened."""

ARGUMENT_BY_SETTING: Final = {
    f"listeners.{BRIDGE_NAME}.tls.certificates[0].cert": "--cert",
    f"listeners.{BRIDGE_NAME}.tls.certificates[0].key": "--key",
    f"listeners.{BRIDGE_NAME}": "LISTEN",
    f"routes.{BRIDGE_NAME}.match": "LISTEN",
    f"routes.{BRIDGE_NAME}.backend.ca": "--ca",
    f"routes.{BRIDGE_NAME}.backend.insecure": "--insecure",
    f"routes.{BRIDGE_NAME}.backend.server_name": "--server-name",
    f"routes.{BRIDGE_NAME}.backend.headers": "--header",
    f"routes.{BRIDGE_NAME}.backend.proxy": "--proxy",
    f"routes.{BRIDGE_NAME}.backend": "TARGET",
    f"routes.{BRIDGE_NAME}.subprotocols": "--subprotocol",
    f"routes.{BRIDGE_NAME}.allowed_origins": "--allowed-origins",
    f"routes.{BRIDGE_NAME}.timeouts.ping_interval": "--ping-interval",
    f"routes.{BRIDGE_NAME}.timeouts.idle": "--idle",
    f"routes.{BRIDGE_NAME}.dial.retry_for": "--retry-for",
}
"""Where in the configuration a problem is, and the argument that the user wrote; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """What a user asks `bridge` for; texts are as he wrote them, None and empty where he wrote nothing.

    Attributes:
        listen: Where to accept, or `-`.
        target: Where to dial.
        headers: `Name: value` each.
        subprotocols: For either side; None for the default of the configuration.
        allowed_origins: One or more of same, any and origins.
        proxy: A URL, `off`, or None to ask the environment.
    """

    listen: str
    target: str
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    insecure: bool = False
    server_name: str | None = None
    headers: Sequence[str] = ()
    subprotocols: Sequence[str] | None = None
    allowed_origins: Sequence[str] = ()
    ping_interval: str | None = None
    idle: str | None = None
    retry_for: str | None = None
    on_client_close: str | None = None
    on_client_lost: str | None = None
    proxy: str | None = None
    allow_anyone: bool = False


def build_bridge_config(options: BridgeOptions, environ: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Give the configuration of a bridge.

    Raises:
        Failure: The arguments are wrong; each sentence names the argument.
    """
    data: YamlData = {
        "listeners": {BRIDGE_NAME: _listener_section(options)},
        "routes": {BRIDGE_NAME: _route_section(options, environ)},
        "timeouts": {"drain": "0s", "drain_spread": "0s"} if options.listen == STDIO else {},
    }
    try:
        return load_data(data, registry=CONFIG_REGISTRY, environ=environ)
    except ConfigError as error:
        texts = [problem_text(problem, options) for problem in error.problems if problem.severity == "error"]
        raise CliError("\nwsbridge: ".join(dict.fromkeys(texts)), EXIT_USAGE) from None


def problem_text(problem: Problem, options: BridgeOptions) -> str:
    """Tell a problem by the argument that it is about."""
    argument = argument_for(problem)
    if problem.code == "E010" and argument.startswith("--"):
        return f"{argument}: means nothing for the target {options.target}"
    return f"{argument}: {problem.message}" if argument else problem.message


def argument_for(problem: Problem) -> str:
    """Name the argument that a problem is about; empty if it is about none."""
    for place, argument in ARGUMENT_BY_SETTING.items():
        if problem.setting == place or problem.setting.startswith((f"{place}.", f"{place}[")):
            return argument
    return ""


def split_listen(listen: str) -> tuple[str, str, str]:
    """Split LISTEN into scheme, address as `bind` takes it, and path.

    Raises:
        Failure: It has none of the known forms.
    """
    if listen.startswith("unix:"):
        return "unix", listen.replace("unix:///", "unix:/", 1), ""
    scheme, found, rest = listen.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in LISTEN_SCHEMES:
        forms = "ws://host:port/path, wss://host:port/path, tcp://host:port, tls://host:port, unix:/path or -"
        raise CliError(f'LISTEN: "{listen}" is none of {forms}', EXIT_USAGE)
    address, slash, path = rest.partition("/")
    if slash and path and scheme in {"tcp", "tls"}:
        raise CliError(f'LISTEN: "{listen}": a {scheme} address has no path', EXIT_USAGE)
    return scheme, address, f"/{path}"


def _listener_section(options: BridgeOptions) -> YamlData:
    scheme, address, _ = (STDIO, UNUSED_BIND, "") if options.listen == STDIO else split_listen(options.listen)
    _require_loopback(address, options)
    listener: dict[str, YamlData] = {"bind": address}
    if scheme not in {"ws", "wss"}:
        listener |= {"protocol": "tcp", "route": BRIDGE_NAME}
    if scheme in {"wss", "tls"}:
        if options.cert is None or options.key is None:
            raise CliError(
                f"LISTEN: {scheme} needs a certificate: --cert FILE and --key FILE, or --self-signed", EXIT_USAGE
            )
        listener["tls"] = {"certificates": [{"cert": options.cert, "key": options.key}]}
    elif options.cert is not None or options.key is not None:
        raise CliError(
            f"--cert, --key and --self-signed are for wss:// and tls:// listeners, not for {scheme}", EXIT_USAGE
        )
    if options.allowed_origins and scheme not in {"ws", "wss"}:
        raise CliError(
            f"--allowed-origins: no page in a browser can connect to {scheme}; it is for ws:// and wss://", EXIT_USAGE
        )
    return listener


def _require_loopback(address: str, options: BridgeOptions) -> None:
    """Refuse what other hosts can reach, unless that is meant."""
    try:
        bind: BindAddress = read_bind(address)
    except ValueError as error:
        raise CliError(f"LISTEN: {error}", EXIT_USAGE) from None
    if not bind.is_loopback and not options.allow_anyone:
        raise CliError(
            f"LISTEN: other hosts can reach {bind}, and a bridge asks nobody who they are: "
            "write --allow-anyone if that is meant, or listen on 127.0.0.1",
            EXIT_USAGE,
        )


def _route_section(options: BridgeOptions, environ: Mapping[str, str]) -> YamlData:
    route: dict[str, YamlData] = {"backend": _backend_section(options, environ), "auth": "none"}
    if options.listen != STDIO:
        scheme, _, path = split_listen(options.listen)
        if scheme in {"ws", "wss"}:
            route["match"] = "any" if path == "/" else {"path": path}
    if options.subprotocols is not None:
        route["subprotocols"] = list(options.subprotocols)
    if options.allowed_origins:
        words = [word.strip() for text in options.allowed_origins for word in text.split(",")]
        route["allowed_origins"] = words[0] if len(words) == 1 and words[0] in {"same", "any"} else [*words]
    timeouts: dict[str, YamlData] = {}
    if options.ping_interval is not None:
        timeouts["ping_interval"] = options.ping_interval
    if options.idle is not None:
        timeouts["idle"] = options.idle
    if timeouts:
        route["timeouts"] = timeouts
    if options.retry_for is not None:
        route["dial"] = {"retry_for": options.retry_for}
    if options.on_client_close is not None:
        route["on_client_close"] = options.on_client_close
    if options.on_client_lost is not None:
        route["on_client_lost"] = options.on_client_lost
    return route


def _backend_section(options: BridgeOptions, environ: Mapping[str, str]) -> YamlData:
    backend: dict[str, YamlData] = {"url": options.target}
    if options.ca is not None:
        backend["ca"] = options.ca
    if options.insecure:
        backend["insecure"] = "true"
    if options.server_name is not None:
        backend["server_name"] = options.server_name
    if options.headers:
        backend["headers"] = _headers_section(options.headers)
    proxy = _proxy_url(options, environ)
    if proxy is not None:
        backend["proxy"] = proxy
    return backend


def _headers_section(lines: Sequence[str]) -> YamlData:
    headers: dict[str, YamlData] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise CliError("--header: write 'Name: value'", EXIT_USAGE)
        if name.lower() in (known.lower() for known in headers):
            raise CliError(f"--header: {name} stands twice", EXIT_USAGE)
        headers[name] = value.strip(" \t")
    return headers


def _proxy_url(options: BridgeOptions, environ: Mapping[str, str]) -> str | None:
    """Give the proxy as the configuration has it, user and password included."""
    if options.proxy is not None:
        return None if options.proxy == "off" else options.proxy
    try:
        target = read_target(options.target)
    except ValueError:
        return None  # told by the loader
    try:
        proxy = proxy_from_environment(target, environ)
    except ValueError as error:
        raise CliError(str(error), EXIT_CONFIG) from None
    if proxy is None:
        return None
    place = str(proxy).rpartition("@")[2].removeprefix("http://")
    password = "" if proxy.password is None else f":{proxy.password.reveal()}"
    user = f"{proxy.user}{password}@" if proxy.user else ""
    return f"http://{user}{place}"


def print_warnings(problems: Sequence[Problem]) -> None:
    """Write warnings as sentences; for a command whose log is not shown."""
    for problem in problems:
        argument = argument_for(problem)
        click.echo(f"wsbridge: warning: {argument + ': ' if argument else ''}{problem.message}", err=True)
