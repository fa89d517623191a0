"""Origin: the matrix of ways to look like the right page without being it."""

from __future__ import annotations

import pytest

from wsbridge.protocol.handshake import OriginPolicy, parse_origin

SAME = OriginPolicy("same")
LIST = OriginPolicy(["https://gw.example.org", "http://Lab.Example.org:8080", "chrome-extension://abcdef"])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://gw.example.org", "gw.example.org"),
        ("https://gw.example.org", "gw.example.org:443"),
        ("https://gw.example.org:443", "gw.example.org"),
        ("https://gw.example.org:8443", "gw.example.org:8443"),
        ("https://GW.Example.ORG", "gw.example.org"),
        ("HTTPS://gw.example.org", "GW.EXAMPLE.ORG"),
        ("https://gw.example.org.", "gw.example.org"),
        ("https://[2001:db8::1]:8443", "[2001:DB8:0::1]:8443"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_same(origin: str, host: str, tls: bool) -> None:
    """The page of this very host and port passes."""
    assert SAME.check(origin, host, tls) is None


def test_same_by_plain() -> None:
    """On a plain listener the scheme is free, since TLS may end in front, but the port is that of the scheme."""
    assert SAME.check("http://gw", "gw", tls=False) is None
    assert SAME.check("http://gw", "gw:80", tls=False) is None
    assert SAME.check("https://gw", "gw", tls=False) is None
    assert SAME.check("https://gw", "gw:80", tls=False)
    assert SAME.check("http://gw:8080", "gw:8080", tls=False) is None


def test_same_by_tls_needs_https() -> None:
    """On a TLS listener a page that came by http is refused, even from the same host and port."""
    refusal = SAME.check("http://gw:8443", "gw:8443", tls=True)

    assert refusal is not None
    assert "https" in refusal


@pytest.mark.parametrize(
    "origin",
    [
        "https://gw.example.org.evil.example",
        "https://evilgw.example.org",
        "https://gw.example.orgevil",
        "https://gw.example.org:444",
        "https://gw.example.org@evil.example",
        "https://evil.example/gw.example.org",
        "https://evil.example#gw.example.org",
        "https://gw.example.org/",
        "https://gw.example.org https://evil.example",
        "https://gw.example.org, https://gw.example.org",
        "https://xn--gw-example-org.evil",
        "ftp://gw.example.org",
        "chrome-extension://gw.example.org",
        "file://",
        "gw.example.org",
        "//gw.example.org",
        "null",
        "NULL",
        "",
        "https://",
        "https://gw.exampl\u0435.org",
        "https://gw.example.org\r\nX: y",
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_not_the_same(origin: str, tls: bool) -> None:
    """Suffix, prefix, port, other schemes, null, lists and non-ASCII look-alikes are refused."""
    refusal = SAME.check(origin, "gw.example.org", tls)

    assert refusal is not None
    assert refusal.isascii()
    assert refusal.isprintable()
    assert "gw.example.org" in refusal


def test_missing_origin_passes() -> None:
    """A request without Origin comes from no browser and passes everywhere."""
    assert SAME.check(None, "gw", tls=True) is None
    assert LIST.check(None, "gw", tls=True) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://gw.example.org",
        "https://GW.example.org:443",
        "http://lab.example.org:8080",
        "chrome-extension://abcdef",
    ],
)
def test_list(origin: str) -> None:
    """A list allows its origins, whatever the Host, after case and default ports are made equal."""
    assert LIST.check(origin, "other:1", tls=True) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://gw.example.org",
        "https://gw.example.org:8443",
        "https://lab.example.org:8080",
        "https://other",
        "null",
        "x",
        "",
    ],
)
def test_not_in_list(origin: str) -> None:
    """A list is exact in scheme, host and port, and the Host does not help."""
    assert LIST.check(origin, "other", tls=True)


def test_null() -> None:
    """The origin null passes only where it is written or anything passes."""
    assert OriginPolicy(["null"]).check("null", "gw", tls=False) is None
    assert OriginPolicy(["null"]).check("https://gw", "gw", tls=False)
    assert OriginPolicy(["null"]).check("x", "gw", tls=False)
    assert OriginPolicy("any").check("null", "gw", tls=False) is None
    assert OriginPolicy([]).check("https://gw", "gw", tls=False)


def test_any() -> None:
    """With any, all pass."""
    assert OriginPolicy("any").check("https://evil.example", "gw", tls=True) is None


def test_refusal_tells_both_values_and_the_remedy() -> None:
    """A refusal holds the Origin, the Host and the line to write."""
    for origins in (SAME, LIST):
        refusal = origins.check("https://app.example.net:444", "gw.lan:8443", tls=True)

        assert refusal is not None
        assert '"https://app.example.net:444"' in refusal
        assert '"gw.lan:8443"' in refusal
        assert 'origins: ["https://app.example.net:444"]' in refusal


def test_remedy_works() -> None:
    """What a refusal says to write lets the origin in."""
    for origin in ("https://app.example.net:444", "null", "app://x"):
        assert SAME.check(origin, "gw", tls=False)
        assert OriginPolicy([origin]).check(origin, "gw", tls=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "gw.example.org",
        "https://gw.example.org/",
        "*",
        "https://*.*.example.org",
        "https://a.*.org",
        "https://bücher.example",
        "",
        "NULL",
    ],
)
def test_bad_list_entries(text: str) -> None:
    """An entry that is no origin could never match and is an error."""
    with pytest.raises(ValueError, match="scheme://host"):
        OriginPolicy([text])


def test_parse_origin() -> None:
    """Default ports are filled in for http and https alone."""
    assert parse_origin("HTTP://A.b.") == ("http", "a.b", 80)
    assert parse_origin("https://a") == ("https", "a", 443)
    assert parse_origin("app://a") == ("app", "a", None)
    assert parse_origin("https://" + "a" * 9000) is None
