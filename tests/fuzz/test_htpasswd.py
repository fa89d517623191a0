"""Fuzz: any text as a list of users gives users or a sentence, and no sentence gives a hash away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsbridge.auth.passwords import check_username, parse_htpasswd

BCRYPT = "$2y$05$abcdefghijklmnopqrstuuhKF09ZYWwH2zP/0fwE1X8e/Q1YNx/hO"
SCRYPT = "$scrypt$ln=12,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43

begins = st.sampled_from(["$2y$05$", "$2b$", "$scrypt$", "$scrypt$ln=99,r=999,p=999$", "$apr1$", "{SHA}", "$6$", ""])
hashes = st.one_of(
    st.sampled_from([BCRYPT] * 4 + [SCRYPT] * 4),
    st.builds("{}{}".format, begins, st.text("./A9aZ$,=lnrp", max_size=90)),
    st.builds(lambda text, at, put: text[:at] + put + text[at + 1 :], st.sampled_from([BCRYPT, SCRYPT]),
              st.integers(0, 90), st.text("A.$9", max_size=2)),
    st.text(max_size=80),
)  # fmt: skip
names = st.one_of(st.sampled_from(["alice", "bob", "Zoë", "", "#", " x", "a\tb"]), st.text(max_size=20))
ends = st.sampled_from(["\n"] * 6 + ["\r\n", "\r", " \n", "", "\n\n# x\n"])
lines = st.builds("{}{}{}{}".format, names, st.sampled_from([":"] * 9 + [""]), hashes, ends)
texts = st.one_of(st.lists(lines, max_size=6).map("".join), st.text(max_size=200))


@given(texts)
def test_any_text_gives_users_or_a_sentence(text: str) -> None:
    """Names and hashes are parts of the text as it is; an error is one printable line without any hash."""
    try:
        users = parse_htpasswd(text)
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 600
        assert BCRYPT[30:] not in str(error)
        assert SCRYPT[30:] not in str(error)
        return
    for name, stored in users.items():
        assert check_username(name) == name
        assert f"{name}:{stored.text}" in text
        assert type(stored.dummy_hash()) is type(stored)


@given(st.lists(st.tuples(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40),
                          st.sampled_from([BCRYPT, SCRYPT])), min_size=1, unique_by=lambda user: user[0]),
       st.sampled_from(["\n", "\r\n", "\n\n", "  \n# x:y\n"]))  # fmt: skip
def test_what_is_written_well_is_read(users: list[tuple[str, str]], end: str) -> None:
    """Every list of distinct names comes back as it was."""
    text = "".join(f"{name}:{stored}{end}" for name, stored in users)
    assert [(name, stored.text) for name, stored in parse_htpasswd(text).items()] == users
