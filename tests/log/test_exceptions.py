"""Exceptions as text."""

from __future__ import annotations

from structlog.typing import ExcInfo

from wsbridge.log.exceptions import MAX_TRACE_CHARS, exception_line, exception_text


def caught(error: BaseException) -> BaseException:
    """Raise an error, so that it has a traceback."""
    try:
        raise error  # noqa: TRY301  the traceback is what the test is about
    except BaseException as same:
        return same


def exc_info(error: BaseException) -> ExcInfo:
    """As structlog passes an exception on."""
    return type(error), error, error.__traceback__


def test_full_is_the_usual_form() -> None:
    """The long form has the source line and the exception."""
    text = exception_text(exc_info(caught(ValueError("boom"))))

    assert text.startswith("Traceback (most recent call last):")
    assert "raise error" in text
    assert text.endswith("ValueError: boom")


def test_short_is_one_line_innermost_first() -> None:
    """The short form names the exception and its frames on one line."""
    text = exception_line(exc_info(caught(ValueError("two\nlines"))))

    assert text.startswith("ValueError: two lines (at test_exceptions.py:")
    assert text.endswith(" caught)")
    assert "\n" not in text


def test_short_tells_causes_and_groups() -> None:
    """Causes and the members of a group follow."""
    error = caught(ExceptionGroup("some", [caught(KeyError("a")), caught(OSError("b"))]))
    error.__cause__ = caught(ValueError("before"))

    text = exception_line(exc_info(error))

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
        deep = exc_info(error)
    long = exc_info(ValueError("x" * 100_000))

    assert len(exception_text(deep)) <= MAX_TRACE_CHARS + 30
    assert len(exception_line(deep)) <= MAX_TRACE_CHARS + 30
    assert len(exception_text(long)) <= MAX_TRACE_CHARS + 30
    assert len(exception_line(long)) <= MAX_TRACE_CHARS + 30
    assert exception_text(long).startswith("ValueError: x")
