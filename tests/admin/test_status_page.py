"""The status page as far as it can be judged without a browser: who gets it, and with which headers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import trio

from tests.admin.test_admin import raw
from tests.serving import Served, config_of, serving, written
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import build_endpoints
from wsbridge.admin.http import AdminRequest
from wsbridge.admin.status_page import PAGE_FOLDER, PAGE_HEADERS, PAGE_PATHS, StatusPage
from wsbridge.config.load import load_file
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import Reloader


async def ask(address: str | int, path: str, **headers: str) -> tuple[int, str]:
    """Send a GET request; give status and body."""
    fields = {"Host": "localhost:9181", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return await raw(address, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())


class Tags(HTMLParser):
    """All tags of the page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags() -> list[tuple[str, dict[str, str | None]]]:
    """Give the tags of the page."""
    parser = Tags()
    parser.feed((PAGE_FOLDER / "index.html").read_text())
    return parser.tags


def test_nothing_is_inline() -> None:
    """No script, style or handler, and nothing from elsewhere: the policy allows only the page's own files."""
    for tag, attributes in tags():
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "/page/").startswith("/page/")
            assert (attributes.get(name) or "/") in PAGE_PATHS


def test_every_file_is_served() -> None:
    """What scripts import is among the paths, and no file is left over."""
    assert sorted(PAGE_PATHS.values()) == sorted(path.name for path in PAGE_FOLDER.iterdir())
    for path in PAGE_FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', path.read_text()):
            assert f"/page/{name}" in PAGE_PATHS


def test_scripts_find_their_elements() -> None:
    """Each id that a script names is in the page, or made by the script."""
    ids = {attributes["id"] for _, attributes in tags() if "id" in attributes}
    text = (PAGE_FOLDER / "app.js").read_text()
    assert set(re.findall(r'(?:find|show)\("([\w-]+)"', text)) <= ids


def test_nothing_is_put_in_as_markup() -> None:
    """What a client sent can only become text, and the token stays in memory."""
    for path in PAGE_FOLDER.glob("*.js"):
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Storage", "cookie"):
            assert word not in text, (path.name, word)


def test_headers() -> None:
    """Strict, for each file."""
    page = StatusPage()
    for path in PAGE_PATHS:
        headers = dict(page.response(AdminRequest("GET", path), needs_token=False).headers)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert page.response(AdminRequest("POST", "/"), needs_token=False).status == 405
    assert dict(PAGE_HEADERS)["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.fixture
def token(tmp_path):
    """A file with a token."""
    path = tmp_path / "token"
    path.write_text("let-me-in\n")
    path.chmod(0o600)
    return {"file": str(path)}


async def opened(nursery: trio.Nursery, served: Served, admin: dict[str, object]) -> str | int:
    """Open an admin listener; give its path or port."""
    text = written(route={"respond": "204", "auth": "none"}, admin=admin)
    reloader = Reloader(served.server, lambda: load_file(None, CONFIG_REGISTRY, {}))
    api = AdminApi(served.server, reloader, reloader.reload)
    (endpoint, _) = build_endpoints(api, MonitoringApi(served.server), {}, nursery)
    await endpoint.prepare(config_of(text))
    endpoint.commit()
    nursery.start_soon(_close_at_end, endpoint)
    (address,) = endpoint.sockets.addresses
    return address.removeprefix("unix:") if "unix:" in address else int(address.rpartition(":")[2])


async def _close_at_end(endpoint) -> None:
    try:
        await trio.sleep_forever()
    finally:
        endpoint.close()


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:@/admin.sock"])
async def test_the_page_needs_no_token_but_its_data_does(tmp_path, token, bind):
    """Every file is served, with or without an Origin; the API is as without the page."""
    admin = {"bind": bind.replace("@", str(tmp_path)), "token": token, "page": True}
    async with serving(written(route={"respond": "204", "auth": "none"})) as served, trio.open_nursery() as nursery:
        where = await opened(nursery, served, admin)
        for path in PAGE_PATHS:
            assert (await ask(where, path))[0] == 200
            assert (await ask(where, path, Origin="http://localhost:9181"))[0] == 200
        assert 'data-token="required"' in (await ask(where, "/"))[1]
        bearer = {"Authorization": "Bearer let-me-in"}
        assert (await ask(where, "/v1/status"))[0] == 401
        assert (await ask(where, "/v1/status", **bearer))[0] == 200
        assert (await ask(where, "/v1/status", Origin="http://localhost:9181", **bearer))[0] == 403
        assert (await ask(where, "/page/", **bearer))[0] == 404
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["evil.example", "wsbridge.localhost.evil.example:9181", ""])
async def test_names_of_hosts_are_rejected(tmp_path, host):
    """DNS rebinding leads a browser to the forwarded socket by another name: neither page nor data is given."""
    admin = {"bind": f"unix:{tmp_path}/admin.sock", "page": True}
    async with serving(written(route={"respond": "204", "auth": "none"})) as served, trio.open_nursery() as nursery:
        where = await opened(nursery, served, admin)
        for path in ("/", "/page/app.js", "/v1/status"):
            assert (await ask(where, path, Host=host))[0] == 403
            assert (await ask(where, path, Host="127.0.0.1"))[0] == 200
        assert 'data-token="none"' in (await ask(where, "/"))[1]
        nursery.cancel_scope.cancel()


async def test_it_is_off_by_default(tmp_path):
    """Without the key there is no page, and a Unix socket takes any Host."""
    admin = {"bind": f"unix:{tmp_path}/admin.sock"}
    async with serving(written(route={"respond": "204", "auth": "none"})) as served, trio.open_nursery() as nursery:
        where = await opened(nursery, served, admin)
        for path in PAGE_PATHS:
            assert (await ask(where, path))[0] == 404
        assert (await ask(where, "/v1/status", Host="wsbridge"))[0] == 200
        nursery.cancel_scope.cancel()
