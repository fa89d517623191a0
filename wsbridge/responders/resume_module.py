"""The route `respond: resume.js`: the JavaScript client of resumable sessions (docs/resume-client.md)."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Final

from wsbridge.context import ConnectionContext
from wsbridge.protocol.http1 import Request
from wsbridge.responders.base import SAFE_METHODS, HttpResponse
from wsbridge.responders.files import etag_matches

MODULE: Final = Path(__file__).with_name("resume.js").read_bytes()
"""clients/js/resume.js, to which the file is a symbolic link in the source."""

_HEADERS: Final = (
    ("ETag", f'"{hashlib.sha256(MODULE).hexdigest()[:32]}"'),
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Access-Control-Allow-Origin", "*"),  # a page of another origin can import it; it is the same everywhere
)


class ResumeModule:
    """Responds with the module; browsers keep it, and ask by its ETag whether it has changed."""

    keep_alive = True
    methods = SAFE_METHODS

    async def respond(self, request: Request, context: ConnectionContext) -> HttpResponse:
        """Respond with the module, with its head alone (HEAD), or with 304 if the client has this version."""
        headers = [*_HEADERS]
        if etag_matches(request.headers.get_all(b"if-none-match"), headers[0][1]):
            return HttpResponse(HTTPStatus.NOT_MODIFIED, headers)
        headers.append(("Content-Type", "text/javascript; charset=utf-8"))
        body = None if request.method == "HEAD" else MODULE
        return HttpResponse(HTTPStatus.OK, headers, body=body, content_length=len(MODULE))
