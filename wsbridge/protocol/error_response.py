"""The response to a rejected request: one sentence and the number of the connection, as text or as a page."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from typing import Final

from wsbridge.protocol.http1 import Request, encode_response_head, reason_phrase

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;overflow-wrap:anywhere}"
    "h1{font-size:1.4rem}"
    "p+p{font-family:ui-monospace,monospace;font-size:.9rem}"
)
_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    f"<title>%s</title><style>{_STYLE}</style></head>"
    "<body><h1>%s</h1><p>%s</p><p>%s, id=%d</p></body></html>\n"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'",
    ),
)
_TEXT_HEADERS: Final = (("Content-Type", "text/plain; charset=utf-8"),)
_COMMON_HEADERS: Final = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))

MAX_ACCEPT_BYTES: Final = 1024
"""A longer Accept is not read: those of browsers have about 150 bytes."""
_WEIGHT: Final = re.compile(rb"[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


def prefers_html(request: Request | None) -> bool:
    """Return whether a client prefers a page to plain text, as a browser does that navigates.

    It does if Accept names `text/html`, and gives neither `text/plain` nor `*/*` a higher weight (RFC 9110 section
    12.5.1). WebSockets, `fetch()` and programs do not name it.
    """
    if request is None:
        return False
    accept = request.headers.get(b"accept") or b""
    if len(accept) > MAX_ACCEPT_BYTES or b"text/html" not in accept:
        return False
    weights: dict[bytes, float] = {}
    for part in accept.split(b","):
        kind, *parameters = part.split(b";")
        found = [float(weight[1]) for each in parameters if (weight := _WEIGHT.fullmatch(each))]
        weights.setdefault(kind.strip(b" \t").lower(), found[0] if found else 1.0)
    html_weight = weights.get(b"text/html", 0.0)
    return html_weight > 0 and html_weight >= max(weights.get(b"text/plain", 0.0), weights.get(b"*/*", 0.0))


def error_content(
    status: int, name: str, sentence: str, connection_id: int, request: Request | None
) -> tuple[list[tuple[str, str]], bytes]:
    """Return the headers and the body of the response to a rejected request.

    Args:
        status: HTTP status.
        name: Name of the reason.
        sentence: What is wrong, for the client; it may quote what the client sent.
        connection_id: Number of the connection in the log.
        request: The request, if it could be read: a browser gets a page.
    """
    if prefers_html(request):
        title = html.escape(f"{status} {reason_phrase(status)}".rstrip())
        text = html.escape(sentence[:1].upper() + sentence[1:])
        page = _PAGE % (title, title, text, html.escape(name), connection_id)
        return [*_PAGE_HEADERS, *_COMMON_HEADERS], page.encode("utf-8", "backslashreplace")
    line = f"{name}: {sentence} (id={connection_id})\n"
    return [*_TEXT_HEADERS, *_COMMON_HEADERS], line.encode("utf-8", "backslashreplace")


def encode_error_response(
    status: int,
    name: str,
    sentence: str,
    connection_id: int,
    headers: Iterable[tuple[str, str]] = (),
    request: Request | None = None,
) -> bytes:
    """Write the response to a rejected request, with more header lines; the connection closes after it.

    The other arguments are those of `error_content`; the response to a HEAD request has no body.

    Raises:
        ValueError: A header cannot be written.
    """
    more, body = error_content(status, name, sentence, connection_id, request)
    head = encode_response_head(status, (*headers, *more), content_length=len(body))
    return head if request is not None and request.method == "HEAD" else head + body
