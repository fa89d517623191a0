"""Static files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

import trio

from wsbridge.responders.base import SAFE_METHODS, HttpResponse, ResponderContext, plain_text_response

DEFAULT_MEDIA_TYPE = "application/octet-stream"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".xhtml": "application/xhtml+xml; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".cjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".xml": "application/xml",
    ".pdf": "application/pdf",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".ico": "image/vnd.microsoft.icon",
    ".cur": "image/vnd.microsoft.icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".m4a": "audio/mp4",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
}


def media_type(name: str) -> str:
    """Give the Content-Type of a file by the last suffix of its name, in any case of letters."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), DEFAULT_MEDIA_TYPE)


FILE_CHUNK_BYTES = 256 * 1024
"""Bytes that one read takes; a file up to this size is read along with its opening."""
FILE_THREADS = 8
"""Threads at work for one folder at a time."""
INDEX_FILE = "index.html"

_INVALID_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ETAG = re.compile(rb'(?:W/)?("[^"]*")')
_NOT_FOUND_ERRNOS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
}
_EXHAUSTION_ERRNOS = {errno.EMFILE, errno.ENFILE}


class FileRequestError(Exception):
    """A request that gets no file.

    Args:
        status: HTTP status to answer.
        detail: One sentence for the log.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class StaticFiles:
    """The files of one folder.

    The folder is resolved anew for each request, so that a link to the current release may be swapped under it.

    Args:
        root: The folder.

    Raises:
        ValueError: It is no folder, or it cannot be read.
    """

    keep_alive = True
    methods = SAFE_METHODS

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder" if root.exists() else f"there is no folder {root}")
        if not os.access(root, os.R_OK | os.X_OK):
            raise ValueError(f"the folder {root} cannot be read by this user")
        self._root = root
        self._limiter = trio.CapacityLimiter(FILE_THREADS)

    async def respond(self, context: ResponderContext) -> HttpResponse:
        """Answer one request with a file, or say why not; use the answer as a context manager.

        The path below the prefix is the file's place in the folder, the query is ignored. Of the headers only
        If-None-Match matters; Range is ignored, as RFC 9110 section 14.2 allows.
        """
        method = context.request.method
        try:
            names = parse_file_path(context.request.target, context.path_prefix)
            wanted = context.request.headers.get_all(b"if-none-match")
            return await trio.to_thread.run_sync(self._open, names, method, wanted, limiter=self._limiter)
        except FileRequestError as refusal:
            retry = [("Retry-After", "1")] if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else []
            return plain_text_response(refusal.status, method, extra_headers=retry, detail=refusal.detail)

    def _open(self, names: list[str], method: str, if_none_match: list[bytes]) -> HttpResponse:
        """Find, check and open the file, and read it if it is small. Runs in a thread."""
        try:
            descriptor = open_beneath(self._root, names)
        except OSError as error:
            raise _file_request_error(error) from None
        source = FileStream(descriptor, self._limiter)
        try:
            about = os.fstat(descriptor)
            tag = f'"{about.st_mtime_ns:x}-{about.st_size:x}"'
            headers = [
                ("Content-Type", media_type(names[-1])),
                ("ETag", tag),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
                ("Content-Security-Policy", "frame-ancestors 'self'"),
            ]
            if etag_matches(if_none_match, tag):
                source.close()
                return HttpResponse(HTTPStatus.NOT_MODIFIED, headers[1:])
            if method == "HEAD":
                source.close()
                return HttpResponse(HTTPStatus.OK, headers, content_length=about.st_size)
            source.remaining = about.st_size
            if about.st_size > FILE_CHUNK_BYTES:
                return HttpResponse(HTTPStatus.OK, headers, body_stream=source, content_length=about.st_size)
            body = source.read_blocking()
            source.close()
            return HttpResponse(HTTPStatus.OK, headers, body=body, content_length=len(body))
        except OSError as error:
            source.close()
            raise _file_request_error(error) from None


class FileStream:
    """The rest of an open file, read in threads a chunk at a time, never beyond the size it had when it was opened.

    Args:
        descriptor: The open file, which this object owns from now on.
        limiter: The threads of the folder.
    """

    __slots__ = ("_fd", "_limiter", "remaining")

    def __init__(self, fd: int, limiter: trio.CapacityLimiter) -> None:
        self.remaining = 0
        self._fd = fd
        self._limiter = limiter

    async def read(self) -> bytes:
        """Give the next chunk of at most `CHUNK` bytes, `b""` at the end.

        Raises:
            OSError: The file cannot be read, or became shorter than it was.
        """
        if not self.remaining:
            return b""
        return await trio.to_thread.run_sync(self.read_blocking, limiter=self._limiter)

    def read_blocking(self) -> bytes:
        """Do what `read` does, in the calling thread; an empty file gives `b""`."""
        size = min(self.remaining, FILE_CHUNK_BYTES)
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._fd, size - len(parts))
            if not part:
                raise OSError(
                    errno.EIO, f"the file became {self.remaining - len(parts)} bytes shorter while it was sent"
                )
            parts += part
        self.remaining -= size
        return bytes(parts)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pattern_prefix(pattern: str | None) -> str:
    """Give the part of a route's path pattern that is no part of a file's place: `/novnc/` for `/novnc/*`, else `/`."""
    return pattern[:-1] if pattern is not None and pattern.endswith("/*") else "/"


def parse_file_path(target: str, path_prefix: str) -> list[str]:
    """Split the part of a target below the prefix into the names of folders and file, decoded once.

    A path that ends in a slash means the `index.html` there.

    Raises:
        Refusal: The path is not below the prefix, is not UTF-8, or holds something that no file of ours is named.
    """
    path = target.partition("?")[0]
    if not path.startswith(path_prefix):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "the path is not below the route's prefix")
    if _INVALID_ESCAPE.search(path):
        raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path holds a broken percent escape")
    try:
        names = [unquote_to_bytes(part).decode() for part in path[len(path_prefix) :].split("/")]
    except UnicodeDecodeError:
        raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path is not UTF-8") from None
    names[-1] = names[-1] or INDEX_FILE
    for name in names:
        if "\0" in name or "/" in name or "\\" in name:
            raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path holds an encoded NUL, slash or backslash")
        if not name or name.startswith("."):
            raise FileRequestError(HTTPStatus.NOT_FOUND, "the path holds an empty name or one that begins with a dot")
    return names


def open_beneath(root: Path, names: list[str]) -> int:
    """Open a regular file below a folder. Symbolic links are followed as long as they end below the folder.

    The path is resolved first; then what was really opened is asked of the kernel, so that a link swapped in between
    gains nothing. Nothing is opened that could block or act (FIFO, device).

    Returns:
        A descriptor open for reading.

    Raises:
        Refusal: It is not a regular file, or it is outside the folder.
        OSError: It cannot be opened.
    """
    inside = _resolve_links(root)
    place = _resolve_links(inside.joinpath(*names))
    if not place.is_relative_to(inside):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "a symbolic link leads out of the folder")
    _check_regular(place.lstat())
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor))
        _check_beneath(descriptor, inside)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def etag_matches(if_none_match: Iterable[bytes], etag: str) -> bool:
    """Whether If-None-Match names the tag, or is `*`, by weak comparison (RFC 9110 sections 8.8.3.2 and 13.1.2)."""
    value = b",".join(if_none_match).strip()
    return value == b"*" or etag.encode() in _ETAG.findall(value)


def _resolve_links(path: Path) -> Path:
    """Resolve all links; unlike `Path.resolve`, a loop of links is an OSError on every version of Python."""
    return Path(os.path.realpath(path, strict=True))


def _check_regular(file_stat: os.stat_result) -> None:
    """Refuse folders, FIFOs, devices and sockets."""
    if not stat.S_ISREG(file_stat.st_mode):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "not a regular file")


def _check_beneath(fd: int, root: Path) -> None:
    """Refuse a file that turned out to be outside the folder, whatever its name said before it was opened."""
    if not Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(root):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "the file was swapped for one outside the folder")


def _file_request_error(error: OSError) -> FileRequestError:
    """Say what a failed open or read means to the peer; the log gets the system's own words."""
    words = f"the file cannot be read: {error.strerror or error}"
    if error.errno in _NOT_FOUND_ERRNOS:
        return FileRequestError(HTTPStatus.NOT_FOUND, words)
    if error.errno in _EXHAUSTION_ERRNOS:
        return FileRequestError(HTTPStatus.SERVICE_UNAVAILABLE, words)
    return FileRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, words)
