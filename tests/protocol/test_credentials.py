"""Credentials of Basic authentication, and the Cookie header."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rejections import outcome
from wsbridge.protocol.credentials import BasicCredentials, basic_challenge, cookie_values, parse_basic
from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import Rejected


def read(*values: bytes) -> BasicCredentials | Rejected | None:
    """Read the credentials of a request with these Authorization headers."""
    return outcome(parse_basic, Headers((b"Authorization", value) for value in values))


def encoded(text: str) -> bytes:
    """Write credentials."""
    return base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("text", "name", "password"),
    [
        ("Aladdin:open sesame", "Aladdin", "open sesame"),
        ("test:123\u00a3", "test", "123\u00a3"),
        ("alice:a:b:", "alice", "a:b:"),
        (":", "", ""),
    ],
)
def test_name_and_password(text: str, name: str, password: str) -> None:
    """The first colon parts them; the text is UTF-8 (the examples of RFC 7617)."""
    for scheme in (b"Basic ", b"basic ", b"BASIC   "):
        assert read(scheme + encoded(text)) == BasicCredentials(name, password.encode())


def test_none_of_this_scheme() -> None:
    """No header, or one of another scheme, is no attempt."""
    assert read() is None
    assert read(b"Bearer " + encoded("a:b")) is None
    assert read(b"Bearer x", b"Digest y") is None
    assert read(b"Basic" + encoded("a:b")) is None


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ([b"Basic"], "have no colon"),
        ([b"Basic " + encoded("secret")], "have no colon"),
        ([b"Basic c2VjcmV0OnNlY3Jld"], "are not base64"),
        ([b"Basic secret:secret"], "are not base64"),
        ([b"Basic c2VjcmV0OnNl===="], "are not base64"),
        ([b"Basic c2VjcmV0OnN="], "are not base64"),
        ([b"Basic c2VjcmV0OnN=="], "are not base64"),
        ([b"Basic \xe4\xf6\xfc"], "are not base64"),
        ([b"Basic c2V jcmV0OnNlY3JldA=="], "are not base64"),
        ([b"Basic " + base64.b64encode(b"secret:\xff")], "are not UTF-8"),
        ([b"Basic " + encoded("secret\0:x")], "have control characters in them"),
        ([b"Basic " + encoded("secret:x\n")], "have control characters in them"),
        ([b"Basic " + encoded("secret:x\x7f")], "have control characters in them"),
        ([b"Basic " + encoded("secret:x")] * 2, "has 2 Authorization headers"),
        ([b"Bearer x", b"Basic " + encoded("secret:x")], "has 2 Authorization headers"),
    ],
)
def test_what_cannot_be_read(values: list[bytes], wrong: str) -> None:
    """It is said why, and nothing of what was sent."""
    found = read(*values)
    assert isinstance(found, Rejected)
    assert wrong in found.detail
    assert "secret" not in found.detail


def test_a_password_is_never_shown() -> None:
    """Not even where somebody prints the credentials."""
    assert "sesame" not in repr(read(b"Basic " + encoded("Aladdin:open sesame")))


def test_the_challenge() -> None:
    """It names the realm and asks for UTF-8 (RFC 7617 section 2.1)."""
    assert basic_challenge("the office") == 'Basic realm="the office", charset="UTF-8"'


def values(*lines: bytes, name: str = "sid") -> list[bytes]:
    """Give the values of one cookie in these header lines."""
    return cookie_values(Headers((b"Cookie", line) for line in lines), name)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"sid=abc", [b"abc"]),
        (b"a=b; sid=abc; c=d", [b"abc"]),
        (b"a=b;sid = abc ;c=d", [b"abc"]),
        (b"sid=a=b==", [b"a=b=="]),
        (b'sid="abc"', [b"abc"]),
        (b'sid="', [b'"']),
        (b"sid=", [b""]),
        (b"sid", []),
        (b"=sid; ;;", []),
        (b"SID=abc; xsid=abc; sidx=abc", []),
        (b"a=sid=abc", []),
        (b"sid=one; sid=two", [b"one", b"two"]),
        (b"sid=one, sid=two", [b"one, sid=two"]),
    ],
)
def test_all_values_of_a_name_are_found(line: bytes, found: list[bytes]) -> None:
    """Names are compared with their case, spaces and quotes around a value do not count, each value is returned."""
    assert values(line) == found


def test_several_lines_count_as_one() -> None:
    """Cookies of the second line count, too."""
    assert values(b"sid=one", b"a=b; sid=two") == [b"one", b"two"]
    assert values() == []


@given(st.lists(st.lists(st.sampled_from([b"sid", b"=", b";", b" ", b'"', b"x", b"\t", b",", b"\xff"]), max_size=12)))
def test_no_bytes_break_it(lines: list[list[bytes]]) -> None:
    """Whatever the header has, no value has a semicolon, and there are no more values than occurrences of the name."""
    joined = [b"".join(parts) for parts in lines]
    found = values(*joined)
    assert not any(b";" in value for value in found)
    assert len(found) <= sum(line.count(b"sid") for line in joined)


def test_many_pairs_are_quick() -> None:
    """A header as long as a head allows is parsed at once."""
    assert len(values(b"sid=x;" * 2700)) == 2700
