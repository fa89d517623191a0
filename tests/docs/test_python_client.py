"""The page about the Python client: its example runs, and its tables have every option, attribute and error."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import trio

from tests.resume_service import resume_service
from wsbridge import client

PAGE = (Path(__file__).parents[2] / "docs" / "python-client.md").read_text()


def first_column(heading: str) -> set[str]:
    """Give the names in the first column of the tables of a section."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


async def test_the_example_runs(tmp_path: Path) -> None:
    """It prints what the server echoes, and reports what happens to the connection."""
    program = tmp_path / "example.py"
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    program.write_text(block)
    async with resume_service() as service:
        with trio.fail_after(20):
            result = await trio.run_process(
                [sys.executable, str(program), service.url], capture_stdout=True, capture_stderr=True, check=False
            )
        assert (result.returncode, result.stdout, result.stderr) == (0, b"hello\n", b"")
        service.subprotocol = False
        result = await trio.run_process(
            [sys.executable, str(program), service.url], capture_stdout=True, capture_stderr=True, check=False
        )
        assert b"wsbridge.client.ResumeNotSupported" in result.stderr


def test_tables_are_complete() -> None:
    """Options with their defaults, attributes and errors are those of the module."""
    parameters = inspect.signature(client.open_resumable).parameters
    assert first_column("Options") == set(parameters)
    for name, default in re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE):
        assert parameters[name].default == float(default)

    members = vars(client.ResumableStream).items()
    properties = {name for name, kind in members if isinstance(kind, property) and not name.startswith("_")}
    assert first_column("The stream") == properties | {"state", "address"}

    errors = {name for name, kind in vars(client).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    own = {name for name in errors if getattr(client, name).__module__ == client.__name__}
    assert first_column("Errors") == own
