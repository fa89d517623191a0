"""Rendering: lines that nobody can forge, in three formats."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.log.format import choose_format, clean_values, escape, line_processors, render, wants_colour

NASTY = [
    "\n<0>kernel: forged",
    "\r\n",
    "\x00\x07\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x7f\x80\x9b31m\x85",
    "\u202eevil\u2066\u2069\u200f\u061c",
    "\u2028\u2029",
    "\udfff\ud800",
    "\ufeff\u200b",
    '" reason=drain "',
    "\\",
    "\U000e0041",
]


def line(form: str, /, _colour: bool = False, _level: str = "info", **facts: Any) -> str:
    """Render one record."""
    processors = line_processors(form, colour=_colour)
    return render(processors, _level, {"event": "connection.closed", **facts}).decode("utf-8")


def fields(text: str) -> dict[str, str]:
    """Read logfmt as a reader of the log would."""
    pairs = re.findall(r' ([^\s="]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=]+))', text)
    return {key: quoted or bare for key, quoted, bare in pairs}


def test_json() -> None:
    """JSON has the time in UTC, the level, the event, then the facts in the order given."""
    text = line("json", id=17, path="/vnc", seconds=1.5, code=None, tls=True, a=[1, {"b": "c"}])

    assert re.fullmatch(r'\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z",.*\n', text)
    assert text.partition(",")[2] == (
        '"level":"info","event":"connection.closed","id":17,"path":"/vnc","seconds":1.5,'
        '"code":null,"tls":true,"a":[1,{"b":"c"}]}\n'
    )


@given(
    st.dictionaries(
        st.sampled_from(["detail", "path", "password", "exception", "x-token", "id"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.binary()
        | st.text()
        | st.lists(st.text())
        | st.sampled_from(["/a?token=hunter2", "//u:hunter2@h", "wsbridge.token.hunter2", "x" * 2000, 2**70]),
    )
)
def test_json_has_the_clean_values(facts: dict[str, Any]) -> None:
    """JSON is written in one pass, with the same values as in the other formats."""
    cleaned = clean_values(None, "info", {"event": "connection.closed", **facts})

    out = json.loads(line("json", **facts))

    assert list(out.items())[2:] == list(cleaned.items())


def test_journal() -> None:
    """The journal's lines begin with the priority and have no time of their own."""
    text = line("journal", id=17, path="/vnc", seconds=1.5, code=None, tls=True, detail="two words", a=[1, {"b": "c"}])

    assert text == (
        '<6>connection.closed id=17 path=/vnc seconds=1.5 code=- tls=true detail="two words" '
        'a="[1,{\\"b\\":\\"c\\"}]"\n'
    )


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 3)]
)
def test_journal_priorities(level: str, priority: int) -> None:
    """Levels become syslog priorities."""
    assert line("journal", _level=level).startswith(f"<{priority}>connection.closed")


def test_console() -> None:
    """The console has the local time, the level, the event and the facts."""
    text = line("console", id=17, detail="two words")

    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{6} \[info   \] connection\.closed  id=17 detail="two words"\n', text)


def test_console_colours() -> None:
    """Colours are the only difference that colours make."""
    coloured = line("console", _colour=True, _level="error", id=17)

    assert "\x1b[31merror" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured)[15:] == line("console", _level="error", id=17)[15:]  # less the time


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("form", ["json", "journal", "console"])
def test_nobody_forges_lines(form: str, text: str) -> None:
    """Control characters, escapes, bidi marks, separators and surrogates come out as harmless text on one line."""
    out = line(form, path="/" + text, origin=[text], agent={text: text})

    assert out.endswith("\n")
    assert out[:-1].isprintable()
    if form == "json":
        assert out[:-1].isascii()
        assert json.loads(out)["path"] == "/" + text


@given(st.text(st.characters(), max_size=100))
def test_any_text_in_any_format(text: str) -> None:
    """Any text whatever gives one printable line, which reads back."""
    for form in ("json", "journal", "console"):
        out = line(form, detail=text, end="x")

        assert out.endswith("\n")
        assert out[:-1].isprintable()
        if form != "json":
            assert fields(out)["end"] == "x"
            assert set(fields(out)) == {"detail", "end"}


def test_escapes_are_unambiguous() -> None:
    """A backslash that a peer sent is doubled, so that it cannot pass for one of ours."""
    assert 'detail="\\\\x1b\\x1b"' in line("journal", detail="\\x1b\x1b")
    assert escape("a\tb\u202ec\U000e0041") == "a\\tb\\u202ec\\U000e0041"


def test_a_dash_is_not_none() -> None:
    """Text that is a dash differs from no value."""
    assert line("journal", a="-", b=None) == '<6>connection.closed a="-" b=-\n'


@pytest.mark.parametrize("form", ["json", "journal", "console"])
def test_secrets_are_hidden(form: str) -> None:
    """Secret keys, at any depth, and secret parameters do not reach a line."""
    out = line(
        form,
        password="hunter2",
        headers={"Cookie": "hunter2", "x": ["hunter3"], "authorization": ["hunter2"]},
        path="/a?token=hunter2",
        query="token=hunter2",
        referer="/c%3Ftoken%3Dhunter2",
        detail="Location: /b?key=hunter2",
        subprotocol="wsbridge.token.hunter2",
    )

    assert "hunter2" not in out
    assert "hunter3" in out


@pytest.mark.parametrize("form", ["json", "journal", "console"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_odd_numbers(form: str, number: float) -> None:
    """What JSON has no number for becomes text."""
    out = line(form, seconds=number)

    assert str(number) in out
    if form == "json":
        assert json.loads(out)["seconds"] == str(number)


def test_keys_never_hide_the_frame() -> None:
    """A fact with the name of one of our own fields does not replace it."""
    out = json.loads(line("json", level="x", ts="y"))

    assert out["level"] == "info"
    assert out["ts"] != "y"


def test_exceptions() -> None:
    """A traceback is one JSON value, one short text in the journal, and indented lines on the console."""
    try:
        raise ValueError("wss://joe:hunter2@gw\n\x1b[31m")  # noqa: TRY301  the traceback is the matter
    except ValueError as error:
        outs = {form: line(form, exc_info=error) for form in ("json", "journal", "console")}

    assert json.loads(outs["json"])["exception"].startswith("Traceback")
    assert outs["json"].count("\n") == outs["journal"].count("\n") == 1
    assert 'exception="ValueError: wss://joe:***@gw \\x1b[31m (at test_format.py:' in outs["journal"]
    assert all(part.startswith("    ") for part in outs["console"].splitlines()[1:])
    assert not any("\x1b" in out or "hunter2" in out for out in outs.values())


def test_auto_is_json_on_a_pipe_and_console_on_a_terminal() -> None:
    """`auto` looks at the descriptor."""
    reader, writer = os.pipe()
    master, terminal = os.openpty()
    try:
        assert choose_format("auto", writer, {}) == "json"
        assert choose_format("auto", terminal, {}) == "console"
        assert choose_format("json", terminal, {}) == "json"
        assert [wants_colour(terminal, environ) for environ in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"})] == [
            True,
            False,
            False,
        ]
        assert not wants_colour(writer, {})
    finally:
        for fd in (reader, writer, master, terminal):
            os.close(fd)


def test_auto_is_journal_on_the_journals_own_stream() -> None:
    """`auto` is journal only if JOURNAL_STREAM names this very descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

        assert choose_format("auto", ours.fileno(), environ) == "journal"
        assert choose_format("auto", theirs.fileno(), environ) == "json"
        assert choose_format("auto", ours.fileno(), {"JOURNAL_STREAM": "nonsense"}) == "json"


def test_auto_on_a_closed_descriptor() -> None:
    """A descriptor that is not open is no error."""
    assert choose_format("auto", 999_999, {"JOURNAL_STREAM": "1:2"}) == "json"
    assert not wants_colour(999_999, {})


def test_unknown_format() -> None:
    """A format that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="'xml': must be one of auto, console, json, journal"):
        choose_format("xml", 2)
