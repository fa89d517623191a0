"""`new-token` makes a token and its line."""

from __future__ import annotations

import time

import pytest

from tests.cli.program import invoke
from wsbridge.auth.bearer import parse_token_list, token_digest


def test_the_line_is_all_that_a_file_gets() -> None:
    """Standard output has the line with the hash alone; the token is on standard error, and each time another."""
    result = invoke("new-token", "alice")
    token = result.stderr.rpartition(": ")[2].strip()

    assert result.exit_code == 0
    (found,) = parse_token_list(result.stdout).values()
    assert (found.name, found.digest, found.expires, found.routes) == ("alice", token_digest(token), None, None)
    assert len(token) == 43
    assert token not in result.stdout
    assert token not in invoke("new-token", "alice").stderr


def test_an_end_and_routes() -> None:
    """Both are in the line; an end may be reported as a time from now."""
    (found,) = parse_token_list(invoke("new-token", "ci", "--expires", "90d", "--routes", "b,a").stdout).values()
    assert found.routes == {"a", "b"}
    assert found.expires is not None
    assert found.expires - time.time() == pytest.approx(90 * 86400, abs=60)
    assert " expires=2999-01-01T00:00:00Z" in invoke("new-token", "ci", "--expires", "2999-01-01").stdout


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (("a b",), "the name must be"),
        (("alice", "--expires", "tomorrow"), "expires must be a moment"),
        (("alice", "--expires", "2001-01-01"), "this time is in the past"),
        (("alice", "--expires", "0s"), "this time is in the past"),
        (("alice", "--routes", "a, b"), "routes must be names"),
    ],
)
def test_what_would_make_a_bad_line_is_refused(args: tuple[str, ...], wrong: str) -> None:
    """Nothing is made, and the command line is to blame."""
    result = invoke("new-token", *args)

    assert result.exit_code == 64
    assert wrong in result.stderr
    assert result.stdout == ""
