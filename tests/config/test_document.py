"""What of YAML is taken, and where it is refused."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, wrong
from wsbridge.config.compose import compose
from wsbridge.config.document import expand
from wsbridge.config.problems import ConfigError


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(text, "w.yaml")
    (problem,) = caught.value.problems
    return f"{problem.line}:{problem.column} {problem.code} {problem.path} {problem.message}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 E006  the file is empty"),
        ("# nothing\n", "1:1 E006  the file is empty"),
        ("null\n", "1:1 E006  the file is empty"),
        ("- a\n", "1:1 E012  the file must be a mapping"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "4:3 E004 b.c this key stands here already, in line 3"),
        ("a: &x {b: c}\nd:\n  <<: *x\n", '3:3 E003 d.<< merge keys ("<<") are not taken'),
        ("a: !!int 3\n", '1:4 E003 a the tag "tag:yaml.org,2002:int" is not taken'),
        ("a: [b, !x {c: d}]\n", '1:8 E003 a[1] the tag "!x" is not taken'),
        ("a: b\n---\nc: d\n", "2:1 E003  a second document begins here"),
        ("? [a]\n: b\n", "1:3 E003  a key must be text"),
        ("a: {{ b }}\n", "1:5 E003 a a key must be text"),
        ("a: *b\n", '1:4 E002 a "*b" stands for nothing'),
        ("a: &b [c, *b]\n", '1:11 E003 a[1] "*b" stands inside of what it stands for'),
        ("a: \x07\n", "1:4 E002  the character U+0007 must not stand"),
        ("a:\n\tb: c\n", "2:1 E002  not YAML: found character '\\t'"),
        ("a: [b\n", "1:4 E002  not YAML: "),
    ],
)
def test_what_is_not_taken_is_refused_at_its_place(text: str, expected: str) -> None:
    """A file with a feature that is not taken is refused with the line and column of that feature."""
    assert refused(text).startswith(expected)


@pytest.mark.parametrize("text", ["bind: [::]:8080\n", "a: {b: ${X}}\n", "a:\n  bind: [::]:8080\n  c: d\n"])
def test_syntax_errors_near_brackets_and_variables_advise_quotes(text: str) -> None:
    """A syntax error on a line with `[::` or `${` says that the value belongs in quotes."""
    assert "put it in quotes" in refused(text)


def test_nesting_is_bounded() -> None:
    """The 21st level of nesting is refused, the 20th is not."""
    compose("a: " + "[" * 19 + "]" * 19, "w.yaml")
    assert "more than 20 mappings and lists" in refused("a: " + "[" * 20 + "]" * 20)
    assert "more than 20 mappings and lists" in refused("[" * 5000)


def test_nesting_by_aliases_is_bounded() -> None:
    """Levels that come in by an alias count like written ones."""
    inner = "a: &a " + "[" * 15 + "]" * 15 + "\n"
    compose(inner + "b: [[[[*a]]]]\n", "w.yaml")
    assert "more than 20 mappings and lists" in refused(inner + "b: [[[[[*a]]]]]\n")


def test_values_are_counted_with_those_of_aliases() -> None:
    """A small file whose aliases stand for a billion values is refused at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 10,000 values" in refused("\n".join(lines))


def test_many_values_are_refused_and_a_few_less_are_not() -> None:
    """The bound is 10,000 values."""
    compose("a: [" + "x," * 9_990 + "]", "w.yaml")
    assert "more than 10,000 values" in refused("a: [" + "x," * 10_001 + "]")


def test_aliases_within_bounds_are_taken() -> None:
    """An anchor may be used again as a whole value."""
    document = compose("a: &x {b: [c]}\nd: *x\n", "w.yaml")
    assert document.data({}) == ({"a": {"b": ["c"]}, "d": {"b": ["c"]}}, [])


def test_scalars_stay_text() -> None:
    """What YAML 1.1 would turn into numbers and booleans stays what was written."""
    document = compose("a: [22:22, no, 010, 1_000, 1.0, 2024-01-01, .inf, 0x1f]", "w.yaml")
    data, _ = document.data({})
    assert data == {"a": ["22:22", "no", "010", "1_000", "1.0", "2024-01-01", ".inf", "0x1f"]}


def test_variables_are_replaced_after_parsing_only() -> None:
    """What an environment variable holds is never read as YAML, nor expanded once more."""
    environ = {"X": "{a: b}\nc: [d]", "Y": "${X}"}
    document = compose('v: "${X}"\nw: "<${Y}>"\n', "w.yaml")
    assert document.data(environ) == ({"v": "{a: b}\nc: [d]", "w": "<${X}>"}, [])


def test_double_dollar_is_literal() -> None:
    """`$${` stands for the characters themselves; a lone dollar does, too."""
    assert expand("$${X} $5 ${Y}$", {"Y": "y"}) == "${X} $5 y$"


@pytest.mark.parametrize("text", ["${}", "${A-b}", "${A", "${1}", "a ${ b"])
def test_malformed_variables_are_refused(text: str) -> None:
    """`${` that begins no name says how to write it."""
    with pytest.raises(ValueError, match=r"must begin a name"):
        expand(text, {"A": "a"})


def test_unset_variables_are_errors_with_their_place() -> None:
    """Each unset variable is told, at its value."""
    problems = wrong('listeners:\n  web: {bind: "127.0.0.1:${PORT}"}\n' + ROUTES + "log: {level: '${LEVEL}'}\n")
    assert [(p.line, p.column, p.path, p.message) for p in problems] == [
        (2, 15, "listeners.web.bind", "the environment variable PORT is not set"),
        (4, 14, "log.level", "the environment variable LEVEL is not set"),
    ]


@pytest.mark.parametrize("value", ["", "~", "null"])
def test_keys_without_value_are_errors(value: str) -> None:
    """A key with nothing after it is neither its default nor none: it is an error at the key."""
    (problem,) = wrong(LISTENERS + ROUTES + f"limits:\n  head: {value}\n")
    assert (problem.line, problem.column, problem.code, problem.path) == (4, 3, "E006", "limits.head")


def test_the_word_null_in_quotes_is_text() -> None:
    """Quotes make the words that stand for nothing into text."""
    (problem,) = wrong(LISTENERS + ROUTES + "log: {level: 'null'}\n")
    assert problem.code == "E012"
