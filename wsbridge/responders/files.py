"""Static files: media types, ranges, precompressed files, redirect of `/`."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote_to_bytes

import trio

from wsbridge.context import ConnectionContext
from wsbridge.protocol.error_response import error_content
from wsbridge.protocol.http1 import Request, reason_phrase
from wsbridge.responders.base import SAFE_METHODS, Header, HttpResponse
from wsbridge.worker_thread import NoThreadError, run_in_thread

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
    """Return the Content-Type of a file by the last suffix of its name, in any case of letters."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), DEFAULT_MEDIA_TYPE)


FILE_CHUNK_BYTES = 256 * 1024
"""Size of one read in bytes; a file up to this size is read when it is opened."""
FILE_THREADS = 8
"""Threads that one directory may use at the same time."""
INDEX_FILE = "index.html"
PRECOMPRESSED = (("br", ".br"), ("gzip", ".gz"))
"""Content codings in the order of preference, and the suffix of the file that holds a file in that coding."""

_INVALID_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ETAG = re.compile(rb'(?:W/)?("[^"]*")')
_RANGE = re.compile(rb"bytes=([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)
_ZERO_WEIGHT = re.compile(rb"q=0(?:\.0*)?")
_NOT_FOUND_ERRNOS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
}
_EXHAUSTION_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN}


class FileRequestError(Exception):
    """A request that is not answered with a file.

    Args:
        status: HTTP status of the response.
        detail: One sentence for the log.
        headers: Further header lines of the response.
    """

    def __init__(self, status: int, detail: str, headers: Iterable[Header] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = list(headers)


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How the files of one route are served.

    Attributes:
        index: Name of the file that a path ending in a slash gets.
        headers: Header lines of every response; they replace ours of the same name.
        frame_ancestors: Value of the directive of Content-Security-Policy; None: no such header.
        max_age: Seconds for which a browser may use a file without asking; 0: it asks each time, by ETag.
        prefix: The part of a path that the route's pattern names, cut before a file is looked up.
        read_timeout: Seconds that opening a file, or reading a chunk of it, may take; then its file system hangs.
        redirect_root: Location that `/` is redirected to; None: `/` is a path like any other.
    """

    index: str = INDEX_FILE
    headers: tuple[Header, ...] = ()
    frame_ancestors: str | None = "'self'"
    max_age: int = 0
    redirect_root: str | None = None
    prefix: str = "/"
    read_timeout: float = 30.0


class StaticFiles:
    """The files of one directory.

    The directory is resolved for each request, so that a link to the current release can be replaced at any time.

    Args:
        root: The directory.
        options: How they are served.

    Raises:
        ValueError: It is not a directory, or it cannot be read.
    """

    keep_alive = True
    methods = SAFE_METHODS

    def __init__(self, root: Path, options: FileOptions = FileOptions()) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} is not a directory" if root.exists() else f"there is no directory {root}")
        if not os.access(root, os.R_OK | os.X_OK):
            raise ValueError(f"the directory {root} cannot be read by this user")
        self._root = root
        self._options = options
        self._limiter = trio.CapacityLimiter(FILE_THREADS)

    async def respond(self, request: Request, context: ConnectionContext) -> HttpResponse:
        """Respond with a file or an error; use the response as a context manager.

        The path below the prefix is the file's place in the directory, the query is ignored. A file system that hangs
        is not waited for longer than `file_read`; what its thread opens later is closed there.
        """
        if self._options.redirect_root is not None and request.path == "/":
            return self._finish(_redirect(self._options.redirect_root))
        try:
            names = parse_file_path(request.path, self._options.prefix, self._options.index)
            return self._finish(await self._open_in_thread(names, request))
        except FileRequestError as error:
            return self._finish(_error_response(error, request, context.id))

    async def _open_in_thread(self, names: list[str], request: Request) -> HttpResponse:
        opening = _Opening(lambda: self._open(names, request))
        with trio.move_on_after(self._options.read_timeout):
            try:
                return await run_in_thread(opening.run, self._limiter)
            except trio.Cancelled:
                opening.abandon()
                raise
            except NoThreadError as error:
                raise _file_request_error(error) from None
        raise FileRequestError(
            HTTPStatus.SERVICE_UNAVAILABLE, _hung(self._options.read_timeout), [("Retry-After", "10")]
        )

    def _finish(self, response: HttpResponse) -> HttpResponse:
        """Add the configured header lines."""
        if self._options.headers:
            names = {name.lower() for name, _ in self._options.headers}
            kept = [line for line in response.headers if line[0].lower() not in names]
            response.headers = [*kept, *self._options.headers]
        return response

    def _open(self, names: list[str], request: Request) -> HttpResponse:
        """Find, check and open the file, and read it if it is small. Runs in a thread."""
        source = None
        try:
            source, coding = self._choose_file(names, request)
            return self._respond_with(source, coding, media_type(names[-1]), request)
        except BaseException as error:
            if source is not None:
                source.close()
            if isinstance(error, OSError):
                raise _file_request_error(error) from None
            raise

    def _choose_file(self, names: list[str], request: Request) -> tuple[FileStream, str | None]:
        """Open the file, or the same one compressed beside it where the client accepts that and it is not older."""
        timeout = self._options.read_timeout
        source = FileStream(open_beneath(self._root, names), self._limiter, timeout)
        accepted = request.headers.get_all(b"accept-encoding")
        if not accepted or b"range" in request.headers:
            return source, None
        for coding, suffix in PRECOMPRESSED:
            if not accepts_coding(accepted, coding.encode()):
                continue
            try:
                other = FileStream(open_beneath(self._root, [*names[:-1], names[-1] + suffix]), self._limiter, timeout)
            except (OSError, FileRequestError):
                continue
            if other.about.st_mtime_ns >= source.about.st_mtime_ns:
                source.close()
                return other, coding
            other.close()
        return source, None

    def _respond_with(
        self, source: FileStream, coding: str | None, content_type: str, request: Request
    ) -> HttpResponse:
        """Make the response of an open file."""
        size = source.about.st_size
        # the ctime, since images and package stores give every version of a file the same mtime
        version = f"{source.about.st_mtime_ns:x}-{source.about.st_ctime_ns:x}-{size:x}"
        tag = f'"{version}{"-" + coding if coding else ""}"'
        headers = [("ETag", tag), ("Vary", "Accept-Encoding"), *self._policy_headers()]
        if etag_matches(request.headers.get_all(b"if-none-match"), tag):
            source.close()
            return HttpResponse(HTTPStatus.NOT_MODIFIED, headers)
        headers += [("Content-Type", content_type), ("Accept-Ranges", "bytes")]
        if coding is not None:
            headers.append(("Content-Encoding", coding))
        status, wanted = HTTPStatus.OK, requested_range(request, tag, size)
        if wanted is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", f"bytes {wanted.start}-{wanted.stop - 1}/{size}"))
            source.select(wanted)
        length = source.remaining
        if request.method == "HEAD":
            source.close()
            return HttpResponse(status, headers, content_length=length)
        if length > FILE_CHUNK_BYTES:
            return HttpResponse(status, headers, body_stream=source, content_length=length)
        body = source.read_blocking()
        source.close()
        return HttpResponse(status, headers, body=body, content_length=len(body))

    def _policy_headers(self) -> list[Header]:
        options = self._options
        headers = [
            ("Cache-Control", f"max-age={options.max_age}" if options.max_age else "no-cache"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if options.frame_ancestors is not None:
            headers.append(("Content-Security-Policy", f"frame-ancestors {options.frame_ancestors}"))
        return headers


class _Opening:
    """A file that a thread opens; if its request is cancelled in the meantime, the thread closes it again."""

    def __init__(self, open_file: Callable[[], HttpResponse]) -> None:
        self._open_file = open_file
        self._lock = threading.Lock()
        self._response: HttpResponse | None = None
        self._abandoned = False

    def run(self) -> HttpResponse:
        response = self._open_file()
        with self._lock:
            self._response = response
            abandoned = self._abandoned
        if abandoned:
            response.close()
        return response

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            response = self._response
        if response is not None:
            response.close()


class FileStream:
    """The rest of an open file, read in threads a chunk at a time, never beyond the size it had when it was opened.

    Args:
        fd: The open file, which this object owns from now on.
        limiter: The threads of the directory.
        timeout: Seconds that reading a chunk may take.

    Attributes:
        about: What `fstat` says of it.
        remaining: Bytes to read.
    """

    __slots__ = ("_closing", "_fd", "_limiter", "_lock", "_reading", "_timeout", "about", "remaining")

    def __init__(self, fd: int, limiter: trio.CapacityLimiter, timeout: float) -> None:
        self._fd = fd
        self._timeout = timeout
        self._limiter = limiter
        self._lock = threading.Lock()
        self._reading = self._closing = False
        self.about = os.fstat(fd)
        self.remaining = self.about.st_size

    def select(self, part: range) -> None:
        """Read only these bytes of the file."""
        os.lseek(self._fd, part.start, os.SEEK_SET)
        self.remaining = len(part)

    async def read(self) -> bytes:
        """Return the next chunk of at most `FILE_CHUNK_BYTES` bytes, `b""` at the end.

        Raises:
            OSError: The file cannot be read, became shorter than it was, or its file system hangs.
        """
        if not self.remaining:
            return b""
        with trio.move_on_after(self._timeout):
            return await run_in_thread(self.read_blocking, self._limiter)
        raise OSError(errno.ETIMEDOUT, _hung(self._timeout))

    def read_blocking(self) -> bytes:
        """Do what `read` does, in the calling thread; an empty file gives `b""`."""
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the file was closed")
            self._reading = True
        try:
            return self._read_chunk()
        finally:
            with self._lock:
                self._reading = False
            if self._closing:
                self.close()

    def _read_chunk(self) -> bytes:
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
        """Close the file, or have an abandoned thread that still reads it close it; may be called twice."""
        with self._lock:
            self._closing = True
            if self._reading:
                return
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def pattern_prefix(pattern: str | None) -> str:
    """Return the part of a route's path pattern that is not part of a file's place: `/novnc/` for `/novnc/*`."""
    return pattern[:-1] if pattern is not None and pattern.endswith("/*") else "/"


def parse_file_path(path: str, path_prefix: str, index: str = INDEX_FILE) -> list[str]:
    """Split the part of a path below the prefix into the names of directories and file.

    This is the one place where the escapes that the normal form of the path still has are decoded.

    Args:
        path: The path of the request, in normal form.
        path_prefix: The part to leave out.
        index: The file that a path ending in a slash means.

    Raises:
        FileRequestError: The path is not below the prefix, is not UTF-8, or has a name that none of our files has.
    """
    if not path.startswith(path_prefix):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "the path is not below the route's prefix")
    if _INVALID_ESCAPE.search(path):
        raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path has a broken percent escape")
    try:
        names = [unquote_to_bytes(part).decode() for part in path[len(path_prefix) :].split("/")]
    except UnicodeDecodeError:
        raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path is not UTF-8") from None
    names[-1] = names[-1] or index
    for name in names:
        if "\0" in name or "/" in name or "\\" in name:
            raise FileRequestError(HTTPStatus.BAD_REQUEST, "the path has an encoded NUL, slash or backslash")
        if not name or name.startswith("."):
            raise FileRequestError(HTTPStatus.NOT_FOUND, "the path has an empty name or one that begins with a dot")
    return names


def accepts_coding(accept_encoding: Iterable[bytes], coding: bytes) -> bool:
    """Return whether Accept-Encoding names a content coding with a weight other than 0 (RFC 9110 section 12.5.3)."""
    for part in b",".join(accept_encoding).split(b","):
        name, _, weight = part.partition(b";")
        if name.strip().lower() == coding:
            return _ZERO_WEIGHT.fullmatch(weight.strip().lower()) is None
    return False


def requested_range(request: Request, etag: str, size: int) -> range | None:
    """Return the bytes that a request asks for, None for all (RFC 9110 section 14).

    Several ranges, other units and a Range whose If-Range does not name this very file are ignored.

    Raises:
        FileRequestError: The file has no such byte (416).
    """
    values = request.headers.get_all(b"range")
    found = _RANGE.fullmatch(values[0]) if len(values) == 1 and request.method == "GET" else None
    if found is None or request.headers.get_all(b"if-range") not in ([], [etag.encode()]):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        headers = [("Content-Range", f"bytes */{size}")]
        raise FileRequestError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the range begins at {start}, and the file has {size} bytes",
            headers,
        )
    return range(start, stop)


def _hung(timeout: float) -> str:
    return f"the file system did not respond within file_read, {timeout:g} s"


def _redirect(location: str) -> HttpResponse:
    return HttpResponse(HTTPStatus.FOUND, [("Location", location), ("Cache-Control", "no-cache")], content_length=0)


def open_beneath(root: Path, names: list[str]) -> int:
    """Open a regular file below a directory. Symbolic links are followed as long as they end below it.

    The path is resolved first; then what was really opened is asked of the kernel, so that a link swapped in between
    gains nothing. Nothing is opened that could block or act (FIFO, device).

    Returns:
        A descriptor open for reading.

    Raises:
        FileRequestError: It is not a regular file, or it is outside the directory.
        OSError: It cannot be opened.
    """
    inside = _resolve_links(root)
    place = _resolve_links(inside.joinpath(*names))
    if not place.is_relative_to(inside):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "a symbolic link leads out of the directory")
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
    """Reject directories, FIFOs, devices and sockets."""
    if not stat.S_ISREG(file_stat.st_mode):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "not a regular file")


def _check_beneath(fd: int, root: Path) -> None:
    """Reject a file that turned out to be outside the directory, whatever its name said before it was opened."""
    if not Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(root):
        raise FileRequestError(HTTPStatus.NOT_FOUND, "the file was swapped for one outside the directory")


_SENTENCES: Final = {
    HTTPStatus.BAD_REQUEST: "The path of the URL is malformed.",
    HTTPStatus.NOT_FOUND: "There is no such file.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The file is shorter than the requested range.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The file cannot be read at present. Try again later.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The file cannot be read. Report this to the operator.",
}
"""What a client reads; the cause is in the log."""


def _error_response(error: FileRequestError, request: Request, connection_id: int) -> HttpResponse:
    phrase = f"{error.status} {reason_phrase(error.status)}"
    more, body = error_content(error.status, phrase, _SENTENCES[HTTPStatus(error.status)], connection_id, request)
    shown = None if request.method == "HEAD" else body
    headers = [*error.headers, *more]
    return HttpResponse(error.status, headers, body=shown, content_length=len(body), detail=error.detail)


def _file_request_error(error: OSError) -> FileRequestError:
    """Return the error of a failed open or read; the log gets the message of the system."""
    words = f"the file cannot be read: {error.strerror or error}"
    if error.errno in _NOT_FOUND_ERRNOS:
        return FileRequestError(HTTPStatus.NOT_FOUND, words)
    if error.errno in _EXHAUSTION_ERRNOS:
        return FileRequestError(HTTPStatus.SERVICE_UNAVAILABLE, words, [("Retry-After", "1")])
    return FileRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, words)
