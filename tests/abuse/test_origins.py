"""Pages of other sites: the Origin matrix, and names rebound to loopback addresses."""

import pytest
import trio
import trio.testing

from tests.authority import listener_tls
from tests.client import request
from tests.serving import backend, serving, written


async def status_of(served, data, *, tls=False):
    """Send a request and give the status of the answer."""
    with await served.connect(tls=tls) as client:
        await client.send(data)
        return int((await client.head()).split()[1])


ALLOWED = "https://gw.example.org"
# One of each kind, to see that it is asked here at all; protocol/test_origin has all of them.
MATRIX = {
    "the one": (["Origin: https://gw.example.org"], 101),
    "missing": ([], 101),
    "null": (["Origin: null"], 403),
    "suffix": (["Origin: https://gw.example.org.evil.example"], 403),
    "sub-domain": (["Origin: https://x.gw.example.org"], 403),
    "parent": (["Origin: https://example.org"], 403),
    "other scheme": (["Origin: http://gw.example.org"], 403),
    "userinfo": (["Origin: https://gw.example.org@evil.example"], 403),
    "two": (["Origin: https://gw.example.org", "Origin: https://evil.example"], 403),
    "IDN look-alike": (["Origin: https://gw.xn--exampl-2of.org"], 403),
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
            "allowed_origins": [ALLOWED] if policy == "list" else "same",
        }
        async with serving(written(routes={"app": route}, tls=True)) as served:
            head = request("/", *lines, host="gw.example.org")
            assert await status_of(served, head, tls=True) == status
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert back.dials == (status == 101)
            if status == 403:
                line = await served.records.wait("connection.rejected")
                assert line["reason"] == "origin_not_allowed"
                assert line["level"] == "warning"


IDN = "xn--bcher-kva.example"
SAME_OR_LISTED = {
    "in its ASCII form": (IDN, [f"Origin: https://{IDN}"], 101),
    "in capitals": ("XN--BCHER-KVA.Example", [f"Origin: https://{IDN.upper()}"], 101),
    "with its port": (f"{IDN}:443", [f"Origin: https://{IDN}:443"], 101),
    "Host with a dot at its end": (f"{IDN}.", [f"Origin: https://{IDN}"], 101),
    "as people write it": (IDN, ["Origin: https://b\xfccher.example"], 400),
    "percent-encoded": (IDN, ["Origin: https://b%C3%BCcher.example"], 403),
    "look-alike": (IDN, ["Origin: https://xn--bcher-lva.example"], 403),
    "its mapping without the umlaut": (IDN, ["Origin: https://bucher.example"], 403),
}


@pytest.mark.parametrize("policy", ["list", "same"])
@pytest.mark.parametrize(("host", "lines", "status"), SAME_OR_LISTED.values(), ids=SAME_OR_LISTED)
async def test_international_names_are_compared_as_browsers_send_them(host, lines, status, policy):
    """The file may have them as people write them; a request has ASCII, and nothing of it is converted."""
    async with backend() as back:
        route = {"backend": back.url, "auth": "none", "match": {"host": "B\u00fccher.example"}}
        route["allowed_origins"] = ["https://b\u00fccher.example"] if policy == "list" else "same"
        async with serving(written(routes={"app": route}, tls=True)) as served:
            assert await status_of(served, request("/", *lines, host=host), tls=True) == status
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert back.dials == (status == 101)


PORTS = {
    "both left out": ("gw.example.org", "http://gw.example.org", 101),
    "https in front": ("gw.example.org", "https://gw.example.org", 101),
    "the scheme's own in Host": ("gw.example.org:443", "https://gw.example.org", 101),
    "the other scheme's own": ("gw.example.org:443", "http://gw.example.org", 403),
    "the same other": ("gw.example.org:8443", "https://gw.example.org:8443", 101),
    "in the Origin alone": ("gw.example.org", "https://gw.example.org:8443", 403),
    "in Host alone": ("gw.example.org:8443", "https://gw.example.org", 403),
    "too large": ("gw.example.org", "https://gw.example.org:65536", 403),
    "no number": ("gw.example.org", "https://gw.example.org:x", 403),
    "a scheme without one": ("gw.example.org", "app://gw.example.org", 403),
}


@pytest.mark.parametrize(("host", "origin", "status"), PORTS.values(), ids=PORTS)
async def test_ports_belong_to_the_origin(host, origin, status):
    """With `same` the ports are equal, the default one being that of the Origin's scheme."""
    async with backend() as back:
        route = {"backend": back.url, "auth": "none", "match": {"host": "gw.example.org"}}
        async with serving(written(routes={"app": route})) as served:
            assert await status_of(served, request("/", f"Origin: {origin}", host=host)) == status


@pytest.mark.parametrize(("origins", "status"), [(["null"], 101), ("any", 101), ([ALLOWED], 403), ("same", 403)])
async def test_null_only_if_written(origins, status):
    """Sandboxed frames and local files have the origin null, which any page can have; the list has to name it."""
    async with backend() as back:
        route = {"backend": back.url, "auth": "none", "match": "any", "allowed_origins": origins}
        async with serving(written(routes={"app": route})) as served:
            assert await status_of(served, request("/", "Origin: null")) == status
            assert await status_of(served, request("/", "Origin: NULL")) == (101 if origins == "any" else 403)


@pytest.mark.parametrize(
    "lines",
    [["Host: localhost"], ["Host: evil.example"], ["host:localhost", "HOST: evil.example"], ["Host:"]],
    ids=["the same twice", "another", "three", "an empty one"],
)
async def test_several_hosts_are_refused(lines):
    """A second Host header, whatever it says, is 400: programs disagree on which one counts."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        assert await status_of(served, request("/", *lines)) == 400
        assert back.dials == 0


HOSTS = {
    "localhost": 101,
    "app.localhost": 101,
    "127.0.0.1": 101,
    "[::1]": 101,
    "named.example": 101,
    "evil.example": 403,
    "localhost.evil.example": 403,
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


WILDCARDS = {
    "below": ("https://a.gw.example.org", 101),
    "at any depth": ("https://a.b.gw.example.org", 101),
    "the bare name": ("https://gw.example.org", 403),
    "a longer label": ("https://evilgw.example.org", 403),
    "another scheme": ("http://a.gw.example.org", 403),
    "another port": ("https://a.gw.example.org:8443", 403),
    "a suffix": ("https://a.gw.example.org.evil.example", 403),
}


@pytest.mark.parametrize(("origin", "status"), WILDCARDS.values(), ids=WILDCARDS)
async def test_wildcard_origins(origin, status):
    """`https://*.gw.example.org` allows all names below gw.example.org with the same scheme and port, not itself."""
    async with backend() as back:
        route = {
            "backend": back.url,
            "auth": "none",
            "match": {"host": "*.lan"},
            "allowed_origins": ["https://*.gw.example.org"],
        }
        async with serving(written(routes={"app": route})) as served:
            assert await status_of(served, request("/", f"Origin: {origin}", host="x.y.lan")) == status
            assert await status_of(served, request("/", host="lan")) == 404


@pytest.mark.parametrize(("allowed", "status"), [(["file://"], 101), (["http://localhost"], 403), ("same", 403)])
async def test_local_pages_only_if_written(allowed, status):
    """Pages of Electron and Cordova have the origin `file://`."""
    async with backend() as back:
        route = {"backend": back.url, "auth": "none", "allowed_origins": allowed}
        async with serving(written(route=route)) as served:
            assert await status_of(served, request("/", "Origin: file://")) == status


REBINDING = {
    "another name": ("evil.example", {}, {}, 403),
    "an address": ("192.0.2.1:8080", {}, {}, 101),
    "an IPv6 address": ("[2001:db8::1]", {}, {}, 101),
    "localhost": ("a.localhost:1", {}, {}, 101),
    "a name of the listener": ("gw.lan", {"host_names": "gw.lan"}, {}, 101),
    "a wildcard of the listener": ("a.lan", {"host_names": ["*.lan"]}, {}, 101),
    "another than the listener's": ("evil.example", {"host_names": ["gw.lan"]}, {}, 403),
    "a host of the route": ("evil.example", {}, {"match": {"host": "evil.example"}}, 101),
    "network is no credential": ("evil.example", {}, {"auth": {"kind": "network", "allow": ["127.0.0.0/8"]}}, 403),
    "any_of with network": (
        "evil.example",
        {},
        {"auth": {"any_of": [{"kind": "network", "allow": ["127.0.0.0/8"]}, {"kind": "basic", "users": "users"}]}},
        403,
    ),
    "credentials": ("evil.example", {}, {"auth": {"kind": "basic", "users": "users"}}, 401),
    "a trusted proxy": (
        "public.example",
        {"trusted_proxies": ["127.0.0.0/8"], "client_address_from": "x-forwarded-for"},
        {},
        101,
    ),
    "another proxy": (
        "public.example",
        {"trusted_proxies": ["192.0.2.0/24"], "client_address_from": "x-forwarded-for"},
        {},
        403,
    ),
    "TLS": ("evil.example", {"tls": True}, {}, 101),
}


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:0"])
@pytest.mark.parametrize(("host", "listener", "route", "status"), REBINDING.values(), ids=REBINDING)
async def test_dns_rebinding(host, listener, route, status, bind, tmp_path):
    """A name that its owner can have resolve to us passes no listener without TLS, wherever that listens."""
    (tmp_path / "users").write_text("alice:$scrypt$ln=12,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43 + "\n")
    (tmp_path / "users").chmod(0o600)
    web = {"bind": bind, **listener}
    tls = bool(web.get("tls"))
    if tls:
        web["tls"] = listener_tls()
    async with backend() as back:
        app = {"match": "any", "auth": "none", "backend": back.url, **route}
        async with serving(written(listeners={"web": web}, routes={"app": app}), folder=tmp_path) as served:
            head = request("/", f"Origin: http{'s' if tls else ''}://{host}", host=host)
            assert await status_of(served, head, tls=tls) == status
            await back.until(dials=int(status == 101))
            if status == 403:
                line = await served.records.wait("connection.rejected")
                assert "host_names" in line["detail"]
                assert "match.host" in line["detail"]
