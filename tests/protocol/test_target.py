"""Targets: which are refused, which a pattern takes, and the normal form of hosts."""

from __future__ import annotations

from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.uri import PathPattern, check_target, is_loopback_host_allowed, normalise_host, split_host


@pytest.mark.parametrize(
    "target",
    [
        "/.", "/..", "/./a", "/../a", "/a/.", "/a/..", "/a/../b", "/a/./b?c", "/a/..?b", "//", "//a", "/a//b", "/a//",
        "/a\\b", "/a/%2e%2e/b", "/%2E", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%00", "/a/..%2f", "", "a", "*", "?a",
    ],
)  # fmt: skip
def test_refused_targets(target: str) -> None:
    """Dot segments, empty segments, backslashes and their encoded forms are refused."""
    assert check_target(target)


@pytest.mark.parametrize(
    "target",
    ["/", "/a", "/a/", "/a?b=//../%2e\\", "/.well-known/a", "/a..b", "/...", "/a/..b", "/a./b", "/%20", "/%252e", "/?"],
)
def test_taken_targets(target: str) -> None:
    """Other targets pass, and the query is free."""
    assert check_target(target) is None


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("/x", ["/x"], ["/x/", "/X", "/xy", "/", "/x/y"]),
        ("/x/*", ["/x/", "/x/y", "/x/y/z"], ["/x", "/xy", "/X/y", "/"]),
        ("/*", ["/", "/x", "/x/y"], []),
        ("/", ["/"], ["/x"]),
        ("/a%20b", ["/a%20b"], ["/a b", "/a%20B"]),
    ],
)
def test_patterns(pattern: str, taken: list[str], not_taken: list[str]) -> None:
    """A pattern takes its path, or all below it, and nothing else."""
    assert all(PathPattern(pattern).matches(path) for path in taken)
    assert not any(PathPattern(pattern).matches(path) for path in not_taken)


@pytest.mark.parametrize(
    "text", ["", "x", "*", "/*/x", "/x*", "/x/**", "/x?y", "/x#y", "/x y", "/ä", "/a/../b", "//", "/%2e/*"]
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
def test_loopback_allowed(header: str) -> None:
    """Addresses, localhost, names under it and names of the route pass on a loopback listener."""
    assert is_loopback_host_allowed(header, ["gw.lan"])


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
def test_loopback_refused(header: str) -> None:
    """Any other name on a loopback listener may be rebound by its owner and is refused."""
    assert not is_loopback_host_allowed(header, ["gw.lan"])


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
    """Each takes one segment that is not empty, as sent."""
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
    """Braces stand around a whole segment; names are plain, and each stands once."""
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


@given(
    wide=PATTERNS.map(read),
    narrow=PATTERNS.map(read),
    path=st.lists(st.sampled_from(["a", "b", "ab", "c", ""]), max_size=4),
)
def test_what_covers_another_takes_all_of_it(wide, narrow, path):
    """No path is taken by a pattern and not by one that covers it; every pattern covers itself."""
    if wide is None or narrow is None:
        return
    sent = "/" + "/".join(path)
    if wide.covers(narrow) and check_target(sent) is None and narrow.matches(sent):
        assert wide.matches(sent)
    assert wide.covers(wide)


@given(pattern=PATTERNS.map(read), target=st.from_regex(r"/[ab/%0-9{}.*\n]{0,12}", fullmatch=True))
def test_named_segments_hold_no_slash(pattern, target):
    """Whatever is sent: a value is one segment of it, and never empty."""
    if pattern is None:
        return
    values = pattern.path_parameters(target)
    assert bool(values) is (pattern.matches(target) and bool(pattern.parameter_names))
    assert all(value and "/" not in value and value in target for value in values.values())
