"""Addresses, URLs, origins and hosts: what is accepted, how it is read, and the errors about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsbridge.config.backend_urls import read_backend_url
from wsbridge.config.urls import read_bind, read_host, read_origin, read_proxy_url, read_target


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::]:8443", "::", 8443),
        ("[0:0::1]:1", "::1", 1),
        ("gw.example.org:65535", "gw.example.org", 65535),
        ("localhost:22", "localhost", 22),
    ],
)
def test_binds(text: str, host: str, port: int) -> None:
    """A TCP address is a host and a port, IPv6 in brackets."""
    bind = read_bind(text)
    assert (bind.kind, bind.host, bind.port) == ("tcp", host, port)
    assert read_bind(str(bind)) == bind


def test_unix_binds() -> None:
    """A Unix address is the whole path of a socket, of at most 107 bytes."""
    assert read_bind("unix:/run/gw.sock").path == "/run/gw.sock"
    assert str(read_bind("unix:/run/gw.sock")) == "unix:/run/gw.sock"
    for text in ("unix:gw.sock", "unix:", "unix:@gw", "unix:/" + "x" * 107):
        with pytest.raises(ValueError, match=r"whole path|107 bytes"):
            read_bind(text)


def test_passed_binds() -> None:
    """A passed socket has the name of its unit."""
    bind = read_bind("fd:wsbridge.socket")
    assert (bind.kind, bind.name, bind.host, bind.path) == ("fd", "wsbridge.socket", "", "")
    assert read_bind(str(bind)) == bind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "has no host: write 127.0.0.1:8080"),
        (":8080", "has no host: write 127.0.0.1:8080"),
        ("*:8080", "has no host: write 127.0.0.1:8080"),
        ("127.0.0.1", "has no port"),
        ("[::]", "has no port"),
        ("::1:80", "write an IPv6 address in brackets"),
        ("[1.2.3.4]:80", "is not an IPv6 address"),
        ("1.2.3:80", "is not an IPv4 address"),
        ("256.1.1.1:80", "is not an IPv4 address"),
        ("ws://127.0.0.1:80", "write the address alone"),
        ("127.0.0.1:http", "is not a port"),
        ("127.0.0.1:65536", "is not a port"),
        ("127.0.0.1:080", "is not a port"),
        ("a b:80", "is not a host name"),
        ("bücher.example:80", "ASCII form"),
        ("-x:80", "is not a host name"),
        ("fd:", "after fd: write the FileDescriptorName="),
        ("fd:a:b", "after fd: write the FileDescriptorName="),
        ("fd:" + "x" * 256, "after fd: write the FileDescriptorName="),
    ],
)
def test_what_is_no_bind(text: str, message: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ValueError, match=message):
        read_bind(text)


@pytest.mark.parametrize(
    ("text", "literal", "loopback"),
    [
        ("127.0.0.1:1", True, True),
        ("127.8.9.1:1", True, True),
        ("[::1]:1", True, True),
        ("unix:/s", True, True),
        ("localhost:1", False, True),
        ("0.0.0.0:1", False, False),
        ("[::]:1", False, False),
        ("10.0.0.1:1", False, False),
        ("gw:1", False, False),
        ("fd:web", False, False),
    ],
)
def test_what_counts_as_loopback(text: str, literal: bool, loopback: bool) -> None:
    """Only a written loopback address or Unix path is loopback for certain; `localhost` is a name."""
    assert (read_bind(text).is_literal_loopback, read_bind(text).is_loopback) == (literal, loopback)


@pytest.mark.parametrize(
    ("text", "parts", "authority"),
    [
        ("tcp://10.0.0.5:5900", ("tcp", "10.0.0.5", 5900, ""), "10.0.0.5:5900"),
        ("tls://db.example:5433/", ("tls", "db.example", 5433, ""), "db.example:5433"),
        ("ws://gw", ("ws", "gw", 80, "/"), "gw"),
        ("wss://gw/vnc?a=b", ("wss", "gw", 443, "/vnc?a=b"), "gw"),
        ("WSS://[::1]:444?q", ("wss", "::1", 444, "/?q"), "[::1]:444"),
        ("ws://gw:443/", ("ws", "gw", 443, "/"), "gw:443"),
    ],
)
def test_targets(text: str, parts: tuple[str, str, int, str], authority: str) -> None:
    """A URL gives scheme, host, port and path; only ws and wss have ports of their own."""
    target = read_target(text)
    assert (target.scheme, target.host, target.port, target.path) == parts
    assert (target.authority, str(target)) == (authority, text)


@pytest.mark.parametrize(
    ("text", "host", "authority"),
    [
        ("ws://[fe80::1%25lo]:81/", "fe80::1%lo", "[fe80::1]:81"),
        ("ws://[fe80::1%eth0]/", "fe80::1%eth0", "[fe80::1]"),
        ("tcp://[FE80:0::1%25wlp3s0.7]:1", "fe80::1%wlp3s0.7", "[fe80::1]:1"),
    ],
)
def test_zones_of_link_local_addresses(text: str, host: str, authority: str) -> None:
    """They are written as RFC 6874 has them, kept for dialling, and not sent in a Host header."""
    target = read_target(text)
    assert (target.host, target.authority) == (host, authority)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fe80::1]:80", r"link-local address: write its interface, such as \[fe80::1%25eth0\]"),
        ("[fe80::1%]:80", "is not an IPv6 address"),
        ("[fe80::1%25]:80", "is not an IPv6 address"),
        ("[fe80::1%25a b]:80", "is not an IPv6 address"),
        ("[2001:db8::1%25lo]:80", "which only link-local addresses have"),
    ],
)
def test_link_local_addresses_without_a_zone(text: str, message: str) -> None:
    """The system could not know the interface."""
    for read, url in ((read_bind, text), (read_target, f"tcp://{text}"), (read_target, f"ws://{text}/")):
        with pytest.raises(ValueError, match=message):
            read(url)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.5:5900", "; write tcp://10.0.0.5:5900"),
        ("[::1]:5900", r"; write tcp://\[::1\]:5900"),
        ("http://gw/x", "; write ws://gw/x"),
        ("HTTPS://gw", "; write wss://gw"),
        ("/run/x.sock", "; write unix:/run/x.sock"),
        ("5900", "; write tcp://127.0.0.1:5900"),
        ("localhost", "; write tcp://localhost:PORT, with its port"),
        ("10.0.0.5", "; write tcp://10.0.0.5:PORT, with its port"),
        ("gw.example.org/vnc", "; write wss://gw.example.org/vnc"),
        ("localhost/", "; write wss://localhost/"),
        ("tcp:10.0.0.5:5900", "; write tcp://10.0.0.5:5900"),
        ("wss:/gw/vnc", "; write wss://gw/vnc"),
        ("vnc://gw:5900", '; "vnc" is none of these'),
        ("http://gw/?token=x", "wss://host/path$"),
        ("vnc://alice:secret@gw", "wss://host/path$"),
    ],
)
def test_what_a_target_was_meant_to_be(text: str, hint: str) -> None:
    """The most common other forms are answered with the right one."""
    with pytest.raises(ValueError, match=hint):
        read_target(text)


def test_unix_paths_of_a_file_may_be_relative() -> None:
    """They begin at the directory of the file; abstract sockets are not supported."""
    base = Path("/etc/wsbridge")
    assert read_bind("unix:gw.sock", base).path == "/etc/wsbridge/gw.sock"
    assert read_target("unix:../x", base).path == "/etc/x"
    template = read_backend_url("unix:desks/{name}.sock", base)
    assert (template.path, template.text) == ("/etc/wsbridge/desks/{name}.sock", "unix:desks/{name}.sock")
    for text in ("unix:", "unix:@gw"):
        with pytest.raises(ValueError, match="whole path"):
            read_bind(text, base)


def test_unix_targets() -> None:
    """A path is written with or without the two slashes of an empty host, to bind as to connect."""
    base = Path("/etc/wsbridge")
    assert read_target("unix:/run/x").path == read_target("unix:///run/x").path == "/run/x"
    assert read_bind("unix:///run/x").path == "/run/x"
    assert read_backend_url("unix:///run/{name}").path == "/run/{name}"
    for read in (read_target, read_bind, read_backend_url):
        with pytest.raises(ValueError, match=r'^"unix://run/x" has two slashes: write unix:/run/x$'):
            read("unix://run/x", base)
    for text in ("unix://run/{name}", "ws+unix://run/x"):
        with pytest.raises(ValueError, match="has two slashes"):
            read_backend_url(text, base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.5:5900", "must be of the form"),
        ("http://gw/", "must be of the form"),
        ("tcp://gw", "has no port"),
        ("tcp://gw:1/x", "a tcp backend has no path"),
        ("tcp://gw:0", "port 0 is not a port to connect to"),
        ("wss://user:pw@gw/", "Authorization"),
        ("wss://gw/#x", "never sent"),
        ("wss://gw/a b", "printable ASCII without spaces"),
        ("wss://", "is not a host name"),
        ("ws://::1/", "in brackets"),
    ],
)
def test_what_is_no_target(text: str, message: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ValueError, match=message):
        read_target(text)


def test_a_password_in_a_url_is_not_quoted() -> None:
    """What is refused for having a password is reported without it."""
    for text in ("wss://user:geheim@gw/", "user:geheim@gw"):
        with pytest.raises(ValueError, match=r"must be|not allowed") as caught:
            read_target(text)
        assert "geheim" not in str(caught.value)


def test_proxies() -> None:
    """A proxy is http with a port, and may have a user and a password, which are not shown."""
    proxy = read_proxy_url("http://joe:geheim@proxy.example:3128")
    assert (proxy.host, proxy.port, proxy.user) == ("proxy.example", 3128, "joe")
    assert proxy.password is not None
    assert proxy.password.reveal() == "geheim"
    assert "geheim" not in f"{proxy} {proxy!r}"
    for text in ("https://proxy:1", "proxy:3128", "http://proxy", "http://a:geheim@b@c:1", "http://a:geheim@b:0"):
        with pytest.raises(ValueError, match=r"must be of the form|has no port|not supported|port 0 is not") as caught:
            read_proxy_url(text)
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["https://gw.example.org", "http://gw:8080", "https://[::1]:8443", "null", "app://a", "file://"]
)
def test_origins(text: str) -> None:
    """An origin is scheme, host and a port that is not the scheme's own, as browsers send it."""
    assert read_origin(text) == text


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost/", "http://localhost"),
        ("https://GW:8443/", "https://gw:8443"),
        ("app://a/", "app://a"),
        ("file:///", "file://"),
    ],
)
def test_a_slash_after_an_origin_is_dropped(text: str, origin: str) -> None:
    """Address bars show one, and browsers do not send it."""
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://gw:443", "write https://gw$"),
        ("http://GW:80/", "write http://gw$"),
        ("gw.example.org", "write scheme and host only"),
        ("https://gw/x", "write scheme and host only"),
        ("https://*.example.org", "is not a host name"),
        ("app://.", "is not a host"),
    ],
)
def test_what_is_no_origin(text: str, message: str) -> None:
    """What browsers would never send is refused, since it would never match."""
    with pytest.raises(ValueError, match=message):
        read_origin(text)


def test_international_names_become_what_browsers_send() -> None:
    """Origins and hosts may be written as people read them."""
    assert read_origin("https://Bücher.example:8443") == "https://xn--bcher-kva.example:8443"
    assert read_origin("app://bücher") == "app://xn--bcher-kva"
    assert read_host("BÜCHER.example") == "xn--bcher-kva.example"
    with pytest.raises(ValueError, match=r"write https://xn--bcher-kva\.example"):
        read_origin("https://bücher.example:443")
    for text in ("https://bü cher", "https://bücher.*", "https://bücher:x"):
        with pytest.raises(ValueError, match=r"not a host name|not a port|no name of a host"):
            read_origin(text)


def test_hosts_have_one_form() -> None:
    """Hosts are compared lower-case, without trailing dot, IPv6 in brackets."""
    assert read_host("GW.Example.org.") == "gw.example.org"
    assert read_host("::1") == read_host("[0::1]") == "[::1]"
    assert read_host("fe80::1") == "[fe80::1]"
    assert read_origin("http://[fe80::1]:8080") == "http://[fe80::1]:8080"
    for text in ("gw:80", "*.gw", "https://gw", "a b"):
        with pytest.raises(ValueError, match=r"without a port|as a whole|host only|not a host name"):
            read_host(text)


@pytest.mark.parametrize("scheme", ["tcp", "tls", "ws", "wss"])
def test_international_names_in_backend_urls(scheme: str) -> None:
    """They are resolved, verified and sent as Host in their ASCII form."""
    target = read_target(f"{scheme}://Bücher.example:8443")
    assert (target.host, target.port) == ("xn--bcher-kva.example", 8443)
    assert target.authority == "xn--bcher-kva.example:8443"
