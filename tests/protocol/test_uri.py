"""Targets: which are rejected, which a pattern matches, and the normal form of hosts."""

from __future__ import annotations

from time import thread_time
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.uri import (
    HostPatterns,
    PathPattern,
    is_safe_from_rebinding,
    normalise_host,
    normalise_path,
    normalise_target,
    split_host,
)


@pytest.mark.parametrize(
    "path",
    [
        "/.", "/..", "/./a", "/../a", "/a/.", "/a/..", "/a/../b", "/%2e/a", "/a/%2E%2e", "/.%2e/", "//../a",
        "/a/%2e%2e/b", "/a/..;/b", "/a/..;x=1/b", "/a/%2e.%3b/b", "/a/.;",
        "/%2E", "/a\\b", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%00", "/a/..%2f", "", "a", "*", "/a|b", "/a{b}",
        "/a<b>",
        "/a[1]", "/a^b", "/a`b", '/a"b', "/%", "/%4", "/%zz", "/a%2", "/a b", "/\xe4",
    ],
)  # fmt: skip
def test_paths_that_are_rejected(path: str) -> None:
    """Dot segments, encoded slashes, backslashes and NUL, and characters that must be encoded are rejected."""
    with pytest.raises(ValueError, match=r"path|slash"):
        normalise_path(path)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("/a/", "/a/"),
        ("/.well-known/a", "/.well-known/a"),
        ("/a..b", "/a..b"),
        ("/...", "/..."),
        ("/a/..b", "/a/..b"),
        ("/%61dmin", "/admin"),
        ("/%41%7E%2d%5f%2e", "/A~-_."),
        ("/%21%24%26%27%28%29%2a%2b%2c%3b%3d%3a%40", "/!$&'()*+,;=:@"),
        ("/%c3%a4%20", "/%C3%A4%20"),
        ("/%2561", "/%2561"),
        ("/%252e%252E", "/%252e%252E"),
        ("/%25%32%46", "/%252F"),
        ("/%3ftoken%3dx", "/%3Ftoken=x"),
        ("//", "/"),
        ("//websockify", "/websockify"),
        ("/a///b//", "/a/b/"),
        ("/%7b%7D%5b%7C", "/%7B%7D%5B%7C"),
    ],
)
def test_the_normal_form_of_a_path(path: str, normal: str) -> None:
    """Escapes that RFC 3986 does not need are decoded once, others are in capitals, empty segments are merged."""
    assert normalise_path(path) == normal
    assert normalise_path(normal) == normal
    assert normalise_target(f"{path}?q=%61//../%2e") == f"{normal}?q=%61//../%2e"


@given(st.text(st.sampled_from("/.%2e5Cc0F61aAzZ?;{|~ "), max_size=12).map("/".__add__))
def test_the_normal_form_is_final(path: str) -> None:
    """Normalising twice changes nothing, and nothing decodes to a dangerous segment."""
    try:
        normal = normalise_path(path)
    except ValueError:
        return
    assert normalise_path(normal) == normal
    segments = [unquote(segment) for segment in normal.split("/")]
    assert not {".", ".."} & set(segments)
    assert "" not in segments[1:-1]
    assert not any(bad in segment for segment in segments for bad in "/\\\0")


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("/x", ["/x"], ["/x/", "/X", "/xy", "/", "/x/y"]),
        ("/x/*", ["/x/", "/x/y", "/x/y/z"], ["/x", "/xy", "/X/y", "/"]),
        ("/*", ["/", "/x", "/x/y"], []),
        ("/", ["/"], ["/x"]),
        ("/a%20b", ["/a%20b"], ["/a b", "/a%20B"]),
        ("/%61dmin/%7e%c3%a4/*", ["/admin/~%C3%A4/", "/admin/~%C3%A4/x"], ["/%61dmin/~%C3%A4/x"]),
    ],
)
def test_patterns(pattern: str, taken: list[str], not_taken: list[str]) -> None:
    """A pattern matches its path, or all below it, and nothing else."""
    assert all(PathPattern(pattern).matches(path) for path in taken)
    assert not any(PathPattern(pattern).matches(path) for path in not_taken)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "*",
        "/*/x",
        "/x*",
        "/x/**",
        "/x?y",
        "/x#y",
        "/x y",
        "/ä",
        "/a/../b",
        "//",
        "/a//b",
        "/a\\b",
        "/%2e/*",
        "/%2f",
        "/%2a",
        "/a|b",
        "/%zz",
    ],
)
def test_bad_patterns(text: str) -> None:
    """What could never match, or says something else than it does, is no pattern."""
    with pytest.raises(ValueError, match=r"path|star|match"):
        PathPattern(text)


def test_patterns_compare() -> None:
    """Patterns of the same text are equal."""
    assert PathPattern("/x/*") == PathPattern("/x/*") != PathPattern("/x")
    assert len({PathPattern("/x"), PathPattern("/x")}) == 1


@pytest.mark.parametrize(
    ("header", "host", "port"),
    [
        ("GW.Example.org", "gw.example.org", None),
        ("gw.example.org.:8443", "gw.example.org", 8443),
        ("gw:", "gw", None),
        ("my_host-1:0080", "my_host-1", 80),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[::1]", "[::1]", None),
        ("[2001:DB8:0:0::1]:443", "[2001:db8::1]", 443),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]", None),
        ("[::FFFF:C000:201]", "[::ffff:192.0.2.1]", None),
    ],
)
def test_hosts(header: str, host: str, port: int | None) -> None:
    """Hosts are compared in lower case, without port and trailing dot, IPv6 in its short form."""
    assert split_host(header) == (host, port)
    assert normalise_host(header) == host


@pytest.mark.parametrize(
    "header",
    ["", ".", "a..b", ".a", "a..", "a b", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "[a]", "[::1%eth0]", "[1.2.3.4]",
     "a:99999", "a:\uff11", "ä", "a/b", "a@b", "a,b", "a\n", "x" * 300],
)  # fmt: skip
def test_bad_hosts(header: str) -> None:
    """What is no authority has no normal form."""
    assert normalise_host(header) is None


def test_long_hosts_are_cheap() -> None:
    """No Host header of 8 KiB takes long to refuse."""
    start = thread_time()

    for text in ("a" * 8192, "a." * 4096, "a." * 127 + "!", "[" + ":" * 8000):
        assert normalise_host(text) is None
    assert thread_time() - start < 0.05


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "a.b.localhost",
        "127.0.0.1:80",
        "192.0.2.7",
        "[::1]:1",
        "[2001:db8::1]",
        "GW.lan:1",
    ],
)
def test_hosts_safe_from_rebinding(header: str) -> None:
    """Addresses, localhost, names under it and configured names cannot be taken over by DNS rebinding."""
    assert is_safe_from_rebinding(normalise_host(header) or "", HostPatterns(["gw.lan"]))


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "127.1",
        "2130706433",
        "",
        "gw.lan.x",
    ],
)
def test_hosts_open_to_rebinding(header: str) -> None:
    """The owner of any other name can have it resolve to our address."""
    assert not is_safe_from_rebinding(normalise_host(header) or "", HostPatterns(["gw.lan"]))


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("/to/{host}/{port}", "/to/a/1", {"host": "a", "port": "1"}),
        ("/to/{host}/{port}", "/to/%41/.x", {"host": "%41", "port": ".x"}),
        ("/to/{host}/{port}", "/to/a", None),
        ("/to/{host}/{port}", "/to/a/", None),
        ("/to/{host}/{port}", "/to/a/1/", None),
        ("/to/{host}/{port}", "/TO/a/1", None),
        ("/{x}", "/", None),
        ("/{x}", "/a\n", {"x": "a\n"}),
        ("/{x}/*", "/a/", {"x": "a"}),
        ("/{x}/*", "/a/b/c", {"x": "a"}),
        ("/{x}/*", "/a", None),
        ("/a.b/{x}", "/a.b/c", {"x": "c"}),
        ("/a.b/{x}", "/axb/c", None),
        ("/x/*", "/x/y", {}),
    ],
)
def test_named_segments(pattern, path, values):
    """Each matches one segment that is not empty, as sent."""
    found = PathPattern(pattern)
    assert found.matches(path) is (values is not None)
    assert found.path_parameters(path) == (values or {})
    assert found.parameter_names == tuple(values if values is not None else found.parameter_names)


@pytest.mark.parametrize(
    "text",
    [
        *("/x{y}", "/{x}y", "/{}", "/{x", "/x}", "/{{x}}", "/{x y}", "/{1}", "/{x.y}", "/{x}/{x}", "/{x}{y}", "/{x*}"),
        *("/{identity}", "/{target}", "/{" + "x" * 33 + "}", "/a}b", "{x}", "/{x}/../y", "/{x}//y", "/{ü}"),
    ],
)
def test_what_is_no_named_segment(text):
    """Braces enclose a whole segment; names are plain, and each occurs once."""
    with pytest.raises(ValueError, match=r"."):
        PathPattern(text)


SEGMENTS = st.sampled_from(["a", "b", "ab", "{x}", "{y}", "{z}", ""])
PATTERNS = st.builds(
    lambda segments, end: "/" + "/".join([*segments, *end]),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from([[], ["*"]]),
)


def read(text):
    """Read a pattern; None if it is none."""
    try:
        return PathPattern(text)
    except ValueError:
        return None


@given(pattern=PATTERNS.map(read), target=st.from_regex(r"/[ab/%0-9{}.*\n]{0,12}", fullmatch=True))
def test_named_segments_hold_no_slash(pattern, target):
    """Whatever is sent: a value is one segment of it, and never empty."""
    if pattern is None:
        return
    values = pattern.path_parameters(target)
    assert bool(values) is (pattern.matches(target) and bool(pattern.parameter_names))
    assert all(value and "/" not in value and value in target for value in values.values())


def test_wildcard_hosts() -> None:
    """`*.example.org` matches names below it at any depth, not itself, and only whole labels."""
    hosts = HostPatterns(["*.Example.org", "gw.example.net"])
    assert all(hosts.matches(host) for host in ("a.example.org", "a.b.example.org", "gw.example.net"))
    assert not any(hosts.matches(host) for host in ("example.org", "anexample.org", "a.example.net", "a.example.org.x"))
    for text in ("*.192.0.2.1", "*", "a.*.b", "*.", "a/b"):
        with pytest.raises(ValueError, match=r"host"):
            HostPatterns([text])


def test_named_labels_of_hosts() -> None:
    """`{name}.example.org` matches one label and gives it; only names that all hosts of a list have are usable."""
    hosts = HostPatterns(["{tenant}.{region}.Example.org", "{tenant}.example.net", "gw.example.org"])

    assert hosts.matches("acme.eu.example.org")
    assert hosts.parameters("acme.eu.example.org") == {"tenant": "acme", "region": "eu"}
    assert hosts.parameters("acme.example.net") == {"tenant": "acme"}
    assert hosts.parameters("gw.example.org") == {}
    assert not any(hosts.matches(host) for host in ("eu.example.org", "a.b.eu.example.org", "example.net", "[::1]"))
    assert hosts.parameter_names == ()
    assert HostPatterns(["{a}.{b}.x.org", "{b}.y.org"]).parameter_names == ("b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{tenant}", "come before a domain"),
        ("{a}.1", "come before a domain"),
        ("www.{tenant}", "come before a domain"),
        ("x{tenant}.example.org", "a whole label"),
        ("{tenant.example.org", "a whole label"),
        ("*.{tenant}.example.org", "a whole label"),
        ("{a}..org", "a whole label"),
        ("{a}.{a}.org", "appears twice"),
        ("{target}.org", "a meaning of its own"),
    ],
)
def test_misplaced_names_in_hosts_are_rejected(text: str, message: str) -> None:
    """Braces enclose a whole label before a domain."""
    with pytest.raises(ValueError, match=message):
        HostPatterns([text])
