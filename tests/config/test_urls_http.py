"""URLs of services that are asked over HTTP."""

from __future__ import annotations

import pytest

from wsbridge.config.urls import read_http_path, read_http_service_url, read_http_url, read_https_url


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "path", "authority"),
    [
        ("http://a", "http", "a", 80, "/", "a"),
        ("HTTPS://id.example.org/x?y=z", "https", "id.example.org", 443, "/x?y=z", "id.example.org"),
        ("https://[2001:db8::1]:8443/x", "https", "2001:db8::1", 8443, "/x", "[2001:db8::1]:8443"),
        ("http://127.0.0.1:80?q", "http", "127.0.0.1", 80, "/?q", "127.0.0.1"),
        ("unix:/run/id.sock", "unix", "", 0, "/run/id.sock", "localhost"),
    ],
)
def test_the_forms(text: str, scheme: str, host: str, port: int, path: str, authority: str) -> None:
    """Port and path have defaults; the Host header leaves the default port out."""
    found = read_http_service_url(text)
    assert (found.scheme, found.host, found.port, found.path) == (scheme, host, port, path)
    assert (found.authority, str(found)) == (authority, text)
    assert read_http_service_url(found) is found


def test_this_host_is_reported() -> None:
    """Loopback addresses, localhost and sockets are on this host."""
    local = [read_http_service_url(text).is_loopback for text in ("http://127.0.0.1", "https://localhost/", "unix:/x")]
    assert local == [True] * 3
    assert not read_http_url("http://10.0.0.1").is_loopback


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://a/", "must be of the form"),
        ("a.example.org", "must be of the form"),
        ("http://u:p@a/", "a user and a password"),
        ("http://a:0/", "port 0"),
        ("http://a:99999/", "not a port"),
        ("http://a/x y", "is not a path"),
        ("http://a/#x", "is not a path"),
        ("http://ä/", "ASCII form"),
        ("http://", "not a host name"),
        ("unix:run/x", "whole path"),
    ],
)
def test_what_is_none(text: str, message: str) -> None:
    """The sentence says what to write."""
    with pytest.raises(ValueError, match=message):
        read_http_service_url(text)


def test_https_alone() -> None:
    """Where TLS is needed, http and sockets are refused."""
    assert read_https_url("https://a/b").path == "/b"
    for text in ("http://a/b", "unix:/x"):
        with pytest.raises(ValueError, match="without TLS"):
            read_https_url(text)


def test_paths() -> None:
    """A path begins with a slash and is printable ASCII."""
    assert read_http_path("/a?b=%20") == "/a?b=%20"
    for text in ("a", "", "/a b", "/a#b", "/ä", "/a\r\n"):
        with pytest.raises(ValueError, match="is not a path"):
            read_http_path(text)
