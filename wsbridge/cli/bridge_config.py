"""The arguments of `bridge` as a configuration."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import click

from wsbridge.cli.main import EXIT_CONFIG, EXIT_USAGE, CliError
from wsbridge.config.errors import ConfigError, Problem
from wsbridge.config.load import LoadedConfig, load_data
from wsbridge.config.risks import HOST_ACCEPTING_KEYS
from wsbridge.config.urls import BindAddress, read_bind, read_target
from wsbridge.config.yaml import YamlData
from wsbridge.log.format import redact
from wsbridge.net.http_proxy import proxy_from_environment
from wsbridge.registry import CONFIG_REGISTRY

STDIO: Final = "-"
BRIDGE_NAME: Final = "bridge"
"""The name of the listener and of the route; the log shows it."""
FILES_NAME: Final = "files"
NOVNC_PAGE: Final = "vnc.html"
"""The name of the route of `--files`."""
LISTEN_SCHEMES: Final = ("ws", "wss", "tcp", "tls", "unix")
UNUSED_BIND: Final = "unix:/dev/stdin"
"""The address in the configuration when the listener is standard input and output; it is never opened."""
UNIX_MODE: Final = "0600"
"""File mode of a Unix socket: a bridge has no authentication, so only its user may connect."""
SHORT_ADDRESS: Final = re.compile(r"(?:(\[[^\[\]]*\]|[^:/\s@\[\]]+):)?(\d+)")
"""`host:port`, `[v6]:port` or `port`: LISTEN or TARGET without a scheme."""

_USERINFO: Final = re.compile(r"^([^/?#]*://)([^/?#]*)@")

_LISTENER: Final = f"listeners.{BRIDGE_NAME}"
_ROUTE: Final = f"routes.{BRIDGE_NAME}"
ARGUMENT_BY_SETTING: Final = {
    f"{_LISTENER}.tls.certificates[0].cert": "--cert",
    f"{_LISTENER}.tls.certificates[0].key": "--key",
    f"{_LISTENER}.host_names": "--host-name",
    f"{_LISTENER}.allow_http": "--allow-http",
    f"{_LISTENER}.mode": "--mode",
    _LISTENER: "LISTEN",
    f"{_ROUTE}.match": "LISTEN",
    f"{_ROUTE}.backend.ca": "--ca",
    f"{_ROUTE}.backend.insecure": "--insecure",
    f"{_ROUTE}.backend.server_name": "--server-name",
    f"{_ROUTE}.backend.client_certificate.key": "--client-key",
    f"{_ROUTE}.backend.client_certificate": "--client-cert",
    f"{_ROUTE}.backend.host": "--host",
    f"{_ROUTE}.backend.origin": "--origin",
    f"{_ROUTE}.backend.headers": "--header",
    f"{_ROUTE}.backend.pin_sha256": "--pin-sha256",
    f"{_ROUTE}.backend.proxy_headers": "--proxy-header",
    f"{_ROUTE}.backend.proxy": "--proxy",
    f"{_ROUTE}.backend.messages": "--text",
    f"{_ROUTE}.backend.resume": "--resume",
    f"{_ROUTE}.backend": "TARGET",
    f"{_ROUTE}.subprotocols": "--subprotocol",
    f"{_ROUTE}.text_messages": "--text-messages",
    f"{_ROUTE}.on_client_fin": "--on-client-fin",
    f"{_ROUTE}.allowed_origins": "--allowed-origins",
    f"{_ROUTE}.timeouts.connect": "--connect-timeout",
    f"{_ROUTE}.timeouts.ping_interval": "--ping-interval",
    f"{_ROUTE}.timeouts.ping_timeout": "--ping-timeout",
    f"{_ROUTE}.timeouts.idle": "--idle",
    f"{_ROUTE}.timeouts.write": "--write-timeout",
    f"{_ROUTE}.timeouts.half_close": "--half-close",
    f"{_ROUTE}.timeouts.close": "--close-timeout",
    f"{_ROUTE}.timeouts.max_lifetime": "--max-lifetime",
    f"{_ROUTE}.dial.retry_for": "--retry-for",
    "limits.per_address.handshake_rate": "--handshake-rate",
    "engine": "--engine",
    f"routes.{FILES_NAME}.files": "--files",
}
"""Settings of the configuration and the arguments that set them; the first that fits is named in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """The arguments of `bridge`, as they were written; None or empty for those that were not given.

    Attributes:
        listen: Where to accept, or `-`; completed by `complete_listen`.
        target: Where to dial; completed by `complete_target`.
        headers: `Name: value` each.
        subprotocols: For either side; None for the default of the configuration.
        allowed_origins: One or more of same, any and origins.
        proxy: A URL, `off`, or None to use the environment.
        proxy_headers: `Name: value` each.
    """

    listen: str
    target: str
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    insecure: bool = False
    server_name: str | None = None
    pin_sha256: Sequence[str] = ()
    client_cert: str | None = None
    client_key: str | None = None
    host: str | None = None
    origin: str | None = None
    resume: str | None = None
    headers: Sequence[str] = ()
    subprotocols: Sequence[str] | None = None
    allowed_origins: Sequence[str] = ()
    text_messages: str | None = None
    text: bool = False
    on_client_fin: str | None = None
    files: str | None = None
    host_names: Sequence[str] = ()
    allow_http: bool = False
    handshake_rate: str | None = None
    mode: str | None = None
    connect_timeout: str | None = None
    ping_interval: str | None = None
    ping_timeout: str | None = None
    idle: str | None = None
    write_timeout: str | None = None
    half_close: str | None = None
    close_timeout: str | None = None
    max_lifetime: str | None = None
    retry_for: str | None = None
    on_client_close: str | None = None
    on_client_lost: str | None = None
    proxy: str | None = None
    proxy_headers: Sequence[str] = ()
    allow_anyone: bool = False
    engine: str | None = None

    @property
    def public_target(self) -> str:
        """TARGET without user and password."""
        return without_userinfo(self.target)

    @property
    def shown_target(self) -> str:
        """TARGET without secrets, also those of its query."""
        return redact(self.public_target, url=True)

    @property
    def timeouts(self) -> dict[str, YamlData]:
        """The timeouts that were given, by their keys."""
        given: dict[str, str | None] = {
            "connect": self.connect_timeout,
            "ping_interval": self.ping_interval,
            "ping_timeout": self.ping_timeout,
            "idle": self.idle,
            "write": self.write_timeout,
            "half_close": self.half_close,
            "close": self.close_timeout,
            "max_lifetime": self.max_lifetime,
        }
        return {key: text for key, text in given.items() if text is not None}


def without_userinfo(url: str) -> str:
    """Remove user and password from a URL; an @ in its path or query is not part of them (RFC 3986 section 3.2)."""
    return _USERINFO.sub(r"\1", url)


def complete_target(target: str) -> str:
    """Complete a TARGET without a scheme: `host:port` or `port` is TCP.

    Raises:
        CliError: It has the form of something else that is dialled by another URL.
    """
    if short := SHORT_ADDRESS.fullmatch(target):
        return f"tcp://{short[1] or 'localhost'}:{short[2]}"
    _reject_other_schemes("TARGET", target)
    return target


def complete_listen(listen: str, target: str, *, tls: bool) -> str:
    """Complete a LISTEN without a scheme: WebSocket, or TCP if TARGET is a WebSocket; a port alone is on 127.0.0.1.

    Args:
        listen: As it was written.
        target: Completed.
        tls: Whether a certificate was given.

    Raises:
        CliError: It has the form of something else that is written in another way.
    """
    short = SHORT_ADDRESS.fullmatch(listen)
    if short is None:
        _reject_other_schemes("LISTEN", listen)
        return listen
    address = f"{short[1] or '127.0.0.1'}:{short[2]}"
    if target.lower().startswith(("ws://", "wss://", "ws+unix:")):
        return f"{'tls' if tls else 'tcp'}://{address}"
    return f"{'wss' if tls else 'ws'}://{address}/"


def _reject_other_schemes(argument: str, text: str) -> None:
    """Suggest what is meant by a path or a URL of HTTP; user and password are not quoted."""
    text = without_userinfo(text)
    scheme, found, rest = text.partition("://")
    if text.startswith("/"):
        raise CliError(f'{argument}: "{text}": write unix:{text}', EXIT_USAGE)
    if found and scheme.lower() in {"http", "https"}:
        raise CliError(f'{argument}: "{text}": write {scheme.lower().replace("http", "ws")}://{rest}', EXIT_USAGE)


def build_bridge_config(options: BridgeOptions, environ: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Build the configuration of a bridge.

    Raises:
        CliError: The arguments are wrong; each sentence names its argument.
    """
    routes: dict[str, YamlData] = {BRIDGE_NAME: _route_section(options, environ)}
    if options.files is not None:
        routes[FILES_NAME] = {"match": "any", "files": _files_section(options.files), "auth": "none"}
    data: dict[str, YamlData] = {"listeners": {BRIDGE_NAME: _listener_section(options)}, "routes": routes}
    if options.listen == STDIO:
        data["timeouts"] = {"drain": "0s", "drain_spread": "0s"}
    if options.engine is not None:
        data["engine"] = options.engine
    if options.handshake_rate is not None:
        data["limits"] = {"per_address": {"handshake_rate": options.handshake_rate}}
    try:
        loaded = load_data(data, registry=CONFIG_REGISTRY, environ=environ)
    except ConfigError as error:
        texts = [problem_text(problem, options) for problem in error.problems if problem.severity == "error"]
        raise CliError("\nwsbridge: ".join(dict.fromkeys(texts)), EXIT_USAGE) from None
    worded = [_with_own_words(problem, options) for problem in loaded.warnings]
    return replace(loaded, warnings=list({problem.message: problem for problem in reversed(worded)}.values())[::-1])


_OWN_WORDS: Final = {
    "W013": "is a secret, and every user of this host can see it (ps): put it into a file for `wsbridge run`",
    "W025": f"accepts only {HOST_ACCEPTING_KEYS.replace('bind', 'LISTEN')} as Host (DNS rebinding protection); "
    "if browsers use another name, add --host-name NAME",
}


def _files_section(directory: str) -> YamlData:
    """Return the section of a directory; in one of noVNC, which has no index.html, / leads to its page."""
    if (Path(directory) / "index.html").exists() or not (Path(directory) / NOVNC_PAGE).is_file():
        return directory
    return {"dir": directory, "index": NOVNC_PAGE, "redirect_root": "true"}


def _with_own_words(problem: Problem, options: BridgeOptions) -> Problem:
    """Reword a warning whose remedy or place in a file is another one than on the command line."""
    message = _OWN_WORDS.get(problem.code, problem.message)
    if problem.setting == f"{_ROUTE}.backend.headers.Authorization" and _USERINFO.match(options.target):
        return replace(problem, setting=f"{_ROUTE}.backend.url", message=f"its password {message}")
    return replace(problem, message=message)


def problem_text(problem: Problem, options: BridgeOptions) -> str:
    """Describe a problem by its argument."""
    argument = argument_for(problem)
    if problem.code == "E010" and argument.startswith("--"):
        return f"{argument}: means nothing for the target {options.shown_target}"
    message = redact(problem.message)
    return f"{argument}: {message}" if argument else message


def argument_for(problem: Problem) -> str:
    """Name the argument that a problem is about; empty if there is none."""
    for place, argument in ARGUMENT_BY_SETTING.items():
        if problem.setting == place or problem.setting.startswith((f"{place}.", f"{place}[")):
            return argument
    return ""


def split_listen(listen: str) -> tuple[str, str, str]:
    """Split LISTEN into scheme, address in the form of `bind`, and path.

    Raises:
        CliError: It has none of the known forms.
    """
    if listen.startswith("unix:"):
        return "unix", listen.replace("unix:///", "unix:/", 1), ""
    scheme, found, rest = listen.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in LISTEN_SCHEMES:
        forms = "ws://host:port/path, wss://host:port/path, tcp://host:port, tls://host:port, unix:/path, a port or -"
        raise CliError(f'LISTEN: "{without_userinfo(listen)}" is none of {forms}', EXIT_USAGE)
    address, slash, path = rest.partition("/")
    if slash and path and scheme in {"tcp", "tls"}:
        raise CliError(f'LISTEN: "{listen}": a {scheme} address has no path', EXIT_USAGE)
    return scheme, address, f"/{path}"


def _listener_section(options: BridgeOptions) -> YamlData:
    scheme, address, _ = (STDIO, UNUSED_BIND, "") if options.listen == STDIO else split_listen(options.listen)
    _require_loopback(address, options)
    _check_listener_options(scheme, options)
    listener: dict[str, YamlData] = {"bind": address}
    if scheme not in {"ws", "wss"}:
        listener |= {"protocol": "tcp", "route": BRIDGE_NAME}
    if scheme == "unix":
        listener["mode"] = options.mode or UNIX_MODE
    if options.cert is not None:
        listener["tls"] = {"certificates": [{"cert": options.cert, "key": options.key or options.cert}]}
    if options.host_names:
        listener["host_names"] = list(options.host_names)
    if options.allow_http:
        listener["allow_http"] = "true"
    return listener


def _check_listener_options(scheme: str, options: BridgeOptions) -> None:
    """Reject options that mean nothing for a kind of listener."""
    websocket, tls = scheme in {"ws", "wss"}, scheme in {"wss", "tls"}
    certificate = options.cert is not None or options.key is not None
    if tls and options.cert is None:
        text = f"LISTEN: {scheme} needs a certificate: --cert FILE and --key FILE, or --self-signed"
    elif certificate and not tls:
        text = f"--cert, --key and --self-signed are for wss:// and tls:// listeners, not for {scheme}"
    elif options.allowed_origins and not websocket:
        text = f"--allowed-origins: no page in a browser can connect to {scheme}; it is for ws:// and wss://"
    elif options.files is not None and not websocket:
        text = f"--files: files are served to HTTP clients of ws:// and wss:// listeners, not of {scheme}"
    elif options.host_names and not websocket:
        text = f"--host-name: only ws:// and wss:// listeners have a Host header, not {scheme}"
    elif options.allow_http and (websocket or scheme == STDIO):
        text = "--allow-http is for tcp://, tls:// and unix: listeners"
    elif options.mode is not None and scheme != "unix":
        text = "--mode is for unix: listeners"
    else:
        return
    raise CliError(text, EXIT_USAGE)


def _require_loopback(address: str, options: BridgeOptions) -> None:
    """Reject addresses that other hosts can reach, unless --allow-anyone is given."""
    try:
        bind: BindAddress = read_bind(address)
    except ValueError as error:
        raise CliError(f"LISTEN: {error}", EXIT_USAGE) from None
    if bind.kind == "fd":
        raise CliError(f"LISTEN: {bind}: passed sockets need a configuration file (wsbridge run)", EXIT_USAGE)
    if not bind.is_loopback and not options.allow_anyone:
        raise CliError(
            f"LISTEN: other hosts can reach {bind}, and `bridge` has no authentication: "
            "write --allow-anyone if that is intended, or listen on 127.0.0.1",
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
    if options.timeouts:
        route["timeouts"] = options.timeouts
    if options.retry_for is not None:
        route["dial"] = {"retry_for": options.retry_for}
    for key in ("text_messages", "on_client_fin", "on_client_close", "on_client_lost"):
        value = getattr(options, key)
        if value is not None:
            route[key] = value
    return route


def _backend_section(options: BridgeOptions, environ: Mapping[str, str]) -> YamlData:
    backend: dict[str, YamlData] = {"url": options.public_target}
    for key in ("ca", "server_name", "host", "origin", "resume"):
        value = getattr(options, key)
        if value is not None:
            backend[key] = value
    if options.pin_sha256:
        backend["pin_sha256"] = list(options.pin_sha256)
    if options.text:
        backend["messages"] = "text"
    if options.insecure:
        backend["insecure"] = "true"
    if options.client_cert is not None:
        key = options.client_key or options.client_cert
        backend["client_certificate"] = {"cert": options.client_cert, "key": key}
    elif options.client_key is not None:
        raise CliError("--client-key needs --client-cert FILE", EXIT_USAGE)
    headers = _headers_section("--header", [*options.headers, *_basic_auth_header(options)])
    if headers:
        backend["headers"] = headers
    return backend | _proxy_section(options, environ)


def _proxy_section(options: BridgeOptions, environ: Mapping[str, str]) -> dict[str, YamlData]:
    proxy = _proxy_url(options, environ)
    headers = _headers_section("--proxy-header", options.proxy_headers)
    if proxy is None:
        if headers:
            text = "--proxy-header: no proxy is set for this TARGET: write --proxy URL"
            raise CliError(text, EXIT_USAGE)
        return {}
    return {"proxy": proxy, "proxy_headers": headers} if headers else {"proxy": proxy}


def _basic_auth_header(options: BridgeOptions) -> list[str]:
    """Return the header for user and password in the URL of TARGET (RFC 3986 section 3.2.1, RFC 7617)."""
    found = _USERINFO.match(options.target)
    if found is None:
        return []
    scheme = found[1].removesuffix("://")
    if scheme.lower() not in {"ws", "wss"}:
        raise CliError(f"TARGET: a {scheme} URL has no user and no password", EXIT_USAGE)
    userinfo = unquote_to_bytes(found[2])
    if b":" not in userinfo:
        userinfo += b":"
    return [f"Authorization: Basic {b64encode(userinfo).decode()}"]


def _headers_section(option: str, lines: Sequence[str]) -> dict[str, YamlData]:
    headers: dict[str, YamlData] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise CliError(f"{option}: write 'Name: value'", EXIT_USAGE)
        if name.lower() in (known.lower() for known in headers):
            raise CliError(f"{option}: {name} is given twice", EXIT_USAGE)
        headers[name] = value.strip(" \t")
    return headers


def _proxy_url(options: BridgeOptions, environ: Mapping[str, str]) -> str | None:
    """Return the proxy in the form of the configuration, with user and password."""
    if options.proxy is not None:
        return None if options.proxy == "off" else options.proxy
    try:
        target = read_target(options.public_target)
    except ValueError:
        return None  # reported by the loader
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
    """Print warnings as sentences, for a command whose log is not shown."""
    for problem in problems:
        argument = argument_for(problem)
        click.echo(f"wsbridge: warning: {argument + ': ' if argument else ''}{problem.message}", err=True)
