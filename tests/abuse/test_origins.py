"""Pages of other sites: the Origin matrix, and names rebound to loopback addresses."""

import pytest
import trio
import trio.testing

from tests.client import request
from tests.serving import backend, serving, written


async def status_of(served, data, *, tls=False):
    """Send a request and give the status of the answer."""
    with await served.connect(tls=tls) as client:
        await client.send(data)
        return int((await client.head()).split()[1])


ALLOWED = "https://gw.example.org"
MATRIX = {
    "the one": (["Origin: https://gw.example.org"], 101),
    "default port written": (["Origin: https://gw.example.org:443"], 101),
    "missing": ([], 101),
    "null": (["Origin: null"], 403),
    "empty": (["Origin:"], 403),
    "suffix": (["Origin: https://gw.example.org.evil.example"], 403),
    "prefix": (["Origin: https://evilgw.example.org"], 403),
    "sub-domain": (["Origin: https://x.gw.example.org"], 403),
    "parent": (["Origin: https://example.org"], 403),
    "other port": (["Origin: https://gw.example.org:8443"], 403),
    "other scheme": (["Origin: http://gw.example.org"], 403),
    "upper case": (["Origin: HTTPS://GW.EXAMPLE.ORG"], 101),
    "userinfo": (["Origin: https://gw.example.org@evil.example"], 403),
    "path": (["Origin: https://gw.example.org/evil"], 403),
    "two": (["Origin: https://gw.example.org", "Origin: https://evil.example"], 403),
    "two the same": (["Origin: https://gw.example.org", "Origin: https://gw.example.org"], 403),
    "list": (["Origin: https://gw.example.org, https://evil.example"], 403),
    "two in one": (["Origin: https://gw.example.org https://evil.example"], 403),
    "IDN look-alike": (["Origin: https://gw.xn--exampl-2of.org"], 403),
    "trailing dot": (["Origin: https://gw.example.org.evil"], 403),
    "file": (["Origin: file://"], 403),
}


@pytest.mark.parametrize("policy", ["list", "same"])
@pytest.mark.parametrize(("lines", "status"), MATRIX.values(), ids=MATRIX)
async def test_only_the_right_page_gets_in(lines, status, policy):
    """A page of another origin is 403 before anything is dialled; a client that is no browser passes."""
    async with backend() as back:
        match = {"host": "gw.example.org"}
        route = {
            "backend": back.url,
            "auth": "none",
            "match": match,
            "origins": [ALLOWED] if policy == "list" else "same",
        }
        async with serving(written(routes={"app": route}, tls=True)) as served:
            head = request("/", *lines, host="gw.example.org")
            assert await status_of(served, head, tls=True) == status
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert back.dials == (status == 101)
            if status == 403:
                line = await served.records.wait("connection.refused")
                assert line["reason"] == "origin"
                assert line["level"] == "warning"


HOSTS = {
    "localhost": 101,
    "localhost:8080": 101,
    "LOCALHOST.": 101,
    "app.localhost": 101,
    "127.0.0.1": 101,
    "127.9.9.9:1": 101,
    "[::1]": 101,
    "named.example": 101,
    "NAMED.example:99": 101,
    "evil.example": 403,
    "localhost.evil.example": 403,
    "127.0.0.1.evil.example": 403,
    "evillocalhost": 403,
}


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize(("host", "status"), HOSTS.items(), ids=HOSTS)
async def test_a_name_rebound_to_loopback_is_refused(host, status, origin):
    """On a loopback listener the Host must be literal, localhost, or named by the route; else 403."""
    async with backend() as back:
        routes = {
            "named": {"match": {"host": "named.example"}, "backend": back.url, "auth": "none"},
            "app": {"match": "any", "backend": back.url, "auth": "none"},
        }
        async with serving(written(routes=routes)) as served:
            lines = [f"Origin: http://{host}"] if origin else []
            assert await status_of(served, request("/", *lines, host=host)) == status
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert back.dials == (status == 101)


async def test_rebinding_reaches_no_files_either(tmp_path):
    """The Host check holds for plain requests of a loopback listener, too."""
    (tmp_path / "index.html").write_text("secret")
    routes = {"page": {"match": {"path": "/*"}, "files": str(tmp_path), "auth": "none"}}
    async with serving(written(routes=routes)) as served:
        assert await status_of(served, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n") == 403
        assert await status_of(served, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
