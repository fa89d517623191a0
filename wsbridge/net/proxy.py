"""Proxies from the environment: which one a WebSocket target is to be dialled through.

Lives here: `https_proxy`, `http_proxy` and `no_proxy`, read the way curl and Go programs do. Must not live here:
talking to a proxy (`proxy_connect`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from wsbridge.config.address import Proxy, Target, read_proxy


def from_environment(target: Target, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for a target.

    `https_proxy` counts for wss, `http_proxy` for ws, in lower case or upper case (`HTTP_PROXY` only where no CGI
    request can have set it: never under `REQUEST_METHOD`). A proxy without a scheme is taken as `http://`, one
    without a port as port 80. Loopback targets are never proxied.

    Args:
        target: What is dialled; another scheme than ws and wss has no proxy.
        environ: The environment.

    Raises:
        ValueError: the variable holds no `http://` URL; the text names the variable, not its value.
    """
    if target.scheme not in ("ws", "wss") or target.is_loopback:
        return None
    name = "https_proxy" if target.scheme == "wss" else "http_proxy"
    written = environ.get(name, "")
    if not written and not (name == "http_proxy" and "REQUEST_METHOD" in environ):
        name = name.upper()
        written = environ.get(name, "")
    if not written or _excepted(target, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    return _read(name, written)


def _read(name: str, written: str) -> Proxy:
    url = (written if "://" in written else f"http://{written}").rstrip("/")
    if not url.startswith("http://"):
        raise ValueError(f"{name}: only proxies of the form http://host:port are known")
    place = url.removeprefix("http://").rpartition("@")[2]
    if not place.rpartition(":")[2].isdigit() or place.endswith("]"):
        url += ":80"
    try:
        return read_proxy(url)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _excepted(target: Target, no_proxy: str) -> bool:
    """Whether a comma-separated `no_proxy` names the target: `*`, names with all below them, addresses, networks."""
    host = target.host.lower().rstrip(".")
    address = _address(host)
    for entry in no_proxy.lower().replace(" ", ",").split(","):
        pattern, port = _split(entry)
        if not pattern or (port is not None and port != target.port):
            continue
        if pattern == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(pattern, strict=False):
                    return True
            except ValueError:
                continue
        elif host == pattern.lstrip(".") or host.endswith("." + pattern.lstrip(".")):
            return True
    return False


def _split(entry: str) -> tuple[str, int | None]:
    """Pattern and port of an entry; `*.example.org` is the same as `.example.org`."""
    pattern = entry.removeprefix("*") if entry.startswith("*.") else entry
    if pattern.startswith("["):
        pattern, _, port = pattern[1:].partition("]")
        port = port.removeprefix(":")
    elif pattern.count(":") == 1:
        pattern, _, port = pattern.partition(":")
    else:
        port = ""
    return pattern.rstrip("."), int(port) if port.isdigit() else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
