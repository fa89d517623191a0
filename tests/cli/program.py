"""How these tests start wsbridge."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from click.testing import CliRunner, Result

from tests import forked
from tests.clients.program import PATIENCE, Program
from wsbridge.cli.main import cli

WSBRIDGE = (sys.executable, "-m", "wsbridge")
QUIET = {"https_proxy": "", "http_proxy": "", "HTTPS_PROXY": "", "HTTP_PROXY": "", "WSBRIDGE_CONFIG": ""}
"""What of the environment must not reach a test."""


def invoke(*args: str) -> Result:
    """Run a command in this process, to see what it says of its arguments."""
    return CliRunner().invoke(cli, args, env=QUIET, prog_name="wsbridge")


def started(*args: str, **env: str) -> Program:
    """Start wsbridge as a process; a context manager."""
    return Program(*WSBRIDGE, *args, env={**QUIET, **env})


def finished(
    *args: str,
    input: bytes = b"",  # noqa: A002  as subprocess calls it
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run wsbridge as a process to its end."""
    command, environ = [*WSBRIDGE, *args], {**os.environ, **QUIET, **(env or {})}
    if stdin is None:
        return forked.run(
            command, input=input, stdout=stdout, stderr=subprocess.PIPE, env=environ, timeout=PATIENCE, check=False
        )
    return forked.run(
        command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environ, timeout=PATIENCE, check=False
    )
