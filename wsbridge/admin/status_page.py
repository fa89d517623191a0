"""The status page: static files, which a browser may have without a token since they hold no data."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from wsbridge.admin.http import AdminRequest, AdminResponse, error_response

PAGE_FOLDER: Final = Path(__file__).parent / "page"
PAGE_PATHS: Final[Mapping[str, str]] = {
    "/": "index.html",
    "/page/app.js": "app.js",
    "/page/chart.js": "chart.js",
    "/page/icon.svg": "icon.svg",
    "/page/model.js": "model.js",
    "/page/style.css": "style.css",
}
"""Path of a request to the name of the file."""

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""Besides those of all responses (no-store, nosniff)."""


class StatusPage:
    """The files of the page in memory; blocks while it reads them.

    Raises:
        OSError: One cannot be read.
    """

    def __init__(self) -> None:
        self._files = {path: (PAGE_FOLDER / name).read_text("utf-8") for path, name in PAGE_PATHS.items()}

    def response(self, request: AdminRequest, *, needs_token: bool) -> AdminResponse:
        """Answer a request for one of the files.

        Args:
            request: Its path is one of `PAGE_PATHS`.
            needs_token: Whether the page has to ask for the token of the API.
        """
        if request.method not in ("GET", "HEAD"):
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))
        text = self._files[request.path]
        if needs_token:
            text = text.replace('data-token="none"', 'data-token="required"', 1)
        media_type = _MEDIA_TYPES[Path(PAGE_PATHS[request.path]).suffix]
        return AdminResponse(HTTPStatus.OK, text, media_type, PAGE_HEADERS)
