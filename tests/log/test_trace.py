"""Traces: exceptions as text."""

from __future__ import annotations

from wsbridge.log.logger import MAX_TRACE_CHARS, ExceptionTrace


def caught(error: BaseException) -> BaseException:
    """Raise an error, so that it has a traceback."""
    try:
        raise error  # noqa: TRY301  the traceback is what the test is about
    except BaseException as same:
        return same


def test_full_is_the_usual_form() -> None:
    """The long form has the source line and the exception."""
    text = ExceptionTrace.from_exception(caught(ValueError("boom"))).format_full()

    assert text.startswith("Traceback (most recent call last):")
    assert "raise error" in text
    assert text.endswith("ValueError: boom")


def test_short_is_one_line_innermost_first() -> None:
    """The short form names the exception and its frames on one line."""
    text = ExceptionTrace.from_exception(caught(ValueError("two\nlines"))).format_short()

    assert text.startswith("ValueError: two lines (at test_trace.py:")
    assert text.endswith(" caught)")
    assert "\n" not in text


def test_short_tells_causes_and_groups() -> None:
    """Causes and the members of a group follow."""
    error = caught(ExceptionGroup("some", [caught(KeyError("a")), caught(OSError("b"))]))
    error.__cause__ = caught(ValueError("before"))

    text = ExceptionTrace.from_exception(error).format_short()

    assert "some (2 sub-exceptions)" in text
    assert "[KeyError: 'a' (at" in text
    assert "[OSError: b (at" in text
    assert "after ValueError: before (at" in text


def test_bounded() -> None:
    """Endless recursion and endless messages give bounded text."""

    def again(n: int) -> None:
        again(n + 1)

    try:
        again(0)
    except RecursionError as error:
        deep = ExceptionTrace.from_exception(error)
    long = ExceptionTrace.from_exception(ValueError("x" * 100_000))

    assert len(deep.format_full()) <= MAX_TRACE_CHARS + 30
    assert len(deep.format_short()) <= MAX_TRACE_CHARS + 30
    assert len(long.format_full()) <= MAX_TRACE_CHARS + 30
    assert len(long.format_short()) <= MAX_TRACE_CHARS + 30
    assert long.format_full().startswith("ValueError: x")
