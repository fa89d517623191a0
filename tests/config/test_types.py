"""Scalar types: numbers, sizes, durations, texts, networks and international host names."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config.loading import LISTENERS, wrong
from wsbridge.config import types
from wsbridge.config.types import read_network, read_network_or_unix, to_ascii_authority


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20s", 20),
        ("250ms", 0.25),
        ("1h", 3600),
        ("1m30s", 90),
        ("2d", 172800),
        ("1.5h", 5400),
        ("0s", 0),
        ("010s", 10),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is numbers with units, from the largest to the smallest."""
    assert types.read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "20 s", "20x", "30s1m", "-1s", "1_0s", "1e3s", "٣s", "20sec", "1s1s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match=r"is not a duration: write"):
        types.read_duration(text)


def test_a_bare_number_is_no_duration() -> None:
    """A number without a unit is refused, and the message writes it with one."""
    with pytest.raises(ValueError, match='"20" has no unit: write 20s, 20ms'):
        types.read_duration("20")


def test_off_is_accepted_only_where_it_means_something() -> None:
    """`off` is None for a timeout that may be off, and an error elsewhere; zero is not a way to say it."""
    assert types.read_duration_or_off("off") is None
    with pytest.raises(ValueError, match='cannot be "off"'):
        types.read_duration("off")
    for zero in ("0s", "0"):
        with pytest.raises(ValueError, match='write "off"'):
            types.read_duration_or_off(zero)
        with pytest.raises(ValueError, match="must be more than zero"):
            types.read_positive_duration(zero)
    with pytest.raises(ValueError, match=r'"0" has no unit: write 0s$'):
        types.read_duration("0")


def test_durations_are_bounded() -> None:
    """More than ten years is a mistake."""
    with pytest.raises(ValueError, match=r"more than ten years"):
        types.read_duration("3651d")


@given(st.integers(min_value=0, max_value=3650 * 86400 * 1000).map(lambda ms: ms / 1000))
def test_durations_are_written_as_they_are_read(seconds: float) -> None:
    """What is written for a duration reads as the same duration."""
    assert types.read_duration(types.write_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64KiB", 65536), ("1MiB", 1048576), ("1.5KiB", 1536), ("2 GiB", 2**31), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    """A size is a number of bytes, or one with a binary unit."""
    assert types.read_size(text) == size


@pytest.mark.parametrize("text", ["64KB", "64K", "64k", "", "-1", "1_000", "0x10", "1.5", "2000GiB", "KiB"])
def test_what_is_no_size(text: str) -> None:
    """Decimal units and other forms are refused."""
    with pytest.raises(ValueError, match=r"is no size|whole number of bytes|more than"):
        types.read_size(text)


@given(st.integers(min_value=0, max_value=2**40))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """What is written for a size reads as the same size."""
    assert types.read_size(types.write_size(size)) == size


@pytest.mark.parametrize("text", ["010", "1_000", "1,000", "-1", "1.0", "ten", "", "0x10", "٣"])
def test_what_is_no_count(text: str) -> None:
    """A count is digits alone, without a leading zero."""
    with pytest.raises(ValueError, match=r"is no whole number"):
        types.read_count(text)


def test_counts_and_auto() -> None:
    """A count may be `auto` where the key says so, and then not zero."""
    assert types.read_count("1000") == 1000
    assert types.read_count_or_auto("auto") == "auto"
    assert types.read_count_or_auto("5") == 5
    for text in ("0", "automatic"):
        with pytest.raises(ValueError, match=r"too small|neither"):
            types.read_count_or_auto(text)


def test_flags_are_two_words() -> None:
    """Only true and false are flags: yes, no, on, off and 1 are not."""
    assert types.read_flag("true") is True
    assert types.read_flag("false") is False
    for text in ("yes", "no", "on", "off", "1", "True", ""):
        with pytest.raises(ValueError, match=r"neither true nor false"):
            types.read_flag(text)


def test_modes_are_octal() -> None:
    """The mode of a socket is three octal digits, with or without a zero before."""
    assert types.read_file_mode("0660") == types.read_file_mode("660") == 0o660
    for text in ("0o660", "66", "0888", "rw", "1660"):
        with pytest.raises(ValueError, match=r"is no mode"):
            types.read_file_mode(text)


def test_statuses_that_can_be_answered() -> None:
    """A fixed answer has a status from 200 to 599, or it is the module by its name."""
    assert types.read_response("204") == 204
    assert types.read_response("resume.js") == "resume.js"
    for text in ("101", "600", "99", "ok", "2e2", "0204", "resume.mjs"):
        with pytest.raises(ValueError, match=r"200 to 599"):
            types.read_response(text)


@pytest.mark.parametrize("read", [types.read_duration, types.read_size, types.read_count, types.read_flag])
@pytest.mark.parametrize("value", [["1"], {"a": "1"}])
def test_lists_and_mappings_are_no_scalars(read: object, value: object) -> None:
    """A list or mapping where a scalar is wanted is named as such."""
    with pytest.raises(ValueError, match=r"must be text, not a (list|mapping)"):
        read(value)


def test_a_wrong_header_is_not_quoted() -> None:
    """The value of a header may be a secret, so the message does not repeat it."""
    written = LISTENERS + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw', headers: {A: '${X}'}}}}\n"
    (problem,) = wrong(written, {"X": "geheim\n"})
    assert "geheim" not in problem.text()


@pytest.mark.parametrize(("value", "kind"), [(["a"], "list"), (("a",), "list"), ({}, "mapping"), (3, "int")])
def test_what_is_no_text(value: object, kind: str) -> None:
    """The message names what is there instead."""
    with pytest.raises(types.WrongShapeError, match=f"^must be text, not a? ?{kind}$"):
        types.as_text(value)


@pytest.mark.parametrize("name", ["a", "A-b_9", "8080", "x" * 64])
def test_names(name: str) -> None:
    """Letters, digits, - and _, up to 64 of them."""
    assert types.read_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a.b", "ä", "x" * 65, "a\n"])
def test_what_is_no_name(name: str) -> None:
    """The rule is reported."""
    with pytest.raises(ValueError, match=r"is no name: 1 to 64 letters"):
        types.read_name(name)


@pytest.mark.parametrize("token", ["binary", "v1.mqtt", "!#$%&'*+-.^_`|~09AZaz"])
def test_tokens(token: str) -> None:
    """All characters that RFC 9110 allows in one."""
    assert types.read_http_token(token) == token


@pytest.mark.parametrize("token", ["", "a b", "a,b", "a/b", 'a"b', "ä", "a\n"])
def test_what_is_no_token(token: str) -> None:
    """A subprotocol that could not be sent is refused."""
    with pytest.raises(ValueError, match="that a subprotocol must not have"):
        types.read_http_token(token)


def test_names_of_headers() -> None:
    """Any token but those that the handshake itself is made of."""
    assert types.read_header_name("X-Site") == "X-Site"
    with pytest.raises(ValueError, match=r'^"a:b" is no name of a header$'):
        types.read_header_name("a:b")


@pytest.mark.parametrize("name", ["Host", "UPGRADE", "connection", "Content-Length", "Origin", "Sec-WebSocket-Key"])
def test_headers_that_the_bridge_writes(name: str) -> None:
    """They cannot be set, in whatever case."""
    with pytest.raises(ValueError, match="is written by wsbridge itself"):
        types.read_header_name(name)


@pytest.mark.parametrize("value", ["", "a", "Bearer a b\tc", "!~"])
def test_values_of_headers(value: str) -> None:
    """Printable ASCII, spaces and tabs inside."""
    assert types.read_header_text(value) == value


@pytest.mark.parametrize("value", [" a", "a ", "a\tb\t", "a\r\nX: y", "a\0", "ä", "\x7f", "geheim\n"])
def test_what_no_header_can_carry(value: str) -> None:
    """Nothing can end the line; the value is not repeated, since it may be a secret."""
    with pytest.raises(ValueError, match=r"^must be printable ASCII on one line, without spaces at its ends$"):
        types.read_header_text(value)


@pytest.mark.parametrize("owner", ["www-data", "a:b", "_x", "1000:1000", "a.b:c-d"])
def test_owners(owner: str) -> None:
    """A user, or a user and a group, by name or number."""
    assert types.read_owner(owner) == owner


@pytest.mark.parametrize("owner", ["", ":b", "a:", "a:b:c", "a b", "-a"])
def test_what_is_no_owner(owner: str) -> None:
    """The two forms are reported."""
    with pytest.raises(ValueError, match="is not of the form user or user:group"):
        types.read_owner(owner)


def test_patterns_of_paths() -> None:
    """The rules are those of the requests that they are compared with."""
    assert [types.read_path_pattern(path) for path in ("/", "/x", "/x/*", "/*")] == ["/", "/x", "/x/*", "/*"]
    for path in ("x", "", "/x*", "/a//b"):
        with pytest.raises(ValueError, match=r"path|never match|star"):
            types.read_path_pattern(path)


def test_a_subprotocol_that_carries_a_token_is_none() -> None:
    """A subprotocol that contains a client's token cannot be one that is sent back."""
    assert types.read_subprotocol("binary") == "binary"
    with pytest.raises(ValueError, match=r"carries a token of the client"):
        types.read_subprotocol("wsbridge.token.abc")


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "2001:db8::/32", "::1"])
def test_what_is_a_network(text: str) -> None:
    """A range in either family, or one address."""
    assert read_network(text) == ip_network(text)
    assert read_network(ip_network(text)) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("[::ffff:c000:201]", "192.0.2.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_mapped_networks_are_ipv4(text: str, network: str) -> None:
    """Clients over IPv4 are compared as IPv4, so that a mapped rule would never match."""
    assert read_network(text) == ip_network(network)
    assert read_network(ip_network(text.strip("[]"))) == ip_network(network)


def test_an_address_in_brackets_is_one() -> None:
    """It may be written as everywhere else in the file."""
    assert read_network("[::1]") == ip_network("::1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0", "010.0.0.0/8", "host", "0x7f.0.0.1", "", "fe80::1%eth0/64"])
def test_what_is_no_network(text: str) -> None:
    """Anything that programs could read in two ways is refused, with what to write."""
    with pytest.raises(ValueError, match="is not a network: write"):
        read_network(text)


def test_an_address_with_a_mask_is_pointed_at() -> None:
    """`10.1.2.3/8` is meant as one of two things, and both are named."""
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/8, or the address alone"):
        read_network("10.1.2.3/8")


def test_unix_stands_for_unix_sockets() -> None:
    """It is accepted only where clients of Unix sockets can come."""
    assert read_network_or_unix("unix") == "unix"
    assert read_network_or_unix("10.0.0.0/8") == ip_network("10.0.0.0/8")
    with pytest.raises(ValueError, match="is not a network"):
        read_network("unix")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.EXAMPLE:8443", "xn--bcher-kva.example:8443"),
        ("straße.de", "xn--strae-oqa.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("GW.example.org:1", "GW.example.org:1"),
        ("[::1]:1", "[::1]:1"),
        ("under_score.example", "under_score.example"),
    ],
)
def test_host_names_as_browsers_send_them(written: str, sent: str) -> None:
    """Case, width and dots are mapped as UTS 46 says; what is ASCII is left to others to judge."""
    assert to_ascii_authority(written) == sent


@pytest.mark.parametrize("written", ["☃.example", "ü..example", "-ü.example", "ü" * 64 + ".example", "ü ü", "\u200b"])
def test_what_is_no_host_name(written: str) -> None:
    """Symbols, empty and too long labels, spaces and nothing at all are rejected with the reason."""
    with pytest.raises(ValueError, match="is no name of a host: "):
        to_ascii_authority(written)
