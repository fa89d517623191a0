"""Lists of tokens."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.auth.bearer import BearerToken, parse_expiry, parse_token_list, token_digest

ONE, OTHER = token_digest("one"), token_digest("other")
A = f"sha256:{ONE.hex()}"


def refusal(text: str) -> str:
    """Give why a list is refused."""
    with pytest.raises(ValueError) as caught:
        parse_token_list(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "token"),
    [
        (f"alice {A}", BearerToken("alice", ONE)),
        (
            f"alice\t {A.replace('sha256:', 'sha256:').upper().replace('SHA256', 'sha256')} \r",
            BearerToken("alice", ONE),
        ),
        (f"alice@example.org {A} expires=2027-01-01T00:00:00Z", BearerToken("alice@example.org", ONE, 1798761600.0)),
        (f"alice {A} expires=2027-01-01", BearerToken("alice", ONE, 1798761600.0)),
        (f"alice {A} routes=a,b", BearerToken("alice", ONE, None, frozenset(("a", "b")))),
        (f"a {A} routes=a expires=2027-01-01", BearerToken("a", ONE, 1798761600.0, frozenset("a"))),
    ],
)
def test_a_line_is_a_token(line: str, token: BearerToken) -> None:
    """It has a name and a hash, and may have an end and routes, in any order."""
    assert parse_token_list(line) == {ONE: token}


def test_all_else_is_left_out() -> None:
    """Empty lines and comments say nothing, and a list may say nothing at all."""
    assert parse_token_list(f"# who\n\n  # what\n \t\r\nalice {A}\n") == {ONE: BearerToken("alice", ONE)}
    assert parse_token_list("") == parse_token_list("# none\n") == {}


def test_a_name_may_have_several_tokens() -> None:
    """So that one can be changed for another without a gap."""
    found = parse_token_list(f"alice {A}\nalice sha256:{OTHER.hex()}\n")
    assert {token.name for token in found.values()} == {"alice"}
    assert found[ONE].fingerprint != found[OTHER].fingerprint


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("alice", "the name must be followed by sha256:"),
        ("alice hunter2", "the name must be followed by sha256:"),
        (f"alice sha256:{ONE.hex()[:-1]}", "the name must be followed by sha256:"),
        (f"alice SHA256:{ONE.hex()}", "the name must be followed by sha256:"),
        (f"alice {ONE.hex()}", "the name must be followed by sha256:"),
        (A, "the name must be"),
        (f"ali=ce {A}", "the name must be"),
        (f"älice {A}", "the name must be"),
        (f"{'a' * 65} {A}", "the name must be"),
        (f"alice {A} expires=tomorrow", "expires must be a moment"),
        (f"alice {A} expires=2027-02-30", "expires must be a moment"),
        (f"alice {A} expires=2027-1-1", "expires must be a moment"),
        (f"alice {A} expires=2027-01-01T00:00:00", "expires must be a moment"),
        (f"alice {A} expires=2027-01-01T00:00:00+01:00", "expires must be a moment"),
        (f"alice {A} routes=", "routes must be names"),
        (f"alice {A} routes=a,", "routes must be names"),
        (f"alice {A} routes=a, b", "routes must be names"),
        (f"alice {A} routes=a routes=b", "each once and without spaces"),
        (f"alice {A} expires=2027-01-01 expires=2028-01-01", "each once and without spaces"),
        (f"alice {A} admin=yes", "each once and without spaces"),
        (f"alice {A} # comment", "each once and without spaces"),
        (f"alice {A} routes={'a,' * 3000}a", "characters, and the most is 4096"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, wrong: str) -> None:
    """The message never shows the line itself: it may hold a token that was pasted by mistake."""
    message = refusal(f"# one\nbob sha256:{OTHER.hex()}\n{line}\n")
    assert message.startswith("line 3: ")
    assert wrong in message
    assert "hunter2" not in message


def test_all_bad_lines_are_reported_at_once() -> None:
    """Up to five of them, and how many more there are."""
    message = refusal("\n".join(["alice"] * 7))
    assert [f"line {number}: " in message for number in range(1, 8)] == [True] * 5 + [False] * 2
    assert message.endswith("; and 2 more")


def test_a_token_stands_once() -> None:
    """Two lines for one token would leave open whose it is."""
    assert refusal(f"alice {A}\n\nbob {A}\n") == "line 3: duplicate token, first defined in line 1"


moments = st.integers(0, 4102444800).map(float)
names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)


@given(names, st.binary(min_size=32, max_size=32), st.none() | moments, st.none() | st.frozensets(names, min_size=1))
def test_what_is_written_is_read(
    name: str, digest: bytes, expires: float | None, routes: frozenset[str] | None
) -> None:
    """Every token comes back from its line."""
    token = BearerToken(name, digest, expires, routes)
    assert parse_token_list(token.to_line()) == {digest: token}


pieces = st.sampled_from(
    [A, "sha256:", "alice", " ", "\t", "expires=", "2027-01-01", "routes=", ",", "\n", "\r", "#", "="]
)


@given(st.lists(pieces | st.text(max_size=4), max_size=20))
def test_no_text_breaks_it(parts: list[str]) -> None:
    """Whatever a file says, it is a list of tokens with names or a ValueError, and no hash comes from elsewhere."""
    with contextlib.suppress(ValueError):
        for digest, token in parse_token_list("".join(parts)).items():
            assert token.digest == digest
            assert token.name
            assert digest.hex() in "".join(parts).lower()


@given(st.text("0123456789-:TZ", max_size=22))
def test_a_moment_is_one_or_is_refused(text: str) -> None:
    """No text is an error of another kind."""
    with contextlib.suppress(ValueError):
        assert parse_expiry(text) == parse_expiry(text)
