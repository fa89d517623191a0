"""Written: what `bridge` is asked for on the command line, as the configuration that a file would hold.

Lives here: LISTEN, TARGET and the options as listeners and routes, and which argument a problem is about. The values
go through the loader and the checks of files unchanged, so that messages are alike. Must not live here: any rule that
the configuration has already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from wsbridge.cli.status import CONFIG, USAGE, Failure
from wsbridge.config.address import BindAddress, read_bind, read_target
from wsbridge.config.document import Data
from wsbridge.config.load import Loaded, build
from wsbridge.config.problems import ConfigError, Problem
from wsbridge.kinds import CONFIG_KINDS
from wsbridge.net.proxy import from_environment

STDIO: Final = "-"
NAME: Final = "bridge"
"""The name of the one listener and of the one route; the log shows it."""
LISTENS: Final = ("ws", "wss", "tcp", "tls", "unix")
NO_SOCKET: Final = "unix:/dev/stdin"
"""Stands in the place of an address where the listener is standard input and output; never opened."""

ARGUMENTS: Final = {
    f"listeners.{NAME}.tls.certificates[0].cert": "--cert",
    f"listeners.{NAME}.tls.certificates[0].key": "--key",
    f"listeners.{NAME}": "LISTEN",
    f"routes.{NAME}.match": "LISTEN",
    f"routes.{NAME}.backend.ca": "--ca",
    f"routes.{NAME}.backend.insecure": "--insecure",
    f"routes.{NAME}.backend.server_name": "--server-name",
    f"routes.{NAME}.backend.headers": "--header",
    f"routes.{NAME}.backend.proxy": "--proxy",
    f"routes.{NAME}.backend": "TARGET",
    f"routes.{NAME}.subprotocols": "--subprotocol",
    f"routes.{NAME}.origins": "--origins",
    f"routes.{NAME}.timeouts.ping": "--ping",
    f"routes.{NAME}.timeouts.idle": "--idle",
    f"routes.{NAME}.connect.retry_for": "--retry-for",
}
"""Where in the configuration a problem is, and the argument that the user wrote; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a user asks `bridge` for; texts are as he wrote them, None and empty where he wrote nothing.

    Attributes:
        listen: Where to accept, or `-`.
        target: Where to dial.
        headers: `Name: value` each.
        subprotocols: For either side; None for the default of the configuration.
        origins: One or more of same, any and origins.
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
    origins: Sequence[str] = ()
    ping: str | None = None
    idle: str | None = None
    retry_for: str | None = None
    after_close: str | None = None
    on_client_lost: str | None = None
    proxy: str | None = None
    allow_anyone: bool = False


def load(wish: Wish, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Give the configuration of a bridge.

    Raises:
        Failure: The arguments are wrong; each sentence names the argument.
    """
    data: Data = {
        "listeners": {NAME: _listener(wish)},
        "routes": {NAME: _route(wish, environ)},
        "timeouts": {"drain": "0s", "spread": "0s"} if wish.listen == STDIO else {},
    }
    try:
        return build(data, kinds=CONFIG_KINDS, environ=environ)
    except ConfigError as error:
        texts = [sentence(problem, wish) for problem in error.problems if problem.severity == "error"]
        raise Failure("\nwsbridge: ".join(dict.fromkeys(texts)), USAGE) from None


def sentence(problem: Problem, wish: Wish) -> str:
    """Tell a problem by the argument that it is about."""
    argument = argument_of(problem)
    if problem.code == "E010" and argument.startswith("--"):
        return f"{argument}: means nothing for the target {wish.target}"
    return f"{argument}: {problem.message}" if argument else problem.message


def argument_of(problem: Problem) -> str:
    """Name the argument that a problem is about; empty if it is about none."""
    for place, argument in ARGUMENTS.items():
        if problem.path == place or problem.path.startswith((f"{place}.", f"{place}[")):
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
    if not found or scheme not in LISTENS:
        forms = "ws://host:port/path, wss://host:port/path, tcp://host:port, tls://host:port, unix:/path or -"
        raise Failure(f'LISTEN: "{listen}" is none of {forms}', USAGE)
    address, slash, path = rest.partition("/")
    if slash and path and scheme in {"tcp", "tls"}:
        raise Failure(f'LISTEN: "{listen}": a {scheme} address has no path', USAGE)
    return scheme, address, f"/{path}"


def _listener(wish: Wish) -> Data:
    scheme, address, _ = (STDIO, NO_SOCKET, "") if wish.listen == STDIO else split_listen(wish.listen)
    _loopback_only(address, wish)
    listener: dict[str, Data] = {"bind": address}
    if scheme not in {"ws", "wss"}:
        listener |= {"speaks": "tcp", "route": NAME}
    if scheme in {"wss", "tls"}:
        if wish.cert is None or wish.key is None:
            raise Failure(f"LISTEN: {scheme} needs a certificate: --cert FILE and --key FILE, or --self-signed", USAGE)
        listener["tls"] = {"certificates": [{"cert": wish.cert, "key": wish.key}]}
    elif wish.cert is not None or wish.key is not None:
        raise Failure(f"--cert, --key and --self-signed are for wss:// and tls:// listeners, not for {scheme}", USAGE)
    if wish.origins and scheme not in {"ws", "wss"}:
        raise Failure(f"--origins: no page in a browser can connect to {scheme}; it is for ws:// and wss://", USAGE)
    return listener


def _loopback_only(address: str, wish: Wish) -> None:
    """Refuse what other hosts can reach, unless that is meant."""
    try:
        bind: BindAddress = read_bind(address)
    except ValueError as error:
        raise Failure(f"LISTEN: {error}", USAGE) from None
    if not bind.is_loopback and not wish.allow_anyone:
        raise Failure(
            f"LISTEN: other hosts can reach {bind}, and a bridge asks nobody who they are: "
            "write --allow-anyone if that is meant, or listen on 127.0.0.1",
            USAGE,
        )


def _route(wish: Wish, environ: Mapping[str, str]) -> Data:
    route: dict[str, Data] = {"backend": _backend(wish, environ), "auth": "none"}
    if wish.listen != STDIO:
        scheme, _, path = split_listen(wish.listen)
        if scheme in {"ws", "wss"}:
            route["match"] = "any" if path == "/" else {"path": path}
    if wish.subprotocols is not None:
        route["subprotocols"] = list(wish.subprotocols)
    if wish.origins:
        words = [word.strip() for text in wish.origins for word in text.split(",")]
        route["origins"] = words[0] if len(words) == 1 and words[0] in {"same", "any"} else [*words]
    timeouts: dict[str, Data] = {}
    if wish.ping is not None:
        timeouts["ping"] = wish.ping
    if wish.idle is not None:
        timeouts["idle"] = wish.idle
    if timeouts:
        route["timeouts"] = timeouts
    if wish.retry_for is not None:
        route["connect"] = {"retry_for": wish.retry_for}
    if wish.after_close is not None:
        route["after_close"] = wish.after_close
    if wish.on_client_lost is not None:
        route["on_client_lost"] = wish.on_client_lost
    return route


def _backend(wish: Wish, environ: Mapping[str, str]) -> Data:
    backend: dict[str, Data] = {"url": wish.target}
    if wish.ca is not None:
        backend["ca"] = wish.ca
    if wish.insecure:
        backend["insecure"] = "true"
    if wish.server_name is not None:
        backend["server_name"] = wish.server_name
    if wish.headers:
        backend["headers"] = _headers(wish.headers)
    proxy = _proxy(wish, environ)
    if proxy is not None:
        backend["proxy"] = proxy
    return backend


def _headers(lines: Sequence[str]) -> Data:
    headers: dict[str, Data] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Failure("--header: write 'Name: value'", USAGE)
        if name.lower() in (known.lower() for known in headers):
            raise Failure(f"--header: {name} stands twice", USAGE)
        headers[name] = value.strip(" \t")
    return headers


def _proxy(wish: Wish, environ: Mapping[str, str]) -> str | None:
    """Give the proxy as the configuration has it, user and password included."""
    if wish.proxy is not None:
        return None if wish.proxy == "off" else wish.proxy
    try:
        target = read_target(wish.target)
    except ValueError:
        return None  # told by the loader
    try:
        proxy = from_environment(target, environ)
    except ValueError as error:
        raise Failure(str(error), CONFIG) from None
    if proxy is None:
        return None
    place = str(proxy).rpartition("@")[2].removeprefix("http://")
    password = "" if proxy.password is None else f":{proxy.password.reveal()}"
    user = f"{proxy.user}{password}@" if proxy.user else ""
    return f"http://{user}{place}"


def tell_warnings(problems: Sequence[Problem]) -> None:
    """Write warnings as sentences; for a command whose log is not shown."""
    for problem in problems:
        argument = argument_of(problem)
        click.echo(f"wsbridge: warning: {argument + ': ' if argument else ''}{problem.message}", err=True)
