"""Which parts of YAML are accepted, where the rest is rejected, and environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.config.loading import LISTENERS, ROUTES, wrong
from wsbridge.config import yaml_nodes
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_text
from wsbridge.config.yaml import Position, compose, expand_variables
from wsbridge.config.yaml_nodes import MappingNode, Node, ScalarNode, SequenceNode
from wsbridge.registry import CONFIG_REGISTRY


def refused(text: str) -> str:
    """Give the one problem of a text, whether it hides what follows or not."""
    try:
        problems = [problem for _, problem in compose(text, "w.yaml").yaml_problems]
    except ConfigError as error:
        problems = error.problems
    (problem,) = problems
    return f"{problem.line}:{problem.column} {problem.code} {problem.setting} {problem.message}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 E006  the file is empty"),
        ("# nothing\n", "1:1 E006  the file is empty"),
        ("null\n", "1:1 E006  the file is empty"),
        ("- a\n", "1:1 E012  the file must be a mapping"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "4:3 E004 b.c duplicate key, first defined in line 3"),
        ("a: &x {b: c}\nd:\n  <<: *x\n", '3:3 E003 d.<< merge keys ("<<") are not supported'),
        ("a: !!int 3\n", "1:4 E003 a YAML tags are not supported"),
        ("a: [b, !x {c: d}]\n", "1:8 E003 a[1] YAML tags are not supported"),
        ("a: b\n---\nc: d\n", "2:1 E003  a second document begins here"),
        ("? [a]\n: b\n", "1:3 E003  a key must be text"),
        ("a: {{ b }}\n", "1:5 E003 a a key must be text"),
        ("a: *:80\n", "1:5 E002  not YAML: expected alphabetic or numeric character, but found ':' (while scanning"),
        ("a: *b\n", "1:4 E002  not YAML: undefined alias"),
        ("a: &b [c, *b]\n", "1:11 E003 a[1] an alias is inside of the node that it refers to"),
        ("a: b\nb:\n  - c\n  - {d: [e, {f: g}, [h, *i]]}\n", "4:25 E002  not YAML: undefined alias"),
        ("a: \x07\n", "1:4 E002  the character U+0007 is not allowed"),
        ("a:\n\tb: c\n", "2:1 E002  not YAML: found character '\\t'"),
        ("a: b: c\n", "1:5 E002  not YAML: mapping values are not allowed here; write each key on a line of its own"),
        ("a: [b\n", "1:4 E002  not YAML: "),
        ('a: ["b", "c\\ud83dx"]\n', "1:10 E003 a[1] half of a character"),
        ('"a\\udc00": b\n', "1:1 E003  half of a character"),
    ],
)
def test_unsupported_yaml_is_rejected_at_its_place(text: str, expected: str) -> None:
    """A file with a feature that is not supported is rejected with the line and column of that feature."""
    assert refused(text).startswith(expected)


def test_characters_may_be_written_as_in_json() -> None:
    """JSON has two escapes for a character beyond U+FFFF."""
    data, _ = compose('{"a\\ud83d\\ude00": "\\u00e9\\ud83d\\ude00"}', "w.yaml").to_data({})
    assert data == {"a\U0001f600": "\u00e9\U0001f600"}


@pytest.mark.parametrize("text", ["bind: [::]:8080\n", "a: {b: ${X}}\n", "a:\n  bind: [::]:8080\n  c: d\n"])
def test_syntax_errors_near_brackets_and_variables_advise_quotes(text: str) -> None:
    """A syntax error on a line with `[::` or `${` says that the value belongs in quotes."""
    assert "put it in quotes" in refused(text)


def test_nesting_is_bounded() -> None:
    """The 21st level of nesting is refused, the 20th is not."""
    compose("a: " + "[" * 19 + "]" * 19, "w.yaml")
    assert "more than 20 nested mappings and lists" in refused("a: " + "[" * 20 + "]" * 20)
    assert "more than 20 nested mappings and lists" in refused("[" * 5000 + "]" * 5000)


def test_nesting_by_aliases_is_bounded() -> None:
    """Levels that come in by an alias count like written ones."""
    inner = "a: &a " + "[" * 15 + "]" * 15 + "\n"
    compose(inner + "b: [[[[*a]]]]\n", "w.yaml")
    assert "more than 20 nested mappings and lists" in refused(inner + "b: [[[[[*a]]]]]\n")


def test_values_are_counted_with_those_of_aliases() -> None:
    """A small file whose aliases expand to a billion values is rejected at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 100,000 values" in refused("\n".join(lines))


def test_written_values_are_only_bounded_by_the_size_of_the_file() -> None:
    """As many as fit; those that aliases expand to have a bound of their own."""
    compose("a: [" + "x," * 150_000 + "]", "w.yaml")
    anchor = "a: &a [" + "x, " * 999 + "x]\nb: ["
    compose(anchor + "*a, " * 99 + "]", "w.yaml")
    assert "the aliases of the file expand to more than 100,000 values" in refused(anchor + "*a, " * 100 + "]")


TEXTS = sorted((Path(__file__).parents[2] / "conf").glob("*.yaml"))


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="there is one parser only")
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_both_parsers_give_the_same_nodes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and positions are the same where PyYAML has no libyaml."""

    def described(node: Node) -> object:
        place = (node.line, node.column, node.end_line, node.end_column)
        if isinstance(node, MappingNode):
            return place, node.is_flow, [(described(key), described(value)) for key, value in node.pairs]
        if isinstance(node, SequenceNode):
            return place, node.is_flow, list(map(described, node.items))
        assert isinstance(node, ScalarNode)
        return place, node.is_plain, node.value

    text = path.read_text() + "x: |\n  a\n  b\n\ny: [1,\n 'a\n  b', \"é\tb\"]\nz: >-\n  c\n"
    found = []
    for loader in (yaml.CBaseLoader, yaml.BaseLoader):
        monkeypatch.setattr(yaml_nodes, "LOADER", loader)
        node = yaml_nodes.parse_nodes(text)
        assert node is not None
        found.append(described(node))
    assert found[0] == found[1]


def test_aliases_within_bounds_are_accepted() -> None:
    """An anchor may be used again as a whole value."""
    document = compose("a: &x {b: [c]}\nd: *x\n", "w.yaml")
    assert document.to_data({}) == ({"a": {"b": ["c"]}, "d": {"b": ["c"]}}, [])


def test_settings_have_positions() -> None:
    """Line and column, from 1: of the value, and of the key where the value is a block or the key is wanted."""
    document = compose("a: b\nc:\n  - 'd'\n  - [e]\n", "w.yaml")

    assert document.locate(("a",)) == (Position(1, 4), ("a",))
    assert document.locate(("a",), at_key=True) == (Position(1, 1), ("a",))
    assert document.locate(("c",)) == (Position(2, 1), ("c",))
    assert document.locate(("c", 0)) == (Position(3, 5), ("c", 0))
    assert document.locate(("c", 1, 0)) == (Position(4, 6), ("c", 1, 0))
    assert document.locate(("c", 7)) == (Position(2, 1), ("c",))


def test_every_mistake_that_does_not_hide_the_next_is_reported() -> None:
    """Duplicate keys and tags are reported all at once, in the order of the file, with what they make unusable."""
    text = "a: 1\na: 2\nb: !x 3\nb: 4\nc: {<<: {d: e}}\n"
    found = [
        (("a",), 2, "E004"),
        (("b",), 3, "E003"),
        (("b",), 4, "E004"),
        (("c",), 5, "E003"),
    ]
    assert [(steps, problem.line, problem.code) for steps, problem in compose(text, "w.yaml").yaml_problems] == found


def test_wrong_indentation_advises_the_indentation_of_the_mapping() -> None:
    """A key that is indented less than its siblings, but more than their parent, is an error that says so."""
    text = "a:\n    b: c\n   d: e\n"

    assert refused(text).startswith("3:4 E002  not YAML: ")
    assert refused(text).endswith("; indent this line as the keys of its mapping are")


@pytest.mark.parametrize("text", ["bind: *:80\n", "host: *.example.org\n", "a: {path: *}\n"])
def test_stars_that_are_no_aliases_advise_quotes(text: str) -> None:
    """A value that begins with a star says that it belongs in quotes."""
    assert refused(text).endswith('; a text that begins with "*" needs quotes')


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: %b\n", "; a text that begins with it needs quotes"),
        ("a: @b\n", "; a text that begins with it needs quotes"),
        ("a: `b`\n", "; a text that begins with it needs quotes"),
        ("r:\n  auth:none\n  match: any\n", "; write a space after the colon of each key"),
        ("r:\n  - auth:none\n    match: any\n", "; write a space after the colon of each key"),
        ("r:\n  match: any\n  auth:none\n  respond: 204\n", "; write a space after the colon of each key"),
        ("r:\n  auth:\u00a0none\n  match: any\n", "; there is the character U+00A0, which looks like a space"),
        ("r:\n  auth\u200b\n  match: any\n", "; there is the character U+200B, which looks like a space"),
    ],
)
def test_usual_causes_of_syntax_errors(text: str, hint: str) -> None:
    """What is wrong is often a line above the one at which a parser stops, or cannot be seen."""
    assert hint in refused(text)


def test_comments_are_no_cause() -> None:
    """They may have such characters, as typography wants them in some languages."""
    text = "listeners:\n  # hôte\u00a0: ${HOST}\n  web:\n    bind: 127.0.0.1:0  # voilà\u00a0!\n   mode: 3\n"
    assert refused(text).endswith("; indent this line as the keys of its mapping are")


def test_a_key_with_an_invisible_character_shows_it() -> None:
    """An unknown key that looks like the right one says what it has."""
    text = "listeners: {web: {bind: 127.0.0.1:0}}\nroutes: {r: {respond: '204', match: any, auth\u00a0: none}}\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text, file="w.yaml", registry=CONFIG_REGISTRY, environ={})
    assert r'routes.r.auth\xa0: unknown key (did you mean "auth"?)' in str(caught.value)


def test_an_anchor_is_set_once() -> None:
    """A second one with its name is an error at its place."""
    assert refused("a: &x 1\nb: &x 2\n") == "2:4 E002  not YAML: this anchor is already used above"


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
    """`$${` means the characters themselves; so does a lone dollar."""
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


def test_variables_that_are_not_text_are_refused() -> None:
    """Python has surrogates for bytes of the environment that are not UTF-8, which no setting can have."""
    with pytest.raises(ValueError, match="the environment variable A is not UTF-8 text"):
        expand_variables("x${A}", {"A": "a\udcff"})


def test_unset_variables_are_errors_with_their_place() -> None:
    """Each unset variable is reported, at its value."""
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
    """Quotes make the words that mean "no value" into text."""
    (problem,) = wrong(LISTENERS + ROUTES + "log: {level: 'null'}\n")
    assert problem.code == "E012"


@pytest.mark.parametrize("key", ["\\0", "\\0text", "a\\eb", "a\\nb"])
@pytest.mark.parametrize("route", [True, False])
def test_a_key_with_control_characters(key: str, route: bool) -> None:
    """It is an error at its place, and the only one."""
    line = f'"{key}": 1'
    text = LISTENERS + (ROUTES.replace("auth: none", f"auth: none, {line}") if route else ROUTES + line + "\n")
    (problem,) = wrong(text)
    assert (problem.code, problem.line) == ("E003", 2 if route else 3)
    assert problem.message == "a key must not have control characters"


def test_a_key_in_brackets_is_an_unknown_key() -> None:
    """Pydantic marks wrong keys of a mapping with such a word."""
    (problem,) = wrong(LISTENERS + ROUTES + "'[key]': 1\n")
    assert (problem.code, problem.setting, problem.line) == ("E010", "[key]", 3)
