"""Fields of a request for target templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.target_requests import asking
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.backends.target_template import MAX_FIELD_LENGTH, field_value, redact_field
from wsbridge.protocol.uri import PathPattern

PATH = PathPattern("/to/{host}/{port}/*")
ALICE = Identity("alice", "basic", {"room": "7", "https://x/y": "z"})


@pytest.mark.parametrize(
    ("field", "target", "value"),
    [
        ("host", "/to/db/22/x", "db"),
        ("port", "/to/db/22/x?port=9", "22"),
        ("host", "/to/%5B::1%5D/22/", "[::1]"),
        ("host", "/to/a%2541/22/", "a%41"),
        ("query.t", "/to/a/1/?t=x", "x"),
        ("query.t", "/to/a/1/?a=1&t=x%20y+z&b", "x y z"),
        ("query.t", "/to/a/1/?%74=x", "x"),
        ("query.t", "/to/a/1/?t=a=b", "a=b"),
        ("query.a b", "/to/a/1/?a+b=x", "x"),
        ("identity", "/to/a/1/", "alice"),
        ("claims.room", "/to/a/1/?claims.room=9", "7"),
        ("claims.https://x/y", "/to/a/1/", "z"),
    ],
)
def test_values(field: str, target: str, value: str) -> None:
    """Of a segment, a parameter, a claim or the name; what is escaped is decoded once."""
    assert field_value(field, asking(target), PATH, ALICE) == value


@pytest.mark.parametrize(
    ("field", "target", "words"),
    [
        ("query.t", "/to/a/1/", "has no query.t"),
        ("query.t", "/to/a/1/?t", "has no query.t"),
        ("query.t", "/to/a/1/?T=x", "has no query.t"),
        ("query.t", "/to/a/1/?t=x&t=x", "duplicate query parameter t"),
        ("query.t", "/to/a/1/?t=x&%74=y", "duplicate query parameter t"),
        ("query.t", "/to/a/1/?t=%zz", "broken percent escape"),
        ("query.t", "/to/a/1/?t=%4", "broken percent escape"),
        ("query.t", "/to/a/1/?t=%ff", "not UTF-8"),
        ("query.t", "/to/a/1/?t=" + "x" * 1025, "1025 characters"),
        ("host", "/to/%c3/1/", "not UTF-8"),
        ("host", "/other", "has no host"),
        ("none", "/to/a/1/", "has no none"),
        ("claims.none", "/to/a/1/", "has no claims.none"),
    ],
)
def test_what_a_client_has_not(field: str, target: str, words: str) -> None:
    """Missing, empty, twice, not decodable, too long: a sentence that does not quote the value."""
    with pytest.raises(ValueError, match=r".") as caught:
        field_value(field, asking(target), PATH, ALICE)
    assert words in str(caught.value)


def test_nobody_has_no_name() -> None:
    """An identity without a name fills no field."""
    with pytest.raises(ValueError, match="has no identity"):
        field_value("identity", asking("/"), None, ANONYMOUS)


@pytest.mark.parametrize("field", ["query.t", "host"])
def test_plain_tcp_says_nothing(field: str) -> None:
    """Without a request there is neither path nor query."""
    with pytest.raises(ValueError, match="the client has no"):
        field_value(field, None, PATH, ALICE)


@pytest.mark.parametrize(
    ("field", "target", "shown"),
    [
        ("query.id", "/x?a=1&id=s3cret&b=2", "/x?a=1&id=***&b=2"),
        ("query.id", "/x?%69d=s3cret&id=s3cret", "/x?%69d=***&id=***"),
        ("query.id", "/x", "/x"),
        ("host", "/to/s3cret/22/x?y", "/to/***/22/x?y"),
        ("host", "/at/x/22/x?y", "/at/x/22/x?y"),
        ("host", "/to", "/to"),
        ("identity", "/to/a/1/", "/to/a/1/"),
    ],
)
def test_a_token_is_hidden(field: str, target: str, shown: str) -> None:
    """Whatever its parameter or segment is called."""
    assert redact_field(target, PATH, field) == shown


TOKEN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="&#?/%="), min_size=8)


@given(token=TOKEN, before=st.sampled_from(["", "a=1&", "id2=x&"]), after=st.sampled_from(["", "&id=1", "&x"]))
def test_no_token_is_shown(token: str, before: str, after: str) -> None:
    """Wherever its parameter is in the query."""
    assert token not in redact_field(f"/?{before}id={token}{after}", None, "query.id").partition("?")[2].replace(
        "***", ""
    )


@given(st.text(max_size=60))
def test_any_query_gives_a_value_or_a_sentence(query: str) -> None:
    """Nothing else is raised, and a value is never longer than allowed."""
    try:
        assert 0 < len(field_value("query.t", asking(f"/?t={query}"), None, ANONYMOUS)) <= MAX_FIELD_LENGTH
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("pattern", "target", "shown"),
    [
        ("/to/{host}", "/to/s3cret?a=b", "/to/***?a=b"),
        ("/to/{host}", "/to/s3cret/", "/to/***/"),
        ("/to/{host}", "/to/s3cret/x?y", "/to/***/x?y"),
        ("/to/{port}/{host}", "/to/1/s3cret/x", "/to/1/***/x"),
        ("/to/{host}/in", "/to/s3cret", "/to/***"),
        ("/to/{host}", "/other/s3cret", "/other/s3cret"),
        ("/to/{host}", "/to", "/to"),
        ("/{host}", "/s3cret", "/***"),
        ("/{host}", "/js/app.js", "/js/app.js"),
    ],
)
def test_a_segment_is_hidden_where_it_was_meant_as_one(pattern: str, target: str, shown: str) -> None:
    """A token is not logged, even with too much or too little after it; other paths are left alone."""
    assert redact_field(target, PathPattern(pattern), "host") == shown
