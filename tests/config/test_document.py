"""What of YAML is taken, and where it is refused."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, wrong
from wsbridge.config.yaml import compose, expand_variables


def test_scalars_stay_text() -> None:
    """What YAML 1.1 would turn into numbers and booleans stays what was written."""
    document = compose("a: [22:22, no, 010, 1_000, 1.0, 2024-01-01, .inf, 0x1f]", "w.yaml")
    data, _ = document.to_data({})
    assert data == {"a": ["22:22", "no", "010", "1_000", "1.0", "2024-01-01", ".inf", "0x1f"]}


def test_variables_are_replaced_after_parsing_only() -> None:
    """What an environment variable holds is never read as YAML, nor expanded once more."""
    environ = {"X": "{a: b}\nc: [d]", "Y": "${X}"}
    document = compose('v: "${X}"\nw: "<${Y}>"\n', "w.yaml")
    assert document.to_data(environ) == ({"v": "{a: b}\nc: [d]", "w": "<${X}>"}, [])


def test_double_dollar_is_literal() -> None:
    """`$${` stands for the characters themselves; a lone dollar does, too."""
    assert expand_variables("$${X} $5 ${Y}$", {"Y": "y"}) == "${X} $5 y$"


@pytest.mark.parametrize("text", ["${}", "${A", "${1}", "a ${ b"])
def test_malformed_variables_are_refused(text: str) -> None:
    """`${` that begins no name says how to write it."""
    with pytest.raises(ValueError, match=r"must begin a name"):
        expand_variables(text, {"A": "a"})


@pytest.mark.parametrize("text", ["${A-b}", "${A:-b}", "${A:?no}", "x${A=b}"])
def test_defaults_of_variables_are_refused(text: str) -> None:
    """The forms of a shell say that they are not supported, without what they contain."""
    with pytest.raises(ValueError, match=r"defaults are not supported; write \$\{A\}"):
        expand_variables(text, {"A": "a"})


def test_unset_variables_are_errors_with_their_place() -> None:
    """Each unset variable is told, at its value."""
    problems = wrong('listeners:\n  web: {bind: "127.0.0.1:${PORT}"}\n' + ROUTES + "log: {level: '${LEVEL}'}\n")
    assert [(p.line, p.column, p.setting, p.message) for p in problems] == [
        (2, 15, "listeners.web.bind", "the environment variable PORT is not set"),
        (4, 14, "log.level", "the environment variable LEVEL is not set"),
    ]


@pytest.mark.parametrize("value", ["", "~", "null"])
def test_keys_without_value_are_errors(value: str) -> None:
    """A key with nothing after it is neither its default nor none: it is an error at the key."""
    (problem,) = wrong(LISTENERS + ROUTES + f"limits:\n  max_head_bytes: {value}\n")
    assert (problem.line, problem.column, problem.code, problem.setting) == (4, 3, "E006", "limits.max_head_bytes")


def test_the_word_null_in_quotes_is_text() -> None:
    """Quotes make the words that stand for nothing into text."""
    (problem,) = wrong(LISTENERS + ROUTES + "log: {level: 'null'}\n")
    assert problem.code == "E012"
