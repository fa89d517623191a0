"""Basic credentials."""

from __future__ import annotations

import base64

import pytest

from tests.rejections import outcome
from wsbridge.protocol.credentials import BasicCredentials, basic_challenge, parse_basic
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
