"""Where a request has its token."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.auth.methods import caller
from tests.rejections import challenges, outcome
from wsbridge.auth.credentials import BEARER_CHALLENGE, MAX_TOKEN_BYTES, TokenFound, TokenSection, find_token
from wsbridge.reasons import Rejected

EVERYWHERE = ("authorization", "subprotocol", "cookie:sid")


def carrier(token: str | bytes) -> str:
    """Give the subprotocol that carries a token."""
    raw = token.encode() if isinstance(token, str) else token
    return "wsbridge.token." + urlsafe_b64encode(raw).rstrip(b"=").decode()


def look(
    *lines: tuple[bytes, bytes], protocols: tuple[str, ...] = (), sources: tuple[str, ...] = EVERYWHERE
) -> TokenFound | Rejected:
    """Look for a token in a request."""
    return outcome(find_token, caller(*lines, subprotocols=protocols), sources)


def refusal(found: TokenFound | Rejected, *, tried: bool = True) -> str:
    """Give why there is no token."""
    assert isinstance(found, Rejected)
    assert (found.failed_login, challenges(found)) == (tried, (BEARER_CHALLENGE,))
    return found.detail


def test_each_place_is_looked_at() -> None:
    """The place is reported with the token."""
    assert look((b"authorization", b"Bearer abc")) == TokenFound("abc", "authorization")
    assert look((b"authorization", b"bearer  abc")) == TokenFound("abc", "authorization")
    assert look(protocols=("binary", carrier("abc"))) == TokenFound("abc", "subprotocol")
    assert look((b"cookie", b"a=b; sid=abc")) == TokenFound("abc", "cookie:sid")


def test_no_other_place_is_looked_at() -> None:
    """What is not written in `sources` shows nothing, be it good or malformed."""
    lines = ((b"authorization", b"Bearer one"), (b"cookie", b"sid=two; sid=three; other=four"))
    protocols = ("wsbridge.token.!",)
    assert look(*lines, protocols=protocols, sources=("cookie:other",)) == TokenFound("four", "cookie:other")
    found = look(*lines, protocols=protocols, sources=("cookie:none",))
    assert refusal(found, tried=False) == "no token in cookie:none"


@pytest.mark.parametrize(
    ("lines", "protocols", "hint"),
    [
        ((), (), ""),
        (
            ((b"authorization", b"basic YTpi"),),
            ("binary",),
            "; Authorization has the scheme Basic, not Bearer",
        ),
        (((b"authorization", b"s3cret"),), (), "; Authorization has another scheme than Bearer"),
        (((b"cookie", b"sid=; a=b"),), ("wsbridge.tokens", "Wsbridge.Token.abc"), ""),
    ],
)
def test_none_shown_is_no_failed_login(
    lines: tuple[tuple[bytes, bytes], ...], protocols: tuple[str, ...], hint: str
) -> None:
    """Credentials of another scheme and an empty cookie, as pages leave it at a log-out, are no token.

    The log names a scheme that is known, and nothing that may be a token.
    """
    found = look(*lines, protocols=protocols)
    assert refusal(found, tried=False) == f"no token in authorization, subprotocol, cookie:sid{hint}"


def test_plain_tcp_shows_none() -> None:
    """Without a request there is no place."""
    assert refusal(outcome(find_token, caller(request=None), EVERYWHERE), tried=False) == "plain TCP shows no token"


def test_the_same_token_may_stand_in_several_places() -> None:
    """It counts as proved by the first that is no cookie."""
    lines = ((b"authorization", b"Bearer abc"), (b"cookie", b"sid=abc"))
    found = look(*lines, sources=("cookie:sid", "authorization"))
    assert found == TokenFound("abc", "authorization")
    assert not found.by_cookie
    alone = look(lines[1])
    assert isinstance(alone, TokenFound)
    assert alone.by_cookie


def test_two_tokens_are_refused() -> None:
    """Two credentials are ambiguous and rejected, and the message shows neither.

    A cookie may be of a page of a sibling domain, which must not have its visitors banned: that is no failed login.
    """
    found = look((b"authorization", b"Bearer one"), (b"cookie", b"sid=two"))
    assert refusal(found, tried=False) == "the tokens in authorization and cookie:sid differ"
    found = look((b"authorization", b"Bearer one"), protocols=(carrier("two"),))
    assert refusal(found) == "the tokens in authorization and subprotocol differ"
    twice = look((b"authorization", b"Bearer one"), (b"authorization", b"Bearer one"))
    assert refusal(twice) == "the request has 2 Authorization headers"
    tossed = look((b"cookie", b"sid=one; sid=one"))
    assert refusal(tossed, tried=False) == "the request has 2 cookies sid"
    both = look(protocols=(carrier("one"), carrier("two")))
    assert refusal(both) == "the request offers 2 subprotocols with a token"


@pytest.mark.parametrize("value", [b"Bearer", b"Bearer a b", b"Bearer a\tb", b"Bearer \xe4", b"Bearer "])
def test_a_malformed_header_is_refused(value: bytes) -> None:
    """A token has no spaces and is ASCII; it is a failed login all the same."""
    assert "the token in authorization is empty or has" in refusal(look((b"authorization", value)))


@pytest.mark.parametrize("text", ["", "A", "QQ.", "QR", "YWJj!", "YQ==", "*"])
def test_a_malformed_subprotocol_is_refused(text: str) -> None:
    """Padding, other characters and a second spelling of the same bytes are rejected."""
    found = look(protocols=("wsbridge.token." + text,))
    assert refusal(found) == "the token in subprotocol is not base64url without padding"


def test_what_a_subprotocol_carries_is_a_token() -> None:
    """Bytes that no header could have are refused there, too."""
    for raw in (b"a b", b"a\r\nb", b"\xff", b"a\0"):
        assert "characters that no token has" in refusal(look(protocols=(carrier(raw),)))


def test_a_token_has_a_largest_length() -> None:
    """One byte more is refused, with both numbers, in every place."""
    good = "a" * MAX_TOKEN_BYTES
    for token, taken in ((good, True), (good + "a", False)):
        for found in (
            look((b"authorization", b"Bearer " + token.encode())),
            look((b"cookie", b"sid=" + token.encode())),
            look(protocols=(carrier(token),)),
        ):
            if taken:
                assert isinstance(found, TokenFound)
            else:
                assert "has 8193 bytes, and the limit is 8192" in refusal(found)


def test_a_token_is_not_shown_by_accident() -> None:
    """What is found can be printed without its secret."""
    assert "hunter2" not in repr(look((b"authorization", b"Bearer hunter2")))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_any_token_comes_through_a_subprotocol(token: str) -> None:
    """Every token has one spelling there, which a subprotocol may have."""
    assert look(protocols=(carrier(token),)) == TokenFound(token, "subprotocol")


@given(st.text(st.sampled_from("AQaz09-_.!~"), max_size=24), st.binary(max_size=24), st.binary(max_size=24))
def test_no_input_is_an_error(name: str, header: bytes, cookie: bytes) -> None:
    """Whatever a request says, there is a token of allowed characters or a sentence without it."""
    lines = ((b"authorization", b"Bearer " + header), (b"cookie", b"sid=" + cookie))
    found = look(*lines, protocols=("wsbridge.token." + name,))
    if isinstance(found, TokenFound):
        assert found.token.isascii()
        assert found.token.isprintable()
        assert " " not in found.token
    else:
        assert found.detail.isascii()


def section(*sources: str) -> TokenSection:
    """Read a section with these places."""
    return TokenSection.model_validate({"kind": "bearer", "sources": sources})


def test_the_places_as_written() -> None:
    """Left out they are the two that no page can abuse; cookies have to be asked for."""
    plain = TokenSection.model_validate({"kind": "bearer"})
    assert plain.sources == ("authorization", "subprotocol")
    assert not plain.accepts_cookies()
    assert section("authorization", "cookie:__Host-sid").accepts_cookies()


@pytest.mark.parametrize("sources", [(), ("header",), ("cookie:",), ("cookie:a b",), ("authorization",) * 2])
def test_places_that_are_none(sources: tuple[str, ...]) -> None:
    """Nothing, an unknown word, a cookie without a good name and a repetition are errors."""
    with pytest.raises(ValidationError):
        section(*sources)
