"""Texts that have to keep one rule each."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, wrong
from wsbridge.config import types


def test_a_wrong_header_is_not_quoted() -> None:
    """The value of a header may be a secret, so the message does not repeat it."""
    written = LISTENERS + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw', headers: {A: '${X}'}}}}\n"
    (problem,) = wrong(written, {"X": "geheim\n"})
    assert "geheim" not in problem.text()


@pytest.mark.parametrize(("value", "kind"), [(["a"], "list"), (("a",), "list"), ({}, "mapping"), (3, "int")])
def test_what_is_no_text(value: object, kind: str) -> None:
    """The message names what stands there instead."""
    with pytest.raises(types.WrongShapeError, match=f"^must be text, not a? ?{kind}$"):
        types.as_text(value)


@pytest.mark.parametrize("name", ["a", "A-b_9", "8080", "x" * 64])
def test_names(name: str) -> None:
    """Letters, digits, - and _, up to 64 of them."""
    assert types.read_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a.b", "ä", "x" * 65, "a\n"])
def test_what_is_no_name(name: str) -> None:
    """The rule is told."""
    with pytest.raises(ValueError, match=r"is no name: 1 to 64 letters"):
        types.read_name(name)


@pytest.mark.parametrize("token", ["binary", "v1.mqtt", "!#$%&'*+-.^_`|~09AZaz"])
def test_tokens(token: str) -> None:
    """All that RFC 9110 lets stand in one."""
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
    """Printable ASCII, blanks and tabs inside."""
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
    """The two forms are told."""
    with pytest.raises(ValueError, match="is not of the form user or user:group"):
        types.read_owner(owner)


def test_patterns_of_paths() -> None:
    """The rules are those of the requests that they are compared with."""
    assert [types.read_path_pattern(path) for path in ("/", "/x", "/x/*", "/*")] == ["/", "/x", "/x/*", "/*"]
    for path in ("x", "", "/x*", "/a//b"):
        with pytest.raises(ValueError, match=r"path|never match|star"):
            types.read_path_pattern(path)


def test_a_subprotocol_that_carries_a_token_is_none() -> None:
    """What a client's secret stands in cannot be among those that are answered."""
    assert types.read_subprotocol("binary") == "binary"
    with pytest.raises(ValueError, match=r"carries a token of the client"):
        types.read_subprotocol("wsbridge.token.abc")
