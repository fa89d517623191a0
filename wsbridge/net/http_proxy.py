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

from wsbridge.config.secrets import Secret
from wsbridge.config.urls import HttpProxy, Target, read_proxy_url
from wsbridge.log.format import redact
from wsbridge.log.sent_secrets import SentSecrets, header_text
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
"""Seconds to wait for the start of the body of a refusal, which is logged."""


class ProxyConnector:
    """Opens tunnels through one HTTP proxy.

    Args:
        proxy: Its user and password are sent as Basic authentication (RFC 7617).
        headers: Further headers of the CONNECT request.
        max_head_bytes: Largest head of a response, in bytes.

    Attributes:
        proxy: The proxy; its text form has no password.
    """

    __slots__ = ("_headers", "_max_head_bytes", "_secrets", "proxy")

    def __init__(self, proxy: HttpProxy, headers: Mapping[str, str | Secret], max_head_bytes: int) -> None:
        self.proxy = proxy
        self._max_head_bytes = max_head_bytes
        self._headers = [(name, header_text(value)) for name, value in headers.items()]
        passwords: list[str] = []
        if proxy.user or proxy.password is not None:
            authorization = _basic_authorization(proxy)
            self._headers.insert(0, ("Proxy-Authorization", authorization))
            password = "" if proxy.password is None else proxy.password.reveal()
            passwords = [authorization.partition(" ")[2], password, unquote(password)]
        self._secrets = SentSecrets(headers, passwords)

    async def connect(self, transport: Transport, host: str, port: int) -> None:
        """Ask the proxy for a tunnel; the deadline is the caller's.

        Bytes that came after the response are put back into the transport, which the caller closes on failure.

        Args:
            transport: Connected to the proxy, nothing sent yet.
            host: Where to connect: name or address.
            port: The port there.

        Raises:
            Rejected: The proxy opened no tunnel.
        """
        authority = join_host_port(host, port)
        lines = "".join(encode_headers([("Host", authority), *self._headers]))
        request = f"CONNECT {authority} HTTP/1.1\r\n{lines}\r\n"
        parser = ResponseParser(self._max_head_bytes)
        response = None
        try:
            with contextlib.suppress(OSError):  # a read gives the same error, or what the proxy sent before
                await transport.write_all(request.encode("ascii"))
            while response is None and (data := await transport.read_some()):
                response = parser.feed(data)
        except OSError as error:
            raise self._failure(f"broke the connection before it answered: {error.strerror or error}") from None
        except Rejected as rejected:
            raise self._failure(f"gave no valid response: {rejected.detail}") from None
        if response is None:
            raise self._failure("closed the connection before it answered")
        if 200 <= response.status < 300:
            transport.unread(parser.trailing_data)
            return
        words = f" {self._quote(response.reason.encode('latin-1', 'replace'), 80)}" if response.reason else ""
        text = f"answered {response.status}{words} to CONNECT {authority}"
        text += await self._describe_refusal(response, parser.trailing_data, transport)
        failure = self._failure(text, response.status)
        if response.status in (429, 503):
            failure.retry_after = retry_after(response.headers, time.time())
        raise failure

    async def _describe_refusal(self, response: Response, body: bytes, transport: Transport) -> str:
        """Say what a proxy requires (407), where it redirects to, and how its body begins."""
        text = ""
        if response.status == 407:
            wanted = b", ".join(response.headers.get_all(b"proxy-authenticate"))
            text += f", and wants {self._quote(wanted, 120)}" if wanted else ""
        location = response.headers.get(b"location")
        if location is not None:
            shown = redact(self._secrets.hide(location).decode("latin-1"), url=True)
            text += f", to {quoted(shown, 200)}"
        if not body and response.headers.get(b"content-length") != b"0":
            with contextlib.suppress(OSError), trio.move_on_after(REFUSAL_BODY_TIMEOUT):
                body = await transport.read_some()
        return f"{text}, body {self._quote(body, 200)}" if body.strip() else text

    def _quote(self, data: bytes, longest: int) -> str:
        """Quote bytes of a response; secrets are hidden before anything is cut off or escaped."""
        return quoted(self._secrets.hide(data), longest)

    def _failure(self, text: str, status: int | None = None) -> Rejected:
        return bad_response(f"the proxy {self.proxy} {self._secrets.hide_in_text(text)}", status)


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


def _basic_authorization(proxy: HttpProxy) -> str:
    password = proxy.password.reveal() if proxy.password is not None else ""
    return "Basic " + b64encode(f"{unquote(proxy.user)}:{unquote(password)}".encode()).decode("ascii")
