"""What speaks at the other end, by its first bytes or by the headers and the body of its answer."""

from __future__ import annotations

import re
from typing import Final

from wsbridge.protocol.http1 import Headers, quoted
from wsbridge.reasons import Reason

_BANNERS: Final = (
    (b"SSH-", "an SSH server"),
    (b"RFB 0", "a VNC server"),
    (b"220 ", "an SMTP or FTP server"),
    (b"220-", "an SMTP or FTP server"),
    (b"* OK", "an IMAP server"),
    (b"+OK", "a POP3 server"),
    (b"-ERR", "a Redis server"),
    (b"-DENIED", "a Redis server"),
    (b"HTTP/1.", "an HTTP server"),
    (b"\x15\x03", "a TLS server"),
    (b"\x16\x03", "a TLS server"),
    (b"PROXY ", "a sender of PROXY headers"),
    (b"\xff\xfb", "a Telnet server"),
    (b"\xff\xfd", "a Telnet server"),
)
_MYSQL: Final = re.compile(rb".{3}\x00\x0a[0-9]+\.[0-9]+", re.DOTALL)
MAX_SHOWN_BYTES: Final = 60
"""Bytes of a greeting that are printed."""


def name_service(data: bytes) -> str:
    """Name what sends such first bytes; empty where that is not known."""
    for start, name in _BANNERS:
        if data.startswith(start):
            return name
    return "a MySQL server" if _MYSQL.match(data) else ""


def describe_greeting(data: bytes) -> str:
    """Describe the first bytes of a peer: what it is, and how they begin."""
    name = name_service(data)
    return f"{quoted(data, MAX_SHOWN_BYTES)}{f', {name}' if name else ''}"


_BY_SERVER: Final = (
    ("cloudflare", "Cloudflare"),
    ("awselb", "an AWS load balancer"),
    ("cloudfront", "Amazon CloudFront"),
    ("microsoft-azure-application-gateway", "an Azure application gateway"),
    ("google frontend", "the Google front end"),
    ("akamaighost", "Akamai"),
    ("envoy", "Envoy"),
    ("istio", "Envoy (Istio)"),
    ("openresty", "nginx"),
    ("nginx", "nginx"),
    ("apache", "Apache"),
    ("caddy", "Caddy"),
    ("lighttpd", "lighttpd"),
    ("squid", "Squid"),
    ("varnish", "Varnish"),
    ("litespeed", "LiteSpeed"),
    ("microsoft-iis", "IIS"),
    ("haproxy", "HAProxy"),
)
_BY_BODY: Final = (
    (b"<center>nginx", "nginx"),
    (b"<center>openresty", "nginx"),
    (b"No server is available to handle this request.", "HAProxy"),
    (b"The server returned an invalid or incomplete response.", "HAProxy"),
    (b"The server didn't respond in time.", "HAProxy"),
    (b"Request forbidden by administrative rules.", "HAProxy"),
    (b"Your browser sent an invalid request.", "HAProxy"),
    (b"no healthy upstream", "Envoy"),
    (b"upstream connect error", "Envoy"),
    (b"cloudflare", "Cloudflare"),
)
_REASON_WORD: Final = re.compile(rb"([a-z0-9_]{4,24})(?![A-Za-z0-9_])")
_REASON_NAMES: Final = {reason.value: reason for reason in Reason}


def name_http_server(headers: Headers, body: bytes) -> str:
    """Name the program that answered, as far as headers and body say; empty where they do not.

    Args:
        headers: Of the answer.
        body: Its beginning.
    """
    if b"cf-ray" in headers:
        return "Cloudflare"
    server = (headers.get(b"server") or b"").decode("latin-1").lower()
    for word, name in _BY_SERVER:
        if word in server:
            return name
    for text, name in _BY_BODY:
        if text in body:
            return name
    if b"x-envoy-upstream-service-time" in headers:
        return "Envoy"
    if b"x-squid-error" in headers:
        return "Squid"
    return ""


def find_reason(headers: Headers, body: bytes) -> Reason | None:
    """Return the reason with which wsbridge rejected a request; None where the answer is not one of wsbridge's."""
    if not is_like_wsbridge(headers):
        return None
    found = _REASON_WORD.match(body)
    return None if found is None else _REASON_NAMES.get(found[1].decode("ascii"))


def is_like_wsbridge(headers: Headers) -> bool:
    """Return whether an answer has the headers with which wsbridge rejects requests."""
    return (
        (headers.get(b"content-type") or b"").lower() == b"text/plain; charset=utf-8"
        and headers.get(b"x-content-type-options") == b"nosniff"
        and headers.get(b"cache-control") == b"no-store"
    )


def readable(data: bytes, limit: int) -> str:
    r"""Return text of a peer on one line: printable ASCII, the rest as \xNN, cut."""
    return quoted(data, limit)[1:-1].replace(r"\x22", '"').replace(r"\x5c", "\\")


def first_line(body: bytes, limit: int = 300) -> str:
    """Return the first line of a body that says something, without tags of HTML; empty for none."""
    text = re.sub(rb"(?is)<(style|script)\b.*?(</\1>|\Z)|<[^<>]{0,500}>", b" ", body)
    for line in text.splitlines():
        words = b" ".join(line.split())
        if words:
            return readable(words, limit)
    return ""
