"""HTTP CONNECT (RFC 9110 section 9.3.6) and the proxy that the environment names.

No library for trio has CONNECT without a whole HTTP client around it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from base64 import b64encode
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import trio

from wsbridge.config.urls import HttpProxy, Target, read_proxy_url
from wsbridge.log.format import REDACTED, redact
from wsbridge.net.address import join_host_port
from wsbridge.protocol.http1 import Headers, Response, ResponseParser, bad_response, encode_headers, quoted
from wsbridge.reasons import Rejected

if TYPE_CHECKING:
    from wsbridge.net.transport import Transport


def proxy_from_environment(target: Target, environ: Mapping[str, str]) -> HttpProxy | None:
    """The proxy that the environment names for a target.

    `https_proxy` counts for wss, `http_proxy` for ws, in lower case or upper case (`HTTP_PROXY` only where no CGI
    request can have set it: never under `REQUEST_METHOD`), and `all_proxy` where that is not set. A proxy without a
    scheme is taken as `http://`, one without a port as port 80. Loopback targets are never proxied.

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
    for fallback in ("all_proxy", "ALL_PROXY"):
        if not written:
            name, written = fallback, environ.get(fallback, "")
    if not written or _matches_no_proxy(target, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    return _parse_proxy_variable(name, written)


def _parse_proxy_variable(name: str, value: str) -> HttpProxy:
    url = (value if "://" in value else f"http://{value}").rstrip("/")
    scheme, _, rest = url.partition("://")
    if scheme.lower() != "http":
        kind = scheme.lower() if scheme.isascii() and scheme.isalnum() else "other"
        raise ValueError(f"{name}: {kind} proxies are not supported: use an HTTP proxy, http://host:port")
    url = f"http://{rest}"
    place = url.removeprefix("http://").rpartition("@")[2]
    if not place.rpartition(":")[2].isdigit() or place.endswith("]"):
        url += ":80"
    try:
        return read_proxy_url(url)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _matches_no_proxy(target: Target, no_proxy: str) -> bool:
    """Whether a comma-separated `no_proxy` names the target: `*`, names with all below them, addresses, networks."""
    host = target.host.lower().rstrip(".")
    address = _parse_ip(host)
    for entry in no_proxy.lower().replace(" ", ",").split(","):
        pattern, port = _split_no_proxy_entry(entry)
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


def _split_no_proxy_entry(entry: str) -> tuple[str, int | None]:
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


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


REFUSAL_BODY_TIMEOUT = 0.5
"""Seconds to wait for the start of the body of a refusal, which goes to the log."""

MIN_PROXY_SECRET_LENGTH = 4
"""Characters of a password below which it is not looked for in answers: it would hide half of every sentence."""


async def http_connect(transport: Transport, host: str, port: int, proxy: HttpProxy, max_head_bytes: int) -> None:
    """Ask a proxy for a tunnel; the deadline is the caller's.

    Bytes that came after the answer are put back into the wire. The wire stays the caller's, to be closed on failure.

    Args:
        transport: Connected to the proxy, nothing sent yet.
        host: Where to connect: name or address.
        port: The port there.
        proxy: Named in failures; its user and password go along as Basic authentication (RFC 7617).
        max_head_bytes: How large the head of the response may be.

    Raises:
        Rejected: The proxy opened no tunnel.
    """
    authority = join_host_port(host, port)
    lines = [("Host", authority)]
    if proxy.user or proxy.password is not None:
        lines.append(("Proxy-Authorization", _basic_authorization(proxy)))
    request = f"CONNECT {authority} HTTP/1.1\r\n{''.join(encode_headers(lines))}\r\n"
    parser = ResponseParser(max_head_bytes)
    response = None
    try:
        await transport.write_all(request.encode("ascii"))
        while response is None and (data := await transport.read_some()):
            response = parser.feed(data)
    except OSError as error:
        text = f"broke the connection before it answered: {error.strerror or error}"
        raise _proxy_failure(proxy, text) from None
    except Rejected as rejected:
        raise _proxy_failure(proxy, f"gave no valid response: {rejected.detail}") from None
    if response is None:
        raise _proxy_failure(proxy, "closed the connection before it answered")
    if 200 <= response.status < 300:
        transport.unread(parser.trailing_data)
        return
    words = f" {quoted(response.reason, 80)}" if response.reason else ""
    text = f"answered {response.status}{words} to CONNECT {authority}"
    text += await _describe_refusal(response, parser.trailing_data, transport)
    failure = _proxy_failure(proxy, text, response.status)
    if response.status in (429, 503):
        failure.retry_after = retry_after(response.headers, time.time())
    raise failure


async def _describe_refusal(response: Response, body: bytes, transport: Transport) -> str:
    """Say what a proxy wants (407), where it points to, and how its explanation begins."""
    text = ""
    if response.status == 407:
        wanted = b", ".join(response.headers.get_all(b"proxy-authenticate"))
        text += f", and wants {quoted(wanted, 120)}" if wanted else ""
    location = response.headers.get(b"location")
    if location is not None:
        text += f", to {quoted(redact(location.decode('latin-1'), url=True), 200)}"
    if not body and response.headers.get(b"content-length") != b"0":
        with contextlib.suppress(OSError), trio.move_on_after(REFUSAL_BODY_TIMEOUT):
            body = await transport.read_some()
    return f"{text}, body {quoted(body, 200)}" if body.strip() else text


def retry_after(headers: Headers, now: float) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110 section 10.2.3); None where it is missing or makes no sense.

    Args:
        headers: Of a response.
        now: Seconds of the wall clock.
    """
    value = (headers.get(b"retry-after") or b"").decode("latin-1").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _proxy_failure(proxy: HttpProxy, text: str, status: int | None = None) -> Rejected:
    """Describe a refusal, without our password, should the proxy repeat it."""
    if proxy.password is not None:
        password = proxy.password.reveal()
        for secret in (_basic_authorization(proxy).partition(" ")[2], password, unquote(password)):
            if len(secret) >= MIN_PROXY_SECRET_LENGTH:
                text = text.replace(secret, REDACTED)
    return bad_response(f"the proxy {proxy} {text}", status)


def _basic_authorization(proxy: HttpProxy) -> str:
    password = proxy.password.reveal() if proxy.password is not None else ""
    return "Basic " + b64encode(f"{unquote(proxy.user)}:{unquote(password)}".encode()).decode("ascii")
