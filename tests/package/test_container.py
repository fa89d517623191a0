"""The container: what can be tried without an engine. docs/install.md says how it was tried with one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.clients.program import PATIENCE, Program
from tests.package.builds import ROOT
from tests.serving import written

TEXT = (ROOT / "Containerfile").read_text()


def test_the_image_needs_no_root_and_no_shell():
    """The user is a number; what runs are lists, which no shell reads; what is copied exists."""
    last = TEXT.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) > 0
    lists = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK.* CMD) (.*)$", last, re.MULTILINE)
    entry, arguments, health = map(json.loads, lists)
    assert health == [*entry, "status"]
    assert arguments[0] == "run"
    for name in re.findall(r"^COPY (?!--from)(\S+) ", TEXT, re.MULTILINE):
        assert (ROOT / name).exists()
    stages = re.findall(r"^FROM .* AS (\w+)$", TEXT, re.MULTILINE)
    assert set(re.findall(r"^COPY --from=(\w+) ", TEXT, re.MULTILINE)) == set(stages)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_process_1(number, tmp_path):
    """The kernel gives process 1 of a PID namespace only signals that it handles; wsbridge handles these."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    config = tmp_path / "wsbridge.yaml"
    route = {"page": {"match": "any", "respond": "204", "auth": "none"}}
    config.write_text(written(listeners={"web": {"bind": "127.0.0.1:0"}}, routes=route))
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with Program(*namespace, sys.executable, "-m", "wsbridge", "run", "-c", config) as daemon:
        ready = json.loads(daemon.line(r"\{.*daemon.ready.*\}")[0])
        assert ready["pid"] == 1
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        os.kill(int(children.read_text().split()[0]), number)
        assert daemon.process.wait(PATIENCE) == 0
