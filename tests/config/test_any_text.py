"""Whatever a file holds, the answer is a configuration or a list of problems."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.config.loading import read
from wsbridge.config.errors import ConfigError

KEYS = st.sampled_from(
    [
        "listeners",
        "routes",
        "bind",
        "speaks",
        "route",
        "match",
        "backend",
        "url",
        "files",
        "answer",
        "tls",
        "auth",
        "certificates",
        "cert",
        "key",
        "timeouts",
        "idle",
        "limits",
        "headers",
        "log",
        "origins",
        "web",
        "vnc",
        "<<",
        "x",
    ]
)
TEXTS = st.sampled_from(
    [
        "127.0.0.1:80",
        "[::]:80",
        "unix:/s",
        "tcp",
        "any",
        "none",
        "vnc",
        "web",
        "tcp://a:1",
        "wss://a/b",
        "20s",
        "off",
        "same",
        "/x/*",
        "204",
        "",
        "${X}",
        "$${",
        "${",
        "https://a",
    ]
)
VALUES = st.recursive(
    TEXTS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
FILES = st.fixed_dictionaries(
    {
        "listeners": st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=3) | VALUES,
        "routes": st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=3) | VALUES,
    },
    optional={"timeouts": VALUES, "limits": VALUES, "log": VALUES, "x": VALUES},
)


def judge(text: str) -> None:
    """Hold that a text is read or refused, and that each problem has its place in it."""
    try:
        problems = read(text, {"X": "1"}).warnings
    except ConfigError as error:
        problems = error.problems
        assert any(problem.severity == "error" for problem in problems)
    lines = text.splitlines()
    for problem in problems:
        assert 1 <= problem.line <= len(lines) + 1
        assert problem.column >= 1
        assert problem.text()
    assert len({(p.line, p.column, p.setting, p.message) for p in problems}) == len(problems)


@given(st.text())
def test_any_text(text: str) -> None:
    """Any characters give a configuration or problems within the file."""
    judge(text)


@given(st.text(alphabet="ab:[]{}&*!|>-? \n'\"#,$<%@\t"))
def test_any_signs(text: str) -> None:
    """Any heap of YAML's own signs gives a configuration or problems within the file."""
    judge(text)


@given(FILES)
def test_any_structure(value: object) -> None:
    """Known keys in any wrong place give a configuration, or problems within the file, each reported once."""
    judge(json.dumps(value))
