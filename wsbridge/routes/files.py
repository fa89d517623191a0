"""The route `files: DIR`: static files for a web client that comes from the same port as its WebSocket.

Lives here: which file a request's path means, and that it cannot mean one outside the folder. Must not live here:
sockets, types of files (`media_types`). The connection writes what comes out. All file work is done in threads.

The rules: a folder is never listed, no name may begin with a dot, nothing but regular files is opened, and no redirect
is ever built from a request: a folder without its final slash is simply not found.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote_to_bytes

import trio

from wsbridge.routes.answer import SAFE_METHODS, Answer, Asked, plain
from wsbridge.routes.media_types import media_type

CHUNK = 256 * 1024
"""Bytes that one read takes; a file up to this size is read along with its opening."""
THREADS = 8
"""Threads at work for one folder at a time."""
INDEX = "index.html"

_ESCAPE_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TAG = re.compile(rb'(?:W/)?("[^"]*")')
_NOT_FOUND = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENXIO}
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


class Refusal(Exception):  # noqa: N818 (not an error of ours; it never leaves this file)
    """A request that gets no file.

    Args:
        status: HTTP status to answer.
        detail: One sentence for the log.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Files:
    """The files of one folder.

    The folder is resolved anew for each request, so that a link to the current release may be swapped under it.

    Args:
        root: The folder.

    Raises:
        ValueError: It is no folder, or it cannot be read.
    """

    lasting = True
    methods = SAFE_METHODS

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder" if root.exists() else f"there is no folder {root}")
        if not os.access(root, os.R_OK | os.X_OK):
            raise ValueError(f"the folder {root} cannot be read by this user")
        self._root = root
        self._limiter = trio.CapacityLimiter(THREADS)

    async def answer(self, asked: Asked) -> Answer:
        """Answer one request with a file, or say why not; use the answer as a context manager.

        The path below the prefix is the file's place in the folder, the query is ignored. Of the headers only
        If-None-Match matters; Range is ignored, as RFC 9110 section 14.2 allows.
        """
        method = asked.request.method
        try:
            names = file_names(asked.request.target, asked.prefix)
            wanted = asked.request.headers.get_all(b"if-none-match")
            return await trio.to_thread.run_sync(self._open, names, method, wanted, limiter=self._limiter)
        except Refusal as refusal:
            retry = [("Retry-After", "1")] if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else []
            return plain(refusal.status, method, extra=retry, detail=refusal.detail)

    def _open(self, names: list[str], method: str, wanted: list[bytes]) -> Answer:
        """Find, check and open the file, and read it if it is small. Runs in a thread."""
        try:
            descriptor = open_inside(self._root, names)
        except OSError as error:
            raise _refusal(error) from None
        source = FileChunks(descriptor, self._limiter)
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
            if tag_matches(wanted, tag):
                source.close()
                return Answer(HTTPStatus.NOT_MODIFIED, headers[1:])
            if method == "HEAD":
                source.close()
                return Answer(HTTPStatus.OK, headers, length=about.st_size)
            source.left = about.st_size
            if about.st_size > CHUNK:
                return Answer(HTTPStatus.OK, headers, chunks=source, length=about.st_size)
            body = source.read_now()
            source.close()
            return Answer(HTTPStatus.OK, headers, body=body, length=len(body))
        except OSError as error:
            source.close()
            raise _refusal(error) from None


class FileChunks:
    """The rest of an open file, read in threads a chunk at a time, never beyond the size it had when it was opened.

    Args:
        descriptor: The open file, which this object owns from now on.
        limiter: The threads of the folder.
    """

    __slots__ = ("_descriptor", "_limiter", "left")

    def __init__(self, descriptor: int, limiter: trio.CapacityLimiter) -> None:
        self.left = 0
        self._descriptor = descriptor
        self._limiter = limiter

    async def read(self) -> bytes:
        """Give the next chunk of at most `CHUNK` bytes, `b""` at the end.

        Raises:
            OSError: The file cannot be read, or became shorter than it was.
        """
        if not self.left:
            return b""
        return await trio.to_thread.run_sync(self.read_now, limiter=self._limiter)

    def read_now(self) -> bytes:
        """Do what `read` does, in the calling thread; an empty file gives `b""`."""
        size = min(self.left, CHUNK)
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._descriptor, size - len(parts))
            if not part:
                raise OSError(errno.EIO, f"the file became {self.left - len(parts)} bytes shorter while it was sent")
            parts += part
        self.left -= size
        return bytes(parts)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def prefix_of(pattern: str | None) -> str:
    """Give the part of a route's path pattern that is no part of a file's place: `/novnc/` for `/novnc/*`, else `/`."""
    return pattern[:-1] if pattern is not None and pattern.endswith("/*") else "/"


def file_names(target: str, match_prefix: str) -> list[str]:
    """Split the part of a target below the prefix into the names of folders and file, decoded once.

    A path that ends in a slash means the `index.html` there.

    Raises:
        Refusal: The path is not below the prefix, is not UTF-8, or holds something that no file of ours is named.
    """
    path = target.partition("?")[0]
    if not path.startswith(match_prefix):
        raise Refusal(HTTPStatus.NOT_FOUND, "the path is not below the route's prefix")
    if _ESCAPE_BROKEN.search(path):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the path holds a broken percent escape")
    try:
        names = [unquote_to_bytes(part).decode() for part in path[len(match_prefix) :].split("/")]
    except UnicodeDecodeError:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the path is not UTF-8") from None
    names[-1] = names[-1] or INDEX
    for name in names:
        if "\0" in name or "/" in name or "\\" in name:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the path holds an encoded NUL, slash or backslash")
        if not name or name.startswith("."):
            raise Refusal(HTTPStatus.NOT_FOUND, "the path holds an empty name or one that begins with a dot")
    return names


def open_inside(root: Path, names: list[str]) -> int:
    """Open a regular file below a folder. Symbolic links are followed as long as they end below the folder.

    The path is resolved first; then what was really opened is asked of the kernel, so that a link swapped in between
    gains nothing. Nothing is opened that could block or act (FIFO, device).

    Returns:
        A descriptor open for reading.

    Raises:
        Refusal: It is not a regular file, or it is outside the folder.
        OSError: It cannot be opened.
    """
    inside = _real(root)
    place = _real(inside.joinpath(*names))
    if not place.is_relative_to(inside):
        raise Refusal(HTTPStatus.NOT_FOUND, "a symbolic link leads out of the folder")
    _check_regular(place.lstat())
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor))
        _check_opened(descriptor, inside)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def tag_matches(wanted: Iterable[bytes], tag: str) -> bool:
    """Whether If-None-Match names the tag, or is `*`, by weak comparison (RFC 9110 sections 8.8.3.2 and 13.1.2)."""
    value = b",".join(wanted).strip()
    return value == b"*" or tag.encode() in _TAG.findall(value)


def _real(path: Path) -> Path:
    """Resolve all links; unlike `Path.resolve`, a loop of links is an OSError on every version of Python."""
    return Path(os.path.realpath(path, strict=True))


def _check_regular(about: os.stat_result) -> None:
    """Refuse folders, FIFOs, devices and sockets."""
    if not stat.S_ISREG(about.st_mode):
        raise Refusal(HTTPStatus.NOT_FOUND, "not a regular file")


def _check_opened(descriptor: int, inside: Path) -> None:
    """Refuse a file that turned out to be outside the folder, whatever its name said before it was opened."""
    if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(inside):
        raise Refusal(HTTPStatus.NOT_FOUND, "the file was swapped for one outside the folder")


def _refusal(error: OSError) -> Refusal:
    """Say what a failed open or read means to the peer; the log gets the system's own words."""
    words = f"the file cannot be read: {error.strerror or error}"
    if error.errno in _NOT_FOUND:
        return Refusal(HTTPStatus.NOT_FOUND, words)
    if error.errno in _NO_DESCRIPTORS:
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, words)
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, words)
