"""What a user is shown of a mistake."""

from __future__ import annotations

import json
import re

import pytest

from tests.config.loading import LISTENERS, ROUTES, wrong
from wsbridge.config.errors import (
    MAX_MESSAGE_CHARS,
    MAX_SAME_SETTINGS,
    MAX_SOURCE_CHARS,
    PROBLEM_CODES,
    ConfigError,
    Problem,
    closest_match,
    did_you_mean,
    merge_warnings,
    printable,
)


def test_an_unknown_key_is_shown_with_its_line_a_caret_and_a_guess() -> None:
    """A typo is reported in one line with its place, then the line of the file, then a caret under the key."""
    (found,) = wrong(
        """\
        listeners: {web: {bind: 127.0.0.1:8080}}
        routes:
          vnc:
            match: any
            tiemouts: {idle: 1h}
            backend: tcp://10.0.0.5:5900
        """
    )
    assert found.text() == (
        'w.yaml:5:5: routes.vnc.tiemouts: unknown key (did you mean "timeouts"?) [E010]\n'
        "        tiemouts: {idle: 1h}\n"
        "        ^"
    )


def test_a_problem_as_json() -> None:
    """A problem has the same facts as plain values for programs."""
    (found,) = wrong(LISTENERS + ROUTES + "timeuots: {}\n")
    assert json.loads(json.dumps(found.json())) == {
        "severity": "error",
        "code": "E010",
        "file": "w.yaml",
        "line": 3,
        "column": 1,
        "setting": "timeuots",
        "message": 'unknown key (did you mean "timeouts"?)',
        "source": "timeuots: {}",
    }


def test_long_lines_are_cut_around_the_caret() -> None:
    """A line of thousands of characters is shown as the part around the mistake."""
    text = LISTENERS + ROUTES.replace("auth: none", "auth: none, subprotocols: [" + "a, " * 500 + "], tls: off")
    found = next(each for each in wrong(text) if each.code == "E010")
    _, line, caret = found.text().splitlines()
    assert len(line) < 200
    assert line[caret.index("^") :].startswith("tls")


def problem(**changes: object) -> Problem:
    """Make a problem of a file."""
    facts = {"file": "w.yaml", "line": 2, "column": 3, "setting": "a.b", "message": "is wrong", "source": "  b: c"}
    return Problem(**{**facts, "code": "E012", **changes})


def test_an_error_and_a_warning_as_text() -> None:
    """A warning says so and gives its code; the caret is below the place."""
    assert problem().text() == "w.yaml:2:3: a.b: is wrong [E012]\n      b: c\n      ^"
    assert problem(code="W001").text().splitlines()[0] == "w.yaml:2:3: warning: a.b: is wrong [W001]"
    assert (problem().severity, problem(code="W001").severity) == ("error", "warning")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"line": 0, "column": 0, "source": ""}, "w.yaml: a.b: is wrong [E012]"),
        ({"setting": "", "source": ""}, "w.yaml:2:3: is wrong [E012]"),
        ({"source": "   "}, "w.yaml:2:3: a.b: is wrong [E012]"),
    ],
)
def test_what_is_not_known_is_left_out(changes: dict[str, object], expected: str) -> None:
    """No place where there is no file, no path at the top, no line that shows nothing."""
    assert problem(**changes).text() == expected


def test_a_caret_below_tabs() -> None:
    """Tabs are repeated, so that the caret is right at any width."""
    assert problem(source="\tb\t: c", column=4).text().splitlines()[1:] == ["    \tb\t: c", "    \t \t^"]


def test_what_a_terminal_would_act_on_is_not_shown() -> None:
    """Control characters are replaced one by one in the line, so that the caret fits, and named in the message."""
    assert printable("a: \x1b[31mred\x07\tb") == "a: ?[31mred?\tb"
    assert problem(source="a: \x1b[2J").json()["source"] == "a: ?[2J"
    shown = problem(file="w\udcff", setting="a.\x1b[2J", message='"\x1b[2J\u202e\n" is wrong', source="")
    assert shown.text() == 'w\\xff:2:3: a.\\x1b[2J: "\\x1b[2J\\u202e\\n" is wrong [E012]'


def test_a_long_value_is_cut_out_of_the_message() -> None:
    """A message shows the beginning of what it quotes, and its own end, which says what is wrong."""
    (found,) = wrong("listeners: {web: {bind: " + "a" * 100_000 + "}}\n" + ROUTES)
    assert len(found.message) == MAX_MESSAGE_CHARS
    assert found.message.startswith('"aaa')
    assert found.message.endswith('a" is not a host name or an address')


@pytest.mark.parametrize(
    ("word", "guess"), [("tiemouts", "timeouts"), ("TIMEOUTS", "timeouts"), ("limit", "limits"), ("zzz", None)]
)
def test_guesses(word: str, guess: str | None) -> None:
    """The nearest choice, or none if nothing is near."""
    choices = ["timeouts", "limits", "log"]

    assert closest_match(word, choices) == guess
    assert did_you_mean(word, choices) == (f' (did you mean "{guess}"?)' if guess else "")


def test_a_beginning_is_the_nearest() -> None:
    """Of two that are as near, the one that a word begins is meant; the case of a choice is kept."""
    assert closest_match("prot", ["bind", "route", "protocol"]) == "protocol"
    assert closest_match("e012", ["E012", "E013"]) == "E012"


def test_all_problems_are_the_text_of_the_error() -> None:
    """In the order in which they are given."""
    error = ConfigError([problem(source=""), problem(source="", setting="c")])

    assert str(error) == "w.yaml:2:3: a.b: is wrong [E012]\nw.yaml:2:3: c: is wrong [E012]"
    assert [one.setting for one in error.problems] == ["a.b", "c"]


def test_the_codes_have_their_form() -> None:
    """E or W and three digits, each with a sentence."""
    assert all(re.fullmatch(r"[EW]\d{3}", code) and meaning for code, meaning in PROBLEM_CODES.items())


@pytest.mark.parametrize("column", [1, 80, 500, 921, 1000])
def test_a_cut_line_keeps_what_is_pointed_at(column: int) -> None:
    """At the beginning, in the middle and at the end of a long line."""
    source = "".join(f"{at:03}," for at in range(250))
    _, line, caret = problem(source=source, column=column).text().splitlines()

    assert len(line) == 4 + MAX_SOURCE_CHARS
    assert line[4:] in source
    assert source.index(line[4:]) + caret.index("^") - 4 == column - 1


def test_the_same_warning_of_many_routes_is_one() -> None:
    """It has the place of the first and names the others, up to a number; errors and other warnings stay."""
    warnings = [
        Problem("w.yaml", at, 3, f"routes.r{at}", "has no auth", "", "W001") for at in range(MAX_SAME_SETTINGS + 4)
    ]
    other = Problem("w.yaml", 90, 3, "routes.r1", "pings are off", "", "W006")
    errors = [Problem("w.yaml", 91 + at, 3, f"routes.e{at}", "is wrong", "", "E012") for at in range(2)]

    merged = merge_warnings([warnings[0], other, *warnings[1:], *errors])

    assert merged[1:] == [other, *errors]
    first = merged[0]
    assert (first.line, first.setting) == (0, "routes.r0")
    assert first.message.startswith("has no auth; the same for routes.r1, routes.r2, ")
    assert first.message.endswith(f"routes.r{MAX_SAME_SETTINGS} and 3 more")
    assert merge_warnings(warnings[:2])[0].message == "has no auth; the same for routes.r1"
    assert merge_warnings([other]) == [other]
