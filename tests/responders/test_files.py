"""Static files: what is served, with which headers and media type, and what can never be reached."""

from __future__ import annotations

import mimetypes
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.responders.asking import asked
from wsbridge.responders import files
from wsbridge.responders.base import HttpResponse
from wsbridge.responders.files import (
    DEFAULT_MEDIA_TYPE,
    FILE_CHUNK_BYTES,
    MEDIA_TYPES,
    FileOptions,
    FileStream,
    StaticFiles,
    media_type,
    pattern_prefix,
)

NOVNC = Path("/usr/share/novnc")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A small site with a secret beside it."""
    root = tmp_path / "site"
    (root / "app" / "deep").mkdir(parents=True)
    (root / "index.html").write_text("<h1>home</h1>")
    (root / "app" / "index.html").write_text("<h1>app</h1>")
    (root / "app" / "ui.mjs").write_text("export {}")
    (root / "app" / "grün ü.txt").write_text("green")
    (root / ".env").write_text("password")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("password")
    (tmp_path / "secret.txt").write_text("password")
    (tmp_path / "site-two").mkdir()
    (tmp_path / "site-two" / "page.html").write_text("password")
    return root


async def get(
    root: Path, target: str, *, method: str = "GET", prefix: str = "/", headers: list[tuple[bytes, bytes]] | None = None
) -> HttpResponse:
    """Ask for a file; give the answer."""
    with await StaticFiles(root, FileOptions(prefix=prefix)).respond(*asked(method, target, headers)) as answer:
        return answer


def header(answer: HttpResponse, name: str) -> str | None:
    """Give a header that is there once at most."""
    values = [value for key, value in answer.headers if key.lower() == name.lower()]
    assert len(values) <= 1
    return values[0] if values else None


def open_descriptors() -> set[str]:
    """Give the descriptors that are open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_serves_a_file(site: Path) -> None:
    """A file comes with its type, its length and the headers that keep a page safe."""
    answer = await get(site, "/app/ui.mjs?v=1")

    assert (answer.status, answer.body, answer.content_length) == (200, b"export {}", 9)
    assert header(answer, "Content-Type") == "text/javascript; charset=utf-8"
    assert header(answer, "X-Content-Type-Options") == "nosniff"
    assert header(answer, "Content-Security-Policy") == "frame-ancestors 'self'"
    assert header(answer, "Cache-Control") == "no-cache"


@pytest.mark.parametrize(
    ("pattern", "target", "body"),
    [
        ("/*", "/", b"<h1>home</h1>"),
        ("/*", "/app/", b"<h1>app</h1>"),
        ("/x/*", "/x/", b"<h1>home</h1>"),
        ("/x/*", "/x/app/ui.mjs", b"export {}"),
        (None, "/app/index.html", b"<h1>app</h1>"),
        ("/app/", "/app/", b"<h1>app</h1>"),
        ("/*", "/app/gr%C3%BCn%20%c3%bc.txt", b"green"),
    ],
)
async def test_finds_the_file_of_a_path(site: Path, pattern: str | None, target: str, body: bytes) -> None:
    """The path below the route's prefix, decoded once, is the file's place; a final slash means index.html."""
    answer = await get(site, target, prefix=pattern_prefix(pattern))

    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/missing.html", 404),
        ("/app", 404),  # a directory, without its slash
        ("/app/deep/", 404),  # a directory without index.html
        ("/index.html/", 404),
        ("/index.html/x", 404),
        ("/.env", 404),
        ("/%2eenv", 404),
        ("/.git/config", 404),
        ("/app/../.env", 404),
        ("/../secret.txt", 404),
        ("/%2e%2e/secret.txt", 404),
        ("/..%2fsecret.txt", 400),
        ("/app/..%2F..%2Fsecret.txt", 400),
        ("/..%5csecret.txt", 400),
        ("/..\\secret.txt", 400),
        ("/%252e%252e/secret.txt", 404),  # decoded once only
        ("//app/ui.mjs", 404),
        ("//evil.example/%2f..", 404),
        ("/app//ui.mjs", 404),
        ("/../site-two/page.html", 404),
        ("/index.html%00.txt", 400),
        ("/%ff", 400),
        ("/%c0%ae%c0%ae/secret.txt", 400),
        ("/%ed%a0%80", 400),
        ("/%zz", 400),
        ("/%4", 400),
        ("/" + "a" * 5000, 404),
        ("/" + "a/" * 3000, 404),
        ("", 404),
        ("http://evil.example/index.html", 404),
    ],
)
async def test_refuses_a_path(site: Path, target: str, status: int) -> None:
    """No path gives a file outside the directory, a dotfile or a listing, and none is ever answered by a redirect."""
    answer = await get(site, target)

    assert answer.status == status
    assert header(answer, "Location") is None
    assert b"password" not in (answer.body or b"")
    assert answer.detail


async def test_follows_links_that_stay_inside(site: Path) -> None:
    """Symbolic links to files and directories inside the root work."""
    (site / "auto.html").symlink_to("app/index.html")
    (site / "link").symlink_to(site / "app")

    assert (await get(site, "/auto.html")).body == b"<h1>app</h1>"
    assert (await get(site, "/link/ui.mjs")).body == b"export {}"


@pytest.mark.parametrize("to", ["../secret.txt", "/etc/passwd", "../site-two/page.html", "loop", "nowhere"])
async def test_refuses_links_that_lead_out(site: Path, to: str) -> None:
    """A symbolic link out of the root, in a circle or to nothing is not found."""
    (site / "loop").symlink_to(to)

    assert (await get(site, "/loop")).status == 404


async def test_refuses_what_lies_behind_a_linked_directory(site: Path) -> None:
    """A directory that is a link out of the root hides all that is below it."""
    (site / "out").symlink_to("..")

    assert (await get(site, "/out/secret.txt")).status == 404
    assert (await get(site, "/out/site/index.html")).body == b"<h1>home</h1>"  # and back in is inside


async def test_notices_a_link_swapped_in_while_opening(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory replaced by a link out of the root, after the check and before the opening, gains nothing."""
    real_open = os.open

    def swap_then_open(path: Path, flags: int) -> int:
        (site / "app").rename(site / "was")
        (site / "app").symlink_to(site.parent / "site-two")
        return real_open(path, flags)

    (site / "app" / "page.html").write_text("fine")
    monkeypatch.setattr("wsbridge.responders.files.os.open", swap_then_open)
    before = open_descriptors()
    answer = await get(site, "/app/page.html")

    assert answer.status == 404
    assert "swapped" in answer.detail
    assert open_descriptors() == before


async def test_root_may_be_a_link_that_is_swapped(site: Path) -> None:
    """A root that is a link, and may be put elsewhere while we run, works at every moment."""
    current = site.parent / "current"
    current.symlink_to("site")
    route = StaticFiles(current)
    first = await route.respond(*asked("GET", "/index.html"))
    current.unlink()
    current.symlink_to("site-two")
    second = await route.respond(*asked("GET", "/page.html"))

    assert (first.status, second.status) == (200, 200)


async def test_opens_only_regular_files(site: Path) -> None:
    """A FIFO, whose opening would block, and a device are not found."""
    os.mkfifo(site / "pipe")
    (site / "null").symlink_to("/dev/null")
    with trio.fail_after(9):
        assert (await get(site, "/pipe")).status == 404
        assert (await get(site, "/null")).status == 404


async def test_head_tells_the_length_only(site: Path) -> None:
    """HEAD gives the headers of GET and no body, found or not."""
    (site / "big").write_bytes(b"x" * (FILE_CHUNK_BYTES + 1))
    for target in ("/index.html", "/big", "/missing"):
        full = await get(site, target)
        answer = await get(site, target, method="HEAD")

        assert (answer.body, answer.body_stream) == (None, None)
        assert (answer.status, answer.content_length, answer.headers) == (
            full.status,
            full.content_length,
            full.headers,
        )


async def test_unchanged_file_is_not_sent_again(site: Path) -> None:
    """If-None-Match with the file's tag, in a list, weak, over two lines or as `*`, gives 304 with the tag."""
    tag = header(await get(site, "/index.html"), "ETag")
    assert tag is not None
    for lines in ([tag], [f'"a,b", W/{tag}'], ['"a"', tag], ["*"], [f'"a",{tag}']):
        sent = [(b"if-none-match", line.encode()) for line in lines]
        answer = await get(site, "/index.html", headers=sent)

        assert (answer.status, answer.body, answer.content_length) == (304, None, None)
        assert header(answer, "ETag") == tag
        assert b"Content-Length" not in answer.encode_head(keep_alive=True)


async def test_changed_file_is_sent_again(site: Path) -> None:
    """A tag of before the change, or one that only looks alike, gives the file."""
    tag = header(await get(site, "/index.html"), "ETag") or ""
    os.utime(site / "index.html", ns=(1, 1))
    for value in (tag, '"*"', tag.strip('"'), ""):
        answer = await get(site, "/index.html", headers=[(b"if-none-match", value.encode())])

        assert (answer.status, answer.body) == (200, b"<h1>home</h1>")


async def test_a_version_with_the_same_size_and_mtime_is_sent(site: Path) -> None:
    """Container images and package stores give all files one mtime; a new version must not look unchanged."""
    page = site / "index.html"
    os.utime(page, ns=(1, 1))
    tag = (header(await get(site, "/index.html"), "ETag") or "").encode()
    page.with_name("new").write_text("<h1>HOME</h1>")
    os.utime(page.with_name("new"), ns=(1, 1))
    page.with_name("new").replace(page)
    for conditions in ([(b"if-none-match", tag)], [(b"range", b"bytes=4-"), (b"if-range", tag)]):
        answer = await get(site, "/index.html", headers=conditions)
        assert (answer.status, answer.body) == (200, b"<h1>HOME</h1>")


@pytest.mark.parametrize("size", [0, 1, FILE_CHUNK_BYTES, FILE_CHUNK_BYTES + 1, 3 * FILE_CHUNK_BYTES + 7])
async def test_sends_files_of_every_size_whole(site: Path, size: int) -> None:
    """Small files come at once, big ones in bounded chunks, all byte for byte."""
    content = os.urandom(size)
    (site / "blob.wasm").write_bytes(content)
    with await StaticFiles(site).respond(*asked("GET", "/blob.wasm")) as answer:
        assert (answer.body_stream is None) == (size <= FILE_CHUNK_BYTES)
        got = answer.body or b""
        if answer.body_stream is not None:
            while chunk := await answer.body_stream.read():
                assert len(chunk) <= FILE_CHUNK_BYTES
                got += chunk

    assert got == content
    assert answer.content_length == size


async def test_file_that_changes_its_size_while_sent(site: Path) -> None:
    """Content-Length is kept: a file that grows is cut there, one that shrinks is an error."""
    path = site / "log.txt"
    path.write_bytes(b"a" * (2 * FILE_CHUNK_BYTES))
    with await StaticFiles(site).respond(*asked("GET", "/log.txt")) as answer:
        assert isinstance(answer.body_stream, FileStream)
        await answer.body_stream.read()
        with path.open("ab") as file:
            file.write(b"b" * 10)
        assert await answer.body_stream.read() == b"a" * FILE_CHUNK_BYTES
        assert await answer.body_stream.read() == b""
    with await StaticFiles(site).respond(*asked("GET", "/log.txt")) as answer:
        assert isinstance(answer.body_stream, FileStream)
        path.write_bytes(b"short")
        with pytest.raises(OSError, match="shorter"):
            await answer.body_stream.read()


async def test_no_descriptor_is_left_open(site: Path) -> None:
    """Whatever the answer, leaving it leaves no descriptor behind."""
    (site / "big").write_bytes(b"x" * (2 * FILE_CHUNK_BYTES))
    await get(site, "/big")
    before = open_descriptors()
    for target in ("/big", "/index.html", "/app", "/missing"):
        await get(site, target)
        await get(site, target, method="HEAD")
        await get(site, target, headers=[(b"if-none-match", b"*")])

    assert open_descriptors() == before


async def test_out_of_descriptors_is_an_answer(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process has no descriptor left, the request gets 503 with Retry-After."""

    def refuse(path: Path, flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("wsbridge.responders.files.os.open", refuse)
    answer = await get(site, "/index.html")

    assert answer.status == 503
    assert header(answer, "Retry-After") == "1"
    assert "Too many open files" in answer.detail
    assert b"Too many open files" not in (answer.body or b"")


async def test_out_of_threads_is_an_answer(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit, the request gets 503 with Retry-After; a body that has begun breaks off."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    (site / "big.bin").write_bytes(bytes(2 * FILE_CHUNK_BYTES))
    with await StaticFiles(site).respond(*asked("GET", "/big.bin")) as begun:
        monkeypatch.setattr(trio.to_thread, "run_sync", fail)
        answer = await get(site, "/index.html")
        assert begun.body_stream is not None
        with pytest.raises(OSError, match="can't start new thread"):
            await begun.body_stream.read()

    assert answer.status == 503
    assert header(answer, "Retry-After") == "1"
    assert answer.detail == "the file cannot be read: can't start new thread"


async def test_files_are_read_in_threads(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is touched on the thread that runs the event loop."""
    seen = []
    real = files.open_beneath

    def note(root: Path, names: list[str]) -> int:
        seen.append(threading.current_thread())
        return real(root, names)

    monkeypatch.setattr(files, "open_beneath", note)
    await get(site, "/index.html")

    assert len(seen) == 1
    assert threading.current_thread() not in seen


def test_root_must_be_a_directory(site: Path) -> None:
    """A root that is missing or not a directory is an error when the configuration is built."""
    with pytest.raises(ValueError, match="there is no directory"):
        StaticFiles(site / "nowhere")
    with pytest.raises(ValueError, match="is not a directory"):
        StaticFiles(site / "index.html")


@pytest.mark.skipif(not NOVNC.is_dir(), reason="needs Debian's novnc")
async def test_serves_all_of_novnc() -> None:
    """Every page, module and image of Debian's noVNC is served, with a type that browsers accept."""
    route = StaticFiles(NOVNC, FileOptions(prefix="/novnc/"))
    names = [path.relative_to(NOVNC) for path in NOVNC.rglob("*") if path.is_file()]
    assert len(names) > 50
    for name in names:
        with await route.respond(*asked("GET", f"/novnc/{name}")) as answer:
            assert answer.status == 200, name
            assert answer.content_length == (NOVNC / name).stat().st_size
            if name.suffix == ".js":
                assert header(answer, "Content-Type") == "text/javascript; charset=utf-8"


async def ask(
    root: Path, options: FileOptions, target: str, *headers: tuple[bytes, bytes], **more: str
) -> HttpResponse:
    """Ask for a file that is served in a certain way."""
    options = replace(options, prefix=more.get("prefix", "/"))
    with await StaticFiles(root, options).respond(*asked("GET", target, list(headers))) as answer:
        return answer


async def test_options(site: Path) -> None:
    """The index file, response headers, frame ancestors and caching are as configured."""
    options = FileOptions(
        "ui.mjs", (("Cache-Control", "no-store"), ("X-A", "b")), "'self' https://portal.example", 3600
    )
    answer = await ask(site, options, "/app/")
    assert answer.body == b"export {}"
    assert header(answer, "Cache-Control") == "no-store"
    assert header(answer, "Content-Security-Policy") == "frame-ancestors 'self' https://portal.example"
    missing = await ask(site, options, "/nowhere")
    assert (missing.status, header(missing, "X-A")) == (404, "b")
    plain = await ask(site, FileOptions(frame_ancestors=None, max_age=60), "/index.html")
    assert header(plain, "Content-Security-Policy") is None
    assert header(plain, "Cache-Control") == "max-age=60"


async def test_the_root_is_redirected(site: Path) -> None:
    """Only `/` is, to where the configuration says."""
    options = FileOptions(redirect_root="/novnc/vnc.html")
    answer = await ask(site, options, "/?a=b", prefix="/novnc/")
    assert (answer.status, header(answer, "Location"), answer.content_length) == (302, "/novnc/vnc.html", 0)
    assert (await ask(site, options, "/novnc/", prefix="/novnc/")).body == b"<h1>home</h1>"


@pytest.mark.parametrize(
    ("value", "status", "body", "content_range"),
    [
        (b"bytes=0-3", 206, b"<h1>", "bytes 0-3/13"),
        (b"bytes=4-", 206, b"home</h1>", "bytes 4-12/13"),
        (b"bytes=-5", 206, b"</h1>", "bytes 8-12/13"),
        (b"bytes=-99", 206, b"<h1>home</h1>", "bytes 0-12/13"),
        (b"bytes=4-999", 206, b"home</h1>", "bytes 4-12/13"),
        (
            b"bytes=13-",
            416,
            b"416 Range Not Satisfiable: The file is shorter than the requested range. (id=0)\n",
            "bytes */13",
        ),
        (
            b"bytes=-0",
            416,
            b"416 Range Not Satisfiable: The file is shorter than the requested range. (id=0)\n",
            "bytes */13",
        ),
        (b"bytes=5-4", 200, b"<h1>home</h1>", None),
        (b"bytes=-", 200, b"<h1>home</h1>", None),
        (b"bytes=0-1,3-4", 200, b"<h1>home</h1>", None),
        (b"lines=0-1", 200, b"<h1>home</h1>", None),
        (b"bytes=" + b"9" * 30 + b"-", 200, b"<h1>home</h1>", None),
    ],
)
async def test_ranges(site: Path, value: bytes, status: int, body: bytes, content_range: str | None) -> None:
    """One range is served, one outside of the file is 416, and what is no single range is ignored."""
    answer = await get(site, "/", headers=[(b"range", value)])
    assert (answer.status, answer.body, header(answer, "Content-Range")) == (status, body, content_range)
    assert answer.content_length == len(body)


async def test_a_range_of_another_version_is_the_whole_file(site: Path) -> None:
    """If-Range holds the tag of the file that the client has a part of."""
    tag = (header(await get(site, "/"), "ETag") or "").encode()
    for value, status in ((tag, 206), (b'"other"', 200), (b"W/" + tag, 200), (b"Sun, 29 Nov 2026 00:00:00 GMT", 200)):
        answer = await get(site, "/", headers=[(b"range", b"bytes=0-3"), (b"if-range", value)])
        assert answer.status == status


async def test_a_range_of_a_large_file(site: Path) -> None:
    """It is streamed from its first byte to its last."""
    data = os.urandom(3 * FILE_CHUNK_BYTES)
    (site / "big.bin").write_bytes(data)
    wanted = asked("GET", "/big.bin", headers=[(b"range", b"bytes=1000-700000")])
    with await StaticFiles(site).respond(*wanted) as answer:
        assert answer.body_stream is not None
        got = b""
        while part := await answer.body_stream.read():
            got += part
    assert (got, answer.content_length) == (data[1000:700001], 699001)


async def test_precompressed_files(site: Path) -> None:
    """The file beside it is sent if the client accepts its coding and it is not older; never outside the directory."""
    page = site / "app" / "ui.mjs"
    for suffix, body in ((".br", b"brotli"), (".gz", b"gzip")):
        (site / "app" / f"ui.mjs{suffix}").write_bytes(body)
    for accepted, body, coding in (
        (b"gzip, deflate, br", b"brotli", "br"),
        (b"gzip;q=0.5, br;q=0", b"gzip", "gzip"),
        (b"GZIP", b"gzip", "gzip"),
        (b"identity", b"export {}", None),
        (b"br;q=0.000", b"export {}", None),
    ):
        answer = await get(site, "/app/ui.mjs", headers=[(b"accept-encoding", accepted)])
        assert (answer.body, header(answer, "Content-Encoding")) == (body, coding)
        assert header(answer, "Vary") == "Accept-Encoding"
        assert header(answer, "Content-Type") == "text/javascript; charset=utf-8"
    tags = {
        header(await get(site, "/app/ui.mjs", headers=[(b"accept-encoding", c)]), "ETag") for c in (b"br", b"gzip", b"")
    }
    assert len(tags) == 3
    whole = [(b"accept-encoding", b"br"), (b"range", b"bytes=0-1")]
    assert (await get(site, "/app/ui.mjs", headers=whole)).body == b"ex"
    later = page.stat().st_mtime + 10
    os.utime(page, (later, later))
    assert (await get(site, "/app/ui.mjs", headers=[(b"accept-encoding", b"br")])).body == b"export {}"
    (site / "app" / "ui.mjs.br").unlink()
    (site / "app" / "ui.mjs.br").symlink_to("../../secret.txt")
    os.utime(page, (0, 0))
    assert (await get(site, "/app/ui.mjs", headers=[(b"accept-encoding", b"br")])).body == b"export {}"


async def test_a_file_system_that_hangs_is_left_behind(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling does not wait for it, and what it opens or reads later is closed."""
    go, busy = threading.Event(), threading.Event()
    real = files.open_beneath

    def hanging(root: Path, names: list[str]) -> int:
        busy.set()
        go.wait(10)
        return real(root, names)

    before = open_descriptors()
    monkeypatch.setattr(files, "open_beneath", hanging)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, site, "/index.html")
        assert await trio.to_thread.run_sync(busy.wait, 10)
        nursery.cancel_scope.cancel()
    go.set()
    with trio.fail_after(9):
        while open_descriptors() - before:
            await trio.sleep(0.01)


async def test_a_read_that_hangs_is_left_behind(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor is not closed, and its number not used again, while a thread reads from it."""
    go, busy = threading.Event(), threading.Event()
    real = os.read

    def hanging(fd: int, size: int) -> bytes:
        busy.set()
        go.wait(10)
        return real(fd, size)

    (site / "big.bin").write_bytes(bytes(2 * FILE_CHUNK_BYTES))
    before = open_descriptors()
    with await StaticFiles(site).respond(*asked("GET", "/big.bin")) as answer:
        assert answer.body_stream is not None
        monkeypatch.setattr(os, "read", hanging)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.body_stream.read)
            assert await trio.to_thread.run_sync(busy.wait, 10)
            nursery.cancel_scope.cancel()
    assert len(open_descriptors() - before) == 1
    go.set()
    with trio.fail_after(9):
        while open_descriptors() - before:
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("core/rfb.js", "text/javascript; charset=utf-8"),
        ("ui.mjs", "text/javascript; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("STYLE.CSS", "text/css; charset=utf-8"),
        ("lib.min.js", "text/javascript; charset=utf-8"),
        ("app.js.map", "application/json"),
        ("icon.svg", "image/svg+xml"),
        ("README", DEFAULT_MEDIA_TYPE),
        ("archive.tar.gz", DEFAULT_MEDIA_TYPE),
        (".html", DEFAULT_MEDIA_TYPE),
        ("page.html.", DEFAULT_MEDIA_TYPE),
        ("html", DEFAULT_MEDIA_TYPE),
        ("", DEFAULT_MEDIA_TYPE),
    ],
)
def test_the_last_suffix_decides(name: str, expected: str) -> None:
    """In any case of letters; a name without one is bytes that no browser runs."""
    assert media_type(name) == expected


def test_the_machine_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """What /etc/mime.types makes of JavaScript elsewhere changes nothing."""
    monkeypatch.setitem(mimetypes.types_map, ".js", "text/plain")

    assert media_type("a.js") == "text/javascript; charset=utf-8"


def test_text_tells_its_characters() -> None:
    """Every text type says UTF-8, and suffixes are in the form in which they are looked up."""
    assert all("charset=utf-8" in kind for kind in MEDIA_TYPES.values() if kind.startswith("text/"))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_TYPES)


async def test_what_a_client_reads_of_a_file_that_is_not_there(site: Path) -> None:
    """One sentence and the number of the connection: text, or a page for a browser that navigates."""
    text = await get(site, "/gone")
    page = await get(site, "/gone", headers=[(b"accept", b"text/html,*/*;q=0.8")])
    head = await get(site, "/gone", method="HEAD")

    assert text.body == b"404 Not Found: There is no such file. (id=0)\n"
    assert text.content_length == head.content_length == len(text.body)
    assert head.body is None
    assert page.body is not None
    assert b"<p>There is no such file.</p>" in page.body
    assert (header(page, "Content-Security-Policy") or "").startswith("default-src 'none'; ")
