"""`wsbridge explain`."""

from __future__ import annotations

import json

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from wsbridge.cli.main import cli
from wsbridge.config.errors import PROBLEM_CODES
from wsbridge.explanations.lookup import KINDS
from wsbridge.log.events import LOG_EVENTS
from wsbridge.reasons import Reason


def explained(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, ["explain", *arguments])


def test_a_reason() -> None:
    """Meaning, who causes it, what is sent, causes with remedies, and where there is more."""
    result = explained("backend_tls")

    assert result.exit_code == 0
    assert "backend_tls: reason of a disconnect\n" in result.stdout
    assert "HTTP status  502\n" in result.stdout
    assert "close code   1014\n" in result.stdout
    assert "Write `tcp://` for `tls://`" in result.stdout
    assert "docs/reasons.md#backend_tls" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("E012", "Invalid value."),
        ("W005", "configuration auth: none on a listener"),
        ("w003", "List the origins of your pages"),
        ("W3", "List the origins of your pages"),
        ("w0021", "Open proxy"),
        ("[E012]", "Invalid value."),
        ("connection.rejected", "A connection ended before the relay"),
        ("1006", "Never sent: a browser reports it"),
        ("1011", "backend_reset"),
        ("426", "a proxy that drops that header"),
        ("NO_ROUTE", "No route matches"),
        ("initiator", "Who caused it"),
    ],
)
def test_other_words(word: str, expected: str) -> None:
    """Codes of the configuration, events, close codes, statuses and keys, in any case."""
    result = explained(word)

    assert (result.exit_code, expected in " ".join(result.stdout.split())) == (0, True)


def test_a_word_with_two_meanings() -> None:
    """Both are printed."""
    kinds = [topic["kind"] for topic in json.loads(explained("internal_error", "--json").stdout)]

    assert kinds == ["reason", "event"]


def test_json() -> None:
    """The same as values."""
    (topic,) = json.loads(explained("backend_denied", "--json").stdout)

    assert (topic["name"], topic["kind"], topic["http_status"], topic["close_code"]) == (
        "backend_denied",
        "reason",
        "502",
        "1014",
    )
    assert all(set(case) == {"cause", "remedy"} for case in topic["causes"])
    assert topic["documentation"][0] == "docs/reasons.md#backend_denied"


def test_the_list() -> None:
    """Without a word, all of them, kind by kind, one a line."""
    result = explained()
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]

    assert result.exit_code == 0
    assert {*Reason, *PROBLEM_CODES, *LOG_EVENTS} <= set(listed)
    assert all(f"{heading}:" in result.stdout for heading in KINDS.values())
    assert {topic["name"] for topic in json.loads(explained("--json").stdout)} == set(listed)


@pytest.mark.parametrize("word", Reason)
def test_all_reasons_can_be_printed(word: str) -> None:
    """No word of the list fails."""
    assert explained(word).stdout.startswith(f"{word}: reason of a disconnect\n")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("backend_tsl", 'did you mean "backend_tls"?'),
        ("EO12", 'did you mean "E012"?'),
        ("zzz", '"wsbridge explain" lists'),
    ],
)
def test_an_unknown_word(word: str, hint: str) -> None:
    """It is a wrong command line; the nearest word is named."""
    result = explained(word)

    assert result.exit_code == 64
    assert hint in result.output


def test_completion() -> None:
    """Shells complete the word."""
    complete = ShellComplete(cli, {}, "wsbridge", "_WSBRIDGE_COMPLETE")

    assert "backend_tls" in [item.value for item in complete.get_completions(["explain"], "backend_")]
    assert [item.value for item in complete.get_completions(["explain"], "w00")][:2] == ["W001", "W002"]
