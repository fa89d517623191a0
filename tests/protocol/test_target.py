"""Targets: which are refused, which a pattern takes, and the normal form of hosts."""

from __future__ import annotations

from time import perf_counter

import pytest

from wsbridge.protocol.target import PathPattern, check_target, loopback_host_allowed, normal_host, split_host


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
    assert normal_host(header) == host


@pytest.mark.parametrize(
    "header",
    ["", ".", "a..b", ".a", "a..", "a b", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "[a]", "[::1%eth0]", "[1.2.3.4]",
     "a:99999", "a:\uff11", "ä", "a/b", "a@b", "a,b", "a\n", "x" * 300],
)  # fmt: skip
def test_bad_hosts(header: str) -> None:
    """What is no authority has no normal form."""
    assert normal_host(header) is None


def test_long_hosts_are_cheap() -> None:
    """No Host header of 8 KiB takes long to refuse."""
    start = perf_counter()

    for text in ("a" * 8192, "a." * 4096, "a." * 127 + "!", "[" + ":" * 8000):
        assert normal_host(text) is None
    assert perf_counter() - start < 0.05


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
    assert loopback_host_allowed(header, ["gw.lan"])


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
    assert not loopback_host_allowed(header, ["gw.lan"])
