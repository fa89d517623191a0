"""`completion` in a real shell, and `schema`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.cli.program import invoke
from tests.clients.program import program


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts(shell: str) -> None:
    """Each shell gets a script that asks this program."""
    result = invoke("completion", shell)

    assert result.exit_code == 0
    assert f"_WSBRIDGE_COMPLETE={shell}_complete" in result.output


def test_bash_completes(tmp_path: Path) -> None:
    """In bash, with the script loaded: commands, options, addresses, and the routes that accept tickets."""
    bash = program("bash")
    command = tmp_path / "wsbridge"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m wsbridge "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(wsbridge completion bash)"
        COMP_WORDS=(wsbridge br) COMP_CWORD=1; _wsbridge_completion wsbridge; echo "${COMPREPLY[@]}"
        COMPREPLY=() COMP_WORDS=(wsbridge bridge --se) COMP_CWORD=2
        _wsbridge_completion wsbridge; echo "${COMPREPLY[@]}"
        COMPREPLY=() COMP_WORDS=(wsbridge bridge w) COMP_CWORD=2
        _wsbridge_completion wsbridge; echo "${COMPREPLY[@]}"
        COMPREPLY=() COMP_WORDS=(wsbridge ticket -c w.yaml --route "") COMP_CWORD=5
        _wsbridge_completion wsbridge; echo "${COMPREPLY[@]}"
    """
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "w.yaml").write_text(
        "listeners: {web: {bind: '127.0.0.1:1'}}\n"
        "routes:\n"
        "  one: {match: {path: /a}, auth: none, respond: '204'}\n"
        "  two: {match: {path: /b}, auth: {kind: ticket, key: {file: key}}, backend: 'tcp://127.0.0.1:2'}\n"
    )

    done = subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        "bridge",
        "--self-signed --server-name",
        "ws://127.0.0.1:8080/ wss://127.0.0.1:8443/",
        "two",
    ]


def test_another_shell_is_refused() -> None:
    """A shell that is not known is a usage error that names those that are."""
    result = invoke("completion", "tcsh")

    assert result.exit_code == 64
    assert "bash" in result.output


def test_schema_prints_a_json_schema() -> None:
    """What is printed is a valid JSON Schema that knows the sections of the file."""
    result = invoke("schema")

    schema = json.loads(result.output)
    jsonschema.Draft7Validator.check_schema(schema)
    assert result.exit_code == 0
    assert {"listeners", "routes", "timeouts", "limits", "log"} <= schema["properties"].keys()
