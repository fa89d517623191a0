"""The exit codes, and the error that carries one."""

from __future__ import annotations

import os
import signal

import click
import pytest

from wsbridge.cli import status


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (status.OK, os.EX_OK),
        (status.USAGE, os.EX_USAGE),
        (status.UNAVAILABLE, os.EX_UNAVAILABLE),
        (status.CONFIG, os.EX_CONFIG),
        (status.INTERRUPTED, 128 + signal.SIGINT),
        (status.FAILED, 1),
    ],
)
def test_the_codes_are_those_of_sysexits(code: int, expected: int) -> None:
    """Scripts and systemd know them."""
    assert code == expected


def test_a_failure_is_one_sentence_and_a_code() -> None:
    """Click tells its message, the program exits with its status."""
    failure = status.Failure("the port is taken", status.UNAVAILABLE)

    assert isinstance(failure, click.ClickException)
    assert (failure.format_message(), failure.status) == ("the port is taken", 69)
