"""Which configuration file is read, and how its problems are reported."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.cli.program import invoke
from wsbridge.cli.main import CliError
from wsbridge.cli.run import DEFAULT_CONFIG_FILES, find_config, find_config_or_log

WRONG = """\
listeners:
  web: {bnid: 127.0.0.1:8080}
routes:
  vnc: {match: any, backend: 'tcp://127.0.0.1:5900', tiemouts: {idle: 1h}}
"""


def test_the_order_of_places(tmp_path: Path) -> None:
    """The option precedes the environment, which precedes the first place with a file, which precedes the second."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    places = (str(first), str(second))
    second.touch()

    assert find_config("option", {"WSBRIDGE_CONFIG": "environment"}, places) == "option"
    assert find_config(None, {"WSBRIDGE_CONFIG": "environment"}, places) == "environment"
    assert find_config(None, {}, places) == str(second)
    first.touch()
    assert find_config(None, {"WSBRIDGE_CONFIG": ""}, places) == str(first)


def test_a_place_that_cannot_be_looked_at() -> None:
    """Reading it reports why, such as a directory that this user may not search."""
    unknown = "/" + 300 * "x"
    assert find_config(None, {}, ["/nonexistent/a.yaml", unknown]) == unknown


def test_no_file_anywhere() -> None:
    """Where there is no file, all places that were looked at are named, with exit code 78."""
    with pytest.raises(CliError) as caught:
        find_config(None, {}, ["/nonexistent/a.yaml", "/nonexistent/b.yaml"])

    assert caught.value.exit_code == 78
    for place in ("-c", "$WSBRIDGE_CONFIG", "/nonexistent/a.yaml", "/nonexistent/b.yaml"):
        assert place in caught.value.message


def test_the_places_are_the_documented_ones() -> None:
    """The default paths are those of the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()

    assert ", ".join(f"`{place}`" for place in DEFAULT_CONFIG_FILES) in " ".join(text.split())


def test_all_problems_at_once(tmp_path: Path) -> None:
    """All errors are reported at once, each with position, source line and suggestion, and then their number."""
    file = tmp_path / "wsbridge.yaml"
    file.write_text(WRONG)

    result = invoke("run", "--log-format", "console", "-c", str(file))

    assert result.exit_code == 78
    assert f'{file}:2:9: listeners.web.bnid: unknown key (did you mean "bind"?)' in result.output
    assert f'{file}:4:54: routes.vnc.tiemouts: unknown key (did you mean "timeouts"?)' in result.output
    assert "\n            ^\n" in result.output
    assert result.output.endswith("\n2 errors\n")


@pytest.mark.parametrize(
    ("content", "said"), [(None, ": cannot be read: No such file"), (b"\xff", ":1:1: is not UTF-8")]
)
def test_unreadable(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A file that cannot be read is a problem like any other."""
    file = tmp_path / "wsbridge.yaml"
    if content is not None:
        file.write_bytes(content)

    result = invoke("run", "--log-format", "console", "-c", str(file))

    assert result.exit_code == 78
    assert f"{file}{said}" in result.output


def test_that_there_is_no_file_is_a_record(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In a format that programs read, it is a line of the log with its priority; on a terminal a sentence."""
    monkeypatch.setattr("wsbridge.cli.run.find_config", _no_file)
    with pytest.raises(click.exceptions.Exit) as ended:
        find_config_or_log(None, "journal")
    assert ended.value.exit_code == 78
    assert capfd.readouterr().err == '<3>config.error problem=E001 detail="no configuration file"\n'

    with pytest.raises(CliError):
        find_config_or_log(None, "console")
    assert capfd.readouterr().err == ""


def _no_file(path: str | None) -> str:
    raise CliError("no configuration file", 78)
