"""Spellings of a path: whichever is sent, it reaches the route that protects it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.client import request
from tests.http_service import service
from tests.serving import Served, backend, serving, written

PLAIN = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
USERS = {"kind": "basic", "users": "users"}


async def answer(served: Served, path: str, *headers: str, upgrade: bool = False) -> str:
    """Send a request and return the whole response."""
    with await served.connect() as client:
        data = request(path, *headers) if upgrade else PLAIN.format(path).encode("latin-1")
        await client.send(data)
        if upgrade:
            return await client.head()
        return (await client.everything()).decode("latin-1")


def status(text: str) -> int:
    """Return the status of a response."""
    return int(text.split(" ")[1])


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Return a directory with a list of users and a site."""
    (tmp_path / "users").write_text("alice:$scrypt$ln=12,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43 + "\n")
    (tmp_path / "users").chmod(0o600)
    (tmp_path / "site" / "admin").mkdir(parents=True)
    (tmp_path / "site" / "admin" / "secret.html").write_text("the secret")
    (tmp_path / "site" / "vnc.html").write_text("the page")
    (tmp_path / "site" / "%61.txt").write_text("a name with an escape")
    return tmp_path


SPELLINGS = ["/admin/secret.html", "/%61dmin/secret.html", "/%61%64%6d%69%6e/secret%2ehtml", "//admin//secret.html"]
REJECTED = [
    "/x/../admin/secret.html",
    "/x/%2e%2E/admin/secret.html",
    "/admin%2Fsecret.html",
    "/admin\\secret.html",
    "/admin%5csecret.html",
    "/./admin/secret.html",
    "/admin/secret.html%00",
    "/{admin}/secret.html",
]


@pytest.mark.parametrize("path", SPELLINGS)
async def test_protected_files(users: Path, path: str) -> None:
    """No spelling of the path of a protected directory is served by an open route for all files."""
    routes = {
        "admin": {"match": {"path": "/admin/*"}, "files": "site/admin", "auth": USERS},
        "open": {"match": {"path": "/*"}, "files": "site", "auth": "none"},
    }
    async with serving(written(routes=routes), folder=users) as served:
        assert status(await answer(served, path)) == 401
        line = await served.records.wait("connection.rejected")
        assert (line["route"], line["path"]) == ("admin", "/admin/secret.html")


@pytest.mark.parametrize("path", REJECTED)
async def test_paths_that_could_be_read_in_two_ways(users: Path, path: str) -> None:
    """They are 400 before any route is matched."""
    routes = {"open": {"match": {"path": "/*"}, "files": "site", "auth": "none"}}
    async with serving(written(routes=routes), folder=users) as served:
        assert status(await answer(served, path)) == 400


@pytest.mark.parametrize("path", ["/private/x", "/%70rivate/x", "//private/x", "/private//x", "/privat%65/%78"])
async def test_a_fixed_response(users: Path, path: str) -> None:
    """A route that only denies denies every spelling."""
    routes = {
        "private": {"match": {"path": "/private/*"}, "respond": "403", "auth": "none"},
        "open": {"match": {"path": "/*"}, "files": "site", "auth": "none"},
    }
    async with serving(written(routes=routes), folder=users) as served:
        assert status(await answer(served, path)) == 403


@pytest.mark.parametrize("pattern", ["/desk/localhost", "/desk/%6Cocalhost"])
@pytest.mark.parametrize("path", ["/desk/localhost", "/desk/%6cocalhost", "/%64esk/localhost", "//desk//localhost"])
async def test_named_segments(users: Path, path: str, pattern: str) -> None:
    """An open route with a named segment does not get what an earlier route protects, however either is written."""
    async with backend() as back:
        targets = {"networks": ["127.0.0.0/8"], "ports": [str(back.port)]}
        routes = {
            "desk": {"match": {"path": pattern}, "backend": back.url, "auth": USERS},
            "any": {
                "match": {"path": "/desk/{name}"},
                "backend": f"tcp://{{name}}:{back.port}",
                "allowed_targets": targets,
                "auth": "none",
            },
        }
        async with serving(written(routes=routes), folder=users) as served:
            assert status(await answer(served, path, upgrade=True)) == 401
            assert back.dials == 0
            assert status(await answer(served, "/desk/%31%32%37.0.0.1", upgrade=True)) == 101


async def test_nothing_is_decoded_twice(users: Path) -> None:
    """An escaped percent sign stays one, in the file's name and in the log."""
    routes = {"open": {"match": {"path": "/*"}, "files": "site", "auth": "none"}}
    async with serving(written(routes=routes), folder=users) as served:
        assert (await answer(served, "/%2561.txt")).endswith("a name with an escape")
        line = await served.records.wait("http.request")
        assert line["path"] == "/%2561.txt"


async def test_the_path_that_novnc_is_advised_to_use() -> None:
    """`path=/websockify?token=…` makes noVNC ask for `//websockify`."""
    async with backend() as back:
        route = {"match": {"path": "/websockify"}, "backend": back.url, "auth": "none"}
        async with serving(written(routes={"app": route})) as served:
            assert status(await answer(served, "//websockify?token=//x", upgrade=True)) == 101
            line = await served.records.wait("connection.closed")
            assert line["path"] == "/websockify?token=***"


async def test_what_the_authentication_service_gets() -> None:
    """X-Forwarded-Uri has the path in the form by which the route was found."""
    async with backend() as back, service() as auth:
        route: dict[str, Any] = {
            "match": {"path": "/admin/*"},
            "backend": back.url,
            "auth": {"kind": "forward", "url": f"http://127.0.0.1:{auth.port}/auth"},
        }
        async with serving(written(routes={"app": route})) as served:
            await answer(served, "//%61dmin/%c3%a9?q=%61", upgrade=True)
            assert "X-Forwarded-Uri: /admin/%C3%A9?q=%61" in auth.asked[0]


async def test_the_redirect_of_the_root(users: Path) -> None:
    """The Location is made of the configuration alone; what is asked for does not appear in it."""
    files = {"dir": "site", "index": "vnc.html", "redirect_root": "true"}
    routes = {"novnc": {"match": {"path": "/novnc/*"}, "files": files, "auth": "none"}}
    async with serving(written(routes=routes), folder=users) as served:
        for path in ("/", "//", "/?x=//evil.example", "///?"):
            text = await answer(served, path)
            assert status(text) == 302
            assert "\r\nLocation: /novnc/vnc.html\r\n" in text
        assert (await answer(served, "/novnc/")).endswith("the page")
        assert status(await answer(served, "//evil.example/")) == 404
