"""Hosts and ports of targets: one accepted form of each."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.backends.target_policy import is_ip_literal, parse_host, parse_port


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:DB8:0:0::5", "2001:db8::5"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("Db.Example.ORG.", "db.example.org"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1a.2b", "1a.2b"),
        ("a_b.example", "a_b.example"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    """They come in their normal form."""
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "1.2.3.4.",
            "0x",
            "0X7F",
        ),
        *("a.1", "a.0x1", "a.b.0", "256.0.0.1", "1.2.3.4.5", "127.0.0.1%", "\uff10.0.0.1", "1.2.3"),
        *("fe80::1%eth0", "fe80::1%25eth0", "[fe80::1%1]", "::1%", "[::1", "::1]", "[127.0.0.1]", "[a]", ":::", "::g"),
        *(
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a/b",
            "a@b",
            "a:1",
            "a\\b",
            "a?b",
            "a#b",
            "bücher.example",
            "a\n",
            "a\0",
        ),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "a" * 64, "a." * 127 + "a", "x" * 5000, "${a}", "{a}", "*"),
    ],
)
def test_what_is_no_host(text: str) -> None:
    """Other ways of writing addresses, zones, characters that end a host somewhere, and what is too long."""
    with pytest.raises(ValueError, match=r"."):
        parse_host(text)


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("22", 22), ("65535", 65535)])
def test_ports(text: str, port: int) -> None:
    """In decimal digits."""
    assert parse_port(text) == port


@pytest.mark.parametrize(
    "text", ["0", "022", "65536", "99999", "100000", "-1", "+1", " 1", "1 ", "0x16", "1e3", "", "\uff12\uff12", "1\n"]
)
def test_what_is_no_port(text: str) -> None:
    """Out of range, or written in another way."""
    with pytest.raises(ValueError, match=r"."):
        parse_port(text)


def test_addresses_are_distinguished_from_names() -> None:
    """A host in its normal form shows which it is."""
    assert is_ip_literal("10.0.0.5")
    assert is_ip_literal("::1")
    assert not is_ip_literal("localhost")
    assert not is_ip_literal("1a.2b")


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\[?[0-9a-fxX.:%\]]{1,30}", fullmatch=True)))
def test_no_other_program_reads_another_address(text: str) -> None:
    """What passes as a name is no address to the C library, and what passes as an address is that one to it."""
    try:
        host = parse_host(text)
    except ValueError:
        return
    try:
        rows = socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        rows = []
    if is_ip_literal(host):
        assert {ip_address(row[4][0]) for row in rows} == {ip_address(host)}
    else:
        assert rows == []
